//! A healthcheck that fails although the database answers is in nobody's way.

use std::sync::Arc;

use volsnap::engine::Docker;
use volsnap::model::container::Container;
use volsnap::ops::execute;
use volsnap::ops::restore::{Archive, RestoreOptions, restore};

use crate::newcomers::Told;
use crate::simulated::faults::Scenario;
use crate::simulated::restarts::Restart;
use crate::simulated::restores::{LATER, Restore};
use crate::simulated::verbs::TakeSnapshot;
use crate::simulated::{DATA, KEPT, World, run};

const WRONG: [&str; 3] = ["pg_isready", "-h", "wronghost"];

impl World {
    /// Makes the database's container anew, with a healthcheck, and takes note of what the user is told.
    async fn with_healthcheck(words: &[&str]) -> (Self, Arc<Told>) {
        let mut world = Self::new(false).await;
        let Container { name, image, command, env, mounts, .. } = world.container("db").await;
        world.engine.remove_container("db").await.unwrap();
        let healthcheck = words.iter().map(|word| (*word).to_owned()).collect();
        let db = Container { name, image, command, env, mounts, healthcheck, ..Container::default() };
        world.engine.add(db).unwrap();
        world.engine.start("db").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        world.arm(None);
        let told = Arc::new(Told::default());
        world.host.monitor = told.clone();
        (world, told)
    }

    fn kept(&self) -> Vec<String> {
        self.rows(&self.engine.directory_of(DATA)).iter().map(ToString::to_string).collect()
    }

    /// Takes a snapshot, and writes a row after it.
    async fn snapshot_and_a_later_row(&self) -> RestoreOptions {
        TakeSnapshot::STOP_DIRECT.act(self).await.unwrap();
        self.engine.insert("db", KEPT.0, &[LATER]).unwrap();
        Restore::Origin.options(self).await
    }
}

#[test]
fn one_that_fails_before_the_stop_is_named_and_not_waited_for_after_it() {
    let scenarios: [&dyn Scenario; 5] = [
        &Restart::PLAIN,
        &Restart::WITH_SNAPSHOT,
        &TakeSnapshot::STOP_DIRECT,
        &TakeSnapshot::STOP_STAGED,
        &TakeSnapshot::PAUSE,
    ];
    for (number, scenario) in scenarios.into_iter().enumerate() {
        run(async {
            let (world, told) = World::with_healthcheck(&WRONG).await;
            let begun = tokio::time::Instant::now();
            scenario.act(&world).await.unwrap();
            assert!(begun.elapsed().as_secs() < 60, "{number}: {:?}", begun.elapsed());
            assert!(world.answers("db").await, "{number}");
            let told = told.text();
            // What is frozen is not started again, so nobody would have waited for it.
            let is_named = told.contains("`pg_isready -h wronghost`: wronghost:5432 - no response");
            assert!(is_named || number == 4, "{number}: {told}");
        });
    }
}

#[test]
fn one_that_cannot_be_run_has_not_passed_and_is_not_waited_for() {
    run(async {
        let (world, told) = World::with_healthcheck(&["never-ends"]).await;
        let options = world.snapshot_and_a_later_row().await;
        restore(&world.host, &options, execute).await.unwrap().unwrap();
        assert_eq!(world.kept(), KEPT.1);
        let told = told.text();
        assert!(
            told.contains("cannot be run (`never-ends`: no answer within 10s), and is not waited"),
            "{told}"
        );
        assert!(!told.contains("it passed"), "{told}");
    });
}

#[test]
fn one_that_passed_and_cannot_be_run_any_more_is_named_and_the_database_is_asked() {
    run(async {
        let (world, told) = World::with_healthcheck(&["hangs-later"]).await;
        let begun = tokio::time::Instant::now();
        Restart::PLAIN.act(&world).await.unwrap();
        assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
        let told = told.text();
        assert!(
            told.contains(
                "cannot be run (`hangs-later`: no answer within 10s), although its database answers"
            ),
            "{told}"
        );
    });
}

#[test]
fn one_of_a_container_that_nobody_else_can_ask_is_not_waited_for_without_end() {
    run(async {
        let (mut world, _) = World::with_healthcheck(&[]).await;
        let Container { name, image, command, mounts, .. } = world.container("app").await;
        world.engine.remove_container("app").await.unwrap();
        let healthcheck = vec!["hangs-later".to_owned()];
        let app = Container { name, image, command, mounts, healthcheck, ..Container::default() };
        world.engine.add(app).unwrap();
        world.engine.start("app").await.unwrap();
        let told = Arc::new(Told::default());
        world.host.monitor = told.clone();
        let begun = tokio::time::Instant::now();
        TakeSnapshot::STOP_DIRECT.act(&world).await.unwrap();
        assert!(begun.elapsed().as_secs() < 90, "{:?}", begun.elapsed());
        assert!(world.container("app").await.state.running);
        let told = told.text();
        assert!(told.contains("although it runs, as far as can be seen; it passed before"), "{told}");
    });
}

#[test]
fn a_restore_goes_on_though_it_fails_before_and_after() {
    run(async {
        let (world, told) = World::with_healthcheck(&WRONG).await;
        let options = world.snapshot_and_a_later_row().await;
        let begun = tokio::time::Instant::now();
        restore(&world.host, &options, execute).await.unwrap().unwrap();
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
        assert_eq!(world.kept(), KEPT.1);
        assert!(told.text().contains("is not waited for after the stop either"), "{}", told.text());
    });
}

#[test]
fn one_that_fails_only_on_the_restored_data_takes_nothing_back_if_that_is_what_the_snapshot_saw() {
    run(async {
        let (world, told) = World::with_healthcheck(&["has-row", LATER]).await;
        let options = world.snapshot_and_a_later_row().await;
        restore(&world.host, &options, execute).await.unwrap().unwrap();
        assert_eq!(world.kept(), KEPT.1);
        let told = told.text();
        assert!(told.contains("no row four), although its database answers and its data is what"), "{told}");
    });
}

#[test]
fn it_does_take_it_back_if_the_data_is_not_what_the_snapshot_saw() {
    run(async {
        let (world, _) = World::with_healthcheck(&["has-row", LATER]).await;
        let mut options = world.snapshot_and_a_later_row().await;
        let Archive::Snapshot(snapshot) = &mut options.archive else { unreachable!() };
        let seen = &mut snapshot.manifest.facts.as_mut().unwrap().seen;
        seen.roles.insert("somebody".to_owned(), vec!["login".to_owned()]);
        let error = restore(&world.host, &options, execute).await.unwrap_err();
        assert!(error.chain().contains("role somebody is gone"), "{}", error.chain());
        assert_eq!(world.kept().last().map(String::as_str), Some(LATER));
        assert!(world.answers("db").await);
    });
}
