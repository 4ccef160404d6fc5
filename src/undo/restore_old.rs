//! Restores old data from its safety snapshot, if it was removed because there was no room for two copies.
//!
//! A mark in the source itself says that the old data is owed. The mark is durable before the first of the old data is
//! removed, and stays until the new data may stay. The undo removes all that is there, unpacks the snapshot beside,
//! compares it with what was stored, and moves it into place. Whoever dies on the way leaves the mark, and the next
//! one starts over.

use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Result, World};
use crate::agent::calls::{self, Channel};
use crate::agent::client::{AgentClient, AgentError, SILENCE_LIMIT};
use crate::agent::extract::ExtractOptions;
use crate::agent::feed::SnapshotArchive;
use crate::agent::swap::SwapState;
use crate::engine::helper::Access;
use crate::model::error::Context as _;
use crate::model::event::{Monitor, Phase};
use crate::model::hint::Hint;
use crate::repository::{Repository, Snapshot};
use crate::saga::RetryBudget;
use crate::service::start::StoppedContainer;
use crate::service::stop::stop_all_again;
use crate::store::StoreAddress;
use crate::undo::one_time_key::{identity_of, path_of};
use crate::undo::swap::{HelperTarget, refuse_newcomers, with_agent_of};

/// The safety snapshot that the old data is restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafetySnapshotRef {
    /// The repository's store.
    pub repository: StoreAddress,
    /// The snapshot, as `SOURCE/ID`.
    pub name: String,
    /// The files without which there is no database, relative to the root; the last of the list is put in place last.
    #[serde(alias = "heads")]
    pub marker_files: Vec<PathBuf>,
    /// Members of its archive.
    pub members: u64,
    /// Bytes of content, holes included.
    pub bytes: u64,
    /// The digest of all its records.
    pub digest: String,
    /// Whether it has devices or programs that gain rights.
    #[serde(rename = "special")]
    pub has_devices: bool,
}

/// Restores the old data, unless the new data may stay or none of the old was touched. It first stops the users: they
/// may already run on the new data.
pub(super) async fn restore(
    world: &World,
    place: &HelperTarget,
    kept: &SafetySnapshotRef,
    users: &[StoppedContainer],
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Result<()> {
    let access = if kept.has_devices { Access::ReplaceWithDevices } else { Access::Replace };
    with_agent_of(world, place, access, budget, async |agent: &mut AgentClient| {
        if agent.call(calls::SwapState { run: place.run.clone() }).await? != SwapState::Emptied {
            return Ok(());
        }
        refuse_newcomers(world, users).await?;
        stop_all_again(&*world.docker, users, monitor).await?;
        monitor.step("bring-back");
        monitor.phase(Phase::Recover, format!("the data of {} from {}", place.describe(), kept.name), None);
        // Giving up would mean unpacking all of it again.
        agent.allow_silence(SILENCE_LIMIT);
        kept.unpack(world, agent, &place.run, monitor).await?;
        // If the dead command was just starting a user, that user must find all of the old data from its start on.
        stop_all_again(&*world.docker, users, monitor).await?;
        agent.call(calls::Commit { run: place.run.clone() }).await
    })
    .await?;
    Ok(())
}

impl SafetySnapshotRef {
    async fn unpack(
        &self,
        world: &World,
        agent: &mut AgentClient,
        run: &str,
        monitor: &dyn Monitor,
    ) -> Result<(), AgentError> {
        let found = async { Repository::open_at(&self.repository).await?.resolve(&self.name).await };
        let found = found.await.map_err(|error| AgentError::ArchiveSink(error.into()))?;
        let archive = opened(found, world).await?;
        let empty = calls::Empty { run: run.to_owned(), marker_files: self.marker_files.clone() };
        agent.call(empty).await?;
        let call = calls::Extract {
            run: run.to_owned(),
            channel: Channel::default(),
            emptied: true,
            options: ExtractOptions {
                allow_devices: self.has_devices,
                members: self.members,
                bytes: self.bytes,
                ..ExtractOptions::default()
            },
        };
        let extracted = agent.extract(call, &mut SnapshotArchive::of(archive), monitor).await?;
        if extracted.digest != self.digest {
            return Err(AgentError::Failed(format!("what {} unpacks to is not what was stored", self.name)));
        }
        let swap = calls::SwapIn {
            run: run.to_owned(),
            marker_files: self.marker_files.clone(),
            root: extracted.root,
        };
        agent.call(swap).await
    }
}

/// Opens the archive, before anything is removed for it.
async fn opened(snapshot: Snapshot, world: &World) -> Result<Box<dyn Read + Send>, AgentError> {
    let snapshot = if snapshot.is_locked() { unlocked(&snapshot, world).await? } else { snapshot };
    let archive = || -> crate::Result<_> { Ok(snapshot.decrypted(snapshot.open_archive()?)?) };
    archive().map_err(AgentError::ArchiveSink)
}

/// Opens a safety snapshot with its own key, which lies beside the journal wherever that is by now; else with the identity
/// that the environment names.
async fn unlocked(snapshot: &Snapshot, world: &World) -> Result<Snapshot, AgentError> {
    let id = &snapshot.manifest.id;
    let own = identity_of(&world.state, id).context(|| format!("read the key of {}", snapshot.name()));
    if let Some(own) = own.map_err(AgentError::ArchiveSink)? {
        return snapshot.open_with(&own).map_err(|error| AgentError::ArchiveSink(error.into()));
    }
    let no_key = |why: crate::Error| {
        let key = path_of(&world.state, id);
        let hint = Hint::shell("export VOLSNAP_IDENTITY_FILE=FILE")
            .why("a file with an identity that opens it; then type volsnap recover");
        AgentError::NoKey(
            crate::Error::failed(format!(
                "open {}: its own key, {}, is gone",
                snapshot.name(),
                key.display()
            ))
            .with_source(why)
            .with_hints([hint]),
        )
    };
    let given = match &world.identities {
        Some(ask) => ask.identities().await.map_err(no_key)?,
        None => None,
    };
    match given {
        Some(given) => snapshot.open_with(&given).map_err(|error| no_key(error.into())),
        None => Err(no_key(snapshot.locked().into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_format_1_about_a_safety_snapshot_is_understood_and_written_alike() {
        let line = serde_json::json!({
            "repository": "/backups",
            "name": "db/20261120T203011Z-4f2a91",
            "heads": ["global/pg_control"],
            "members": 3,
            "bytes": 8192,
            "digest": "00ff",
            "special": false,
        });
        let kept: SafetySnapshotRef = serde_json::from_value(line).unwrap();
        assert_eq!(kept.repository, StoreAddress::Directory("/backups".into()));
        let written = serde_json::to_value(&kept).unwrap();
        assert_eq!(written["repository"], "/backups");
        assert_eq!(serde_json::from_value::<SafetySnapshotRef>(written).unwrap(), kept);
    }
}
