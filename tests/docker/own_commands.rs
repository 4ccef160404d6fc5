//! A person's own commands around a hold, from `volsnap.toml`.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::database::{Postgres, Volsnap, Watched};
use crate::world::docker;

/// Writes the file of commands for the service where volsnap is run.
fn write(volsnap: &Volsnap, postgres: &Postgres, commands: &str) {
    std::fs::create_dir_all(volsnap.directory()).unwrap();
    let text = format!("[commands.{}]\n{commands}", postgres.container);
    std::fs::write(volsnap.directory().join("volsnap.toml"), text).unwrap();
}

const AROUND: &str = "before_hold = { run = 'psql -U user -d memory_db -c \"create table flushed as select 1 as n\"', limit = '20s' }\n\
    after_release = ['touch', '/tmp/released']\n";

fn is_released(postgres: &Postgres) -> bool {
    let listed =
        docker(&["exec", &postgres.container, "find", "/tmp", "-maxdepth", "1", "-name", "released"]);
    !listed.is_empty()
}

#[tokio::test]
async fn what_is_written_before_a_hold_is_saved_and_what_comes_after_it_is_run() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    write(&volsnap, &postgres, AROUND);
    let plan = volsnap.run(["snapshot", &postgres.target(), "--dry-run"]).expect(0).stdout();
    assert!(plan.contains("before_hold: psql -U user") && plan.contains("after_release: touch"), "{plan}");
    assert!(!is_released(&postgres), "a plan runs nothing");
    let json = volsnap.run(["snapshot", &postgres.target(), "--dry-run", "--json"]).json();
    assert_eq!(json["own_commands"].as_array().unwrap().len(), 2, "{json}");

    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    assert!(is_released(&postgres));
    postgres.query("drop table flushed");
    docker(&["exec", &postgres.container, "rm", "/tmp/released"]);
    write(&volsnap, &postgres, "after_release = ['touch', '/tmp/released']\n");
    let _ = volsnap.run(["restore", "latest", "-y"]).expect(0);
    assert_eq!(postgres.query("select n from flushed"), "1");
    assert!(is_released(&postgres), "after a restore, too");
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_password_in_a_command_is_nowhere_to_be_seen() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let around = "before_hold = 'PGPASSWORD=hunter2 psql -U user -d memory_db -c \"select 1\"'\n\
        after_release = ['sh', '-c', 'test \"$1\" = x', 'sh', '--password=hunter2']\n";
    write(&volsnap, &postgres, around);
    let plan = volsnap.run(["snapshot", &postgres.target(), "--dry-run"]).expect(0).stdout();
    assert!(plan.contains("before_hold: PGPASSWORD=*** psql"), "{plan}");
    let json = volsnap.run(["snapshot", &postgres.target(), "--dry-run", "--json"]).expect(0).stdout();
    let failed = volsnap.run(["snapshot", &postgres.target(), "-vv"]);
    failed.refused(4, &["test", "volsnap recover"]);
    for said in [plan, json, failed.stderr(), failed.stdout()] {
        assert!(!said.contains("hunter2"), "{said}");
    }
    postgres.assert_whole();
}

#[tokio::test]
async fn a_command_that_fails_ends_the_run_before_anything_is_held() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let before = postgres.inspect("{{.State.StartedAt}}");
    let failing =
        "before_hold = 'echo no room for a dump >&2; exit 3'\nafter_release = 'touch /tmp/released'\n";
    write(&volsnap, &postgres, failing);
    volsnap
        .run(["snapshot", &postgres.target()])
        .refused(1, &["exit code 3", "no room for a dump", "nothing was stopped"]);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), before);
    assert!(is_released(&postgres), "what it may have begun is ended");
    volsnap.assert_no_snapshot();

    write(&volsnap, &postgres, "before_hold = { run = 'sleep 60', limit = '2s' }\n");
    volsnap.run(["restart", &postgres.target(), "-y"]).refused(1, &["sleep 60"]);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), before);
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn what_comes_after_a_hold_is_run_by_the_guard_when_the_command_is_killed() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    write(&volsnap, &postgres, AROUND);
    let mut run = Watched::start(volsnap.command(["snapshot", &postgres.target()]));
    assert!(run.reach("stop-container"));
    run.signal(Signal::SIGKILL);
    let _ = run.end();
    let begun = Instant::now();
    while !postgres.answers() || !is_released(&postgres) {
        assert!(begun.elapsed() < Duration::from_secs(60), "not back: {}", docker(&["ps", "-a"]));
        std::thread::sleep(Duration::from_millis(300));
    }
    postgres.assert_whole();
}

#[tokio::test]
async fn what_fails_after_a_hold_is_told_with_the_command_and_the_service_runs() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    write(&volsnap, &postgres, "after_release = 'test -e /tmp/ready'\n");
    let failed = volsnap.run(["snapshot", &postgres.target()]);
    failed.refused(4, &["test -e /tmp/ready", "docker exec", "volsnap recover"]);
    postgres.assert_whole();
    docker(&["exec", &postgres.container, "touch", "/tmp/ready"]);
    let by_hand = failed.next().into_iter().find(|line| line.starts_with("docker exec")).unwrap();
    let _ = volsnap.paste(&by_hand).expect(0);
    let _ = volsnap.run(["recover"]).expect(0);
    volsnap.assert_no_leftovers();
    assert_eq!(volsnap.list().len(), 1, "the snapshot was taken all the same");
}

#[tokio::test]
async fn a_service_is_back_when_its_owner_says_so() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    // It says no for three seconds after a start.
    let ready = "test $(( $(date +%s) - $(stat -c %Y /var/lib/postgresql/data/postmaster.pid) )) -ge 3";
    write(&volsnap, &postgres, &format!("ready = '{ready}'\n"));
    std::thread::sleep(Duration::from_secs(4));
    let report = volsnap.run(["restart", &postgres.target(), "-y", "--json"]).json();
    assert!(report["downtime_ms"].as_u64().unwrap() >= 3000, "{report}");
    postgres.assert_whole();
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_check_of_ones_own_decides() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let check = |output: &str| {
        let query = "psql -U user -d memory_db -Atc 'select count(*) from kept'";
        write(&volsnap, &postgres, &format!("check = {{ run = \"{query}\", output = \"{output}\" }}\n"));
        volsnap.run(["check", &postgres.target(), "--json"])
    };
    let right = check("1000").json();
    assert_eq!(
        (right["ok"].as_bool(), right["checks"][0]["ok"].as_bool()),
        (Some(true), Some(true)),
        "{right}"
    );
    let wrong = check("999");
    assert_eq!(wrong.code(), Some(3), "{}", wrong.stdout());
    assert!(wrong.stdout().contains("exit code 0, \\\"1000\\\""), "{}", wrong.stdout());
}

#[tokio::test]
async fn a_file_that_others_can_write_is_not_followed_and_nothing_is_touched() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let before = postgres.inspect("{{.State.StartedAt}}");
    write(&volsnap, &postgres, AROUND);
    let path = volsnap.directory().join("volsnap.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let ran = volsnap.run(["snapshot", &postgres.target()]);
    ran.refused(2, &["is not followed", "chmod go-w"]);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), before);
    // What is printed mends it.
    let said = ran.stderr();
    let mends = said.lines().find_map(|line| line.trim_start().strip_prefix("or: chmod")).unwrap();
    let _ = volsnap.paste(&format!("chmod{mends}")).expect(0);
    let _ = volsnap.run(["snapshot", &postgres.target(), "--dry-run"]).expect(0);
    write(&volsnap, &postgres, "before_hod = 'true'\n");
    volsnap.run(["snapshot", &postgres.target()]).refused(2, &["volsnap.toml", "before_hod"]);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), before);
    volsnap.assert_no_snapshot();
}
