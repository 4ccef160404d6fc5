//! What a database's own files say of its data. Pure data.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::replication::StoredSlot;

/// Whether the database's pages carry checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PageChecksums {
    /// They do.
    On,
    /// They do not: nobody can see damage inside a page.
    Off,
    /// Unknown (the database is switching them, or its version is unknown).
    Unknown,
}

/// What the files of a data directory say about it, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The database's name: "postgresql".
    pub engine: String,
    /// The major version as the files have it: "15".
    pub version: String,
    /// The data directory, relative to the source's root; "" for the root itself.
    pub data_directory: PathBuf,
    /// The cluster's identifier, if the database has one.
    pub identifier: Option<String>,
    /// The state in the words of the database's own files: "shut down", "in production".
    pub state: String,
    /// Whether the files prove a clean shutdown.
    pub clean: bool,
    /// Why they do not; empty when they do.
    pub reasons: Vec<String>,
    /// BLAKE3 of the file the proof rests on, hexadecimal: the same before and after the copy, or nobody may call the
    /// copy clean.
    pub proof_digest: String,
    /// Whether pages carry checksums; `None` where files are not made of pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_checksums: Option<PageChecksums>,
    /// Bytes of a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<NonZeroU32>,
    /// Pages of a full segment file, where what is large lies in several; numbers the pages of the later ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages_per_segment: Option<NonZeroU32>,
    /// The database's own details worth keeping.
    pub details: BTreeMap<String, String>,
    /// Links in the data directory to data that lies outside the source or is gone: a capture would miss
    /// that data.
    pub outside: Vec<OutsideLink>,
    /// Files and directories that its configuration is taken from according to its files, and that lie outside the
    /// source; absolute in the container, and known only if it is known where that mounts the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configuration: Vec<PathBuf>,
    /// The replication slots that the server would take up again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<StoredSlot>,
}

/// A link in a data directory to data that the source does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideLink {
    /// What it is: "tablespace 16400".
    pub what: String,
    /// The link's path, relative to the source's root.
    pub path: PathBuf,
    /// Where it leads, as the link itself says.
    pub target: PathBuf,
}
