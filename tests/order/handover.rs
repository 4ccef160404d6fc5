//! What a restore leaves to whoever made the service: a new volume like the one that is gone, and the command that brings
//! the service up.

use std::collections::BTreeMap;

use volsnap::engine::Docker as _;
use volsnap::model::container::{Container, Mount, MountKind};
use volsnap::ops::execute;
use volsnap::ops::restore::{Archive, Destination, RestoreOptions, Restored, restore};
use volsnap::ops::snapshot::snapshot;

use crate::simulated::restores::Restore;
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{PGDATA, World, run};

/// The volume of the database that is saved here.
const VOLUME: &str = "pgdata";

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Returns a world with a snapshot of a database whose container has these labels, and its volume those; both are gone.
async fn after_the_loss(of_container: &[(&str, &str)], of_volume: &[(&str, &str)]) -> World {
    let database = Container {
        image: "postgres:15".to_owned(),
        command: ["docker-entrypoint.sh", "postgres"].map(str::to_owned).into(),
        env: ["POSTGRES_USER=me", "POSTGRES_PASSWORD=secret-word"].map(str::to_owned).into(),
        labels: labels(of_container),
        ..Container::default()
    };
    after_the_loss_of(database, of_volume).await
}

async fn after_the_loss_of(container: Container, of_volume: &[(&str, &str)]) -> World {
    let world = World::new(false).await;
    world.engine.create_volume(VOLUME, &labels(of_volume)).await.unwrap();
    if container.image == "app:1" {
        std::fs::write(world.engine.directory_of(VOLUME).join("kept"), "data").unwrap();
    }
    let mount = Mount {
        kind: MountKind::Volume,
        volume: Some(VOLUME.to_owned()),
        destination: PGDATA.into(),
        ..Mount::default()
    };
    let mounts = [vec![mount], container.mounts].concat();
    let container = Container { name: "shop-db-1".to_owned(), mounts, ..container };
    let id = world.engine.add(container).unwrap();
    world.engine.start(&id).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let TakeSnapshot(quiesce, capture) = TakeSnapshot::STOP_DIRECT;
    let options = world.snapshot_options(quiesce, capture);
    let options =
        volsnap::ops::snapshot::SnapshotOptions { target: "container:shop-db-1".parse().unwrap(), ..options };
    snapshot(&world.host, &options, execute).await.unwrap().unwrap();
    world.engine.remove_container(&id).await.unwrap();
    world.engine.remove_volume(VOLUME).await.unwrap();
    world
}

impl World {
    async fn restored(&self, name: &str) -> (Restored, BTreeMap<String, String>) {
        let options = Restore::NewVolume.options(self).await;
        self.restored_from(options.archive, name).await
    }

    async fn restored_from(&self, archive: Archive, name: &str) -> (Restored, BTreeMap<String, String>) {
        let destination = Destination::NewVolume(name.to_owned());
        let options = RestoreOptions { archive, destination, ..Restore::NewVolume.options(self).await };
        let restored = restore(&self.host, &options, execute).await.unwrap().unwrap();
        let mut labels = self.engine.volume(name).await.unwrap().unwrap().labels;
        assert!(labels.remove("volsnap.run").is_some(), "it is known as made by the run");
        (restored, labels)
    }
}

fn lines(restored: &Restored) -> Vec<String> {
    restored.next.iter().map(ToString::to_string).collect()
}

const OF_COMPOSE: [(&str, &str); 2] =
    [("com.docker.compose.project", "shop"), ("com.docker.compose.service", "db")];
const OF_VOLUME: [(&str, &str); 3] =
    [("com.docker.compose.project", "shop"), ("com.docker.compose.volume", "db_data"), ("owner", "ops")];

#[test]
fn the_volume_of_a_service_comes_back_with_every_label_and_compose_brings_the_service_up() {
    run(async {
        let world = after_the_loss(&OF_COMPOSE, &OF_VOLUME).await;
        let (restored, had) = world.restored(VOLUME).await;
        assert_eq!(had, labels(&OF_VOLUME));
        let elsewhere = "in the directory of the Compose file of shop, type: docker compose up -d";
        // Where that file is gone, a container of the same name: one beside the service could not be made.
        assert_eq!(lines(&restored)[..1], [elsewhere]);
        assert_eq!(lines(&restored)[1..], by_hand("shop-db-1", VOLUME));
        // In that directory it is a command; `-p` or the environment says which project is meant.
        std::fs::write(world.root().join("compose.yaml"), "name: shop\nservices: {}\n").unwrap();
        world.engine.remove_volume(VOLUME).await.unwrap();
        assert_eq!(lines(&world.restored(VOLUME).await.0), ["docker compose up -d"]);
    });
}

#[test]
fn under_another_name_nothing_of_compose_runs_on_it_and_the_engine_is_asked_for_a_container() {
    run(async {
        let world = after_the_loss(&OF_COMPOSE, &OF_VOLUME).await;
        let (restored, had) = world.restored("copy").await;
        assert_eq!(had, labels(&OF_VOLUME));
        assert_eq!(lines(&restored), by_hand("shop-db-1-restored", "copy"));
    });
}

#[test]
fn a_container_on_the_new_volume_has_the_configuration_that_was_mounted_over_the_old_data() {
    run(async {
        let configuration = tempfile::Builder::new().suffix(".conf").tempfile().unwrap();
        let own = Mount {
            kind: MountKind::Bind,
            source: configuration.path().to_owned(),
            destination: format!("{PGDATA}/own.conf").into(),
            read_only: true,
            ..Mount::default()
        };
        let database = Container {
            image: "postgres:15".to_owned(),
            command: ["docker-entrypoint.sh", "postgres"].map(str::to_owned).into(),
            mounts: vec![own],
            ..Container::default()
        };
        let world = after_the_loss_of(database, &[]).await;
        let (restored, _) = world.restored(VOLUME).await;
        let source = configuration.path().display();
        let mount = format!("--mount type=bind,source={source},target={PGDATA}/own.conf,readonly");
        assert!(lines(&restored)[0].contains(&mount), "{:?}", lines(&restored));
    });
}

/// Returns the commands that run a container on a volume and look into it.
fn by_hand(container: &str, volume: &str) -> [String; 2] {
    let run = format!("docker run -d --name {container} -e PGDATA={PGDATA} -v {volume}:{PGDATA} postgres:15");
    let why = "the image and the mounts that it had; add its ports, networks and settings";
    [format!("{run}    # {why}"), format!("docker exec {container} psql -U me -d postgres -l")]
}

#[test]
fn of_a_service_that_is_no_known_database_its_volume_says_whose_it_is() {
    run(async {
        let command = ["sh", "-c", "app"].map(str::to_owned).into();
        let app = Container { image: "app:1".to_owned(), command, ..Container::default() };
        let world = after_the_loss_of(app, &OF_VOLUME).await;
        std::fs::write(world.root().join("compose.yaml"), "name: shop\nservices: {}\n").unwrap();
        let (restored, had) = world.restored(VOLUME).await;
        assert_eq!((lines(&restored), had), (vec!["docker compose up -d".to_owned()], labels(&OF_VOLUME)));
    });
}

#[test]
fn another_tools_archive_becomes_a_volume_of_the_project_that_it_is_called_after() {
    run(async {
        let world = after_the_loss(&[], &[]).await;
        std::fs::write(world.root().join("compose.yaml"), "name: shop\nservices: {}\n").unwrap();
        let path = world.root().join("other.tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
        tar.append_path_with_name(world.root().join("compose.yaml"), "kept").unwrap();
        tar.finish().unwrap();
        let archive = Archive::Plain(path);
        let (restored, had) = world.restored_from(archive.clone(), "shop_db_data").await;
        assert_eq!((lines(&restored), had), (Vec::new(), labels(&OF_VOLUME[..2])));
        assert_eq!(world.restored_from(archive, "elsewhere").await.1, labels(&[]));
    });
}

#[test]
fn what_says_that_a_volume_is_nobodys_or_of_a_run_does_not_come_back() {
    run(async {
        let had = [("com.docker.volume.anonymous", ""), ("volsnap.run", "old"), ("owner", "ops")];
        let world = after_the_loss(&[], &had).await;
        assert_eq!(world.restored(VOLUME).await.1, labels(&[("owner", "ops")]));
    });
}

#[test]
fn where_a_service_has_answered_there_is_nothing_to_type_and_a_stopped_one_is_started() {
    run(async {
        let world = World::new(false).await;
        let TakeSnapshot(quiesce, capture) = TakeSnapshot::STOP_DIRECT;
        snapshot(&world.host, &world.snapshot_options(quiesce, capture), execute).await.unwrap();
        let restored = async || {
            restore(&world.host, &Restore::Origin.options(&world).await, execute).await.unwrap().unwrap()
        };
        assert_eq!(lines(&restored().await), [""; 0]);
        let stop = async |name: &str| {
            let patience = std::time::Duration::from_secs(60);
            world.engine.stop(name, None, volsnap::engine::Grace::Unlimited, patience).await.unwrap();
        };
        stop("db").await;
        stop("app").await;
        assert_eq!(lines(&restored().await), ["docker start db    # it did not run before"]);
    });
}
