//! Healthchecks that are wrong: the database answers, and `docker ps` calls it unhealthy.

use crate::database::{Postgres, Volsnap};
use crate::program::Ran;
use crate::project::Project;
use crate::world::{LABEL, World, docker};

/// A healthcheck that asks another host, with a password that is nobody's business.
const WRONG: &str = "PGPASSWORD=hunter2 pg_isready -h wronghost -U app";

/// Waits until the engine calls a container unhealthy.
fn await_unhealthy(container: &str) {
    let begun = std::time::Instant::now();
    while docker(&["inspect", "--format", "{{.State.Health.Status}}", container]) != "unhealthy" {
        assert!(begun.elapsed().as_secs() < 60, "{container} does not become unhealthy");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// It names the healthcheck and what that said, and no secret.
#[track_caller]
fn assert_named(ran: &Ran) {
    let said = ran.expect(0).stderr();
    assert!(
        said.contains("`PGPASSWORD=*** pg_isready -h wronghost -U app`: wronghost:5432 - no resp"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn a_wrong_healthcheck_is_named_and_in_the_way_of_no_verb() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up_with(&world, |text| {
        let check = "    healthcheck: {test: [CMD-SHELL, \"WRONG\"], interval: 1s, retries: 1}\n";
        text.replacen("  db:\n", &format!("  db:\n{}", check.replace("WRONG", WRONG)), 1)
    });
    let query = |sql: &str| {
        docker(&["exec", &project.service(), "psql", "-XAtq", "-U", "user", "memory_db", "-c", sql])
    };
    await_unhealthy(&project.service());
    project.await_answer();
    query("create table kept as select 7 as n");
    let target = project.target();
    assert_named(&volsnap.run(["snapshot", &target]));
    let _ = volsnap.run(["check", &target]).expect(0);
    let _ = volsnap.run(["verify", "--drill", "latest"]).expect(0);
    query("update kept set n = 8");
    assert_named(&volsnap.run(["restart", &target, "--yes"]));
    assert_eq!(query("select n from kept"), "8");
    let begun = std::time::Instant::now();
    assert_named(&volsnap.run(["restore", "latest", "--yes"]));
    assert!(begun.elapsed().as_secs() < 100, "{:?}", begun.elapsed());
    assert_eq!(query("select n from kept"), "7");
    assert_named(&volsnap.run(["restart", &target, "--recreate", "--yes"]));
    let moved = volsnap.directory().join("moved");
    assert_named(&volsnap.run(["migrate", &target, moved.to_str().unwrap(), "--yes"]));
    assert_eq!(query("select n from kept"), "7");
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_healthcheck_that_asks_for_what_came_after_the_snapshot_takes_no_restore_back() {
    let check = "psql -U user memory_db -c 'select from later'";
    let postgres = Postgres::start_with(&["--health-cmd", check, "--health-interval", "1s"]).await;
    let volsnap = Volsnap::new();
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    postgres.query("create table later as select 1 as n");
    let ran = volsnap.run(["restore", "latest", "--yes"]);
    let said = ran.expect(0).stderr();
    assert!(said.contains("its data is what the snapshot saw; it passed on the data before"), "{said}");
    assert!(said.contains("relation \"later\" does not exist"), "{said}");
    postgres.assert_whole();
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_store_with_a_wrong_healthcheck_is_back_once_it_shows_what_it_showed_before() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let (store, volume) = (world.name("store"), world.name("data"));
    let (label, mount) = (format!("{LABEL}={}", std::process::id()), format!("{volume}:/data"));
    let image = std::env::var("VOLSNAP_TEST_STORES").unwrap_or_else(|_| "volsnap-test/stores:1".to_owned());
    let fixed = ["run", "-d", "--network", "none", "--name", &store, "--label", &label, "-v", &mount];
    let check =
        ["--health-cmd", "redis-cli -h wronghost ping", "--health-interval", "1s", "--health-retries", "1"];
    docker(&[&fixed[..], &check, &[&image, "redis-server", "--save", "3600 1"]].concat());
    await_unhealthy(&store);
    let ask = |words: &[&str]| docker(&[&["exec", &store, "redis-cli"], words].concat());
    ask(&["set", "kept", "7"]);
    let target = format!("container:{store}");
    let named = |ran: &Ran| {
        assert!(ran.expect(0).stderr().contains("`redis-cli -h wronghost ping`"), "{}", ran.stderr());
    };
    named(&volsnap.run(["snapshot", &target]));
    ask(&["set", "kept", "8"]);
    let begun = std::time::Instant::now();
    named(&volsnap.run(["restore", "latest", "--yes"]));
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    assert_eq!(ask(&["get", "kept"]), "7");
    volsnap.assert_no_leftovers();
}
