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

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::run::Run;
use crate::database;
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Event, Phase};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::labels::{LABEL_HOLDS, LABEL_RUN};
use crate::model::location::MountSource;
use crate::saga::{Terms, UndoId, When};
use crate::selector::inventory::Place;
use crate::service::ServiceError;
use crate::service::freeze::{PausedContainer, freeze_all};
use crate::service::newcomer::HeldData;
use crate::service::ready::await_ready;
use crate::service::start::{StoppedContainer, start_once};
use crate::service::stop::{stop, stop_limit};
use crate::undo::{Saga, Undo};

/// How long freezing may take.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long a database may take to answer after it was frozen.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

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
        self.containers.is_empty()
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
        self.names(HoldMethod::Freeze)
    }

    /// Returns the names of those to start again, in that order.
    pub(super) fn starts(&self) -> Vec<String> {
        self.stops().into_iter().rev().collect()
    }

    fn names(&self, method: HoldMethod) -> Vec<String> {
        let names = self.containers.iter().map(|container| container.name.clone());
        names.filter(|_| self.method == method).collect()
    }

    /// Returns those to stop, as the journal has them, in the order in which they are started.
    fn stopped(&self, data: Option<&HeldData>) -> Vec<StoppedContainer> {
        let stopped = self.containers.iter().rev().map(|container| StoppedContainer {
            answered: !self.mute.contains(&container.id),
            data: data.filter(|data| data.is_written_by(container)).cloned(),
            ..StoppedContainer::of(container)
        });
        stopped.collect()
    }
}

/// Users that are held; the journal has what brings them back.
#[derive(Debug)]
pub(super) struct Held {
    plan: HoldPlan,
    back: Option<UndoId>,
    /// Those that are stopped, in the order in which they are started.
    pub(super) stopped: Vec<StoppedContainer>,
    /// When the hold began.
    pub(super) at: DateTime<Utc>,
}

impl Run {
    /// Stops or freezes those to hold. `again` is the command to type if somebody has stopped or started one of them
    /// since the plan was made.
    ///
    /// # Errors
    /// When one cannot be held; the run's end puts back those that are held already.
    pub(super) async fn hold(&self, saga: &mut Saga, plan: &HoldPlan, again: Hint) -> Result<Held> {
        let mut held =
            Held { plan: plan.clone(), back: None, stopped: Vec::new(), at: self.context.clock.now() };
        if plan.is_empty() {
            return Ok(held);
        }
        for container in &plan.containers {
            self.context.refuse_restarted(container, again.clone()).await?;
        }
        let containers = self.context.docker.containers().await.context(|| "list containers".to_owned())?;
        refuse_held_elsewhere(plan, &self.id, &containers)?;
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
        held.back = Some(saga.register(When::Always, undo).context(|| "write the journal".to_owned())?);
        held.at = self.goes_away(plan);
        if plan.freezes() {
            self.freeze(plan).await?;
        } else {
            self.stop(plan).await?;
        }
        let away = self.timer.held_at().map_or(Duration::ZERO, |since| since.elapsed());
        let left = plan.max_downtime.map(|limit| limit.saturating_sub(away));
        self.lease(Terms::of_hold(plan.expected, left));
        Ok(held)
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

    /// Marks the moment from which the service is away, and returns it.
    fn goes_away(&self, plan: &HoldPlan) -> DateTime<Utc> {
        let phase = if plan.freezes() { Phase::Freeze } else { Phase::Stop };
        self.phase(phase, [plan.stops(), plan.frozen()].concat().join(", "), None);
        self.monitor().event(Event::Held);
        self.timer.held();
        let limits = plan.containers.iter().map(|container| match plan.method {
            HoldMethod::Stop => stop_limit(container, plan.stop_timeout),
            HoldMethod::Freeze => FREEZE_LIMIT,
        });
        self.lease(Terms::of_stop(limits.sum(), plan.max_downtime));
        self.context.clock.now()
    }

    async fn stop(&self, plan: &HoldPlan) -> Result<()> {
        for container in &plan.containers {
            stop(&*self.context.docker, container, plan.stop_timeout, self.monitor()).await.map_err(
                |error| match error {
                    ServiceError::NotStopped { .. } => {
                        Error::failed(error.to_string()).with_source(error).hint(Hint::logs(&container.name))
                    }
                    _ => Error::failed(format!("stop container {}", container.name)).with_source(error),
                },
            )?;
        }
        Ok(())
    }

    async fn freeze(&self, plan: &HoldPlan) -> Result<()> {
        let frozen = freeze_all(&*self.context.docker, &plan.containers, FREEZE_LIMIT, self.monitor()).await;
        frozen.map_err(|error| match error {
            ServiceError::NotFrozen { .. } => Error::failed(error.to_string()),
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
        if let Some(container) = plan.containers.iter().find(is_held) {
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
    /// Returns those that are held, as they were before.
    pub(super) fn containers(&self) -> &[Container] {
        &self.plan.containers
    }

    /// Returns whether they are frozen.
    pub(super) fn is_frozen(&self) -> bool {
        self.plan.freezes()
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
        let what = if frozen { "let go on what was frozen" } else { "start again what was stopped" };
        saga.undo_now(back, run.monitor()).await.map_err(|error| Error::failed(what).with_source(error))?;
        // What was frozen goes on where it was, and can answer from here on; whether it does is asked afterwards.
        let (downtime, released) = (run.timer.released(), run.context.clock.now());
        run.end_lease();
        if frozen {
            self.ask_frozen(run).await?;
        }
        run.monitor().event(Event::Released { downtime });
        Ok(released)
    }

    /// Asks the databases that were frozen whether they answer.
    async fn ask_frozen(&self, run: &Run) -> Result<()> {
        for container in self.plan.containers.iter().filter(|one| database::of(one).is_some()) {
            let deadline = Instant::now() + ANSWER_LIMIT;
            await_ready(&*run.context.docker, container, deadline, run.monitor()).await.map_err(|error| {
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
    pub(super) async fn start_once(&self, run: &Run, limit: Duration, what: &str) -> Result<DateTime<Utc>> {
        if self.stopped.is_empty() {
            return Ok(run.context.clock.now());
        }
        run.phase(Phase::Start, self.plan.starts().join(", "), None);
        // Recovery may take hours, and meanwhile shows nothing but that the container runs.
        run.lease(Terms::of_release(self.plan.max_downtime));
        let deadline = Instant::now() + limit;
        start_once(&*run.context.docker, &self.stopped, deadline, run.monitor())
            .await
            .context(|| what.to_owned())?;
        run.note_started(&self.stopped);
        let downtime = run.timer.released();
        run.end_lease();
        run.monitor().event(Event::Released { downtime });
        Ok(run.context.clock.now())
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
    pub(super) fn dismiss(&self, saga: &mut Saga) {
        if let Some(back) = self.back {
            saga.dismiss(back);
        }
    }
}
