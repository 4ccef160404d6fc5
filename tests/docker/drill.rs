//! A drill boots what was saved: a sound snapshot passes, every kind of damage fails it for the right reason, and
//! nothing is ever left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::database::{Postgres, Volsnap, Watched};
use crate::deep::sampled;
use crate::world::docker;

/// Longer than a guard takes to find out, and to remove a container and a volume.
const GUARD_LIMIT: Duration = Duration::from_secs(20);

fn mountpoint(volume: &str) -> PathBuf {
    docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", volume]).into()
}

/// Returns the file of a table, in the volume.
fn file_of(postgres: &Postgres, table: &str) -> PathBuf {
    let path = postgres.query(&format!("select pg_relation_filepath('{table}')"));
    mountpoint(&postgres.volume).join("main").join(path)
}

/// Returns the containers and volumes of drills of this run of volsnap.
fn left_of(run: &str) -> String {
    let label = format!("label=volsnap.run={run}");
    let containers = docker(&["ps", "-a", "--filter", &label, "--format", "{{.Names}}"]);
    containers + &docker(&["volume", "ls", "--filter", &label, "--format", "{{.Name}}"])
}

/// Takes a snapshot whose data is damaged after its facts were seen, and before it is read.
fn damaged_snapshot(postgres: &Postgres, volsnap: &Volsnap, damage: impl FnOnce()) {
    let mut watched = Watched::start(volsnap.command(["snapshot", &postgres.target()]));
    assert!(watched.reach("stop-container"));
    damage();
    let (code, said) = watched.end();
    assert_eq!(code, Some(0), "{said}");
}

/// Drills the latest snapshot, which has to fail; returns what the drill says, as one text.
#[track_caller]
fn failing_drill(volsnap: &Volsnap) -> String {
    let ran = volsnap.run(["verify", "--drill", "latest", "--json"]);
    let _ = ran.expect(3);
    let result: Value = serde_json::from_str(&ran.stdout()).unwrap();
    assert_eq!(result["drill"]["ok"], false, "{result:#}");
    volsnap.assert_no_leftovers();
    result["drill"].to_string()
}

#[tokio::test]
async fn a_sound_snapshot_boots_and_is_what_it_was() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let before = postgres.inspect("{{.State.StartedAt}}");
    let taken = volsnap.run(["snapshot", &postgres.target(), "--drill", "--json"]).json();

    let drill = &taken["drill"];
    assert_eq!(drill["ok"], true, "{drill:#}");
    assert!(drill["recovery_ms"].as_u64().unwrap() >= drill["extract_ms"].as_u64().unwrap(), "{drill:#}");
    assert!(drill["boot_ms"].as_u64().unwrap() > 0, "{drill:#}");
    assert_ne!(postgres.inspect("{{.State.StartedAt}}"), before, "the snapshot stopped it");
    postgres.assert_whole();
    let listed = &volsnap.list()[0];
    assert_eq!(listed["verified"]["kind"], "drill", "{listed:#}");
    assert_eq!(listed["verified"]["drill"]["recovery_ms"], drill["recovery_ms"]);
    let shown = volsnap.run(["show", "latest"]).expect(0).stdout();
    assert!(shown.contains("proved") && shown.contains("up in"), "{shown}");
    volsnap.assert_no_leftovers();
    println!("drill: {drill}");
}

#[tokio::test]
async fn every_kind_of_damage_fails_the_drill_for_the_right_reason() {
    let postgres = Postgres::start_with(&["-e", "PGDATA=/var/lib/postgresql/data/main"]).await;
    let volsnap = Volsnap::new();
    docker(&[
        "exec",
        &postgres.container,
        "install",
        "-d",
        "-o",
        "postgres",
        "/var/lib/postgresql/data/space",
    ]);
    postgres.query("create tablespace space location '/var/lib/postgresql/data/space'");
    postgres.query("create table apart tablespace space as select 1 as n");
    postgres.query("checkpoint");
    let sound = volsnap.run(["snapshot", &postgres.target(), "--drill", "--json"]).json();
    assert_eq!(sound["drill"]["ok"], true, "{sound:#}");

    // What is damaged is put back each time, before the server reads it again.
    let kept = file_of(&postgres, "kept");
    let (aside, space) = (kept.with_extension("aside"), mountpoint(&postgres.volume).join("space"));
    std::fs::copy(&kept, &aside).unwrap();
    let with_damage = |damage: &dyn Fn(&Path)| {
        postgres.await_answer();
        postgres.query("select count(*) from kept");
        damaged_snapshot(&postgres, &volsnap, || damage(&kept));
        std::fs::copy(&aside, &kept).unwrap();
        failing_drill(&volsnap)
    };

    let drill = with_damage(&|kept| {
        let mut bytes = std::fs::read(kept).unwrap();
        bytes[8192 + 4000] ^= 0xff;
        std::fs::write(kept, bytes).unwrap();
    });
    assert!(drill.contains("invalid page in block 1"), "a flipped bit: {drill}");

    let drill = with_damage(&|kept| {
        std::fs::OpenOptions::new().write(true).open(kept).unwrap().set_len(8192).unwrap();
    });
    assert!(drill.contains("fewer-rows") && drill.contains("kept"), "a truncated file: {drill}");

    let drill = with_damage(&|kept| std::fs::remove_file(kept).unwrap());
    assert!(drill.contains("could not open file"), "a missing file: {drill}");
    docker(&[
        "exec",
        &postgres.container,
        "chown",
        "postgres:postgres",
        "-R",
        "/var/lib/postgresql/data/main",
    ]);

    let elsewhere = space.with_extension("elsewhere");
    postgres.await_answer();
    damaged_snapshot(&postgres, &volsnap, || std::fs::rename(&space, &elsewhere).unwrap());
    std::fs::rename(&elsewhere, &space).unwrap();
    let drill = failing_drill(&volsnap);
    assert!(drill.contains("tablespace"), "a tablespace that is gone: {drill}");

    postgres.await_answer();
    let _ = volsnap.run(["snapshot", &postgres.target(), "--exclude", "main/base/**"]).expect(0);
    let drill = failing_drill(&volsnap);
    assert!(drill.contains("does not exist"), "an empty directory: {drill}");
    postgres.assert_whole();
}

#[tokio::test]
async fn data_that_was_not_shut_down_recovers_in_the_drill_and_other_data_is_unpacked() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["kill", &postgres.container]);
    let target = postgres.target();
    // Nobody could look at a database that does not run, so the drill has nothing to compare with.
    let ran = volsnap.run(["snapshot", &target, "--allow-crash-consistent", "--drill", "--json"]);
    let taken: Value = serde_json::from_str(&ran.expect(6).stdout()).unwrap();
    assert_eq!(
        (&taken["drill"]["proof"], &taken["consistency"]),
        (&"booted".into(), &"crash-consistent".into())
    );
    assert_eq!(taken["drill"]["ok"], true, "{taken:#}");

    let files = volsnap.directory().join("files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("a"), "x").unwrap();
    // Not all that was asked for was done: there was nothing to boot.
    let ran = volsnap.run(["snapshot", &format!("path:{}", files.display()), "--drill", "--json"]);
    let taken: Value = serde_json::from_str(&ran.expect(6).stdout()).unwrap();
    assert_eq!(taken["drill"]["ok"], true, "{taken:#}");
    assert_eq!(taken["drill"]["image"], Value::Null);
    assert_eq!(
        (&taken["drill"]["proof"], &taken["consistency"]),
        (&"unpacked".into(), &"stopped-and-quiet".into())
    );
    let said = volsnap.run(["verify", "--drill", taken["id"].as_str().unwrap()]).expect(6).stdout();
    assert!(said.contains("is unpacked") && said.contains("nothing was booted"), "{said}");
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_snapshot_whose_image_is_gone_is_not_booted_in_another() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    volsnap
        .run(["verify", "--drill", "latest", "--image", "volsnap-test/none:1"])
        .refused(2, &["volsnap-test/none:1 is not on the engine", "docker pull"]);
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_drill_killed_at_any_step_leaves_nothing() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let steps = vec![
        "create-volume",
        "create-helper",
        "extract",
        "swap-in",
        "create-copy",
        "start-copy",
        "await-ready",
        "compare",
        "structure",
        "stop-copy",
    ];
    for step in sampled(steps, 4) {
        let mut watched = Watched::start(volsnap.command(["verify", "--drill", "latest"]));
        assert!(watched.reach(step), "{step}");
        let run = run_of(&volsnap);
        watched.signal(Signal::SIGKILL);
        let _ = watched.end();
        let begun = Instant::now();
        while !(left_of(&run).is_empty() && run_of(&volsnap).is_empty()) {
            assert!(begun.elapsed() < GUARD_LIMIT, "killed at {step}, left: {}", left_of(&run));
            std::thread::sleep(Duration::from_millis(100));
        }
        volsnap.assert_no_leftovers();
    }
    postgres.assert_whole();
}

/// Returns the run whose journal is open; "" when there is none.
fn run_of(volsnap: &Volsnap) -> String {
    let journals = volsnap.unfinished();
    journals[0]["run"].as_str().unwrap_or_default().to_owned()
}
