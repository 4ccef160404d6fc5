//! A snapshot of a real database: it is stopped, saved, started again, and what was saved is what was there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::database::{Postgres, Volsnap, image};
use crate::world::docker;

#[tokio::test]
async fn a_snapshot_of_a_running_database_is_proved_clean_and_the_database_runs_again() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let started_before = postgres.inspect("{{.State.StartedAt}}");

    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json", "--tag", "why=test"]).json();

    postgres.assert_whole();
    assert_ne!(postgres.inspect("{{.State.StartedAt}}"), started_before, "it was never stopped");
    assert_eq!(postgres.inspect("{{.State.OOMKilled}} {{.RestartCount}}"), "false 0");
    assert_eq!(snapshot["consistency"], "clean");
    assert_eq!(snapshot["quiesce"], "stop");
    assert_eq!(snapshot["capture"], "direct");
    assert_eq!(snapshot["tags"]["why"], "test");
    assert!(snapshot["downtime_ms"].as_u64().unwrap() > 0);
    assert!(snapshot["files"].as_u64().unwrap() > 900, "{snapshot}");
    let stored = std::fs::metadata(snapshot["archive"].as_str().unwrap()).unwrap().len();
    assert_eq!(snapshot["stored_bytes"].as_u64().unwrap(), stored);
    assert_eq!(volsnap.list().len(), 1);
    volsnap.assert_no_leftovers();
    postgres.assert_no_helper();

    let verified = volsnap.run(["verify", "latest", "--json"]).json();
    assert_eq!(verified["ok"], true, "{verified}");
    assert!(verified["pages"].as_u64().unwrap() > 1000, "{verified}");
    assert_eq!(volsnap.list()[0]["verified"]["ok"], true);
}

#[tokio::test]
async fn what_plain_tar_unpacks_boots_with_every_row() {
    for compression in ["zstd", "gzip:1", "none"] {
        let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
        let snapshot =
            volsnap.run(["snapshot", &postgres.target(), "--json", "--compression", compression]).json();
        let archive = snapshot["archive"].as_str().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let tar = Command::new("tar")
            .args(["--numeric-owner", "--acls", "--xattrs", "-xpf", archive, "-C"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));

        let copy = postgres.world.name("copy");
        postgres.run(&copy, &["-v", &format!("{}:/var/lib/postgresql/data", data.display())]);
        let copy = Postgres { container: copy, ..postgres };
        copy.await_answer();
        copy.assert_whole();
        docker(&["rm", "-f", &copy.container]);
    }
}

#[tokio::test]
async fn the_archive_has_every_owner_mode_and_time_of_the_volume() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["stop", "-t", "60", &postgres.container]);
    let _ = volsnap.run(["snapshot", &format!("volume:{}", postgres.volume)]).expect(0);
    let source = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &postgres.volume]);
    let listed = volsnap.run(["show", "latest", "--files", "--json"]);
    let mut listed: BTreeMap<String, serde_json::Value> = listed
        .expect(0)
        .stdout()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| (record["path"].as_str().unwrap().to_owned(), record))
        .collect();
    check_tree(Path::new(&source), ".", &mut listed);
    assert!(listed.is_empty(), "listed and not there: {:?}", listed.keys());
}

fn check_tree(root: &Path, relative: &str, listed: &mut BTreeMap<String, serde_json::Value>) {
    use std::os::unix::fs::MetadataExt as _;
    let path = root.join(relative);
    let record = listed.remove(relative).unwrap_or_else(|| panic!("{relative} is not listed"));
    let metadata = path.symlink_metadata().unwrap();
    assert_eq!(record["uid"], metadata.uid(), "{relative}");
    assert_eq!(record["gid"], metadata.gid(), "{relative}");
    assert_eq!(record["mode"].as_u64().unwrap(), u64::from(metadata.mode() & 0o7777), "{relative}");
    assert_eq!(record["mtime"]["secs"], metadata.mtime(), "{relative}");
    assert_eq!(record["mtime"]["nanos"].as_i64().unwrap_or(0), metadata.mtime_nsec(), "{relative}");
    if metadata.is_file() {
        // A size or a fraction of zero is left out.
        assert_eq!(record["size"].as_u64().unwrap_or(0), metadata.len(), "{relative}");
        let digest = blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string();
        assert_eq!(record["digest"], digest, "{relative}");
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let below = if relative == "." { name } else { format!("{relative}/{name}") };
            check_tree(root, &below, listed);
        }
    }
}

#[tokio::test]
async fn a_database_that_was_stopped_before_is_archived_and_stays_stopped() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["stop", "-t", "60", &postgres.container]);
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    assert_eq!(snapshot["consistency"], "clean");
    assert_eq!(snapshot["downtime_ms"], 0);
    assert_eq!(postgres.inspect("{{.State.Status}}"), "exited");
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_killed_database_is_published_only_on_request_and_marked_crash_consistent() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["kill", &postgres.container]);
    volsnap.run(["snapshot", &postgres.target()]).refused(1, &["not clean", "--allow-crash-consistent"]);
    volsnap.assert_no_snapshot();
    assert_eq!(postgres.inspect("{{.State.Status}}"), "exited");

    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--allow-crash-consistent", "--json"]).json();
    assert_eq!(snapshot["consistency"], "crash-consistent");
    assert!(!snapshot["reasons"].as_array().unwrap().is_empty());
    let verified = volsnap.run(["verify", "latest", "--json"]).json();
    assert_eq!(verified["ok"], true, "{verified}");
    assert_eq!(verified["pages"], 0, "pages of a crashed database prove nothing");
}

#[tokio::test]
async fn an_immediate_shutdown_is_not_clean_though_its_exit_code_is_0() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["kill", "-s", "QUIT", &postgres.container]);
    docker(&["wait", &postgres.container]);
    assert_eq!(postgres.inspect("{{.State.ExitCode}}"), "0");
    volsnap.run(["snapshot", &postgres.target()]).refused(1, &["not clean", "pg_control"]);
    volsnap.assert_no_snapshot();
}

#[tokio::test]
async fn a_stop_outlasts_the_containers_own_grace_without_a_kill() {
    // The archiver holds up the shutdown for longer than the container's own grace of 1 s.
    let archiving = ["--stop-timeout", "1"];
    let (postgres, volsnap) = (Postgres::start_with(&archiving).await, Volsnap::new());
    postgres.query("alter system set archive_mode = on");
    postgres.query("alter system set archive_command = 'sleep 3'");
    docker(&["restart", "-t", "60", &postgres.container]);
    postgres.await_answer();
    postgres.query("select pg_switch_wal()");
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    assert_eq!(snapshot["consistency"], "clean");
    postgres.assert_whole();
}

#[tokio::test]
async fn a_container_whose_stop_signal_waits_for_sessions_is_stopped_fast() {
    let (postgres, volsnap) = (Postgres::start_with(&["--stop-signal", "SIGTERM"]).await, Volsnap::new());
    // A session that would hold up a smart shutdown for ten minutes.
    let mut session = Command::new("docker")
        .args(["exec", &postgres.container, "psql", "-U", "user", "memory_db", "-c", "select pg_sleep(600)"])
        .spawn()
        .unwrap();
    while postgres.query("select count(*) from pg_stat_activity where query like '%pg_sleep(600)%'") != "2" {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let begun = Instant::now();
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    assert!(begun.elapsed().as_secs() < 60, "it waited for the session");
    assert_eq!(snapshot["consistency"], "clean");
    postgres.assert_whole();
    let _ = session.wait();
}

#[tokio::test]
async fn every_restart_policy_is_brought_back() {
    for policy in ["always", "unless-stopped", "on-failure"] {
        let (postgres, volsnap) = (Postgres::start_with(&["--restart", policy]).await, Volsnap::new());
        let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
        assert_eq!(snapshot["consistency"], "clean", "{policy}");
        postgres.assert_whole();
        assert_eq!(
            postgres.inspect("{{.HostConfig.RestartPolicy.Name}} {{.RestartCount}}"),
            format!("{policy} 0")
        );
    }
}

#[tokio::test]
async fn a_healthcheck_is_what_ready_means() {
    let check = ["--health-cmd", "test -e /tmp/never || pg_isready -h 127.0.0.1", "--health-interval", "1s"];
    let (postgres, volsnap) = (Postgres::start_with(&check).await, Volsnap::new());
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    assert_eq!(snapshot["consistency"], "clean");
    postgres.assert_whole();
}

#[tokio::test]
async fn whoever_can_write_to_the_volume_is_stopped_and_nobody_else() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let forever = "trap 'exit 0' TERM; ready; while :; do sleep 0.1; done";
    let mount = |rights: &str| format!("{}:/view:{rights}", postgres.volume);
    let writer = postgres.world.run_service("writer", &["-v", &mount("rw")], forever);
    let reader = postgres.world.run_service("reader", &["-v", &mount("ro")], forever);
    let namesake = postgres.world.run_service("db-replica", &[], forever);
    let network = format!("container:{}", postgres.container);
    let sidecar = postgres.world.name("sidecar");
    docker(&[
        "run",
        "-d",
        "--name",
        &sidecar,
        "--network",
        &network,
        "--entrypoint",
        "sh",
        &image(),
        "-c",
        &format!("ready() {{ :; }}; {forever}"),
    ]);
    let started =
        |name: &str| docker(&["inspect", "--format", "{{.State.Running}} {{.State.StartedAt}}", name]);
    let before = [&writer, &sidecar, &reader, &namesake].map(|name| started(name));

    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();

    assert_eq!(snapshot["consistency"], "clean");
    postgres.assert_whole();
    for (name, before) in [&writer, &sidecar].into_iter().zip(&before) {
        assert_ne!(started(name), *before, "{name} was never stopped");
        assert!(started(name).starts_with("true"), "{name} is not back");
    }
    // Who can only read disturbs nothing; a similar name is nobody's business.
    for (name, before) in [&reader, &namesake].into_iter().zip(&before[2..]) {
        assert_eq!(started(name), *before, "{name} was touched");
    }
}

#[tokio::test]
async fn a_container_recreated_in_the_middle_is_found_by_its_labels() {
    let labels = [
        "--label",
        "com.docker.compose.project=recreated",
        "--label",
        "com.docker.compose.service=db",
        "--label",
        "com.docker.compose.container-number=1",
        "--label",
        "com.docker.compose.oneoff=False",
    ];
    let (postgres, volsnap) = (Postgres::start_with(&labels).await, Volsnap::new());
    postgres.query("create table filler as select md5(n::text) as text from generate_series(1, 300000) n");
    let mut watched = crate::database::Watched::start(volsnap.command(["snapshot", &postgres.target()]));
    assert!(watched.reach("archive"));
    docker(&["rm", "-f", &postgres.container]);
    let recreated = postgres.world.name("db-recreated");
    let mount = format!("{}:/var/lib/postgresql/data", postgres.volume);
    let label = format!("{}={}", crate::world::LABEL, std::process::id());
    docker(
        &[
            &["create", "--name", &recreated, "--label", &label, "--network", "none", "-v", &mount][..],
            &[
                "-e",
                "POSTGRES_USER=user",
                "-e",
                "POSTGRES_PASSWORD=secret-word",
                "-e",
                "POSTGRES_DB=memory_db",
            ],
            &labels,
            &[&image()],
        ]
        .concat(),
    );
    let (code, said) = watched.end();
    assert_eq!(code, Some(1), "a container that vanished is no proof of anything: {said}");
    let recreated = Postgres { container: recreated, ..postgres };
    recreated.await_answer();
    recreated.assert_whole();
    volsnap.assert_no_snapshot();
}

#[tokio::test]
async fn a_directory_that_holds_no_database_is_saved_with_nothing_held() {
    let volsnap = Volsnap::new();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a file; with 'odd' \"name\"\n"), "x").unwrap();
    std::os::unix::fs::symlink("/nowhere", directory.path().join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    let target = format!("path:{}", directory.path().display());
    let snapshot = volsnap.run(["snapshot", &target, "--quiesce", "none", "--json"]).json();
    assert_eq!(snapshot["consistency"], "stopped-and-quiet");
    assert_eq!(snapshot["files"], 1);
    let shown = volsnap.run(["show", "latest", "--json"]).json();
    assert_eq!(shown["counts"]["sockets_skipped"], 1);
    let _ = volsnap.run(["verify", "latest"]).expect(0);
}

#[tokio::test]
async fn no_secret_is_in_the_repository_the_output_or_the_journal() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let ran = volsnap.run(["snapshot", &postgres.target(), "-vv"]);
    let _ = ran.expect(0);
    let shown = volsnap.run(["show", "latest"]);
    for text in [ran.stdout(), ran.stderr(), shown.expect(0).stdout()] {
        assert!(!text.contains("secret-word"), "{text}");
    }
    for file in volsnap.repository_files() {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        if file.extension().is_some_and(|extension| extension == "json") {
            assert!(!std::fs::read_to_string(&file).unwrap().contains("secret-word"));
        }
    }
}
