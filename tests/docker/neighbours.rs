//! Two servers that keep their data in one volume: each has its own, and what is done to one is nothing to the other.

use crate::database::{Postgres, Volsnap};
use crate::world::docker;

#[tokio::test]
async fn of_two_servers_in_one_volume_each_is_saved_and_restored_by_itself() {
    let volsnap = Volsnap::new();
    let one = Postgres::start_at("/pg", &["-e", "PGDATA=/pg/a"]).await;
    let other = one.world.name("other");
    one.run(&other, &["-v", &format!("{}:/pg", one.volume), "-e", "PGDATA=/pg/b"]);
    let ask = |sql: &str| docker(&["exec", &other, "psql", "-XAtq", "-U", "user", "memory_db", "-c", sql]);
    let started = || docker(&["inspect", "--format", "{{.State.StartedAt}}", &other]);
    let is_up = || {
        let query = ["exec", "-e", "PGPASSWORD=secret-word", &other, "psql", "-h", "127.0.0.1", "-U", "user"];
        let asked =
            std::process::Command::new("docker").args(query).args(["memory_db", "-c", "select 1"]).output();
        asked.unwrap().status.success()
    };
    while !is_up() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    ask("create table theirs as select 7 as n");
    let before = started();

    let taken = volsnap.run(["snapshot", &one.target(), "--json"]).expect(0).json();
    assert_eq!(taken["consistency"], "clean", "{taken}");
    let _ = volsnap.run(["verify", "latest", "--drill"]).expect(0);
    one.query("drop table kept");
    ask("insert into theirs values (8)");
    let restored = volsnap.run(["restore", "latest", "-y", "--json"]).expect(0).json();
    assert!(restored["host_path"].as_str().unwrap().ends_with("/_data/a"), "{restored}");
    one.assert_whole();
    assert_eq!(ask("select sum(n) from theirs"), "15");
    assert_eq!(started(), before, "the neighbour was touched");

    let away = one.world.name("away");
    let to = format!("/tmp/{away}");
    volsnap.run(["migrate", &one.target(), &to, "-y"]).refused(2, &["a part of what its container mounts"]);

    let whole = format!("volume:{}", one.volume);
    let plan = volsnap.run(["snapshot", &whole, "--dry-run", "--json"]).expect(0).json();
    assert_eq!(plan["stops"].as_array().unwrap().len(), 2, "{plan}");
    let taken = volsnap.run(["snapshot", &whole, "--json"]).expect(0).json();
    assert!(
        ["stopped-and-quiet", "quiet-except"].contains(&taken["consistency"].as_str().unwrap()),
        "{taken}"
    );
    assert_ne!(started(), before, "both were held");
    one.await_answer();
    one.assert_whole();
    volsnap.assert_no_leftovers();
}
