//! Data that is not where it seems to be: in memory in every spelling, in a directory behind a volume, in a directory
//! that it was migrated into. It is told as what it is, and no printed command is refused.

use serde_json::Value;

use crate::database::{Postgres, Volsnap};
use crate::doctor::{create, findings, kinds};
use crate::stores::run_what_is_printed;
use crate::world::{LABEL, World, docker};

const PGDATA: &str = "/var/lib/postgresql/data";

fn what<'f>(found: &'f [Value], container: &str, kind: &str) -> &'f str {
    let is_it = |one: &&Value| one["container"] == container && one["kind"] == kind;
    let one = found.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} of {container}"));
    one["what"].as_str().unwrap()
}

/// Creates a volume with options of the driver.
fn volume(world: &World, suffix: &str, options: &[&str]) -> String {
    let (name, label) = (world.name(suffix), format!("{LABEL}={}", std::process::id()));
    let options: Vec<&str> = options.iter().flat_map(|option| ["--opt", option]).collect();
    docker(&[&["volume", "create", "--label", &label], &options[..], &[&name]].concat());
    name
}

#[tokio::test]
async fn data_in_memory_is_told_as_that_in_every_spelling() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    let in_memory = volume(&world, "in-memory", &["type=tmpfs", "device=tmpfs"]);
    let (of_volume, of_host) =
        (format!("{in_memory}:{PGDATA}"), format!("{}:{PGDATA}", shared.path().display()));
    let spelled: [(&str, &[&str], &str); 5] = [
        ("mount", &["--mount", "type=tmpfs,dst=/var/lib/postgresql/data"], "when the container stopped"),
        ("tmpfs", &["--tmpfs", PGDATA], "when the container stopped"),
        ("shm", &["-e", "PGDATA=/dev/shm/pg"], "when the container stopped"),
        ("volume", &["-v", &of_volume], "when the container stopped"),
        ("host", &["-v", &of_host], "when the machine restarts"),
    ];
    let created = spelled.map(|(suffix, options, until)| (create(&world, suffix, options), until));
    let found = findings(&volsnap, &[], 3);
    for (container, until) in &created {
        let container = container.as_str();
        assert!(
            kinds(&found, container).contains(&"data-in-memory high".to_owned()),
            "{container}: {found:?}"
        );
        let said = what(&found, container, "data-in-memory");
        assert!(said.contains(until), "{container}: {said}");
        let location = what(&found, container, "data-location");
        assert!(location.contains("memory") || until.contains("machine"), "{location}");
        // What is in memory is not removed with a volume.
        assert!(!kinds(&found, container).iter().any(|kind| kind.starts_with("prune")), "{container}");
    }

    // Only the database itself can hand it out, while it runs.
    let running = created[0].0.as_str();
    docker(&["start", running]);
    let ready = ["exec", running, "pg_isready", "-q", "-h", "127.0.0.1"];
    let begun = std::time::Instant::now();
    while !std::process::Command::new("docker").args(ready).status().unwrap().success() {
        assert!(begun.elapsed().as_secs() < 60, "{}", docker(&["logs", running]));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let refused = volsnap.run(["snapshot", &format!("container:{running}")]);
    let dump = refused.expect(1).next().remove(0);
    let _ = volsnap.paste(&dump).expect(0);
    let files = std::fs::read_dir(volsnap.directory()).unwrap().map(|entry| entry.unwrap().path());
    let dumps: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "sql")).collect();
    assert!(std::fs::read_to_string(&dumps[0]).unwrap().contains("cluster dump complete"), "{dump}");
}

#[tokio::test]
async fn a_database_in_a_volume_in_memory_is_saved_while_it_runs_and_never_stopped() {
    let world = World::new().await;
    let in_memory = volume(&world, "ram", &["type=tmpfs", "device=tmpfs"]);
    let at = format!("{in_memory}:{PGDATA}");
    let postgres = Postgres::start_at("/unused", &["-v", &at]).await;
    let (volsnap, target) = (Volsnap::new(), postgres.target());
    let started = postgres.inspect("{{.State.StartedAt}}");
    let pause = "--quiesce pause";
    volsnap.run(["snapshot", &target]).refused(1, &["in memory", pause]);
    volsnap.paste(&volsnap.run(["snapshot", &target]).next()[0]).expect(0);
    volsnap.run(["restart", &target]).refused(1, &["in memory", pause]);
    volsnap.run(["migrate", &target, "/srv/none", "-y"]).refused(1, &["in memory", pause]);
    let found = findings(&volsnap, &[&target], 3);
    let said = what(&found, &postgres.container, "data-in-memory");
    assert!(said.ends_with("when the last container stops that mounts it"), "{said}");
    run_what_is_printed(&volsnap, &found);
    volsnap.run(["snapshot", &target, "--quiesce", "pause"]).expect(0);
    volsnap.run(["restore", "latest", "-y"]).refused(1, &["in memory"]);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started, "it was stopped");
    postgres.assert_whole();
}

#[tokio::test]
async fn a_volume_that_is_a_directory_of_the_host_is_told_as_that() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let directory = tempfile::tempdir().unwrap();
    let device = format!("device={}", directory.path().display());
    let bound = volume(&world, "bound", &["type=none", "o=bind", &device]);
    let at = format!("{bound}:{PGDATA}");
    let postgres = Postgres::start_at("/unused", &["-v", &at]).await;
    let found = findings(&volsnap, &[&postgres.target()], 3);
    let said = what(&found, &postgres.container, "data-location");
    let is = format!("volume {bound}, which is the host's directory {}", directory.path().display());
    assert!(said.ends_with(&is), "{said}");
    // Removing the volume removes nothing of it.
    let kinds = kinds(&found, &postgres.container);
    assert!(!kinds.iter().any(|kind| kind.starts_with("prune")), "{kinds:?}");
    run_what_is_printed(&volsnap, &found);
}

#[tokio::test]
async fn what_was_saved_before_a_migration_counts_after_it() {
    let (volsnap, postgres) = (Volsnap::new(), Postgres::start_with(&["--stop-timeout", "120"]).await);
    let home = tempfile::tempdir().unwrap();
    let (target, directory) = (postgres.target(), home.path().join("db"));
    volsnap.run(["snapshot", &target]).expect(0);
    volsnap.run(["migrate", &target, directory.to_str().unwrap(), "-y"]).expect(0);
    let found = findings(&volsnap, &[&target], 0);
    let kinds = kinds(&found, &postgres.container);
    assert!(kinds.contains(&"never-verified medium".to_owned()), "{kinds:?}");
    assert!(!kinds.iter().any(|kind| kind.starts_with("no-snapshot")), "{kinds:?}");
    run_what_is_printed(&volsnap, &found);
}

#[tokio::test]
async fn nothing_is_printed_that_is_refused_whatever_state_a_database_is_in() {
    let volsnap = Volsnap::new();
    let removed = Postgres::start_with(&["--rm"]).await;
    let found = findings(&volsnap, &[&removed.target()], 3);
    assert!(found.iter().any(|one| one["mitigation"].as_str().is_some_and(|line| line.contains("pause"))));
    run_what_is_printed(&volsnap, &found);
    let postgres = Postgres::start().await;
    docker(&["pause", &postgres.container]);
    run_what_is_printed(&volsnap, &findings(&volsnap, &[&postgres.target()], 3));
    docker(&["unpause", &postgres.container]);
    docker(&["stop", "-t", "60", &postgres.container]);
    run_what_is_printed(&volsnap, &findings(&volsnap, &[&postgres.target()], 3));
}
