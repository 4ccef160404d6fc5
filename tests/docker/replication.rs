//! Replication slots and those who follow a database, when it is restored to the past.

use std::time::{Duration, Instant};

use crate::database::{Postgres, Volsnap};
use crate::world::docker;

const SLOTS: &str =
    "select coalesce(string_agg(slot_name, ' ' order by slot_name), '') from pg_replication_slots";

/// A database with the slots `app` and `east`.
async fn with_slots() -> Postgres {
    let postgres = Postgres::start().await;
    postgres.query("alter system set wal_level = 'logical'");
    docker(&["restart", "-t", "60", &postgres.container]);
    postgres.await_answer();
    postgres.query("select pg_create_physical_replication_slot('east', true)");
    postgres.query("select pg_create_logical_replication_slot('app', 'pgoutput')");
    postgres
}

/// Takes the log by the slot `east` from now on, as a standby does.
fn follow(postgres: &Postgres) {
    let receive = ["pg_receivewal", "-U", "user", "-S", "east", "-D", "/tmp"];
    docker(&[&["exec", "-d", "-u", "postgres", &postgres.container], &receive[..]].concat());
    let begun = Instant::now();
    while postgres.query("select count(*) from pg_stat_replication") != "1" {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody follows");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test]
async fn a_database_is_restored_without_its_slots_which_the_printed_commands_make_anew() {
    let (postgres, volsnap) = (with_slots().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    follow(&postgres);

    let plan = volsnap.run(["restore", "latest", "--dry-run"]).expect(0).stdout();
    for word in
        ["left out", "east (physical", "app (logical, pgoutput, database", "log from 0/", "--keep-slots"]
    {
        assert!(plan.contains(word), "{word} is not in\n{plan}");
    }
    assert!(
        plan.contains("archive of the log pg_receivewal (slot east) follows the database: keep what it has"),
        "{plan}"
    );
    let kept = volsnap.run(["restore", "latest", "--dry-run", "--keep-slots"]).expect(0).stdout();
    assert!(kept.contains("kept: ") && !kept.contains("left out"), "{kept}");

    let restored = volsnap.run(["restore", "latest", "-y"]).expect(0).stdout();
    postgres.assert_whole();
    assert_eq!(postgres.query(SLOTS), "");
    let anew: Vec<_> = restored.lines().filter_map(|line| line.trim_start().strip_prefix("anew: ")).collect();
    assert_eq!(anew.len(), 2, "{restored}");
    for command in anew {
        let _ = volsnap.paste(command).expect(0);
    }
    assert_eq!(postgres.query(SLOTS), "app east");
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn slots_come_back_on_request_and_in_an_exact_copy() {
    let (postgres, volsnap) = (with_slots().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    postgres.query("select pg_drop_replication_slot('east')");
    let restored = volsnap.run(["restore", "latest", "-y", "--keep-slots", "--json"]).json();
    assert_eq!(restored["slots_left_out"].as_array().unwrap().len(), 0);
    assert_eq!(postgres.query(SLOTS), "app east");

    let copy = tempfile::tempdir().unwrap();
    let directory = copy.path().join("copy");
    let _ = volsnap.run(["restore", "latest", "-y", "--dir", directory.to_str().unwrap()]).expect(0);
    assert!(directory.join("pg_replslot/east/state").is_file(), "an exact copy has all that was saved");
}

#[tokio::test]
async fn a_slot_that_nobody_takes_is_found_with_what_it_keeps_and_removed_by_the_printed_command() {
    let (postgres, volsnap) = (with_slots().await, Volsnap::new());
    follow(&postgres);
    let found = || {
        // It has no snapshot, which is a high risk.
        let ran = volsnap.run(["doctor", &postgres.target(), "--json"]);
        let found: serde_json::Value = serde_json::from_str(&ran.stdout()).unwrap();
        let findings = found.as_array().unwrap().clone();
        findings.into_iter().filter(|finding| finding["kind"] == "idle-slot").collect::<Vec<_>>()
    };
    let idle = found();
    assert_eq!(idle.len(), 1, "{idle:?}");
    let what = idle[0]["what"].as_str().unwrap();
    assert!(what.contains("logical replication slot app") && what.contains("of log"), "{what}");
    let mended = volsnap.run(["doctor", &postgres.target()]);
    let said = mended.stdout();
    let line = said.lines().find(|line| line.contains("pg_drop_replication_slot")).unwrap();
    let command = &line[line.find("docker exec").unwrap()..];
    let _ = volsnap.paste(command).expect(0);
    assert_eq!(postgres.query(SLOTS), "east");
    assert_eq!(found(), Vec::<serde_json::Value>::new());
}
