//! The plan of a migration: everything that is known before anything is touched. Pure data, which `--dry-run` prints,
//! the question shows, and the procedure follows.

use std::path::PathBuf;

use serde::Serialize;

use crate::model::hint::Hint;
use crate::model::source::Onlooker;
use crate::ops::sharers::PlannedSharer;

/// Which way the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From a volume into a host directory.
    ToDirectory,
    /// From a host directory back into a volume.
    Back,
}

/// A container that uses the data, and how it gets to use the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedUser {
    /// Its name.
    pub container: String,
    /// Whether it runs; the migration leaves it that way.
    pub running: bool,
    /// The path in it where the data is mounted.
    pub mounted_at: PathBuf,
    /// Its Compose project and service; `None` for a container that is made anew through the engine.
    pub service: Option<String>,
}

/// A file that is edited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedEdit {
    /// The file.
    pub path: PathBuf,
    /// Whether it must still be made.
    pub new: bool,
    /// Whether it goes, since an earlier migration made it.
    pub removed: bool,
    /// The change, as a unified diff.
    pub diff: String,
}

/// What a migration will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigratePlan {
    /// The run's id.
    pub id: String,
    /// Which way.
    pub direction: Direction,
    /// What is migrated, as a person calls it.
    pub title: String,
    /// The database in it: engine and version.
    pub database: Option<String>,
    /// Where the data is: `volume NAME`, or a directory.
    pub from: String,
    /// Where that is on the engine's host.
    pub from_path: PathBuf,
    /// Where it will be: a directory, or `volume NAME`.
    pub to: String,
    /// Whether that must still be made.
    pub makes: bool,
    /// Whether the run goes on from a copy that an earlier run began there.
    pub resumes: bool,
    /// The kind of the file system there, such as "ext4".
    pub file_system: Option<String>,
    /// Bytes of the files' contents.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes that the copy needs at most.
    pub needed_bytes: u64,
    /// Bytes that are free there.
    pub free_bytes: u64,
    /// The owner that the copy's root will have.
    pub owner: (u32, u32),
    /// Whether the copy replaces older data of this very database there, when it goes back.
    pub replaces: bool,
    /// Everything that uses the data.
    pub users: Vec<PlannedUser>,
    /// Containers that share something of those, and are made anew with them.
    pub sharers: Vec<PlannedSharer>,
    /// Containers that will be stopped, in this order.
    pub stops: Vec<String>,
    /// Containers that will be started again, in this order.
    pub starts: Vec<String>,
    /// Running containers that can see the data and are left alone.
    pub onlookers: Vec<Onlooker>,
    /// Containers that the engine would not start again if it, or the machine, restarted while they are stopped, each
    /// with its restart policy.
    pub down_after_reboot: Vec<String>,
    /// What their owners want to be run in them before and after, each as "CONTAINER: before_hold: COMMAND".
    pub own_commands: Vec<String>,
    /// Files that are edited.
    pub edits: Vec<PlannedEdit>,
    /// Commands of Compose that make the containers anew.
    pub commands: Vec<Hint>,
    /// Milliseconds that the service is expected to be away; 0 when nothing runs.
    pub expected_downtime_ms: u64,
    /// What is worth knowing beforehand.
    pub warnings: Vec<String>,
}
