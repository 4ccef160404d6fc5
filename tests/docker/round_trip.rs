//! The whole way, on the compose project that people have: a snapshot that is drilled, an accident that is found, a
//! restore, containers made anew, and every row where it was, while an app writes all the while.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::database::{Postgres, Volsnap};
use crate::program::Ran;
use crate::project::Project;
use crate::world::World;

const CHECKS: &str = "
[[check]]
name = 'users'
sql = 'select count(*) from users'
expect = 'unchanged'

[[check]]
name = 'images have bytes'
sql = 'select count(*) from image where octet_length(data) = 0'
expect = '= 0'
";

/// What must be the same to the last byte; not the table that the app writes to.
const ROWS: &str = "
    select (select md5(string_agg(u::text, ',' order by id)) from users u),
        (select md5(string_agg(t::text, ',' order by id)) from templates t),
        (select md5(string_agg(id || md5(data), ',' order by id)) from image),
        (select md5(string_agg(t::text, ',' order by id)) from template_translation t),
        (select version_num from alembic_version)";

/// An accident of many kinds.
const ACCIDENT: &str = "
    drop table template_translation;
    update image set data = '';
    select setval(pg_get_serial_sequence('users', 'id'), 5);
    set session_replication_role = replica;
    update templates set owner_id = 4711 where id = 1;";

fn activity(postgres: &Postgres) -> u64 {
    postgres.query("select count(*) from activity").parse().unwrap()
}

/// The app goes on writing.
#[track_caller]
fn assert_written_to(postgres: &Postgres) {
    let (begun, before) = (Instant::now(), activity(postgres));
    while activity(postgres) <= before {
        assert!(begun.elapsed() < Duration::from_secs(30), "the app does not write any more");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[track_caller]
fn json(ran: &Ran, code: i32) -> Value {
    serde_json::from_str(&ran.expect(code).stdout()).unwrap()
}

fn damage(report: &Value) -> String {
    let found = report["differences"].as_array().unwrap().iter();
    let damage = found.filter(|one| one["severity"] == "damage");
    damage
        .map(|one| format!("{} {}; ", one["kind"].as_str().unwrap(), one["object"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn a_compose_project_goes_the_whole_way_and_back_and_has_every_row() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up_all(&world);
    let (target, volume) = (project.target(), project.volume("db_data"));
    project.write("volsnap.toml", CHECKS);
    let mut postgres = Postgres { world, container: project.service(), volume };
    postgres.await_answer();
    postgres.script("memory_db", &Project::seed());
    assert_written_to(&postgres);
    let rows = postgres.query(ROWS);

    let taken = json(&volsnap.run(["snapshot", &target, "--drill", "--json"]), 0);
    assert_eq!((&taken["consistency"], &taken["drill"]["ok"]), (&"clean".into(), &true.into()), "{taken:#}");
    assert_eq!(taken["drill"]["checks"].as_array().unwrap().len(), 2, "{taken:#}");
    assert_written_to(&postgres);
    let sound = json(&volsnap.run(["check", &target, "--json"]), 0);
    assert_eq!((sound["ok"].as_bool(), damage(&sound).as_str()), (Some(true), ""), "{sound:#}");

    postgres.script("memory_db", ACCIDENT);
    let found = volsnap.run(["check", &target, "--json"]);
    let found = json(&found, 3);
    let kinds = damage(&found);
    for kind in [
        "missing-table memory_db: table public.template_translation",
        "emptied-bytea memory_db: column public.image.data",
        "sequence-behind memory_db: sequence public.users_id_seq",
        "orphans memory_db: foreign key templates_owner_id_fkey",
    ] {
        assert!(kinds.contains(kind), "{kind} is not in {kinds}");
    }
    let failed: Vec<_> =
        found["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false).collect();
    assert_eq!((failed.len(), &failed[0]["name"]), (1, &"images have bytes".into()), "{found:#}");
    let next = found["differences"][0]["next"].as_str().unwrap();
    assert!(next.contains(taken["id"].as_str().unwrap()), "{next}");

    let _ = volsnap.run(["restore", "latest", "--yes"]).expect(0);
    postgres.container = project.service();
    assert_eq!(postgres.query(ROWS), rows);
    let restored = json(&volsnap.run(["check", &target, "--json"]), 0);
    assert_eq!(damage(&restored), "", "{restored:#}");

    let before = project.containers();
    let anew = json(&volsnap.run(["restart", &target, "--recreate", "--snapshot", "--json"]), 0);
    assert_eq!((damage(&anew).as_str(), &anew["clean"]), ("", &true.into()), "{anew:#}");
    let saved = volsnap
        .list()
        .into_iter()
        .find(|one| anew["snapshot"].as_str().unwrap().ends_with(one["id"].as_str().unwrap()));
    assert_eq!(saved.unwrap()["downtime_ms"], anew["downtime_ms"], "it was away once for both");
    let _ = volsnap.run(["verify", "--drill", anew["snapshot"].as_str().unwrap()]).expect(0);
    postgres.container = project.service();
    assert_eq!(project.containers().len(), 2);
    assert!(!before.contains(&postgres.container), "it was not made anew");
    let last = json(&volsnap.run(["check", &target, "--json"]), 0);
    assert_eq!(damage(&last), "", "{last:#}");
    assert_eq!(postgres.query(ROWS), rows);
    assert_written_to(&postgres);
    volsnap.assert_no_leftovers();
    postgres.assert_no_helper();
}
