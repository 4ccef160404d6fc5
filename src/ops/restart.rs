//! `restart`: stop a database and start it again, and say whether the data is still what it was.
//!
//! The order, and why it is safe:
//!
//! 1. `prepare`: everything that can be checked is checked, the guard watches, the helper runs beside the data, and
//!    nothing has been touched. Compose files that would make a container on another volume are refused: that volume is
//!    a fresh, empty database, and the service would be up on it. What else they would change is named in the plan.
//! 2. The facts of the data are taken. Without them there is no restart: nobody could compare afterwards.
//! 3. The journal says what will be started; only then are the users stopped, first those that need others.
//! 4. While it is down, the database's own files say whether the shutdown was clean.
//! 5. With `--recreate`, Compose makes the containers anew on the same volumes, without starting them. A Compose that
//!    outlived its command could undo what the guard does, so the guard ends it first. Who shares the network of one,
//!    and was not made anew by Compose, is made anew then.
//! 6. The users are started, first those that others need, each after the one before it answers.
//! 7. The facts of the data are taken again, and compared. If the transaction numbers prove that nothing was written in
//!    between, everything must be the same.
//!
//! With `--snapshot`, the snapshot takes the facts, stops, proves and starts, so the service is away only once: the
//! containers are made anew between its capture and its start.
//!
//! Whatever happens at any point, an error, a panic, a signal or kill -9, the saga makes the users run again.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Context;
use super::check::latest;
use super::evidence::{DatabaseFiles, ended_badly};
use super::facts::{run_checks, take};
use super::helper::{StartedHelper, busy, start_helper};
use super::hold::HoldPlan;
use super::orchestrated::Purpose;
use super::phase_timer::milliseconds;
use super::preconditions::{refuse_podman, refuse_what_cannot_be_stopped, somebody_at_work};
use super::project_file::find_checks;
use super::recover::start_of;
use super::recreation::{Recreation, refuse_other_volume};
use super::run::{Aftermath, Consent, Run};
use super::sharers::{PlannedSharer, Sharers};
use super::snapshot::{SnapshotOptions, SnapshotRun};
use crate::agent::client::AgentClient;
use crate::compose::{Membership, RECREATE_LIMIT, Recreate};
use crate::database::compare::{ComparisonContext, compare};
use crate::engine::helper::Access;
use crate::model::container::{Container, EngineInfo, Mount, MountKind};
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::facts::checks::{Checked, Checks};
use crate::model::facts::difference::{Difference, DifferenceKind, Severity};
use crate::model::facts::{Facts, FactsLevel, FactsSummary};
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::orchestrator::Orchestrator;
use crate::model::source::{Onlooker, Source};
use crate::repository::Snapshot;
use crate::saga::{Terms, UndoId, When};
use crate::selector::Target;
use crate::service::order;
use crate::service::ready::await_ready;
use crate::service::sharing::Sharer;
use crate::undo::{Saga, Undo};

/// How long a database may take to answer before anything is stopped.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct RestartOptions {
    /// What to restart.
    pub target: Target,
    /// Where the repository is, or may be: a snapshot in it can mend a difference.
    pub repository: PathBuf,
    /// How closely to look at the data, before and after.
    pub level: FactsLevel,
    /// The snapshot to take while the containers are stopped.
    pub snapshot: Option<SnapshotOptions>,
    /// Whether Compose makes the containers anew, on the same volumes.
    pub recreate: bool,
    /// The file with the user's checks, instead of the one beside the compose file.
    pub checks: Option<PathBuf>,
    /// How long a database may take to stop; `None` for the time that suits it.
    pub stop_timeout: Option<Duration>,
    /// The names of the containers that may be killed if they do not stop in time.
    pub kills: Vec<String>,
    /// An image to use as the helper instead of our own.
    pub helper_image: Option<String>,
}

/// What a restart will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestartPlan {
    /// What is restarted, as a person calls it.
    pub title: String,
    /// The database found there: engine and major version.
    pub database: Option<String>,
    /// Whether a snapshot is taken while they are stopped.
    pub snapshot: bool,
    /// How closely the data is looked at, before and after.
    pub facts: FactsLevel,
    /// Containers that will be stopped, in this order.
    pub stops: Vec<String>,
    /// The command that makes containers anew, if that is asked for.
    pub recreate: Option<String>,
    /// What the new containers will have other than these, by names alone: `db: environment PASSWORD`.
    pub changes: Vec<String>,
    /// Containers that share something of those that are made anew, and are made anew with them.
    pub sharers: Vec<PlannedSharer>,
    /// Containers that will be started again, in this order.
    pub starts: Vec<String>,
    /// Containers that the engine would not start again if it, or the machine, restarted while they are stopped, each
    /// with its restart policy.
    pub down_after_reboot: Vec<String>,
    /// What their owners want to be run in them before and after, each as "CONTAINER: before_hold: COMMAND".
    pub own_commands: Vec<String>,
    /// Users of the data that are not running and stay so.
    pub stay_stopped: Vec<String>,
    /// Running containers that can see the data and are left alone.
    pub onlookers: Vec<Onlooker>,
}

/// The outcome of a restart.
#[derive(Debug, Clone, Serialize)]
pub struct RestartReport {
    /// Whether no damage was found and every check of the user's holds.
    pub ok: bool,
    /// What was restarted, as a person calls it.
    pub title: String,
    /// The containers that were restarted, in the order in which they were started.
    pub containers: Vec<String>,
    /// Milliseconds from the moment the stop was asked for until everything answered.
    pub downtime_ms: u64,
    /// The snapshot taken meanwhile, `SOURCE/ID`.
    pub snapshot: Option<String>,
    /// What the database's own files said while it was down: "shut down".
    pub shutdown: Option<String>,
    /// Whether the shutdown was clean, by them; `None` if there is no database.
    pub clean: Option<bool>,
    /// Whether nothing was written in between, so everything must be the same.
    pub strict: bool,
    /// What differs.
    pub differences: Vec<Difference>,
    /// The user's checks.
    pub checks: Vec<Checked>,
    /// How closely the data was looked at.
    pub level: FactsLevel,
    /// What there was before, in numbers.
    pub before: Option<FactsSummary>,
    /// What there is.
    pub now: Option<FactsSummary>,
    /// What was not looked at, and why.
    pub unread: Vec<String>,
}

/// Restarts what was planned, once `consent` is given to the plan; `None` if it is declined.
///
/// # Errors
/// As the module says: services run, unless the error is of kind
/// [`ErrorKind::NotPutBack`](crate::ErrorKind::NotPutBack). A difference is no error.
pub async fn restart(
    context: &Context,
    options: &RestartOptions,
    consent: impl AsyncFnOnce(&RestartPlan) -> Result<Consent>,
) -> Result<Option<RestartReport>> {
    let run = Run::begin(context).await?;
    let snapshot = match &options.snapshot {
        Some(options) => Some(SnapshotRun::new(&run, options).await?),
        None => None,
    };
    let restart_run = RestartRun { run: &run, options, snapshot };
    let subject = options.target.to_string();
    run.conduct("restart", subject, &restart_run, async |saga| restart_run.restart(saga, consent).await).await
}

struct RestartRun<'a> {
    run: &'a Run,
    options: &'a RestartOptions,
    /// What makes the snapshot, if one is wanted.
    snapshot: Option<SnapshotRun<'a>>,
}

/// What is restarted, with everything known of it and checked.
struct Subject {
    plan: RestartPlan,
    engine: EngineInfo,
    source: Source,
    database: Option<Database>,
    checks: Option<Checks>,
    recreate: Option<Recreate>,
    /// Who shares something of what is made anew.
    sharers: Vec<Sharer>,
    /// The running users, in the order in which they are stopped.
    hold: HoldPlan,
}

impl Subject {
    /// Returns the project that Compose makes the containers of: that of the first to be started.
    fn recreated_project(&self) -> Option<&str> {
        let first = self.hold.containers.last()?;
        Membership::of(&first.labels).map(|member| member.project)
    }
}

/// The helper that runs beside it.
struct Helper {
    agent: AgentClient,
    registered: UndoId,
}

/// The database in the source.
struct Database {
    container: Container,
    files: DatabaseFiles,
}

/// What the files said while the users were down.
#[derive(Default)]
struct Shutdown {
    inspection: Option<Inspection>,
    /// Why it is not clean.
    reasons: Vec<String>,
}

/// The outcome, before it is reported.
#[derive(Default)]
struct Outcome {
    /// The snapshot taken meanwhile.
    taken: Option<Snapshot>,
    shutdown: Shutdown,
    downtime_ms: u64,
    before: Option<Facts>,
}

impl RestartRun<'_> {
    async fn restart(
        &self,
        saga: &mut Saga,
        consent: impl AsyncFnOnce(&RestartPlan) -> Result<Consent>,
    ) -> Result<Option<RestartReport>> {
        if let Some(snapshot) = &self.snapshot {
            return self.restart_with_snapshot(snapshot, saga, consent).await;
        }
        self.run.watch(saga).await?;
        let mut subject = self.look().await?;
        let mut helper = self.start_helper(saga, &mut subject).await?;
        if consent(&subject.plan).await? == Consent::Decline {
            return Ok(None);
        }
        let before = self.before(&subject).await?;
        let held = self.run.hold(saga, &subject.hold).await?;
        let shutdown = self.prove(&subject, &mut helper).await;
        self.recreate(saga, &subject).await?;
        held.release(self.run, saga).await?;
        // The helper has done its work; if it cannot be removed now, the run's end tries again.
        let _ = saga.undo_now(helper.registered, self.run.monitor()).await;
        let downtime_ms = self.run.timer.away().map_or(0, milliseconds);
        let outcome = Outcome { taken: None, shutdown, downtime_ms, before };
        self.compare_and_report(&subject, outcome).await.map(Some)
    }

    /// The same, with a snapshot taken while everything is stopped: the service is away once for both.
    async fn restart_with_snapshot(
        &self,
        snapshot: &SnapshotRun<'_>,
        saga: &mut Saga,
        consent: impl AsyncFnOnce(&RestartPlan) -> Result<Consent>,
    ) -> Result<Option<RestartReport>> {
        let mut subject = self.look().await?;
        let mut prepared = snapshot.prepare(saga).await?;
        subject.plan.database.clone_from(&prepared.plan.database);
        if consent(&subject.plan).await? == Consent::Decline {
            return Ok(None);
        }
        let mut output = snapshot.open_output(saga, &prepared).await?;
        snapshot.stage_live(saga, &mut prepared).await?;
        let before = self.before(&subject).await?;
        let held = self.run.hold(saga, &prepared.hold).await?;
        let mut captured = snapshot.capture_in_time(&mut prepared, &mut output, &held).await?;
        captured.facts.clone_from(&before);
        let evidence = captured.evidence();
        let shutdown = Shutdown { inspection: evidence.database.clone(), reasons: evidence.reasons.clone() };
        let recreated = self.recreate(saga, &subject).await;
        let released = held.release(self.run, saga).await;
        let downtime_ms = self.run.timer.away().map_or(0, milliseconds);
        let taken = snapshot.finish(saga, prepared, output, captured, (&held, released)).await?;
        recreated?;
        let outcome = Outcome { taken: Some(taken), shutdown, downtime_ms, before };
        self.compare_and_report(&subject, outcome).await.map(Some)
    }

    /// Takes the facts of the data, with the values of the user's checks. Without them nothing is stopped: nobody could
    /// compare afterwards.
    async fn before(&self, subject: &Subject) -> Result<Option<Facts>> {
        let Some(Database { container, .. }) = &subject.database else { return Ok(None) };
        if self.options.level == FactsLevel::None {
            return Ok(None);
        }
        self.run.phase(Phase::Facts, container.name.clone(), None);
        self.run.monitor().step("facts");
        let docker = &*self.run.context.docker;
        let facts = take(docker, container, self.options.level).await;
        let again = Hint::instead(&["--facts="], ["--facts", "none"]);
        let facts = facts.map_err(|error| error.hint(again.why("does not compare")))?;
        let Some(mut facts) = facts else { return Ok(None) };
        if let Some(checks) = &subject.checks {
            run_checks(docker, container, checks, None, &mut facts).await;
        }
        Ok(Some(facts))
    }

    /// Has Compose make the users anew, if that is asked for. The journal has what ends Compose before it begins, and
    /// Compose is ended before anything is started: one that went on would stop what was started.
    async fn recreate(&self, saga: &mut Saga, subject: &Subject) -> Result<()> {
        let Some(recreate) = &subject.recreate else { return Ok(()) };
        self.run.phase(Phase::Start, "Compose makes the containers anew", None);
        // Compose says nothing while it is at work, and has a limit of its own.
        self.run.lease(Terms::of_wait(RECREATE_LIMIT));
        let journal = || "write the journal".to_owned();
        let run = self.run.id.to_string();
        let rejoin = Undo::Rejoin { sharers: subject.sharers.clone() };
        let rejoin = if subject.sharers.is_empty() {
            None
        } else {
            Some(saga.register(When::Always, rejoin).context(journal)?)
        };
        let end = Undo::EndProcesses { run: run.clone() };
        let end = saga.register(When::Always, end).context(journal)?;
        self.run.monitor().step("recreate");
        let made = recreate.create(&run).await;
        saga.undo_now(end, self.run.monitor()).await.context(|| "end Compose".to_owned())?;
        // Also if Compose has failed half-way: what it has made anew by then is what is started.
        let joined = match rejoin {
            Some(rejoin) => saga.undo_now(rejoin, self.run.monitor()).await,
            None => Ok(()),
        };
        made.context(|| "make the containers anew".to_owned())?;
        joined.context(|| "make anew who shares the network of what was made anew".to_owned())?;
        self.refuse_the_same(subject).await
    }

    /// Refuses a container that Compose has left as it was, whatever it says: it would be started as one made anew.
    async fn refuse_the_same(&self, subject: &Subject) -> Result<()> {
        for container in &subject.hold.containers {
            let project = Membership::of(&container.labels).map(|member| member.project);
            if project.is_none() || project != subject.recreated_project() {
                continue;
            }
            let looked = self.run.context.docker.container(&container.id).await;
            if looked.context(|| format!("look at container {}", container.name))?.is_some() {
                return Err(Error::failed(format!(
                    "Compose did not make container {} anew: it is the very one from before",
                    container.name
                ))
                .hint(Hint::docker(["compose", "version"]).why("does it talk to the same engine?")));
            }
        }
        Ok(())
    }

    /// Looks at everything once more, and reports what differs.
    async fn compare_and_report(&self, subject: &Subject, outcome: Outcome) -> Result<RestartReport> {
        let moved = self.moved(subject).await?;
        let (after, checks) = match self.after(subject, outcome.before.as_ref()).await {
            // What is on another volume may be no database that we can ask.
            Err(error) if !moved.is_empty() => {
                self.run.monitor().warning(&error);
                (None, Vec::new())
            }
            seen => seen?,
        };
        self.report(subject, outcome, moved, after, checks).await
    }

    async fn start_helper(&self, saga: &mut Saga, subject: &mut Subject) -> Result<Helper> {
        let image = (&subject.engine, self.options.helper_image.as_deref());
        let run = self.run.id.as_str();
        let access = (Access::Read, None);
        let StartedHelper { mut agent, registered, .. } = start_helper(
            &self.run.context,
            saga,
            run,
            &subject.source,
            access,
            image,
            &subject.hold.containers,
        )
        .await?;
        if let Some(database) = &subject.database {
            let found = database.files.inspect(&mut agent).await?;
            subject.plan.database = Some(format!("{} {}", found.engine, found.version));
        }
        Ok(Helper { agent, registered })
    }

    /// Checks everything that can be checked without touching anything.
    async fn look(&self) -> Result<Subject> {
        self.run.phase(Phase::Prepare, self.options.target.to_string(), None);
        let docker = &*self.run.context.docker;
        let engine = docker.engine().await.context(|| "ask the engine what it is".to_owned())?;
        self.run.context.refuse_unknown_names(&self.options.kills).await?;
        let source = self.run.context.resolve_for(&["restart"], &self.options.target).await?;
        self.run.refuse_ourselves(&source)?;
        self.run.refuse_unfinished(&source)?;
        source.warnings.iter().for_each(|warning| self.run.monitor().warning(warning));
        if let Some(other) = &source.held_by {
            return Err(busy(&source, &other.container));
        }
        refuse_podman(&engine, &source, || {
            let target = self.options.target.spelling();
            vec![
                Hint::volsnap(["snapshot", &target, "--quiesce", "pause"])
                    .why("then restart it by podman itself"),
            ]
        })?;
        self.run.context.refuse_orchestrated(&source, Purpose::Restart).await?;
        let stops = stops(&self.run.context, &source)?;
        self.run.context.refuse_in_memory(&source, Purpose::Restart).await?;
        self.run.context.refuse_stranded(&source).await?;
        let database = database_of(&source);
        let checks = match &database {
            Some(database) => {
                find_checks(self.options.checks.as_deref(), &database.container, &self.run.context.directory)?
            }
            None => None,
        };
        let recreation = if self.options.recreate {
            let plainly = Hint::instead(&["--recreate"], [""; 0]).why("starts the same containers again");
            self.run.context.refuse_old_compose(plainly.clone()).await?;
            let starts: Vec<&Container> = stops.iter().rev().collect();
            Some(Recreation::plan(&self.run.context, &starts, &plainly).await?)
        } else {
            None
        };
        if let Some(recreation) = &recreation {
            refuse_other_volume(&source, &stops, &self.options.target)?;
            recreation.warnings.iter().for_each(|warning| self.run.monitor().warning(warning));
        }
        self.refuse_unready(database.as_ref()).await?;
        let mut plan = self.plan(&source, &stops);
        if let Some(recreation) = &recreation {
            plan.recreate = Some(recreation.recreate.command());
            plan.changes.clone_from(&recreation.changes);
        }
        let sharers = match &recreation {
            Some(Recreation { recreate, .. }) => {
                let anew: Vec<&Container> = stops.iter().filter(|one| recreate.makes(one)).collect();
                self.run.context.sharers((&anew, &stops), self.run.id.as_str()).await?
            }
            None => Sharers::default(),
        };
        let by_compose =
            |one: &Container| recreation.as_ref().is_some_and(|recreation| recreation.recreate.makes(one));
        plan.sharers = sharers.planned(by_compose);
        let recreate = recreation.map(|recreation| recreation.recreate);
        let checks = checks.map(|(_, checks)| checks);
        let hold = HoldPlan {
            location: Some(source.location.clone()),
            containers: stops,
            stop_timeout: self.options.stop_timeout,
            kills: self.options.kills.clone(),
            ..HoldPlan::default()
        };
        let mut hold = hold.look(&self.run.context).await?;
        hold.refuse_the_deaf()?;
        plan.own_commands = hold.own_commands();
        hold.warn_of_the_unhealthy(self.run.monitor());
        if recreate.is_some() {
            // What Compose makes anew may be of another image, and so look different.
            hold.vitals.clear();
        }
        Ok(Subject { plan, engine, source, database, checks, recreate, sharers: sharers.records, hold })
    }

    fn plan(&self, source: &Source, stops: &[Container]) -> RestartPlan {
        let names = |containers: &mut dyn Iterator<Item = &Container>| -> Vec<String> {
            containers.map(|container| container.name.clone()).collect()
        };
        let users = source.users.iter().map(|user| &user.container);
        RestartPlan {
            title: source.title.clone(),
            database: None,
            snapshot: self.options.snapshot.is_some(),
            facts: self.options.level,
            stops: names(&mut stops.iter()),
            recreate: None,
            changes: Vec::new(),
            sharers: Vec::new(),
            starts: names(&mut stops.iter().rev()),
            down_after_reboot: self.run.context.left_down(stops),
            own_commands: Vec::new(),
            stay_stopped: names(&mut users.filter(|container| !container.state.running)),
            onlookers: source.onlookers.clone(),
        }
    }

    /// Refuses a database that does not answer: one that is still in its entrypoint would ignore the signal.
    async fn refuse_unready(&self, database: Option<&Database>) -> Result<()> {
        let Some(database) = database else { return Ok(()) };
        let container = &database.container;
        let deadline = Instant::now() + READY_LIMIT;
        let answer = await_ready(&*self.run.context.docker, container, deadline, self.run.monitor()).await;
        answer.map(drop).map_err(|error| {
            Error::failed(format!("container {} is not ready to be stopped", container.name))
                .with_source(error)
                .hint(Hint::logs(&container.name))
        })
    }

    /// Reads what the engine and the database's own files say of the shutdown. If nothing can be read, that is a reason
    /// like others: the service is down, and must come back first.
    async fn prove(&self, subject: &Subject, helper: &mut Helper) -> Shutdown {
        self.run.phase(Phase::Prove, subject.source.title.clone(), None);
        self.run.monitor().step("prove");
        let mut shutdown = Shutdown::default();
        let Some(database) = &subject.database else { return shutdown };
        let name = &database.container.name;
        match self.run.context.docker.container(&database.container.id).await {
            Ok(now) => shutdown.reasons.extend(now.as_ref().and_then(ended_badly)),
            Err(error) => {
                self.run.monitor().warning(format!("how container {name} ended is not known: {error}"));
            }
        }
        match database.files.inspect(&mut helper.agent).await {
            Ok(inspection) => {
                shutdown.reasons.extend(inspection.reasons.iter().cloned());
                shutdown.inspection = Some(inspection);
            }
            Err(error) => {
                self.run.monitor().warning(format!("the shutdown is not proved: {}", error.chain()));
            }
        }
        shutdown
    }

    /// Returns what containers that were made anew mount elsewhere than before. Another volume, or another place for
    /// the data, is a loss; another file or directory may be the reason for making them anew.
    async fn moved(&self, subject: &Subject) -> Result<Vec<Difference>> {
        let mut moved = Vec::new();
        let Some(recreate) = &subject.recreate else { return Ok(moved) };
        for before in &subject.hold.containers {
            let after = self.now(before).await?;
            let data = subject.source.mounted_at(before);
            let kept = |mount: &&Mount| matches!(mount.kind, MountKind::Volume | MountKind::Bind);
            for mount in before.mounts.iter().filter(kept) {
                let now = after.mounts.iter().find(|now| now.destination == mount.destination).map(lies);
                if now.as_ref() == Some(&lies(mount)) {
                    continue;
                }
                let lost = mount.kind == MountKind::Volume || data.as_ref() == Some(&mount.destination);
                moved.push(Difference {
                    kind: DifferenceKind::OtherVolume,
                    severity: if lost { Severity::Damage } else { Severity::Information },
                    object: format!("container {}: {}", after.name, mount.destination.display()),
                    before: Some(lies(mount)),
                    after: now,
                    next: lost.then(|| {
                        // By hand, who shares something of it would be left without.
                        let why = format!("once the compose file has {} there again", lies(mount));
                        match subject.sharers.is_empty() {
                            true => Hint::shell(recreate.command()).why(why),
                            false => Hint::advice(format!("restart it once more, {why}")),
                        }
                    }),
                });
            }
        }
        Ok(moved)
    }

    /// Takes the facts of the data as it is now.
    async fn after(
        &self,
        subject: &Subject,
        before: Option<&Facts>,
    ) -> Result<(Option<Facts>, Vec<Checked>)> {
        let (Some(database), Some(before)) = (&subject.database, before) else {
            return Ok((None, self.own_checks(subject).await?));
        };
        let container = self.now(&database.container).await?;
        self.run.phase(Phase::Facts, container.name.clone(), None);
        self.run.monitor().step("facts");
        let again = Hint::volsnap(["check", &self.options.target.spelling()]);
        let facts = take(&*self.run.context.docker, &container, self.options.level).await;
        let Some(mut facts) = facts.map_err(|error| error.hint(again))? else {
            return Ok((None, Vec::new()));
        };
        let mut checked = match &subject.checks {
            Some(checks) => {
                run_checks(&*self.run.context.docker, &container, checks, Some(before), &mut facts).await
            }
            None => Vec::new(),
        };
        checked.extend(self.own_checks(subject).await?);
        Ok((Some(facts), checked))
    }

    /// Runs the checks that somebody has written for the containers that were restarted.
    async fn own_checks(&self, subject: &Subject) -> Result<Vec<Checked>> {
        let mut checked = Vec::new();
        for container in subject.hold.all() {
            checked.extend(self.run.context.own_check(&self.now(&container).await?).await?);
        }
        Ok(checked)
    }

    /// Returns a container as it is now, even if it was made anew.
    async fn now(&self, container: &Container) -> Result<Container> {
        let recorded = crate::service::identity::ContainerIdentity::of(container);
        let containers =
            self.run.context.docker.containers().await.context(|| "list containers".to_owned())?;
        let found = crate::service::identity::find_recreated(&recorded, &containers).cloned();
        found.ok_or_else(|| {
            Error::failed(format!("container {} is gone", container.name)).hint(somebody_at_work())
        })
    }

    async fn report(
        &self,
        subject: &Subject,
        outcome: Outcome,
        moved: Vec<Difference>,
        after: Option<Facts>,
        checks: Vec<Checked>,
    ) -> Result<RestartReport> {
        let Outcome { taken, shutdown, downtime_ms, before } = outcome;
        let container = subject.database.as_ref().map(|database| database.container.name.clone());
        let snapshot = match &taken {
            Some(taken) => Some(taken.clone()),
            None => latest(&self.options.repository, &subject.source).await,
        };
        let snapshot = snapshot.as_ref().map(Snapshot::name);
        let context = ComparisonContext {
            container: container.as_deref(),
            snapshot: snapshot.as_deref(),
            unclean: &shutdown.reasons,
            ..ComparisonContext::default()
        };
        let mut comparison = match (&before, &after) {
            (Some(before), Some(after)) => compare(before, after, &context),
            // What the files say of the shutdown holds all the same.
            _ => {
                let nothing = Facts::new("", FactsLevel::None, self.run.started);
                compare(&nothing, &nothing, &context)
            }
        };
        let mut unread = after.as_ref().map(Facts::unread).unwrap_or_default();
        if self.options.level != FactsLevel::None {
            unread.extend(self.unasked(subject, after.is_some() || !checks.is_empty())?);
        }
        comparison.differences.splice(0..0, moved);
        let ok = comparison.ok() && checks.iter().all(|check| check.ok);
        let report = RestartReport {
            ok,
            title: subject.source.title.clone(),
            containers: subject.plan.starts.clone(),
            downtime_ms,
            snapshot: taken.as_ref().map(Snapshot::name),
            shutdown: shutdown.inspection.as_ref().map(|inspection| inspection.state.clone()),
            clean: shutdown.inspection.as_ref().map(|_| shutdown.reasons.is_empty()),
            strict: comparison.strict,
            differences: comparison.differences,
            checks,
            level: self.options.level,
            before: before.as_ref().map(Facts::summary),
            now: after.as_ref().map(Facts::summary),
            unread,
        };
        if let (true, Some(after)) = (ok, after) {
            self.run.context.remember(&subject.engine.id, &subject.source, Some(after), None);
        }
        Ok(report)
    }

    /// Returns what was asked for and not looked at: data that is of no database that could be asked, and the user's
    /// checks of it. A check that somebody has written for the container is a look.
    fn unasked(&self, subject: &Subject, looked: bool) -> Result<Vec<String>> {
        let checks = self.options.checks.as_deref();
        let checks = super::check::unasked(&self.run.context, checks, &subject.source)?;
        let data = (!looked)
            .then(|| "whether the data is what it was: it is of no database that can be asked".to_owned());
        Ok(data.into_iter().chain(checks).collect())
    }
}

impl Aftermath for RestartRun<'_> {
    fn state(&self, all_back: bool) -> Option<String> {
        match &self.snapshot {
            Some(snapshot) => snapshot.state(all_back),
            None => match self.run.runs_again("stopped") {
                Some(runs) => all_back.then_some(runs),
                None => Some("nothing was stopped".to_owned()),
            },
        }
    }
}

/// Returns the containers to stop, in the order in which they are stopped.
fn stops(context: &Context, source: &Source) -> Result<Vec<Container>> {
    let users: Vec<_> = source.users.iter().filter(|user| user.is_to_be_held()).cloned().collect();
    let stops: Vec<Container> = order::stop_order(&users).into_iter().cloned().collect();
    stops.iter().try_for_each(refuse_what_cannot_be_stopped)?;
    if stops.is_empty() {
        let start = match source.users.first() {
            // It is for an orchestrator to start what is its own.
            Some(user) if Orchestrator::of(&user.container).is_some() => Hint::docker(["service", "ls"]),
            Some(user) => start_of(context, &user.container.name),
            None => Hint::docker(["ps", "--all"]),
        };
        return Err(Error::failed(format!("nothing that uses {} runs", source.title)).hint(start));
    }
    Ok(stops)
}

/// Returns the running database of a source.
fn database_of(source: &Source) -> Option<Database> {
    let container = source.database().filter(|container| container.state.running)?;
    Some(Database { container: container.clone(), files: DatabaseFiles::of(source, container)? })
}

/// Returns the place of what is mounted.
fn lies(mount: &Mount) -> String {
    match &mount.volume {
        Some(volume) => format!("volume {volume}"),
        None => mount.source.display().to_string(),
    }
}
