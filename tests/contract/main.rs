//! What every engine does with the calls volsnap makes: the one in memory, so that tests on it do not lie, and the
//! real one, so that the contract does not.

#![expect(clippy::unwrap_used, reason = "a test that fails here shows where")]

#[path = "../docker/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the engine alone")]
mod world;

mod agents;
mod bench;
mod containers;
mod volumes;

/// Runs each part of the contract on both engines.
macro_rules! contract {
    ($($room:ident::$part:ident,)*) => {
        /// On virtual time.
        mod memory {
            $(
                #[test]
                fn $part() {
                    crate::bench::in_memory(|bench| Box::pin(async move { crate::$room::$part(&bench).await }));
                }
            )*
        }

        mod real {
            $(
                #[tokio::test]
                async fn $part() {
                    let bench = crate::bench::Bench::real().await;
                    crate::$room::$part(&bench).await;
                }
            )*
        }
    };
}

contract! {
    containers::one_is_found_by_id_and_name_but_not_by_a_few_letters,
    containers::what_is_not_there_is_none_or_not_found,
    containers::starting_and_stopping_twice_is_success,
    containers::each_run_has_a_time_of_its_own_and_the_last_one_an_exit_code,
    containers::with_unlimited_grace_it_is_never_killed,
    containers::with_its_own_grace_it_is_killed_after_it,
    containers::one_that_is_frozen_runs_and_answers_nothing,
    containers::nothing_runs_in_one_that_does_not_run,
    containers::a_taken_name_is_a_conflict_and_a_missing_image_is_not_found,
    containers::a_throwaway_one_is_removed_when_it_ends_unless_it_is_kept,
    containers::a_name_is_given_out_once,
    containers::only_one_that_does_not_run_is_removed_without_force,
    containers::one_made_like_another_has_the_other_mount_and_needs_it_stopped,
    volumes::a_missing_volume_or_directory_is_refused_and_not_made,
    volumes::a_name_is_given_out_once_and_what_is_used_stays,
    volumes::a_new_one_is_made_with_its_container_and_its_labels,
    agents::a_helper_sees_its_source_and_ends_with_its_client,
    agents::a_helper_that_is_removed_ends_its_output,
    agents::an_archive_comes_over_the_attached_streams,
}
