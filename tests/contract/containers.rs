//! Containers.

use std::path::Path;
use std::time::Duration;

use volsnap::engine::{DockerErrorKind, Grace, NewMount};
use volsnap::model::location::MountSource;

use crate::bench::{Bench, OBEDIENT, SHORT, SLOW, STUBBORN};

const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn one_is_found_by_id_and_name_but_not_by_a_few_letters(bench: &Bench) {
    let name = bench.run("db", OBEDIENT, None, 10).await;
    let container = bench.docker.container(&name).await.unwrap().unwrap();
    assert_eq!((container.name.as_str(), container.id.len()), (name.as_str(), 64));
    assert_eq!(bench.docker.container(&container.id).await.unwrap().unwrap().name, name);
    assert_eq!(bench.docker.container(&container.id[..12]).await.unwrap().unwrap().name, name);
    assert_eq!(bench.docker.container(&container.id[..3]).await.unwrap(), None);
    assert!(bench.docker.containers().await.unwrap().iter().any(|one| one.id == container.id));
    assert!(container.created_at().is_some());
    assert_eq!((container.state.status.as_str(), container.state.running), ("running", true));
}

pub(crate) async fn what_is_not_there_is_none_or_not_found(bench: &Bench) {
    let docker = &bench.docker;
    for name in ["no-such-thing", "", "..", "a b"] {
        assert_eq!(docker.container(name).await.unwrap(), None, "{name:?}");
        assert_eq!(docker.volume(name).await.unwrap(), None, "{name:?}");
        assert_eq!(docker.image(name).await.unwrap(), None, "{name:?}");
        for error in [
            docker.start(name).await.unwrap_err(),
            docker.stop(name, None, Grace::Own, LONG).await.unwrap_err(),
            docker.pause(name).await.unwrap_err(),
            docker.unpause(name).await.unwrap_err(),
            docker.lower_priority(name).await.unwrap_err(),
            docker.exec(name, &["true".to_owned()], LONG).await.unwrap_err(),
            docker.logs(name, 5).await.unwrap_err(),
            docker.inspect_raw(name).await.unwrap_err(),
            docker.attach(name).await.unwrap_err(),
            docker.rename_container(name, &bench.name("other")).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, DockerErrorKind::NotFound, "{name:?}: {error}");
        }
        docker.remove_container(name).await.unwrap();
        docker.remove_stopped_container(name).await.unwrap();
        docker.remove_volume(name).await.unwrap();
    }
}

pub(crate) async fn starting_and_stopping_twice_is_success(bench: &Bench) {
    let name = bench.run("db", OBEDIENT, None, 10).await;
    for _ in 0..2 {
        bench.docker.start(&name).await.unwrap();
    }
    for _ in 0..2 {
        bench.docker.stop(&name, None, Grace::Unlimited, LONG).await.unwrap();
    }
    let state = bench.docker.container(&name).await.unwrap().unwrap().state;
    assert_eq!((state.status.as_str(), state.running, state.exit_code), ("exited", false, 0));
}

pub(crate) async fn each_run_has_a_time_of_its_own_and_the_last_one_an_exit_code(bench: &Bench) {
    let name = bench.run("db", SLOW, None, 10).await;
    let first = bench.docker.container(&name).await.unwrap().unwrap().state;
    bench.docker.stop(&name, None, Grace::Unlimited, LONG).await.unwrap();
    let ended = bench.docker.container(&name).await.unwrap().unwrap().state;
    assert_eq!((&ended.started_at, ended.exit_code), (&first.started_at, 7));
    bench.docker.start(&name).await.unwrap();
    let second = bench.docker.container(&name).await.unwrap().unwrap().state;
    assert_ne!(second.started_at, first.started_at);
    assert!(second.running);
}

pub(crate) async fn with_unlimited_grace_it_is_never_killed(bench: &Bench) {
    let name = bench.run("slow", SLOW, None, 1).await;
    let wait = Duration::from_secs(1);
    let error = bench.docker.stop(&name, None, Grace::Unlimited, wait).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::TimedOut);
    // The engine goes on stopping it, and whoever asks again waits for that.
    bench.docker.stop(&name, None, Grace::Unlimited, LONG).await.unwrap();
    let state = bench.docker.container(&name).await.unwrap().unwrap().state;
    assert_eq!((state.running, state.exit_code), (false, 7), "137 would be a kill");
}

pub(crate) async fn with_its_own_grace_it_is_killed_after_it(bench: &Bench) {
    let name = bench.run("stubborn", STUBBORN, None, 1).await;
    bench.docker.stop(&name, None, Grace::Own, LONG).await.unwrap();
    assert_eq!(bench.docker.container(&name).await.unwrap().unwrap().state.exit_code, 137);
}

pub(crate) async fn one_that_is_frozen_runs_and_answers_nothing(bench: &Bench) {
    let docker = &bench.docker;
    let name = bench.run("db", OBEDIENT, None, 10).await;
    let before = docker.container(&name).await.unwrap().unwrap().state;
    docker.pause(&name).await.unwrap();
    assert_eq!(docker.pause(&name).await.unwrap_err().kind, DockerErrorKind::Conflict);
    let state = docker.container(&name).await.unwrap().unwrap().state;
    assert_eq!((state.status.as_str(), state.running, state.paused), ("paused", true, true));
    assert_eq!(state.started_at, before.started_at);
    let error = docker.exec(&name, &["true".to_owned()], LONG).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    for _ in 0..2 {
        docker.unpause(&name).await.unwrap();
    }
    let state = docker.container(&name).await.unwrap().unwrap().state;
    assert_eq!((state.status.as_str(), state.paused), ("running", false));
    assert_eq!(state.started_at, before.started_at);
}

pub(crate) async fn nothing_runs_in_one_that_does_not_run(bench: &Bench) {
    let name = bench.run("db", SHORT, None, 10).await;
    assert_eq!(bench.await_end(&name).await.state.exit_code, 3);
    let error = bench.docker.exec(&name, &["true".to_owned()], LONG).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    assert!(bench.docker.pause(&name).await.is_err());
    bench.docker.unpause(&name).await.unwrap();
}

pub(crate) async fn a_taken_name_is_a_conflict_and_a_missing_image_is_not_found(bench: &Bench) {
    let mut spec = bench.spec("helper", OBEDIENT);
    bench.docker.create_container(&spec).await.unwrap();
    let error = bench.docker.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    spec.name = bench.name("other");
    "volsnap-test/none:1".clone_into(&mut spec.image);
    let error = bench.docker.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::NotFound, "{error}");
    assert_eq!(bench.docker.container(&spec.name).await.unwrap(), None);
}

pub(crate) async fn a_throwaway_one_is_removed_when_it_ends_unless_it_is_kept(bench: &Bench) {
    let spec = bench.spec("passing", SHORT);
    let id = bench.docker.create_container(&spec).await.unwrap();
    let created = bench.docker.container(&id).await.unwrap().unwrap();
    assert_eq!((created.state.status.as_str(), created.state.running), ("created", false));
    assert!(created.auto_remove);
    bench.docker.start(&id).await.unwrap();
    bench.await_gone(&id).await;
    let mut spec = bench.spec("kept", SHORT);
    spec.kept = true;
    let id = bench.docker.create_container(&spec).await.unwrap();
    bench.docker.start(&id).await.unwrap();
    assert_eq!(bench.await_end(&id).await.state.exit_code, 3);
}

pub(crate) async fn a_name_is_given_out_once(bench: &Bench) {
    let (one, other) =
        (bench.run("one", OBEDIENT, None, 10).await, bench.run("other", OBEDIENT, None, 10).await);
    let error = bench.docker.rename_container(&one, &other).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    let (id, new) = (bench.docker.container(&one).await.unwrap().unwrap().id, bench.name("new"));
    bench.docker.rename_container(&one, &new).await.unwrap();
    assert_eq!(bench.docker.container(&new).await.unwrap().unwrap().id, id);
    assert_eq!(bench.docker.container(&one).await.unwrap(), None);
}

pub(crate) async fn only_one_that_does_not_run_is_removed_without_force(bench: &Bench) {
    let volume = bench.volume("data").await;
    let name = bench.run("db", OBEDIENT, Some(&volume), 10).await;
    let error = bench.docker.remove_stopped_container(&name).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    bench.docker.stop(&name, None, Grace::Own, LONG).await.unwrap();
    for _ in 0..2 {
        bench.docker.remove_stopped_container(&name).await.unwrap();
    }
    assert_eq!(bench.docker.container(&name).await.unwrap(), None);
    let forced = bench.run("forced", OBEDIENT, Some(&volume), 10).await;
    for _ in 0..2 {
        bench.docker.remove_container(&forced).await.unwrap();
    }
    assert!(bench.docker.volume(&volume).await.unwrap().is_some());
}

fn mount<'m>(destination: &'m Path, source: &'m MountSource) -> Option<NewMount<'m>> {
    Some(NewMount { destination, source })
}

pub(crate) async fn one_made_like_another_has_the_other_mount_and_needs_it_stopped(bench: &Bench) {
    let docker = &bench.docker;
    let (volume, other) = (bench.volume("data").await, bench.volume("other").await);
    let name = bench.run("db", OBEDIENT, Some(&volume), 7).await;
    let model = docker.inspect_raw(&name).await.unwrap();
    let (new, at, source) = (bench.name("new"), Path::new("/data"), MountSource::Volume(other.clone()));
    let error = docker.clone_container(&model, &new, mount(at, &source)).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    docker.stop(&name, None, Grace::Own, LONG).await.unwrap();
    let missing = MountSource::Volume(bench.name("missing"));
    let error = docker.clone_container(&model, &new, mount(at, &missing)).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::NotFound, "{error}");
    let elsewhere =
        docker.clone_container(&model, &new, mount(Path::new("/elsewhere"), &source)).await.unwrap_err();
    assert!(elsewhere.message.contains("nothing is mounted"), "{elsewhere}");
    assert_eq!(docker.container(&new).await.unwrap(), None);
    let id = docker.clone_container(&model, &new, mount(at, &source)).await.unwrap();
    let (old, made) =
        (docker.container(&name).await.unwrap().unwrap(), docker.container(&id).await.unwrap().unwrap());
    assert_eq!((made.name.as_str(), made.state.status.as_str()), (new.as_str(), "created"));
    assert_eq!(made.mounts[0].volume.as_deref(), Some(other.as_str()));
    assert_eq!(
        (&made.command, &made.env, &made.labels, made.stop_timeout, &made.image_id),
        (&old.command, &old.env, &old.labels, Some(7), &old.image_id)
    );
    assert_eq!((&made.network_mode, &made.restart_policy), (&old.network_mode, &old.restart_policy));
}
