//! A restore on a disk that is small: without room for two copies the data is replaced in place, and whatever
//! happens on the way, what was there is there again to the byte, or what was restored is, and the service runs.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal::SIGKILL;
use volsnap::ErrorKind;
use volsnap::ops::Consent;
use volsnap::ops::restore::{RestoreOptions, RestorePlan, restore};
use volsnap::saga::RetryBudget;

use crate::database::{Watched, steps_of};
use crate::deep::sampled;
use crate::restores::{LIMIT, Scene, await_finished};
use crate::small::Service;
use crate::small_disk::{SmallDisk, fill};
use crate::stage::Stage;

impl Scene {
    /// On a disk with so much room, with 40 MB of data.
    async fn on(disk: &SmallDisk) -> Self {
        let mut service = Service::start_in(&disk.data()).await;
        service.bulk = 40 << 20;
        service.fill("first");
        Self::of(service).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_two_copies_the_data_is_kept_first_and_replaced_in_place() {
    let Some(disk) = SmallDisk::ext4(140) else { return };
    let mut scene = Scene::on(&disk).await;
    let stage = Stage::new().await;
    let options = scene.options(&stage);
    let refused = plan_of(&stage, &RestoreOptions { safety: false, ..options.clone() }).await.unwrap_err();
    assert!(refused.chain().contains("MB free"), "{}", refused.chain());
    assert!(refused.hint_text().unwrap().contains("without --no-safety"), "{:?}", refused.hint_text());
    assert!(plan_of(&stage, &options).await.unwrap().in_place);
    scene.service.assert_runs_on(&scene.second, "only planned");

    let restored = scene.restore(&stage).await.unwrap();
    assert!(restored.plan.in_place && restored.safety.is_some());
    scene.service.assert_runs_on(&scene.first, "restored");
    stage.volsnap.assert_no_leftovers();
    let _ = stage.volsnap.run(["verify", "--all"]).expect(0);
    // The command that undoes it, which has no more room than this one had.
    let undo = restored.undo.unwrap().to_string();
    let _ = stage.volsnap.run(undo.split(' ').skip(1).chain(["-y"])).expect(0);
    scene.service.assert_runs_on(&scene.second, "undone");

    // The helper dies in the middle of it.
    for step in ["safety", "empty", "extract", "swap-in"] {
        scene.again();
        let stage = Stage::new().await;
        let container = scene.service.container.clone();
        stage.at(step, move || remove_helpers(&container));
        let error = scene.restore(&stage).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{step}: {}", error.chain());
        let state = error.state_text().unwrap();
        assert!(state.contains("the data is what it was before"), "{step}: {state}: {}", error.chain());
        scene.service.assert_runs_on(&scene.second, step);
        stage.volsnap.assert_no_leftovers();
    }
}

/// Removes the helpers that use what this container uses, by force.
fn remove_helpers(container: &str) {
    let source = "{{range .Mounts}}{{.Source}}{{end}}";
    let used = crate::world::docker(&["inspect", "--format", source, container]);
    let helpers = crate::world::docker(&["ps", "-aq", "--filter", "label=volsnap.run"]);
    for helper in helpers.split_whitespace() {
        let inspected =
            Command::new("docker").args(["inspect", "--format", source, helper]).output().unwrap();
        if String::from_utf8_lossy(&inspected.stdout).contains(&used) {
            let _ = Command::new("docker").args(["rm", "-f", helper]).output();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_in_place_killed_at_any_step_ends_in_the_old_or_the_new() {
    let Some(disk) = SmallDisk::ext4(140) else { return };
    let mut scene = Scene::on(&disk).await;
    let archive = scene.snapshot.archive_path();
    let steps = [
        "stop-container",
        "safety",
        "prove-safety",
        "empty",
        "extract",
        "prove-extracted",
        "swap-in",
        "swapped",
        "confirm",
        "commit",
        "committed",
        "discard-old",
    ];
    for step in sampled(steps.to_vec(), 4) {
        scene.again();
        let stage = Stage::new().await;
        let arguments = ["restore", archive.to_str().unwrap(), "-y"];
        let mut watched = Watched::start(stage.volsnap.command(arguments));
        assert!(watched.reach(step), "{step} was never reached");
        watched.signal(SIGKILL);
        // It may have gone on before the signal came, and a step is told by a thread of its own, so the last one that was
        // told may not be the last one that was taken.
        let said = watched.end().1;
        let step = steps_of(&said).pop().unwrap();
        println!("killed at {step}");
        await_finished(&stage, step).await;
        let is_new = scene.assert_one_of_two(step);
        let may_stay = ["confirm", "commit", "committed", "discard-old"].contains(&step);
        assert!(!is_new || may_stay, "{step}: the new data stayed unconfirmed");
        assert!(is_new || !["committed", "discard-old"].contains(&step), "{step}");
        if is_new {
            scene.assert_kept(&stage, step, &[]).await;
            scene.service.assert_runs_on(&scene.second, step);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_leaves_the_old_data_as_it_was() {
    let Some(disk) = SmallDisk::ext4(220) else { return };
    let scene = Scene::on(&disk).await;
    let stage = Stage::new().await;
    assert!(!plan_of(&stage, &scene.options(&stage)).await.unwrap().in_place);
    let filler = disk.filler();
    stage.at("extract", move || fill(&filler));
    let error = scene.restore(&stage).await.unwrap_err();
    assert!(error.state_text().unwrap().contains("nothing was stopped"), "{:?}", error.state_text());
    assert!(error.chain().contains("extract"), "{}", error.chain());
    scene.service.assert_runs_on(&scene.second, "full");
    stage.volsnap.assert_no_leftovers();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_back_for_want_of_room_is_as_soon_as_there_is_some() {
    let Some(disk) = SmallDisk::ext4(140) else { return };
    let scene = Scene::on(&disk).await;
    let mut stage = Stage::new().await;
    stage.host.saga.budget = RetryBudget(Duration::from_secs(1));
    let filler = disk.filler();
    // What was removed is at once somebody else's.
    stage.at("extract", move || fill(&filler));
    let error = scene.restore(&stage).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotPutBack, "{}", error.chain());
    let state = error.state_text().unwrap();
    assert!(state.contains("have the old data back"), "{state}");
    assert_eq!(error.hint_text().as_deref(), Some("volsnap recover"));
    assert_eq!(scene.service.state(), "exited", "it must not start on nothing");

    std::fs::remove_file(disk.filler()).unwrap();
    // The guard has been trying all the time.
    let begun = std::time::Instant::now();
    while scene.service.state() != "running" {
        assert!(begun.elapsed() < LIMIT, "it is not back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    await_finished(&stage, "with room").await;
    scene.service.assert_runs_on(&scene.second, "with room");
}

async fn plan_of(stage: &Stage, options: &RestoreOptions) -> volsnap::Result<RestorePlan> {
    let mut shown = None;
    let look = async |plan: &RestorePlan| {
        shown = Some(plan.clone());
        Ok(Consent::Decline)
    };
    assert!(restore(&stage.host, options, look).await?.is_none());
    Ok(shown.unwrap())
}
