//! Restarts, drills and recoveries.

use rstest::rstest;
use volsnap::engine::failing::Mode;

use crate::simulated::faults::{fail_each, hang_each};
use crate::simulated::restarts::{Drill, Recover, Restart};
use crate::simulated::run;

#[rstest]
fn a_restart_has_the_service_run_again_whatever_call_fails(
    #[values(Restart::PLAIN, Restart::WITH_SNAPSHOT, Restart::RECREATED, Restart::RECREATED_WITH_SNAPSHOT)]
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
