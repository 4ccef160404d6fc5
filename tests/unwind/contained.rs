//! A command in a container whose state directory lies in that container alone.

use std::sync::Arc;

use volsnap::ErrorKind;
use volsnap::engine::own::OwnContainer;
use volsnap::model::container::{Container, Mount, MountKind};

use crate::simulated::faults::Scenario as _;
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{DATA, World, run};

/// Puts the command of this world into a container that mounts the repository alone.
async fn contained() -> World {
    let mut world = World::new(false).await;
    let repository = world.repository();
    let mounted = Mount {
        kind: MountKind::Bind,
        source: repository.clone(),
        destination: repository,
        ..Mount::default()
    };
    let own = Container { name: "box".to_owned(), mounts: vec![mounted], ..Container::default() };
    world.host.own = Some(Arc::new(OwnContainer::of(own)));
    world.arm(None);
    world
}

#[test]
fn nothing_is_held_where_nobody_could_bring_it_back() {
    for scenario in [TakeSnapshot::STOP_DIRECT, TakeSnapshot::STOP_STAGED, TakeSnapshot::PAUSE] {
        run(async {
            let world = contained().await;
            let error = scenario.act(&world).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Failed);
            let (said, hint) = (error.chain(), error.hint_text().unwrap_or_default());
            assert!(said.contains("lies in that container alone"), "{said}");
            assert!(hint.contains(&format!("-v volsnap-state:{}", world.state().display())), "{hint}");
            assert_eq!(error.state_text(), Some("nothing was touched"));
            let changes = ["stop", "pause", "create_container", "create_volume"];
            let calls = world.failing.calls();
            assert!(!calls.iter().any(|call| changes.contains(&call.name)), "{calls:?}");
            world.assert_in_order(&[DATA], "refused").await;
        });
    }
}

#[test]
fn what_holds_nothing_goes_on() {
    run(async {
        let world = contained().await;
        TakeSnapshot::ONLINE.act(&world).await.unwrap();
        world.assert_in_order(&[DATA], "online").await;
        assert_eq!(world.whole_snapshots("online").await.len(), 1);
    });
}
