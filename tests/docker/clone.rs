//! A container without Compose is made anew with another mount and everything else as it was.

use std::path::Path;

use serde_json::Value;
use volsnap::engine::{Docker, DockerErrorKind, NewMount};
use volsnap::model::location::MountSource;

use crate::world::{LABEL, World, docker};

const IDLE: &str = "trap 'exit 0' TERM; ready; while :; do sleep 0.1; done";

fn inspect(container: &str) -> Value {
    let all: Value = serde_json::from_str(&docker(&["inspect", container])).unwrap();
    all[0].clone()
}

fn at<'m>(destination: &'m Path, source: &'m MountSource) -> Option<NewMount<'m>> {
    Some(NewMount { destination, source })
}

/// Removes what a test's networks are.
struct Networks([String; 2]);

impl Drop for Networks {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["network", "rm"]).args(&self.0).output();
    }
}

#[tokio::test]
async fn a_rich_container_made_anew_differs_in_its_mount_alone() {
    let label = format!("{LABEL}={}", std::process::id());
    let unique = std::process::id() % 250;
    let subnet = format!("10.213.{unique}.0/24");
    let world = World::new().await;
    let (back, front) = (world.name("back"), world.name("front"));
    docker(&["network", "create", "--label", &label, "--subnet", &subnet, &back]);
    docker(&["network", "create", "--label", &label, &front]);
    let (volume, log) = (world.name("data"), world.name("log"));
    docker(&["volume", "create", &volume]);
    docker(&["volume", "create", &log]);
    let image = world.spec("x", "").image;
    let name = world.name("rich");
    let (mount, log_mount) =
        (format!("{volume}:/data:nocopy"), format!("type=volume,src={log},dst=/log,readonly"));
    let address = format!("10.213.{unique}.77");
    let options: &[&str] = &[
        "--label",
        "who=ours",
        "-e",
        "SECRET=secret-word",
        "--user",
        "1000:1000",
        "--workdir",
        "/data",
        "--network",
        &back,
        "--ip",
        &address,
        "--network-alias",
        "pg",
        "--add-host",
        "other:10.0.0.1",
        "--dns",
        "10.0.0.53",
        "-p",
        "127.0.0.1::5432",
        "--expose",
        "6000",
        "--restart",
        "on-failure:3",
        "--init",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CHOWN",
        "--security-opt",
        "no-new-privileges",
        "--memory",
        "64m",
        "--memory-reservation",
        "32m",
        "--cpu-shares",
        "512",
        "--pids-limit",
        "50",
        "--ulimit",
        "nofile=1024:2048",
        "--shm-size",
        "16m",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=0",
        "--log-driver",
        "json-file",
        "--log-opt",
        "max-size=1m",
        "--log-opt",
        "max-file=2",
        "--stop-timeout",
        "42",
        "--stop-signal",
        "SIGINT",
        "--oom-score-adj",
        "100",
        "--ipc",
        "private",
        "--health-cmd",
        "true",
        "--health-interval",
        "60s",
        "--group-add",
        "2000",
        "-v",
        &mount,
        "-v",
        "/anonymous",
        "--mount",
        &log_mount,
    ];
    let fixed = ["create", "--name", &name, "--label", &label];
    docker(&[&fixed[..], options, &[&image, "/bin/sh", "-c", IDLE]].concat());
    docker(&["network", "connect", "--alias", "front-pg", &front, &name]);
    // Dropped before the networks are: they are in use until then.
    let networks = Networks([back.clone(), front.clone()]);
    let old = inspect(&name);

    let directory = tempfile::tempdir().unwrap();
    let source = MountSource::Directory(directory.path().to_owned());
    let new_name = world.name("rich-new");
    let engine = &world.engine;
    let model = engine.inspect_raw(&name).await.unwrap();
    let id = engine.clone_container(&model, &new_name, at(Path::new("/data"), &source)).await.unwrap();
    let made = inspect(&new_name);
    assert_eq!(made["Id"], id.as_str());
    // Compared here by no rule of the code's own: whatever is not listed has to be equal.
    for (section, except) in [("Config", &["Hostname"][..]), ("HostConfig", &["Binds", "Mounts"])] {
        let (a, b) = (old[section].as_object().unwrap(), made[section].as_object().unwrap());
        assert!(a.keys().eq(b.keys()), "{section}");
        for (field, value) in a.iter().filter(|(field, _)| !except.contains(&field.as_str())) {
            assert_eq!(&b[field], value, "{section}.{field}");
        }
    }
    for (network, alias) in [(&back, "pg"), (&front, "front-pg")] {
        let endpoint = |of: &Value| of["NetworkSettings"]["Networks"][network].clone();
        let aliases = endpoint(&made)["Aliases"].as_array().unwrap().clone();
        assert!(aliases.iter().any(|one| one == alias), "{aliases:?}");
        assert!(!aliases.iter().any(|one| one == &old["Id"].as_str().unwrap()[..12]), "{aliases:?}");
        assert_eq!(endpoint(&made)["IPAMConfig"], endpoint(&old)["IPAMConfig"]);
    }
    let mounts = |of: &Value| {
        let mut mounts: Vec<_> = of["Mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| format!("{} {} {} {}", one["Destination"], one["Type"], one["Source"], one["RW"]))
            .collect();
        mounts.sort();
        mounts
    };
    let mut expected = mounts(&old);
    let data = expected.iter_mut().find(|mount| mount.starts_with("\"/data\"")).unwrap();
    *data = format!("\"/data\" \"bind\" {:?} true", directory.path());
    assert_eq!(mounts(&made), expected, "the volume without a name has to be the same one");

    // Changing places; what is removed takes no volume along.
    engine.rename_container(&name, &world.name("rich-old")).await.unwrap();
    engine.rename_container(&id, &name).await.unwrap();
    engine.start(&id).await.unwrap();
    assert_eq!(inspect(&name)["NetworkSettings"]["Networks"][&back]["IPAddress"], address.as_str());
    let running = engine.inspect_raw(&name).await.unwrap();
    let conflict =
        engine.clone_container(&running, &new_name, at(Path::new("/data"), &source)).await.unwrap_err();
    assert_eq!(conflict.kind, DockerErrorKind::Conflict);
    engine.remove_stopped_container(old["Id"].as_str().unwrap()).await.unwrap();
    engine.remove_stopped_container(old["Id"].as_str().unwrap()).await.unwrap();
    let volumes = docker(&["volume", "ls", "-q"]);
    for mount in old["Mounts"].as_array().unwrap() {
        let volume = mount["Name"].as_str().unwrap();
        assert!(volumes.lines().any(|name| name == volume), "{volume} is gone");
    }
    // One that is gone can be had again, from what was said of it.
    docker(&["rm", "-f", &id]);
    let again = engine.clone_container(&model, &name, at(Path::new("/data"), &source)).await.unwrap();
    assert_eq!(inspect(&again)["Config"]["Env"], old["Config"]["Env"]);
    docker(&["rm", "-f", &again]);
    let anonymous =
        old["Mounts"].as_array().unwrap().iter().find(|one| one["Destination"] == "/anonymous").unwrap();
    docker(&["volume", "rm", "-f", anonymous["Name"].as_str().unwrap()]);
    drop(networks);
}

#[tokio::test]
async fn what_cannot_be_had_alike_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    let volume = world.name("data");
    docker(&["volume", "create", &volume]);
    let name = world.run_service("db", &["-v", &format!("{volume}:/data")], IDLE);
    docker(&["stop", "-t", "10", &name]);
    let like = async |destination: &str, source: &MountSource| {
        let model = world.engine.inspect_raw(&name).await.unwrap();
        world
            .engine
            .clone_container(&model, &world.name("new"), at(Path::new(destination), source))
            .await
            .unwrap_err()
    };
    let directory = tempfile::tempdir().unwrap();
    let here = MountSource::Directory(directory.path().to_owned());
    assert!(like("/elsewhere", &here).await.message.contains("nothing is mounted"));
    let missing = MountSource::Volume(world.name("missing"));
    assert_eq!(like("/data", &missing).await.kind, DockerErrorKind::NotFound);
    let nowhere = MountSource::Directory(directory.path().join("nowhere"));
    like("/data", &nowhere).await;
    assert!(!directory.path().join("nowhere").exists());
    let left = docker(&["ps", "-aq", "--filter", &format!("name={}", world.name("new"))]);
    assert_eq!(left, "");
}
