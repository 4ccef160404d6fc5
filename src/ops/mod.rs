//! The procedures. Each reads top to bottom as the story of what happens, and each step stands beside what undoes it.

use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::{FileListReader, FileRecord};
use crate::clock::Clock;
use crate::compose::runner::Runner;
use crate::engine::Docker;
use crate::engine::own::OwnContainer;
use crate::model::container::{Container, down_after_reboot};
use crate::model::error::{Context as _, Error, ErrorKind, Result, chain};
use crate::model::event::Monitor;
use crate::model::hint::Hint;
use crate::repository::Snapshot;
use crate::saga::Compensation as _;
use crate::saga::SagaOptions;
use crate::selector::Bystanders;
use crate::signal::Cancel;
use crate::undo::one_time_key::AskIdentities;
use crate::undo::{Leftovers, World};

mod apart;
pub mod check;
pub mod copy;
pub mod doctor;
pub mod drill;
mod evidence;
pub mod facts;
mod helper;
mod hold;
pub mod install;
pub mod key;
mod libc_version;
mod made_from;
pub mod marks;
pub mod migrate;
mod open_files;
mod orchestrated;
mod outside;
mod own_paths;
mod passes;
mod phase_timer;
pub mod plan;
mod preconditions;
pub mod project_file;
pub mod prune;
pub mod recover;
mod recreation;
pub mod restart;
pub mod restore;
mod run;
pub mod sharers;
pub mod snapshot;
pub mod stages;
pub mod trust;
pub mod verify;

pub use run::{Consent, decline, execute};

/// What every procedure needs from the world around it.
#[derive(Clone)]
pub struct Context {
    /// The engine.
    pub docker: Arc<dyn Docker>,
    /// The engine's address: for Compose, the guard, and whoever finishes a journal, who all must talk to the same one.
    pub address: String,
    /// Where journals are kept and what guards a run. The executable is also packed as the helper.
    pub saga: SagaOptions,
    /// The current directory, whose compose project comes first.
    pub directory: PathBuf,
    /// Tells the time and draws random numbers.
    pub clock: Clock,
    /// What runs Compose.
    pub compose: Arc<dyn Runner>,
    /// The file with what is said of the services of the machine; it need not exist.
    pub machine_file: PathBuf,
    /// The compose project named by the environment (`COMPOSE_PROJECT_NAME`).
    pub compose_project: Option<String>,
    /// Whom the environment says that new snapshots are to be encrypted to.
    pub recipients: trust::SaidRecipients,
    /// Asks for the identity that the environment names, if anybody can be asked.
    pub identities: Option<Arc<dyn AskIdentities>>,
    /// What the user says of containers that only see the data, or only seem to use it.
    pub bystanders: Bystanders,
    /// Whether the run only plans, and so must not finish what a dead run left either.
    pub only_plans: bool,
    /// The container of this engine that we run in, if we do.
    pub own: Option<Arc<OwnContainer>>,
    /// Tells when somebody asks for the end.
    pub cancel: Cancel,
    /// Who watches.
    pub monitor: Arc<dyn Monitor>,
}

impl Context {
    /// Returns the same for a run that may only plan.
    #[must_use]
    pub fn only_planning(self, only_plans: bool) -> Self {
        Self { only_plans, ..self }
    }

    /// Returns those of the containers, each with its restart policy, that would stay down if the engine or the machine
    /// restarted while they are stopped. In a container there are none: the guard outside starts them, and the engine
    /// starts the guard.
    fn left_down<'c>(&self, stopped: impl IntoIterator<Item = &'c Container>) -> Vec<String> {
        match self.own {
            Some(_) => Vec::new(),
            None => down_after_reboot(stopped),
        }
    }

    /// Returns what undos act on.
    fn world_of_undos(&self) -> World {
        World {
            docker: self.docker.clone(),
            clock: self.clock.clone(),
            state: self.saga.state.clone(),
            identities: self.identities.clone(),
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("docker", &self.docker).field("saga", &self.saga).finish_non_exhaustive()
    }
}

/// Returns the records of a snapshot's file list, one at a time.
///
/// # Errors
/// When the list cannot be opened; a damaged one ends with the error.
pub fn files(snapshot: &Snapshot) -> Result<impl Iterator<Item = Result<FileRecord>> + use<>> {
    let doing = format!("read the file list of {}", snapshot.name());
    let list = snapshot.decrypted(snapshot.open_file_list()?)?;
    let records = FileListReader::new(BufReader::new(list)).context(|| doing.clone())?;
    Ok(records.map(move |record| record.context(|| doing.clone())))
}

/// Adds to the outcome of a procedure what could not be put back after it.
fn with_leftovers<T>(outcome: Result<T>, left: &Leftovers) -> Result<T> {
    if left.is_empty() {
        return outcome;
    }
    let mut undone: Vec<String> = left
        .failed
        .iter()
        .map(|failed| format!("{}: {}", failed.undo.describe(), chain(&failed.error)))
        .collect();
    undone.extend(left.blocked.iter().map(|undo| format!("{}: not before that is done", undo.describe())));
    if left.newer > 0 {
        undone.push(format!("{} things that only a newer volsnap knows", left.newer));
    }
    // Started by hand, it would be the second server on its data.
    let free = left.failed.iter().filter(|failed| !failed.error.is_taken());
    let by_hand = free.filter_map(|failed| failed.undo.by_hand());
    let state = format!("not put back: {}", undone.join("; "));
    let keys = left.failed.iter().filter_map(|failed| failed.error.needed_key().cloned());
    let hints = keys.chain([Hint::volsnap(["recover"])]).chain(by_hand.map(|hint| hint.why("by hand")));
    let error = match outcome {
        Err(error) => error,
        Ok(_) => Error::failed("the work was done, but not everything could be put back"),
    };
    let state = match error.state_text() {
        Some(before) => format!("{before}; {state}"),
        None => state,
    };
    Err(error.with_kind(ErrorKind::NotPutBack).state(state).with_hints(hints))
}
