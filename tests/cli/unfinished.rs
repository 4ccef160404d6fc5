//! What a run has left or holds is told first, whatever else is in the state directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use volsnap::model::container::Container;
use volsnap::saga::{RunInfo, When};
use volsnap::service::start::StoppedContainer;
use volsnap::undo::{Journal, Undo};

use crate::hand_made::{Recipe, make, tree};
use crate::program::Volsnap;
use crate::schema::assert_fits;

/// Begins a run of this process that has stopped a container; it holds it until the journal is dropped.
fn holding(volsnap: &Volsnap) -> Journal {
    held_by_this(volsnap, std::process::id())
}

/// The same of a run that another process has begun.
fn held_by_this(volsnap: &Volsnap, begun_by: u32) -> Journal {
    let info = RunInfo {
        run: "20261120T203011Z-4f2a91".to_owned(),
        verb: "snapshot".to_owned(),
        subject: "db".to_owned(),
        host: None,
        pid: begun_by,
        started: "2026-11-20T20:30:11Z".parse().unwrap(),
    };
    let mut journal = Journal::create(&volsnap.state(), &info).unwrap();
    let container =
        Container { id: "c0ffee".to_owned(), name: "shop-db-1".to_owned(), ..Container::default() };
    let containers = vec![StoppedContainer::of(&container)];
    journal.register(When::Always, Undo::StartContainers { containers }).unwrap();
    journal
}

#[test]
fn a_service_that_is_away_for_a_run_is_told_before_all_else() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    let looks = [&["list"][..], &["show", "latest"], &["show", "latest", "--files"], &["recover", "--list"]];
    let journal = holding(&volsnap);
    for arguments in looks {
        let ran = volsnap.run(arguments);
        // It will bring it back: no failure.
        let said = ran.expect(0).stderr();
        assert!(said.contains("is at work and holds: shop-db-1"), "{said}");
        assert!(said.contains(&format!("kill -TERM {}", std::process::id())), "{said}");
    }
    let path = journal.path().to_owned();
    drop(journal);
    let before = fs::read(&path).unwrap();
    for arguments in looks {
        let ran = volsnap.run(arguments);
        let said = ran.expect(4).stderr();
        assert!(said.contains("died, and has not brought back: shop-db-1"), "{said}");
        assert!(said.contains("volsnap recover"), "{said}");
        assert!(!ran.stdout().is_empty(), "its own output is complete");
    }
    let listed = volsnap.run(["list", "--json"]);
    let value = serde_json::from_str(&listed.expect(4).stdout()).unwrap();
    assert_fits("list", &value);
    let runs = volsnap.run(["recover", "--list", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&runs.expect(4).stdout()).unwrap();
    assert_fits("recover --list", &value);
    assert_eq!(value[0]["holds"][0], "shop-db-1");
    assert_eq!(fs::read(&path).unwrap(), before, "who only looks has changed it");
}

#[test]
fn what_is_no_journal_neither_blocks_nor_goes() {
    let (volsnap, tree) = (Volsnap::new(), tree(1));
    let _ = make(&volsnap, tree.path(), &Recipe::default());
    drop(holding(&volsnap));
    let directory = volsnap.state().join("journals");
    let place = |name: &str| -> PathBuf { directory.join(format!("{name}.jsonl")) };
    nix::unistd::mkfifo(&place("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(place("folder")).unwrap();
    symlink("/etc/passwd", place("link")).unwrap();
    fs::write(place("headless"), "{\"settled\":1}\n").unwrap();
    fs::write(place("half"), "ed\":1}").unwrap();
    fs::write(place("bytes"), b"\xff\xfe\n\xff\n").unwrap();
    fs::copy(place("20261120T203011Z-4f2a91"), place("open")).unwrap();
    fs::set_permissions(place("open"), fs::Permissions::from_mode(0o666)).unwrap();
    let names = ["fifo", "folder", "link", "headless", "half", "bytes", "open"];
    for arguments in [&["recover", "--list"][..], &["recover", "--dry-run"], &["list"], &["show", "latest"]] {
        let said = volsnap.run(arguments).expect(4).stderr();
        for name in names {
            assert!(said.contains(&format!("{name}.jsonl")), "{name} is not named: {said}");
            assert!(place(name).symlink_metadata().is_ok(), "{name} is gone");
        }
        assert!(said.contains("shop-db-1"), "the others are told all the same: {said}");
    }
}

#[test]
fn who_finishes_the_run_of_another_is_shown() {
    let volsnap = Volsnap::new();
    let journal = held_by_this(&volsnap, 1);
    let said = volsnap.run(["recover", "--list"]).expect(0).stderr();
    let look =
        said.lines().find_map(|line| line.trim().strip_prefix("ps ")).unwrap_or_else(|| panic!("{said}"));
    let shown = volsnap.paste(&format!("ps {look}")).expect(0).stdout();
    assert!(shown.contains(&std::process::id().to_string()), "{shown}");
    drop(journal);
}
