//! `global/pg_control`: what a cluster says of itself, and the only proof of a clean shutdown.
//!
//! The file is `ControlFileData` of `src/include/catalog/pg_control.h`, little-endian, padded with zeros to 8192
//! bytes. Its layout changes between major versions. `pg_control_version` alone does not tell 13 to 16 apart, so that
//! number and `catalog_version_no` together choose the layout. A pair that is not in the table is
//! [`ControlError::UnknownVersion`]: a guess could call a crashed cluster clean.

use std::fmt;

use chrono::{DateTime, Utc};

use super::position::Lsn;

/// Where the file lies in a data directory.
pub const PATH: &str = "global/pg_control";

/// What `floatFormat` must hold: the machine that wrote it had IEEE doubles.
const FLOAT_FORMAT: f64 = 1_234_567.0;

/// Offsets of the fields that move, in bytes from the start of the file.
#[derive(Debug, Clone, Copy)]
struct Layout {
    next_xid: usize,
    checkpoint_time: usize,
    min_recovery_point: usize,
    min_recovery_timeline: usize,
    wal_level: usize,
    max_align: usize,
    float_format: usize,
    block_size: usize,
    blocks_per_segment: usize,
    wal_segment_size: usize,
    checksum_version: usize,
    /// Where the CRC lies; it covers everything before.
    crc: usize,
}

impl Layout {
    /// Returns the size of the structure, which C pads to a multiple of 8.
    fn size(&self) -> usize {
        (self.crc + 4).next_multiple_of(8)
    }
}

// The `CheckPoint` structure lies at 40 in all of them.
const LAYOUT_13: Layout = Layout {
    next_xid: 64,
    checkpoint_time: 104,
    min_recovery_point: 136,
    min_recovery_timeline: 144,
    wal_level: 172,
    max_align: 204,
    float_format: 208,
    block_size: 216,
    blocks_per_segment: 220,
    wal_segment_size: 228,
    checksum_version: 252,
    crc: 288,
};

// 18 has a bool `default_char_signedness` before the nonce.
const LAYOUT_18: Layout = Layout { crc: 292, ..LAYOUT_13 };

// 19 has 8 more bytes in `CheckPoint`, and `slru_pages_per_segment` after `relseg_size`.
const LAYOUT_19: Layout = Layout {
    next_xid: 72,
    checkpoint_time: 112,
    min_recovery_point: 144,
    min_recovery_timeline: 152,
    wal_level: 180,
    max_align: 212,
    float_format: 216,
    block_size: 224,
    blocks_per_segment: 228,
    wal_segment_size: 240,
    checksum_version: 264,
    crc: 304,
};

/// A released major version, as its control file shows it.
#[derive(Debug)]
struct Version {
    control: u32,
    catalog: u32,
    major: u32,
    layout: Layout,
}

const VERSIONS: &[Version] = &[
    Version { control: 1300, catalog: 202_007_201, major: 13, layout: LAYOUT_13 },
    Version { control: 1300, catalog: 202_107_181, major: 14, layout: LAYOUT_13 },
    Version { control: 1300, catalog: 202_209_061, major: 15, layout: LAYOUT_13 },
    Version { control: 1300, catalog: 202_307_071, major: 16, layout: LAYOUT_13 },
    Version { control: 1700, catalog: 202_406_281, major: 17, layout: LAYOUT_13 },
    Version { control: 1800, catalog: 202_506_291, major: 18, layout: LAYOUT_18 },
    Version { control: 1902, catalog: 202_605_131, major: 19, layout: LAYOUT_19 },
];

/// Why a control file cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The file ends before its structure does.
    #[error("it has {have} bytes, fewer than the {need} it must have")]
    Short {
        /// The bytes that it has.
        have: usize,
        /// The bytes that the structure needs.
        need: usize,
    },
    /// The file is all zeros, as after a crash of the machine.
    #[error("it is all zeros")]
    Zeroed,
    /// The versions belong to no release in the table.
    #[error(
        "its versions (control {control}, catalog {catalog}) are those of no PostgreSQL that volsnap knows, or it is damaged"
    )]
    UnknownVersion {
        /// `pg_control_version`.
        control: u32,
        /// `catalog_version_no`.
        catalog: u32,
    },
    /// The content does not match its CRC: it is damaged, or was read while it was written.
    #[error("its CRC is {stored:08x}, but its content gives {computed:08x}")]
    Crc {
        /// The CRC in the file.
        stored: u32,
        /// The CRC of the content.
        computed: u32,
    },
    /// The CRC is right, yet a field has a value that no PostgreSQL writes.
    #[error("its field {field} has the impossible value {value}")]
    Implausible {
        /// The field, by its name in PostgreSQL.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// The state of a cluster (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DbState {
    /// Starting for the first time.
    StartingUp,
    /// Cleanly shut down.
    ShutDown,
    /// A standby, cleanly shut down.
    ShutDownInRecovery,
    /// Its shutdown checkpoint was not finished.
    ShuttingDown,
    /// Recovering from a crash.
    InCrashRecovery,
    /// Recovering from an archive, or a standby at work.
    InArchiveRecovery,
    /// Running, or killed while it ran.
    InProduction,
}

impl DbState {
    fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

impl fmt::Display for DbState {
    /// Writes the words of `pg_controldata`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// What a control file says.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlFile {
    /// Identifies the cluster; its standbys have the same.
    pub system_identifier: u64,
    /// `pg_control_version`: the format of this file.
    pub control_version: u32,
    /// `catalog_version_no`: the format of the catalogs.
    pub catalog_version: u32,
    /// The major version that writes this pair.
    pub major_version: u32,
    /// What the cluster was doing when the file was last written.
    pub state: DbState,
    /// The latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where a recovery from that checkpoint would begin.
    pub redo: Lsn,
    /// The timeline of the checkpoint.
    pub timeline: u32,
    /// When the checkpoint was taken; seconds since 1970 in the file.
    pub checkpoint_time: DateTime<Utc>,
    /// The next transaction id, epoch and all.
    pub next_xid: u64,
    /// How far a standby must replay before its data is consistent; 0 on a primary.
    pub min_recovery_point: Lsn,
    /// The timeline of [`min_recovery_point`](Self::min_recovery_point).
    pub min_recovery_timeline: u32,
    /// `wal_level`: "minimal", "replica", "logical".
    pub wal_level: &'static str,
    /// Alignment of tuples, in bytes; differs between architectures.
    pub max_align: u32,
    /// Whether doubles are IEEE doubles of this byte order.
    pub float_format: bool,
    /// `blcksz`: bytes of a page.
    pub block_size: u32,
    /// `relseg_size`: pages of a full segment file of a relation.
    pub blocks_per_segment: u32,
    /// `xlog_seg_size`: bytes of a write-ahead log file.
    pub wal_segment_size: u32,
    /// `data_checksum_version`: 0 without page checksums, 1 with; from 19 on, 2 and 3 while they are being switched.
    pub checksum_version: u32,
}

impl ControlFile {
    /// Returns what the bytes of a `global/pg_control` say. Any bytes are safe to give.
    ///
    /// # Errors
    /// When they cannot be trusted, see [`ControlError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let version = version_of(bytes)?;
        let layout = &version.layout;
        check_crc(bytes, layout)?;
        // From here on every offset is inside: `version_of` checked the length.
        let control_file = Self {
            system_identifier: u64_at(bytes, 0),
            control_version: version.control,
            catalog_version: version.catalog,
            major_version: version.major,
            state: DbState::from_raw(u32_at(bytes, 16))
                .ok_or_else(|| implausible("state", u32_at(bytes, 16)))?,
            checkpoint: Lsn(u64_at(bytes, 32)),
            redo: Lsn(u64_at(bytes, 40)),
            timeline: u32_at(bytes, 48),
            checkpoint_time: time_at(bytes, layout.checkpoint_time)?,
            next_xid: u64_at(bytes, layout.next_xid),
            min_recovery_point: Lsn(u64_at(bytes, layout.min_recovery_point)),
            min_recovery_timeline: u32_at(bytes, layout.min_recovery_timeline),
            wal_level: wal_level(u32_at(bytes, layout.wal_level))?,
            max_align: u32_at(bytes, layout.max_align),
            float_format: u64_at(bytes, layout.float_format) == FLOAT_FORMAT.to_bits(),
            block_size: u32_at(bytes, layout.block_size),
            blocks_per_segment: u32_at(bytes, layout.blocks_per_segment),
            wal_segment_size: u32_at(bytes, layout.wal_segment_size),
            checksum_version: u32_at(bytes, layout.checksum_version),
        };
        control_file.check_sizes()?;
        Ok(control_file)
    }

    /// Checks the sizes that later arithmetic divides by, against PostgreSQL's own bounds.
    fn check_sizes(&self) -> Result<(), ControlError> {
        let power_within =
            |value: u32, least: u32, most: u32| value.is_power_of_two() && (least..=most).contains(&value);
        if !power_within(self.block_size, 1 << 10, 1 << 15) {
            return Err(implausible("blcksz", self.block_size));
        }
        if self.blocks_per_segment == 0 {
            return Err(implausible("relseg_size", self.blocks_per_segment));
        }
        if !power_within(self.wal_segment_size, 1 << 20, 1 << 30) {
            return Err(implausible("xlog_seg_size", self.wal_segment_size));
        }
        Ok(())
    }

    /// Returns the name of the write-ahead log file, in `pg_wal`, that holds the latest checkpoint record. Without it
    /// the server does not start.
    #[must_use]
    pub fn checkpoint_wal_file(&self) -> String {
        self.wal_file(self.checkpoint, self.timeline)
    }

    /// Returns the name of the write-ahead log file where a recovery would begin.
    #[must_use]
    pub fn redo_wal_file(&self) -> String {
        self.wal_file(self.redo, self.timeline)
    }

    /// Returns the name of the last write-ahead log file that a standby needs before its data is consistent; `None` on
    /// a primary.
    #[must_use]
    pub fn min_recovery_wal_file(&self) -> Option<String> {
        // The point is the end of a record: if it is at a file's boundary, the record is in the file before.
        let last_byte = Lsn(self.min_recovery_point.0.checked_sub(1)?);
        Some(self.wal_file(last_byte, self.min_recovery_timeline))
    }

    fn wal_file(&self, lsn: Lsn, timeline: u32) -> String {
        let segment = lsn.0 / u64::from(self.wal_segment_size);
        let segments_per_id = (1_u64 << 32) / u64::from(self.wal_segment_size);
        format!("{timeline:08X}{:08X}{:08X}", segment / segments_per_id, segment % segments_per_id)
    }

    /// Returns the next transaction id as PostgreSQL writes it: `epoch:xid`.
    #[must_use]
    pub fn next_transaction(&self) -> String {
        format!("{}:{}", self.next_xid >> 32, self.next_xid & 0xFFFF_FFFF)
    }
}

/// Returns the version whose layout the bytes have, after checking that they are long enough for it.
fn version_of(bytes: &[u8]) -> Result<&'static Version, ControlError> {
    let short = |need| ControlError::Short { have: bytes.len(), need };
    if bytes.len() < 16 {
        return Err(short(LAYOUT_13.size()));
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(ControlError::Zeroed);
    }
    let (control, catalog) = (u32_at(bytes, 8), u32_at(bytes, 12));
    let version = VERSIONS
        .iter()
        .find(|version| version.control == control && version.catalog == catalog)
        .ok_or(ControlError::UnknownVersion { control, catalog })?;
    if bytes.len() < version.layout.size() {
        return Err(short(version.layout.size()));
    }
    Ok(version)
}

fn check_crc(bytes: &[u8], layout: &Layout) -> Result<(), ControlError> {
    let stored = u32_at(bytes, layout.crc);
    let computed = crc32c::crc32c(&bytes[..layout.crc]);
    if stored == computed { Ok(()) } else { Err(ControlError::Crc { stored, computed }) }
}

fn wal_level(raw: u32) -> Result<&'static str, ControlError> {
    match raw {
        0 => Ok("minimal"),
        1 => Ok("replica"),
        2 => Ok("logical"),
        _ => Err(implausible("wal_level", raw)),
    }
}

fn time_at(bytes: &[u8], offset: usize) -> Result<DateTime<Utc>, ControlError> {
    let seconds = u64_at(bytes, offset).cast_signed();
    DateTime::from_timestamp(seconds, 0).ok_or_else(|| implausible("checkPointCopy.time", seconds))
}

fn implausible(field: &'static str, value: impl fmt::Display) -> ControlError {
    ControlError::Implausible { field, value: value.to_string() }
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    pub(crate) const CLEAN: &[u8] = include_bytes!("../../../fixtures/pg_control/15-clean.bin");
    pub(crate) const SIGKILL: &[u8] = include_bytes!("../../../fixtures/pg_control/15-sigkill.bin");
    pub(crate) const SIGQUIT: &[u8] = include_bytes!("../../../fixtures/pg_control/15-sigquit.bin");

    /// Writes `value` at `offset` and makes the CRC at `crc` right again.
    pub(crate) fn patched(bytes: &[u8], offset: usize, value: &[u8], crc: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        let sum = crc32c::crc32c(&bytes[..crc]);
        bytes[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Makes a control file of another version from PostgreSQL 15's.
    fn of_version(control: u32, catalog: u32, layout: &Layout) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let mut copy = |to: usize, from: usize, len: usize| {
            bytes[to..to + len].copy_from_slice(&CLEAN[from..from + len]);
        };
        copy(0, 0, 64);
        copy(layout.next_xid, 64, 8);
        copy(layout.checkpoint_time, 104, 8);
        copy(layout.min_recovery_point, 136, 8);
        copy(layout.min_recovery_timeline, 144, 4);
        copy(layout.wal_level, 172, 4);
        copy(layout.max_align, 204, 4);
        copy(layout.float_format, 208, 8);
        copy(layout.block_size, 216, 4);
        copy(layout.blocks_per_segment, 220, 4);
        copy(layout.wal_segment_size, 228, 4);
        copy(layout.checksum_version, 252, 4);
        let bytes = patched(&bytes, 8, &control.to_le_bytes(), layout.crc);
        patched(&bytes, 12, &catalog.to_le_bytes(), layout.crc)
    }

    /// Returns what `pg_controldata` printed after `label`.
    fn printed<'a>(output: &'a str, label: &str) -> &'a str {
        let line = output.lines().find(|line| line.starts_with(&format!("{label}:")));
        line.and_then(|line| line.split_once(':')).expect(label).1.trim()
    }

    #[rstest]
    #[case::clean(CLEAN, include_str!("../../../fixtures/pg_control/15-clean.txt"))]
    #[case::in_production(
        include_bytes!("../../../fixtures/pg_control/15-in-production.bin"),
        include_str!("../../../fixtures/pg_control/15-in-production.txt")
    )]
    #[case::killed(SIGKILL, include_str!("../../../fixtures/pg_control/15-sigkill.txt"))]
    #[case::immediate(SIGQUIT, include_str!("../../../fixtures/pg_control/15-sigquit.txt"))]
    fn it_agrees_with_pg_controldata(#[case] bytes: &[u8], #[case] output: &str) {
        let control = ControlFile::parse(bytes).expect("a real control file");
        let expect = |label: &str, value: String| assert_eq!(printed(output, label), value, "{label}");
        expect("pg_control version number", control.control_version.to_string());
        expect("Catalog version number", control.catalog_version.to_string());
        expect("Database system identifier", control.system_identifier.to_string());
        expect("Database cluster state", control.state.to_string());
        expect("Latest checkpoint location", control.checkpoint.to_string());
        expect("Latest checkpoint's REDO location", control.redo.to_string());
        expect("Latest checkpoint's REDO WAL file", control.redo_wal_file());
        expect("Latest checkpoint's TimeLineID", control.timeline.to_string());
        expect("Latest checkpoint's NextXID", control.next_transaction());
        expect("Minimum recovery ending location", control.min_recovery_point.to_string());
        expect("Min recovery ending loc's timeline", control.min_recovery_timeline.to_string());
        expect("wal_level setting", control.wal_level.to_owned());
        expect("Maximum data alignment", control.max_align.to_string());
        expect("Database block size", control.block_size.to_string());
        expect("Blocks per segment of large relation", control.blocks_per_segment.to_string());
        expect("Bytes per WAL segment", control.wal_segment_size.to_string());
        expect("Data page checksum version", control.checksum_version.to_string());
        let time = control.checkpoint_time.format("%a %b %e %H:%M:%S %Y").to_string();
        expect("Time of latest checkpoint", time);
        assert_eq!(control.major_version, 15);
        assert!(control.float_format);
    }

    #[test]
    fn a_killed_and_an_immediately_stopped_server_look_in_production() {
        assert_eq!(ControlFile::parse(CLEAN).unwrap().state, DbState::ShutDown);
        assert_eq!(ControlFile::parse(SIGKILL).unwrap().state, DbState::InProduction);
        assert_eq!(ControlFile::parse(SIGQUIT).unwrap().state, DbState::InProduction);
    }

    #[test]
    fn every_known_version_is_read_by_its_own_layout() {
        let clean = ControlFile::parse(CLEAN).unwrap();
        for version in VERSIONS {
            let bytes = of_version(version.control, version.catalog, &version.layout);
            let expected = ControlFile {
                control_version: version.control,
                catalog_version: version.catalog,
                major_version: version.major,
                ..clean.clone()
            };
            assert_eq!(ControlFile::parse(&bytes), Ok(expected), "{}", version.major);
            assert!(ControlFile::parse(&bytes[..version.layout.size()]).is_ok());
            let have = version.layout.size() - 1;
            assert_eq!(
                ControlFile::parse(&bytes[..have]),
                Err(ControlError::Short { have, need: version.layout.size() })
            );
        }
    }

    #[test]
    fn a_pair_of_versions_that_no_release_has_is_never_read() {
        for (control, catalog) in [(1300, 202_209_062), (1800, 202_209_061), (9999, 1)] {
            let bytes = of_version(control, catalog, &LAYOUT_13);
            assert_eq!(ControlFile::parse(&bytes), Err(ControlError::UnknownVersion { control, catalog }));
        }
    }

    #[test]
    fn each_kind_of_damage_has_its_own_error() {
        assert_eq!(ControlFile::parse(&[0; 8192]), Err(ControlError::Zeroed));
        assert_eq!(ControlFile::parse(&[]), Err(ControlError::Short { have: 0, need: 296 }));
        assert_eq!(ControlFile::parse(&CLEAN[..100]), Err(ControlError::Short { have: 100, need: 296 }));
        let unknown_state = patched(CLEAN, 16, &7_u32.to_le_bytes(), 288);
        assert_eq!(ControlFile::parse(&unknown_state), Err(implausible("state", 7)));
        let no_wal_size = patched(CLEAN, 228, &0_u32.to_le_bytes(), 288);
        assert_eq!(ControlFile::parse(&no_wal_size), Err(implausible("xlog_seg_size", 0)));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        for bit in 0..292 * 8 {
            let mut bytes = CLEAN.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn wal_files_are_named_by_timeline_and_segment() {
        let mut control = ControlFile::parse(CLEAN).unwrap();
        control.checkpoint = Lsn(0x3_FF00_0028);
        control.timeline = 0x1A;
        assert_eq!(control.checkpoint_wal_file(), "0000001A00000003000000FF");
        control.wal_segment_size = 1 << 30;
        assert_eq!(control.checkpoint_wal_file(), "0000001A0000000300000003");
        control.min_recovery_point = Lsn(0x3_C000_0000);
        control.min_recovery_timeline = 2;
        assert_eq!(control.min_recovery_wal_file().as_deref(), Some("000000020000000300000002"));
        control.min_recovery_point = Lsn(0);
        assert_eq!(control.min_recovery_wal_file(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = ControlFile::parse(&bytes);
        }

        #[test]
        fn no_field_makes_it_panic(offset in 16_usize..284, value in any::<[u8; 4]>()) {
            if let Ok(control) = ControlFile::parse(&patched(CLEAN, offset, &value, 288)) {
                let _ = (control.checkpoint_wal_file(), control.min_recovery_wal_file());
            }
        }
    }
}
