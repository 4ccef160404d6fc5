//! The service is held for what changed in the last moment: staged captures, and freezing in place of stopping.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::database::{Postgres, Volsnap, steps_of};
use crate::interruptions::{BACK_LIMIT, assert_all_verified, await_tidy};
use crate::world::docker;

const STAGED: [&str; 2] = ["--capture", "staged"];
const FROZEN: [&str; 4] = ["--quiesce", "pause", "--capture", "staged"];

/// A client that writes a row, waits until it is acknowledged, and writes the next.
struct Client {
    acknowledged: Arc<AtomicU64>,
    session: Child,
    writer: Option<JoinHandle<()>>,
}

impl Client {
    fn start(postgres: &Postgres) -> Self {
        postgres.query("create table if not exists written (n bigint primary key)");
        let mut session = Command::new("docker")
            .args(["exec", "-i", &postgres.container, "psql", "-XAtq", "-U", "user", "memory_db"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (mut stdin, answers) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
        let last = acknowledged.clone();
        let writer = std::thread::spawn(move || {
            let mut answers = BufReader::new(answers).lines();
            while write_next(&mut stdin, last.load(Ordering::SeqCst) + 1)
                && let Some(Ok(answer)) = answers.next()
            {
                last.store(answer.parse().unwrap(), Ordering::SeqCst);
            }
        });
        let client = Self { acknowledged, session, writer: Some(writer) };
        client.await_more();
        client
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Its session lives: more is acknowledged.
    #[track_caller]
    fn await_more(&self) {
        let (before, begun) = (self.acknowledged(), Instant::now());
        while self.acknowledged() < before + 10 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing is acknowledged any more");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn write_next(stdin: &mut ChildStdin, number: u64) -> bool {
    writeln!(stdin, "insert into written values ({number}) returning n;").is_ok()
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.session.kill();
        let _ = self.session.wait();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Restores the latest snapshot into a volume of its own and boots it: it has every row up to this one.
#[track_caller]
fn assert_restored_with(postgres: &Postgres, volsnap: &Volsnap, suffix: &str, acknowledged: u64) {
    let (volume, container) = (postgres.world.name(&format!("{suffix}-data")), postgres.world.name(suffix));
    let _ = volsnap.run(["restore", "latest", "--new-volume", &volume, "-y"]).expect(0);
    postgres.run(&container, &["-v", &format!("{volume}:/var/lib/postgresql/data")]);
    let query = |sql: &str| {
        let psql = ["psql", "-XAtq", "-U", "user", "memory_db", "-c", sql];
        docker(&[&["exec", container.as_str()], &psql[..]].concat())
    };
    while !Command::new("docker")
        .args(["exec", &container, "pg_isready", "-q", "-h", "127.0.0.1"])
        .status()
        .unwrap()
        .success()
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(query("select count(*), sum(n) from kept"), "1000|500500");
    let rows = query(&format!("select count(*) from written where n <= {acknowledged}"));
    assert_eq!(rows.parse::<u64>().unwrap(), acknowledged, "rows that were acknowledged are missing");
    docker(&["rm", "-f", &container]);
}

#[tokio::test]
async fn a_paused_and_a_staged_snapshot_have_every_row_that_was_acknowledged_before_the_hold() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let started = postgres.inspect("{{.State.StartedAt}}");
    let client = Client::start(&postgres);
    for (suffix, options) in [("frozen", &FROZEN[..]), ("direct", &FROZEN[..2]), ("stopped", &STAGED[..])] {
        let mut watched = postgres.snapshot(&volsnap, options);
        let hold = if suffix == "stopped" { "stop-container" } else { "freeze-containers" };
        assert!(watched.reach("create-helper"));
        let acknowledged = client.acknowledged();
        assert!(watched.reach(hold));
        let (code, said) = watched.end();
        assert_eq!(code, Some(0), "{said}");
        if suffix != "stopped" {
            // Its session has survived.
            client.await_more();
            assert_eq!(
                postgres.inspect("{{.State.StartedAt}} {{.State.Paused}}"),
                format!("{started} false")
            );
        }
        assert!(acknowledged > 0);
        assert_restored_with(&postgres, &volsnap, suffix, acknowledged);
    }
    drop(client);
    let snapshots = volsnap.list();
    let of = |field: &str| snapshots.iter().map(|one| one[field].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("quiesce"), ["pause", "pause", "stop"]);
    assert_eq!(of("capture"), ["staged", "direct", "staged"]);
    assert_eq!(of("consistency"), ["crash-consistent", "crash-consistent", "clean"]);
    let downtimes: Vec<_> = snapshots.iter().map(|one| one["downtime_ms"].as_u64().unwrap()).collect();
    assert!(downtimes.iter().all(|ms| *ms > 0) && downtimes[0] < 5_000, "{downtimes:?}");
    assert!(snapshots[0]["reasons"][0].as_str().unwrap().contains("was frozen while it ran"));
    let phases: Vec<_> = snapshots[2]["phases"].as_array().unwrap().iter().map(|one| &one["phase"]).collect();
    assert!(phases.windows(2).any(|two| two == ["prove", "final-pass"]), "{phases:?}");
    assert_all_verified(&volsnap);
    postgres.assert_whole();
    postgres.assert_no_helper();
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn the_steps_of_staged_and_paused_snapshots_come_in_this_order() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let begin = ["start-guard", "await-ready", "create-stage", "create-helper", "start-helper"];
    let live = ["live-pass", "checkpoint", "live-pass", "await-ready"];
    let finish = ["prove", "final-pass", "prove-again"];
    let publish = ["publish", "write-manifest", "published"];
    let tidy = ["discard-unpublished", "delete-directory", "remove-volume"];

    let (code, said) = postgres.snapshot(&volsnap, &STAGED).end();
    assert_eq!(code, Some(0), "{said}");
    let (stop, start) = (
        ["checkpoint", "facts", "stop-container"],
        ["start-container", "await-ready", "archive", "clear-stage"],
    );
    let steps = [&begin[..], &live, &stop, &finish, &start, &publish, &tidy].concat();
    assert_eq!(steps_of(&said), steps);

    let (code, said) = postgres.snapshot(&volsnap, &FROZEN).end();
    assert_eq!(code, Some(0), "{said}");
    let unfreeze = ["unpause-container", "await-ready", "archive", "clear-stage"];
    let steps =
        [&begin[..], &live, &["facts", "freeze-containers"], &finish, &unfreeze, &publish, &tidy].concat();
    assert_eq!(steps_of(&said), steps);

    let (code, said) = postgres.snapshot(&volsnap, &["--quiesce", "pause", "--capture", "direct"]).end();
    assert_eq!(code, Some(0), "{said}");
    let begin = [&begin[..2], &begin[3..]].concat();
    let hold = ["facts", "freeze-containers", "prove", "archive", "prove-again"];
    let steps = [&begin[..], &hold, &unfreeze[..2], &publish, &tidy[..2]].concat();
    assert_eq!(steps_of(&said), steps);
}

/// Kills the run at each of these steps; the database goes on or comes back within seconds.
async fn kill_at(options: &[&str], steps: &[&str]) {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    for step in steps {
        let mut watched = postgres.snapshot(&volsnap, options);
        assert!(watched.reach(step), "the run ended before {step}");
        watched.signal(Signal::SIGKILL);
        let (code, said) = watched.end();
        assert_eq!(code, None, "not killed at {step}: {said}");
        postgres.await_answer_within(BACK_LIMIT);
        assert_eq!(postgres.inspect("{{.State.Paused}}"), "false", "{step}");
        await_tidy(&postgres, &volsnap);
        volsnap.assert_no_snapshot();
        postgres.assert_whole();
    }
    let _ = volsnap.run([&["snapshot", &postgres.target()], options].concat()).expect(0);
    assert_all_verified(&volsnap);
    postgres.assert_no_helper();
}

#[tokio::test]
async fn a_frozen_database_whose_snapshot_is_killed_goes_on_within_seconds() {
    let frozen = ["freeze-containers", "prove", "final-pass", "prove-again", "unpause-container"];
    kill_at(&FROZEN, &frozen).await;
}

#[tokio::test]
async fn a_staged_snapshot_killed_at_its_passes_leaves_neither_stage_nor_helper() {
    kill_at(&STAGED, &["live-pass", "checkpoint", "final-pass", "archive", "clear-stage", "create-stage"])
        .await;
}

#[tokio::test]
async fn what_was_killed_with_its_guard_while_frozen_is_unfrozen_by_recover() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    crate::interruptions::kill_with_guard_at(&postgres, &volsnap, &FROZEN, "prove");
    assert_eq!(postgres.inspect("{{.State.Paused}}"), "true");
    let listed = volsnap.run(["recover", "--list"]);
    assert!(listed.expect(4).stdout().contains(&format!("unfreeze {}", postgres.container)));
    let _ = volsnap.run(["recover"]).expect(0);
    postgres.assert_whole();
    volsnap.assert_no_snapshot();
    postgres.assert_no_helper();
}

/// Does something to the world while a run is held at a step, and returns how the run ends and what it said.
fn disturb(
    postgres: &Postgres,
    volsnap: &Volsnap,
    options: &[&str],
    (step, nth): (&str, usize),
    disturb: impl FnOnce(),
) -> (Option<i32>, String) {
    let mut watched = postgres.snapshot(volsnap, options);
    for _ in 0..nth {
        assert!(watched.reach(step), "the run ended before {step}");
    }
    watched.signal(Signal::SIGSTOP);
    disturb();
    watched.signal(Signal::SIGCONT);
    watched.end()
}

#[tokio::test]
async fn whoever_touches_the_database_between_the_passes_does_no_harm_and_later_is_found_out() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let db = postgres.container.clone();
    for options in [&STAGED[..], &FROZEN] {
        let (code, said) = disturb(&postgres, &volsnap, options, ("live-pass", 2), || {
            postgres.query("update kept set text = text || 'x'");
            docker(&["restart", "-t", "60", &db]);
        });
        assert_eq!(code, Some(0), "{said}");
        postgres.assert_whole();
    }
    assert_all_verified(&volsnap);
    assert_eq!(volsnap.list().len(), 2);

    let found_out = |options: &[&str], act: &dyn Fn()| {
        let (code, said) = disturb(&postgres, &volsnap, options, ("final-pass", 1), act);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("by somebody") && said.contains("nothing was published"), "{said}");
        postgres.assert_whole();
        postgres.assert_no_helper();
        volsnap.assert_no_leftovers();
    };
    found_out(&STAGED, &|| {
        docker(&["start", &db]);
        postgres.await_answer();
    });
    found_out(&FROZEN, &|| {
        docker(&["unpause", &db]);
    });
    assert_eq!(volsnap.list().len(), 2);
}

#[tokio::test]
async fn all_writers_are_frozen_together_and_what_was_paused_before_stays_paused() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let mount = format!("{}:/data", postgres.volume);
    let (also, before) = (
        postgres.world.run_service("also", &["-v", &mount], "sleep 600"),
        postgres.world.run_service("before", &["-v", &mount], "sleep 600"),
    );
    docker(&["pause", &before]);
    let plan =
        volsnap.run(["snapshot", &postgres.target(), "--quiesce", "pause", "--dry-run", "--json"]).json();
    let mut freezes: Vec<_> =
        plan["freezes"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    freezes.sort_unstable();
    let mut both = [also.as_str(), postgres.container.as_str()];
    both.sort_unstable();
    assert_eq!(freezes, both);

    let mut watched = postgres.snapshot(&volsnap, &FROZEN);
    assert!(watched.reach("prove"));
    watched.signal(Signal::SIGSTOP);
    let paused = |name: &str| docker(&["inspect", "--format", "{{.State.Paused}}", name]);
    assert_eq!([&postgres.container, &also, &before].map(|name| paused(name)), ["true"; 3]);
    watched.signal(Signal::SIGCONT);
    let (code, said) = watched.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!([&postgres.container, &also, &before].map(|name| paused(name)), ["false", "false", "true"]);
    postgres.assert_whole();
}

#[tokio::test]
async fn a_freeze_ends_within_its_limit_however_much_there_is_to_save() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let slow =
        ["--quiesce", "pause", "--capture", "direct", "--compression", "zstd:19", "--max-downtime", "1s"];
    let ran = volsnap.run([&["snapshot", &postgres.target()], &slow[..]].concat());
    ran.refused(1, &["away for longer than 1 s", "frozen runs again"]);
    assert_eq!(postgres.inspect("{{.State.Paused}}"), "false");
    volsnap.assert_no_snapshot();
}

#[tokio::test]
async fn a_kept_stage_is_listed_used_by_the_next_snapshot_and_removed_by_the_command_shown() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let target = postgres.target();
    let keep = [&["snapshot", &target, "--keep-stage", "--json"], &STAGED[..]].concat();
    let staged_bytes = |snapshot: &serde_json::Value| {
        let phases = snapshot["phases"].as_array().unwrap();
        phases.iter().find(|phase| phase["phase"] == "stage").unwrap()["bytes"].as_u64().unwrap()
    };
    // What is younger than a few seconds is read again.
    let age = || std::thread::sleep(std::time::Duration::from_secs(3));
    age();
    let first = volsnap.run(&keep).json();
    let stage = postgres.stages();
    assert!(!stage.is_empty() && !stage.contains('\n'), "{stage:?}");
    age();
    let second = volsnap.run(&keep).json();
    assert_eq!(postgres.stages(), stage, "the stage is another one");
    assert!(staged_bytes(&second) < staged_bytes(&first) * 3 / 4, "{first} {second}");
    assert_all_verified(&volsnap);

    let listed = volsnap.run(["list", "--stages", "--json"]).json();
    let mine = |one: &&serde_json::Value| one["source"] == postgres.volume.as_str();
    let listed = listed.as_array().unwrap().iter().find(mine).unwrap().clone();
    assert_eq!((&listed["volume"], &listed["run"]), (&stage.clone().into(), &first["id"]));
    assert!(listed["bytes"].as_u64().unwrap() > 10_000_000, "{listed}");
    assert!(
        volsnap.run(["list", "--stages"]).expect(0).stdout().contains(&format!("docker volume rm {stage}"))
    );
    volsnap.assert_no_leftovers();

    // Without being asked for again it is used once more, and then removed.
    let _ = volsnap.run([&["snapshot", &postgres.target()], &STAGED[..]].concat()).expect(0);
    postgres.assert_no_helper();
}

#[tokio::test]
async fn a_container_is_held_by_one_run_at_a_time_whatever_source_it_is_held_for() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let (app, other) = (format!("{}-app", postgres.container), format!("{}-other", postgres.volume));
    let image = crate::database::image();
    let mounts = [format!("{}:/data", postgres.volume), format!("{other}:/other")];
    docker(&["volume", "create", "--label", "volsnap.test", &other]);
    // It is still stopping when the second run comes: the engine goes on with what it was asked for.
    let script = "trap 'sleep 6; exit 0' TERM; echo x > /other/x; while :; do sleep 0.05; done";
    let run = ["run", "-d", "--label", "volsnap.test", "--network", "none", "--name", &app];
    let what = ["-v", &mounts[0], "-v", &mounts[1], "--entrypoint", "sh", &image, "-c", script];
    docker(&[&run[..], &what].concat());

    let mut watched = postgres.snapshot(&volsnap, &["--capture", "direct"]);
    assert!(watched.reach("stop-container"), "the run ended before the hold");
    watched.signal(Signal::SIGSTOP);
    let second = volsnap.run(["snapshot", &format!("volume:{other}"), "--capture", "direct"]);
    watched.signal(Signal::SIGCONT);
    let (code, said) = watched.end();
    // Whatever became of the test, nothing of it is left.
    let _ = Command::new("docker").args(["rm", "-fv", &app]).output();
    let _ = Command::new("docker").args(["volume", "rm", &other]).output();
    second.refused(5, &["another volsnap run", "nothing was stopped"]);
    assert_eq!(code, Some(0), "{said}");
}
