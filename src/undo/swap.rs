//! Puts things back inside a volume, which only a helper can reach: whoever holds the journal starts one and has its
//! agent do the work.
//!
//! The run's own helper may still write. So the engine removes it first, and until it is gone no other one can exist,
//! because both have the same name. A helper that hangs is given up soon, and the next one later: so a stuck one costs
//! half a minute, and one on a slow disk comes to its end.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{Result, UndoError, World};
use crate::agent::calls::{self, Discard, SwapBack};
use crate::agent::client::{AgentClient, AgentError, SILENCE_LIMIT};
use crate::agent::swap::{SwapState, work_name};
use crate::engine::helper::{Access, HelperImage, helper_container};
use crate::engine::{Docker, DockerError, DockerErrorKind, NO_DIRECTORY};
use crate::model::event::Monitor;
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;
use crate::saga::RetryBudget;
use crate::service::newcomer::taken;
use crate::service::start::StoppedContainer;
use crate::service::stop::stop_all_again;
use crate::undo::remove_helper;

/// How long the first helper that puts something back may be silent; the next one may be silent twice as long.
const FIRST_SILENCE: Duration = Duration::from_secs(30);

/// The source that a run changes, and the helper that it uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperTarget {
    /// The run, which names its work directory.
    pub run: String,
    /// The source.
    pub location: MountSource,
    /// The helper's name.
    pub helper: String,
    /// The helper's image.
    pub image: String,
}

/// Swaps the old data back into its place, unless the new was confirmed. It first stops the users: they may already
/// run on the new data.
pub(super) async fn swap_back(
    world: &World,
    place: &HelperTarget,
    users: &[StoppedContainer],
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Result<()> {
    with_agent(world, place, budget, async |agent: &mut AgentClient| {
        if agent.call(calls::SwapState { run: place.run.clone() }).await? != SwapState::Swapped {
            return Ok(());
        }
        refuse_newcomers(world, users).await?;
        stop_all_again(&*world.docker, users, monitor).await?;
        monitor.step("swap-back");
        agent.call(SwapBack { run: place.run.clone() }).await?;
        // If the dead command was just starting a user, that user must find all of the old data from its start on.
        Ok(stop_all_again(&*world.docker, users, monitor).await?)
    })
    .await?;
    Ok(())
}

/// Refuses to put data back under somebody who has begun to run on what is there now.
pub(super) async fn refuse_newcomers(world: &World, users: &[StoppedContainer]) -> Result<(), AgentError> {
    match taken(&*world.docker, users).await?.first() {
        Some(taken) => Err(AgentError::Failed(taken.to_string())),
        None => Ok(()),
    }
}

/// Removes what the run has made in the source. Old data that was replaced and is kept nowhere else stays unless
/// `with_old` says otherwise: [its own compensation](crate::undo::archive_old) keeps it and then removes it.
pub(super) async fn discard(
    world: &World,
    place: &HelperTarget,
    with_old: bool,
    budget: RetryBudget,
) -> Result<()> {
    with_agent(world, place, budget, async |agent: &mut AgentClient| {
        match agent.call(calls::SwapState { run: place.run.clone() }).await? {
            SwapState::Absent => Ok(()),
            SwapState::Committed if !with_old => Ok(()),
            SwapState::Untouched | SwapState::Swapped | SwapState::Committed | SwapState::Emptied => {
                // Removing a large tree says nothing, and nobody waits for it.
                agent.allow_silence(SILENCE_LIMIT);
                agent.call(Discard { run: place.run.clone(), with_old }).await
            }
        }
    })
    .await?;
    Ok(())
}

impl HelperTarget {
    /// Returns the source in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.location {
            MountSource::Volume(name) => format!("volume {name}"),
            MountSource::Directory(path) => path.display().to_string(),
        }
    }

    /// Returns the name of the work directory.
    #[must_use]
    pub fn directory(&self) -> String {
        work_name(&self.run)
    }
}

/// Starts a helper beside the source and does the work with its agent, and retries for as long as `budget` allows;
/// `None` for a source that is gone, so that nothing can be put back in it.
pub(super) async fn with_agent<T>(
    world: &World,
    place: &HelperTarget,
    budget: RetryBudget,
    work: impl AsyncFn(&mut AgentClient) -> Result<T, AgentError>,
) -> Result<Option<T>> {
    with_agent_of(world, place, Access::Replace, budget, work).await
}

/// Does the same as [`with_agent`], with a helper that has this access. If the image of the dead run is gone by now,
/// or belongs to another volsnap with which this one cannot talk, it uses a helper of this volsnap.
pub(super) async fn with_agent_of<T>(
    world: &World,
    place: &HelperTarget,
    access: Access,
    budget: RetryBudget,
    work: impl AsyncFn(&mut AgentClient) -> Result<T, AgentError>,
) -> Result<Option<T>> {
    let deadline = Instant::now() + budget.0;
    let (mut pause, mut silence) = (Duration::from_millis(200), FIRST_SILENCE);
    let docker = &*world.docker;
    let mut place = place.clone();
    let mut is_replaced = false;
    loop {
        let error = match attempt(docker, &place, access, (budget, silence), &work).await {
            Ok(done) => return Ok(Some(done)),
            Err(error) => error,
        };
        if let AgentError::Docker(error) = &error
            && error.kind == DockerErrorKind::NotFound
            && is_gone(docker, &place.location, error).await
        {
            return Ok(None);
        }
        if !is_replaced && is_of_no_use(docker, &place.image, &error).await {
            is_replaced = true;
            if let Some(image) = own_image(world).await {
                place.image = image;
                continue;
            }
        }
        let is_hopeless = matches!(error, AgentError::OtherProtocol { .. } | AgentError::NoKey(_));
        if is_hopeless || Instant::now() + pause > deadline {
            return Err(UndoError::Volume { place: place.describe(), source: Box::new(error) });
        }
        tracing::debug!(%error, "not put back yet");
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
        if matches!(error, AgentError::Silent(_)) {
            silence = (silence * 2).min(SILENCE_LIMIT);
        }
    }
}

/// Returns whether a helper image can never serve us, however often we retry.
async fn is_of_no_use(docker: &dyn Docker, image: &str, error: &AgentError) -> bool {
    match error {
        AgentError::OtherProtocol { .. } => true,
        AgentError::Docker(error) if error.kind == DockerErrorKind::NotFound => {
            matches!(docker.image(image).await, Ok(None))
        }
        _ => false,
    }
}

/// Brings the helper image of the running program to the engine; `None` if that cannot be done.
async fn own_image(world: &World) -> Option<String> {
    let packed = HelperImage::of(Path::new("/proc/self/exe"));
    let packed = packed.inspect_err(|error| tracing::debug!(%error, "this volsnap cannot be packed")).ok()?;
    let imported = packed.ensure(&*world.docker, &world.clock).await;
    imported.inspect_err(|error| tracing::debug!(%error, "this volsnap cannot be imported")).ok()
}

async fn attempt<T>(
    docker: &dyn Docker,
    place: &HelperTarget,
    access: Access,
    (budget, silence): (RetryBudget, Duration),
    work: &impl AsyncFn(&mut AgentClient) -> Result<T, AgentError>,
) -> Result<T, AgentError> {
    // Remove the run's own helper, if it still exists: only one container can have the name.
    let budget = RetryBudget(budget.0.min(RetryBudget::SHORT.0));
    let removed = remove_helper(docker, &place.helper, &place.run, Duration::ZERO, budget).await;
    if let Err(error) = removed {
        tracing::debug!(%error, "the helper before is not removed");
    }
    let spec = helper_container(&place.helper, &place.image, &place.run, &place.location, access, None, None);
    let id = docker.create_container(&spec).await?;
    let outcome = async {
        let mut agent = AgentClient::start(docker, &id, None).await?;
        agent.allow_silence(silence);
        work(&mut agent).await
    }
    .await;
    if let Err(error) = docker.remove_container(&id).await {
        tracing::debug!(%error, "the helper removes itself");
    }
    outcome
}

/// Returns whether the source no longer exists, by what the engine says. For a directory the engine itself says so,
/// since it may be on another machine.
async fn is_gone(docker: &dyn Docker, location: &MountSource, error: &DockerError) -> bool {
    match location {
        MountSource::Volume(name) => matches!(docker.volume(name).await, Ok(None)),
        MountSource::Directory(_) => error.message.contains(NO_DIRECTORY),
    }
}

/// Removes a volume that a run has made, unless somebody now uses it.
pub(super) async fn remove_volume(
    docker: &dyn Docker,
    name: &str,
    run: &str,
    budget: RetryBudget,
) -> Result<()> {
    let deadline = Instant::now() + budget.0.min(RetryBudget::SHORT.0);
    loop {
        let attempt = async {
            match docker.volume(name).await? {
                Some(volume) if volume.labels.get(LABEL_RUN).is_some_and(|label| label == run) => {
                    docker.remove_volume(name).await
                }
                _ => Ok(()),
            }
        };
        match attempt.await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(300)).await,
        }
    }
}
