//! What command and agent say to each other: one JSON object a line, requests on the agent's
//! standard input, events on its standard error. Archive and file list travel apart from this, as
//! [frames](crate::archive) over a FIFO or the standard output.
//!
//! The agent ends when its standard input ends: a command that dies leaves no helper behind.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::archive::ArchiveStats;
use crate::archive::Codec;
use crate::database::Inspection;

/// What the command asks of the agent, one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Look at the whole source once; answered by [`Event::Surveyed`].
    Survey {
        /// Globs, relative to the root, of what the archive will leave out.
        exclude: Vec<String>,
    },
    /// Read the database's own files; answered by [`Event::Inspected`].
    Inspect {
        /// The profile's name.
        engine: String,
        /// The data directory, relative to the root.
        data_directory: PathBuf,
        /// Where the database's container mounts the source, which tells its absolute links apart.
        mounted_at: Option<PathBuf>,
    },
    /// Write the archive and the file list; answered by [`Event::Archived`].
    Archive(ArchiveRequest),
}

/// How the archive is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRequest {
    /// How it is compressed.
    pub codec: Codec,
    /// Globs, relative to the root, of what is left out.
    pub exclude: Vec<String>,
    /// Members written last, relative to the root.
    pub last: Vec<PathBuf>,
    /// Whether all writers are held: then a file that changes is an error.
    pub held: bool,
}

/// What the agent tells the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The agent runs and can read the source.
    Ready {
        /// The agent's version.
        version: String,
        /// Whether it found the FIFO that the command made, which proves that both see one
        /// file system.
        fifo: bool,
    },
    /// The answer to [`Request::Survey`].
    Surveyed(Survey),
    /// The answer to [`Request::Inspect`].
    Inspected(Inspection),
    /// Work done so far.
    Progress {
        /// Files read.
        files: u64,
        /// Bytes of content read, holes included.
        bytes: u64,
    },
    /// The answer to [`Request::Archive`], once the last byte is handed over.
    Archived(ArchiveStats),
    /// The request failed.
    Failed {
        /// What was being done to which file, and why it failed.
        message: String,
    },
}

/// What a source holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Entries of every kind, without the root.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of the files' contents, holes included.
    pub bytes: u64,
    /// Bytes the files occupy on disk.
    pub disk_bytes: u64,
    /// Data directories found, and of which engine.
    pub databases: Vec<FoundDatabase>,
}

/// A data directory in a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundDatabase {
    /// The profile's name.
    pub engine: String,
    /// The directory, relative to the root; "" for the root itself.
    pub data_directory: PathBuf,
}
