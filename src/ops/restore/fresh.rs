//! A fresh database in the place of the one that is restored: after `docker compose down -v` and `up -d`, the volume is
//! there again, and a cluster that was made a moment ago. That is the very state in which somebody restores, so no flag
//! is asked for; it is shown, and its safety snapshot is kept all the same.

use super::RestoreRun;
use super::prepare::ExistingData;
use crate::database::fresh::{FreshDatabase, is_small};
use crate::model::facts::FactsLevel;
use crate::model::source::Source;
use crate::ops::facts::take;

impl RestoreRun<'_> {
    /// Returns the fresh database that is where the snapshot was made; `None` for what somebody may miss, for another
    /// place, or where nothing of it would be kept.
    pub(super) async fn fresh(
        &self,
        source: &Source,
        beside: Option<&ExistingData>,
    ) -> Option<FreshDatabase> {
        let manifest = &self.options.archive.snapshot()?.manifest;
        let (existing, archived) = (beside?, manifest.evidence.database.as_ref()?);
        let present = existing.present.as_ref()?;
        let is_another = present.identifier.is_some() && present.identifier != archived.identifier;
        let is_its_place = source.location == *manifest.location() && self.keeps(beside);
        if !is_another || !is_its_place || !is_small(existing.survey.bytes) {
            return None;
        }
        let container = source.database().filter(|container| container.state.running)?;
        let facts = take(&*self.run.context.docker, container, FactsLevel::Quick).await.ok()??;
        let rows_before = manifest.facts.as_ref().map(|facts| facts.seen.summary().rows);
        let is_it = facts.identifier == present.identifier;
        FreshDatabase::of(&facts, manifest.times.held, rows_before).filter(|_| is_it)
    }
}
