//! Tells a database that was made anew from one that is in use: `docker compose down -v` and `up -d` leave one that has
//! nothing but what its image and an app's first start put there, tables and a few rows of them.
//!
//! The cluster's identifier has the time at which it was made, so it cannot have held what was saved before that. How
//! much is in it says whether anybody would miss it.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::advice_of;
use crate::model::facts::Facts;
use crate::model::plural::counted;

/// More rows than an app's first start writes.
const ROWS_MAX: u64 = 10_000;
/// More than a cluster takes that has no more than those, with its log.
const BYTES_MAX: u64 = 256 << 20;

/// A database that was made after the data that it would be replaced by, or is compared with, was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FreshDatabase {
    /// When it was made.
    pub made: DateTime<Utc>,
    /// How many tables it has.
    pub tables: u64,
    /// How many rows they have.
    pub rows: u64,
}

impl FreshDatabase {
    /// Returns what facts say of a database that was made after `since`, if it is one that nobody would miss: it has
    /// few rows, and fewer than there were, if that is known.
    #[must_use]
    pub fn of(facts: &Facts, since: DateTime<Utc>, rows_before: Option<u64>) -> Option<Self> {
        let made = made(&facts.engine, facts.identifier.as_deref()?).filter(|made| *made > since)?;
        let summary = facts.summary();
        let is_small = !summary.estimated
            && summary.rows <= ROWS_MAX
            && rows_before.is_none_or(|before| summary.rows < before);
        // What was not looked at may be what somebody would miss.
        let is_known = facts.unread().is_empty();
        (is_small && is_known).then_some(Self { made, tables: summary.tables, rows: summary.rows })
    }
}

impl fmt::Display for FreshDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.made.to_rfc3339_opts(SecondsFormat::Secs, true);
        write!(f, "made {made}, {}, {}", counted(self.tables, "table"), counted(self.rows, "row"))
    }
}

/// Returns whether a source of this size may hold a database that nobody would miss.
#[must_use]
pub fn is_small(bytes: u64) -> bool {
    bytes <= BYTES_MAX
}

/// Returns when a cluster was made, by its identifier; `None` if that does not tell.
#[must_use]
pub fn made(engine: &str, identifier: &str) -> Option<DateTime<Utc>> {
    advice_of(engine).made(identifier)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::facts::{Database, FactsLevel, Name, Table};

    /// 2026-11-20 20:30:11 UTC, as the upper half of an identifier.
    const MADE: u64 = 1_795_206_611;

    fn facts(rows: u64) -> Facts {
        let table = Table {
            name: Name { schema: "public".into(), name: "t".into() },
            rows: Some(rows),
            ..Table::default()
        };
        Facts {
            identifier: Some((MADE << 32 | 12345).to_string()),
            databases: vec![Database { name: "app".into(), tables: vec![table], ..Database::default() }],
            ..Facts::new("postgresql", FactsLevel::Quick, at(MADE + 600))
        }
    }

    fn at(seconds: u64) -> DateTime<Utc> {
        DateTime::from_timestamp(i64::try_from(seconds).unwrap(), 0).unwrap()
    }

    #[test]
    fn a_database_made_after_the_data_with_a_few_rows_is_fresh() {
        let fresh = FreshDatabase::of(&facts(12), at(MADE - 60), Some(1000)).unwrap();
        assert_eq!(fresh.to_string(), "made 2026-11-20T20:30:11Z, 1 table, 12 rows");
    }

    #[test]
    fn an_older_one_a_fuller_one_and_one_that_was_not_looked_at_are_not() {
        assert_eq!(FreshDatabase::of(&facts(12), at(MADE + 60), Some(1000)), None, "it was there before");
        assert_eq!(FreshDatabase::of(&facts(12_000), at(MADE - 60), Some(100_000)), None, "it has many rows");
        assert_eq!(FreshDatabase::of(&facts(12), at(MADE - 60), Some(12)), None, "it has as many as before");
        let mut unread = facts(12);
        unread.databases[0].unread = Some("no time".into());
        assert_eq!(FreshDatabase::of(&unread, at(MADE - 60), Some(1000)), None, "nobody knows");
        let no_time = Facts { identifier: Some("7".into()), ..facts(12) };
        assert_eq!(FreshDatabase::of(&no_time, at(MADE - 60), Some(1000)), None, "made in 1970");
    }
}
