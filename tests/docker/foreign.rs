//! What people have in an emergency: a base backup, an archive of ours alone, a copied directory, a dump.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::database::{Postgres, Volsnap};
use crate::program::Ran;
use crate::world::docker;

/// A database with its rows, and what a user of volsnap has on the host.
struct Emergency {
    postgres: Postgres,
    volsnap: Volsnap,
    scratch: tempfile::TempDir,
}

impl Emergency {
    async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        Self { postgres: Postgres::start().await, volsnap: Volsnap::new(), scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Has the container's shell run a script that makes `/tmp/NAME`, and takes that out.
    fn take_out(&self, name: &str, script: &str) -> PathBuf {
        let container = &self.postgres.container;
        docker(&["exec", container, "sh", "-c", script]);
        let path = self.path(name);
        docker(&["cp", &format!("{container}:/tmp/{name}"), path.to_str().unwrap()]);
        path
    }

    fn restore(&self, what: &Path) -> Ran {
        self.volsnap.run(["restore", what.to_str().unwrap(), "--to", &self.postgres.target(), "--yes"])
    }

    /// Restores it over rows that it does not have.
    #[track_caller]
    fn comes_back_from(&self, what: &Path, words: &[&str]) {
        self.postgres.query("update kept set n = 0");
        let ran = self.restore(what);
        let said = ran.expect(0).stderr();
        words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in {said}"));
        self.postgres.assert_whole();
    }
}

#[tokio::test]
async fn a_base_backup_comes_with_its_log_or_is_refused_before_anything_stops() {
    let emergency = Emergency::new().await;
    let backup = emergency.take_out("backup", "pg_basebackup -U user -Ft -D /tmp/backup");
    let (base, log) = (backup.join("base.tar"), backup.join("pg_wal.tar"));
    emergency.comes_back_from(&base, &["the write-ahead log in", "pg_wal.tar is taken along"]);

    std::fs::rename(&log, emergency.path("elsewhere.tar")).unwrap();
    let started = emergency.postgres.inspect("{{.State.StartedAt}}");
    emergency
        .restore(&base)
        .refused(1, &["no write-ahead log", "pg_wal.tar beside base.tar", "nothing was stopped"]);
    assert_eq!(emergency.postgres.inspect("{{.State.StartedAt}}"), started);

    // Compressed, as `-z` has it.
    std::fs::rename(emergency.path("elsewhere.tar"), &log).unwrap();
    for path in [&base, &log] {
        assert!(Command::new("gzip").arg("-1").arg(path).status().unwrap().success());
    }
    emergency.comes_back_from(&backup.join("base.tar.gz"), &["pg_wal.tar.gz is taken along"]);
    emergency.volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn an_archive_of_ours_that_was_carried_away_alone_and_a_copied_directory_are_restored() {
    let emergency = Emergency::new().await;
    let taken = emergency.volsnap.run(["snapshot", &emergency.postgres.target(), "--json"]).json();
    let archive = Path::new(taken["archive"].as_str().unwrap());
    let alone = emergency.path(archive.file_name().unwrap().to_str().unwrap());
    std::fs::copy(archive, &alone).unwrap();
    emergency.comes_back_from(&alone, &["without its manifest"]);
    let renamed = emergency.path("backup of monday.tar.zst");
    std::fs::rename(&alone, &renamed).unwrap();
    emergency.comes_back_from(&renamed, &[]);

    let mountpoint =
        docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &emergency.postgres.volume]);
    let copied = emergency.path("copied");
    emergency.postgres.query("checkpoint");
    assert!(Command::new("cp").arg("-a").arg(&mountpoint).arg(&copied).status().unwrap().success());
    let words = ["nothing proves that nobody wrote meanwhile", "postgresql 15 say: in production"];
    emergency.comes_back_from(&copied, &words);
    std::fs::remove_dir_all(copied.join("pg_wal")).unwrap();
    emergency.restore(&copied).refused(1, &["no write-ahead log", "nothing was stopped"]);
    emergency.volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_dump_is_named_and_loaded_by_the_command_that_is_printed() {
    let emergency = Emergency::new().await;
    let custom = emergency.take_out("my dump", "pg_dump -U user -Fc memory_db > '/tmp/my dump'");
    let text = emergency.take_out("dump.sql.gz", "pg_dump -U user memory_db | gzip > /tmp/dump.sql.gz");
    for (dump, what) in [(custom, "pg_dump in its custom format"), (text, "pg_dump, statements in text")] {
        let ran = emergency.restore(&dump);
        ran.refused(1, &[what, "nothing was stopped"]);
        let said = ran.stderr();
        let command =
            said.lines().find_map(|line| line.trim_start().strip_prefix("next: ")).unwrap().to_owned();
        let loaded = Command::new("bash").args(["-c", &command]).stdin(Stdio::null()).output().unwrap();
        assert!(loaded.status.success(), "{command}: {}", String::from_utf8_lossy(&loaded.stderr));
        let count = ["exec", &emergency.postgres.container, "psql", "-XAtq", "-U", "user", "restored"];
        assert_eq!(docker(&[&count[..], &["-c", "select count(*) from kept"]].concat()), "1000");
        emergency.postgres.query("drop database restored");
        emergency.postgres.assert_whole();
    }
}
