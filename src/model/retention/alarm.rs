//! What makes it unwise to go on removing old snapshots: the new ones look as if something had gone wrong with the data.
//! Pure rules.
//!
//! A policy trusts that a new snapshot is worth as much as an old one. A database that was emptied, replaced or damaged
//! breaks that trust: the policy would remove the last good snapshots, one a day. So each drop from one snapshot to the
//! next is an alarm until a person has [acknowledged](Acknowledged) it.

use std::fmt;

use chrono::{DateTime, Utc};

use crate::model::ids::SnapshotId;

/// What is known of a snapshot here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: SnapshotId,
    /// Bytes of the files' contents.
    pub raw_bytes: u64,
    /// Regular files.
    pub files: u64,
    /// The identifier of the database that it is of, if it has one.
    pub identifier: Option<String>,
    /// When the latest look at it was, if that look found damage.
    pub failed: Option<DateTime<Utc>>,
}

/// What a person has looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// When.
    pub at: DateTime<Utc>,
    /// The newest snapshot there was.
    pub upto: SnapshotId,
}

/// Why nothing more is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A snapshot has nothing in it.
    Empty {
        /// Which one.
        id: SnapshotId,
    },
    /// It has half of what the one before has, or less.
    Shrunk {
        /// Which one.
        id: SnapshotId,
        /// The one before.
        before: SnapshotId,
        /// Bytes of the one before.
        from: u64,
        /// Its bytes.
        to: u64,
    },
    /// It is of another database than the one before.
    OtherDatabase {
        /// Which one.
        id: SnapshotId,
        /// The one before.
        before: SnapshotId,
    },
    /// A verification has found damage.
    Failed {
        /// In which one.
        id: SnapshotId,
    },
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { id } => write!(f, "{id} is empty"),
            Self::Shrunk { id, before, from, to } => {
                write!(f, "{id} has {to} bytes, half of the {from} of {before} or less")
            }
            Self::OtherDatabase { id, before } => {
                write!(f, "{id} is of another database than {before}: its system identifier differs")
            }
            Self::Failed { id } => write!(f, "a verification of {id} has found damage"),
        }
    }
}

/// Returns what nobody has acknowledged, of the snapshots of one source.
#[must_use]
pub fn alarms(snapshots: &[Seen], acknowledged: Option<&Acknowledged>) -> Vec<Alarm> {
    let mut snapshots: Vec<_> = snapshots.iter().collect();
    snapshots.sort_by(|a, b| a.id.cmp(&b.id));
    let is_new = |id: &SnapshotId| acknowledged.is_none_or(|known| *id > known.upto);
    let mut alarms = Vec::new();
    // Data of no database comes and goes; the identifier is compared with the last one that was known.
    let (mut before, mut identified): (Option<&Seen>, Option<&Seen>) = (None, None);
    for seen in snapshots {
        if is_new(&seen.id) {
            alarms.extend(drop_from(before, seen));
            alarms.extend(identified.and_then(|identified| other_database(identified, seen)));
        }
        if seen.failed.is_some_and(|at| acknowledged.is_none_or(|known| at > known.at)) {
            alarms.push(Alarm::Failed { id: seen.id.clone() });
        }
        before = Some(seen);
        if seen.identifier.is_some() {
            identified = Some(seen);
        }
    }
    alarms
}

fn drop_from(before: Option<&Seen>, seen: &Seen) -> Option<Alarm> {
    let id = seen.id.clone();
    let is_empty = |one: &Seen| one.files == 0 || one.raw_bytes == 0;
    if is_empty(seen) {
        // One that was empty before has not dropped.
        return before.is_none_or(|before| !is_empty(before)).then_some(Alarm::Empty { id });
    }
    let before = before.filter(|before| seen.raw_bytes <= before.raw_bytes / 2)?;
    Some(Alarm::Shrunk { id, before: before.id.clone(), from: before.raw_bytes, to: seen.raw_bytes })
}

fn other_database(before: &Seen, seen: &Seen) -> Option<Alarm> {
    let differs = before.identifier != seen.identifier;
    // A database that is no database any more is no less of an alarm.
    differs.then(|| Alarm::OtherDatabase { id: seen.id.clone(), before: before.id.clone() })
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    fn id(day: i64) -> SnapshotId {
        SnapshotId::new(at(day), [0, 0, 1])
    }

    fn at(day: i64) -> DateTime<Utc> {
        Utc.timestamp_opt(1_795_206_611 + day * 86_400, 0).unwrap()
    }

    fn seen(day: i64, raw_bytes: u64) -> Seen {
        Seen { id: id(day), raw_bytes, files: 1, identifier: Some("7".to_owned()), failed: None }
    }

    fn ack(day: i64) -> Acknowledged {
        Acknowledged { at: at(day), upto: id(day) }
    }

    #[test]
    fn a_database_that_grows_and_shrinks_a_little_is_no_alarm() {
        assert_eq!(alarms(&[seen(1, 1000), seen(2, 1200), seen(3, 601), seen(4, 700)], None), []);
        assert_eq!(alarms(&[], None), []);
    }

    #[test]
    fn what_is_half_or_empty_stays_an_alarm_until_somebody_acknowledges_it() {
        let mut snapshots = vec![seen(3, 0), seen(1, 1000), seen(2, 500), seen(4, 900)];
        let found = alarms(&snapshots, None);
        let shrunk = Alarm::Shrunk { id: id(2), before: id(1), from: 1000, to: 500 };
        assert_eq!(found, [shrunk, Alarm::Empty { id: id(3) }]);
        assert_eq!(alarms(&snapshots, Some(&ack(2))), [Alarm::Empty { id: id(3) }]);
        assert_eq!(alarms(&snapshots, Some(&ack(4))), []);
        snapshots.push(seen(5, 10));
        assert_eq!(alarms(&snapshots, Some(&ack(4))).len(), 1, "a new one is a new alarm");
    }

    #[test]
    fn another_database_or_none_any_more_is_an_alarm() {
        let other = Seen { identifier: Some("8".to_owned()), ..seen(2, 1000) };
        assert_eq!(
            alarms(&[seen(1, 1000), other], None),
            [Alarm::OtherDatabase { id: id(2), before: id(1) }]
        );
        let none = Seen { identifier: None, ..seen(2, 1000) };
        assert_eq!(alarms(&[seen(1, 1000), none.clone()], None).len(), 1);
        assert_eq!(alarms(&[Seen { id: id(1), ..none.clone() }, none], None), []);
    }

    #[test]
    fn damage_that_is_found_after_the_acknowledgement_is_a_new_alarm() {
        let failed = Seen { failed: Some(at(5)), ..seen(1, 1000) };
        let snapshots = [failed, seen(2, 1000)];
        assert_eq!(alarms(&snapshots, Some(&ack(4))), [Alarm::Failed { id: id(1) }]);
        assert_eq!(alarms(&snapshots, Some(&ack(6))), []);
    }
}
