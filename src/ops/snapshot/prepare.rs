//! Before anything is touched: everything that can be checked is checked, and the helper runs.

use std::path::{Path, PathBuf};

use tokio::time::{Duration, Instant};

use super::capture::inspect;
use super::{Database, Preparation, Run};
use crate::agent::client::{AgentClient, helper_name};
use crate::agent::protocol::{FoundDatabase, Survey};
use crate::database::{self, Inspection};
use crate::docker::helper::{FIFO, HelperImage, helper_container};
use crate::docker::{Container, DockerError, DockerErrorKind, Engine, MountSource, order};
use crate::error::{Context as _, Error, Result};
use crate::manifest::{Capture, Quiesce};
use crate::monitor::Phase;
use crate::ops::plan::{self, Plan};
use crate::repository::Repository;
use crate::saga::restart::await_ready;
use crate::saga::{Compensation, Registered, Saga, When};
use crate::source::Source;
use crate::target::{self, Target, World};

/// How long a database may take to answer before anything is stopped.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// What engines say of a bind mount whose source is not there; they do not make it.
const NO_DIRECTORY: &str = "bind source path does not exist";

impl Run<'_> {
    pub(super) async fn prepare(&self, saga: &mut Saga) -> Result<Preparation> {
        self.phase(Phase::Prepare, self.options.target.to_string(), None);
        // Before there is anything to put back, for there to be nothing that only a later run would find.
        self.monitor().step("start-guard");
        saga.watch(&self.host.saga.executable).await.doing(|| "start the guard".to_owned())?;
        let docker = &*self.host.docker;
        let engine = docker.engine().await.doing(|| "ask the engine what it is".to_owned())?;
        let (source, world) = self.resolve().await?;
        source.warnings.iter().for_each(|warning| self.monitor().warning(warning));
        self.refuse_what_cannot_be_held(&source, &world)?;
        refuse_file(&source, &engine)?;
        self.refuse_repository_inside(&source, &engine)?;
        let stops = self.stops(&source);
        self.refuse_unready(&source).await?;

        let (mut agent, helper) = self.start_helper(saga, &source, &engine).await?;
        let survey =
            agent.survey(&self.options.exclude).await.doing(|| format!("survey {}", source.title))?;
        let database = self.find_database(&source, &survey)?;
        let inspection = match &database {
            Some(database) => Some(inspect(&mut agent, database).await?),
            None => None,
        };
        inspection.iter().try_for_each(|inspection| refuse_outside_links(&source, inspection))?;
        let plan = self.plan(&source, inspection.as_ref(), &stops, &survey);
        refuse_without_space(&plan, self.site.root())?;
        self.warn_of_downtime(&plan);
        Ok(Preparation { plan, engine, source, database, stops, survey, agent, helper })
    }

    fn warn_of_downtime(&self, plan: &Plan) {
        let expected = Duration::from_millis(plan.expected_downtime_ms);
        if let Some(limit) = self.options.max_downtime.filter(|limit| *limit < expected) {
            self.monitor().warning(format!(
                "the service is expected to be away for {:.1} s, and --max-downtime gives up after {:.1} s",
                expected.as_secs_f64(),
                limit.as_secs_f64()
            ));
        }
    }

    /// Resolves the target. A running database is asked where its data is: its configuration may have moved
    /// it, and what it says wins.
    async fn resolve(&self) -> Result<(Source, World)> {
        let mut world = self.world().await?;
        let source = target::resolve(&self.options.target, &world)?;
        let Some(container) = source.database().filter(|container| container.state.running) else {
            return Ok((source, world));
        };
        let Some(profile) = database::profile_of(container) else { return Ok((source, world)) };
        let command = profile.data_directory_command(container);
        let output = self.host.docker.exec(&container.id, &command, READY_LIMIT).await;
        let said = output.ok().filter(|output| output.exit_code == 0).map(|output| output.stdout);
        let Some(said) = said.and_then(|said| String::from_utf8(said).ok()) else {
            return Ok((source, world));
        };
        if !said.starts_with('/') {
            return Ok((source, world));
        }
        world.data_directories.insert(container.id.clone(), PathBuf::from(said.trim_end_matches('\n')));
        let source = target::resolve(&self.options.target, &world)?;
        Ok((source, world))
    }

    pub(super) async fn world(&self) -> Result<World> {
        World::of(&*self.host.docker, &self.host.directory, self.host.compose_project.as_deref()).await
    }

    /// Refuses what cannot be stopped and brought back as it was, and what is not ours to capture.
    fn refuse_what_cannot_be_held(&self, source: &Source, world: &World) -> Result<()> {
        if let Some(other) = &source.held_by {
            return Err(busy(source, &other.container));
        }
        if self.options.quiesce == Quiesce::None {
            return match source.database().filter(|container| container.state.running) {
                Some(container) => Err(Error::usage(format!(
                    "container {} is a running database: copied while it writes, its files fit together only by luck",
                    container.name
                ))
                .hint(format!("volsnap snapshot {} --quiesce stop", self.options.target.quoted()))),
                None => Ok(()),
            };
        }
        if let Some(stranded) = order::stranded(&source.users, &world.containers).first() {
            return Err(Error::failed(format!(
                "container {} shares the network of one that does not run, so it could not be started again",
                stranded.name
            ))
            .hint(format!(
                "docker stop {}    (or start the other one first)",
                target::shell_quote(&stranded.name)
            )));
        }
        for container in self.stops(source) {
            let name = &container.name;
            if container.state.paused {
                return Err(Error::failed(format!(
                    "container {name} is paused, and a paused one cannot be stopped"
                ))
                .hint(format!("docker unpause {}", target::shell_quote(name))));
            }
            if container.auto_remove {
                return Err(Error::failed(format!(
                    "container {name} is removed by the engine when it stops (--rm), so it could not be started again"
                ))
                .hint(format!("stop {name} yourself, or run it without --rm")));
            }
        }
        Ok(())
    }

    fn refuse_repository_inside(&self, source: &Source, engine: &Engine) -> Result<()> {
        let repository = self.site.root();
        let source_path = source.host_path.canonicalize().unwrap_or_else(|_| source.host_path.clone());
        let repository_path = repository
            .ancestors()
            .find_map(|existing| {
                Some(existing.canonicalize().ok()?.join(repository.strip_prefix(existing).ok()?))
            })
            .unwrap_or_else(|| repository.to_owned());
        if engine.local && repository_path.starts_with(&source_path) {
            return Err(Error::usage(format!(
                "the repository {} lies inside the source {}: it would be lost with what it is to save",
                repository.display(),
                source_path.display()
            ))
            .hint("choose another directory with --repo DIR"));
        }
        Ok(())
    }

    /// Returns the containers to stop, in the order of their stop.
    fn stops(&self, source: &Source) -> Vec<Container> {
        if self.options.quiesce == Quiesce::None {
            return Vec::new();
        }
        let stops: Vec<_> = source.users.iter().filter(|user| user.is_to_be_held()).cloned().collect();
        order::stop_order(&stops).into_iter().cloned().collect()
    }

    /// Refuses a database that does not answer: one still in its entrypoint would ignore the signal.
    async fn refuse_unready(&self, source: &Source) -> Result<()> {
        let Some(container) = source.database().filter(|container| container.state.running) else {
            return Ok(());
        };
        if self.options.quiesce == Quiesce::None {
            return Ok(());
        }
        await_ready(&*self.host.docker, container, Instant::now() + READY_LIMIT, self.monitor())
            .await
            .map_err(|error| {
                Error::failed(format!("container {} is not ready to be stopped", container.name))
                    .because(error)
                    .hint(format!("docker logs --tail 20 {}", target::shell_quote(&container.name)))
            })
    }

    /// Creates the helper and starts it. Its name is the lock: the engine gives it out only once.
    async fn start_helper(
        &self,
        saga: &mut Saga,
        source: &Source,
        engine: &Engine,
    ) -> Result<(AgentClient, Registered)> {
        let docker = &*self.host.docker;
        let image = self.helper_image().await?;
        let name = helper_name(&source.key);
        let run = self.id.to_string();
        let expected = Compensation::RemoveExpectedHelper { name: name.clone(), run: run.clone() };
        let expected = saga.register(When::Always, expected).doing(|| "write the journal".to_owned())?;
        let pipe = if engine.local { Some(self.pipe_directory(saga)?) } else { None };
        self.monitor().step("create-helper");
        let spec = helper_container(&name, &image, &run, &source.location, pipe.as_deref());
        let created = docker.create_container(&spec).await;
        let helper = if created.as_ref().is_err_and(DockerError::is_in_doubt) {
            expected
        } else {
            let helper = Compensation::RemoveHelper { name: name.clone(), run };
            saga.replace(expected, helper).doing(|| "write the journal".to_owned())?
        };
        let id = created.map_err(|error| match error.kind {
            DockerErrorKind::Conflict => busy(source, &name),
            _ if error.message.contains(NO_DIRECTORY) => no_directory(source),
            _ => Error::failed(format!("create the helper container {name}")).because(error),
        })?;
        self.monitor().step("start-helper");
        let fifo = pipe.map(|directory| directory.join(FIFO));
        let agent = AgentClient::start(docker, &id, fifo.as_deref())
            .await
            .doing(|| format!("start the helper container {name}"))?;
        Ok((agent, helper))
    }

    async fn helper_image(&self) -> Result<String> {
        let docker = &*self.host.docker;
        if let Some(image) = &self.options.helper_image {
            return match docker.image(image).await.doing(|| format!("look for the image {image}"))? {
                Some(_) => Ok(image.clone()),
                None => Err(Error::usage(format!("the helper image {image} is not on the engine"))
                    .hint(format!("docker pull {}", target::shell_quote(image)))),
            };
        }
        let executable = &self.host.saga.executable;
        let image =
            HelperImage::of(executable).doing(|| format!("pack {} as the helper", executable.display()))?;
        image.ensure(docker).await.doing(|| "bring the helper image to the engine".to_owned())
    }

    fn pipe_directory(&self, saga: &mut Saga) -> Result<PathBuf> {
        let directory = self.host.saga.state.join("runs").join(self.id.as_str());
        saga.register(When::Always, Compensation::DeleteDirectory { path: directory.clone() })
            .doing(|| "write the journal".to_owned())?;
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .doing(|| format!("make the directory {}", directory.display()))?;
        Ok(directory)
    }

    /// Finds the database in the source: where its container's configuration has it, checked against the
    /// files that are there.
    fn find_database(&self, source: &Source, survey: &Survey) -> Result<Option<Database>> {
        if survey.entries == 0 {
            return Err(Error::failed(format!("{} is empty: there is nothing to save", source.title)).hint(
                "docker volume ls    (is it the one you mean? Compose puts the project's name before it)",
            ));
        }
        let (Some(container), Some(data_directory)) = (source.database(), &source.data_directory) else {
            return only_database(source, survey);
        };
        let Some(profile) = database::profile_of(container) else { return only_database(source, survey) };
        let found =
            |found: &FoundDatabase| found.data_directory == *data_directory && found.engine == profile.name();
        if !survey.databases.iter().any(found) {
            return Err(Error::failed(format!(
                "{} has no {} data where container {} keeps it ({})",
                source.title,
                profile.name(),
                container.name,
                at(data_directory)
            ))
            .hint(format!(
                "docker inspect --format '{{{{json .Mounts}}}}' {}",
                target::shell_quote(&container.name)
            )));
        }
        let mounted_at = source.mounted_at(container);
        Ok(Some(Database { profile, data_directory: data_directory.clone(), mounted_at }))
    }

    fn plan(
        &self,
        source: &Source,
        database: Option<&Inspection>,
        stops: &[Container],
        survey: &Survey,
    ) -> Plan {
        let names = |containers: &mut dyn Iterator<Item = &Container>| -> Vec<String> {
            containers.map(|container| container.name.clone()).collect()
        };
        let measured = self.site.repository().and_then(|repository| measured_rate(repository, &source.key));
        Plan {
            id: self.id.to_string(),
            source: source.key.clone(),
            title: source.title.clone(),
            host_path: source.host_path.clone(),
            database: database.map(|inspection| format!("{} {}", inspection.engine, inspection.version)),
            data_directory: database.map(|database| database.data_directory.clone()),
            quiesce: self.options.quiesce,
            capture: Capture::Direct,
            codec: self.options.codec,
            stops: names(&mut stops.iter()),
            starts: names(&mut stops.iter().rev()),
            stay_stopped: names(
                &mut source
                    .users
                    .iter()
                    .map(|user| &user.container)
                    .filter(|container| !container.state.running),
            ),
            entries: survey.entries,
            raw_bytes: survey.bytes,
            needed_bytes: plan::worst_case_bytes(survey.bytes, survey.entries),
            free_bytes: self.site.free_space(),
            expected_downtime_ms: if stops.is_empty() {
                0
            } else {
                plan::expected_downtime_ms(survey.bytes, measured)
            },
            archive: self.site.archive_path(&source.key, &self.id, self.options.codec),
        }
    }
}

/// Returns the database of a source that no container was made for, if there is exactly one.
fn only_database(source: &Source, survey: &Survey) -> Result<Option<Database>> {
    match survey.databases.as_slice() {
        [] => Ok(None),
        [found] => Ok(database::profile(&found.engine).map(|profile| Database {
            profile,
            data_directory: found.data_directory.clone(),
            mounted_at: None,
        })),
        several => {
            let places: Vec<_> = several.iter().map(|found| at(&found.data_directory)).collect();
            Err(Error::failed(format!(
                "{} holds several databases ({}), and no container says which one is meant",
                source.title,
                places.join(", ")
            ))
            .hint("volsnap snapshot path:DIR    (the directory of one of them)"))
        }
    }
}

/// Refuses a path that is a file: the engine would say so only in words about the helper's insides.
fn refuse_file(source: &Source, engine: &Engine) -> Result<()> {
    let path = &source.host_path;
    let is_file = || path.metadata().is_ok_and(|metadata| !metadata.is_dir());
    match (&source.location, path.parent()) {
        (MountSource::Directory(_), Some(parent)) if engine.local && is_file() => {
            let target = Target::Directory(parent.to_owned());
            Err(Error::usage(format!("{} is not a directory", path.display()))
                .hint(format!("volsnap snapshot {}    (the directory it is in)", target.quoted())))
        }
        _ => Ok(()),
    }
}

fn no_directory(source: &Source) -> Error {
    let path = source.host_path.display();
    Error::usage(format!("there is no directory {path} on the engine's host")).hint(format!(
        "ls -ld {}",
        target::shell_quote(&source.host_path.parent().unwrap_or(&source.host_path).to_string_lossy())
    ))
}

fn refuse_outside_links(source: &Source, inspection: &Inspection) -> Result<()> {
    let Some(link) = inspection.outside.first() else { return Ok(()) };
    Err(Error::failed(format!(
        "{} is not all in {}: its {} lies in {}, where a snapshot would miss it",
        inspection.engine,
        source.title,
        link.what,
        link.target.display()
    ))
    .hint("move it into the data directory's volume; volsnap captures one volume or directory at a time"))
}

fn refuse_without_space(plan: &Plan, repository: &Path) -> Result<()> {
    match plan.free_bytes {
        Some(free) if free < plan.needed_bytes => Err(Error::failed(format!(
            "the repository {} has {} MB free, and the snapshot may need {} MB",
            repository.display(),
            free / 1_000_000,
            plan.needed_bytes / 1_000_000
        ))
        .hint("choose a larger disk with --repo DIR, or remove what is not needed")),
        _ => Ok(()),
    }
}

fn at(directory: &Path) -> String {
    if directory.as_os_str().is_empty() { "the root".to_owned() } else { directory.display().to_string() }
}

fn busy(source: &Source, helper: &str) -> Error {
    Error::busy(format!("another volsnap run is at work on {} (helper container {helper})", source.title))
        .state("nothing was stopped")
        .hint("volsnap recover --list    (shows what runs, and what died)")
}

/// Returns how fast the last snapshot of this source was archived: bytes, and the milliseconds they took.
fn measured_rate(repository: &Repository, source_key: &str) -> Option<(u64, u64)> {
    let listing = repository.snapshots(Some(source_key)).ok()?;
    let phases = &listing.snapshots.last()?.manifest.phases;
    phases.iter().find(|time| time.phase == Phase::Archive).map(|time| (time.bytes, time.ms))
}
