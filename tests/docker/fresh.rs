//! `docker compose down -v` and `up -d`: the data is gone, and a database that was made a moment ago is in its place.

use std::time::Duration;

use crate::database::Volsnap;
use crate::project::Project;
use crate::world::{World, docker};

impl Project {
    fn query(&self, sql: &str) -> String {
        docker(&[
            "exec",
            &self.service(),
            "psql",
            "-XAtq",
            "-h",
            "127.0.0.1",
            "-U",
            "user",
            "memory_db",
            "-c",
            sql,
        ])
    }

    /// Loses its data, as people do, and has an app's first start write to what comes in its place.
    fn lose_data(&self, rows: u32) {
        self.compose(&["down", "-v"]);
        self.compose(&["up", "-d", "--no-deps", "db"]);
        self.await_answer();
        self.query(&format!("create table seed as select n from generate_series(1, {rows}) n"));
    }
}

#[tokio::test]
async fn a_database_that_came_up_anew_is_shown_replaced_without_a_flag_and_kept_aside() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up(&world);
    project.await_answer();
    project.query("create table kept as select n from generate_series(1, 1000) n");
    let target = project.target();
    let taken = volsnap.run(["snapshot", &target, "--json"]).json();
    let id = taken["id"].as_str().unwrap();
    // The identifier of a cluster has whole seconds.
    std::thread::sleep(Duration::from_secs(2));
    project.lose_data(12);

    let checked = volsnap.run(["check", &target, "--json"]);
    let checked: serde_json::Value = serde_json::from_str(&checked.expect(3).stdout()).unwrap();
    let difference = checked["differences"][0].clone();
    assert_eq!(difference["kind"], "another-cluster", "{difference}");
    assert!(difference["next"].as_str().unwrap().contains("restore"), "{difference}");
    assert!(difference["after"].as_str().unwrap().contains("1 table, 12 rows"), "{difference}");

    let plan = volsnap.run(["restore", "latest", "--dry-run", "--json"]).json();
    assert_eq!((&plan["fresh"]["tables"], &plan["fresh"]["rows"]), (&1.into(), &12.into()), "{plan}");
    volsnap
        .run(["restore", "latest", "--yes", "--no-safety"])
        .refused(1, &["another cluster", ", made 2", "--force-different-cluster"]);
    assert_eq!(project.query("select count(*) from seed"), "12");
    let restored = volsnap.run(["restore", "latest", "--yes"]);
    assert_eq!(restored.expect(0).stderr().matches("made 2").count(), 1, "{}", restored.stderr());
    assert_eq!(project.query("select count(*) from kept"), "1000");

    // What was replaced is kept, and is nobody's newest backup.
    let listed = volsnap.list();
    let aside = listed.iter().find(|snapshot| snapshot["id"] != id).unwrap();
    assert_eq!(aside["tags"]["fresh"], "true", "{aside}");
    assert_eq!(volsnap.run(["show", "latest", "--json"]).json()["id"], id);
    let doctor = volsnap.run(["doctor", &target, "--json"]).stdout();
    assert!(!doctor.contains(aside["id"].as_str().unwrap()), "{doctor}");
    let _ = volsnap.run(["check", &target]).expect(0);
    let undo = restored.next().into_iter().find(|line| line.contains("restore")).unwrap();
    let _ = volsnap.paste(&format!("{undo} --yes")).expect(0);
    assert_eq!(project.query("select count(*) from seed"), "12");
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_database_that_somebody_has_filled_since_is_replaced_only_on_request() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up(&world);
    project.await_answer();
    project.query("create table kept as select n from generate_series(1, 1000) n");
    let _ = volsnap.run(["snapshot", &project.target()]).expect(0);
    std::thread::sleep(Duration::from_secs(2));
    project.lose_data(1000);
    volsnap
        .run(["restore", "latest", "--yes"])
        .refused(1, &["another cluster", ", made 2", "--force-different-cluster", "nothing was stopped"]);
    assert_eq!(project.query("select count(*) from seed"), "1000");
}
