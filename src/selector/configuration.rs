//! The configuration that a container has from elsewhere than its data: no snapshot of the data has it. Pure.

use std::path::{Path, PathBuf};

use super::data::is_of_the_system;
use crate::model::container::{Mount, MountKind};

/// A file, or a directory of files, that is mounted into a database's container beside its data, or over a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationApart {
    /// Where the engine's host has it.
    pub source: PathBuf,
    /// Where the container has it.
    pub destination: PathBuf,
    /// What of the data it covers, relative to the source's root; `None` if it lies outside.
    pub covers: Option<PathBuf>,
}

/// Returns the configuration among the mounts of a container whose data is mounted at `data_at`.
///
/// It is what is bound below the data, and what is bound elsewhere and looks like configuration: a file with such a
/// suffix, or anything below `/etc`. Where the data's own configuration is elsewhere in the image, nothing is said.
#[must_use]
pub fn configuration_apart(mounts: &[Mount], data_at: Option<&Path>) -> Vec<ConfigurationApart> {
    let apart = mounts.iter().filter(|mount| mount.kind == MountKind::Bind && !is_of_the_system(mount));
    let apart = apart.filter_map(|mount| {
        let below = data_at.and_then(|root| mount.destination.strip_prefix(root).ok());
        let covers = below.filter(|below| !below.as_os_str().is_empty()).map(Path::to_owned);
        let is_it = covers.is_some() || looks_like_configuration(&mount.destination);
        let (source, destination) = (mount.source.clone(), mount.destination.clone());
        is_it.then_some(ConfigurationApart { source, destination, covers })
    });
    apart.collect()
}

fn looks_like_configuration(path: &Path) -> bool {
    const SUFFIXES: [&str; 12] =
        ["conf", "cnf", "cfg", "ini", "yml", "yaml", "toml", "properties", "pem", "crt", "key", "acl"];
    let suffix = path.extension().and_then(|suffix| suffix.to_str());
    suffix.is_some_and(|suffix| SUFFIXES.contains(&suffix.to_ascii_lowercase().as_str()))
        || path.starts_with("/etc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: MountKind, source: &str, destination: &str) -> Mount {
        Mount { kind, source: source.into(), destination: destination.into(), ..Mount::default() }
    }

    #[test]
    fn what_is_mounted_over_the_data_or_looks_like_configuration_is_no_part_of_the_data() {
        let bound = |source: &str, destination: &str| mount(MountKind::Bind, source, destination);
        let mounts = [
            mount(MountKind::Volume, "/v", "/var/lib/pg"),
            bound("/srv/pg.conf", "/var/lib/pg/postgresql.conf"),
            bound("/srv/conf", "/etc/postgresql"),
            bound("/srv/hba.conf", "/config/pg_hba.conf"),
            bound("/etc/localtime", "/etc/localtime"),
            bound("/srv/init", "/docker-entrypoint-initdb.d"),
            bound("/srv/backups", "/backups"),
        ];
        let found = configuration_apart(&mounts, Some(Path::new("/var/lib/pg")));
        let found: Vec<_> =
            found.iter().map(|one| (one.source.to_str().unwrap(), one.covers.as_deref())).collect();
        let covered = Some(Path::new("postgresql.conf"));
        assert_eq!(found, [("/srv/pg.conf", covered), ("/srv/conf", None), ("/srv/hba.conf", None)]);
    }
}
