//! A database's files, read where they lie.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::inspection::Inspection;
use crate::model::position::Position;
use crate::model::replication::StoredSlot;

/// What is known of a data directory by its files. Only they prove a clean shutdown.
pub trait DataFiles: Send + Sync + fmt::Debug {
    /// Returns the data directories below `root`, relative to it, shallowest first.
    ///
    /// # Errors
    /// When a directory cannot be read.
    fn find(&self, root: &Path) -> io::Result<Vec<PathBuf>>;

    /// Returns what the files of a data directory say; `data_directory` is relative to `root`.
    ///
    /// `mounted_at` is where `root` is mounted in the database's container, if that is known: an absolute link below
    /// it leads into the source, any other leads out of it.
    ///
    /// # Errors
    /// When a required file cannot be read. A damaged file is no error: it is among the
    /// [reasons](Inspection::reasons).
    fn inspect(
        &self,
        root: &Path,
        data_directory: &Path,
        mounted_at: Option<&Path>,
    ) -> io::Result<Inspection>;

    /// Returns the files, relative to `root`, without which the database refuses to start: an archive has them last,
    /// so that half a restore is no database.
    fn written_last(&self, data_directory: &Path) -> Vec<PathBuf>;

    /// Returns the file, relative to `root`, on which the proof of a clean shutdown rests.
    fn proof_file(&self, data_directory: &Path) -> PathBuf;

    /// Returns the log without which no server starts on a copy of its files; `None` if it needs none.
    fn needed_log(&self) -> Option<&'static NeededLog> {
        None
    }

    /// Returns a checker for the content of a file of a cleanly stopped database as it streams past; `path` is
    /// relative to the data directory. `None` for a file whose content proves nothing.
    fn content_check(&self, _inspection: &Inspection, _path: &Path) -> Option<Box<dyn ContentCheck>> {
        None
    }

    /// Removes from files that no server runs on what only the server that they were copied from could go on with, as a
    /// base backup leaves it out: replication slots. Returns those that were there; syncs what it changed.
    ///
    /// # Errors
    /// When one cannot be removed.
    fn remove_slots(&self, _root: &Path, _data_directory: &Path) -> io::Result<Vec<StoredSlot>> {
        Ok(Vec::new())
    }

    /// Returns where files with this inspection stand in the database's log; `None` if they do not tell.
    fn position(&self, _inspection: &Inspection) -> Option<Position> {
        None
    }
}

/// The log that a server reads before it is up, and where backups have it.
#[derive(Debug)]
pub struct NeededLog {
    /// What it is called, for a person.
    pub name: &'static str,
    /// Where its files are, below the data directory.
    pub directory: &'static str,
    /// Whether a file of that name there is one of them.
    pub is_part: fn(&str) -> bool,
    /// What a backup calls the archive of it that lies beside that of the data.
    pub archive: &'static str,
    /// What it calls the archive of the data.
    pub data_archive: &'static str,
    /// How a person gets it.
    pub way: &'static str,
    /// The file in the data directory that says that parts of the data are in further archives.
    pub map: &'static str,
}

/// Checks the content of one file, which comes in pieces of any length.
pub trait ContentCheck {
    /// Takes the next piece.
    fn feed(&mut self, piece: &[u8]);

    /// Ends the file and returns what it found.
    fn finish(self: Box<Self>) -> Checked;
}

/// What a [`ContentCheck`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Pages that were checked.
    pub pages: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

/// A damaged place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The page, counted from 0, if it is one page.
    pub block: Option<u64>,
    /// What is wrong with it.
    pub what: String,
}
