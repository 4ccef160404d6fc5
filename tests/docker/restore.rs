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
