//! Backing up a database that runs on: its own backup, made by its own programs.
//!
//! Three containers take part: the database's own, which is only asked; a throwaway one of the same image
//! that shares its network and writes the backup; and another one, without any network, that reads it back.
//! Passwords go from the first to the second over standard output and standard input, nowhere else.

use std::fmt;
use std::path::Path;

use super::Inspection;
use crate::docker::{Container, ExecOutput};

/// How a kind of database is backed up while it runs.
pub trait OnlineBackup: Send + Sync + fmt::Debug {
    /// Returns the command that asks the database, inside its container, whether it can be backed up;
    /// `data_directory` is where the container has its data.
    fn question(&self, container: &Container, data_directory: &Path) -> Vec<String>;

    /// Takes in what came of the question.
    ///
    /// # Errors
    /// When the database cannot be backed up as it is.
    fn access(&self, container: &Container, answer: &ExecOutput) -> Result<OnlineAccess, OnlineRefusal>;

    /// Returns the command that writes the backup into `directory`, which exists and is empty, from within
    /// the database's network. It reads [`OnlineAccess::secret`] from its standard input, and needs `/tmp`.
    fn backup_command(&self, access: &OnlineAccess, directory: &Path) -> Vec<String>;

    /// Returns the command that proves the backup in `directory` to be whole.
    fn verify_command(&self, directory: &Path) -> Vec<String>;

    /// Returns how far the backup is, by a piece of what its command writes to stderr: bytes written.
    fn progress(&self, said: &str) -> Option<u64>;

    /// Returns what made a command fail, by what it wrote to stderr.
    fn failure(&self, access: &OnlineAccess, stderr: &str) -> OnlineRefusal;

    /// Returns why the files of a backup are not what they must be; none when they are.
    fn doubts(&self, access: &OnlineAccess, inspection: &Inspection) -> Vec<String>;
}

/// How a database lets itself be backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineAccess {
    /// Whom to connect as.
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

/// Why a database cannot be backed up while it runs, and what mends that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineRefusal {
    /// What is in the way.
    pub problem: String,
    /// The line that mends it, and where it belongs; `None` where none is known.
    pub mend: Option<String>,
}

/// Bytes that nobody is to see.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Returns the bytes, for the one who is to have them.
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
