//! Before anything is touched: the archive is read to its end, the target looked at, and what does not fit refused;
//! then, once somebody has said yes, what must still be made is made.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use tokio::time::{Duration, Instant};

use super::archive::ArchiveSummary;
use super::checks::{self, Facts};
use super::plan::{self, Level, RestorePlan};
use super::{Destination, RestoreRun, SnapshotSlot};
use crate::agent::calls;
use crate::agent::client::AgentClient;
use crate::agent::protocol::{FoundDatabase, Room, Survey};
use crate::agent::swap::PREFIX;
use crate::database;
use crate::database::fresh::made;
use crate::engine::helper::Access;
use crate::model::container::{Container, EngineInfo};
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;
use crate::model::orchestrator::Orchestrator;
use crate::model::plural::size;
use crate::model::source::{Source, User};
use crate::ops::apart;
use crate::ops::evidence::DatabaseFiles;
use crate::ops::helper::{StartedHelper, busy, refuse_elsewhere, start_helper};
use crate::ops::hold::{HoldPlan, SETTLES};
use crate::ops::libc_version::libc_of;
use crate::ops::orchestrated::Purpose;
use crate::ops::outside::refuse_own_repository;
use crate::ops::plan::worst_case_bytes;
use crate::ops::preconditions::{refuse_podman, refuse_too_deep, refuse_what_cannot_be_stopped};
use crate::ops::trust::Trust;
use crate::saga::{UndoId, When};
use crate::service::order;
use crate::service::ready::await_ready;
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::swap::HelperTarget;

/// How long a database may take to answer; one that takes longer counts as not answering.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Everything that is known and checked before anything is touched.
pub(super) struct Preparation {
    pub(super) plan: RestorePlan,
    engine: EngineInfo,
    known: ArchiveSummary,
    source: Source,
    users: Users,
    database: Option<DatabaseFiles>,
    /// What the server that uses the target says of itself.
    server: ServerProbe,
    /// The helper beside a source that exists already.
    beside: Option<ExistingData>,
}

/// What a running server says of itself.
#[derive(Debug, Clone, Default)]
struct ServerProbe {
    /// Its C library.
    libc: Option<String>,
    /// The owner of its first process.
    owner: Option<(u32, u32)>,
}

/// The users that are stopped.
pub(super) struct Users {
    /// In the order in which they are stopped.
    pub(super) stops: Vec<Container>,
    /// The ids of those that do not answer even before the stop.
    pub(super) mute: Vec<String>,
    /// What their owners want to be run in them, for the plan.
    pub(super) own_commands: Vec<String>,
    /// The names of those whose entrypoint may still be walking through the data.
    pub(super) unsettled: Vec<String>,
}

/// What is there already, and the helper that sees it.
pub(super) struct ExistingData {
    helper: StartedHelper,
    room: Room,
    pub(super) survey: Survey,
    /// What the files of the database that is there say.
    pub(super) present: Option<Inspection>,
    /// Who owns the directory of that database, whoever owns the root.
    owner: Option<(u32, u32)>,
}

impl ExistingData {
    /// Returns when the cluster that is there was made, if that is known.
    fn made(&self) -> Option<DateTime<Utc>> {
        let present = self.present.as_ref()?;
        made(&present.engine, present.identifier.as_deref()?)
    }
}

/// What a plan is made from, whatever is restored, and wherever.
#[derive(Clone, Copy)]
struct PlanInputs<'a> {
    source: &'a Source,
    known: &'a ArchiveSummary,
    users: &'a Users,
    engine: &'a EngineInfo,
}

/// Everything that a restore works with, once it may.
pub(super) struct Prepared {
    pub(super) plan: RestorePlan,
    pub(super) engine: EngineInfo,
    pub(super) known: ArchiveSummary,
    pub(super) source: Source,
    pub(super) users: Users,
    pub(super) database: Option<DatabaseFiles>,
    pub(super) agent: AgentClient,
    pub(super) place: HelperTarget,
    /// Whether the data that is there is worth keeping.
    pub(super) keeps: bool,
    /// Whether it looks like that of a store.
    pub(super) is_store: bool,
    /// What the files of the database that is there say.
    pub(super) present: Option<Inspection>,
    /// The C library of the server that runs on it.
    pub(super) libc: Option<String>,
    /// The replication slots that were left out.
    pub(super) slots_left_out: Vec<SnapshotSlot>,
    /// What removes the work directory.
    pub(super) work: Option<UndoId>,
    pub(super) helper: UndoId,
}

impl Prepared {
    /// Returns the files without which there is no database, relative to the root, the last one last.
    pub(super) fn marker_files(&self) -> Vec<PathBuf> {
        let database = self.database.as_ref();
        database.map(DatabaseFiles::marker_files).unwrap_or_default()
    }
}

impl RestoreRun<'_> {
    pub(super) async fn prepare(&self, saga: &mut Saga) -> Result<Preparation> {
        self.run.phase(Phase::Prepare, self.options.archive.name(), None);
        self.run.context.refuse_unknown_names(&self.options.kills).await?;
        // Where something is made for the data, nobody is stopped.
        if self.makes() {
            self.run.watch_alone(saga).await?;
        } else {
            self.run.watch(saga).await?;
        }
        let engine =
            self.run.context.docker.engine().await.context(|| "ask the engine what it is".to_owned())?;
        let source = self.destination(&engine).await?;
        self.run.refuse_ourselves(&source)?;
        self.run.refuse_unfinished(&source)?;
        if self.options.safety && !self.makes() {
            refuse_own_repository(&self.run.context, &self.repository)?;
            Trust::of(&self.run.context)?.check_place(&self.repository)?;
        }
        self.refuse_archive_inside(&source, &engine)?;
        if !source.users.is_empty() {
            let restore = || Hint::volsnap(["restore", &self.options.archive.name()]);
            refuse_podman(&engine, &source, || {
                vec![restore().and(["--new-volume", "NAME"]), restore().and(["--dir", "DIR"])]
            })?;
        }
        let known = self.look(&source).await?;
        let users = self.users(&source).await?;
        let database = self.database(&source, &known)?;
        self.run.phase(Phase::Prepare, source.title.clone(), None);
        let beside = match self.makes() {
            true => None,
            false => Some(
                self.look_beside(saga, &source, &known, database.as_ref(), (&engine, &users.stops)).await?,
            ),
        };
        let server = self.server(&source).await;
        let fresh = self.fresh(&source, beside.as_ref()).await;
        let facts = self.facts(&source, &known, beside.as_ref(), &server, &engine);
        let facts = Facts { present_is_fresh: fresh.is_some(), ..facts };
        let inputs = PlanInputs { source: &source, known: &known, users: &users, engine: &engine };
        let mut plan = self.plan(inputs, database.as_ref(), beside.as_ref(), &facts).await?;
        plan.fresh = fresh;
        Ok(Preparation { plan, engine, known, source, users, database, server, beside })
    }

    /// Returns whether the destination must still be made.
    fn makes(&self) -> bool {
        match &self.options.destination {
            Destination::NewVolume(_) => true,
            Destination::Directory(path) => !path.exists(),
            Destination::Origin | Destination::Target(_) => false,
        }
    }

    async fn look(&self, source: &Source) -> Result<ArchiveSummary> {
        let (archive, monitor) = (self.options.archive.clone(), self.run.context.monitor.clone());
        let container = source.database().map(|container| container.name.clone());
        self.run.monitor().step("look");
        tokio::task::spawn_blocking(move || archive.look(container.as_deref(), &*monitor))
            .await
            .context(|| "read the archive".to_owned())?
    }

    /// Reads every stored byte and proves that it is what was stored.
    pub(super) async fn verify(&self) -> Result<()> {
        let (archive, monitor) = (self.options.archive.clone(), self.run.context.monitor.clone());
        self.run.monitor().step("verify");
        tokio::task::spawn_blocking(move || archive.verify(&*monitor))
            .await
            .context(|| "read the archive".to_owned())?
    }

    /// Returns the users to stop: all that run, even those that only read, since what they have open is replaced.
    async fn users(&self, source: &Source) -> Result<Users> {
        if let Some(other) = &source.held_by {
            return Err(busy(source, &other.container));
        }
        // What only passes by is stopped if it can be, so that it sees the new data, and is never in the way.
        let passes = |user: &User| {
            let container = &user.container;
            user.is_passer_by()
                && (Orchestrator::of(container).is_some()
                    || refuse_what_cannot_be_stopped(container).is_err())
        };
        let running: Vec<_> = source
            .users
            .iter()
            .filter(|user| user.container.state.running && !passes(user))
            .cloned()
            .collect();
        let stops: Vec<Container> = order::stop_order(&running).into_iter().cloned().collect();
        self.run.context.refuse_orchestrated(source, Purpose::Restore).await?;
        self.run.context.refuse_in_memory(source, Purpose::Restore).await?;
        stops.iter().try_for_each(refuse_what_cannot_be_stopped)?;
        let kills = self.options.kills.clone();
        let hold = HoldPlan { containers: stops.clone(), kills, ..HoldPlan::default() };
        let hold = hold.look(&self.run.context).await?;
        hold.refuse_the_deaf()?;
        hold.warn_of_the_unhealthy(self.run.monitor());
        let mut mute = Vec::new();
        for container in &stops {
            let deadline = Instant::now() + ANSWER_LIMIT;
            let answers =
                await_ready(&*self.run.context.docker, container, deadline, self.run.monitor()).await;
            if let Err(error) = answers {
                self.run.monitor().warning(format!("does not answer as it is: {error}"));
                mute.push(container.id.clone());
            }
        }
        let now = self.run.context.clock.now();
        let unsettled = stops.iter().filter(|container| {
            let is_seen = database::of(container).is_some() || hold.shows_server(container);
            let can_walk = !is_seen || mute.contains(&container.id);
            can_walk && !container.state.has_run_for(SETTLES, now)
        });
        let unsettled = unsettled.map(|container| container.name.clone()).collect();
        Ok(Users { own_commands: hold.own_commands(), stops, mute, unsettled })
    }

    /// Returns the database in the archive, and where its server will look for it.
    fn database(&self, source: &Source, known: &ArchiveSummary) -> Result<Option<DatabaseFiles>> {
        let Some((engine, found)) = &known.database else { return Ok(None) };
        let archived = database::named(engine).ok_or_else(|| {
            Error::failed(format!("this volsnap does not know {engine}"))
                .hint(Hint::advice("restore it with the volsnap that took it, or a later one"))
        })?;
        let container = source.database();
        let plain = self.options.archive.snapshot().is_none();
        let data_directory = match &source.data_directory {
            Some(directory) if container.is_some() => directory.clone(),
            // A foreign archive has its own names above the data.
            _ if plain => PathBuf::new(),
            _ => found.clone(),
        };
        // If nothing is mounted yet, it will be where it was.
        let snapshot = self.options.archive.snapshot();
        let recorded = || snapshot.and_then(|snapshot| snapshot.manifest.mounted_at());
        let mounted_at = match container {
            Some(container) => source.seen_at(container),
            None => recorded(),
        };
        Ok(DatabaseFiles::at(archived, data_directory, mounted_at))
    }

    async fn look_beside(
        &self,
        saga: &mut Saga,
        source: &Source,
        known: &ArchiveSummary,
        database: Option<&DatabaseFiles>,
        engine_and_stops: (&EngineInfo, &[Container]),
    ) -> Result<ExistingData> {
        let mut helper = self.start_helper(saga, source, known, engine_and_stops).await?;
        let room = helper.agent.call(calls::Room {}).await.context(|| format!("look at {}", source.title))?;
        let survey = helper
            .agent
            .call(calls::Survey { exclude: vec![format!("{PREFIX}*")], ..Default::default() })
            .await
            .context(|| format!("survey {}", source.title))?;
        let here = database.and_then(|database| {
            let is_it = |found: &&FoundDatabase| {
                found.data_directory == database.data_directory && found.engine == database.engine
            };
            Some((database, survey.databases.iter().find(is_it)?.owner))
        });
        let (present, owner) = match here {
            // What is there may be damaged, which may be why it is replaced.
            Some((database, owner)) => {
                (database.inspect_tree(&mut helper.agent, Path::new("")).await.ok(), Some(owner))
            }
            None => (None, None),
        };
        Ok(ExistingData { helper, room, survey, present, owner })
    }

    async fn start_helper(
        &self,
        saga: &mut Saga,
        source: &Source,
        known: &ArchiveSummary,
        (engine, holds): (&EngineInfo, &[Container]),
    ) -> Result<StartedHelper> {
        let access = if known.has_devices { Access::ReplaceWithDevices } else { Access::Replace };
        let image = (engine, self.options.helper_image.as_deref());
        start_helper(&self.run.context, saga, self.run.id.as_str(), source, (access, None), image, holds)
            .await
    }

    /// Asks the server that uses the target, if it runs, what only it can tell. What it does not tell is not compared.
    async fn server(&self, source: &Source) -> ServerProbe {
        let Some(container) = source.database().filter(|container| container.state.running) else {
            return ServerProbe::default();
        };
        let command = ["stat", "-c", "%u:%g", "/proc/1"].map(str::to_owned);
        let said = self.run.context.docker.exec(&container.id, &command, ANSWER_LIMIT).await.ok();
        let said = said.and_then(|said| String::from_utf8(said.stdout).ok());
        let owner = said.as_deref().and_then(|said| {
            let (user, group) = said.trim().split_once(':')?;
            Some((user.parse().ok()?, group.parse().ok()?))
        });
        ServerProbe { libc: libc_of(&*self.run.context.docker, container).await, owner }
    }

    fn facts(
        &self,
        source: &Source,
        known: &ArchiveSummary,
        beside: Option<&ExistingData>,
        running: &ServerProbe,
        engine: &EngineInfo,
    ) -> Facts {
        let manifest = self.options.archive.snapshot().map(|snapshot| &snapshot.manifest);
        let inspection = manifest.and_then(|manifest| manifest.evidence.database.as_ref());
        let environment = manifest.map(|manifest| &manifest.environment);
        let image = environment
            .and_then(|environment| Some((environment.image.clone()?, environment.image_id.clone()?)));
        let server = source.database().and_then(super::checks::server_version);
        let version = |inspection: &Inspection| (inspection.engine.clone(), inspection.version.clone());
        Facts {
            database: inspection.map(version),
            identifier: inspection.and_then(|inspection| inspection.identifier.clone()),
            arch: environment.map(|environment| environment.arch.clone()).filter(|arch| !arch.is_empty()),
            image,
            libc: environment.and_then(|environment| environment.libc.clone()),
            server_libc: running.libc.clone(),
            running_owner: running.owner,
            owner: self.options.owner.or(known.owner),
            server: server.filter(|_| inspection.is_some() || known.database.is_none()),
            server_image: source
                .database()
                .map(|container| (container.image.clone(), container.image_id.clone())),
            server_user: source
                .database()
                .and_then(|container| container.user.split(':').next()?.parse().ok()),
            present_identifier: beside
                .and_then(|beside| beside.present.as_ref())
                .and_then(|present| present.identifier.clone()),
            present_is_fresh: false,
            present_made: beside.and_then(ExistingData::made),
            present_owner: beside.and_then(|beside| beside.owner),
            engine_arch: engine.arch.clone(),
        }
    }

    async fn plan(
        &self,
        PlanInputs { source, known, users, engine }: PlanInputs<'_>,
        database: Option<&DatabaseFiles>,
        beside: Option<&ExistingData>,
        facts: &Facts,
    ) -> Result<RestorePlan> {
        let mut warnings = source.warnings.clone();
        warnings.extend(checks::check(facts, self.options.force)?);
        let room = beside.map(|beside| &beside.room);
        refuse_mounts(source, room)?;
        warnings.extend(room.iter().flat_map(|room| &room.leftovers).map(|name| {
            format!("{name} lies in {}: what an earlier restore has left; it stays as it is", source.title)
        }));
        if !users.unsettled.is_empty() {
            warnings.push(format!(
                "{} has just been started, or is started again and again: it is stopped before the archive is \
                 unpacked, so it is away for longer",
                users.unsettled.join(", ")
            ));
        }
        warnings.extend(self.followers(source).await);
        warnings.extend(self.not_brought_back());
        let keeps = self.keeps(beside);
        let names = |containers: &mut dyn Iterator<Item = &Container>| -> Vec<String> {
            containers.map(|container| container.name.clone()).collect()
        };
        let found = known.database.as_ref().map(|(_, found)| found.clone()).unwrap_or_default();
        let mut plan = RestorePlan {
            id: self.run.id.to_string(),
            archive: self.options.archive.name(),
            of: self
                .options
                .archive
                .snapshot()
                .map_or_else(|| self.options.archive.name(), |snapshot| snapshot.manifest.title.clone()),
            database: self.database_in_words(known),
            into: source.title.clone(),
            host_path: source.host_path.clone(),
            makes: beside.is_none(),
            stops: names(&mut users.stops.iter()),
            starts: names(&mut users.stops.iter().rev()),
            down_after_reboot: self.run.context.left_down(&users.stops),
            own_commands: users.own_commands.clone(),
            stay_stopped: names(
                &mut source
                    .users
                    .iter()
                    .map(|user| &user.container)
                    .filter(|container| !container.state.running),
            ),
            onlookers: source.onlookers.clone(),
            members: known.members,
            bytes: known.bytes,
            needed_bytes: plan::needed_bytes(known.stored, known.members),
            free_bytes: room.map(|room| room.free_bytes),
            replaces_entries: beside.map_or(0, |beside| beside.survey.entries),
            replaces_bytes: beside.map_or(0, |beside| beside.survey.bytes),
            safety_needs_bytes: beside
                .map_or(0, |beside| worst_case_bytes(beside.survey.held_bytes, beside.survey.entries)),
            in_place: false,
            slots: self.slots(source),
            leaves_out_slots: self.leaves_out_slots(),
            fresh: None,
            safety: keeps.then(|| format!("{}/{}", source.key, self.run.id)),
            level: database
                .map_or_else(Level::default, |database| Level::between(&found, &database.data_directory)),
            warnings,
        };
        if let Err(no_room) = checks::refuse_without_room(&plan, room.and_then(|room| room.free_names)) {
            let disk_bytes = beside.map_or(0, |beside| beside.survey.disk_bytes);
            plan.in_place = self.fits_in_place(&plan, disk_bytes, source, engine);
            if !plan.in_place {
                return Err(no_room);
            }
        }
        if keeps {
            beside.map_or(Ok(()), |beside| refuse_too_deep(&beside.survey, source))?;
            self.refuse_without_room_for_safety(&plan).await?;
        }
        Ok(plan)
    }

    /// Returns what the database had that the snapshot does not bring back.
    fn not_brought_back(&self) -> Vec<String> {
        let snapshot = self.options.archive.snapshot();
        let Some(manifest) = snapshot.map(|snapshot| &snapshot.manifest) else { return Vec::new() };
        let elsewhere =
            matches!(self.options.destination, Destination::NewVolume(_) | Destination::Directory(_));
        let configuration = elsewhere.then(|| apart::of_restore(manifest)).flatten();
        let facts = manifest.facts.as_ref().map(|facts| &facts.seen);
        configuration.into_iter().chain(apart::emptied(facts, manifest.consistency)).collect()
    }

    /// Returns whether there is room once the data that is there is removed, after it is kept elsewhere.
    fn fits_in_place(
        &self,
        plan: &RestorePlan,
        disk_bytes: u64,
        source: &Source,
        engine: &EngineInfo,
    ) -> bool {
        // Old data that lies elsewhere alone would come back over a network, with the service away.
        if plan.safety.is_none() || !self.repository.is_local() {
            return false;
        }
        let device =
            |path: &Path| path.ancestors().find_map(|path| path.metadata().ok()).map(|found| found.dev());
        // On the same disk as the data, the safety snapshot takes part of that room.
        // In a container it is not known.
        let shared = self.run.context.own.is_some()
            || engine.local
                && self
                    .repository
                    .address()
                    .local_path()
                    .is_some_and(|path| device(&source.host_path) == device(path));
        let kept = if shared { plan.safety_needs_bytes } else { 0 };
        let free = plan.free_bytes.unwrap_or(0);
        free.saturating_add(disk_bytes) >= plan.needed_bytes.saturating_add(kept)
    }

    /// Returns whether there is data to keep as a safety snapshot.
    pub(super) fn keeps(&self, beside: Option<&ExistingData>) -> bool {
        self.options.safety && beside.is_some_and(|beside| !beside.room.is_empty)
    }

    fn database_in_words(&self, known: &ArchiveSummary) -> Option<String> {
        let version = self
            .options
            .archive
            .snapshot()
            .and_then(|snapshot| snapshot.manifest.evidence.database.as_ref())
            .map(|inspection| format!(" {}", inspection.version));
        let (engine, _) = known.database.as_ref()?;
        Some(format!("{engine}{}", version.unwrap_or_default()))
    }

    async fn refuse_without_room_for_safety(&self, plan: &RestorePlan) -> Result<()> {
        let needed = plan.safety_needs_bytes;
        match self.repository.free_space().await {
            Some(free) if free < needed => Err(Error::failed(format!(
                "the repository {} has {} free, and the safety snapshot of what is replaced may need {}",
                self.repository.address(),
                size(free),
                size(needed)
            ))
            .hint(Hint::instead(&["--repo="], ["--repo", "DIR"]).why("another disk"))
            .or(Hint::again(["--no-safety"]).why("what is replaced is then gone"))),
            _ => Ok(()),
        }
    }

    /// Makes what must still be made, and starts a helper beside it.
    pub(super) async fn make_ready(&self, saga: &mut Saga, prepared: Preparation) -> Result<Prepared> {
        let Preparation { plan, engine, known, mut source, users, database, server, beside } = prepared;
        let keeps = self.keeps(beside.as_ref());
        let is_store = beside.as_ref().is_some_and(|beside| !beside.survey.stores.is_empty());
        let (helper, present) = match beside {
            Some(beside) => (beside.helper, beside.present),
            None => {
                self.make(saga, &mut source).await?;
                let mut helper = self.start_helper(saga, &source, &known, (&engine, &users.stops)).await?;
                if let Destination::Directory(directory) = &self.options.destination {
                    refuse_elsewhere(&helper.agent, directory)?;
                }
                let room = helper
                    .agent
                    .call(calls::Room {})
                    .await
                    .context(|| format!("look at {}", source.title))?;
                let plan = RestorePlan { free_bytes: Some(room.free_bytes), ..plan.clone() };
                checks::refuse_without_room(&plan, room.free_names)?;
                (helper, None)
            }
        };
        Ok(Prepared {
            plan,
            engine,
            known,
            source,
            users,
            database,
            agent: helper.agent,
            place: helper.place,
            keeps,
            is_store,
            present,
            libc: server.libc,
            slots_left_out: Vec::new(),
            work: None,
            helper: helper.registered,
        })
    }

    async fn make(&self, saga: &mut Saga, source: &mut Source) -> Result<()> {
        let journal = || "write the journal".to_owned();
        match &source.location {
            MountSource::Volume(name) => {
                let made = Undo::RemoveVolume { name: name.clone(), run: self.run.id.to_string() };
                saga.register(When::OnFailure, made).context(journal)?;
                self.run.monitor().step("create-volume");
                let mut labels = self.labels_of_new(name);
                labels.insert(LABEL_RUN.to_owned(), self.run.id.to_string());
                let docker = &*self.run.context.docker;
                docker.create_volume(name, &labels).await.context(|| format!("create volume {name}"))?;
                let made = docker.volume(name).await.context(|| format!("look at volume {name}"))?;
                source.host_path = made.map(|volume| volume.mountpoint).unwrap_or_default();
            }
            MountSource::Directory(path) => {
                self.make_directory(saga, &self.run.context.path_here(path))?;
            }
        }
        Ok(())
    }

    /// Makes the directory under a name of our own first: what removes it must never mistake for it a directory that
    /// somebody made meanwhile or makes after we are dead.
    fn make_directory(&self, saga: &mut Saga, path: &Path) -> Result<()> {
        let (journal, making) =
            (|| "write the journal".to_owned(), || format!("make the directory {}", path.display()));
        let ours = path.with_file_name(format!(".volsnap-made-{}", self.run.id));
        saga.register(When::Always, Undo::DeleteDirectory { path: ours.clone() }).context(journal)?;
        std::fs::DirBuilder::new().mode(0o700).create(&ours).context(making)?;
        let metadata = ours.metadata().context(making)?;
        let made = Undo::RemoveMadeDirectory {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        saga.register(When::OnFailure, made).context(journal)?;
        // Replaces at most an empty directory.
        std::fs::rename(&ours, path).context(making)
    }
}

/// Refuses data that contains a mount: a mount cannot be moved, and would not be replaced.
fn refuse_mounts(source: &Source, room: Option<&Room>) -> Result<()> {
    let Some(name) = room.and_then(|room| room.mounted.first()) else { return Ok(()) };
    Err(Error::failed(format!(
        "something else is mounted on {name} in {}, and cannot be replaced with it",
        source.title
    ))
    .hint(
        Hint::instead(&["--to=", "--dir=", "--new-volume="], ["--new-volume", "NAME"])
            .why("leaves it where it is"),
    ))
}
