//! A snapshot, by each of its methods.

use rstest::rstest;
use volsnap::engine::failing::Mode;

use crate::simulated::faults::{Scenario as _, fail_each, hang_each};
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{World, run};

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

/// Leaves the journal of a dead run that only a later volsnap can finish.
fn leave_unfinished(world: &World, concerns: &str) {
    let journals = world.state().join("journals");
    std::fs::create_dir_all(&journals).unwrap();
    let text = format!(
        "{{\"run\":{{\"run\":\"20261120T203011Z-4f2a91\",\"verb\":\"restore\",\"subject\":\"x\",\"host\":null,\"pid\":1,\
         \"started\":\"2026-11-20T20:30:11Z\",\"version\":\"9.1.0\"}}}}\n\
         {{\"register\":{{\"number\":1,\"when\":\"always\",\"rank\":\"data\",{concerns}\"undo\":{{\"thaw\":\"hunter2\"}}}}}}\n"
    );
    std::fs::write(journals.join("20261120T203011Z-4f2a91.jsonl"), text).unwrap();
}

#[rstest]
#[case::of_its_own_container("\"concerns\":[\"name:db\"],", false)]
#[case::of_anything("", false)]
#[case::of_something_else("\"concerns\":[\"name:elsewhere\"],", true)]
fn only_a_dead_run_about_the_same_containers_is_in_the_way(#[case] concerns: &str, #[case] goes_on: bool) {
    run(async {
        let world = World::new(false).await;
        leave_unfinished(&world, concerns);
        let outcome = TakeSnapshot::STOP_DIRECT.act(&world).await;
        assert_eq!(outcome.is_ok(), goes_on, "{:?}", outcome.as_ref().err().map(volsnap::Error::chain));
        if let Err(error) = outcome {
            assert_eq!(error.kind(), volsnap::ErrorKind::NotPutBack);
            let said = format!("{} {:?}", error.chain(), error.state_text());
            assert!(said.contains("9.1.0") && !said.contains("hunter2"), "{said}");
        }
        assert!(world.answers("db").await);
        let left = volsnap::ops::recover::look(&world.state()).unwrap();
        assert_eq!((left.runs.len(), left.strange.len()), (1, 0), "it stays");
        assert!(!left.runs[0].open.concat().contains("hunter2"), "{:?}", left.runs[0].open);
    });
}

#[test]
fn a_dry_run_leaves_a_dead_run_as_it_is() {
    run(async {
        let mut world = World::new(false).await;
        leave_unfinished(&world, "\"concerns\":[\"name:db\"],");
        let journal = world.state().join("journals/20261120T203011Z-4f2a91.jsonl");
        let before = std::fs::read(&journal).unwrap();
        world.host.only_plans = true;
        let error = TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap_err();
        assert_eq!(error.kind(), volsnap::ErrorKind::NotPutBack);
        assert!(error.chain().contains("nothing can be planned"), "{}", error.chain());
        assert_eq!(std::fs::read(&journal).unwrap(), before);
        assert!(world.answers("db").await);
    });
}
