//! What an engine has: containers, volumes and images, as far as volsnap looks at them. Pure data.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What matters here of the engine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EngineInfo {
    /// The engine's own identifier; the same for every client of it.
    pub id: String,
    /// The engine's version, such as "20.10.24".
    pub version: String,
    /// The negotiated API version.
    pub api_version: ApiVersion,
    /// Operating system of the containers: "linux".
    pub os: String,
    /// Architecture in Docker's words: "amd64", "arm64".
    pub arch: String,
    /// Whether a local socket reaches the engine, and the paths of its host are ours.
    pub local: bool,
    /// Whether it is Podman, which speaks Docker's API but gives parts of it another meaning.
    #[serde(default)]
    pub podman: bool,
}

/// An API version, such as 1.41.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ApiVersion(
    /// The major number.
    pub u32,
    /// The minor number.
    pub u32,
);

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A container as the engine describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// The full id.
    pub id: String,
    /// The name, without the leading slash.
    pub name: String,
    /// The image as it was named at creation.
    pub image: String,
    /// The image's content id, `sha256:…`.
    pub image_id: String,
    /// When it was created, RFC 3339 as the engine writes it.
    pub created: String,
    /// What it is doing.
    pub state: ContainerState,
    /// Environment, `NAME=value`. Holds secrets: never printed, never stored.
    pub env: Vec<String>,
    /// Entrypoint and command.
    pub command: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What is mounted in it.
    pub mounts: Vec<Mount>,
    /// Network mode: "bridge", "host", "container:ID", a network's name.
    pub network_mode: String,
    /// Whose processes it sees: "" for its own, "host", "container:ID".
    pub pid_mode: String,
    /// Whose shared memory it uses: "private", "shareable", "host", "container:ID".
    pub ipc_mode: String,
    /// Restart policy: "", "no", "always", "unless-stopped", "on-failure".
    pub restart_policy: String,
    /// The signal that asks it to stop, if image or container set one.
    pub stop_signal: Option<String>,
    /// The container's own grace in seconds, where set.
    pub stop_timeout: Option<i64>,
    /// The command of its healthcheck; empty without one, or with one that is disabled.
    pub healthcheck: Vec<String>,
    /// For how long it must fail until the engine calls the container ill; `None` without one.
    pub health_patience: Option<std::time::Duration>,
    /// The configured user, "" for the image's.
    pub user: String,
    /// Whether the engine removes it when it exits.
    pub auto_remove: bool,
    /// Its processes when they were last asked for; none if nobody has asked.
    pub processes: Vec<Process>,
}

/// A process in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Its number on the engine's host.
    pub pid: u32,
    /// Its words, split at spaces, which `ps` does not tell apart from those in a word. A process may give itself
    /// another title. Holds secrets, as any command line may: never printed, never stored.
    pub command: Vec<String>,
    /// Whether it is the container's first: the one that gets the engine's signals.
    pub first: bool,
}

impl Container {
    /// Returns when it was created; `None` if the engine wrote no time.
    #[must_use]
    pub fn created_at(&self) -> Option<chrono::DateTime<chrono::FixedOffset>> {
        chrono::DateTime::parse_from_rfc3339(&self.created).ok()
    }
}

/// Returns those of the containers that the engine would not start again if it, or the machine, restarted while they
/// are stopped, each with its restart policy: `db (unless-stopped)`.
///
/// `always` alone brings back what somebody has stopped. `unless-stopped` leaves it, as its name says; `on-failure` and
/// `no` start nothing when the engine starts.
pub fn down_after_reboot<'c>(stopped: impl IntoIterator<Item = &'c Container>) -> Vec<String> {
    let policy = |container: &'c Container| match container.restart_policy.as_str() {
        "" => "no",
        policy => policy,
    };
    let down =
        stopped.into_iter().map(|one| (&one.name, policy(one))).filter(|(_, policy)| *policy != "always");
    down.map(|(name, policy)| format!("{name} ({policy})")).collect()
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerState {
    /// created, running, paused, restarting, removing, exited, dead.
    pub status: String,
    /// Whether its process runs (true while paused and restarting, as the engine has it).
    pub running: bool,
    /// Whether it is frozen.
    pub paused: bool,
    /// Whether the engine is between two starts of it.
    pub restarting: bool,
    /// Exit code of the last run.
    pub exit_code: i64,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
    /// When the last run started, RFC 3339 with nanoseconds as the engine writes it.
    pub started_at: String,
    /// When the last run ended, in the same format.
    pub finished_at: String,
    /// starting, healthy, unhealthy; `None` without a healthcheck.
    pub health: Option<String>,
    /// Its first process, as the engine's host numbers it; 0 while it does not run.
    pub pid: i64,
}

impl ContainerState {
    /// Returns whether it has run for this long without a break, by the engine's clock and ours.
    #[must_use]
    pub fn has_run_for(&self, least: std::time::Duration, now: chrono::DateTime<chrono::Utc>) -> bool {
        let Ok(started) = chrono::DateTime::parse_from_rfc3339(&self.started_at) else { return false };
        let ran = now.signed_duration_since(started).to_std().unwrap_or_default();
        self.running && !self.restarting && ran >= least
    }
}

/// What kind of thing is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A volume, named or anonymous.
    #[default]
    Volume,
    /// A host directory or file.
    Bind,
    /// Memory.
    Tmpfs,
    /// Anything else.
    Other,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// What kind of thing is mounted.
    pub kind: MountKind,
    /// The volume's name; `None` for anything but a volume.
    pub volume: Option<String>,
    /// The path on the engine's host; for a volume its mountpoint.
    pub source: PathBuf,
    /// The path in the container.
    pub destination: PathBuf,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// A volume as the engine describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Volume {
    /// The name; 64 hexadecimal digits for an anonymous one.
    pub name: String,
    /// The driver, "local" mostly.
    pub driver: String,
    /// Where the engine's host has it.
    pub mountpoint: PathBuf,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options (`type`, `o`, `device`).
    pub options: BTreeMap<String, String>,
}

/// An image as the engine describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The content id, `sha256:…`.
    pub id: String,
    /// Names with tags, such as "postgres:15"; none if the tag has moved on.
    pub tags: Vec<String>,
    /// When it was made, RFC 3339 as the engine writes it.
    pub created: String,
    /// Digests under which a registry knows it.
    pub repo_digests: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Environment, `NAME=value`. Holds secrets, as any environment may: never printed, never stored.
    pub env: Vec<String>,
    /// The program that it runs, with its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments after these.
    pub command: Vec<String>,
}

/// The result of a command run inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// Exit code of the command.
    pub exit_code: i64,
    /// What it wrote, at most 64 MiB kept.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, at most 1 MiB kept.
    pub stderr: Vec<u8>,
}

/// What one container may have of another. It is gone when that one stops, and without it the engine starts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Namespace {
    /// Its network.
    Network,
    /// Its processes: the kernel kills whoever is there when the first one ends.
    Processes,
    /// Its shared memory.
    Memory,
}

impl Namespace {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Network, Self::Processes, Self::Memory];

    /// Returns the engine's name for the field that says whose it is.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Network => "NetworkMode",
            Self::Processes => "PidMode",
            Self::Memory => "IpcMode",
        }
    }

    /// Returns whose a container uses, in the engine's words.
    #[must_use]
    pub fn mode_of(self, container: &Container) -> &str {
        match self {
            Self::Network => &container.network_mode,
            Self::Processes => &container.pid_mode,
            Self::Memory => &container.ipc_mode,
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network",
            Self::Processes => "processes",
            Self::Memory => "shared memory",
        })
    }
}

/// Returns the containers of which this one shares something, and what.
pub fn owners<'c>(
    container: &Container,
    containers: &'c [Container],
) -> impl Iterator<Item = (Namespace, &'c Container)> {
    let of = |namespace: Namespace| Some((namespace, owner_of(namespace, container, containers)?));
    Namespace::ALL.into_iter().filter_map(of)
}

/// Returns the container of which this one shares that (`network_mode: container:ID` or its name).
#[must_use]
pub fn owner_of<'c>(
    namespace: Namespace,
    container: &Container,
    containers: &'c [Container],
) -> Option<&'c Container> {
    let owner = namespace.mode_of(container).strip_prefix("container:")?;
    let by = |matches: &dyn Fn(&Container) -> bool| containers.iter().find(|container| matches(container));
    by(&|candidate| candidate.id == owner)
        .or_else(|| by(&|candidate| candidate.name == owner))
        .or_else(|| by(&|candidate| owner.len() >= 12 && candidate.id.starts_with(owner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_policy_of_always_brings_back_what_was_stopped() {
        let container = |name: &str, policy: &str| Container {
            name: name.to_owned(),
            restart_policy: policy.to_owned(),
            ..Container::default()
        };
        let all = [("a", "always"), ("b", "unless-stopped"), ("c", "on-failure"), ("d", "no"), ("e", "")];
        let all = all.map(|(name, policy)| container(name, policy));
        assert_eq!(down_after_reboot(&all), ["b (unless-stopped)", "c (on-failure)", "d (no)", "e (no)"]);
    }
}
