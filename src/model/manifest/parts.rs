//! What a snapshot has of each volume or directory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::archive::Codec;
use crate::model::location::MountSource;

/// One volume or directory in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What was captured.
    pub location: MountSource,
    /// The archive.
    pub archive: ArchiveInfo,
    /// The file list.
    pub file_list: FileListInfo,
    /// Files, bytes and what was left out.
    pub counts: Counts,
}

/// The parts of a snapshot. There is exactly one as long as nothing captures several volumes in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Part>", into = "Vec<Part>")]
pub struct Parts([Part; 1]);

impl Parts {
    /// Returns the parts of a snapshot of one volume or directory.
    #[must_use]
    pub fn one(part: Part) -> Self {
        Self([part])
    }

    /// Returns the first part.
    #[must_use]
    pub fn first(&self) -> &Part {
        let [first] = &self.0;
        first
    }

    /// Returns the first part.
    pub fn first_mut(&mut self) -> &mut Part {
        let [first] = &mut self.0;
        first
    }
}

impl TryFrom<Vec<Part>> for Parts {
    type Error = String;

    fn try_from(parts: Vec<Part>) -> Result<Self, String> {
        parts.try_into().map(Self).map_err(|parts: Vec<Part>| {
            format!("it has {} parts, but this volsnap reads only one", parts.len())
        })
    }
}

impl From<Parts> for Vec<Part> {
    fn from(parts: Parts) -> Self {
        parts.0.into()
    }
}

/// The archive file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveInfo {
    /// File name in the source's directory.
    pub file: String,
    /// How it is compressed.
    pub codec: Codec,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Bytes of the tar stream inside.
    pub tar_bytes: u64,
    /// BLAKE3 of the stored bytes, hexadecimal.
    pub blake3: String,
}

/// The file list's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileListInfo {
    /// File name in the source's directory.
    pub file: String,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// BLAKE3 of the stored bytes, hexadecimal.
    pub blake3: String,
}

/// What the archive holds and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Members of the archive of every kind.
    pub members: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of the files' contents, holes included.
    pub raw_bytes: u64,
    /// Sockets, which no archive can hold.
    pub sockets_skipped: u64,
    /// Members that the user excluded.
    pub excluded: u64,
    /// Files that vanished before they were read; only if nothing was held.
    pub vanished: u64,
    /// Files that changed while they were read; only if nothing was held.
    pub changed: Vec<PathBuf>,
}
