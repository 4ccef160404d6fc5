//! Converts a container to the engine's JSON and back, as far as this engine has it.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::create::mount_of;
use crate::model::container::{Container, Mount, MountKind};
use crate::model::location::MountSource;

/// Returns what an engine says about a container.
pub(super) fn inspected(container: &Container) -> Value {
    let mounts: Vec<Value> = container.mounts.iter().map(mounted).collect();
    let binds: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| {
            let source = mount.volume.clone().unwrap_or_else(|| mount.source.to_string_lossy().into_owned());
            let mode = if mount.read_only { "ro" } else { "rw" };
            format!("{source}:{}:{mode}", mount.destination.display())
        })
        .collect();
    json!({
        "Id": container.id,
        "Name": format!("/{}", container.name),
        "Image": container.image_id,
        "Created": container.created,
        "Platform": "linux",
        "Config": {
            "Image": container.image,
            "Env": container.env,
            "Cmd": container.command,
            "Labels": container.labels,
            "User": container.user,
            "StopSignal": container.stop_signal,
            "StopTimeout": container.stop_timeout,
            "Healthcheck": {"Test": container.healthcheck},
        },
        "HostConfig": {
            "Binds": binds,
            "NetworkMode": container.network_mode,
            "PidMode": container.pid_mode,
            "IpcMode": container.ipc_mode,
            "RestartPolicy": {"Name": container.restart_policy},
            "AutoRemove": container.auto_remove,
        },
        "NetworkSettings": {"Networks": {}},
        "Mounts": mounts,
        "State": {"Status": container.state.status, "Running": container.state.running},
    })
}

fn mounted(mount: &Mount) -> Value {
    let kind = if mount.kind == MountKind::Volume { "volume" } else { "bind" };
    json!({
        "Type": kind,
        "Name": mount.volume,
        "Source": mount.source,
        "Destination": mount.destination,
        "RW": !mount.read_only,
    })
}

/// Returns the container that the body of a request asks for.
pub(super) fn container_of(body: &Value, name: &str) -> Container {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().map(text).collect() };
    let host = &body["HostConfig"];
    let labels = body["Labels"].as_object().cloned().unwrap_or_else(Map::new);
    let asked = host["Mounts"].as_array().into_iter().flatten().map(|mount| {
        let source = text(&mount["Source"]);
        let source = match mount["Type"].as_str() {
            Some("volume") => MountSource::Volume(source),
            _ => MountSource::Directory(source.into()),
        };
        mount_of(&source, text(&mount["Target"]).into(), mount["ReadOnly"] == json!(true))
    });
    let mounts = host["Binds"].as_array().into_iter().flatten().filter_map(bound).chain(asked).collect();
    Container {
        name: name.to_owned(),
        image: text(&body["Image"]),
        env: texts(&body["Env"]),
        command: texts(&body["Cmd"]),
        labels: labels.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        mounts,
        network_mode: text(&host["NetworkMode"]),
        pid_mode: text(&host["PidMode"]),
        ipc_mode: text(&host["IpcMode"]),
        restart_policy: text(&host["RestartPolicy"]["Name"]),
        stop_signal: body["StopSignal"].as_str().map(str::to_owned),
        stop_timeout: body["StopTimeout"].as_i64(),
        healthcheck: texts(&body["Healthcheck"]["Test"]),
        user: text(&body["User"]),
        auto_remove: host["AutoRemove"] == json!(true),
        ..Container::default()
    }
}

fn bound(bind: &Value) -> Option<Mount> {
    let mut parts = bind.as_str()?.split(':');
    let (source, destination) = (parts.next()?, parts.next()?);
    let source = match source.strip_prefix('/') {
        Some(_) => MountSource::Directory(source.into()),
        None => MountSource::Volume(source.to_owned()),
    };
    Some(mount_of(&source, PathBuf::from(destination), parts.next() == Some("ro")))
}
