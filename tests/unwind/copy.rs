//! Copies into a second repository: what is copied, what is left out, and what one that dies or fails leaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use volsnap::ErrorKind;
use volsnap::clock::Clock;
use volsnap::model::event::{Event, Monitor};
use volsnap::ops::Context;
use volsnap::ops::copy::{CopyOptions, CopyReport, copy};
use volsnap::ops::recover::{recover, unfinished};
use volsnap::repository::{Repository, Snapshot};
use volsnap::saga::RetryBudget;

use crate::simulated::faults::Scenario as _;
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{World, run};

/// Snapshots that are taken a minute apart.
async fn world_with(snapshots: usize) -> World {
    let world = World::new(false).await;
    for _ in 0..snapshots {
        TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    world
}

fn second(world: &World) -> PathBuf {
    world.elsewhere.path().join("second")
}

fn options(world: &World, what: &[&str]) -> CopyOptions {
    CopyOptions {
        from: world.repository(),
        to: second(world),
        what: what.iter().map(|word| (*word).to_owned()).collect(),
        project: None,
        all: false,
        init: true,
        dry_run: false,
        encrypt_to: None,
        identities: None,
    }
}

async fn copied(world: &World, what: &[&str]) -> CopyReport {
    copy(&world.host, &options(world, what)).await.unwrap()
}

async fn listed(repository: &Path) -> Vec<Snapshot> {
    let listing = Repository::open(repository).await.unwrap().snapshots(None).await.unwrap();
    assert!(listing.unreadable.is_empty() && listing.incomplete.is_empty(), "{listing:?}");
    listing.snapshots
}

async fn names(repository: &Path) -> Vec<String> {
    listed(repository).await.iter().map(Snapshot::name).collect()
}

fn nothing_is_left(world: &World) {
    assert!(unfinished(&world.state()).unwrap().is_empty());
    for repository in [world.repository(), second(world)] {
        let running = std::fs::read_dir(repository.join("running")).unwrap();
        assert_eq!(running.count(), 0, "{} is told of a run that has ended", repository.display());
    }
}

/// Tells how often a step was reached.
#[derive(Default)]
struct Steps {
    step: &'static str,
    reached: AtomicUsize,
    told: tokio::sync::Notify,
    wanted: usize,
}

impl Monitor for Steps {
    fn event(&self, _event: Event) {}

    fn step(&self, step: &'static str) {
        if step == self.step && self.reached.fetch_add(1, Ordering::SeqCst) + 1 == self.wanted {
            self.told.notify_one();
        }
    }
}

#[test]
fn what_is_new_is_copied_once_and_is_the_same_there() {
    run(async {
        let world = world_with(2).await;
        let here = names(&world.repository()).await;
        assert_eq!(copied(&world, &[]).await.copied, here);
        let (from, to) = (listed(&world.repository()).await, listed(&second(&world)).await);
        for (from, to) in from.iter().zip(&to) {
            assert_eq!(from.manifest, to.manifest);
            let bytes = |snapshot: &Snapshot| std::fs::read(snapshot.archive_path()).unwrap();
            assert_eq!(bytes(from), bytes(to));
        }
        let again = copied(&world, &[]).await;
        assert_eq!((again.copied.len(), again.there), (0, here));
        TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap();
        assert_eq!(copied(&world, &["db"]).await.copied.len(), 1);
        assert_eq!(names(&second(&world)).await, names(&world.repository()).await);
        nothing_is_left(&world);
        assert!(world.answers("db").await);
    });
}

#[test]
fn what_was_removed_there_comes_back_only_by_its_name_or_with_all() {
    run(async {
        let world = world_with(3).await;
        let here = names(&world.repository()).await;
        let (_, first) = here[0].split_once('/').unwrap();
        assert_eq!(copied(&world, &["db/latest"]).await.copied, here[2..]);
        let left_out = copied(&world, &[]).await;
        assert_eq!((left_out.copied.len(), &left_out.older[..]), (0, &here[..2]));
        assert_eq!(copied(&world, &[first]).await.copied, here[..1]);
        let all = CopyOptions { all: true, ..options(&world, &[]) };
        assert_eq!(copy(&world.host, &all).await.unwrap().copied, here[1..2]);
    });
}

#[test]
fn a_dry_run_a_missing_repository_and_the_same_one_copy_nothing() {
    run(async {
        let world = world_with(1).await;
        let refused = async |options: CopyOptions| {
            let error = copy(&world.host, &options).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{}", error.chain());
            error.chain()
        };
        let not_made = CopyOptions { init: false, ..options(&world, &[]) };
        assert!(refused(not_made).await.contains("there is no repository"));
        assert!(!second(&world).exists());
        let same = CopyOptions { to: world.repository(), ..options(&world, &[]) };
        assert!(refused(same).await.contains("the same repository"));
        Repository::open_or_init(&second(&world), &Clock::system()).await.unwrap();
        assert!(refused(options(&world, &["nosuch"])).await.contains("nosuch"));
        let dry = CopyOptions { dry_run: true, ..options(&world, &[]) };
        assert_eq!(copy(&world.host, &dry).await.unwrap().copied.len(), 1);
        assert_eq!(names(&second(&world)).await.len(), 0);
    });
}

#[test]
fn a_damaged_archive_is_not_copied_and_holds_up_no_other() {
    run(async {
        let world = world_with(2).await;
        let here = listed(&world.repository()).await;
        let archive = here[0].archive_path();
        let mut bytes = std::fs::read(&archive).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&archive, bytes).unwrap();
        let report = copied(&world, &[]).await;
        assert!(report.damaged && report.failed.len() == 1, "{report:?}");
        assert!(report.failed[0].1.contains("damaged"), "{report:?}");
        assert_eq!(names(&second(&world)).await, [here[1].name()]);
        nothing_is_left(&world);
    });
}

#[test]
fn what_cannot_be_read_here_or_is_broken_there_is_named_and_never_called_there() {
    run(async {
        let world = world_with(3).await;
        let here = listed(&world.repository()).await;
        assert_eq!(copied(&world, &[]).await.copied.len(), 3);
        let there = listed(&second(&world)).await;
        let cut = std::fs::OpenOptions::new().write(true).open(there[2].archive_path()).unwrap();
        cut.set_len(10).unwrap();
        // Its manifest is gone there, so it is one to be copied; here nobody can read it.
        let manifest = |snapshot: &Snapshot| {
            let archive = snapshot.archive_path().display().to_string();
            PathBuf::from(archive.strip_suffix(".tar.zst").unwrap().to_owned() + ".json")
        };
        std::fs::remove_file(manifest(&there[1])).unwrap();
        std::fs::write(manifest(&here[1]), "{").unwrap();
        let report = copied(&world, &[]).await;
        assert!(report.damaged && report.copied.is_empty(), "{report:?}");
        assert_eq!(report.there, [here[0].name()]);
        let failed: Vec<&String> = report.failed.iter().map(|(name, _)| name).collect();
        assert_eq!(failed, [&here[2].name(), &here[1].name()], "{report:?}");
        nothing_is_left(&world);
    });
}

#[test]
fn what_is_marked_for_deletion_is_copied_from_nowhere() {
    run(async {
        let world = world_with(2).await;
        let repository = Repository::open(&world.repository()).await.unwrap();
        let here = listed(&world.repository()).await;
        let (source, id) = (&here[0].manifest.source, &here[0].manifest.id);
        let now = world.host.clock.now();
        let deletion = volsnap::repository::Deletion::new(now, Duration::from_hours(24), true, Vec::new());
        repository.mark(source, id, &deletion).await.unwrap();
        assert_eq!(copied(&world, &[]).await.copied, [here[1].name()]);
        let named = copied(&world, &[id.as_str()]).await;
        assert!(named.failed[0].1.contains("marked for deletion"), "{named:?}");
        nothing_is_left(&world);
    });
}

#[test]
fn a_copy_that_is_killed_leaves_whole_snapshots_and_the_next_goes_on() {
    for (step, wanted) in [("copy", 1), ("copy", 2), ("copied", 1), ("copied", 2), ("copy", 3)] {
        run(async {
            let world = world_with(3).await;
            let here = names(&world.repository()).await;
            let steps = Arc::new(Steps { step, wanted, ..Steps::default() });
            let host = Context { monitor: steps.clone(), ..world.host.clone() };
            let all = options(&world, &[]);
            let mut dying = Box::pin(copy(&host, &all));
            tokio::select! {
                outcome = &mut dying => panic!("it was not killed: {outcome:?}"),
                () = steps.told.notified() => {}
            }
            // What its threads still do comes to an end by itself.
            drop(dying);
            tokio::time::sleep(Duration::from_secs(1)).await;
            recover(&world.host, RetryBudget::COMMAND).await.unwrap();
            let whole = names(&second(&world)).await;
            assert_eq!(whole, here[..whole.len()], "killed at {step} {wanted}");
            copied(&world, &[]).await;
            assert_eq!(names(&second(&world)).await, here, "killed at {step} {wanted}");
            assert!(unfinished(&world.state()).unwrap().is_empty());
            assert!(world.answers("db").await);
        });
    }
}
