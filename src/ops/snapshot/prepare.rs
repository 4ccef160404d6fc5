//! Before anything is touched: everything that can be checked is checked, and the helper runs.

use std::path::{Path, PathBuf};

use tokio::time::{Duration, Instant};

use super::publish::environment;
use super::stage::StageVolume;
use super::{Prepared, SnapshotRun};
use crate::agent::calls;
use crate::agent::protocol::{FoundDatabase, StageRoom, Survey};
use crate::database::{self, Database, stores};
use crate::engine::helper::Access;
use crate::model::container::EngineInfo;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Notice, Phase};
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::location::MountSource;
use crate::model::manifest::{Capture, Environment, Quiesce};
use crate::model::plural::size;
use crate::model::source::{Source, User};
use crate::ops::Context;
use crate::ops::apart;
use crate::ops::evidence::DatabaseFiles;
use crate::ops::helper::{busy, start_helper};
use crate::ops::hold::{HoldMethod, HoldPlan, is_restarted};
use crate::ops::orchestrated::Purpose;
use crate::ops::outside::{refuse_ourselves, refuse_own_repository};
use crate::ops::plan::{self, CaptureChoice, DowntimeEstimate, Plan, StageOutlook};
use crate::ops::preconditions::{
    refuse_podman, refuse_too_deep, refuse_what_cannot_be_frozen, refuse_what_cannot_be_stopped,
};
use crate::ops::trust::Trust;
use crate::repository::Repository;
use crate::selector::Target;
use crate::service::order;
use crate::service::ready::await_ready;
use crate::store::StoreAddress;
use crate::store::spool::Spool;
use crate::undo::Saga;

/// How long a database may take to answer before anything is stopped.
const READY_LIMIT: Duration = Duration::from_secs(30);

impl SnapshotRun<'_> {
    pub(in crate::ops) async fn prepare(&self, saga: &mut Saga) -> Result<Prepared> {
        self.run.phase(Phase::Prepare, self.options.target.to_string(), None);
        Trust::of(&self.run.context)?.check_place(&self.repository)?;
        match self.options.quiesce {
            Quiesce::Stop | Quiesce::Pause => self.run.watch(saga).await?,
            Quiesce::Native | Quiesce::None => self.run.watch_alone(saga).await?,
        }
        let docker = &*self.run.context.docker;
        let engine = docker.engine().await.context(|| "ask the engine what it is".to_owned())?;
        self.run.context.refuse_unknown_names(&self.options.kills).await?;
        let source = self.run.context.resolve(&self.options.target).await?;
        let goes = |user: &User| match self.options.quiesce {
            Quiesce::Stop => true,
            Quiesce::Pause => user.writes,
            Quiesce::Native | Quiesce::None => false,
        };
        refuse_ourselves(&self.run.context, &source, goes)?;
        self.run.refuse_unfinished(&source)?;
        source.warnings.iter().for_each(|warning| self.run.monitor().warning(warning));
        refuse_own_repository(&self.run.context, &self.repository)?;
        self.refuse_what_cannot_be_held(&source).await?;
        if self.options.quiesce == Quiesce::Stop {
            // Also if the users are said to be stopped already.
            if !source.users.is_empty() {
                refuse_podman(&engine, &source, || {
                    vec![self.instead(&["--quiesce="], ["--quiesce", "pause"])]
                })?;
            }
            self.run.context.refuse_in_memory(&source, Purpose::Snapshot).await?;
            self.run.context.refuse_stranded(&source).await?;
        }
        refuse_file(&source, &engine)?;
        self.refuse_repository_inside(&source, &engine)?;
        let hold = self.hold_plan(&source).look(&self.run.context).await?.freezing_the_deaf(&source)?;
        self.warn_of_the_deaf(&hold);
        hold.warn_of_the_unhealthy(self.run.monitor());
        let mute = self.mute(&source).await?;
        let online = match self.options.quiesce {
            Quiesce::Native => Some(self.ask_online(&source).await?),
            Quiesce::Stop | Quiesce::Pause | Quiesce::None => None,
        };

        let image = (&engine, self.options.helper_image.as_deref());
        let run = self.run.id.to_string();
        let stage = match self.options.capture {
            CaptureChoice::Auto if hold.is_empty() && online.is_none() => None,
            CaptureChoice::Auto | CaptureChoice::Staged => {
                Some(self.choose_stage(saga, &source, &engine).await?)
            }
            CaptureChoice::Direct => None,
        };
        let access = if stage.is_some() { Access::Stage } else { Access::Read };
        let mounts = (access, stage.as_ref().map(StageVolume::mount));
        let mut helper =
            start_helper(&self.run.context, saga, &run, &source, mounts, image, &hold.all()).await?;
        let placeholders = covered(&source);
        let survey = calls::Survey { exclude: self.excluded(), placeholders, ..Default::default() };
        let survey = helper.agent.call(survey).await.context(|| format!("survey {}", source.title))?;
        self.placeholders.get_or_init(|| survey.placeholders.clone());
        refuse_too_deep(&survey, &source)?;
        let database = self.find_database(&source, &survey)?;
        let source = known_by_its_files(source, database.as_ref());
        let inspection = match &database {
            Some(database) => Some(database.inspect(&mut helper.agent).await?),
            None => None,
        };
        let servers = servers(&source, &survey);
        for server in &servers {
            refuse_outside_links(&source, &server.inspect(&mut helper.agent).await?)?;
        }
        inspection.iter().try_for_each(|inspection| refuse_outside_links(&source, inspection))?;
        let estimate = self.estimate(&source, &survey).await;
        let environment = environment(&self.run.context, &source, &engine, inspection.as_ref()).await;
        self.name_configuration(&source, &environment).await;
        let plan = self.plan(&source, inspection.as_ref(), &survey).await;
        let mut prepared = Prepared {
            plan,
            source,
            database,
            servers,
            hold: HoldPlan::default(),
            survey,
            environment,
            estimate,
            stage,
            online,
            helper,
        };
        let is_store = !prepared.survey.stores.is_empty();
        prepared.take_users(&self.run.context, HoldPlan { is_store, mute, ..hold });
        self.choose_capture(&mut prepared).await?;
        match self.spool(&prepared) {
            Some(spool) => refuse_without_spool(&prepared.plan, &spool)?,
            None => refuse_without_space(&prepared.plan, self.repository.address())?,
        }
        self.warn_of_downtime(&prepared.plan);
        Ok(prepared)
    }

    /// Decides how the bytes are taken, now that their number and the free room are known.
    async fn choose_capture(&self, prepared: &mut Prepared) -> Result<()> {
        let room = match &prepared.stage {
            Some(_) => {
                let room = prepared.helper.agent.call(calls::StageRoom::default()).await;
                let room = room.context(|| "look how much room there is for a stage".to_owned())?;
                // A backup shares nothing with the files that it is a copy of.
                Some(StageRoom { reflink: room.reflink && prepared.online.is_none(), ..room })
            }
            None => None,
        };
        let (plan, survey) = (&mut prepared.plan, &prepared.survey);
        let stage = room.as_ref().map(|room| StageOutlook {
            room,
            disk_bytes: survey.disk_bytes,
            entries: survey.entries,
            repository_needs: plan.needed_bytes,
            repository_free: plan.free_bytes,
        });
        let choice = if prepared.online.is_some() { CaptureChoice::Staged } else { self.options.capture };
        let mut chosen = plan::choose(choice, prepared.estimate, stage);
        if chosen.no_room && choice == CaptureChoice::Staged {
            let instead = match prepared.online.is_some() {
                true => self.stopping(),
                false => self.unstaged(),
            };
            return Err(Error::failed(chosen.reason).hint(instead));
        }
        if prepared.online.is_some() {
            "the database's own backup is archived".clone_into(&mut chosen.reason);
        }
        let trusts_times = room.as_ref().is_some_and(|room| room.trusts_times);
        plan.expected_downtime_ms = match chosen.capture {
            _ if prepared.hold.is_empty() => 0,
            Capture::Direct => prepared.estimate.direct_ms(),
            Capture::Staged => prepared.estimate.staged_ms(trusts_times),
        };
        prepared.hold.expected = Duration::from_millis(plan.expected_downtime_ms);
        plan.capture = chosen.capture;
        plan.capture_reason = chosen.reason;
        if let (Capture::Staged, Some(stage)) = (chosen.capture, &stage) {
            plan.stage = prepared.stage.as_ref().map(StageVolume::name);
            plan.stage_needed_bytes = Some(stage.needed_bytes());
            plan.stage_free_bytes = Some(stage.room.free_bytes);
        }
        if chosen.no_room {
            self.warn_of_direct(plan);
        }
        if self.options.keep_stage && chosen.capture == Capture::Direct {
            self.run
                .monitor()
                .warning("nothing is staged, so no stage is kept (--capture staged stages always)");
        }
        Ok(())
    }

    async fn estimate(&self, source: &Source, survey: &Survey) -> DowntimeEstimate {
        let measured = match self.repository.repository() {
            Some(repository) => measured_rate(repository, &source.key).await,
            None => None,
        };
        DowntimeEstimate { quiesce: self.options.quiesce, raw_bytes: survey.held_bytes, measured }
    }

    /// Says what it means that there is no stage although one was wanted.
    pub(super) fn warn_of_direct(&self, plan: &Plan) {
        self.run.monitor().warning(format!(
            "{}; so the archive is written while the service is held, for about {:.1} s",
            plan.capture_reason,
            Duration::from_millis(plan.expected_downtime_ms).as_secs_f64()
        ));
    }

    pub(super) fn warn_of_downtime(&self, plan: &Plan) {
        let expected = Duration::from_millis(plan.expected_downtime_ms);
        if let Some(limit) = self.max_downtime().filter(|limit| *limit < expected) {
            self.run.monitor().warning(format!(
                "the service is expected to be away for {:.1} s, and --max-downtime gives up after {:.1} s",
                expected.as_secs_f64(),
                limit.as_secs_f64()
            ));
        }
    }

    /// Returns the snapshot that stops instead.
    pub(super) fn stopping(&self) -> Hint {
        self.instead(&["--quiesce=", "--max-rate="], ["--quiesce", "stop"])
    }

    /// Returns the snapshot that needs no stage.
    pub(super) fn unstaged(&self) -> Hint {
        self.instead(&["--capture=", "--keep-stage"], ["--capture", "direct"])
    }

    /// Refuses what cannot be stopped and brought back as it was, and what is not ours to capture.
    pub(super) async fn refuse_what_cannot_be_held(&self, source: &Source) -> Result<()> {
        if let Some(other) = source.held_by.as_ref().filter(|other| other.run != self.run.id.as_str()) {
            return Err(busy(source, &other.container));
        }
        if self.options.quiesce == Quiesce::None {
            return match source.databases().find(|container| container.state.running) {
                Some(container) => Err(Error::usage(format!(
                    "container {} is a running database: copied while it writes, its files fit together only by luck",
                    container.name
                ))
                .hint(self.stopping())),
                None => Ok(()),
            };
        }
        let purpose = match self.options.quiesce {
            Quiesce::Stop => Some(Purpose::Snapshot),
            Quiesce::Pause => self.max_downtime().map(Purpose::Freeze),
            Quiesce::Native | Quiesce::None => None,
        };
        if let Some(purpose) = purpose {
            self.run.context.refuse_orchestrated(source, purpose).await?;
        }
        let hold = self.hold_plan(source);
        if hold.freezes() {
            return hold.containers.iter().try_for_each(refuse_what_cannot_be_frozen);
        }
        hold.containers.iter().try_for_each(refuse_what_cannot_be_stopped)
    }

    fn refuse_repository_inside(&self, source: &Source, engine: &EngineInfo) -> Result<()> {
        let Some(repository) = self.repository.address().local_path() else { return Ok(()) };
        let source_path = source.host_path.canonicalize().unwrap_or_else(|_| source.host_path.clone());
        let repository_path = repository
            .ancestors()
            .find_map(|existing| {
                Some(existing.canonicalize().ok()?.join(repository.strip_prefix(existing).ok()?))
            })
            .unwrap_or_else(|| repository.to_owned());
        let on_host = self.run.context.host_path(engine, &repository_path);
        if on_host.is_some_and(|repository| repository.starts_with(&source_path)) {
            return Err(Error::usage(format!(
                "the repository {} lies inside the source {}: it would be lost with what it is to save",
                repository.display(),
                source_path.display()
            ))
            .hint(Hint::instead(&["--repo="], ["--repo", "DIR"])));
        }
        Ok(())
    }

    /// Returns the containers that will be held. What somebody has already frozen stays frozen.
    pub(super) fn hold_plan(&self, source: &Source) -> HoldPlan {
        let base = HoldPlan {
            location: Some(source.location.clone()),
            stop_timeout: self.options.stop_timeout,
            max_downtime: self.max_downtime(),
            kills: self.options.kills.clone(),
            ..HoldPlan::default()
        };
        match self.options.quiesce {
            Quiesce::Native | Quiesce::None => base,
            Quiesce::Stop => {
                let stops: Vec<_> =
                    source.users.iter().filter(|user| user.is_to_be_held()).cloned().collect();
                let containers = order::stop_order(&stops).into_iter().cloned().collect();
                HoldPlan { containers, ..base }
            }
            Quiesce::Pause => {
                let is_running = |user: &&User| {
                    user.writes && user.container.state.running && !user.container.state.paused
                };
                let containers =
                    source.users.iter().filter(is_running).map(|user| user.container.clone()).collect();
                HoldPlan { method: HoldMethod::Freeze, containers, ..base }
            }
        }
    }

    /// Says which configuration is no part of the data.
    async fn name_configuration(&self, source: &Source, environment: &Environment) {
        for container in source.databases() {
            let named = if source.database().is_some_and(|database| database.id == container.id) {
                environment.configuration.clone()
            } else {
                apart::configuration_of(&*self.run.context.docker, container, None).await
            };
            if let Some(said) = apart::of_snapshot(container, source.seen_at(container).as_deref(), &named) {
                self.run.monitor().note(said);
            }
        }
    }

    /// Says who is frozen because they cannot stop by themselves.
    fn warn_of_the_deaf(&self, hold: &HoldPlan) {
        for container in &hold.frozen_too {
            let name = &container.name;
            let notice = Notice::from(format!(
                "container {name} cannot stop by itself (its first process does nothing at its stop signal), so it is \
                 frozen for the time that the others are stopped"
            ));
            // What it has not written by then is not proved, however clean the others are.
            let accept = (!self.options.allow_crash_consistent).then_some("--allow-crash-consistent");
            let kill = Hint::again(["--kill", name.as_str()].into_iter().chain(accept))
                .why("stops it instead, by killing it once its time is over; the snapshot is marked as such");
            self.run.monitor().warning(notice.hint(kill));
        }
    }

    /// Returns who does not answer, and is stopped all the same: a database that the engine starts again and again, if
    /// data without a proof is wanted.
    pub(super) async fn mute(&self, source: &Source) -> Result<Vec<String>> {
        let Err(error) = self.refuse_unready(source).await else { return Ok(Vec::new()) };
        let accepted = self.options.allow_crash_consistent && self.options.quiesce == Quiesce::Stop;
        match source.database().filter(|container| accepted && is_restarted(container)) {
            Some(container) => {
                self.run.monitor().warning(format!("does not answer as it is: {}", error.chain()));
                Ok(vec![container.id.clone()])
            }
            None => Err(error),
        }
    }

    /// Refuses a database that does not answer: one that is still in its entrypoint would ignore the signal.
    pub(super) async fn refuse_unready(&self, source: &Source) -> Result<()> {
        for container in source.databases().filter(|container| container.state.running) {
            if self.options.quiesce == Quiesce::None || container.state.paused {
                continue;
            }
            let deadline = Instant::now() + READY_LIMIT;
            await_ready(&*self.run.context.docker, container, deadline, self.run.monitor()).await.map_err(
                |error| {
                    let what =
                        format!("container {} is not ready to be {}", container.name, self.held_word());
                    let error = Error::failed(what).with_source(error).hint(Hint::logs(&container.name));
                    if !is_restarted(container) || self.options.quiesce != Quiesce::Stop {
                        return error;
                    }
                    let anyway = self.instead(&[], ["--allow-crash-consistent"]);
                    error.or(anyway.why("saves the data as it is, if it cannot come up any more"))
                },
            )?;
        }
        Ok(())
    }

    /// Finds the database in the source: where its container's configuration says, checked against the files that are
    /// there.
    fn find_database(&self, source: &Source, survey: &Survey) -> Result<Option<DatabaseFiles>> {
        if survey.entries == 0 && self.writes_when_it_stops(source) {
            self.run.monitor().warning(format!(
                "{} is empty as yet: what uses it keeps its data in memory, and writes it when it stops",
                source.title
            ));
        } else if survey.entries == 0 {
            return Err(Error::failed(format!("{} is empty: there is nothing to save", source.title)).hint(
                Hint::docker(["volume", "ls"])
                    .why("is it the one you mean? Compose puts the project's name before it"),
            ));
        }
        let (Some(container), Some(data_directory)) = (source.database(), &source.data_directory) else {
            let is_whole = !source.servers.is_empty();
            return if is_whole { Ok(None) } else { only_database(source, survey) };
        };
        let Some(database) = database::of(container) else { return only_database(source, survey) };
        let mounted_at = source.seen_at(container);
        let Some(files) = DatabaseFiles::at(database, data_directory.clone(), mounted_at) else {
            return Ok(None);
        };
        let found =
            |found: &FoundDatabase| found.data_directory == *data_directory && found.engine == files.engine;
        if !survey.databases.iter().any(found) {
            return Err(Error::failed(format!(
                "{} has no {} data where container {} keeps it ({})",
                source.title,
                files.engine,
                container.name,
                at(data_directory)
            ))
            .hint(Hint::mounts(&container.name)));
        }
        Ok(Some(files))
    }

    /// Returns whether the data may come with the stop.
    fn writes_when_it_stops(&self, source: &Source) -> bool {
        let is_one = |user: &User| stores::of(&user.container).is_some_and(|store| store.keeps_in_memory);
        self.options.quiesce == Quiesce::Stop && source.running_users().any(is_one)
    }

    /// Returns what is known before it is decided who is held and how bytes are taken.
    async fn plan(&self, source: &Source, database: Option<&Inspection>, survey: &Survey) -> Plan {
        let stopped = source.users.iter().map(|user| &user.container).filter(|user| !user.state.running);
        Plan {
            id: self.run.id.to_string(),
            source: source.key.clone(),
            title: source.title.clone(),
            host_path: source.host_path.clone(),
            database: database.map(|inspection| format!("{} {}", inspection.engine, inspection.version)),
            data_directory: database.map(|database| database.data_directory.clone()),
            quiesce: self.options.quiesce,
            capture: Capture::Direct,
            capture_reason: String::new(),
            stage: None,
            stage_needed_bytes: None,
            stage_free_bytes: None,
            codec: self.options.codec,
            stops: Vec::new(),
            freezes: Vec::new(),
            starts: Vec::new(),
            down_after_reboot: Vec::new(),
            own_commands: Vec::new(),
            stay_stopped: stopped.map(|container| container.name.clone()).collect(),
            onlookers: source.onlookers.clone(),
            entries: survey.entries,
            raw_bytes: survey.bytes,
            needed_bytes: plan::worst_case_bytes(survey.held_bytes, survey.entries),
            free_bytes: self.repository.free_space().await,
            expected_downtime_ms: 0,
            archive: self.repository.archive_path(&source.key, &self.run.id, self.options.codec),
        }
    }
}

/// Finds the container of a database that was found by its files alone: one that does not run says nothing, and an
/// entrypoint may have any name.
fn known_by_its_files(mut source: Source, files: Option<&DatabaseFiles>) -> Source {
    let Some(files) = files.filter(|_| source.database_container.is_none()) else { return source };
    let server = database::named(files.engine).and_then(Database::server);
    let may_have_run = |user: &&User| {
        user.writes
            && !user.as_sharer
            // What was looked into, and runs none, is no server.
            && user.container.processes.is_empty()
            && server.is_some_and(|server| server.may_have_run_in(&user.container))
    };
    let mut found = source.users.iter().filter(may_have_run).map(|user| user.container.id.clone());
    if let (Some(only), None) = (found.next(), found.next()) {
        drop(found);
        source.database_container = Some(only);
        source.data_directory = Some(files.data_directory.clone());
    }
    source
}

/// Returns the files of a source over which its databases have others mounted.
fn covered(source: &Source) -> Vec<PathBuf> {
    let covered = |container| apart::covered(container, source.seen_at(container).as_deref());
    source.databases().flat_map(covered).collect()
}

/// Returns the files of the servers in a source that has several.
fn servers(source: &Source, survey: &Survey) -> Vec<DatabaseFiles> {
    let found = survey.databases.iter().filter(|_| !source.servers.is_empty());
    let files = found.filter_map(|found| {
        DatabaseFiles::at(database::named(&found.engine)?, found.data_directory.clone(), None)
    });
    files.collect()
}

/// Returns the database of a source that no container uses, if there is exactly one.
fn only_database(source: &Source, survey: &Survey) -> Result<Option<DatabaseFiles>> {
    match survey.databases.as_slice() {
        [] => Ok(None),
        [found] => Ok(database::named(&found.engine)
            .and_then(|database| DatabaseFiles::at(database, found.data_directory.clone(), None))),
        several => {
            let places: Vec<_> = several.iter().map(|found| at(&found.data_directory)).collect();
            Err(Error::failed(format!(
                "{} holds several databases ({}), and no container says which one is meant",
                source.title,
                places.join(", ")
            ))
            .hint(Hint::volsnap(["snapshot", "path:DIR"]).why("the directory of one of them")))
        }
    }
}

/// Refuses a path that is a file: the engine's own message would be about the helper's insides.
fn refuse_file(source: &Source, engine: &EngineInfo) -> Result<()> {
    let path = &source.host_path;
    let is_file = || path.metadata().is_ok_and(|metadata| !metadata.is_dir());
    match (&source.location, path.parent()) {
        (MountSource::Directory(_), Some(parent)) if engine.local && is_file() => {
            let target = Target::Directory(parent.to_owned());
            Err(Error::usage(format!("{} is not a directory", path.display()))
                .hint(Hint::volsnap(["snapshot", &target.spelling()]).why("the directory it is in")))
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
    .hint(Hint::advice(
        "move it into the data directory's volume; volsnap captures one volume or directory at a time",
    )))
}

fn refuse_without_space(plan: &Plan, repository: &StoreAddress) -> Result<()> {
    match plan.free_bytes {
        Some(free) if free < plan.needed_bytes => Err(Error::failed(format!(
            "the repository {repository} has {} free, and the snapshot may need {}",
            size(free),
            size(plan.needed_bytes)
        ))
        .hint(Hint::instead(&["--repo="], ["--repo", "DIR"]).why("a larger disk"))
        .or(Hint::advice("remove what is not needed"))),
        _ => Ok(()),
    }
}

/// Refuses an archive that would not fit where it waits until the service is back: that would be noticed while the
/// service is away.
fn refuse_without_spool(plan: &Plan, spool: &Spool) -> Result<()> {
    match spool.free_space() {
        Some(free) if free < plan.needed_bytes => Err(Error::failed(format!(
            "the archive waits in {} until the service is back, where {} MB are free, and it may need {} MB",
            spool.directory().display(),
            free / 1_000_000,
            plan.needed_bytes / 1_000_000
        ))
        .state("nothing was stopped")
        .hint(
            Hint::shell("export VOLSNAP_STATE_DIR=DIR")
                .why("a larger disk; `volsnap recover` has to be told the same"),
        )),
        _ => Ok(()),
    }
}

fn at(directory: &Path) -> String {
    if directory.as_os_str().is_empty() { "the root".to_owned() } else { directory.display().to_string() }
}

/// Returns how fast the last snapshot of this source was archived: bytes, and the milliseconds they took.
async fn measured_rate(repository: &Repository, source_key: &str) -> Option<(u64, u64)> {
    let listing = repository.glance(Some(source_key)).await.ok()?;
    let phases = &listing.snapshots.last()?.manifest.phases;
    phases.iter().find(|time| time.phase == Phase::Archive).map(|time| (time.bytes, time.ms))
}

impl Prepared {
    /// Records who will be held.
    pub(super) fn take_users(&mut self, context: &Context, hold: HoldPlan) {
        self.plan.stops = hold.stops();
        self.plan.starts = hold.starts();
        self.plan.freezes = hold.frozen();
        let stopped = hold.containers.iter().filter(|_| !hold.freezes());
        self.plan.down_after_reboot = context.left_down(stopped);
        self.plan.own_commands = hold.own_commands();
        self.hold = HoldPlan { expected: self.hold.expected, ..hold };
    }
}
