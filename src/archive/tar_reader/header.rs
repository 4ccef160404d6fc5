//! The record of 512 bytes that begins a member.

use super::RECORD;
use crate::archive::error::MemberProblem;
use crate::archive::{Device, Timestamp};

/// A header as it is stored.
#[derive(Debug)]
pub(super) struct RawHeader(pub(super) [u8; RECORD]);

impl RawHeader {
    /// Returns whether the sum of all bytes is the stored one; some old tars summed them with their
    /// signs.
    pub(super) fn has_right_checksum(&self) -> bool {
        let stored = self.number(148, 8);
        let with_blanks = || {
            let (before, rest) = self.0.split_at(148);
            before.iter().chain(b"        ").chain(&rest[8..])
        };
        let unsigned: i64 = with_blanks().map(|byte| i64::from(*byte)).sum();
        let signed: i64 = with_blanks().map(|byte| i64::from(byte.cast_signed())).sum();
        stored.is_some_and(|stored| stored == unsigned || stored == signed)
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// Returns prefix and name; only POSIX headers have a prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = if &self.0[257..263] == b"ustar\0" { self.text(345, 155) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, MemberProblem> {
        self.small(100, "mode")
    }

    pub(super) fn uid(&self) -> Result<u32, MemberProblem> {
        self.small(108, "owner")
    }

    pub(super) fn gid(&self) -> Result<u32, MemberProblem> {
        self.small(116, "owner")
    }

    pub(super) fn size(&self) -> Result<u64, MemberProblem> {
        self.unsigned(124, "size")
    }

    pub(super) fn mtime(&self) -> Result<Timestamp, MemberProblem> {
        let secs = self.number(136, 12).ok_or(MemberProblem::Field { field: "mtime" })?;
        Ok(Timestamp { secs, nanos: 0 })
    }

    pub(super) fn device(&self) -> Result<Device, MemberProblem> {
        Ok(Device { major: self.small(329, "device number")?, minor: self.small(337, "device number")? })
    }

    /// Returns a twelve-byte number that is not negative.
    pub(super) fn unsigned(&self, at: usize, field: &'static str) -> Result<u64, MemberProblem> {
        let number = self.number(at, 12).and_then(|number| u64::try_from(number).ok());
        number.ok_or(MemberProblem::Field { field })
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// Returns whether a twelve-byte field is left empty.
    pub(super) fn is_blank(&self, at: usize) -> bool {
        self.0[at] == 0
    }

    fn small(&self, at: usize, field: &'static str) -> Result<u32, MemberProblem> {
        let number = self.number(at, 8).and_then(|number| u32::try_from(number).ok());
        number.ok_or(MemberProblem::Field { field })
    }

    fn text(&self, at: usize, len: usize) -> &[u8] {
        let field = &self.0[at..at + len];
        field.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Returns a number in octal, or in base 256 when its first bit is set; blank is 0.
    fn number(&self, at: usize, len: usize) -> Option<i64> {
        let field = &self.0[at..at + len];
        if field[0] & 0x80 != 0 {
            return base_256(field);
        }
        let digits = field.trim_ascii_start();
        let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
        let (digits, rest) = digits.split_at(end);
        if rest.iter().any(|byte| !matches!(byte, b' ' | 0)) {
            return None;
        }
        digits.iter().try_fold(0_i64, |number, byte| {
            let digit = i64::from(byte.checked_sub(b'0').filter(|digit| *digit < 8)?);
            number.checked_mul(8)?.checked_add(digit)
        })
    }
}

/// Returns a big-endian number in two's complement, whose first bit only marks it as such.
fn base_256(field: &[u8]) -> Option<i64> {
    let is_negative = field[0] & 0x40 != 0;
    let first = if is_negative { field[0] } else { field[0] & 0x7f };
    let start = i128::from(if is_negative { first.cast_signed() } else { first.cast_signed() & 0x7f });
    let number = field[1..]
        .iter()
        .try_fold(start, |number, byte| number.checked_mul(256)?.checked_add(i128::from(*byte)))?;
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(field: &[u8]) -> Option<i64> {
        let mut header = RawHeader([0; RECORD]);
        header.0[..field.len()].copy_from_slice(field);
        header.number(0, field.len())
    }

    #[test]
    fn numbers_are_read_in_every_notation() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"77777777"), Some(0o7777_7777));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]), Some(-256));
        assert_eq!(number(&[0x80, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn what_is_no_number_is_none() {
        for field in [&b"0000648\0"[..], b"644 644\0", b"-644   \0", b"0x1\0\0\0\0\0"] {
            assert_eq!(number(field), None);
        }
    }
}
