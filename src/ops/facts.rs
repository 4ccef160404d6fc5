//! Takes facts of what runs, and remembers them.
//!
//! The state directory keeps the last facts of a source that had nothing wrong with them, for the next
//! [check](super::check) to compare with; after a restore, it keeps those of what was restored. They are replaced
//! whole, or not at all.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::project_file::find_checks;
use super::{Context, files};
use crate::archive::ListDigest;
use crate::database::{self, Database};
use crate::disk::whole_file::write_json;
use crate::engine::Docker;
use crate::model::container::Container;
use crate::model::error::{Context as _, Result};
use crate::model::event::Monitor;
use crate::model::facts::checks::{Checked, Checks};
use crate::model::facts::{FACTS_VERSION, Facts, FactsLevel, Files, SnapshotFacts};
use crate::model::manifest::Evidence;
use crate::model::replication::Consumer;
use crate::model::source::Source;
use crate::ops::phase_timer::milliseconds;
use crate::repository::Snapshot;

/// How long one of the user's queries may take.
const QUERY_LIMIT: Duration = Duration::from_secs(30);
/// How long a database may take to say who follows it.
const CONSUMERS_LIMIT: Duration = Duration::from_secs(5);
/// How much longer the engine may take.
const EXEC_MARGIN: Duration = Duration::from_secs(15);

/// Takes the facts of the database that runs in a container; `None` if we do not know the database, or no facts are
/// asked for. It only reads, and is bounded in time.
///
/// # Errors
/// When the database does not answer, or its answer cannot be understood.
pub async fn take(docker: &dyn Docker, container: &Container, level: FactsLevel) -> Result<Option<Facts>> {
    let source = database::of(container).and_then(Database::facts);
    let Some(source) = source.filter(|_| level != FactsLevel::None) else { return Ok(None) };
    let doing = || format!("take facts of the database in container {}", container.name);
    let begun = Instant::now();
    let command = source.facts_command(container, level);
    let output = docker.exec(&container.id, &command, source.facts_limit(level)).await.context(doing)?;
    let mut facts = source.facts(level, &output).context(doing)?;
    facts.ms = milliseconds(begun.elapsed());
    Ok(Some(facts))
}

/// Runs the user's checks in the database of a container, and keeps their values with its facts. `before` has the
/// values of the last time.
pub async fn run_checks(
    docker: &dyn Docker,
    container: &Container,
    checks: &Checks,
    before: Option<&Facts>,
    facts: &mut Facts,
) -> Vec<Checked> {
    let Some(source) = database::of(container).and_then(Database::facts) else {
        return Vec::new();
    };
    let mut judged = Vec::new();
    for check in &checks.check {
        let command = source.query_command(container, check.database.as_deref(), &check.sql, QUERY_LIMIT);
        let value = match docker.exec(&container.id, &command, QUERY_LIMIT + EXEC_MARGIN).await {
            Ok(output) => source.value(&output).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Ok(value) = &value {
            facts.checks.insert(check.name.clone(), value.clone());
        }
        let before = before.and_then(|before| before.checks.get(&check.name));
        judged.push(check.judge(value, before.map(String::as_str)));
    }
    judged
}

/// Returns who takes, or may take, the log of the database that runs in a container; nobody if we do not know the
/// database.
///
/// # Errors
/// When the database does not answer, or its answer cannot be understood.
pub(super) async fn consumers(docker: &dyn Docker, container: &Container) -> Result<Vec<Consumer>> {
    let Some(source) = database::of(container).and_then(Database::facts) else { return Ok(Vec::new()) };
    let Some(query) = source.consumers_query() else { return Ok(Vec::new()) };
    let doing = || format!("ask the database in container {} who follows it", container.name);
    let command = source.query_command(container, None, query, CONSUMERS_LIMIT);
    let output = docker.exec(&container.id, &command, CONSUMERS_LIMIT + EXEC_MARGIN).await.context(doing)?;
    source.value(&output).and_then(|value| source.consumers(&value)).context(doing)
}

/// Returns the facts of a snapshot: what was seen of its live data, or else, if the data is no database, what its file
/// list says. `None` if nothing is known.
///
/// # Errors
/// When its file list cannot be read.
pub fn of_snapshot(snapshot: &Snapshot) -> Result<Option<Facts>> {
    let manifest = &snapshot.manifest;
    if let Some(facts) = &manifest.facts {
        return Ok(Some(facts.seen.clone()));
    }
    // Nobody here can know what it holds.
    if snapshot.is_locked() {
        return Ok(None);
    }
    if manifest.evidence.database.is_some() {
        return Ok(None);
    }
    let mut digest = ListDigest::default();
    for record in files(snapshot)? {
        digest.push(&record?);
    }
    let counts = manifest.counts();
    let files = Files { files: counts.files, bytes: counts.raw_bytes, digest: Some(digest.finish()) };
    Ok(Some(Facts::of_files(files, manifest.times.held)))
}

/// Returns the facts as a manifest keeps them, with whether they are true of the copy to the last row: what the
/// database's own files said of it decides that.
pub(super) fn recorded(seen: Option<Facts>, evidence: &Evidence) -> Option<SnapshotFacts> {
    let seen = seen?;
    let source = database::named(&seen.engine).and_then(Database::facts);
    let exact = evidence.unchanged_after
        && evidence.reasons.is_empty()
        && evidence
            .database
            .as_ref()
            .zip(source)
            .is_some_and(|(files, source)| source.is_exact(&seen, files));
    Some(SnapshotFacts { exact, seen })
}

/// The format of what is remembered. A file that names no format is of format 1, and has the same fields.
const REMEMBERED_FORMAT: u32 = 2;

/// What was true of a source the last time that nothing was wrong with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Remembered {
    #[serde(default = "unnumbered")]
    format: u32,
    /// The engine on which the source is.
    engine: String,
    /// The source's key.
    source: String,
    /// When that was. The facts of what was restored are older.
    pub(super) at: DateTime<Utc>,
    /// `None` when nothing is known of it: what was restored has no facts.
    pub(super) facts: Option<Facts>,
    /// The snapshot that it was restored from.
    pub(super) snapshot: Option<String>,
}

fn unnumbered() -> u32 {
    1
}

impl Remembered {
    /// Reads what is remembered.
    fn read(text: &[u8]) -> Result<Self, Unreadable> {
        let value: Value = serde_json::from_slice(text).map_err(|_| Unreadable::Damaged)?;
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
        let format = number(value.get("format"));
        let facts = number(value.get("facts").and_then(|facts| facts.get("version")));
        if format > u64::from(REMEMBERED_FORMAT) || facts > u64::from(FACTS_VERSION) {
            return Err(Unreadable::Later);
        }
        serde_json::from_value(value).map_err(|_| Unreadable::Damaged)
    }
}

/// Why nothing can be compared with what is remembered.
#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    Damaged,
    /// A later volsnap wrote it.
    Later,
}

/// Warns that only a later volsnap understands the facts of a snapshot.
pub(super) fn warn_of_later_facts(snapshot: &Snapshot, monitor: &dyn Monitor) {
    if let Some(version) = snapshot.manifest.later_facts() {
        monitor.warning(format!(
            "the facts of snapshot {} are of a later volsnap (version {version}): they are not compared",
            snapshot.name()
        ));
    }
}

impl Context {
    /// Takes the facts that go into a snapshot, with the values of the user's checks. If that fails, the snapshot goes
    /// on without them.
    pub(super) async fn facts_for_snapshot(&self, source: &Source, level: FactsLevel) -> Option<Facts> {
        let container = source.database().filter(|container| container.state.running)?;
        if level == FactsLevel::None {
            return None;
        }
        self.monitor.step("facts");
        let taken = take(&*self.docker, container, level).await;
        let mut facts = match taken {
            Ok(facts) => facts?,
            Err(error) => {
                self.monitor.warning(format!("the snapshot will have no facts: {}", error.chain()));
                return None;
            }
        };
        match find_checks(None, container, &self.directory) {
            Ok(Some((_, checks))) => {
                let checked = run_checks(&*self.docker, container, &checks, None, &mut facts).await;
                for check in checked.iter().filter(|check| !check.ok) {
                    self.monitor.warning(format!("check {}: {}", check.name, wrong(check)));
                }
            }
            Ok(None) => {}
            Err(error) => self.monitor.warning(&error),
        }
        Some(facts)
    }

    /// Returns what is remembered of a source, if anything is. A file that cannot be read counts as nothing; so does
    /// one of a later volsnap, with a warning.
    pub(super) fn remembered(&self, engine: &str, source: &Source) -> Option<Remembered> {
        let text = std::fs::read(self.memory(source)).ok()?;
        let remembered = match Remembered::read(&text) {
            Ok(remembered) => remembered,
            Err(Unreadable::Damaged) => return None,
            Err(Unreadable::Later) => {
                self.monitor.warning(format!(
                    "what is remembered of {} is of a later volsnap: it is not compared",
                    source.title
                ));
                return None;
            }
        };
        (remembered.engine == engine && remembered.source == source.key).then_some(remembered)
    }

    /// Remembers that these facts are true of a source now; `snapshot` is what was restored. If that fails, what was
    /// done has not failed.
    pub(super) fn remember(
        &self,
        engine: &str,
        source: &Source,
        facts: Option<Facts>,
        snapshot: Option<String>,
    ) {
        let (engine, source_key) = (engine.to_owned(), source.key.clone());
        let (format, at) = (REMEMBERED_FORMAT, self.clock.now());
        let remembered = Remembered { format, engine, source: source_key, at, facts, snapshot };
        let path = self.memory(source);
        if let Err(error) = write_json(&path, &remembered) {
            self.monitor.warning(format!(
                "the next check has less to compare with: write {}: {error}",
                path.display()
            ));
        }
    }

    fn memory(&self, source: &Source) -> PathBuf {
        self.saga.state.join("facts").join(format!("{}.json", source.key))
    }
}

/// Returns what is wrong with a check that does not hold, and what it should be.
#[must_use]
pub fn wrong(check: &Checked) -> String {
    let found = match (&check.why, &check.value, &check.before) {
        (Some(why), ..) => why.clone(),
        (None, Some(value), Some(before)) => format!("it is {value}, and was {before}"),
        (None, value, _) => format!("it is {}", value.as_deref().unwrap_or("nothing")),
    };
    format!("{found}; expected {}", check.expect)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn kept(format: &str, name: &str) -> Remembered {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats").join(format).join(name);
        Remembered::read(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn what_is_remembered_in_every_format_is_read() {
        for (format, number) in [("v1", 1), ("v2", 2)] {
            let database = kept(format, "kept-facts.json");
            assert_eq!((database.format, database.source.as_str()), (number, "shop_pgdata"));
            assert!(database.engine.starts_with("UI7Q:N2VY"));
            let facts = database.facts.unwrap();
            assert_eq!((facts.engine.as_str(), facts.databases.len()), ("postgresql", 4));
            assert_eq!(facts.moment.unwrap().next_transaction, 739);
            let files = kept(format, "kept-facts-of-files.json");
            assert_eq!(files.snapshot.as_deref(), Some("shop_files/20261129T145900Z-df1976"));
            assert_eq!(files.facts.unwrap().files.unwrap().bytes, 9007);
            let unknown = kept(format, "kept-facts-unknown.json");
            assert_eq!(unknown.facts, None);
            assert_eq!(unknown.snapshot.as_deref(), Some("shop_pgdata/20261129T145837Z-8a547b"));
        }
    }

    #[test]
    fn what_a_later_volsnap_remembers_is_told_from_what_is_damaged() {
        for later in [r#"{"format":3,"moments":[]}"#, r#"{"format":2,"engine":"e","facts":{"version":2}}"#] {
            assert_eq!(Remembered::read(later.as_bytes()), Err(Unreadable::Later), "{later}");
        }
        for damaged in ["", "{", "{}", r#"{"format":2}"#] {
            assert_eq!(Remembered::read(damaged.as_bytes()), Err(Unreadable::Damaged), "{damaged}");
        }
    }
}
