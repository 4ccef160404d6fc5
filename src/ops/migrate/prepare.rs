//! Everything that can be checked before anything is touched, and the plan that results.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::time::{Duration, Instant};

use super::copy::excluded;
use super::files::{How, Switch, how};
use super::place::{self, Made};
use super::plan::{Direction, MigratePlan, PlannedEdit, PlannedUser};
use super::rehearsal::{Cast, Rehearsal, stops};
use super::{Destination, MigrateRun};
use crate::agent::calls;
use crate::agent::calls::{StageCompare, StageInto, StagePass, StageRoom};
use crate::agent::client::{AgentClient, helper_name};
use crate::agent::protocol::{Room, Survey};
use crate::compose::{Membership, volume_labels};
use crate::database;
use crate::engine::helper::Access;
use crate::model::container::{Container, EngineInfo};
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::facts::checks::Checks;
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::labels::{LABEL_RUN, lasting_labels};
use crate::model::location::MountSource;
use crate::model::manifest::Quiesce;
use crate::model::plural::size;
use crate::model::source::{Source, User, key_of};
use crate::ops::Context;
use crate::ops::evidence::DatabaseFiles;
use crate::ops::helper::{StageMount, StartedHelper, refuse_elsewhere, start_helper};
use crate::ops::plan::{DowntimeEstimate, STAGE_RESERVE};
use crate::ops::project_file::find_checks;
use crate::ops::sharers::Sharers;
use crate::saga::{UndoId, When};
use crate::service::ready::await_ready;
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::retract_copy::MadeDirectory;
use crate::undo::swap::HelperTarget;

/// How long one question may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long a database may take to answer before anything is stopped.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// What an entry takes on the disk beside its content: its inode and the rest of its last block.
const BYTES_PER_ENTRY: u64 = 4096;
/// How often the root is copied and compared before its file system is called unfit.
const TRIALS: u32 = 10;

/// The outcome of a look at everything.
pub(super) enum Preparation {
    /// The migration can be done.
    Ready(Box<Prepared>),
    /// It is done already.
    Already {
        /// What was asked for, as a person calls it.
        title: String,
        /// Where its data is.
        at: String,
    },
}

/// Everything that is known, checked and running before anything is touched.
pub(super) struct Prepared {
    pub(super) plan: MigratePlan,
    pub(super) engine: EngineInfo,
    pub(super) source: Source,
    pub(super) database: Option<Database>,
    pub(super) checks: Option<Checks>,
    /// The running users, in the order in which they are stopped.
    pub(super) stops: Vec<Container>,
    /// What will become of files and containers.
    pub(super) switch: Switch,
    /// Who shares something of what is made anew.
    pub(super) sharers: Sharers,
    pub(super) survey: Survey,
    pub(super) agent: AgentClient,
    pub(super) helper: UndoId,
    /// Where the copy will be.
    pub(super) place: HelperTarget,
    /// The directory that was made for it.
    pub(super) made: Option<MadeDirectory>,
    /// What removes a copy that nobody can go on from.
    pub(super) removals: Vec<UndoId>,
    /// The labels of the volume that the data comes from.
    pub(super) labels: BTreeMap<String, String>,
}

/// The database in the source.
pub(super) struct Database {
    pub(super) container: Container,
    pub(super) files: DatabaseFiles,
}

/// Where the copy will be, and what is there.
struct Target {
    location: MountSource,
    made: Made,
    warnings: Vec<String>,
}

impl Prepared {
    /// Records who uses the data now.
    pub(super) fn look_at(&mut self, context: &Context, source: Source) -> Result<()> {
        self.stops = stops(&source)?;
        self.plan.stops = names(self.stops.iter());
        self.plan.starts = names(self.stops.iter().rev());
        self.plan.down_after_reboot = context.left_down(&self.stops);
        self.source = source;
        Ok(())
    }

    /// Returns the database, if it runs.
    pub(super) fn running_database(&self) -> Option<&Database> {
        self.database.as_ref().filter(|database| database.container.state.running)
    }
}

impl MigrateRun<'_> {
    pub(super) async fn prepare(&self, saga: &mut Saga) -> Result<Preparation> {
        self.run.phase(Phase::Prepare, self.options.target.to_string(), None);
        self.run.watch(saga).await?;
        let docker = &*self.run.context.docker;
        let engine = docker.engine().await.context(|| "ask the engine what it is".to_owned())?;
        self.run.context.refuse_unknown_names(&self.options.kills).await?;
        let source = self.run.context.resolve_for(&["migrate"], &self.options.target).await?;
        self.run.refuse_ourselves(&source)?;
        self.run.refuse_unfinished(&source)?;
        source.warnings.iter().for_each(|warning| self.run.monitor().warning(warning));
        let rehearsal = self.rehearsal(&engine, &source);
        rehearsal.refuse_source()?;
        if let Some(at) = self.is_done(&source) {
            return Ok(Preparation::Already { title: source.title, at });
        }
        let cast = rehearsal.cast(self.run.id.as_str()).await?;
        let stops = cast.hold.containers.clone();
        cast.hold.warn_of_the_unhealthy(self.run.monitor());
        let database = database_of(&source);
        let checks = match database.as_ref().filter(|database| database.container.state.running) {
            Some(database) => find_checks(None, &database.container, &self.run.context.directory)?,
            None => None,
        };
        self.refuse_unready(database.as_ref()).await?;
        let target = self.destination(saga, &engine, &source).await?;
        let switch = rehearsal.switch(&cast, &target.location).await?;
        let Cast { users, hold, sharers } = cast;
        let image = (&engine, self.options.helper_image.as_deref());
        // It exists already, whatever it is.
        let none = BTreeMap::new();
        let mount = StageMount { location: &target.location, labels: &none };
        let with = (Access::Stage, Some(mount));
        let StartedHelper { mut agent, registered: helper, place } =
            start_helper(&self.run.context, saga, self.run.id.as_str(), &source, with, image, &stops).await?;
        if let MountSource::Directory(directory) = &target.location {
            refuse_elsewhere(&agent, directory)?;
        }
        let place = HelperTarget {
            helper: helper_name(&key_of(&target.location)),
            location: target.location.clone(),
            ..place
        };
        let found = match &database {
            Some(database) => Some(database.files.inspect(&mut agent).await?),
            None => None,
        };
        found.iter().try_for_each(|found| refuse_outside_links(&source, found))?;
        let survey = calls::Survey { exclude: excluded(), ..Default::default() };
        let survey = agent.call(survey).await.context(|| format!("look at {}", source.title))?;
        let mut removals = target.made.removals;
        let inputs = self.look_into(saga, &mut agent, &place, &mut removals).await?;
        let volume_of = async |location: &MountSource| match location {
            MountSource::Volume(name) => {
                docker.volume(name).await.context(|| format!("look at volume {name}"))
            }
            MountSource::Directory(_) => Ok(None),
        };
        let labels = volume_of(&source.location).await?.map(|volume| volume.labels).unwrap_or_default();
        if !inputs.room.is_empty
            && let Some(volume) = volume_of(&target.location).await?
        {
            self.refuse_strange(&target.location, &volume.mountpoint, found.as_ref())?;
        }
        let made = target.made.directory;
        let mut plan = self.plan(&source, found.as_ref(), &survey, (&inputs, made.is_some()), &place);
        plan.users = users.iter().map(|(user, at)| planned_user(user, at)).collect();
        plan.sharers = sharers.planned(|container| switch.makes_sharer(container));
        plan.edits = switch.planned_edits();
        plan.commands = switch.commands();
        plan.stops = names(stops.iter());
        plan.starts = names(stops.iter().rev());
        plan.down_after_reboot = self.run.context.left_down(&stops);
        plan.own_commands = hold.own_commands();
        if stops.is_empty() {
            plan.expected_downtime_ms = 0;
        }
        plan.warnings.extend(target.warnings);
        plan.warnings.extend(source.users.iter().filter(|user| user.is_passer_by()).map(|user| {
            format!(
                "container {} reads there through a directory above, and will go on to see the old data",
                user.container.name
            )
        }));
        plan.warnings.extend(switch.warnings.iter().cloned());
        self.warn_of_owner(&mut plan, database.as_ref(), &survey).await;
        if plan.free_bytes < plan.needed_bytes {
            return Err(Error::failed(format!(
                "{} has {} free, and the copy may need {}",
                plan.to,
                size(plan.free_bytes),
                size(plan.needed_bytes)
            ))
            .hint(Hint::advice("free some space there, or choose a directory on a larger disk")));
        }
        let checks = checks.map(|(_, checks)| checks);
        Ok(Preparation::Ready(Box::new(Prepared {
            plan,
            engine,
            source,
            database,
            checks,
            stops,
            switch,
            sharers,
            survey,
            agent,
            helper,
            place,
            made,
            removals,
            labels,
        })))
    }

    fn rehearsal<'a>(&'a self, engine: &'a EngineInfo, source: &'a Source) -> Rehearsal<'a> {
        Rehearsal { context: &self.run.context, options: self.options, engine, source, is_trial: false }
    }

    /// Returns where the data is, if that is already where it should go.
    fn is_done(&self, source: &Source) -> Option<String> {
        match (&self.options.destination, &source.location) {
            (Destination::Directory(named), MountSource::Directory(directory)) => {
                let wanted = self.run.context.directory.join(named);
                let same = wanted == *directory || wanted.canonicalize().is_ok_and(|real| real == *directory);
                same.then(|| directory.display().to_string())
            }
            (Destination::Back { volume }, MountSource::Volume(name)) => {
                volume.as_ref().is_none_or(|volume| volume == name).then(|| format!("volume {name}"))
            }
            _ => None,
        }
    }

    /// Refuses a database that does not answer: one that is still in its entrypoint would ignore the signal.
    async fn refuse_unready(&self, database: Option<&Database>) -> Result<()> {
        let running = database.filter(|database| database.container.state.running);
        let Some(Database { container, .. }) = running else { return Ok(()) };
        let deadline = Instant::now() + READY_LIMIT;
        let answer = await_ready(&*self.run.context.docker, container, deadline, self.run.monitor()).await;
        answer.map(drop).map_err(|error| {
            Error::failed(format!("container {} is not ready to be stopped", container.name))
                .with_source(error)
                .hint(Hint::logs(&container.name))
        })
    }

    /// Finds the place for the copy, and makes it if it does not exist.
    async fn destination(&self, saga: &mut Saga, engine: &EngineInfo, source: &Source) -> Result<Target> {
        match &self.options.destination {
            Destination::Directory(named) => {
                let MountSource::Volume(volume) = &source.location else {
                    return Err(Error::failed("a directory is copied into a volume only"));
                };
                let store = place::store_of(&source.host_path, volume);
                let found = place::look(named, &self.run.context.directory, store.as_deref())?;
                let on_host = self.run.context.host_path_to_make(&found.path)?;
                // In a container, what is a directory here may be a volume of the engine.
                place::refuse_system(&on_host, store.as_deref())?;
                let made = self.make_directory(saga, &found)?;
                Ok(Target { location: MountSource::Directory(on_host), made, warnings: found.warnings })
            }
            Destination::Back { volume } => {
                let rehearsal = self.rehearsal(engine, source);
                let name = rehearsal.volume_back(volume.as_deref())?;
                self.make_volume(saga, engine, source, &name).await?;
                let location = MountSource::Volume(name);
                rehearsal.refuse_other_users(&location).await?;
                Ok(Target { location, made: Made::default(), warnings: Vec::new() })
            }
        }
    }

    /// Makes the volume that the data goes back into, if it does not exist.
    async fn make_volume(
        &self,
        saga: &mut Saga,
        engine: &EngineInfo,
        source: &Source,
        name: &str,
    ) -> Result<()> {
        let docker = &*self.run.context.docker;
        if docker.volume(name).await.context(|| format!("look at volume {name}"))?.is_some() {
            return Ok(());
        }
        let removal = Undo::RemoveVolume { name: name.to_owned(), run: self.run.id.to_string() };
        saga.register(When::OnFailure, removal).context(|| "write the journal".to_owned())?;
        self.run.monitor().step("create-volume");
        // If nothing is remembered, the labels are those that Compose would give it.
        let remembered = self.rehearsal(engine, source).migration().ok().flatten();
        let remembered = remembered.filter(|migration| migration.volume == name);
        let mut labels = match remembered {
            Some(migration) => lasting_labels(migration.labels),
            None => compose_labels(source, name),
        };
        labels.insert(LABEL_RUN.to_owned(), self.run.id.to_string());
        docker.create_volume(name, &labels).await.context(|| format!("create volume {name}"))
    }

    /// Looks into the place for the copy, takes over what an earlier run began there, and tries whether it can hold
    /// what the data has.
    async fn look_into(
        &self,
        saga: &mut Saga,
        agent: &mut AgentClient,
        place: &HelperTarget,
        removals: &mut Vec<UndoId>,
    ) -> Result<PlanInputs> {
        let shown = place.describe();
        let looking = || format!("look into {shown}");
        let owner = agent.call(calls::Room {}).await.context(looking)?.owner;
        self.run.monitor().step("stage-into");
        agent.call(StageInto { run: place.run.clone() }).await.map_err(|error| {
            Error::failed(format!("go on with what an earlier run has left in {shown}"))
                .with_source(error)
                .hint(Hint::advice(format!("look into {shown}, and empty it or choose another place")))
        })?;
        let warm = agent.call(StageRoom::default()).await.context(looking)?.warm;
        if !warm {
            // What another run began stays for a later one; what this run begins does not, until there is more of it.
            let work = Undo::DiscardWork { place: place.clone(), with_old: false };
            removals.push(saga.register(When::OnFailure, work).context(|| "write the journal".to_owned())?);
        }
        let room = agent.call(calls::Room {}).await.context(looking)?;
        if !room.is_empty && matches!(place.location, MountSource::Directory(_)) {
            return Err(super::place::not_empty(&shown));
        }
        if let Some(mounted) = room.mounted.first() {
            return Err(Error::failed(format!("something is mounted on {mounted} in {shown}"))
                .hint(Hint::advice("choose another place")));
        }
        if !warm {
            self.try_owners(agent, &shown).await?;
        }
        Ok(PlanInputs { room, warm, owner: self.options.owner.unwrap_or(owner) })
    }

    /// Tries whether the place holds owners, modes, times and attributes, by copying the root alone.
    async fn try_owners(&self, agent: &mut AgentClient, shown: &str) -> Result<()> {
        let refused = |why: String| {
            Error::failed(format!(
                "{shown} is on a file system that cannot hold what the data has (owners, modes, times): {why}"
            ))
            .hint(Hint::advice(
                "choose a directory on a local disk, not on NFS with root squash, FAT or the like",
            ))
        };
        let everything = vec!["*".to_owned()];
        let mut differences = Vec::new();
        // Who writes to the root meanwhile changes its times before they are compared. A file system that cannot hold
        // them differs each time.
        for _ in 0..TRIALS {
            let owner = self.options.owner;
            let pass = StagePass { exclude: everything.clone(), owner, ..StagePass::default() };
            let passed = agent.call_watched(pass, self.run.monitor()).await;
            passed.map_err(|error| refused(error.to_string()))?;
            let compare = StageCompare { exclude: everything.clone(), owner, ..StageCompare::default() };
            let compared = agent.call_watched(compare, self.run.monitor()).await;
            let compared = compared.context(|| format!("look at {shown}"))?;
            if compared.different == 0 {
                return Ok(());
            }
            differences = compared.differences;
        }
        Err(refused(differences.join("; ")))
    }

    fn plan(
        &self,
        source: &Source,
        found: Option<&Inspection>,
        survey: &Survey,
        (inputs, makes): (&PlanInputs, bool),
        place: &HelperTarget,
    ) -> MigratePlan {
        let back = matches!(place.location, MountSource::Volume(_));
        let outlook =
            DowntimeEstimate { quiesce: Quiesce::Stop, raw_bytes: survey.held_bytes, measured: None };
        let shown = |location: &MountSource| match location {
            MountSource::Volume(name) => format!("volume {name}"),
            MountSource::Directory(path) => path.display().to_string(),
        };
        MigratePlan {
            id: self.run.id.to_string(),
            direction: if back { Direction::Back } else { Direction::ToDirectory },
            title: source.title.clone(),
            database: found.map(|found| format!("{} {}", found.engine, found.version)),
            from: shown(&source.location),
            from_path: source.host_path.clone(),
            to: shown(&place.location),
            makes,
            resumes: inputs.warm,
            file_system: match &place.location {
                MountSource::Directory(path) => file_system(&self.run.context.path_here(path)),
                MountSource::Volume(_) => None,
            },
            bytes: survey.bytes,
            entries: survey.entries,
            needed_bytes: if inputs.warm {
                STAGE_RESERVE
            } else {
                survey.disk_bytes + survey.disk_bytes / 20 + survey.entries * BYTES_PER_ENTRY + STAGE_RESERVE
            },
            free_bytes: inputs.room.free_bytes,
            owner: inputs.owner,
            replaces: !inputs.room.is_empty,
            users: Vec::new(),
            sharers: Vec::new(),
            stops: Vec::new(),
            down_after_reboot: Vec::new(),
            own_commands: Vec::new(),
            starts: Vec::new(),
            onlookers: source.onlookers.clone(),
            edits: Vec::<PlannedEdit>::new(),
            commands: Vec::new(),
            expected_downtime_ms: outlook.staged_ms(true),
            warnings: Vec::new(),
        }
    }

    /// Warns if the owner of the database's copy will be unusual. The database's directory may lie below a root that
    /// belongs to somebody else.
    async fn warn_of_owner(&self, plan: &mut MigratePlan, database: Option<&Database>, survey: &Survey) {
        let Some(database) = database.filter(|database| database.container.state.running) else { return };
        let command = ["stat", "-c", "%u", "/proc/1"].map(str::to_owned);
        let asked = self.run.context.docker.exec(&database.container.id, &command, ASK_LIMIT).await;
        let said = asked.ok().and_then(|output| String::from_utf8(output.stdout).ok());
        let Some(user) = said.and_then(|said| said.trim().parse::<u32>().ok()) else { return };
        // One that begins as root drops its rights later, and so tells nothing.
        let own = survey.databases.first().map(|found| found.owner);
        let owner = self.options.owner.or(own).unwrap_or(plan.owner).0;
        if user != 0 && user != owner {
            plan.warnings.push(format!(
                "the copy will belong to user {owner}, and the database runs as user {user}: it may refuse to start \
                 (--owner {user}:{user} gives the copy to it)"
            ));
        }
    }

    /// Refuses a volume that has anything but older data of this very database.
    fn refuse_strange(&self, target: &MountSource, path: &Path, found: Option<&Inspection>) -> Result<()> {
        let MountSource::Volume(name) = target else { return Ok(()) };
        let inspected = found.and_then(|found| {
            database::files_of(&found.engine)?.inspect(path, &found.data_directory, None).ok()
        });
        let same = inspected
            .zip(found)
            .is_some_and(|(there, found)| there.identifier.is_some() && there.identifier == found.identifier);
        if same {
            return Ok(());
        }
        Err(Error::failed(format!("volume {name} has data that is not known to be of this database"))
            .hint(Hint::docker(["volume", "rm", name]).why("if it may go"))
            .or(Hint::instead(&["--volume="], ["--volume", "NAME"])))
    }
}

/// What is in the place for the copy.
struct PlanInputs {
    room: Room,
    /// Whether an earlier run began a copy there that this one can go on from.
    warm: bool,
    /// Who will own the copy's root.
    owner: (u32, u32),
}

fn names<'c>(containers: impl Iterator<Item = &'c Container>) -> Vec<String> {
    containers.map(|container| container.name.clone()).collect()
}

fn planned_user(user: &User, at: &Path) -> PlannedUser {
    let service = Membership::of(&user.container.labels)
        .map(|member| format!("service {} of {}", member.service, member.project));
    PlannedUser {
        container: user.container.name.clone(),
        running: user.container.state.running,
        mounted_at: at.to_owned(),
        service: service.filter(|_| how(&user.container) == How::Compose),
    }
}

/// Returns the database of a source, whether or not it runs.
fn database_of(source: &Source) -> Option<Database> {
    let container = source.database()?;
    Some(Database { container: container.clone(), files: DatabaseFiles::of(source, container)? })
}

fn refuse_outside_links(source: &Source, inspection: &Inspection) -> Result<()> {
    let Some(link) = inspection.outside.first() else { return Ok(()) };
    Err(Error::failed(format!(
        "{} is not all in {}: its {} lies in {}, which would stay behind",
        inspection.engine,
        source.title,
        link.what,
        link.target.display()
    ))
    .hint(Hint::advice("move it into the data directory's volume, and migrate then")))
}

/// Returns the labels by which Compose takes a volume for its own.
fn compose_labels(source: &Source, name: &str) -> BTreeMap<String, String> {
    let of_compose = |user: &&User| Membership::of(&user.container.labels).is_some();
    let user = source.users.iter().find(of_compose);
    user.map(|user| volume_labels(name, &user.container.labels, name)).unwrap_or_default()
}

/// Returns the kernel's name for the file system of a directory, by the mount that it is in.
fn file_system(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = fields.filter(|(at, _)| path.starts_with(at));
    above.max_by_key(|(at, _)| at.len()).map(|(_, kind)| kind.to_owned())
}
