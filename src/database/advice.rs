//! What a database advises if something is wrong with its data: words and commands for a person.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::dumps::{DumpDirectory, DumpKind};
use crate::model::container::Container;
use crate::model::facts::{Facts, ForeignKey, Name, SequenceBehind};
use crate::model::hint::Hint;
use crate::model::replication::{Consumer, StoredSlot};

/// What a database advises. By default it advises nothing.
pub trait Advice: Send + Sync {
    /// Returns the command that fixes something in a running database; `facts` are the latest ones about it.
    fn mend(&self, _container: &str, _facts: &Facts, _flaw: &Flaw<'_>) -> Option<Hint> {
        None
    }

    /// Returns whether the files of a table may get shorter although no transaction has written.
    fn may_shrink(&self, _facts: &Facts) -> bool {
        true
    }

    /// Returns what makes a replication slot anew: the command for a running container, or words where there is none.
    /// `database` is the one to reach it by; `None` for any.
    fn make_slot(
        &self,
        _container: Option<&Container>,
        _database: Option<&str>,
        _slot: &StoredSlot,
    ) -> Option<Hint> {
        None
    }

    /// Returns what becomes of somebody who follows a database that is restored to an earlier state, and what to do
    /// about it.
    fn after_a_restore(&self, _consumer: &Consumer) -> Option<String> {
        None
    }

    /// Returns the command that removes a replication slot.
    fn remove_slot(&self, _container: &Container, _slot: &str) -> Option<Hint> {
        None
    }

    /// Returns the command that saves all data of a running container as statements, in a new file.
    fn dump(&self, _container: &Container) -> Option<Hint> {
        None
    }

    /// Returns the kinds of dumps that its own programs write as directories.
    fn dump_directories(&self) -> &'static [DumpDirectory] {
        &[]
    }

    /// Returns the kinds of dumps that its own programs write.
    fn dumps(&self) -> &'static [DumpKind] {
        &[]
    }

    /// Returns when a cluster was made, by its identifier; `None` if that does not tell.
    fn made(&self, _identifier: &str) -> Option<DateTime<Utc>> {
        None
    }

    /// Returns the options that a container of the database's image is given to run on data that it finds in
    /// `data_directory`.
    fn options_on(&self, _data_directory: &Path) -> Vec<String> {
        Vec::new()
    }

    /// Returns the command that shows what the database of a running container has, as the role that may see it.
    fn show(&self, _container: &str, _superuser: &str) -> Option<Hint> {
        None
    }

    /// Returns what happens to data when another image goes on with it.
    fn transplant(&self, _from: &Platform<'_>, _to: &Platform<'_>) -> Transplant {
        Transplant::Fits
    }
}

/// Advises nothing: for an unknown database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silent;

impl Advice for Silent {}

/// Something wrong in a database that a statement can fix.
#[derive(Debug, Clone, Copy)]
pub enum Flaw<'a> {
    /// Indexes of text have another order than text now sorts in.
    Collation {
        /// The database.
        database: &'a str,
    },
    /// An extension is gone.
    Extension {
        /// The database.
        database: &'a str,
        /// The extension.
        extension: &'a str,
    },
    /// A foreign key does not hold for what was written before it.
    ForeignKey {
        /// The database.
        database: &'a str,
        /// The key.
        key: &'a ForeignKey,
    },
    /// A sequence is behind the column that it numbers.
    Sequence {
        /// The database.
        database: &'a str,
        /// The sequence, with that column.
        behind: &'a SequenceBehind,
    },
    /// An index is not valid.
    Index {
        /// The database.
        database: &'a str,
        /// The index.
        index: &'a Name,
    },
}

/// The platform that a database runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform<'a> {
    /// The image, by name.
    pub image: &'a str,
    /// The C library, such as "glibc 2.36", if it is known.
    pub libc: Option<&'a str>,
}

/// What happens to data that goes from one image to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transplant {
    /// Nothing.
    Fits,
    /// It is not known; what may happen, and what to do then.
    MayBreak(String),
    /// It breaks, and how.
    Breaks(String),
}
