//! What volsnap knows of each kind of database, in one place each.
//!
//! A [`Profile`] has two halves: what is known of a *container* that runs the database (asked from
//! the command), and what is known of its *files* (asked by the agent, next to the data). Only the
//! files prove a clean shutdown. Beside them stands how to ask the running database what is true of
//! its data ([`FactsSource`]).

use crate::model::inspection::Inspection;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::container::{Container, ExecOutput};
use crate::model::facts::{Facts, FactsLevel};
use crate::model::position::Position;

pub mod online;
pub mod postgres;

/// What volsnap knows of one kind of database.
pub trait Profile: Send + Sync + fmt::Debug {
    /// Returns the name that is shown and stored: "postgresql".
    fn name(&self) -> &'static str;

    /// Returns whether this container runs (or was made to run) this database.
    fn recognises(&self, container: &Container) -> bool;

    /// Returns the data directory inside the container, as its configuration has it.
    fn data_directory(&self, container: &Container) -> Option<PathBuf>;

    /// Returns the major version that the container's image says it has: "15".
    fn major_version(&self, container: &Container) -> Option<String>;

    /// Returns the role that may see everything, as the container's configuration has it.
    fn superuser(&self, container: &Container) -> Option<String> {
        let _ = container;
        None
    }

    /// Returns the command that prints the data directory of the running database, run inside its
    /// container. Secrets come from the container's own environment, never from the command.
    fn data_directory_command(&self, container: &Container) -> Vec<String>;

    /// Returns the command that exits with 0 once the database answers a query over TCP. It checks
    /// once and is quick.
    fn ready_command(&self, container: &Container) -> Vec<String>;

    /// Returns the command that waits inside the container until the database answers, for at most
    /// `limit`; one call instead of many.
    fn await_ready_command(&self, container: &Container, limit: Duration) -> Vec<String>;

    /// Returns the command that has the running database write to its files what it holds in memory, so that
    /// a shutdown right after it has little to write; `None` where there is no such thing.
    fn checkpoint_command(&self, container: &Container) -> Option<Vec<String>>;
    /// Returns the command that prints the links by which a data directory leads to other places, a line
    /// each: what it is ("tablespace 16400"), a tab, and where it leads, relative to the data directory. `None` where it has none ever.
    fn links_command(&self, _directory: &Path) -> Option<Vec<String>> {
        None
    }

    /// Returns the signal that asks for a fast, clean shutdown: "SIGINT".
    fn stop_signal(&self) -> &'static str;

    /// Returns how long a shutdown may take before it is reported as stuck.
    fn stop_timeout(&self) -> Duration;

    /// Returns the data directories below `root`, relative to it, shallowest first.
    ///
    /// # Errors
    /// When a directory cannot be read.
    fn find(&self, root: &Path) -> io::Result<Vec<PathBuf>>;

    /// Returns what the files of a data directory say; `data_directory` is relative to `root`.
    ///
    /// `mounted_at` is where `root` is mounted in the database's container, if it is known: an
    /// absolute link below that leads into the source, any other leads out of it.
    ///
    /// # Errors
    /// When a file that must be there cannot be read. One that is damaged is no error: it is among
    /// the [reasons](Inspection::reasons).
    fn inspect(
        &self,
        root: &Path,
        data_directory: &Path,
        mounted_at: Option<&Path>,
    ) -> io::Result<Inspection>;

    /// Returns the files, relative to `root`, without which the database refuses to start: an
    /// archive has them last, so that half a restore is no database.
    fn written_last(&self, data_directory: &Path) -> Vec<PathBuf>;

    /// Returns the file, relative to `root`, that the proof of a clean shutdown rests on.
    fn proof_file(&self, data_directory: &Path) -> PathBuf;

    /// Returns what checks the content of a file of a cleanly stopped database as it streams past;
    /// `path` is relative to the data directory. `None` for a file whose content proves nothing.
    fn content_check(&self, inspection: &Inspection, path: &Path) -> Option<Box<dyn ContentCheck>>;

    /// Returns where files that were seen so stand in the database's log; `None` where they do not say it.
    fn position(&self, _inspection: &Inspection) -> Option<Position> {
        None
    }

    /// Returns how such a database is backed up while it runs; `None` where it is not known how.
    fn online(&self) -> Option<&'static dyn online::OnlineBackup>;

    /// Returns how a copy of the data is booted away from everything else, where that is known.
    fn sandbox(&self) -> Option<&dyn SandboxSource> {
        None
    }

    /// Returns how the running database is asked what is true of its data, where that is known.
    fn facts(&self) -> Option<&dyn FactsSource> {
        None
    }
}

/// How a running database is asked what is true of its data: commands to run inside its container, and
/// what their output means. Secrets come from the container's own environment, never from a command.
pub trait FactsSource: Send + Sync {
    /// Returns the command that looks at the data. It only reads, and ends by itself.
    fn facts_command(&self, container: &Container, level: FactsLevel) -> Vec<String>;

    /// Returns how long that command may take at most.
    fn facts_limit(&self, level: FactsLevel) -> Duration;

    /// Returns the facts that the command's output tells.
    ///
    /// # Errors
    /// When it tells none.
    fn facts(&self, level: FactsLevel, output: &ExecOutput) -> Result<Facts, FactsError>;

    /// Returns the command that runs a query of the user's, read-only and for at most `limit`, in the
    /// named database or else in the service's own.
    fn query_command(
        &self,
        container: &Container,
        database: Option<&str>,
        query: &str,
        limit: Duration,
    ) -> Vec<String>;

    /// Returns the one value that the query gave.
    ///
    /// # Errors
    /// When it failed, or gave none or several.
    fn value(&self, output: &ExecOutput) -> Result<String, FactsError>;

    /// Returns whether facts are true of a copy of the files to the last row: nothing was written between
    /// the moment of the facts and what the files of the copy say.
    fn is_exact(&self, facts: &Facts, inspection: &Inspection) -> bool;
}

/// How a copy of a database's data is booted: in a container without network, capability or secret, as the
/// owner of the data.
pub trait SandboxSource: Send + Sync {
    /// Returns what boots the copy in `data_directory`, a path in the container; `user` is a role that may
    /// see everything, and `database` the one that queries go to, where they are known.
    fn sandbox(&self, data_directory: &Path, user: Option<&str>, database: Option<&str>) -> Sandbox;

    /// Returns the command that looks whether what the database keeps of its data in several places fits
    /// together; it may write to the copy.
    fn structure_command(&self, container: &Container) -> Vec<String>;

    /// Returns how long that command may take at most.
    fn structure_limit(&self) -> Duration;

    /// Returns what that command's output tells.
    fn structure(&self, output: &ExecOutput) -> Structure;

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

/// Why there are no facts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// The database or its client said no.
    #[error("{said}")]
    Failed {
        /// What it said, in a line.
        said: String,
    },
    /// The output ends before its end.
    #[error("the output is cut off after {bytes} bytes")]
    Cut {
        /// How much there is.
        bytes: usize,
    },
    /// The output is none that is understood.
    #[error("not understood: {line:?}")]
    NotUnderstood {
        /// The line.
        line: String,
    },
    /// A query that is to give one value gave none or several.
    #[error("the query gives {rows} rows, and a check takes one value")]
    Rows {
        /// How many.
        rows: usize,
    },
}

/// Checks the content of one file, which comes in pieces of any length.
pub trait ContentCheck {
    /// Takes the next piece.
    fn feed(&mut self, piece: &[u8]);

    /// Ends the file and returns what was found.
    fn finish(self: Box<Self>) -> Checked;
}

/// What a [`ContentCheck`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Pages that were checked.
    pub pages: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

/// A damaged place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The page, counted from 0, where it is one page.
    pub block: Option<u64>,
    /// What is wrong with it.
    pub what: String,
}

/// Returns every profile there is.
#[must_use]
pub fn profiles() -> &'static [&'static dyn Profile] {
    &[&postgres::Postgres]
}

/// Returns the profile of that name.
#[must_use]
pub fn profile(name: &str) -> Option<&'static dyn Profile> {
    profiles().iter().copied().find(|profile| profile.name() == name)
}

/// Returns where a database's files stand in its log, where they say it.
#[must_use]
pub fn position(inspection: &Inspection) -> Option<Position> {
    profile(&inspection.engine)?.position(inspection)
}

/// Returns the profile that recognises the container.
#[must_use]
pub fn profile_of(container: &Container) -> Option<&'static dyn Profile> {
    profiles().iter().copied().find(|profile| profile.recognises(container))
}
