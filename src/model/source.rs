//! The resolved thing to capture: one named volume or one host directory, with the
//! containers that use it. Pure data and rules: no engine, no clock.

use std::path::PathBuf;

use serde::Serialize;

use crate::model::container::{Container, Mount, MountKind};
use crate::model::labels::{LABEL_PID, LABEL_RUN};
use crate::model::location::MountSource;

/// A key is part of file names that must stay below 255 bytes with an id and a suffix.
const LONGEST_KEY: usize = 120;

/// One volume or host directory, with everything that uses it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The volume or the directory.
    pub location: MountSource,
    /// Where the engine's host has it: a volume's mountpoint, or the directory itself.
    pub host_path: PathBuf,
    /// The name under which the repository keeps its snapshots; safe as a file name.
    pub key: String,
    /// What a person calls it: "service db of memory-service".
    pub title: String,
    /// Every container, running or not, that uses it.
    pub users: Vec<User>,
    /// The running containers that can see it and do not use it.
    pub onlookers: Vec<Onlooker>,
    /// The id of the container whose database lives here, if the target named or revealed one.
    pub database_container: Option<String>,
    /// Where that database's data directory lies, relative to the source's root, as the container's
    /// configuration has it; "" for the root itself.
    pub data_directory: Option<PathBuf>,
    /// Where the data directories of its servers lie, relative to the source's root, if it has those of several: there
    /// is no one database then.
    pub servers: Vec<PathBuf>,
    /// The ids of the containers of these.
    pub database_containers: Vec<String>,
    /// Another run of volsnap that has the source mounted: this one has to wait its turn.
    pub held_by: Option<OtherRun>,
    /// What to say before anything else, for example that the data lives in an anonymous volume.
    pub warnings: Vec<String>,
}

/// A container that uses a source.
#[derive(Debug, Clone)]
pub struct User {
    /// The container.
    pub container: Container,
    /// Whether it can write there.
    pub writes: bool,
    /// Whether it only mounts a directory above.
    pub from_above: bool,
    /// Whether it is here only because it shares the network of a user, or its processes or shared memory: it loses
    /// them when that user stops.
    pub as_sharer: bool,
}

impl User {
    /// Returns whether it must not run while the source is captured: it can write there, or the engine
    /// takes away what it shares of a user. One that can only read disturbs nothing and goes on.
    #[must_use]
    pub fn is_to_be_held(&self) -> bool {
        self.container.state.running && (self.writes || self.as_sharer)
    }

    /// Returns whether it only reads there, through a directory above. What it has open stays with it when the data is
    /// replaced, and no more than that: it need not be in the way.
    #[must_use]
    pub fn is_passer_by(&self) -> bool {
        self.from_above && !self.writes
    }
}

/// A running container that can see a source and does not use it, as far as is known: an agent that has the host's
/// root mounted, or one that somebody said to ignore. It is left alone, and never in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Onlooker {
    /// The container's id.
    #[serde(skip)]
    pub id: String,
    /// Its name.
    pub container: String,
    /// Whether it can write there.
    pub writes: bool,
    /// Whether a label or an option says to ignore it.
    pub ignored: bool,
    /// Whether it was looked at what its processes have open, which is nothing there.
    pub looked: bool,
}

/// Another run of volsnap, known by its helper container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherRun {
    /// The run's id.
    pub run: String,
    /// The helper's name.
    pub container: String,
    /// The process that made the helper, on the machine that ran it.
    pub pid: Option<u32>,
    /// Whether the helper runs; a dead run left one that does not.
    pub running: bool,
}

impl OtherRun {
    /// Returns the run to which a container belongs, if it is a helper of volsnap.
    #[must_use]
    pub fn of(container: &Container) -> Option<Self> {
        Some(Self {
            run: container.labels.get(LABEL_RUN)?.clone(),
            container: container.name.clone(),
            pid: container.labels.get(LABEL_PID).and_then(|pid| pid.parse().ok()),
            running: container.state.running,
        })
    }
}

impl Source {
    /// Returns the users that run (or are paused or restarting), those that must be held.
    pub fn running_users(&self) -> impl Iterator<Item = &User> {
        self.users.iter().filter(|user| user.container.state.running)
    }

    /// Returns the users that are frozen: nobody can stop them, they cannot answer, and whoever paused
    /// them had a reason.
    pub fn paused_users(&self) -> impl Iterator<Item = &User> {
        self.users.iter().filter(|user| user.container.state.paused)
    }

    /// Returns where a container mounts exactly this volume or directory.
    #[must_use]
    pub fn mounted_at(&self, container: &Container) -> Option<PathBuf> {
        let is_this = |mount: &&Mount| match &self.location {
            MountSource::Volume(name) => mount.volume.as_ref() == Some(name),
            MountSource::Directory(path) => mount.kind == MountKind::Bind && mount.source == *path,
        };
        container.mounts.iter().find(is_this).map(|mount| mount.destination.clone())
    }

    /// Returns where a container sees this volume or directory: where it mounts it, or below where it mounts what
    /// holds it.
    #[must_use]
    pub fn seen_at(&self, container: &Container) -> Option<PathBuf> {
        let below = |mount: &Mount| {
            let MountSource::Directory(path) = &self.location else { return None };
            let below = path.strip_prefix(&mount.source).ok().filter(|_| mount.source.is_absolute())?;
            Some(mount.destination.join(below))
        };
        let depth = |mount: &&Mount| mount.source.components().count();
        let innermost = || container.mounts.iter().filter(|mount| below(mount).is_some()).max_by_key(depth);
        self.mounted_at(container).or_else(|| below(innermost()?))
    }

    /// Returns the container whose database lives here.
    #[must_use]
    pub fn database(&self) -> Option<&Container> {
        let id = self.database_container.as_deref()?;
        self.users.iter().map(|user| &user.container).find(|container| container.id == id)
    }

    /// Returns whether the database's container mounts only something that holds this.
    #[must_use]
    pub fn shares_its_volume(&self) -> bool {
        let shares = |container: &Container| self.mounted_at(container).is_none();
        self.database().is_some_and(|container| shares(container) && self.seen_at(container).is_some())
    }

    /// Returns the containers whose databases live here: the one, or each of several.
    pub fn databases(&self) -> impl Iterator<Item = &Container> {
        let is_it = |user: &&User| {
            self.database_containers.contains(&user.container.id)
                || self.database_container.as_ref() == Some(&user.container.id)
        };
        self.users.iter().filter(is_it).map(|user| &user.container)
    }
}

/// Returns the name under which the repository keeps a source's snapshots; safe as a file name.
///
/// For a volume, its own name. For a directory, the legible part of its path and six digits of the path's
/// digest, because `/data/pg` and `/data-pg` have to differ.
#[must_use]
pub fn key_of(location: &MountSource) -> String {
    match location {
        MountSource::Volume(name) if is_file_name(name) => name.clone(),
        MountSource::Volume(name) => slug_and_digest(name, name.as_bytes()),
        MountSource::Directory(path) => {
            slug_and_digest(&path.to_string_lossy(), path.as_os_str().as_encoded_bytes())
        }
    }
}

fn is_file_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= LONGEST_KEY
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn slug_and_digest(text: &str, digested: &[u8]) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = words.collect::<Vec<_>>().join("-");
    slug.truncate(LONGEST_KEY - "-123456".len());
    if slug.is_empty() {
        slug.push_str("root");
    }
    let digest = blake3::hash(digested).to_hex();
    format!("{}-{}", slug.trim_end_matches('-'), &digest[..6])
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn directory_key(path: &str) -> String {
        key_of(&MountSource::Directory(path.into()))
    }

    #[test]
    fn a_volume_keeps_its_name() {
        assert_eq!(
            key_of(&MountSource::Volume("memory-service_db_data".to_owned())),
            "memory-service_db_data"
        );
    }

    #[rstest]
    #[case("/data/pg", "data-pg-")]
    #[case("/", "root-")]
    #[case("/srv/My Data; rm -rf/ü\n", "srv-My-Data-rm-rf-")]
    fn a_directory_key_can_be_read_and_is_a_file_name(#[case] path: &str, #[case] prefix: &str) {
        let key = directory_key(path);
        assert!(key.starts_with(prefix) && key.len() == prefix.len() + 6, "{key}");
        assert!(is_file_name(&key), "{key}");
    }

    #[test]
    fn paths_that_read_alike_have_different_keys() {
        let keys = ["/data/pg", "/data-pg", "/data/pg/x", "/data//pg;"].map(directory_key);
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len(), "{keys:?}");
    }

    #[test]
    fn a_very_long_name_still_fits_a_file_name() {
        let long = "a/".repeat(3000);
        assert!(directory_key(&long).len() <= LONGEST_KEY);
        assert!(key_of(&MountSource::Volume(long)).len() <= LONGEST_KEY);
    }
}
