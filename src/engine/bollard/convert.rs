//! Converts our models to the client's, and the client's to ours.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, ContainerState as StateModel,
    ContainerTopResponse, HealthConfig, HealthStatusEnum, HostConfig, HostConfigLogConfig, ImageInspect,
    Mount as MountModel, MountPoint, MountType, MountVolumeOptions, RestartPolicy, RestartPolicyNameEnum,
    Volume as VolumeModel,
};

use crate::engine::{ContainerSpec, MountSpec, Network, Output, TmpfsSpec};
use crate::model::container::{Container, ContainerState, Image, Mount, MountKind, Process, Volume};
use crate::model::location::MountSource;

/// A tenth of a container's default share.
pub(super) const YIELDING_CPU_SHARES: i64 = 102;
/// How often the engine looks at a container's health if nothing else is said.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// How often a look has to fail in a row.
const HEALTH_RETRIES: u32 = 3;

pub(super) fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let memory = spec.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let host_config = HostConfig {
        network_mode: Some(match &spec.network {
            Network::None => "none".to_owned(),
            Network::Of(id) => format!("container:{id}"),
            Network::Named(name) => name.clone(),
        }),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(spec.capabilities.clone()),
        security_opt: Some(vec!["no-new-privileges".to_owned(), "label=disable".to_owned()]),
        log_config: Some(if spec.kept { bounded_log() } else { no_log() }),
        auto_remove: Some(!spec.kept),
        init: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(if spec.restarts { RestartPolicyNameEnum::ALWAYS } else { RestartPolicyNameEnum::NO }),
            maximum_retry_count: None,
        }),
        mounts: Some(spec.mounts.iter().map(|mount| mount_model(mount, &spec.new_volumes)).collect()),
        tmpfs: Some(spec.tmpfs.iter().map(|tmpfs| tmpfs_option(tmpfs, spec.user)).collect()),
        memory,
        // The same as the memory, so that no swap comes on top.
        memory_swap: memory,
        pids_limit: spec.pids.map(i64::from),
        pid_mode: spec.host_processes.then(|| "host".to_owned()),
        group_add: Some(spec.groups.iter().map(u32::to_string).collect()),
        cpu_shares: spec.yields.then_some(YIELDING_CPU_SHARES),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        // Set as entrypoint, so that none of the image's comes before it.
        entrypoint: Some(spec.command.clone()),
        labels: Some(spec.labels.clone().into_iter().collect::<HashMap<_, _>>()),
        user: spec.user.map(|(uid, gid)| format!("{uid}:{gid}")),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        // The image's own healthcheck would only disturb.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        attach_stdin: Some(!spec.detached),
        attach_stdout: Some(!spec.detached),
        attach_stderr: Some(!spec.detached),
        open_stdin: Some(!spec.detached),
        stdin_once: Some(!spec.detached),
        network_disabled: Some(spec.network == Network::None),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

fn no_log() -> HostConfigLogConfig {
    HostConfigLogConfig { typ: Some("none".to_owned()), config: None }
}

/// The driver that every engine has and whose logs can be read.
fn bounded_log() -> HostConfigLogConfig {
    let options = [("max-size", "4m"), ("max-file", "1")];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(HashMap::from(options)) }
}

fn tmpfs_option(tmpfs: &TmpfsSpec, user: Option<(u32, u32)>) -> (String, String) {
    let whose =
        user.map_or_else(|| "mode=1777".to_owned(), |(uid, gid)| format!("mode=0700,uid={uid},gid={gid}"));
    let options = format!("rw,noexec,nosuid,nodev,size={},{whose}", tmpfs.bytes);
    (tmpfs.destination.to_string_lossy().into_owned(), options)
}

fn mount_model(mount: &MountSpec, new_volumes: &BTreeMap<String, BTreeMap<String, String>>) -> MountModel {
    let (typ, source, volume_options) = match &mount.source {
        MountSource::Volume(name) => {
            // The engine gives labels only to volumes that it makes.
            let labels = new_volumes.get(name).map(|labels| labels.clone().into_iter().collect());
            let options = MountVolumeOptions { no_copy: Some(true), labels, ..MountVolumeOptions::default() };
            (MountType::VOLUME, name.clone(), Some(options))
        }
        MountSource::Directory(path) => (MountType::BIND, path.to_string_lossy().into_owned(), None),
    };
    MountModel {
        target: Some(mount.destination.to_string_lossy().into_owned()),
        source: Some(source),
        typ: Some(typ),
        read_only: Some(mount.read_only),
        volume_options,
        ..MountModel::default()
    }
}

pub(super) fn output_from(piece: LogOutput) -> Output {
    match piece {
        LogOutput::StdErr { message } => Output::Stderr(message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            Output::Stdout(message)
        }
    }
}

/// A `LABEL` instruction, each part quoted so that nothing in it is expanded.
pub(super) fn label_instruction(name: &str, value: &str) -> String {
    let quoted = |text: &str| {
        let mut quoted = String::from('"');
        for c in text.chars().filter(|c| !c.is_control()) {
            if matches!(c, '"' | '\\' | '$') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        quoted + "\""
    };
    format!("LABEL {}={}", quoted(name), quoted(value))
}

pub(super) fn container_from(found: ContainerInspectResponse) -> Container {
    let config = found.config.unwrap_or_default();
    let host = found.host_config.unwrap_or_default();
    let restart_policy = host.restart_policy.and_then(|policy| policy.name);
    Container {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image_id: found.image.unwrap_or_default(),
        created: found.created.unwrap_or_default(),
        state: state_from(found.state.unwrap_or_default()),
        command: command_of(&config),
        mounts: mounts_from(found.mounts.unwrap_or_default(), host.tmpfs.unwrap_or_default()),
        network_mode: host.network_mode.unwrap_or_default(),
        pid_mode: host.pid_mode.unwrap_or_default(),
        ipc_mode: host.ipc_mode.unwrap_or_default(),
        restart_policy: restart_policy.map(|name| name.to_string()).unwrap_or_default(),
        healthcheck: config.healthcheck.as_ref().map(healthcheck_command).unwrap_or_default(),
        health_patience: config.healthcheck.as_ref().and_then(health_patience),
        auto_remove: host.auto_remove.unwrap_or_default(),
        image: config.image.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        stop_timeout: config.stop_timeout,
        user: config.user.unwrap_or_default(),
        processes: Vec::new(),
    }
}

/// What `ps` is asked for on the engine's host: what a process is, and last how it was called.
pub(super) const PS_COLUMNS: &str = "-eo pid,args";

/// Returns the processes in a container whose first one has this number.
pub(super) fn processes_from(listed: ContainerTopResponse, first: i64) -> Vec<Process> {
    let process = |row: Vec<String>| {
        let (pid, words) = row.split_first()?;
        let command = words.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned).collect();
        let pid: u32 = pid.trim().parse().ok()?;
        Some(Process { pid, command, first: i64::from(pid) == first })
    };
    listed.processes.unwrap_or_default().into_iter().filter_map(process).collect()
}

fn command_of(config: &ContainerConfig) -> Vec<String> {
    let entrypoint = config.entrypoint.iter().flatten();
    entrypoint.chain(config.cmd.iter().flatten()).cloned().collect()
}

/// Returns the command that the engine runs inside the container for a healthcheck; in the API it is `["CMD",
/// arguments…]` or `["CMD-SHELL", line]`.
fn healthcheck_command(config: &HealthConfig) -> Vec<String> {
    match config.test.as_deref() {
        Some([kind, arguments @ ..]) if kind == "CMD" => arguments.to_vec(),
        Some([kind, line, ..]) if kind == "CMD-SHELL" => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
        }
        _ => Vec::new(),
    }
}

/// Returns for how long a healthcheck must fail: it takes every retry, an interval after the one before.
fn health_patience(config: &HealthConfig) -> Option<Duration> {
    if healthcheck_command(config).is_empty() {
        return None;
    }
    // The engine's own values stand in for those that are missing or zero.
    let nanoseconds = config.interval.and_then(|interval| u64::try_from(interval).ok());
    let interval = nanoseconds.filter(|interval| *interval > 0).map_or(HEALTH_INTERVAL, Duration::from_nanos);
    let retries = config.retries.and_then(|retries| u32::try_from(retries).ok());
    Some(interval * retries.filter(|retries| *retries > 0).unwrap_or(HEALTH_RETRIES))
}

fn state_from(state: StateModel) -> ContainerState {
    let health = state.health.and_then(|health| health.status);
    ContainerState {
        status: state.status.map(|status| status.to_string()).unwrap_or_default(),
        running: state.running.unwrap_or_default(),
        paused: state.paused.unwrap_or_default(),
        restarting: state.restarting.unwrap_or_default(),
        exit_code: state.exit_code.unwrap_or_default(),
        pid: state.pid.unwrap_or_default(),
        oom_killed: state.oom_killed.unwrap_or_default(),
        started_at: state.started_at.unwrap_or_default(),
        finished_at: state.finished_at.unwrap_or_default(),
        health: health
            .filter(|health| !matches!(health, HealthStatusEnum::EMPTY | HealthStatusEnum::NONE))
            .map(|health| health.to_string()),
    }
}

/// Returns the mounts: the engine lists what `--tmpfs` asks for apart from the others.
fn mounts_from(mounts: Vec<MountPoint>, tmpfs: HashMap<String, String>) -> Vec<Mount> {
    let mut mounts: Vec<_> = mounts.into_iter().map(mount_from).collect();
    let mut in_memory: Vec<_> = tmpfs.into_keys().map(PathBuf::from).collect();
    in_memory.sort();
    in_memory.retain(|destination| mounts.iter().all(|mount| mount.destination != *destination));
    mounts.extend(in_memory.into_iter().map(|destination| Mount {
        kind: MountKind::Tmpfs,
        destination,
        ..Mount::default()
    }));
    mounts
}

fn mount_from(mount: MountPoint) -> Mount {
    let kind = match mount.typ.as_deref() {
        Some("volume") => MountKind::Volume,
        Some("bind") => MountKind::Bind,
        Some("tmpfs") => MountKind::Tmpfs,
        _ => MountKind::Other,
    };
    Mount {
        kind,
        volume: mount.name.filter(|name| kind == MountKind::Volume && !name.is_empty()),
        source: PathBuf::from(mount.source.unwrap_or_default()),
        destination: PathBuf::from(mount.destination.unwrap_or_default()),
        read_only: mount.rw == Some(false),
    }
}

pub(super) fn volume_from(volume: VolumeModel) -> Volume {
    Volume {
        name: volume.name,
        driver: volume.driver,
        mountpoint: PathBuf::from(volume.mountpoint),
        labels: volume.labels.into_iter().collect(),
        options: volume.options.into_iter().collect(),
    }
}

pub(super) fn image_from(image: ImageInspect) -> Image {
    let config = image.config.unwrap_or_default();
    Image {
        id: image.id.unwrap_or_default(),
        tags: image.repo_tags.unwrap_or_default(),
        created: image.created.unwrap_or_default(),
        repo_digests: image.repo_digests.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        env: config.env.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        command: config.cmd.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_leaves_out_is_empty() {
        assert_eq!(container_from(ContainerInspectResponse::default()), Container::default());
        assert_eq!(image_from(ImageInspect::default()), Image::default());
        assert_eq!(mount_from(MountPoint::default()).kind, MountKind::Other);
    }

    #[test]
    fn what_is_mounted_in_memory_counts_however_it_was_asked_for() {
        let listed = MountPoint {
            typ: Some("tmpfs".to_owned()),
            destination: Some("/a".to_owned()),
            ..MountPoint::default()
        };
        let asked = ["/a", "/b"].map(|path| (path.to_owned(), "size=1m".to_owned())).into();
        let mounts = mounts_from(vec![listed], asked);
        let found: Vec<_> = mounts.iter().map(|mount| (mount.kind, mount.destination.to_str())).collect();
        assert_eq!(found, [(MountKind::Tmpfs, Some("/a")), (MountKind::Tmpfs, Some("/b"))]);
    }

    #[test]
    fn a_healthcheck_is_given_as_long_as_all_its_retries_take() {
        let of = |interval, retries| {
            let test = Some(vec!["CMD".to_owned(), "true".to_owned()]);
            health_patience(&HealthConfig { test, interval, retries, ..HealthConfig::default() })
        };
        assert_eq!(of(Some(5_000_000_000), Some(3)), Some(Duration::from_secs(15)));
        assert_eq!(of(None, Some(0)), Some(Duration::from_secs(90)));
        assert_eq!(health_patience(&HealthConfig::default()), None);
    }

    #[test]
    fn a_healthcheck_is_the_command_it_runs_and_a_disabled_one_is_none() {
        let command = |test: &[&str]| {
            let test = Some(test.iter().map(ToString::to_string).collect());
            healthcheck_command(&HealthConfig { test, ..HealthConfig::default() })
        };
        assert_eq!(command(&["CMD", "pg_isready", "-q"]), ["pg_isready", "-q"]);
        assert_eq!(command(&["CMD-SHELL", "true || false"]), ["/bin/sh", "-c", "true || false"]);
        assert!(command(&["NONE"]).is_empty() && command(&[]).is_empty());
        assert!(healthcheck_command(&HealthConfig::default()).is_empty());
    }
}
