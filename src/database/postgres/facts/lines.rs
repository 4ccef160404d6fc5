//! Reads what the statements print: one JSON object per line; `@` before the name of the database whose lines come
//! next; `!` before what `psql` said instead of the rest of them; and `end` at the end.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::database::FactsError;
use crate::database::postgres::NAME;
use crate::model::facts::{
    Database, Facts, FactsLevel, ForeignKey, Moment, Name, Part, Revision, SequenceBehind, Table, TableKind,
    Worth,
};

/// Reasons why a look did not finish although nothing is broken: no permission, no room or time, somebody's lock, a
/// standby's recovery.
const HARMLESS: [&str; 6] = ["42501", "53200", "53300", "57014", "55P03", "40001"];

/// One line.
#[derive(Debug, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
enum Line {
    Cluster {
        version: String,
        identifier: String,
        user: String,
        database: Option<String>,
        taken: DateTime<Utc>,
        started: DateTime<Utc>,
        settings: std::collections::BTreeMap<String, String>,
        checksum_failures: Option<u64>,
    },
    Role {
        name: String,
        attributes: Vec<String>,
    },
    Tablespace {
        name: String,
        location: String,
    },
    Database {
        name: String,
        #[serde(default)]
        oid: Option<u32>,
        encoding: String,
        collation: String,
        character_type: String,
        provider: String,
        locale: Option<String>,
        collation_version: Option<String>,
        recorded_collation_version: Option<String>,
        unread: Option<String>,
        template: bool,
        bytes: Option<u64>,
    },
    In {
        oldest: String,
        next: String,
    },
    Extension {
        name: String,
        version: String,
    },
    InvalidIndex {
        schema: String,
        name: String,
    },
    Table {
        schema: String,
        name: String,
        kind: String,
        #[serde(default)]
        unlogged: bool,
        #[serde(default)]
        partition: bool,
        bytes: Option<u64>,
        rows: Option<u64>,
        about: Option<f64>,
        digest: Option<String>,
        #[serde(default)]
        bytea: Vec<String>,
        #[serde(default)]
        empty: Vec<u64>,
        unread: Option<String>,
        state: Option<String>,
    },
    SequenceBehind {
        schema: String,
        name: String,
        table_schema: String,
        table: String,
        column: String,
        next: String,
        reached: String,
    },
    Sequences {
        checked: u64,
        unchecked: u64,
    },
    Revision(Revision),
    ForeignKey {
        schema: String,
        table: String,
        name: String,
        #[serde(default)]
        worth: Worth,
        orphans: Option<u64>,
        unread: Option<String>,
    },
    Remark {
        remark: String,
        part: Option<Part>,
    },
    Done {
        large_objects: u64,
    },
}

/// Returns the facts in the output.
pub(super) fn read(level: FactsLevel, output: &[u8]) -> Result<Facts, FactsError> {
    let text = String::from_utf8_lossy(output);
    let cut = || FactsError::Cut { bytes: output.len() };
    let text = text.strip_suffix("end\n").ok_or_else(cut)?;
    let mut reader = Reader {
        facts: Facts::new(NAME, level, DateTime::UNIX_EPOCH),
        current: None,
        is_done: true,
        said: Vec::new(),
        moments: Vec::new(),
    };
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.split_at_checked(1) {
            Some(("@", name)) => reader.enter(name)?,
            Some(("!", said)) => reader.said.push(said.to_owned()),
            _ => {
                let parsed = serde_json::from_str(line);
                reader.take(parsed.map_err(|_| not_understood(line))?);
            }
        }
    }
    reader.leave();
    if reader.facts.identifier.is_none() {
        return Err(cut());
    }
    Ok(reader.finish())
}

struct Reader {
    facts: Facts,
    /// The index of the database that the lines are about.
    current: Option<usize>,
    /// Whether the last line of that database has come.
    is_done: bool,
    said: Vec<String>,
    moments: Vec<Moment>,
}

impl Reader {
    fn enter(&mut self, name: &str) -> Result<(), FactsError> {
        self.leave();
        let name = decode(name).ok_or_else(|| not_understood(name))?;
        let index = self.facts.databases.iter().position(|database| database.name == name);
        // A database that was created after the list was written.
        self.current = Some(index.unwrap_or_else(|| {
            self.facts.databases.push(Database { name, ..Database::default() });
            self.facts.databases.len() - 1
        }));
        self.is_done = false;
        Ok(())
    }

    /// Ends the lines of the current database. If its last line has not come, it counts as not looked into: half of it
    /// would pass for all of it.
    fn leave(&mut self) {
        let said = std::mem::take(&mut self.said);
        let Some(database) = self.current.take().and_then(|index| self.facts.databases.get_mut(index)) else {
            return;
        };
        if self.is_done {
            return;
        }
        let line = said.iter().find(|line| !line.trim().is_empty());
        let (state, message) = message_of(line.map_or("it ended without a word", String::as_str));
        let all = std::mem::take(database);
        *database = Database {
            name: all.name,
            oid: all.oid,
            encoding: all.encoding,
            collation: all.collation,
            collation_version: all.collation_version,
            recorded_collation_version: all.recorded_collation_version,
            template: all.template,
            bytes: all.bytes,
            unread: Some(message),
            damaged: state.is_none_or(|state| !HARMLESS.contains(&state.as_str())),
            ..Database::default()
        };
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Cluster {
                version,
                identifier,
                user,
                database,
                taken,
                started,
                settings,
                checksum_failures,
            } => {
                let facts = &mut self.facts;
                // Debian adds more after the number.
                facts.engine_version = version.split(' ').next().unwrap_or_default().to_owned();
                facts.identifier = Some(identifier);
                facts.user = Some(user);
                facts.database = database;
                facts.taken = taken;
                facts.started = Some(started);
                facts.settings = settings;
                facts.checksum_failures = checksum_failures;
            }
            Line::Role { name, attributes } => _ = self.facts.roles.insert(name, attributes),
            Line::Tablespace { name, location } => _ = self.facts.tablespaces.insert(name, location),
            Line::Database {
                name,
                oid,
                encoding,
                collation,
                character_type,
                provider,
                locale,
                collation_version,
                recorded_collation_version,
                unread,
                template,
                bytes,
            } => {
                let locale = locale.map_or_else(String::new, |locale| format!(", locale {locale}"));
                self.facts.databases.push(Database {
                    name,
                    oid,
                    encoding,
                    collation: format!("{provider} {collation}, characters {character_type}{locale}"),
                    collation_version,
                    recorded_collation_version,
                    template,
                    bytes,
                    unread,
                    ..Database::default()
                });
            }
            Line::In { oldest, next } => {
                if let Ok(next_transaction) = next.parse() {
                    self.moments.push(Moment { next_transaction, settled: oldest == next });
                }
            }
            line => self.take_of_database(line),
        }
    }

    fn take_of_database(&mut self, line: Line) {
        let Some(database) = self.current.and_then(|index| self.facts.databases.get_mut(index)) else {
            return;
        };
        match line {
            Line::Extension { name, version } => _ = database.extensions.insert(name, version),
            Line::InvalidIndex { schema, name } => database.invalid_indexes.push(Name { schema, name }),
            Line::SequenceBehind { schema, name, table_schema, table, column, next, reached } => {
                database.sequences_behind.push(SequenceBehind {
                    sequence: Name { schema, name },
                    table: Name { schema: table_schema, name: table },
                    column,
                    next,
                    reached,
                });
            }
            Line::Sequences { checked, unchecked } => {
                database.sequences = checked;
                if unchecked > 0 {
                    database.unfinished.insert(Part::Sequences);
                    database
                        .remarks
                        .push(format!("{unchecked} sequences were not compared with their columns"));
                }
            }
            Line::Revision(revision) => database.revisions.push(revision),
            Line::ForeignKey { schema, table, name, worth, orphans, unread } => {
                database.foreign_keys += u64::from(orphans.is_some());
                if orphans != Some(0) || worth != Worth::Whole {
                    let table = Name { schema, name: table };
                    database.doubtful_keys.push(ForeignKey { name, table, orphans, worth, unread });
                }
            }
            Line::Remark { remark, part } => {
                database.remarks.push(remark);
                database.unfinished.extend(part);
            }
            Line::Done { large_objects } => {
                database.large_objects = Some(large_objects);
                self.is_done = true;
            }
            Line::Table { .. } => database.tables.extend(table_of(line)),
            // The lines of the cluster, which were taken before.
            _ => {}
        }
    }

    fn finish(mut self) -> Facts {
        let next_transaction = self.moments.iter().map(|moment| moment.next_transaction).max();
        self.facts.moment = next_transaction.map(|next_transaction| {
            let same = |moment: &Moment| moment.settled && moment.next_transaction == next_transaction;
            Moment { next_transaction, settled: self.moments.iter().all(same) }
        });
        self.facts
    }
}

fn table_of(line: Line) -> Option<Table> {
    let Line::Table {
        schema,
        name,
        kind,
        unlogged,
        partition,
        bytes,
        rows,
        about,
        digest,
        bytea,
        empty,
        unread,
        state,
    } = line
    else {
        return None;
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate, and not negative"
    )]
    let estimated = about.filter(|about| *about >= 0.0).map(|about| about as u64);
    Some(Table {
        name: Name { schema, name },
        kind: match kind.as_str() {
            "r" => TableKind::Table,
            "p" => TableKind::Partitioned,
            "m" => TableKind::MaterializedView,
            "f" => TableKind::Foreign,
            "v" => TableKind::View,
            _ => TableKind::Other,
        },
        partition,
        unlogged,
        bytes,
        rows,
        estimated,
        digest,
        empty: bytea.into_iter().zip(empty).collect(),
        unread,
        damaged: state.is_some_and(|state| is_damage(&state)),
    })
}

/// Whether an error says that files are gone or damaged.
fn is_damage(state: &str) -> bool {
    state.starts_with("58") || matches!(state, "XX001" | "XX002")
}

/// Returns the code and the words of an error as psql writes it: `psql:<stdin>:7: ERROR:  57014: canceling …`. A
/// failure to connect has no code.
fn message_of(line: &str) -> (Option<String>, String) {
    let is_state = |part: &&str| {
        part.len() == 5
            && part.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
            && part.contains(|c: char| c.is_ascii_digit())
    };
    match line.split(": ").map(str::trim).find(is_state) {
        Some(state) => {
            let words = line.split_once(&format!("{state}: ")).map_or(line, |(_, words)| words);
            (Some(state.to_owned()), words.trim().to_owned())
        }
        None => (None, line.trim().to_owned()),
    }
}

/// Returns a name whose bytes are written as `\0NNN`.
fn decode(octal: &str) -> Option<String> {
    let bytes: Option<Vec<u8>> =
        octal.split("\\0").skip(1).map(|digits| u8::from_str_radix(digits, 8).ok()).collect();
    String::from_utf8(bytes?).ok()
}

fn not_understood(line: &str) -> FactsError {
    FactsError::NotUnderstood { line: line.chars().take(200).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"{"fact" : "cluster", "version" : "15.18 (Debian 15.18-0+deb12u1)", "identifier" : "77", "user" : "me", "taken" : "2026-11-21T09:39:40.5Z", "started" : "2026-11-21T09:39:39.808477Z", "settings" : {"wal_level" : "replica"}, "checksum_failures" : 0}"#;

    fn database(name: &str) -> String {
        format!(
            r#"{{"fact" : "database", "name" : "{name}", "encoding" : "UTF8", "collation" : "C", "character_type" : "C", "provider" : "libc", "locale" : null, "collation_version" : null, "recorded_collation_version" : null, "unread" : null, "template" : false, "bytes" : 1}}"#
        )
    }

    fn read(lines: &[&str]) -> Result<Facts, FactsError> {
        super::read(FactsLevel::Quick, (lines.join("\n") + "\n").as_bytes())
    }

    #[test]
    fn lines_are_read_into_the_database_they_are_about() {
        let (a, b) = (database("a"), database("b\\nü"));
        let facts = read(&[
            CLUSTER,
            &a,
            &b,
            r"@\0141",
            r#"{"fact" : "in", "name" : "a", "oldest" : "7", "next" : "7"}"#,
            r#"{"fact":"table","schema":"public","name":"t","kind":"r","bytes":8192,"rows":3,"bytea":["x","y"],"empty":[1,2]}"#,
            r#"{"fact":"table","schema":"public","name":"large","kind":"r","bytes":81920000,"about":12345.0}"#,
            r#"{"fact":"foreign-key","schema":"public","table":"t","name":"fine","orphans":0}"#,
            r#"{"fact":"foreign-key","schema":"public","table":"t","name":"k","worth":"not-valid","orphans":2}"#,
            r#"{"fact":"sequences","checked":2,"unchecked":1}"#,
            r#"{"fact" : "done", "large_objects" : 0}"#,
            r"@\0142\0012\0303\0274",
            r#"{"fact" : "in", "name" : "b", "oldest" : "7", "next" : "7"}"#,
            r#"{"fact" : "done", "large_objects" : 4}"#,
            "end",
        ])
        .unwrap();
        assert_eq!((facts.engine_version.as_str(), facts.identifier.as_deref()), ("15.18", Some("77")));
        assert_eq!(facts.moment, Some(Moment { next_transaction: 7, settled: true }));
        let [a, b] = &facts.databases[..] else { panic!("{:?}", facts.databases) };
        assert_eq!((a.name.as_str(), b.name.as_str()), ("a", "b\nü"));
        assert_eq!((a.tables[0].rows, a.tables[0].empty["y"]), (Some(3), 2));
        assert_eq!((a.tables[1].rows, a.tables[1].estimated), (None, Some(12345)));
        assert_eq!((a.foreign_keys, a.doubtful_keys.len()), (2, 1));
        assert_eq!((a.doubtful_keys[0].worth, a.doubtful_keys[0].orphans), (Worth::NotValid, Some(2)));
        assert_eq!(facts.unread(), ["database a: 1 sequences were not compared with their columns"]);
        assert_eq!(b.large_objects, Some(4));
    }

    #[test]
    fn databases_of_different_moments_have_no_moment_in_common() {
        let (a, b) = (database("a"), database("b"));
        let at = |oldest: u64, next: u64| {
            format!(r#"{{"fact" : "in", "name" : "a", "oldest" : "{oldest}", "next" : "{next}"}}"#)
        };
        let done = r#"{"fact" : "done", "large_objects" : 0}"#;
        let moment = |first: &str, second: &str| {
            read(&[CLUSTER, &a, &b, r"@\0141", first, done, r"@\0142", second, done, "end"]).unwrap().moment
        };
        assert_eq!(moment(&at(7, 7), &at(8, 8)), Some(Moment { next_transaction: 8, settled: false }));
        assert_eq!(moment(&at(6, 7), &at(7, 7)), Some(Moment { next_transaction: 7, settled: false }));
        assert_eq!(moment(&at(7, 7), &at(7, 7)), Some(Moment { next_transaction: 7, settled: true }));
    }

    #[test]
    fn a_database_whose_look_was_cut_short_is_not_taken_for_one_with_fewer_tables() {
        let a = database("a");
        let table = r#"{"fact":"table","schema":"public","name":"t","kind":"r","rows":3}"#;
        let unread = |said: &str| {
            let facts = read(&[CLUSTER, &a, r"@\0141", table, said, "!LOCATION:  x", "end"]).unwrap();
            let database = &facts.databases[0];
            assert!(database.tables.is_empty());
            (database.unread.clone().unwrap(), database.damaged)
        };
        let (said, damaged) =
            unread("!psql:<stdin>:7: ERROR:  57014: canceling statement due to statement timeout");
        assert_eq!((said.as_str(), damaged), ("canceling statement due to statement timeout", false));
        let (said, damaged) =
            unread("!psql:<stdin>:7: ERROR:  58P01: could not open file \"base/16384/1259\": No such file");
        assert_eq!((said.as_str(), damaged), ("could not open file \"base/16384/1259\": No such file", true));
        let refused = "psql: error: connection to server on socket \"/run/.s.PGSQL.5432\" failed: FATAL:  no";
        assert_eq!(unread(&format!("!{refused}")), (refused.to_owned(), true));
    }

    #[test]
    fn an_output_that_was_cut_off_is_no_output() {
        let a = database("a");
        let whole = [CLUSTER, &a, r"@\0141", r#"{"fact" : "done", "large_objects" : 0}"#, "end"];
        read(&whole).unwrap();
        for length in 0..whole.len() {
            assert!(matches!(read(&whole[..length]), Err(FactsError::Cut { .. })), "{length}");
        }
        assert!(matches!(read(&["end"]), Err(FactsError::Cut { .. })));
        assert!(matches!(read(&[CLUSTER, "what?", "end"]), Err(FactsError::NotUnderstood { .. })));
    }

    #[test]
    fn damage_is_told_from_what_is_only_in_the_way() {
        for (state, damage) in
            [("58P01", true), ("58030", true), ("XX001", true), ("XX000", false), ("55P03", false)]
        {
            let line = format!(
                r#"{{"fact":"table","schema":"s","name":"t","kind":"r","unread":"x","state":"{state}"}}"#
            );
            let table = table_of(serde_json::from_str(&line).unwrap()).unwrap();
            assert_eq!(table.damaged, damage, "{state}");
        }
    }
}
