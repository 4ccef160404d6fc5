//! One call of a run fails, in every way there is; afterwards somebody recovers, where the run could not.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, sleep};
use volsnap::engine::failing::{Call, Mode};
use volsnap::ops::recover::{recover, unfinished};
use volsnap::saga::RetryBudget;
use volsnap::signal::Interrupt;
use volsnap::{ErrorKind, Result};

use super::World;
use super::invariants::files_below;

/// After how long somebody interrupts a run that hangs.
const INTERRUPT_AFTER: Duration = Duration::from_secs(3600);
/// After how long somebody kills one that hangs all the same.
const KILL_AFTER: Duration = Duration::from_secs(2 * 3600);

/// The longest that any run may hang while a service is away: what containers may take to stop, and a minute; or what
/// Compose may, or what a phase that changes data may be silent for.
const LONGEST_LEASE: Duration = Duration::from_mins(25);
/// What whoever finishes a run takes, twice, and everything after it.
const BACK_IN: Duration = Duration::from_mins(2);

/// Calls that have no effect: it is all the same whether they fail before or after it.
const READS: &[&str] = &[
    "engine",
    "containers",
    "container",
    "volumes",
    "volume",
    "image",
    "images",
    "logs",
    "inspect_raw",
    "exec",
    "agent survey",
    "agent inspect",
    "agent room",
    "agent stage-room",
    "agent stage-compare",
    "agent swap-state",
];

/// What is done to a service, and how it has to be afterwards.
pub(crate) trait Scenario {
    /// Makes what it needs.
    fn prepare<'w>(&'w self, _world: &'w mut World) -> LocalBoxFuture<'w, ()> {
        async {}.boxed_local()
    }
    /// Does it.
    fn act<'w>(&'w self, world: &'w World) -> LocalBoxFuture<'w, Result<()>>;
    /// Looks whether everything is as it has to be after an end.
    fn check<'w>(&'w self, world: &'w World, end: &'w End, context: &'w str) -> LocalBoxFuture<'w, ()>;
    /// Whether Compose has made the services.
    fn is_composed(&self) -> bool {
        false
    }
    /// Whether a failure may leave it to the next who recovers.
    fn may_leave_journal(&self) -> bool {
        false
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum End {
    Done,
    Failed(String),
    /// It panicked outside of the procedure, or was killed; somebody has recovered since.
    Died,
}

/// A call of a run that nothing disturbs.
struct ContainerIdentity {
    call: Call,
    /// Whether the process has done anything by itself since the call before: else who dies before this one leaves
    /// what was left after that one.
    is_news: bool,
}

/// Returns the calls of a run that nothing disturbs.
async fn record(scenario: &dyn Scenario) -> Vec<ContainerIdentity> {
    let mut world = World::new(scenario.is_composed()).await;
    scenario.prepare(&mut world).await;
    world.arm(None);
    let states = Arc::<Mutex<Vec<_>>>::default();
    let directories = [world.root().join("state"), world.repository(), world.root().join("project")];
    let seen = states.clone();
    world.failing.on_call(move |_| seen.lock().unwrap().push(written_by_the_process(&directories)));
    scenario.act(&world).await.unwrap_or_else(|error| panic!("undisturbed: {}", error.chain()));
    let calls = world.failing.calls();
    scenario.check(&world, &End::Done, "undisturbed").await;
    let states = states.lock().unwrap();
    let is_news = |at: usize| at == 0 || states[at] != states[at - 1];
    calls.into_iter().enumerate().map(|(at, call)| ContainerIdentity { call, is_news: is_news(at) }).collect()
}

/// Returns the files that only the process itself writes, with their lengths.
fn written_by_the_process(directories: &[PathBuf]) -> BTreeMap<PathBuf, u64> {
    let files = directories.iter().map(|directory| files_below(directory));
    files.flatten().filter_map(|path| Some((path.clone(), path.metadata().ok()?.len()))).collect()
}

/// Fails every call, one a run, in one mode.
pub(crate) async fn fail_each(scenario: &dyn Scenario, mode: Mode) {
    silence_injected_panics();
    for ContainerIdentity { call, is_news } in record(scenario).await {
        let is_read = READS.contains(&call.name);
        let is_same = match mode {
            Mode::After | Mode::KillAfter => is_read,
            Mode::Kill => !is_news,
            Mode::Before | Mode::Hang | Mode::Panic => false,
        };
        if !is_same {
            fail_one(scenario, call.number, mode, &format!("{mode:?} {call}")).await;
        }
    }
}

/// Has every call hang, one a run. The guard's lease ends who hangs while a service is away: it is back in time.
#[allow(clippy::print_stdout, reason = "how long the service was away is to be in the log")]
pub(crate) async fn hang_each(scenario: &dyn Scenario) {
    silence_injected_panics();
    let (mut ended, mut longest) = (0, Duration::ZERO);
    for ContainerIdentity { call, .. } in record(scenario).await {
        let context = format!("Hang {call}, with a lease");
        let mut world = World::new(scenario.is_composed()).await;
        scenario.prepare(&mut world).await;
        world.arm(Some((call.number, Mode::Hang)));
        let hung = Arc::<Mutex<Option<Instant>>>::default();
        let (noted, number) = (hung.clone(), call.number);
        world.failing.on_call(move |call| {
            if call.number == number {
                *noted.lock().unwrap() = Some(Instant::now());
            }
        });
        let lease = world.lease.clone();
        let (mut act, mut is_over) = (Box::pin(scenario.act(&world)), false);
        let driven = tokio::select! {
            biased;
            outcome = &mut act => Some(outcome),
            () = lease.run_out() => {
                is_over = true;
                None
            }
            // It holds nothing, and hangs until somebody interrupts it.
            () = sleep(INTERRUPT_AFTER) => {
                world.host.cancel.request(Interrupt::Int);
                tokio::time::timeout(KILL_AFTER, &mut act).await.ok()
            }
        };
        let hung_for = hung.lock().unwrap().map_or(Duration::ZERO, |since| since.elapsed());
        let end = match driven {
            Some(Ok(())) => End::Done,
            Some(Err(error)) if error.kind() != ErrorKind::NotPutBack => {
                End::Failed(format!("{}; {:?}", error.chain(), error.state_text()))
            }
            _ => End::Died,
        };
        if is_over {
            ended += 1;
            longest = longest.max(hung_for);
            assert!(hung_for <= LONGEST_LEASE, "{context}: it hung for {hung_for:?}");
        }
        world.bury(act);
        if matches!(end, End::Died) {
            let since = Instant::now();
            recover_twice(&mut world, &context).await;
            assert!(world.answers("db").await, "{context}");
            assert!(since.elapsed() < BACK_IN, "{context}: back after {:?}", since.elapsed());
        }
        world.arm(None);
        finish_what_can_wait(&world, &context).await;
        scenario.check(&world, &end, &format!("{context}, {end:?}")).await;
    }
    println!(
        "{ended} runs were ended by their lease, the last {:.0} s after they hung",
        longest.as_secs_f64()
    );
    assert!(ended > 0, "no lease has run out");
}

async fn fail_one(scenario: &dyn Scenario, number: usize, mode: Mode, context: &str) {
    let mut world = World::new(scenario.is_composed()).await;
    scenario.prepare(&mut world).await;
    world.arm(Some((number, mode)));
    let end = match drive(&world, scenario.act(&world)).await {
        Some(Ok(())) => End::Done,
        Some(Err(error)) if error.kind() == ErrorKind::NotPutBack => {
            let said = format!("{}; {:?}", error.chain(), error.state_text());
            // Who answers nothing is waited for as long as anything is tried: the rest is for a guard.
            let is_left = mode == Mode::Hang || scenario.may_leave_journal();
            assert!(is_left, "{context}: not put back: {said}");
            recover_twice(&mut world, context).await;
            End::Died
        }
        Some(Err(error)) => End::Failed(format!("{}; {:?}", error.chain(), error.state_text())),
        None => {
            recover_twice(&mut world, context).await;
            End::Died
        }
    };
    if matches!(mode, Mode::Kill | Mode::KillAfter) {
        assert!(matches!(end, End::Died), "{context}: it was not killed: {end:?}");
    }
    world.arm(None);
    finish_what_can_wait(&world, context).await;
    scenario.check(&world, &end, &format!("{context}, {end:?}")).await;
}

/// Does what a guard would be left with: nothing but to keep old data.
async fn finish_what_can_wait(world: &World, context: &str) {
    let left = unfinished(&world.state()).unwrap();
    let waits = |open: &String| open.starts_with("keep what was replaced");
    assert!(left.iter().all(|run| run.open.iter().all(waits)), "{context}: left: {left:?}");
    if !left.is_empty() {
        recover(&world.host, RetryBudget::COMMAND).await.unwrap();
    }
}

/// Drives a run to its end; `None` for one that has died.
pub(crate) async fn drive(world: &World, act: impl Future<Output = Result<()>>) -> Option<Result<()>> {
    let mut act = Box::pin(AssertUnwindSafe(act).catch_unwind());
    let ended = tokio::select! {
        biased;
        () = world.failing.killed() => None,
        ended = &mut act => Some(ended),
        () = async {
            sleep(INTERRUPT_AFTER).await;
            world.host.cancel.request(Interrupt::Int);
            sleep(KILL_AFTER).await;
        } => None,
    };
    match ended {
        // A panic has unwound it, with all its destructors.
        Some(ended) => ended.ok(),
        None => {
            world.bury(act);
            None
        }
    }
}

/// Recovers; then everything is put back once more, as by two who find the same journal.
async fn recover_twice(world: &mut World, context: &str) {
    world.arm(None);
    let journals = journals(world);
    let recovered = recover(&world.host, RetryBudget::COMMAND).await;
    recovered
        .unwrap_or_else(|error| panic!("{context}: recover: {}; {:?}", error.chain(), error.state_text()));
    for (path, content) in journals {
        std::fs::write(path, content).unwrap();
    }
    let again = recover(&world.host, RetryBudget::COMMAND).await;
    again.unwrap_or_else(|error| {
        panic!("{context}: recover again: {}; {:?}", error.chain(), error.state_text())
    });
}

fn journals(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(world.state().join("journals")) else { return Vec::new() };
    let paths: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Keeps what is injected out of the tests' output.
fn silence_injected_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let injected = info.payload().downcast_ref::<String>();
            if !injected.is_some_and(|message| message.starts_with("injected panic")) {
                before(info);
            }
        }));
    });
}
