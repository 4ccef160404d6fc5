//! What a snapshot of the data does not bring back: configuration from elsewhere, and tables without a log.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::database::{Postgres, Volsnap};
use crate::world::{World, docker};

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
async fn configuration_outside_the_data_is_named_whether_or_not_the_server_runs() {
    let settings = World::new().await;
    let volume = settings.name("settings");
    docker(&["volume", "create", &volume]);
    let (volsnap, postgres) =
        (Volsnap::new(), Postgres::start_with(&["-v", &format!("{volume}:/settings")]).await);
    let inside = |script: &str| docker(&["exec", "-u", "root", &postgres.container, "sh", "-c", script]);
    inside(&format!(
        "cp -a {PGDATA}/pg_hba.conf /settings/; mkdir -p /opt/own; echo \"work_mem = '5MB'\" >/opt/own/more.conf; \
         echo \"include '/opt/own/more.conf'\" >>{PGDATA}/postgresql.conf"
    ));
    postgres.query("alter system set hba_file = '/settings/pg_hba.conf'");
    docker(&["restart", "-t", "60", &postgres.container]);
    postgres.await_answer();
    assert_eq!(postgres.query("show work_mem"), "5MB");
    let named = ["/opt/own/more.conf (in the container itself)", "(at /settings/pg_hba.conf)"];
    let names_both = |said: &str| {
        assert!(named.iter().all(|name| said.contains(name)), "{said}");
        assert!(said.contains(&format!("volume {volume}")), "{said}");
    };
    let target = postgres.target();
    names_both(&volsnap.run(["snapshot", &target]).expect(0).stderr());
    names_both(&volsnap.run(["verify", "latest", "--drill"]).expect(0).stdout());
    docker(&["stop", "-t", "60", &postgres.container]);
    names_both(&volsnap.run(["snapshot", &target]).expect(0).stderr());
    let new = postgres.world.name("new");
    let ran = volsnap.run(["restore", "latest", "--new-volume", &new, "--dry-run"]);
    names_both(&ran.expect(0).stdout());
    assert!(ran.stdout().contains("the same image, or the same files"), "{}", ran.stdout());
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
