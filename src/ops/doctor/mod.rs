//! `doctor`: what puts data at risk, and what mends each risk.
//!
//! It examines the data of every database, and every volume and directory that any other container writes. It looks and changes nothing: it looks at what the engine has on record, at the repository, and at the journals of
//! unfinished runs. It asks a running database three short questions inside its own container (where its data is,
//! what its directory links to, and who takes its log). It starts no helper, so of a database that does not run it knows only the
//! configuration, and says so.
//!
//! | file | does |
//! |---|---|
//! | this one | gathers what is known |
//! | `kept` | finds whose data there is |
//! | `ways` | finds out which commands would not be refused |
//! | `rules`, `slots`, `leftovers` | draw the conclusions; pure |

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use serde::Serialize;

use self::kept::Kept;
use self::leftovers::{Migrated, Stage};
use self::rules::{Case, History, NewestSnapshot, OutsideData};
use self::ways::{Trial, Trials, Ways};
use super::migrate::record::{Migration, Migrations};
use super::recover::{self, Survey, Unfinished};
use super::{Context, facts};
use crate::agent::survey::survey;
use crate::agent::swap::PREFIX;
use crate::compose::environment::Environment;
use crate::database::{self, Server};
use crate::model::container::{Container, EngineInfo, Volume};
use crate::model::error::{Context as _, Result};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::labels::{LABEL_GUARD, LABEL_HOLDS, LABEL_RUN, LABEL_STAGE};
use crate::model::location::MountSource;
use crate::model::manifest::{Proof, Verification};
use crate::model::orchestrator::Orchestrator;
use crate::model::replication::Consumer;
use crate::model::source::{OtherRun, key_of};
use crate::repository::{Listing, Repository, RepositoryError, Snapshot};
use crate::selector;
use crate::selector::inventory::{Place, inventory};
use crate::selector::memory::{InMemory, bound_directory, in_memory};
use crate::selector::{DatabaseData, EngineInventory, Target};

mod kept;
mod leftovers;
mod rules;
mod slots;
mod ways;

/// How long a running database may take to answer a question.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Of how many containers' data commands are tried at once: for each, Compose is asked what its files say.
const TRIALS_AT_ONCE: usize = 4;

/// What to examine.
#[derive(Debug, Clone)]
pub struct DoctorOptions {
    /// Whose databases to examine; `None` for every one on the engine.
    pub target: Option<Target>,
    /// Where snapshots are kept.
    pub repository: PathBuf,
    /// Whether this machine could run `recover` at boot by itself, and does not.
    pub recovers_nothing_at_boot: bool,
    /// The variables of whoever asks; compose files may refer to them.
    pub environment: Environment,
}

/// How bad it can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// An everyday command, or the next crash, loses data that is nowhere else.
    High,
    /// A mistake that is easily made loses data or keeps the service away.
    Medium,
    /// Worth knowing.
    Low,
    /// No risk: where the data is.
    Info,
}

/// The kind of a finding. The names are part of the interface: they are added to, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Where the data of a database is.
    DataLocation,
    /// The data is in the container's own layer.
    DataInContainer,
    /// The data is in memory.
    DataInMemory,
    /// The data is in a volume without a name.
    AnonymousVolume,
    /// A volume is mounted where none of the data is.
    WrongMountLevel,
    /// Part of the data lies elsewhere.
    DataOutside,
    /// `compose down -v` removes the data.
    ComposeDown,
    /// Pruning removes the data.
    Prune,
    /// The engine removes the container when it stops.
    AutoRemove,
    /// The container is killed before the database can stop.
    StopGrace,
    /// The container's stop signal waits for every session to end.
    StopSignal,
    /// It does not come back with the engine, because it was stopped by hand.
    StaysStopped,
    /// It does not come back with the engine.
    NoRestartPolicy,
    /// There is no snapshot.
    NoSnapshot,
    /// The newest snapshot is old.
    OldSnapshot,
    /// The newest snapshot did not pass its last verification.
    DamagedSnapshot,
    /// The newest snapshot was never read back, or only its stored bytes were.
    NeverVerified,
    /// No snapshot was ever restored as a test.
    NeverDrilled,
    /// Snapshots are on the same disk as the data.
    SameDisk,
    /// The contents of the repository cannot be read or believed.
    Repository,
    /// A run died and is not finished.
    OpenJournal,
    /// A run died and has not brought back what it held.
    ServiceLeftDown,
    /// A run is at work and holds a service.
    ServiceHeld,
    /// A helper container is left.
    StrayHelper,
    /// A restore left its work directory in the data.
    WorkDirectory,
    /// A volume that no container uses and whose data was migrated into a directory.
    LeftoverVolume,
    /// A container uses the volume that its data was migrated from.
    LeftoverInUse,
    /// A volume with a copy that a snapshot kept for the next one.
    KeptStage,
    /// Nothing runs `recover` when the machine starts.
    NoRecoveryAtBoot,
    /// Something was not looked at.
    NotExamined,
    /// A replication slot that nobody takes keeps the log.
    IdleSlot,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind it is.
    pub kind: Kind,
    /// How bad it can become.
    pub risk: Risk,
    /// What it is about, as a person calls it.
    pub subject: String,
    /// The database's container, if it is about one.
    pub container: Option<String>,
    /// What it is, in a sentence.
    pub what: String,
    /// What mends it: commands, if there are any.
    pub mitigation: Vec<Hint>,
}

#[cfg(test)]
impl Finding {
    /// Returns what mends it, one line each.
    fn mended_by(&self) -> String {
        self.mitigation.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

/// Data that a container keeps, with all that was found out about it.
struct Examined<'w> {
    kept: Kept<'w>,
    /// Links out of the data directory, if the database could be asked.
    links: Option<Vec<(String, PathBuf)>>,
    /// Who takes, or may take, its log; nobody if the database could not be asked.
    consumers: Vec<Consumer>,
    ways: Ways,
}

/// What a running database said.
#[derive(Debug, Default)]
struct Answer {
    directory: Option<PathBuf>,
    links: Option<Vec<(String, PathBuf)>>,
    consumers: Vec<Consumer>,
}

/// Returns the findings, the worst of each database first. Changes nothing.
///
/// # Errors
/// When the engine does not answer, or the target is unknown.
pub async fn doctor(context: &Context, options: &DoctorOptions) -> Result<Vec<Finding>> {
    let engine = context.docker.engine().await.context(|| "ask the engine what it is".to_owned())?;
    let mut world = context.world().await?;
    world.command = vec!["doctor".to_owned()];
    let chosen: Vec<Container> = match &options.target {
        Some(target) => selector::containers(target, &world)?.into_iter().cloned().collect(),
        None => world.containers.clone(),
    };
    let mut answers = ask_all(context, &chosen, &mut world).await;
    world.command = vec!["snapshot".to_owned()];
    let world = world;
    let is_ours =
        |container: &Container| context.own.as_ref().is_some_and(|own| own.container.id == container.id);
    let is_chosen =
        |container: &Container| !is_ours(container) && chosen.iter().any(|one| one.id == container.id);
    let trials = Trials { context, world: &world, engine: &engine, environment: &options.environment };
    let mut examined = Vec::new();
    let kept: Vec<_> = kept::kept(&world, is_chosen, engine.local).into_iter().collect();
    let ways: Vec<Ways> =
        stream::iter(&kept).map(|one| trials.ways(one)).buffered(TRIALS_AT_ONCE).collect().await;
    for (kept, ways) in kept.into_iter().zip(ways) {
        let answer = kept.keeper.server().and_then(|_| answers.remove(&kept.data.container.id));
        let Answer { links, consumers, .. } = answer.unwrap_or_default();
        examined.push(Examined { kept, links, consumers, ways });
    }

    let Survey { runs, strange } = recover::look(&context.saga.state)?;
    // What is down comes before what may go down.
    let address = context.address.as_str();
    let mut findings: Vec<Finding> =
        runs.iter().filter_map(|run| rules::service_away(run, address)).collect();
    let listing = listing(&options.repository, &mut findings).await;
    let remembered = Migrations::read(&context.saga.state, &engine.id);
    let examination = Examination {
        world: &world,
        engine: &engine,
        listing: &listing,
        migrations: &remembered.known,
        repository: &options.repository,
        now: context.clock.now(),
    };
    for one in &examined {
        let container = one.kept.data.container;
        let held = runs.iter().any(|run| run.holds.contains(&container.name))
            || is_held_elsewhere(container, &world)
            || is_not_to_be_started(one, &world);
        findings.extend(examination.of(one, held));
    }
    for later in &remembered.later {
        let path = later.path.display();
        context.monitor.warning(format!("the record of a migration in {path} is {}", later.why()));
    }
    let migrations = migrations(remembered.known, options.target.as_ref(), &chosen);
    findings.extend(migrated_volumes(&migrations, &trials).await);
    findings.extend(leftover_volumes(&examined, &migrations, &trials).await);
    if options.target.is_none() {
        findings.extend(kept_stages(&world, &engine, &runs, context.clock.now()));
        findings.extend(runs.iter().filter_map(|run| rules::open_journal(run, address)));
        findings.extend(strange.iter().map(rules::strange_journal));
        findings.extend(stray_helpers(&world, &runs));
        let boots_here = engine.local && options.recovers_nothing_at_boot;
        findings.extend(boots_here.then(rules::no_recovery_at_boot));
    }
    // The findings of one subject stay together, the worst first.
    let mut subjects: Vec<String> = Vec::new();
    for finding in &findings {
        if !subjects.contains(&finding.subject) {
            subjects.push(finding.subject.clone());
        }
    }
    findings.sort_by_key(|finding| {
        (
            subjects.iter().position(|subject| *subject == finding.subject),
            finding.risk != Risk::Info,
            finding.risk,
        )
    });
    Ok(findings)
}

/// Asks the running databases among these, tells the inventory where their data is, and returns the answers by the ids of
/// the containers.
async fn ask_all(
    context: &Context,
    chosen: &[Container],
    world: &mut EngineInventory,
) -> BTreeMap<String, Answer> {
    let is_ours = |container: &&Container| OtherRun::of(container).is_some();
    let databases = chosen.iter().filter(|container| !is_ours(container));
    let databases = databases.filter_map(|container| Some((container, database::server_of(container)?)));
    let answers = databases
        .map(async |(container, server)| (container.id.clone(), ask(context, container, server).await));
    let answers: BTreeMap<String, Answer> = join_all(answers).await.into_iter().collect();
    for (id, answer) in &answers {
        world.data_directories.extend(answer.directory.clone().map(|directory| (id.clone(), directory)));
    }
    answers
}

/// Asks a running database where its data is, what its directory links to, and who takes its log.
async fn ask(context: &Context, container: &Container, server: &dyn Server) -> Answer {
    if !container.state.running || container.state.paused || container.state.restarting {
        return Answer::default();
    }
    let said = async |command: Vec<String>| {
        let output = context.docker.exec(&container.id, &command, ASK_LIMIT).await.ok()?;
        (output.exit_code == 0).then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let directory = match server.data_directory_command(container) {
        Some(command) => said(command).await,
        None => None,
    };
    let directory =
        directory.filter(|said| said.starts_with('/')).map(|said| PathBuf::from(said.trim_end_matches('\n')));
    let configured = directory.clone().or_else(|| server.data_directory(container));
    let links = match configured.as_deref().and_then(|directory| server.links(directory)) {
        Some(links) => said(links.command).await.map(|said| links_of(&said)),
        None => None,
    };
    // Of one that does not tell there is nothing to say.
    let consumers = facts::consumers(&*context.docker, container).await.unwrap_or_default();
    Answer { directory, links, consumers }
}

/// Returns the links that [the command for them](database::Links::command) printed.
fn links_of(said: &str) -> Vec<(String, PathBuf)> {
    let link =
        |line: &str| line.split_once('\t').map(|(name, target)| (name.to_owned(), PathBuf::from(target)));
    said.lines().filter_map(link).collect()
}

/// Returns what the repository has; whatever is wrong with it becomes a finding.
async fn listing(location: &Path, findings: &mut Vec<Finding>) -> Listing {
    let listing = async {
        let repository = Repository::open(location).await?;
        findings
            .extend(repository.probed().map(|probed| rules::limits(location, probed)).unwrap_or_default());
        repository.snapshots(None).await
    };
    match listing.await {
        Ok(listing) => {
            findings.extend(rules::unreadable(location, &listing.unreadable));
            listing
        }
        Err(RepositoryError::Missing { .. }) => Listing::default(),
        Err(error) => {
            findings.push(rules::no_repository(location, &error.into()));
            Listing::default()
        }
    }
}

/// What everything that is examined is held against.
struct Examination<'e> {
    world: &'e EngineInventory,
    engine: &'e EngineInfo,
    listing: &'e Listing,
    migrations: &'e [Migration],
    repository: &'e Path,
    now: DateTime<Utc>,
}

impl Examination<'_> {
    fn of(&self, one: &Examined<'_>, held: bool) -> Vec<Finding> {
        let (world, data) = (self.world, &one.kept.data);
        let location = data.mount.and_then(selector::location_of);
        let volume = location.as_ref().and_then(|location| match location {
            MountSource::Volume(name) => world.volumes.iter().find(|volume| volume.name == *name),
            MountSource::Directory(_) => None,
        });
        let host_path = location.as_ref().and_then(|location| host_path(location, volume));
        let local = host_path.as_deref().filter(|_| self.engine.local);
        let spelled = in_memory(&data.directory, data.mount, &world.volumes);
        let memory = spelled.or_else(|| local.filter(|path| is_memory(path)).map(|_| InMemory::Host));
        rules::examine(&Case {
            keeper: one.kept.keeper,
            data,
            speaks_for_container: one.kept.speaks_for_container,
            memory,
            location: location.as_ref(),
            host_path: host_path.as_deref(),
            volume,
            api_version: self.engine.api_version,
            history: location.as_ref().map(|location| self.history(location)).unwrap_or_default(),
            consumers: &one.consumers,
            outside: one.links.as_deref().map(|links| outside(links, data, world)),
            same_disk: local.map(|path| same_disk(path, self.repository)),
            work_directories: local.map(work_directories).unwrap_or_default(),
            ways: one.ways.clone(),
            repository: self.repository,
            now: self.now,
            held,
        })
    }

    /// Returns what the repository has of the data in a place, whatever place the data was migrated from.
    fn history(&self, location: &MountSource) -> History {
        let moved_here = self
            .migrations
            .iter()
            .filter(|migration| *location == MountSource::Directory(migration.directory.clone()));
        let before = moved_here.map(|migration| MountSource::Volume(migration.volume.clone()));
        let keys: Vec<_> = before.map(|volume| key_of(&volume)).chain([key_of(location)]).collect();
        let is_of_it =
            |snapshot: &&Snapshot| keys.contains(&snapshot.manifest.source) && !snapshot.manifest.is_safety();
        let mut snapshots: Vec<_> = self.listing.snapshots.iter().filter(is_of_it).collect();
        snapshots.sort_by_key(|snapshot| snapshot.manifest.times.held);
        history(&snapshots)
    }
}

/// Returns where data is on the engine's host; nowhere if the host only mounts it.
fn host_path(location: &MountSource, volume: Option<&Volume>) -> Option<PathBuf> {
    match location {
        MountSource::Directory(path) => Some(path.clone()),
        MountSource::Volume(_) => {
            let volume = volume?;
            Some(bound_directory(volume).unwrap_or_else(|| volume.mountpoint.clone()))
        }
    }
}

/// Returns whether a directory of this machine is in memory.
fn is_memory(path: &Path) -> bool {
    const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
    statfs(path).is_ok_and(|stat| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&stat.filesystem_type()))
}

/// Returns what snapshots show, the oldest first.
fn history(snapshots: &[&Snapshot]) -> History {
    let mut history = History::default();
    for snapshot in snapshots {
        let shown = snapshot.verified.iter().filter_map(Verification::shows).max();
        history.drilled |= shown >= Some(Proof::Booted);
        history.unpacked |= shown >= Some(Proof::Unpacked);
        history.newest = Some(NewestSnapshot {
            name: snapshot.name(),
            source: snapshot.manifest.source.clone(),
            held: snapshot.manifest.times.held,
            verified: shown >= Some(Proof::Verified),
            stored: shown.is_some(),
            damaged: snapshot.verified.last().is_some_and(|last| !last.ok),
        });
    }
    history
}

/// Returns the links to data that is not where the rest of it is.
fn outside(
    links: &[(String, PathBuf)],
    data: &DatabaseData<'_>,
    world: &EngineInventory,
) -> Vec<OutsideData> {
    let here = data.mount.and_then(|mount| Place::of_mount(mount, &world.volumes));
    links
        .iter()
        .filter_map(|(what, target)| {
            // As the container sees it: a relative link is relative to where it lies.
            let path = crate::model::location::normalize(&data.directory.join(target));
            let mounts = data.container.mounts.iter().filter(|mount| path.starts_with(&mount.destination));
            let mount = mounts.max_by_key(|mount| mount.destination.components().count());
            let place = mount.and_then(|mount| Place::of_mount(mount, &world.volumes));
            if let (Some(here), Some(place)) = (&here, &place)
                && here.path_to(place).is_some()
            {
                return None;
            }
            Some(OutsideData { what: what.clone(), path, location: mount.and_then(selector::location_of) })
        })
        .collect()
}

/// Returns whether the data and the repository are on one file system; `None` if that cannot be seen.
fn same_disk(data: &Path, repository: &Path) -> Option<bool> {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let existing = repository.ancestors().find(|path| path.exists())?;
    Some(device(data)? == device(existing)?)
}

fn work_directories(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

/// Returns this directory, or one with a number after its name, that does not exist yet or contains only what a
/// migration into it left.
fn free_directory(named: &Path) -> Option<PathBuf> {
    let is_free = |path: &Path| match path.symlink_metadata() {
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        Ok(metadata) if !metadata.is_dir() => false,
        Ok(_) => std::fs::read_dir(path).is_ok_and(|entries| {
            let is_ours = |name: std::ffi::OsString| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
            entries.flatten().all(|entry| is_ours(entry.file_name()))
        }),
    };
    let numbered = (2..10).map(|number| PathBuf::from(format!("{}-{number}", named.display())));
    std::iter::once(named.to_owned()).chain(numbered).find(|path| is_free(path))
}

/// Returns the remembered migrations that concern what was asked for: the last one of each volume.
fn migrations(mut all: Vec<Migration>, target: Option<&Target>, chosen: &[Container]) -> Vec<Migration> {
    all.sort_by(|a, b| (&a.volume, b.at).cmp(&(&b.volume, a.at)));
    all.dedup_by(|later, first| later.volume == first.volume);
    let concerns = |migration: &Migration| {
        let places = [
            MountSource::Volume(migration.volume.clone()),
            MountSource::Directory(migration.directory.clone()),
        ];
        let mut mounts = chosen.iter().flat_map(|container| &container.mounts);
        let named = matches!(target, Some(Target::Volume(name)) if *name == migration.volume);
        named || mounts.any(|mount| selector::location_of(mount).is_some_and(|place| places.contains(&place)))
    };
    all.retain(|migration| target.is_none() || concerns(migration));
    all
}

/// Returns what became of the volumes that data was migrated from.
async fn migrated_volumes(migrations: &[Migration], trials: &Trials<'_>) -> Vec<Finding> {
    let Trials { world, engine, .. } = *trials;
    let mounting = |place: &MountSource| -> Vec<&Container> {
        let mounts = |container: &&Container| {
            container.mounts.iter().any(|mount| selector::location_of(mount).as_ref() == Some(place))
        };
        world.containers.iter().filter(mounts).filter(|one| OtherRun::of(one).is_none()).collect()
    };
    let there = |migration: &&Migration| world.volumes.iter().any(|volume| volume.name == migration.volume);
    let mut findings = Vec::new();
    for migration in migrations.iter().filter(there) {
        let directory = mounting(&MountSource::Directory(migration.directory.clone()));
        let databases = directory.iter().filter(|container| database::of(container).is_some());
        let looked = migration.directory.symlink_metadata().map_err(|error| error.kind());
        let mut migrated = Migrated {
            migration,
            users: mounting(&MountSource::Volume(migration.volume.clone())),
            service: databases.chain(&directory).next().copied(),
            gone: engine.local && looked.is_err_and(|kind| kind == std::io::ErrorKind::NotFound),
            back: Trial::Closed,
            snapshot: Vec::new(),
        };
        match migrated.service.filter(|_| migrated.is_left_over()) {
            Some(service) => migrated.back = trials.back(service, migrated.volume_back()).await,
            None => migrated.snapshot = trials.snapshot_of(&migration.volume).await,
        }
        findings.extend(migrated.findings());
    }
    findings
}

/// Returns the stages that no run is at work on or has in its journal.
fn kept_stages(
    world: &EngineInventory,
    engine: &EngineInfo,
    runs: &[Unfinished],
    now: DateTime<Utc>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for volume in &world.volumes {
        let (Some(source), Some(run)) = (volume.labels.get(LABEL_STAGE), volume.labels.get(LABEL_RUN)) else {
            continue;
        };
        let mut mounts = world.containers.iter().flat_map(|container| &container.mounts);
        let in_use = mounts.any(|mount| mount.volume.as_ref() == Some(&volume.name));
        if in_use || runs.iter().any(|unfinished| unfinished.run.run == *run) {
            continue;
        }
        let looked =
            engine.local.then(|| survey(&volume.mountpoint, &globset::GlobSet::empty(), &[]).ok()).flatten();
        let stage = Stage {
            volume: &volume.name,
            source,
            made: run.parse().ok().and_then(|id: SnapshotId| id.begun()),
            bytes: looked.map(|survey| survey.disk_bytes),
        };
        findings.push(stage.finding(now));
    }
    findings
}

/// Returns the volumes that no container uses and of which no migration is remembered, if their project's database has
/// its data in a directory.
async fn leftover_volumes(
    examined: &[Examined<'_>],
    migrations: &[Migration],
    trials: &Trials<'_>,
) -> Vec<Finding> {
    let world = trials.world;
    let mut findings = Vec::new();
    let unknown = |volume: &&Volume| !migrations.iter().any(|migration| migration.volume == volume.name);
    for volume in world.volumes.iter().filter(unknown) {
        let location = MountSource::Volume(volume.name.clone());
        let unused = inventory(&location, world).users.is_empty();
        let moved = examined
            .iter()
            .filter(|one| one.kept.keeper.is_store())
            .find_map(|one| leftovers::moved_from(volume, one.kept.data.container, one.kept.data.mount?));
        if let (true, Some(directory)) = (unused, moved) {
            let snapshot = trials.snapshot_of(&volume.name).await;
            findings.push(leftovers::leftover_volume(&volume.name, &directory, snapshot));
        }
    }
    findings
}

/// Returns whether a run that keeps its journal elsewhere, as one in a container does, says that it holds a container.
fn is_held_elsewhere(container: &Container, world: &EngineInventory) -> bool {
    let helpers =
        world.containers.iter().filter(|one| one.state.running && one.labels.contains_key(LABEL_RUN));
    let mut held = helpers.filter_map(|one| one.labels.get(LABEL_HOLDS));
    held.any(|names| names.split(' ').any(|name| name == container.name))
}

/// Returns whether starting it would bring a second server onto the data, or is for its orchestrator to do.
fn is_not_to_be_started(one: &Examined<'_>, world: &EngineInventory) -> bool {
    let container = one.kept.data.container;
    let others = world.containers.iter().filter(|other| other.id != container.id && other.state.running);
    let place = |container: &Container| {
        selector::database_data(container, world)
            .and_then(|data| Some((selector::location_of(data.mount?)?, data.directory)))
    };
    let own = place(container).map(|(location, _)| location);
    Orchestrator::of(container).is_some()
        || own.is_some_and(|own| others.filter_map(place).any(|(location, _)| location == own))
}

fn stray_helpers(world: &EngineInventory, runs: &[Unfinished]) -> Vec<Finding> {
    // A guard that runs removes itself, and a helper that runs may be at work for a run whose journal is elsewhere.
    let is_at_work = |one: &&Container| {
        one.state.running && (one.labels.contains_key(LABEL_GUARD) || one.labels.contains_key(LABEL_HOLDS))
    };
    let helpers = world.containers.iter().filter(|one| !is_at_work(one)).filter_map(OtherRun::of);
    // A helper in a journal is dealt with there: its run is at work, or must be recovered.
    helpers
        .filter(|helper| !runs.iter().any(|run| run.run.run == helper.run))
        .map(|helper| rules::stray_helper(&helper))
        .collect()
}
