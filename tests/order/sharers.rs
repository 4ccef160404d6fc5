//! Who shares something of a database that is made anew, in states that are seldom.

use std::sync::Arc;

use volsnap::engine::Docker as _;
use volsnap::engine::own::OwnContainer;
use volsnap::model::container::{Container, Mount, MountKind};
use volsnap::selector::Bystanders;

use crate::simulated::faults::Scenario as _;
use crate::simulated::migrations::Migrate;
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{World, run};

impl World {
    /// Adds a container beside the database; its owners are called by their names here.
    async fn add(&self, name: &str, edit: impl FnOnce(&mut Container), runs: bool) -> String {
        let mut container =
            Container { name: name.to_owned(), image: "app:1".to_owned(), ..Container::default() };
        edit(&mut container);
        for mode in [&mut container.network_mode, &mut container.pid_mode] {
            if let Some(owner) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.container(owner).await.id);
            }
        }
        let id = self.engine.add(container).unwrap();
        if runs {
            self.engine.start(&id).await.unwrap();
        }
        id
    }

    fn ignore(&mut self, name: &str) {
        self.host.bystanders = Bystanders { ignore: vec![name.to_owned()], ..Bystanders::default() };
    }
}

const MIGRATION: fn() -> Migrate = || Migrate::into_directory(true);

#[test]
fn who_shares_something_of_one_that_is_left_alone_keeps_it() {
    run(async {
        let mut world = World::new(true).await;
        world.add("left", |one| one.network_mode = "container:db".to_owned(), true).await;
        let third = world.add("third", |one| one.network_mode = "container:left".to_owned(), true).await;
        let before = world.container("third").await;
        world.ignore("left");
        MIGRATION().act(&world).await.unwrap();
        assert_eq!(world.container(&third).await, before);
    });
}

#[test]
fn who_is_left_alone_ends_only_with_the_processes_that_it_is_among() {
    run(async {
        let mut world = World::new(true).await;
        world.add("other", |_| (), true).await;
        let edit = |one: &mut Container| {
            one.network_mode = "container:db".to_owned();
            one.pid_mode = "container:other".to_owned();
        };
        let left = world.add("left", edit, true).await;
        let before = world.container("left").await;
        world.ignore("left");
        MIGRATION().act(&world).await.unwrap();
        assert_eq!(world.container(&left).await, before, "nobody stops it");
    });
}

#[test]
fn one_of_a_service_that_the_files_have_no_more_shares_the_network_all_the_same() {
    run(async {
        let world = World::new(true).await;
        let labels = world.labels("dropped");
        let edit = |one: &mut Container| {
            one.network_mode = "container:db".to_owned();
            one.labels = labels;
        };
        world.add("dropped", edit, false).await;
        MIGRATION().act(&world).await.unwrap();
        let (db, dropped) = (world.container("db").await, world.container("dropped").await);
        assert_eq!(dropped.network_mode, format!("container:{}", db.id));
        assert!(!dropped.state.running, "it did not run");
    });
}

#[test]
fn a_command_on_the_network_of_the_database_is_refused_only_what_would_end_it() {
    run(async {
        let mut world = World::new(true).await;
        let own = world.add("own", |one| one.network_mode = "container:db".to_owned(), true).await;
        let mut own = world.container(&own).await;
        // Everything that it writes is on the host.
        own.mounts = vec![Mount {
            kind: MountKind::Bind,
            source: "/".into(),
            destination: "/".into(),
            ..Mount::default()
        }];
        world.host.own = Some(Arc::new(OwnContainer::of(own)));
        world.arm(None);
        TakeSnapshot::ONLINE.act(&world).await.unwrap();
    });
}
