//! The manifest: what a snapshot is, how it was made, and the evidence for its consistency.
//! A snapshot exists when its manifest exists. Pure data: no I/O, no clock.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::archive::Codec;
use crate::database::Inspection;
use crate::docker::{Mount, MountSource};
use crate::monitor::Phase;

/// The format version this code writes; it reads this one and refuses later ones by name.
pub const FORMAT_VERSION: u32 = 1;

/// A snapshot's id: the moment of its begin and six random hexadecimal digits, as
/// `20261120T203011Z-4f2a91`. Ids sort by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(String);

/// How writers are held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiesce {
    /// Containers are stopped.
    Stop,
    /// Nothing is held.
    None,
}

/// How bytes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// The archive is written while the writers are held.
    Direct,
}

/// What may be believed of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// The shutdown is proved by the database's own files; for data that is no database, nothing
    /// that uses it ran meanwhile.
    Clean,
    /// Recovers like after a power loss.
    CrashConsistent,
    /// Nothing was held while it was read.
    Unquiesced,
}

/// What a snapshot is: the last file written, and the one that makes it exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format_version: u32,
    /// The snapshot's id.
    pub id: SnapshotId,
    /// The name under which the repository keeps this source.
    pub source: String,
    /// What was captured.
    pub location: MountSource,
    /// How a person calls it.
    pub title: String,
    /// How writers were held still.
    pub quiesce: Quiesce,
    /// How bytes were taken.
    pub capture: Capture,
    /// What may be believed of the data.
    pub consistency: Consistency,
    /// What that rests on.
    pub evidence: Evidence,
    /// When things happened.
    pub times: Times,
    /// Milliseconds from the moment the stop was asked for until the service answered; 0 when
    /// nothing was stopped.
    pub downtime_ms: u64,
    /// The parts of the run.
    pub phases: Vec<PhaseTime>,
    /// The archive.
    pub archive: ArchiveInfo,
    /// The file list.
    pub file_list: FileListInfo,
    /// Files, bytes and what was left out.
    pub counts: Counts,
    /// What the data ran in.
    pub environment: Environment,
    /// The user's tags.
    pub tags: BTreeMap<String, String>,
    /// The version of volsnap that wrote it.
    pub tool_version: String,
}

/// What the consistency rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Evidence {
    /// What the database's own files said once everything was stopped; `None` when it is no database.
    pub database: Option<Inspection>,
    /// Whether the file the proof rests on was read again after the last byte and was the same.
    pub unchanged_after: bool,
    /// How each container that was stopped ended.
    pub stopped: Vec<StoppedContainer>,
    /// In words, why it is not clean; empty when it is.
    pub reasons: Vec<String>,
}

/// How a container that was stopped ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedContainer {
    /// Its name.
    pub name: String,
    /// Exit code.
    pub exit_code: i64,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
}

/// When things happened, UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The run began.
    pub started: DateTime<Utc>,
    /// The stop was asked for; the begin when nothing was stopped.
    pub held: DateTime<Utc>,
    /// The service answered again.
    pub released: DateTime<Utc>,
    /// The manifest was written.
    pub published: DateTime<Utc>,
}

/// How long a part of the run took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which part.
    pub phase: Phase,
    /// Milliseconds.
    pub ms: u64,
    /// Bytes read in it.
    pub bytes: u64,
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
    /// Members left out on the user's word.
    pub excluded: u64,
    /// Files that vanished before they were read; only where nothing was held.
    pub vanished: u64,
    /// Files that changed while they were read; only where nothing was held.
    pub changed: Vec<PathBuf>,
}

/// What the data ran in. Holds no environment variable: those have secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The database container's name.
    pub container: Option<String>,
    /// The image as it was named.
    pub image: Option<String>,
    /// The image's content id, `sha256:…`.
    pub image_id: Option<String>,
    /// Digests under which a registry knows the image.
    pub image_digests: Vec<String>,
    /// The compose labels of the container.
    pub labels: BTreeMap<String, String>,
    /// The container's mounts.
    pub mounts: Vec<Mount>,
    /// The data directory in the container.
    pub data_directory: Option<PathBuf>,
    /// The engine's version.
    pub engine_version: String,
    /// The API version spoken.
    pub api_version: String,
    /// Architecture in Docker's words: "amd64".
    pub arch: String,
}

impl SnapshotId {
    /// Returns the id of a snapshot begun at `started`, with `random` to tell apart those of one
    /// second.
    #[must_use]
    pub fn new(started: DateTime<Utc>, random: [u8; 3]) -> Self {
        let [a, b, c] = random;
        Self(format!("{}-{a:02x}{b:02x}{c:02x}", started.format("%Y%m%dT%H%M%SZ")))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::CrashConsistent => "crash-consistent",
            Self::Unquiesced => "unquiesced",
        })
    }
}
