//! Keeps what a restore has replaced: archives it into the repository, publishes it like any snapshot, and only then
//! removes it from where it was.
//!
//! The new data was confirmed before, and nothing live depends on this. So a command that cannot do it leaves it in
//! its journal, to its guard and to whoever comes next. The journal holds everything that the manifest will say and
//! the archive does not tell, so whoever comes next writes the same manifest. The next attempt removes what half an
//! attempt has left: until the manifest is there, the old data is.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Result, UndoError, World};
use crate::agent::calls::{self, Side};
use crate::agent::client::{AgentClient, ArchiveSink, SILENCE_LIMIT};
use crate::agent::swap::{PREFIX, SwapState, old_tree};
use crate::agent::tree::Stability;
use crate::clock::Clock;
use crate::crypt::Recipients;
use crate::model::error::{Context as _, Error};
use crate::model::event::{Monitor, Phase};
use crate::model::hint::Hint;
use crate::model::manifest::{Counts, Manifest};
use crate::model::plural::size;
use crate::repository::{
    PendingSnapshot, RepositoryLocation, Snapshot, SnapshotObjectWriter, SnapshotObjects,
};
use crate::saga::RetryBudget;
use crate::signal::Cancel;
use crate::undo::one_time_key::prolong;
use crate::undo::swap::{HelperTarget, with_agent};

/// How long to wait for an earlier attempt that is still publishing.
const UNDER_WAY: Duration = Duration::from_secs(30);

/// What keeps the replaced data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArchiveReplacedData {
    /// Bytes that the archive may need.
    pub needed_bytes: u64,
    /// Every object that an attempt may leave, and the repository's store that holds them.
    #[serde(flatten)]
    pub objects: SnapshotObjects,
    /// Where the data lies, relative to the root.
    pub tree: PathBuf,
    /// Members written last, relative to that tree.
    pub last: Vec<PathBuf>,
    /// Whom the snapshot is encrypted to, if it is; the journal says it, so that nobody need ask the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Recipients>,
    /// The manifest to write; what only archiving tells is blank.
    pub manifest: Box<Manifest>,
}

// No value in a manifest differs from itself.
impl Eq for ArchiveReplacedData {}

impl ArchiveReplacedData {
    /// Returns the name of the snapshot.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.manifest.source, self.manifest.id)
    }

    /// Archives and publishes what was replaced, unless that was done before. When `cancel` asks the run to end, the
    /// snapshot is either published or its manifest not begun.
    ///
    /// # Errors
    /// When any of it fails: then nothing of a snapshot exists, and the old data is as it was.
    pub async fn keep(
        &self,
        agent: &mut AgentClient,
        (clock, cancel): (&Clock, &Cancel),
        monitor: &dyn Monitor,
    ) -> crate::Result<Snapshot> {
        monitor.phase(Phase::Safety, "what was replaced", Some(self.manifest.counts().raw_bytes));
        monitor.step("safety");
        let location = RepositoryLocation::probe_at(self.objects.store.clone()).await?;
        let repository = location.open_or_init(clock).await?;
        let published = self.objects.discard_unpublished(UNDER_WAY).await.map_err(crate::Error::from);
        if published.context(|| "remove what a dead run left of the safety snapshot".to_owned())? {
            // Whoever tried before died after the last write.
            return Ok(repository.resolve(&self.name()).await?);
        }
        self.refuse_without_room(&location).await?;
        let manifest = &self.manifest;
        let pending = repository.begin(&manifest.source, &manifest.id, manifest.archive().codec).await?;
        let pending = pending.encrypted_to(self.recipients.as_ref())?;
        let kept = self.write(agent, &pending, (clock, cancel), monitor).await;
        if kept.is_err() {
            // The next attempt removes what cannot be removed now.
            let _ = pending.discard().await;
        }
        kept
    }

    async fn refuse_without_room(&self, location: &RepositoryLocation) -> crate::Result<()> {
        match location.free_space().await {
            Some(free) if free < self.needed_bytes => Err(Error::failed(format!(
                "the repository {} has {} free, and the safety snapshot may need {}",
                location.address(),
                size(free),
                size(self.needed_bytes)
            ))
            .hint(Hint::advice("make room in the repository, or move what was replaced elsewhere"))),
            _ => Ok(()),
        }
    }

    async fn write(
        &self,
        agent: &mut AgentClient,
        pending: &PendingSnapshot,
        (clock, cancel): (&Clock, &Cancel),
        monitor: &dyn Monitor,
    ) -> crate::Result<Snapshot> {
        let mut files =
            Files { archive: pending.archive_writer().await?, list: pending.list_writer().await? };
        let call = calls::Archive {
            side: Side::Source,
            tree: self.tree.clone(),
            codec: self.manifest.archive().codec,
            exclude: vec![format!("{PREFIX}*")],
            last: self.last.clone(),
            stability: Stability::Live,
        };
        let archived = agent
            .archive(call, &mut files, monitor)
            .await
            .context(|| "archive what was replaced".to_owned())?;
        if let Some(path) = archived.changed.first() {
            return Err(Error::failed(format!(
                "{} was changed by somebody while it was archived",
                path.display()
            ))
            .hint(Hint::advice("find out who writes there, and try again")));
        }
        let (archive, list) = (files.archive.finish().await?, files.list.finish().await?);
        let mut manifest = (*self.manifest).clone();
        let part = manifest.parts.first_mut();
        part.archive.file.clone_from(&archive.file);
        part.archive.stored_bytes = archive.bytes;
        part.archive.tar_bytes = archived.tar_bytes;
        part.archive.blake3.clone_from(&archive.blake3);
        part.file_list.file.clone_from(&list.file);
        part.file_list.stored_bytes = list.bytes;
        part.file_list.blake3.clone_from(&list.blake3);
        part.counts = Counts {
            members: archived.members(),
            files: archived.files,
            raw_bytes: archived.raw_bytes,
            sockets_skipped: archived.sockets_skipped,
            excluded: archived.excluded,
            vanished: archived.vanished,
            changed: archived.changed,
        };
        manifest.times.published = clock.now();
        monitor.step("write-manifest");
        let _deferral = cancel.defer();
        Ok(pending.publish(manifest, &archive, &list).await?)
    }
}

/// Keeps the old data of a run that died after its commit, and removes it from the source. It tries once: a repository
/// without room has none a moment later.
pub(super) async fn archive(
    world: &World,
    place: &HelperTarget,
    safety: &ArchiveReplacedData,
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Result<()> {
    let kept = with_agent(world, place, budget, async |agent: &mut AgentClient| {
        let state = agent.call(calls::SwapState { run: place.run.clone() }).await?;
        agent.allow_silence(SILENCE_LIMIT);
        match state {
            SwapState::Committed => {}
            // Whoever kept it died while removing it; or nothing was replaced.
            SwapState::Untouched => {
                let discard = calls::Discard { run: place.run.clone(), with_old: true };
                return agent.call(discard).await.map(Ok);
            }
            SwapState::Absent | SwapState::Swapped | SwapState::Emptied => return Ok(Ok(())),
        }
        // Nobody interrupts a run that puts things back.
        let kept = safety.keep(agent, (&world.clock, &Cancel::default()), monitor).await;
        if kept.is_ok() {
            let prolonged = prolong(&world.state, &safety.manifest.id, world.clock.now());
            if let Err(error) = prolonged {
                tracing::warn!(%error, "the time to undo is not counted from now");
            }
            monitor.step("discard-old");
            agent.call(calls::Discard { run: place.run.clone(), with_old: true }).await?;
        }
        Ok(kept.map(drop))
    })
    .await?;
    // A source that is gone has nothing to keep.
    kept.unwrap_or(Ok(())).map_err(|source| UndoError::Safety {
        place: place.describe(),
        old: old_tree(&place.run),
        source: Box::new(source),
    })
}

/// The files that receive the archive and the file list.
struct Files {
    archive: SnapshotObjectWriter,
    list: SnapshotObjectWriter,
}

#[async_trait]
impl ArchiveSink for Files {
    async fn archive(&mut self, bytes: Bytes) -> crate::Result<()> {
        Ok(self.archive.write(bytes).await?)
    }

    async fn file_list(&mut self, bytes: Bytes) -> crate::Result<()> {
        Ok(self.list.write(bytes).await?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::manifest::FORMAT_VERSION;

    #[test]
    fn a_line_of_format_1_about_replaced_data_is_understood_and_written_with_keys() {
        let manifest: Value =
            serde_json::from_str(include_str!("../../fixtures/formats/v1/manifest.json")).unwrap();
        let folder = "/backups/snapshots/db";
        let line = json!({
            "repository": "/backups",
            "needed_bytes": 7,
            "manifest_path": format!("{folder}/db-20261120T203011Z-4f2a91.json"),
            "files": [
                format!("{folder}/db-20261120T203011Z-4f2a91.json.partial"),
                format!("{folder}/db-20261120T203011Z-4f2a91.json"),
            ],
            "tree": ".volsnap-restore-1/old",
            "last": ["global/pg_control"],
            "manifest": manifest,
        });
        let mut safety: ArchiveReplacedData = serde_json::from_value(line).unwrap();
        assert_eq!(safety.name(), "memory-service_db_data/20261120T203011Z-4f2a91");
        let written = serde_json::to_value(&safety).unwrap();
        assert_eq!(written["store"], "/backups");
        assert_eq!(written["manifest_key"], "snapshots/db/db-20261120T203011Z-4f2a91.json");
        assert_eq!(
            written["keys"],
            json!([
                "snapshots/db/db-20261120T203011Z-4f2a91.json.partial",
                "snapshots/db/db-20261120T203011Z-4f2a91.json",
            ])
        );
        // A manifest is written in the newest format.
        safety.manifest.format_version = FORMAT_VERSION;
        assert_eq!(serde_json::from_value::<ArchiveReplacedData>(written).unwrap(), safety);
    }
}
