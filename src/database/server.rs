//! A database's server; volsnap asks it inside its own container.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::container::Container;
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;

/// What is known of a server by its container: how to recognise, ask and stop it.
///
/// Secrets come from the container's own environment, never from a command.
pub trait Server: Send + Sync + fmt::Debug {
    /// Returns whether this container runs (or was made to run) this database.
    fn recognises(&self, container: &Container) -> bool;

    /// Returns whether a container that does not run, and uses data of this database, looks as if it had run it: by its
    /// image and environment, since nothing else is left to look at.
    fn may_have_run_in(&self, _container: &Container) -> bool {
        false
    }

    /// Returns the data directory inside the container, according to its configuration.
    fn data_directory(&self, container: &Container) -> Option<PathBuf>;

    /// Returns the major version that the container's image declares: "15".
    fn major_version(&self, _container: &Container) -> Option<String> {
        None
    }

    /// Returns the role that may see everything, according to the container's configuration.
    fn superuser(&self, _container: &Container) -> Option<String> {
        None
    }

    /// Returns the command that prints the data directory of the running database; `None` if the database does not
    /// tell.
    fn data_directory_command(&self, _container: &Container) -> Option<Vec<String>> {
        None
    }

    /// Returns the command that exits with 0 once the database answers a query over TCP. It checks once and is quick.
    fn ready_command(&self, container: &Container) -> Vec<String>;

    /// Returns the command that waits inside the container until the database answers, for at most `limit`; one call
    /// instead of many.
    fn await_ready_command(&self, container: &Container, limit: Duration) -> Vec<String>;

    /// Returns the command that makes the running database write what it holds in memory to its files, so that a
    /// shutdown right after it has little to write; `None` if the database has no such command.
    fn checkpoint_command(&self, _container: &Container) -> Option<Vec<String>> {
        None
    }

    /// Returns how to find which parts of a data directory, absolute in the container, lie elsewhere; `None` if none
    /// ever do.
    fn links(&self, _directory: &Path) -> Option<Links> {
        None
    }

    /// Returns the command that prints, a line each, the files and directories that the running database takes its
    /// configuration from, and that lie outside its data directory; absolute in the container, links followed. `None`
    /// if the database does not tell.
    fn configuration_command(&self, _container: &Container) -> Option<Vec<String>> {
        None
    }

    /// Returns the same of a database that nobody can ask, as far as its container's command and its files tell.
    fn configuration(&self, _container: &Container, _files: Option<&Inspection>) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Returns the signal that asks for a fast, clean shutdown: "SIGINT".
    fn stop_signal(&self) -> &'static str;

    /// Returns how long a shutdown may take before it is reported as stuck.
    fn stop_timeout(&self) -> Duration;

    /// Returns the command that asks the server itself for a fast, clean shutdown, inside a container whose first
    /// process is another one and does not hand signals on; `None` where the engine's signal reaches the server.
    fn shutdown_command(&self, _container: &Container) -> Option<Vec<String>> {
        None
    }

    /// Returns what keeps the server available and would answer a stop, or a long freeze, by making another member of
    /// the cluster the leader; `None` if nothing does.
    fn manager(&self, _container: &Container) -> Option<Manager> {
        None
    }
}

/// What keeps a server available.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// Its name: "Patroni".
    pub name: &'static str,
    /// Its own way to take a member out of service.
    pub way: Hint,
}

/// How to find the links from a data directory to other places; each command runs in its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// Prints a line for each link: its kind ("tablespace 16400"), a tab, and its target, relative to the data
    /// directory.
    pub command: Vec<String>,
    /// What may lie elsewhere, for a person: "tablespaces".
    pub kinds: &'static str,
    /// Shows most of them to a person.
    pub listing: Vec<String>,
}
