//! The proof that what runs is what was restored. Until it is given, the old data is put back.

use std::path::Path;

use super::RestoreRun;
use super::prepare::Prepared;
use crate::database::compare::{ComparisonContext, compare};
use crate::model::error::{Context as _, Error, Result};
use crate::model::facts::FactsLevel;
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::ops::facts::take;
use crate::ops::preconditions::somebody_at_work;
use crate::service::health::FailedHealthcheck;

impl RestoreRun<'_> {
    /// Confirms that the database that answers is the restored one: its server has written to these files, and not to
    /// others that it made for itself.
    pub(super) async fn confirm_running(
        &self,
        prepared: &mut Prepared,
        before: Option<Inspection>,
    ) -> Result<()> {
        self.run.monitor().step("confirm");
        let (Some(database), Some(before)) = (&prepared.database, before) else { return Ok(()) };
        let container = prepared.source.database().map(|container| container.id.clone());
        let was_started = container.is_some_and(|id| prepared.users.stops.iter().any(|stop| stop.id == id));
        let now = database.inspect_tree(&mut prepared.agent, Path::new("")).await?;
        if now.identifier != before.identifier {
            return Err(Error::failed("the database that runs is not the one that was restored")
                .hint(somebody_at_work()));
        }
        if was_started && now.proof_digest == before.proof_digest {
            return Err(Error::failed(
                "the database answers, but not on the restored files: they are as they were extracted",
            )
            .hint(somebody_at_work()));
        }
        Ok(())
    }
    /// Judges healthchecks that passed on the old data and fail on the restored, although the database answers: they may
    /// ask for what came after the snapshot. So they are no reason to put the old data back, unless what is restored is
    /// not what the snapshot saw.
    pub(super) async fn confirm_facts(
        &self,
        prepared: &Prepared,
        unhealthy: &[FailedHealthcheck],
    ) -> Result<()> {
        let Some(failed) = unhealthy.first() else { return Ok(()) };
        let expected = self.options.archive.snapshot().and_then(|snapshot| snapshot.manifest.facts.as_ref());
        let compared = match (prepared.source.database(), expected) {
            (Some(container), Some(expected)) => {
                let docker = &*self.run.context.docker;
                let taken = take(docker, container, FactsLevel::Quick).await;
                let facts =
                    taken.context(|| format!("{failed}; look whether its data is what was restored"))?;
                let facts = facts.ok_or_else(|| {
                    Error::failed(failed.to_string())
                        .hint(Hint::advice("mend the healthcheck, or the database in the container"))
                })?;
                let comparison = compare(&expected.seen, &facts, &ComparisonContext::default());
                if let Some(differs) = comparison.differences.first().filter(|_| !comparison.ok()) {
                    return Err(Error::failed(format!(
                        "{failed}, and the data is not what the snapshot saw: {} is {}",
                        differs.object,
                        differs.after.as_deref().unwrap_or("gone")
                    ))
                    .hint(
                        Hint::volsnap(["verify", &self.options.archive.name(), "--drill"])
                            .why("boots it apart, and compares its data"),
                    ));
                }
                "its data is what the snapshot saw"
            }
            _ => "its data is that of the archive, by its files",
        };
        for failed in unhealthy {
            self.run.monitor().warning(format!(
                "{failed}, although {} and {compared}; it passed on the data before",
                failed.although()
            ));
        }
        Ok(())
    }
}
