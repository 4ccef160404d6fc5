//! What a snapshot, and a refused one, says to type next.

use std::collections::BTreeMap;

use volsnap::engine::Docker as _;
use volsnap::engine::helper::HelperImage;
use volsnap::engine::memory::program::Behaviour;
use volsnap::model::container::Container;

use super::desk::Desk;
use super::simulated::{DATA, HELPER, run};

#[test]
fn a_rate_is_for_the_databases_own_backup_and_within_its_bounds() {
    run(async {
        let desk = Desk::new().await;
        let typed = ["snapshot", "db", "--max-rate", "50M", "--exclude", "x/*"];
        let taken = desk.leads_on(&typed, 2, 0, "--exclude").await;
        assert!(taken.text.contains("clean"), "{}", taken.text);
        let taken = desk.leads_on(&["snapshot", "db", "--max-rate", "50M"], 2, 1, "--quiesce online").await;
        assert!(taken.text.contains("online"), "{}", taken.text);
        let slow = ["snapshot", "db", "--quiesce", "online", "--max-rate", "1k"];
        desk.leads_on(&slow, 2, 0, "--max-rate").await;
    });
}

#[test]
fn where_there_is_nothing_to_save_it_is_looked_for() {
    run(async {
        let desk = Desk::new().await;
        desk.world.engine.create_volume("empty", &BTreeMap::new()).await.unwrap();
        desk.leads_on(&["snapshot", "volume:empty"], 1, 0, "volume ls").await;
        let file = desk.path("file");
        std::fs::write(&file, "x").unwrap();
        let (command, taken) = desk.follow(&["snapshot", &format!("path:{}", file.display())], 2, 0).await;
        assert!(command.contains(desk.world.root().to_str().unwrap()), "{command}");
        // Its directory is that of the repository here, which is said in its turn.
        assert!(taken.text.contains("the repository"), "{}", taken.text);
        desk.stop("db").await;
        let data = desk.world.engine.directory_of(DATA);
        std::fs::rename(data.join("PG_VERSION"), data.join("aside")).unwrap();
        std::fs::rename(data.join("global"), data.join("global-aside")).unwrap();
        let (command, looked) = desk.follow(&["snapshot", "container:db"], 1, 0).await;
        assert!(command.contains("json .Mounts"), "{command}");
        looked.expect(0);
    });
}

#[test]
fn a_kept_stage_is_listed_and_removed() {
    run(async {
        let desk = Desk::new().await;
        let taken = desk.run(&["snapshot", "db", "--capture", "staged", "--keep-stage"]).await;
        taken.expect(0);
        let listed = desk.paste_of(&taken, "list --stages").await;
        // It stands at the end of the stage's line.
        let remove = listed.text.lines().find_map(|line| Some(&line[line.find("docker ")?..])).unwrap();
        desk.paste(remove).await.expect(0);
        desk.assert_well("removed").await;
        assert_eq!(desk.world.engine.volumes().await.unwrap().len(), 1);
    });
}

#[test]
fn the_helper_of_another_volsnap_is_left_out_or_removed() {
    run(async {
        let desk = Desk::new().await;
        desk.world.engine.pretend_protocol(HELPER, 1);
        desk.leads_on(&["snapshot", "db", "--helper-image", HELPER], 1, 0, "snapshot db").await;
        let own = HelperImage::of(&desk.world.host.saga.executable).unwrap();
        desk.world.engine.pretend_protocol(own.tag(), 1);
        desk.leads_on(&["snapshot", "db"], 1, 0, "image rm").await;
        assert!(desk.world.engine.image(own.tag()).await.unwrap().is_none());
    });
}

#[test]
fn who_is_replaced_when_it_stops_is_scaled_down_and_up_or_not_stopped_at_all() {
    run(async {
        let desk = Desk::new().await;
        let task = [("com.docker.swarm.task.id", "t"), ("com.docker.swarm.service.name", "shop_db")];
        let labels: BTreeMap<_, _> = task.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        desk.change("db", |db| db.labels = labels).await;
        desk.leads_on(&["snapshot", "db"], 1, 0, "service scale shop_db=0 &&").await;
        desk.leads_on(&["snapshot", "db"], 1, 2, "--quiesce online").await;
        desk.leads_on(&["snapshot", "db"], 1, 3, "--quiesce pause").await;
        desk.leads_on(&["snapshot", "db"], 1, 1, "service inspect").await;
        desk.leads_on(&["restart", "db"], 1, 0, "service scale shop_db=0").await;
        let listed = desk.run(&["list", "--json"]).await;
        assert_eq!(listed.expect(0).text.matches("\"id\"").count(), 3, "{}", listed.text);
        let restore = ["restore", "latest", "--yes"];
        desk.leads_on(&restore, 1, 0, "restore latest --yes").await;
    });
}

#[test]
fn who_would_be_taken_for_ill_is_frozen_for_less_or_not_at_all() {
    run(async {
        let desk = Desk::new().await;
        desk.change("db", |db| db.health_patience = Some(std::time::Duration::from_secs(20))).await;
        let task = [("com.docker.swarm.task.id", "t"), ("com.docker.swarm.service.name", "shop_db")];
        let labels: BTreeMap<_, _> = task.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        desk.change("db", |db| db.labels = labels).await;
        let typed = ["snapshot", "db", "--quiesce", "pause"];
        desk.leads_on(&typed, 1, 0, "--max-downtime").await;
        desk.leads_on(&typed, 1, 1, "--quiesce online").await;
        let pod = BTreeMap::from([("io.kubernetes.pod.name".to_owned(), "db-0".to_owned())]);
        desk.change("db", |db| (db.labels, db.health_patience) = (pod, None)).await;
        desk.leads_on(&typed, 1, 0, "--quiesce online").await;
    });
}

#[test]
fn what_is_kept_available_is_saved_without_being_held() {
    run(async {
        let desk = Desk::new().await;
        desk.change("db", |db| db.env.push("PATRONI_NAME=one".to_owned())).await;
        desk.leads_on(&["snapshot", "db"], 1, 0, "--quiesce online").await;
        desk.leads_on(&["restart", "db"], 1, 0, "--quiesce online").await;
    });
}

#[test]
fn the_second_repository_is_made_where_it_is_asked_for() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        let second = desk.path("second");
        let second = second.to_str().unwrap();
        let typed = ["copy", "--to", second, "--all", "--dry-run"];
        let (command, copied) = desk.follow(&typed, 2, 0).await;
        assert!(command.contains("--init") && command.contains("--all"), "{command}");
        copied.expect(0);
        desk.leads_on(&["copy", "--to", second, "--all"], 2, 0, "--init").await;
        std::fs::remove_dir_all(second).unwrap();
        let taken = desk.run(&["snapshot", "db", "--copy-to", second]).await;
        taken.expect(6);
        desk.paste_of(&taken, "--init").await;
    });
}

#[test]
fn a_container_that_cannot_stop_is_frozen_and_it_is_said_how_it_is_stopped() {
    run(async {
        let desk = Desk::new().await;
        desk.world.engine.teach("app", Behaviour { stops_within: None, ..Behaviour::OBEDIENT });
        desk.change("app", |app: &mut Container| app.stop_timeout = Some(2)).await;
        let planned = desk.run(&["snapshot", "db", "--dry-run"]).await;
        planned.expect(0);
        desk.paste_of(&planned, "--kill app").await;
        assert_eq!(desk.world.whole_snapshots("it was only planned").await.len(), 0);
        desk.assert_well("planned").await;
    });
}
