//! `restore`: put a snapshot back, so that whatever goes wrong the user still has what they had.
//!
//! The order, and why it is safe:
//!
//! 1. Manifest, file list and archive are proved to belong together; the target, its users and its room are
//!    looked at; what would break the data is refused. Nothing has been touched, and somebody said yes.
//! 2. The archive is extracted **beside** the live data while the service still runs: a directory of our
//!    own in the same volume, digested as it is written and compared with the file list, every byte and every
//!    attribute. That is its verification: nothing that runs knows of it. It never takes the last of the disk.
//! 3. The users are stopped. What starts them is in the journal before.
//! 4. What has the old data back is in the journal; then the two trees change places by renames, what
//!    makes a database going first and coming last.
//! 5. The users are started and answer; the database is the one that was restored, and runs on these
//!    files. Until then any failure, signal or death has the old data back.
//! 6. Committed: from here on the new data stays. With the service up, the old data is archived as a
//!    safety snapshot, and only then removed.
//!
//! So the service is away for the renames and its own stop and start, whatever the size. Where there is no
//! room for both, the order is another (`in_place`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Context, recover, with_leftovers};
use crate::model::error::{Context as _, Result};
use crate::model::event::{Monitor, Phase};
use crate::model::ids::SnapshotId;
use crate::ops::phase_timer::PhaseTimer;
use crate::repository::{RepositoryLocation, Snapshot};
use crate::saga::RetryBudget;
use crate::selector::Target;
use crate::undo::Saga;

mod archive;
mod checks;
mod in_place;
mod plan;
mod prepare;
mod replace;
mod safety;

pub use archive::Archive;
pub use checks::Force;
pub use plan::RestorePlan;

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Where the snapshot came from.
    Origin,
    /// The source that a target means.
    Target(Target),
    /// A volume that is yet to be made.
    NewVolume(String),
    /// A directory that is empty or yet to be made.
    Directory(PathBuf),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Where the repository is, or is to be: the safety snapshot goes there.
    pub repository: PathBuf,
    /// What is restored.
    pub archive: Archive,
    /// Where to.
    pub destination: Destination,
    /// The owner of everything, in place of what the archive says.
    pub owner: Option<(u32, u32)>,
    /// Which mismatches are accepted.
    pub force: Force,
    /// Whether the data that is replaced is kept as a snapshot.
    pub safety: bool,
    /// How long a database may take to stop; `None` for what its profile says.
    pub stop_timeout: Option<Duration>,
    /// An image to use as the helper in place of our own.
    pub helper_image: Option<String>,
}

/// Is asked before anything is touched.
#[async_trait]
pub trait Confirm: Send + Sync {
    /// Lets the plan be carried out.
    ///
    /// # Errors
    /// When it must not be.
    async fn confirm(&self, plan: &RestorePlan) -> Result<()>;
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
    /// Time from the begin to the service answering on the restored data.
    pub elapsed: Duration,
    /// What was there before.
    pub safety: Option<Snapshot>,
    /// The command that undoes it.
    pub undo: Option<String>,
}

/// Restores.
///
/// # Errors
/// As the module says: what was there is there again and services run, unless the error is of kind
/// [`ErrorKind::NotPutBack`](crate::ErrorKind::NotPutBack).
pub async fn restore(context: &Context, options: &RestoreOptions, confirm: &dyn Confirm) -> Result<Restored> {
    recover::recover(context, RetryBudget::COMMAND).await?;
    let run = Run::begin(context, options).await?;
    let mut saga = run.context.begin("restore", run.options.archive.name(), &run.id, run.started)?;
    let outcome = context.run_to_end(run.restore(&mut saga, confirm)).await;
    run.conclude(saga, outcome).await
}

/// Returns what [`restore`] would do.
///
/// # Errors
/// Everything that would make it fail before anything is touched.
pub async fn dry_run(context: &Context, options: &RestoreOptions) -> Result<RestorePlan> {
    recover::recover(context, RetryBudget::COMMAND).await?;
    let run = Run::begin(context, options).await?;
    let mut saga = run.context.begin("restore", run.options.archive.name(), &run.id, run.started)?;
    let outcome = context
        .run_to_end(async {
            let plan = run.prepare(&mut saga).await?.plan;
            run.verify().await?;
            Ok(plan)
        })
        .await;
    run.conclude(saga, outcome).await
}

/// What was unpacked for nobody to use but the run that has it.
pub(super) struct Unpacked {
    /// Regular files.
    pub(super) files: u64,
    /// Bytes of their contents, holes included.
    pub(super) bytes: u64,
    /// Who owns the data.
    pub(super) owner: Option<(u32, u32)>,
}

/// Unpacks a snapshot for the run `id`, whose saga removes what `options` name as the destination; proved like
/// what is restored. Its helper is gone when this returns.
///
/// # Errors
/// As for [`restore`].
pub(super) async fn unpack(
    context: &Context,
    options: &RestoreOptions,
    id: &SnapshotId,
    saga: &mut Saga,
) -> Result<Unpacked> {
    let run = Run { id: id.clone(), ..Run::begin(context, options).await? };
    let prepared = run.prepare(saga).await?;
    let mut ready = run.make_ready(saga, prepared).await?;
    let owner = ready.known.owner;
    let extracted = run.extract(saga, &mut ready).await?;
    let hold = run.hold(saga, &mut ready).await?;
    let replaced = run.replace(saga, &mut ready, &extracted, hold).await?;
    run.keep_old(saga, &mut ready, replaced).await;
    Ok(Unpacked { files: extracted.files, bytes: extracted.bytes, owner })
}

/// One run: what was asked for, and what it measures.
struct Run<'a> {
    context: &'a Context,
    site: RepositoryLocation,
    options: &'a RestoreOptions,
    id: SnapshotId,
    started: DateTime<Utc>,
    clock: PhaseTimer,
    begun: tokio::time::Instant,
    stays: AtomicU8,
}

/// The old data is, or will be, back in its place should the run fail.
const OLD_STAYS: u8 = 0;
/// The new data was asked to stay, and nothing was answered yet.
const IN_DOUBT: u8 = 1;
/// The new data stays.
const NEW_STAYS: u8 = 2;

impl<'a> Run<'a> {
    async fn begin(context: &'a Context, options: &'a RestoreOptions) -> Result<Self> {
        let mut random = [0; 3];
        getrandom::fill(&mut random).context(|| "draw a random id".to_owned())?;
        let started = Utc::now();
        let site = RepositoryLocation::probe(&options.repository).await?;
        let begun = tokio::time::Instant::now();
        let id = SnapshotId::new(started, random);
        Ok(Self {
            context,
            site,
            options,
            id,
            started,
            clock: PhaseTimer::default(),
            begun,
            stays: OLD_STAYS.into(),
        })
    }

    async fn restore(&self, saga: &mut Saga, confirm: &dyn Confirm) -> Result<Restored> {
        let prepared = self.prepare(saga).await?;
        confirm.confirm(&prepared.plan).await?;
        let mut ready = self.make_ready(saga, prepared).await?;
        if ready.plan.in_place {
            return self.restore_in_place(saga, ready).await;
        }
        let extracted = self.extract(saga, &mut ready).await?;
        let hold = self.hold(saga, &mut ready).await?;
        let replaced = self.replace(saga, &mut ready, &extracted, hold).await?;
        let elapsed = self.begun.elapsed();
        let safety = self.keep_old(saga, &mut ready, replaced).await;
        let undo = safety.as_ref().map(|safety| self.undo(safety, &ready));
        Ok(Restored {
            plan: ready.plan,
            files: extracted.files,
            bytes: extracted.bytes,
            downtime: self.clock.away(),
            elapsed,
            safety,
            undo,
        })
    }

    async fn conclude<T>(&self, saga: Saga, outcome: Result<T>) -> Result<T> {
        let left = saga.finish(outcome.is_ok(), self.monitor()).await;
        let outcome = outcome.map_err(|error| match error.state_text() {
            None if left.is_empty() => error.state(self.state()),
            _ => error,
        });
        with_leftovers(outcome, &left)
    }

    /// Says in which state a failed run leaves things, once everything is put back.
    fn state(&self) -> String {
        let data = match self.stays.load(Ordering::Relaxed) {
            OLD_STAYS => "the data is what it was before",
            IN_DOUBT => "the data is all of what was restored or all of what it was before",
            _ => "the restored data stays, and what it replaced is being kept as a safety snapshot",
        };
        match self.clock.away() {
            Some(away) => {
                let away = away.as_secs_f64();
                format!("{data}; everything that was stopped runs again, after {away:.1} s")
            }
            None => format!("nothing was stopped, and {data}"),
        }
    }

    fn monitor(&self) -> &dyn Monitor {
        &*self.context.monitor
    }

    fn phase(&self, phase: Phase, detail: impl Into<String>, total_bytes: Option<u64>) {
        self.clock.phase(phase);
        self.monitor().phase(phase, detail, total_bytes);
    }
}
