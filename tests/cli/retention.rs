//! `prune`, `pin`, `unpin`, `remove`, `undelete`, `ack`: what is kept, what goes, and how it can be had back.

use std::fs;

use chrono::Utc;
use serde_json::Value;
use volsnap::model::ids::SnapshotId;
use volsnap::model::manifest::{Manifest, SAFETY_TAG};
use volsnap::repository::Snapshot;

use crate::hand_made::{Recipe, id, make, tree};
use crate::program::{Ran, Volsnap};
use crate::schema::assert_fits;

/// Returns the second at which one began that is so many days old.
fn days_ago(days: i64) -> i64 {
    Utc::now().timestamp() - id(0).begun().unwrap().timestamp() - days * 86_400
}

/// A repository with a snapshot of each of the last days, the oldest first.
fn with_days(days: i64) -> (Volsnap, Vec<SnapshotId>) {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let make =
        |day| make(&volsnap, tree.path(), &Recipe { second: days_ago(day), ..Recipe::default() }).manifest.id;
    let ids = (1..=days).rev().map(make).collect();
    (volsnap, ids)
}

fn pruned(ran: &Ran, code: i32) -> Value {
    let value = serde_json::from_str(&ran.expect(code).stdout()).unwrap();
    assert_fits("prune", &value);
    value
}

fn fates(value: &Value) -> Vec<&str> {
    let snapshots = value["sources"][0]["snapshots"].as_array().unwrap();
    snapshots.iter().map(|one| one["fate"].as_str().unwrap()).collect()
}

#[test]
fn a_dry_run_shows_the_plan_with_its_reasons_and_touches_nothing() {
    let (volsnap, ids) = with_days(4);
    let before = volsnap.repository_files();
    let nothing = volsnap.run(["prune", "--keep-last", "9", "--quiet"]);
    assert_eq!(nothing.expect(0).stdout(), "");
    fs::remove_dir(volsnap.repository().join("running")).unwrap();
    let rules = ["prune", "--keep-daily", "2", "--min-redundancy", "1", "--dry-run"];
    let said = volsnap.run(rules).expect(0).stdout();
    for word in ["(daily 1 of 2)", "no rule keeps it", "would keep 2, mark 2", "delete 0", ids[0].as_str()] {
        assert!(said.contains(word), "{word} is not in\n{said}");
    }
    let plan = pruned(&volsnap.run(rules.into_iter().chain(["--json"])), 0);
    assert_eq!(fates(&plan), ["mark", "mark", "keep", "keep"]);
    assert_eq!(volsnap.repository_files(), before);
    assert!(!volsnap.repository().join("marks").exists() && !volsnap.repository().join("running").exists());
}

#[test]
fn what_goes_is_marked_first_can_be_had_back_and_is_gone_at_once_only_without_a_time_of_grace() {
    let (volsnap, ids) = with_days(3);
    let said = volsnap.run(["prune", "--keep-last", "2"]).expect(0).stdout();
    assert!(said.starts_with("kept 2, marked 1, deleted 0"), "{said}");
    // What it prints can be pasted.
    volsnap.paste(said.lines().find(|line| line.starts_with("volsnap undelete")).unwrap()).expect(0);
    let done = pruned(&volsnap.run(["prune", "--keep-last", "1", "--json"]), 0);
    assert_eq!((done["marked"].as_array().unwrap().len(), &done["freed_bytes"]), (2, &Value::from(0)));
    let listed = volsnap.list();
    assert_eq!(listed.len(), 3);
    assert_fits("list", &Value::from(listed.clone()));
    assert!(listed[0]["deletion"]["due"].is_string() && listed[2]["deletion"].is_null(), "{listed:#?}");
    let text = volsnap.run(["list"]).expect(0).stdout();
    assert_eq!(text.lines().filter(|line| line.contains(", deleted after ")).count(), 2, "{text}");
    let show = volsnap.run(["show", ids[0].as_str()]).expect(0).stdout();
    assert!(show.contains("no rule keeps it"), "{show}");
    let shown = volsnap.run(["show", ids[0].as_str(), "--json"]).json();
    assert_fits("show", &shown);

    // What show prints has it back, and what that prints keeps it.
    let back = show.lines().find(|line| line.contains("volsnap undelete")).unwrap().trim().to_owned();
    let said = volsnap.paste(&back).expect(0).stdout();
    let pin = said.lines().find(|line| line.starts_with("volsnap pin")).unwrap();
    volsnap.paste(pin).expect(0);
    let text = volsnap.run(["list"]).expect(0).stdout();
    assert!(text.lines().nth(1).unwrap().contains(", pinned"), "{text}");

    let plan = pruned(&volsnap.run(["prune", "--keep-last", "1", "--grace", "0", "--dry-run", "--json"]), 0);
    assert_eq!(fates(&plan), ["keep", "delete", "keep"]);
    let done = pruned(&volsnap.run(["prune", "--keep-last", "1", "--grace", "0", "--json"]), 0);
    assert_eq!(done["deleted"][0].as_str().unwrap(), format!("shop_db_data/{}", ids[1]));
    assert!(done["freed_bytes"].as_u64().unwrap() > 0);
    let left: Vec<_> = volsnap.list().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(left, [ids[0].as_str(), ids[2].as_str()]);
    assert_eq!(volsnap.repository_files().len(), 6);
    volsnap.run(["verify", "--all"]).expect(0);
    let running = fs::read_dir(volsnap.repository().join("running")).unwrap().count();
    assert_eq!(running, 0, "the runs are over");
}

#[test]
fn without_a_rule_and_of_an_unknown_source_nothing_is_done() {
    let (volsnap, _) = with_days(2);
    volsnap.run(["prune"]).refused(2, &["no rule", "--keep-daily"]);
    volsnap.run(["prune", "--keep-last", "0"]).refused(2, &["no rule"]);
    volsnap
        .run(["prune", "nosuch", "--keep-last", "1"])
        .refused(2, &["no snapshots of nosuch", "volsnap list"]);
    volsnap.run(["prune", "--keep-last", "many"]).refused(2, &["unlimited"]);
    assert!(!volsnap.repository().join("marks").exists());
}

#[test]
fn only_the_source_that_is_named_is_pruned() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    for source in ["a", "b"] {
        for day in [2, 1] {
            let _ =
                make(&volsnap, tree.path(), &Recipe { source, second: days_ago(day), ..Recipe::default() });
        }
    }
    let done = pruned(&volsnap.run(["prune", "a", "--keep-last", "1", "--json"]), 0);
    assert_eq!(done["sources"].as_array().unwrap().len(), 1);
    let marked: Vec<_> = volsnap.list().into_iter().filter(|row| !row["deletion"].is_null()).collect();
    assert!(marked.len() == 1 && marked[0]["source"] == "a", "{marked:#?}");
}

#[test]
fn the_last_verified_one_and_what_a_restore_has_replaced_stay() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let safety =
        |manifest: &mut Manifest| drop(manifest.tags.insert(SAFETY_TAG.to_owned(), "true".to_owned()));
    let made = |day, adjust: &dyn Fn(&mut Manifest)| -> Snapshot {
        make(&volsnap, tree.path(), &Recipe { second: days_ago(day), adjust, ..Recipe::default() })
    };
    let verified = made(40, &|_| {});
    let (_, _) = (made(30, &safety), made(3, &safety));
    let _ = (made(20, &|_| {}), made(1, &|_| {}));
    volsnap.run(["verify", verified.manifest.id.as_str()]).expect(0);
    let plan = pruned(&volsnap.run(["prune", "--keep-last", "1", "--dry-run", "--json"]), 0);
    assert_eq!(fates(&plan), ["keep", "mark", "mark", "keep", "keep"], "{plan:#}");
    let reasons = &plan["sources"][0]["snapshots"][0]["reasons"];
    assert_eq!(reasons, &serde_json::json!(["the last verified one"]));
}

#[test]
fn a_drop_stops_the_prune_with_6_until_somebody_acknowledges_it() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let empty = |manifest: &mut Manifest| {
        let counts = &mut manifest.parts.first_mut().counts;
        (counts.files, counts.raw_bytes) = (0, 0);
    };
    let _ = make(&volsnap, tree.path(), &Recipe { second: days_ago(2), ..Recipe::default() });
    let _ = make(&volsnap, tree.path(), &Recipe { second: days_ago(1), adjust: &empty, ..Recipe::default() });
    let stopped = pruned(&volsnap.run(["prune", "--keep-last", "1", "--json"]), 6);
    assert_eq!(fates(&stopped), ["keep", "keep"]);
    assert!(stopped["sources"][0]["stopped"][0].as_str().unwrap().contains("is empty"), "{stopped:#}");
    let said = volsnap.run(["prune", "--keep-last", "1"]);
    assert!(said.expect(6).stdout().contains("1 source left alone"), "{}", said.stdout());
    // What it prints next is what lets it go on.
    volsnap.paste(stopped["sources"][0]["next"][0].as_str().unwrap()).expect(0);
    let done = pruned(&volsnap.run(["prune", "--keep-last", "1", "--json"]), 0);
    assert_eq!(done["marked"].as_array().unwrap().len(), 1);
    let nothing = volsnap.run(["ack", "shop_db_data", "--json"]).json();
    assert_fits("ack", &nothing);
    assert_eq!(nothing, Value::Array(Vec::new()));
}

#[test]
fn what_cannot_be_read_stops_the_prune_of_its_source_with_6_and_stays() {
    let (volsnap, ids) = with_days(3);
    let broken = volsnap.repository().join(format!("snapshots/shop_db_data/shop_db_data-{}.json", ids[0]));
    fs::write(&broken, "{").unwrap();
    let said = volsnap.run(["prune", "--keep-last", "1"]);
    assert!(said.expect(6).stdout().contains("nothing of it is removed"), "{}", said.stdout());
    assert!(broken.exists() && !volsnap.repository().join("marks").exists());
}

#[test]
fn remove_refuses_what_is_pinned_or_the_last_and_says_what_would_do_it() {
    let (volsnap, ids) = with_days(2);
    let (first, last) = (ids[0].as_str(), ids[1].as_str());
    let pinned = volsnap.run(["pin", first, "--reason", "the audit", "--json"]).json();
    assert_fits("pin", &pinned);
    assert!(volsnap.run(["show", first]).expect(0).stdout().contains(": the audit"));
    volsnap.run(["remove", first]).refused(2, &["is pinned", "volsnap unpin"]);
    assert_fits("unpin", &volsnap.run(["unpin", first, "--json"]).json());
    let removed = volsnap.run(["remove", first, "--json"]).json();
    assert_fits("remove", &removed);
    assert_eq!(removed["outcome"], "marked");
    assert_eq!(volsnap.run(["show", "latest", "--json"]).json()["id"], last);
    volsnap.run(["remove", last]).refused(2, &["the last good snapshot", "--even-the-last"]);
    volsnap.run(["pin", first]).refused(2, &["marked for deletion", "volsnap undelete"]);
    assert_fits("undelete", &volsnap.run(["undelete", first, "--json"]).json());
    volsnap.run(["undelete", first]).refused(2, &["not marked for deletion"]);
    let removed = volsnap.run(["remove", first, "--grace", "0s", "--json"]).json();
    assert_eq!(removed["outcome"], "deleted");
    assert_eq!(volsnap.list().len(), 1);
}

#[test]
fn what_a_dead_run_has_left_goes_a_day_later() {
    let (volsnap, ids) = with_days(1);
    let folder = volsnap.repository().join("snapshots/shop_db_data");
    let dead = id(days_ago(3));
    let (old, young) = (
        folder.join(format!("shop_db_data-{dead}.tar.zst")),
        folder.join(format!("shop_db_data-{}.tar.zst.partial", id(days_ago(2)))),
    );
    fs::write(&old, "half").unwrap();
    fs::write(&young, "half").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(25);
    fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
    let done = pruned(&volsnap.run(["prune", "--keep-last", "9", "--json"]), 0);
    assert_eq!(done["incomplete"][0]["id"], dead.as_str());
    assert!(!old.exists() && young.exists());
    assert_eq!(volsnap.list()[0]["id"], ids[0].as_str());
}
