//! PostgreSQL.
//!
//! `global/pg_control` and what must agree with it ([`control`]) prove a clean shutdown; checksums prove pages
//! ([`page`]). volsnap asks the server through its own `psql` and `pg_isready`, inside its container, so that neither
//! port nor password has to leave it.

mod advice;
mod configuration;
mod container;
pub mod control;
mod dumps;
mod facts;
mod files;
mod manager;
mod native;
pub mod page;
pub mod position;
mod sandbox;
mod slots;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::native::NativeBackup;
use super::{
    Advice, Checked, ContentCheck, Damage, DataFiles, Database, FactsSource, Links, Manager, NeededLog,
    SandboxSource, Server,
};
use crate::model::container::Container;
use crate::model::inspection::Inspection;
use crate::model::plural::counted;
use crate::model::position::Position;
use crate::model::replication::StoredSlot;
use page::{PageChecker, RelationFile};

/// Asks the server; see there.
const PROBE: &str = include_str!("probe.sh");

/// Prints the links in the data directory `$1`; a tablespace goes by its number.
const LINKS: &str = r#"cd -- "$1" || exit 1
for link in pg_tblspc/* pg_wal; do
    [ -L "$link" ] || continue
    target=$(readlink "$link")
    what=$link
    case $link in pg_tblspc/*)
        what="tablespace ${link#pg_tblspc/}"
        case $target in /*) ;; *) target=pg_tblspc/$target ;; esac
        ;;
    esac
    printf '%s\t%s\n' "$what" "$target"
done"#;

/// The write-ahead log: `pg_basebackup -Ft` puts it into an archive of its own.
const NEEDED_LOG: NeededLog = NeededLog {
    name: "write-ahead log",
    directory: "pg_wal",
    is_part: |name| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()),
    archive: "pg_wal.tar",
    way: "pg_basebackup -Ft writes pg_wal.tar beside base.tar: put it there, too, or back up with --wal-method=fetch",
    map: "tablespace_map",
};

/// Its name wherever it is stored.
const NAME: &str = "postgresql";

/// PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

impl Database for Postgres {
    fn name(&self) -> &'static str {
        NAME
    }

    fn server(&self) -> Option<&'static dyn Server> {
        Some(&Self)
    }

    fn files(&self) -> Option<&'static dyn DataFiles> {
        Some(&Self)
    }

    fn facts(&self) -> Option<&'static dyn FactsSource> {
        Some(&Self)
    }

    fn native(&self) -> Option<&'static dyn NativeBackup> {
        Some(&native::BaseBackup)
    }

    fn sandbox(&self) -> Option<&'static dyn SandboxSource> {
        Some(&Self)
    }

    fn advice(&self) -> &'static dyn Advice {
        &Self
    }
}

impl Server for Postgres {
    fn recognises(&self, container: &Container) -> bool {
        container::is_server(container)
    }

    fn may_have_run_in(&self, container: &Container) -> bool {
        container::may_have_run_in(container)
    }

    fn data_directory(&self, container: &Container) -> Option<PathBuf> {
        Some(container::data_directory(container))
    }

    fn major_version(&self, container: &Container) -> Option<String> {
        container::major_version(container)
    }

    fn superuser(&self, container: &Container) -> Option<String> {
        Some(container::superuser(container))
    }

    fn data_directory_command(&self, container: &Container) -> Option<Vec<String>> {
        Some(probe(container, "data-directory", 0))
    }

    /// `probe.sh` tells what makes the server ready, besides a query over TCP.
    fn ready_command(&self, container: &Container) -> Vec<String> {
        probe(container, "ready", 0)
    }

    fn await_ready_command(&self, container: &Container, limit: Duration) -> Vec<String> {
        probe(container, "ready", whole_seconds(limit))
    }

    fn checkpoint_command(&self, container: &Container) -> Option<Vec<String>> {
        Some(probe(container, "checkpoint", 0))
    }

    fn links(&self, directory: &Path) -> Option<Links> {
        let tablespaces = directory.join("pg_tblspc");
        Some(Links {
            command: ["sh", "-c", LINKS, "volsnap", directory.to_str()?].map(str::to_owned).to_vec(),
            kinds: "tablespaces and pg_wal",
            listing: ["ls", "-l", tablespaces.to_str()?].map(str::to_owned).to_vec(),
        })
    }

    fn configuration_command(&self, container: &Container) -> Option<Vec<String>> {
        let mut command = probe(container, "configuration", 0);
        command.extend([configuration::NAMED, configuration::INCLUDED].map(str::to_owned));
        Some(command)
    }

    /// Where the command names a file of settings, or a directory of them, the data directory's own is not read.
    fn configuration(&self, container: &Container, files: Option<&Inspection>) -> Vec<PathBuf> {
        let by_command = container::configuration(container);
        let own = files.filter(|_| !by_command.replaces_own).map(|files| files.configuration.clone());
        by_command.paths.into_iter().chain(own.unwrap_or_default()).collect()
    }

    /// A fast shutdown, whatever the image declares: SIGTERM would wait for every session to end.
    fn stop_signal(&self) -> &'static str {
        "SIGINT"
    }

    /// A fast shutdown still writes every dirty page and waits for the archiver; that has taken minutes.
    fn stop_timeout(&self) -> Duration {
        Duration::from_mins(10)
    }

    /// A supervisor is asked by its own signal, and hands on the one of a slow shutdown at best, which waits for every
    /// session.
    fn shutdown_command(&self, container: &Container) -> Option<Vec<String>> {
        let mut command = probe(container, "shutdown", 0);
        command.push(container::data_directory(container).to_string_lossy().into_owned());
        container::is_supervised(container).then_some(command)
    }

    fn manager(&self, container: &Container) -> Option<Manager> {
        manager::of(container)
    }
}

impl DataFiles for Postgres {
    fn find(&self, root: &Path) -> io::Result<Vec<PathBuf>> {
        files::find(root)
    }

    fn inspect(
        &self,
        root: &Path,
        data_directory: &Path,
        mounted_at: Option<&Path>,
    ) -> io::Result<Inspection> {
        files::inspect(root, data_directory, mounted_at)
    }

    /// Without PG_VERSION the official entrypoint takes the directory for a new one and refuses to initialise it
    /// unless it is empty; without pg_control no server starts.
    fn written_last(&self, data_directory: &Path) -> Vec<PathBuf> {
        vec![data_directory.join("PG_VERSION"), data_directory.join(control::PATH)]
    }

    fn proof_file(&self, data_directory: &Path) -> PathBuf {
        data_directory.join(control::PATH)
    }

    fn needed_log(&self) -> Option<&'static NeededLog> {
        Some(&NEEDED_LOG)
    }

    fn content_check(&self, inspection: &Inspection, path: &Path) -> Option<Box<dyn ContentCheck>> {
        let relation_file = RelationFile::parse(path)?;
        let (page_size, per_segment) = (inspection.page_size?.get(), inspection.pages_per_segment?.get());
        Some(Box::new(PageChecker::new(relation_file, page_size, per_segment)))
    }

    fn remove_slots(&self, root: &Path, data_directory: &Path) -> io::Result<Vec<StoredSlot>> {
        slots::remove(&root.join(data_directory))
    }

    fn position(&self, inspection: &Inspection) -> Option<Position> {
        files::position(inspection)
    }
}

impl ContentCheck for PageChecker {
    fn feed(&mut self, piece: &[u8]) {
        Self::feed(self, piece);
    }

    fn finish(self: Box<Self>) -> Checked {
        let report = Self::finish(*self);
        let mut damage: Vec<Damage> = report
            .bad
            .iter()
            .map(|bad| Damage { block: Some(bad.block.into()), what: bad.state.to_string() })
            .collect();
        if report.trailing_bytes > 0 {
            let what =
                format!("ends with {} of no whole page", counted(report.trailing_bytes as u64, "byte"));
            damage.push(Damage { block: None, what });
        }
        Checked { pages: report.pages, damage }
    }
}

/// Returns the command that runs the probe. Anything that varies is an argument of the script, never a part of it.
fn probe(container: &Container, action: &str, seconds: u64) -> Vec<String> {
    let port = container::port(container);
    ["sh", "-c", PROBE, "volsnap", action, &port, &seconds.to_string()].map(str::to_owned).to_vec()
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Output};

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    /// Runs a command of the server where `pg_isready` and `psql` are these scripts.
    fn run(command: &[String], pg_isready: &str, psql: &str) -> Output {
        let programs = TempDir::new().unwrap();
        for (name, script) in [("pg_isready", pg_isready), ("psql", psql)] {
            let path = programs.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Command::new(&command[0])
            .args(&command[1..])
            .env("PATH", format!("{}:/usr/bin:/bin", programs.path().display()))
            .env("STATE", programs.path())
            .env("POSTGRES_USER", "user; touch /tmp/x")
            .env("POSTGRES_PASSWORD", "s3cret")
            .env("PGHOST", "db.example")
            .output()
            .unwrap()
    }

    #[rstest]
    #[case::a_query_over_tcp("exit 0", "case $* in *127.0.0.1*) exit 0;; *) exit 2;; esac", true)]
    #[case::a_query_over_the_socket("exit 0", "case $* in *127.0.0.1*) exit 2;; *) exit 0;; esac", true)]
    #[case::accepting_but_no_credentials("exit 0", "exit 2", true)]
    #[case::no_psql("exit 0", "exit 127", true)]
    #[case::a_query_that_fails("exit 0", "exit 1", false)]
    #[case::gone_between_the_two("[ ! -e $STATE/n ] || exit 2; touch $STATE/n", "exit 2", false)]
    #[case::starting_up("exit 1", "exit 2", false)]
    fn ready_is_a_server_that_answers_over_tcp(
        #[case] pg_isready: &str,
        #[case] psql: &str,
        #[case] ready: bool,
    ) {
        let output = run(&Postgres.ready_command(&Container::default()), pg_isready, psql);
        assert_eq!(output.status.success(), ready, "{output:?}");
    }

    #[test]
    fn waiting_ends_when_the_server_answers() {
        let command = Postgres.await_ready_command(&Container::default(), Duration::from_secs(20));
        let third = "echo >>$STATE/n; [ $(wc -l <$STATE/n) -ge 3 ]";
        assert!(run(&command, third, "exit 0").status.success());
    }

    #[test]
    fn waiting_ends_at_its_limit_and_says_why() {
        let command = Postgres.await_ready_command(&Container::default(), Duration::from_millis(10));
        let output = run(&command, "echo rejecting connections; exit 1", "exit 2");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("rejecting connections"));
    }

    #[test]
    fn the_data_directory_is_asked_with_the_containers_own_credentials() {
        let command = Postgres.data_directory_command(&Container::default()).unwrap();
        let psql = r#"[ "$PGUSER/$PGDATABASE/$PGPASSWORD/$PGHOST" = "user; touch /tmp/x/postgres/s3cret/" ] || exit 2
            case "$*" in *s3cret*) exit 2;; *"show data_directory"*) echo "/a dir";; esac"#;
        let output = run(&command, "exit 0", psql);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "/a dir\n");
    }

    #[test]
    fn links_out_of_the_data_directory_are_printed() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("pg_tblspc/real")).unwrap();
        let print = || {
            let command = Postgres.links(root.path()).unwrap().command;
            let output = std::process::Command::new(&command[0]).args(&command[1..]).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(print(), "");
        symlink("/srv/a b", root.path().join("pg_tblspc/16400")).unwrap();
        symlink("../wal", root.path().join("pg_wal")).unwrap();
        assert_eq!(print(), "tablespace 16400\t/srv/a b\npg_wal\t../wal\n");
    }

    #[test]
    fn no_secret_and_no_name_gets_into_a_command() {
        let container = Container {
            env: vec![
                "POSTGRES_PASSWORD=s3cret".into(),
                "POSTGRES_USER=$(reboot)".into(),
                "PGPORT=1;x".into(),
            ],
            ..Container::default()
        };
        let directory = Postgres.data_directory_command(&container).unwrap();
        for command in [Postgres.ready_command(&container), directory] {
            assert_eq!(command[..2], ["sh", "-c"]);
            assert_eq!(command[2], PROBE);
            assert_eq!(command[5], "5432");
            assert!(!command.concat().contains("s3cret"));
        }
    }

    #[test]
    fn pg_control_is_written_last_of_all() {
        let last = Postgres.written_last(Path::new("18/docker"));
        assert_eq!(last, [Path::new("18/docker/PG_VERSION"), Path::new("18/docker/global/pg_control")]);
        assert_eq!(Postgres.written_last(Path::new(""))[0], Path::new("PG_VERSION"));
    }
}
