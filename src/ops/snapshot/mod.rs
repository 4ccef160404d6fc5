//! `snapshot`: stop the service (or freeze it), capture its data through the helper, have the service back.
//!
//! The order, and why it is safe:
//!
//! 1. `prepare`: everything that can be checked is checked, the guard watches, the helper
//!    runs already, and nothing has been touched.
//! 2. A staged capture copies the data while it is being written, until little is left to be copied.
//!    Then it is looked at what is true of the data, for the facts that are kept with it.
//! 3. The journal says what will be started (or unfrozen); only then the users are stopped (or frozen).
//! 4. The database's own files prove the shutdown. Without the proof nothing is published. What was
//!    frozen cannot prove one, and is published as crash-consistent.
//! 5. The archive is written (for a repository that is not local, to the [spool](crate::store::spool)), or the stage
//!    is brought up to the data. Then the proof is read again, in
//!    the stage too: nobody started anything meanwhile.
//! 6. The users are started (or unfrozen) at once, before anything else is done; a restart that has asked for
//!    the snapshot makes them anew before.
//! 7. What was staged is archived, with the service up.
//! 8. The archive is made durable, then the file list, then the manifest: now the snapshot exists.
//!
//! Whatever happens at any point, an error, a panic, a signal or kill -9, the saga puts back what
//! is out: services run, and of the snapshot nothing is left.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::errand::Errand;
use super::plan::{CaptureChoice, DowntimeEstimate, Plan};
use super::{Context, recover, with_leftovers};
use crate::agent::client::AgentClient;
use crate::agent::protocol::Survey;
use crate::agent::staging::StageStats;
use crate::archive::Codec;
use crate::database::Profile;
use crate::database::online::MaxRate;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Monitor, Phase};
use crate::model::facts::{Facts, FactsLevel};
use crate::model::ids::SnapshotId;
use crate::model::manifest::{Capture, Consistency, Environment, Evidence, Quiesce};
use crate::model::source::Source;
use crate::ops::phase_timer::PhaseTimer;
use crate::repository::{RepositoryLocation, Snapshot};
use crate::saga::{RetryBudget, UndoId};
use crate::selector::Target;
use crate::store::spool::Spool;
use crate::undo::Saga;

mod capture;
mod hold;
mod online;
mod prepare;
pub(super) mod publish;
mod stage;

use hold::Holds;
use online::Online;
use publish::Writers;
use stage::StageVolume;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct SnapshotOptions {
    /// Where the repository is, or is to be.
    pub repository: PathBuf,
    /// Of what.
    pub target: Target,
    /// How writers are held still.
    pub quiesce: Quiesce,
    /// How bytes are taken.
    pub capture: CaptureChoice,
    /// Whether the stage stays for the next snapshot of the same source.
    pub keep_stage: bool,
    /// How the archive is compressed.
    pub codec: Codec,
    /// How long a database may take to stop; `None` for what its profile says.
    pub stop_timeout: Option<Duration>,
    /// How long the service may be away at most; `None` for 30 s where it is frozen, else for any time.
    pub max_downtime: Option<Duration>,
    /// How fast the database's own backup is made at most.
    pub max_rate: MaxRate,
    /// Whether a snapshot whose shutdown is not proved is published, marked as such.
    pub allow_crash_consistent: bool,
    /// The user's tags.
    pub tags: BTreeMap<String, String>,
    /// How closely the data is looked at before, for the facts that are kept with it.
    pub facts: FactsLevel,
    /// Globs, relative to the source's root, of what is left out.
    pub exclude: Vec<String>,
    /// An image to use as the helper in place of our own.
    pub helper_image: Option<String>,
}

/// Makes a snapshot; it is published when this returns.
///
/// # Errors
/// As the module says: services run again and nothing of the snapshot is left, unless the error is of
/// kind [`ErrorKind::NotPutBack`](crate::ErrorKind::NotPutBack).
pub async fn snapshot(context: &Context, options: &SnapshotOptions) -> Result<Snapshot> {
    take(context, options, None).await
}

/// Makes a snapshot, and does what a restart needs on the way.
///
/// # Errors
/// As for [`snapshot`].
pub(super) async fn take(
    context: &Context,
    options: &SnapshotOptions,
    errand: Option<Errand<'_>>,
) -> Result<Snapshot> {
    finish_dead_runs(context).await?;
    let run = Run { errand, ..Run::begin(context, options).await? };
    let mut saga = run.context.begin("snapshot", run.options.target.to_string(), &run.id, run.started)?;
    let outcome = context.run_to_end(run.snapshot(&mut saga)).await;
    run.conclude(saga, outcome).await
}

/// Returns what [`snapshot`] would do. Starts the helper to look at the data, and removes it again.
///
/// # Errors
/// Everything that would make the snapshot fail before anything is touched.
pub async fn dry_run(context: &Context, options: &SnapshotOptions) -> Result<Plan> {
    finish_dead_runs(context).await?;
    let run = Run::begin(context, options).await?;
    let mut saga = run.context.begin("snapshot", run.options.target.to_string(), &run.id, run.started)?;
    let outcome = context.run_to_end(async { Ok(run.prepare(&mut saga).await?.plan) }).await;
    run.conclude(saga, outcome).await
}

/// Finishes what a dead run left, before anything is looked at: the service may be down because of it.
async fn finish_dead_runs(context: &Context) -> Result<()> {
    match recover::recover(context, RetryBudget::COMMAND).await {
        Ok(_) => Ok(()),
        Err(error) if error.state_text().is_some() => Err(error),
        Err(error) => Err(error.state("nothing was stopped and nothing was published")),
    }
}

/// One run: what was asked for, and what it measures.
struct Run<'a> {
    context: &'a Context,
    site: RepositoryLocation,
    options: &'a SnapshotOptions,
    errand: Option<Errand<'a>>,
    id: SnapshotId,
    started: DateTime<Utc>,
    clock: PhaseTimer,
    /// Whether the manifest is there, once it is known where it will be.
    published: OnceLock<Arc<AtomicBool>>,
}

/// Everything that is known, checked and running before anything is touched.
struct Preparation {
    plan: Plan,
    source: Source,
    database: Option<Database>,
    /// The running users that will be held.
    holds: Holds,
    survey: Survey,
    /// What the data runs in, as it is before the containers may be made anew.
    environment: Environment,
    facts: Option<Facts>,
    estimate: DowntimeEstimate,
    /// The stage, where one is mounted in the helper; whether it is used, the plan says.
    stage: Option<StageVolume>,
    /// What the final pass amounted to.
    staged: Option<StageStats>,
    /// The database, where it makes a backup of itself.
    online: Option<Online>,
    agent: AgentClient,
    helper: UndoId,
}

/// The database in the source.
struct Database {
    profile: &'static dyn Profile,
    /// Relative to the source's root.
    data_directory: PathBuf,
    /// Where its container mounts the source.
    mounted_at: Option<PathBuf>,
}

/// The users are held; what has them back is in the journal.
struct Hold {
    back: Option<UndoId>,
    held: DateTime<Utc>,
}

/// What was read while the users were held.
struct Captured {
    consistency: Consistency,
    evidence: Evidence,
}

impl<'a> Run<'a> {
    async fn begin(context: &'a Context, options: &'a SnapshotOptions) -> Result<Self> {
        let mut random = [0; 3];
        getrandom::fill(&mut random).context(|| "draw a random id".to_owned())?;
        let started = Utc::now();
        let id = SnapshotId::new(started, random);
        let site = RepositoryLocation::probe(&options.repository)
            .await
            .map_err(|error| Error::from(error).state("nothing was touched"))?;
        Ok(Self {
            context,
            site,
            options,
            errand: None,
            id,
            started,
            clock: PhaseTimer::default(),
            published: OnceLock::new(),
        })
    }

    async fn snapshot(&self, saga: &mut Saga) -> Result<Snapshot> {
        let mut prepared = self.prepare(saga).await?;
        let repository = self.site.open_or_init().await?;
        let mut pending = repository.begin(&prepared.source.key, &self.id, self.options.codec).await?;
        if prepared.plan.capture == Capture::Direct {
            pending = pending.spooled(Spool::new(self.context.saga.state.join("spool")));
        }
        self.published.get_or_init(|| pending.published());
        let mut writers = Writers::open(saga, &pending).await?;
        if let Some(online) = prepared.online.take() {
            let (captured, moments) = self.capture_online(saga, &mut prepared, &online).await?;
            let archived = self.archive_stage(saga, &mut prepared, &mut writers).await?;
            let _ = saga.undo_now(prepared.helper, self.monitor()).await;
            return self.publish(prepared, &pending, writers, (archived, captured), moments).await;
        }
        self.stage_live(saga, &mut prepared).await?;
        prepared.facts = match &self.errand {
            Some(errand) => errand.before(self.context).await?,
            None => self.context.facts_for_snapshot(&prepared.source, self.options.facts).await,
        };
        let hold = self.hold(saga, &prepared).await?;
        let (captured, archived) = self.capture_in_time(&mut prepared, &mut writers).await?;
        let recreated = self.recreate(saga).await;
        let released = self.release(saga, &prepared, &hold).await;
        let archived = match archived {
            Some(archived) => archived,
            None => self.archive_stage(saga, &mut prepared, &mut writers).await?,
        };
        // The helper has done its work; failing to remove it now is tried again at the end.
        let _ = saga.undo_now(prepared.helper, self.monitor()).await;
        // A database that does not come back is all the more reason to keep what was just saved.
        let released_at = *released.as_ref().unwrap_or(&hold.held);
        let moments = (hold.held, released_at);
        let snapshot = self.publish(prepared, &pending, writers, (archived, captured), moments).await?;
        recreated?;
        released.map(|_| snapshot)
    }

    /// Has a restart's containers made anew, now that the data is captured.
    async fn recreate(&self, saga: &mut Saga) -> Result<()> {
        let Some(errand) = &self.errand else { return Ok(()) };
        if let Some((phase, detail)) = errand.phase() {
            self.phase(phase, detail, None);
        }
        errand.recreate(self.context, saga, self.id.as_str()).await
    }

    async fn conclude<T>(&self, saga: Saga, outcome: Result<T>) -> Result<T> {
        let left = saga.finish(outcome.is_ok(), self.monitor()).await;
        let outcome = outcome.map_err(|error| match error.state_text() {
            None => error.state(self.state(left.is_empty())),
            Some(_) => error,
        });
        with_leftovers(outcome, &left)
    }

    /// Says in which state a failed run leaves things; what is not put back is told beside it.
    fn state(&self, all_back: bool) -> String {
        let published = self.published.get().is_some_and(|published| published.load(Ordering::Acquire));
        let snapshot = if published {
            format!("snapshot {} is published", self.id)
        } else {
            "nothing was published".to_owned()
        };
        let held = self.held_word();
        match self.clock.away() {
            None => format!("nothing was {held} and {snapshot}"),
            Some(away) if all_back => {
                let away = away.as_secs_f64();
                format!("{snapshot}; everything that was {held} runs again, after {away:.1} s")
            }
            Some(_) => snapshot,
        }
    }

    /// Returns what is done to who uses the data, as "stopped".
    fn held_word(&self) -> &'static str {
        if self.options.quiesce == Quiesce::Pause { "frozen" } else { "stopped" }
    }

    /// Returns what is left out: what the user says, and what a restore that died has kept of old data.
    fn excluded(&self) -> Vec<String> {
        let kept = format!("{}*", crate::agent::swap::PREFIX);
        self.options.exclude.iter().cloned().chain([kept]).collect()
    }

    fn monitor(&self) -> &dyn Monitor {
        &*self.context.monitor
    }

    fn phase(&self, phase: Phase, detail: String, total_bytes: Option<u64>) {
        self.clock.phase(phase);
        self.monitor().phase(phase, detail, total_bytes);
    }
}
