//! What a snapshot of the data does not bring back: configuration from elsewhere, and tables without a log.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::database::{Postgres, Volsnap};
use crate::world::docker;

const PGDATA: &str = "/var/lib/postgresql/data";

#[tokio::test]
async fn configuration_that_is_mounted_over_the_data_is_named_and_its_placeholder_is_no_data() {
    let (volsnap, postgres) = (Volsnap::new(), Postgres::start().await);
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = home.path().join("own.conf");
    fs::write(&file, "work_mem = '5MB'\n").unwrap();
    let file = file.to_str().unwrap();
    docker(&["rm", "-f", &postgres.container]);
    let (data, over) = (format!("{}:{PGDATA}", postgres.volume), format!("{file}:{PGDATA}/own.conf"));
    postgres.run(&postgres.container, &["-v", &data, "-v", &over]);
    postgres.await_answer();
    let target = postgres.target();

    let ran = volsnap.run(["snapshot", &target]);
    assert!(ran.expect(0).stderr().contains(&format!("{file} (at {PGDATA}/own.conf)")), "{}", ran.stderr());
    let files = volsnap.run(["show", "latest", "--files"]);
    assert!(!files.expect(0).stdout().contains("own.conf"), "the engine's empty file is in it");
    let drilled = volsnap.run(["verify", "latest", "--drill"]);
    assert!(drilled.expect(0).stdout().contains("without the configuration"), "{}", drilled.stdout());
    let volume = postgres.world.name("new");
    let ran = volsnap.run(["restore", "latest", "--new-volume", &volume, "--dry-run"]);
    assert!(ran.expect(0).stdout().contains("mount it again"), "{}", ran.stdout());
    volsnap.run(["restore", "latest", "-y"]).expect(0);
    postgres.assert_whole();
}

#[tokio::test]
async fn tables_without_a_log_are_named_where_they_come_back_empty_and_nobody_is_alarmed() {
    let (volsnap, postgres) = (Volsnap::new(), Postgres::start().await);
    postgres.query("create unlogged table cache as select generate_series(1, 10) n");
    let target = postgres.target();
    let ran = volsnap.run(["snapshot", &target]);
    assert!(!ran.expect(0).stderr().contains("UNLOGGED"), "a clean shutdown keeps them: {}", ran.stderr());
    let ran = volsnap.run(["snapshot", &target, "--quiesce", "pause"]);
    assert!(ran.expect(0).stderr().contains("come back empty"), "{}", ran.stderr());
    let drilled = volsnap.run(["verify", "latest", "--drill"]);
    let said = drilled.expect(0).stdout();
    assert!(said.contains("memory_db: public.cache") && !said.contains("lost or broken"), "{said}");
}
