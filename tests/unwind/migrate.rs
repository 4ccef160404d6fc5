//! A migration into a directory, and back.

use rstest::rstest;
use volsnap::engine::failing::Mode;

use crate::simulated::faults::{fail_each, hang_each};
use crate::simulated::migrations::Migrate;
use crate::simulated::run;

#[rstest]
fn has_the_service_run_on_all_of_the_old_or_all_of_the_new_whatever_call_fails(
    #[values(
        Migrate::into_directory(false),
        Migrate::back(false),
        Migrate::into_directory(true),
        Migrate::back(true)
    )]
    scenario: Migrate,
    #[values(Mode::Before, Mode::After, Mode::Hang, Mode::Panic, Mode::Kill, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&scenario, mode));
}

#[rstest]
fn has_who_shares_the_network_of_the_database_share_that_of_its_successor(
    #[values(
        Migrate::into_directory(false).beside_a_stranger(),
        Migrate::into_directory(true).beside_a_stranger(),
        Migrate::into_directory(true).beside_a_service(),
        Migrate::back(false).beside_a_stranger()
    )]
    scenario: Migrate,
    #[values(Mode::Before, Mode::After, Mode::Hang, Mode::Panic, Mode::Kill, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&scenario, mode));
}

#[rstest]
fn has_who_mounts_the_data_and_shares_the_network_share_that_of_the_new_or_of_the_old(
    #[values(Migrate::into_directory(false).beside_a_user(), Migrate::into_directory(true).beside_a_user())]
    scenario: Migrate,
    #[values(Mode::After, Mode::KillAfter)] mode: Mode,
) {
    run(fail_each(&scenario, mode));
}

#[rstest]
fn a_migration_that_hangs_at_any_call_is_ended_in_time_with_everything_whole(
    #[values(Migrate::into_directory(false), Migrate::back(false), Migrate::into_directory(true))]
    scenario: Migrate,
) {
    run(hang_each(&scenario));
}
