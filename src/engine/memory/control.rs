//! The `global/pg_control` of a server in memory: that of a real PostgreSQL 15, with other values.

use std::io;
use std::path::Path;

use crate::database::postgres::control::{ControlFile, PATH};

/// That of a real one, shut down cleanly.
const CLEAN: &[u8] = include_bytes!("../../../fixtures/pg_control/15-clean.bin");

// The places of the values in the layout of 13 to 17.
const STATE: usize = 16;
const CHECKPOINT: usize = 32;
const REDO: usize = 40;
const NEXT_TRANSACTION: usize = 64;
const CHECKPOINT_TIME: usize = 104;
const SEGMENT_SIZE: usize = 228;
const CRC: usize = 288;

/// The smallest size.
pub(super) const SEGMENT_BYTES: u32 = 1 << 20;
const FIRST_CHECKPOINT: u64 = 2 * SEGMENT_BYTES as u64 + 0x28;
const CHECKPOINT_BYTES: u64 = 0x78;

/// What a cluster is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    ShutDown = 1,
    InProduction = 6,
}

/// A control file that may be changed.
#[derive(Debug, Clone)]
pub(super) struct Control(Vec<u8>);

impl Control {
    /// Returns the control file of a new cluster.
    pub(super) fn new(identifier: u64) -> Self {
        let mut control = Self(CLEAN.to_vec());
        control.put(0, &identifier.to_le_bytes());
        control.put(SEGMENT_SIZE, &SEGMENT_BYTES.to_le_bytes());
        control.put_checkpoint(FIRST_CHECKPOINT);
        control.seal();
        control
    }

    /// Reads the control file of a data directory, as a server would before it starts.
    pub(super) fn read(data_directory: &Path) -> io::Result<Self> {
        let control = Self(std::fs::read(data_directory.join(PATH))?);
        control.parsed()?;
        Ok(control)
    }

    pub(super) fn parsed(&self) -> io::Result<ControlFile> {
        ControlFile::parse(&self.0).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes it in place, as a server does.
    pub(super) fn write(&mut self, data_directory: &Path) -> io::Result<()> {
        self.seal();
        std::fs::write(data_directory.join(PATH), &self.0)
    }

    /// Makes its checksum right again.
    fn seal(&mut self) {
        let crc = crc32c::crc32c(&self.0[..CRC]);
        self.put(CRC, &crc.to_le_bytes());
    }

    /// Takes a checkpoint: from then on a recovery would begin there.
    pub(super) fn checkpoint(&mut self, seconds: i64, next_transaction: u64) {
        let next = self.parsed_checkpoint() + CHECKPOINT_BYTES;
        // One segment is as good as another, and nobody has to make the next.
        let is_full = next % u64::from(SEGMENT_BYTES) > u64::from(SEGMENT_BYTES) - CHECKPOINT_BYTES;
        self.put_checkpoint(if is_full { FIRST_CHECKPOINT } else { next });
        self.put(CHECKPOINT_TIME, &seconds.to_le_bytes());
        self.put(NEXT_TRANSACTION, &next_transaction.to_le_bytes());
    }

    pub(super) fn set(&mut self, doing: Doing) {
        self.put(STATE, &(doing as u32).to_le_bytes());
    }

    fn parsed_checkpoint(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[CHECKPOINT..CHECKPOINT + 8]);
        u64::from_le_bytes(bytes)
    }

    fn put_checkpoint(&mut self, position: u64) {
        self.put(CHECKPOINT, &position.to_le_bytes());
        self.put(REDO, &position.to_le_bytes());
    }

    fn put(&mut self, offset: usize, value: &[u8]) {
        self.0[offset..offset + value.len()].copy_from_slice(value);
    }
}
