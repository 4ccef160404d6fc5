//! What volsnap knows of each kind of database, in one place each.
//!
//! A [`Profile`] has two halves: what is known of a *container* that runs the database (asked from
//! the command), and what is known of its *files* (asked by the agent, next to the data). Only the
//! files prove a clean shutdown.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::docker::Container;

pub mod postgres;

/// What volsnap knows of one kind of database.
pub trait Profile: Send + Sync + fmt::Debug {
    /// Returns the name that is shown and stored: "postgresql".
    fn name(&self) -> &'static str;

    /// Returns whether this container runs (or was made to run) this database.
    fn recognises(&self, container: &Container) -> bool;

    /// Returns the data directory inside the container, as its configuration has it.
    fn data_directory(&self, container: &Container) -> Option<PathBuf>;

    /// Returns the major version that the container's image says it has: "15".
    fn major_version(&self, container: &Container) -> Option<String>;

    /// Returns the command that prints the data directory of the running database, run inside its
    /// container. Secrets come from the container's own environment, never from the command.
    fn data_directory_command(&self, container: &Container) -> Vec<String>;

    /// Returns the command that exits with 0 once the database answers a query over TCP. It checks
    /// once and is quick.
    fn ready_command(&self, container: &Container) -> Vec<String>;

    /// Returns the command that waits inside the container until the database answers, for at most
    /// `limit`; one call instead of many.
    fn await_ready_command(&self, container: &Container, limit: Duration) -> Vec<String>;

    /// Returns the signal that asks for a fast, clean shutdown: "SIGINT".
    fn stop_signal(&self) -> &'static str;

    /// Returns how long a shutdown may take before it is reported as stuck.
    fn stop_timeout(&self) -> Duration;

    /// Returns the data directories below `root`, relative to it, shallowest first.
    ///
    /// # Errors
    /// When a directory cannot be read.
    fn find(&self, root: &Path) -> io::Result<Vec<PathBuf>>;

    /// Returns what the files of a data directory say; `data_directory` is relative to `root`.
    ///
    /// `mounted_at` is where `root` is mounted in the database's container, if it is known: an
    /// absolute link below that leads into the source, any other leads out of it.
    ///
    /// # Errors
    /// When a file that must be there cannot be read. One that is damaged is no error: it is among
    /// the [reasons](Inspection::reasons).
    fn inspect(
        &self,
        root: &Path,
        data_directory: &Path,
        mounted_at: Option<&Path>,
    ) -> io::Result<Inspection>;

    /// Returns the files, relative to `root`, without which the database refuses to start: an
    /// archive has them last, so that half a restore is no database.
    fn written_last(&self, data_directory: &Path) -> Vec<PathBuf>;

    /// Returns the file, relative to `root`, that the proof of a clean shutdown rests on.
    fn proof_file(&self, data_directory: &Path) -> PathBuf;

    /// Returns what checks the content of a file of a cleanly stopped database as it streams past;
    /// `path` is relative to the data directory. `None` for a file whose content proves nothing.
    fn content_check(&self, inspection: &Inspection, path: &Path) -> Option<Box<dyn ContentCheck>>;
}

/// Checks the content of one file, which comes in pieces of any length.
pub trait ContentCheck {
    /// Takes the next piece.
    fn feed(&mut self, piece: &[u8]);

    /// Ends the file and returns what was found.
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
    /// The page, counted from 0, where it is one page.
    pub block: Option<u64>,
    /// What is wrong with it.
    pub what: String,
}

/// Whether the database's pages carry checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PageChecksums {
    /// They do.
    On,
    /// They do not: damage inside a page cannot be seen.
    Off,
    /// It is not known (being switched, or an unknown version).
    Unknown,
}

/// What the files of a data directory say about it, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The profile's name: "postgresql".
    pub engine: String,
    /// The major version as the files have it: "15".
    pub version: String,
    /// The data directory, relative to the source's root; "" for the root itself.
    pub data_directory: PathBuf,
    /// What identifies the cluster, where the database has such a thing.
    pub identifier: Option<String>,
    /// The state by the database's own files, in its words: "shut down", "in production".
    pub state: String,
    /// Whether the files prove a clean shutdown.
    pub clean: bool,
    /// Why they do not; empty when they do.
    pub reasons: Vec<String>,
    /// BLAKE3 of the file the proof rests on (PostgreSQL: `global/pg_control`), hexadecimal: the same
    /// before and after the copy, or nobody may call the copy clean.
    pub proof_digest: String,
    /// Whether pages carry checksums.
    pub page_checksums: PageChecksums,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of a full segment file; numbers the pages of later segments.
    pub pages_per_segment: u32,
    /// The profile's own details worth keeping (catalog version, checkpoint, timeline …).
    pub details: std::collections::BTreeMap<String, String>,
    /// Links in the data directory that lead to data the source does not have, because it lies
    /// outside or is gone: a capture would miss it.
    pub outside: Vec<OutsideLink>,
}

/// A link in a data directory whose data the source does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideLink {
    /// What it is: "tablespace 16400", "pg_wal".
    pub what: String,
    /// Where the link lies, relative to the source's root.
    pub path: PathBuf,
    /// Where it leads, as the link itself says.
    pub target: PathBuf,
}

/// Returns every profile there is.
#[must_use]
pub fn profiles() -> &'static [&'static dyn Profile] {
    &[&postgres::Postgres]
}

/// Returns the profile of that name.
#[must_use]
pub fn profile(name: &str) -> Option<&'static dyn Profile> {
    profiles().iter().copied().find(|profile| profile.name() == name)
}

/// Returns the profile that recognises the container.
#[must_use]
pub fn profile_of(container: &Container) -> Option<&'static dyn Profile> {
    profiles().iter().copied().find(|profile| profile.recognises(container))
}
