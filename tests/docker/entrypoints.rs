//! A database is known by what runs, whatever started it: it is asked, stopped fast, proved and booted as any other.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::database::{Postgres, Volsnap};
use crate::world::docker;

/// Entrypoints whose names say nothing, each with whether the server is the container's first process.
const ENTRYPOINTS: &[(&str, &str, bool)] = &[
    ("a script that becomes the server", "exec docker-entrypoint.sh postgres", true),
    ("a shell that waits for the server", "docker-entrypoint.sh postgres\nstatus=$?\nexit $status", false),
    (
        "a supervisor that hands on the slow shutdown",
        "trap 'over=1; kill -TERM $server' TERM\n\
         while [ -z \"$over\" ]; do docker-entrypoint.sh postgres & server=$!; wait $server; wait $server; done",
        false,
    ),
    (
        "a supervisor that lets its servers be for a while",
        "trap 'exit_at=now' TERM\n\
         docker-entrypoint.sh postgres & server=$!\n\
         while kill -0 $server 2>/dev/null; do wait $server; done",
        false,
    ),
];

/// Starts a database by an entrypoint of one's own.
async fn started_by(script: &str, directory: &Path) -> Postgres {
    let file = directory.join("launch");
    std::fs::write(&file, format!("#!/bin/bash\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mount = format!("{}:/opt/launch:ro", file.display());
    Postgres::start_with(&["-v", &mount, "--entrypoint", "/opt/launch"]).await
}

#[tokio::test]
async fn a_database_is_known_whatever_started_it() {
    for &(kind, script, is_first) in ENTRYPOINTS {
        let (directory, volsnap) = (tempfile::tempdir().unwrap(), Volsnap::new());
        let postgres = started_by(script, directory.path()).await;
        // A session that stays: a shutdown that waits for it has no end.
        let _session = postgres.background("psql -c 'select pg_sleep(600)'");
        let first = docker(&["exec", &postgres.container, "cat", "/proc/1/comm"]);
        assert_eq!(first == "postgres", is_first, "{kind}: {first}");

        let taken = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
        assert_eq!(taken["consistency"], "clean", "{kind}: {taken}");
        // Ten seconds are the grace after which an engine kills.
        assert!(taken["downtime_ms"].as_u64().unwrap() < 9_000, "{kind}: {taken}");
        postgres.await_answer();
        postgres.assert_whole();
        let shown = volsnap.run(["show", "latest", "--json"]).json();
        assert_eq!(shown["facts"]["exact"], true, "{kind}: {shown}");
        assert!(shown["environment"]["image"].is_string(), "{kind}: {shown}");

        // One that does not run is known by its files and by what it is set up for.
        docker(&["kill", "--signal", "TERM", &postgres.container]);
        let inside = "kill -INT $(head -n 1 /var/lib/postgresql/data/postmaster.pid)";
        let asked = Command::new("docker").args(["exec", &postgres.container, "sh", "-c", inside]).output();
        drop(asked.unwrap());
        docker(&["wait", &postgres.container]);
        let stopped = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
        assert_eq!(stopped["consistency"], "clean", "{kind}: {stopped}");
        let shown = volsnap.run(["show", "latest", "--json"]).json();
        assert_eq!(shown["environment"]["superuser"], "user", "{kind}: {shown}");
        volsnap.assert_no_leftovers();
    }
}

#[tokio::test]
async fn a_snapshot_of_an_unusual_entrypoint_boots() {
    let (directory, volsnap) = (tempfile::tempdir().unwrap(), Volsnap::new());
    let postgres = started_by(ENTRYPOINTS[1].1, directory.path()).await;
    volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let drilled = volsnap.run(["verify", "latest", "--drill", "--json"]).json();
    assert_eq!((&drilled["ok"], &drilled["drill"]["proof"]), (&true.into(), &"proved".into()), "{drilled}");
}

#[tokio::test]
async fn what_a_manager_would_answer_by_a_failover_is_refused_before_anything_is_touched() {
    let (directory, volsnap) = (tempfile::tempdir().unwrap(), Volsnap::new());
    let script = "cp /bin/sleep /tmp/patroni\n/tmp/patroni 1000 &\nexec docker-entrypoint.sh postgres";
    let postgres = started_by(script, directory.path()).await;
    let started = postgres.inspect("{{.State.StartedAt}}");
    let target = postgres.target();
    for arguments in
        [&["snapshot", &target][..], &["snapshot", &target, "--quiesce", "pause"], &["restart", &target]]
    {
        let ran = volsnap.run(arguments);
        let said = ran.expect(1).stderr();
        assert!(
            said.contains("Patroni keeps the database in container") && said.contains("--quiesce online"),
            "{said}"
        );
        assert!(said.contains("patronictl list"), "{said}");
    }
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);
    // What holds nothing may go on.
    let online = volsnap.run(["snapshot", &target, "--quiesce", "online", "--json"]).json();
    assert_eq!(online["consistency"], "online", "{online}");
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);
    volsnap.assert_no_leftovers();
}
