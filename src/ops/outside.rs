//! Starts the guard [outside](crate::saga::outside) of a run whose command is in a container itself.
//!
//! The guard is a container of the helper's image, with the engine's socket and everything else that ours can write to,
//! at the same paths, so that it finds whatever the journal names. The engine starts it again as often as it ends, also
//! after it has been restarted itself. It removes itself once the run is finished.
//!
//! Nothing that holds a service begins before this guard has said that it sees the very file that is our journal, with
//! its lock held.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::Context;
use super::helper::{helper_image, missing_directory};
use crate::engine::helper::EXECUTABLE_ASIDE;
use crate::engine::own::OwnContainer;
use crate::engine::{Attached, ContainerSpec, DockerError, MountSpec, Network, Output};
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::labels::{LABEL_GUARD, LABEL_RUN};
use crate::model::location::MountSource;
use crate::model::quote::shell_quote;
use crate::model::source::{Source, User};
use crate::repository::RepositoryLocation;
use crate::saga::When;
use crate::saga::outside::{UNLOCKED, watching};
use crate::undo::{Saga, Undo};

/// How long the guard may take from its start to its first word.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How an address begins that is a socket's path.
const SOCKET: &str = "unix://";
/// What the guard needs to put back what belongs to anybody, and to end a command that hangs.
const CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SYS_PTRACE"];

/// Refuses a state directory that ends with our container: nobody could put back what a dead run has stopped.
pub(super) fn refuse_own_state(context: &Context, own: &OwnContainer) -> Result<()> {
    let state = &context.saga.state;
    if own.host_path(state).is_some() {
        return Ok(());
    }
    let path = state.to_string_lossy();
    let name = &own.container.name;
    Err(Error::failed(format!(
        "volsnap runs in the container {name}, and its state directory {path} lies in that container alone: once the \
         container ends, nobody can start what a run has stopped"
    ))
    .state("nothing was touched")
    .hint(Hint::advice(format!(
        "give the container a volume for it, with `-v {}` behind docker run, or below `volumes:` of its service",
        shell_quote(&format!("volsnap-state:{path}"))
    ))))
}

/// Refuses a repository that ends with our container: what is kept there would be gone with it, and whoever finishes a
/// dead run could not read it.
pub(super) fn refuse_own_repository(context: &Context, repository: &RepositoryLocation) -> Result<()> {
    let (Some(own), Some(path)) = (&context.own, repository.address().local_path()) else { return Ok(()) };
    if own.host_path(path).is_some() {
        return Ok(());
    }
    let (path, name) = (path.to_string_lossy(), &own.container.name);
    Err(Error::failed(format!(
        "volsnap runs in the container {name}, and the repository {path} lies in that container alone: what is kept there \
         ends with it"
    ))
    .state("nothing was touched")
    .hint(Hint::advice(format!(
        "give the container a volume for it, with `-v {}` behind docker run, or below `volumes:` of its service",
        shell_quote(&format!("volsnap-repository:{path}"))
    ))))
}

/// Refuses a source for which the container that we run in would have to be held, as far as those of its users are who
/// `goes`: the run would end with it.
pub(super) fn refuse_ourselves(
    context: &Context,
    source: &Source,
    goes: impl Fn(&User) -> bool,
) -> Result<()> {
    source.users.iter().filter(|user| goes(user)).try_for_each(|user| refuse_own(context, &user.container))
}

/// Refuses to stop a container, or to make it anew, if it is the one that we run in.
pub(super) fn refuse_own(context: &Context, container: &Container) -> Result<()> {
    let is_ours = |own: &&Arc<OwnContainer>| own.container.id == container.id;
    let Some(own) = context.own.as_ref().filter(is_ours) else { return Ok(()) };
    let why = "it has its database there, or shares the network of what is stopped";
    Err(Error::failed(format!(
        "volsnap runs in the container {}, which it would have to stop: {why}",
        own.container.name
    ))
    .state("nothing was stopped")
    .hint(Hint::advice("run volsnap in a container of its own, with a network of its own")))
}

/// Starts the guard outside, and returns once it watches. What removes one that does not come to that is in the journal
/// first.
pub(super) async fn start(context: &Context, own: &OwnContainer, saga: &mut Saga, run: &str) -> Result<()> {
    refuse_own_state(context, own)?;
    let docker = &*context.docker;
    let image = helper_image(context, None).await?;
    let name = format!("volsnap-guard-{run}");
    saga.register(When::Always, Undo::RemoveGuard { name: name.clone(), run: run.to_owned() })
        .context(|| "write the journal".to_owned())?;
    let journal = saga.journal().canonicalize().context(|| "find the journal".to_owned())?;
    let spec = guard_container(context, own, (&name, run, image), &journal);
    let id = create(context, spec).await.context(|| format!("create the guard container {name}"))?;
    let begun = async {
        let attached = docker.attach(&id).await?;
        docker.start(&id).await?;
        Ok::<_, DockerError>(attached)
    };
    let watches = match begun.await {
        Ok(attached) => await_word(attached, &journal).await,
        Err(error) => Err(Error::failed("start it").with_source(error)),
    };
    let Err(error) = watches else { return Ok(()) };
    if let Err(error) = docker.remove_container(&id).await {
        tracing::debug!(%error, "a guard that does not watch is left to the journal");
    }
    Err(Error::failed(format!("have the container {name} guard the run"))
        .with_source(error)
        .state("nothing was stopped"))
}

fn guard_container(
    context: &Context,
    own: &OwnContainer,
    (name, run, image): (&str, &str, String),
    journal: &Path,
) -> ContainerSpec {
    let (by_socket, words) =
        (context.address.strip_prefix(SOCKET), [EXECUTABLE_ASIDE, "--host", &context.address]);
    let words = words.into_iter().map(str::to_owned);
    let guard = ["guard".to_owned(), journal.to_string_lossy().into_owned(), "--outside".to_owned()];
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let label = |label: &str| (label.to_owned(), run.to_owned());
    ContainerSpec {
        name: name.to_owned(),
        image,
        command: words.chain(guard).chain([name.to_owned()]).collect(),
        labels: BTreeMap::from([label(LABEL_RUN), label(LABEL_GUARD)]),
        mounts: mounts(own, by_socket.map(Path::new)),
        capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        network: match by_socket {
            Some(_) => Network::None,
            None => Network::Named(own.container.network_mode.clone()),
        },
        user: Some((nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())),
        groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
        kept: true,
        detached: true,
        restarts: true,
        host_processes: true,
        ..ContainerSpec::default()
    }
}

/// Returns what the guard mounts: all that we can write to, by every name that it has here, and the engine's socket.
fn mounts(own: &OwnContainer, socket: Option<&Path>) -> Vec<MountSpec> {
    let mut taken = BTreeSet::new();
    let mut mounts = Vec::new();
    let mut add = |source: MountSource, destination: PathBuf| {
        if taken.insert(destination.clone()) {
            mounts.push(MountSpec { source, destination, read_only: false });
        }
    };
    if let Some((socket, host_path)) = socket.and_then(|socket| Some((socket, own.host_path(socket)?))) {
        add(MountSource::Directory(host_path), socket.to_owned());
    }
    for (source, destination) in own.writable_mounts() {
        add(source, destination.to_owned());
    }
    mounts
}

/// Creates the guard. What is mounted here and gone from the host, such as a file that was replaced there, is not needed.
async fn create(context: &Context, mut spec: ContainerSpec) -> Result<String, DockerError> {
    loop {
        let created = context.docker.create_container(&spec).await;
        let Some(gone) = created.as_ref().err().and_then(missing_directory) else { return created };
        let before = spec.mounts.len();
        spec.mounts.retain(|mount| mount.source != MountSource::Directory(gone.clone()));
        if spec.mounts.len() == before {
            return created;
        }
    }
}

/// Waits for the guard's first word, which says that it sees our journal.
async fn await_word(attached: Attached, journal: &Path) -> Result<()> {
    let expected = watching(&journal.metadata().context(|| "look at the journal".to_owned())?);
    let word = first_line(attached);
    let Ok(said) = timeout(START_LIMIT, word).await else {
        return Err(
            Error::failed(format!("it says nothing for {} s", START_LIMIT.as_secs())).hint(try_again())
        );
    };
    match said.trim() {
        said if said == expected => Ok(()),
        UNLOCKED => Err(Error::failed(
            "locks of files do not reach from container to container where the state directory lies, so a guard cannot \
             know whether a run is alive",
        )
        .hint(Hint::advice("have the state directory on a local file system, such as a volume of the engine"))),
        said if said.starts_with("watching ") => {
            Err(Error::failed("what it has at the state directory's path is another directory")
                .hint(Hint::advice("mount the state directory from the host, or from a volume, at one path")))
        }
        "" => Err(Error::failed("it ended before it watched").hint(try_again())),
        said => Err(Error::failed(format!("it says: {said}")).hint(try_again())),
    }
}

fn try_again() -> Hint {
    Hint::advice("see whether the engine has room and memory for one more container, and try again")
}

async fn first_line(mut attached: Attached) -> String {
    let mut said = Vec::new();
    while let Some(Ok(Output::Stdout(bytes) | Output::Stderr(bytes))) = attached.output.next().await {
        said.extend_from_slice(&bytes);
        if said.contains(&b'\n') {
            break;
        }
    }
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or_default().to_owned()
}
