//! Facts: what is true of the data at one moment, and whether it still is. Pure data and rules: no
//! I/O, no clock.
//!
//! A snapshot nobody has looked into is a hope. [`Facts`] say what the data is, and what
//! [differs](difference) from them says whether it is still that. If the database's own count of transactions
//! ([`Moment`]) proves that nothing was written in between, the comparison is strict. Otherwise it allows for
//! what clients may have done, and never cries wolf.
//!
//! | file | holds |
//! |---|---|
//! | this one | what volsnap knows of the data |
//! | [`difference`] | what may differ, and how bad that is |
//! | [`checks`] | what else the user wants to be true |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub mod checks;
pub mod difference;

/// The version of this format that this code writes. A version may gain fields: a reader ignores those it
/// does not know.
pub const FACTS_VERSION: u32 = 1;

/// How closely to look at the data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FactsLevel {
    /// Not at all.
    None,
    /// For a few seconds; estimates what is large.
    #[default]
    Quick,
    /// Every row, and what is in it.
    Full,
}

impl fmt::Display for FactsLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Quick => "quick",
            Self::Full => "full",
        })
    }
}

impl FromStr for FactsLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "quick" => Ok(Self::Quick),
            "full" => Ok(Self::Full),
            _ => Err("it is one of: none, quick, full".to_owned()),
        }
    }
}

/// What is true of the data at one moment. Holds no secret and no row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of this format.
    pub version: u32,
    /// The database's name: "postgresql"; "files" for data that is no database we know.
    pub engine: String,
    /// The server's version: "15.18".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine_version: String,
    /// How closely it was looked at.
    pub level: FactsLevel,
    /// When.
    pub taken: DateTime<Utc>,
    /// Milliseconds it took.
    #[serde(default)]
    pub ms: u64,
    /// The cluster's identifier, if the database has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// The place of this look in the sequence of transactions; `None` if it was not one moment for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
    /// The role that looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The service's own database: queries that name none go there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// When the server was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<DateTime<Utc>>,
    /// Settings of the server that matter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// How often a page did not match its checksum; `None` if pages carry none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum_failures: Option<u64>,
    /// The roles, with what each may do; never a password.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, Vec<String>>,
    /// The tablespaces, with the location of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tablespaces: BTreeMap<String, String>,
    /// The databases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<Database>,
    /// What the user's own checks gave, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, String>,
    /// The files, if nothing else is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
}

/// A place in the sequence of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The number of the next transaction that writes.
    pub next_transaction: u64,
    /// Whether every one before it had ended: then the facts have all of those, and none after.
    pub settled: bool,
}

impl Moment {
    /// Returns whether nothing at all was written between this moment and the other.
    #[must_use]
    pub fn is(self, other: Self) -> bool {
        self.settled && other.settled && self.next_transaction == other.next_transaction
    }
}

/// The facts in a manifest: what volsnap saw of the live data before it took the snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// Whether they are true of the snapshot to the last row: the database's own files say that no
    /// transaction came in between.
    pub exact: bool,
    /// What was seen.
    pub seen: Facts,
}

/// One database of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The number by which the database's files refer to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oid: Option<u32>,
    /// How its text is encoded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub encoding: String,
    /// How its text is sorted: provider, locale, character type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub collation: String,
    /// The version that the operating system or library that sorts it has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation_version: Option<String>,
    /// The version that made its indexes, as the database remembers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_collation_version: Option<String>,
    /// Whether it is a template for others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub template: bool,
    /// Bytes it takes on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why it was not looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// Whether the reason is another one than lack of time or permission.
    #[serde(default, skip_serializing_if = "is_false")]
    pub damaged: bool,
    /// Its extensions, with their versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    /// What the tools that change its schema say of its revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<Revision>,
    /// Its tables and what else has rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
    /// How many foreign keys were looked at.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub foreign_keys: u64,
    /// The keys of which there is more to say than that every row leads somewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubtful_keys: Vec<ForeignKey>,
    /// How many sequences were compared with the column they number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sequences: u64,
    /// The sequences that are behind their column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sequences_behind: Vec<SequenceBehind>,
    /// Indexes that are not valid and that nobody is building.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_indexes: Vec<Name>,
    /// How many large objects there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_objects: Option<u64>,
    /// What else was not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Of what there may be more than was looked at: what is not found in it is not known to be gone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unfinished: BTreeSet<Part>,
}

impl Database {
    /// Returns whether there may be more of this part than was looked at.
    #[must_use]
    pub fn is_unfinished(&self, part: Part) -> bool {
        self.unfinished.contains(&part) || self.unfinished.contains(&Part::All)
    }
}

/// A part of a database that is looked at by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The sequences, compared with the columns that they number.
    Sequences,
    /// The schema revisions.
    Revisions,
    /// The foreign keys.
    ForeignKeys,
    /// All of it, or what a later volsnap knows.
    #[serde(other)]
    All,
}

/// The name of something in a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

/// Writes it as SQL takes it, in quotes only if needed.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

/// Returns a name as SQL takes it, in quotes only if needed. A keyword without quotes is only shown, never
/// sent.
#[must_use]
pub fn identifier(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.is_empty() && name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// What a table is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableKind {
    /// A table with rows of its own.
    #[default]
    Table,
    /// A table whose rows are in its partitions.
    Partitioned,
    /// A materialized view.
    MaterializedView,
    /// A table of another server: not looked into.
    Foreign,
    /// A view: not looked into.
    View,
    /// What a later volsnap knows.
    #[serde(other)]
    Other,
}

/// A table, or something like one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    #[serde(flatten)]
    pub name: Name,
    /// What it is.
    #[serde(default, skip_serializing_if = "is_table")]
    pub kind: TableKind,
    /// Whether it is a part of another table.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partition: bool,
    /// Whether a crash empties it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unlogged: bool,
    /// Bytes of its rows on disk, without values that are stored apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its rows, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Its estimated rows, if they were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated: Option<u64>,
    /// A digest of all its rows, whatever their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// For each column of bytes, how many rows have nothing in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub empty: BTreeMap<String, u64>,
    /// Why it was not looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// Whether that is because its files are damaged or gone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub damaged: bool,
}

/// A foreign key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The table that refers.
    pub table: Name,
    /// Its rows that lead nowhere; `None` if nobody looked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphans: Option<u64>,
    /// What the constraint is worth.
    #[serde(default, skip_serializing_if = "Worth::is_whole")]
    pub worth: Worth,
    /// Why it was not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// What a constraint is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worth {
    /// It holds for every row.
    #[default]
    Whole,
    /// It holds for what was written since it was made.
    NotValid,
    /// Nothing enforces it.
    #[serde(other)]
    Disabled,
}

impl Worth {
    fn is_whole(&self) -> bool {
        *self == Self::Whole
    }
}

/// A sequence whose next numbers are already taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceBehind {
    /// The sequence.
    pub sequence: Name,
    /// The table whose column it numbers.
    pub table: Name,
    /// That column.
    pub column: String,
    /// The number it gives next.
    pub next: String,
    /// What the column has reached.
    pub reached: String,
}

/// What a tool that changes the schema says of its revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The tool: "alembic", "django" …
    pub tool: String,
    /// The schema its table is in.
    pub schema: String,
    /// The latest revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many were applied.
    pub applied: u64,
    /// Why it was not read: then nothing above is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// What volsnap knows of data that is no database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Regular files.
    pub files: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Digest of the whole tree, as its file list has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Facts in a few numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FactsSummary {
    /// Databases, without the templates.
    pub databases: u64,
    /// Tables that have rows of their own.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Whether some of the rows are estimated or not counted.
    pub estimated: bool,
}

impl Facts {
    /// Returns empty facts.
    #[must_use]
    pub fn new(engine: &str, level: FactsLevel, taken: DateTime<Utc>) -> Self {
        Self {
            version: FACTS_VERSION,
            engine: engine.to_owned(),
            engine_version: String::new(),
            level,
            taken,
            ms: 0,
            identifier: None,
            moment: None,
            user: None,
            database: None,
            started: None,
            settings: BTreeMap::new(),
            checksum_failures: None,
            roles: BTreeMap::new(),
            tablespaces: BTreeMap::new(),
            databases: Vec::new(),
            checks: BTreeMap::new(),
            files: None,
        }
    }

    /// Returns the facts of data that is no database.
    #[must_use]
    pub fn of_files(files: Files, taken: DateTime<Utc>) -> Self {
        Self { files: Some(files), ..Self::new("files", FactsLevel::Quick, taken) }
    }

    /// Returns the facts in a few numbers.
    #[must_use]
    pub fn summary(&self) -> FactsSummary {
        let mut summary = FactsSummary::default();
        for database in &self.databases {
            summary.databases += u64::from(!database.template);
            for table in database.tables.iter().filter(|table| table.has_rows()) {
                summary.tables += 1;
                summary.rows += table.rows.or(table.estimated).unwrap_or(0);
                summary.estimated |= table.rows.is_none();
            }
        }
        summary
    }

    /// Returns the tables with rows that a crash empties, and a backup of the running server leaves out: "shop:
    /// public.cache".
    #[must_use]
    pub fn unlogged(&self) -> Vec<String> {
        let of = |database: &Database| -> Vec<String> {
            let tables = database.tables.iter().filter(|table| table.unlogged && table.rows != Some(0));
            tables.map(|table| format!("{}: {}", database.name, table.name)).collect()
        };
        self.databases.iter().flat_map(of).collect()
    }

    /// Returns what was not looked at, and why, one a line. The estimates of quick facts are not listed: they
    /// are what quick means.
    #[must_use]
    pub fn unread(&self) -> Vec<String> {
        let mut unread = Vec::new();
        for database in &self.databases {
            // Of a template that nobody may look into there is nothing to say.
            if let Some(why) = database.unread.as_ref().filter(|_| !database.template) {
                unread.push(format!("database {}: {why}", database.name));
            }
            unread.extend(database.remarks.iter().map(|why| format!("database {}: {why}", database.name)));
            let tables =
                database.tables.iter().filter_map(|table| Some((&table.name, table.unread.as_ref()?)));
            unread.extend(tables.map(|(name, why)| format!("{}: table {name}: {why}", database.name)));
            let revisions =
                database.revisions.iter().filter_map(|revision| Some((revision, revision.unread.as_ref()?)));
            unread.extend(revisions.map(|(revision, why)| {
                format!(
                    "{}: schema revision of {} in {}: {why}",
                    database.name,
                    revision.tool,
                    identifier(&revision.schema)
                )
            }));
            let keys = database.doubtful_keys.iter().filter_map(|key| Some((key, key.unread.as_ref()?)));
            unread.extend(keys.map(|(key, why)| {
                format!("{}: foreign key {} of {}: {why}", database.name, identifier(&key.name), key.table)
            }));
        }
        unread
    }
}

impl Table {
    /// Returns whether its kind has rows of its own.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        matches!(self.kind, TableKind::Table | TableKind::MaterializedView)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_table(value: &TableKind) -> bool {
    *value == TableKind::Table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_a_later_volsnap_are_read_as_far_as_they_are_known() {
        let later = r#"{"version": 2, "engine": "postgresql", "level": "quick", "taken": "2026-11-20T20:30:11Z",
            "weather": "fine", "databases": [{"name": "a", "mood": 1, "tables": [
                {"schema": "public", "name": "t", "kind": "graph", "rows": 3, "colour": "blue"}],
                "doubtful_keys": [{"name": "k", "table": {"schema": "public", "name": "t"}, "worth": "dreamt"}]}]}"#;
        let facts: Facts = serde_json::from_str(later).unwrap();
        let database = &facts.databases[0];
        assert_eq!((database.tables[0].kind, database.tables[0].rows), (TableKind::Other, Some(3)));
        assert_eq!(database.doubtful_keys[0].worth, Worth::Disabled);
    }

    #[test]
    fn what_is_not_known_is_not_written() {
        let table = Table {
            name: Name { schema: "public".into(), name: "t".into() },
            rows: Some(3),
            ..Table::default()
        };
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(json, r#"{"schema":"public","name":"t","rows":3}"#);
        assert_eq!(serde_json::from_str::<Table>(&json).unwrap(), table);
    }

    #[test]
    fn only_odd_names_are_quoted() {
        let shown = |name: &str| Name { schema: "public".into(), name: name.into() }.to_string();
        assert_eq!(shown("images_2"), "public.images_2");
        assert_eq!(shown("a\"b"), "public.\"a\"\"b\"");
        assert_eq!(shown("Users"), "public.\"Users\"");
        assert_eq!(shown("1st"), "public.\"1st\"");
        assert_eq!(shown(""), "public.\"\"");
    }

    #[test]
    fn a_moment_is_another_only_when_every_transaction_had_ended() {
        let moment = |next_transaction, settled| Moment { next_transaction, settled };
        assert!(moment(7, true).is(moment(7, true)));
        assert!(!moment(7, true).is(moment(7, false)));
        assert!(!moment(7, false).is(moment(7, true)));
        assert!(!moment(7, true).is(moment(8, true)));
    }
}
