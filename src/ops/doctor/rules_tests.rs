//! Each rule, on a database that has nothing else wrong with it.

use crate::engine::context::DEFAULT_ADDRESS;
use std::collections::BTreeMap;

use rstest::rstest;

use super::*;
use crate::database::postgres::Postgres;
use crate::model::container::{ContainerState, MountKind};
use crate::model::quote::shell_quote;
use crate::ops::recover::About;
use crate::saga::RunInfo;
use crate::selector::memory::in_memory;

const PGDATA: &str = "/var/lib/postgresql/data";
const ANONYMOUS: &str = "3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a";

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn volume_mount(name: &str, destination: &str) -> Mount {
    Mount {
        kind: MountKind::Volume,
        volume: Some(name.to_owned()),
        source: format!("/var/lib/docker/volumes/{name}/_data").into(),
        destination: destination.into(),
        read_only: false,
    }
}

/// Everything that is known; tests make it worse.
struct Situation {
    keeper: Keeper,
    directory: PathBuf,
    speaks_for_container: bool,
    container: Container,
    volume: Volume,
    history: History,
    consumers: Vec<Consumer>,
    outside: Option<Vec<OutsideData>>,
    same_disk: Option<Option<bool>>,
    api_version: ApiVersion,
    work_directories: Vec<String>,
    migrate_to: Option<PathBuf>,
    migrate: Trial,
    recreate: Trial,
    held: bool,
}

impl Situation {
    /// A service with nothing wrong.
    fn healthy() -> Self {
        let container = Container {
            id: "1".to_owned(),
            name: "shop_db_1".to_owned(),
            env: vec!["PGDATA=/var/lib/postgresql/data".to_owned(), "POSTGRES_PASSWORD=s3cret".to_owned()],
            state: ContainerState {
                status: "running".to_owned(),
                running: true,
                ..ContainerState::default()
            },
            mounts: vec![volume_mount("company-pg", PGDATA)],
            restart_policy: "unless-stopped".to_owned(),
            stop_signal: Some("SIGINT".to_owned()),
            stop_timeout: Some(120),
            ..Container::default()
        };
        let newest = NewestSnapshot {
            name: "company-pg/20261120T203011Z-4f2a91".to_owned(),
            source: "company-pg".to_owned(),
            held: time("2026-11-20T20:30:11Z"),
            verified: true,
            stored: true,
            damaged: false,
        };
        Self {
            keeper: Keeper::Database(&Postgres, &Postgres),
            directory: PGDATA.into(),
            speaks_for_container: true,
            container,
            volume: Volume { name: "company-pg".to_owned(), ..Volume::default() },
            history: History { newest: Some(newest), drilled: true, unpacked: true },
            consumers: Vec::new(),
            outside: Some(Vec::new()),
            same_disk: Some(Some(false)),
            api_version: ApiVersion(1, 41),
            work_directories: Vec::new(),
            migrate_to: Some("/srv/shop/db".into()),
            migrate: Trial::Open,
            recreate: Trial::Open,
            held: false,
        }
    }

    fn in_project(mut self) -> Self {
        let project = ("com.docker.compose.project", "shop");
        self.container.labels = labels(&[project, ("com.docker.compose.service", "db")]);
        self.volume.labels = labels(&[project, ("com.docker.compose.volume", "company-pg")]);
        self
    }

    fn newest(&mut self) -> &mut NewestSnapshot {
        self.history.newest.as_mut().unwrap()
    }

    fn stopped(&mut self, finished_at: &str) {
        self.container.state.running = false;
        self.container.state.status = "exited".to_owned();
        self.container.state.finished_at = finished_at.to_owned();
    }

    fn examine(&self) -> Vec<Finding> {
        let directory = self.directory.clone();
        let mounts = self.container.mounts.iter().filter(|mount| directory.starts_with(&mount.destination));
        let mount = mounts.max_by_key(|mount| mount.destination.components().count());
        let data = DatabaseData { container: &self.container, directory, mount };
        let location = mount.and_then(selector::location_of);
        let target = target_of(&self.container).spelling();
        let volumes = std::slice::from_ref(&self.volume);
        let findings = examine(&Case {
            keeper: self.keeper,
            speaks_for_container: self.speaks_for_container,
            memory: in_memory(&data.directory, data.mount, volumes),
            ways: Ways {
                snapshot: vec![Hint::volsnap(["snapshot", &target])],
                migrate_to: self.migrate_to.clone(),
                migrate: self.migrate.clone(),
                recreate: self.recreate.clone(),
                target,
            },
            data: &data,
            location: location.as_ref(),
            host_path: Some(Path::new("/var/lib/docker/volumes/company-pg/_data")),
            volume: Some(&self.volume),
            api_version: self.api_version,
            history: self.history.clone(),
            consumers: &self.consumers,
            outside: self.outside.clone(),
            same_disk: self.same_disk,
            work_directories: self.work_directories.clone(),
            repository: Path::new("/backups"),
            now: time("2026-11-21T12:00:00Z"),
            held: self.held,
        });
        let said = serde_json::to_string(&findings).unwrap();
        assert!(!said.contains("s3cret"), "{said}");
        findings
    }

    /// Returns the findings, except where the data is and that pruning is a risk some day.
    fn found(&self) -> Vec<(Kind, Risk)> {
        let usual = [(Kind::DataLocation, Risk::Info), (Kind::Prune, Risk::Low)];
        let all = self.examine().into_iter().map(|finding| (finding.kind, finding.risk));
        all.filter(|found| !usual.contains(found)).collect()
    }

    fn what(&self, kind: Kind) -> Finding {
        self.examine().into_iter().find(|finding| finding.kind == kind).unwrap()
    }
}

#[test]
fn of_a_database_with_nothing_wrong_it_is_said_where_its_data_is() {
    let healthy = Situation::healthy();
    assert_eq!(healthy.found(), []);
    let location = healthy.what(Kind::DataLocation);
    assert_eq!(
        location.what,
        "postgresql, running; its data directory /var/lib/postgresql/data is in volume company-pg \
         (/var/lib/docker/volumes/company-pg/_data on the host)"
    );
    assert_eq!(location.subject, "container shop_db_1");
}

#[rstest]
#[case::layer(|s: &mut Situation| s.container.mounts.clear(), &[(Kind::DataInContainer, Risk::High)])]
#[case::memory(
    |s: &mut Situation| s.container.mounts[0] = Mount { kind: MountKind::Tmpfs, destination: PGDATA.into(), ..Mount::default() },
    &[(Kind::DataInMemory, Risk::High)]
)]
#[case::shared_memory(
    |s: &mut Situation| { s.container.mounts.clear(); s.directory = "/dev/shm/pg".into(); },
    &[(Kind::DataInMemory, Risk::High)]
)]
#[case::a_volume_in_memory(
    |s: &mut Situation| s.volume.options = labels(&[("type", "tmpfs"), ("device", "tmpfs")]),
    &[(Kind::DataInMemory, Risk::High)]
)]
#[case::anonymous(
    |s: &mut Situation| s.container.mounts = vec![volume_mount(ANONYMOUS, PGDATA)],
    &[(Kind::AnonymousVolume, Risk::High)]
)]
#[case::wrong_level(
    |s: &mut Situation| s.container.mounts = vec![volume_mount("company-pg", "/var/lib/postgresql"), volume_mount(ANONYMOUS, PGDATA)],
    &[(Kind::AnonymousVolume, Risk::High), (Kind::WrongMountLevel, Risk::High)]
)]
#[case::auto_remove(|s: &mut Situation| s.container.auto_remove = true, &[(Kind::AutoRemove, Risk::Medium)])]
#[case::auto_remove_with_the_data(
    |s: &mut Situation| { s.container.auto_remove = true; s.container.mounts = vec![volume_mount(ANONYMOUS, PGDATA)]; },
    &[(Kind::AnonymousVolume, Risk::High), (Kind::AutoRemove, Risk::High)]
)]
#[case::outside_in_the_layer(
    |s: &mut Situation| s.outside = Some(vec![OutsideData { what: "tablespace 1".into(), path: "/ts".into(), location: None }]),
    &[(Kind::DataOutside, Risk::High)]
)]
#[case::outside_in_a_volume(
    |s: &mut Situation| s.outside = Some(vec![OutsideData {
        what: "pg_wal".into(),
        path: "/wal".into(),
        location: Some(MountSource::Volume("wal".into())),
    }]),
    &[(Kind::DataOutside, Risk::Medium)]
)]
#[case::not_asked(|s: &mut Situation| s.outside = None, &[(Kind::NotExamined, Risk::Low)])]
#[case::default_grace(|s: &mut Situation| s.container.stop_timeout = None, &[(Kind::StopGrace, Risk::Medium)])]
#[case::one_second(|s: &mut Situation| s.container.stop_timeout = Some(1), &[(Kind::StopGrace, Risk::High)])]
#[case::without_limit(|s: &mut Situation| s.container.stop_timeout = Some(-1), &[])]
#[case::smart_shutdown(|s: &mut Situation| s.container.stop_signal = None, &[(Kind::StopSignal, Risk::Medium)])]
#[case::short_name(|s: &mut Situation| s.container.stop_signal = Some("INT".into()), &[])]
#[case::no_policy(|s: &mut Situation| s.container.restart_policy = "no".into(), &[(Kind::NoRestartPolicy, Risk::Low)])]
#[case::stopped_by_hand(
    |s: &mut Situation| s.stopped("2026-11-20T20:30:12.5Z"),
    &[(Kind::Prune, Risk::Medium), (Kind::StaysStopped, Risk::Medium)]
)]
#[case::no_snapshot(|s: &mut Situation| s.history = History::default(), &[(Kind::NoSnapshot, Risk::High)])]
#[case::damaged(|s: &mut Situation| s.newest().damaged = true, &[(Kind::DamagedSnapshot, Risk::High)])]
#[case::only_stored(|s: &mut Situation| s.newest().verified = false, &[(Kind::NeverVerified, Risk::Medium)])]
#[case::never_verified(|s: &mut Situation| (s.newest().verified, s.newest().stored) = (false, false), &[(Kind::NeverVerified, Risk::Medium)])]
#[case::never_drilled(|s: &mut Situation| s.history.drilled = false, &[(Kind::NeverDrilled, Risk::Low)])]
#[case::old(|s: &mut Situation| s.newest().held = time("2026-11-13T12:00:00Z"), &[(Kind::OldSnapshot, Risk::Medium)])]
#[case::not_old_yet(|s: &mut Situation| s.newest().held = time("2026-11-15T12:00:00Z"), &[])]
#[case::same_disk(|s: &mut Situation| s.same_disk = Some(Some(true)), &[(Kind::SameDisk, Risk::Medium)])]
#[case::disk_not_seen(|s: &mut Situation| s.same_disk = Some(None), &[(Kind::NotExamined, Risk::Low)])]
#[case::remote(|s: &mut Situation| s.same_disk = None, &[(Kind::NotExamined, Risk::Low)])]
#[case::work_directory(
    |s: &mut Situation| s.work_directories = vec![".volsnap-work-x".into()],
    &[(Kind::WorkDirectory, Risk::Low)]
)]
fn each_risk_is_found_and_no_other(#[case] worsen: fn(&mut Situation), #[case] expected: &[(Kind, Risk)]) {
    let mut situation = Situation::healthy();
    worsen(&mut situation);
    let mut found = situation.found();
    // If the data is on nothing that lasts, there is nothing to have a snapshot of.
    found.sort_by_key(|(kind, risk)| (*risk, format!("{kind:?}")));
    let mut expected = expected.to_vec();
    expected.sort_by_key(|(kind, risk)| (*risk, format!("{kind:?}")));
    assert_eq!(found, expected);
}

#[test]
fn a_snapshot_of_data_that_has_not_changed_since_is_not_old() {
    let mut situation = Situation::healthy();
    situation.newest().held = time("2026-01-01T00:00:00Z");
    situation.stopped("2026-01-01T00:00:02Z");
    assert!(!situation.found().iter().any(|(kind, _)| *kind == Kind::OldSnapshot));
    situation.stopped("2026-01-02T00:00:00Z");
    assert!(situation.found().contains(&(Kind::OldSnapshot, Risk::Medium)));
}

#[test]
fn a_projects_volume_goes_with_compose_down() {
    let mut situation = Situation::healthy().in_project();
    let finding = situation.what(Kind::ComposeDown);
    assert_eq!(finding.subject, "service db of shop (container shop_db_1)");
    assert_eq!(finding.mended_by(), "volsnap migrate service:shop/db /srv/shop/db");
    situation.container.stop_timeout = Some(10);
    let grace = situation.what(Kind::StopGrace).mended_by();
    assert!(grace.starts_with("volsnap restart service:shop/db --recreate    # once `stop_grace"), "{grace}");
}

#[rstest]
#[case::old_engine(ApiVersion(1, 41), true, "`docker volume prune` removes")]
#[case::new_engine(ApiVersion(1, 42), true, "`docker volume prune --all` removes")]
#[case::old_engine_and_stopped(
    ApiVersion(1, 41),
    false,
    "`docker system prune --volumes` removes it, and the volume"
)]
#[case::new_engine_and_stopped(ApiVersion(1, 42), false, "`docker container prune` removes it")]
fn what_pruning_does_hangs_on_the_engine(#[case] api: ApiVersion, #[case] runs: bool, #[case] words: &str) {
    let mut situation = Situation::healthy();
    situation.api_version = api;
    if !runs {
        situation.stopped("2026-11-20T20:30:12Z");
    }
    let what = situation.what(Kind::Prune).what;
    assert!(what.contains(words), "{what}");
}

#[test]
fn names_are_quoted_in_commands_and_escaped_in_words() {
    let mut situation = Situation::healthy();
    situation.container.name = "a b\n".to_owned();
    situation.history = History::default();
    let finding = situation.what(Kind::NoSnapshot);
    assert!(!finding.subject.contains('\n'));
    let quoted = shell_quote("container:a b\n");
    assert_eq!(finding.mended_by(), format!("volsnap snapshot {quoted}"));
    assert_ne!(quoted, "container:a b\n");
}

#[test]
fn a_dead_run_is_a_high_risk_and_one_at_work_is_none() {
    let info = RunInfo {
        run: "20261120T203011Z-4f2a91".to_owned(),
        verb: "restore".to_owned(),
        subject: "volume pg".to_owned(),
        host: Some("tcp://10.0.0.2:2375".to_owned()),
        pid: 1,
        started: time("2026-11-20T20:30:11Z"),
    };
    let mut run = Unfinished {
        run: info,
        held: false,
        process: None,
        finisher: None,
        open: vec!["remove the volume x".to_owned()],
        holds: Vec::new(),
        about: About::default(),
    };
    assert_eq!(service_away(&run, DEFAULT_ADDRESS), None);
    let finding = open_journal(&run, DEFAULT_ADDRESS).unwrap();
    assert_eq!((finding.kind, finding.risk), (Kind::OpenJournal, Risk::High));
    assert_eq!(finding.mended_by(), "volsnap --host tcp://10.0.0.2:2375 recover");
    assert_eq!(open_journal(&run, "tcp://10.0.0.2:2375").unwrap().mended_by(), "volsnap recover");
    run.held = true;
    assert_eq!(open_journal(&run, DEFAULT_ADDRESS), None);
    assert_eq!(service_away(&run, DEFAULT_ADDRESS), None);
}

#[test]
fn a_service_that_is_away_for_a_run_is_brought_back_by_that_run_or_by_recover() {
    let info = RunInfo {
        run: "20261120T203011Z-4f2a91".to_owned(),
        verb: "snapshot".to_owned(),
        subject: "db".to_owned(),
        host: None,
        pid: 4711,
        started: time("2026-11-20T20:30:11Z"),
    };
    let (open, holds) = (vec!["start shop_db_1".to_owned()], vec!["shop_db_1".to_owned()]);
    let mut run = Unfinished {
        run: info,
        held: false,
        process: None,
        finisher: None,
        open,
        holds,
        about: About::default(),
    };
    assert_eq!(open_journal(&run, DEFAULT_ADDRESS), None, "it is said once");
    let finding = service_away(&run, DEFAULT_ADDRESS).unwrap();
    assert_eq!((finding.kind, finding.risk), (Kind::ServiceLeftDown, Risk::High));
    assert_eq!(
        finding.what,
        "snapshot of db (run 20261120T203011Z-4f2a91) died, and has not brought back: shop_db_1"
    );
    assert_eq!(finding.mended_by(), "volsnap recover");
    (run.held, run.process) = (true, Some(4711));
    let finding = service_away(&run, DEFAULT_ADDRESS).unwrap();
    assert_eq!((finding.kind, finding.risk), (Kind::ServiceHeld, Risk::Low));
    assert_eq!(
        finding.what,
        "snapshot of db (run 20261120T203011Z-4f2a91), process 4711, begun 2026-11-20 20:30:11 UTC, is at work and \
         holds: shop_db_1"
    );
    assert!(finding.mended_by().starts_with("kill -TERM 4711    # "), "{}", finding.mended_by());
    // Its process number may be another's by now.
    run.process = None;
    assert!(!service_away(&run, DEFAULT_ADDRESS).unwrap().mended_by().contains("kill"));
}

#[test]
fn nobody_is_told_to_start_what_a_run_holds() {
    let mut situation = Situation::healthy();
    situation.container.restart_policy = "unless-stopped".to_owned();
    situation.container.state = ContainerState { status: "exited".into(), ..ContainerState::default() };
    situation.outside = None;
    let starts = |situation: &Situation| {
        let advice = situation.examine().iter().map(Finding::mended_by).collect::<String>();
        advice.contains("docker start")
    };
    assert!(starts(&situation));
    situation.held = true;
    assert!(!starts(&situation));
}

#[rstest]
#[case::nowhere_to_go(|s: &mut Situation| s.migrate_to = None)]
#[case::refused(|s: &mut Situation| s.migrate = Trial::Closed)]
#[case::not_all_there(|s: &mut Situation| s.outside = Some(vec![OutsideData { what: "pg_wal".into(), path: "/wal".into(), location: None }]))]
fn what_cannot_be_migrated_is_saved_by_a_snapshot(#[case] prevent: fn(&mut Situation)) {
    let mut situation = Situation::healthy().in_project();
    for kind in [Kind::ComposeDown, Kind::Prune] {
        let mitigation = situation.what(kind).mended_by();
        assert_eq!(mitigation, "volsnap migrate service:shop/db /srv/shop/db");
    }
    prevent(&mut situation);
    for kind in [Kind::ComposeDown, Kind::Prune] {
        assert_eq!(situation.what(kind).mended_by(), "volsnap snapshot service:shop/db");
    }
}

#[test]
fn a_directory_for_the_data_is_named_after_its_service() {
    let Situation { mut container, .. } = Situation::healthy().in_project();
    assert_eq!(directory_for(&container), Some("/srv/shop/db".into()));
    container.labels.insert("com.docker.compose.service".to_owned(), "../etc".to_owned());
    assert_eq!(directory_for(&container), None);
    container.labels.clear();
    assert_eq!(directory_for(&container), Some("/srv/shop_db_1".into()));
    container.name = "a b".to_owned();
    assert_eq!(directory_for(&container), None);
}

/// A store that cannot be asked, and a program of which nothing is known, with nothing wrong.
fn keeper(keeper: Keeper) -> Situation {
    let mut situation = Situation { keeper, outside: None, ..Situation::healthy() };
    situation.container.image = "shop/app:1".to_owned();
    situation.history.drilled = false;
    situation
}

fn store() -> Keeper {
    Keeper::Store(crate::database::stores::named("MariaDB or MySQL").unwrap())
}

#[test]
fn what_is_no_known_database_is_examined_and_is_less_grave_if_it_is_no_store() {
    let grave = |situation: &Situation| {
        let mut found = situation.found();
        found.sort_by_key(|(kind, _)| format!("{kind:?}"));
        found
    };
    for (kept, risk, grace) in
        [(store(), Risk::High, Risk::Medium), (Keeper::Program, Risk::Medium, Risk::Low)]
    {
        let mut situation = keeper(kept);
        assert_eq!(situation.found(), [(Kind::NeverDrilled, Risk::Low)]);
        situation.history = History::default();
        situation.container.stop_timeout = None;
        situation.container.restart_policy = "no".to_owned();
        // A signal is nobody's affair where it is not known which one would be right.
        situation.container.stop_signal = None;
        assert_eq!(
            grave(&situation),
            [(Kind::NoRestartPolicy, Risk::Low), (Kind::NoSnapshot, risk), (Kind::StopGrace, grace)]
        );
        // What is to say of the container is said once.
        situation.speaks_for_container = false;
        assert_eq!(grave(&situation), [(Kind::NoSnapshot, risk)]);
    }
    let said = |situation: &Situation| situation.what(Kind::DataLocation).what;
    assert!(said(&keeper(store())).starts_with("MariaDB or MySQL, running; what it keeps in "));
    assert!(said(&keeper(Keeper::Program)).starts_with("image shop/app:1, running; what it writes to "));
}

#[test]
fn what_cannot_be_booted_is_unpacked_and_then_it_is_for_a_person_to_start_it() {
    let mut situation = keeper(store());
    situation.history.unpacked = false;
    let finding = situation.what(Kind::NeverDrilled);
    assert_eq!(finding.what, "no snapshot of it was ever unpacked to try it");
    assert!(finding.mended_by().contains("--drill    # unpacks it"), "{}", finding.mended_by());
    situation.history.unpacked = true;
    let finding = situation.what(Kind::NeverDrilled);
    assert!(finding.what.ends_with("nothing has ever run on it"), "{}", finding.what);
    assert!(finding.mended_by().contains("--new-volume company-pg-try    # then"), "{}", finding.mended_by());
}

#[test]
fn a_volume_that_only_leads_elsewhere_is_told_as_that_and_nothing_that_removes_it_removes_the_data() {
    let mut situation = Situation::healthy().in_project();
    let is_risk = |kind: Kind, situation: &Situation| situation.examine().iter().any(|one| one.kind == kind);
    assert!(is_risk(Kind::ComposeDown, &situation) && is_risk(Kind::Prune, &situation));
    situation.volume.options = labels(&[("type", "none"), ("o", "bind"), ("device", "/data/pg")]);
    assert!(!is_risk(Kind::ComposeDown, &situation) && !is_risk(Kind::Prune, &situation));
    let said = situation.what(Kind::DataLocation).what;
    assert!(said.ends_with("is in volume company-pg, which is the host's directory /data/pg"), "{said}");
}

#[test]
fn data_in_memory_is_told_with_when_it_goes_and_none_is_left_once_it_has_stopped() {
    let mut situation = Situation::healthy();
    situation.volume.options = labels(&[("type", "tmpfs"), ("device", "tmpfs")]);
    let what = situation.what(Kind::DataInMemory).what;
    assert!(
        what.ends_with("(volume company-pg) and goes when the last container stops that mounts it"),
        "{what}"
    );
    assert!(situation.what(Kind::DataLocation).what.ends_with("volume company-pg, in memory"));
    situation.stopped("2026-11-20T20:30:12Z");
    let finding = situation.what(Kind::DataInMemory);
    assert!(finding.what.ends_with("went when the container stopped"), "{}", finding.what);
    assert_eq!(finding.mended_by(), "");
}

#[test]
fn what_a_restart_cannot_make_anew_is_not_restarted() {
    let mut situation = Situation::healthy().in_project();
    situation.container.stop_timeout = Some(10);
    situation.recreate = Trial::Closed;
    let grace = situation.what(Kind::StopGrace).mended_by();
    assert!(grace.starts_with("put `stop_grace_period: 2m` into the service db"), "{grace}");
    situation.recreate = Trial::Refused(vec![Hint::advice("no image"), Hint::docker(["pull", "x"])]);
    assert_eq!(situation.what(Kind::StopGrace).mended_by(), format!("{grace}\nno image\ndocker pull x"));
}

#[test]
fn why_the_data_stays_in_its_volume_is_said_once() {
    let mut situation = Situation::healthy().in_project();
    situation.migrate = Trial::Refused(vec![Hint::advice("the file is gone")]);
    assert_eq!(
        situation.what(Kind::ComposeDown).mended_by(),
        "volsnap snapshot service:shop/db\nthe file is gone"
    );
    assert_eq!(situation.what(Kind::Prune).mended_by(), "volsnap snapshot service:shop/db");
}

#[test]
fn what_a_server_could_not_do_is_worth_knowing_and_what_it_could_is_not() {
    let place = Path::new("s3://bucket/folder");
    let probed = |deletes, lists_uploads| Probed { conditional_create: false, deletes, lists_uploads };
    assert!(limits(place, &probed(true, true)).is_empty());
    let found = limits(place, &probed(false, false));
    assert!(found.iter().all(|finding| finding.risk == Risk::Low && finding.kind == Kind::Repository));
    let said: Vec<_> = found.iter().map(|finding| finding.what.as_str()).collect();
    assert!(said[0].contains("could not delete") && said[1].contains("unfinished uploads"), "{said:?}");
}
