//! Turns what was typed into a source, and refuses what could not be brought back.

use std::path::PathBuf;
use std::time::Duration;

use super::Context;
use super::orchestrated::Purpose;
use crate::agent::protocol::Survey;
use crate::archive::DEPTH_MAX;
use crate::compose::command::Spelling;
use crate::database;
use crate::model::container::{Container, EngineInfo, Namespace};
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::source::{Source, User};
use crate::selector::memory::{InMemory, is_in_memory};
use crate::selector::{self, Bystanders, EngineInventory, Target};
use crate::service::order;

/// How long a running database may take to say where its data is.
const ASK_LIMIT: Duration = Duration::from_secs(30);

impl Context {
    /// Returns everything that the engine has.
    pub(super) async fn world(&self) -> Result<EngineInventory> {
        let world =
            EngineInventory::of(&*self.docker, &self.directory, self.compose_project.as_deref()).await?;
        let own = self.own.as_ref().map(|own| own.container.name.clone());
        let bystanders = Bystanders { own, ..self.bystanders.clone() };
        Ok(EngineInventory { bystanders, ..world })
    }

    /// Resolves a target. A running database is asked where its data is: its configuration may have moved it, and its
    /// answer wins. Of what can only see the source, it is asked what it does there.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Source> {
        self.resolve_for(&["snapshot"], target).await
    }

    /// Like [`resolve`](Self::resolve); hints complete `command` with a target.
    pub(super) async fn resolve_for(&self, command: &[&str], target: &Target) -> Result<Source> {
        let mut world = EngineInventory {
            command: command.iter().map(ToString::to_string).collect(),
            typed: target.spelling(),
            ..self.world().await?
        };
        let mut source = selector::resolve(target, &world)?;
        if let Some((container, said)) = self.ask_for_data(&source).await {
            world.data_directories.insert(container, said);
            source = selector::resolve(target, &world)?;
        }
        self.ask_onlookers(&source, &mut world).await;
        if world.open_files.is_empty() { Ok(source) } else { selector::resolve(target, &world) }
    }

    /// Refuses names of containers that do not exist, in the options that say what may be done to whom: an option that
    /// is about nobody does nothing, and its user relies on it.
    ///
    /// # Errors
    /// When there is no container of such a name.
    pub(super) async fn refuse_unknown_names(&self, kills: &[String]) -> Result<()> {
        let Bystanders { hold, ignore, .. } = &self.bystanders;
        let named = [("--kill", kills), ("--hold", hold.as_slice()), ("--ignore", ignore.as_slice())];
        if named.iter().all(|(_, names)| names.is_empty()) {
            return Ok(());
        }
        let world = self.world().await?;
        for (option, names) in named {
            names.iter().try_for_each(|name| selector::refuse_unknown_container(option, name, &world))?;
        }
        Ok(())
    }

    /// Returns the container of a running database, and where that says that its data is.
    async fn ask_for_data(&self, source: &Source) -> Option<(String, PathBuf)> {
        let container = source.database().filter(|container| container.state.running)?;
        let command = database::server_of(container)?.data_directory_command(container)?;
        let output = self.docker.exec(&container.id, &command, ASK_LIMIT).await;
        let said = output.ok().filter(|output| output.exit_code == 0).map(|output| output.stdout)?;
        let said = String::from_utf8(said).ok().filter(|said| said.starts_with('/'))?;
        Some((container.id.clone(), PathBuf::from(said.trim_end_matches('\n'))))
    }

    /// Returns whether the Compose that is here can make a container anew on this engine.
    pub(super) async fn recreates_on(&self, engine: &EngineInfo) -> bool {
        let spelling = Spelling::find(&*self.compose).await;
        spelling.is_ok_and(|spelling| spelling.recreates_on(engine.api_version))
    }

    /// Refuses to have Compose make containers anew on an engine on which it cannot: it would fail when they are stopped.
    pub(super) async fn refuse_old_compose(&self, otherwise: Hint) -> Result<()> {
        let Ok(spelling) = Spelling::find(&*self.compose).await else { return Ok(()) };
        let engine = self.docker.engine().await.context(|| "ask the engine what it is".to_owned())?;
        if spelling.recreates_on(engine.api_version) {
            return Ok(());
        }
        Err(Error::failed(format!(
            "docker-compose 1 cannot make a container anew on an engine of version {}: install Compose 2, the plugin \
             `docker compose`",
            engine.version
        ))
        .hint(otherwise))
    }

    /// Refuses a source if one of its users could not be started again because it shares the network of a container
    /// that does not run, or something else of it.
    pub(super) async fn refuse_stranded(&self, source: &Source) -> Result<()> {
        let world = self.world().await?;
        match order::stranded(&source.users, &world.containers).first() {
            Some(stranded) => Err(Error::failed(format!(
                "container {} shares the network or the like of one that does not run, so it could not be started again",
                stranded.name
            ))
            .hint(Hint::docker(["stop", &stranded.name]).why("or start the other one first"))),
            None => Ok(()),
        }
    }

    /// Refuses to stop the users of a volume that is in memory: it is empty once the last of them has stopped, and if the
    /// helper ended with volsnap at that moment, nothing would have its data. What is restored into one that nobody uses
    /// would not even outlive the restore.
    pub(super) async fn refuse_in_memory(&self, source: &Source, purpose: Purpose) -> Result<()> {
        let MountSource::Volume(name) = &source.location else { return Ok(()) };
        if purpose != Purpose::Restore && !source.users.iter().any(User::is_to_be_held) {
            return Ok(());
        }
        let volume = self.docker.volume(name).await.context(|| format!("look at volume {name}"))?;
        if !volume.as_ref().is_some_and(is_in_memory) {
            return Ok(());
        }
        let target = Target::at(&source.location).spelling();
        Err(Error::failed(format!(
            "volume {name} is in memory (its driver's option type): what is in it is gone {}",
            InMemory::Volume.until()
        ))
        .hint(
            Hint::volsnap(["snapshot", &target, "--quiesce", "pause"])
                .why("saves it while it runs; `restore latest --new-volume NAME` then puts it on a disk"),
        ))
    }

    /// Refuses a container that is no longer in the run in which it was prepared. By that run the journal tells whether
    /// somebody has started the container again, or whether our stop may still reach it.
    pub(super) async fn refuse_restarted(&self, container: &Container) -> Result<()> {
        let looked = self.docker.container(&container.id).await;
        let now = looked.context(|| format!("look at container {}", container.name))?;
        if now.is_some_and(|now| now.state.running && now.state.started_at == container.state.started_at) {
            return Ok(());
        }
        Err(Error::failed(format!(
            "container {} was stopped or started by somebody meanwhile",
            container.name
        ))
        .hint(
            Hint::docker(["ps", "--all", "--filter", &format!("name={}", container.name)])
                .why("what became of it; once nobody else starts or stops it, type the same again"),
        ))
    }
}

/// Returns what to do about somebody else who starts, stops or removes what we hold.
pub(super) fn somebody_at_work() -> Hint {
    Hint::advice("find out who it is (a restart policy, an updater, another person), then try again")
}

/// Refuses data that could be saved and not restored.
pub(super) fn refuse_too_deep(survey: &Survey, source: &Source) -> Result<()> {
    let Some(path) = &survey.too_deep else { return Ok(()) };
    let depth = path.components().count();
    let first: PathBuf = path.components().take(3).collect();
    Err(Error::failed(format!(
        "in {}, below {}, directories are nested {depth} deep, and a restore reaches {DEPTH_MAX}",
        source.title,
        first.display()
    ))
    .hint(Hint::advice("move what lies that deep out of the data, or leave it out with --exclude")))
}

/// Refuses Podman for what must see the users of the data stopped; `hints` tell what to do instead.
pub(super) fn refuse_podman(
    engine: &EngineInfo,
    source: &Source,
    hints: impl FnOnce() -> Vec<Hint>,
) -> Result<()> {
    if !engine.podman {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the engine is Podman, which calls a container stopped while it still runs: whether what uses {} has stopped, \
         and cleanly, cannot be told",
        source.title
    ))
    .with_hints(hints()))
}

/// Refuses a container that cannot be stopped and brought back as it was.
pub(super) fn refuse_what_cannot_be_stopped(container: &Container) -> Result<()> {
    let name = &container.name;
    if container.state.paused {
        return Err(Error::failed(format!("container {name} is paused, and a paused one cannot be stopped"))
            .hint(Hint::docker(["unpause", name])));
    }
    if shares_processes(container) {
        return Err(Error::failed(format!(
            "container {name} shares the processes of another one (pid: container:…): the kernel kills it when that one \
             stops, and what it leaves behind when it stops first may be taken for a crash by a server there"
        ))
        .hint(Hint::again(["--ignore", name]).why("has the kernel end it; `docker start` starts it afterwards"))
        .or(Hint::advice(format!("run {name} without pid:"))));
    }
    if container.auto_remove {
        return Err(Error::failed(format!(
            "container {name} is removed by the engine when it stops (--rm), so it could not be started again"
        ))
        .hint(Hint::advice(format!("stop {name} yourself, or run it without --rm")))
        .or(Hint::again(["--ignore", name]).why("leaves it alone, if what it does there does not matter")));
    }
    Ok(())
}

/// Returns whether a container runs among the processes of another one.
pub(super) fn shares_processes(container: &Container) -> bool {
    Namespace::Processes.mode_of(container).starts_with("container:")
}

/// Refuses a container that cannot be frozen.
pub(super) fn refuse_what_cannot_be_frozen(container: &Container) -> Result<()> {
    if container.state.restarting {
        return Err(Error::failed(format!(
            "container {} is between two starts, and only one that runs can be frozen",
            container.name
        ))
        .hint(Hint::logs(&container.name)));
    }
    Ok(())
}
