//! Containers that can see the data and do not use it: management and monitoring agents with the host's root or the
//! engine's directory mounted, often removed when they stop. They are left alone, named, and never in the way.

use std::path::Path;

use crate::database::{Postgres, Volsnap};
use crate::project::Project;
use crate::world::{World, docker};

/// Two agents, as they run beside everything.
pub(crate) struct Agents {
    names: [String; 2],
    started: Vec<String>,
}

impl Agents {
    pub(crate) fn start(world: &World) -> Self {
        let writes = world.run_service("agent", &["--rm", "-v", "/:/host"], "sleep 1000");
        let reads = world.run_service("probe", &["--rm", "-v", "/var/lib/docker:/engine:ro"], "sleep 1000");
        let names = [writes, reads];
        let started = names.iter().map(|name| started(name)).collect();
        Self { names, started }
    }

    /// They run, and nobody has touched them.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        let now: Vec<_> = self.names.iter().map(|name| started(name)).collect();
        assert_eq!(now, self.started);
    }
}

fn started(container: &str) -> String {
    docker(&["inspect", "--format", "{{.State.StartedAt}} {{.State.Paused}}", container])
}

#[tokio::test]
async fn agents_are_named_and_left_alone_and_in_nobodys_way() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let agents = Agents::start(&postgres.world);
    let plan = volsnap.run(["snapshot", &postgres.target(), "--dry-run", "--json"]).expect(0).json();
    assert_eq!(plan["stops"], serde_json::json!([postgres.container]));
    let seen = |name: &str| {
        let onlookers = plan["onlookers"].as_array().unwrap();
        onlookers.iter().find(|one| one["container"] == name).unwrap_or_else(|| panic!("{plan:#}")).clone()
    };
    let [writes, reads] = &agents.names;
    assert_eq!(seen(writes)["writes"], true);
    assert_eq!((&seen(writes)["looked"], &seen(writes)["ignored"]), (&true.into(), &false.into()));
    assert_eq!(seen(reads)["writes"], false);
    let said = volsnap.run(["snapshot", &postgres.target(), "--dry-run"]).expect(0).stdout();
    assert!(
        said.contains(&format!("{writes}, left alone")) && said.contains("has nothing open there"),
        "{said}"
    );

    let taken = volsnap.run(["snapshot", &postgres.target(), "--json"]).expect(0).json();
    assert_eq!(taken["consistency"], "clean", "its own files prove it: {taken}");
    agents.assert_untouched();
    let _ = volsnap.run(["verify", "latest", "--drill"]).expect(0);
    postgres.query("drop table kept");
    let _ = volsnap.run(["restore", "latest", "-y"]).expect(0);
    postgres.assert_whole();
    let _ = volsnap.run(["restart", &postgres.target()]).expect(0);
    postgres.assert_whole();
    agents.assert_untouched();
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn what_no_files_prove_is_quiet_except_for_who_could_write() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let volume = world.name("files");
    docker(&["volume", "create", &volume]);
    let mount = format!("{volume}:/files");
    let _ = world.run_service(
        "app",
        &["-v", &mount],
        "echo x > /files/x; trap 'exit 0' TERM; ready; while :; do sleep 0.1; done",
    );
    let agent = world.run_service(
        "agent",
        &["-v", "/:/host"],
        "trap 'exit 0' TERM; ready; while :; do sleep 0.1; done",
    );
    let snapshot = |options: &[&str]| {
        let target = format!("volume:{volume}");
        volsnap.run([&["snapshot", &target, "--json"], options].concat()).expect(0).json()
    };
    // Of other tests there may be agents beside it.
    let names_it = |taken: &serde_json::Value| {
        let shown = volsnap.run(["show", taken["id"].as_str().unwrap()]).expect(0).stdout();
        shown.lines().any(|line| line.contains("quiet except for") && line.contains(&agent))
    };
    let before = started(&agent);
    let taken = snapshot(&[]);
    assert_eq!(taken["consistency"], "quiet-except");
    assert!(names_it(&taken));
    assert!(volsnap.run(["list"]).expect(0).stdout().contains("quiet except for"));
    assert!(names_it(&snapshot(&["--ignore", &agent])), "ignoring it proves nothing");
    assert_eq!(started(&agent), before);

    assert!(!names_it(&snapshot(&["--hold", &agent])));
    assert_ne!(started(&agent), before, "it was held, and runs again");
    let target = format!("volume:{volume}");
    volsnap.run(["snapshot", &target, "--hold", "nobody"]).refused(2, &["no container is called \"nobody\""]);
}

#[tokio::test]
async fn who_has_a_file_open_uses_it_and_a_label_excludes_what_does_not() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let volume = world.name("files");
    docker(&["volume", "create", &volume]);
    let _ = world.run_service("app", &["-v", &format!("{volume}:/files")], "echo x > /files/x; sleep 1000");
    let inside = format!("/host/volumes/{volume}/_data");
    let above = ["-v", "/var/lib/docker:/host"];
    let opens = world.run_service("opens", &above, &format!("exec 3>>{inside}/x; ready; sleep 1000"));
    let works = world.run_service("works", &above, &format!("cd {inside}; ready; sleep 1000"));
    let itself = format!("{volume}:/files");
    let labelled = [&["--label", "volsnap.ignore=true", "-v", &itself], &above[..]].concat();
    let ignored = world.run_service("ignored", &labelled, "sleep 1000");
    let target = format!("volume:{volume}");
    let plan = volsnap.run(["snapshot", &target, "--dry-run", "--json"]).expect(0).json();
    // A shell without a trap cannot stop by itself, and is frozen.
    let held = format!("{} {}", plan["stops"], plan["freezes"]);
    assert!(held.contains(&opens) && held.contains(&works) && !held.contains(&ignored), "{plan:#}");
    let onlookers = plan["onlookers"].as_array().unwrap();
    assert!(onlookers.iter().any(|one| one["container"] == ignored.as_str() && one["ignored"] == true));
}

#[tokio::test]
async fn agents_are_in_the_way_of_no_migration_nor_of_what_follows_it() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up(&world);
    let mut postgres = Postgres { container: project.service(), volume: project.volume("db_data"), world };
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    let agents = Agents::start(&postgres.world);
    let data = tempfile::tempdir().unwrap();
    let place = data.path().join("pg");
    let target = project.target();
    let _ = volsnap.run(["snapshot", &target]).expect(0);
    let _ = volsnap.run(["migrate", &target, place.to_str().unwrap(), "-y"]).expect(0);
    postgres.container = project.service();
    postgres.assert_whole();

    postgres.query("drop table kept");
    let volume = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &postgres.volume]);
    let old = std::fs::read(Path::new(&volume).join("global/pg_control")).unwrap();
    let restored = volsnap.run(["restore", "latest", "-y", "--json"]).expect(0).json();
    assert_eq!(restored["host_path"], place.to_str().unwrap(), "{restored}");
    postgres.assert_whole();
    let now = std::fs::read(Path::new(&volume).join("global/pg_control")).unwrap();
    assert_eq!(now, old, "the abandoned volume was written to");

    let _ = volsnap.run(["migrate", &target, "--back", "-y"]).expect(0);
    postgres.container = project.service();
    postgres.assert_whole();
    let mounted = postgres.inspect("{{range .Mounts}}{{.Type}} {{end}}");
    assert!(mounted.contains("volume"), "{mounted}");
    agents.assert_untouched();
    volsnap.assert_no_leftovers();
}
