//! What command and agent say to each other: one JSON object a line, requests on the agent's
//! standard input, events on its standard error. Archive and file list travel apart from this, as
//! [frames](crate::archive) over a FIFO or the standard output.
//!
//! The agent ends when its standard input ends: a command that dies leaves no helper behind.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::archive::ArchiveStats;
use super::extract::Extracted;
use super::swap::SwapState;
use crate::agent::staging::{CompareStats, StageStats};
use crate::archive::{Codec, FileRecord};
use crate::model::inspection::Inspection;

/// What the command asks of the agent, one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Look at the whole source once; answered by [`Event::Surveyed`].
    Survey {
        /// Globs, relative to the root, of what the archive will leave out.
        exclude: Vec<String>,
        /// Whether the stage is meant, in place of the source.
        #[serde(default)]
        from_stage: bool,
    },
    /// Read the database's own files; answered by [`Event::Inspected`].
    Inspect {
        /// The database's name.
        engine: String,
        /// The data directory, relative to the root.
        data_directory: PathBuf,
        /// Where the database's container mounts the source, which tells its absolute links apart.
        mounted_at: Option<PathBuf>,
        /// The tree within the source that is meant, relative to the root.
        #[serde(default)]
        tree: PathBuf,
        /// Whether the stage is meant, in place of the source.
        #[serde(default)]
        from_stage: bool,
    },
    /// Write the archive and the file list; answered by [`Event::Archived`].
    Archive(ArchiveRequest),
    /// Look how much room there is; answered by [`Event::Room`].
    Room,
    /// Look how much room there is for a stage, and what it can do; answered by [`Event::StageRoom`].
    StageRoom {
        /// The tree within the source that is meant, relative to the root.
        #[serde(default)]
        tree: PathBuf,
    },
    /// Make the stage equal to the source, or nearly; answered by [`Event::Staged`], or by
    /// [`Event::StageFull`].
    StagePass(StagePassRequest),
    /// From here on have the stage in a work directory of the run within the stage's place, which is the root
    /// that the staged tree will be moved into; answered by [`Event::Done`]. What one other run has left there
    /// is taken up. All requests of a swap, and [`Request::Room`], are about that root then, and a
    /// [`SwapIn`](Request::SwapIn) without a root gives it what the source's has.
    StageInto {
        /// The run.
        run: String,
    },
    /// Leave the stage, and what is known of it, to a later run, durably; answered by [`Event::Done`].
    /// Further passes may follow, the first of which takes what is known away again.
    /// It takes as long as the disk takes for what was written: ask while the service is up.
    StageKeep,
    /// Read source and stage side by side, and say where they differ; answered by [`Event::Compared`].
    StageCompare(StageCompareRequest),
    /// Remove the stage's tree, slowly enough that whoever else waits for the disk is not held up; answered by
    /// [`Event::Done`].
    StageClear,
    /// Extract an archive beside the data; answered by [`Event::Extracted`]. Its bytes come over the
    /// input FIFO, which is told to be open by the first [`Event::Progress`], or on the standard input, each piece after its length (32 bits, little-endian) and
    /// a piece of no length at the end.
    Extract(ExtractRequest),
    /// Remove all that is there, since there is no room for two copies of it: from here on the old data is owed
    /// from elsewhere; answered by [`Event::Done`]. May be asked again, for a new begin.
    Empty {
        /// The run.
        run: String,
        /// The files without which there is no database, relative to the root, the last one last.
        marker_files: Vec<PathBuf>,
    },
    /// Put the extracted, or staged, tree in the place of the data; answered by [`Event::Done`].
    SwapIn {
        /// The run.
        run: String,
        /// The files without which there is no database, relative to the root, the last one last.
        marker_files: Vec<PathBuf>,
        /// What the root itself is to be like; `None` for as it is.
        root: Option<FileRecord>,
    },
    /// Say what a run has done here; answered by [`Event::Swap`].
    SwapState {
        /// The run.
        run: String,
    },
    /// Have the old data back in its place; answered by [`Event::Done`].
    SwapBack {
        /// The run.
        run: String,
    },
    /// Let the new data stay; answered by [`Event::Done`].
    Commit {
        /// The run.
        run: String,
    },
    /// Remove what a run has made here; answered by [`Event::Done`].
    Discard {
        /// The run.
        run: String,
        /// Whether the old data that was replaced may go.
        with_old: bool,
    },
}

/// What is to be extracted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractRequest {
    /// The run, after which the work directory is called.
    pub run: String,
    /// Whether the archive's bytes come over the FIFO.
    pub fifo: bool,
    /// Whether volsnap wrote the archive.
    pub ours: bool,
    /// Whether the source was [emptied](Request::Empty) for it.
    #[serde(default)]
    pub emptied: bool,
    /// What is taken away from the begin of every name.
    pub strip: PathBuf,
    /// What is put before every name instead.
    pub prefix: PathBuf,
    /// The owner of everything, in place of what the archive says.
    pub owner: Option<(u32, u32)>,
    /// Whether devices and setuid programs may be made.
    pub special: bool,
    /// Members that the archive has.
    pub members: u64,
    /// Bytes of content that it has, holes included.
    pub bytes: u64,
    /// Bytes of the file system that are to stay free.
    pub reserve: u64,
}

/// A pass over the source that fills the stage. The stage's tree is afterwards the tree that was meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePassRequest {
    /// Globs, relative to the root, of what is left out.
    pub exclude: Vec<String>,
    /// The tree within the source that is meant, relative to the root.
    #[serde(default)]
    pub tree: PathBuf,
    /// Whether everything that writes is held: then the stage is equal to the source when this ends,
    /// and a file that changes is an error.
    pub finish: bool,
    /// Bytes of the stage's file system that are to stay free.
    pub reserve: u64,
    /// A directory, relative to the root, whose content another container writes: it is made, empty, and its
    /// owner can get to it. What is written there is sent to the disk as it comes, until the next request.
    /// Nothing that the pass finds out is good for a later one.
    #[serde(default)]
    pub external_dir: Option<PathBuf>,
    /// The owner of everything in the stage, its root among it, in place of the source's.
    #[serde(default)]
    pub owner: Option<(u32, u32)>,
}

/// A comparison of the stage with the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCompareRequest {
    /// Globs, relative to the root, of what the stage is to be without.
    pub exclude: Vec<String>,
    /// The owner that everything in the stage is to have, in place of the source's.
    #[serde(default)]
    pub owner: Option<(u32, u32)>,
    /// Whether everything that writes is held: then only those files are read that may have been written to
    /// since an earlier comparison has found them equal, and a change is a difference.
    pub finish: bool,
}

/// The room where a stage lies, and what it can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRoom {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Names that are free; `None` where the file system does not count them.
    pub free_names: Option<u64>,
    /// Bytes that the stage occupies already, which need no room again.
    pub staged_bytes: u64,
    /// Whether a stage of this very source was kept, so that the first pass brings it up to date.
    pub warm: bool,
    /// Whether files of the source can be shared with the stage instead of being copied: tried.
    pub reflink: bool,
    /// Whether the source's file system moves the times of a file with every write to it. Where it does
    /// not, the final pass reads every file again.
    pub trusts_times: bool,
}

/// The room where the source lies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Names that are free; `None` where the file system does not count them.
    pub free_names: Option<u64>,
    /// Names in the root on which something else is mounted.
    pub mounted: Vec<String>,
    /// Names in the root that earlier runs have left.
    pub leftovers: Vec<String>,
    /// Whether there is nothing in the root but what earlier runs have left.
    pub is_empty: bool,
    /// The owner of the root.
    pub owner: (u32, u32),
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
    /// The tree within the source (or the stage) that is meant, relative to the root.
    #[serde(default)]
    pub tree: PathBuf,
    /// Whether the stage is archived, in place of the source.
    #[serde(default)]
    pub from_stage: bool,
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
    /// The answer to [`Request::Room`].
    Room(Room),
    /// The answer to [`Request::StageRoom`].
    StageRoom(StageRoom),
    /// The answer to [`Request::StagePass`].
    Staged(StageStats),
    /// The answer to [`Request::StageCompare`].
    Compared(CompareStats),
    /// The pass ended early: what it would write does not fit where the stage lies. The stage is of no
    /// use; the source may be captured directly.
    StageFull {
        /// What was being done, and how much is left.
        message: String,
    },
    /// The answer to [`Request::Extract`], once all of it is durable.
    Extracted(Extracted),
    /// The answer to [`Request::SwapState`].
    Swap(SwapState),
    /// The answer to what has nothing to tell.
    Done,
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
    /// The database's name.
    pub engine: String,
    /// The directory, relative to the root; "" for the root itself.
    pub data_directory: PathBuf,
}
