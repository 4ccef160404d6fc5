//! What can be wrong with bytes: each error says what volsnap was doing to which file, block or member.
//!
//! The reason is the error's source; a printer shows the whole chain.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use std::os::unix::ffi::OsStrExt;

/// A failure to write or to read an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// A file of the tree could not be captured as it was.
    #[error("archive `{}`", shown(.path.as_os_str().as_bytes()))]
    File {
        /// The file, relative to the root of the tree.
        path: PathBuf,
        /// What was wrong with it.
        #[source]
        problem: FileProblem,
    },
    /// A file name or an attribute is too long for any reader of tar.
    #[error("write archive member `{}`: {what}", shown(.path))]
    Unrepresentable {
        /// The member.
        path: Vec<u8>,
        /// What cannot be written.
        what: String,
    },
    /// A stream cannot be written.
    #[error("write the {what}")]
    Write {
        /// Which stream.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A stream cannot be read.
    #[error("read the {what}")]
    Read {
        /// Which stream.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A block of the compressed stream is damaged.
    #[error("read block {block} of the archive, at byte {offset}")]
    Block {
        /// The block, counted from 0.
        block: u64,
        /// Where it begins in the stored stream.
        offset: u64,
        /// What was wrong with it.
        #[source]
        problem: BlockProblem,
    },
    /// A member of the tar is damaged, absurd, or of an unknown kind.
    #[error("read archive member `{}`, at byte {offset} of the tar", shown(.path))]
    Member {
        /// The member, or the one before if the name itself is damaged.
        path: Vec<u8>,
        /// Where its header begins in the tar.
        offset: u64,
        /// What was wrong with it.
        #[source]
        problem: MemberProblem,
    },
    /// A line of the file list is damaged.
    #[error("read line {line} of the file list: {what}")]
    FileList {
        /// The line, counted from 1.
        line: u64,
        /// What was wrong with it.
        what: String,
    },
    /// The agent's stream has wrong frames.
    #[error("read the agent's stream")]
    Frames {
        /// What was wrong with it.
        #[source]
        problem: FrameProblem,
    },
    /// A glob of `--exclude` makes no sense.
    #[error("parse the exclude pattern `{glob}`: {what}")]
    Glob {
        /// The glob.
        glob: String,
        /// What was wrong with it.
        what: String,
    },
    /// A thread could not be started.
    #[error("start a compression thread")]
    Threads {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread ended before its work.
    #[error("wait for a compression thread: it died")]
    WorkerDied,
    /// The stream was used after it had failed; the first error says why.
    #[error("use an archive stream that has failed before")]
    AfterFailure,
    /// The run was asked to stop.
    #[error("archive the tree: cancelled")]
    Cancelled,
}

/// What was wrong with a file of the tree.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// It could not be read.
    #[error("it cannot be read")]
    Unreadable {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It changed although everything that writes was held still.
    #[error("its {what} changed while it was held still")]
    Changed {
        /// What of it changed.
        what: &'static str,
    },
    /// No restore could put it there.
    #[error("it lies deeper than {limit} directories, which no restore reaches")]
    TooDeep {
        /// The most names of a path.
        limit: usize,
    },
    /// It vanished although everything that writes was held still.
    #[error("it vanished while it was held still")]
    Vanished,
    /// It became shorter than its header in the archive says.
    #[error("it shrank from {expected} to {found} bytes while it was read")]
    Shrank {
        /// The size when it was opened.
        expected: u64,
        /// Where reading ended.
        found: u64,
    },
}

/// What was wrong with a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockProblem {
    /// The stream ends inside it, or before what must follow it.
    #[error("the stream ends too early")]
    Truncated,
    /// Its content does not have the checksum that was stored with it.
    #[error("its checksum is wrong")]
    Checksum,
    /// It cannot be decompressed.
    #[error("it is damaged: {what}")]
    Corrupt {
        /// What the decompressor said.
        what: String,
    },
    /// Bytes follow the end of the stream.
    #[error("something that is no block follows the last one")]
    TrailingGarbage,
    /// The table of blocks at the end does not describe the blocks before it.
    #[error("the table of blocks does not match the blocks")]
    SeekTable,
}

/// What was wrong with a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberProblem {
    /// The header's checksum is wrong.
    #[error("the checksum of its header is wrong")]
    Checksum,
    /// The archive ends inside it.
    #[error("the archive ends inside it")]
    Truncated,
    /// The two blocks of zeros that end every tar are missing.
    #[error("the end-of-archive marker is missing after it")]
    MissingEnd,
    /// Something follows the end of the archive.
    #[error("something follows the end of the archive")]
    TrailingGarbage,
    /// A field cannot be understood.
    #[error("its {field} cannot be understood")]
    Field {
        /// Which field.
        field: &'static str,
    },
    /// A claim that is refused before it costs memory.
    #[error("its {what} is longer than {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A kind of member that cannot be restored.
    #[error("it is of the unknown type `{}`", char::from(*.typeflag).escape_default())]
    Type {
        /// The type flag.
        typeflag: u8,
    },
    /// An access list that names someone without a number.
    #[error("its access list names {who}, which has no number here")]
    Acl {
        /// The name.
        who: String,
    },
}

/// What was wrong with the framing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameProblem {
    /// The stream ends without its end frame.
    #[error("it ends too early")]
    Truncated,
    /// A frame of an unknown kind.
    #[error("a frame has the unknown kind {kind:#04x}")]
    Kind {
        /// The kind byte.
        kind: u8,
    },
    /// A frame that claims an absurd length.
    #[error("a frame claims {len} bytes")]
    Length {
        /// The claimed length.
        len: u32,
    },
    /// Bytes follow the end frame.
    #[error("something follows its end")]
    TrailingGarbage,
}

impl ArchiveError {
    /// Returns the error of this module inside `error`, or `error` as a failure to read `what`.
    ///
    /// The readers here also speak [`io::Read`], whose errors carry ours inside.
    #[must_use]
    pub fn reading(what: &'static str, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(source) => Self::Read { what, source },
        }
    }

    /// Returns the error of this module inside `error`, or `error` as a failure to write `what`.
    #[must_use]
    pub fn writing(what: &'static str, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(source) => Self::Write { what, source },
        }
    }

    /// Returns an error about the file `path` of the tree.
    pub(crate) fn file(path: &Path, problem: FileProblem) -> Self {
        Self::File { path: path.to_owned(), problem }
    }

    /// Returns an error about the file `path` that cannot be read.
    pub(crate) fn unreadable(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::file(path, FileProblem::Unreadable { source: source.into() })
    }
}

impl From<ArchiveError> for io::Error {
    fn from(error: ArchiveError) -> Self {
        Self::other(error)
    }
}

/// Returns `name` for a terminal: escapes control characters, replaces what is not UTF-8.
#[must_use]
pub fn shown(name: &[u8]) -> impl fmt::Display {
    String::from_utf8_lossy(name).escape_debug().to_string()
}
