//! The position of data in its database's log of changes. Pure data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The position of a snapshot's data in its database's log: a replay of the log begins here, and the files have what
/// came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// In the write-ahead log of PostgreSQL.
    Postgresql {
        /// The timeline.
        timeline: u32,
        /// The position on it.
        lsn: Lsn,
    },
    /// In the log of a database that only a later volsnap knows.
    #[serde(untagged)]
    Other(Value),
}

/// A position in PostgreSQL's write-ahead log, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no position in a write-ahead log, which looks like 0/14EF7D8")]
pub struct InvalidLsn(String);

impl fmt::Display for Lsn {
    /// Writes it as PostgreSQL does: `0/14EF7D8`.
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

impl TryFrom<String> for Lsn {
    type Error = InvalidLsn;

    fn try_from(text: String) -> Result<Self, InvalidLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_position_is_written_as_its_database_writes_it() {
        let position = Position::Postgresql { timeline: 3, lsn: Lsn(0x1_014E_F7D8) };
        let value = json!({"postgresql": {"timeline": 3, "lsn": "1/14EF7D8"}});
        assert_eq!(serde_json::to_value(&position).unwrap(), value);
        assert_eq!(serde_json::from_value::<Position>(value).unwrap(), position);
        for text in ["", "0", "1/", "/1", "g/1", "1/100000000"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_position_in_another_log_is_kept_as_it_is() {
        let value = json!({"mysql": {"gtid": "3E11FA47:1-5"}});
        let position: Position = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(position, Position::Other(value.clone()));
        assert_eq!(serde_json::to_value(&position).unwrap(), value);
    }
}
