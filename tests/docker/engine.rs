//! What the engine does with the calls volsnap makes.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nix::sys::stat::Mode as Permissions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use volsnap::clock::Clock;
use volsnap::engine::bollard::DockerEngine;
use volsnap::engine::failing::{FailingDocker, Mode};
use volsnap::engine::helper;
use volsnap::engine::helper::HelperImage;
use volsnap::engine::{ContainerSpec, Docker, DockerErrorKind, Grace, MountSpec, Output, OutputStream};
use volsnap::model::container::MountKind;
use volsnap::model::location::MountSource;

use crate::world::{LABEL, World, docker};

const LONG: Duration = Duration::from_secs(60);

/// A script that sleeps until it is signalled, and answers at once.
const OBEDIENT: &str = "trap 'exit 0' TERM INT; ready; while :; do sleep 0.1; done";

async fn running(engine: &dyn Docker, id: &str) -> bool {
    engine.container(id).await.unwrap().is_some_and(|container| container.state.running)
}

async fn read_all(mut output: OutputStream) -> (Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(piece) = output.next().await {
        match piece.unwrap() {
            Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Output::Stderr(bytes) => stderr.extend_from_slice(&bytes),
        }
    }
    (stdout, stderr)
}

async fn wait_gone(engine: &dyn Docker, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while engine.container(id).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "container {id} was not removed by the engine");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_engine_says_what_it_is() {
    let world = World::new().await;
    let engine = world.engine.engine().await.unwrap();
    assert!(!engine.id.is_empty() && !engine.version.is_empty());
    assert_eq!(engine.os, "linux");
    assert!(engine.local);
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_unreachable() {
    let error = DockerEngine::connect(Some("unix:///nowhere/docker.sock")).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Unreachable);
    assert!(error.to_string().contains("unix:///nowhere/docker.sock"), "{error}");
    let error = DockerEngine::connect(Some("tcp://127.0.0.1:1")).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn an_address_of_another_kind_is_refused_with_what_to_do() {
    let error = DockerEngine::connect(Some("ssh://db.example")).await.unwrap_err();
    assert!(error.to_string().contains("reached by ssh"), "{error}");
    assert!(DockerEngine::connect(Some("npipe:////./pipe/docker")).await.is_err());
}

#[tokio::test]
async fn what_is_not_there_is_none_or_not_found_whatever_its_name() {
    let world = World::new().await;
    let engine = &world.engine;
    for name in ["no-such-thing", "", "..", "a b", "x/../../info", "x?all=1", "é;\n'\"", "--help"] {
        assert_eq!(engine.container(name).await.unwrap(), None, "{name:?}");
        assert_eq!(engine.volume(name).await.unwrap(), None, "{name:?}");
        assert_eq!(engine.image(name).await.unwrap(), None, "{name:?}");
        for error in [
            engine.start(name).await.unwrap_err(),
            engine.stop(name, None, Grace::Own, LONG).await.unwrap_err(),
            engine.exec(name, &["/bin/true".to_owned()], LONG).await.unwrap_err(),
            engine.logs(name, 5).await.unwrap_err(),
            engine.attach(name).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, DockerErrorKind::NotFound, "{name:?}: {error}");
        }
        engine.remove_container(name).await.unwrap();
    }
}

#[tokio::test]
async fn a_container_is_found_by_id_and_name_but_not_by_a_few_letters() {
    let world = World::new().await;
    let name = world.run_service("db", &["--env", "PGDATA=/data"], OBEDIENT);
    let container = world.engine.container(&name).await.unwrap().unwrap();
    assert_eq!(container.name, name);
    assert!(container.env.contains(&"PGDATA=/data".to_owned()));
    assert_eq!(world.engine.container(&container.id).await.unwrap().unwrap().name, name);
    assert_eq!(world.engine.container(&container.id[..12]).await.unwrap().unwrap().name, name);
    assert_eq!(world.engine.container(&container.id[..3]).await.unwrap(), None);
}

#[tokio::test]
async fn all_containers_are_listed_with_their_mounts_running_or_not() {
    let world = World::new().await;
    let volume = world.name("data");
    docker(&["volume", "create", "--label", "owner=me", &volume]);
    let mount = format!("{volume}:/data:ro");
    let options = ["-v", &mount, "--restart", "unless-stopped", "--stop-signal", "SIGINT"];
    let up = world.run_service("up", &options, OBEDIENT);
    let down = world.run_service("down", &[], "exit 3");
    docker(&["wait", &down]);
    let listed = world.engine.containers().await.unwrap();
    let up = listed.iter().find(|container| container.name == up).unwrap();
    let down = listed.iter().find(|container| container.name == down).unwrap();
    assert_eq!((up.state.running, up.restart_policy.as_str()), (true, "unless-stopped"));
    assert_eq!(up.stop_signal.as_deref(), Some("SIGINT"));
    let mount = &up.mounts[0];
    assert_eq!((mount.kind, mount.volume.as_deref()), (MountKind::Volume, Some(volume.as_str())));
    assert_eq!((mount.destination.as_path(), mount.read_only), (Path::new("/data"), true));
    assert_eq!((down.state.status.as_str(), down.state.exit_code), ("exited", 3));
    let listed = world.engine.volumes().await.unwrap();
    let listed = listed.iter().find(|listed| listed.name == volume).unwrap();
    assert_eq!(listed.labels.get("owner").map(String::as_str), Some("me"));
    assert_eq!(world.engine.volume(&volume).await.unwrap().unwrap().mountpoint, listed.mountpoint);
}

#[tokio::test]
async fn starting_and_stopping_twice_is_success() {
    let world = World::new().await;
    let name = world.run_service("db", &[], OBEDIENT);
    world.engine.start(&name).await.unwrap();
    world.engine.stop(&name, None, Grace::Unlimited, LONG).await.unwrap();
    assert!(!running(&world.engine, &name).await);
    world.engine.stop(&name, None, Grace::Unlimited, LONG).await.unwrap();
    world.engine.start(&name).await.unwrap();
    assert!(running(&world.engine, &name).await);
    let log = world.engine.logs(&name, 10).await.unwrap();
    assert_eq!(log, "");
}

#[tokio::test]
async fn a_container_gives_way_while_it_runs() {
    let world = World::new().await;
    let name = world.run_service("helper", &[], OBEDIENT);
    world.engine.lower_priority(&name).await.unwrap();
    assert_eq!(docker(&["inspect", "--format", "{{.HostConfig.CpuShares}}", &name]), "102");
    assert!(running(&world.engine, &name).await);
    docker(&["rm", "-f", &name]);
    assert_eq!(world.engine.lower_priority(&name).await.unwrap_err().kind, DockerErrorKind::NotFound);
}

#[tokio::test]
async fn a_container_with_unlimited_grace_is_never_killed() {
    let world = World::new().await;
    let script = "trap '' TERM; ready; n=0; while [ $n -lt 150 ]; do n=$((n+1)); sleep 0.1; done; exit 7";
    let name = world.run_service("slow", &[], script);
    let error = world.engine.stop(&name, None, Grace::Unlimited, Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::TimedOut);
    assert!(error.message.contains("goes on"), "{error}");
    world.engine.stop(&name, None, Grace::Unlimited, LONG).await.unwrap();
    let state = world.engine.container(&name).await.unwrap().unwrap().state;
    assert_eq!((state.running, state.exit_code), (false, 7), "137 would be a kill");
}

#[tokio::test]
async fn a_container_with_its_own_grace_is_killed_after_it() {
    let world = World::new().await;
    let script = "trap '' TERM; ready; while :; do sleep 0.1; done";
    let name = world.run_service("stubborn", &["--stop-timeout", "1"], script);
    world.engine.stop(&name, None, Grace::Own, LONG).await.unwrap();
    assert_eq!(world.engine.container(&name).await.unwrap().unwrap().state.exit_code, 137);
}

#[tokio::test]
async fn a_stop_signal_can_be_overridden_and_the_restart_policy_does_not_bring_it_back() {
    let world = World::new().await;
    // As a database with a smart shutdown on TERM, and a fast one on INT.
    let script = "trap 'echo term' TERM; trap 'echo int; exit 5' INT; ready; while :; do sleep 0.1; done";
    for policy in ["no", "always", "unless-stopped"] {
        let name = world.run_service(policy, &["--restart", policy], script);
        world.engine.stop(&name, Some("SIGINT"), Grace::Unlimited, LONG).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let state = world.engine.container(&name).await.unwrap().unwrap().state;
        assert_eq!((state.running, state.exit_code), (false, 5), "{policy}");
        assert!(world.engine.logs(&name, 10).await.unwrap().contains("int"));
    }
}

/// Passes connections on to the engine, but hangs up on a stop request once it has been sent.
async fn hanging_up_on_stop(socket: PathBuf) {
    let listener = UnixListener::bind(socket).unwrap();
    while let Ok((mut client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut engine = UnixStream::connect("/var/run/docker.sock").await.unwrap();
            let mut request = vec![0; 64 << 10];
            let length = client.read(&mut request).await.unwrap();
            engine.write_all(&request[..length]).await.unwrap();
            if String::from_utf8_lossy(&request[..length]).contains("/stop?") {
                tokio::time::sleep(Duration::from_millis(100)).await;
            } else {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
            }
        });
    }
}

#[tokio::test]
async fn a_stop_is_seen_through_when_the_connection_is_lost() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    tokio::spawn(hanging_up_on_stop(socket.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let engine = DockerEngine::connect(Some(&format!("unix://{}", socket.display()))).await.unwrap();
    let name =
        world.run_service("db", &[], "trap 'sleep 2; exit 4' TERM; ready; while :; do sleep 0.1; done");
    engine.stop(&name, None, Grace::Unlimited, LONG).await.unwrap();
    let state = world.engine.container(&name).await.unwrap().unwrap().state;
    assert_eq!((state.running, state.exit_code), (false, 4));
}

#[tokio::test]
async fn a_command_in_a_container_gives_its_exit_code_and_both_outputs() {
    let world = World::new().await;
    let name = world.run_service("db", &[], OBEDIENT);
    let run = |script: &str| ["/bin/sh", "-c", script].map(ToOwned::to_owned);
    let output = world.engine.exec(&name, &run("echo out; echo err >&2; exit 42"), LONG).await.unwrap();
    assert_eq!(
        (output.exit_code, &output.stdout[..], &output.stderr[..]),
        (42, &b"out\n"[..], &b"err\n"[..])
    );
    let flood = "dd if=/dev/zero bs=64k count=48 2>/dev/null";
    let output =
        world.engine.exec(&name, &run(&format!("{flood}; ({flood}) >&2; exit 1")), LONG).await.unwrap();
    assert_eq!((output.exit_code, output.stdout.len(), output.stderr.len()), (1, 3 << 20, 1 << 20));
    let missing = world.engine.exec(&name, &["/no/such/program".to_owned()], LONG).await;
    assert!(missing.map_or(true, |output| output.exit_code > 125));
    let start = Instant::now();
    let error = world.engine.exec(&name, &run("sleep 30"), Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::TimedOut);
    assert!(start.elapsed() < Duration::from_secs(5));
    world.engine.stop(&name, None, Grace::Unlimited, LONG).await.unwrap();
    let error = world.engine.exec(&name, &run("exit 0"), LONG).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
}

fn mounting(spec: ContainerSpec, source: MountSource, destination: &str, read_only: bool) -> ContainerSpec {
    let mount = MountSpec { source, destination: PathBuf::from(destination), read_only };
    ContainerSpec { mounts: [spec.mounts, vec![mount]].concat(), ..spec }
}

#[tokio::test]
async fn a_missing_volume_is_refused_and_not_created() {
    let world = World::new().await;
    let volume = world.name("missing");
    for name in [volume.as_str(), "", "a/b", "not a volume"] {
        let spec =
            mounting(world.spec("helper", "exit 0"), MountSource::Volume(name.to_owned()), "/data", true);
        let error = world.engine.create_container(&spec).await.unwrap_err();
        assert_eq!(error.kind, DockerErrorKind::NotFound, "{name:?}: {error}");
    }
    assert_eq!(world.engine.volume(&volume).await.unwrap(), None);
    assert_eq!(world.engine.container(&world.name("helper")).await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_directory_is_refused_and_not_created() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let spec =
        mounting(world.spec("helper", "exit 0"), MountSource::Directory(missing.clone()), "/data", true);
    let error = world.engine.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::NotFound, "{error}");
    assert!(error.message.contains("missing"), "{error}");
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_taken_name_is_a_conflict_and_a_missing_image_is_not_found() {
    let world = World::new().await;
    let spec = world.spec("helper", "exit 0");
    world.engine.create_container(&spec).await.unwrap();
    let error = world.engine.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Conflict, "{error}");
    let spec = ContainerSpec { image: "volsnap-test/none:1".to_owned(), ..world.spec("other", "exit 0") };
    let error = world.engine.create_container(&spec).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn the_helper_has_no_network_no_writable_place_and_one_capability() {
    let world = World::new().await;
    let volume = world.name("data");
    docker(&["volume", "create", &volume]);
    let script = "touch /x; touch /data/x; cat /proc/self/status /proc/net/dev";
    let mut spec = mounting(world.spec("helper", script), MountSource::Volume(volume), "/data", true);
    spec.capabilities = vec!["DAC_READ_SEARCH".to_owned()];
    let id = world.engine.create_container(&spec).await.unwrap();
    let attached = world.engine.attach(&id).await.unwrap();
    world.engine.start(&id).await.unwrap();
    let (stdout, stderr) = read_all(attached.output).await;
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(stderr.matches("Read-only file system").count(), 2, "{stderr}");
    for line in ["CapEff:\t0000000000000004", "CapBnd:\t0000000000000004", "NoNewPrivs:\t1"] {
        assert!(stdout.contains(line), "{line} is not in {stdout}");
    }
    let interfaces: Vec<_> =
        stdout.lines().filter(|line| line.contains(": ") && line.contains(" 0 ")).collect();
    assert!(interfaces.len() == 1 && interfaces[0].contains("lo:"), "{interfaces:?}");
}

#[tokio::test]
async fn stdin_is_echoed_and_its_end_ends_the_container_which_is_removed() {
    let world = World::new().await;
    for (suffix, close) in [("shutdown", true), ("drop", false)] {
        let id = world.engine.create_container(&world.spec(suffix, "cat; echo done >&2")).await.unwrap();
        let mut attached = world.engine.attach(&id).await.unwrap();
        world.engine.start(&id).await.unwrap();
        attached.stdin.write_all(b"hello\n").await.unwrap();
        attached.stdin.flush().await.unwrap();
        let first = attached.output.next().await.unwrap().unwrap();
        assert_eq!(first, Output::Stdout("hello\n".into()));
        if close {
            attached.stdin.shutdown().await.unwrap();
        }
        drop(attached.stdin);
        let rest = tokio::time::timeout(Duration::from_secs(10), read_all(attached.output)).await.unwrap();
        assert_eq!(rest, (Vec::new(), b"done\n".to_vec()));
        wait_gone(&world.engine, &id).await;
    }
}

#[tokio::test]
async fn a_helper_whose_client_is_gone_ends_and_is_removed() {
    let world = World::new().await;
    let id = world.engine.create_container(&world.spec("helper", "cat")).await.unwrap();
    let attached = world.engine.attach(&id).await.unwrap();
    world.engine.start(&id).await.unwrap();
    drop(attached);
    wait_gone(&world.engine, &id).await;
}

#[tokio::test]
async fn what_a_container_writes_first_is_never_lost() {
    let world = World::new().await;
    for round in 0..5 {
        let spec = world.spec(&format!("quick{round}"), "echo first; exit 0");
        let id = world.engine.create_container(&spec).await.unwrap();
        let attached = world.engine.attach(&id).await.unwrap();
        world.engine.start(&id).await.unwrap();
        assert_eq!(read_all(attached.output).await.0, b"first\n");
    }
}

#[tokio::test]
async fn removing_a_running_container_or_one_that_is_gone_is_success() {
    let world = World::new().await;
    let name = world.run_service("db", &[], OBEDIENT);
    world.engine.remove_container(&name).await.unwrap();
    assert_eq!(world.engine.container(&name).await.unwrap(), None);
    world.engine.remove_container(&name).await.unwrap();
    let id = world.engine.create_container(&world.spec("helper", "cat")).await.unwrap();
    let attached = world.engine.attach(&id).await.unwrap();
    world.engine.start(&id).await.unwrap();
    // The engine removes it on its own at the same time.
    let (first, second) =
        tokio::join!(world.engine.remove_container(&id), world.engine.remove_container(&id));
    first.unwrap();
    second.unwrap();
    drop(attached);
    assert_eq!(world.engine.container(&id).await.unwrap(), None);
}

const BLOCKS: usize = 1024;
const BLOCK_SIZE: usize = 1 << 20;

#[tokio::test]
async fn a_fifo_on_a_read_only_mount_carries_the_data() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("data");
    nix::unistd::mkfifo(&fifo, Permissions::S_IRUSR | Permissions::S_IWUSR).unwrap();
    let script =
        format!("dd if=/dev/zero of=/pipe/data bs={BLOCK_SIZE} count={BLOCKS} 2>/dev/null; touch /pipe/x");
    let source = MountSource::Directory(directory.path().to_owned());
    let spec = mounting(world.spec("helper", &script), source, "/pipe", true);
    let id = world.engine.create_container(&spec).await.unwrap();
    let attached = world.engine.attach(&id).await.unwrap();
    world.engine.start(&id).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut fifo = std::fs::File::open(fifo).unwrap();
        let (start, mut buffer, mut total) = (Instant::now(), vec![0; BLOCK_SIZE], 0);
        loop {
            match fifo.read(&mut buffer).unwrap() {
                0 => return (total, start.elapsed()),
                length => total += length,
            }
        }
    });
    let (total, elapsed) = read.await.unwrap();
    assert_eq!(total, BLOCKS * BLOCK_SIZE);
    eprintln!("FIFO: {:.0} MB/s", total as f64 / 1e6 / elapsed.as_secs_f64());
    let (_, stderr) = read_all(attached.output).await;
    assert!(String::from_utf8_lossy(&stderr).contains("Read-only"), "only FIFOs can be written to");
}

#[tokio::test]
async fn a_fifo_of_another_user_has_to_be_writable_for_others() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can give a FIFO away.
    }
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("data");
    nix::unistd::mkfifo(&fifo, Permissions::empty()).unwrap();
    std::os::unix::fs::chown(&fifo, Some(1000), Some(1000)).unwrap();
    std::os::unix::fs::chown(directory.path(), Some(1000), Some(1000)).unwrap();
    for (mode, written) in [(0o600, false), (0o622, true)] {
        std::fs::set_permissions(&fifo, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let mut reader = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
        let mut spec = world.spec(&format!("mode{mode:o}"), "echo data > /pipe/data");
        spec.capabilities = vec!["DAC_READ_SEARCH".to_owned()];
        let spec = mounting(spec, MountSource::Directory(directory.path().to_owned()), "/pipe", true);
        let id = world.engine.create_container(&spec).await.unwrap();
        let attached = world.engine.attach(&id).await.unwrap();
        world.engine.start(&id).await.unwrap();
        let (_, stderr) = read_all(attached.output).await;
        assert_eq!(stderr.is_empty(), written, "{mode:o}: {}", String::from_utf8_lossy(&stderr));
        let mut data = Vec::new();
        if written {
            reader.read_to_end(&mut data).await.unwrap();
        }
        assert_eq!(data, if written { &b"data\n"[..] } else { b"" });
    }
}

#[tokio::test]
async fn the_attached_output_carries_the_data_as_well() {
    let world = World::new().await;
    let blocks = BLOCKS / 4;
    let script = format!("dd if=/dev/zero bs={BLOCK_SIZE} count={blocks} 2>/dev/null");
    let id = world.engine.create_container(&world.spec("helper", &script)).await.unwrap();
    let mut attached = world.engine.attach(&id).await.unwrap();
    world.engine.start(&id).await.unwrap();
    let (start, mut total) = (Instant::now(), 0);
    while let Some(piece) = attached.output.next().await {
        if let Output::Stdout(bytes) = piece.unwrap() {
            total += bytes.len();
        }
    }
    assert_eq!(total, blocks * BLOCK_SIZE);
    eprintln!("attached stdout: {:.0} MB/s", total as f64 / 1e6 / start.elapsed().as_secs_f64());
}

/// An image of a throwaway repository, removed at the end.
struct ImportedImage(String);

impl Drop for ImportedImage {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

/// An executable that no other test packs, so that its image is this test's own.
fn unique_executable(directory: &Path) -> PathBuf {
    let path = directory.join("executable");
    let mut content = std::fs::read("/bin/cat").unwrap();
    content.extend_from_slice(directory.to_string_lossy().as_bytes());
    std::fs::write(&path, content).unwrap();
    path
}

#[tokio::test]
async fn the_helper_image_is_imported_once_and_two_at_once_do_no_harm() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let image = HelperImage::of(&unique_executable(directory.path())).unwrap();
    let _removed = ImportedImage(image.tag().to_owned());
    let clock = Clock::system();
    let (first, second) =
        tokio::join!(image.ensure(&world.engine, &clock), image.ensure(&world.engine, &clock));
    assert_eq!((first.unwrap(), second.unwrap()), (image.tag().to_owned(), image.tag().to_owned()));
    let imported = world.engine.image(image.tag()).await.unwrap().unwrap();
    assert_eq!(
        imported.labels.get(volsnap::model::labels::LABEL_HELPER).map(String::as_str),
        Some(env!("CARGO_PKG_VERSION"))
    );
    // The one whose tag the other took over is tidied up; another process may be at it right now.
    let deadline = Instant::now() + Duration::from_secs(5);
    while world
        .engine
        .images(volsnap::model::labels::LABEL_HELPER)
        .await
        .unwrap()
        .iter()
        .any(|image| image.tags.is_empty())
    {
        assert!(Instant::now() < deadline, "an image without a tag was left");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let recorded = FailingDocker::new(Arc::new(world.engine.clone()));
    image.ensure(&recorded, &Clock::system()).await.unwrap();
    let calls: Vec<_> = recorded.calls().into_iter().map(|call| call.name).collect();
    assert_eq!(calls, ["image"]);
    assert_eq!(world.engine.image(image.tag()).await.unwrap().unwrap().id, imported.id);
}

#[tokio::test]
async fn the_helper_runs_from_its_image_beside_the_source() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("PG_VERSION"), "15\n").unwrap();
    let image = HelperImage::of(&unique_executable(directory.path())).unwrap();
    let _removed = ImportedImage(image.ensure(&world.engine, &Clock::system()).await.unwrap());
    let source = MountSource::Directory(directory.path().to_owned());
    let mut spec = helper::helper_container(
        &world.name("helper"),
        image.tag(),
        "run1",
        &source,
        helper::Access::Read,
        Some(directory.path()),
        None,
    );
    assert_eq!(spec.command, [helper::EXECUTABLE, "agent"]);
    let source_label = format!("path:{}", directory.path().display());
    assert_eq!(spec.labels.get(volsnap::model::labels::LABEL_SOURCE), Some(&source_label));
    spec.labels.insert(LABEL.to_owned(), std::process::id().to_string());
    // The packed executable is `cat` here.
    spec.command[1] = format!("{}/PG_VERSION", helper::SOURCE);
    spec.command.push(format!("{}/PG_VERSION", helper::PIPE));
    let id = world.engine.create_container(&spec).await.unwrap();
    let attached = world.engine.attach(&id).await.unwrap();
    world.engine.start(&id).await.unwrap();
    assert_eq!(read_all(attached.output).await, (b"15\n15\n".to_vec(), Vec::new()));
}

#[tokio::test]
async fn labels_of_an_image_are_data() {
    let world = World::new().await;
    let labels = BTreeMap::from([("volsnap.test".to_owned(), r#"a "b" \c $HOME ${x} 'd' # e"#.to_owned())]);
    let tar = helper::pack(&[(Path::new("/bin/cat"), Path::new("/cat"))]).unwrap();
    let tag = format!("{}:1", world.name("image"));
    let _removed = ImportedImage(tag.clone());
    world.engine.import_image(&tag, &labels, tar).await.unwrap();
    assert_eq!(world.engine.image(&tag).await.unwrap().unwrap().labels, labels);
    let error = world.engine.import_image(&tag, &labels, "no tar at all".into()).await.unwrap_err();
    assert_eq!(error.kind, DockerErrorKind::Other, "{error}");
}

#[tokio::test]
async fn an_injected_failure_comes_before_or_after_the_effect() {
    let world = World::new().await;
    let name = world.run_service("db", &[], OBEDIENT);
    let docker = FailingDocker::new(Arc::new(world.engine.clone()));
    docker.fail_at(1, Mode::Before);
    let error = docker.stop(&name, None, Grace::Unlimited, LONG).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (DockerErrorKind::Unreachable, "injected failure"));
    assert!(running(&world.engine, &name).await);
    docker.fail_at(2, Mode::After);
    docker.stop(&name, None, Grace::Unlimited, LONG).await.unwrap_err();
    assert!(!running(&world.engine, &name).await);
    docker.fail_at(3, Mode::Hang);
    assert!(tokio::time::timeout(Duration::from_secs(1), docker.start(&name)).await.is_err());
    assert!(!running(&world.engine, &name).await);
    docker.fail_during(4..6, Mode::Before);
    assert!(docker.container(&name).await.is_err() && docker.engine().await.is_err());
    docker.start(&name).await.unwrap();
    let calls: Vec<String> = docker.calls().iter().map(ToString::to_string).collect();
    let expected = ["1 stop", "2 stop", "3 start", "4 container", "5 engine", "6 start"];
    assert!(calls.iter().zip(expected).all(|(call, start)| call.starts_with(start)), "{calls:?}");
    assert_eq!(calls.len(), expected.len());
}
