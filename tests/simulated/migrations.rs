//! Migrations: into a directory, and back.

use std::path::PathBuf;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use volsnap::Result;
use volsnap::engine::Docker as _;
use volsnap::model::container::MountKind;
use volsnap::model::facts::FactsLevel;
use volsnap::ops::execute;
use volsnap::ops::migrate::record::Migrations;
use volsnap::ops::migrate::{Destination, MigrateOptions, migrate};

use super::faults::{End, Scenario};
use super::restores::LATER;
use super::{COMPOSE_FILE, DATA, HELPER, KEPT, World};

/// A volume becomes a directory, or a directory a volume again.
#[derive(Clone, Copy)]
pub(crate) struct Migrate {
    to: To,
    is_composed: bool,
    sharer: Sharer,
}

/// Who shares the network of the database.
#[derive(Clone, Copy)]
enum Sharer {
    Nobody,
    /// A service of its project.
    Service,
    /// A container that Compose knows nothing of.
    Stranger,
    /// The same, and it mounts the data.
    User,
}

#[derive(Clone, Copy)]
enum To {
    Directory,
    Volume,
}

impl World {
    fn migrated(&self) -> PathBuf {
        self.elsewhere.path().join("migrated")
    }

    async fn migrate(&self, destination: Destination) -> Result<()> {
        let options = MigrateOptions {
            target: "db".parse().unwrap(),
            destination,
            override_file: false,
            owner: None,
            level: FactsLevel::Quick,
            stop_timeout: None,
            kills: Vec::new(),
            environment: Default::default(),
            helper_image: Some(HELPER.to_owned()),
        };
        migrate(&self.host, &options, execute).await.map(drop)
    }

    /// Returns where a container has its data, which is the one thing that it mounts.
    async fn data_of(&self, name: &str) -> PathBuf {
        let container = self.container(name).await;
        let [mount] = &container.mounts[..] else { panic!("{name} mounts {:?}", container.mounts) };
        assert!(matches!(mount.kind, MountKind::Volume | MountKind::Bind));
        mount.source.clone()
    }
}

impl Migrate {
    pub(crate) fn into_directory(is_composed: bool) -> Self {
        Self { to: To::Directory, is_composed, sharer: Sharer::Nobody }
    }

    pub(crate) fn back(is_composed: bool) -> Self {
        Self { to: To::Volume, is_composed, sharer: Sharer::Nobody }
    }

    /// The same with a service of the project that shares the network of the database.
    pub(crate) fn beside_a_service(self) -> Self {
        Self { sharer: Sharer::Service, ..self }
    }

    /// The same with a container that shares the network of the database, and that Compose has not made.
    pub(crate) fn beside_a_stranger(self) -> Self {
        Self { sharer: Sharer::Stranger, ..self }
    }

    /// The same with one that mounts the data, too.
    pub(crate) fn beside_a_user(self) -> Self {
        Self { sharer: Sharer::User, ..self }
    }
}

impl To {
    fn destination(self, world: &World) -> Destination {
        match self {
            Self::Directory => Destination::Directory(world.migrated()),
            Self::Volume => Destination::Back { volume: None },
        }
    }
}

impl Scenario for Migrate {
    fn prepare<'w>(&'w self, world: &'w mut World) -> LocalBoxFuture<'w, ()> {
        async move {
            match self.sharer {
                Sharer::Nobody => {}
                Sharer::Service => world.add_sharer(true).await,
                Sharer::Stranger => world.add_sharer(false).await,
                Sharer::User => world.add_sharer_with_data().await,
            }
            if let To::Volume = self.to {
                world.migrate(To::Directory.destination(world)).await.unwrap();
                let volume = world.engine.remove_volume(DATA).await;
                volume.unwrap();
            }
            world.engine.insert("db", KEPT.0, &[LATER]).unwrap();
        }
        .boxed_local()
    }

    fn act<'w>(&'w self, world: &'w World) -> LocalBoxFuture<'w, Result<()>> {
        async { world.migrate(self.to.destination(world)).await }.boxed_local()
    }

    fn check<'w>(&'w self, world: &'w World, end: &'w End, context: &'w str) -> LocalBoxFuture<'w, ()> {
        async move {
            world.assert_services(context).await;
            let (volume, directory) = (world.engine.directory_of(DATA), world.migrated());
            let (old, new) = match self.to {
                To::Directory => (volume, directory),
                To::Volume => (directory, volume),
            };
            let at = world.data_of("db").await;
            let users = match self.sharer {
                Sharer::User => &["app", "old", "side"][..],
                _ => &["app", "old"],
            };
            for name in users {
                assert_eq!(world.data_of(name).await, at, "{context}: {name} has other data than db");
            }
            assert!(at == old || at == new, "{context}: {at:?}");
            match end {
                End::Done => assert_eq!(at, new, "{context}"),
                End::Failed(said) if said.contains("everything is as it was before") => {
                    assert_eq!(at, old, "{context}");
                }
                End::Failed(said) if said.contains("the service runs on the copy") => {
                    assert_eq!(at, new, "{context}");
                }
                End::Failed(_) | End::Died => {}
            }
            let rows: Vec<_> = KEPT.1.into_iter().chain([LATER]).collect();
            assert_eq!(world.rows(&at), rows, "{context}");
            if self.is_composed {
                let text = std::fs::read_to_string(world.compose_file()).unwrap();
                let in_volume = at == world.engine.directory_of(DATA);
                assert_eq!(
                    text.contains(world.migrated().to_str().unwrap()),
                    !in_volume,
                    "{context}: {text}"
                );
                if in_volume {
                    assert_eq!(text, COMPOSE_FILE, "{context}");
                }
                if let (To::Directory, true) = (self.to, in_volume) {
                    let files = std::fs::read_dir(world.compose_file().parent().unwrap()).unwrap().count();
                    assert_eq!(files, 1, "{context}: a file was left beside the compose file");
                }
            }
            // The way back is known exactly where there is one.
            let records = Migrations::out_of(&world.state(), DATA).unwrap();
            assert_eq!(records.len(), usize::from(at == world.migrated()), "{context}: {records:?}");
            // The old data is kept, whatever comes of it.
            assert_eq!(world.rows(&old), rows, "{context}");
        }
        .boxed_local()
    }

    fn is_composed(&self) -> bool {
        self.is_composed
    }
}
