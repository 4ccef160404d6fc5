//! Holding the users still, and having them back.

use chrono::{DateTime, Utc};

use super::{Hold, Preparation, Run};
use crate::database;
use crate::error::{Context as _, Error, Result};
use crate::monitor::{Event, Phase};
use crate::saga::restart::StoppedContainer;
use crate::saga::{Compensation, Saga, When};

impl Run<'_> {
    /// Stops the users. What starts them again is in the journal before the first one is asked to stop; the
    /// guard has watched from the begin.
    pub(super) async fn hold(&self, saga: &mut Saga, prepared: &Preparation) -> Result<Hold> {
        if prepared.stops.is_empty() {
            return Ok(Hold { start: None, starts: String::new(), held: Utc::now() });
        }
        let again = format!("volsnap snapshot {}", self.options.target.quoted());
        for container in &prepared.stops {
            self.host.refuse_restarted(container, &again).await?;
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
            self.host.stop(container, self.options.stop_timeout).await?;
        }
        Ok(Hold { start: Some(start), starts: prepared.plan.starts.join(", "), held })
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
