//! What a name means where several projects, or several things of one project, have it.

use std::path::Path;

use crate::database::{Postgres, Volsnap};
use crate::program::Ran;
use crate::project::Project;
use crate::world::World;

#[tokio::test]
async fn the_service_of_another_project_is_never_taken_for_ones_own() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let other = Project::up(&world);
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("compose.yaml"), "name: not-up\nservices:\n  db:\n    image: x\n")
        .unwrap();
    let refused =
        |ran: Ran| ran.refused(2, &["in the project here (not-up)", &other.target(), "volsnap snapshot"]);
    refused(Ran::of(volsnap.command(["snapshot", "db"]).current_dir(here.path())));
    refused(volsnap.run_with(&["snapshot", "db"], &[("COMPOSE_PROJECT_NAME", "not-up")]));
    // By its whole name it is meant, and in its own directory, whatever that is called.
    let plan = |ran: Ran| ran.expect(0).json()["source"].clone();
    let elsewhere = volsnap.command(["snapshot", &other.target(), "--dry-run", "--json"]);
    assert_eq!(plan(Ran::of({ elsewhere }.current_dir(here.path()))), other.volume("db_data"));
    let link = here.path().join("link");
    std::os::unix::fs::symlink(other.directory(), &link).unwrap();
    let mut linked = volsnap.command(["snapshot", "db", "--dry-run", "--json"]);
    assert_eq!(plan(Ran::of(linked.current_dir(&link).env("PWD", &link))), other.volume("db_data"));
}

#[tokio::test]
async fn a_service_and_its_volume_of_one_name_go_and_come_back() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up_with(&world, |text| text.replace("db_data", "db"));
    let mut postgres = Postgres { container: project.service(), volume: project.volume("db"), world };
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    let name = project.target().replace("service:", "").replace("/db", "");
    let run = |arguments: &[&str]| volsnap.run_with(arguments, &[("COMPOSE_PROJECT_NAME", &name)]);
    let data = tempfile::tempdir().unwrap();
    let place = data.path().join("pg");
    let _ = run(&["snapshot", "db"]).expect(0);
    let _ = run(&["migrate", "db", place.to_str().unwrap(), "-y"]).expect(0);
    postgres.container = project.service();
    postgres.assert_whole();
    assert!(Path::new(&place).join("PG_VERSION").exists());
    for arguments in [&["snapshot", "db"][..], &["check", "db"], &["restart", "db"]] {
        let _ = run(arguments).expect(0);
        postgres.assert_whole();
    }
    let _ = run(&["migrate", "db", "--back", "-y"]).expect(0);
    postgres.container = project.service();
    postgres.assert_whole();
    assert!(postgres.inspect("{{range .Mounts}}{{.Name}} {{end}}").contains(&postgres.volume));
    volsnap.assert_no_leftovers();
}
