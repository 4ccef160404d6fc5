//! What may differ between two looks at the same data, and how bad that is. Pure data.

use serde::{Deserialize, Serialize};

use crate::model::hint::Hint;

/// What kind of thing differs. Programs rely on the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// The cluster is another one.
    AnotherCluster,
    /// Transactions that had happened are gone.
    WentBack,
    /// The server was not shut down cleanly and had to recover.
    CrashRecovery,
    /// Data is on other volumes or directories than before.
    OtherVolume,
    /// Pages did not match their checksums.
    ChecksumFailures,
    /// The server is of another version.
    EngineVersion,
    /// A setting of the server.
    Setting,
    /// A role is gone.
    MissingRole,
    /// A role may do other things.
    RoleChanged,
    /// A role is new.
    NewRole,
    /// A tablespace is gone.
    MissingTablespace,
    /// A tablespace lies elsewhere.
    TablespaceMoved,
    /// A database is gone.
    MissingDatabase,
    /// A database cannot be looked into any more.
    UnreadableDatabase,
    /// A database has lost all its rows.
    EmptiedDatabase,
    /// A database is new.
    NewDatabase,
    /// Text is encoded or sorted in another way.
    CollationChanged,
    /// An extension is gone.
    MissingExtension,
    /// An extension has another version.
    ExtensionVersion,
    /// An extension is new.
    NewExtension,
    /// The schema is of another revision.
    SchemaRevision,
    /// A table is gone.
    MissingTable,
    /// A table cannot be read any more.
    UnreadableTable,
    /// A table is new.
    NewTable,
    /// A table has fewer rows.
    FewerRows,
    /// A table has more rows.
    MoreRows,
    /// A table that was not counted has shrunk.
    ShrunkenTable,
    /// The rows are others.
    ChangedContent,
    /// Rows of a column of bytes have nothing in it any more.
    #[serde(rename = "emptied-bytea")]
    EmptiedBytes,
    /// There are fewer or more large objects.
    LargeObjects,
    /// Rows have a foreign key that leads nowhere.
    Orphans,
    /// A foreign key does not hold of every row any more.
    WeakenedKey,
    /// A sequence gives numbers that are taken.
    SequenceBehind,
    /// An index is not valid.
    InvalidIndex,
    /// The files are others.
    Files,
}

/// How bad a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No client does this by writing.
    Damage,
    /// Clients wrote in between, and this is what writing does.
    Explained,
    /// Worth knowing.
    Information,
}

/// Something that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What kind of thing it is.
    pub kind: DifferenceKind,
    /// How bad it is.
    pub severity: Severity,
    /// What differs: "memory_db: table public.images".
    pub object: String,
    /// What it was, where there is such a thing.
    pub before: Option<String>,
    /// What it is.
    pub after: Option<String>,
    /// The next command to type.
    pub next: Option<Hint>,
}

/// What came of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Whether nothing was written in between, so that everything has to be the same.
    pub strict: bool,
    /// What differs, the worst first.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Returns whether there is no damage.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.differences.iter().all(|difference| difference.severity != Severity::Damage)
    }
}
