//! Every command that is printed to be typed next can be pasted, and does what it says.

use std::fs;

use volsnap::model::manifest::Manifest;

use crate::hand_made::{Changed, Recipe, make, tree};
use crate::program::Volsnap;

/// The only command that was printed.
#[track_caller]
fn only(commands: &[String]) -> &str {
    let [command] = commands else { panic!("not one: {commands:?}") };
    command
}

/// A volsnap whose repository lies at a place that a shell would take for something else.
fn odd() -> (Volsnap, String) {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    let odd = volsnap.directory().join("it's $HOME; (an odd) *place*");
    fs::create_dir_all(volsnap.directory()).unwrap();
    fs::rename(volsnap.repository(), &odd).unwrap();
    (volsnap, odd.to_str().unwrap().to_owned())
}

#[test]
fn what_is_there_is_listed_in_the_repository_that_was_named() {
    let (volsnap, repository) = odd();
    for arguments in [
        &["--repo", &repository, "show", "nosuch"][..],
        &["show", "nosuch", "--repo", &repository],
        &["verify", "nosuch", &format!("--repo={repository}")],
    ] {
        let refused = volsnap.run(arguments);
        let command = only(&refused.expect(2).next()).to_owned();
        let listed = volsnap.paste(&command);
        assert!(listed.expect(0).stdout().contains("shop_db_data"), "{command}: {}", listed.stdout());
    }
    // Named by the environment, which the next command has as well, it need not be said again.
    let refused = volsnap.run_with(&["show", "nosuch"], &[("VOLSNAP_REPO", &repository)]);
    assert_eq!(only(&refused.next()), "volsnap list    # says what there is");
}

#[test]
fn a_snapshot_is_verified_and_another_looked_for_by_the_commands_that_are_printed() {
    let (volsnap, repository) = odd();
    let shown = volsnap.run(["show", "latest", "--repo", &repository]);
    let command = only(&shown.expect(0).next()).to_owned();
    assert!(volsnap.paste(&command).expect(0).stdout().contains("is verified"), "{command}");

    let listed = volsnap.run(["list", "--json", "--repo", &repository]).json();
    let _damaged = Changed::by(listed[0]["archive"].as_str().unwrap().as_ref(), |bytes| bytes[100] ^= 1);
    let damaged = volsnap.run(["verify", "latest", "--repo", &repository]);
    let command = only(&damaged.expect(3).next()).to_owned();
    assert!(volsnap.paste(&command).expect(0).stdout().contains("shop_db_data"), "{command}");
}

#[test]
fn the_repository_that_is_not_there_is_the_one_that_the_first_snapshot_makes() {
    let volsnap = Volsnap::new();
    let refused = volsnap.run(["list", "--repo", "/no such/place"]);
    let expected = "volsnap --repo '/no such/place' snapshot TARGET    # makes it, with the first snapshot";
    assert_eq!(only(&refused.expect(2).next()), expected);
}

/// Types a command that ends with this code, and pastes the printed command of this number, which succeeds. Returns it,
/// and what it prints.
#[track_caller]
fn leads_on(volsnap: &Volsnap, typed: &[&str], code: i32, number: usize) -> (String, String) {
    let refused = volsnap.run(typed);
    let printed = refused.expect(code).next();
    let command = printed.get(number).unwrap_or_else(|| panic!("{printed:?}\n{}", refused.stderr()));
    let command = command.split("    #").next().unwrap().trim().to_owned();
    assert_ne!(command, format!("volsnap {}", typed.join(" ")), "the very command just typed");
    let pasted = volsnap.paste(&command);
    let printed = pasted.expect(0).stdout();
    (command, printed)
}

/// A repository with a snapshot of each of these seconds.
fn with(seconds: &[i64]) -> (Volsnap, Vec<String>) {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let made = seconds.iter().map(|&second| {
        make(&volsnap, tree.path(), &Recipe { second, ..Recipe::default() }).manifest.id.to_string()
    });
    let ids = made.collect();
    (volsnap, ids)
}

#[test]
fn what_may_mean_several_is_one_of_them_with_all_else_that_was_typed() {
    let (volsnap, ids) = with(&[0, 1]);
    let (command, shown) = leads_on(&volsnap, &["show", &ids[0][..4], "--files"], 2, 1);
    assert!(command.contains("--files") && command.contains(&ids[1]), "{command}");
    assert!(shown.contains("sub/random"), "{}", shown);
    leads_on(&volsnap, &["verify", &ids[0][..4], "--dry-run"], 2, 0);
}

#[test]
fn who_may_not_be_removed_is_unpinned_first_or_another_is_verified_or_removed() {
    let (volsnap, ids) = with(&[0, 1]);
    let _ = volsnap.run(["pin", &ids[0]]).expect(0);
    leads_on(&volsnap, &["remove", &ids[0]], 2, 0);
    // The other is verified, or it goes all the same.
    let _ = volsnap.run(["verify", &ids[0]]).expect(0);
    leads_on(&volsnap, &["remove", &ids[0]], 2, 0);
    let _ = volsnap.run(["remove", &ids[0]]).expect(0);
    let (command, _) = leads_on(&volsnap, &["remove", &ids[1], "--grace", "2h"], 2, 0);
    assert!(command.contains("--grace 2h --even-the-last"), "{command}");

    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let first = make(&volsnap, tree.path(), &Recipe::default()).manifest.id;
    let needs = |manifest: &mut Manifest| manifest.needs = vec![first.clone()];
    let needing = make(&volsnap, tree.path(), &Recipe { second: 1, adjust: &needs, ..Recipe::default() });
    let (command, _) = leads_on(&volsnap, &["remove", first.as_str()], 2, 0);
    assert!(command.contains(needing.manifest.id.as_str()), "{command}");
}

#[test]
fn what_is_marked_is_had_back_before_it_is_pinned() {
    let (volsnap, ids) = with(&[0, 1]);
    let remove = || volsnap.run(["remove", &ids[0]]);
    let _ = remove().expect(0);
    let (command, _) = leads_on(&volsnap, &["pin", &ids[0]], 2, 0);
    assert!(command.contains("undelete"), "{command}");
    let _ = volsnap.run(["pin", &ids[0]]).expect(0);
    let _ = volsnap.run(["unpin", &ids[0]]).expect(0);
    leads_on(&volsnap, &["undelete", &ids[0]], 2, 0);
    let removed = remove();
    let back = removed.expect(0).stdout();
    let back = back.lines().find(|line| line.starts_with("volsnap undelete")).unwrap();
    let _ = volsnap.paste(back).expect(0);
}

#[test]
fn a_prune_without_a_rule_or_of_what_is_not_there_says_what_would_do() {
    let (volsnap, ids) = with(&[0, 1]);
    for number in [0, 1] {
        let (command, planned) = leads_on(&volsnap, &["prune", "--keep-last", "0"], 2, number);
        assert!(command.contains("--dry-run") && planned.contains("would"), "{command}");
    }
    leads_on(&volsnap, &["prune", "nosuch", "--keep-last", "1"], 2, 0);
    // What cannot be read stops it, and is listed; and so it stops a removal.
    let manifest = format!("snapshots/shop_db_data/shop_db_data-{}.json", ids[0]);
    fs::write(volsnap.repository().join(manifest), "{").unwrap();
    let stopped = volsnap.run(["prune", "--keep-last", "1"]);
    let said = stopped.expect(6).stdout();
    let list = said.lines().find_map(|line| line.trim().strip_prefix("-> ")).unwrap();
    let _ = volsnap.paste(list).expect(0);
    let stopped = volsnap.run(["prune", "--keep-last", "1", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&stopped.expect(6).stdout()).unwrap();
    let _ = volsnap.paste(value["sources"][0]["next"][0].as_str().unwrap()).expect(0);
    leads_on(&volsnap, &["remove", &ids[1], "--even-the-last"], 3, 0);
}

#[test]
fn a_page_that_is_not_there_leads_to_the_help() {
    let (_, helped) = leads_on(&Volsnap::new(), &["man", "nosuch"], 2, 0);
    assert!(helped.contains("snapshot"), "{}", helped);
}

#[test]
fn an_engine_that_cannot_be_chosen_or_reached_is_named_or_asked() {
    let volsnap = Volsnap::new();
    let docker = volsnap.home().join(".docker");
    fs::create_dir_all(&docker).unwrap();
    fs::write(docker.join("config.json"), "{").unwrap();
    let refused = volsnap.run_with(&["list", "--stages"], &[("DOCKER_HOST", "")]);
    let printed = refused.expect(1).next();
    let command =
        printed.iter().find(|line| line.contains("--host unix://")).unwrap_or_else(|| panic!("{printed:?}"));
    let named = volsnap.paste(command);
    assert!(!named.stderr().contains("find out which engine"), "{}", named.stderr());

    let away = volsnap.run(["list", "--stages", "--host", "tcp://127.0.0.1:1"]);
    let command = away.expect(1).next().remove(0);
    // The client says the same of the same engine.
    let asked = volsnap.paste(&command);
    assert!(
        asked.code() != Some(0) && asked.stderr().contains("127.0.0.1:1"),
        "{command}: {}",
        asked.stderr()
    );
}

#[test]
fn a_unit_of_somebody_else_is_looked_at_and_left_alone() {
    let (volsnap, root) = (Volsnap::new(), tempfile::tempdir().unwrap());
    let unit = root.path().join("etc/systemd/system/volsnap-recover.service");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(&unit, "mine").unwrap();
    let typed = ["install", "recover", "--root", root.path().to_str().unwrap()];
    let (_, printed) = leads_on(&volsnap, &typed, 1, 0);
    assert!(printed.contains("ExecStart="), "{}", printed);
    assert_eq!(fs::read_to_string(&unit).unwrap(), "mine");
    // Where no systemd is, nothing is installed.
    if !std::path::Path::new("/run/systemd/system").exists() {
        leads_on(&volsnap, &["install", "recover"], 1, 0);
    }
}
