//! Bytes: blocks, tar members and file lists, without Docker and without an async runtime.
//!
//! This holds for any input:
//!
//! - **Plain tools read it.** What [`BlockWriter`] and [`TarWriter`] produce is an ordinary
//!   `.tar.zst`, `.tar.gz` or `.tar`; what GNU tar produces, [`BlockReader`] and [`TarReader`] read.
//! - **Damage has a place.** A truncated, flipped or lengthened stream is an error that names the
//!   block, or the member and its offset; it never passes as a shorter archive.
//! - **Memory is bounded** by blocks in flight and by [limits](Limits), never by what a header
//!   claims: a bomb costs no more than an honest archive.
//! - **A thread that dies is an error**, never a wait without end.

mod acl;
mod block;
mod entry;
mod error;
mod file_list;
mod frames;
mod pax;
mod tar_reader;
mod tar_writer;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use block::{
    BLOCK_SIZE, BlockOptions, BlockReader, BlockStats, BlockWriter, Fill, Origin, default_threads,
};
pub use entry::{Device, Entry, EntryKind, Extent, Timestamp, Xattr};
pub use error::{ArchiveError, BlockProblem, FileProblem, FrameProblem, MemberProblem, shown};
pub use file_list::{FileListReader, FileListWriter, FileRecord, ListDigest};
pub use frames::{FrameDecoder, FrameKind, FrameSink, FrameWriter, Payload};
pub use tar_reader::{Limits, Segment, TarReader};
pub use tar_writer::TarWriter;

/// The most names of a path, in what is saved and in what is restored: while it writes, a restore has a handle of each
/// directory above a file.
pub const DEPTH_MAX: usize = 400;

/// How to compress an archive, as `--compression` says it: `zstd[:N]`, `gzip[:N]` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Codec {
    /// Zstandard frames, levels 1 to 22.
    Zstd {
        /// The level.
        level: i32,
    },
    /// Gzip members, levels 1 to 9.
    Gzip {
        /// The level.
        level: i32,
    },
    /// A bare tar, not compressed.
    None,
}

/// The level of `zstd` without a number.
const ZSTD_LEVEL: i32 = 3;
/// The level of `gzip` without a number.
const GZIP_LEVEL: i32 = 6;

impl Codec {
    /// Returns the format of the streams this codec writes.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::Zstd { .. } => Format::Zstd,
            Self::Gzip { .. } => Format::Gzip,
            Self::None => Format::Tar,
        }
    }

    /// Returns the file-name extension of an archive, without a leading dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        self.format().extension()
    }
}

impl Default for Codec {
    fn default() -> Self {
        Self::Zstd { level: ZSTD_LEVEL }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd { level } => write!(f, "zstd:{level}"),
            Self::Gzip { level } => write!(f, "gzip:{level}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// The text is no codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse the compression `{text}`: {expected}")]
pub struct ParseCodecError {
    text: String,
    expected: &'static str,
}

impl FromStr for Codec {
    type Err = ParseCodecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |expected| ParseCodecError { text: text.to_owned(), expected };
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let level = |default: i32, max: i32, expected| match level.map(str::parse) {
            None => Ok(default),
            Some(Ok(level)) if (1..=max).contains(&level) => Ok(level),
            Some(_) => Err(refused(expected)),
        };
        match name {
            "zstd" => {
                Ok(Self::Zstd { level: level(ZSTD_LEVEL, 22, "the level of zstd is a number from 1 to 22")? })
            }
            "gzip" => {
                Ok(Self::Gzip { level: level(GZIP_LEVEL, 9, "the level of gzip is a number from 1 to 9")? })
            }
            "none" if text == "none" => Ok(Self::None),
            _ => Err(refused("it is one of zstd[:N], gzip[:N], none")),
        }
    }
}

impl TryFrom<String> for Codec {
    type Error = ParseCodecError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Codec> for String {
    fn from(codec: Codec) -> Self {
        codec.to_string()
    }
}

/// The format of an archive's bytes, whoever wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Zstandard frames.
    Zstd,
    /// Gzip members.
    Gzip,
    /// Bzip2, which volsnap reads and never writes.
    Bzip2,
    /// XZ, which volsnap reads and never writes.
    Xz,
    /// Not compressed.
    Tar,
}

impl Format {
    /// How many leading bytes [`Format::detect`] wants to see.
    pub const DETECT_LEN: usize = 512;

    /// Returns the format that begins with `prefix`, if it is one of ours.
    #[must_use]
    pub fn detect(prefix: &[u8]) -> Option<Self> {
        match prefix {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50 => Some(Self::Zstd),
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ if tar_reader::is_header(prefix) => Some(Self::Tar),
            _ => None,
        }
    }

    /// Returns the file-name extension, without a leading dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Zstd => "tar.zst",
            Self::Gzip => "tar.gz",
            Self::Bzip2 => "tar.bz2",
            Self::Xz => "tar.xz",
            Self::Tar => "tar",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_is_parsed_as_it_is_shown() {
        for (text, shown) in
            [("zstd", "zstd:3"), ("zstd:19", "zstd:19"), ("gzip", "gzip:6"), ("none", "none")]
        {
            assert_eq!(text.parse::<Codec>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_codec_out_of_range_is_refused() {
        for text in ["", "zstd:0", "zstd:23", "gzip:10", "gzip:", "none:1", "xz", "zstd:3x", "Zstd"] {
            let error = text.parse::<Codec>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_codec_is_a_string_in_json() {
        let codec = Codec::Gzip { level: 9 };
        let json = serde_json::to_string(&codec).unwrap();
        assert_eq!(json, "\"gzip:9\"");
        assert_eq!(serde_json::from_str::<Codec>(&json).unwrap(), codec);
        assert!(serde_json::from_str::<Codec>("\"gzip:99\"").is_err());
    }

    #[test]
    fn a_format_is_known_by_its_first_bytes() {
        assert_eq!(Format::detect(&[0x28, 0xb5, 0x2f, 0xfd, 0]), Some(Format::Zstd));
        assert_eq!(Format::detect(&[0x5e, 0x2a, 0x4d, 0x18, 0]), Some(Format::Zstd));
        assert_eq!(Format::detect(&[0x1f, 0x8b, 8, 0]), Some(Format::Gzip));
        assert_eq!(Format::detect(b"BZh91AY"), Some(Format::Bzip2));
        assert_eq!(Format::detect(b"\xfd7zXZ\0\0"), Some(Format::Xz));
        assert_eq!(Format::detect(b"PK\x03\x04"), None);
        assert_eq!(Format::detect(&[]), None);
    }
}
