//! Takes a copy of data out of the place where a service was to run on it, because the service goes on elsewhere.
//!
//! If a service has run on a copy, the copy may have what nobody else has; so it stays where it is, with no service on
//! it. For a database its own files tell: they are as they were copied, or they are not. Without a database, a service
//! may have run once the journal says that something is about to start. Any other copy is removed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Result, World};
use crate::agent::calls::{self, Inspect, Side};
use crate::agent::client::{AgentClient, SILENCE_LIMIT};
use crate::agent::swap::SwapState;
use crate::model::event::Monitor;
use crate::saga::RetryBudget;
use crate::undo::remove_made;
use crate::undo::swap::{HelperTarget, with_agent};

/// A copy in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigratedCopy {
    /// Where it is.
    pub place: HelperTarget,
    /// Whether a service may have started on it.
    pub started: bool,
    /// What tells whether a database has run on it; `None` if there is no database.
    pub proof: Option<Proof>,
    /// The directory that was made for it.
    pub made: Option<MadeDirectory>,
}

/// What a database's own files said when they were copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The database's name.
    pub engine: String,
    /// The data directory, relative to the root.
    pub data_directory: PathBuf,
    /// Where the database's container mounts the root.
    pub mounted_at: Option<PathBuf>,
    /// The digest of those files.
    pub digest: String,
}

/// A directory that a run has made, and what tells it from another one of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeDirectory {
    /// The directory.
    pub path: PathBuf,
    /// The device it is on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// What was found in the place.
enum Found {
    Nothing,
    /// The copy, as it was copied: it can be taken out.
    Copied,
    /// The copy, which may have what nobody else has.
    RunOn,
}

impl MigratedCopy {
    /// Takes the copy out of its place, unless a service may have run on it, and puts back what was in the place
    /// before.
    pub(super) async fn retract(
        &self,
        world: &World,
        budget: RetryBudget,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let run = &self.place.run;
        // A helper cannot mount a directory that is gone, and has nothing to do there.
        if self.made.as_ref().is_some_and(|made| !made.path.exists()) {
            return Ok(());
        }
        let found = with_agent(world, &self.place, budget, async |agent: &mut AgentClient| {
            match agent.call(calls::SwapState { run: run.clone() }).await? {
                // A copy that was never put in its place has compensations of its own.
                SwapState::Absent | SwapState::Untouched | SwapState::Emptied => return Ok(Found::Nothing),
                SwapState::Swapped | SwapState::Committed => {}
            }
            if self.was_written_to(agent).await {
                return Ok(Found::RunOn);
            }
            agent.allow_silence(SILENCE_LIMIT);
            agent.call(calls::SwapBack { run: run.clone() }).await?;
            agent.call(calls::Discard { run: run.clone(), with_old: false }).await?;
            Ok(Found::Copied)
        })
        .await?;
        match (found, &self.made) {
            (Some(Found::Copied), Some(made)) => remove_made(&made.path, (made.device, made.inode)),
            (Some(Found::RunOn), _) => {
                monitor.warning(format!(
                    "the copy stays in {}, since it may have been run on; no service uses it",
                    self.place.describe()
                ));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn was_written_to(&self, agent: &mut AgentClient) -> bool {
        let Some(proof) = &self.proof else { return self.started };
        let inspect = Inspect {
            engine: proof.engine.clone(),
            side: Side::Source,
            tree: PathBuf::new(),
            data_directory: proof.data_directory.clone(),
            mounted_at: proof.mounted_at.clone(),
        };
        agent.call(inspect).await.map_or(true, |now| now.proof_digest != proof.digest)
    }
}
