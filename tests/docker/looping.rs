//! A database that the engine starts again and again, since it cannot come up on its data.

use std::time::{Duration, Instant};

use crate::database::{Postgres, image};
use crate::program::Volsnap;
use crate::world::{LABEL, docker};

/// Long enough for anything here on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills it and takes its log away from it; the engine starts it again and again from then on.
fn wreck(postgres: &Postgres) {
    docker(&["kill", &postgres.container]);
    let label = format!("{LABEL}={}", std::process::id());
    let (mount, image) = (format!("{}:/d", postgres.volume), image());
    let script = "for f in /d/pg_wal/0*; do dd if=/dev/zero of=$f bs=1M count=16 conv=notrunc; done";
    docker(&[
        "run",
        "--rm",
        "--label",
        &label,
        "--network",
        "none",
        "-v",
        &mount,
        "--entrypoint",
        "sh",
        &image,
        "-c",
        script,
    ]);
    docker(&["start", &postgres.container]);
    let begun = Instant::now();
    let restarts = || postgres.inspect("{{.RestartCount}}").parse::<u32>().unwrap();
    while restarts() < 2 {
        assert!(begun.elapsed() < PATIENCE, "it comes up: {}", docker(&["logs", &postgres.container]));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test]
async fn a_database_that_is_started_again_and_again_is_saved_as_it_is_and_restored_onto() {
    let postgres = Postgres::start_with(&["--restart", "always"]).await;
    let volsnap = Volsnap::new();
    volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let good = volsnap.list()[0]["id"].as_str().unwrap().to_owned();
    wreck(&postgres);

    volsnap
        .run(["snapshot", &postgres.target()])
        .refused(1, &["is not ready to be stopped", "--allow-crash-consistent"]);
    let ran = volsnap.run(["snapshot", &postgres.target(), "--allow-crash-consistent", "--json"]);
    assert_eq!(ran.expect(0).json()["consistency"], "crash-consistent");

    volsnap.run(["restore", &good, "--yes"]).expect(0);
    postgres.assert_whole();
    assert_eq!(postgres.inspect("{{.State.Running}} {{.State.Restarting}}"), "true false");
    volsnap.assert_no_leftovers();
}
