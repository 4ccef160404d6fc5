//! Volumes and directories.

use std::collections::BTreeMap;
use std::path::PathBuf;

use volsnap::engine::{ContainerSpec, DockerErrorKind, MountSpec};
use volsnap::model::container::MountKind;
use volsnap::model::location::MountSource;

use crate::bench::{Bench, OBEDIENT};

fn mounting(spec: ContainerSpec, source: MountSource) -> ContainerSpec {
    let mount = MountSpec { source, destination: PathBuf::from("/data"), read_only: true };
    ContainerSpec { mounts: vec![mount], ..spec }
}

pub(crate) async fn a_missing_volume_or_directory_is_refused_and_not_made(bench: &Bench) {
    let volume = bench.name("missing");
    let spec = mounting(bench.spec("helper", OBEDIENT), MountSource::Volume(volume.clone()));
    let error = bench.docker.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::NotFound, "{error}");
    assert_eq!(bench.docker.volume(&volume).await.unwrap(), None);
    let directory = bench.directory().join("volsnap-test-missing-directory");
    let spec = mounting(bench.spec("helper", OBEDIENT), MountSource::Directory(directory.clone()));
    let error = bench.docker.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::NotFound, "{error}");
    assert!(error.message.contains("bind source path does not exist"), "{error}");
    assert!(!directory.exists());
    assert_eq!(bench.docker.container(&spec.name).await.unwrap(), None);
}

pub(crate) async fn a_name_is_given_out_once_and_what_is_used_stays(bench: &Bench) {
    let docker = &bench.docker;
    let labels = BTreeMap::from([("owner".to_owned(), "me".to_owned())]);
    let name = bench.name("data");
    docker.create_volume(&name, &labels).await.unwrap();
    let error = docker.create_volume(&name, &BTreeMap::new()).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    let volume = docker.volume(&name).await.unwrap().unwrap();
    assert_eq!((&volume.labels, volume.driver.as_str()), (&labels, "local"));
    assert!(docker.volumes().await.unwrap().iter().any(|one| one.name == name));
    let user = bench.run("db", OBEDIENT, Some(&name), 10).await;
    let mounts = docker.container(&user).await.unwrap().unwrap().mounts;
    assert_eq!((mounts[0].kind, &mounts[0].source), (MountKind::Volume, &volume.mountpoint));
    assert_eq!(docker.remove_volume(&name).await.unwrap_err().kind, DockerErrorKind::Conflict);
    docker.remove_container(&user).await.unwrap();
    for _ in 0..2 {
        docker.remove_volume(&name).await.unwrap();
    }
    assert_eq!(docker.volume(&name).await.unwrap(), None);
}

pub(crate) async fn a_new_one_is_made_with_its_container_and_its_labels(bench: &Bench) {
    let (name, labels) = (bench.name("stage"), BTreeMap::from([("run".to_owned(), "r".to_owned())]));
    let mut spec = mounting(bench.spec("helper", OBEDIENT), MountSource::Volume(name.clone()));
    spec.new_volumes.insert(name.clone(), labels.clone());
    let id = bench.docker.create_container(&spec).await.unwrap();
    assert_eq!(bench.docker.volume(&name).await.unwrap().unwrap().labels, labels);
    bench.docker.remove_container(&id).await.unwrap();
    // It has a name, so it stays.
    assert!(bench.docker.volume(&name).await.unwrap().is_some());
}
