//! Backs up a database while it runs: its own backup, made by its own programs.
//!
//! Three containers take part: the database's own, which only answers questions; a throwaway one of the same image
//! that shares its network and writes the backup; and another one, without any network, that reads it back. Passwords
//! go from the first to the second over standard output and standard input, nowhere else.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use crate::model::container::{Container, ExecOutput};
use crate::model::inspection::Inspection;

/// How a kind of database is backed up while it runs.
pub trait NativeBackup: Send + Sync + fmt::Debug {
    /// Returns the command that asks the database, inside its container, whether it can be backed up; `data_directory`
    /// is where its data lies in the container.
    fn question(&self, container: &Container, data_directory: &Path) -> Vec<String>;

    /// Evaluates the answer to that question.
    ///
    /// # Errors
    /// When the database cannot be backed up in this state.
    fn access(&self, container: &Container, answer: &ExecOutput) -> Result<NativeAccess, NativeRefusal>;

    /// Returns the lowest and the highest rate that it accepts, in bytes per second.
    fn rates(&self) -> RangeInclusive<u64>;

    /// Returns the command that writes the backup into `directory`, which exists and is empty, from within
    /// the database's network, no faster than `rate`. It reads [`NativeAccess::secret`] from its standard input,
    /// and needs `/tmp`.
    fn backup_command(&self, access: &NativeAccess, directory: &Path, rate: MaxRate) -> Vec<String>;

    /// Returns the command that proves the backup in `directory` to be whole.
    fn verify_command(&self, directory: &Path) -> Vec<String>;

    /// Returns how many bytes of the backup are written, from a piece of its command's stderr.
    fn progress(&self, said: &str) -> Option<u64>;

    /// Returns why a command failed, from its stderr.
    fn failure(&self, access: &NativeAccess, stderr: &str) -> NativeRefusal;

    /// Returns why the files of a backup are not as they must be; empty if they are.
    fn doubts(&self, access: &NativeAccess, inspection: &Inspection) -> Vec<String>;
}

/// How to back up a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeAccess {
    /// The role to connect as.
    pub user: String,
    /// The port it listens on, at 127.0.0.1.
    pub port: String,
    /// Owner and group of its files, by number.
    pub owner: (u32, u32),
    /// What identifies the running cluster.
    pub identifier: String,
    /// What the backup's command reads from its standard input.
    pub secret: Secret,
}

/// The units of a rate, the largest first.
const UNITS: [(u64, &str); 3] = [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")];

/// The highest rate of a backup.
///
/// A backup at full speed takes one of the database's processors and another for itself; on a small machine the
/// database's users feel that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxRate(Option<u64>);

impl MaxRate {
    /// As fast as possible.
    pub const NONE: Self = Self(None);

    /// That many bytes per second.
    #[must_use]
    pub fn of(bytes_per_second: u64) -> Self {
        Self(Some(bytes_per_second))
    }

    /// Returns the limit in bytes per second; `None` if there is none.
    #[must_use]
    pub fn bytes_per_second(self) -> Option<u64> {
        self.0
    }
}

/// Writes it as a user would type it.
impl fmt::Display for MaxRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.0 else { return f.write_str("none") };
        let (unit, letter) =
            UNITS.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit)).unwrap_or(UNITS[UNITS.len() - 1]);
        write!(f, "{}{letter}", bytes / unit)
    }
}

impl Default for MaxRate {
    fn default() -> Self {
        Self(Some(100 << 20))
    }
}

impl FromStr for MaxRate {
    type Err = String;

    /// Reads `100M`, `512k`, `1G` or `none`, each unit 1024 of the smaller one.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let letter = &text[digits.len()..];
        let unit = UNITS.into_iter().find(|(_, known)| letter.eq_ignore_ascii_case(known));
        let rate = unit.and_then(|(unit, _)| digits.parse::<u64>().ok()?.checked_mul(unit));
        match rate.filter(|bytes| *bytes > 0) {
            Some(bytes) => Ok(Self(Some(bytes))),
            None => Err("a rate is a number with k, M or G for the bytes per second, or none".to_owned()),
        }
    }
}

/// Why a database cannot be backed up while it runs, and how to fix that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeRefusal {
    /// The obstacle.
    pub problem: String,
    /// The line that fixes it, and where it belongs; `None` if none is known.
    pub mend: Option<String>,
}

/// Bytes that nobody may see.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Returns the bytes, for the one who may have them.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("100M", Some(100 << 20))]
    #[case("32k", Some(32 << 10))]
    #[case("1G", Some(1 << 30))]
    #[case("1536k", Some(1536 << 10))]
    #[case("none", None)]
    fn a_rate_is_read_and_written_as_it_is_typed(#[case] text: &str, #[case] bytes: Option<u64>) {
        let rate: MaxRate = text.parse().unwrap();
        assert_eq!((rate.bytes_per_second(), rate.to_string().as_str()), (bytes, text));
    }

    #[rstest]
    #[case("")]
    #[case("fast")]
    #[case("100")]
    #[case("100MB")]
    #[case("0k")]
    #[case("-1M")]
    #[case("99999999999999999999G")]
    fn what_is_no_rate_is_refused(#[case] text: &str) {
        assert!(text.parse::<MaxRate>().unwrap_err().contains("a rate is"));
    }
}
