//! A step panics, a signal comes at the worst moment, and what must be there before anything is stopped is not
//! (F6; rows 2 and 3).

use std::path::Path;
use std::sync::{Arc, Mutex};

use volsnap::ErrorKind;
use volsnap::engine::failing::Mode;
use volsnap::engine::helper::HelperImage;
use volsnap::model::manifest::Quiesce;
use volsnap::ops::execute;
use volsnap::ops::plan::CaptureChoice;
use volsnap::ops::snapshot::{SnapshotOptions, snapshot};
use volsnap::signal::Interrupt;

use crate::database::Postgres;
use crate::deep::sampled;
use crate::stage::{FROZEN, Stage};
use crate::world::docker;

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_any_step_puts_everything_back() {
    let postgres = Postgres::start().await;
    let steps = [
        "start-guard",
        "await-ready",
        "create-helper",
        "start-helper",
        "facts",
        "stop-container",
        "prove",
        "archive",
        "prove-again",
        "start-container",
        "publish",
        "write-manifest",
    ];
    for step in sampled(steps.to_vec(), 4) {
        let stage = Stage::new().await;
        stage.at(step, move || panic!("injected at {step}"));
        let error = stage.snapshot(&postgres).await.unwrap_err();
        assert!(error.chain().contains(&format!("injected at {step}")), "{}", error.chain());
        assert!(error.state_text().unwrap().contains("nothing was published"), "{step}");
        stage.assert_as_before(&postgres, 0);
    }
    let stage = Stage::new().await;
    stage.at("published", || panic!("injected at published"));
    let error = stage.snapshot(&postgres).await.unwrap_err();
    assert!(error.state_text().unwrap().contains("is published"), "{:?}", error.state_text());
    stage.assert_as_before(&postgres, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_any_step_of_a_frozen_and_staged_snapshot_puts_everything_back() {
    let postgres = Postgres::start().await;
    let steps = ["create-stage", "live-pass", "checkpoint", "freeze-containers", "final-pass", "prove-again"];
    for step in sampled(steps.to_vec(), 3) {
        let stage = Stage::by(FROZEN).await;
        stage.at(step, move || panic!("injected at {step}"));
        let error = stage.snapshot(&postgres).await.unwrap_err();
        assert!(error.chain().contains(&format!("injected at {step}")), "{}", error.chain());
        assert!(error.state_text().unwrap().contains("nothing was published"), "{step}");
        assert_eq!(postgres.inspect("{{.State.Paused}}"), "false", "{step}");
        stage.assert_as_before(&postgres, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_the_manifest_is_written_finds_all_of_the_snapshot_or_nothing() {
    let postgres = Postgres::start().await;
    for step in ["publish", "write-manifest", "published"] {
        let stage = Stage::new().await;
        let cancel = stage.host.cancel.clone();
        stage.at(step, move || _ = cancel.request(Interrupt::Term));
        let outcome = stage.snapshot(&postgres).await;
        if let Err(error) = &outcome {
            assert_eq!(error.kind(), ErrorKind::Interrupted(Interrupt::Term), "{}", error.chain());
        }
        // Time for a thread that nobody waits for.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        stage.assert_as_before(&postgres, usize::from(outcome.is_ok()));
    }
}

/// The run is refused before the database is touched.
async fn assert_refused(stage: &Stage, postgres: &Postgres, words: &[&str]) {
    let started = postgres.inspect("{{.State.StartedAt}}");
    let error = stage.snapshot(postgres).await.unwrap_err();
    for word in words {
        assert!(error.chain().contains(word), "{word:?} is not in {}", error.chain());
    }
    let state = error.state_text().unwrap();
    assert!(state.contains("nothing was stopped") || state.contains("nothing was touched"), "{state}");
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started, "it was stopped");
    postgres.assert_whole();
    postgres.assert_no_helper();
    stage.volsnap.assert_no_snapshot();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_stopped_without_a_guard_a_journal_or_a_helper() {
    let postgres = Postgres::start().await;
    for (executable, words) in [("/bin/false", "ended before it watched"), ("/nonexistent/volsnap", "guard")]
    {
        let mut stage = Stage::new().await;
        stage.host.saga.executable = executable.into();
        assert_refused(&stage, &postgres, &["start the guard", words]).await;
    }

    let mut stage = Stage::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    stage.host.saga.state = file;
    assert_refused(&stage, &postgres, &["journal"]).await;

    for mode in [Mode::Before, Mode::After] {
        let mut stage = Stage::new().await;
        // A build that no engine has seen yet.
        let executable = directory.path().join(format!("volsnap-{mode:?}"));
        unseen_build(&executable);
        stage.host.saga.executable = executable.clone();
        stage.docker.fail_nth("import_image", 1, mode);
        assert_refused(&stage, &postgres, &["bring the helper image to the engine", "injected"]).await;
        if mode == Mode::After {
            docker(&["image", "rm", HelperImage::of(&executable).unwrap().tag()]);
        }
    }
}

/// Copies the program and makes it another one that does the same.
fn unseen_build(path: &Path) {
    std::fs::copy(env!("CARGO_BIN_EXE_volsnap"), path).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    let unique = format!("{} {:?}", path.display(), std::time::SystemTime::now());
    std::io::Write::write_all(&mut file, unique.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_stage_that_a_failed_run_has_taken_up_is_removed_after_its_helper() {
    let postgres = Postgres::start().await;
    let stage = Stage::by((Quiesce::Stop, CaptureChoice::Staged)).await;
    let kept = SnapshotOptions { keep_stage: true, ..stage.options(&postgres) };
    snapshot(&stage.host, &kept, execute).await.unwrap();
    assert!(!postgres.stages().is_empty());

    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    let cancel = stage.host.cancel.clone();
    stage.at_steps(move |step| {
        seen.lock().unwrap().push(step);
        if step == "final-pass" {
            _ = cancel.request(Interrupt::Term);
        }
    });
    let error = stage.snapshot(&postgres).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted(Interrupt::Term), "{}", error.chain());
    let steps = steps.lock().unwrap();
    let at = |wanted| steps.iter().position(|step| *step == wanted);
    assert!(at("remove-helper").is_some() && at("remove-helper") < at("remove-volume"), "{steps:?}");
    stage.assert_as_before(&postgres, 1);
}
