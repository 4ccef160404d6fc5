//! The manifest: what a snapshot is, how it was made, and the evidence for its consistency.
//! A snapshot exists when its manifest exists. Pure data: no I/O, no clock.

use crate::model::ids::SnapshotId;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::archive::Codec;
use crate::model::container::Mount;
use crate::model::event::Phase;
use crate::model::facts::SnapshotFacts;
use crate::model::inspection::Inspection;
use crate::model::location::MountSource;

/// The format version this code writes; it reads this one and refuses later ones by name.
///
/// Fields may be added within a version: a reader ignores those it does not know. A change that an
/// older reader would misunderstand takes a new version.
pub const FORMAT_VERSION: u32 = 1;

/// The tag of a snapshot that a restore has made of the data it replaced.
pub const SAFETY_TAG: &str = "safety";

/// Why bytes are no manifest that can be believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A later volsnap wrote it.
    #[error(
        "made by a later volsnap: its format version is {found}, and this volsnap reads up to {FORMAT_VERSION}"
    )]
    LaterFormat {
        /// The version it names.
        found: u32,
    },
    /// The digest at its end does not fit what comes before, or is missing.
    #[error("not a whole manifest: it is cut short, was changed after it was written, or never was one")]
    Unsealed,
    /// It is whole, but holds something this version does not understand.
    #[error("not understood by this volsnap (written by volsnap {tool_version})")]
    NotUnderstood {
        /// The version that wrote it, as it says.
        tool_version: String,
        /// What is not understood.
        source: serde_json::Error,
    },
}

/// The result of reading a snapshot back; kept beside the manifest, one object each, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// How it was verified.
    pub kind: VerificationKind,
    /// Whether nothing was found.
    pub ok: bool,
    /// How many problems were found.
    pub problems: u64,
    /// Milliseconds it took.
    pub ms: u64,
    /// What a drill has measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillTimes>,
    /// The version of volsnap that did it.
    pub tool_version: String,
}

/// How long the parts of a drill took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillTimes {
    /// From the archive to the data on the disk.
    pub extract_ms: u64,
    /// From there to a database that answers; 0 for data that is no database.
    pub boot_ms: u64,
    /// Looking at it, and comparing.
    pub compare_ms: u64,
    /// From the archive to a database that answers: the measured recovery time.
    pub recovery_ms: u64,
}

/// How a snapshot was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerificationKind {
    /// All of it was read and digested again.
    Read,
    /// It was restored into a scratch volume and the database booted on it.
    Drill,
}

/// How writers are held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiesce {
    /// Containers are stopped.
    Stop,
    /// Containers are frozen while they run.
    Pause,
    /// Nothing is held: the database makes a backup of itself.
    Online,
    /// Nothing is held.
    None,
}

/// How bytes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// The archive is written while the writers are held.
    Direct,
    /// A copy is made while they write, and only what has changed since is read while they are held; the
    /// archive is written from the copy.
    Staged,
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
    /// The database's own backup of itself: recovers to the moment of its end.
    Online,
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
    /// Milliseconds from the moment the stop (or freeze) was asked for until the service answered (or went
    /// on); 0 when nothing was held.
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
    /// What was seen of the live data just before; `None` where nobody looked, or could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<SnapshotFacts>,
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
    /// Containers that were frozen while they ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<String>,
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
    /// The stop (or freeze) was asked for; the begin when nothing was held.
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
    /// The database's role that may see everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superuser: Option<String>,
    /// The engine's version.
    pub engine_version: String,
    /// The API version spoken.
    pub api_version: String,
    /// Architecture in Docker's words: "amd64".
    pub arch: String,
    /// The C library of the database's container, as "glibc 2.36": it sorts text. `None` where it was not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libc: Option<String>,
}

/// The last lines of a manifest file around its own digest. Their length is fixed, so the digest is
/// found without understanding what comes before, whatever fields a later volsnap has added there.
const SEAL_BEGIN: &str = ",\n  \"seal\": \"";
const SEAL_END: &str = "\"\n}\n";
const SEAL_DIGEST: usize = blake3::OUT_LEN * 2;

impl Manifest {
    /// Returns where the container of the database had the source mounted.
    #[must_use]
    pub fn mounted_at(&self) -> Option<&Path> {
        let is_source = |mount: &&Mount| match &self.location {
            MountSource::Volume(name) => mount.volume.as_ref() == Some(name),
            MountSource::Directory(path) => mount.volume.is_none() && mount.source == *path,
        };
        self.environment.mounts.iter().find(is_source).map(|mount| mount.destination.as_path())
    }

    /// Tells whether a restore has made it, of the data that it replaced: what nobody means who asks for the latest.
    #[must_use]
    pub fn is_safety(&self) -> bool {
        self.tags.contains_key(SAFETY_TAG)
    }

    /// Returns the manifest as it is stored: indented JSON whose last field, `seal`, is the BLAKE3 of
    /// all bytes before that field, so that a single changed bit anywhere is noticed.
    ///
    /// # Errors
    /// When a path in it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.truncate(json.trim_end_matches(['\n', '}']).len());
        let seal = blake3::hash(json.as_bytes()).to_hex();
        json.push_str(SEAL_BEGIN);
        json.push_str(&seal);
        json.push_str(SEAL_END);
        Ok(json)
    }

    /// Returns the manifest that [`to_json`](Self::to_json) wrote, ignoring fields added since.
    ///
    /// # Errors
    /// When the bytes are no whole, unchanged manifest of a format version this code reads.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        /// What every format version has.
        #[derive(Deserialize)]
        struct Preamble {
            format_version: u32,
            #[serde(default)]
            tool_version: String,
        }

        // The version first: a later format may be sealed in another way.
        let preamble = serde_json::from_slice::<Preamble>(bytes).map_err(|_| ManifestError::Unsealed)?;
        if preamble.format_version > FORMAT_VERSION {
            return Err(ManifestError::LaterFormat { found: preamble.format_version });
        }
        if !is_sealed(bytes) {
            return Err(ManifestError::Unsealed);
        }
        serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::NotUnderstood { tool_version: preamble.tool_version, source })
    }
}

/// Returns whether the bytes end in a seal, and it fits.
fn is_sealed(bytes: &[u8]) -> bool {
    let sealed = || {
        let rest = bytes.strip_suffix(SEAL_END.as_bytes())?;
        let (rest, digest) = rest.split_at_checked(rest.len().checked_sub(SEAL_DIGEST)?)?;
        let body = rest.strip_suffix(SEAL_BEGIN.as_bytes())?;
        Some(blake3::hash(body).to_hex().as_bytes() == digest)
    };
    sealed().unwrap_or(false)
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::CrashConsistent => "crash-consistent",
            Self::Online => "online",
            Self::Unquiesced => "unquiesced",
        })
    }
}
