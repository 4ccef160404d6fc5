//! Journals of every format are read as they were meant, and finish in the right order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::model::container::Namespace;
use crate::model::location::MountSource;
use crate::model::manifest::Quiesce;
use crate::saga::in_turn;
use crate::saga::journal::{Entry, Opened};

/// Names every variant: a new one does not compile until it is named here, and then fails until a fixture has it.
macro_rules! variants {
    ($($variant:ident),* $(,)?) => {
        const VARIANTS: &[&str] = &[$(stringify!($variant)),*];

        fn variant(undo: &Undo) -> &'static str {
            match undo {
                $(Undo::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants!(
    StartContainers,
    Unpause,
    RemoveHelper,
    RemoveExpectedHelper,
    DiscardUnpublished,
    SwapBack,
    RestoreOldData,
    DiscardWork,
    ArchiveReplaced,
    RemoveVolume,
    EndProcesses,
    RemoveMadeDirectory,
    RemoveEmptyDirectory,
    DeleteDirectory,
    PutBackContainers,
    RemoveReplaced,
    RetractCopy,
    RestoreFile,
    KeepRecord,
    RunCommand,
    RemoveGuard,
    Rejoin,
);

/// Variants in a journal of their own, because they came later.
const LATER: usize = 4;

const NEWEST: &str = "v2";

fn fixtures(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats").join(format)
}

/// Opens a copy of a journal: opening locks it, and may write to it.
fn open(journal: &Path) -> (TempDir, Journal) {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("20261129T145921Z-281107.jsonl");
    std::fs::copy(journal, &copy).unwrap();
    match Journal::open(&copy).unwrap() {
        Opened::Orphan(journal) => (directory, journal),
        other => panic!("expected an orphan, got {other:?}"),
    }
}

fn open_fixture(format: &str, name: &str) -> Journal {
    open(&fixtures(format).join(name)).1
}

fn undos(journal: &Journal) -> Vec<Undo> {
    journal.open_entries().map(|entry| entry.undo().unwrap().clone()).collect()
}

#[test]
fn every_undo_is_in_a_journal_of_the_newest_format() {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(fixtures(NEWEST)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            found.extend(undos(&open(&path).1).iter().map(variant));
        }
    }
    let missing: Vec<_> = VARIANTS.iter().filter(|name| !found.contains(*name)).collect();
    assert!(missing.is_empty(), "no journal in fixtures/formats/{NEWEST} has {missing:?}");
}

#[test]
fn all_of_a_journal_is_understood_and_says_whose_it_is() {
    for format in ["v1", "v2"] {
        let journal = open_fixture(format, "journal.jsonl");
        assert_eq!(journal.newer_lines(), 0, "{format}");
        let info = journal.info();
        assert_eq!((info.verb.as_str(), info.subject.as_str(), info.pid), ("migrate", "db", 25049));
        assert_eq!(info.run, "20261129T145921Z-281107");
        assert_eq!(journal.version(), Some("0.1.0"));
        // The settled one is not open.
        assert_eq!(journal.open_entries().count(), VARIANTS.len() - LATER, "{format}");
        assert!(!journal.has_succeeded());
        assert!(open_fixture(format, "journal-succeeded.jsonl").has_succeeded());
    }
}

#[test]
fn what_a_journal_has_open_is_undone_by_rank_whatever_its_format() {
    let in_order = |journal: &Journal| -> Vec<&'static str> {
        let is_due = |entry: &Entry<Undo>| entry.when.is_due(journal.has_succeeded());
        in_turn(journal, is_due).iter().map(|entry| variant(entry.undo().unwrap())).collect()
    };
    for format in ["v1", "v2"] {
        let failed = [
            "EndProcesses",
            "RestoreOldData",
            "SwapBack",
            "PutBackContainers",
            "RestoreFile",
            "Unpause",
            "StartContainers",
            "RemoveHelper",
            "RemoveExpectedHelper",
            "RetractCopy",
            "DiscardWork",
            "DiscardUnpublished",
            "RemoveEmptyDirectory",
            "RemoveMadeDirectory",
            "RemoveVolume",
            "DeleteDirectory",
            "ArchiveReplaced",
        ];
        assert_eq!(in_order(&open_fixture(format, "journal.jsonl")), failed, "{format}");
        let only_on_failure = [
            "RetractCopy",
            "RestoreFile",
            "PutBackContainers",
            "RemoveEmptyDirectory",
            "RemoveMadeDirectory",
        ];
        let mut succeeded: Vec<_> =
            failed.into_iter().filter(|name| !only_on_failure.contains(name)).collect();
        let cleanup = succeeded.iter().position(|name| *name == "DiscardUnpublished").unwrap();
        succeeded.insert(cleanup, "RemoveReplaced");
        assert_eq!(in_order(&open_fixture(format, "journal-succeeded.jsonl")), succeeded, "{format}");
    }
}

#[test]
fn each_undo_means_what_it_meant_when_it_was_written() {
    for format in ["v1", "v2"] {
        for undo in undos(&open_fixture(format, "journal.jsonl")) {
            assert_means(&undo, format);
        }
    }
    let journal = open_fixture(NEWEST, "journal-record.jsonl");
    assert!(journal.has_succeeded());
    let records = undos(&journal);
    assert_eq!(records.len(), 2);
    records.iter().for_each(|undo| assert_means(undo, NEWEST));
    let commands = undos(&open_fixture(NEWEST, "journal-own-commands.jsonl"));
    assert_eq!(commands.len(), 1);
    commands.iter().for_each(|undo| assert_means(undo, NEWEST));
}

fn assert_means(undo: &Undo, format: &str) {
    let volume = MountSource::Volume("shop_pgdata".into());
    let container = "b5bd312a4df8bd53bc1977369c2835102cdb360992032f5634a51b8bfdb44f39";
    let snapshot = "20261129T145819Z-7e5a05";
    let assert_user = |user: &StoppedContainer| {
        let identity = &user.identity;
        assert_eq!((identity.id.as_str(), identity.name.as_str()), (container, "shop_db_1"));
        assert_eq!((identity.project.as_deref(), identity.service.as_deref()), (Some("shop"), Some("db")));
        assert_eq!((identity.number.as_deref(), user.grace_seconds, user.answered), (Some("1"), None, true));
        assert!(user.started_at.starts_with("2026-11-29T14:58:"), "{}", user.started_at);
    };
    match undo {
        Undo::StartContainers { containers } => {
            assert_eq!(containers.len(), 1);
            assert_user(&containers[0]);
        }
        Undo::Unpause { containers } => {
            assert_eq!((containers[0].id.as_str(), containers[0].name.as_str()), (container, "shop_db_1"));
            assert_eq!(containers[0].started_at, "2026-11-29T14:58:22.783033879Z");
        }
        Undo::RemoveHelper { name, run } | Undo::RemoveExpectedHelper { name, run } => {
            assert_eq!((name.as_str(), run.as_str()), ("volsnap-b0dac2ea2dd6", snapshot));
        }
        Undo::DiscardUnpublished { .. } => assert!(undo.describe().contains(snapshot), "{}", undo.describe()),
        Undo::SwapBack { place, users } => {
            assert_eq!(place.location, volume);
            assert_eq!((place.run.as_str(), users.len()), ("20261129T145840Z-32a94f", 1));
            assert_eq!(place.helper, "volsnap-b0dac2ea2dd6");
            assert_eq!(place.image, "volsnap-helper:059993efaaa482f7");
            assert_user(&users[0]);
        }
        Undo::RestoreOldData { place, kept, users } => {
            assert_eq!((&place.location, users.len()), (&volume, 1));
            assert_eq!(kept.name, "shop_pgdata/20261129T145840Z-32a94f");
            assert_eq!(kept.marker_files, [Path::new("PG_VERSION"), Path::new("global/pg_control")]);
            assert_eq!((kept.members, kept.bytes, kept.has_devices), (1301, 47_785_839, false));
            assert!(kept.digest.starts_with("4d836bf1"));
        }
        Undo::DiscardWork { place, with_old } => assert_eq!((&place.location, with_old), (&volume, &false)),
        Undo::ArchiveReplaced { place, safety } => {
            assert_eq!(place.location, volume);
            assert_eq!(safety.name(), "shop_pgdata/20261129T145840Z-32a94f");
            assert_eq!((safety.needed_bytes, safety.last.len()), (70_316_232, 2));
            assert_eq!(safety.tree, Path::new(".volsnap-work-20261129T145840Z-32a94f/old"));
            let manifest = &safety.manifest;
            assert!(manifest.is_safety());
            assert_eq!((manifest.method.quiesce, manifest.location()), (Quiesce::Stop, &volume));
            assert_eq!(manifest.evidence.stopped[0].name, "shop_db_1");
        }
        Undo::RemoveVolume { name, run } => {
            assert_eq!((name.as_str(), run.as_str()), ("volsnap-stage-20261129T145819Z-7e5a05", snapshot));
        }
        Undo::RemoveGuard { name, run } => assert_eq!(*name, format!("volsnap-guard-{run}")),
        Undo::EndProcesses { run } => assert_eq!(run, "20261129T145921Z-281107"),
        Undo::RemoveMadeDirectory { path, device, inode } => {
            assert_eq!(
                (path.as_path(), *device, *inode),
                (Path::new("/srv/volsnap/into"), 65024, 10_281_407)
            );
        }
        Undo::RemoveEmptyDirectory { path } => assert_eq!(path, Path::new("/srv/volsnap/above")),
        Undo::DeleteDirectory { path } => {
            assert_eq!(path, Path::new("/srv/volsnap/state/runs/20261129T145819Z-7e5a05"));
        }
        Undo::PutBackContainers { containers } => {
            let replaced = &containers[0];
            assert_eq!(replaced.identity.name, "shop_db_1");
            assert_eq!((&replaced.source, containers.len()), (&volume, 1));
            assert_eq!(replaced.destination, Path::new("/var/lib/postgresql/data"));
            assert_eq!(format!("{:?}", replaced.description), format!("RawInspect({container:?})"));
        }
        Undo::RemoveReplaced { containers } => assert_eq!(containers[0].id, container),
        Undo::Rejoin { sharers } => {
            let [sharer] = &sharers[..] else { panic!("{sharers:?}") };
            assert_eq!(sharer.identity.name, "shop-admin-1");
            assert_eq!(sharer.aside, "shop-admin-1-volsnap-rejoins-20261129T145921Z-281107");
            let [owner] = &sharer.owners[..] else { panic!("{sharer:?}") };
            assert_eq!((owner.namespace, owner.identity.name.as_str()), (Namespace::Network, "shop-db-1"));
        }
        Undo::RetractCopy { copy } => {
            assert_eq!(copy.place.location, MountSource::Directory("/srv/volsnap/pgdir".into()));
            let proof = copy.proof.as_ref().unwrap();
            assert_eq!((proof.engine.as_str(), copy.started), ("postgresql", false));
            assert_eq!(copy.made.as_ref().unwrap().inode, 10_790_534);
        }
        Undo::RestoreFile { file } => {
            assert_eq!(file.path, Path::new("/srv/volsnap/app/docker-compose.yml"));
            assert!(file.backup.as_ref().is_some_and(|backup| {
                backup.ends_with("docker-compose.yml.volsnap-20261129T145921Z-281107.bak")
            }));
            assert!(file.written.starts_with("c7cb652b"), "{format}");
        }
        Undo::KeepRecord { path, record: Some(record) } => {
            assert_eq!(path, Path::new("/srv/volsnap/state/migrations/srv-volsnap-pgdir.json"));
            assert_eq!(record["volume"], "shop_pgdata");
        }
        Undo::RunCommand { owed } => {
            assert_eq!((owed.container.name.as_str(), owed.command.limit), ("shop-cache-1", 30));
            assert_eq!(owed.command.title(), "redis-cli config set save '3600 1'");
        }
        Undo::KeepRecord { path, record: None } => {
            assert_eq!(path, Path::new("/srv/volsnap/state/migrations/srv-volsnap-other.json"));
        }
    }
}

#[test]
fn a_container_says_which_database_it_ran_where_its_line_is_young_enough() {
    let databases = |format, name| -> Vec<Option<String>> {
        undos(&open_fixture(format, name)).into_iter().flat_map(databases_of).collect()
    };
    let said = databases("v2", "journal-databases.jsonl");
    assert_eq!(said, vec![Some("postgresql".to_owned()); 4]);
    for format in ["v1", "v2"] {
        assert_eq!(databases(format, "journal.jsonl"), [None, None, None, None], "{format}");
    }
}

#[test]
fn a_stopped_container_has_the_data_that_it_is_stopped_for_and_older_lines_have_none() {
    let held = |format, name| -> Vec<_> {
        let stopped = undos(&open_fixture(format, name)).into_iter().filter_map(|undo| match undo {
            Undo::StartContainers { containers } => Some(containers),
            _ => None,
        });
        stopped.flatten().map(|one| one.data).collect()
    };
    let written = held("v2", "journal-held-data.jsonl");
    let [Some(data)] = written.as_slice() else { panic!("{written:?}") };
    assert_eq!(data.volumes, ["shop_pgdata"]);
    assert_eq!(data.paths, [Path::new("/var/lib/docker/volumes/shop_pgdata/_data")]);
    assert_eq!(data.users[0].name, "shop_db_1");
    for format in ["v1", "v2"] {
        assert_eq!(held(format, "journal.jsonl"), [None], "{format}");
    }
}

fn databases_of(undo: Undo) -> Vec<Option<String>> {
    match undo {
        Undo::StartContainers { containers: users }
        | Undo::SwapBack { users, .. }
        | Undo::RestoreOldData { users, .. } => users.into_iter().map(|user| user.database).collect(),
        Undo::PutBackContainers { containers } => containers.into_iter().map(|one| one.database).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn what_must_wait_for_data_says_the_same_containers_as_the_data() {
    // No line of format 1 says so: it follows from the kind of undo.
    let journal = open_fixture("v1", "journal.jsonl");
    let concerns = |name: &str| undos(&journal).iter().find(|undo| variant(undo) == name).unwrap().concerns();
    let containers = concerns("StartContainers");
    assert_eq!(containers.len(), 2);
    for data in ["SwapBack", "RestoreOldData", "PutBackContainers", "Unpause"] {
        assert_eq!(concerns(data), containers, "{data}");
    }
}
