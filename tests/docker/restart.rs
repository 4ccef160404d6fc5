//! The safe restart: its steps in their order, what it says, and that the database comes back whatever ends it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::database::{Postgres, Volsnap, Watched, steps_of};
use crate::deep::sampled;
use crate::program::Ran;
use crate::project::Project;
use crate::world::{World, docker};

/// The steps of a restart, in their order: what undoes a thing stands before the thing.
const STEPS: &[&str] = &[
    "start-guard",
    "await-ready",
    "create-helper",
    "start-helper",
    "facts",
    "stop-container",
    "prove",
    "start-container",
    "await-ready",
    "facts",
    "delete-directory",
];

/// What the guard has from the death of its command until the database answers and all is tidy.
const BACK_LIMIT: Duration = Duration::from_secs(15);

fn start(postgres: &Postgres, volsnap: &Volsnap, options: &[&str]) -> Watched {
    Watched::start(volsnap.command([&["restart", &postgres.target()], options].concat()))
}

#[track_caller]
fn await_tidy(postgres: &Postgres, volsnap: &Volsnap) {
    let begun = Instant::now();
    let journals = volsnap.state().join("journals");
    while std::fs::read_dir(&journals).is_ok_and(|entries| entries.count() > 0)
        && begun.elapsed() < BACK_LIMIT
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    volsnap.assert_no_leftovers();
    postgres.assert_no_helper();
}

fn json(ran: &Ran, code: i32) -> Value {
    serde_json::from_str(&ran.expect(code).stdout()).unwrap()
}

#[tokio::test]
async fn a_restart_proves_that_nothing_changed_and_comes_back_when_killed_at_any_step() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let (code, said) = start(&postgres, &volsnap, &[]).end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(steps_of(&said), STEPS);

    let before = postgres.inspect("{{.State.StartedAt}}");
    let plan = volsnap.run(["restart", &postgres.target(), "--dry-run", "--json"]).json();
    assert_eq!(plan["stops"][0], postgres.container, "{plan}");
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), before, "a dry run stops nothing");
    let ran = volsnap.run(["restart", &postgres.target(), "--snapshot", "--json", "-vv"]);
    let report = json(&ran, 0);
    let stops = steps_of(&ran.stderr()).into_iter().filter(|step| *step == "stop-container").count();
    assert_eq!(stops, 1, "the snapshot's hold is the restart's: {}", ran.stderr());
    assert_ne!(postgres.inspect("{{.State.StartedAt}}"), before, "it was never stopped");
    assert_eq!(
        (&report["ok"], &report["clean"], &report["strict"]),
        (&true.into(), &true.into(), &true.into())
    );
    assert_eq!(report["differences"].as_array().unwrap().len(), 0, "{report}");
    assert_eq!((&report["before"], &report["now"]["rows"]), (&report["now"], &1000.into()));
    assert!(report["downtime_ms"].as_u64().unwrap() > 0);
    let snapshot = volsnap.list().pop().unwrap();
    assert_eq!(report["snapshot"], format!("{}/{}", postgres.volume, snapshot["id"].as_str().unwrap()));
    // What the restart remembers is what the next check compares with.
    let check = json(&volsnap.run(["check", &postgres.target(), "--json"]), 0);
    assert!(check["strict"] == true && check["against"]["snapshot"].is_null(), "{check}");

    for (index, step) in sampled(STEPS.iter().enumerate().collect(), 5) {
        let mut watched = start(&postgres, &volsnap, &[]);
        for step in &STEPS[..=index] {
            assert!(watched.reach(step), "the run ended before {step}");
        }
        watched.signal(Signal::SIGKILL);
        let _ = watched.end();
        postgres.await_answer_within(BACK_LIMIT);
        if *step == "start-guard" {
            // Nobody watches yet, and there is nothing to put back: the next command removes the empty journal.
            let _ = volsnap.run(["recover"]).expect(0);
        }
        await_tidy(&postgres, &volsnap);
        // A stop may still have been under way.
        postgres.assert_whole();
    }

    let mut watched = start(&postgres, &volsnap, &[]);
    assert!(watched.reach("prove"));
    watched.signal(Signal::SIGINT);
    let (code, said) = watched.end();
    assert!(code == Some(130) && said.contains("runs again"), "{code:?} {said}");
    postgres.assert_whole();
    volsnap.assert_no_leftovers();
    refused_without_facts(&postgres, &volsnap);
}

/// Nothing is stopped when nobody could tell afterwards.
fn refused_without_facts(postgres: &Postgres, volsnap: &Volsnap) {
    let target = postgres.target();
    let started = postgres.inspect("{{.State.StartedAt}}");
    postgres.query("create role other superuser login");
    let rename = "alter role \"user\" rename to away";
    docker(&["exec", &postgres.container, "psql", "-XAtqU", "other", "memory_db", "-c", rename]);
    volsnap.run(["restart", &target]).refused(1, &["take facts", "nothing was stopped", "--facts none"]);
    volsnap.run(["check", &target]).refused(1, &["take facts", "docker logs"]);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);
    let report = json(&volsnap.run(["restart", &target, "--facts", "none", "--json"]), 0);
    assert!(report["now"].is_null() && report["clean"] == true, "{report}");
    assert_ne!(postgres.inspect("{{.State.StartedAt}}"), started);
    // Worth having, and not worth failing for.
    let ran = volsnap.run(["snapshot", &target]);
    assert!(ran.expect(0).stderr().contains("will have no facts"), "{}", ran.stderr());

    docker(&["stop", "-t", "60", &postgres.container]);
    volsnap.run(["restart", &target]).refused(1, &["nothing that uses", "docker start"]);
    volsnap.assert_no_leftovers();
}

/// Returns whether a Compose that volsnap has started on the project is still at work.
fn compose_is_at_work(project: &str) -> bool {
    let words = |path: std::path::PathBuf| std::fs::read(path.join("cmdline")).unwrap_or_default();
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| words(entry.path()));
    processes.any(|words| {
        let words = String::from_utf8_lossy(&words);
        words.contains("--no-start") && words.contains(project)
    })
}

#[tokio::test]
async fn containers_made_anew_have_the_same_volumes_and_the_same_data() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up(&world);
    let (target, volume) = (project.target(), project.volume("db_data"));
    let mut postgres = Postgres { world, container: project.service(), volume };
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    let before = project.containers();

    let plan = volsnap.run(["restart", &target, "--recreate", "--dry-run", "--json"]).json();
    assert!(plan["recreate"].as_str().unwrap().contains("--force-recreate --no-deps db"), "{plan}");
    let said = volsnap.run(["restart", &target, "--recreate", "--json", "-vv"]);
    let report = json(&said, 0);
    assert_eq!((&report["strict"], &report["clean"]), (&true.into(), &true.into()), "{report}");
    let steps = steps_of(&said.stderr()).join(" ");
    assert!(steps.contains("stop-container prove recreate start-container await-ready facts"), "{steps}");
    let after = project.containers();
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    postgres.container = project.service();
    postgres.assert_whole();

    for (delay, options) in [(0, &[][..]), (200, &["--snapshot"]), (400, &[]), (900, &[]), (1400, &[])] {
        let restart = [&["restart", &target, "--recreate"], options].concat();
        let mut watched = Watched::start(volsnap.command(restart));
        assert!(watched.reach("recreate"));
        std::thread::sleep(Duration::from_millis(delay));
        watched.signal(Signal::SIGKILL);
        let _ = watched.end();
        let begun = Instant::now();
        while {
            postgres.container = project.service();
            !postgres.answers()
        } {
            assert!(begun.elapsed() < BACK_LIMIT, "it does not answer, {delay} ms after it was begun");
            std::thread::sleep(Duration::from_millis(50));
        }
        await_tidy(&postgres, &volsnap);
        postgres.container = project.service();
        assert!(!compose_is_at_work(&project.name));
        assert_eq!(project.containers().len(), 1, "{delay} ms: two would run on the same data");
        postgres.assert_whole();
    }

    // A compose file that is not understood any more is found before anything is stopped.
    let running = project.containers();
    project.rewrite(|_| "services: [\n".to_owned());
    volsnap.run(["restart", &target, "--recreate"]).refused(1, &["compose.yaml", "nothing was stopped"]);
    assert_eq!(project.containers(), running);
    volsnap.assert_no_leftovers();
}

/// Has the data where the image declares no volume: docker-compose 1 keeps one that it does, whatever the file says.
fn apart(text: &str) -> String {
    let text = text.replace("- db_data:/var/lib/postgresql/data", "- db_data:/srv/postgresql");
    text.replace("POSTGRES_DB: memory_db", "POSTGRES_DB: memory_db\n      PGDATA: /srv/postgresql")
}

/// Has the database on another volume, as a person does who tidies up a compose file.
fn on_another_volume(text: &str) -> String {
    let text = text.replace("- db_data:/", "- other_data:/");
    text.replace("\nvolumes:\n", "\nvolumes:\n  other_data:\n")
}

#[tokio::test]
async fn a_container_is_not_made_anew_on_another_volume_unseen() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up_with(&world, apart);
    let (target, volume) = (project.target(), project.volume("db_data"));
    let mut postgres = Postgres { world, container: project.service(), volume };
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    let text = project.text();

    // Found in the file, before anything is stopped.
    project.rewrite(on_another_volume);
    let before = project.containers();
    let (was, other) = (project.volume("db_data"), project.volume("other_data"));
    let line = format!("compose.yaml line 15 mounts the volume {other} at /srv/postgresql of db");
    for options in [&["--recreate"][..], &["--recreate", "--dry-run"]] {
        let words = [
            &line,
            "another volume",
            &was,
            "nothing was stopped",
            "sed -n 15p",
            "restore it with --new-volume",
        ];
        volsnap.run([&["restart", &target], options].concat()).refused(3, &words);
    }
    assert_eq!(project.containers(), before);
    // Without making it anew, there is nothing to fear.
    let _ = volsnap.run(["restart", &target]).expect(0);
    postgres.assert_whole();

    // Found afterwards, when somebody writes to the file in the meantime.
    project.rewrite(|_| text.clone());
    let mut watched = Watched::start(volsnap.command(["restart", &target, "--recreate"]));
    assert!(watched.reach("stop-container"));
    project.rewrite(on_another_volume);
    let (code, said) = watched.end();
    assert_eq!(code, Some(3), "{said}");
    postgres.container = project.service();
    postgres.await_answer();
    assert_eq!(postgres.query("select to_regclass('kept') is null"), "t", "the fresh one has no rows");

    // The data is where it was, and the command that was said has it back.
    project.rewrite(|_| text.clone());
    project.compose(&["up", "-d", "--force-recreate", "--no-deps", "db"]);
    postgres.container = project.service();
    postgres.await_answer();
    postgres.assert_whole();
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_container_that_compose_did_not_make_cannot_be_made_anew() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let started = postgres.inspect("{{.State.StartedAt}}");
    volsnap
        .run(["restart", &postgres.target(), "--recreate"])
        .refused(1, &["compose files", "nothing was stopped", "volsnap restart"]);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started);
}

#[tokio::test]
async fn compose_talks_to_the_engine_that_volsnap_talks_to_whatever_context_is_selected() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up(&world);
    let (target, container) = (project.target(), project.service());
    let postgres = Postgres { volume: project.volume("db_data"), world, container };
    postgres.await_answer();
    let client = tempfile::tempdir().unwrap();
    // The digest of "production".
    let digest = "ab8e18ef4ebebeddc0b3152ce9c9006e14fc05242e3fc9ce32246ea6a9543074";
    let meta = client.path().join("contexts/meta").join(digest);
    std::fs::create_dir_all(&meta).unwrap();
    std::fs::write(client.path().join("config.json"), r#"{"currentContext":"production"}"#).unwrap();
    let (ours, link) = ("unix:///var/run/docker.sock", client.path().join("link.sock"));
    std::os::unix::fs::symlink("/var/run/docker.sock", &link).unwrap();
    let recreate = ["restart", &target, "--recreate", "--facts", "none"];
    // Another engine, with ours named; and ours by another path.
    for (endpoint, host) in [("/nowhere/docker.sock", &["--host", ours][..]), (link.to_str().unwrap(), &[])] {
        let docker = format!(r#"{{"Host":"unix://{endpoint}","SkipTLSVerify":false}}"#);
        let text = format!(r#"{{"Name":"production","Metadata":{{}},"Endpoints":{{"docker":{docker}}}}}"#);
        std::fs::write(meta.join("meta.json"), text).unwrap();
        let before = project.containers();
        let mut command = volsnap.command([&recreate[..], host].concat());
        command
            .env_remove("DOCKER_HOST")
            .env("DOCKER_CONFIG", client.path())
            .env("DOCKER_CONTEXT", "production");
        let _ = Ran::of(&mut command).expect(0);
        let after = project.containers();
        assert!(after.len() == 1 && after != before, "it was not made anew: {before:?} {after:?}");
    }
}

/// Has the database's image and password named by variables, which the project's `.env` sets.
fn by_variables(text: &str) -> String {
    let text = text.replacen("    environment:\n", "    environment:\n      APP_KEY: ${APP_KEY}\n", 1);
    text.replacen("    image: ${POSTGRES_IMAGE:-volsnap-test/postgres:15}", "    image: ${NAMED_IMAGE}", 1)
}

#[tokio::test]
async fn what_making_anew_would_change_is_named_before_the_stop_and_asked_for() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::new(&world);
    project.rewrite(by_variables);
    let variables = std::fs::read_to_string(project.directory().join(".env")).unwrap();
    let with = |more: &str| project.write(".env", &format!("{variables}{more}"));
    let image = crate::database::image();
    with(&format!("NAMED_IMAGE={image}\nAPP_KEY=first-secret\n"));
    project.compose(&["up", "-d", "--no-deps", "db"]);
    let (target, volume) = (project.target(), project.volume("db_data"));
    let mut postgres = Postgres { world, container: project.service(), volume };
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    let before = project.containers();

    // As if the shell that had the variable were gone.
    with(&format!("NAMED_IMAGE={image}\n"));
    let plan = volsnap.run(["restart", &target, "--recreate", "--dry-run", "--json"]);
    assert_eq!(plan.json()["changes"], serde_json::json!(["db: environment APP_KEY"]));
    let refused = volsnap.run(["restart", &target, "--recreate"]);
    refused.refused(2, &["db: environment APP_KEY", "variable APP_KEY has no value", "--yes", "nothing was"]);
    assert!(!refused.stderr().contains("first-secret"), "{}", refused.stderr());

    // What Compose cannot make is found before the stop.
    with("APP_KEY=first-secret\n");
    volsnap.run(["restart", &target, "--recreate", "-y"]).refused(1, &["NAMED_IMAGE", "nothing was stopped"]);
    with("NAMED_IMAGE=volsnap-test/no-such-image:1\nAPP_KEY=first-secret\n");
    let words = ["volsnap-test/no-such-image:1", "docker pull", "nothing was stopped"];
    volsnap.run(["restart", &target, "--recreate", "-y"]).refused(1, &words);
    with(&format!("NAMED_IMAGE={image}\nAPP_KEY=first-secret\n"));
    let text = project.text();
    let other = "  db_data:\n    driver_opts: {type: tmpfs, device: tmpfs, o: size=100m}\n";
    project.rewrite(|text| text.replacen("  db_data:\n", other, 1));
    volsnap.run(["restart", &target, "--recreate", "-y"]).refused(1, &["driver_opts", "nothing was stopped"]);
    project.rewrite(|_| text.clone());
    assert_eq!(project.containers(), before);
    postgres.assert_whole();

    // With the variable as it was nothing differs, and nobody is asked; with another value, it is as was agreed to.
    let _ = volsnap.run(["restart", &target, "--recreate"]).expect(0);
    with(&format!("NAMED_IMAGE={image}\nAPP_KEY=second-secret\n"));
    let _ = volsnap.run(["restart", &target, "--recreate", "-y"]).expect(0);
    postgres.container = project.service();
    postgres.assert_whole();
    assert!(postgres.inspect("{{.Config.Env}}").contains("APP_KEY=second-secret"));
}
