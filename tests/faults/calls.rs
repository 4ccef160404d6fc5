//! Each call to the engine fails, before its effect, after it, or without an answer (F8; rows 1 to 3, 7, 16).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;
use volsnap::engine::failing::{Call, Mode};
use volsnap::model::event::Silent;
use volsnap::ops::recover::{recover, unfinished};
use volsnap::saga::RetryBudget;
use volsnap::signal::Interrupt;
use volsnap::{Error, ErrorKind};

use crate::database::Postgres;
use crate::deep::{is_deep, sampled};
use crate::stage::{FROZEN, Stage, add_stopped_user};
use crate::world::docker;

/// Far more than any of these runs takes.
const LIMIT: Duration = Duration::from_secs(90);

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

/// Returns the calls of a run that nothing disturbs.
async fn record(postgres: &Postgres) -> Vec<(&'static str, usize)> {
    let stage = Stage::new().await.with_helper_image().await;
    stage.snapshot(postgres).await.unwrap();
    stage.assert_as_before(postgres, 1);
    places(&stage.docker.calls())
}

/// A failure says what was being done, why, and in which state things are.
#[track_caller]
fn assert_speaks(error: &Error, context: &str) {
    assert_eq!(error.kind(), ErrorKind::Failed, "{context}: {}", error.chain());
    assert!(error.chain().contains("injected failure"), "{context}: {}", error.chain());
    assert!(!error.to_string().contains("injected"), "{context}: it does not say what was being done");
    let state = error.state_text().unwrap_or_default();
    assert!(state.contains("nothing was published"), "{context}: {state:?}");
}

/// Whether a run succeeds though this call fails: it is made again until it succeeds, or what it tells is worth
/// having and not worth failing for. Everything else fails the run.
fn is_survived(name: &str, nth: usize) -> bool {
    match name {
        // Where the data is; and whether the database answers, before the stop and after the start.
        "exec" => true,
        // What runs in a container: its configuration tells as well.
        "processes" => true,
        // From here on the service is being brought back.
        "containers" => nth >= 4,
        "container" => nth >= 5,
        "start" => nth >= 2,
        "remove_container" | "volume" | "remove_volume" => true,
        // What the image is called elsewhere.
        "image" => nth >= 2,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_reaches_the_engine_or_whose_answer_is_lost_leaves_everything_as_before() {
    let postgres = Postgres::start().await;
    let stopped = add_stopped_user(&postgres);
    let both = |(name, nth)| [(Mode::Before, name, nth), (Mode::After, name, nth)];
    let all = record(&postgres).await.into_iter().flat_map(both).collect();
    for (mode, name, nth) in sampled(all, 6) {
        let context = format!("{mode:?} {name} {nth}");
        println!("{context}");
        let stage = Stage::new().await;
        stage.docker.fail_nth(name, nth, mode);
        let outcome = timeout(LIMIT, stage.snapshot(&postgres)).await;
        match outcome.unwrap_or_else(|_| panic!("{context}: it does not end")) {
            Ok(_) => {
                assert!(is_survived(name, nth), "{context}: it was survived");
                stage.assert_as_before(&postgres, 1);
            }
            Err(error) => {
                assert_speaks(&error, &context);
                stage.assert_as_before(&postgres, 0);
            }
        }
        assert_eq!(docker(&["inspect", "--format", "{{.State.Status}}", &stopped]), "exited", "{context}");
    }
}

/// Where the database is frozen, the calls that freeze it and let it go on, those that make the stage, and the one
/// that has the helper give way to the database once it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_fails_or_whose_answer_is_lost_leaves_nothing_frozen() {
    let postgres = Postgres::start().await;
    for mode in [Mode::Before, Mode::After] {
        let calls = [
            ("pause", false),
            ("unpause", false),
            ("create_container", false),
            ("exec", true),
            ("lower_priority", true),
        ];
        for (name, survived) in if is_deep() { &calls[..] } else { &calls[..2] }.iter().copied() {
            let context = format!("{mode:?} {name}");
            let stage = Stage::by(FROZEN).await;
            stage.docker.fail_nth(name, if name == "exec" { 3 } else { 1 }, mode);
            let outcome = timeout(LIMIT, stage.snapshot(&postgres)).await;
            match outcome.unwrap_or_else(|_| panic!("{context}: it does not end")) {
                // It is asked again until it is so.
                Ok(_) => {
                    assert!(survived || name == "unpause", "{context}: it was survived");
                    let calls = stage.docker.calls();
                    let last = |name| calls.iter().rposition(|call| call.name == name);
                    assert!(
                        last("unpause").is_some() && last("unpause") < last("lower_priority"),
                        "{context}"
                    );
                }
                Err(error) => assert_speaks(&error, &context),
            }
            assert_eq!(postgres.inspect("{{.State.Paused}}"), "false", "{context}");
            let published =
                usize::from(stage.volsnap.repository().exists() && !stage.volsnap.list().is_empty());
            stage.assert_as_before(&postgres, published);
        }
    }
    let stage = Stage::by(FROZEN).await;
    stage.docker.fail_nth("pause", 1, Mode::Hang);
    let error = timeout(LIMIT, stage.snapshot(&postgres)).await.unwrap().unwrap_err();
    assert!(error.chain().contains("could not be frozen"), "{}", error.chain());
    stage.assert_as_before(&postgres, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_never_answered_can_be_interrupted_until_the_service_is_started_again() {
    let postgres = Postgres::start().await;
    let stage = Stage::new().await.with_helper_image().await;
    let (engine, calls) = (stage.docker.clone(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
    let until_start = calls.clone();
    stage.at("start-container", move || *until_start.lock().unwrap() = engine.calls());
    stage.snapshot(&postgres).await.unwrap();
    let held = places(&calls.lock().unwrap());
    assert!(held.len() > 10, "{held:?}");
    for (name, nth) in sampled(held, 4) {
        let context = format!("{name} {nth} hangs");
        println!("{context}");
        let stage = Stage::new().await;
        stage.docker.fail_nth(name, nth, Mode::Hang);
        let (engine, cancel) = (stage.docker.clone(), stage.host.cancel.clone());
        // Only once it hangs: what is put back after a signal makes such calls too, and waits for them.
        let interrupter = tokio::spawn(async move {
            while !places(&engine.calls()).contains(&(name, nth)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            cancel.request(Interrupt::Int)
        });
        let error = timeout(LIMIT, stage.snapshot(&postgres))
            .await
            .unwrap_or_else(|_| panic!("{context}: it does not end"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted(Interrupt::Int), "{context}: {}", error.chain());
        interrupter.await.unwrap();
        stage.assert_as_before(&postgres, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_away_for_a_while_puts_off_the_return_but_not_for_good() {
    let postgres = Postgres::start().await;
    for (step, mode) in [("prove", Mode::Before), ("archive", Mode::After), ("start-container", Mode::Before)]
    {
        let stage = Stage::new().await;
        let engine = stage.docker.clone();
        stage.at(step, move || {
            let next = engine.calls().len() + 1;
            engine.fail_during(next..next + 12, mode);
        });
        let outcome = timeout(LIMIT, stage.snapshot(&postgres))
            .await
            .unwrap_or_else(|_| panic!("{step}: it does not end"));
        if let Err(error) = &outcome {
            assert_speaks(error, step);
        }
        stage.assert_as_before(&postgres, usize::from(outcome.is_ok()));
    }
}

/// The engine is lost to the command while the database is down.
async fn lose_engine(stage: &Stage, postgres: &Postgres) {
    let engine = stage.docker.clone();
    stage.at("archive", move || {
        let next = engine.calls().len() + 1;
        engine.fail_during(next..usize::MAX, Mode::Before);
    });
    let error = timeout(LIMIT, stage.snapshot(postgres)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotPutBack, "{}", error.chain());
    let state = error.state_text().unwrap();
    assert!(state.contains("not put back") && state.contains(&postgres.container), "{state}");
    let hint = error.hint_text().unwrap();
    assert!(hint.contains("volsnap recover") && hint.contains("docker start"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_cannot_put_back_its_guard_does() {
    let postgres = Postgres::start().await;
    let mut stage = Stage::new().await;
    stage.host.saga.budget = RetryBudget(Duration::from_secs(2));
    lose_engine(&stage, &postgres).await;
    // The guard has a connection of its own.
    postgres.await_answer_within(Duration::from_secs(10));
    let begun = std::time::Instant::now();
    while !unfinished(&stage.host.saga.state).unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the guard does not finish");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.assert_as_before(&postgres, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_come_back_leaves_a_journal_that_recover_finishes() {
    let postgres = Postgres::start().await;
    let mut stage = Stage::new().await;
    stage.host.saga.budget = RetryBudget(Duration::from_secs(2));
    // The guard cannot reach it either.
    stage.host.address = "unix:///nonexistent/volsnap-test.sock".to_owned();
    lose_engine(&stage, &postgres).await;
    assert!(!postgres.answers());
    let runs = unfinished(&stage.host.saga.state).unwrap();
    assert_eq!(runs.len(), 1);
    assert!(!runs[0].held && runs[0].open.iter().any(|open| open.contains(&postgres.container)), "{runs:?}");

    let healthy = Stage::new().await;
    stage.host.docker = healthy.host.docker.clone();
    stage.host.monitor = std::sync::Arc::new(Silent);
    let finished = recover(&stage.host, RetryBudget(Duration::from_secs(30))).await.unwrap();
    assert_eq!(finished.len(), 1);
    stage.assert_as_before(&postgres, 0);
    assert!(recover(&stage.host, RetryBudget::COMMAND).await.unwrap().is_empty());
}
