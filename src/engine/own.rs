//! The container that we run in, if it is one of the engine that we talk to.
//!
//! That matters twice. Whatever we start ends with this container, the guard of a run too. And our paths are not those
//! of the engine's host, which alone mean something to the engine.
//!
//! The kernel says in which container a process may be: by its control groups, and by the files that engines mount into
//! every container. The engine proves it: it has a running container of that id, and everything that this one mounts is
//! a mount point here. A container that shares the network of another has the other's files mounted; so of several that
//! fit, the one with the most mounts is ours.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Docker, Result};
use crate::model::container::{Container, Mount, MountKind, Namespace, owner_of};
use crate::model::location::MountSource;

/// The digits of a container's id.
const ID_DIGITS: usize = 64;
/// The digits of an id that an engine gives a container as its host name.
const SHORT_ID_DIGITS: usize = 12;
/// What engines mount into every container.
const GIVEN: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// The container that we run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnContainer {
    /// What the engine says of it.
    pub container: Container,
    /// Its mounts, with the path that each really has here.
    mounts: Vec<Mount>,
}

impl OwnContainer {
    /// Returns ours by what the kernel says of this process; `None` outside of the engine's containers.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn find(docker: &dyn Docker) -> Result<Option<Self>> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (groups, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
        let host_name = nix::unistd::gethostname().unwrap_or_default();
        let names = candidates(&groups, &mounts, &host_name.to_string_lossy());
        if names.is_empty() {
            return Ok(None);
        }
        let found = of_these(&docker.containers().await?, &names, &mount_points(&mounts)).cloned();
        Ok(found.map(Self::of))
    }

    /// Returns the same for a container that is known to be ours.
    #[must_use]
    pub fn of(container: Container) -> Self {
        let real = |mount: &Mount| Mount { destination: real_path(&mount.destination), ..mount.clone() };
        let mounts = container.mounts.iter().map(real).collect();
        Self { container, mounts }
    }

    /// Returns what the engine's host calls a path of ours, whether or not there is anything; `None` for one in this
    /// container's own layer, which nobody else has.
    #[must_use]
    pub fn host_path(&self, path: &Path) -> Option<PathBuf> {
        let path = real_path(path);
        let above = |mount: &&Mount| path.starts_with(&mount.destination);
        let mount =
            self.mounts.iter().filter(above).max_by_key(|one| one.destination.components().count())?;
        let below = path.strip_prefix(&mount.destination).ok()?;
        is_of_host(mount).then(|| joined(&mount.source, below))
    }

    /// Returns what we call a path of the engine's host; `None` for one that is mounted nowhere here.
    #[must_use]
    pub fn path_here(&self, host_path: &Path) -> Option<PathBuf> {
        let above = |mount: &&Mount| is_of_host(mount) && host_path.starts_with(&mount.source);
        let mount = self.mounts.iter().filter(above).max_by_key(|one| one.source.components().count())?;
        Some(joined(&mount.destination, host_path.strip_prefix(&mount.source).ok()?))
    }

    /// Returns what another container mounts to see what we write, each with the paths that it has here: the one that
    /// the engine was told, and where that leads through links.
    pub fn writable_mounts(&self) -> impl Iterator<Item = (MountSource, &Path)> {
        let all = self.container.mounts.iter().chain(&self.mounts);
        all.filter(|mount| is_of_host(mount) && !mount.read_only).map(|mount| {
            let volume = mount.volume.clone().map(MountSource::Volume);
            let source = volume.unwrap_or_else(|| MountSource::Directory(mount.source.clone()));
            (source, mount.destination.as_path())
        })
    }
}

/// Returns whether what is mounted is a volume, or a directory or file of the host.
fn is_of_host(mount: &Mount) -> bool {
    matches!(mount.kind, MountKind::Volume | MountKind::Bind)
}

/// Returns a path without links, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let real = existing.and_then(|(above, real)| Some(joined(&real, path.strip_prefix(above).ok()?)));
    real.unwrap_or_else(|| path.to_owned())
}

/// Joins two paths; nothing to join leaves no slash behind.
fn joined(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { path.to_owned() } else { path.join(rest) }
}

/// Returns the ids, whole or short, of the containers that this process may be in.
fn candidates(groups: &str, mounts: &str, host_name: &str) -> BTreeSet<String> {
    let of_groups = groups.lines().flat_map(|line| line.split(['/', ':', '-', '.']));
    let given = mounts.lines().filter_map(mount_of_line).filter(|(_, at)| GIVEN.contains(at));
    let of_mounts = given.flat_map(|(root, _)| root.split('/'));
    let is_hex = |word: &str| word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let whole = of_groups.chain(of_mounts).filter(|word| word.len() == ID_DIGITS && is_hex(word));
    let short = Some(host_name).filter(|name| name.len() == SHORT_ID_DIGITS && is_hex(name));
    whole.chain(short).map(str::to_owned).collect()
}

/// Returns the root and the mount point of a line of a mount table.
fn mount_of_line(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.split(' ').skip(3);
    Some((fields.next()?, fields.next()?))
}

fn mount_points(mounts: &str) -> BTreeSet<PathBuf> {
    mounts.lines().filter_map(mount_of_line).map(|(_, at)| PathBuf::from(unescaped(at))).collect()
}

/// Returns a name of a mount table as it is: the kernel writes blanks and backslashes as `\040` and the like.
fn unescaped(name: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(name.to_owned(), |name, (escaped, plain)| name.replace(escaped, plain))
}

/// Returns the running container among these candidates, and those that share the network of one, that fits best.
fn of_these<'c>(
    containers: &'c [Container],
    names: &BTreeSet<String>,
    mount_points: &BTreeSet<PathBuf>,
) -> Option<&'c Container> {
    let is_named = |container: &Container| names.iter().any(|name| container.id.starts_with(name));
    let may_be = |container: &&Container| {
        is_named(container) || owner_of(Namespace::Network, container, containers).is_some_and(is_named)
    };
    let fits = |container: &&Container| {
        container.mounts.iter().all(|mount| mount_points.contains(&real_path(&mount.destination)))
    };
    let running = containers.iter().filter(|container| container.state.running);
    running.filter(may_be).filter(fits).max_by_key(|container| container.mounts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::ContainerState;

    const ID: &str = "4f2a9104f2a9104f2a9104f2a9104f2a9104f2a9104f2a9104f2a9104f2a9101";

    fn mount(kind: MountKind, source: &str, destination: &str) -> Mount {
        let volume = (kind == MountKind::Volume).then(|| "state".to_owned());
        Mount { kind, volume, source: source.into(), destination: destination.into(), read_only: false }
    }

    fn container(id: &str, mounts: Vec<Mount>) -> Container {
        let state = ContainerState { running: true, ..ContainerState::default() };
        Container { id: id.to_owned(), mounts, state, ..Container::default() }
    }

    #[test]
    fn the_kernel_says_in_which_container_a_process_may_be() {
        let only = |groups: &str, mounts: &str, name: &str| {
            candidates(groups, mounts, name).into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(only(&format!("8:pids:/docker/{ID}\n0::/\n"), "", "box"), ID);
        assert_eq!(only(&format!("0::/system.slice/docker-{ID}.scope\n"), "", "box"), ID);
        let given =
            format!("31 27 254:0 /var/lib/docker/containers/{ID}/hosts /etc/hosts rw - ext4 /dev/vda rw");
        assert_eq!(only("0::/\n", &given, "box"), ID);
        assert_eq!(only("0::/\n", "", "4f2a9104f2a9"), "4f2a9104f2a9");
        // What the engine has mounted on its host names every container.
        let of_host = format!("31 27 0:9 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw");
        assert_eq!(only("0::/user.slice/session-1.scope\n", &of_host, "shop"), "");
    }

    #[test]
    fn of_those_that_share_a_network_ours_is_the_one_that_mounts_what_is_mounted_here() {
        let other = "b".repeat(ID_DIGITS);
        let mut ours = container(&other, vec![mount(MountKind::Bind, "/srv", "/mnt/state")]);
        ours.network_mode = format!("container:{ID}");
        let all = [container(ID, vec![]), ours];
        let names = BTreeSet::from([ID.to_owned()]);
        let found = |points: &[&str]| {
            let points = points.iter().map(PathBuf::from).collect();
            of_these(&all, &names, &points).map(|found| found.id.clone())
        };
        assert_eq!(found(&["/mnt/state"]), Some(other));
        assert_eq!(found(&["/etc/hosts"]), Some(ID.to_owned()));
        let gone = Container { state: ContainerState::default(), ..all[0].clone() };
        assert_eq!(of_these(&[gone], &names, &BTreeSet::new()), None);
        // A file copied from another container's host proves nothing: the engine does not have that one.
        assert_eq!(of_these(&all, &BTreeSet::from(["c".repeat(ID_DIGITS)]), &BTreeSet::new()), None);
    }

    #[test]
    fn a_path_is_what_the_innermost_mount_makes_of_it() {
        let own = OwnContainer::of(container(
            ID,
            vec![
                mount(MountKind::Volume, "/var/lib/docker/volumes/state/_data", "/none/state"),
                mount(MountKind::Bind, "/srv/inner", "/none/state/inner"),
                mount(MountKind::Tmpfs, "", "/none/memory"),
            ],
        ));
        let host = |path: &str| own.host_path(Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(host("/none/state").as_deref(), Some("/var/lib/docker/volumes/state/_data"));
        assert_eq!(host("/none/state/runs/x").as_deref(), Some("/var/lib/docker/volumes/state/_data/runs/x"));
        assert_eq!(host("/none/state/inner/y").as_deref(), Some("/srv/inner/y"));
        assert_eq!(host("/none/stateless"), None);
        assert_eq!(host("/none/memory/x"), None, "memory is nobody else's");
        let here = |path: &str| own.path_here(Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(here("/srv/inner/y").as_deref(), Some("/none/state/inner/y"));
        assert_eq!(here("/srv"), None);
    }

    #[test]
    fn names_of_a_mount_table_are_read_as_they_are() {
        let points = mount_points("31 27 254:0 / /mnt/a\\040b rw - ext4 /dev/vda rw\n");
        assert!(points.contains(Path::new("/mnt/a b")));
    }
}
