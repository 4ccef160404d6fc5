//! How large, how deep and how empty data may be.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::Volsnap;
use crate::world::{LABEL, World, docker};

/// Makes a volume, and returns its name and where its files are; that takes root, as the engine's volumes do.
fn volume(world: &World, suffix: &str) -> (String, PathBuf) {
    let (name, label) = (world.name(suffix), format!("{LABEL}={}", std::process::id()));
    docker(&["volume", "create", "--label", &label, &name]);
    let mountpoint = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &name]);
    (name, mountpoint.into())
}

#[tokio::test]
async fn a_sparse_file_counts_by_what_it_holds() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let (volume, files) = volume(&world, "sparse");
    // More than any disk here has room for.
    let file = File::create(files.join("hole")).unwrap();
    file.set_len(8 << 40).unwrap();
    fs::write(files.join("full"), vec![7; 1 << 20]).unwrap();
    let planned = volsnap.run(["snapshot", &format!("volume:{volume}"), "--dry-run", "--json"]);
    let plan = planned.expect(0).json();
    let needed = plan["needed_bytes"].as_u64().unwrap();
    assert!((1 << 20..64 << 20).contains(&needed), "{plan}");
}

#[tokio::test]
async fn a_huge_hole_of_a_foreign_archive_is_restored_as_a_hole() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let home = tempfile::tempdir().unwrap();
    let (tree, archive) = (home.path().join("tree"), home.path().join("foreign.tar"));
    fs::create_dir(&tree).unwrap();
    File::create(tree.join("hole")).unwrap().set_len(1 << 40).unwrap();
    fs::write(tree.join("full"), "text").unwrap();
    pack(&tree, &archive);
    let into = world.name("restored");
    volsnap.run(["restore", archive.to_str().unwrap(), "--new-volume", &into, "-y"]).expect(0);
    let mountpoint = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &into]);
    assert_eq!(PathBuf::from(mountpoint).join("hole").metadata().unwrap().len(), 1 << 40);
}

/// Packs a tree as GNU tar does, holes as holes.
fn pack(tree: &Path, archive: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--sparse", "-cf"]).arg(archive).arg("-C").arg(tree).arg(".");
    assert!(tar.status().unwrap().success(), "{tar:?}");
}

#[tokio::test]
async fn what_lies_too_deep_to_be_restored_is_not_saved_and_nobody_is_stopped_for_it() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let (volume, files) = volume(&world, "deep");
    let mount = format!("{volume}:/data");
    let user =
        world.run_service("user", &["-v", &mount], "trap 'exit 0' TERM; ready; while :; do sleep 0.1; done");
    let started = || docker(&["inspect", "--format", "{{.State.StartedAt}}", &user]);
    let before = started();
    let target = format!("volume:{volume}");
    fs::create_dir_all(files.join("d/".repeat(400))).unwrap();
    volsnap.run(["snapshot", &target, "--dry-run"]).expect(0);
    fs::create_dir_all(files.join("d/".repeat(450))).unwrap();
    volsnap.run(["snapshot", &target]).refused(1, &["nested", "a restore reaches 400", "--exclude"]);
    assert_eq!(started(), before);
    volsnap.assert_no_snapshot();
}

#[tokio::test]
async fn an_archive_with_nothing_in_it_never_takes_the_place_of_data() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let (volume, files) = volume(&world, "kept");
    fs::write(files.join("kept"), "data").unwrap();
    let home = tempfile::tempdir().unwrap();
    let (none, root) = (home.path().join("none.tar"), home.path().join("root.tar"));
    fs::write(&none, vec![0; 10240]).unwrap();
    fs::create_dir(home.path().join("empty")).unwrap();
    pack(&home.path().join("empty"), &root);
    for archive in [none, root] {
        let archive = archive.to_str().unwrap();
        let ran = volsnap.run(["restore", archive, "--to", &format!("volume:{volume}"), "-y"]);
        ran.refused(1, &["nothing in it", "tar -tvf"]);
    }
    assert_eq!(fs::read_to_string(files.join("kept")).unwrap(), "data");
}
