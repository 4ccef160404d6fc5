//! In which order a verb has its effects: calls to the engine, requests to its agent, lines of its journal. What undoes
//! an effect is in the journal before it.

#![expect(clippy::unwrap_used, reason = "a test that fails here shows where")]

mod advised;
mod handover;
mod sharers;
#[path = "../simulated/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod simulated;

use serde_json::Value;
use simulated::faults::Scenario;
use simulated::migrations::Migrate;
use simulated::restarts::{Drill, Recover, Restart};
use simulated::restores::Restore;
use simulated::verbs::TakeSnapshot;
use simulated::{World, run};
use volsnap::engine::Docker as _;
use volsnap::model::container::{Container, Mount, MountKind};

/// Returns the effects of a verb, in their order.
fn effects(scenario: &dyn Scenario) -> String {
    run(async {
        let mut world = World::new(scenario.is_composed()).await;
        scenario.prepare(&mut world).await;
        world.arm(None);
        let recording = world.record();
        scenario.act(&world).await.unwrap();
        recording.lines()
    })
}

/// What the files themselves decide, and where the test has them, has one value.
fn without_files(value: &mut Value) {
    const OF_FILES: &[&str] = &["blake3", "stored_bytes", "tar_bytes", "seal", "proof_digest"];
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if OF_FILES.contains(&name.as_str()) {
                    *value = Value::from("OF FILES");
                }
                without_files(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(without_files),
        _ => {}
    }
}

#[test]
fn a_manifest_is_the_same_whenever_and_wherever_it_is_written() {
    let manifest = run(async {
        let world = World::new(false).await;
        TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap();
        let snapshot = world.first_snapshot().await;
        let mut manifest: Value =
            serde_json::from_slice(&std::fs::read(snapshot.manifest_path()).unwrap()).unwrap();
        without_files(&mut manifest);
        let text = serde_json::to_string_pretty(&manifest).unwrap();
        text.replace(world.root().to_str().unwrap(), "ROOT").replace(env!("CARGO_PKG_VERSION"), "VERSION")
    });
    insta::assert_snapshot!(manifest);
}

#[test]
fn a_direct_snapshot_of_a_stopped_service() {
    insta::assert_snapshot!(effects(&TakeSnapshot::STOP_DIRECT));
}

#[test]
fn a_staged_snapshot_of_a_stopped_service() {
    insta::assert_snapshot!(effects(&TakeSnapshot::STOP_STAGED));
}

#[test]
fn a_snapshot_of_a_frozen_service() {
    insta::assert_snapshot!(effects(&TakeSnapshot::PAUSE));
}

#[test]
fn a_snapshot_by_the_databases_own_backup() {
    insta::assert_snapshot!(effects(&TakeSnapshot::ONLINE));
}

#[test]
fn a_restore_in_the_place_of_live_data() {
    insta::assert_snapshot!(effects(&Restore::Origin));
}

#[test]
fn a_restore_in_the_place_of_live_data_without_room_for_both() {
    insta::assert_snapshot!(effects(&Restore::InPlace));
}

#[test]
fn a_restore_into_a_new_volume() {
    insta::assert_snapshot!(effects(&Restore::NewVolume));
}

#[test]
fn a_restore_into_a_new_directory() {
    insta::assert_snapshot!(effects(&Restore::NewDirectory));
}

/// Returns the effects of a verb beside a watcher that sees everything, and could write everywhere.
fn effects_beside_a_watcher(scenario: &dyn Scenario) -> String {
    run(async {
        let mut world = World::new(scenario.is_composed()).await;
        scenario.prepare(&mut world).await;
        let sees_all = Mount {
            kind: MountKind::Bind,
            source: world.root(),
            destination: "/host".into(),
            ..Mount::default()
        };
        let watcher = Container {
            name: "watcher".to_owned(),
            image: "app:1".to_owned(),
            mounts: vec![sees_all],
            auto_remove: true,
            ..Container::default()
        };
        let id = world.engine.add(watcher).unwrap();
        world.engine.start(&id).await.unwrap();
        world.arm(None);
        let recording = world.record();
        scenario.act(&world).await.unwrap();
        assert!(world.container("watcher").await.state.running);
        // It is asked what it has open, and no more.
        let lines = recording.lines();
        let done: Vec<_> = lines.lines().filter(|line| *line != "processes watcher").collect();
        assert!(!done.iter().any(|line| line.contains("watcher")), "{done:?}");
        done.join("\n")
    })
}

#[test]
fn who_can_only_see_the_data_changes_nothing_of_what_is_done() {
    let scenarios: [&dyn Scenario; 5] = [
        &TakeSnapshot::STOP_DIRECT,
        &TakeSnapshot::PAUSE,
        &Restore::Origin,
        &Restart::PLAIN,
        &Migrate::into_directory(false),
    ];
    for scenario in scenarios {
        assert_eq!(effects_beside_a_watcher(scenario), effects(scenario));
    }
}

#[test]
fn a_restart() {
    insta::assert_snapshot!(effects(&Restart::PLAIN));
}

#[test]
fn a_restart_in_which_compose_makes_the_containers_anew() {
    insta::assert_snapshot!(effects(&Restart::RECREATED));
}

#[test]
fn a_restart_with_a_snapshot() {
    insta::assert_snapshot!(effects(&Restart::WITH_SNAPSHOT));
}

#[test]
fn a_drill() {
    insta::assert_snapshot!(effects(&Drill));
}

#[test]
fn a_recovery_from_a_snapshot_that_died_with_everything_stopped() {
    insta::assert_snapshot!(effects(&Recover));
}

#[test]
fn a_migration_into_a_directory() {
    insta::assert_snapshot!(effects(&Migrate::into_directory(false)));
}

#[test]
fn a_migration_back_into_a_volume() {
    insta::assert_snapshot!(effects(&Migrate::back(false)));
}

#[test]
fn a_migration_into_a_directory_with_compose() {
    insta::assert_snapshot!(effects(&Migrate::into_directory(true)));
}

#[test]
fn a_migration_back_into_a_volume_with_compose() {
    insta::assert_snapshot!(effects(&Migrate::back(true)));
}
