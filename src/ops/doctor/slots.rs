//! Replication slots that nobody takes. Pure.

use super::rules::Case;
use super::{Finding, Kind, Risk};
use crate::model::plural::size;
use crate::model::quote::printable;

/// A slot that nobody takes keeps log until the disk is full, unless the server has a limit.
pub(super) fn idle(case: &Case<'_>) -> Vec<Finding> {
    let Some(database) = case.keeper.database() else { return Vec::new() };
    let idle = case.consumers.iter().filter(|consumer| !consumer.connected);
    let finding = |(slot, kind, bytes): (&str, _, Option<u64>)| {
        let kept = bytes.map_or_else(
            || "no log: what it wants is gone".to_owned(),
            |bytes| format!("{} of log, and all that is written from now on", size(bytes)),
        );
        let what = format!("nobody takes its {kind} replication slot {}: it keeps {kept}", printable(slot));
        let remove = database.advice().remove_slot(case.container(), slot);
        let remove = remove.map(|hint| hint.why("if its consumer does not come back"));
        case.finding(Kind::IdleSlot, Risk::Medium, what, remove)
    };
    idle.filter_map(|idle| Some((idle.slot.as_deref()?, idle.kind, idle.retained_bytes)))
        .map(finding)
        .collect()
}
