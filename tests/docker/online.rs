//! A snapshot of a database that runs on: what it has, what it refuses, and what nobody gets to see.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use volsnap::engine::{ContainerSpec, Docker, MountSpec, TmpfsSpec};
use volsnap::model::location::MountSource;

use crate::database::{Postgres, Volsnap, Watched, image};
use crate::world::{LABEL, docker};

const ONLINE: [&str; 2] = ["--quiesce", "online"];
const DATA: &str = "/var/lib/postgresql/data";
/// Of this test alone: others have theirs in the list of processes.
const PASSWORD: &str = "pa:ss\\word-of-nobody-else";

impl Postgres {
    fn online(&self, volsnap: &Volsnap, options: &[&str]) -> crate::program::Ran {
        volsnap.run([&["snapshot", &self.target()], &ONLINE[..], options].concat())
    }

    /// Replaces what pg_hba.conf has for replication by `line`.
    fn let_replicate(&self, line: &str) {
        let script = format!(
            "sed -i '/replication/d' {DATA}/pg_hba.conf && echo '{line}' >>{DATA}/pg_hba.conf && \
             psql -XAtq -U user memory_db -c 'select pg_reload_conf()'"
        );
        docker(&["exec", &self.container, "sh", "-c", &script]);
    }

    /// Waits for a base backup of volsnap's, holds what serves it, and returns the process.
    fn hold_base_backup(&self) -> String {
        let script = "until pid=$(psql -XAtq -U user memory_db -c \"select pid from pg_stat_activity \
            where application_name = 'volsnap' and backend_type = 'walsender' order by backend_start limit 1\") \
            && [ -n \"$pid\" ]; do :; done; kill -STOP $pid; echo $pid";
        docker(&["exec", "-u", "postgres", &self.container, "timeout", "30", "sh", "-c", script])
    }
}

/// A client that writes a row at a time, each once the one before is acknowledged.
struct Client {
    stop: Arc<AtomicBool>,
    writing: std::thread::JoinHandle<Vec<(u64, u64)>>,
}

impl Client {
    fn start(postgres: &Postgres) -> Self {
        postgres.query("create table acknowledged (n bigint primary key)");
        let stop = Arc::new(AtomicBool::new(false));
        let (container, stopped) = (postgres.container.clone(), stop.clone());
        let writing = std::thread::spawn(move || write_until(&container, &stopped));
        Self { stop, writing }
    }

    /// Returns each row with the position in the write-ahead log up to which it is certain to be written.
    fn end(self) -> Vec<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.writing.join().unwrap()
    }
}

fn write_until(container: &str, stop: &AtomicBool) -> Vec<(u64, u64)> {
    let psql = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "user", "memory_db"];
    let mut child = Command::new("docker")
        .args(["exec", "-i", container])
        .args(psql)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut rows = Vec::new();
    for n in 1.. {
        writeln!(input, "insert into acknowledged values ({n}); select pg_current_wal_insert_lsn();")
            .unwrap();
        let position = output.next().unwrap_or_else(|| panic!("the client lost its connection")).unwrap();
        rows.push((n, lsn(&position)));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(input);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    rows
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) | u64::from_str_radix(low, 16).unwrap()
}

/// Returns the position in the write-ahead log to which a backup recovers, by its own manifest.
fn end_of_backup(archive: &str) -> u64 {
    let manifest = Command::new("tar")
        .args(["--zstd", "-xOf", archive, "--wildcards", "*backup_manifest"])
        .output()
        .unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.stdout).unwrap();
    lsn(manifest["WAL-Ranges"][0]["End-LSN"].as_str().unwrap())
}

#[tokio::test]
async fn an_online_snapshot_has_every_row_that_was_acknowledged_before_its_end_and_disturbs_nobody() {
    let options = ["-e", "PGDATA=/var/lib/postgresql/data/pg data", "--tmpfs", "/run/x"];
    let (postgres, volsnap) = (Postgres::start_with(&options).await, Volsnap::new());
    docker(&["exec", &postgres.container, "sh", "-c", &format!("echo beside >{DATA}/beside")]);
    let started = postgres.inspect("{{.State.StartedAt}}");
    let client = Client::start(&postgres);
    std::thread::sleep(Duration::from_millis(200));

    let ran = postgres.online(&volsnap, &["--json"]);
    let snapshot = ran.json();

    let rows = client.end();
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);
    postgres.assert_whole();
    postgres.assert_no_helper();
    volsnap.assert_no_leftovers();
    assert_eq!(
        (&snapshot["quiesce"], &snapshot["capture"], &snapshot["consistency"], &snapshot["downtime_ms"]),
        (&"online".into(), &"staged".into(), &"online".into(), &0.into())
    );
    let id = snapshot["id"].as_str().unwrap();
    assert_eq!(docker(&["volume", "ls", "-q", "--filter", &format!("name={id}")]), "");
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("label=volsnap.run={id}")]), "");
    assert_eq!(volsnap.run(["verify", "latest", "--json"]).json()["ok"], true);

    let name = postgres.world.name("restored");
    let _ = volsnap.run(["restore", "latest", "--new-volume", &name, "-y"]).expect(0);
    let end = end_of_backup(snapshot["archive"].as_str().unwrap());
    let acknowledged = rows.iter().filter(|(_, position)| *position <= end).count();
    assert!(acknowledged > 10 && acknowledged < rows.len(), "{acknowledged} of {}", rows.len());
    let booted = boot(&postgres, &name).await;
    let query = |sql: &str| {
        docker(&["exec", &booted, "psql", "-XAtq", "-h", "/tmp", "-U", "user", "memory_db", "-c", sql])
    };
    let found = query("select count(*), max(n) from acknowledged");
    let (count, last) = found.split_once('|').unwrap();
    assert_eq!(count, last, "a row is missing in the middle");
    let last: usize = last.parse().unwrap();
    assert!(
        (acknowledged..=rows.len()).contains(&last),
        "{last} of {acknowledged} acknowledged before the end"
    );
    assert_eq!(query("select count(*), sum(n) from kept"), "1000|500500");
    assert_eq!(docker(&["exec", &booted, "cat", &format!("{DATA}/beside")]), "beside");
    let log = postgres.world.engine.logs(&booted, 50).await.unwrap();
    assert!(log.contains("consistent recovery state reached"), "{log}");
    postgres.world.engine.remove_container(&booted).await.unwrap();
}

/// Boots the database's image on a volume as nobody else can reach it, and waits until it answers.
async fn boot(postgres: &Postgres, volume: &str) -> String {
    let tmpfs = |path: &str| TmpfsSpec { destination: PathBuf::from(path), bytes: 16 << 20 };
    let spec = ContainerSpec {
        name: postgres.world.name("booted"),
        image: image(),
        command: ["postgres", "-c", "unix_socket_directories=/tmp"].map(str::to_owned).to_vec(),
        labels: BTreeMap::from([(LABEL.to_owned(), std::process::id().to_string())]),
        mounts: vec![MountSpec {
            source: MountSource::Volume(volume.to_owned()),
            destination: PathBuf::from(DATA),
            read_only: false,
        }],
        user: Some((999, 999)),
        env: BTreeMap::from([("PGDATA".to_owned(), format!("{DATA}/pg data"))]),
        tmpfs: vec![tmpfs("/tmp"), tmpfs("/var/run/postgresql")],
        memory_bytes: Some(512 << 20),
        pids: Some(100),
        kept: true,
        detached: true,
        ..ContainerSpec::default()
    };
    let engine = &postgres.world.engine;
    let id = engine.create_container(&spec).await.unwrap();
    engine.start(&id).await.unwrap();
    let limits = docker(&[
        "inspect",
        "--format",
        "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.NetworkMode}} {{.HostConfig.ReadonlyRootfs}} \
         {{.Config.User}} {{.HostConfig.CapDrop}} {{.Config.OpenStdin}}",
        &id,
    ]);
    assert_eq!(limits, "536870912 100 none true 999:999 [ALL] false");
    let ready = ["pg_isready", "-q", "-h", "/tmp"].map(str::to_owned);
    let begun = Instant::now();
    while engine.exec(&id, &ready, Duration::from_secs(10)).await.is_ok_and(|output| output.exit_code != 0) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", engine.logs(&id, 50).await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    id
}

/// Returns the command lines of this machine, and the environments of those that make a backup.
fn processes() -> (Vec<String>, Vec<String>) {
    let (mut lines, mut environments) = (Vec::new(), Vec::new());
    let numbered = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().is_ok();
    for entry in std::fs::read_dir("/proc").unwrap().map(Result::unwrap).filter(numbered) {
        let read = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(entry.path().join(name)).unwrap_or_default()).into_owned()
        };
        let line = read("cmdline");
        if line.contains("pg_basebackup") || line.contains("volsnap") {
            environments.push(read("environ"));
        }
        lines.push(line);
    }
    (lines, environments)
}

#[tokio::test]
async fn a_base_backup_shows_its_password_to_nobody_and_kill_9_in_its_middle_leaves_nothing() {
    let password = format!("POSTGRES_PASSWORD={PASSWORD}");
    let (postgres, volsnap) = (Postgres::start_with(&["-e", &password]).await, Volsnap::new());
    postgres.let_replicate("host replication user samenet scram-sha-256");
    let target = postgres.target();
    let arguments = [&["snapshot", target.as_str()], &ONLINE[..]].concat();
    let mut watched = Watched::start(volsnap.command(arguments));
    assert!(watched.reach("back-up-online"), "{:?}", watched.end());
    let walsender = postgres.hold_base_backup();

    let running = docker(&["ps", "-q", "--filter", "label=volsnap.run", "--filter", "name=volsnap-backup-"]);
    let inspected = docker(&[&["inspect"], &*running.lines().collect::<Vec<_>>()].concat());
    assert!(inspected.contains("pg_basebackup") && !inspected.contains(PASSWORD));
    let (lines, environments) = processes();
    assert!(lines.iter().any(|line| line.starts_with("pg_basebackup")), "it does not run");
    let shown = |text: &String| text.contains(PASSWORD) || text.contains("pa\\:ss");
    assert!(!lines.iter().any(shown), "the password is in the list of processes");
    assert!(!environments.iter().any(shown), "the password is in an environment");

    watched.signal(Signal::SIGKILL);
    let (_, said) = watched.end();
    assert!(!said.contains(PASSWORD) && !said.contains("pa\\:ss"), "{said}");
    let journals = volsnap.state().join("journals");
    let begun = Instant::now();
    while std::fs::read_dir(&journals).unwrap().count() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the guard has not tidied up");
        std::thread::sleep(Duration::from_millis(50));
    }
    let resume = format!("kill -CONT {walsender}");
    docker(&["exec", "-u", "postgres", &postgres.container, "sh", "-c", &resume]);
    volsnap.assert_no_snapshot();
    postgres.assert_no_helper();
    let run = inspected.split("volsnap-backup-").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("label=volsnap.run={run}")]), "");
    assert_eq!(docker(&["volume", "ls", "-q", "--filter", &format!("label=volsnap.run={run}")]), "");
    postgres.assert_whole();

    // The password is good for a whole backup too.
    let ran = postgres.online(&volsnap, &["-vv"]);
    let _ = ran.expect(0);
    assert!(!ran.stderr().contains(PASSWORD));
    for file in volsnap.repository_files().iter().filter(|file| file.extension().is_some_and(|e| e == "json"))
    {
        assert!(!std::fs::read_to_string(file).unwrap().contains(PASSWORD));
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_backed_up_online_is_refused_with_the_line_that_mends_it() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let refused = |words: &[&str]| {
        postgres.online(&volsnap, &[]).refused(1, &[words, &["nothing was stopped"]].concat());
        volsnap.assert_no_snapshot();
    };

    postgres.let_replicate("# nothing");
    refused(&["pg_hba.conf", "`host replication user samenet scram-sha-256`", "SELECT pg_reload_conf();"]);
    postgres.let_replicate("host replication user samenet reject");
    refused(&["pg_hba.conf"]);
    postgres.let_replicate("host replication user samenet scram-sha-256");

    postgres.query("create role boss superuser login");
    let as_boss = |sql: &str| {
        docker(&["exec", &postgres.container, "psql", "-XAtq", "-U", "boss", "memory_db", "-c", sql])
    };
    as_boss("alter role \"user\" nosuperuser noreplication");
    refused(&["its role user may not replicate", "ALTER ROLE \"user\" REPLICATION;"]);
    as_boss("alter role \"user\" password 'another'");
    as_boss("alter role \"user\" replication");
    refused(&["password authentication failed", "POSTGRES_PASSWORD"]);

    as_boss("alter system set wal_level = minimal");
    as_boss("alter system set max_wal_senders = 0");
    docker(&["restart", "-t", "30", &postgres.container]);
    postgres.await_answer();
    refused(&["wal_level is minimal", "`wal_level = replica`"]);

    docker(&["stop", "-t", "30", &postgres.container]);
    postgres.online(&volsnap, &[]).refused(2, &["no database runs", "--quiesce stop"]);
    let wrong = [&["--capture", "direct"][..], &["--keep-stage"]];
    for options in wrong {
        postgres.online(&volsnap, options).refused(2, &["--quiesce online", options[0]]);
    }
    let ran = volsnap.run(["snapshot", &postgres.target(), "--max-rate", "50M"]);
    ran.refused(2, &["--max-rate", "--quiesce online"]);
    volsnap.assert_no_snapshot();
}
