//! What a database advises where something is wrong with its data: the words and the commands for a person.

use crate::model::facts::{Facts, ForeignKey, Name, SequenceBehind};
use crate::model::hint::Hint;

/// What a database advises. It is silent where it does not say otherwise.
pub trait Advice: Send + Sync {
    /// Returns the command that mends something in a running database; `facts` are the last that were taken of it.
    fn mend(&self, _container: &str, _facts: &Facts, _flaw: &Flaw<'_>) -> Option<Hint> {
        None
    }

    /// Returns whether the files of a table may get shorter though no transaction has written.
    fn may_shrink(&self, _facts: &Facts) -> bool {
        true
    }

    /// Returns the command that saves all data of a running container as statements; a person completes it.
    fn dump(&self, _container: &str) -> Option<Hint> {
        None
    }

    /// Returns what happens to data that another image goes on with.
    fn transplant(&self, _from: &Platform<'_>, _to: &Platform<'_>) -> Transplant {
        Transplant::Fits
    }
}

/// Advises nothing: a database that is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silent;

impl Advice for Silent {}

/// What is wrong in a database, and can be mended by a statement.
#[derive(Debug, Clone, Copy)]
pub enum Flaw<'a> {
    /// Indexes of text are in another order than text is sorted in by now.
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
    /// A foreign key does not hold of what was written before it.
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

/// What a database runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform<'a> {
    /// The image, by name.
    pub image: &'a str,
    /// The C library, as "glibc 2.36", where it is known.
    pub libc: Option<&'a str>,
}

/// What happens to data that goes from one image to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transplant {
    /// Nothing.
    Fits,
    /// It is not known; what may, and what then is to be done.
    MayBreak(String),
    /// It breaks, and how.
    Breaks(String),
}
