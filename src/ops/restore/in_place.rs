//! The restore if there is no room for two copies: the old data is kept as a safety snapshot **first**, then removed,
//! then the archive unpacked.
//!
//! 1. All of the archive is read, decrypted if it is encrypted, and proved to be what was stored, before anything is
//!    stopped.
//! 2. The users are stopped, and the data is archived as the safety snapshot: published, and read back. Until here,
//!    nothing of the data was touched.
//! 3. The journal has what restores the old data from that snapshot; only then is the data removed, and the archive
//!    unpacked and moved into its place. What makes a database goes first and comes last.
//! 4. The users are started and answer, as in any restore. Until then, any failure, signal or death restores the old
//!    data from the safety snapshot, and the users are not started on anything else.
//!
//! So the service is away for all of it; the plan says so.

use std::path::PathBuf;

use super::RestoreRun;
use super::prepare::Prepared;
use super::replace::Hold;
use super::{Archive, Destination, Ordering, Restored};
use crate::agent::calls::{Commit, Discard, Empty};
use crate::model::error::{Context as _, Result};
use crate::ops::facts::of_snapshot;
use crate::ops::verify::{Listed, check_archive, check_list};
use crate::repository::Snapshot;
use crate::saga::When;
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::one_time_key::identity_of;
use crate::undo::restore_old::SafetySnapshotRef;

impl RestoreRun<'_> {
    pub(super) async fn restore_in_place(&self, saga: &mut Saga, mut prepared: Prepared) -> Result<Restored> {
        let journal = || "write the journal".to_owned();
        self.verify().await?;
        self.refuse_other_run(&prepared).await?;
        self.open_for_safety().await?;
        let work = Undo::DiscardWork { place: prepared.place.clone(), with_old: true };
        let work = saga.register(When::Always, work).context(journal)?;
        let hold = self.hold(saga, &mut prepared).await?;
        let (safety, listed) = self.keep_first(saga, &mut prepared, &hold).await?;

        let marker_files = prepared.marker_files();
        let back = Undo::RestoreOldData {
            place: prepared.place.clone(),
            kept: SafetySnapshotRef {
                repository: self.repository.address().clone(),
                name: safety.name(),
                marker_files: marker_files.clone(),
                members: listed.members,
                bytes: listed.bytes,
                digest: listed.digest,
                has_devices: listed.has_devices,
            },
            users: hold.held.stopped.clone(),
        };
        let back = saga.register(When::Always, back).context(journal)?;
        self.run.monitor().step("empty");
        let empty = Empty { run: self.run.id.to_string(), marker_files };
        prepared.agent.call(empty).await.context(|| format!("make room in {}", prepared.source.title))?;
        let extracted = self.unpack(&mut prepared, true).await?;
        self.swap_and_start(&mut prepared, &extracted, &hold).await?;
        self.commit(&mut prepared).await?;
        saga.dismiss(back);
        hold.held.dismiss(self.run, saga).await;
        let elapsed = self.run.begun.elapsed();
        self.run.monitor().step("discard-old");
        let discard = Discard { run: self.run.id.to_string(), with_old: true };
        // If it cannot be removed now, the run's end tries again.
        if prepared.agent.call(discard).await.is_ok() {
            saga.dismiss(work);
        }
        let _ = saga.undo_now(prepared.helper, self.run.monitor()).await;
        let undo = Some(self.undo(&safety, &prepared));
        let next = self.next(&prepared).await;
        Ok(Restored {
            plan: prepared.plan,
            slots_left_out: prepared.slots_left_out,
            files: extracted.files,
            bytes: extracted.bytes,
            downtime: self.run.timer.away(),
            elapsed,
            safety: Some(safety),
            undo,
            next,
        })
    }

    /// Keeps the data that is about to be removed, and proves that it can be restored.
    async fn keep_first(
        &self,
        saga: &mut Saga,
        prepared: &mut Prepared,
        hold: &Hold,
    ) -> Result<(Snapshot, Listed)> {
        let safety = self.safety(prepared, hold, hold.held.at, PathBuf::new()).await?;
        let unpublished = Undo::DiscardUnpublished(safety.objects.clone());
        saga.register(When::Always, unpublished).context(|| "write the journal".to_owned())?;
        self.run.timer.phase(crate::model::event::Phase::Safety);
        let keeping = (&self.run.context.clock, &self.run.context.cancel);
        let snapshot = safety.keep(&mut prepared.agent, keeping, self.run.monitor()).await?;
        self.run.monitor().step("prove-safety");
        // With the very key that an undo would take.
        let snapshot = match snapshot.manifest.is_encrypted() {
            true => {
                let own = identity_of(&self.run.context.saga.state, &self.run.id);
                let own = own.context(|| "read the key of the safety snapshot".to_owned())?;
                snapshot.open_with(&own.ok_or_else(|| snapshot.locked())?)?
            }
            false => snapshot,
        };
        let (kept, monitor) = (snapshot.clone(), self.run.context.monitor.clone());
        let listed = tokio::task::spawn_blocking(move || -> Result<Listed> {
            check_archive(&kept, &*monitor)?;
            check_list(&kept, &*monitor)
        });
        let listed = listed.await.context(|| "read the safety snapshot back".to_owned())??;
        self.refuse_other_run(prepared).await?;
        Ok((snapshot, listed))
    }

    /// Makes the new data stay.
    pub(super) async fn commit(&self, prepared: &mut Prepared) -> Result<()> {
        self.run.monitor().step("commit");
        self.stays.store(super::IN_DOUBT, Ordering::Relaxed);
        let commit = Commit { run: self.run.id.to_string() };
        prepared.agent.call(commit).await.context(|| "let the restored data stay".to_owned())?;
        self.stays.store(super::NEW_STAYS, Ordering::Relaxed);
        self.run.monitor().step("committed");
        self.remember(prepared);
        Ok(())
    }

    /// Has the next check compare with what was restored: data that went back to it did so on purpose.
    fn remember(&self, prepared: &Prepared) {
        // A new volume has nothing to compare with.
        if matches!(self.options.destination, Destination::NewVolume(_)) {
            return;
        }
        let (facts, name) = match &self.options.archive {
            Archive::Snapshot(snapshot) => (of_snapshot(snapshot).ok().flatten(), Some(snapshot.name())),
            Archive::Plain(_) | Archive::Directory(_) => (None, None),
        };
        self.run.context.remember(&prepared.engine.id, &prepared.source, facts, name);
    }
}
