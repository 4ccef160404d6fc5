//! Migrations: into a directory, and back.

use std::path::PathBuf;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use volsnap::Result;
use volsnap::docker::{Docker as _, MountKind};
use volsnap::facts::FactsLevel;
use volsnap::ops::migrate::{Confirm, Destination, MigrateOptions, MigratePlan, migrate};

use super::faults::{End, Scenario};
use super::restores::LATER;
use super::{DATA, HELPER, KEPT, World};

/// A volume becomes a directory, or a directory a volume again.
#[derive(Clone, Copy)]
pub(crate) enum Migrate {
    IntoDirectory,
    Back,
}

/// Says yes.
struct Yes;

#[async_trait::async_trait]
impl Confirm for Yes {
    async fn confirm(&self, _plan: &MigratePlan) -> Result<()> {
        Ok(())
    }
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
            environment: Default::default(),
            helper_image: Some(HELPER.to_owned()),
        };
        migrate(&self.host, &options, &Yes).await.map(drop)
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
    fn destination(self, world: &World) -> Destination {
        match self {
            Self::IntoDirectory => Destination::Directory(world.migrated()),
            Self::Back => Destination::Back { volume: None },
        }
    }
}

impl Scenario for Migrate {
    fn prepare<'w>(&'w self, world: &'w mut World) -> LocalBoxFuture<'w, ()> {
        async move {
            if let Self::Back = self {
                world.migrate(Self::IntoDirectory.destination(world)).await.unwrap();
                let volume = world.engine.remove_volume(DATA).await;
                volume.unwrap();
            }
            world.engine.insert("db", KEPT.0, &[LATER]).unwrap();
        }
        .boxed_local()
    }

    fn act<'w>(&'w self, world: &'w World) -> LocalBoxFuture<'w, Result<()>> {
        async { world.migrate(self.destination(world)).await }.boxed_local()
    }

    fn check<'w>(&'w self, world: &'w World, end: &'w End, context: &'w str) -> LocalBoxFuture<'w, ()> {
        async move {
            world.assert_services(context).await;
            let (volume, directory) = (world.engine.directory_of(DATA), world.migrated());
            let (old, new) = match self {
                Self::IntoDirectory => (volume, directory),
                Self::Back => (directory, volume),
            };
            let at = world.data_of("db").await;
            for name in ["app", "old"] {
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
            // The old data is kept, whatever comes of it.
            assert_eq!(world.rows(&old), rows, "{context}");
        }
        .boxed_local()
    }
}
