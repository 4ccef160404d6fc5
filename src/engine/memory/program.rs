//! What a container runs, and how it behaves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::database::{Server as _, postgres::Postgres};
use crate::engine::helper::EXECUTABLE;
use crate::model::container::Container;

/// How a program behaves if nothing else is known about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// When it ends by itself; `None` for never.
    pub ends_after: Option<Duration>,
    /// How long it takes to end after a request; `None` if it does not listen.
    pub stops_within: Option<Duration>,
    /// Its exit code if it ends by itself or on request.
    pub exit_code: i64,
}

impl Behaviour {
    /// Runs until it is asked to end, and then ends at once.
    pub const OBEDIENT: Self =
        Self { ends_after: None, stops_within: Some(Duration::from_millis(50)), exit_code: 0 };
}

/// What a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    /// Our own agent.
    Agent,
    /// A PostgreSQL.
    Server {
        /// Where its data lies, in the container.
        data_directory: PathBuf,
        /// Whether it makes itself a new database if there is none.
        initialises: bool,
    },
    /// What makes a base backup of a server.
    BaseBackup {
        /// The target, in the container.
        directory: PathBuf,
    },
    /// What proves that a base backup is whole.
    VerifyBackup {
        /// Where it is, in the container.
        directory: PathBuf,
    },
    /// Anything else.
    Other(Behaviour),
}

impl Program {
    /// Returns what the command of a container runs.
    pub(super) fn of(container: &Container, scripts: &BTreeMap<String, Behaviour>) -> Self {
        let words: Vec<&str> = container.command.iter().map(String::as_str).collect();
        match words[..] {
            [EXECUTABLE, "agent"] => return Self::Agent,
            ["sh", "-c", script, "volsnap", _, _, directory, _] if script.contains("exec pg_basebackup") => {
                return Self::BaseBackup { directory: directory.into() };
            }
            // The script that boots a copy makes no new database.
            ["sh", "-c", script, "volsnap", directory] if script.contains("exec postgres") => {
                return Self::Server { data_directory: directory.into(), initialises: false };
            }
            ["pg_verifybackup", .., directory] => return Self::VerifyBackup { directory: directory.into() },
            _ => {}
        }
        if Postgres.recognises(container) {
            let data_directory = Postgres.data_directory(container).unwrap_or_default();
            return Self::Server { data_directory, initialises: true };
        }
        let script = words.last().copied().unwrap_or_default();
        Self::Other(scripts.get(script).copied().unwrap_or(Behaviour::OBEDIENT))
    }
}
