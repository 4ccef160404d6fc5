//! Where the data of a sparse file is, in GNU's old format and in its PAX formats 0.0, 0.1, 1.0.

use std::io::BufRead;

use super::header::RawHeader;
use super::{MemberProblem, RECORD, Records, TarReader};
use crate::archive::{ArchiveError, Entry, Extent, pax};

/// The place of the entries in an old sparse header and in its extensions.
const OLD_HEADER: Table = Table { at: 386, entries: 4, is_extended: 482 };
const OLD_EXTENSION: Table = Table { at: 0, entries: 21, is_extended: 504 };

struct Table {
    at: usize,
    entries: usize,
    is_extended: usize,
}

impl<R: BufRead> TarReader<R> {
    /// Reads the map of a sparse file and sets the entry's size to the real one; `None` for others.
    pub(super) fn read_extents(
        &mut self,
        header: &RawHeader,
        records: &Records,
        entry: &mut Entry,
    ) -> Result<Option<Vec<Extent>>, ArchiveError> {
        let get = |key: &str| records.get(key.as_bytes()).map(Vec::as_slice);
        let malformed = MemberProblem::Field { field: "sparse map" };
        let (extents, size) = if header.typeflag() == b'S' {
            let size = header.unsigned(483, "sparse map").map_err(|problem| self.error(problem))?;
            (self.read_old(header)?, Some(size))
        } else if get("GNU.sparse.major") == Some(b"1") && get("GNU.sparse.minor") == Some(b"0") {
            (self.read_map()?, get("GNU.sparse.realsize").and_then(pax::parse_decimal))
        } else if let Some(map) = get("GNU.sparse.map") {
            let size = get("GNU.sparse.size").or_else(|| get("GNU.sparse.realsize"));
            (self.parse_map(map)?, size.and_then(pax::parse_decimal))
        } else if get("GNU.sparse.major").is_some() {
            return Err(self.error(malformed));
        } else {
            return Ok(None);
        };
        let size = size.filter(|size| is_sound(&extents, *size, self.content.stored));
        entry.size = size.ok_or_else(|| self.error(malformed))?;
        Ok(Some(extents))
    }

    fn read_old(&mut self, header: &RawHeader) -> Result<Vec<Extent>, ArchiveError> {
        let mut extents = Vec::new();
        let mut is_extended = self.old_entries(header, &OLD_HEADER, &mut extents)?;
        while is_extended {
            let record = self.read_record()?.ok_or_else(|| self.error(MemberProblem::Truncated))?;
            is_extended = self.old_entries(&RawHeader(record), &OLD_EXTENSION, &mut extents)?;
        }
        Ok(extents)
    }

    /// Reads the entries of one record; returns whether another follows.
    fn old_entries(
        &self,
        record: &RawHeader,
        table: &Table,
        extents: &mut Vec<Extent>,
    ) -> Result<bool, ArchiveError> {
        for at in (table.at..).step_by(24).take(table.entries) {
            if record.is_blank(at + 12) {
                return Ok(false);
            }
            let number = |at| record.unsigned(at, "sparse map").map_err(|problem| self.error(problem));
            self.push_extent(extents, number(at)?, number(at + 12)?)?;
        }
        Ok(record.byte(table.is_extended) != 0)
    }

    fn push_extent(&self, extents: &mut Vec<Extent>, offset: u64, len: u64) -> Result<(), ArchiveError> {
        self.check_count(extents.len() as u64 + 1)?;
        extents.push(Extent { offset, len });
        Ok(())
    }

    fn check_count(&self, count: u64) -> Result<(), ArchiveError> {
        let limit = self.limits.extents as u64;
        if count > limit {
            return Err(self.error(MemberProblem::TooLarge { what: "sparse map", limit }));
        }
        Ok(())
    }

    /// Parses the list of format 0.1: offset, length, offset, length …
    fn parse_map(&self, map: &[u8]) -> Result<Vec<Extent>, ArchiveError> {
        let malformed = || self.error(MemberProblem::Field { field: "sparse map" });
        let mut extents = Vec::new();
        let mut numbers = map.split(|byte| *byte == b',').map(pax::parse_decimal);
        while let Some(offset) = numbers.next() {
            let (Some(offset), Some(Some(len))) = (offset, numbers.next()) else {
                return Err(malformed());
            };
            self.push_extent(&mut extents, offset, len)?;
        }
        Ok(extents)
    }

    /// Reads the map of format 1.0, which stands before the data: a count, then its pairs, one number a line,
    /// padded with zeros to whole records.
    fn read_map(&mut self) -> Result<Vec<Extent>, ArchiveError> {
        let mut lines = Lines { record: [0; RECORD], at: RECORD };
        let count = self.next_line(&mut lines)?;
        // One more: a file that ends in a hole has an empty extent at its end.
        self.check_count(count.saturating_sub(1))?;
        let mut extents = Vec::new();
        for _ in 0..count {
            let offset = self.next_line(&mut lines)?;
            let len = self.next_line(&mut lines)?;
            extents.push(Extent { offset, len });
        }
        Ok(extents)
    }

    fn next_line(&mut self, lines: &mut Lines) -> Result<u64, ArchiveError> {
        let mut line = Vec::with_capacity(20);
        loop {
            if lines.at == RECORD {
                let stored = self.content.stored.checked_sub(RECORD as u64);
                self.content.stored = stored.ok_or_else(|| self.error(MemberProblem::Truncated))?;
                let record = self.read_record()?;
                lines.record = record.ok_or_else(|| self.error(MemberProblem::Truncated))?;
                lines.at = 0;
            }
            let byte = lines.record[lines.at];
            lines.at += 1;
            match byte {
                b'\n' => break,
                b'0'..=b'9' if line.len() < 20 => line.push(byte),
                _ => return Err(self.error(MemberProblem::Field { field: "sparse map" })),
            }
        }
        let malformed = MemberProblem::Field { field: "sparse map" };
        pax::parse_decimal(&line).ok_or_else(|| self.error(malformed))
    }
}

/// The records of a map while they are parsed.
struct Lines {
    record: [u8; RECORD],
    at: usize,
}

/// Returns whether the extents are in order, inside the file, and add up to what is stored.
fn is_sound(extents: &[Extent], size: u64, stored: u64) -> bool {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for extent in extents {
        let Some(next) = extent.offset.checked_add(extent.len) else { return false };
        if extent.offset < end || next > size {
            return false;
        }
        end = next;
        total += extent.len;
    }
    total == stored && size <= i64::MAX.unsigned_abs()
}
