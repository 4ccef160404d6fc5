//! The engine: the calls that volsnap makes, and nothing more.
//!
//! Every call has a time limit and says what it was doing to which object. Only one file, `bollard`, names bollard;
//! none of its types leak. Names are data: no call goes through a shell.
//!
//! | file | holds |
//! |---|---|
//! | [`bollard`](mod@bollard) | [`Docker`] over the engine's API |
//! | [`context`] | which engine the user's `docker` talks to |
//! | [`own`] | the container of that engine that we run in, if we do |
//! | [`failing`] | [`Docker`] that records calls and fails on demand, for tests |
//! | [`memory`] | [`Docker`] without an engine, for tests |
//! | `clone` | a container like another one, except for one mount |
//! | `raw` | the API as plain JSON, if no field may be lost |
//! | [`helper`] | the throwaway container and the image that it runs |
//! | [`oneshot`] | a throwaway container that runs to its end |

pub mod bollard;
mod clone;
pub mod context;
pub mod failing;
mod failing_agent;
mod failing_compose;
pub mod helper;
pub mod memory;
pub mod oneshot;
pub mod own;
mod raw;

pub use clone::NewMount;

use crate::model::container::{Container, EngineInfo, ExecOutput, Image, Process, Volume};
use crate::model::location::MountSource;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncWrite;

/// What engines say about a bind mount whose source does not exist; they do not make it.
pub(crate) const NO_DIRECTORY: &str = "bind source path does not exist";

/// The result of a call to the engine.
pub type Result<T, E = DockerError> = std::result::Result<T, E>;

/// Everything that the engine says about a container, even what nobody here has a name for. Its variables may hold
/// passwords: it is written only where it is as safe as the engine's own files, and never shown.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RawInspect(pub(crate) serde_json::Value);

impl fmt::Debug for RawInspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawInspect({})", self.0["Id"])
    }
}

/// Why a call to the engine failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DockerErrorKind {
    /// No such object exists.
    NotFound,
    /// The object is in use or the name is taken.
    Conflict,
    /// The engine cannot be reached or hung up; the call may or may not have had its effect.
    Unreachable,
    /// The engine did not answer in time; the call may or may not have had its effect.
    TimedOut,
    /// The engine refused or failed.
    Other,
}

/// A call to the engine failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {message}")]
pub struct DockerError {
    /// What kind of failure this is.
    pub kind: DockerErrorKind,
    /// The call and its object, such as "stop container db_1".
    pub doing: String,
    /// What the engine said.
    pub message: String,
}

impl DockerError {
    /// Returns whether the call may still have had its effect, or may be about to have it.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(self.kind, DockerErrorKind::Unreachable | DockerErrorKind::TimedOut)
    }
}

/// How long a stopping container may take before the engine kills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// The engine never kills; the caller owns the deadline.
    Unlimited,
    /// The container's own setting, otherwise the engine's default.
    Own,
    /// So many seconds.
    Seconds(u32),
}

/// A mount requested in a [`ContainerSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// A volume (by name) or a host directory (by path).
    pub source: MountSource,
    /// The path in the container.
    pub destination: PathBuf,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// A throwaway container to create.
///
/// The defaults give as little as possible: no network, a read-only root, all capabilities dropped except the named
/// ones, no new privileges, SELinux labels disabled, no log, stdin open and closed with the first client, removed by
/// the engine when it exits. Each field that opens something says so. The root stays read-only, and no privilege is
/// ever gained, whatever is requested.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerSpec {
    /// The name; a taken name is a [`DockerErrorKind::Conflict`].
    pub name: String,
    /// The image.
    pub image: String,
    /// Entrypoint and arguments, whole.
    pub command: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<MountSpec>,
    /// Volumes among them that are made with the container, with these labels, if they do not exist: whoever gets the
    /// name gets them too, and nobody else makes them.
    pub new_volumes: BTreeMap<String, BTreeMap<String, String>>,
    /// Capabilities to keep, such as "DAC_READ_SEARCH".
    pub capabilities: Vec<String>,
    /// The network that it has.
    pub network: Network,
    /// The user and group that run it, by number; `None` for the image's user.
    pub user: Option<(u32, u32)>,
    /// Environment besides the image's own. Anybody who may ask the engine can read it: never a secret.
    pub env: BTreeMap<String, String>,
    /// Places in memory that it may write to.
    pub tmpfs: Vec<TmpfsSpec>,
    /// Bytes of memory it may use, swap included; `None` for no limit of its own.
    pub memory_bytes: Option<u64>,
    /// Processes and threads it may have; `None` for no limit of its own.
    pub pids: Option<u32>,
    /// Whether it gives way to others from its start: see [`Docker::lower_priority`].
    pub yields: bool,
    /// Whether it stays when it exits, with a log of some MiB, until somebody removes it: for a caller that needs its
    /// exit code or its log.
    pub kept: bool,
    /// Whether it runs with nobody attached, its stdin empty.
    pub detached: bool,
    /// Whether the engine starts it again whenever it has ended, and when the engine itself starts, until somebody removes
    /// it; it must be [kept](Self::kept).
    pub restarts: bool,
    /// Whether it sees the processes of the engine's host, and so may end those that its user may end.
    pub host_processes: bool,
    /// Groups of its user besides the first, by number.
    pub groups: Vec<u32>,
}

/// The network of a throwaway container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// Only its own loopback.
    #[default]
    None,
    /// The network of the container with this id, which must run: what listens there on 127.0.0.1 can be reached.
    Of(String),
    /// The network of this name.
    Named(String),
}

/// A place in memory that a throwaway container may write to: no programs, no devices. It belongs to the
/// [user](ContainerSpec::user) alone, or to everybody if none is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsSpec {
    /// The path in the container.
    pub destination: PathBuf,
    /// Bytes it may hold.
    pub bytes: u64,
}

/// A piece of what an attached container writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From its standard output.
    Stdout(Bytes),
    /// From its standard error.
    Stderr(Bytes),
}

/// What an attached container writes, as it comes.
pub type OutputStream = Pin<Box<dyn Stream<Item = Result<Output>> + Send>>;

/// An attached container's standard streams.
pub struct Attached {
    /// Its standard input; closing it (shutdown or drop) closes the container's stdin.
    pub stdin: Pin<Box<dyn AsyncWrite + Send>>,
    /// What it writes; ends when it exits.
    pub output: OutputStream,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attached")
    }
}

/// The engine, as far as volsnap uses it.
#[async_trait]
pub trait Docker: Send + Sync + fmt::Debug {
    /// Returns which engine this is.
    async fn engine(&self) -> Result<EngineInfo>;
    /// Returns every container, running or not, in full. It leaves out a container that vanishes meanwhile.
    async fn containers(&self) -> Result<Vec<Container>>;
    /// Returns one container by id or exact name, `None` if there is none.
    async fn container(&self, id: &str) -> Result<Option<Container>>;
    /// Returns every volume.
    async fn volumes(&self) -> Result<Vec<Volume>>;
    /// Returns how many tasks a service of Swarm has to have; `None` where the engine does not know the service.
    async fn replicas(&self, _service: &str) -> Result<Option<u64>> {
        Ok(None)
    }
    /// Returns one volume by exact name, `None` if there is none. Never creates it.
    async fn volume(&self, name: &str) -> Result<Option<Volume>>;
    /// Creates a volume of the engine's own driver; a taken name is a [`DockerErrorKind::Conflict`].
    async fn create_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<()>;
    /// Removes a volume; if it is gone, that is success. A volume that a container uses stays and is a
    /// [`DockerErrorKind::Conflict`].
    async fn remove_volume(&self, name: &str) -> Result<()>;
    /// Starts a container; if it already runs, that is success.
    async fn start(&self, id: &str) -> Result<()>;
    /// Asks a container to stop and returns when the engine answers, at most after `wait`: then the error is
    /// [`DockerErrorKind::TimedOut`] and the engine goes on stopping. If it is already stopped, that is success.
    ///
    /// `signal` overrides the container's stop signal, even on engines whose API (before 1.42) has no such parameter.
    async fn stop(&self, id: &str, signal: Option<&str>, grace: Grace, wait: Duration) -> Result<()>;
    /// Freezes every process of a running container at once; a container that is already frozen is a
    /// [`DockerErrorKind::Conflict`].
    async fn pause(&self, id: &str) -> Result<()>;
    /// Unfreezes a container; if it is not frozen, that is success.
    async fn unpause(&self, id: &str) -> Result<()>;
    /// Makes a container give way to others that also want the processors: it gets a tenth of their share. While they
    /// are idle it is as fast as ever. Not for work that holds a service: the final pass and a direct archive.
    async fn lower_priority(&self, id: &str) -> Result<()>;
    /// Runs a command in a running container, without a terminal or standard input, for at most `limit`.
    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<ExecOutput>;
    /// Returns the processes that run in a container. From then on everything that this engine tells of the container
    /// has them, in [`Container::processes`].
    async fn processes(&self, id: &str) -> Result<Vec<Process>>;
    /// Returns the last lines of a container's log, both streams together, at most 64 KiB.
    async fn logs(&self, id: &str, lines: u32) -> Result<String>;
    /// Returns an image by reference, `None` if there is none.
    async fn image(&self, reference: &str) -> Result<Option<Image>>;
    /// Returns every image that has `label`.
    async fn images(&self, label: &str) -> Result<Vec<Image>>;
    /// Removes an image by id; if it is gone, that is success. An image that a container uses stays and is a
    /// [`DockerErrorKind::Conflict`].
    async fn remove_image(&self, id: &str) -> Result<()>;
    /// Imports a root filesystem (an uncompressed tar) as an image under `tag`, with `labels`.
    async fn import_image(&self, tag: &str, labels: &BTreeMap<String, String>, tar: Bytes) -> Result<()>;
    /// Creates a throwaway container and returns its id.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<String>;
    /// Returns everything that the engine says about a container, to make another one [like](Self::clone_container)
    /// it.
    async fn inspect_raw(&self, id: &str) -> Result<RawInspect>;
    /// Creates a container that is like the described one in everything except its name and `mount`, if that is to
    /// change, and returns its id. The described one must be gone or stopped; it stays as it is. Who shares something of
    /// it goes on to name it, and not the new one.
    ///
    /// The new one is then compared field by field: if it is not alike, it is removed again, and that is an error.
    async fn clone_container(
        &self,
        model: &RawInspect,
        name: &str,
        mount: Option<NewMount<'_>>,
    ) -> Result<String>;
    /// Gives a container another name; a taken name is a [`DockerErrorKind::Conflict`].
    async fn rename_container(&self, id: &str, name: &str) -> Result<()>;
    /// Removes a container that does not run, and none of its volumes; if it is gone, that is success.
    async fn remove_stopped_container(&self, id: &str) -> Result<()>;
    /// Attaches to a created container's stdin, stdout and stderr; call it before the container starts.
    async fn attach(&self, id: &str) -> Result<Attached>;
    /// Removes a container by force; if it is gone or being removed, that is success.
    async fn remove_container(&self, id: &str) -> Result<()>;
}
