//! Restarts, drills and recoveries.

use std::io;
use std::process::Output;
use std::sync::Arc;

use async_trait::async_trait;
use rstest::rstest;
use volsnap::compose::runner::{Invocation, Runner};
use volsnap::engine::failing::Mode;

use crate::simulated::faults::{Scenario as _, fail_each, hang_each};
use crate::simulated::restarts::{Drill, Recover, Restart};
use crate::simulated::{World, run};

#[rstest]
fn a_restart_has_the_service_run_again_whatever_call_fails(
    #[values(Restart::PLAIN, Restart::WITH_SNAPSHOT, Restart::RECREATED, Restart::RECREATED_WITH_SNAPSHOT)]
    scenario: Restart,
    #[values(Mode::Before, Mode::After, Mode::Hang, Mode::Panic, Mode::Kill, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&scenario, mode));
}

#[rstest]
fn who_shares_the_network_of_the_database_has_it_after_a_restart_too(
    #[values(
        Restart::PLAIN_BESIDE_A_SHARER,
        Restart::RECREATED_BESIDE_A_SHARER,
        Restart::RECREATED_BESIDE_A_SHARER_BY_THE_FIRST
    )]
    scenario: Restart,
    #[values(Mode::Before, Mode::After, Mode::Hang, Mode::Panic, Mode::Kill, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&scenario, mode));
}

#[rstest]
fn a_drill_leaves_nothing_of_its_copy_whatever_call_fails(
    #[values(Mode::Before, Mode::After, Mode::Hang, Mode::Panic, Mode::Kill, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&Drill, mode));
}

#[rstest]
fn a_recovery_can_be_taken_up_again_whatever_call_fails(
    #[values(Mode::Before, Mode::After, Mode::Hang, Mode::Panic, Mode::Kill, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&Recover, mode));
}

#[rstest]
fn a_restart_that_hangs_at_any_call_is_ended_in_time_with_everything_whole(
    #[values(Restart::PLAIN, Restart::RECREATED)] scenario: Restart,
) {
    run(hang_each(&scenario));
}

/// A Compose that makes nothing anew and says that it has, as one does that talks to another engine.
#[derive(Debug)]
struct Elsewhere(Arc<dyn Runner>);

#[async_trait]
impl Runner for Elsewhere {
    async fn version(&self, words: &[&str]) -> Option<String> {
        self.0.version(words).await
    }

    async fn run(&self, invocation: Invocation) -> io::Result<Output> {
        if invocation.words.iter().any(|word| word == "up") {
            return Ok(Output { status: Default::default(), stdout: Vec::new(), stderr: Vec::new() });
        }
        self.0.run(invocation).await
    }
}

#[test]
fn a_container_that_compose_has_left_as_it_was_is_not_called_made_anew() {
    run(async {
        let mut world = World::new(true).await;
        world.arm(None);
        world.host.compose = Arc::new(Elsewhere(world.engine.compose()));
        let before = world.container("db").await.id;
        let error = Restart::RECREATED.act(&world).await.unwrap_err();
        assert!(error.chain().contains("it is the very one from before"), "{}", error.chain());
        assert_eq!(error.kind(), volsnap::ErrorKind::Failed);
        assert_eq!(world.container("db").await.id, before);
        assert!(world.answers("db").await);
    });
}
