//! Booting a copy of a database's data, away from everything else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::container::{Container, ExecOutput};

/// How a copy of a database's data is booted: in a container without network, capability or secret, as the
/// owner of the data.
pub trait SandboxSource: Send + Sync {
    /// Returns what boots the copy in `data_directory`, a path in the container; `user` is a role that may
    /// see everything, and `database` the one that queries go to, where they are known. The database's server recognises
    /// the container that this makes.
    fn sandbox(&self, data_directory: &Path, user: Option<&str>, database: Option<&str>) -> Sandbox;

    /// Returns how it is found out whether what the database keeps of its data in several places fits together;
    /// `None` where there is no tool for that.
    fn structure_check(&self, _container: &Container) -> Option<StructureCheck> {
        None
    }

    /// Returns what the output of that check's command tells.
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

/// How the database's own tool looks at the structure of its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructureCheck {
    /// The tool's name.
    pub tool: &'static str,
    /// What it looks at, for a person: "indexes".
    pub subject: &'static str,
    /// The command, run inside the container; it may write to the copy.
    pub command: Vec<String>,
    /// How long that may take at most.
    pub limit: Duration,
}

/// Whether what a database keeps in several places fits together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Structure {
    /// It does.
    Sound,
    /// It does not, in the words of the tool that looked.
    Damaged(Vec<String>),
    /// It was not looked at, and why.
    Unknown(String),
}
