//! What a restart does while its data is held: looking before, and making the containers anew.
//!
//! It does so by itself, or has its snapshot do it on the way, so that the service is away once for both.

use super::Context;
use super::facts::{run_checks, take};
use crate::compose::Recreate;
use crate::model::container::Container;
use crate::model::error::{Context as _, Result};
use crate::model::event::Phase;
use crate::model::facts::checks::Checks;
use crate::model::facts::{Facts, FactsLevel};
use crate::model::hint::Hint;
use crate::saga::When;
use crate::selector::Target;
use crate::undo::Saga;
use crate::undo::Undo;

/// What is to be done on the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Errand<'a> {
    /// Of what, for the commands that are said.
    pub(super) target: &'a Target,
    /// The running database.
    pub(super) database: Option<&'a Container>,
    /// How closely it is looked at.
    pub(super) level: FactsLevel,
    /// The user's checks.
    pub(super) checks: Option<&'a Checks>,
    /// How Compose makes the containers anew.
    pub(super) recreate: Option<&'a Recreate>,
}

impl Errand<'_> {
    /// Looks what is true of the data, with the values of the user's checks. Without that nothing is stopped:
    /// nobody could tell afterwards.
    pub(super) async fn before(&self, context: &Context) -> Result<Option<Facts>> {
        let Some(container) = self.database else { return Ok(None) };
        if self.level == FactsLevel::None {
            return Ok(None);
        }
        context.monitor.step("facts");
        let facts = take(&*context.docker, container, self.level).await;
        let again = Hint::volsnap(["restart", &self.target.spelling(), "--facts", "none"]);
        let facts = facts.map_err(|error| error.hint(again.why("does not compare")))?;
        let Some(mut facts) = facts else { return Ok(None) };
        if let Some(checks) = self.checks {
            run_checks(&*context.docker, container, checks, None, &mut facts).await;
        }
        Ok(Some(facts))
    }

    /// Returns what is done next, where containers are made anew.
    pub(super) fn phase(&self) -> Option<(Phase, String)> {
        self.recreate.map(|_| (Phase::Start, "Compose makes the containers anew".to_owned()))
    }

    /// Has Compose make the users anew, for the run `run`. What ends it is in the journal before it begins, and is
    /// done before anything is started: one that went on would stop what was.
    pub(super) async fn recreate(&self, context: &Context, saga: &mut Saga, run: &str) -> Result<()> {
        let Some(recreate) = self.recreate else { return Ok(()) };
        let end = Undo::EndProcesses { run: run.to_owned() };
        let end = saga.register(When::Always, end).context(|| "write the journal".to_owned())?;
        context.monitor.step("recreate");
        let made = recreate.create(run).await;
        saga.undo_now(end, &*context.monitor).await.context(|| "end Compose".to_owned())?;
        made.context(|| "make the containers anew".to_owned())
    }
}
