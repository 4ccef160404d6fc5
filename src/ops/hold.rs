//! Holding the users of a source, and bringing them back: written once, for every verb.
//!
//! The journal and the guard's memory have what brings them back before the first one is stopped or frozen. From then
//! until they are back, the guard has a [lease](crate::saga::Lease) on the run: if a command hangs or is stopped, the
//! guard ends it wherever it is, and the service comes back. The lease does not limit how long containers may take to
//! stop, or a database to answer: meanwhile the engine is asked, and its answers count as progress.
//!
//! Once they answer, there is no lease. What comes after, such as publishing a snapshot or letting a restore or a
//! migration stay, holds nothing: if a command hangs there, the service is up, on data that is all old or all new, and
//! once somebody ends the command, its journal is finished. Putting things back has no deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};

use super::Context;
use super::run::Run;
use crate::database::{self, stores};
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Event, Monitor, Notice, Phase};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::labels::{LABEL_HOLDS, LABEL_KILL, LABEL_RUN};
use crate::model::location::MountSource;
use crate::model::own_commands::OwnCommands;
use crate::model::source::Source;
use crate::saga::{Terms, UndoId, When};
use crate::selector::inventory::Place;
use crate::service::ServiceError;
use crate::service::freeze::{PausedContainer, freeze_all};
use crate::service::health::{FailedHealthcheck, failing};
use crate::service::identity::ContainerIdentity;
use crate::service::newcomer::HeldData;
use crate::service::own_command::{OwedCommand, run_own_command};
use crate::service::ready::{await_ready, can_be_asked};
use crate::service::start::{StoppedContainer, start_once};
use crate::service::stop::{Manner, is_deaf, may_be_killed, stop};
use crate::service::vitals::Vitals;
use crate::undo::{Saga, Undo};

/// How long freezing may take.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long a database may take to answer after it was frozen.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// After how long nothing but its server runs in a container: its entrypoint has done its work.
pub(super) const SETTLES: Duration = Duration::from_secs(60);
/// How a container ends that is killed.
const KILLED: i64 = 137;
/// How often an entrypoint is looked at that is at work.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// How writers are held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum HoldMethod {
    /// They are stopped, one after the other.
    #[default]
    Stop,
    /// They are frozen, all together.
    Freeze,
}

/// Who will be held, how, and for how long. Only one run at a time holds a container, whatever source it is held for: a
/// second one ends with [`ErrorKind::Busy`](crate::ErrorKind::Busy).
#[derive(Debug, Clone, Default)]
pub(super) struct HoldPlan {
    pub(super) method: HoldMethod,
    /// The data that they are held for.
    pub(super) location: Option<MountSource>,
    /// In the order in which they are stopped.
    pub(super) containers: Vec<Container>,
    /// Those that do not answer even before the hold: they are started again, and not waited for.
    pub(super) mute: Vec<String>,
    /// Those to freeze although the others are stopped: they cannot stop by themselves.
    pub(super) frozen_too: Vec<Container>,
    /// The names of those that may be killed if they do not stop in time.
    pub(super) kills: Vec<String>,
    /// Whether the data looks like that of a store, whoever uses it.
    pub(super) is_store: bool,
    /// What is seen of those that nobody can ask, by their ids.
    pub(super) vitals: BTreeMap<String, Vitals>,
    /// What their owners want to be run, by their ids.
    pub(super) own: BTreeMap<String, OwnCommands>,
    /// How the healthchecks fail of those that run in spite of it, or why they cannot be run, by their ids.
    pub(super) unhealthy: BTreeMap<String, FailedHealthcheck>,
    /// How long one may take to stop; `None` for the time that suits it.
    pub(super) stop_timeout: Option<Duration>,
    /// How long the hold is expected to take.
    pub(super) expected: Duration,
    /// How long it may take at most; `None` for what the lease allows.
    pub(super) max_downtime: Option<Duration>,
}

impl HoldPlan {
    /// Returns whether there is nobody to hold.
    pub(super) fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.frozen_too.is_empty()
    }

    /// Returns everybody who is held.
    pub(super) fn all(&self) -> Vec<Container> {
        [self.containers.as_slice(), self.frozen_too.as_slice()].concat()
    }

    /// Returns whether they are frozen.
    pub(super) fn freezes(&self) -> bool {
        self.method == HoldMethod::Freeze
    }

    /// Returns the names of those to stop, in that order.
    pub(super) fn stops(&self) -> Vec<String> {
        self.names(HoldMethod::Stop)
    }

    /// Returns the names of those to freeze.
    pub(super) fn frozen(&self) -> Vec<String> {
        let too = self.frozen_too.iter().map(|container| container.name.clone());
        self.names(HoldMethod::Freeze).into_iter().chain(too).collect()
    }

    /// Returns the names of those to start again, in that order.
    pub(super) fn starts(&self) -> Vec<String> {
        self.stops().into_iter().rev().collect()
    }

    fn names(&self, method: HoldMethod) -> Vec<String> {
        let names = self.containers.iter().map(|container| container.name.clone());
        names.filter(|_| self.method == method).collect()
    }

    /// Returns what will be run in them before and after the hold, for a person.
    pub(super) fn own_commands(&self) -> Vec<String> {
        let all = self.all();
        let said = all.iter().filter_map(|container| {
            let own = self.own.get(&container.id)?.around_a_hold();
            Some(own.into_iter().map(|said| format!("{}: {said}", container.name)))
        });
        said.flatten().collect()
    }

    fn has_before_hold(&self) -> bool {
        self.own.values().any(|own| own.before_hold.is_some())
    }

    /// Looks for what their owners want to be run in them.
    ///
    /// # Errors
    /// When an owner's file cannot be understood or believed.
    pub(super) fn with_own_commands(mut self, context: &Context) -> Result<Self> {
        for container in self.all() {
            self.own.insert(container.id.clone(), context.own_commands(&container)?);
        }
        Ok(self)
    }

    /// Asks those that run what their owners want to be asked after a start: what says no now says nothing then.
    async fn ask_whether_ready(&self, context: &Context) -> Result<()> {
        let runs = |one: &&Container| one.state.running && !one.state.restarting && !one.state.paused;
        for container in self.containers.iter().filter(runs).filter(|one| !self.mute.contains(&one.id)) {
            let Some(ready) = self.own.get(&container.id).and_then(|own| own.ready.as_ref()) else {
                continue;
            };
            run_own_command(&*context.docker, &container.id, &container.name, ready).await.map_err(
                |error| {
                    Error::failed(format!(
                        "container {} is not ready, by its owner's own words",
                        container.name
                    ))
                    .with_source(error)
                    .hint(Hint::advice("mend `ready` in volsnap.toml, or the service"))
                },
            )?;
        }
        Ok(())
    }

    /// Looks at each container that is stopped, as long as it runs, and for what its owner wants to be run in it.
    ///
    /// # Errors
    /// When the owner's file cannot be understood or believed.
    pub(super) async fn look(mut self, context: &Context) -> Result<Self> {
        self = self.with_own_commands(context)?;
        if !self.freezes() {
            self.ask_whether_ready(context).await?;
        }
        if self.freezes() {
            return Ok(self);
        }
        for container in self.containers.iter().filter(|container| database::of(container).is_none()) {
            if let Some(vitals) = look_at(context, container).await {
                self.vitals.insert(container.id.clone(), vitals);
            }
        }
        for container in self.containers.iter().filter(|one| one.state.running && !one.state.restarting) {
            if let Some(failed) = failing(&*context.docker, container).await {
                self.unhealthy.insert(container.id.clone(), failed);
            }
        }
        Ok(self)
    }

    /// Looks only at whether each container that is stopped can stop by itself: runs nothing in it, and waits for nothing.
    ///
    /// # Errors
    /// When the owner's file cannot be understood or believed.
    pub(super) async fn glance(mut self, context: &Context) -> Result<Self> {
        self = self.with_own_commands(context)?;
        for container in self.containers.iter().filter(|container| database::of(container).is_none()) {
            if let Some(vitals) = Vitals::of(&*context.docker, container).await {
                self.vitals.insert(container.id.clone(), vitals);
            }
        }
        Ok(self)
    }

    /// Says whose healthcheck fails as it is, or cannot be run, and who may not stop by itself, as far as its last run
    /// tells.
    pub(super) fn warn_of_the_unhealthy(&self, monitor: &dyn Monitor) {
        let unseen = self.containers.iter().filter(|one| !self.vitals.contains_key(&one.id));
        for container in unseen.filter(|one| was_killed(one) && !self.may_kill(one) && !self.freezes()) {
            let name = &container.name;
            let said = format!(
                "container {name} is between two starts, and its last run was killed (exit code {KILLED}): whether it \
                 acts on its stop signal cannot be seen"
            );
            let kill = Hint::again(["--kill", name]).why("has it killed if it does not stop in time");
            monitor.warning(Notice::from(said).hint(kill));
        }
        for failed in self.unhealthy.values() {
            monitor.warning(format!("{failed}, and is not waited for after the stop either"));
        }
    }

    /// Returns how one is stopped.
    fn manner(&self, container: &Container) -> Manner {
        let is_store = self.is_store || stores::of(container).is_some();
        Manner::of(container, is_store, self.may_kill(container), self.stop_timeout)
    }

    fn may_kill(&self, container: &Container) -> bool {
        may_be_killed(container) || self.kills.contains(&container.name)
    }

    /// Returns whether one cannot stop by itself, as far as can be seen, and nobody may kill it.
    fn is_stuck(&self, container: &Container) -> bool {
        let vitals = self.vitals.get(&container.id);
        vitals.is_some_and(|vitals| is_deaf(container, vitals)) && !self.may_kill(container)
    }

    /// Returns whether one was seen to have done with its entrypoint.
    pub(super) fn shows_server(&self, container: &Container) -> bool {
        self.vitals.get(&container.id).is_some_and(|vitals| !vitals.may_be_entrypoint(container))
    }

    /// Freezes those that cannot stop by themselves, and stops the others.
    ///
    /// # Errors
    /// When one must be stopped that cannot: it would be without its network afterwards.
    pub(super) fn freezing_the_deaf(mut self, source: &Source) -> Result<Self> {
        if self.freezes() {
            return Ok(self);
        }
        let loses_network = |container: &Container| {
            source.users.iter().any(|user| user.container.id == container.id && user.as_sharer)
        };
        let stuck: Vec<_> = self.containers.iter().filter(|one| self.is_stuck(one)).cloned().collect();
        if let Some(container) = stuck.iter().find(|container| loses_network(container)) {
            return Err(cannot_stop(container));
        }
        self.containers.retain(|container| !stuck.contains(container));
        self.frozen_too = stuck;
        Ok(self)
    }

    /// Refuses those that cannot stop by themselves, if they must be stopped.
    ///
    /// # Errors
    /// When there is one.
    pub(super) fn refuse_the_deaf(&self) -> Result<()> {
        let stuck = self.containers.iter().find(|container| self.is_stuck(container));
        stuck.map_or(Ok(()), |container| Err(cannot_stop(container)))
    }

    /// Returns whether the engine starts one again and again, which is nobody's doing.
    fn is_looping(&self, container: &Container) -> bool {
        self.mute.contains(&container.id) && is_restarted(container)
    }

    /// Returns those to stop, as the journal has them, in the order in which they are started.
    fn stopped(&self, data: Option<&HeldData>) -> Vec<StoppedContainer> {
        let stopped = self.containers.iter().rev().map(|container| StoppedContainer {
            answered: !self.mute.contains(&container.id),
            data: data.filter(|data| data.is_written_by(container)).cloned(),
            vitals: self.vitals.get(&container.id).cloned(),
            grace_seconds: self.manner(container).grace_seconds(),
            is_store: self.is_store || stores::of(container).is_some(),
            unhealthy: self.unhealthy.contains_key(&container.id),
            ready: self.own.get(&container.id).and_then(|own| own.ready.clone()),
            ..StoppedContainer::of(container)
        });
        stopped.collect()
    }
}

/// Looks at a container once its entrypoint has done its work: until then it is another process, and may hear nothing.
async fn look_at(context: &Context, container: &Container) -> Option<Vitals> {
    let begun = Instant::now();
    loop {
        let vitals = Vitals::of(&*context.docker, container).await?;
        let is_settled = container.state.has_run_for(SETTLES, context.clock.now());
        if is_settled || begun.elapsed() >= SETTLES || !vitals.may_be_entrypoint(container) {
            return Some(vitals);
        }
        context.monitor.goes_on();
        sleep(LOOK_AGAIN).await;
    }
}

/// Returns whether a container is between two starts, and was killed at the end of the last one, not for memory. That is
/// what a stop does to one that does not act on its signal; but others kill, too.
fn was_killed(container: &Container) -> bool {
    let state = &container.state;
    database::of(container).is_none() && state.restarting && state.exit_code == KILLED && !state.oom_killed
}

/// Returns whether the engine starts a container again when it ends.
pub(super) fn is_restarted(container: &Container) -> bool {
    !matches!(container.restart_policy.as_str(), "" | "no")
}

fn cannot_stop(container: &Container) -> Error {
    let name = &container.name;
    Error::failed(format!(
        "container {name} cannot stop by itself: its first process does nothing at its stop signal ({})",
        container.stop_signal.as_deref().unwrap_or("SIGTERM")
    ))
    .hint(Hint::again(["--kill", name]).why("has it killed once its time to stop is over"))
    .or(Hint::advice(format!(
        "run it with an init (docker run --init, init: true), or label it {LABEL_KILL}=true"
    )))
}

/// Users that are held; the journal has what brings them back.
#[derive(Debug)]
pub(super) struct Held {
    plan: HoldPlan,
    back: Option<UndoId>,
    /// What lets those go on that are frozen beside those that are stopped.
    thaw: Option<UndoId>,
    /// What their owners want to be run once they are back.
    owed: Vec<UndoId>,
    /// Those that are stopped, in the order in which they are started.
    pub(super) stopped: Vec<StoppedContainer>,
    /// When the hold began.
    pub(super) at: DateTime<Utc>,
}

/// What was stopped runs on other data.
pub(super) struct Started {
    /// When it answered.
    pub(super) at: DateTime<Utc>,
    /// The healthchecks that fail on that data, although the databases answer, and passed before.
    pub(super) unhealthy: Vec<FailedHealthcheck>,
}

impl Run {
    /// Stops or freezes those to hold.
    ///
    /// # Errors
    /// When one cannot be held, or somebody has stopped or started one since the plan was made; the run's end puts back
    /// those that are held already.
    pub(super) async fn hold(&self, saga: &mut Saga, plan: &HoldPlan) -> Result<Held> {
        let mut held = Held {
            plan: plan.clone(),
            back: None,
            thaw: None,
            owed: Vec::new(),
            stopped: Vec::new(),
            at: self.context.clock.now(),
        };
        if plan.is_empty() {
            return Ok(held);
        }
        for container in plan.all().iter().filter(|container| !plan.is_looping(container)) {
            self.context.refuse_restarted(container).await?;
        }
        let containers = self.context.docker.containers().await.context(|| "list containers".to_owned())?;
        refuse_held_elsewhere(plan, &self.id, &containers)?;
        held.owed = self.run_before_hold(saga, plan).await?;
        let mut containers = containers;
        if !held.owed.is_empty() || plan.has_before_hold() {
            // That took its time.
            for container in plan.all().iter().filter(|container| !plan.is_looping(container)) {
                self.context.refuse_restarted(container).await?;
            }
            containers = self.context.docker.containers().await.context(|| "list containers".to_owned())?;
        }
        let undo = if plan.freezes() {
            let containers = plan.containers.iter().map(PausedContainer::of).collect();
            Undo::Unpause { containers }
        } else {
            let data = self.held_data(plan, &containers).await?;
            held.stopped = plan.stopped(data.as_ref());
            self.note_stopped(&held.stopped);
            self.note_started(&held.stopped);
            Undo::StartContainers { containers: held.stopped.clone() }
        };
        let journal = || "write the journal".to_owned();
        held.back = Some(saga.register(When::Always, undo).context(journal)?);
        if !plan.frozen_too.is_empty() {
            let containers = plan.frozen_too.iter().map(PausedContainer::of).collect();
            held.thaw = Some(saga.register(When::Always, Undo::Unpause { containers }).context(journal)?);
        }
        held.at = self.goes_away(plan);
        if plan.freezes() {
            self.freeze(plan, &plan.containers).await?;
        } else {
            self.stop(plan).await?;
            self.freeze(plan, &plan.frozen_too).await?;
            self.look_at_looping(&mut held).await?;
        }
        let away = self.timer.held_at().map_or(Duration::ZERO, |since| since.elapsed());
        let left = plan.max_downtime.map(|limit| limit.saturating_sub(away));
        self.lease(Terms::of_hold(plan.expected, left));
        Ok(held)
    }

    /// Runs what their owners want to be run before they are held, and returns what is owed to them afterwards: the
    /// journal has that first.
    async fn run_before_hold(&self, saga: &mut Saga, plan: &HoldPlan) -> Result<Vec<UndoId>> {
        let mut owed = Vec::new();
        for container in &plan.all() {
            let Some(own) = plan.own.get(&container.id) else { continue };
            if plan.mute.contains(&container.id) {
                // Nothing can be run in one that the engine starts again and again, and it is held to be mended.
                let has_any = own.before_hold.is_some() || own.after_release.is_some();
                if has_any {
                    self.monitor().warning(format!(
                        "{} does not answer as it is: the commands of its owner are not run",
                        container.name
                    ));
                }
                continue;
            }
            if let Some(command) = own.after_release.clone() {
                let container = ContainerIdentity::of(container);
                let undo = Undo::RunCommand { owed: OwedCommand { container, command } };
                let undo = saga.register(When::Always, undo).context(|| "write the journal".to_owned())?;
                owed.push(undo);
            }
            let Some(command) = &own.before_hold else { continue };
            self.monitor().step("before-hold");
            let docker = &*self.context.docker;
            run_own_command(docker, &container.id, &container.name, command).await.map_err(|error| {
                Error::failed("what is to be run before the service is held has failed").with_source(error)
            })?;
        }
        Ok(owed)
    }

    /// Returns where the data is that they are held for, and who is at work on it now: who comes later is new there.
    async fn held_data(&self, plan: &HoldPlan, containers: &[Container]) -> Result<Option<HeldData>> {
        let Some(location) = &plan.location else { return Ok(None) };
        let volumes = self.context.docker.volumes().await.context(|| "list volumes".to_owned())?;
        let place = Place::of(location, &volumes);
        let is_inside =
            |name: &String| place.path_to(&Place::of(&MountSource::Volume(name.clone()), &volumes)).is_some();
        let names = volumes.iter().map(|volume| volume.name.clone()).filter(is_inside).collect();
        Ok(Some(HeldData::of(names, place.paths().to_vec(), containers)))
    }

    /// Takes the run in which one was stopped that the engine started again and again for the one in which it was found:
    /// from here on, any other is somebody's doing.
    async fn look_at_looping(&self, held: &mut Held) -> Result<()> {
        let looping: Vec<_> = (0..held.plan.containers.len())
            .filter(|index| held.plan.is_looping(&held.plan.containers[*index]))
            .collect();
        for index in looping {
            let container = &mut held.plan.containers[index];
            let now = self.context.docker.container(&container.id).await;
            if let Some(now) = now.context(|| format!("look at container {}", container.name))? {
                container.state = now.state;
            }
        }
        Ok(())
    }

    /// Marks the moment from which the service is away, and returns it.
    fn goes_away(&self, plan: &HoldPlan) -> DateTime<Utc> {
        let phase = if plan.freezes() { Phase::Freeze } else { Phase::Stop };
        self.phase(phase, [plan.stops(), plan.frozen()].concat().join(", "), None);
        self.monitor().event(Event::Held);
        self.timer.held();
        let limits = plan.containers.iter().map(|container| match plan.method {
            HoldMethod::Stop => plan.manner(container).limit,
            HoldMethod::Freeze => FREEZE_LIMIT,
        });
        self.lease(Terms::of_stop(limits.sum(), plan.max_downtime));
        self.context.clock.now()
    }

    async fn stop(&self, plan: &HoldPlan) -> Result<()> {
        for container in &plan.containers {
            let stopped =
                stop(&*self.context.docker, container, plan.manner(container), self.monitor()).await;
            stopped.map_err(|error| match error {
                ServiceError::NotStopped { .. } => Error::failed(error.to_string())
                    .with_source(error)
                    .hint(Hint::logs(&container.name).why("what it is still doing"))
                    .or(Hint::docker(["start", &container.name]).why("should it end after all")),
                _ => Error::failed(format!("stop container {}", container.name)).with_source(error),
            })?;
        }
        Ok(())
    }

    async fn freeze(&self, plan: &HoldPlan, containers: &[Container]) -> Result<()> {
        if containers.is_empty() {
            return Ok(());
        }
        let frozen = freeze_all(&*self.context.docker, containers, FREEZE_LIMIT, self.monitor()).await;
        frozen.map_err(|error| match error {
            ServiceError::NotFrozen { .. } if plan.freezes() => Error::failed(error.to_string())
                .hint(Hint::advice("the engine has not frozen it: --quiesce stop stops it instead")),
            ServiceError::NotFrozen { .. } => Error::failed(error.to_string()).hint(Hint::advice(
                "the engine has not frozen it: give it a first process that acts on its stop signal (`init: true`)",
            )),
            _ => Error::failed(format!("freeze {}", plan.frozen().join(", "))).with_source(error),
        })
    }
}

/// Refuses a container that another run holds, or is about to hold, for another source. Each run says on its helper what
/// it holds before it looks here: so of two that come at once, at least one sees the other.
fn refuse_held_elsewhere(plan: &HoldPlan, run: &SnapshotId, containers: &[Container]) -> Result<()> {
    let others = containers.iter().filter(|one| {
        one.state.running && one.labels.get(LABEL_RUN).is_some_and(|other| other != run.as_str())
    });
    for other in others {
        let held = other.labels.get(LABEL_HOLDS).map_or("", String::as_str);
        let is_held = |container: &&Container| held.split(' ').any(|name| name == container.name);
        if let Some(container) = plan.all().iter().find(is_held) {
            return Err(Error::busy(format!(
                "another volsnap run holds container {} (helper container {})",
                container.name, other.name
            ))
            .hint(Hint::volsnap(["recover", "--list"]).why("shows what runs, and what died")));
        }
    }
    Ok(())
}

impl Held {
    /// Returns those that are stopped, as they were before.
    pub(super) fn stopped_containers(&self) -> &[Container] {
        if self.plan.freezes() { &[] } else { &self.plan.containers }
    }

    /// Returns those that are frozen, as they were before.
    pub(super) fn frozen_containers(&self) -> &[Container] {
        if self.plan.freezes() { &self.plan.containers } else { &self.plan.frozen_too }
    }

    /// Returns whether each of them can be asked if it is back.
    fn can_be_asked(&self) -> bool {
        let healthcheck_fails = |one: &Container| self.plan.unhealthy.contains_key(&one.id);
        self.plan.all().iter().all(|one| can_be_asked(one, healthcheck_fails(one)))
    }

    /// Brings them back, and returns when they were.
    ///
    /// # Errors
    /// When one does not come back; the run's end tries again.
    pub(super) async fn release(&self, run: &Run, saga: &mut Saga) -> Result<DateTime<Utc>> {
        let Some(back) = self.back else { return Ok(run.context.clock.now()) };
        let frozen = self.plan.freezes();
        if frozen {
            run.phase(Phase::Unfreeze, self.plan.frozen().join(", "), None);
        } else {
            run.phase(Phase::Start, self.plan.starts().join(", "), None);
        }
        // This may take any time, as long as it goes on: if a run hangs here, its guard ends it and does the same.
        run.lease(Terms::of_release(self.plan.max_downtime));
        if let Some(thaw) = self.thaw {
            let what = "let go on what was frozen";
            let thawed = saga.undo_now(thaw, run.monitor()).await;
            thawed.map_err(|error| Error::failed(what).with_source(error))?;
        }
        let what = if frozen { "let go on what was frozen" } else { "start again what was stopped" };
        saga.undo_now(back, run.monitor()).await.map_err(|error| Error::failed(what).with_source(error))?;
        // What was frozen goes on where it was, and can answer from here on; whether it does is asked afterwards.
        let (downtime, released) = (run.timer.released(), run.context.clock.now());
        run.end_lease();
        if frozen {
            self.ask_frozen(run).await?;
        }
        run.monitor().event(Event::Released { downtime, answers: self.can_be_asked() });
        self.pay(run, saga).await;
        Ok(released)
    }

    /// Runs what their owners want to be run once they are back. What fails stays in the journal: the run's end tries it
    /// again, and says what it could not do.
    async fn pay(&self, run: &Run, saga: &mut Saga) {
        for owed in &self.owed {
            if let Err(error) = saga.undo_now(*owed, run.monitor()).await {
                run.monitor().warning(crate::model::error::chain(&error));
            }
        }
    }

    /// Asks the databases that were frozen whether they answer.
    async fn ask_frozen(&self, run: &Run) -> Result<()> {
        for container in self.plan.containers.iter().filter(|one| database::of(one).is_some()) {
            let deadline = Instant::now() + ANSWER_LIMIT;
            let answer = await_ready(&*run.context.docker, container, deadline, run.monitor()).await;
            answer.map_err(|error| {
                Error::failed(format!("container {} goes on and does not answer", container.name))
                    .with_source(error)
                    .hint(Hint::logs(&container.name))
            })?;
        }
        Ok(())
    }

    /// Starts what was stopped, once, on other data than it was stopped on: if something does not come up, that data is
    /// the reason. The journal keeps what brings everything back.
    ///
    /// # Errors
    /// When one ends, or does not answer within `limit`.
    pub(super) async fn start_once(&self, run: &Run, limit: Duration, what: &str) -> Result<Started> {
        let mut unhealthy = Vec::new();
        if !self.stopped.is_empty() {
            run.phase(Phase::Start, self.plan.starts().join(", "), None);
            // Recovery may take hours, and meanwhile shows nothing but that the container runs.
            run.lease(Terms::of_release(self.plan.max_downtime));
            let deadline = Instant::now() + limit;
            let started = start_once(&*run.context.docker, &self.stopped, deadline, run.monitor()).await;
            unhealthy = started.context(|| what.to_owned())?;
            run.note_started(&self.stopped);
            let downtime = run.timer.released();
            run.end_lease();
            let answers = self.can_be_asked() && unhealthy.iter().all(FailedHealthcheck::database_answers);
            run.monitor().event(Event::Released { downtime, answers });
        }
        Ok(Started { at: run.context.clock.now(), unhealthy })
    }

    /// Makes the journal start these from now on: containers that took the place of those that were stopped.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(super) fn update(&self, saga: &mut Saga) -> Result<()> {
        let Some(back) = self.back else { return Ok(()) };
        let undo = Undo::StartContainers { containers: self.stopped.clone() };
        saga.update(back, undo).context(|| "write the journal".to_owned())
    }

    /// From now on starts the container that was made in the place of a stopped one, not that one.
    pub(super) fn takes_place(&mut self, before: &str, made: String) {
        if let Some(stopped) = self.stopped.iter_mut().find(|stopped| stopped.identity.id == before) {
            stopped.identity.id = made;
        }
    }

    /// Ends the hold: what was held was started another way, and runs.
    pub(super) async fn dismiss(&self, run: &Run, saga: &mut Saga) {
        if let Some(back) = self.back {
            saga.dismiss(back);
        }
        self.pay(run, saga).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_cannot_be_seen_and_was_killed_may_not_stop_by_itself() {
        let between_two_starts = |exit_code, edit: fn(&mut Container)| {
            let mut container = Container::default();
            container.state.restarting = true;
            container.state.exit_code = exit_code;
            edit(&mut container);
            was_killed(&container)
        };
        assert!(between_two_starts(KILLED, |_| ()));
        assert!(!between_two_starts(1, |_| ()));
        assert!(!between_two_starts(KILLED, |one| one.state.oom_killed = true), "it wanted memory");
        assert!(!between_two_starts(KILLED, |one| one.state.restarting = false), "it can be seen");
        assert!(!between_two_starts(KILLED, |one| {
            one.image = "postgres:15".to_owned();
            one.command = vec!["docker-entrypoint.sh".to_owned(), "postgres".to_owned()];
        }));
    }
}
