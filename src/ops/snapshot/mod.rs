//! `snapshot`: stop the service (or freeze it), capture its data through the helper, bring the service back.
//!
//! The order, and why it is safe:
//!
//! 1. `prepare`: everything that can be checked is checked, the guard watches, the helper runs already, and nothing has
//!    been touched.
//! 2. A staged capture copies the data while it is being written, until little is left to copy. Then the facts of the
//!    data are taken, which the snapshot keeps.
//! 3. The journal says what will be started (or unfrozen); only then are the users stopped (or frozen).
//! 4. The database's own files prove the shutdown. Without the proof nothing is published. Frozen data cannot prove a
//!    shutdown, and is published as crash-consistent.
//! 5. The archive is written (for a repository that is not local, to the [spool](crate::store::spool)), or the stage is
//!    brought up to the data. Then the proof is read again, in the stage too: nobody started anything meanwhile.
//! 6. The users are started (or unfrozen) at once, before anything else is done; if a restart asked for the snapshot,
//!    it makes them anew first.
//! 7. What was staged is archived, with the service up.
//! 8. The archive is made durable, then the file list, then the manifest: now the snapshot exists.
//!
//! Whatever happens at any point, an error, a panic, a signal or kill -9, the saga puts back what is out: services run,
//! and nothing of the snapshot is left.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Context;
use super::evidence::DatabaseFiles;
use super::helper::StartedHelper;
use super::hold::{Held, HoldPlan};
use super::plan::{CaptureChoice, DowntimeEstimate, Plan};
use super::run::{Aftermath, Consent, Run};
use super::trust::Trust;
use crate::agent::archive::ArchiveStats;
use crate::agent::protocol::Survey;
use crate::agent::staging::StageStats;
use crate::archive::Codec;
use crate::database::native::MaxRate;
use crate::model::error::{Error, Result};
use crate::model::facts::{Facts, FactsLevel};
use crate::model::hint::Hint;
use crate::model::manifest::{Capture, Consistency, Environment, Evidence, Quiesce};
use crate::model::source::Source;
use crate::repository::{Announced, PendingSnapshot, RepositoryLocation, RunMarker, Snapshot};
use crate::selector::Target;
use crate::store::spool::Spool;
use crate::undo::Saga;

mod capture;
mod online;
mod prepare;
pub(super) mod publish;
mod stage;

use online::Online;
use publish::Writers;
use stage::StageVolume;

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct SnapshotOptions {
    /// Where the repository is, or will be.
    pub repository: PathBuf,
    /// What to take a snapshot of.
    pub target: Target,
    /// How writers are held still.
    pub quiesce: Quiesce,
    /// How bytes are taken.
    pub capture: CaptureChoice,
    /// Whether the stage stays for the next snapshot of the same source.
    pub keep_stage: bool,
    /// How the archive is compressed.
    pub codec: Codec,
    /// How long a database may take to stop; `None` for the time that suits it.
    pub stop_timeout: Option<Duration>,
    /// The names of the containers that may be killed if they do not stop in time.
    pub kills: Vec<String>,
    /// How long the service may be away at most; `None` for 30 s if it is frozen, else for any time.
    pub max_downtime: Option<Duration>,
    /// How fast the database's own backup may be made.
    pub max_rate: MaxRate,
    /// Whether a snapshot whose shutdown is not proved is published, marked as such.
    pub allow_crash_consistent: bool,
    /// The user's tags.
    pub tags: BTreeMap<String, String>,
    /// How closely to look at the data beforehand, for the facts that the snapshot keeps.
    pub facts: FactsLevel,
    /// Globs, relative to the source's root, of what is left out.
    pub exclude: Vec<String>,
    /// An image to use as the helper instead of our own.
    pub helper_image: Option<String>,
}

/// Makes a snapshot of what was planned, once `consent` is given to the plan; `None` if it is declined. The snapshot is
/// published when this returns.
///
/// # Errors
/// As the module says: services run again and nothing of the snapshot is left, unless the error is of kind
/// [`ErrorKind::NotPutBack`](crate::ErrorKind::NotPutBack).
pub async fn snapshot(
    context: &Context,
    options: &SnapshotOptions,
    consent: impl AsyncFnOnce(&Plan) -> Result<Consent>,
) -> Result<Option<Snapshot>> {
    let run = Run::begin(context).await?;
    let snapshot_run = SnapshotRun::new(&run, options).await?;
    let subject = options.target.to_string();
    run.conduct("snapshot", subject, &snapshot_run, async |saga| snapshot_run.snapshot(saga, consent).await)
        .await
}

/// What a run does to make a snapshot. A restart makes one on its way.
pub(super) struct SnapshotRun<'a> {
    run: &'a Run,
    repository: RepositoryLocation,
    options: &'a SnapshotOptions,
    /// Whether the manifest exists, once it is known where it will be.
    published: OnceLock<Arc<AtomicBool>>,
    /// The engine's empty files under what is mounted over the data, relative to the source's root.
    placeholders: OnceLock<Vec<PathBuf>>,
}

/// Everything that is known, checked and running before anything is touched.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) source: Source,
    database: Option<DatabaseFiles>,
    /// The servers in the source, if it has several.
    servers: Vec<DatabaseFiles>,
    /// The running users that will be held.
    pub(super) hold: HoldPlan,
    survey: Survey,
    /// What the data runs in, before the containers may be made anew.
    environment: Environment,
    estimate: DowntimeEstimate,
    /// The stage, if one is mounted in the helper; the plan says whether it is used.
    stage: Option<StageVolume>,
    /// The database, if it makes a backup of itself.
    online: Option<Online>,
    helper: StartedHelper,
}

/// Where the snapshot is written to.
pub(super) struct Output {
    pending: PendingSnapshot,
    writers: Writers,
    /// Tells those who delete what dead runs have left that this run lives.
    announced: Option<Announced>,
}

/// What was read while the users were held.
pub(super) struct Captured {
    consistency: Consistency,
    evidence: Evidence,
    /// What became of the archive; `None` if it must still be made from the stage.
    archived: Option<ArchiveStats>,
    /// What the final pass amounted to, if the data was staged.
    staged: Option<StageStats>,
    /// What was seen of the live data just before.
    pub(super) facts: Option<Facts>,
}

impl Captured {
    /// Returns what the consistency of the snapshot rests on.
    pub(super) fn evidence(&self) -> &Evidence {
        &self.evidence
    }
}

impl<'a> SnapshotRun<'a> {
    pub(super) async fn new(run: &'a Run, options: &'a SnapshotOptions) -> Result<Self> {
        let repository = RepositoryLocation::probe(&options.repository)
            .await
            .map_err(|error| Error::from(error).state("nothing was touched"))?;
        Ok(Self { run, repository, options, published: OnceLock::new(), placeholders: OnceLock::new() })
    }

    async fn snapshot(
        &self,
        saga: &mut Saga,
        consent: impl AsyncFnOnce(&Plan) -> Result<Consent>,
    ) -> Result<Option<Snapshot>> {
        let mut prepared = self.prepare(saga).await?;
        if consent(&prepared.plan).await? == Consent::Decline {
            return Ok(None);
        }
        let mut output = self.open_output(saga, &prepared).await?;
        if let Some(online) = prepared.online.take() {
            let (captured, moments) = self.capture_online(saga, &mut prepared, &online).await?;
            return self.archive_and_publish(saga, prepared, output, captured, moments).await.map(Some);
        }
        self.stage_live(saga, &mut prepared).await?;
        let facts = self.run.context.facts_for_snapshot(&prepared.source, self.options.facts).await;
        let held = self.run.hold(saga, &prepared.hold).await?;
        let captured = self.capture_in_time(&mut prepared, &mut output, &held).await?;
        let captured = Captured { facts, ..captured };
        let released = held.release(self.run, saga).await;
        self.finish(saga, prepared, output, captured, (&held, released)).await.map(Some)
    }

    /// Makes the files that the snapshot is written to; the journal has what removes them before.
    pub(super) async fn open_output(&self, saga: &mut Saga, prepared: &Prepared) -> Result<Output> {
        let context = &self.run.context;
        let repository = self.repository.open_or_init(&context.clock).await?;
        Trust::of(context)?.accept(&repository, context.clock.now())?;
        let mut pending = repository.begin(&prepared.source.key, &self.run.id, self.options.codec).await?;
        if let Some(spool) = self.spool(prepared) {
            pending = pending.spooled(spool);
        }
        self.published.get_or_init(|| pending.published());
        let name = format!("{}/{}", prepared.source.key, self.run.id);
        let marker = RunMarker::new(&self.run.id, "snapshot", Vec::new(), vec![name]);
        // Whoever deletes leaves alone for a day what somebody has touched, so it does not take this to be safe.
        let announced = repository.announce(&marker).await;
        let announced =
            announced.inspect_err(|error| tracing::info!(%error, "the repository is not told")).ok();
        let writers = Writers::open(saga, &pending).await?;
        Ok(Output { pending, writers, announced })
    }

    /// Returns where the archive waits for the service to be back: it is written while the service is held, and that
    /// must not take as long as a network does.
    fn spool(&self, prepared: &Prepared) -> Option<Spool> {
        let is_held = prepared.plan.capture == Capture::Direct && !prepared.hold.is_empty();
        let waits = is_held && !self.repository.is_local();
        waits.then(|| Spool::new(self.run.context.saga.state.join("spool")))
    }

    /// Archives what is not archived yet and publishes the snapshot, whether or not what was held is back: a database
    /// that does not come back is all the more reason to keep what was just saved.
    pub(super) async fn finish(
        &self,
        saga: &mut Saga,
        prepared: Prepared,
        output: Output,
        captured: Captured,
        (held, released): (&Held, Result<DateTime<Utc>>),
    ) -> Result<Snapshot> {
        let moments = (held.at, *released.as_ref().unwrap_or(&held.at));
        let snapshot = self.archive_and_publish(saga, prepared, output, captured, moments).await?;
        released.map(|_| snapshot)
    }

    async fn archive_and_publish(
        &self,
        saga: &mut Saga,
        mut prepared: Prepared,
        mut output: Output,
        mut captured: Captured,
        moments: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Snapshot> {
        let archived = match captured.archived.take() {
            Some(archived) => archived,
            None => self.archive_stage(saga, &mut prepared, &mut output.writers, captured.staged).await?,
        };
        // The helper has done its work; if it cannot be removed now, the run's end tries again.
        let _ = saga.undo_now(prepared.helper.registered, self.run.monitor()).await;
        self.publish(prepared, output, (archived, captured), moments).await
    }

    /// Returns the command for another attempt, without these options and with other words.
    fn instead<A: Into<String>>(&self, without: &[&str], with: impl IntoIterator<Item = A>) -> Hint {
        Hint::instead(without, with).otherwise(["snapshot", &self.options.target.spelling()])
    }

    /// Returns what was done to the users of the data, such as "stopped".
    fn held_word(&self) -> &'static str {
        if self.options.quiesce == Quiesce::Pause { "frozen" } else { "stopped" }
    }

    /// Returns what is left out: what the user says, the old data that a dead restore kept, and the engine's empty files
    /// under what is mounted over the data.
    fn excluded(&self) -> Vec<String> {
        let kept = format!("{}*", crate::agent::swap::PREFIX);
        let glob = |path: &PathBuf| globset::escape(&path.to_string_lossy());
        let placeholders = self.placeholders.get().into_iter().flatten().map(glob);
        self.options.exclude.iter().cloned().chain([kept]).chain(placeholders).collect()
    }

    /// Returns how long the service may be away at most.
    fn max_downtime(&self) -> Option<Duration> {
        // Clients of a frozen service do not know that it is frozen, and wait.
        let frozen = (self.options.quiesce == Quiesce::Pause).then_some(Duration::from_secs(30));
        self.options.max_downtime.or(frozen)
    }
}

impl Aftermath for SnapshotRun<'_> {
    fn state(&self, all_back: bool) -> Option<String> {
        let published = self.published.get().is_some_and(|published| published.load(Ordering::Acquire));
        let snapshot = if published {
            format!("snapshot {} is published", self.run.id)
        } else {
            "nothing was published".to_owned()
        };
        let held = self.held_word();
        Some(match self.run.runs_again(held) {
            None => format!("nothing was {held} and {snapshot}"),
            Some(runs) if all_back => format!("{snapshot}; {runs}"),
            Some(_) => snapshot,
        })
    }
}
