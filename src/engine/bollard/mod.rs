//! The engine over its HTTP API: the only room that names bollard.
//!
//! | file | holds |
//! |---|---|
//! | `address` | where an engine listens |
//! | `failure` | how long a call may take, and what its failure means |
//! | `names` | what may become part of a URL |
//! | `convert` | the client's models from ours, and back |
//! | `stop` | stopping with our own signal |
//! | `streams` | standard streams, and commands run in a container |
//! | `likeness` | a container like another one |
//!
//! Each call has a limit of its own. The client's single request timeout is so high that it never decides anything: it
//! would take a stop that the engine is still working on for a failure. Names and ids are checked before they become
//! part of a URL, so a name can be anything.

mod address;
mod convert;
mod failure;
mod likeness;
mod names;
mod stop;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{ContainerUpdateBody, VolumeCreateRequest};
use bollard::query_parameters as query;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use self::address::Address;
use self::convert::{
    PS_COLUMNS, YIELDING_CPU_SHARES, container_from, create_body, image_from, label_instruction, output_from,
    processes_from, volume_from,
};
use self::failure::{bounded, failure, not_found, optional, other, timed_out, within};
use self::names::{check_container_name, is_image_reference, is_name};
use self::streams::{ClosingStdin, keep_tail};
use super::clone::NewMount;
use super::context::choose;
use super::raw::RawApi;
use super::{
    Attached, ContainerSpec, Docker, DockerError, DockerErrorKind, Grace, OutputStream, RawInspect, Result,
};
use crate::model::container::{ApiVersion, Container, EngineInfo, ExecOutput, Image, Process, Volume};
use crate::model::error::chain;
use crate::model::location::MountSource;

/// The oldest API that this speaks: Docker 19.03.
pub const MINIMUM_API: ApiVersion = ApiVersion(1, 40);

const INSPECT_LIMIT: Duration = Duration::from_secs(30);
const LIST_LIMIT: Duration = Duration::from_secs(30);
const CREATE_LIMIT: Duration = Duration::from_secs(60);
const START_LIMIT: Duration = Duration::from_secs(120);
const PAUSE_LIMIT: Duration = Duration::from_secs(60);
/// Nothing depends on it, so nobody waits long for it.
const GIVE_WAY_LIMIT: Duration = Duration::from_secs(10);
const ATTACH_LIMIT: Duration = Duration::from_secs(30);
const IMPORT_LIMIT: Duration = Duration::from_secs(120);
const REMOVE_LIMIT: Duration = Duration::from_secs(60);
const LOGS_LIMIT: Duration = Duration::from_secs(30);

/// How long a removed container may remain visible.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// The time between two looks at a container that is stopping or going.
const POLL: Duration = Duration::from_millis(250);

const INSPECTIONS_AT_ONCE: usize = 16;
const LOGS_OUTPUT_LIMIT: usize = 64 << 10;
/// Podman's name among the components of its version.
const PODMAN: &str = "Podman Engine";

/// An engine behind its API.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    client: bollard::Docker,
    raw: RawApi,
    api_version: ApiVersion,
    local: bool,
    /// The processes of containers that somebody has asked for, by the containers' ids.
    seen: Arc<Mutex<BTreeMap<String, Vec<Process>>>>,
}

impl DockerEngine {
    /// Returns the same for a process whose files are not those of the engine's host, such as one in a container.
    #[must_use]
    pub fn with_other_files(self) -> Self {
        Self { local: false, ..self }
    }

    /// Connects to the engine at `host`, otherwise to the one that docker talks to, and agrees on an API version.
    ///
    /// # Errors
    /// When the address is of a kind that this does not speak (ssh, TLS), the engine cannot be reached
    /// ([`DockerErrorKind::Unreachable`]), or it is too old.
    pub async fn connect(host: Option<&str>) -> Result<Self> {
        let home = env::var_os("HOME").map(PathBuf::from);
        let chosen = choose(host, |name| env::var(name).ok(), home.as_deref(), Path::exists);
        let chosen = chosen.map_err(|error| other("connect to the engine", chain(&error)))?;
        let address = Address::of(&chosen.address);
        let doing = format!("connect to the engine at {}", chosen.address);
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
        Ok(Self {
            client,
            raw,
            api_version,
            local: matches!(address, Address::Unix(_)),
            seen: Arc::default(),
        })
    }

    async fn inspect(&self, id: &str) -> Result<Option<Container>> {
        let doing = format!("inspect container {id}");
        if !is_name(id) {
            return Ok(None);
        }
        let call = self.client.inspect_container(id, None::<query::InspectContainerOptions>);
        let Some(found) = optional(bounded(&doing, INSPECT_LIMIT, call).await)? else { return Ok(None) };
        let mut container = container_from(found);
        container.processes = self.remembered().get(&container.id).cloned().unwrap_or_default();
        // The engine also takes a prefix of an id for the id, however short.
        let meant =
            container.id == id || container.name == id || (id.len() >= 12 && container.id.starts_with(id));
        Ok(meant.then_some(container))
    }

    fn remembered(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Process>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns everything that the engine says about a container.
    async fn inspect_all(&self, doing: &str, id: &str) -> Result<Value> {
        check_container_name(doing, id)?;
        within(doing, INSPECT_LIMIT, self.raw.get(doing, &format!("/containers/{id}/json"))).await
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

    async fn replicas(&self, service: &str) -> Result<Option<u64>> {
        let doing = format!("look at service {service}");
        if !is_name(service) {
            return Ok(None);
        }
        let found =
            within(&doing, INSPECT_LIMIT, self.raw.get(&doing, &format!("/services/{service}"))).await?;
        Ok(found["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64())
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
            // A volume driver may allow a name that the engine itself does not.
            return Ok(self.volumes().await?.into_iter().find(|volume| volume.name == name));
        }
        let doing = format!("inspect volume {name}");
        let found = optional(bounded(&doing, INSPECT_LIMIT, self.client.inspect_volume(name)).await)?;
        Ok(found.map(volume_from))
    }

    /// If the name is taken, the engine answers with the volume that has it. So this looks the name up before, and the
    /// labels tell afterwards whose volume it is.
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

    /// The engine has no code of its own for a container that is not paused, so this looks at the container.
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
        // Only the program: arguments may hold what must not be shown.
        let program = command.first().map_or("", String::as_str);
        let doing = format!("run {program} in container {id}");
        check_container_name(&doing, id)?;
        match timeout(limit, self.run_exec(&doing, id, command)).await {
            Ok(result) => result,
            Err(_) => Err(timed_out(&doing, limit)),
        }
    }

    async fn processes(&self, id: &str) -> Result<Vec<Process>> {
        let doing = format!("list the processes of container {id}");
        check_container_name(&doing, id)?;
        let Some(container) = self.inspect(id).await? else {
            return Err(not_found(&doing, "there is no such container".to_owned()));
        };
        let options = query::TopOptions { ps_args: PS_COLUMNS.to_owned() };
        let listed = bounded(&doing, INSPECT_LIMIT, self.client.top_processes(id, Some(options))).await?;
        let processes = processes_from(listed, container.state.pid);
        self.remembered().insert(container.id, processes.clone());
        Ok(processes)
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

    /// The engine would create a missing volume, so this looks each one up right before. The engine cannot do both at
    /// once: if somebody else removed a volume in between, it would come back empty.
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
        self.inspect_all(&format!("describe container {id}"), id).await.map(RawInspect)
    }

    async fn clone_container(
        &self,
        model: &RawInspect,
        name: &str,
        mount: Option<NewMount<'_>>,
    ) -> Result<String> {
        self.create_alike(model, name, mount).await
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

    /// The engine connects the streams before it answers the request, so nothing that the container writes after this
    /// returns is lost.
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

fn parse_api_version(text: &str) -> Option<ApiVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ApiVersion(major.parse().ok()?, minor.parse().ok()?))
}
