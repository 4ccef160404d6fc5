//! An engine that names Podman among its components is refused for all that has to see a container stopped. It is the
//! engine of the other tests behind a socket that answers for its version.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use volsnap::engine::Docker;
use volsnap::engine::bollard::DockerEngine;

use crate::program::{Ran, Volsnap};
use crate::world::{World, docker};

const IDLE: &str = "echo 1 > /data/row; trap 'exit 0' TERM; ready; while :; do sleep 0.1; done";

/// What Podman 5.4 says of itself, in short.
const VERSION: &str = r#"{"Platform":{"Name":"linux/amd64"},"Components":[{"Name":"Podman Engine","Version":"5.4.2"},
    {"Name":"Conmon","Version":"2.1.12"}],"Version":"5.4.2","ApiVersion":"1.41","MinAPIVersion":"1.24","Os":"linux",
    "Arch":"amd64"}"#;

/// Answers at `socket` as the default engine does, but for its version, until the test ends.
fn pretend(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || serve(client.unwrap()));
        }
    });
}

/// Serves one request: no connection is used for a second one, which nobody would look at.
fn serve(mut client: UnixStream) {
    let mut request = Vec::new();
    let end = loop {
        let mut piece = [0; 4096];
        let read = client.read(&mut piece).unwrap_or(0);
        if read == 0 {
            return;
        }
        request.extend(&piece[..read]);
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8(request[..end].to_vec()).unwrap();
    if head.lines().next().unwrap().contains("/version ") {
        let (length, kind) = (VERSION.len(), "application/json");
        let _ = write!(
            client,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{VERSION}"
        );
        return;
    }
    let upgrades = head.to_lowercase().contains("upgrade");
    let close = if upgrades { "" } else { "\r\nConnection: close" };
    let mut engine = UnixStream::connect("/var/run/docker.sock").unwrap();
    engine.write_all(format!("{head}{close}").as_bytes()).unwrap();
    engine.write_all(&request[end..]).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut engine, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

#[tokio::test]
async fn podman_is_refused_for_what_stops_and_taken_for_what_does_not() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    assert!(!world.engine.engine().await.unwrap().podman);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("podman.sock");
    pretend(&socket);
    let address = format!("unix://{}", socket.display());
    assert!(DockerEngine::connect(Some(&address)).await.unwrap().engine().await.unwrap().podman);

    let volume = world.name("data");
    let container = world.run_service("service", &["-v", &format!("{volume}:/data")], IDLE);
    let state = || docker(&["inspect", "--format", "{{.State.Status}} {{.State.StartedAt}}", &container]);
    let before = state();
    let run = |arguments: &[&str]| -> Ran { volsnap.run_with(arguments, &[("DOCKER_HOST", &address)]) };
    let target = format!("volume:{volume}");
    let frozen = ["snapshot", &target, "--quiesce", "pause"];
    let _ = run(&frozen).expect(0);
    let place = directory.path().join("moved");
    let refused: [(&[&str], &str); 7] = [
        (&["snapshot", &target], &frozen.join(" ")),
        (&["snapshot", &target, "--dry-run"], "--dry-run --quiesce pause"),
        (&["restart", &container], "--quiesce pause"),
        (&["restart", &container, "--snapshot"], "--quiesce pause"),
        (&["restore", "latest", "-y"], "--new-volume NAME"),
        (&["restore", "latest", "-y", "--to", &container], "--dir DIR"),
        (&["migrate", &target, place.to_str().unwrap(), "-y"], "--quiesce pause"),
    ];
    for (arguments, instead) in refused {
        let ran = run(arguments);
        ran.refused(1, &["Podman", "while it still runs", instead, "nothing was stopped"]);
        let command = ran.next().remove(0);
        if !command.contains("NAME") {
            let mut shell = volsnap.shell();
            let _ = Ran::of(shell.env("DOCKER_HOST", &address).args(["-c", &command])).expect(0);
        }
    }
    assert_eq!(state(), before);
    // What nothing uses needs nobody stopped.
    let _ = run(&["restore", "latest", "-y", "--new-volume", &world.name("new")]).expect(0);
    assert!(!place.exists());
    volsnap.assert_no_leftovers();
}
