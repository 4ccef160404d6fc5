//! `list` and `show`: what there is, and nothing that is not whole.

use std::fs;

use serde_json::Value;
use volsnap::archive::Codec;
use volsnap::clock::Clock;
use volsnap::model::ids::SnapshotId;
use volsnap::model::manifest::{Consistency, Manifest, SAFETY_TAG, StoppedContainer};

use crate::hand_made::{Recipe, database, id, list_path, make, tree};
use crate::program::Volsnap;

/// Fields that scripts may rely on.
const PROMISED: [&str; 10] = [
    "id",
    "source",
    "archive",
    "quiesce",
    "capture",
    "consistency",
    "downtime_ms",
    "raw_bytes",
    "stored_bytes",
    "files",
];

#[test]
fn list_has_every_snapshot_oldest_first_with_the_promised_fields() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    for (source, second) in [("b", 2), ("a", 3), ("b", 1)] {
        let _ = make(&volsnap, tree.path(), &Recipe { source, second, ..Recipe::default() });
    }
    let listed = volsnap.list();
    let ids: Vec<_> = listed.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3].map(id).each_ref().map(SnapshotId::as_str));
    for row in &listed {
        for field in PROMISED {
            assert!(!row[field].is_null(), "{field} is missing: {row}");
        }
        assert!(fs::metadata(row["archive"].as_str().unwrap()).unwrap().is_file());
    }
    let of_one = volsnap.run(["list", "b", "--json"]).json();
    assert_eq!(of_one.as_array().unwrap().len(), 2);
    let text = volsnap.run(["list"]).expect(0).stdout();
    let rows: Vec<_> = text.lines().collect();
    assert_eq!(rows.len(), 4, "{text}");
    assert!(rows[0].starts_with("SNAPSHOT"), "{text}");
    assert!(rows[1].starts_with(ids[0]) && rows[3].starts_with(ids[2]), "{text}");
}

#[test]
fn what_a_restore_has_kept_of_replaced_data_is_marked() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let safety =
        |manifest: &mut Manifest| drop(manifest.tags.insert(SAFETY_TAG.to_owned(), "true".to_owned()));
    let _ = make(&volsnap, tree.path(), &Recipe { second: 1, ..Recipe::default() });
    let _ = make(&volsnap, tree.path(), &Recipe { second: 2, adjust: &safety, ..Recipe::default() });
    let text = volsnap.run(["list"]).expect(0).stdout();
    let marked: Vec<_> = text.lines().map(|row| row.contains(", safety")).collect();
    assert_eq!(marked, [false, false, true], "{text}");
}

#[test]
fn a_source_without_snapshots_is_named_as_such() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    let text = volsnap.run(["list", "shop_db"]).expect(0).stdout();
    assert!(text.contains("no snapshots of shop_db in"), "{text}");
    assert_eq!(volsnap.run(["list", "shop_db", "--json"]).json(), Value::Array(Vec::new()));
}

#[test]
fn show_has_what_is_known_of_a_snapshot() {
    let volsnap = Volsnap::new();
    let (tree, inspection) = database();
    let snapshot = make(
        &volsnap,
        tree.path(),
        &Recipe {
            adjust: &|manifest| {
                manifest.evidence.database = Some(inspection.clone());
                manifest.consistency = manifest.evidence.at_rest();
                manifest.evidence.stopped.push(StoppedContainer {
                    name: "shop-db-1".into(),
                    exit_code: 0,
                    oom_killed: false,
                });
                manifest.downtime_ms = 1940;
                manifest.tags.insert("why".into(), "before the upgrade".into());
            },
            ..Recipe::default()
        },
    );
    let text = volsnap.run(["show", "latest"]).expect(0).stdout();
    for word in [
        snapshot.manifest.id.as_str(),
        "clean: postgresql 15, shut down",
        "1.94 s (shop-db-1)",
        "why=before the upgrade",
        "7710510804842835016",
        "tar --zstd",
    ] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    let json = volsnap.run(["show", "latest", "--json"]).json();
    assert_eq!(json["format_version"], 2);
    // What the first format had is there by its names.
    assert_eq!(json["location"]["volume"], "shop_db_data");
    assert_eq!((&json["quiesce"], &json["capture"]), (&Value::from("stop"), &Value::from("direct")));
    assert_eq!(json["archive"]["blake3"], snapshot.manifest.archive().blake3);
    assert_eq!(json["file_list"]["file"], snapshot.manifest.file_list().file);
    assert_eq!(json["counts"]["members"], snapshot.manifest.counts().members);
    assert_eq!(json["evidence"]["database"]["state"], "shut down");
    assert_eq!(json["archive_path"], snapshot.archive_path().to_str().unwrap());
    let files = volsnap.run(["show", "latest", "--files"]).expect(0).stdout();
    assert!(files.lines().any(|line| line.ends_with("  global/pg_control")), "{files}");
    let files = volsnap.run(["show", "latest", "--files", "--json"]).expect(0).stdout();
    let paths: Vec<Value> =
        files.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["path"].clone()).collect();
    assert!(paths.contains(&Value::from("PG_VERSION")), "{files}");
}

#[test]
fn a_snapshot_is_found_by_id_prefix_latest_source_and_file() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let older = make(&volsnap, tree.path(), &Recipe::default());
    let newer = make(&volsnap, tree.path(), &Recipe { second: 60, ..Recipe::default() });
    let (old_id, new_id) = (older.manifest.id.as_str(), newer.manifest.id.as_str());
    for (spec, wanted) in [
        (old_id, old_id),
        ("latest", new_id),
        ("shop_db_data/latest", new_id),
        (&format!("shop_db_data/{old_id}"), old_id),
        (&new_id[..20], new_id),
        (older.archive_path().to_str().unwrap(), old_id),
        (older.manifest_path().to_str().unwrap(), old_id),
        (list_path(&newer).to_str().unwrap(), new_id),
    ] {
        assert_eq!(volsnap.run(["show", spec, "--json"]).json()["id"], wanted, "{spec}");
    }
    volsnap.run(["show", &old_id[..9]]).refused(2, &["it can mean", old_id, new_id]);
    volsnap.run(["show", "shop_db_dat/latest"]).refused(2, &["shop_db_data/latest", "volsnap list"]);
    let _ = make(&volsnap, tree.path(), &Recipe { source: "other", ..Recipe::default() });
    let newest = format!("shop_db_data/{new_id}");
    volsnap.run(["show", "latest"]).refused(2, &["other/", &newest, &format!("volsnap show {newest}")]);
    assert_eq!(
        volsnap.run(["show", "shop_db_data", "--json"]).json()["id"],
        new_id,
        "a source means its latest"
    );
    assert_eq!(volsnap.run(["list", "volume:shop_db_data", "--json"]).json().as_array().unwrap().len(), 2);
}

#[test]
fn what_a_dead_run_left_is_listed_apart_and_is_never_a_snapshot_or_latest() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let whole = make(&volsnap, tree.path(), &Recipe::default());
    let folder = whole.archive_path().parent().unwrap().to_owned();
    let newer = id(100);
    let archive = folder.join(format!("shop_db_data-{newer}.tar.zst"));
    fs::copy(whole.archive_path(), &archive).unwrap();
    let manifest = folder.join(format!("shop_db_data-{newer}.json.partial"));
    fs::copy(whole.manifest_path(), &manifest).unwrap();
    let partial = folder.join(format!("shop_db_data-{}.tar.zst.partial", id(200)));
    fs::write(&partial, "half").unwrap();

    let listed = volsnap.run(["list", "--json"]);
    assert_eq!(listed.json().as_array().unwrap().len(), 1);
    let text = volsnap.run(["list"]).expect(0).stdout();
    let (snapshots, incomplete) = text.split_once("\n\n").unwrap();
    assert_eq!(snapshots.lines().count(), 2, "{text}");
    for path in [&archive, &manifest, &partial] {
        assert!(incomplete.contains(path.to_str().unwrap()), "{text}");
        // A script that reads the JSON is told too.
        assert!(listed.stderr().contains(path.to_str().unwrap()), "{}", listed.stderr());
    }
    assert_eq!(volsnap.run(["show", "latest", "--json"]).json()["id"], whole.manifest.id.as_str());
    for spec in [newer.as_str(), archive.to_str().unwrap(), partial.to_str().unwrap()] {
        volsnap.run(["show", spec]).refused(
            3,
            &[if spec == archive.to_str().unwrap() {
                "there is no manifest beside it"
            } else {
                "it is incomplete"
            }],
        );
    }
    assert_eq!(volsnap.run(["verify", "--all", "--json"]).json().as_array().unwrap().len(), 1);
}

#[test]
fn a_snapshot_that_is_not_clean_says_so_and_why() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(
        &volsnap,
        tree.path(),
        &Recipe {
            adjust: &|manifest| {
                manifest.consistency = Consistency::CrashConsistent;
                manifest.evidence.reasons = vec!["container db ended with exit code 137".into()];
            },
            codec: Codec::Gzip { level: 1 },
            ..Recipe::default()
        },
    );
    let text = volsnap.run(["show", "latest"]).expect(0).stdout();
    assert!(text.contains("crash-consistent: container db ended with exit code 137"), "{text}");
    assert!(text.contains("tar --gzip"), "{text}");
    assert_eq!(volsnap.list()[0]["reasons"][0], "container db ended with exit code 137");
}

#[test]
fn a_repository_that_is_not_there_is_named_and_not_made() {
    let volsnap = Volsnap::new();
    for arguments in [&["list"][..], &["show", "latest"], &["verify", "latest"], &["verify", "--all"]] {
        let repository = volsnap.repository();
        volsnap
            .run(arguments)
            .refused(2, &[repository.to_str().unwrap(), "there is none", "snapshot TARGET"]);
        assert!(!repository.exists());
    }
    fs::create_dir(volsnap.repository()).unwrap();
    fs::write(volsnap.repository().join("holiday.jpg"), "").unwrap();
    volsnap.run(["list"]).refused(2, &["it is no repository", "holiday.jpg"]);
    fs::write(volsnap.repository().join("volsnap.json"), r#"{"format_version": 9}"#).unwrap();
    volsnap.run(["list"]).refused(1, &["made by a later volsnap", "9"]);
    fs::write(volsnap.repository().join("volsnap.json"), "{").unwrap();
    volsnap.run(["list"]).refused(3, &["volsnap.json"]);
}

#[tokio::test]
async fn verify_all_of_an_empty_repository_says_that_there_is_nothing() {
    let volsnap = Volsnap::new();
    volsnap::repository::Repository::open_or_init(&volsnap.repository(), &Clock::system()).await.unwrap();
    let ran = volsnap.run(["verify", "--all"]);
    assert!(ran.expect(0).stderr().contains("no snapshots in"), "{}", ran.stderr());
    assert_eq!(volsnap.run(["verify", "--all", "--json"]).json(), Value::Array(Vec::new()));
    volsnap.assert_no_snapshot();
}
