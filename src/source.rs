//! The resolved thing that is captured: one named volume or one host directory, with the
//! containers that use it. Pure data and rules: no engine, no clock.

use std::path::PathBuf;

use crate::docker::{Container, MountSource};

/// One volume or host directory, with everything that uses it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The volume or the directory.
    pub location: MountSource,
    /// Where the engine's host has it: a volume's mountpoint, or the directory itself.
    pub host_path: PathBuf,
    /// The name under which the repository keeps its snapshots; safe as a file name.
    pub key: String,
    /// How a person calls it: "service db of memory-service".
    pub title: String,
    /// Every container, running or not, that mounts it, a directory above it or one below it.
    pub users: Vec<User>,
    /// The container whose database lives here, where the target named or revealed one: its id.
    pub database_container: Option<String>,
    /// What should be said before anything else, as data living in an anonymous volume.
    pub warnings: Vec<String>,
}

/// A container that uses a source.
#[derive(Debug, Clone)]
pub struct User {
    /// The container.
    pub container: Container,
    /// Whether it can write there.
    pub writes: bool,
    /// Whether it is here only because it shares the network of a user, which takes its network
    /// away when it stops.
    pub through_network: bool,
}

impl Source {
    /// Returns the users that run (or are paused or restarting), those that must be held.
    pub fn running_users(&self) -> impl Iterator<Item = &User> {
        self.users.iter().filter(|user| user.container.state.running)
    }

    /// Returns the container whose database lives here.
    #[must_use]
    pub fn database(&self) -> Option<&Container> {
        let id = self.database_container.as_deref()?;
        self.users.iter().map(|user| &user.container).find(|container| container.id == id)
    }
}
