//! Asks a running PostgreSQL what is true of its data, through its own `psql`.
//!
//! One session looks into one database after the other, each in a single read-only snapshot, so that rows and what
//! refers to them fit together. It waits for no lock, holds none for longer than it counts one table, and uses at most
//! one core; if others are at work, it leaves them two thirds of its time. It estimates what takes too long, or says
//! that it did not look at it. The databases share the time, so that a large one does not starve the others.
//!
//! | file | holds |
//! |---|---|
//! | `cluster.sql` | server, roles, tablespaces, databases |
//! | `databases.sql` | which databases can be looked into |
//! | `database.sql` | tables, foreign keys, sequences, indexes, extensions, schema revisions |
//! | `consumers.sql` | standbys, subscribers and slots, on one line |
//! | `lines.rs` | what these print, one JSON object per line |

use std::time::Duration;

use super::{Postgres, probe, whole_seconds};
use crate::database::{FactsError, FactsSource};
use crate::model::container::{Container, ExecOutput};
use crate::model::facts::{Facts, FactsLevel};
use crate::model::inspection::Inspection;
use crate::model::replication::Consumer;

mod lines;

const CLUSTER: &str = include_str!("cluster.sql");
const DATABASES: &str = include_str!("databases.sql");
const DATABASE: &str = include_str!("database.sql");
const CONSUMERS: &str = include_str!("consumers.sql");

/// How long quick facts may look: a restart waits for them.
const QUICK_BUDGET: Duration = Duration::from_secs(3);
/// How long full facts may look. A snapshot of that age keeps vacuum from its work.
const FULL_BUDGET: Duration = Duration::from_mins(30);
/// Time that may come on top: for connecting, the catalogs, and the look that is under way.
const MARGIN: Duration = Duration::from_secs(45);
/// Pages of the largest heap that quick facts read: 64 MB, at most a tenth of a second once cached.
const QUICK_PAGES: u64 = 8192;

impl FactsSource for Postgres {
    fn facts_command(&self, container: &Container, level: FactsLevel) -> Vec<String> {
        let mut command = probe(container, "facts", budget(level).as_secs());
        let pages = QUICK_PAGES.to_string();
        command.extend([&level.to_string(), &pages, CLUSTER, DATABASES, DATABASE].map(str::to_owned));
        command
    }

    fn facts_limit(&self, level: FactsLevel) -> Duration {
        budget(level) + MARGIN
    }

    fn facts(&self, level: FactsLevel, output: &ExecOutput) -> Result<Facts, FactsError> {
        if output.exit_code != 0 {
            return Err(failed(&output.stderr));
        }
        lines::read(level, &output.stdout)
    }

    fn query_command(
        &self,
        container: &Container,
        database: Option<&str>,
        query: &str,
        limit: Duration,
    ) -> Vec<String> {
        let mut command = probe(container, "query", whole_seconds(limit));
        command.extend([database.unwrap_or_default(), query].map(str::to_owned));
        command
    }

    fn value(&self, output: &ExecOutput) -> Result<String, FactsError> {
        if output.exit_code != 0 {
            return Err(failed(&output.stderr));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let mut rows = said.lines();
        match (rows.next(), rows.count()) {
            (Some(value), 0) => Ok(value.to_owned()),
            (None, _) => Err(FactsError::Rows { rows: 0 }),
            (Some(_), more) => Err(FactsError::Rows { rows: more + 1 }),
        }
    }

    fn consumers_query(&self) -> Option<&'static str> {
        Some(CONSUMERS)
    }

    fn consumers(&self, value: &str) -> Result<Vec<Consumer>, FactsError> {
        serde_json::from_str(value).map_err(|_| FactsError::NotUnderstood { line: value.to_owned() })
    }

    /// Every transaction that writes takes the next number, and a clean shutdown leaves the next one in
    /// pg_control. A standby takes none of its own.
    fn is_exact(&self, facts: &Facts, inspection: &Inspection) -> bool {
        let next = inspection.details.get("next_transaction").and_then(|next| full_transaction(next));
        let primary = inspection.details.get("standby").is_some_and(|standby| standby == "no");
        let seen = facts.moment.filter(|moment| moment.settled).map(|moment| moment.next_transaction);
        inspection.clean
            && primary
            && facts.identifier.is_some()
            && facts.identifier == inspection.identifier
            && next.is_some()
            && seen == next
    }
}

fn budget(level: FactsLevel) -> Duration {
    match level {
        FactsLevel::None | FactsLevel::Quick => QUICK_BUDGET,
        FactsLevel::Full => FULL_BUDGET,
    }
}

/// Returns a transaction's number with its epoch, as `pg_controldata` writes it: "0:745".
fn full_transaction(text: &str) -> Option<u64> {
    let (epoch, number) = text.split_once(':')?;
    Some((u64::from(epoch.parse::<u32>().ok()?) << 32) | u64::from(number.parse::<u32>().ok()?))
}

/// Returns the error for what `psql` said: its first line says what, the rest where.
fn failed(stderr: &[u8]) -> FactsError {
    let said = String::from_utf8_lossy(stderr);
    let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed without a word");
    FactsError::Failed { said: line.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::model::facts::Moment;

    fn output(stdout: &str) -> ExecOutput {
        ExecOutput { stdout: stdout.into(), ..ExecOutput::default() }
    }

    #[test]
    fn no_statement_is_too_long_for_an_argument() {
        // MAX_ARG_STRLEN of the kernel is 128 KiB.
        for argument in Postgres.facts_command(&Container::default(), FactsLevel::Quick) {
            assert!(argument.len() < 64 << 10, "{} bytes", argument.len());
        }
    }

    #[test]
    fn a_query_gives_one_value() {
        assert_eq!(Postgres.value(&output("42\n")).unwrap(), "42");
        assert_eq!(Postgres.value(&output("\n")).unwrap(), "");
        assert_eq!(Postgres.value(&output("")), Err(FactsError::Rows { rows: 0 }));
        assert_eq!(Postgres.value(&output("1\n2\n3\n")), Err(FactsError::Rows { rows: 3 }));
        let failed = ExecOutput {
            exit_code: 1,
            stderr: b"ERROR:  relation \"x\" does not exist\nLINE 1: select\n".to_vec(),
            ..ExecOutput::default()
        };
        assert_eq!(Postgres.value(&failed).unwrap_err().to_string(), "ERROR:  relation \"x\" does not exist");
    }

    #[test]
    fn facts_are_exact_only_when_no_transaction_came_in_between() {
        let inspection = |clean, next: &str, standby: &str| Inspection {
            engine: "postgresql".into(),
            version: "15".into(),
            data_directory: PathBuf::new(),
            identifier: Some("7".into()),
            state: "shut down".into(),
            clean,
            reasons: Vec::new(),
            proof_digest: String::new(),
            page_checksums: None,
            page_size: None,
            pages_per_segment: None,
            details: BTreeMap::from([
                ("next_transaction".into(), next.into()),
                ("standby".into(), standby.into()),
            ]),
            outside: Vec::new(),
            configuration: Vec::new(),
            slots: Vec::new(),
        };
        let mut facts = Facts::new("postgresql", FactsLevel::Quick, chrono::DateTime::UNIX_EPOCH);
        facts.identifier = Some("7".into());
        let next_transaction = (1 << 32) + 745;
        facts.moment = Some(Moment { next_transaction, settled: true });
        assert!(Postgres.is_exact(&facts, &inspection(true, "1:745", "no")));
        assert!(!Postgres.is_exact(&facts, &inspection(true, "1:746", "no")));
        assert!(!Postgres.is_exact(&facts, &inspection(true, "0:745", "no")));
        assert!(!Postgres.is_exact(&facts, &inspection(true, "1:745", "yes")));
        assert!(!Postgres.is_exact(&facts, &inspection(false, "1:745", "no")));
        facts.moment = Some(Moment { next_transaction, settled: false });
        assert!(!Postgres.is_exact(&facts, &inspection(true, "1:745", "no")));
        facts.moment = None;
        assert!(!Postgres.is_exact(&facts, &inspection(true, "1:745", "no")));
        facts.moment = Some(Moment { next_transaction, settled: true });
        facts.identifier = Some("8".into());
        assert!(!Postgres.is_exact(&facts, &inspection(true, "1:745", "no")));
    }
}
