//! What command and agent say to each other: one JSON object per line. [Calls](super::calls) go to the agent's
//! standard input, events come from its standard error. Archive and file list travel apart from this, as
//! [frames](crate::archive) over a FIFO or the standard output.
//!
//! The agent first says who it is, and the command refuses an agent of another [`VERSION`]. The agent ends when its
//! standard input ends: a command that dies leaves no helper behind.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::calls::Call;

/// The version of the protocol. It moves with any change of a call or an answer: both sides belong to one build,
/// except with an image that somebody has named or kept.
pub const VERSION: u32 = 4;

/// What the agent tells the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The agent runs and can read the source.
    Ready(Ready),
    /// Work done so far.
    Progress {
        /// Files read.
        files: u64,
        /// Bytes of content read, holes included.
        bytes: u64,
    },
    /// A call is answered.
    Answered {
        /// The call's name.
        call: String,
        /// Its [`Answer`](Call::Answer).
        answer: Value,
    },
    /// A call failed, or was not understood.
    Failed(Failure),
}

/// Who the agent is. These fields stay the same in every version, so that any two understand each other this far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The version of the protocol that it speaks; 0 for an agent so old that it does not say.
    #[serde(default)]
    pub protocol: u32,
    /// The agent's own version.
    pub version: String,
    /// Whether it found the FIFO that the command made, and runs on the same kernel: only then is it one FIFO.
    pub fifo: bool,
    /// Whether it found the file that the command wrote, and runs on the same kernel, which proves that the engine is on
    /// the command's machine and sees its files.
    #[serde(default)]
    pub beside: bool,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What can be done about it.
    #[serde(default)]
    pub kind: FailureKind,
    /// What the agent was doing to which file, and why it failed.
    pub message: String,
}

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Whatever the message says.
    #[default]
    Other,
    /// What a pass would write does not fit where the stage lies: do without a stage.
    StageFull,
}

impl Event {
    /// Returns the answer to a call.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn answer<C: Call>(answer: &C::Answer) -> serde_json::Result<Self> {
        Ok(Self::Answered { call: C::NAME.to_owned(), answer: serde_json::to_value(answer)? })
    }

    /// Returns the answer to this call; `None` for any other event.
    #[must_use]
    pub fn answered<C: Call>(&self) -> Option<C::Answer> {
        match self {
            Self::Answered { call, answer } if call == C::NAME => serde_json::from_value(answer.clone()).ok(),
            _ => None,
        }
    }
}

/// The room where a stage lies, and what the stage can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRoom {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Names that are free; `None` if the file system does not count them.
    pub free_names: Option<u64>,
    /// Bytes that the stage already occupies, which need no room again.
    pub staged_bytes: u64,
    /// Whether a stage of this very source was kept: then the first pass only brings it up to date.
    pub warm: bool,
    /// Whether the stage can share files with the source instead of copying them; this was tried.
    pub reflink: bool,
    /// Whether the source's file system moves the times of a file with every write to it. If it does not, the final
    /// pass reads every file again.
    pub trusts_times: bool,
}

/// The room where the source lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Names that are free; `None` if the file system does not count them.
    pub free_names: Option<u64>,
    /// Names in the root on which something else is mounted.
    pub mounted: Vec<String>,
    /// Names in the root that earlier runs have left.
    pub leftovers: Vec<String>,
    /// Whether the root has nothing but what earlier runs have left.
    pub is_empty: bool,
    /// The owner of the root.
    pub owner: (u32, u32),
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
    /// Bytes of the files' contents, without holes.
    pub held_bytes: u64,
    /// Bytes the files occupy on disk.
    pub disk_bytes: u64,
    /// The first entry found that lies deeper than any restore reaches.
    pub too_deep: Option<PathBuf>,
    /// Data directories found, and of which engine.
    pub databases: Vec<FoundDatabase>,
    /// The [files asked about](super::calls::Survey::placeholders) that are there and empty; they are not counted.
    pub placeholders: Vec<PathBuf>,
    /// [Stores](crate::database::stores) of which files were found, by their names.
    pub stores: Vec<String>,
}

/// A data directory in a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundDatabase {
    /// The profile's name.
    pub engine: String,
    /// The directory, relative to the root; "" for the root itself.
    pub data_directory: PathBuf,
    /// Its owner, who may be another than that of the root.
    pub owner: (u32, u32),
}
