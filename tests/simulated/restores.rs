//! Restores: in place of the live data, into a new volume, into a new directory.

use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use volsnap::Result;
use volsnap::ops::restore::{Archive, Destination, Force, RestoreOptions, RestorePlan, restore};
use volsnap::ops::{Consent, execute};
use volsnap::repository::{Repository, Snapshot};

use super::faults::{End, Scenario};
use super::invariants::leftovers;
use super::verbs::TakeSnapshot;
use super::{DATA, HELPER, KEPT, World};

/// The row that the live data has and the snapshot has not.
pub(crate) const LATER: &str = "four";

/// Where a snapshot is restored to.
#[derive(Clone, Copy)]
pub(crate) enum Restore {
    Origin,
    /// Where there is no room for both, so that the old data is removed before.
    InPlace,
    /// The same with an encrypted repository, whose key is elsewhere.
    InPlaceEncrypted,
    NewVolume,
    NewDirectory,
}

impl World {
    /// Returns the first snapshot.
    pub(crate) async fn first_snapshot(&self) -> Snapshot {
        let repository = Repository::open(&self.repository()).await.unwrap();
        let first = repository.snapshots(None).await.unwrap().snapshots.remove(0);
        match &self.key {
            Some(key) => first.open_with(&key.identities()).unwrap(),
            None => first,
        }
    }

    fn new_directory(&self) -> PathBuf {
        self.root().join("restored")
    }
}

impl Restore {
    fn destination(self, world: &World) -> Destination {
        match self {
            Self::Origin | Self::InPlace | Self::InPlaceEncrypted => Destination::Origin,
            Self::NewVolume => Destination::NewVolume("copy".to_owned()),
            Self::NewDirectory => Destination::Directory(world.new_directory()),
        }
    }

    pub(crate) async fn options(self, world: &World) -> RestoreOptions {
        RestoreOptions {
            repository: world.repository(),
            archive: Archive::Snapshot(Box::new(world.first_snapshot().await)),
            destination: self.destination(world),
            owner: None,
            force: Force::default(),
            safety: true,
            keep_slots: false,
            stop_timeout: None,
            kills: Vec::new(),
            helper_image: Some(HELPER.to_owned()),
        }
    }

    async fn plan(self, world: &World) -> RestorePlan {
        let mut shown = None;
        let look = async |plan: &RestorePlan| {
            shown = Some(plan.clone());
            Ok(Consent::Decline)
        };
        assert!(restore(&world.host, &self.options(world).await, look).await.unwrap().is_none());
        shown.unwrap()
    }

    /// Looks at what was made for the restored data: all of it is there, or nothing.
    fn check_made(end: &End, directory: &Path, world: &World, context: &str) {
        match end {
            End::Done => assert!(directory.exists(), "{context}: nothing was made"),
            End::Failed(_) => assert!(!directory.exists(), "{context}: something was left"),
            End::Died => {}
        }
        if directory.exists() {
            assert_eq!(world.rows(directory), KEPT.1, "{context}");
            assert_eq!(leftovers(directory), Vec::<PathBuf>::new(), "{context}");
        }
    }
}

impl Scenario for Restore {
    fn prepare<'w>(&'w self, world: &'w mut World) -> LocalBoxFuture<'w, ()> {
        async move {
            if let Self::InPlace | Self::InPlaceEncrypted = self {
                // On another disk than the data.
                std::fs::create_dir(world.elsewhere.path().join("repository")).unwrap();
            }
            if let Self::InPlaceEncrypted = self {
                world.encrypt().await;
            }
            TakeSnapshot::STOP_DIRECT.act(world).await.unwrap();
            world.engine.insert("db", KEPT.0, &[LATER]).unwrap();
            if let Self::InPlace | Self::InPlaceEncrypted = self {
                let plan = self.plan(world).await;
                world.engine.pretend_room(plan.needed_bytes - 1);
                assert!(self.plan(world).await.in_place);
            }
        }
        .boxed_local()
    }

    fn act<'w>(&'w self, world: &'w World) -> LocalBoxFuture<'w, Result<()>> {
        async { restore(&world.host, &self.options(world).await, execute).await.map(drop) }.boxed_local()
    }

    fn check<'w>(&'w self, world: &'w World, end: &'w End, context: &'w str) -> LocalBoxFuture<'w, ()> {
        async move {
            let copy = world.engine.directory_of("copy");
            let volumes: &[&str] = if copy.exists() { &["copy", DATA] } else { &[DATA] };
            world.assert_in_order(volumes, context).await;
            assert_eq!(leftovers(&world.root()), Vec::<PathBuf>::new(), "{context}");
            let snapshots = world.whole_snapshots(context).await;
            let rows = world.rows(&world.engine.directory_of(DATA));
            let old: Vec<_> = KEPT.1.into_iter().chain([LATER]).collect();
            let is_new = rows == KEPT.1;
            assert!(is_new || rows == old, "{context}: {rows:?}");
            match self {
                Self::Origin | Self::InPlace | Self::InPlaceEncrypted => {
                    match end {
                        End::Done => assert!(is_new, "{context}"),
                        End::Failed(said) if said.contains("the data is what it was before") => {
                            assert!(!is_new, "{context}");
                        }
                        End::Failed(said) if said.contains("the restored data stays") => {
                            assert!(is_new, "{context}");
                        }
                        End::Failed(_) | End::Died => {}
                    }
                    // What was replaced is kept; where there is no room for both, before it is.
                    let kept = snapshots.len() == 2;
                    let may_be_kept = matches!(self, Self::InPlace | Self::InPlaceEncrypted);
                    assert!(
                        kept == is_new || kept && may_be_kept,
                        "{context}: {} snapshots",
                        snapshots.len()
                    );
                    return;
                }
                Self::NewVolume => Self::check_made(end, &copy, world, context),
                Self::NewDirectory => Self::check_made(end, &world.new_directory(), world, context),
            }
            assert!(!is_new, "{context}: the live data was touched");
            assert_eq!(snapshots.len(), 1, "{context}");
        }
        .boxed_local()
    }
}
