//! The verbs, each as it is done to the world's service.

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use volsnap::Result;
use volsnap::archive::Codec;
use volsnap::database::native::MaxRate;
use volsnap::model::facts::FactsLevel;
use volsnap::model::manifest::{Consistency, Quiesce};
use volsnap::ops::execute;
use volsnap::ops::plan::CaptureChoice;
use volsnap::ops::snapshot::{SnapshotOptions, snapshot};

use super::faults::{End, Scenario};
use super::{DATA, HELPER, KEPT, World};

impl World {
    pub(crate) fn snapshot_options(&self, quiesce: Quiesce, capture: CaptureChoice) -> SnapshotOptions {
        SnapshotOptions {
            repository: self.repository(),
            target: "db".parse().unwrap(),
            quiesce,
            capture,
            keep_stage: false,
            codec: Codec::default(),
            stop_timeout: None,
            kills: Vec::new(),
            max_downtime: None,
            max_rate: MaxRate::default(),
            allow_crash_consistent: false,
            facts: FactsLevel::Quick,
            tags: Default::default(),
            exclude: Vec::new(),
            helper_image: Some(HELPER.to_owned()),
        }
    }
}

/// A snapshot, by one of its methods.
pub(crate) struct TakeSnapshot(pub(crate) Quiesce, pub(crate) CaptureChoice);

impl TakeSnapshot {
    pub(crate) const STOP_DIRECT: Self = Self(Quiesce::Stop, CaptureChoice::Direct);
    pub(crate) const STOP_STAGED: Self = Self(Quiesce::Stop, CaptureChoice::Staged);
    pub(crate) const PAUSE: Self = Self(Quiesce::Pause, CaptureChoice::Staged);
    pub(crate) const ONLINE: Self = Self(Quiesce::Native, CaptureChoice::Auto);

    fn consistency(&self) -> Consistency {
        match self.0 {
            Quiesce::Stop => Consistency::Clean,
            Quiesce::Pause => Consistency::CrashConsistent,
            Quiesce::Native => Consistency::Online,
            Quiesce::None => Consistency::Unquiesced,
        }
    }
}

impl Scenario for TakeSnapshot {
    fn act<'w>(&'w self, world: &'w World) -> LocalBoxFuture<'w, Result<()>> {
        async { snapshot(&world.host, &world.snapshot_options(self.0, self.1), execute).await.map(drop) }
            .boxed_local()
    }

    fn check<'w>(&'w self, world: &'w World, end: &'w End, context: &'w str) -> LocalBoxFuture<'w, ()> {
        async move {
            world.assert_in_order(&[DATA], context).await;
            assert_eq!(world.rows(&world.engine.directory_of(DATA)), KEPT.1, "{context}");
            let snapshots = world.whole_snapshots(context).await;
            let expected: &[usize] = match end {
                End::Done => &[1],
                End::Failed(said) if said.contains("is published") => &[1],
                End::Failed(_) => &[0],
                End::Died => &[0, 1],
            };
            assert!(expected.contains(&snapshots.len()), "{context}: {} snapshots", snapshots.len());
            for snapshot in snapshots {
                assert_eq!(snapshot.manifest.consistency, self.consistency(), "{context}");
            }
        }
        .boxed_local()
    }
}
