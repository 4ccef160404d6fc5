//! Every plan and every report, with a fixed clock and fixed ids, pinned as people and as programs get them.

use std::fmt::Debug;

use chrono::{DateTime, TimeZone as _, Utc};
use serde::Serialize;
use volsnap::Error;
use volsnap::archive::Codec;
use volsnap::crypt::Recipients;
use volsnap::model::facts::checks::Checked;
use volsnap::model::facts::difference::{Difference, DifferenceKind, Severity};
use volsnap::model::facts::{FactsLevel, FactsSummary};
use volsnap::model::hint::Hint;
use volsnap::model::ids::SnapshotId;
use volsnap::model::manifest::{Capture, DrillTimes, Quiesce};
use volsnap::model::replication::{SlotKind, StoredSlot};
use volsnap::model::retention::alarm::Alarm;
use volsnap::model::retention::{Count, Decision, Fate, Reason, Rule};
use volsnap::model::source::Onlooker;
use volsnap::ops::check::{Against, CheckPlan, CheckReport};
use volsnap::ops::copy::CopyReport;
use volsnap::ops::doctor::{Finding, Kind, Risk};
use volsnap::ops::drill::DrillReport;
use volsnap::ops::key::KeyCheck;
use volsnap::ops::migrate::{Direction, MigratePlan, Migrated, Outcome, PlannedEdit, PlannedUser};
use volsnap::ops::plan::Plan;
use volsnap::ops::prune::{IncompleteFiles, PlannedSnapshot, PrunePlan, PruneReport, SourcePlan, Stopped};
use volsnap::ops::recover::{About, Unfinished};
use volsnap::ops::restart::{RestartPlan, RestartReport};
use volsnap::ops::restore::{Level, RestorePlan, Restored, SnapshotSlot};
use volsnap::ops::sharers::PlannedSharer;
use volsnap::ops::stages::KeptStage;
use volsnap::ops::verify::{Problem, Report};
use volsnap::saga::RunInfo;

use super::command::Commands;
use super::schema::assert_fits;
use super::{doctor, human, json, key, migrate, prune, report, text};

const ID: &str = "20261120T203011Z-4f2a91";

fn now() -> DateTime<Utc> {
    Utc.timestamp_opt(1_795_206_611, 0).unwrap()
}

fn id() -> SnapshotId {
    SnapshotId::new(now(), [0x4f, 0x2a, 0x91])
}

fn commands() -> Commands {
    Commands {
        repo: Some("/my repo".to_owned()),
        host: Some("tcp://db:2375".to_owned()),
        project: None,
        typed: ["--repo", "/my repo", "restore", "latest"].map(str::to_owned).to_vec(),
        several: false,
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Pins an object, which has to match the schema.
fn pin_json(name: &str, command: &str, object: &(impl Serialize + Debug)) {
    let value = json::value(object);
    assert_fits(command, &value);
    insta::assert_snapshot!(format!("{name}_json"), format!("{value:#}"));
}

/// Pins a text; its times are in the reader's zone.
fn pin_text(name: &str, said: &str) {
    insta::assert_snapshot!(name, said.replace(&text::time(now()), "2026-11-20 (in the zone of the reader)"));
}

fn summary(rows: u64) -> FactsSummary {
    FactsSummary { databases: 2, tables: 31, rows, estimated: false }
}

fn differences() -> Vec<Difference> {
    let lost = Difference {
        kind: DifferenceKind::MissingTable,
        severity: Severity::Damage,
        object: "memory_db: table public.images".to_owned(),
        before: Some("1000 rows".to_owned()),
        after: None,
        next: Some(Hint::volsnap(["restore", ID]).why("puts all of it back")),
    };
    let more = Difference {
        kind: DifferenceKind::MoreRows,
        severity: Severity::Explained,
        object: "memory_db: table public.users".to_owned(),
        before: Some("10 rows".to_owned()),
        after: Some("12 rows".to_owned()),
        next: None,
    };
    vec![lost, more]
}

fn checks() -> Vec<Checked> {
    let check = |name: &str, ok: bool| Checked {
        name: name.to_owned(),
        expect: "= 0".to_owned(),
        value: Some(if ok { "0" } else { "3" }.to_owned()),
        before: None,
        ok,
        why: None,
    };
    vec![check("images have bytes", true), check("no orphans", false)]
}

#[test]
fn the_plan_of_a_snapshot() {
    let plan = Plan {
        onlookers: vec![Onlooker {
            id: String::new(),
            container: "agent".to_owned(),
            writes: true,
            ignored: false,
            looked: true,
        }],
        id: ID.to_owned(),
        source: "shop_db_data".to_owned(),
        title: "volume shop_db_data".to_owned(),
        host_path: "/var/lib/docker/volumes/shop_db_data/_data".into(),
        database: Some("postgresql 15".to_owned()),
        data_directory: Some("".into()),
        quiesce: Quiesce::Stop,
        capture: Capture::Staged,
        capture_reason: "there is room for the copy".to_owned(),
        stage: Some("volsnap-stage-x".to_owned()),
        stage_needed_bytes: Some(3_000_000_000),
        stage_free_bytes: Some(80_000_000_000),
        codec: Codec::default(),
        stops: names(&["shop-app-1", "shop-db-1"]),
        freezes: Vec::new(),
        starts: names(&["shop-db-1", "shop-app-1"]),
        down_after_reboot: names(&["shop-app-1 (unless-stopped)", "shop-db-1 (unless-stopped)"]),
        own_commands: names(&["shop-db-1: before_hold: flush"]),
        stay_stopped: names(&["shop-backup-1"]),
        entries: 1234,
        raw_bytes: 2_900_000_000,
        needed_bytes: 2_950_000_000,
        free_bytes: Some(80_000_000_000),
        expected_downtime_ms: 1800,
        archive: format!("/my repo/snapshots/shop_db_data/shop_db_data-{ID}.tar.zst").into(),
    };
    pin_text("snapshot_plan", &human::plan(&plan));
    pin_json("snapshot_plan", "snapshot --dry-run", &json::SnapshotPlanObject::from(&plan));
}

fn slot() -> SnapshotSlot {
    SnapshotSlot {
        slot: StoredSlot {
            name: "app".into(),
            kind: SlotKind::Logical,
            plugin: Some("pgoutput".into()),
            database: Some(16_384),
            position: Some("0/3000148".into()),
        },
        database_name: Some("shop".into()),
        anew: Some(Hint::docker(["exec", "shop-db-1", "psql", "-d", "shop", "-c", "SELECT 1"])),
    }
}

fn restore_plan() -> RestorePlan {
    RestorePlan {
        onlookers: vec![],
        id: ID.to_owned(),
        archive: format!("shop_db_data/{ID}"),
        of: "volume shop_db_data".to_owned(),
        database: Some("postgresql 15".to_owned()),
        into: "volume shop_db_data".to_owned(),
        host_path: "/var/lib/docker/volumes/shop_db_data/_data".into(),
        makes: false,
        stops: names(&["shop-db-1"]),
        starts: names(&["shop-db-1"]),
        down_after_reboot: names(&["shop-db-1 (no)"]),
        own_commands: names(&["shop-db-1: before_hold: flush"]),
        stay_stopped: Vec::new(),
        members: 1234,
        bytes: 2_900_000_000,
        needed_bytes: 2_950_000_000,
        free_bytes: Some(80_000_000_000),
        replaces_entries: 1200,
        replaces_bytes: 2_800_000_000,
        safety_needs_bytes: 2_850_000_000,
        in_place: false,
        slots: vec![slot()],
        leaves_out_slots: true,
        fresh: None,
        safety: Some(format!("shop_db_data/{ID}")),
        level: Level::default(),
        warnings: names(&["the snapshot is crash-consistent"]),
    }
}

#[test]
fn a_restore() {
    let plan = restore_plan();
    pin_text("restore_plan", &human::restore_plan(&plan));
    pin_json("restore_plan", "restore --dry-run", &json::RestorePlanObject::from(&plan));
    let restored = Restored {
        plan,
        files: 1000,
        bytes: 2_900_000_000,
        downtime: Some(std::time::Duration::from_millis(2410)),
        elapsed: std::time::Duration::from_secs(21),
        slots_left_out: vec![slot()],
        safety: None,
        undo: Some(Hint::volsnap(["restore", &format!("shop_db_data/{ID}")])),
        next: vec![Hint::docker(["start", "shop-db-1"])],
    };
    pin_text("restored", &human::restored(&restored, &commands()));
    pin_json("restored", "restore", &json::RestoredObject::new(&restored, &commands()));
}

#[test]
fn a_migration() {
    let plan = MigratePlan {
onlookers: vec![],
        id: ID.to_owned(),
        direction: Direction::ToDirectory,
        title: "service db of shop".to_owned(),
        database: Some("postgresql 15".to_owned()),
        from: "volume shop_db_data".to_owned(),
        from_path: "/var/lib/docker/volumes/shop_db_data/_data".into(),
        to: "/srv/shop/db".to_owned(),
        makes: true,
        resumes: false,
        file_system: Some("ext4".to_owned()),
        bytes: 2_900_000_000,
        entries: 1234,
        needed_bytes: 2_950_000_000,
        free_bytes: 80_000_000_000,
        owner: (999, 999),
        replaces: false,
        users: vec![PlannedUser {
            container: "shop-db-1".to_owned(),
            running: true,
            mounted_at: "/var/lib/postgresql/data".into(),
            service: Some("service db of shop".to_owned()),
        }],
        sharers: vec![sharer(Some("service admin of shop"))],
        stops: names(&["shop-db-1"]),
        starts: names(&["shop-db-1"]),
        down_after_reboot: names(&["shop-db-1 (no)"]),
        own_commands: names(&["shop-db-1: before_hold: flush"]),
        edits: vec![PlannedEdit {
            path: "/srv/shop/compose.yaml".into(),
            new: false,
            removed: false,
            diff: "--- a\n+++ b\n-      - db_data:/var/lib/postgresql/data\n+      - /srv/shop/db:/var/lib/postgresql/data\n"
                .to_owned(),
        }],
        commands: vec![Hint::shell("docker compose up -d --no-deps db")],
        expected_downtime_ms: 4200,
        warnings: Vec::new(),
    };
    pin_text("migrate_plan", &migrate::plan(&plan));
    pin_json("migrate_plan", "migrate --dry-run", &json::MigratePlanObject::new(&plan, &commands()));
    let outcome = Outcome::Migrated(Box::new(Migrated {
        plan,
        downtime_ms: Some(4100),
        elapsed_ms: 21_000,
        compared_files: 1000,
        compared_bytes: 2_900_000_000,
        strict: Some(true),
        backups: vec![format!("/srv/shop/compose.yaml.volsnap-{ID}.bak").into()],
        remove: Hint::docker(["volume", "rm", "shop_db_data"]),
        back: Some(Hint::volsnap(["migrate", "service:shop/db", "--back"])),
    }));
    pin_text("migrated", &migrate::outcome(&outcome, &commands()));
    pin_json("migrated", "migrate", &json::MigrationObject::new(&outcome, &commands()));
    let already = Outcome::Already { title: "service db of shop".to_owned(), at: "/srv/shop/db".to_owned() };
    pin_text("already_migrated", &migrate::outcome(&already, &commands()));
    pin_json("already_migrated", "migrate", &json::MigrationObject::new(&already, &commands()));
}

fn sharer(service: Option<&str>) -> PlannedSharer {
    PlannedSharer {
        container: "shop-admin-1".to_owned(),
        shares: names(&["network of shop-db-1"]),
        running: service.is_some(),
        service: service.map(str::to_owned),
    }
}

#[test]
fn a_restart() {
    let plan = RestartPlan {
        onlookers: vec![],
        title: "service db of shop".to_owned(),
        database: Some("postgresql 15".to_owned()),
        snapshot: true,
        facts: FactsLevel::Quick,
        stops: names(&["shop-app-1", "shop-db-1"]),
        recreate: None,
        changes: Vec::new(),
        sharers: vec![sharer(None)],
        starts: names(&["shop-db-1", "shop-app-1"]),
        down_after_reboot: Vec::new(),
        own_commands: names(&["shop-db-1: before_hold: flush"]),
        stay_stopped: Vec::new(),
    };
    pin_text("restart_plan", &report::restart_plan(&plan));
    pin_json("restart_plan", "restart --dry-run", &json::RestartPlanObject::from(&plan));
    let done = RestartReport {
        ok: false,
        title: "service db of shop".to_owned(),
        containers: names(&["shop-db-1", "shop-app-1"]),
        downtime_ms: 1830,
        snapshot: Some(format!("shop_db_data/{ID}")),
        shutdown: Some("shut down".to_owned()),
        clean: Some(true),
        strict: true,
        differences: differences(),
        checks: checks(),
        level: FactsLevel::Quick,
        before: Some(summary(2000)),
        now: Some(summary(1002)),
        unread: Vec::new(),
    };
    pin_text("restarted", &report::restart(&done, &commands()));
    pin_json("restarted", "restart", &json::RestartObject::new(&done, &commands()));
}

#[test]
fn a_check() {
    let checked = CheckReport {
        ok: true,
        title: "service db of shop".to_owned(),
        container: Some("shop-db-1".to_owned()),
        against: Some(Against { snapshot: Some(format!("shop_db_data/{ID}")), taken: now() }),
        strict: false,
        differences: Vec::new(),
        checks: Vec::new(),
        level: FactsLevel::Full,
        before: Some(summary(2000)),
        now: summary(2002),
        unread: names(&["database closed: it takes no connections"]),
        ms: 320,
    };
    pin_text("checked", &report::check(&checked, &commands()));
    pin_json("checked", "check", &json::CheckObject::new(&checked, &commands()));
}

#[test]
fn a_check_that_is_only_planned() {
    let plan = CheckPlan {
        title: "service db of shop".to_owned(),
        container: Some("shop-db-1".to_owned()),
        against: Some(Against { snapshot: None, taken: now() }),
        checks: names(&["images have bytes", "no orphans"]),
    };
    pin_text("check_plan", &report::check_plan(&plan));
    pin_json("check_plan", "check --dry-run", &plan);
    let plan = CheckPlan { container: None, against: None, checks: Vec::new(), ..plan };
    pin_text("check_plan_of_files", &report::check_plan(&plan));
}

#[test]
fn a_check_of_files_says_no_more_than_that_they_were_counted() {
    let changed = Difference {
        kind: DifferenceKind::Files,
        severity: Severity::Information,
        object: "the files".to_owned(),
        before: Some("200 files, 1000 bytes".to_owned()),
        after: Some("150 files, 800 bytes".to_owned()),
        next: None,
    };
    let mut checked = CheckReport {
        ok: true,
        title: "service mysql of shop".to_owned(),
        container: None,
        against: Some(Against { snapshot: Some(format!("shop_mysql/{ID}")), taken: now() }),
        strict: false,
        differences: vec![changed],
        checks: Vec::new(),
        level: FactsLevel::Quick,
        before: Some(FactsSummary::default()),
        now: FactsSummary::default(),
        unread: names(&["what is in the 150 files: only their number and size were looked at"]),
        ms: 20,
    };
    pin_text("checked_files", &report::check(&checked, &commands()));
    checked.differences.clear();
    let said = report::check(&checked, &commands());
    assert!(said.contains("what is in them was not compared") && !said.contains("what it was"), "{said}");
}

#[test]
fn a_verification_with_a_drill() {
    let verified = Report {
        id: id(),
        ok: true,
        problems: Vec::new(),
        notes: names(&["the checksums of 1234 pages"]),
        files: 1000,
        raw_bytes: 2_900_000_000,
        pages: 1234,
        sealed: false,
        ms: 1700,
    };
    let drilled = DrillReport {
        id: id(),
        ok: false,
        problems: names(&["the database did not come up"]),
        differences: differences(),
        checks: checks(),
        unread: Vec::new(),
        notes: Vec::new(),
        image: Some("postgres:15".to_owned()),
        compared: true,
        files: 1000,
        raw_bytes: 2_900_000_000,
        times: DrillTimes { extract_ms: 3000, boot_ms: 900, compare_ms: 200, recovery_ms: 3900 },
    };
    let drill = json::DrillObject::new(&drilled, &commands());
    pin_json("verified", "verify", &json::VerifiedObject::new(&verified, Some(drill)));
    let damaged = Report {
        ok: false,
        problems: vec![Problem { path: Some("base/5/1".into()), block: Some(7), what: "wrong".into() }],
        ..verified
    };
    pin_json("damaged", "verify", &json::VerifiedObject::new(&damaged, None));
    pin_json("lost", "verify", &json::LostObject::new(None, "the manifest is gone".to_owned()));
}

#[test]
fn what_a_doctor_finds() {
    let finding = |kind, risk, mitigation| Finding {
        kind,
        risk,
        subject: "service db of shop (container shop-db-1)".to_owned(),
        container: Some("shop-db-1".to_owned()),
        what: "what there is to say of it".to_owned(),
        mitigation,
    };
    let snapshot = Hint::volsnap(["snapshot", "service:shop/db"]);
    let findings = [
        finding(Kind::NoSnapshot, Risk::High, vec![snapshot.clone()]),
        finding(Kind::SameDisk, Risk::Medium, vec![Hint::volsnap(["--repo", "/another/disk", "list"])]),
        finding(
            Kind::LeftoverVolume,
            Risk::Low,
            vec![snapshot.why("keeps what is in it"), Hint::docker(["volume", "rm", "shop_old"])],
        ),
        finding(Kind::DataLocation, Risk::Info, Vec::new()),
    ];
    pin_text("findings", &doctor::findings(&findings, &commands(), None));
    let objects: Vec<_> =
        findings.iter().map(|finding| json::FindingObject::new(finding, &commands())).collect();
    pin_json("findings", "doctor", &objects);
}

#[test]
fn what_runs_have_left() {
    let stage = KeptStage {
        source: "shop_db_data".to_owned(),
        volume: "volsnap-stage-x".to_owned(),
        run: ID.to_owned(),
        made: Some(now()),
        bytes: Some(2_900_000_000),
        remove: Hint::docker(["volume", "rm", "volsnap-stage-x"]),
    };
    let stages = [stage];
    pin_text("stages", &human::stages(&stages, &commands()));
    let objects: Vec<_> = stages.iter().map(|stage| json::StageObject::new(stage, &commands())).collect();
    pin_json("stages", "list --stages", &objects);
    let run = RunInfo {
        run: ID.to_owned(),
        verb: "snapshot".to_owned(),
        subject: "volume shop_db_data".to_owned(),
        host: None,
        pid: 4711,
        started: now(),
    };
    pin_json("recovered", "recover", &[json::RunObject::from(&run)]);
    let unfinished = Unfinished {
        run,
        held: false,
        process: None,
        finisher: None,
        open: names(&["start shop-db-1"]),
        holds: names(&["shop-db-1"]),
        about: About::default(),
    };
    pin_text("unfinished", &human::unfinished(std::slice::from_ref(&unfinished)));
    pin_json("unfinished", "recover --list", &[json::UnfinishedObject::from(&unfinished)]);
}

#[test]
fn a_failure() {
    let error = Error::failed("stop container shop-db-1")
        .with_source(std::io::Error::other("it did not stop in 10 min"))
        .state("nothing was stopped")
        .hint(Hint::logs("shop-db-1"))
        .or(Hint::instead(&["--repo="], ["--repo", "DIR"]).why("another disk"))
        .or(Hint::volsnap(["snapshot", "service:shop/db", "--quiesce", "pause"]))
        .or(Hint::advice("find out who starts it"));
    pin_text("failure", &human::error(&error, &commands(), None));
    pin_json("failure", "error", &json::FailureObject::new(&error, &commands()));
}

#[test]
fn a_prune() {
    let decision = |fate, reasons| Decision { id: id(), fate, reasons };
    let planned = |fate, reasons, due| PlannedSnapshot {
        source: "shop_db_data".to_owned(),
        decision: decision(fate, reasons),
        stored_bytes: 1_300_000_000,
        due,
    };
    let daily = Reason::Rule {
        rule: Rule::Daily,
        number: 1,
        of: Count::Number(7),
        period: "20 November 2026".to_owned(),
    };
    let shrunk = Alarm::Shrunk { id: id(), before: id(), from: 1000, to: 10 };
    let plan = PrunePlan {
        now: now(),
        sources: vec![
            SourcePlan {
                source: "shop_db_data".to_owned(),
                stopped: None,
                snapshots: vec![
                    planned(Fate::Keep, vec![daily, Reason::Verified { of: 1 }], None),
                    planned(Fate::Remove, vec![Reason::NoRule], None),
                    planned(Fate::Marked, vec![Reason::MarkedBefore], Some(now())),
                    planned(
                        Fate::Marked,
                        vec![Reason::MarkedBefore],
                        Some(now() + chrono::TimeDelta::days(1)),
                    ),
                    planned(Fate::Rescue, vec![Reason::Pinned], Some(now())),
                ],
            },
            SourcePlan {
                source: "old".to_owned(),
                stopped: Some(Stopped::Alarms(vec![shrunk])),
                snapshots: vec![planned(Fate::Keep, vec![Reason::Stopped], None)],
            },
        ],
        incomplete: vec![IncompleteFiles { source: "old".to_owned(), id: id(), bytes: 4096 }],
        half_deleted: vec![("old".to_owned(), id())],
        unread: vec!["/my repo/snapshots/old/x.json: not a whole manifest".to_owned()],
    };
    let at_tomorrow = |said: &str| {
        said.replace(
            &text::time(now() + chrono::TimeDelta::days(1)),
            "2026-11-21 (in the zone of the reader)",
        )
    };
    pin_text("prune_plan", &at_tomorrow(&prune::plan(&plan, None, &commands())));
    pin_json("prune_plan", "prune", &json::PruneObject::new(&plan, None, None, &commands()));
    let name = format!("shop_db_data/{ID}");
    let report = PruneReport {
        marked: vec![name.clone()],
        deleted: vec![name.clone()],
        rescued: Vec::new(),
        freed_bytes: 1_300_000_000,
        failed: vec![format!("{name}: delete x: no answer")],
    };
    pin_text("prune", &prune::pruned(&plan, &report, &commands()));
    pin_json("prune", "prune", &json::PruneObject::new(&plan, Some(&report), None, &commands()));
    let acknowledged = [("old".to_owned(), vec![Alarm::Empty { id: id() }])];
    pin_text("ack", &prune::acknowledged("old", &acknowledged));
    pin_json("ack", "ack", &acknowledged.each_ref().map(json::AcknowledgedObject::from));
}

#[test]
fn a_copy() {
    let copied = CopyReport {
        copied: vec![format!("shop_db_data/{ID}")],
        bytes: 1_300_000_000,
        there: names(&["shop_db_data/before"]),
        older: names(&["shop_db_data/older"]),
        failed: vec![("shop_db_data/damaged".to_owned(), "read x: it is damaged".to_owned())],
        damaged: true,
    };
    pin_text("copy", &prune::copied(&copied, std::path::Path::new("/mnt/nas"), false));
    pin_json("copy", "copy", &json::CopyObject::new(&copied, false));
}

#[test]
fn the_keys_of_a_repository() {
    let one = "age1qypqxpq9qcrsszg2pvxq6rs0zqg3yyc5z5tpwxqergd3c8g7rusqmwn7f2";
    let other = include_str!("../../fixtures/keys/ssh-ed25519.pub");
    let recipient = Recipients::parse(one).unwrap();
    let both = recipient.and(&Recipients::parse(other).unwrap());
    let path = std::path::Path::new("/media/key/identity.txt");
    pin_text("key_generated", &key::generated(&recipient, path));
    pin_json("key_generated", "key generate", &key::NewKeyObject::new(&recipient, path));
    pin_text("keys", &key::listed(&both, true));
    pin_json("keys", "key list", &key::RecipientsObject::new(Some(&both), true, false));
    pin_json("keys_of_none", "key trust", &key::RecipientsObject::new(None, true, true));
    let mut checked = KeyCheck {
        opens_new: Some(true),
        opened: Some(format!("shop_db_data/{ID}")),
        bytes: 4_200_000,
        not_opened: (0, 12),
    };
    pin_text("key_checked", &key::checked(&checked));
    pin_json("key_checked", "key check", &key::KeyCheckObject::from(&checked));
    checked = KeyCheck { opens_new: Some(false), not_opened: (3, 12), ..checked };
    pin_text("key_checked_of_old", &key::checked(&checked));
    let none = KeyCheck { opened: None, bytes: 0, not_opened: (0, 0), opens_new: Some(true) };
    pin_text("key_checked_on_nothing", &key::checked(&none));
    pin_json("key_checked_on_nothing", "key check", &key::KeyCheckObject::from(&none));
}
