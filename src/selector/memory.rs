//! What lies in memory, and what lies elsewhere than its volume says, in every way that this is spelled. Pure.

use std::path::{Path, PathBuf};

use crate::model::container::{Mount, MountKind, Volume};
use crate::model::quote::printable;

/// How long data in memory lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InMemory {
    /// Until its container stops.
    Container,
    /// Until the last container stops that mounts its volume.
    Volume,
    /// Until the machine restarts.
    Host,
}

impl InMemory {
    /// Returns when it goes: "when the container stops".
    #[must_use]
    pub fn until(self) -> &'static str {
        match self {
            Self::Container => "when the container stops",
            Self::Volume => "when the last container stops that mounts it",
            Self::Host => "when the machine restarts",
        }
    }
}

/// Returns whether a directory of a container is in memory, by its innermost mount: a `tmpfs` of the container, its
/// `/dev/shm`, or a volume of the local driver that is one. Only the host can tell of a directory of its own.
#[must_use]
pub fn in_memory(directory: &Path, mount: Option<&Mount>, volumes: &[Volume]) -> Option<InMemory> {
    let Some(mount) = mount else { return directory.starts_with("/dev").then_some(InMemory::Container) };
    match mount.kind {
        MountKind::Tmpfs | MountKind::Other => Some(InMemory::Container),
        MountKind::Bind => None,
        MountKind::Volume => {
            let volume = volumes.iter().find(|volume| Some(&volume.name) == mount.volume.as_ref())?;
            is_in_memory(volume).then_some(InMemory::Volume)
        }
    }
}

/// Returns whether a volume of the local driver is in memory (`type=tmpfs`).
#[must_use]
pub fn is_in_memory(volume: &Volume) -> bool {
    is_local(volume) && volume.options.get("type").is_some_and(|kind| is_memory(kind))
}

/// Returns the directory that a volume of the local driver is a bind of (`type=none,o=bind`).
#[must_use]
pub fn bound_directory(volume: &Volume) -> Option<PathBuf> {
    let options = volume.options.get("o").filter(|_| is_local(volume))?;
    let bound = options.split(',').any(|option| matches!(option.trim(), "bind" | "rbind"));
    volume.options.get("device").filter(|_| bound).map(PathBuf::from)
}

/// Returns where a volume keeps its data, if removing the volume does not remove that: the host's directory that it is a
/// bind of, or another machine's share.
#[must_use]
pub fn kept_elsewhere(volume: &Volume) -> Option<String> {
    if let Some(directory) = bound_directory(volume) {
        return Some(format!("the host's directory {}", printable(&directory.to_string_lossy())));
    }
    let device = volume.options.get("device").filter(|device| !device.is_empty())?;
    let kind = volume.options.get("type").filter(|kind| is_local(volume) && !is_memory(kind))?;
    Some(format!("{} ({})", printable(device), printable(kind)))
}

fn is_memory(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "ramfs")
}

fn is_local(volume: &Volume) -> bool {
    matches!(volume.driver.as_str(), "local" | "")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn volume(options: &[(&str, &str)]) -> Volume {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Volume { name: "v".to_owned(), driver: "local".to_owned(), options, ..Volume::default() }
    }

    fn mount(kind: MountKind) -> Mount {
        let volume = (kind == MountKind::Volume).then(|| "v".to_owned());
        Mount { kind, volume, destination: "/data".into(), ..Mount::default() }
    }

    #[rstest]
    #[case::a_tmpfs(Some(mount(MountKind::Tmpfs)), "/data", &[], Some(InMemory::Container))]
    #[case::shared_memory(None, "/dev/shm/pg", &[], Some(InMemory::Container))]
    #[case::the_containers_layer(None, "/devices/pg", &[], None)]
    #[case::a_volume_in_memory(Some(mount(MountKind::Volume)), "/data", &[("type", "tmpfs"), ("device", "tmpfs")], Some(InMemory::Volume))]
    #[case::a_volume(Some(mount(MountKind::Volume)), "/data", &[], None)]
    #[case::a_volume_of_a_disk(Some(mount(MountKind::Volume)), "/data", &[("type", "ext4"), ("device", "/dev/sdb1")], None)]
    #[case::a_directory(Some(mount(MountKind::Bind)), "/data", &[], None)]
    fn what_lies_in_memory_is_known_in_every_spelling(
        #[case] mount: Option<Mount>,
        #[case] directory: &str,
        #[case] options: &[(&str, &str)],
        #[case] expected: Option<InMemory>,
    ) {
        assert_eq!(in_memory(Path::new(directory), mount.as_ref(), &[volume(options)]), expected);
    }

    #[rstest]
    #[case::a_bind(&[("type", "none"), ("o", "bind"), ("device", "/srv/pg")], Some("the host's directory /srv/pg"))]
    #[case::a_bind_with_more(&[("o", "rw,rbind"), ("device", "/srv/pg")], Some("the host's directory /srv/pg"))]
    #[case::a_share(&[("type", "nfs"), ("o", "addr=nas"), ("device", ":/pg")], Some(":/pg (nfs)"))]
    #[case::memory(&[("type", "tmpfs"), ("device", "tmpfs")], None)]
    #[case::a_plain_one(&[], None)]
    fn a_volume_that_only_leads_elsewhere_is_told_by_its_options(
        #[case] options: &[(&str, &str)],
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(kept_elsewhere(&volume(options)).as_deref(), expected);
        let foreign = Volume { driver: "rexray".to_owned(), ..volume(options) };
        assert_eq!((kept_elsewhere(&foreign), is_in_memory(&foreign)), (None, false));
    }
}
