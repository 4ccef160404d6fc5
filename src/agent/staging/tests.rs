//! Every test ends with a comparison that shares nothing with the code that it judges: see [`compare`], which has
//! tests of its own.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use proptest::prelude::*;
use rstest::rstest;
use tempfile::TempDir;

use super::blocks::{BLOCK, block_count};
use super::compare::Comparison;
use super::*;
use crate::agent::calls::PassKind;
use crate::agent::tree::Stability;

/// Longer than two ticks of the clock that gives files their times.
const TICKS: Duration = Duration::from_millis(50);

/// A source, and a place for its stage.
pub(super) struct World {
    place: PathBuf,
    _directory: Option<TempDir>,
    _mounted: Option<Mounted>,
}

impl World {
    /// Makes both on whatever file system there is.
    pub(super) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let world = Self::within(directory.path());
        Self { _directory: Some(directory), ..world }
    }

    /// Makes both on a file system of their own; `None`, after printing the reason, if there can be none.
    pub(super) fn on(make: &[&str], megabytes: u64) -> Option<Self> {
        let mounted = Mounted::new(make, megabytes)?;
        let world = Self::within(mounted.directory.path());
        Some(Self { _mounted: Some(mounted), ..world })
    }

    /// Makes both where times prove something, if possible.
    pub(super) fn trusted() -> Option<Self> {
        Self::on(&["mkfs.ext4", "-q", "-F", "-O", "^has_journal"], 320)
    }

    pub(super) fn within(place: &Path) -> Self {
        fs::create_dir(place.join("source")).unwrap();
        fs::create_dir(place.join("stage")).unwrap();
        Self { place: place.to_owned(), _directory: None, _mounted: None }
    }

    pub(super) fn source(&self) -> PathBuf {
        self.place.join("source")
    }

    pub(super) fn stage(&self) -> PathBuf {
        self.place.join("stage")
    }

    /// Opens the stage, which counts a file as proved as soon as the clock allows.
    pub(super) fn open(&self) -> Stage {
        let mut stage = Stage::open(&self.stage(), &self.source()).unwrap();
        stage.slack = TICKS;
        stage
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.source().join(name)
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    pub(super) fn overwrite(&self, name: &str, at: u64, content: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.write_all_at(content, at).unwrap();
    }

    #[track_caller]
    fn assert_staged(&self) {
        assert_equal(&self.source(), &self.stage().join(TREE));
    }
}

/// Asserts that two trees, including their roots, are equal, and that the copy takes no more of the disk.
#[track_caller]
fn assert_equal(source: &Path, copy: &Path) {
    let request = StageCompare { stability: Stability::Held, ..StageCompare::default() };
    let stats = Comparison::of(source, copy).compare(&request, &mut |_| {}).unwrap();
    assert_eq!((stats.different, stats.differences), (0, Vec::new()));
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(copy.join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            let occupied = |root: &Path| fs::symlink_metadata(root.join(&path)).unwrap();
            let (ours, theirs) = (occupied(source), occupied(copy));
            if theirs.is_dir() {
                directories.push(path);
            } else if theirs.is_file() {
                let fits = theirs.blocks() * 512 <= ours.blocks() * 512 + OCCUPIED_SLACK;
                assert!(fits, "{} takes more in the stage", path.display());
            }
        }
    }
}

/// How far a file system may round up. In the source it may have allocated more in advance, or zeros.
const OCCUPIED_SLACK: u64 = 64 * 1024;

/// A file system in a file in memory, mounted.
struct Mounted {
    directory: TempDir,
    _image: TempDir,
}

impl Mounted {
    fn new(make: &[&str], megabytes: u64) -> Option<Self> {
        let memory = Path::new("/dev/shm");
        let in_memory = memory.is_dir().then(|| TempDir::new_in(memory).ok()).flatten();
        let image = in_memory.unwrap_or_else(|| TempDir::new().unwrap());
        let directory = TempDir::new().unwrap();
        let path = image.path().join("image");
        File::create(&path).unwrap().set_len(megabytes << 20).unwrap();
        if run(Command::new(make[0]).args(&make[1..]).arg(&path))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&path).arg(directory.path()))
        {
            return Some(Self { directory, _image: image });
        }
        skip(&format!("{} cannot be made and mounted here", make[0]));
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.directory.path()));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Makes everything written so far old enough to prove that nothing was written since.
pub(super) fn age() {
    sleep(2 * TICKS);
}

#[track_caller]
fn pass(stage: &mut Stage, request: &StagePass) -> StageStats {
    stage.pass(request, &mut |_| {}).unwrap()
}

#[track_caller]
pub(super) fn live(stage: &mut Stage) -> StageStats {
    pass(stage, &StagePass::default())
}

#[track_caller]
pub(super) fn finish(stage: &mut Stage) -> StageStats {
    pass(stage, &StagePass { kind: PassKind::Final, ..StagePass::default() })
}

/// Makes everything that a tree can have: 7 regular files.
pub(super) fn populate(world: &World) {
    for directory in ["base/1", "base/2", "empty", "global"] {
        fs::create_dir_all(world.path(directory)).unwrap();
    }
    world.write("PG_VERSION", "15\n");
    world.write("base/1/16384", vec![7; 3 * BLOCK + 77]);
    world.write("base/1/empty", "");
    world.write("base/2/secret", "s");
    fs::set_permissions(world.path("base/2/secret"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(world.path("base/2"), fs::Permissions::from_mode(0o2700)).unwrap();
    chown(world.path("global"), Some(70), Some(999)).unwrap();
    chown(world.write("global/setuid", "x"), Some(70), Some(71)).unwrap();
    fs::set_permissions(world.path("global/setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    xattr::set(world.path("global/setuid"), "user.note", b"kept").unwrap();
    xattr::set(world.path("global"), "user.directory", b"").unwrap();
    xattr::set(world.path("PG_VERSION"), "system.posix_acl_access", ACL).unwrap();
    let sparse = File::create(world.path("base/1/sparse")).unwrap();
    sparse.set_len(10 * BLOCK as u64 + 5).unwrap();
    sparse.write_all_at(&[1; 4096], 3 * BLOCK as u64 + 8192).unwrap();
    sparse.write_all_at(&[2; 9000], 4 * BLOCK as u64 - 4096).unwrap();
    world.write("base/odd \u{1b}[1m name\n", "odd");
    fs::hard_link(world.path("base/1/16384"), world.path("base/2/16384")).unwrap();
    symlink("nowhere/at all", world.path("link")).unwrap();
    nix::unistd::mkfifo(&world.path("pipe"), Mode::S_IRWXU).unwrap();
    mknod(&world.path("null"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap());
}

/// u::rw-, u:70:r--, g::r--, m::r--, o::r-- in the system's form.
const ACL: &[u8] =
    b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x46\0\0\0\x04\0\x04\0\xff\xff\xff\xff\
\x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

#[test]
fn whatever_a_tree_can_have_is_in_the_stage_after_one_final_pass() {
    let world = World::new();
    populate(&world);
    let stats = finish(&mut world.open());
    world.assert_staged();
    assert_eq!((stats.files, stats.reread_files, stats.unsteady_files), (7, 7, 0));
    assert_eq!((stats.removed, stats.vanished), (0, 0));
    assert!(!world.stage().join("new/socket").exists());
    assert_eq!(world.stage().metadata().unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn after_a_live_pass_the_final_one_writes_what_changed_and_nothing_else() {
    let Some(world) = World::trusted() else { return };
    populate(&world);
    age();
    let mut stage = world.open();
    let first = live(&mut stage);
    assert_eq!((first.files, first.reread_files), (7, 7));
    world.overwrite("base/1/16384", BLOCK as u64 + 5, b"changed");
    let last = finish(&mut stage);
    world.assert_staged();
    assert_eq!((last.reread_files, last.changed_files), (1, 1));
    assert_eq!(last.written_bytes, BLOCK as u64);
    assert_eq!((last.created, last.removed), (0, 0));
    let again = finish(&mut stage);
    assert_eq!((again.reread_files, again.read_bytes), (1, 3 * BLOCK as u64 + 77), "it is too young yet");
}

/// Does everything that may happen to a tree between two passes.
fn upheaval(world: &World) {
    let large = 2 * BLOCK as u64;
    // Grown, shortened, emptied, overwritten, turned into a hole and back.
    world.overwrite("base/1/grown", large + 100, b"end");
    OpenOptions::new().write(true).open(world.path("base/1/cut")).unwrap().set_len(large - 5).unwrap();
    File::create(world.path("base/1/emptied")).unwrap();
    world.overwrite("base/1/filled", BLOCK as u64, &[9; 5000]);
    File::create(world.path("base/1/hollow")).unwrap().set_len(large).unwrap();
    // Every kind takes the place of another.
    fs::remove_file(world.path("kind/file")).unwrap();
    fs::create_dir_all(world.path("kind/file/now/a")).unwrap();
    fs::remove_dir_all(world.path("kind/directory")).unwrap();
    world.write("kind/directory", "now a file");
    fs::remove_file(world.path("kind/link")).unwrap();
    world.write("kind/link", "now a file");
    fs::remove_file(world.path("kind/file2")).unwrap();
    symlink("directory", world.path("kind/file2")).unwrap();
    fs::remove_dir_all(world.path("kind/directory2")).unwrap();
    nix::unistd::mkfifo(&world.path("kind/directory2"), Mode::S_IRWXU).unwrap();
    fs::remove_file(world.path("kind/link2")).unwrap();
    symlink("elsewhere", world.path("kind/link2")).unwrap();
    fs::remove_file(world.path("kind/pipe")).unwrap();
    fs::create_dir(world.path("kind/pipe")).unwrap();
    // Links made, broken, and moved to another file.
    fs::hard_link(world.path("links/made"), world.path("links/a")).unwrap();
    fs::hard_link(world.path("links/made"), world.path("base/1/made")).unwrap();
    fs::remove_file(world.path("links/broken2")).unwrap();
    world.write("links/broken2", "of its own now");
    fs::remove_file(world.path("links/moved2")).unwrap();
    fs::hard_link(world.path("links/made"), world.path("links/moved2")).unwrap();
    fs::remove_file(world.path("links/first")).unwrap();
    // Renamed: over another, with a directory, and in a circle.
    fs::rename(world.path("names/new"), world.path("names/old")).unwrap();
    fs::rename(world.path("names/directory"), world.path("names/renamed")).unwrap();
    fs::rename(world.path("names/x"), world.path("names/tmp")).unwrap();
    fs::rename(world.path("names/y"), world.path("names/x")).unwrap();
    fs::rename(world.path("names/tmp"), world.path("names/y")).unwrap();
    // Everything except content changes.
    chown(world.path("meta/owner"), Some(4), Some(5)).unwrap();
    fs::set_permissions(world.path("meta/mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(world.path("meta/directory"), fs::Permissions::from_mode(0o1777)).unwrap();
    xattr::set(world.path("meta/attribute"), "user.a", b"2").unwrap();
    xattr::remove(world.path("meta/attribute"), "user.b").unwrap();
    xattr::set(world.path("meta/directory"), "user.a", b"1").unwrap();
    xattr::remove(world.path("meta/acl"), "system.posix_acl_access").unwrap();
    utimensat(
        nix::fcntl::AT_FDCWD,
        &world.path("meta/time"),
        &TimeSpec::new(1, 0),
        &TimeSpec::new(-7, 5),
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
    nix::unistd::fchownat(
        nix::fcntl::AT_FDCWD,
        &world.path("meta/link"),
        Some(nix::unistd::Uid::from_raw(9)),
        None,
        nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .unwrap();
    fs::remove_dir_all(world.path("gone")).unwrap();
}

fn before_the_upheaval(world: &World) {
    for directory in [
        "base/1",
        "kind/directory/inner",
        "kind/directory2",
        "links",
        "names/directory/inner",
        "meta/directory",
    ] {
        fs::create_dir_all(world.path(directory)).unwrap();
    }
    fs::create_dir_all(world.path("gone/deep/down")).unwrap();
    for file in ["grown", "cut", "emptied", "hollow"] {
        world.write(&format!("base/1/{file}"), vec![3; 2 * BLOCK + 9]);
    }
    File::create(world.path("base/1/filled")).unwrap().set_len(3 * BLOCK as u64).unwrap();
    for file in [
        "kind/file",
        "kind/file2",
        "kind/directory/inner/a",
        "kind/directory2/b",
        "links/made",
        "links/broken",
        "links/moved",
        "links/first",
        "names/new",
        "names/old",
        "names/x",
        "names/y",
        "names/directory/inner/c",
        "meta/owner",
        "meta/mode",
        "meta/attribute",
        "meta/acl",
        "meta/time",
        "gone/deep/down/d",
    ] {
        world.write(file, file);
    }
    symlink("file", world.path("kind/link")).unwrap();
    symlink("file", world.path("kind/link2")).unwrap();
    symlink("file", world.path("meta/link")).unwrap();
    nix::unistd::mkfifo(&world.path("kind/pipe"), Mode::S_IRWXU).unwrap();
    for name in ["broken", "moved", "first"] {
        fs::hard_link(world.path(&format!("links/{name}")), world.path(&format!("links/{name}2"))).unwrap();
    }
    xattr::set(world.path("meta/attribute"), "user.a", b"1").unwrap();
    xattr::set(world.path("meta/attribute"), "user.b", b"1").unwrap();
    xattr::set(world.path("meta/acl"), "system.posix_acl_access", ACL).unwrap();
}

#[rstest]
#[case::on_any(&[])]
#[case::where_times_are_trusted(&["mkfs.ext4", "-q", "-F", "-O", "^has_journal"])]
#[case::on_xfs(&["mkfs.xfs", "-q", "-m", "reflink=1"])]
#[case::on_btrfs(&["mkfs.btrfs", "-q"])]
fn whatever_happened_between_the_passes_is_in_the_stage_after_the_final_one(#[case] make: &[&str]) {
    let world = if make.is_empty() { Some(World::new()) } else { World::on(make, 320) };
    let Some(world) = world else { return };
    before_the_upheaval(&world);
    age();
    let mut stage = world.open();
    live(&mut stage);
    world.assert_staged();
    upheaval(&world);
    finish(&mut stage);
    world.assert_staged();
}

#[rstest]
#[case::on_any(&[])]
#[case::where_times_are_trusted(&["mkfs.ext4", "-q", "-F", "-O", "^has_journal"])]
fn what_was_known_of_a_file_is_not_believed_of_another_that_gets_its_number(#[case] make: &[&str]) {
    let world = if make.is_empty() { Some(World::new()) } else { World::on(make, 320) };
    let Some(world) = world else { return };
    for directory in ["in/a", "in/b"] {
        fs::create_dir_all(world.path(directory)).unwrap();
    }
    let moved = |from: &str, to: &str| fs::rename(world.path(from), world.path(to)).unwrap();
    for name in 0..10 {
        world.write(&format!("in/a/{name}"), vec![7; 3 * BLOCK]);
    }
    let mut stage = world.open();
    live(&mut stage);
    // The stage's files in `a` are gone, and their numbers free, before those in `b` are made.
    (0..10).for_each(|name| moved(&format!("in/a/{name}"), &format!("in/b/{name}")));
    finish(&mut stage);
    world.assert_staged();
}

#[test]
fn holes_stay_holes_and_zeros_stay_zeros() {
    use nix::fcntl::{FallocateFlags, fallocate};
    let Some(world) = World::trusted() else { return };
    let name = world.write("zeros", vec![0; 4 * BLOCK]);
    let zeros = OpenOptions::new().write(true).open(&name).unwrap();
    let occupied = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    let assert_equally_occupied = || {
        zeros.sync_all().unwrap();
        let staged = world.stage().join("new/zeros");
        File::open(&staged).unwrap().sync_all().unwrap();
        assert_eq!(occupied(staged), occupied(world.path("zeros")));
    };
    let mut stage = world.open();
    live(&mut stage);
    assert_equally_occupied();
    let half = i64::try_from(BLOCK / 2).unwrap();
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&zeros, flags, half, half).unwrap();
    fallocate(&zeros, flags, 4 * half, 3 * half).unwrap();
    live(&mut stage);
    assert_equally_occupied();
    zeros.write_all_at(&vec![0; BLOCK], 4 * BLOCK as u64 / 2).unwrap();
    finish(&mut stage);
    assert_equally_occupied();
    world.assert_staged();
}

#[test]
fn what_is_excluded_is_not_in_the_stage_and_a_tree_within_the_source_is_one_too() {
    let world = World::new();
    populate(&world);
    let mut stage = Stage::open(&world.stage(), &world.path("base")).unwrap();
    let without = StagePass { exclude: vec!["2".to_owned()], ..StagePass::default() };
    live(&mut stage);
    pass(&mut stage, &StagePass { kind: PassKind::Final, ..without });
    assert!(world.stage().join("new/1/16384").exists() && !world.stage().join("new/2").exists());
    finish(&mut stage);
    assert_equal(&world.path("base"), &world.stage().join(TREE));
}

#[test]
fn what_was_modified_within_the_coarseness_of_the_clock_is_read_again() {
    let world = World::new();
    let file = File::create(world.path("a")).unwrap();
    (&file).write_all(b"one").unwrap();
    let mut stage = Stage::open(&world.stage(), &world.source()).unwrap();
    for round in 0..20_u8 {
        live(&mut stage);
        // It has the same size, and mostly changes within the same tick of the clock.
        file.write_all_at(&[round; 3], 0).unwrap();
        finish(&mut stage);
        assert_eq!(fs::read(world.stage().join("new/a")).unwrap(), [round; 3]);
    }
}

#[test]
fn what_another_writes_is_left_to_it() {
    use std::os::unix::fs::MetadataExt as _;
    let world = World::new();
    fs::create_dir_all(world.path("a [b]/data/base")).unwrap();
    world.write("a [b]/data/PG_VERSION", "15");
    world.write("a [b]/beside", "x");
    fs::set_permissions(world.path("a [b]/data"), fs::Permissions::from_mode(0o700)).unwrap();
    let request = StagePass { external_dir: Some(PathBuf::from("a [b]/data")), ..StagePass::default() };
    world.open().pass(&request, &mut |_| {}).unwrap();
    let staged = world.stage().join(TREE).join("a [b]");
    assert_eq!(fs::read(staged.join("beside")).unwrap(), b"x");
    assert_eq!(fs::read_dir(staged.join("data")).unwrap().count(), 0);
    assert_eq!(staged.join("data").metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(world.stage().metadata().unwrap().mode() & 0o7777, 0o711);

    // The same for the root itself.
    let request = StagePass { external_dir: Some(PathBuf::new()), ..StagePass::default() };
    world.open().pass(&request, &mut |_| {}).unwrap();
    assert_eq!(fs::read_dir(world.stage().join(TREE)).unwrap().count(), 0);
}

#[test]
fn a_write_is_seen_though_the_time_of_modification_was_put_back() {
    let Some(world) = World::trusted() else { return };
    world.write("a", "one");
    age();
    let mut stage = world.open();
    live(&mut stage);
    let times = fs::metadata(world.path("a")).unwrap();
    world.overwrite("a", 0, b"two");
    let time = TimeSpec::new(times.mtime(), times.mtime_nsec());
    utimensat(nix::fcntl::AT_FDCWD, &world.path("a"), &time, &time, UtimensatFlags::FollowSymlink).unwrap();
    finish(&mut stage);
    world.assert_staged();
    assert_eq!(fs::read(world.stage().join("new/a")).unwrap(), b"two");
}

/// A shared mapping of a file, written to in the way of databases that map their files.
pub(super) struct Mapping {
    start: *mut u8,
    length: usize,
}

#[expect(unsafe_code, reason = "there is no other way to write through a mapping")]
impl Mapping {
    pub(super) fn of(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        use std::os::fd::AsRawFd as _;
        let (protection, flags) = (nix::libc::PROT_READ | nix::libc::PROT_WRITE, nix::libc::MAP_SHARED);
        // SAFETY: a new mapping, at a place that the system chooses.
        let start =
            unsafe { nix::libc::mmap(std::ptr::null_mut(), length, protection, flags, file.as_raw_fd(), 0) };
        assert_ne!(start, nix::libc::MAP_FAILED);
        Self { start: start.cast(), length }
    }

    pub(super) fn write(&self, at: usize, byte: u8) {
        assert!(at < self.length);
        // SAFETY: it is within the mapping, and the file is as long as that.
        unsafe { self.start.add(at).write_volatile(byte) };
    }
}

#[expect(unsafe_code, reason = "there is no other way to unmap")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing else points into the mapping.
        unsafe { nix::libc::munmap(self.start.cast(), self.length) };
    }
}

#[rstest]
#[case::where_times_are_trusted(&["mkfs.ext4", "-q", "-F"])]
#[case::on_xfs(&["mkfs.xfs", "-q", "-m", "reflink=1"])]
#[case::on_btrfs(&["mkfs.btrfs", "-q"])]
fn what_is_written_through_a_mapping_to_a_page_that_is_dirty_already_is_seen(#[case] make: &[&str]) {
    let Some(world) = World::on(make, 320) else { return };
    let mapping = Mapping::of(&world.write("mapped", vec![0; 3 * BLOCK]));
    mapping.write(5000, 1);
    age();
    let mut stage = world.open();
    live(&mut stage);
    // The first write to a clean page moves the time; later ones do not, until the page is sent to the disk.
    mapping.write(5000, 2);
    age();
    live(&mut stage);
    mapping.write(5000, 3);
    age();
    let quiet = live(&mut stage);
    assert_eq!(quiet.reread_files, 1);
    mapping.write(5000, 4);
    mapping.write(2 * BLOCK, 4);
    finish(&mut stage);
    world.assert_staged();
    assert_eq!(fs::read(world.stage().join("new/mapped")).unwrap()[5000], 4);
    age();
    live(&mut stage);
    age();
    assert_eq!(live(&mut stage).reread_files, 0, "nobody writes any more");
}

#[test]
fn where_times_prove_nothing_every_file_is_read_again() {
    let directory = TempDir::new().unwrap();
    if !run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(directory.path())) {
        return skip("nothing can be mounted here");
    }
    let world = World::within(directory.path());
    let mapping = Mapping::of(&world.write("mapped", vec![0; 3 * BLOCK]));
    mapping.write(0, 1);
    let mut stage = world.open();
    age();
    live(&mut stage);
    age();
    live(&mut stage);
    mapping.write(0, 2);
    let stats = finish(&mut stage);
    world.assert_staged();
    let room = room(&world.stage(), &world.source()).unwrap();
    drop(mapping);
    run(Command::new("umount").arg("-l").arg(directory.path()));
    assert_eq!((stats.reread_files, stats.written_bytes), (1, BLOCK as u64));
    assert!(!room.trusts_times && !room.reflink);
}

/// Writers of every kind, until they are told to stop.
fn workload(world: &World, stop: &AtomicBool, rounds: &AtomicUsize) {
    let mapped = Mapping::of(&world.write("busy/mapped", vec![0; 5 * BLOCK]));
    let mut random = 42_u64;
    let mut next = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let heap = OpenOptions::new().write(true).open(world.path("busy/heap")).unwrap();
    let mut log = File::create(world.path("busy/log")).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.fetch_add(1, Ordering::Relaxed);
        let byte = u8::try_from(round % 251).unwrap();
        heap.write_all_at(&[byte; 8192], next(600) * 8192).unwrap();
        mapped.write(usize::try_from(next(5 * BLOCK as u64)).unwrap(), byte);
        log.write_all(&[byte; 313]).unwrap();
        let name = |number: u64| world.path(&format!("busy/{number}"));
        let (a, b) = (name(next(40)), name(next(40)));
        // Many of these fail, depending on whether the names exist.
        match next(9) {
            0 => drop(fs::write(&a, vec![byte; usize::try_from(next(BLOCK as u64 * 2)).unwrap()])),
            1 => drop(fs::rename(&a, &b)),
            2 => drop(fs::hard_link(&a, &b)),
            3 => drop(fs::remove_file(&a)),
            4 => drop(OpenOptions::new().write(true).open(&a).map(|file| file.set_len(next(9999)))),
            5 => drop(symlink("x", &a)),
            6 => drop(fs::create_dir(&a)),
            7 => drop(fs::remove_dir(&a)),
            _ => log.set_len(0).unwrap(),
        }
    }
}

#[rstest]
#[case::where_times_are_trusted(&["mkfs.ext4", "-q", "-F"])]
#[case::on_xfs(&["mkfs.xfs", "-q", "-m", "reflink=1"])]
#[case::on_btrfs(&["mkfs.btrfs", "-q"])]
fn what_was_written_while_live_passes_ran_is_in_the_stage_after_the_final_one(#[case] make: &[&str]) {
    let Some(world) = World::on(make, 320) else { return };
    fs::create_dir(world.path("busy")).unwrap();
    world.write("busy/heap", vec![1; 20 * BLOCK]);
    world.write("idle", vec![1; 20 * BLOCK]);
    let mut stage = world.open();
    for _ in 0..4 {
        let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| workload(&world, &stop, &rounds));
            let mut passes = Vec::new();
            for _ in 0..5 {
                sleep(Duration::from_millis(30));
                passes.push(stage.pass(&StagePass::default(), &mut |_| {}));
            }
            stop.store(true, Ordering::Relaxed);
            for pass in passes {
                pass.unwrap();
            }
        });
        assert!(rounds.load(Ordering::Relaxed) > 20, "the workload hardly ran");
        finish(&mut stage);
        world.assert_staged();
    }
}

#[rstest]
#[case::on_xfs(&["mkfs.xfs", "-q", "-m", "reflink=1"])]
#[case::on_btrfs(&["mkfs.btrfs", "-q"])]
fn contents_are_shared_where_they_can_be(#[case] make: &[&str]) {
    let Some(world) = World::on(make, 320) else { return };
    populate(&world);
    world.write("large", vec![1; 120 << 20]);
    world.write("shorter", vec![2; 5 * BLOCK + 4097]);
    age();
    assert!(room(&world.stage(), &world.source()).unwrap().reflink);
    let mut stage = world.open();
    let first = live(&mut stage);
    assert!(first.reflinked_bytes > 120 << 20, "{first:?}");
    assert_eq!((first.written_bytes, first.read_bytes), (0, 0));
    world.overwrite("large", 77 << 20, b"changed");
    OpenOptions::new().append(true).open(world.path("large")).unwrap().write_all(b"grown").unwrap();
    world.overwrite("base/1/sparse", 9 * BLOCK as u64, b"in the hole");
    OpenOptions::new().write(true).open(world.path("shorter")).unwrap().set_len(BLOCK as u64 + 77).unwrap();
    let last = finish(&mut stage);
    world.assert_staged();
    assert_eq!((last.reread_files, last.changed_files, last.written_bytes), (3, 3, 0));
    // 240 MB of content would not fit twice.
    world.overwrite("large", 0, b"the stage must not see this");
    assert_eq!(fs::read(world.stage().join("new/large")).unwrap()[..3], [1; 3]);
}

/// A database writes its pages one by one; each page written while it is shared becomes an extent of its own.
#[test]
fn what_is_shared_already_costs_nothing_while_the_writers_are_held() {
    const PAGE: &[u8] = &[2; 8192];
    let Some(world) = World::on(&["mkfs.xfs", "-q", "-m", "reflink=1"], 512) else { return };
    let pages = (160_u64 << 20) / PAGE.len() as u64;
    world.write("heap", vec![1; 160 << 20]);
    age();
    let mut stage = world.open();
    live(&mut stage);
    for page in (0..pages).step_by(2) {
        world.overwrite("heap", page * PAGE.len() as u64, PAGE);
    }
    File::open(world.path("heap")).unwrap().sync_all().unwrap();
    let timed = |pass: &mut dyn FnMut() -> StageStats| {
        let begun = Instant::now();
        assert_eq!(pass().reflinked_bytes, 160 << 20);
        begun.elapsed()
    };
    let all = timed(&mut || live(&mut stage));
    world.overwrite("heap", PAGE.len() as u64, PAGE);
    File::open(world.path("heap")).unwrap().sync_all().unwrap();
    let one = timed(&mut || finish(&mut stage));
    world.assert_staged();
    assert!(one < all / 2, "one page took {one:?}, {} of them {all:?}", pages / 2);
}

#[test]
fn a_file_whose_content_cannot_be_shared_is_copied() {
    let Some(world) = World::on(&["mkfs.btrfs", "-q"], 320) else { return };
    // The source has no checksums, and the stage has them.
    if !run(Command::new("chattr").arg("+C").arg(world.source())) {
        return skip("chattr +C does not work here");
    }
    world.write("a", vec![5; 3 * BLOCK]);
    age();
    let mut stage = world.open();
    assert_eq!(live(&mut stage).written_bytes, 3 * BLOCK as u64);
    world.overwrite("a", 2 * BLOCK as u64, b"changed");
    assert_eq!(finish(&mut stage).written_bytes, BLOCK as u64);
    world.assert_staged();
}

#[test]
fn a_stage_that_was_kept_is_brought_up_to_date() {
    let Some(world) = World::trusted() else { return };
    populate(&world);
    age();
    let mut stage = world.open();
    live(&mut stage);
    finish(&mut stage);
    assert!(!room(&world.stage(), &world.source()).unwrap().warm);
    stage.keep(&mut |_| {}).unwrap();
    let kept = room(&world.stage(), &world.source()).unwrap();
    assert!(kept.warm && kept.staged_bytes > 3 * BLOCK as u64);

    world.overwrite("base/1/16384", 0, b"changed");
    // Nobody may write there; if somebody does all the same, it is noticed.
    fs::write(world.stage().join("new/PG_VERSION"), "16\n").unwrap();
    let mut stage = world.open();
    assert!(!room(&world.stage(), &world.source()).unwrap().warm, "it is about to change");
    let first = live(&mut stage);
    assert_eq!((first.reread_files, first.changed_files), (2, 2));
    assert_eq!(first.written_bytes, BLOCK as u64 + 3);
    finish(&mut stage);
    world.assert_staged();
}

#[test]
fn a_stage_that_is_kept_stays_open_for_further_passes() {
    let Some(world) = World::trusted() else { return };
    populate(&world);
    age();
    let is_warm = || room(&world.stage(), &world.source()).unwrap().warm;
    let mut stage = world.open();
    live(&mut stage);
    stage.keep(&mut |_| {}).unwrap();
    assert!(is_warm());
    stage.keep(&mut |_| {}).unwrap();
    assert!(is_warm());
    world.overwrite("base/1/16384", 0, b"changed");
    let last = finish(&mut stage);
    assert_eq!((last.reread_files, last.written_bytes), (1, BLOCK as u64));
    world.assert_staged();
    assert!(!is_warm(), "it speaks of what it was before");
}

#[test]
fn a_run_that_died_after_it_kept_its_stage_is_taken_up_where_it_was() {
    let Some(world) = World::trusted() else { return };
    populate(&world);
    age();
    let mut stage = world.open();
    live(&mut stage);
    stage.keep(&mut |_| {}).unwrap();
    // Like a run that is killed: nothing more is heard of it.
    drop(stage);
    world.overwrite("base/1/16384", 0, b"changed");
    let mut stage = world.open();
    assert_eq!(live(&mut stage).reread_files, 1);
    // This one dies during a pass, which has touched the stage.
    drop(stage);
    assert!(!room(&world.stage(), &world.source()).unwrap().warm);
    assert_eq!(finish(&mut world.open()).reread_files, 7);
    world.assert_staged();
}

#[test]
fn everything_in_the_stage_has_the_owner_that_was_asked_for() {
    let Some(world) = World::trusted() else { return };
    populate(&world);
    age();
    let request = |owner, kind| StagePass { owner, kind, ..StagePass::default() };
    let assert_owned = |owner: (u32, u32)| {
        let compared = StageCompare { owner: Some(owner), stability: Stability::Held, ..Default::default() };
        let compared = Comparison::of(&world.source(), &world.stage().join(TREE))
            .compare(&compared, &mut |_| {})
            .unwrap();
        assert_eq!((compared.different, compared.differences), (0, Vec::new()));
        for name in ["", "base/2/secret", "base/2", "link", "null", "pipe", "global/setuid"] {
            let metadata = world.stage().join(TREE).join(name).symlink_metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), owner, "{name}");
        }
        let setuid = world.stage().join(TREE).join("global/setuid").metadata().unwrap();
        assert_eq!(setuid.mode() & 0o7777, 0o6755);
    };
    let mut stage = world.open();
    pass(&mut stage, &request(Some((999, 998)), PassKind::Live));
    assert_owned((999, 998));
    let again = pass(&mut stage, &request(Some((999, 998)), PassKind::Final));
    assert_eq!((again.reread_files, again.created), (0, 0), "nothing has changed");
    assert_owned((999, 998));
    stage.keep(&mut |_| {}).unwrap();
    // Another owner is requested, even for a stage that is taken over.
    let mut stage = world.open();
    pass(&mut stage, &request(Some((70, 71)), PassKind::Final));
    assert_owned((70, 71));
    finish(&mut stage);
    world.assert_staged();
}

#[test]
fn a_state_that_is_damaged_or_of_another_source_is_not_believed() {
    let Some(world) = World::trusted() else { return };
    populate(&world);
    age();
    let state = world.stage().join("state");
    let keep = || {
        let mut stage = world.open();
        let first = live(&mut stage);
        stage.keep(&mut |_| {}).unwrap();
        first.reread_files
    };
    assert_eq!((keep(), keep()), (7, 0));
    let whole = fs::read(&state).unwrap();
    for at in (0..whole.len()).step_by(41) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        fs::write(&state, damaged).unwrap();
        let directory = open_directory(&world.stage()).unwrap();
        let identity = Identity::of(&open_directory(&world.source()).unwrap()).unwrap();
        assert!(state::read(&directory, &world.stage().join(TREE), &identity).is_err(), "byte {at}");
        fs::write(&state, &whole[..at]).unwrap();
        assert!(state::read(&directory, &world.stage().join(TREE), &identity).is_err(), "{at} bytes");
    }
    assert_eq!(keep(), 7, "the stage is made anew");
    assert_eq!(keep(), 0);
    let other = Stage::open(&world.stage(), &world.path("base")).unwrap();
    assert!(other.records.is_empty() && !world.stage().join(TREE).exists());
}

#[test]
fn a_stage_that_nothing_is_known_of_is_made_anew() {
    let world = World::new();
    populate(&world);
    fs::create_dir_all(world.stage().join("new/base/1/deep/down")).unwrap();
    world.write("../stage/new/base/1/16384", "stale");
    finish(&mut world.open());
    world.assert_staged();
}

#[rstest]
#[case::no_room(8, 0)]
#[case::the_reserve(64, 58 << 20)]
fn a_stage_that_is_full_is_told_from_every_other_failure(#[case] megabytes: u64, #[case] reserve: u64) {
    let world = World::new();
    let options = format!("size={megabytes}m");
    if !run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(world.stage())) {
        return skip("nothing can be mounted here");
    }
    world.write("large", vec![1; 40 << 20]);
    let request = StagePass { reserve, ..StagePass::default() };
    let outcome = world.open().pass(&request, &mut |_| {});
    let free = free_bytes(&open_directory(&world.stage()).unwrap()).unwrap();
    run(Command::new("umount").arg("-l").arg(world.stage()));
    let error = outcome.unwrap_err();
    assert!(matches!(error, StageError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("not enough room where the stage lies"), "{error}");
    assert!(free + (36 << 20) >= reserve, "{free} bytes are left of {reserve}");
}

#[test]
fn a_file_that_is_written_to_during_the_final_pass_fails_it() {
    let world = World::new();
    world.write("log", vec![1; 200 * BLOCK]);
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = OpenOptions::new().append(true).open(world.path("log")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                log.write_all(b"more").unwrap();
            }
        });
        sleep(Duration::from_millis(20));
        let request = StagePass { kind: PassKind::Final, ..StagePass::default() };
        let outcome = world.open().pass(&request, &mut |_| {});
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    let error = crate::model::error::chain(&outcome.unwrap_err());
    assert!(error.contains("stage `log`") && error.contains("changed while it was held"), "{error}");
}

#[test]
fn a_hundred_gigabytes_of_holes_take_little_memory_and_no_time() {
    let world = World::new();
    let sparse = File::create(world.path("sparse")).unwrap();
    sparse.set_len(100 << 30).unwrap();
    sparse.write_all_at(b"deep inside", 63 << 30).unwrap();
    sparse.write_all_at(b"at the end", (100 << 30) - 10).unwrap();
    let before = peak_memory();
    let mut stage = world.open();
    live(&mut stage);
    sparse.write_all_at(b"changed", 20 << 30).unwrap();
    let last = finish(&mut stage);
    world.assert_staged();
    assert!(last.read_bytes <= 4 * BLOCK as u64, "{last:?}");
    // This is the memory of this test alone: nextest gives each test a process of its own.
    let used = peak_memory() - before;
    assert!(used < 64 << 20, "{used} bytes");
    stage.keep(&mut |_| {}).unwrap();
}

/// For 100 GB in files of 100 MB, and for a million files.
#[test]
fn what_is_known_of_a_large_stage_fits_into_the_memory() {
    let hashes = |size: u64| block_count(size) * size_of::<Hash>();
    // A table has a power of two of places, an eighth of them free, and one more byte for each.
    let records = |files: usize| (files * 8 / 7).next_power_of_two() * (size_of::<(u64, Record)>() + 1);
    assert!(1000 * hashes(100 << 20) + records(1000) < 8 << 20);
    assert!(records(1_000_000) <= 256 << 20, "{}", records(1_000_000));
}

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Something that happens to a tree. Numbers pick one of few names, so that most operations hit something.
#[derive(Debug, Clone)]
enum Op {
    Write(u8, u32, u8),
    Overwrite(u8, u32, u8),
    OverwriteUnseen(u8, u8),
    Append(u8, u32),
    Resize(u8, u32),
    Punch(u8, u32),
    Rename(u8, u8),
    Link(u8, u8),
    Remove(u8),
    Mkdir(u8),
    Symlink(u8, u8),
    Pipe(u8),
    Mode(u8, u16),
    Owner(u8, u8),
    Attribute(u8, u8),
    NoAttribute(u8),
}

fn op() -> impl Strategy<Value = Op> {
    use Op::*;
    let (name, size) = (0..12_u8, 0..700_000_u32);
    prop_oneof![
        4 => (name.clone(), size.clone(), any::<u8>()).prop_map(|(a, b, c)| Write(a, b, c)),
        4 => (name.clone(), size.clone(), any::<u8>()).prop_map(|(a, b, c)| Overwrite(a, b, c)),
        2 => (name.clone(), any::<u8>()).prop_map(|(a, b)| OverwriteUnseen(a, b)),
        2 => (name.clone(), 0..9000_u32).prop_map(|(a, b)| Append(a, b)),
        2 => (name.clone(), size.clone()).prop_map(|(a, b)| Resize(a, b)),
        1 => (name.clone(), size).prop_map(|(a, b)| Punch(a, b)),
        4 => (name.clone(), name.clone()).prop_map(|(a, b)| Rename(a, b)),
        4 => (name.clone(), name.clone()).prop_map(|(a, b)| Link(a, b)),
        3 => name.clone().prop_map(Remove),
        3 => name.clone().prop_map(Mkdir),
        1 => (name.clone(), name.clone()).prop_map(|(a, b)| Symlink(a, b)),
        1 => name.clone().prop_map(Pipe),
        2 => (name.clone(), 0..0o7777_u16).prop_map(|(a, b)| Mode(a, b)),
        1 => (name.clone(), any::<u8>()).prop_map(|(a, b)| Owner(a, b)),
        1 => (name.clone(), any::<u8>()).prop_map(|(a, b)| Attribute(a, b)),
        1 => name.prop_map(NoAttribute),
    ]
}

impl Op {
    /// Does it, if possible.
    fn happen(&self, root: &Path) -> std::io::Result<()> {
        // The last four lie in directories that exist only now and then.
        let place = |number: u8| match number {
            0..8 => root.join(format!("n{number}")),
            8..10 => root.join(format!("n0/n{number}")),
            _ => root.join(format!("n0/n8/n{number}")),
        };
        let open = |number: u8| {
            let path = place(number);
            // Opening a pipe would wait.
            if !path.symlink_metadata()?.is_file() {
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
            OpenOptions::new().write(true).open(path)
        };
        let is_link = |number: u8| place(number).is_symlink();
        match *self {
            Self::Write(a, size, byte) => {
                if place(a).exists() && !place(a).is_file() {
                    return Ok(());
                }
                fs::write(place(a), vec![byte; size as usize])
            }
            Self::Overwrite(a, at, byte) => open(a)?.write_all_at(&[byte; 300], at.into()),
            Self::OverwriteUnseen(a, byte) => {
                let file = open(a)?;
                let before = file.metadata()?;
                if before.len() > 0 {
                    file.write_all_at(&[byte], before.len() / 2)?;
                    let time = TimeSpec::new(before.mtime(), before.mtime_nsec());
                    nix::sys::stat::futimens(&file, &TimeSpec::UTIME_OMIT, &time)?;
                }
                Ok(())
            }
            Self::Append(a, size) => {
                let file = open(a)?;
                let end = file.metadata()?.len();
                file.write_all_at(&vec![7; size as usize], end)
            }
            Self::Resize(a, size) => open(a)?.set_len(size.into()),
            Self::Punch(a, at) => {
                use nix::fcntl::{FallocateFlags, fallocate};
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                Ok(fallocate(open(a)?, flags, at.into(), 300_000)?)
            }
            Self::Rename(a, b) => fs::rename(place(a), place(b)),
            Self::Link(a, b) if place(a).symlink_metadata()?.is_file() => fs::hard_link(place(a), place(b)),
            Self::Link(..) => Ok(()),
            Self::Remove(a) if place(a).symlink_metadata()?.is_dir() => fs::remove_dir_all(place(a)),
            Self::Remove(a) => fs::remove_file(place(a)),
            Self::Mkdir(a) => fs::create_dir(place(a)),
            Self::Symlink(a, b) => symlink(place(a), place(b)),
            Self::Pipe(a) => Ok(nix::unistd::mkfifo(&place(a), Mode::S_IRUSR)?),
            Self::Mode(a, _) | Self::Attribute(a, _) | Self::NoAttribute(a) if is_link(a) => Ok(()),
            Self::Mode(a, mode) => fs::set_permissions(place(a), fs::Permissions::from_mode(mode.into())),
            Self::Owner(a, owner) => std::os::unix::fs::lchown(place(a), Some(owner.into()), Some(3)),
            Self::Attribute(a, value) => xattr::set(place(a), "user.a", &[value]),
            Self::NoAttribute(a) => xattr::remove(place(a), "user.a"),
        }
    }
}

fn rounds() -> impl Strategy<Value = Vec<Vec<Op>>> {
    proptest::collection::vec(proptest::collection::vec(op(), 1..14), 2..5)
}

/// Makes things happen in rounds, with a live pass after each round except the last, and a final one at the end.
fn try_rounds(world: &World, rounds: &[Vec<Op>]) {
    fs::remove_dir_all(world.source()).unwrap();
    fs::create_dir(world.source()).unwrap();
    let mut stage = world.open();
    for (number, ops) in rounds.iter().enumerate() {
        for op in ops {
            drop(op.happen(&world.source()));
        }
        if number + 1 < rounds.len() {
            age();
            live(&mut stage);
            world.assert_staged();
        }
    }
    finish(&mut stage);
    world.assert_staged();
}

#[test]
fn any_sequence_of_changes_is_in_the_stage() {
    let mut runner = proptest::test_runner::TestRunner::new(crate::agent::cases(40));
    for make in [&["mkfs.ext4", "-q", "-F", "-O", "^has_journal"][..], &["mkfs.xfs", "-q", "-m", "reflink=1"]]
    {
        let Some(world) = World::on(make, 320) else { continue };
        runner
            .run(&rounds(), |rounds| {
                try_rounds(&world, &rounds);
                Ok(())
            })
            .unwrap();
    }
}
