//! What the command may ask of the agent: one type per call, with the type of its answer.
//!
//! A call is a line of JSON, `{NAME: CALL}`. The agent refuses a field that it does not know, so it never silently
//! ignores what it was asked; whoever changes a call or an answer moves the protocol's
//! [`VERSION`](super::protocol::VERSION).

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::archive::ArchiveStats;
use super::extract::{ExtractOptions, Extracted};
use super::tree::Stability;
use super::{protocol, swap};
use crate::agent::staging::{CompareStats, StageStats};
use crate::archive::{Codec, FileRecord};
use crate::model::inspection::Inspection;
use crate::model::replication::StoredSlot;

/// Something that the command asks of the agent, one at a time.
pub trait Call: Serialize {
    /// The answer to it.
    type Answer: Serialize + DeserializeOwned;
    /// Its name on the wire.
    const NAME: &'static str;
}

/// Gives each call its name and its answer, and puts all calls into one [`Request`].
macro_rules! calls {
    ($($call:ident: $name:literal -> $answer:ty,)+) => {
        $(impl Call for $call {
            type Answer = $answer;
            const NAME: &'static str = $name;
        })+

        /// A call as the agent reads it: any of them.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Request {
            $(#[doc = concat!("See [`", stringify!($call), "`].")] #[serde(rename = $name)] $call($call),)+
        }

        impl Request {
            /// Returns whether the pieces of an archive follow.
            #[must_use]
            pub fn is_followed(&self) -> bool {
                matches!(self, Self::Extract(Extract { channel: Channel::Stdin, .. }))
            }

            /// Returns the call's name as a log shows it among other calls.
            #[must_use]
            pub fn title(&self) -> &'static str {
                match self {
                    // The two kinds differ much: the service is held for one of them.
                    Self::StagePass(pass) if pass.kind == PassKind::Live => "agent live-pass",
                    Self::StagePass(pass) if pass.kind == PassKind::Final => "agent final-pass",
                    $(Self::$call(_) => concat!("agent ", $name),)+
                }
            }
        }
    };
}

calls! {
    Survey: "survey" -> protocol::Survey,
    Inspect: "inspect" -> Inspection,
    Archive: "archive" -> ArchiveStats,
    Room: "room" -> protocol::Room,
    StageRoom: "stage-room" -> protocol::StageRoom,
    StagePass: "stage-pass" -> StageStats,
    StageInto: "stage-into" -> (),
    StageKeep: "stage-keep" -> (),
    StageCompare: "stage-compare" -> CompareStats,
    StageClear: "stage-clear" -> (),
    Extract: "extract" -> Extracted,
    RemoveSlots: "remove-slots" -> Vec<StoredSlot>,
    Empty: "empty" -> (),
    SwapIn: "swap-in" -> (),
    SwapState: "swap-state" -> swap::SwapState,
    SwapBack: "swap-back" -> (),
    Commit: "commit" -> (),
    Discard: "discard" -> (),
}

/// Which of the two trees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The source.
    #[default]
    Source,
    /// Its copy in the stage.
    Stage,
}

/// What a pass is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassKind {
    /// It brings the stage closer to a source that is still being written to.
    #[default]
    Live,
    /// Everything that writes is held: the stage equals the source when the pass ends, and a file that changes is an
    /// error.
    Final,
}

impl PassKind {
    /// Returns how still the source is during the pass.
    #[must_use]
    pub fn stability(self) -> Stability {
        match self {
            Self::Live => Stability::Live,
            Self::Final => Stability::Held,
        }
    }
}

/// The way an archive comes to the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// The input FIFO.
    Fifo,
    /// The standard input, after the call: each piece follows its length (32 bits, little-endian), and an empty piece
    /// ends the archive.
    #[default]
    Stdin,
}

/// Look over a whole tree once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// The tree.
    pub side: Side,
    /// Globs of what the archive will leave out, relative to the root.
    pub exclude: Vec<String>,
    /// Files, relative to the root, over which the database's container has others mounted: an empty one is the engine's.
    pub placeholders: Vec<PathBuf>,
}

/// Read the database's own files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// The profile's name.
    pub engine: String,
    /// Where to look for the database.
    pub side: Side,
    /// The tree to look in, relative to the root.
    pub tree: PathBuf,
    /// The data directory, relative to that tree.
    pub data_directory: PathBuf,
    /// Where the database's container mounts the source; that tells its absolute links apart.
    pub mounted_at: Option<PathBuf>,
}

/// Write the archive and the file list; the answer comes once the last byte is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Which tree to archive.
    pub side: Side,
    /// The part of it to archive, relative to the root.
    pub tree: PathBuf,
    /// How to compress it.
    pub codec: Codec,
    /// Globs of what to leave out, relative to the root.
    pub exclude: Vec<String>,
    /// Members written last, relative to the root.
    pub last: Vec<PathBuf>,
    /// Whether a file may change meanwhile.
    pub stability: Stability,
}

/// Find how much room there is where the source lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Room {}

/// Find how much room there is for a stage, and what the stage can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRoom {
    /// The tree to stage within the source, relative to the root.
    pub tree: PathBuf,
}

/// Make the stage equal to the source, or nearly, in one pass. From then on the stage has this tree.
///
/// It fails as [`StageFull`](protocol::FailureKind::StageFull) if what it would write does not fit; then the stage is
/// useless, and the source may be captured directly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePass {
    /// What the pass is for.
    pub kind: PassKind,
    /// The tree to stage within the source, relative to the root.
    pub tree: PathBuf,
    /// Globs of what to leave out, relative to the root.
    pub exclude: Vec<String>,
    /// Bytes of the stage's file system that must stay free.
    pub reserve: u64,
    /// A directory, relative to the root, whose content another container writes: the pass makes it, empty and
    /// accessible to its owner. Until the next call, whatever is written there is sent to the disk as it comes. A
    /// later pass can use nothing that this pass finds out.
    pub external_dir: Option<PathBuf>,
    /// The owner of everything in the stage, its root among it, in place of the source's.
    pub owner: Option<(u32, u32)>,
}

/// From now on keep the stage in a work directory of the run within the stage's place. That place is the root that the
/// staged tree will be moved into.
///
/// The call takes over what one other run has left there. From then on all calls of a swap, and [`Room`], refer to
/// that root, and a [`SwapIn`] without a root gives it the metadata of the source's. It fails, and names the obstacle,
/// if something is there that must not be touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageInto {
    /// The run.
    pub run: String,
}

/// Leave the stage, and what is known of it, to a later run, durably.
///
/// Further passes may follow; the first of them removes that knowledge again. This takes as long as the disk needs for
/// what was written: ask while the service is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageKeep {}

/// Read source and stage side by side, byte by byte unless an earlier comparison proves them equal, and report where
/// they differ. A difference is no failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageCompare {
    /// Whether everything that writes is held: then this reads only the files that may have been written to since an
    /// earlier comparison found them equal, and a change is a difference.
    pub stability: Stability,
    /// Globs of what the stage must not have, relative to the root.
    pub exclude: Vec<String>,
    /// The owner that everything in the stage must have, in place of the source's.
    pub owner: Option<(u32, u32)>,
}

/// Remove the stage's tree, slowly enough not to hold up others that wait for the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageClear {}

/// Extract an archive beside the data; the answer comes once all of it is durable there. If the archive comes over the
/// FIFO, the first progress says that the FIFO is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extract {
    /// The run, which names the work directory.
    pub run: String,
    /// The way the archive comes; the client chooses it.
    pub channel: Channel,
    /// Whether the source was [emptied](Empty) for it.
    pub emptied: bool,
    /// What to extract, and how far it may go.
    pub options: ExtractOptions,
}

/// Remove the replication slots from the database that this run has extracted beside the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveSlots {
    /// The run.
    pub run: String,
    /// The database's name.
    pub engine: String,
    /// The data directory, relative to the extracted tree.
    pub data_directory: PathBuf,
}

/// Remove all that is there, because there is no room for two copies: from here on the old data is owed from elsewhere.
/// The command may ask this again, to start over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {
    /// The run.
    pub run: String,
    /// The files without which there is no database, relative to the root; the last of the list is put in place last.
    pub marker_files: Vec<PathBuf>,
}

/// Put the extracted or staged tree in the place of the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapIn {
    /// The run.
    pub run: String,
    /// The files without which there is no database, relative to the root; the last of the list is put in place last.
    pub marker_files: Vec<PathBuf>,
    /// The metadata that the root itself should get; `None` to leave it as it is.
    pub root: Option<FileRecord>,
}

/// Say what a run has done here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapState {
    /// The run.
    pub run: String,
}

/// Put the old data back in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapBack {
    /// The run.
    pub run: String,
}

/// Let the new data stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The run.
    pub run: String,
}

/// Remove what a run has made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discard {
    /// The run.
    pub run: String,
    /// Whether it may remove the old data that was replaced.
    pub with_old: bool,
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
