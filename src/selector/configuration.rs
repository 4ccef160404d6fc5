//! The configuration that a container has from elsewhere than its data: no snapshot of the data has it. Pure.

use std::fmt;
use std::path::{Path, PathBuf};

use super::data::is_of_the_system;
use crate::model::container::{Mount, MountKind};

/// A file, or a directory of files, that a database's container has beside its data, or over a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationApart {
    /// Whose it is.
    pub owner: ConfigurationOwner,
    /// Where the container has it.
    pub destination: PathBuf,
    /// What of the data it covers, relative to the source's root; `None` if it lies outside.
    pub covers: Option<PathBuf>,
}

/// Whose configuration it is, seen from a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigurationOwner {
    /// The engine's host has it there.
    Host(PathBuf),
    /// Another volume has it.
    Volume(String),
    /// Nothing is mounted there, or memory: it goes with the container, unless its image has it.
    Container,
}

impl ConfigurationApart {
    /// Returns whether a new container has it once the same is mounted.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        self.owner != ConfigurationOwner::Container
    }
}

impl fmt::Display for ConfigurationApart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.destination.display();
        match &self.owner {
            ConfigurationOwner::Host(source) => write!(f, "{} (at {at})", source.display()),
            ConfigurationOwner::Volume(name) => write!(f, "volume {name} (at {at})"),
            ConfigurationOwner::Container => write!(f, "{at} (in the container itself)"),
        }
    }
}

/// Returns the configuration of a container whose data is mounted at `data_at`: what its mounts show, and what is
/// `named` by the database, absolute in the container.
///
/// Mounts show it where something is bound below the data, and where something is bound elsewhere and looks like
/// configuration: a file with such a suffix, or anything below `/etc`.
#[must_use]
pub fn configuration_apart(
    mounts: &[Mount],
    data_at: Option<&Path>,
    named: &[PathBuf],
) -> Vec<ConfigurationApart> {
    let bound = mounts.iter().filter(|mount| mount.kind == MountKind::Bind && !is_of_the_system(mount));
    let bound = bound.filter_map(|mount| {
        let below = data_at.and_then(|root| mount.destination.strip_prefix(root).ok());
        let covers = below.filter(|below| !below.as_os_str().is_empty()).map(Path::to_owned);
        let is_it = covers.is_some() || looks_like_configuration(&mount.destination);
        let (owner, destination) =
            (ConfigurationOwner::Host(mount.source.clone()), mount.destination.clone());
        is_it.then_some(ConfigurationApart { owner, destination, covers })
    });
    let mut apart: Vec<_> = bound.collect();
    for path in named {
        let innermost = innermost(mounts, path);
        let is_data = data_at.is_some_and(|root| {
            path.starts_with(root) && innermost.is_none_or(|mount| root.starts_with(&mount.destination))
        });
        let is_told = apart.iter().any(|one| path.starts_with(&one.destination));
        if !is_data && !is_told {
            apart.push(at(innermost, path));
        }
    }
    apart
}

/// Returns the mounts through which a container has this configuration, each once.
#[must_use]
pub fn mounts_of<'a>(mounts: &'a [Mount], apart: &[ConfigurationApart]) -> Vec<&'a Mount> {
    let has = |mount: &&Mount| {
        let through = apart.iter().filter(|one| one.is_mounted());
        let mut through = through.filter_map(|one| innermost(mounts, &one.destination));
        through.any(|innermost| innermost.destination == mount.destination)
    };
    mounts.iter().filter(has).collect()
}

/// Returns the mount through which a container has a path.
fn innermost<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let holds = mounts.iter().filter(|mount| path.starts_with(&mount.destination));
    holds.max_by_key(|mount| mount.destination.components().count())
}

/// Returns what a container has at a path, through that mount.
fn at(mount: Option<&Mount>, path: &Path) -> ConfigurationApart {
    let below = |mount: &Mount| {
        let below = path.strip_prefix(&mount.destination).unwrap_or(path);
        if below.as_os_str().is_empty() { mount.source.clone() } else { mount.source.join(below) }
    };
    let owner = match mount {
        Some(mount) if mount.kind == MountKind::Bind => ConfigurationOwner::Host(below(mount)),
        Some(Mount { kind: MountKind::Volume, volume: Some(name), .. }) => {
            ConfigurationOwner::Volume(name.clone())
        }
        _ => ConfigurationOwner::Container,
    };
    ConfigurationApart { owner, destination: path.to_owned(), covers: None }
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
        let found = configuration_apart(&mounts, Some(Path::new("/var/lib/pg")), &[]);
        let found: Vec<_> = found.iter().map(|one| (one.to_string(), one.covers.as_deref())).collect();
        let covered = Some(Path::new("postgresql.conf"));
        let expected = [
            ("/srv/pg.conf (at /var/lib/pg/postgresql.conf)", covered),
            ("/srv/conf (at /etc/postgresql)", None),
            ("/srv/hba.conf (at /config/pg_hba.conf)", None),
        ];
        assert_eq!(found, expected.map(|(said, covers)| (said.to_owned(), covers)));
    }

    #[test]
    fn what_the_database_names_is_told_once_with_whose_it_is() {
        let volume = |name: &str, destination: &str| Mount {
            volume: Some(name.to_owned()),
            ..mount(MountKind::Volume, "/v", destination)
        };
        let mounts = [
            volume("data", "/var/lib/pg"),
            volume("settings", "/settings"),
            mount(MountKind::Bind, "/srv/conf", "/etc/postgresql"),
            mount(MountKind::Bind, "/srv/tls", "/tls"),
            mount(MountKind::Tmpfs, "", "/run"),
        ];
        let named = [
            "/etc/postgresql/pg_hba.conf",
            "/opt/pg/postgresql.conf",
            "/run/key",
            "/settings/more.conf",
            "/tls/a.pem",
            "/var/lib/pg/conf/own.conf",
        ];
        let found = configuration_apart(&mounts, Some(Path::new("/var/lib/pg")), &named.map(PathBuf::from));
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        let expected = [
            "/srv/conf (at /etc/postgresql)",
            "/opt/pg/postgresql.conf (in the container itself)",
            "/run/key (in the container itself)",
            "volume settings (at /settings/more.conf)",
            "/srv/tls/a.pem (at /tls/a.pem)",
        ];
        assert_eq!(found, expected);
        let through = mounts_of(
            &mounts,
            &configuration_apart(&mounts, Some(Path::new("/var/lib/pg")), &named.map(PathBuf::from)),
        );
        let through: Vec<_> = through.iter().map(|mount| mount.destination.to_str().unwrap()).collect();
        assert_eq!(through, ["/settings", "/etc/postgresql", "/tls"]);
    }
}
