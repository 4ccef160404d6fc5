//! A position in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde_json::json;

use crate::model::position::Position;

/// Where a replay of the write-ahead log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogPosition {
    /// The timeline.
    pub(super) timeline: u32,
    /// The position on it.
    pub(super) lsn: Lsn,
}

impl From<LogPosition> for Position {
    fn from(LogPosition { timeline, lsn }: LogPosition) -> Self {
        Self::of(super::NAME, json!({"timeline": timeline, "lsn": lsn.to_string()}))
    }
}

/// A position in the write-ahead log, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no position in a write-ahead log, which looks like 0/14EF7D8")]
pub struct InvalidLsn(String);

impl fmt::Display for Lsn {
    /// Writes it as the server does: `0/14EF7D8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let number = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u64::from);
        let halves = text.split_once('/').and_then(|(high, low)| Some((number(high)?, number(low)?)));
        halves.map(|(high, low)| Self(high << 32 | low)).ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_written_as_the_server_writes_it() {
        let position = Position::from(LogPosition { timeline: 3, lsn: Lsn(0x1_014E_F7D8) });
        let value = json!({"postgresql": {"timeline": 3, "lsn": "1/14EF7D8"}});
        assert_eq!(serde_json::to_value(&position).unwrap(), value);
        assert_eq!("1/14EF7D8".parse(), Ok(Lsn(0x1_014E_F7D8)));
        for text in ["", "0", "1/", "/1", "g/1", "1/100000000"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
