//! A PostgreSQL, by the files in its data directory.
//!
//! Its rows lie in a [file](ROWS) there, and every answer is read from it: a server that runs on other data says other
//! things. It writes `global/pg_control` and `postmaster.pid` when a real server does and refuses what a real one
//! refuses. Like the official image, it makes itself a new database if there is nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::MemoryDocker;
use super::control::{Control, Doing, SEGMENT_BYTES};
use crate::engine::Result;
use crate::model::container::Container;

/// Where the rows lie, in the data directory.
pub const ROWS: &str = "base/5/rows.json";
/// The time from a server's start until it answers.
const START: Duration = Duration::from_millis(400);
/// How long a server that cannot start takes to end.
const REFUSAL: Duration = Duration::from_millis(100);
/// How long a fast shutdown takes.
pub(super) const SHUTDOWN: Duration = Duration::from_millis(300);
/// Its user in the official image.
const OWNER: u32 = 999;
/// A page of a table as a real server writes it.
const HEAP: &[u8] = include_bytes!("../../../fixtures/pages/heap.bin");

/// The content of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// The number of the next transaction.
    pub next_transaction: u64,
    /// The tables by name, with their rows.
    pub tables: BTreeMap<String, Vec<String>>,
}

/// A running server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    /// Where its data lies on this machine.
    pub(super) directory: PathBuf,
    /// When it answers.
    pub(super) ready_at: Instant,
    /// The content of its `postmaster.pid`.
    pub(super) mark: String,
}

impl Rows {
    /// Reads the content from a data directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(data_directory: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(data_directory.join(ROWS))?)?)
    }

    fn write(&self, data_directory: &Path) -> io::Result<()> {
        std::fs::write(data_directory.join(ROWS), serde_json::to_vec(self)?)
    }
}

impl Server {
    /// Returns whether the server still has the files that it started on.
    pub(super) fn has_its_files(&self) -> bool {
        let marked = std::fs::read_to_string(self.directory.join("postmaster.pid"));
        marked.is_ok_and(|marked| marked == self.mark)
    }
}

impl MemoryDocker {
    /// Adds rows to a table of the server in a container, in one transaction.
    ///
    /// # Errors
    /// When it does not run.
    pub fn insert(&self, container: &str, table: &str, rows: &[&str]) -> Result<()> {
        let doing = format!("insert into {table} of container {container}");
        let directory = self.with(&doing, container, |record| Ok(record.server.clone()))?;
        let server = directory.ok_or_else(|| super::conflict(&doing, "no server runs in it"))?;
        let write = || -> io::Result<()> {
            let mut all = Rows::read(&server.directory)?;
            all.tables.entry(table.to_owned()).or_default().extend(rows.iter().map(|row| (*row).to_owned()));
            all.next_transaction += 1;
            all.write(&server.directory)
        };
        write()
            .map_err(|error| super::failure(crate::engine::DockerErrorKind::Other, &doing, error.to_string()))
    }

    /// Starts a server on its files; it may end at once, as a real one might.
    pub(super) fn boot(&self, container: &Container, data_directory: &Path, initialises: bool) {
        let id = container.id.clone();
        let directory = self.path_in(container, data_directory);
        self.watch_for_two(container, &directory);
        let mark = format!("1\n{}\n{}\n", data_directory.display(), id);
        let booted = self.take_over(&directory, &mark, initialises);
        let server = Server { directory, ready_at: Instant::now() + START, mark };
        let _ = self.with("boot", &id, |record| {
            if let Err(why) = &booted {
                record.log.push_str(&format!("{why}\n"));
            } else {
                record.log.push_str("LOG:  database system is ready to accept connections\n");
                record.server = Some(server);
            }
            Ok(())
        });
        if booted.is_err() {
            self.end_later(&id, &container.state.started_at, REFUSAL, 1);
        }
    }

    /// Two servers on one directory damage it.
    fn watch_for_two(&self, container: &Container, directory: &Path) {
        let mut state = self.state();
        let other = state.containers.iter().find(|other| {
            let same = other.server.as_ref().is_some_and(|server| server.directory == directory);
            other.container.id != container.id && same
        });
        if let Some(other) = other {
            let both = format!("{} and {} run on one data directory", other.container.name, container.name);
            state.violations.push(both);
        }
    }

    /// Does what a server does with its files before it answers; the error is the line that the server would log.
    fn take_over(&self, directory: &Path, mark: &str, initialises: bool) -> std::result::Result<(), String> {
        let fatal = |error: io::Error| format!("FATAL:  {error}");
        let is_empty = std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none());
        if is_empty && initialises {
            self.initialise(directory).map_err(fatal)?;
        }
        if !directory.join("PG_VERSION").exists() {
            let shown = directory.display();
            return Err(if initialises {
                format!("initdb: error: directory \"{shown}\" exists but is not empty")
            } else {
                format!("FATAL:  \"{shown}\" is not a valid data directory")
            });
        }
        let mut control =
            Control::read(directory).map_err(|error| format!("PANIC:  control file: {error}"))?;
        let log = control.parsed().map_err(fatal)?.checkpoint_wal_file();
        if !directory.join("pg_wal").join(log).exists() {
            return Err("PANIC:  could not locate a valid checkpoint record".to_owned());
        }
        let rows = Rows::read(directory).map_err(|error| format!("FATAL:  rows: {error}"))?;
        if directory.join("backup_label").exists() {
            std::fs::rename(directory.join("backup_label"), directory.join("backup_label.old"))
                .map_err(fatal)?;
        }
        let seconds = self.now().timestamp();
        control.checkpoint(seconds, rows.next_transaction);
        control.set(Doing::InProduction);
        control.write(directory).map_err(fatal)?;
        std::fs::write(directory.join("postmaster.pid"), mark).map_err(fatal)
    }

    /// Makes a new database, as `initdb` does.
    fn initialise(&self, directory: &Path) -> io::Result<()> {
        let identifier = 7_000_000_000_000_000_000 + self.state().next_serial();
        for part in ["", "global", "base/5", "pg_wal", "pg_xact"] {
            std::fs::create_dir_all(directory.join(part))?;
        }
        let mut control = Control::new(identifier);
        let log = control.parsed()?.checkpoint_wal_file();
        std::fs::File::create(directory.join("pg_wal").join(log))?.set_len(SEGMENT_BYTES.into())?;
        std::fs::write(directory.join("base/5/16384"), HEAP)?;
        std::fs::write(directory.join("postgresql.conf"), "")?;
        Rows { next_transaction: 740, tables: BTreeMap::new() }.write(directory)?;
        control.write(directory)?;
        std::fs::write(directory.join("PG_VERSION"), "15\n")?;
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
        if nix::unistd::geteuid().is_root() {
            own(directory)?;
        }
        Ok(())
    }

    /// Shuts a server down properly: when this returns, its files say so.
    pub(super) fn shut_down(&self, container: &str, server: &Server) -> i64 {
        if !server.has_its_files() {
            let violation =
                format!("container {container} was stopped on other files than it was started on");
            self.state().violations.push(violation);
            return 1;
        }
        let write = || -> io::Result<()> {
            let rows = Rows::read(&server.directory)?;
            let mut control = Control::read(&server.directory)?;
            control.checkpoint(self.now().timestamp(), rows.next_transaction);
            control.set(Doing::ShutDown);
            control.write(&server.directory)?;
            std::fs::remove_file(server.directory.join("postmaster.pid"))
        };
        i64::from(write().is_err())
    }

    /// Makes a running server write what it holds in memory.
    pub(super) fn checkpoint(&self, server: &Server) -> io::Result<()> {
        let rows = Rows::read(&server.directory)?;
        let mut control = Control::read(&server.directory)?;
        control.checkpoint(self.now().timestamp(), rows.next_transaction);
        control.write(&server.directory)
    }

    /// Ends a container after a while, if that run still lasts.
    pub(super) fn end_later(&self, id: &str, started_at: &str, after: Duration, exit_code: i64) {
        let (docker, id, started_at) = (self.clone(), id.to_owned(), started_at.to_owned());
        tokio::spawn(async move {
            sleep(after).await;
            docker.exit(&id, &started_at, exit_code);
        });
    }

    /// Returns where a path of a container lies on this machine.
    pub(super) fn path_in(&self, container: &Container, path: &Path) -> PathBuf {
        let mounts = container.mounts.iter();
        let on = mounts.filter(|mount| path.starts_with(&mount.destination));
        match on.max_by_key(|mount| mount.destination.components().count()) {
            Some(mount) => {
                let below = path.strip_prefix(&mount.destination).unwrap_or(Path::new(""));
                // No slash at its end: the slash would make it a different path.
                mount.source.join(below).components().collect()
            }
            None => {
                let below = path.strip_prefix("/").unwrap_or(path);
                self.shared.root.join("containers").join(&container.id).join(below)
            }
        }
    }
}

/// Gives a tree to the server's user.
fn own(directory: &Path) -> io::Result<()> {
    std::os::unix::fs::chown(directory, Some(OWNER), Some(OWNER))?;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            own(&path)?;
        } else {
            std::os::unix::fs::chown(&path, Some(OWNER), Some(OWNER))?;
        }
    }
    Ok(())
}
