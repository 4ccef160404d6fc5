//! The engine over its HTTP API: the only file that names bollard.
//!
//! Each call has a bound of its own. The client's single request timeout is set so high that it
//! never decides anything: it would take a stop that the engine is still working on for a failure.
//! Names and ids are checked before they become part of a URL, so a name can be anything.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::env;
use std::error::Error as StdError;
use std::future::{Future, pending};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::errors::Error as ClientError;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, ContainerState as StateModel,
    ContainerUpdateBody, ExecConfig, HealthConfig, HealthStatusEnum, HostConfig, HostConfigLogConfig,
    ImageInspect, Mount as MountModel, MountPoint, MountType, MountVolumeOptions, RestartPolicy,
    RestartPolicyNameEnum, Volume as VolumeModel, VolumeCreateRequest,
};
use bollard::query_parameters as query;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWrite;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::raw::RawApi;
use super::{
    Attached, ContainerSpec, Docker, DockerError, DockerErrorKind, Grace, MountSpec, Network, Output,
    OutputStream, RawInspect, Result, TmpfsSpec,
};
use crate::engine::clone::{Likeness, NewMount, differences, likeness};
use crate::model::container::{
    ApiVersion, Container, ContainerState, EngineInfo, ExecOutput, Image, Mount, MountKind, Volume,
};
use crate::model::location::MountSource;

/// The oldest API spoken here: Docker 19.03.
pub const MINIMUM_API: ApiVersion = ApiVersion(1, 40);

/// The first API whose stop request takes a signal.
const STOP_TAKES_SIGNAL: ApiVersion = ApiVersion(1, 42);

const INSPECT_LIMIT: Duration = Duration::from_secs(30);
const LIST_LIMIT: Duration = Duration::from_secs(30);
const CREATE_LIMIT: Duration = Duration::from_secs(60);
const START_LIMIT: Duration = Duration::from_secs(120);
const PAUSE_LIMIT: Duration = Duration::from_secs(60);
/// Nobody needs it: it is not waited for much.
const GIVE_WAY_LIMIT: Duration = Duration::from_secs(10);
const ATTACH_LIMIT: Duration = Duration::from_secs(30);
const IMPORT_LIMIT: Duration = Duration::from_secs(120);
const REMOVE_LIMIT: Duration = Duration::from_secs(60);
const LOGS_LIMIT: Duration = Duration::from_secs(30);

/// A tenth of what a container has by itself.
const YIELDING_CPU_SHARES: i64 = 102;

/// How long a removed container may still be seen.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at a container that is stopping or going.
const POLL: Duration = Duration::from_millis(250);
/// From the stop request to our own signal, on engines whose stop request takes none.
const SIGNAL_DELAY: Duration = Duration::from_millis(200);
/// The client's own timeout: longer than any stop, so that only our bounds count.
const CLIENT_TIMEOUT_SECS: u64 = 7 * 24 * 3600;

const INSPECTIONS_AT_ONCE: usize = 16;
const EXEC_OUTPUT_LIMIT: usize = 64 << 20;
const EXEC_ERROR_LIMIT: usize = 1 << 20;
const LOGS_OUTPUT_LIMIT: usize = 64 << 10;
/// What Podman calls itself among the components of its version.
const PODMAN: &str = "Podman Engine";
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The address of an engine that nobody has named, as docker has it.
pub(super) const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

/// An engine reached over its API.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    client: bollard::Docker,
    raw: RawApi,
    api_version: ApiVersion,
    local: bool,
}

impl DockerEngine {
    /// Returns the address that is [connected](Self::connect) to for `host`, as any client of the engine takes it.
    ///
    /// # Errors
    /// An address of a kind not spoken here.
    pub fn address(host: Option<&str>) -> Result<String> {
        Address::choose(host, |name| env::var(name).ok(), Path::exists).map(|address| address.to_string())
    }

    /// Connects to the engine at `host`, else `DOCKER_HOST`, else the default socket, else the
    /// rootless one, and agrees on an API version.
    ///
    /// # Errors
    /// An address of a kind not spoken here (ssh, TLS), an engine that cannot be reached
    /// ([`DockerErrorKind::Unreachable`]), or one that is too old.
    pub async fn connect(host: Option<&str>) -> Result<Self> {
        let address = Address::choose(host, |name| env::var(name).ok(), Path::exists)?;
        let doing = format!("connect to the engine at {address}");
        let client = address.client().map_err(|error| failure(&doing, &error))?;
        let client = bounded(&doing, INSPECT_LIMIT, client.negotiate_version()).await?;
        let version = bounded(&doing, INSPECT_LIMIT, client.version()).await?;
        let api_version = parse_api_version(version.api_version.as_deref().unwrap_or_default())
            .ok_or_else(|| other(&doing, "it does not say which API it speaks"))?;
        if api_version < MINIMUM_API {
            let engine = version.version.unwrap_or_default();
            return Err(other(
                &doing,
                format!(
                    "engine {engine} speaks API {api_version}; {MINIMUM_API} (Docker 19.03) or newer is needed"
                ),
            ));
        }
        let raw = address.raw(api_version);
        Ok(Self { client, raw, api_version, local: matches!(address, Address::Unix(_)) })
    }

    async fn inspect(&self, id: &str) -> Result<Option<Container>> {
        let doing = format!("inspect container {id}");
        if !is_name(id) {
            return Ok(None);
        }
        let call = self.client.inspect_container(id, None::<query::InspectContainerOptions>);
        let Some(found) = optional(bounded(&doing, INSPECT_LIMIT, call).await)? else { return Ok(None) };
        let container = container_from(found);
        // The engine also takes a prefix of an id, however short, for the id.
        let meant =
            container.id == id || container.name == id || (id.len() >= 12 && container.id.starts_with(id));
        Ok(meant.then_some(container))
    }

    /// Returns what the engine says of a container, all of it.
    async fn inspect_raw(&self, doing: &str, id: &str) -> Result<Value> {
        check_container_name(doing, id)?;
        within(doing, INSPECT_LIMIT, self.raw.get(doing, &format!("/containers/{id}/json"))).await
    }

    /// Returns what the image of a container is to be called for the same one to be taken: its name, unless
    /// that has gone on to another image.
    async fn image_name(&self, inspected: &Value) -> Result<String> {
        let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, name) = (field(&inspected["Image"]), field(&inspected["Config"]["Image"]));
        let same = self.image(&name).await?.is_some_and(|image| image.id == id);
        Ok(if same { name } else { id })
    }

    /// Connects what was created to its further networks, and compares it with what it is to be like.
    async fn finish_likeness(
        &self,
        doing: &str,
        id: &str,
        old: &Value,
        networks: &[(String, Value)],
        new: NewMount<'_>,
    ) -> Result<()> {
        for (network, endpoint) in networks {
            if !is_name(network) {
                return Err(other(
                    doing,
                    format!("the network {network} has a name that cannot be asked for"),
                ));
            }
            let body = json!({ "Container": id, "EndpointConfig": endpoint });
            let path = format!("/networks/{network}/connect");
            within(doing, CREATE_LIMIT, self.raw.post(doing, &path, &body)).await?;
        }
        let differing = differences(old, &self.inspect_raw(doing, id).await?, new);
        if differing.is_empty() {
            return Ok(());
        }
        Err(other(doing, format!("the engine made it otherwise than the old one: {}", differing.join(", "))))
    }

    /// Sends the stop request and sees it through, whatever becomes of the connection.
    async fn stop_and_watch(&self, doing: &str, id: &str, signal: Option<&str>, grace: Grace) -> Result<()> {
        let found =
            self.inspect(id).await?.ok_or_else(|| not_found(doing, format!("no such container: {id}")))?;
        let in_request = self.api_version >= STOP_TAKES_SIGNAL;
        let apart = signal.filter(|signal| !in_request && !same_signal(signal, found.stop_signal.as_deref()));
        let options = query::StopContainerOptions {
            signal: signal.filter(|_| in_request).map(ToOwned::to_owned),
            t: match grace {
                Grace::Unlimited => Some(-1),
                Grace::Own => None,
            },
        };
        loop {
            let answer = tokio::select! {
                answer = self.client.stop_container(&found.id, Some(options.clone())) => answer,
                never = self.signal_apart(&found.id, apart) => match never {},
                () = self.until_stopped(&found.id) => return Ok(()),
            };
            match answer {
                Ok(()) => return Ok(()),
                // Never sent: to be sent again, when the engine is back.
                Err(error) if never_sent(&error) => sleep(POLL).await,
                Err(error) => {
                    let error = failure(doing, &error);
                    match error.kind {
                        // Sent: the engine stops it, though nobody listens.
                        DockerErrorKind::Unreachable | DockerErrorKind::TimedOut => {
                            self.until_stopped(&found.id).await;
                            return Ok(());
                        }
                        // It removes itself when it stops, and was quicker.
                        DockerErrorKind::NotFound => return Ok(()),
                        DockerErrorKind::Conflict | DockerErrorKind::Other => return Err(error),
                    }
                }
            }
        }
    }

    /// Sends `signal` a moment after the stop request, then waits for ever.
    ///
    /// A signal alone would not do: only the request tells the engine that this stop is meant, and
    /// keeps the restart policy from starting the container again.
    async fn signal_apart(&self, id: &str, signal: Option<&str>) -> Infallible {
        if let Some(signal) = signal {
            sleep(SIGNAL_DELAY).await;
            let options = query::KillContainerOptions { signal: signal.to_owned() };
            if let Err(error) = self.client.kill_container(id, Some(options)).await {
                tracing::debug!(id, signal, %error, "the signal beside the stop request was not delivered");
            }
        }
        pending().await
    }

    /// Waits until the container is seen not to run, or is gone.
    async fn until_stopped(&self, id: &str) {
        loop {
            sleep(POLL).await;
            match self.inspect(id).await {
                Ok(Some(container)) if container.state.running || container.state.restarting => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(id, %error, "the engine does not say whether the container runs");
                }
            }
        }
    }

    async fn run_exec(&self, doing: &str, id: &str, command: &[String]) -> Result<ExecOutput> {
        let failed = |error: ClientError| failure(doing, &error);
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..ExecConfig::default()
        };
        let exec = self.client.create_exec(id, config).await.map_err(failed)?.id;
        let mut result = ExecOutput::default();
        if let StartExecResults::Attached { mut output, input } =
            self.client.start_exec(&exec, None).await.map_err(failed)?
        {
            while let Some(piece) = output.next().await {
                match output_from(piece.map_err(failed)?) {
                    Output::Stdout(bytes) => keep_head(&mut result.stdout, &bytes, EXEC_OUTPUT_LIMIT),
                    Output::Stderr(bytes) => keep_head(&mut result.stderr, &bytes, EXEC_ERROR_LIMIT),
                }
            }
            drop(input);
        }
        loop {
            let state = self.client.inspect_exec(&exec).await.map_err(failed)?;
            match state.exit_code {
                Some(exit_code) if state.running != Some(true) => {
                    return Ok(ExecOutput { exit_code, ..result });
                }
                // The output ends a moment before the engine knows the exit code.
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn until_gone(&self, doing: &str, id: &str) -> Result<()> {
        let gone = async {
            while self.inspect(id).await?.is_some() {
                sleep(POLL / 10).await;
            }
            Ok(())
        };
        match timeout(GONE_LIMIT, gone).await {
            Ok(result) => result,
            Err(_) => Err(timed_out(doing, GONE_LIMIT)),
        }
    }
}

#[async_trait]
impl Docker for DockerEngine {
    async fn engine(&self) -> Result<EngineInfo> {
        let doing = "ask the engine what it is";
        let version = bounded(doing, INSPECT_LIMIT, self.client.version()).await?;
        let info = bounded(doing, INSPECT_LIMIT, self.client.info()).await?;
        let podman = version.components.iter().flatten().any(|component| component.name == PODMAN);
        Ok(EngineInfo {
            id: info.id.unwrap_or_default(),
            version: version.version.unwrap_or_default(),
            api_version: self.api_version,
            os: version.os.unwrap_or_default(),
            arch: version.arch.unwrap_or_default(),
            local: self.local,
            podman,
        })
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        let options = query::ListContainersOptions { all: true, ..Default::default() };
        let listed =
            bounded("list containers", LIST_LIMIT, self.client.list_containers(Some(options))).await?;
        let inspections: Vec<_> = listed
            .into_iter()
            .filter_map(|container| container.id)
            .map(|id| async move { self.inspect(&id).await })
            .collect();
        let found: Vec<Option<Container>> =
            futures_util::stream::iter(inspections).buffered(INSPECTIONS_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn container(&self, id: &str) -> Result<Option<Container>> {
        self.inspect(id).await
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        let call = self.client.list_volumes(None::<query::ListVolumesOptions>);
        let listed = bounded("list volumes", LIST_LIMIT, call).await?;
        Ok(listed.volumes.unwrap_or_default().into_iter().map(volume_from).collect())
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        if !is_name(name) {
            // A volume driver may allow what the engine itself does not.
            return Ok(self.volumes().await?.into_iter().find(|volume| volume.name == name));
        }
        let doing = format!("inspect volume {name}");
        let found = optional(bounded(&doing, INSPECT_LIMIT, self.client.inspect_volume(name)).await)?;
        Ok(found.map(volume_from))
    }

    /// The engine answers a name that is taken with the volume that has it, so it is looked up before, and
    /// the labels tell afterwards whose it is.
    async fn create_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<()> {
        let doing = format!("create volume {name}");
        let taken = || DockerError {
            kind: DockerErrorKind::Conflict,
            doing: doing.clone(),
            message: "there is a volume of that name already".to_owned(),
        };
        if !is_name(name) {
            return Err(other(&doing, "a volume's name has letters, digits, _, . and - only"));
        }
        if self.volume(name).await?.is_some() {
            return Err(taken());
        }
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels.clone().into_iter().collect::<HashMap<_, _>>()),
            ..VolumeCreateRequest::default()
        };
        let made = bounded(&doing, CREATE_LIMIT, self.client.create_volume(request)).await?;
        if volume_from(made).labels == *labels { Ok(()) } else { Err(taken()) }
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        let doing = format!("remove volume {name}");
        if !is_name(name) {
            return Ok(());
        }
        let call = self.client.remove_volume(name, None::<query::RemoveVolumeOptions>);
        match bounded(&doing, REMOVE_LIMIT, call).await {
            Err(error) if error.kind == DockerErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    async fn start(&self, id: &str) -> Result<()> {
        let doing = format!("start container {id}");
        check_container_name(&doing, id)?;
        let call = self.client.start_container(id, None::<query::StartContainerOptions>);
        bounded(&doing, START_LIMIT, call).await
    }

    async fn stop(&self, id: &str, signal: Option<&str>, grace: Grace, wait: Duration) -> Result<()> {
        let doing = format!("stop container {id}");
        match timeout(wait, self.stop_and_watch(&doing, id, signal, grace)).await {
            Ok(result) => result,
            Err(_) => Err(DockerError {
                message: format!("it has not stopped after {wait:?}; the engine goes on stopping it"),
                ..timed_out(&doing, wait)
            }),
        }
    }

    async fn pause(&self, id: &str) -> Result<()> {
        let doing = format!("pause container {id}");
        check_container_name(&doing, id)?;
        bounded(&doing, PAUSE_LIMIT, self.client.pause_container(id)).await
    }

    /// The engine has no code of its own for one that is not paused, so the container is asked.
    async fn unpause(&self, id: &str) -> Result<()> {
        let doing = format!("unpause container {id}");
        check_container_name(&doing, id)?;
        let unpaused = bounded(&doing, PAUSE_LIMIT, self.client.unpause_container(id)).await;
        let Err(error) = unpaused else { return Ok(()) };
        if error.is_in_doubt() || error.kind == DockerErrorKind::NotFound {
            return Err(error);
        }
        match self.inspect(id).await? {
            Some(container) if !container.state.paused => Ok(()),
            _ => Err(error),
        }
    }

    async fn lower_priority(&self, id: &str) -> Result<()> {
        let doing = format!("have container {id} give way");
        check_container_name(&doing, id)?;
        let update =
            ContainerUpdateBody { cpu_shares: Some(YIELDING_CPU_SHARES), ..ContainerUpdateBody::default() };
        bounded(&doing, GIVE_WAY_LIMIT, self.client.update_container(id, update)).await
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<ExecOutput> {
        // The program only: arguments may hold what must not be shown.
        let program = command.first().map_or("", String::as_str);
        let doing = format!("run {program} in container {id}");
        check_container_name(&doing, id)?;
        match timeout(limit, self.run_exec(&doing, id, command)).await {
            Ok(result) => result,
            Err(_) => Err(timed_out(&doing, limit)),
        }
    }

    async fn logs(&self, id: &str, lines: u32) -> Result<String> {
        let doing = format!("read the log of container {id}");
        check_container_name(&doing, id)?;
        let options =
            query::LogsOptions { stdout: true, stderr: true, tail: lines.to_string(), ..Default::default() };
        let read = async {
            let mut stream = Box::pin(self.client.logs(id, Some(options)));
            let mut tail = Vec::new();
            while let Some(piece) = stream.try_next().await? {
                keep_tail(&mut tail, piece.as_ref(), LOGS_OUTPUT_LIMIT);
            }
            Ok(tail)
        };
        let tail = bounded(&doing, LOGS_LIMIT, read).await?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        if !is_image_reference(reference) {
            return Ok(None);
        }
        let doing = format!("inspect image {reference}");
        let found = optional(bounded(&doing, INSPECT_LIMIT, self.client.inspect_image(reference)).await)?;
        Ok(found.map(image_from))
    }

    async fn images(&self, label: &str) -> Result<Vec<Image>> {
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let options = query::ListImagesOptions { filters: Some(filters), ..Default::default() };
        let listed = bounded("list images", LIST_LIMIT, self.client.list_images(Some(options))).await?;
        let inspections: Vec<_> =
            listed.into_iter().map(|image| async move { self.image(&image.id).await }).collect();
        let found: Vec<Option<Image>> =
            futures_util::stream::iter(inspections).buffered(INSPECTIONS_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn remove_image(&self, id: &str) -> Result<()> {
        if !is_image_reference(id) {
            return Ok(());
        }
        let doing = format!("remove image {id}");
        let call = self.client.remove_image(id, None::<query::RemoveImageOptions>, None);
        optional(bounded(&doing, REMOVE_LIMIT, call).await).map(|_| ())
    }

    async fn import_image(&self, tag: &str, labels: &BTreeMap<String, String>, tar: Bytes) -> Result<()> {
        let doing = format!("import image {tag}");
        let (repository, tag) =
            tag.rsplit_once(':').ok_or_else(|| other(&doing, "the name has no tag after a colon"))?;
        let options = query::CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(repository.to_owned()),
            tag: Some(tag.to_owned()),
            changes: labels.iter().map(|(name, value)| label_instruction(name, value)).collect(),
            ..Default::default()
        };
        let import = self.client.create_image(Some(options), Some(bollard::body_full(tar)), None);
        bounded(&doing, IMPORT_LIMIT, import.try_for_each(|_| async { Ok(()) })).await
    }

    /// The engine would create a missing volume on the way, so each is looked up right before. It
    /// has no way to do both at once: a volume removed in between, by someone else, would come back
    /// empty.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<String> {
        let doing = format!("create container {}", spec.name);
        for mount in &spec.mounts {
            match &mount.source {
                MountSource::Volume(name)
                    if !spec.new_volumes.contains_key(name) && self.volume(name).await?.is_none() =>
                {
                    return Err(not_found(&doing, format!("no such volume: {name}")));
                }
                // Any other spelling could name another directory.
                MountSource::Directory(path) if path.to_str().is_none() => {
                    return Err(other(
                        &doing,
                        format!("{} is not UTF-8: the engine has no word for it", path.display()),
                    ));
                }
                MountSource::Volume(_) | MountSource::Directory(_) => {}
            }
        }
        let options = query::CreateContainerOptions { name: Some(spec.name.clone()), ..Default::default() };
        let call = self.client.create_container(Some(options), create_body(spec));
        Ok(bounded(&doing, CREATE_LIMIT, call).await?.id)
    }

    async fn inspect_raw(&self, id: &str) -> Result<RawInspect> {
        self.inspect_raw(&format!("describe container {id}"), id).await.map(RawInspect)
    }

    async fn clone_container(
        &self,
        RawInspect(old): &RawInspect,
        name: &str,
        destination: &Path,
        source: &MountSource,
    ) -> Result<String> {
        let id = old["Id"].as_str().unwrap_or_default();
        let doing = format!("create container {name} like {}", id.get(..12).unwrap_or(id));
        check_container_name(&doing, name)?;
        if self.container(id).await?.is_some_and(|now| now.state.running) {
            let message = "it runs, and two of it must not".to_owned();
            return Err(DockerError { kind: DockerErrorKind::Conflict, doing, message });
        }
        let full_id = format!("container:{id}");
        if let Some(sharer) = self.containers().await?.iter().find(|one| one.network_mode == full_id) {
            return Err(other(
                &doing,
                format!("container {} shares its network, and would lose it", sharer.name),
            ));
        }
        // The engine would make a volume that is not there, empty.
        if let MountSource::Volume(volume) = source
            && self.volume(volume).await?.is_none()
        {
            return Err(not_found(&doing, format!("no such volume: {volume}")));
        }
        let new = NewMount { destination, source };
        let image = self.image_name(old).await?;
        let Likeness { body, networks } =
            likeness(old, new, &image).map_err(|message| other(&doing, message))?;
        let path = format!("/containers/create?name={name}");
        let made = within(&doing, CREATE_LIMIT, self.raw.post(&doing, &path, &body)).await?;
        let Some(made) = made["Id"].as_str() else { return Err(other(&doing, "the engine names no id")) };
        match self.finish_likeness(&doing, made, old, &networks, new).await {
            Ok(()) => Ok(made.to_owned()),
            Err(error) => {
                // What cannot be removed either has the name, by which it is found.
                let _ = self.remove_stopped_container(made).await;
                Err(error)
            }
        }
    }

    async fn rename_container(&self, id: &str, name: &str) -> Result<()> {
        let doing = format!("rename container {id} to {name}");
        check_container_name(&doing, id)?;
        let options = query::RenameContainerOptions { name: name.to_owned() };
        bounded(&doing, INSPECT_LIMIT, self.client.rename_container(id, options)).await
    }

    async fn remove_stopped_container(&self, id: &str) -> Result<()> {
        let doing = format!("remove container {id}");
        if !is_name(id) {
            return Ok(());
        }
        let options = query::RemoveContainerOptions { force: false, v: false, link: false };
        optional(bounded(&doing, REMOVE_LIMIT, self.client.remove_container(id, Some(options))).await)?;
        self.until_gone(&doing, id).await
    }

    /// The engine connects the streams before it answers the request, so nothing that the container
    /// writes after this returns is lost.
    async fn attach(&self, id: &str) -> Result<Attached> {
        let doing = format!("attach to container {id}");
        check_container_name(&doing, id)?;
        let options = query::AttachContainerOptions {
            stream: true,
            stdin: true,
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let attached = bounded(&doing, ATTACH_LIMIT, self.client.attach_container(id, Some(options))).await?;
        let output: OutputStream = Box::pin(
            attached.output.map(move |piece| piece.map(output_from).map_err(|error| failure(&doing, &error))),
        );
        Ok(Attached { stdin: Box::pin(ClosingStdin(Some(attached.input))), output })
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let doing = format!("remove container {id}");
        if !is_name(id) {
            return Ok(());
        }
        let options = query::RemoveContainerOptions { force: true, v: true, link: false };
        match bounded(&doing, REMOVE_LIMIT, self.client.remove_container(id, Some(options))).await {
            Ok(()) => {}
            Err(error) if error.kind == DockerErrorKind::NotFound => return Ok(()),
            Err(error) if error.message.contains("already in progress") => {}
            Err(error) => return Err(error),
        }
        self.until_gone(&doing, id).await
    }
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(String),
    Tcp(String),
}

impl Address {
    fn choose(
        host: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Self> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(host) = host.map(ToOwned::to_owned).or_else(|| set("DOCKER_HOST")) {
            return Self::parse(&host, set("DOCKER_TLS_VERIFY").is_some());
        }
        let rootless = set("XDG_RUNTIME_DIR").map(|directory| format!("{directory}/docker.sock"));
        let socket = [Some(DEFAULT_SOCKET.to_owned()), rootless]
            .into_iter()
            .flatten()
            .find(|socket| exists(Path::new(socket)))
            .unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
        Ok(Self::Unix(socket))
    }

    fn parse(host: &str, tls: bool) -> Result<Self> {
        let doing = format!("connect to the engine at {host}");
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.to_owned())),
            Some(("tcp" | "http", _)) if tls => Err(other(
                doing,
                "DOCKER_TLS_VERIFY is set, and TLS is not spoken here; forward its socket and give unix:///path",
            )),
            Some(("tcp" | "http", authority)) if !authority.is_empty() => {
                Ok(Self::Tcp(authority.trim_end_matches('/').to_owned()))
            }
            Some(("ssh", authority)) => Err(other(
                doing,
                format!(
                    "ssh is not spoken here; forward the socket: \
                     ssh -nNT -L /tmp/docker.sock:{DEFAULT_SOCKET} {authority}, then give unix:///tmp/docker.sock"
                ),
            )),
            _ => Err(other(doing, "the address is none of unix:///path, tcp://host:port, http://host:port")),
        }
    }

    fn raw(&self, version: ApiVersion) -> RawApi {
        match self {
            Self::Unix(path) => {
                RawApi { socket: Some(path.clone()), authority: "localhost".to_owned(), version }
            }
            Self::Tcp(authority) => RawApi { socket: None, authority: authority.clone(), version },
        }
    }

    fn client(&self) -> Result<bollard::Docker, ClientError> {
        let version = bollard::API_DEFAULT_VERSION;
        match self {
            Self::Unix(path) => bollard::Docker::connect_with_unix(path, CLIENT_TIMEOUT_SECS, version),
            Self::Tcp(authority) => {
                bollard::Docker::connect_with_http(authority, CLIENT_TIMEOUT_SECS, version)
            }
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

/// A container's stdin that closes when it is dropped.
///
/// The client's own does not: its other half, which reads, keeps the connection open.
struct ClosingStdin(Option<Pin<Box<dyn AsyncWrite + Send>>>);

impl ClosingStdin {
    fn inner(&mut self) -> io::Result<Pin<&mut (dyn AsyncWrite + Send + 'static)>> {
        self.0.as_mut().map(Pin::as_mut).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for ClosingStdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(cx)
    }
}

impl Drop for ClosingStdin {
    fn drop(&mut self) {
        if let (Some(mut stdin), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { tokio::io::AsyncWriteExt::shutdown(&mut stdin).await });
        }
    }
}

/// Waits for a call, for at most `limit`.
async fn bounded<T>(
    doing: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, ClientError>> + Send,
) -> Result<T> {
    match timeout(limit, call).await {
        Ok(result) => result.map_err(|error| failure(doing, &error)),
        Err(_) => Err(timed_out(doing, limit)),
    }
}

/// Waits for a call that has its own words for failure, for at most `limit`.
async fn within<T>(doing: &str, limit: Duration, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(timed_out(doing, limit)))
}

/// Turns "there is no such object" into `None`.
fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind == DockerErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn failure(doing: &str, error: &ClientError) -> DockerError {
    let message = match error {
        ClientError::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        ClientError::DockerStreamError { error } => error.clone(),
        _ => chain(error),
    };
    DockerError { kind: kind_of(error), doing: doing.to_owned(), message }
}

fn kind_of(error: &ClientError) -> DockerErrorKind {
    match error {
        ClientError::DockerResponseServerError { status_code: 404, .. } => DockerErrorKind::NotFound,
        ClientError::DockerResponseServerError { status_code: 409, .. } => DockerErrorKind::Conflict,
        ClientError::DockerResponseServerError { message, .. }
            if message.contains(super::NO_DIRECTORY)
                // A short name that begins several ids, and is the name of none.
                || message.to_ascii_lowercase().contains("multiple ids found") =>
        {
            DockerErrorKind::NotFound
        }
        ClientError::RequestTimeoutError => DockerErrorKind::TimedOut,
        ClientError::IOError { .. }
        | ClientError::HyperResponseError { .. }
        | ClientError::HyperLegacyError { .. }
        | ClientError::SocketNotFoundError(_) => DockerErrorKind::Unreachable,
        _ => DockerErrorKind::Other,
    }
}

/// Whether the request cannot have reached the engine.
fn never_sent(error: &ClientError) -> bool {
    match error {
        ClientError::HyperLegacyError { err } => err.is_connect(),
        ClientError::SocketNotFoundError(_) => true,
        _ => false,
    }
}

/// The error and what is beneath it, in one line.
fn chain(error: &dyn StdError) -> String {
    let mut message = error.to_string();
    let mut beneath = error.source();
    while let Some(error) = beneath {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        beneath = error.source();
    }
    message
}

fn not_found(doing: &str, message: String) -> DockerError {
    DockerError { kind: DockerErrorKind::NotFound, doing: doing.to_owned(), message }
}

fn timed_out(doing: &str, limit: Duration) -> DockerError {
    let message = format!("no answer within {limit:?}");
    DockerError { kind: DockerErrorKind::TimedOut, doing: doing.to_owned(), message }
}

fn other(doing: impl Into<String>, message: impl Into<String>) -> DockerError {
    DockerError { kind: DockerErrorKind::Other, doing: doing.into(), message: message.into() }
}

/// Whether the engine could have a container or a volume of this name or id.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn check_container_name(doing: &str, id: &str) -> Result<()> {
    if is_name(id) { Ok(()) } else { Err(not_found(doing, format!("no such container: {id}"))) }
}

/// Whether this could name an image; never a path that climbs.
fn is_image_reference(reference: &str) -> bool {
    reference.split('/').all(|part| part.starts_with(|first: char| first.is_ascii_alphanumeric()))
        && reference
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ':' | '@'))
}

fn parse_api_version(text: &str) -> Option<ApiVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ApiVersion(major.parse().ok()?, minor.parse().ok()?))
}

/// Whether a container's configured stop signal is the wanted one; none configured is SIGTERM.
fn same_signal(wanted: &str, configured: Option<&str>) -> bool {
    let configured = configured.filter(|signal| !signal.is_empty()).unwrap_or("SIGTERM");
    signal_name(wanted) == signal_name(configured)
}

/// One spelling for "SIGINT", "INT", "int" and "2".
fn signal_name(signal: &str) -> String {
    let upper = signal.to_ascii_uppercase();
    if let Some(signal) = upper.parse().ok().and_then(|number: i32| Signal::try_from(number).ok()) {
        return signal.as_str().to_owned();
    }
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&full).map_or(full, |signal| signal.as_str().to_owned())
}

/// A `LABEL` instruction, each part quoted so that nothing in it is expanded.
fn label_instruction(name: &str, value: &str) -> String {
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

fn keep_head(kept: &mut Vec<u8>, more: &[u8], limit: usize) {
    let room = limit.saturating_sub(kept.len()).min(more.len());
    kept.extend_from_slice(&more[..room]);
}

fn keep_tail(kept: &mut Vec<u8>, more: &[u8], limit: usize) {
    kept.extend_from_slice(more);
    let excess = kept.len().saturating_sub(limit);
    kept.drain(..excess);
}

fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let memory = spec.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let host_config = HostConfig {
        network_mode: Some(match &spec.network {
            Network::None => "none".to_owned(),
            Network::Of(id) => format!("container:{id}"),
        }),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(spec.capabilities.clone()),
        security_opt: Some(vec!["no-new-privileges".to_owned(), "label=disable".to_owned()]),
        log_config: Some(if spec.kept { bounded_log() } else { no_log() }),
        auto_remove: Some(!spec.kept),
        init: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        mounts: Some(spec.mounts.iter().map(|mount| mount_model(mount, &spec.new_volumes)).collect()),
        tmpfs: Some(spec.tmpfs.iter().map(|tmpfs| tmpfs_option(tmpfs, spec.user)).collect()),
        memory,
        // The same as the memory: no swap beside it.
        memory_swap: memory,
        pids_limit: spec.pids.map(i64::from),
        cpu_shares: spec.yields.then_some(YIELDING_CPU_SHARES),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        // An entrypoint, so that one of the image's own is not put before it.
        entrypoint: Some(spec.command.clone()),
        labels: Some(spec.labels.clone().into_iter().collect::<HashMap<_, _>>()),
        user: spec.user.map(|(uid, gid)| format!("{uid}:{gid}")),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        // What asks the image's server whether it is well would only disturb.
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

/// The driver that every engine has, and whose logs can be read.
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
            // The engine gives labels only to a volume that it makes.
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

fn output_from(piece: LogOutput) -> Output {
    match piece {
        LogOutput::StdErr { message } => Output::Stderr(message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            Output::Stdout(message)
        }
    }
}

fn container_from(found: ContainerInspectResponse) -> Container {
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
        mounts: found.mounts.unwrap_or_default().into_iter().map(mount_from).collect(),
        network_mode: host.network_mode.unwrap_or_default(),
        restart_policy: restart_policy.map(|name| name.to_string()).unwrap_or_default(),
        healthcheck: config.healthcheck.as_ref().map(healthcheck_command).unwrap_or_default(),
        auto_remove: host.auto_remove.unwrap_or_default(),
        image: config.image.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        stop_timeout: config.stop_timeout,
        user: config.user.unwrap_or_default(),
    }
}

fn command_of(config: &ContainerConfig) -> Vec<String> {
    let entrypoint = config.entrypoint.iter().flatten();
    entrypoint.chain(config.cmd.iter().flatten()).cloned().collect()
}

/// Returns the command that the engine runs inside the container for a healthcheck; the API has it as
/// `["CMD", arguments…]` or `["CMD-SHELL", line]`.
fn healthcheck_command(config: &HealthConfig) -> Vec<String> {
    match config.test.as_deref() {
        Some([kind, arguments @ ..]) if kind == "CMD" => arguments.to_vec(),
        Some([kind, line, ..]) if kind == "CMD-SHELL" => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
        }
        _ => Vec::new(),
    }
}

fn state_from(state: StateModel) -> ContainerState {
    let health = state.health.and_then(|health| health.status);
    ContainerState {
        status: state.status.map(|status| status.to_string()).unwrap_or_default(),
        running: state.running.unwrap_or_default(),
        paused: state.paused.unwrap_or_default(),
        restarting: state.restarting.unwrap_or_default(),
        exit_code: state.exit_code.unwrap_or_default(),
        oom_killed: state.oom_killed.unwrap_or_default(),
        started_at: state.started_at.unwrap_or_default(),
        finished_at: state.finished_at.unwrap_or_default(),
        health: health
            .filter(|health| !matches!(health, HealthStatusEnum::EMPTY | HealthStatusEnum::NONE))
            .map(|health| health.to_string()),
    }
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

fn volume_from(volume: VolumeModel) -> Volume {
    Volume {
        name: volume.name,
        driver: volume.driver,
        mountpoint: PathBuf::from(volume.mountpoint),
        labels: volume.labels.into_iter().collect(),
        options: volume.options.into_iter().collect(),
    }
}

fn image_from(image: ImageInspect) -> Image {
    let labels = image.config.and_then(|config| config.labels).unwrap_or_default();
    Image {
        id: image.id.unwrap_or_default(),
        tags: image.repo_tags.unwrap_or_default(),
        created: image.created.unwrap_or_default(),
        repo_digests: image.repo_digests.unwrap_or_default(),
        labels: labels.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(host: Option<&str>, variables: &[(&str, &str)], sockets: &[&str]) -> Result<String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Address::choose(host, variable, |path| sockets.iter().any(|socket| path == Path::new(socket)))
            .map(|address| address.to_string())
    }

    #[test]
    fn the_address_is_the_one_given_then_the_variable_then_a_socket_that_exists() {
        let variables = [("DOCKER_HOST", "tcp://db:2375/"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let rootless = "/run/user/7/docker.sock";
        assert_eq!(choose(Some("unix:///a.sock"), &variables, &[]).unwrap(), "unix:///a.sock");
        assert_eq!(choose(None, &variables, &[DEFAULT_SOCKET]).unwrap(), "tcp://db:2375");
        let variables = [("DOCKER_HOST", ""), variables[1]];
        assert_eq!(
            choose(None, &variables, &[DEFAULT_SOCKET, rootless]).unwrap(),
            "unix:///var/run/docker.sock"
        );
        assert_eq!(choose(None, &variables, &[rootless]).unwrap(), "unix:///run/user/7/docker.sock");
        assert_eq!(choose(None, &[], &[]).unwrap(), "unix:///var/run/docker.sock");
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        for host in ["ssh://db", "fd://", "unix://relative", "tcp://", "db:2375", "", "npipe:////./pipe/x"] {
            assert_eq!(choose(Some(host), &[], &[]).unwrap_err().kind, DockerErrorKind::Other, "{host}");
        }
        assert!(choose(Some("tcp://db:2376"), &[("DOCKER_TLS_VERIFY", "1")], &[]).is_err());
    }

    #[test]
    fn a_signal_is_the_same_in_every_spelling() {
        for spelling in ["SIGINT", "INT", "int", "2"] {
            assert!(same_signal("SIGINT", Some(spelling)), "{spelling}");
        }
        assert!(same_signal("TERM", None) && same_signal("SIGTERM", Some("")));
        assert!(same_signal("RTMIN+3", Some("SIGRTMIN+3")));
        assert!(!same_signal("SIGINT", None) && !same_signal("SIGINT", Some("SIGQUIT")));
    }

    #[test]
    fn what_the_engine_leaves_out_is_empty() {
        assert_eq!(container_from(ContainerInspectResponse::default()), Container::default());
        assert_eq!(image_from(ImageInspect::default()), Image::default());
        assert_eq!(mount_from(MountPoint::default()).kind, MountKind::Other);
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

    #[test]
    fn outputs_are_kept_up_to_a_limit_from_the_end_they_matter_at() {
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        for piece in [&b"abc"[..], b"def", b"", b"ghi"] {
            keep_head(&mut head, piece, 5);
            keep_tail(&mut tail, piece, 5);
        }
        assert_eq!((&head[..], &tail[..]), (&b"abcde"[..], &b"efghi"[..]));
    }
}
