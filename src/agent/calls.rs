//! What the command may ask of the agent: a type a call, with the type of its answer.
//!
//! A call is a line of JSON, `{NAME: CALL}`. The agent refuses a field that it does not know, so nothing that is
//! asked is ever silently left out; whoever changes a call or an answer moves the protocol's
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

/// Something that the command asks of the agent, one at a time.
pub trait Call: Serialize {
    /// What comes back.
    type Answer: Serialize + DeserializeOwned;
    /// What it is called on the wire.
    const NAME: &'static str;
}

/// Gives each call its name and its answer, and has them all in one [`Request`].
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

            /// Returns the call's name as a log has it, among other calls.
            #[must_use]
            pub fn title(&self) -> &'static str {
                match self {
                    // The two kinds are far from each other: the service is held for one of them.
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
    Empty: "empty" -> (),
    SwapIn: "swap-in" -> (),
    SwapState: "swap-state" -> swap::SwapState,
    SwapBack: "swap-back" -> (),
    Commit: "commit" -> (),
    Discard: "discard" -> (),
}

/// Which of the two trees is meant.
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
    /// It brings the stage closer to a source that is being written to.
    #[default]
    Live,
    /// Everything that writes is held: the stage is equal to the source when the pass ends, and a file that changes
    /// is an error.
    Final,
}

impl PassKind {
    /// Returns how still the source is meanwhile.
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
    /// The standard input, after the call: each piece after its length (32 bits, little-endian), and a piece of no
    /// length at the end.
    #[default]
    Stdin,
}

/// Look at a whole tree once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// The tree.
    pub side: Side,
    /// Globs, relative to the root, of what the archive will leave out.
    pub exclude: Vec<String>,
}

/// Read the database's own files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// The profile's name.
    pub engine: String,
    /// Where the database is to be looked for.
    pub side: Side,
    /// The tree in there that is meant, relative to the root.
    pub tree: PathBuf,
    /// The data directory, relative to that tree.
    pub data_directory: PathBuf,
    /// Where the database's container mounts the source, which tells its absolute links apart.
    pub mounted_at: Option<PathBuf>,
}

/// Write the archive and the file list; answered once the last byte is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// What is archived.
    pub side: Side,
    /// The tree in there that is meant, relative to the root.
    pub tree: PathBuf,
    /// How it is compressed.
    pub codec: Codec,
    /// Globs, relative to the root, of what is left out.
    pub exclude: Vec<String>,
    /// Members written last, relative to the root.
    pub last: Vec<PathBuf>,
    /// Whether a file may change meanwhile.
    pub stability: Stability,
}

/// Look how much room there is where the source lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Room {}

/// Look how much room there is for a stage, and what it can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRoom {
    /// The tree within the source that is meant, relative to the root.
    pub tree: PathBuf,
}

/// Make the stage equal to the source, or nearly, in one pass. The stage's tree is afterwards the tree that was meant.
///
/// It fails as [`StageFull`](protocol::FailureKind::StageFull) where what it would write does not fit; then the stage is
/// of no use, and the source may be captured directly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePass {
    /// What the pass is for.
    pub kind: PassKind,
    /// The tree within the source that is meant, relative to the root.
    pub tree: PathBuf,
    /// Globs, relative to the root, of what is left out.
    pub exclude: Vec<String>,
    /// Bytes of the stage's file system that are to stay free.
    pub reserve: u64,
    /// A directory, relative to the root, whose content another container writes: it is made, empty, and its
    /// owner can get to it. What is written there is sent to the disk as it comes, until the next call.
    /// Nothing that the pass finds out is good for a later one.
    pub external_dir: Option<PathBuf>,
    /// The owner of everything in the stage, its root among it, in place of the source's.
    pub owner: Option<(u32, u32)>,
}

/// From here on have the stage in a work directory of the run within the stage's place, which is the root that the
/// staged tree will be moved into.
///
/// What one other run has left there is taken up. All calls of a swap, and [`Room`], are about that root then, and a
/// [`SwapIn`] without a root gives it what the source's has. It fails, naming it, when something is there that must not
/// be touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageInto {
    /// The run.
    pub run: String,
}

/// Leave the stage, and what is known of it, to a later run, durably.
///
/// Further passes may follow, the first of which takes what is known away again. It takes as long as the disk takes for
/// what was written: ask while the service is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageKeep {}

/// Read source and stage side by side, byte by byte where an earlier comparison does not prove them equal, and say where
/// they differ. A difference is no failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageCompare {
    /// Whether everything that writes is held: then only those files are read that may have been written to
    /// since an earlier comparison has found them equal, and a change is a difference.
    pub stability: Stability,
    /// Globs, relative to the root, of what the stage is to be without.
    pub exclude: Vec<String>,
    /// The owner that everything in the stage is to have, in place of the source's.
    pub owner: Option<(u32, u32)>,
}

/// Remove the stage's tree, slowly enough that whoever else waits for the disk is not held up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageClear {}

/// Extract an archive beside the data; answered once all of it is durable there. The first progress says that the FIFO
/// is open, where the archive comes over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extract {
    /// The run, after which the work directory is called.
    pub run: String,
    /// The way the archive comes; the client chooses it.
    pub channel: Channel,
    /// Whether the source was [emptied](Empty) for it.
    pub emptied: bool,
    /// What is extracted, and how far it may go.
    pub options: ExtractOptions,
}

/// Remove all that is there, since there is no room for two copies of it: from here on the old data is owed
/// from elsewhere. May be asked again, for a new begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {
    /// The run.
    pub run: String,
    /// The files without which there is no database, relative to the root, the last one last.
    pub marker_files: Vec<PathBuf>,
}

/// Put the extracted, or staged, tree in the place of the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapIn {
    /// The run.
    pub run: String,
    /// The files without which there is no database, relative to the root, the last one last.
    pub marker_files: Vec<PathBuf>,
    /// What the root itself is to be like; `None` for as it is.
    pub root: Option<FileRecord>,
}

/// Say what a run has done here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapState {
    /// The run.
    pub run: String,
}

/// Have the old data back in its place.
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
    /// Whether the old data that was replaced may go.
    pub with_old: bool,
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
