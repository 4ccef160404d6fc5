//! A helper of another volsnap, with which this one cannot talk.

use rstest::rstest;
use volsnap::engine::Docker as _;
use volsnap::engine::failing::Mode;
use volsnap::ops::recover::recover;
use volsnap::saga::RetryBudget;

use crate::simulated::faults::{End, Scenario as _, drive};
use crate::simulated::restores::Restore;
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{DATA, HELPER, World, run};

#[test]
fn is_refused_before_the_service_is_touched() {
    run(async {
        let mut world = World::new(false).await;
        world.engine.pretend_protocol(HELPER, 0);
        world.arm(None);
        let error = TakeSnapshot::STOP_STAGED.act(&world).await.unwrap_err();
        let (said, hint) = (error.chain(), error.hint_text().unwrap_or_default());
        let ours = format!("protocol {}", volsnap::agent::protocol::VERSION);
        assert!(said.contains("protocol 0") && said.contains(&ours), "{said}");
        assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
        assert!(hint.contains("without --helper-image="), "{hint}");
        let calls = world.failing.calls();
        assert!(
            !calls.iter().any(|call| call.name == "stop" || call.name.starts_with("agent ")),
            "{calls:?}"
        );
        world.assert_in_order(&[DATA], "refused").await;
    });
}

/// What becomes of the image of the run that died.
enum Fate {
    Other,
    Gone,
}

#[rstest]
fn does_not_keep_old_data_from_being_put_back(#[values(Fate::Other, Fate::Gone)] fate: Fate) {
    run(async {
        let scenario = Restore::Origin;
        let mut world = World::new(scenario.is_composed()).await;
        scenario.prepare(&mut world).await;
        world.arm(None);
        world.failing.fail_nth("agent swap-in", 1, Mode::KillAfter);
        assert!(drive(&world, scenario.act(&world)).await.is_none(), "it was not killed");
        match fate {
            Fate::Other => world.engine.pretend_protocol(HELPER, 0),
            Fate::Gone => {
                let image = world.engine.image(HELPER).await.unwrap().unwrap();
                for helper in world.engine.containers().await.unwrap() {
                    if helper.image == HELPER {
                        world.engine.remove_container(&helper.id).await.unwrap();
                    }
                }
                world.engine.remove_image(&image.id).await.unwrap();
            }
        }
        world.arm(None);
        recover(&world.host, RetryBudget::COMMAND).await.unwrap();
        scenario.check(&world, &End::Died, "recovered").await;
    });
}
