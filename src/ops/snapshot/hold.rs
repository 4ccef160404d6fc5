//! Holding the users still, and having them back.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{Hold, Preparation, Run};
use crate::database;
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Event, Phase};
use crate::model::hint::Hint;
use crate::model::manifest::Quiesce;
use crate::model::source::Source;
use crate::saga::When;
use crate::service::start::{StoppedContainer, await_ready};
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::unfreeze::PausedContainer;

/// How long freezing may take: a process in the kernel's hands is not frozen before it has left them.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long a database that goes on may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The users that will be held.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    /// Those to be stopped, in the order of their stop.
    pub(super) stops: Vec<Container>,
    /// Those to be frozen, all together.
    pub(super) pauses: Vec<Container>,
}

impl Holds {
    /// Returns whether nobody is to be held.
    pub(super) fn is_empty(&self) -> bool {
        self.stops.is_empty() && self.pauses.is_empty()
    }
}

impl Preparation {
    /// Takes over who will be held.
    pub(super) fn take_users(&mut self, holds: Holds) {
        let names = |containers: &[Container]| -> Vec<String> {
            containers.iter().map(|container| container.name.clone()).collect()
        };
        self.plan.stops = names(&holds.stops);
        self.plan.starts = self.plan.stops.iter().rev().cloned().collect();
        self.plan.freezes = names(&holds.pauses);
        self.holds = holds;
    }
}

impl Run<'_> {
    /// Stops or freezes the users. What brings them back is in the journal before the first one is asked; the
    /// guard has watched from the begin.
    pub(super) async fn hold(&self, saga: &mut Saga, prepared: &Preparation) -> Result<Hold> {
        if prepared.holds.is_empty() {
            return Ok(Hold { back: None, held: Utc::now() });
        }
        let again = Hint::volsnap(["snapshot", &self.options.target.spelling()]);
        for container in prepared.holds.stops.iter().chain(&prepared.holds.pauses) {
            self.context.refuse_restarted(container, again.clone()).await?;
        }
        if prepared.holds.pauses.is_empty() {
            self.stop_users(saga, prepared).await
        } else {
            self.freeze_users(saga, prepared).await
        }
    }

    async fn stop_users(&self, saga: &mut Saga, prepared: &Preparation) -> Result<Hold> {
        let stops = &prepared.holds.stops;
        let containers = stops
            .iter()
            .rev()
            .map(|container| StoppedContainer::of(container, database::profile_of(container).is_some()))
            .collect();
        let back = saga
            .register(When::Always, Undo::StartContainers { containers })
            .context(|| "write the journal".to_owned())?;
        let held = self.begin_hold(Phase::Stop, prepared.plan.stops.join(", "));
        for container in stops {
            self.context.stop(container, self.options.stop_timeout).await?;
        }
        Ok(Hold { back: Some(back), held })
    }

    /// Freezes all users together: what one writes after another is frozen would not fit together.
    async fn freeze_users(&self, saga: &mut Saga, prepared: &Preparation) -> Result<Hold> {
        let pauses = &prepared.holds.pauses;
        let containers = pauses.iter().map(PausedContainer::of).collect();
        let back = saga
            .register(When::Always, Undo::Unpause { containers })
            .context(|| "write the journal".to_owned())?;
        let held = self.begin_hold(Phase::Freeze, prepared.plan.freezes.join(", "));
        self.monitor().step("freeze-containers");
        let docker = &*self.context.docker;
        let freezing = join_all(pauses.iter().map(|container| docker.pause(&container.id)));
        let frozen = timeout(FREEZE_LIMIT, freezing).await.map_err(|_| {
            Error::failed(format!(
                "{} could not be frozen within {} s",
                prepared.plan.freezes.join(", "),
                FREEZE_LIMIT.as_secs()
            ))
            .hint(Hint::volsnap([
                "snapshot",
                &self.options.target.spelling(),
                "--quiesce",
                "stop",
            ]))
        })?;
        for (container, frozen) in pauses.iter().zip(frozen) {
            frozen.context(|| format!("freeze container {}", container.name))?;
        }
        Ok(Hold { back: Some(back), held })
    }

    /// The moment from which the service is away.
    fn begin_hold(&self, phase: Phase, names: String) -> DateTime<Utc> {
        self.phase(phase, names, None);
        self.monitor().event(Event::Held);
        let held = Utc::now();
        self.clock.held();
        held
    }

    /// Has the users back, and returns when they were.
    pub(super) async fn release(
        &self,
        saga: &mut Saga,
        prepared: &Preparation,
        hold: &Hold,
    ) -> Result<DateTime<Utc>> {
        let Some(back) = hold.back else { return Ok(Utc::now()) };
        let frozen = !prepared.holds.pauses.is_empty();
        let (phase, names) = if frozen {
            (Phase::Unfreeze, &prepared.plan.freezes)
        } else {
            (Phase::Start, &prepared.plan.starts)
        };
        self.phase(phase, names.join(", "), None);
        let what = if frozen { "let go on what was frozen" } else { "start again what was stopped" };
        saga.undo_now(back, self.monitor()).await.map_err(|error| Error::failed(what).with_source(error))?;
        // Who was frozen goes on where it was, and answers from here on: that is asked afterwards.
        let (downtime, released) = (self.clock.released(), Utc::now());
        if frozen {
            self.ask_frozen(&prepared.source).await?;
        }
        self.monitor().event(Event::Released { downtime });
        Ok(released)
    }

    /// Asks the database that was frozen whether it answers.
    async fn ask_frozen(&self, source: &Source) -> Result<()> {
        let is_up = |container: &&Container| container.state.running && !container.state.paused;
        let Some(container) = source.database().filter(is_up) else { return Ok(()) };
        await_ready(&*self.context.docker, container, Instant::now() + ANSWER_LIMIT, self.monitor())
            .await
            .map_err(|error| {
                Error::failed(format!("container {} goes on and does not answer", container.name))
                    .with_source(error)
                    .hint(Hint::logs(&container.name))
            })
    }

    /// Returns how long the service may be away at most.
    pub(super) fn max_downtime(&self) -> Option<Duration> {
        // Whoever has frozen something has not been told, and waits.
        let frozen = (self.options.quiesce == Quiesce::Pause).then_some(Duration::from_secs(30));
        self.options.max_downtime.or(frozen)
    }
}
