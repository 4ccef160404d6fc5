//! Stores that volsnap recognises and no more: by the program that a container runs, and by the files that they leave.
//!
//! Nothing here proves anything. It decides how carefully a container is stopped, and what a person is told: whether
//! it answers writes before they are on the disk, and whether it writes when it stops.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::model::container::Container;

/// One kind of store.
#[derive(Debug, PartialEq, Eq)]
pub struct Store {
    /// What it is called.
    pub name: &'static str,
    /// The programs, or images, that are one: the last part of a path.
    programs: &'static [&'static str],
    /// Names of files that only it leaves: whole, or `*.suffix`, or `prefix*`.
    files: &'static [&'static str],
    /// Where its images have its data.
    directories: &'static [&'static str],
    /// Whether it acknowledges writes that are not on the disk yet, and writes them now and then, and when it stops.
    pub keeps_in_memory: bool,
}

/// How every `SQLite` file begins.
const SQLITE_HEADER: &[u8; 16] = b"SQLite format 3\0";

const SQLITE: Store =
    Store { name: "SQLite", programs: &[], files: &[], directories: &[], keeps_in_memory: false };

const STORES: &[Store] = &[
    Store {
        name: "MariaDB or MySQL",
        programs: &["mariadbd", "mysqld", "mariadbd-safe", "mysqld_safe", "mariadb", "mysql", "percona"],
        files: &["ibdata1", "aria_log_control", "*.ibd"],
        directories: &["/var/lib/mysql", "/bitnami/mariadb", "/bitnami/mysql"],
        keeps_in_memory: false,
    },
    Store {
        name: "Redis or Valkey",
        programs: &["redis-server", "valkey-server", "keydb-server", "redis", "valkey", "keydb"],
        files: &["dump.rdb", "appendonlydir", "appendonly.aof*"],
        directories: &["/data", "/bitnami/redis/data", "/bitnami/valkey/data"],
        keeps_in_memory: true,
    },
    Store {
        name: "MongoDB",
        programs: &["mongod", "mongo", "mongodb"],
        files: &["WiredTiger", "mongod.lock"],
        directories: &["/data/db", "/bitnami/mongodb"],
        keeps_in_memory: true,
    },
    Store {
        name: "etcd",
        programs: &["etcd"],
        files: &["*.snap.db"],
        directories: &["/bitnami/etcd"],
        keeps_in_memory: false,
    },
    Store {
        name: "InfluxDB",
        programs: &["influxd", "influxdb"],
        files: &["influxd.bolt", "*.tsm"],
        directories: &["/var/lib/influxdb2", "/var/lib/influxdb"],
        keeps_in_memory: false,
    },
    Store {
        name: "Elasticsearch or OpenSearch",
        programs: &["elasticsearch", "opensearch"],
        files: &["segments_*", "*.cfs"],
        directories: &["/usr/share/elasticsearch/data", "/usr/share/opensearch/data"],
        keeps_in_memory: false,
    },
    Store {
        name: "RabbitMQ",
        programs: &["rabbitmq-server", "rabbitmq"],
        files: &["rabbit_serial", "msg_stores"],
        directories: &["/var/lib/rabbitmq"],
        keeps_in_memory: false,
    },
    Store {
        name: "Mosquitto",
        programs: &["mosquitto", "eclipse-mosquitto"],
        files: &["mosquitto.db"],
        directories: &["/mosquitto/data"],
        keeps_in_memory: true,
    },
    SQLITE,
];

impl Store {
    /// Returns where its images have its data, as their containers see it.
    pub fn directories(&self) -> impl Iterator<Item = &'static Path> {
        self.directories.iter().map(Path::new)
    }
}

/// Returns the store that a container runs, by its command, or by its image's name.
#[must_use]
pub fn of(container: &Container) -> Option<&'static Store> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let image = container.image.split('@').next().unwrap_or_default();
    let image = last(image).split(':').next().unwrap_or_default().to_owned();
    let words: Vec<String> = container.command.iter().map(|word| last(word)).chain([image]).collect();
    STORES.iter().find(|store| store.programs.iter().any(|program| words.iter().any(|word| word == program)))
}

/// Returns the store that a file is of, by its name, and its first bytes if its name tells nothing.
#[must_use]
pub fn of_file(path: &Path) -> Option<&'static Store> {
    let name = path.file_name()?;
    let of_name = STORES.iter().find(|store| store.files.iter().any(|pattern| is_like(pattern, name)));
    of_name.or_else(|| is_sqlite(path).then_some(&SQLITE))
}

/// Returns the store of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Store> {
    STORES.iter().find(|store| store.name == name)
}

fn is_like(pattern: &str, name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => name.ends_with(suffix.as_bytes()),
        (None, Some(prefix)) => name.starts_with(prefix.as_bytes()),
        (None, None) => name == pattern.as_bytes(),
    }
}

/// Only what may be one by its name is opened: a source has a million files.
fn is_sqlite(path: &Path) -> bool {
    let may_be = |extension: &OsStr| {
        ["db", "sqlite", "sqlite3", "db3", "sqlitedb"].iter().any(|one| extension.eq_ignore_ascii_case(one))
    };
    let mut header = [0; SQLITE_HEADER.len()];
    path.extension().is_some_and(may_be)
        && path.symlink_metadata().is_ok_and(|found| found.is_file())
        && File::open(path).and_then(|mut file| file.read_exact(&mut header)).is_ok()
        && header == *SQLITE_HEADER
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::official(&["docker-entrypoint.sh", "mariadbd"], "mariadb:11", Some("MariaDB or MySQL"))]
    #[case::by_its_path(&["/usr/bin/redis-server", "--save", ""], "own:1", Some("Redis or Valkey"))]
    #[case::by_its_image(&["/entry.sh"], "ghcr.io:443/x/valkey:8@sha256:0", Some("Redis or Valkey"))]
    #[case::a_client_is_none(&["mysqldump", "--all"], "tools:1", None)]
    #[case::a_name_within_a_name(&["app"], "my-mysql-exporter:1", None)]
    fn a_container_runs_a_store_by_its_program_or_its_image(
        #[case] command: &[&str],
        #[case] image: &str,
        #[case] name: Option<&str>,
    ) {
        let command = command.iter().map(ToString::to_string).collect();
        let container = Container { command, image: image.to_owned(), ..Container::default() };
        assert_eq!(of(&container).map(|store| store.name), name);
    }

    #[test]
    fn files_tell_their_store_by_their_names_and_sqlite_by_its_first_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            of_file(&path).map(|store| store.name)
        };
        assert_eq!(file("ibdata1", b""), Some("MariaDB or MySQL"));
        assert_eq!(file("t.ibd", b""), Some("MariaDB or MySQL"));
        assert_eq!(file("appendonly.aof.1.base.rdb", b""), Some("Redis or Valkey"));
        assert_eq!(file("app.db", b"SQLite format 3\0and more"), Some("SQLite"));
        assert_eq!(file("other.db", b"SQLite format 4\0and more"), None);
        assert_eq!(file("short.db", b"SQL"), None);
        assert_eq!(file("notes.txt", b"SQLite format 3\0"), None, "it is not opened");
        std::os::unix::fs::symlink("/dev/zero", directory.path().join("link.db")).unwrap();
        assert_eq!(of_file(&directory.path().join("link.db")), None, "links are not followed");
    }
}
