//! What is named: unknown names, names in vain, data that lies elsewhere.

use std::time::Duration;

use volsnap::engine::{Docker as _, Grace};
use volsnap::model::container::{Container, Mount, MountKind};

use super::desk::Desk;
use super::simulated::{DATA, PGDATA, run};

/// A running container that has nothing to do with the database.
async fn add_stranger(desk: &Desk) {
    let stranger = Container {
        name: "stranger".to_owned(),
        image: "app:1".to_owned(),
        command: ["sh", "-c", "stranger"].map(str::to_owned).into(),
        ..Container::default()
    };
    let id = desk.world.engine.add(stranger).unwrap();
    desk.world.engine.start(&id).await.unwrap();
}

#[test]
fn a_name_in_an_option_is_mended_or_left_out() {
    run(async {
        let desk = Desk::new().await;
        add_stranger(&desk).await;
        desk.leads_on(&["snapshot", "db", "--kill", "ap"], 2, 0, "--kill app").await;
        desk.leads_on(&["snapshot", "db", "--hold", "stranger"], 2, 0, "snapshot db").await;
        desk.leads_on(&["restart", "db", "--ignore", "db"], 2, 0, "restart db").await;
    });
}

#[test]
fn an_unknown_name_is_replaced_by_the_nearest_with_everything_else_that_was_typed() {
    run(async {
        let desk = Desk::new().await;
        let typed = ["snapshot", "dbb", "--exclude", "pg_stat_tmp/*", "--json"];
        let taken = desk.leads_on(&typed, 2, 0, "pg_stat_tmp/*").await;
        assert!(taken.text.contains("\"clean\""), "{}", taken.text);
        desk.leads_on(&["restart", "dbb", "--dry-run"], 2, 0, "restart container:db --dry-run").await;
    });
}

#[test]
fn where_nothing_is_like_it_the_project_below_is_looked_at() {
    run(async {
        let desk = Desk::composed().await;
        desk.leads_on(&["snapshot", "quite-another"], 2, 0, "ps --all").await;
    });
}

#[test]
fn of_two_servers_on_one_directory_one_is_stopped() {
    run(async {
        let desk = Desk::new().await;
        let engine = &desk.world.engine;
        let Container { image, command, env, mounts, .. } = desk.world.container("db").await;
        let twin = Container { name: "twin".to_owned(), image, command, env, mounts, ..Container::default() };
        let id = engine.add(twin).unwrap();
        engine.start(&id).await.unwrap();
        let (command, stopped) = desk.follow(&["snapshot", "db"], 1, 0).await;
        assert!(command.contains("stop -t 600"), "{command}");
        stopped.expect(0);
        let running = [desk.world.container("db").await, desk.world.container("twin").await];
        assert_eq!(running.iter().filter(|one| one.state.running).count(), 1, "{command}");
    });
}

#[test]
fn what_a_container_mounts_is_looked_at_where_its_data_is_in_pieces_or_nowhere() {
    run(async {
        let desk = Desk::new().await;
        add_stranger(&desk).await;
        desk.leads_on(&["snapshot", "container:stranger"], 1, 0, "json .Mounts").await;
        let elsewhere = desk.path("wal");
        std::fs::create_dir(&elsewhere).unwrap();
        let engine = &desk.world.engine;
        engine.stop("db", None, Grace::Own, Duration::from_secs(60)).await.unwrap();
        let part = Mount {
            kind: MountKind::Bind,
            source: elsewhere,
            destination: format!("{PGDATA}/pg_tblspc").into(),
            ..Mount::default()
        };
        desk.change("db", |db| db.mounts.push(part)).await;
        let (command, looked) = desk.follow(&["snapshot", "db"], 1, 0).await;
        assert!(command.contains("json .Mounts"), "{command}");
        looked.expect(0);
        assert_eq!(desk.world.container("db").await.mounts[0].volume.as_deref(), Some(DATA));
    });
}

/// What rescues data that lies in the container itself, in whatever state that is.
#[test]
fn data_in_the_container_itself_is_copied_out_and_the_container_is_as_before() {
    run(async {
        let mut desk = Desk::new().await;
        desk.change("db", |db| db.mounts.clear()).await;
        desk.arm();
        for (is_removed, way) in [(false, "stop -t 600 db"), (true, "pause db")] {
            desk.change("db", |db| db.auto_remove = is_removed).await;
            let (command, rescued) = desk.follow(&["snapshot", "db"], 1, 0).await;
            assert!(command.contains(way) && command.contains("docker cp"), "{command}");
            rescued.expect(0);
            let state = desk.world.container("db").await.state;
            assert!(state.running && !state.paused, "{command}");
        }
        desk.change("db", |db| db.auto_remove = false).await;
        desk.stop("db").await;
        let (command, rescued) = desk.follow(&["snapshot", "db"], 1, 0).await;
        assert!(command.contains("docker cp") && !command.contains("stop"), "{command}");
        rescued.expect(0);
    });
}
