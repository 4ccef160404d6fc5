//! Who follows the database that is restored, and the replication slots of the past.
//!
//! A snapshot has the slots that the database had. Their consumers have gone on since, or are gone: a slot that comes
//! back keeps log for nobody until the disk is full. So a database is restored without them, as from a base backup, and
//! each is named with the command that makes it anew. They stay where the user asks for it, in an exact copy
//! (`--dir`), and in what another tool has archived.
//!
//! A standby that followed the old data is ahead of the restored database, and would take its log on the same timeline
//! without noticing. volsnap does not touch it; the plan names it, and says what it needs afterwards.

use serde::Serialize;

use super::prepare::Prepared;
use super::{Destination, RestoreRun};
use crate::agent::calls::RemoveSlots;
use crate::database::{self, Database};
use crate::model::container::Container;
use crate::model::error::{Context as _, Result};
use crate::model::hint::Hint;
use crate::model::replication::{Consumer, SlotKind, StoredSlot};
use crate::model::source::Source;
use crate::ops::evidence::DatabaseFiles;
use crate::ops::facts;

/// A replication slot that the snapshot has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotSlot {
    /// What its file says.
    #[serde(flatten)]
    pub slot: StoredSlot,
    /// The name of the database that it is of, if it is of one, and if that is known.
    pub database_name: Option<String>,
    /// What makes it anew in the restored database.
    #[serde(skip)]
    pub anew: Option<Hint>,
}

impl SnapshotSlot {
    /// Returns what a person is told of it: "app (logical, pgoutput, database shop, log from 0/3000148)".
    #[must_use]
    pub fn title(&self) -> String {
        let StoredSlot { name, kind, plugin, database, position } = &self.slot;
        let database = match (&self.database_name, database) {
            (Some(name), _) => Some(format!("database {name}")),
            (None, number) => number.map(|number| format!("the database with the number {number}")),
        };
        let parts = [Some(kind.to_string()), plugin.clone(), database];
        let position = position.iter().map(|position| format!("log from {position}"));
        let parts: Vec<_> = parts.into_iter().flatten().chain(position).collect();
        format!("{name} ({})", parts.join(", "))
    }
}

impl RestoreRun<'_> {
    /// Returns whether the database is restored without the slots that the snapshot has.
    pub(super) fn leaves_out_slots(&self) -> bool {
        let is_exact = matches!(self.options.destination, Destination::Directory(_));
        !self.options.keep_slots && !is_exact && self.options.archive.snapshot().is_some()
    }

    /// Returns the slots that the snapshot is known to have.
    pub(super) fn slots(&self, source: &Source) -> Vec<SnapshotSlot> {
        let snapshot = self.options.archive.snapshot();
        let inspection = snapshot.and_then(|snapshot| snapshot.manifest.evidence.database.as_ref());
        let slots = inspection.map(|inspection| inspection.slots.clone()).unwrap_or_default();
        slots.into_iter().map(|slot| self.described(slot, source.database())).collect()
    }

    /// Removes the slots from the extracted database, which nothing has run on, and returns them.
    pub(super) async fn remove_slots(&self, prepared: &mut Prepared) -> Result<Vec<SnapshotSlot>> {
        let Some(database) = prepared.database.as_ref().filter(|_| self.leaves_out_slots()) else {
            return Ok(Vec::new());
        };
        let DatabaseFiles { engine, data_directory, .. } = database;
        let (engine, data_directory) = ((*engine).to_owned(), data_directory.clone());
        self.run.monitor().step("remove-slots");
        let call = RemoveSlots { run: self.run.id.to_string(), engine, data_directory };
        let removed = prepared.agent.call(call).await;
        let removed = removed.context(|| "leave out the replication slots of the past".to_owned())?;
        let container = prepared.source.database();
        Ok(removed.into_iter().map(|slot| self.described(slot, container)).collect())
    }

    fn described(&self, slot: StoredSlot, container: Option<&Container>) -> SnapshotSlot {
        let snapshot = self.options.archive.snapshot();
        let seen = snapshot.and_then(|snapshot| Some(&snapshot.manifest.facts.as_ref()?.seen));
        let database = slot.database.and_then(|number| {
            let known = seen?.databases.iter().find(|database| database.oid == Some(number))?;
            Some(known.name.clone())
        });
        let reached_by = match slot.kind {
            SlotKind::Logical => database.clone().map(Some),
            SlotKind::Physical | SlotKind::Unknown => Some(seen.and_then(|seen| seen.database.clone())),
        };
        let engine = snapshot.and_then(|snapshot| snapshot.manifest.evidence.database.as_ref());
        let advice = database::advice_of(engine.map_or("", |inspection| &inspection.engine));
        let anew = reached_by.and_then(|database| advice.make_slot(container, database.as_deref(), &slot));
        SnapshotSlot { slot, database_name: database, anew }
    }

    /// Returns what is to be done about each that follows the running database, once it is restored.
    pub(super) async fn followers(&self, source: &Source) -> Vec<String> {
        let Some(container) = source.database().filter(|container| container.state.running) else {
            return Vec::new();
        };
        let known = facts::consumers(&*self.run.context.docker, container).await.unwrap_or_default();
        let advice = database::of(container).map(Database::advice);
        let after = |consumer: &Consumer| advice.and_then(|advice| advice.after_a_restore(consumer));
        known.iter().filter(|consumer| consumer.connected).filter_map(after).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_told_with_all_that_is_known_of_it() {
        let slot = StoredSlot {
            name: "app".into(),
            kind: SlotKind::Logical,
            plugin: Some("pgoutput".into()),
            database: Some(16_384),
            position: Some("0/3000148".into()),
        };
        let named = SnapshotSlot { slot: slot.clone(), database_name: Some("shop".into()), anew: None };
        assert_eq!(named.title(), "app (logical, pgoutput, database shop, log from 0/3000148)");
        let unnamed = SnapshotSlot { slot, database_name: None, anew: None };
        assert!(unnamed.title().contains("the database with the number 16384"), "{}", unnamed.title());
        let unread = SnapshotSlot { slot: StoredSlot::unread("x".into()), database_name: None, anew: None };
        assert_eq!(unread.title(), "x (of unknown kind)");
    }
}
