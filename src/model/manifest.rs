//! The manifest: what a snapshot is, how it was made, and the evidence for its consistency.
//! A snapshot exists when its manifest exists. Pure data: no I/O, no clock.
//!
//! | file | holds |
//! |---|---|
//! | this one | what volsnap knows of a snapshot |
//! | `parts` | what a snapshot has of each volume or directory |
//! | `sealed` | what of it is in clear, and what is sealed, if the snapshot is encrypted |
//! | `stored` | the file: its format number, what a reader must know, the seal, the fields that are kept unread |

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::container::Mount;
use crate::model::event::Phase;
use crate::model::facts::SnapshotFacts;
use crate::model::ids::{GroupId, SnapshotId};
use crate::model::inspection::Inspection;
use crate::model::location::MountSource;
use crate::model::position::Position;
use crate::model::unknown::UnknownFields;

mod parts;
mod sealed;
mod stored;

pub use parts::{ArchiveInfo, Counts, FileListInfo, Part, Parts};
pub use sealed::{PlainDigests, Sealed, SealedContents};
pub use stored::{FORMAT_VERSION, Feature, ManifestError};

/// The tag of a snapshot that a restore made of the data it replaced.
pub const SAFETY_TAG: &str = "safety";
/// The tag of a safety snapshot that says what has replaced its data: a snapshot, or the path of an archive.
pub const REPLACED_BY_TAG: &str = "replaced-by";
/// The tag of a safety snapshot of a fresh database, which has nothing that anybody would miss.
pub const FRESH_TAG: &str = "fresh";

/// The result of reading a snapshot back; kept beside the manifest, one object each, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Verification {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// How it was verified.
    pub kind: VerificationKind,
    /// Whether it found no problem.
    pub ok: bool,
    /// How many problems it found.
    pub problems: u64,
    /// Milliseconds it took.
    pub ms: u64,
    /// What it shows if it is ok; `None` if an earlier volsnap did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// What a drill measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillTimes>,
    /// The version of volsnap that did it.
    pub tool_version: String,
    /// What a later volsnap said besides.
    #[serde(skip)]
    pub unknown: UnknownFields,
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

/// What a look at a snapshot has shown, each more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// Its stored bytes are what was stored. It is encrypted, and nobody looked inside.
    Stored,
    /// Every byte of the archive was read back and is what was stored.
    Verified,
    /// It was unpacked, and every file is what was stored.
    Unpacked,
    /// Its database answers on it; there was nothing to compare its data with.
    Booted,
    /// Its database answers on it, and has what it had when the snapshot was taken.
    Proved,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored as it was",
            Self::Verified => "verified",
            Self::Unpacked => "unpacked",
            Self::Booted => "booted",
            Self::Proved => "proved",
        })
    }
}

impl Verification {
    /// Returns what it shows; `None` if it found damage. An earlier volsnap's drill shows no more than its times
    /// say.
    #[must_use]
    pub fn shows(&self) -> Option<Proof> {
        let of_drill = |times: &DrillTimes| if times.boot_ms > 0 { Proof::Booted } else { Proof::Unpacked };
        let told = match self.kind {
            VerificationKind::Read => Proof::Verified,
            VerificationKind::Drill => self.drill.as_ref().map_or(Proof::Unpacked, of_drill),
        };
        self.ok.then(|| self.proof.unwrap_or(told))
    }
}

/// How to hold writers still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiesce {
    /// Containers are stopped.
    Stop,
    /// Containers are frozen while they run.
    Pause,
    /// Nothing is held: the database backs itself up. The user's word for it is "online".
    #[serde(rename = "online")]
    Native,
    /// Nothing is held.
    None,
}

/// When to copy the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// The archive is written while the writers are held.
    Direct,
    /// A copy is made while they write; while they are held, only what has changed since is copied. The archive is
    /// written from the copy.
    Staged,
}

/// How the data was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Method {
    /// How writers were held still.
    #[serde(with = "stored::StoredQuiesce")]
    pub quiesce: Quiesce,
    /// When the bytes were copied.
    pub capture: Capture,
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// The files themselves.
    #[default]
    Physical,
}

/// What may be believed of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// The database's own files prove the shutdown, before the copy and after it.
    Clean,
    /// No container that can write to it ran while it was read; no files prove how the shutdown went.
    StoppedAndQuiet,
    /// As [`StoppedAndQuiet`](Self::StoppedAndQuiet), except for containers that ran and could write there, though
    /// nothing says that they use it; the evidence names them.
    QuietExcept,
    /// All of it is of one moment; recovers as after a power loss.
    CrashConsistent,
    /// The database backed itself up: recovers to the moment at which the backup ended.
    Online,
    /// It was in use while it was read.
    Unquiesced,
}

/// What a snapshot is: the last file written, and the one that makes it exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Manifest {
    /// The version of the format that it was read from; it is written in the [newest](FORMAT_VERSION).
    #[serde(serialize_with = "stored::newest_version")]
    pub format_version: u32,
    /// What a reader must know to understand it.
    pub requires: Vec<Feature>,
    /// The snapshot's id.
    pub id: SnapshotId,
    /// The name under which the repository keeps this source.
    pub source: String,
    /// The snapshots of one moment share it; `None` for one that was taken alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// The snapshots of the same source without which it cannot be restored; none for one that stands alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<SnapshotId>,
    /// What a person calls it.
    pub title: String,
    /// How the data was taken.
    pub method: Method,
    /// What its archives hold.
    pub payload: Payload,
    /// What may be believed of the data.
    pub consistency: Consistency,
    /// What that rests on.
    pub evidence: Evidence,
    /// The position of the data in its database's log; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// When things happened.
    pub times: Times,
    /// Milliseconds from the request to stop (or freeze) until the service answered (or went on); 0 if nothing
    /// was held.
    pub downtime_ms: u64,
    /// The parts of the run.
    pub phases: Vec<PhaseTime>,
    /// What it has of each volume or directory.
    pub parts: Parts,
    /// What the data ran in.
    pub environment: Environment,
    /// What volsnap saw of the live data just before; `None` if it did not look, or could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<SnapshotFacts>,
    /// The user's tags.
    pub tags: BTreeMap<String, String>,
    /// What only an identity opens, if the snapshot is encrypted; then only a part of the rest is [in clear](Self::in_clear).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
    /// The version of volsnap that wrote it.
    pub tool_version: String,
    /// What a later volsnap said besides; it is written again.
    #[serde(skip)]
    pub unknown: UnknownFields,
}

/// What the consistency rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Evidence {
    /// What the database's own files said once everything was stopped; `None` if it is no database.
    pub database: Option<Inspection>,
    /// Whether the file the proof rests on was the same when it was read again after the last byte.
    pub unchanged_after: bool,
    /// How each container that was stopped ended.
    pub stopped: Vec<StoppedContainer>,
    /// Containers that were frozen while they ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<String>,
    /// Containers that ran and could write there, though nothing says that they use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub onlookers: Vec<String>,
    /// In words, why it is not clean; empty when it is.
    pub reasons: Vec<String>,
}

impl Evidence {
    /// Returns what may be believed of data on which nothing ran while it was read.
    #[must_use]
    pub fn at_rest(&self) -> Consistency {
        match (&self.database, self.reasons.is_empty()) {
            (_, false) => Consistency::CrashConsistent,
            (Some(_), true) => Consistency::Clean,
            (None, true) if self.onlookers.is_empty() => Consistency::StoppedAndQuiet,
            (None, true) => Consistency::QuietExcept,
        }
    }
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
    /// The stop (or freeze) was requested; the begin of the run if nothing was held.
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

/// What the data ran in. Holds no environment variable: those have secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The database container's name.
    pub container: Option<String>,
    /// The image's name.
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
    /// The C library of the database's container, such as "glibc 2.36": it sorts text. `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libc: Option<String>,
    /// The labels of the volume, those that volsnap gave it left out; none for a directory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volume_labels: BTreeMap<String, String>,
    /// Files and directories that the database takes its configuration from, outside its data directory; absolute in the
    /// container. What is mounted there is among the mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configuration: Vec<PathBuf>,
    /// The names of the options that the volume has from its driver, and `driver` if that is not the engine's own. Their
    /// values may have secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_options: Vec<String>,
}

impl Manifest {
    /// Returns what was captured.
    #[must_use]
    pub fn location(&self) -> &MountSource {
        &self.parts.first().location
    }

    /// Returns the archive.
    #[must_use]
    pub fn archive(&self) -> &ArchiveInfo {
        &self.parts.first().archive
    }

    /// Returns the file list.
    #[must_use]
    pub fn file_list(&self) -> &FileListInfo {
        &self.parts.first().file_list
    }

    /// Returns files, bytes and what was left out.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.parts.first().counts
    }

    /// Returns where the database's container had the source: where it mounted it, or below where it mounted what holds
    /// it.
    #[must_use]
    pub fn mounted_at(&self) -> Option<PathBuf> {
        let had_at = |mount: &Mount| match self.location() {
            MountSource::Volume(name) => {
                (mount.volume.as_ref() == Some(name)).then(|| mount.destination.clone())
            }
            MountSource::Directory(path) => {
                let below = path.strip_prefix(&mount.source).ok().filter(|_| mount.source.is_absolute())?;
                Some(mount.destination.join(below))
            }
        };
        let depth = |mount: &&Mount| mount.source.components().count();
        let innermost =
            self.environment.mounts.iter().filter(|mount| had_at(mount).is_some()).max_by_key(depth);
        innermost.and_then(had_at)
    }

    /// Returns what may be believed of the data, in a few words.
    #[must_use]
    pub fn consistency_in_words(&self) -> String {
        match self.consistency {
            Consistency::QuietExcept if !self.evidence.onlookers.is_empty() => {
                format!("quiet except for {}", self.evidence.onlookers.join(", "))
            }
            consistency => consistency.to_string(),
        }
    }

    /// Returns whether a restore made it of the data that it replaced. Nobody who asks for the latest means such a one.
    #[must_use]
    pub fn is_safety(&self) -> bool {
        self.tags.contains_key(SAFETY_TAG)
    }

    /// Returns whether that data was a fresh database: it is never the latest, even if there is no other.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.is_safety() && self.tags.contains_key(FRESH_TAG)
    }
}

impl Consistency {
    /// Returns whether nothing speaks against it: the database should start without recovery.
    #[must_use]
    pub fn is_at_rest(self) -> bool {
        matches!(self, Self::Clean | Self::StoppedAndQuiet)
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::StoppedAndQuiet => "stopped and quiet",
            Self::QuietExcept => "quiet, with exceptions",
            Self::CrashConsistent => "crash-consistent",
            Self::Online => "online",
            Self::Unquiesced => "unquiesced",
        })
    }
}

#[cfg(test)]
mod tests;
