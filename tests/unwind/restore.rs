//! A restore, to each of its destinations.

use rstest::rstest;
use volsnap::engine::failing::Mode;

use crate::simulated::faults::{fail_each, hang_each};
use crate::simulated::restores::Restore;
use crate::simulated::run;

#[rstest]
fn leaves_all_of_the_old_data_or_all_of_the_new_whatever_call_fails(
    #[values(Restore::Origin, Restore::InPlace, Restore::NewVolume, Restore::NewDirectory)] scenario: Restore,
    #[values(Mode::Before, Mode::After, Mode::Hang, Mode::Panic, Mode::Kill, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&scenario, mode));
}

#[rstest]
fn an_encrypted_safety_snapshot_brings_the_old_data_back_without_any_other_key(
    #[values(Mode::Before, Mode::Kill)] mode: Mode,
) {
    run(fail_each(&Restore::InPlaceEncrypted, mode));
}

#[rstest]
fn a_restore_that_hangs_at_any_call_is_ended_in_time_with_everything_whole(
    #[values(Restore::Origin, Restore::InPlace)] scenario: Restore,
) {
    run(hang_each(&scenario));
}
