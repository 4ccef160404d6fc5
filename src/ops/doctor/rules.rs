//! What follows from what was found. Pure: no engine, no clock, no files.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Duration, Utc};

use super::kept::Keeper;
use super::ways::{Trial, Ways};
use super::{Finding, Kind, Risk, slots};
use crate::compose::{Membership, VolumeKey};
use crate::database::Server;
use crate::model::container::{ApiVersion, Container, Mount, Volume};
use crate::model::error::Error;
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::plural::{and_more, counted};
use crate::model::quote::printable;
use crate::model::replication::Consumer;
use crate::model::source::OtherRun;
use crate::ops::recover::{Strange, Unfinished};
use crate::repository::Unreadable;
use crate::selector::memory::{InMemory, kept_elsewhere};
use crate::selector::{self, DatabaseData, Target};
use crate::store::Probed;

/// The engine's own grace, for a container that has none.
const DEFAULT_GRACE: i64 = 10;
/// A grace below this kills a database that has anything to write.
const SHORT_GRACE: i64 = 10;
/// A grace below this kills one with much to write or a slow archive; images of databases ask for as much.
const ENOUGH_GRACE: i64 = 120;
/// A snapshot older than this is old.
const OLD: Duration = Duration::days(7);
/// The first API whose `docker volume prune` spares volumes with a name.
const PRUNE_SPARES_NAMED: ApiVersion = ApiVersion(1, 42);

/// What is known of the data that a container keeps.
pub(super) struct Case<'c> {
    pub(super) keeper: Keeper,
    pub(super) data: &'c DatabaseData<'c>,
    /// Whether what is to say of the container is said with this data of it.
    pub(super) speaks_for_container: bool,
    /// How long it lasts, if it is in memory.
    pub(super) memory: Option<InMemory>,
    /// The volume or directory that holds the data.
    pub(super) location: Option<&'c MountSource>,
    /// Where that is on the engine's host.
    pub(super) host_path: Option<&'c Path>,
    pub(super) volume: Option<&'c Volume>,
    pub(super) api_version: ApiVersion,
    pub(super) history: History,
    /// Who takes, or may take, the log.
    pub(super) consumers: &'c [Consumer],
    /// Parts of the data that lie elsewhere; `None` if the database could not be asked.
    pub(super) outside: Option<Vec<OutsideData>>,
    /// Whether data and repository are on one file system: unknown for a remote engine, or if it cannot be seen.
    pub(super) same_disk: Option<Option<bool>>,
    pub(super) work_directories: Vec<String>,
    /// What volsnap would do.
    pub(super) ways: Ways,
    pub(super) repository: &'c Path,
    pub(super) now: DateTime<Utc>,
    /// Whether a run holds it, or died and has not brought it back: then it is not for the user to start.
    pub(super) held: bool,
}

/// What the repository has of a source.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) newest: Option<NewestSnapshot>,
    /// Whether any snapshot was booted as a test, and was good.
    pub(super) drilled: bool,
    /// Whether any was unpacked as a test, and was what was stored; nothing has run on it.
    pub(super) unpacked: bool,
}

/// The newest snapshot of a source.
#[derive(Debug, Clone)]
pub(super) struct NewestSnapshot {
    /// `SOURCE/ID`.
    pub(super) name: String,
    /// `SOURCE`.
    pub(super) source: String,
    /// The moment that its data is of.
    pub(super) held: DateTime<Utc>,
    /// Whether all of it was ever read back and was whole.
    pub(super) verified: bool,
    /// Whether at least its stored bytes were.
    pub(super) stored: bool,
    /// Whether the last time it was not.
    pub(super) damaged: bool,
}

/// Part of the data that lies elsewhere.
#[derive(Debug, Clone)]
pub(super) struct OutsideData {
    /// "tablespace 16400".
    pub(super) what: String,
    /// Where, in the container.
    pub(super) path: PathBuf,
    /// The volume or directory; `None` for the container's own layer, or memory.
    pub(super) location: Option<MountSource>,
}

/// Returns everything found of a database.
pub(super) fn examine(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = vec![case.finding(Kind::DataLocation, Risk::Info, case.where_it_is(), None)];
    findings.extend(where_the_data_is(case));
    findings.extend(outside(case));
    findings.extend(what_removes_it(case));
    if case.speaks_for_container {
        findings.extend(how_it_stops(case));
        findings.extend(whether_it_comes_back(case));
    }
    findings.extend(slots::idle(case));
    findings.extend(snapshots(case));
    findings
}

impl Case<'_> {
    pub(super) fn finding(
        &self,
        kind: Kind,
        risk: Risk,
        what: String,
        mitigation: impl IntoIterator<Item = Hint>,
    ) -> Finding {
        let name = printable(self.name());
        let subject = match Membership::of(&self.container().labels) {
            Some(member) => {
                format!(
                    "service {} of {} (container {name})",
                    printable(member.service),
                    printable(member.project)
                )
            }
            None => format!("container {name}"),
        };
        let container = Some(self.name().to_owned());
        Finding { kind, risk, subject, container, what, mitigation: mitigation.into_iter().collect() }
    }

    pub(super) fn container(&self) -> &Container {
        self.data.container
    }

    fn name(&self) -> &str {
        &self.container().name
    }

    fn is_anonymous(&self) -> bool {
        self.location.is_some_and(selector::is_anonymous)
    }

    fn runs(&self) -> bool {
        self.container().state.running
    }

    /// Returns how bad it is to lose what a store has, and what any other program has.
    fn grave(&self, of_store: Risk, of_program: Risk) -> Risk {
        if self.keeper.is_store() { of_store } else { of_program }
    }

    fn where_it_is(&self) -> String {
        let state = if self.runs() { "running" } else { "not running" };
        let directory = shown(&self.data.directory);
        let place = self.place();
        match self.keeper {
            Keeper::Database(database, server) => {
                let version = server.major_version(self.container()).unwrap_or_default();
                let engine = format!("{} {version}", database.name());
                format!("{}, {state}; its data directory {directory} is in {place}", engine.trim_end())
            }
            Keeper::Store(store) => {
                format!("{}, {state}; what it keeps in {directory} is in {place}", store.name)
            }
            Keeper::Program => {
                let image = printable(&self.container().image);
                format!("image {image}, {state}; what it writes to {directory} is in {place}")
            }
        }
    }

    /// Returns where the data is, on the engine and on its host.
    fn place(&self) -> String {
        let place = match self.location {
            Some(location) => selector::describe(location),
            None if self.memory.is_some() => "memory".to_owned(),
            None => "the container's own layer".to_owned(),
        };
        let below = match self.data.mount.map(|mount| self.data.directory.strip_prefix(&mount.destination)) {
            Some(Ok(below)) if !below.as_os_str().is_empty() => format!(", below {}", shown(below)),
            _ => String::new(),
        };
        let elsewhere = self.volume.and_then(kept_elsewhere);
        let on_host = match (self.location, elsewhere, self.host_path) {
            (_, Some(elsewhere), _) => format!(", which is {elsewhere}"),
            (Some(MountSource::Volume(_)), None, Some(path)) if self.memory.is_none() => {
                format!(" ({} on the host)", shown(path))
            }
            _ => String::new(),
        };
        let in_memory = if self.location.is_some() && self.memory.is_some() { ", in memory" } else { "" };
        format!("{place}{on_host}{in_memory}{below}")
    }

    /// Returns the command after which nothing that removes volumes removes the data; if that is impossible, the one
    /// whose outcome outlives the volume.
    fn save(&self) -> Vec<Hint> {
        // What `migrate` would refuse is not recommended.
        let whole = self.outside.as_ref().is_none_or(Vec::is_empty);
        let opens = whole && self.ways.migrate == Trial::Open;
        match self.ways.migrate_to.as_ref().filter(|_| opens) {
            Some(directory) => {
                vec![Hint::volsnap(["migrate", &self.ways.target, &directory.to_string_lossy()])]
            }
            None => self.ways.snapshot.clone(),
        }
    }

    /// Returns how to change its container: in its project's file, or by making it anew.
    fn changed_by(&self, in_file: &str, option: &str) -> Vec<Hint> {
        let Some(member) = Membership::of(&self.container().labels) else {
            return vec![Hint::advice(format!("make the container anew with: docker run {option} …"))];
        };
        let service = printable(member.service);
        if self.ways.recreate == Trial::Open {
            let restart = Hint::volsnap(["restart", &self.ways.target, "--recreate"]);
            let once = format!("once `{in_file}` is in the service {service} in the project's file");
            return vec![restart.why(once)];
        }
        let by_hand = Hint::advice(format!(
            "put `{in_file}` into the service {service} in the project's file, and make it anew when it may be away"
        ));
        std::iter::once(by_hand).chain(self.ways.recreate.refusal().iter().cloned()).collect()
    }
}

pub(super) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// Returns the target that names a container: its service, if it has one.
pub(super) fn target_of(container: &Container) -> Target {
    let service = Membership::of(&container.labels).map(|member| Target::Service {
        project: Some(member.project.to_owned()),
        service: member.service.to_owned(),
    });
    service.unwrap_or_else(|| Target::Container(container.name.clone()))
}

/// Returns a good place for the data of a container on its host: `/srv/PROJECT/SERVICE`.
pub(super) fn directory_for(container: &Container) -> Option<PathBuf> {
    let parts = match Membership::of(&container.labels) {
        Some(member) => vec![member.project, member.service],
        None => vec![container.name.as_str()],
    };
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_name =
        |part: &&str| part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(usual);
    parts.iter().all(is_name).then(|| Path::new("/srv").join(parts.join("/")))
}

/// Returns a time in days, as a person says it.
pub(super) fn days(time: Duration) -> String {
    match time.num_days() {
        ..=0 => "less than a day".to_owned(),
        days => counted(days.unsigned_abs(), "day"),
    }
}

fn where_the_data_is(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let directory = shown(&case.data.directory);
    if let Some(memory) = case.memory {
        findings.push(in_memory(case, memory));
    } else if case.data.mount.is_none() {
        let what = format!(
            "nothing is mounted at {directory}: the data goes with the container (docker rm, compose down, a new image)"
        );
        // Of a store it is only guessed that its data would be there.
        let (risk, mitigation) = match case.keeper.server() {
            Some(_) => (Risk::High, case.ways.snapshot.clone()),
            None => {
                let mount = format!("mount a volume at {directory}, or where it keeps its data");
                (Risk::Medium, vec![Hint::advice(mount)])
            }
        };
        findings.push(case.finding(Kind::DataInContainer, risk, what, mitigation));
    }
    if let Some(mount) = case.data.mount.filter(|_| case.is_anonymous()) {
        let what = "the data is in a volume without a name: a container made anew starts without it, and \
                    `docker rm -v`, `compose down -v` and pruning remove it";
        let risk = case.grave(Risk::High, Risk::Medium);
        let snapshot = case.ways.snapshot.clone();
        findings.push(case.finding(Kind::AnonymousVolume, risk, what.to_owned(), snapshot));
        findings.extend(wrong_level(case, mount));
    }
    for directory in &case.work_directories {
        let what = format!(
            "{} lies in the data: a restore has left it, perhaps with the data from before",
            printable(directory)
        );
        findings.push(case.finding(Kind::WorkDirectory, Risk::Low, what, [Hint::volsnap(["recover"])]));
    }
    findings
}

/// Returns what to say of data in memory.
fn in_memory(case: &Case<'_>, memory: InMemory) -> Finding {
    let at = match (case.location, case.data.mount) {
        (Some(location), _) => selector::describe(location),
        (None, Some(mount)) => shown(&mount.destination),
        (None, None) => shown(&case.data.directory),
    };
    if !case.runs() && memory != InMemory::Host {
        let what = format!("the data lies in memory ({at}): what there was went when the container stopped");
        return case.finding(Kind::DataInMemory, case.grave(Risk::High, Risk::Medium), what, None);
    }
    let what = format!("the data lies in memory ({at}) and goes {}", memory.until());
    let mitigation = case.ways.snapshot.clone();
    case.finding(Kind::DataInMemory, case.grave(Risk::High, Risk::Medium), what, mitigation)
}

/// Returns what to say of a named volume, or a directory, above the anonymous one that has the data.
fn wrong_level(case: &Case<'_>, mount: &Mount) -> Option<Finding> {
    let above = case.container().mounts.iter().filter(|other| {
        other.destination != mount.destination && mount.destination.starts_with(&other.destination)
    });
    let (location, other) = above
        .filter_map(|other| Some((selector::location_of(other)?, other)))
        .find(|(location, _)| !selector::is_anonymous(location))?;
    let what = format!(
        "{} is mounted at {} and has none of the data: the image has a volume of its own at {} below",
        selector::describe(&location),
        shown(&other.destination),
        shown(&mount.destination)
    );
    // The data comes first; then the mount can go where it belongs.
    let then = format!("then mount it at {}, and restore into it", shown(&mount.destination));
    let mitigation: Vec<_> = case.ways.snapshot.iter().map(|hint| hint.clone().why(then.clone())).collect();
    Some(case.finding(Kind::WrongMountLevel, case.grave(Risk::High, Risk::Medium), what, mitigation))
}

fn outside(case: &Case<'_>) -> Vec<Finding> {
    let links = case.keeper.server().and_then(|server| server.links(&case.data.directory));
    let Some(links) = links else { return Vec::new() };
    let Some(outside) = &case.outside else {
        let what = format!(
            "it could not be asked, so {} outside its data directory were not looked for",
            links.kinds
        );
        let start = (!case.runs() && !case.held).then(|| Hint::docker(["start", case.name()]));
        return vec![case.finding(Kind::NotExamined, Risk::Low, what, start)];
    };
    let finding = |one: &OutsideData| {
        let (what, path) = (printable(&one.what), shown(&one.path));
        let (risk, place) = match &one.location {
            None => (Risk::High, "the container's own layer or memory, and goes with it".to_owned()),
            Some(location) => (
                Risk::Medium,
                format!("{}: a copy of the data alone is no database", selector::describe(location)),
            ),
        };
        let list = Hint::docker(["exec", case.name()]).and(links.listing.clone());
        let what = format!("{what} lies at {path}, outside the data, in {place}");
        case.finding(Kind::DataOutside, risk, what, Some(list))
    };
    outside.iter().map(finding).collect()
}

/// Returns what everyday commands would do to it.
fn what_removes_it(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if case.container().auto_remove && case.speaks_for_container {
        let lost = case.is_anonymous() || case.data.mount.is_none();
        let (risk, with_it) = if lost { (Risk::High, ", and its data with it") } else { (Risk::Medium, "") };
        let what = format!("the engine removes the container when it stops (--rm){with_it}");
        let mut mitigation = if lost { case.ways.snapshot.clone() } else { Vec::new() };
        if mitigation.is_empty() {
            mitigation.push(Hint::advice("make the container anew without --rm"));
        }
        findings.push(case.finding(Kind::AutoRemove, risk, what, mitigation));
    }
    // What a volume only leads to stays when the volume is removed; what is in memory does not last that long.
    let is_its_own = |volume: &&Volume| kept_elsewhere(volume).is_none() && case.memory.is_none();
    let Some(volume) = case.volume.filter(is_its_own).filter(|_| !case.is_anonymous()) else {
        return findings;
    };
    let name = printable(&volume.name);
    if VolumeKey::of(&volume.labels).is_some() {
        let what = format!("`compose down -v` removes the volume {name}, and the data with it");
        // Why it stays in the volume is said once.
        let refusal = case.ways.migrate.refusal().iter().cloned();
        findings.push(case.finding(
            Kind::ComposeDown,
            Risk::Medium,
            what,
            case.save().into_iter().chain(refusal),
        ));
    }
    let spared = case.api_version >= PRUNE_SPARES_NAMED;
    let prune = if spared { "`docker volume prune --all`" } else { "`docker volume prune`" };
    let (risk, what) = if case.runs() {
        (
            Risk::Low,
            format!("once the container is removed (compose down), {prune} removes the volume {name}"),
        )
    } else if spared {
        (
            Risk::Medium,
            format!(
                "the container does not run: `docker container prune` removes it, then {prune} the volume {name}"
            ),
        )
    } else {
        (
            Risk::Medium,
            format!(
                "the container does not run: `docker system prune --volumes` removes it, and the volume {name}"
            ),
        )
    };
    findings.push(case.finding(Kind::Prune, risk, what, case.save()));
    findings
}

fn how_it_stops(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let container = case.container();
    let grace = container.stop_timeout.unwrap_or(DEFAULT_GRACE);
    if (0..ENOUGH_GRACE).contains(&grace) {
        let (risk, much) = if case.keeper.is_store() {
            let risk = if grace < SHORT_GRACE { Risk::High } else { Risk::Medium };
            (risk, "a database with much to write takes longer, and then has to recover")
        } else {
            (Risk::Low, "what it has not written by then is lost")
        };
        let own = if container.stop_timeout.is_some() { "" } else { ", the engine's default" };
        let what = format!(
            "`docker stop`, `compose down` and the engine kill it {grace} s after asking it to stop{own}: {much}"
        );
        let mitigation = case.changed_by("stop_grace_period: 2m", "--stop-timeout 120");
        findings.push(case.finding(Kind::StopGrace, risk, what, mitigation));
    }
    let Some(wanted) = case.keeper.server().map(Server::stop_signal) else { return findings };
    let signal = container.stop_signal.as_deref().filter(|signal| !signal.is_empty()).unwrap_or("SIGTERM");
    if signal.trim_start_matches("SIG") != wanted.trim_start_matches("SIG") && signal != "2" {
        let what = format!(
            "it is asked to stop by {}, which is not the fast shutdown ({wanted})",
            printable(signal)
        );
        let mitigation =
            case.changed_by(&format!("stop_signal: {wanted}"), &format!("--stop-signal {wanted}"));
        findings.push(case.finding(Kind::StopSignal, Risk::Medium, what, mitigation));
    }
    findings
}

fn whether_it_comes_back(case: &Case<'_>) -> Option<Finding> {
    let container = case.container();
    let (policy, status) = (container.restart_policy.as_str(), container.state.status.as_str());
    match policy {
        "unless-stopped" if status == "exited" && !case.held => {
            let what = "it was stopped by hand (restart policy unless-stopped): it stays away when the machine restarts";
            let start = Hint::docker(["start", case.name()]);
            Some(case.finding(Kind::StaysStopped, Risk::Medium, what.to_owned(), Some(start)))
        }
        "" | "no" if case.runs() && !container.auto_remove => {
            let what = "it has no restart policy: it stays away when the machine or the engine restarts";
            let update = Hint::docker(["update", "--restart", "unless-stopped", case.name()]);
            let update = match Membership::of(&container.labels) {
                Some(_) => update.why("and `restart: unless-stopped` in the project's file"),
                None => update,
            };
            Some(case.finding(Kind::NoRestartPolicy, Risk::Low, what.to_owned(), Some(update)))
        }
        _ => None,
    }
}

fn snapshots(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if case.location.is_none() {
        return findings;
    }
    let take = case.ways.snapshot.clone();
    let Some(newest) = &case.history.newest else {
        let what = format!("no snapshot of it is in {}", shown(case.repository));
        let risk = case.grave(Risk::High, Risk::Medium);
        findings.push(case.finding(Kind::NoSnapshot, risk, what, take));
        return findings;
    };
    let verify = Hint::volsnap(["verify", &newest.name]);
    if newest.damaged {
        let what =
            format!("the newest snapshot {} did not pass its last verification", printable(&newest.name));
        findings.push(case.finding(Kind::DamagedSnapshot, Risk::High, what, take.clone()));
    } else if !newest.verified {
        let name = printable(&newest.name);
        let what = match newest.stored {
            true => format!(
                "of the newest snapshot {name}, only the stored bytes were read back: it is encrypted, and no identity that \
                 opens it was given"
            ),
            false => format!("the newest snapshot {name} was never read back"),
        };
        findings.push(case.finding(Kind::NeverVerified, Risk::Medium, what, [verify.clone()]));
    }
    findings.extend(never_drilled(case, newest));
    if let Some(since) = unsaved_since(case, newest) {
        let age = days(case.now - newest.held);
        let what = format!("the newest snapshot is {age} old, and {since}");
        findings.push(case.finding(Kind::OldSnapshot, Risk::Medium, what, take));
    }
    match case.same_disk {
        Some(Some(true)) => {
            let what =
                format!("the repository {} is on the disk that the data is on", shown(case.repository));
            let mitigation = Hint::advice("name a directory on another disk with --repo, or VOLSNAP_REPO");
            findings.push(case.finding(Kind::SameDisk, Risk::Medium, what, Some(mitigation)));
        }
        Some(Some(false)) => {}
        None | Some(None) => {
            let why = if case.same_disk.is_none() {
                "volsnap does not see the engine's directories"
            } else {
                "the directory cannot be seen"
            };
            let what = format!("whether data and repository are on one disk is not known: {why}");
            findings.push(case.finding(Kind::NotExamined, Risk::Low, what, None));
        }
    }
    findings
}

/// Returns what to say of snapshots that were never tried. Only a database that is known can be booted; of anything else
/// a drill shows that it can be unpacked, and it is for a person to start its program on that.
fn never_drilled(case: &Case<'_>, newest: &NewestSnapshot) -> Option<Finding> {
    if case.history.drilled {
        return None;
    }
    let drill = Hint::volsnap(["verify", &newest.name, "--drill"]);
    let boots = case.keeper.database().is_some_and(|database| database.sandbox().is_some());
    let (what, mitigation) = match (boots, case.history.unpacked) {
        (true, _) => ("no snapshot of it was ever booted to try it", drill),
        (false, false) => {
            let why = "unpacks it, and compares every file with what was stored; nothing can be booted";
            ("no snapshot of it was ever unpacked to try it", drill.why(why))
        }
        (false, true) => (
            "a snapshot of it was unpacked, and is what was stored; nothing has ever run on it",
            Hint::volsnap(["restore", &newest.name, "--new-volume", &format!("{}-try", newest.source)])
                .why("then start its image on that volume, and look"),
        ),
    };
    Some(case.finding(Kind::NeverDrilled, Risk::Low, what.to_owned(), Some(mitigation)))
}

/// Returns what the newest snapshot lacks, if that is worth saying: a snapshot of data that has not changed since never
/// gets old.
fn unsaved_since(case: &Case<'_>, newest: &NewestSnapshot) -> Option<String> {
    if case.runs() {
        return (case.now - newest.held > OLD).then(|| "its container has been running since".to_owned());
    }
    let ended = DateTime::parse_from_rfc3339(&case.container().state.finished_at).ok()?.with_timezone(&Utc);
    // What was stopped for the snapshot itself ended a moment after the request.
    (ended - newest.held > Duration::hours(1)).then(|| "its container has run after it".to_owned())
}

pub(super) fn open_journal(run: &Unfinished, address: &str) -> Option<Finding> {
    if run.held || run.has_left_down() {
        return None;
    }
    let (info, recover) = (&run.run, run.recover_from(address));
    let open: Vec<String> = run.open.iter().map(|open| printable(open)).collect();
    Some(Finding {
        kind: Kind::OpenJournal,
        risk: Risk::High,
        subject: format!("run {}", printable(&info.run)),
        container: None,
        what: format!(
            "{} of {} died, and is not finished: {}",
            info.verb,
            printable(&info.subject),
            open.join("; ")
        ),
        mitigation: vec![recover],
    })
}

/// Returns what to say of a run for which a service is away.
pub(super) fn service_away(run: &Unfinished, address: &str) -> Option<Finding> {
    let notice = run.notice(address)?;
    let (kind, risk, mitigation) = if run.has_left_down() {
        (Kind::ServiceLeftDown, Risk::High, vec![run.recover_from(address)])
    } else {
        // It will be back without anybody's doing.
        (Kind::ServiceHeld, Risk::Low, notice.hints)
    };
    let subject = format!("run {}", printable(&run.run.run));
    Some(Finding {
        kind,
        risk,
        subject,
        container: run.holds.first().cloned(),
        what: notice.text,
        mitigation,
    })
}

pub(super) fn no_recovery_at_boot() -> Finding {
    Finding {
        kind: Kind::NoRecoveryAtBoot,
        risk: Risk::Low,
        subject: "this machine".to_owned(),
        container: None,
        what:
            "nothing runs `volsnap recover` when it starts: what a run had stopped at a power cut stays down"
                .to_owned(),
        mitigation: vec![Hint::volsnap(["install", "recover"])],
    }
}

/// Returns what to say of something that is in the place of a journal.
pub(super) fn strange_journal(strange: &Strange) -> Finding {
    let notice = strange.notice();
    Finding {
        kind: Kind::NotExamined,
        risk: Risk::Medium,
        subject: "unfinished runs".to_owned(),
        container: None,
        what: notice.text,
        mitigation: notice.hints,
    }
}

pub(super) fn stray_helper(helper: &OtherRun) -> Finding {
    let mitigation = if helper.running {
        // It may be at work for somebody whose journals are elsewhere.
        Hint::docker(["inspect", "--format", "{{.State.StartedAt}}", &helper.container])
            .why("since when; `docker rm -f` removes it, if no run with another state directory needs it")
    } else {
        Hint::docker(["rm", "-f", &helper.container])
    };
    let state =
        if helper.running { "runs for a run that has no journal here" } else { "was left by a dead run" };
    Finding {
        kind: Kind::StrayHelper,
        risk: Risk::Low,
        subject: format!("helper {}", printable(&helper.container)),
        container: None,
        what: format!("it {state} ({})", printable(&helper.run)),
        mitigation: vec![mitigation],
    }
}

pub(super) fn unreadable(repository: &Path, unreadable: &[Unreadable]) -> Option<Finding> {
    let first = unreadable.first()?;
    let others = and_more(unreadable.len(), 1);
    let what = format!("{}: {}{others}", shown(&first.path), printable(&first.why));
    Some(of_repository(repository, Risk::Medium, what))
}

/// Returns what to say of a repository that cannot be used, with what its own refusal says to type next.
pub(super) fn no_repository(repository: &Path, refusal: &Error) -> Finding {
    let mitigation = refusal.hints().to_vec();
    Finding { mitigation, ..of_repository(repository, Risk::High, printable(&refusal.chain())) }
}

/// Returns what a server could not do when the repository was made there.
pub(super) fn limits(repository: &Path, probed: &Probed) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |what: &str, advice: &str| {
        let mitigation = vec![Hint::advice(advice)];
        findings.push(Finding { mitigation, ..of_repository(repository, Risk::Low, what.to_owned()) });
    };
    if !probed.deletes {
        add(
            "when it was made, volsnap could not delete there: what a failed run leaves there stays",
            "allow it to delete there (in a bucket of S3, s3:DeleteObject); or have somebody else remove what `volsnap list` calls incomplete",
        );
    }
    if !probed.lists_uploads {
        add(
            "when it was made, the server did not tell of unfinished uploads: what a dead run has sent stays, and nobody sees it",
            "give the bucket a rule that removes unfinished uploads after two days (AbortIncompleteMultipartUpload)",
        );
    }
    findings
}

fn of_repository(repository: &Path, risk: Risk, what: String) -> Finding {
    Finding {
        kind: Kind::Repository,
        risk,
        subject: format!("repository {}", shown(repository)),
        container: None,
        what,
        mitigation: vec![Hint::volsnap(["list"])],
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
