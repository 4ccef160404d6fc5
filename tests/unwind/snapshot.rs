//! A snapshot, by each of its methods.

use rstest::rstest;
use volsnap::engine::failing::Mode;

use crate::simulated::faults::{fail_each, hang_each};
use crate::simulated::run;
use crate::simulated::verbs::TakeSnapshot;

#[rstest]
fn leaves_nothing_half_done_whatever_call_fails(
    #[values(
        TakeSnapshot::STOP_DIRECT,
        TakeSnapshot::STOP_STAGED,
        TakeSnapshot::PAUSE,
        TakeSnapshot::ONLINE
    )]
    scenario: TakeSnapshot,
    #[values(Mode::Before, Mode::After, Mode::Hang, Mode::Panic, Mode::Kill, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&scenario, mode));
}

#[rstest]
fn a_snapshot_that_hangs_at_any_call_is_ended_in_time_with_everything_whole(
    #[values(TakeSnapshot::STOP_DIRECT, TakeSnapshot::STOP_STAGED, TakeSnapshot::PAUSE)]
    scenario: TakeSnapshot,
) {
    run(hang_each(&scenario));
}
