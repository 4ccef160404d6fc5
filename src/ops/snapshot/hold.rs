//! Holding the users still, and having them back.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Hold, Preparation, Run};
use crate::database;
use crate::docker::{Container, DockerErrorKind, Grace};
use crate::error::{Context as _, Error, Result};
use crate::monitor::{Event, Phase};
use crate::saga::restart::StoppedContainer;
use crate::saga::{Compensation, Saga, When};
use crate::target;

impl Run<'_> {
    /// Stops the users. What starts them again is in the journal before the first one is asked to stop; the
    /// guard has watched from the begin.
    pub(super) async fn hold(&self, saga: &mut Saga, prepared: &Preparation) -> Result<Hold> {
        if prepared.stops.is_empty() {
            return Ok(Hold { start: None, starts: String::new(), held: Utc::now() });
        }
        for container in &prepared.stops {
            self.refuse_restarted(container).await?;
        }
        let containers = prepared
            .stops
            .iter()
            .rev()
            .map(|container| StoppedContainer::of(container, database::profile_of(container).is_some()))
            .collect();
        let start = saga
            .register(When::Always, Compensation::StartContainers { containers })
            .doing(|| "write the journal".to_owned())?;
        self.phase(Phase::Stop, prepared.plan.stops.join(", "), None);
        self.monitor().event(Event::Held);
        let held = Utc::now();
        self.clock.held();
        for container in &prepared.stops {
            self.stop(container).await?;
        }
        Ok(Hold { start: Some(start), starts: prepared.plan.starts.join(", "), held })
    }

    /// Refuses a container that is not in the run it was prepared in. The journal tells by that run whether
    /// somebody has started the container again, or whether our stop may still reach it.
    async fn refuse_restarted(&self, container: &Container) -> Result<()> {
        let looked = self.host.docker.container(&container.id).await;
        let now = looked.doing(|| format!("look at container {}", container.name))?;
        if now.is_some_and(|now| now.state.running && now.state.started_at == container.state.started_at) {
            return Ok(());
        }
        Err(Error::failed(format!(
            "container {} was stopped or started by somebody while the snapshot was prepared",
            container.name
        ))
        .hint(format!("volsnap snapshot {}", self.options.target.quoted())))
    }

    async fn stop(&self, container: &Container) -> Result<()> {
        self.monitor().step("stop-container");
        let docker = &*self.host.docker;
        let profile = database::profile_of(container);
        let (signal, grace, wait) = match profile {
            Some(profile) => (
                Some(profile.stop_signal()),
                Grace::Unlimited,
                self.options.stop_timeout.unwrap_or_else(|| profile.stop_timeout()),
            ),
            None => (None, Grace::Own, self.options.stop_timeout.unwrap_or(Duration::from_secs(600))),
        };
        docker.stop(&container.id, signal, grace, wait).await.map_err(|error| match error.kind {
            DockerErrorKind::TimedOut => Error::failed(format!(
                "container {} had not stopped after {} s",
                container.name,
                wait.as_secs()
            ))
            .because(error)
            .hint(format!("docker logs --tail 20 {}", target::shell_quote(&container.name))),
            _ => Error::failed(format!("stop container {}", container.name)).because(error),
        })
    }

    pub(super) async fn release(&self, saga: &mut Saga, hold: &Hold) -> Result<DateTime<Utc>> {
        let Some(start) = hold.start else { return Ok(Utc::now()) };
        self.phase(Phase::Start, hold.starts.clone(), None);
        saga.settle(start, self.monitor())
            .await
            .map_err(|error| Error::failed("start again what was stopped").because(error))?;
        let downtime = self.clock.released();
        self.monitor().event(Event::Released { downtime });
        Ok(Utc::now())
    }
}
