//! Boots a copy of a database's data, away from everything else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::container::{Container, ExecOutput};

/// How to boot a copy of a database's data: in a container without network, capability or secret, as the owner of the
/// data.
pub trait SandboxSource: Send + Sync {
    /// Returns what boots the copy in `data_directory`, a path in the container; `user` is a role that may see
    /// everything, and `database` is the one for queries, if they are known. The database's server recognises the
    /// container that this makes.
    fn sandbox(&self, data_directory: &Path, user: Option<&str>, database: Option<&str>) -> Sandbox;

    /// Returns what prints, in a booted copy, which files of configuration the copy has, as [`CopyConfiguration::parse`]
    /// reads it; `None` if nobody knows.
    fn copy_configuration_command(&self) -> Option<Vec<String>> {
        None
    }

    /// Returns how to check whether the parts of its data that the database keeps in several places fit together;
    /// `None` if there is no tool for that.
    fn structure_check(&self, _container: &Container) -> Option<StructureCheck> {
        None
    }

    /// Returns what the output of that check's command says.
    fn structure(&self, output: &ExecOutput) -> Structure {
        Structure::Unknown(format!("exit code {}", output.exit_code))
    }

    /// Returns the line of a log that says why the server did not come up.
    fn stderr_tail(&self, log: &str) -> Option<String>;
}

/// What a container needs to boot a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Entrypoint and arguments, whole.
    pub command: Vec<String>,
    /// Environment; no secret.
    pub env: BTreeMap<String, String>,
    /// Directories in memory that it writes to.
    pub scratch: Vec<PathBuf>,
}

/// Which of the files that its configuration names a copy has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyConfiguration {
    /// What it reads.
    pub used: Vec<PathBuf>,
    /// What is not there, and had to be left out for it to boot.
    pub absent: Vec<PathBuf>,
}

impl CopyConfiguration {
    /// Reads lines of the form `used PATH` and `absent PATH`; others say nothing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let of = |word: &str| {
            let paths = text.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
            paths.map(PathBuf::from).collect()
        };
        Self { used: of("used"), absent: of("absent") }
    }
}

/// How the database's own tool checks the structure of its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructureCheck {
    /// The tool's name.
    pub tool: &'static str,
    /// What it checks, for a person: "indexes".
    pub subject: &'static str,
    /// The command, run inside the container; it may write to the copy.
    pub command: Vec<String>,
    /// The longest time that the command may take.
    pub limit: Duration,
}

/// Whether the parts that a database keeps in several places fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Structure {
    /// It does.
    Sound,
    /// It does not, in the words of the tool that checked.
    Damaged(Vec<String>),
    /// It was not checked, and why.
    Unknown(String),
}
