//! A restore of a real database: what was saved is there again, or what was there still is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::database::{Postgres, Volsnap};
use crate::world::docker;

/// Returns every name below a directory with what it is, and the digest of its content.
fn tree(root: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            found.push((path.strip_prefix(root).unwrap().to_owned(), described(&path)));
            if path.symlink_metadata().unwrap().is_dir() {
                directories.push(path);
            }
        }
    }
    found.sort();
    found
}

fn described(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = path.symlink_metadata().unwrap();
    let content = if metadata.is_file() {
        blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string()
    } else {
        String::new()
    };
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    format!("{mode:o} {uid}:{gid} {}.{} {content}", metadata.mtime(), metadata.mtime_nsec())
}

fn mountpoint(volume: &str) -> PathBuf {
    docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", volume]).into()
}

/// Nothing of a restore is left in the volume.
#[track_caller]
fn assert_no_work(volume: &str) {
    let left: Vec<_> = std::fs::read_dir(mountpoint(volume))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".volsnap"))
        .collect();
    assert!(left.is_empty(), "left in the volume: {left:?}");
}

#[tokio::test]
async fn a_dropped_table_is_back_after_a_restore_and_gone_again_after_its_undo() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    postgres.query("drop table kept");
    postgres.query("create table later as select 7 as n");

    let restored = volsnap.run(["restore", "latest", "-y", "--json"]).json();

    postgres.assert_whole();
    assert_eq!(postgres.query("select to_regclass('later') is null"), "t");
    assert!(restored["downtime_ms"].as_u64().unwrap() > 0, "{restored}");
    assert_eq!(restored["raw_bytes"], snapshot["raw_bytes"]);
    postgres.assert_no_helper();
    volsnap.assert_no_leftovers();
    assert_no_work(&postgres.volume);
    println!("restore: {restored}");

    let safety = restored["safety"].as_str().unwrap();
    assert_eq!(volsnap.run(["show", safety, "--json"]).json()["tags"]["safety"], "true");
    assert_eq!(volsnap.run(["verify", safety, "--json"]).json()["ok"], true);
    let undo = restored["undo"].as_str().unwrap();
    let mut words: Vec<_> = undo.split(' ').skip(1).collect();
    words.push("-y");
    let _ = volsnap.run(words).expect(0);
    assert_eq!(postgres.query("select n from later"), "7");
    assert_eq!(postgres.query("select to_regclass('kept') is null"), "t");
    assert_no_work(&postgres.volume);
}

#[tokio::test]
async fn without_a_terminal_and_without_yes_nothing_is_touched() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let before = postgres.inspect("{{.State.StartedAt}}");
    volsnap.run(["restore", "latest"]).refused(2, &["-y", "nothing was touched"]);
    let plan = volsnap.run(["restore", "latest", "--dry-run", "--json"]).json();
    assert_eq!(plan["stops"][0], postgres.container);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), before);
    assert_no_work(&postgres.volume);
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn the_tree_afterwards_equals_the_archive_and_no_stale_file_survives() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["stop", "-t", "60", &postgres.container]);
    let root = mountpoint(&postgres.volume);
    let (before, root_before) = (tree(&root), described(&root));
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    std::fs::write(root.join("stale"), "x").unwrap();
    std::fs::create_dir(root.join("pg_wal/stale")).unwrap();
    std::fs::remove_file(root.join("postgresql.conf")).unwrap();
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();

    let _ = volsnap.run(["restore", "latest", "-y"]).expect(0);

    assert_eq!(tree(&root), before);
    assert_eq!(described(&root), root_before, "the root itself");
    assert_eq!(postgres.inspect("{{.State.Status}}"), "exited", "what was stopped stays stopped");
    docker(&["start", &postgres.container]);
    postgres.await_answer();
    postgres.assert_whole();
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_with_the_live_data_untouched() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    docker(&["stop", "-t", "60", &postgres.container]);
    let root = mountpoint(&postgres.volume);
    let (before, root_before) = (tree(&root), described(&root));
    let archive = PathBuf::from(snapshot["archive"].as_str().unwrap());
    let name = archive.to_str().unwrap().strip_suffix(".tar.zst").unwrap().to_owned();
    let (list, manifest) =
        (PathBuf::from(format!("{name}.files.jsonl.zst")), PathBuf::from(format!("{name}.json")));
    for file in [&archive, &list, &manifest] {
        let whole = std::fs::read(file).unwrap();
        let length = whole.len();
        for at in (0..64).step_by(7).map(|part| length * part / 64).chain([length - 1]) {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            for damaged in [&whole[..at], &flipped[..]] {
                std::fs::write(file, damaged).unwrap();
                let ran = volsnap.run(["restore", "latest", "-y"]);
                assert!(matches!(ran.code(), Some(1..=3)), "{:?} {}", ran.code(), ran.stderr());
            }
        }
        std::fs::write(file, &whole).unwrap();
    }
    assert_eq!(tree(&root), before);
    assert_eq!(described(&root), root_before);
    volsnap.assert_no_leftovers();
    let _ = volsnap.run(["restore", "latest", "-y"]).expect(0);
}

#[tokio::test]
async fn a_manifest_with_the_files_of_another_snapshot_is_refused() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let first = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    postgres.query("create table more as select 1 as n");
    let second = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    std::fs::copy(first["archive"].as_str().unwrap(), second["archive"].as_str().unwrap()).unwrap();
    let id = second["id"].as_str().unwrap();
    let ran = volsnap.run(["restore", id, "-y"]);
    assert!(matches!(ran.code(), Some(1 | 3)), "{}", ran.stderr());
    assert_eq!(postgres.query("select n from more"), "1");
}

#[tokio::test]
async fn another_cluster_is_replaced_only_on_request() {
    let (one, other, volsnap) = (Postgres::start().await, Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &one.target()]).expect(0);
    other.query("create table precious as select 1 as n");
    volsnap
        .run(["restore", "latest", "--to", &other.target(), "-y"])
        .refused(1, &["another cluster", "--force-different-cluster", "nothing was stopped"]);
    assert_eq!(other.query("select n from precious"), "1");
    let _ = volsnap
        .run(["restore", "latest", "--to", &other.target(), "-y", "--force-different-cluster"])
        .expect(0);
    other.assert_whole();
    assert_eq!(other.query("select to_regclass('precious') is null"), "t");
}

#[tokio::test]
async fn a_new_volume_has_what_compose_expects_and_a_database_that_boots() {
    let labels = ["--label", "com.docker.compose.project=p", "--label", "com.docker.compose.service=db"];
    let (postgres, volsnap) = (Postgres::start_with(&labels).await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let name = postgres.world.name("made");
    let _ = volsnap.run(["restore", "latest", "--new-volume", &name, "-y"]).expect(0);
    volsnap.run(["restore", "latest", "--new-volume", &name, "-y"]).refused(2, &["already"]);
    let copy = postgres.world.name("copy");
    postgres.run(&copy, &["-v", &format!("{name}:/var/lib/postgresql/data")]);
    let copy = Postgres { container: copy, volume: name, ..postgres };
    copy.await_answer();
    copy.assert_whole();
    assert_no_work(&copy.volume);
    copy.assert_no_helper();
}

#[tokio::test]
async fn a_directory_is_made_and_filled_and_one_that_is_not_empty_is_refused() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("made here");
    let argument = directory.to_str().unwrap();
    let _ = volsnap.run(["restore", "latest", "--dir", argument, "-y"]).expect(0);
    assert!(directory.join("PG_VERSION").exists() && directory.join("global/pg_control").exists());
    assert_eq!(
        std::fs::read_dir(&directory)
            .unwrap()
            .filter(|name| { name.as_ref().unwrap().file_name().to_string_lossy().starts_with(".volsnap") })
            .count(),
        0
    );
    volsnap.run(["restore", "latest", "--dir", argument, "-y"]).refused(2, &["not empty"]);
}

#[tokio::test]
async fn plain_archives_of_other_tools_come_to_the_right_level() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["stop", "-t", "60", &postgres.container]);
    let root = mountpoint(&postgres.volume);
    let scratch = tempfile::tempdir().unwrap();
    let copied = scratch.path().join("backup/x");
    std::fs::create_dir_all(copied.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-a").arg(&root).arg(&copied).status().unwrap().success());
    for (suffix, flag) in
        [("tar", "-c"), ("tar.gz", "-cz"), ("tar.bz2", "-cj"), ("tar.xz", "-cJ"), ("tar.zst", "-c --zstd")]
    {
        let archive = scratch.path().join(format!("db.{suffix}"));
        let mut tar = Command::new("tar");
        tar.args(flag.split(' '))
            .arg("--numeric-owner")
            .arg("-f")
            .arg(&archive)
            .arg("-C")
            .arg(scratch.path())
            .arg("backup");
        assert!(tar.env("XZ_OPT", "-0").status().unwrap().success(), "{suffix}");
        std::fs::write(root.join("stale"), "x").unwrap();
        let archive = archive.to_str().unwrap();
        volsnap.run(["restore", archive, "-y"]).refused(2, &["--to"]);
        let _ = volsnap.run(["restore", archive, "--to", &postgres.target(), "-y", "--no-safety"]).expect(0);
        assert!(!root.join("stale").exists() && root.join("PG_VERSION").exists(), "{suffix}");
    }
    docker(&["start", &postgres.container]);
    postgres.await_answer();
    postgres.assert_whole();
}

#[tokio::test]
async fn an_archive_without_a_database_is_not_put_in_the_place_of_one() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("holiday.jpg"), "x").unwrap();
    let archive = scratch.path().join("photos.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).arg("-C").arg(scratch.path()).arg("holiday.jpg");
    assert!(tar.status().unwrap().success());
    volsnap
        .run(["restore", archive.to_str().unwrap(), "--to", &postgres.target(), "-y"])
        .refused(1, &["no database"]);
    postgres.assert_whole();
}

#[tokio::test]
async fn data_on_which_the_database_does_not_start_is_taken_back() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    // Saved with a configuration that no server starts with.
    docker(&["stop", "-t", "60", &postgres.container]);
    let configuration = mountpoint(&postgres.volume).join("postgresql.conf");
    let good = std::fs::read_to_string(&configuration).unwrap();
    std::fs::write(&configuration, format!("{good}\nno_such_setting = on\n")).unwrap();
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    std::fs::write(&configuration, good).unwrap();
    docker(&["start", &postgres.container]);
    postgres.await_answer();
    postgres.query("create table later as select 7 as n");

    volsnap
        .run(["restore", "latest", "-y"])
        .refused(1, &["start the service on the restored data", "the data is what it was before"]);
    postgres.assert_whole();
    assert_eq!(postgres.query("select n from later"), "7");
    assert_no_work(&postgres.volume);
    volsnap.assert_no_leftovers();
    assert_eq!(volsnap.list().len(), 1, "no safety snapshot of what was not replaced");
}

/// Every step of a restore that is seen from outside, in order.
const STEPS: &[&str] = &[
    "start-guard",
    "create-helper",
    "start-helper",
    "extract",
    "prove-extracted",
    "stop-container",
    "swap-in",
    "swapped",
    "start-container",
    "await-ready",
    "confirm",
    "commit",
    "committed",
    "safety",
    "write-manifest",
    "discard-old",
];

#[tokio::test]
async fn a_restore_killed_at_any_step_leaves_the_old_or_the_new_whole_and_running() {
    use nix::sys::signal::Signal::{SIGINT, SIGKILL};
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let id = volsnap.list()[0]["id"].as_str().unwrap().to_owned();
    for (signal, steps) in [(SIGKILL, STEPS), (SIGINT, &STEPS[3..13])] {
        for step in steps {
            postgres.query("create table if not exists later as select 7 as n");
            let mut watched = crate::database::Watched::start(volsnap.command(["restore", &id, "-y"]));
            // A container's readiness is looked at before it is stopped too.
            let reached = if *step == "await-ready" {
                watched.reach("swapped") && watched.reach(step)
            } else {
                watched.reach(step)
            };
            assert!(reached, "{step} was never reached");
            println!("{signal} at {step}");
            watched.signal(signal);
            let (code, said) = watched.end();
            if signal == SIGINT {
                assert_eq!(code, Some(130), "{step}: {said}");
            }
            await_finished(&volsnap, step);
            postgres.await_answer();
            postgres.assert_whole();
            let is_old = postgres.query("select to_regclass('later') is not null") == "t";
            let later = ["committed", "safety", "write-manifest", "discard-old"].contains(step);
            assert!(is_old || later || *step == "commit", "{step}: the new data stayed unconfirmed");
            if !later && *step != "commit" {
                assert_no_work(&postgres.volume);
            }
            postgres.assert_no_helper();
            remove_kept(&postgres.volume);
        }
    }
}

/// Waits until what the killed command left is finished: by its guard, or by `recover` where it was killed
/// before it had one.
fn await_finished(volsnap: &Volsnap, step: &str) {
    let begun = std::time::Instant::now();
    loop {
        let open = volsnap.run(["recover", "--list", "--json"]).json();
        match open.as_array().unwrap().as_slice() {
            [] => return,
            [run] if run["held"] == false && begun.elapsed().as_secs() > 5 => {
                let _ = volsnap.run(["recover"]).expect(0);
            }
            _ => {}
        }
        let journals = volsnap.state().join("journals");
        let text = || {
            let paths = std::fs::read_dir(&journals).unwrap().map(|path| path.unwrap().path());
            paths.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect::<String>()
        };
        assert!(begun.elapsed().as_secs() < 90, "unfinished after a kill at {step}: {open}\n{}", text());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// Removes the old data that a run killed after its commit has left for a person to look at.
fn remove_kept(volume: &str) {
    for entry in std::fs::read_dir(mountpoint(volume)).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(".volsnap") {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}
