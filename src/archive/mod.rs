//! Bytes: the block codec, tar, the file list.

use serde::{Deserialize, Serialize};

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Independent zstd frames.
    Zstd {
        /// Compression level.
        level: i32,
    },
    /// Gzip members.
    Gzip {
        /// Compression level.
        level: i32,
    },
    /// Not at all.
    None,
}
