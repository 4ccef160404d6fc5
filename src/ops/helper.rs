//! Starts the helper of a run. Its name is the lock: the engine gives a name out only once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Context;
use crate::agent::client::{AgentClient, AgentError, helper_name};
use crate::engine::helper::{Access, FIFO, HelperImage, PIPE, helper_container};
use crate::engine::{DockerError, DockerErrorKind, NO_DIRECTORY};
use crate::model::container::{Container, EngineInfo};
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::labels::LABEL_HOLDS;
use crate::model::location::MountSource;
use crate::model::source::Source;
use crate::saga::{UndoId, When};
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::swap::HelperTarget;

/// A helper that runs, with what removes it.
pub(super) struct StartedHelper {
    pub(super) agent: AgentClient,
    pub(super) registered: UndoId,
    /// How a later helper finds the same place.
    pub(super) place: HelperTarget,
}

/// Where a helper has its stage.
#[derive(Debug, Clone, Copy)]
pub(super) struct StageMount<'a> {
    /// The volume, or the directory. A volume that does not exist is made with the helper.
    pub(super) location: &'a MountSource,
    /// The labels of the volume.
    pub(super) labels: &'a BTreeMap<String, String>,
}

/// Creates the helper of a run beside a source, and beside a stage if there is one, and starts it. `image` replaces the
/// one packed from the running program. The helper tells all other runs which containers this one `holds`: see
/// [`HoldPlan`](super::hold::HoldPlan).
pub(super) async fn start_helper(
    context: &Context,
    saga: &mut Saga,
    run: &str,
    source: &Source,
    (access, stage): (Access, Option<StageMount<'_>>),
    (engine, image): (&EngineInfo, Option<&str>),
    holds: &[Container],
) -> Result<StartedHelper> {
    let docker = &*context.docker;
    let is_named = image.is_some();
    let image = helper_image(context, image).await?;
    let name = helper_name(&source.key);
    let expected = Undo::RemoveExpectedHelper { name: name.clone(), run: run.to_owned() };
    let expected = saga.register(When::Always, expected).context(|| "write the journal".to_owned())?;
    let mut pipe = match context.host_path(engine, &context.saga.state) {
        Some(_) => Some(pipe_directory(context, saga, run)?),
        None => None,
    };
    let pipe_on_host = pipe.as_deref().and_then(|directory| context.host_path(engine, directory));
    context.monitor.step("create-helper");
    let location = stage.map(|stage| stage.location);
    let mut spec =
        helper_container(&name, &image, run, &source.location, access, pipe_on_host.as_deref(), location);
    let names: Vec<_> = holds.iter().map(|container| container.name.as_str()).collect();
    spec.labels.insert(LABEL_HOLDS.to_owned(), names.join(" "));
    if let Some(StageMount { location: MountSource::Volume(volume), labels }) = stage {
        spec.new_volumes.insert(volume.clone(), labels.clone());
    }
    let mut created = docker.create_container(&spec).await;
    let missing = created.as_ref().err().and_then(missing_directory);
    if missing.is_some() && missing == pipe_on_host {
        // The engine does not see our directories, wherever it is: what the helper sends comes by its attached stream.
        pipe = None;
        spec.mounts.retain(|mount| mount.destination != Path::new(PIPE));
        created = docker.create_container(&spec).await;
    }
    let registered = if created.as_ref().is_err_and(DockerError::is_in_doubt) {
        expected
    } else {
        let helper = Undo::RemoveHelper { name: name.clone(), run: run.to_owned() };
        saga.replace(expected, helper).context(|| "write the journal".to_owned())?
    };
    let id = created.map_err(|error| match error.kind {
        DockerErrorKind::Conflict => busy(source, &name),
        _ => match missing_directory(&error) {
            Some(path) => no_directory(context, source, &path),
            None => Error::failed(format!("create the helper container {name}")).with_source(error),
        },
    })?;
    context.monitor.step("start-helper");
    let fifo = pipe.map(|directory| directory.join(FIFO));
    let started = AgentClient::start(docker, &id, fifo.as_deref()).await;
    let agent = started.map_err(|error| not_started(&name, &image, is_named, error))?;
    let place = HelperTarget { run: run.to_owned(), location: source.location.clone(), helper: name, image };
    Ok(StartedHelper { agent, registered, place })
}

/// Makes the helper of a source give way to the service, which is not held any more. If that fails, the service only
/// feels the helper more.
pub(super) async fn lower_priority(context: &Context, source: &Source) {
    if let Err(error) = context.docker.lower_priority(&helper_name(&source.key)).await {
        tracing::debug!(%error, "the helper does not give way");
    }
}

pub(super) async fn helper_image(context: &Context, image: Option<&str>) -> Result<String> {
    let docker = &*context.docker;
    if let Some(image) = image {
        return match docker.image(image).await.context(|| format!("look for the image {image}"))? {
            Some(_) => Ok(image.to_owned()),
            None => Err(Error::usage(format!("the helper image {image} is not on the engine"))
                .hint(Hint::docker(["pull", image]))),
        };
    }
    let executable = &context.saga.executable;
    let image =
        HelperImage::of(executable).context(|| format!("pack {} as the helper", executable.display()))?;
    image.ensure(docker, &context.clock).await.context(|| "bring the helper image to the engine".to_owned())
}

fn pipe_directory(context: &Context, saga: &mut Saga, run: &str) -> Result<PathBuf> {
    let directory = context.saga.state.join("runs").join(run);
    saga.register(When::Always, Undo::DeleteDirectory { path: directory.clone() })
        .context(|| "write the journal".to_owned())?;
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .context(|| format!("make the directory {}", directory.display()))?;
    Ok(directory)
}

/// Returns the error for a source that another run is at work on.
pub(super) fn busy(source: &Source, helper: &str) -> Error {
    Error::busy(format!("another volsnap run is at work on {} (helper container {helper})", source.title))
        .state("nothing was stopped")
        .hint(Hint::volsnap(["recover", "--list"]).why("shows what runs, and what died"))
}

/// Returns the error for a helper that does not start: the named image, or our own image's tag, is another volsnap's.
fn not_started(name: &str, image: &str, is_named: bool, error: AgentError) -> Error {
    let hint = match &error {
        AgentError::OtherProtocol { .. } if is_named => {
            Some(Hint::instead(&["--helper-image="], [""; 0]).why("takes the helper of this volsnap"))
        }
        AgentError::OtherProtocol { .. } => {
            Some(Hint::docker(["image", "rm", image]).why("the next command brings the right one"))
        }
        _ => None,
    };
    let error = Error::failed(format!("start the helper container {name}")).with_source(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Returns the directory that the engine looked for and did not find, as it names it.
pub(super) fn missing_directory(error: &DockerError) -> Option<PathBuf> {
    let (_, path) = error.message.split_once(NO_DIRECTORY)?;
    Some(PathBuf::from(path.trim_start_matches(':').trim()))
}

fn no_directory(context: &Context, source: &Source, path: &Path) -> Error {
    let parent = path.parent().unwrap_or(path).to_string_lossy();
    let look = Hint::shell(format!("ls -ld {}", crate::model::quote::shell_quote(&parent)));
    let error = Error::usage(format!("there is no directory {} on the engine's host", path.display()));
    let Some(own) = &context.own else {
        let is_ours = *path == source.host_path;
        return error.hint(if is_ours { look } else { look.why("on the engine's host") });
    };
    match own.host_path(path).filter(|there| there != path) {
        Some(there) => error.hint(Hint::advice(format!(
            "what this container calls so, the host calls {}: name that",
            there.display()
        ))),
        None => error.hint(look.why("on the engine's host, not in this container")),
    }
}

/// Refuses a helper that has not proved that the engine sees the files of this machine, for a directory that is made
/// here.
pub(super) fn refuse_elsewhere(agent: &AgentClient, directory: &Path) -> Result<()> {
    if agent.is_beside_us() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "the engine does not see the directories of this machine, and {} would be another one there",
        directory.display()
    ))
    .hint(Hint::advice("run volsnap on the engine's own machine, outside of any container")))
}
