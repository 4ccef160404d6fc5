//! The plan of a snapshot: everything known before anything is touched. Pure data, printed by
//! `--dry-run` and followed by the procedure.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::archive::Codec;
use crate::manifest::{Capture, Quiesce};

/// Time to stop and start a database that has little to write, milliseconds (measured: 1.3 s to stop,
/// 0.4 s to start and answer).
const STOP_AND_START_MS: u64 = 2_000;
/// Bytes of raw data archived in a millisecond, where no earlier snapshot says better (measured on two
/// cores: 450 to 580 MB/s).
const USUAL_BYTES_PER_MS: u64 = 350_000;
/// What tar adds to each member at most: header, padding, and an extended header with its padding.
const TAR_BYTES_PER_MEMBER: u64 = 3 * 1024;
/// What the file list holds of a member at most, compressed.
const LIST_BYTES_PER_MEMBER: u64 = 256;

/// What a snapshot will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The snapshot's id.
    pub id: String,
    /// The source's key in the repository.
    pub source: String,
    /// How a person calls it.
    pub title: String,
    /// Where the engine's host has the data.
    pub host_path: PathBuf,
    /// The database found there: engine and major version.
    pub database: Option<String>,
    /// The data directory, relative to the source's root.
    pub data_directory: Option<PathBuf>,
    /// How writers are held still.
    pub quiesce: Quiesce,
    /// How bytes are taken.
    pub capture: Capture,
    /// How the archive is compressed.
    pub codec: Codec,
    /// Containers that will be stopped, in this order.
    pub stops: Vec<String>,
    /// Containers that will be started again, in this order.
    pub starts: Vec<String>,
    /// Users of the source that are not running and stay so.
    pub stay_stopped: Vec<String>,
    /// Entries in the source.
    pub entries: u64,
    /// Bytes of its files' contents.
    pub raw_bytes: u64,
    /// Bytes that the repository may need at worst.
    pub needed_bytes: u64,
    /// Bytes free in the repository, where that is known.
    pub free_bytes: Option<u64>,
    /// Milliseconds that the service is expected to be away; 0 when nothing is stopped.
    pub expected_downtime_ms: u64,
    /// Where the archive will be.
    pub archive: PathBuf,
}

/// Returns the bytes that an archive of `raw_bytes` in `entries` members takes at worst, when nothing
/// of it can be compressed.
#[must_use]
pub fn worst_case_bytes(raw_bytes: u64, entries: u64) -> u64 {
    // Compressed blocks of random data grow by less than 0.1 %.
    raw_bytes + raw_bytes / 1000 + (entries + 1) * (TAR_BYTES_PER_MEMBER + LIST_BYTES_PER_MEMBER) + (1 << 20)
}

/// Returns how long the service is expected to be away, milliseconds.
///
/// `measured` is the rate of an earlier snapshot of this source: bytes, and the milliseconds they took.
#[must_use]
pub fn expected_downtime_ms(raw_bytes: u64, measured: Option<(u64, u64)>) -> u64 {
    let archive_ms = match measured {
        Some((bytes, ms)) if bytes > 0 && ms > 0 => {
            u64::try_from(u128::from(raw_bytes) * u128::from(ms) / u128::from(bytes)).unwrap_or(u64::MAX)
        }
        _ => raw_bytes / USUAL_BYTES_PER_MS,
    };
    STOP_AND_START_MS.saturating_add(archive_ms)
}

/// Returns the moment after the stop at which a capture must be given up for the service to answer
/// again within `max_downtime`.
#[must_use]
pub fn capture_budget(max_downtime: Duration) -> Duration {
    max_downtime.saturating_sub(Duration::from_millis(STOP_AND_START_MS).min(max_downtime / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_case_is_more_than_the_data_even_when_there_is_none() {
        assert!(worst_case_bytes(0, 0) > 0);
        assert!(worst_case_bytes(1 << 30, 1000) > (1 << 30) + 1000 * 1536);
    }

    #[test]
    fn a_measured_rate_beats_the_usual_one() {
        assert_eq!(expected_downtime_ms(1_000_000, Some((500_000, 1_000))), 2_000 + 2_000);
        assert_eq!(expected_downtime_ms(700_000_000, None), 2_000 + 2_000);
        assert_eq!(expected_downtime_ms(700_000_000, Some((0, 0))), 2_000 + 2_000);
    }

    #[test]
    fn a_short_downtime_leaves_a_part_of_itself_for_the_start() {
        assert_eq!(capture_budget(Duration::from_secs(60)), Duration::from_secs(58));
        assert_eq!(capture_budget(Duration::from_secs(4)), Duration::from_secs(3));
    }
}
