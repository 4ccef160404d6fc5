//! Before anything is touched: everything that can be checked is checked, and the helper runs.

use std::path::Path;

use tokio::time::{Duration, Instant};

use super::capture::inspect;
use super::{Database, Preparation, Run};
use crate::agent::protocol::{FoundDatabase, Survey};
use crate::database::{self, Inspection};
use crate::docker::helper::Access;
use crate::docker::{Container, Engine, MountSource, order};
use crate::error::{Context as _, Error, Result};
use crate::manifest::{Capture, Quiesce};
use crate::monitor::Phase;
use crate::ops::helper::{StartedHelper, busy, start_helper};
use crate::ops::hold::refuse_what_cannot_be_stopped;
use crate::ops::plan::{self, Plan};
use crate::repository::Repository;
use crate::saga::Saga;
use crate::saga::restart::await_ready;
use crate::source::Source;
use crate::target::{self, Target};

/// How long a database may take to answer before anything is stopped.
const READY_LIMIT: Duration = Duration::from_secs(30);

impl Run<'_> {
    pub(super) async fn prepare(&self, saga: &mut Saga) -> Result<Preparation> {
        self.phase(Phase::Prepare, self.options.target.to_string(), None);
        // Before there is anything to put back, for there to be nothing that only a later run would find.
        self.monitor().step("start-guard");
        saga.watch(&self.host.saga.executable).await.doing(|| "start the guard".to_owned())?;
        let docker = &*self.host.docker;
        let engine = docker.engine().await.doing(|| "ask the engine what it is".to_owned())?;
        let source = self.host.resolve(&self.options.target).await?;
        source.warnings.iter().for_each(|warning| self.monitor().warning(warning));
        self.refuse_what_cannot_be_held(&source)?;
        if self.options.quiesce != Quiesce::None {
            self.host.refuse_stranded(&source).await?;
        }
        refuse_file(&source, &engine)?;
        self.refuse_repository_inside(&source, &engine)?;
        let stops = self.stops(&source);
        self.refuse_unready(&source).await?;

        let image = (&engine, self.options.helper_image.as_deref());
        let run = self.id.to_string();
        let StartedHelper { mut agent, registered: helper, .. } =
            start_helper(self.host, saga, &run, &source, Access::Read, image).await?;
        let survey = agent.survey(&self.excluded()).await.doing(|| format!("survey {}", source.title))?;
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

    /// Refuses what cannot be stopped and brought back as it was, and what is not ours to capture.
    fn refuse_what_cannot_be_held(&self, source: &Source) -> Result<()> {
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
        self.stops(source).iter().try_for_each(refuse_what_cannot_be_stopped)
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

/// Returns how fast the last snapshot of this source was archived: bytes, and the milliseconds they took.
fn measured_rate(repository: &Repository, source_key: &str) -> Option<(u64, u64)> {
    let listing = repository.snapshots(Some(source_key)).ok()?;
    let phases = &listing.snapshots.last()?.manifest.phases;
    phases.iter().find(|time| time.phase == Phase::Archive).map(|time| (time.bytes, time.ms))
}
