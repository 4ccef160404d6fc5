//! Restarts, drills, and recovering from a run that died.

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use volsnap::Result;
use volsnap::engine::failing::Mode;
use volsnap::model::facts::FactsLevel;
use volsnap::model::manifest::Quiesce;
use volsnap::ops::drill::{DrillOptions, drill};
use volsnap::ops::execute;
use volsnap::ops::plan::CaptureChoice;
use volsnap::ops::recover::recover;
use volsnap::ops::restart::{RestartOptions, restart};
use volsnap::saga::RetryBudget;

use super::faults::{End, Scenario, drive};
use super::verbs::TakeSnapshot;
use super::{DATA, HELPER, KEPT, World};

/// A restart, perhaps with a snapshot on the way, or with Compose making the containers anew.
#[derive(Clone, Copy)]
pub(crate) struct Restart {
    with_snapshot: bool,
    recreates: bool,
    /// With a service that shares the network of the database, and Compose of that version.
    beside_a_sharer: Option<Version>,
}

/// A version of Compose.
#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

impl Restart {
    pub(crate) const PLAIN: Self = Self { with_snapshot: false, recreates: false, beside_a_sharer: None };
    pub(crate) const WITH_SNAPSHOT: Self = Self { with_snapshot: true, ..Self::PLAIN };
    pub(crate) const RECREATED: Self = Self { recreates: true, ..Self::PLAIN };
    pub(crate) const RECREATED_WITH_SNAPSHOT: Self = Self { with_snapshot: true, ..Self::RECREATED };
    pub(crate) const PLAIN_BESIDE_A_SHARER: Self =
        Self { beside_a_sharer: Some(Version::Two), ..Self::PLAIN };
    pub(crate) const RECREATED_BESIDE_A_SHARER: Self =
        Self { beside_a_sharer: Some(Version::Two), ..Self::RECREATED };
    pub(crate) const RECREATED_BESIDE_A_SHARER_BY_THE_FIRST: Self =
        Self { beside_a_sharer: Some(Version::One), ..Self::RECREATED };
}

impl Scenario for Restart {
    fn prepare<'w>(&'w self, world: &'w mut World) -> LocalBoxFuture<'w, ()> {
        async {
            let Some(version) = self.beside_a_sharer else { return };
            world.has_first_compose = matches!(version, Version::One);
            world.add_sharer(self.recreates).await;
        }
        .boxed_local()
    }

    fn act<'w>(&'w self, world: &'w World) -> LocalBoxFuture<'w, Result<()>> {
        async {
            let snapshot = world.snapshot_options(Quiesce::Stop, CaptureChoice::Staged);
            let options = RestartOptions {
                target: "db".parse().unwrap(),
                repository: world.repository(),
                level: FactsLevel::Quick,
                snapshot: self.with_snapshot.then_some(snapshot),
                recreate: self.recreates,
                checks: None,
                stop_timeout: None,
                kills: Vec::new(),
                helper_image: Some(HELPER.to_owned()),
            };
            let report = restart(&world.host, &options, execute).await?.unwrap();
            assert!(report.ok || world.is_armed, "{report:?}");
            Ok(())
        }
        .boxed_local()
    }

    fn check<'w>(&'w self, world: &'w World, end: &'w End, context: &'w str) -> LocalBoxFuture<'w, ()> {
        async move {
            world.assert_in_order(&[DATA], context).await;
            assert_eq!(world.rows(&world.engine.directory_of(DATA)), KEPT.1, "{context}");
            let taken = world.whole_snapshots(context).await.len();
            let most = usize::from(self.with_snapshot);
            assert!(taken <= most, "{context}: {taken} snapshots");
            if matches!(end, End::Done) {
                assert_eq!(taken, most, "{context}");
            }
        }
        .boxed_local()
    }

    fn is_composed(&self) -> bool {
        self.recreates
    }
}

/// A snapshot is booted.
pub(crate) struct Drill;

impl Scenario for Drill {
    fn prepare<'w>(&'w self, world: &'w mut World) -> LocalBoxFuture<'w, ()> {
        async { TakeSnapshot::STOP_DIRECT.act(world).await.unwrap() }.boxed_local()
    }

    fn act<'w>(&'w self, world: &'w World) -> LocalBoxFuture<'w, Result<()>> {
        async {
            let options = DrillOptions {
                helper_image: Some(HELPER.to_owned()),
                ..DrillOptions::new(&world.repository())
            };
            let report = drill(&world.host, &mut world.first_snapshot().await, &options).await?;
            assert!(report.ok || world.is_armed, "{report:?}");
            Ok(())
        }
        .boxed_local()
    }

    fn check<'w>(&'w self, world: &'w World, end: &'w End, context: &'w str) -> LocalBoxFuture<'w, ()> {
        async move {
            world.assert_in_order(&[DATA], context).await;
            let snapshots = world.whole_snapshots(context).await;
            let [snapshot] = &snapshots[..] else { panic!("{context}: {} snapshots", snapshots.len()) };
            if context == "undisturbed" {
                assert!(snapshot.verified.iter().all(|one| one.ok), "{context}: {:?}", snapshot.verified);
            }
            match end {
                End::Done => assert_eq!(snapshot.verified.len(), 1, "{context}"),
                End::Failed(_) => assert!(snapshot.verified.is_empty(), "{context}"),
                End::Died => {}
            }
        }
        .boxed_local()
    }
}

/// Somebody recovers after a staged snapshot has died with everything stopped.
pub(crate) struct Recover;

impl Scenario for Recover {
    fn prepare<'w>(&'w self, world: &'w mut World) -> LocalBoxFuture<'w, ()> {
        async {
            world.arm(None);
            // The database is the second that is stopped.
            world.failing.fail_nth("stop", 2, Mode::KillAfter);
            let ended = drive(world, TakeSnapshot::STOP_STAGED.act(world)).await;
            assert!(ended.is_none());
        }
        .boxed_local()
    }

    fn act<'w>(&'w self, world: &'w World) -> LocalBoxFuture<'w, Result<()>> {
        async { recover(&world.host, RetryBudget::COMMAND).await.map(drop) }.boxed_local()
    }

    fn check<'w>(&'w self, world: &'w World, _end: &'w End, context: &'w str) -> LocalBoxFuture<'w, ()> {
        async move {
            world.assert_in_order(&[DATA], context).await;
            assert_eq!(world.rows(&world.engine.directory_of(DATA)), KEPT.1, "{context}");
            assert!(world.whole_snapshots(context).await.is_empty(), "{context}");
        }
        .boxed_local()
    }

    fn may_leave_journal(&self) -> bool {
        true
    }
}
