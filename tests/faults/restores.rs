//! Each call to the engine fails during a restore, before its effect, after it, or for good: what was there is
//! there to the byte, or what was restored is, and the service runs.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;
use volsnap::engine::failing::{Call, Mode};
use volsnap::ops::execute;
use volsnap::ops::recover::{recover, unfinished};
use volsnap::ops::restore::{Archive, Destination, Force, RestoreOptions, Restored, restore};
use volsnap::ops::snapshot::snapshot;
use volsnap::repository::Snapshot;
use volsnap::saga::RetryBudget;
use volsnap::{Error, ErrorKind, Result};

use crate::deep::sampled;
use crate::small::{Service, Tree};
use crate::stage::Stage;

/// Far more than any of these runs takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// Says yes.
/// A service with its first data in a snapshot, and its second data in place.
pub(crate) struct Scene {
    pub(crate) service: Service,
    base: Stage,
    pub(crate) snapshot: Snapshot,
    pub(crate) first: Tree,
    pub(crate) second: Tree,
}

impl Scene {
    async fn new() -> Self {
        Self::of(Service::start().await).await
    }

    pub(crate) async fn of(service: Service) -> Self {
        let base = Stage::new().await.with_helper_image().await;
        let first = service.tree();
        let options = base.options_of(&service.target);
        let snapshot = snapshot(&base.host, &options, execute).await.unwrap().unwrap();
        let mut scene = Self { service, base, snapshot, first, second: Tree::new() };
        scene.again();
        scene
    }

    /// Puts the second data in place.
    pub(crate) fn again(&mut self) {
        self.service.fill("second");
        self.second = self.service.tree();
    }

    pub(crate) fn options(&self, stage: &Stage) -> RestoreOptions {
        RestoreOptions {
            repository: stage.volsnap.repository(),
            archive: Archive::Snapshot(Box::new(self.snapshot.clone())),
            destination: Destination::Origin,
            owner: None,
            force: Force::default(),
            safety: true,
            keep_slots: false,
            stop_timeout: None,
            kills: Vec::new(),
            helper_image: None,
        }
    }

    pub(crate) async fn restore(&self, stage: &Stage) -> Result<Restored> {
        Ok(timeout(LIMIT, restore(&stage.host, &self.options(stage), execute)).await.unwrap()?.unwrap())
    }

    /// The service runs on one of the two, whole; returns whether it is what was restored.
    #[track_caller]
    pub(crate) fn assert_one_of_two(&self, context: &str) -> bool {
        let is_new = self.service.root.join("only first").exists();
        self.service.assert_runs_on(if is_new { &self.first } else { &self.second }, context);
        is_new
    }

    /// What was replaced is in the repository of the run, and can be had back; `options` as there is room.
    pub(crate) async fn assert_kept(&self, stage: &Stage, context: &str, options: &[&str]) {
        let listed = stage.volsnap.list();
        assert_eq!(listed.len(), 1, "{context}: {listed:?}");
        assert_eq!(listed[0]["tags"]["safety"], "true", "{context}");
        let arguments = ["restore", "latest", "-y"].iter().chain(options);
        let _ = stage.volsnap.run(arguments.copied()).expect(0);
    }
}

/// Which of its method's calls each call is.
fn places(calls: &[Call]) -> Vec<(&'static str, usize)> {
    let mut counts = BTreeMap::new();
    let count = |call: &Call| {
        let nth = counts.entry(call.name).or_insert(0);
        *nth += 1;
        (call.name, *nth)
    };
    calls.iter().map(count).collect()
}

/// Returns the calls of which none is asked again and again: of those the first and the last.
pub(crate) fn ends_of_runs(calls: &[Call]) -> Vec<(&'static str, usize)> {
    let name = |at: usize| calls.get(at).map(|call| call.name);
    let is_end = |at: usize| at == 0 || name(at - 1) != name(at) || name(at + 1) != name(at);
    places(calls).into_iter().enumerate().filter(|(at, _)| is_end(*at)).map(|(_, place)| place).collect()
}

/// Waits until nothing is left to be done: by the guard, or by `recover`.
pub(crate) async fn await_finished(stage: &Stage, context: &str) {
    let begun = std::time::Instant::now();
    loop {
        let open = unfinished(&stage.host.saga.state).unwrap();
        match open.as_slice() {
            [] => return,
            [run] if !run.held && begun.elapsed().as_secs() > 5 => {
                let _ = stage.volsnap.run(["recover"]).expect(0);
            }
            _ => {}
        }
        assert!(begun.elapsed() < LIMIT, "{context}: unfinished: {open:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A failure says what was being done, and in which state things are.
#[track_caller]
fn assert_speaks(error: &Error, is_new: bool, context: &str) {
    assert!(error.chain().contains("injected failure"), "{context}: {}", error.chain());
    let state = error.state_text().unwrap_or_default();
    assert!(!is_new && error.kind() == ErrorKind::Failed, "{context}: {state}");
    assert!(state.contains("the data is what it was before"), "{context}: {state}");
}

/// The calls that do something.
const HAVE_EFFECTS: &[&str] =
    &["create_container", "attach", "start", "stop", "remove_container", "import_image"];

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_restore_that_fails_or_whose_answer_is_lost_leaves_the_old_or_the_new() {
    let mut scene = Scene::new().await;
    let recorded = Stage::new().await;
    scene.restore(&recorded).await.unwrap();
    assert!(scene.assert_one_of_two("undisturbed"));
    scene.assert_kept(&recorded, "undisturbed", &["--no-safety"]).await;
    let (mut failed, mut survived) = (0, Vec::new());
    // The lost answer to a question is a question that was never asked.
    let modes = |(name, nth)| match HAVE_EFFECTS.contains(&name) {
        true => vec![(Mode::Before, name, nth), (Mode::After, name, nth)],
        false => vec![(Mode::Before, name, nth)],
    };
    let all: Vec<_> = ends_of_runs(&recorded.docker.calls()).into_iter().flat_map(modes).collect();
    for (mode, name, nth) in sampled(all, 6) {
        let context = format!("{mode:?} {name} {nth}");
        println!("{context}");
        scene.again();
        let stage = Stage::new().await;
        stage.docker.fail_nth(name, nth, mode);
        let outcome = scene.restore(&stage).await;
        await_finished(&stage, &context).await;
        let is_new = scene.assert_one_of_two(&context);
        match outcome {
            Ok(_) => {
                assert!(is_new, "{context}: it is said to be restored");
                survived.push(context.clone());
            }
            Err(error) => {
                assert_speaks(&error, is_new, &context);
                failed += 1;
            }
        }
        stage.volsnap.assert_no_leftovers();
        assert_eq!(stage.volsnap.repository_files().len(), if is_new { 3 } else { 0 }, "{context}");
    }
    println!("{failed} failed, survived: {survived:?}");
    assert!(failed >= 3, "{failed}");
    scene.base.volsnap.assert_no_leftovers();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_lost_at_any_step_is_survived_by_the_guard() {
    let mut scene = Scene::new().await;
    for step in ["swap-in", "confirm", "safety"] {
        scene.again();
        let mut stage = Stage::new().await;
        stage.host.saga.budget = RetryBudget(Duration::from_secs(1));
        let engine = stage.docker.clone();
        stage.at(step, move || {
            let next = engine.calls().len() + 1;
            engine.fail_during(next..usize::MAX, Mode::Before);
        });
        let outcome = scene.restore(&stage).await;
        await_finished(&stage, step).await;
        let is_new = scene.assert_one_of_two(step);
        assert_eq!(stage.volsnap.repository_files().len(), if is_new { 3 } else { 0 }, "{step}");
        if let Err(error) = outcome {
            let unclear = error.kind() == ErrorKind::NotPutBack && error.hint_text().is_some();
            assert!(unclear || !is_new, "{step}: {}", error.chain());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_stays_whole_until_recover_can_keep_it() {
    let scene = Scene::new().await;
    let stage = Stage::new().await;
    let repository = stage.volsnap.repository();
    let away = repository.with_extension("away");
    let (from, to) = (repository.clone(), away.clone());
    stage.at("safety", move || {
        std::fs::rename(&from, &to).unwrap();
        std::fs::write(&from, "in the way").unwrap();
    });
    let restored = scene.restore(&stage).await.unwrap();
    assert!(restored.safety.is_none() && restored.undo.is_none());
    let work = format!(".volsnap-work-{}", restored.plan.id);
    let old = scene.service.root.join(&work).join("old");
    let kept = || crate::small::differences(&crate::small::tree(&old), &scene.second);
    assert_eq!(kept(), Vec::<String>::new());
    // The guard tries first, and fails as well.
    let begun = std::time::Instant::now();
    let refused = loop {
        let ran = stage.volsnap.run(["recover"]);
        if ran.code() == Some(4) {
            break ran;
        }
        assert!(ran.stdout().contains("at work") && begun.elapsed() < LIMIT, "{}", ran.stdout());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    refused.refused(4, &[&work, "volsnap recover", &repository.to_string_lossy()]);
    assert_eq!(kept(), Vec::<String>::new());

    std::fs::remove_file(&repository).unwrap();
    std::fs::rename(&away, &repository).unwrap();
    assert_eq!(recover(&stage.host, RetryBudget::COMMAND).await.unwrap().len(), 1);
    scene.service.assert_runs_on(&scene.first, "recovered");
    stage.volsnap.assert_no_leftovers();
    scene.assert_kept(&stage, "recovered", &["--no-safety"]).await;
    scene.service.assert_runs_on(&scene.second, "undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_at_a_random_moment_leaves_the_old_or_the_new_whole_and_running() {
    let mut scene = Scene::new().await;
    let archive = scene.snapshot.archive_path();
    let (stage, begun) = (Stage::new().await, std::time::Instant::now());
    let command = |stage: &Stage| stage.volsnap.command(["restore", archive.to_str().unwrap(), "-y"]);
    assert!(command(&stage).status().unwrap().success());
    let whole = u64::try_from(begun.elapsed().as_millis()).unwrap();
    for seed in [0x9e37_79b9_u64, 7, 1_234_567, 0xdead_beef, 42, 3_141_592_653] {
        scene.again();
        let stage = Stage::new().await;
        let mut child = command(&stage).spawn().unwrap();
        // splitmix64
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let moment = (mixed ^ (mixed >> 27)) % whole;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let context = format!("seed {seed}: killed after {moment} of {whole} ms");
        println!("{context}");
        await_finished(&stage, &context).await;
        let is_new = scene.assert_one_of_two(&context);
        if is_new {
            scene.assert_kept(&stage, &context, &["--no-safety"]).await;
            scene.service.assert_runs_on(&scene.second, &context);
        }
        stage.volsnap.assert_no_leftovers();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_archive_is_refused_wherever_it_is_damaged_with_the_live_data_untouched() {
    let mut scene = Scene::new().await;
    let stage = Stage::new().await;
    let archive = scene.snapshot.archive_path();
    let whole = std::fs::read(&archive).unwrap();
    let length = whole.len();
    // Headers and ends, frames, data, cut there or with a bit flipped.
    let mut was_restored = false;
    let places = (0..64).step_by(3).map(|part| length * part / 64).chain([
        1,
        4,
        9,
        length - 1,
        length - 5,
        length - 12,
    ]);
    for (number, at) in places.enumerate() {
        let mut damaged = whole.clone();
        if number % 2 == 0 {
            damaged.truncate(at);
        } else {
            damaged[at] ^= 1 << (number % 8);
        }
        std::fs::write(&archive, damaged).unwrap();
        let error = match scene.restore(&stage).await {
            Err(error) => error,
            // A bit in a frame's header may say only how much memory to unpack it in: then every file was proved to be
            // what it was, and that is what the service runs on.
            Ok(_) if number % 2 == 1 => {
                scene.service.assert_runs_on(&scene.first, &format!("{number} at {at}"));
                scene.again();
                was_restored = true;
                continue;
            }
            Ok(_) => panic!("{number}: cut at {at} of {length}, and restored"),
        };
        let context = format!("{number} at {at}: {}", error.chain());
        assert!(matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Failed), "{context}");
        assert!(error.state_text().unwrap().contains("nothing was stopped"), "{context}");
    }
    std::fs::write(&archive, &whole).unwrap();
    scene.service.assert_runs_on(&scene.second, "the archive was damaged");
    assert!(was_restored || stage.volsnap.repository_files().is_empty());
    let base = &scene.base.volsnap;

    // The list and the manifest are read before anything else is.
    let name = archive.to_str().unwrap().strip_suffix(".tar.zst").unwrap().to_owned();
    for file in [format!("{name}.files.jsonl.zst"), format!("{name}.json")] {
        let whole = std::fs::read(&file).unwrap();
        for part in (0..64).step_by(2) {
            let (at, mut damaged) = (whole.len() * part / 64, whole.clone());
            if part % 4 == 0 {
                damaged.truncate(at);
            } else {
                damaged[at] ^= 1 << (part % 8);
            }
            std::fs::write(&file, damaged).unwrap();
            let ran = base.run(["restore", "latest", "-y"]);
            assert!(matches!(ran.code(), Some(1..=3)), "{file} at {at}: {:?} {}", ran.code(), ran.stderr());
        }
        std::fs::write(&file, &whole).unwrap();
    }
    // The files of two snapshots, one for the other.
    scene.service.fill("third");
    let third = scene.service.tree();
    let other = snapshot(&scene.base.host, &scene.base.options_of(&scene.service.target), execute)
        .await
        .unwrap()
        .unwrap();
    for suffix in [".tar.zst", ".files.jsonl.zst"] {
        let path = |snapshot: &Snapshot| {
            let archive = snapshot.archive_path();
            format!("{}{suffix}", archive.to_str().unwrap().strip_suffix(".tar.zst").unwrap())
        };
        let kept = std::fs::read(path(&scene.snapshot)).unwrap();
        std::fs::copy(path(&other), path(&scene.snapshot)).unwrap();
        let ran = base.run(["restore", scene.snapshot.manifest.id.as_str(), "-y"]);
        assert!(matches!(ran.code(), Some(1 | 3)), "{suffix}: {:?} {}", ran.code(), ran.stderr());
        std::fs::write(path(&scene.snapshot), kept).unwrap();
    }
    scene.service.assert_runs_on(&third, "list, manifest and files were damaged");
    base.assert_no_leftovers();
    assert_eq!(base.list().len(), 2);
    let _ = base.run(["restore", scene.snapshot.manifest.id.as_str(), "-y"]).expect(0);
    scene.service.assert_runs_on(&scene.first, "all is whole again");
}
