//! `restore`: put a snapshot back, so that whatever goes wrong, the user still has what they had.
//!
//! The order, and why it is safe:
//!
//! 1. Manifest, file list and archive are proved to belong together; the target, its users and its room are looked at;
//!    what would break the data is refused. Nothing has been touched, and somebody said yes.
//! 2. The archive is extracted **beside** the live data while the service still runs: into a directory of our own in
//!    the same volume. It is digested as it is written and compared with the file list, every byte and every attribute.
//!    That is its verification: nothing that runs knows of it. It never takes the last of the disk. An
//!    entrypoint that is still at work is waited for: it may be walking through the data, and would trip over what comes.
//!    A user of which that cannot be seen, and one that is started again and again, is stopped before.
//! 3. The users are stopped. Before that, the journal has what starts them.
//! 4. The journal has what puts the old data back; only then do the two trees change places, by renames. What makes a
//!    database goes first and comes last.
//! 5. The users are started and answer; the database is the one that was restored, and runs on these files. Until then,
//!    any failure, signal or death puts the old data back.
//! 6. Committed: from here on the new data stays. With the service up, the old data is archived as a safety snapshot,
//!    and only then removed. Until the users are seen to be up, nothing of ours moves in the volume: an entrypoint that
//!    walks through it fails at whatever vanishes. Should one end all the same, it is started once more at the run's end.
//!
//! So the service is away for the renames and its own stop and start, whatever the size. If there is no room for both
//! trees, the order is another (`in_place`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::Context;
use super::run::{Aftermath, Consent, Run};
use crate::model::error::Result;
use crate::model::hint::Hint;
use crate::repository::{RepositoryLocation, Snapshot};
use crate::selector::Target;
use crate::undo::Saga;

mod archive;
mod assembled;
mod checks;
mod confirm;
mod destination;
mod foreign;
mod fresh;
mod handover;
mod in_place;
mod plan;
mod prepare;
mod replace;
mod replication;
mod safety;

pub use archive::Archive;
pub use checks::Force;
pub use plan::{Level, RestorePlan};
pub use replication::SnapshotSlot;

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Where the snapshot came from.
    Origin,
    /// The source that a target names.
    Target(Target),
    /// A volume that must still be made.
    NewVolume(String),
    /// A directory that is empty or must still be made.
    Directory(PathBuf),
}

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Where the repository is, or will be: the safety snapshot goes there.
    pub repository: PathBuf,
    /// What to restore.
    pub archive: Archive,
    /// Where to.
    pub destination: Destination,
    /// The owner of everything, instead of what the archive says.
    pub owner: Option<(u32, u32)>,
    /// Which mismatches are accepted.
    pub force: Force,
    /// Whether the data that is replaced is kept as a snapshot.
    pub safety: bool,
    /// Whether the replication slots that the snapshot has come back.
    pub keep_slots: bool,
    /// How long a database may take to stop; `None` for the time that suits it.
    pub stop_timeout: Option<Duration>,
    /// The names of the containers that may be killed if they do not stop in time.
    pub kills: Vec<String>,
    /// An image to use as the helper instead of our own.
    pub helper_image: Option<String>,
}

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What was planned, and done.
    pub plan: RestorePlan,
    /// Regular files written.
    pub files: u64,
    /// Bytes of their contents, holes included.
    pub bytes: u64,
    /// Time the service was away; `None` when nothing was stopped.
    pub downtime: Option<Duration>,
    /// Time from the beginning until the service answers on the restored data.
    pub elapsed: Duration,
    /// The replication slots that the snapshot has and the restored database has not.
    pub slots_left_out: Vec<SnapshotSlot>,
    /// What was there before.
    pub safety: Option<Snapshot>,
    /// The command that undoes it.
    pub undo: Option<Hint>,
    /// What brings up a database on it, in this order, where none runs on it by now.
    pub next: Vec<Hint>,
}

/// Restores what was planned, once `consent` is given to the plan. If it is declined, the archive is still read and
/// proved, and `None` is returned.
///
/// # Errors
/// As the module says: what was there is there again and services run, unless the error is of kind
/// [`ErrorKind::NotPutBack`](crate::ErrorKind::NotPutBack).
pub async fn restore(
    context: &Context,
    options: &RestoreOptions,
    consent: impl AsyncFnOnce(&RestorePlan) -> Result<Consent>,
) -> Result<Option<Restored>> {
    let run = Run::begin(context).await?;
    refuse_locked(&options.archive)?;
    let restore_run = RestoreRun::new(&run, options).await?;
    let subject = options.archive.name();
    // Before anything is read: nobody deletes it under us.
    let announced = match &options.archive {
        Archive::Snapshot(snapshot) if !context.only_plans => {
            snapshot.announce(&run.id, "restore", Vec::new()).await?
        }
        _ => None,
    };
    let work = async |saga: &mut Saga| restore_run.restore(saga, consent).await;
    let restored = run.conduct("restore", subject, &restore_run, work).await;
    if let Some(announced) = announced {
        announced.release().await;
    }
    restored
}

/// Refuses a snapshot that is encrypted, and that no identity has opened.
fn refuse_locked(archive: &Archive) -> Result<()> {
    match archive {
        Archive::Snapshot(snapshot) if snapshot.is_locked() => Err(snapshot.locked().into()),
        _ => Ok(()),
    }
}

/// What was unpacked, for the use of this run alone.
pub(super) struct Unpacked {
    /// Regular files.
    pub(super) files: u64,
    /// Bytes of their contents, holes included.
    pub(super) bytes: u64,
    /// Who owns the data.
    pub(super) owner: Option<(u32, u32)>,
}

/// Unpacks a snapshot for another verb's run, whose saga removes the destination that `options` name; proves it as a
/// restore does. Its helper is gone when this returns.
///
/// # Errors
/// As for [`restore`].
pub(super) async fn unpack(run: &Run, options: &RestoreOptions, saga: &mut Saga) -> Result<Unpacked> {
    refuse_locked(&options.archive)?;
    let restore_run = RestoreRun { is_scratch: true, ..RestoreRun::new(run, options).await? };
    let planned = restore_run.prepare(saga).await?;
    let mut prepared = restore_run.make_ready(saga, planned).await?;
    let owner = prepared.known.owner;
    let extracted = restore_run.extract(saga, &mut prepared).await?;
    let hold = restore_run.hold(saga, &mut prepared).await?;
    let replaced = restore_run.replace(saga, &mut prepared, &extracted, hold).await?;
    restore_run.archive_replaced(saga, &mut prepared, replaced).await;
    Ok(Unpacked { files: extracted.files, bytes: extracted.bytes, owner })
}

struct RestoreRun<'a> {
    run: &'a Run,
    repository: RepositoryLocation,
    options: &'a RestoreOptions,
    /// Whether what it makes is for this run alone, and nobody's service.
    is_scratch: bool,
    /// Whether the old data or the new stays.
    stays: AtomicU8,
}

/// If the run fails, the old data is, or will be, back in its place.
const OLD_STAYS: u8 = 0;
/// The new data was asked to stay, and there is no answer yet.
const IN_DOUBT: u8 = 1;
/// The new data stays.
const NEW_STAYS: u8 = 2;

impl<'a> RestoreRun<'a> {
    async fn new(run: &'a Run, options: &'a RestoreOptions) -> Result<Self> {
        let repository = RepositoryLocation::probe(&options.repository).await?;
        Ok(Self { run, repository, options, is_scratch: false, stays: OLD_STAYS.into() })
    }

    async fn restore(
        &self,
        saga: &mut Saga,
        consent: impl AsyncFnOnce(&RestorePlan) -> Result<Consent>,
    ) -> Result<Option<Restored>> {
        let planned = self.prepare(saga).await?;
        if consent(&planned.plan).await? == Consent::Decline {
            self.verify().await?;
            return Ok(None);
        }
        let mut prepared = self.make_ready(saga, planned).await?;
        if prepared.plan.in_place {
            return self.restore_in_place(saga, prepared).await.map(Some);
        }
        let (extracted, hold) = if prepared.users.unsettled.is_empty() {
            let extracted = self.extract(saga, &mut prepared).await?;
            (extracted, self.hold(saga, &mut prepared).await?)
        } else {
            let hold = self.hold(saga, &mut prepared).await?;
            (self.extract(saga, &mut prepared).await?, hold)
        };
        let replaced = self.replace(saga, &mut prepared, &extracted, hold).await?;
        let elapsed = self.run.begun.elapsed();
        let safety = self.archive_replaced(saga, &mut prepared, replaced).await;
        let undo = safety.as_ref().map(|safety| self.undo(safety, &prepared));
        let next = self.next(&prepared).await;
        Ok(Some(Restored {
            plan: prepared.plan,
            files: extracted.files,
            bytes: extracted.bytes,
            downtime: self.run.timer.away(),
            elapsed,
            slots_left_out: prepared.slots_left_out,
            safety,
            undo,
            next,
        }))
    }
}

impl Aftermath for RestoreRun<'_> {
    fn state(&self, all_back: bool) -> Option<String> {
        let data = match self.stays.load(Ordering::Relaxed) {
            OLD_STAYS => "the data is what it was before",
            IN_DOUBT => "the data is all of what was restored or all of what it was before",
            _ => "the restored data stays, and what it replaced is being kept as a safety snapshot",
        };
        all_back.then(|| match self.run.runs_again("stopped") {
            Some(runs) => format!("{data}; {runs}"),
            None => format!("nothing was stopped, and {data}"),
        })
    }
}
