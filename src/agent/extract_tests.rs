use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use rstest::rstest;
use tempfile::TempDir;

use super::*;
use crate::agent::archive::{ArchiveOptions, archive_tree};
use crate::archive::{BlockReader, FileListReader, Origin};

/// A directory to extract into, beside a canary that nobody may touch.
struct World {
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("into")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/canary"), "alive").unwrap();
        Self { directory }
    }

    fn place(&self) -> std::path::PathBuf {
        self.directory.path().join("into")
    }

    fn canary(&self) -> std::path::PathBuf {
        self.directory.path().join("outside/canary")
    }

    fn extract(&self, archive: &[u8], options: &ExtractOptions) -> Result<Extracted, ExtractError> {
        let reader = BlockReader::open(archive, Origin::Foreign).unwrap();
        extract(reader, File::open(self.place()).unwrap(), options, &mut |_| {})
    }

    #[track_caller]
    fn assert_nothing_outside_changed(&self) {
        let names: Vec<_> =
            fs::read_dir(self.directory.path()).unwrap().map(|name| name.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        let canary = self.canary().metadata().unwrap();
        assert_eq!(fs::read_to_string(self.canary()).unwrap(), "alive");
        assert_eq!(canary.nlink(), 1, "a hard link leads to the canary");
        assert_eq!(fs::read_dir(self.directory.path().join("outside")).unwrap().count(), 1);
    }
}

fn options() -> ExtractOptions {
    ExtractOptions { members: 1000, bytes: 1 << 20, ..ExtractOptions::default() }
}

/// A tar, made member by member, with any names.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn member(mut self, path: &[u8], typeflag: u8, link: &[u8], content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..path.len()].copy_from_slice(path);
        raw.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(typeflag));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        if matches!(typeflag, b'3' | b'4') {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &[u8]) -> Self {
        self.member(path, b'0', b"", b"hostile")
    }

    fn setuid(mut self) -> Self {
        let at = self.0.len();
        self = self.file(b"./program");
        let mut header = tar::Header::from_byte_slice(&self.0[at..at + 512]).clone();
        header.set_mode(0o4755);
        header.set_cksum();
        self.0[at..at + 512].copy_from_slice(header.as_bytes());
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

#[rstest]
#[case::parent(Tar::default().file(b"../outside/canary"))]
#[case::parent_within(Tar::default().file(b"a/../../outside/canary"))]
#[case::parent_alone(Tar::default().member(b"..", b'5', b"", b""))]
#[case::absolute(Tar::default().file(b"/tmp/volsnap-hostile"))]
#[case::through_a_link(Tar::default().member(b"./l", b'2', b"../outside", b"").file(b"./l/canary"))]
#[case::through_a_link_to_a_directory_made_later(Tar::default().member(b"./l", b'2', b"../outside", b"").member(b"./l", b'5', b"", b""))]
#[case::over_a_link(Tar::default().member(b"./l", b'2', b"../outside/canary", b"").file(b"./l"))]
#[case::hard_link_out(Tar::default().member(b"./l", b'1', b"../outside/canary", b""))]
#[case::hard_link_absolute(Tar::default().member(b"./l", b'1', b"/etc/passwd", b""))]
#[case::hard_link_through_a_link(Tar::default().member(b"./l", b'2', b"../outside", b"").member(b"./h", b'1', b"./l/canary", b""))]
#[case::hard_link_to_a_directory(Tar::default().member(b"./d", b'5', b"", b"").member(b"./h", b'1', b"./d", b""))]
#[case::hard_link_to_nothing(Tar::default().member(b"./h", b'1', b"./later", b""))]
#[case::device(Tar::default().member(b"./null", b'3', b"", b""))]
#[case::block_device(Tar::default().member(b"./disk", b'4', b"", b""))]
#[case::setuid(Tar::default().setuid())]
#[case::twice(Tar::default().file(b"./a").file(b"./a"))]
#[case::twice_in_other_words(Tar::default().file(b"./a").file(b"a//"))]
#[case::directory_twice(Tar::default().member(b"./d", b'5', b"", b"").member(b"./d/", b'5', b"", b""))]
#[case::root_twice(Tar::default().member(b"./", b'5', b"", b"").member(b".", b'5', b"", b""))]
#[case::file_for_a_directory(Tar::default().file(b"./a").file(b"./a/b"))]
#[case::root_is_a_file(Tar::default().file(b"."))]
#[case::our_own_name(Tar::default().file(b"./.volsnap-work-x/plan"))]
fn a_hostile_archive_is_refused_and_nothing_outside_changes(#[case] tar: Tar) {
    let world = World::new();
    let error = world.extract(&tar.end(), &options()).unwrap_err();
    assert!(matches!(error, ExtractError::Refused { .. }), "{error:?}");
    world.assert_nothing_outside_changed();
}

#[test]
fn a_link_that_leads_out_is_a_link_and_nothing_else() {
    let world = World::new();
    let tar =
        Tar::default().member(b"./l", b'2', b"../outside/canary", b"").member(b"./h", b'1', b"./l", b"");
    let canary = world.canary().metadata().unwrap();
    world.extract(&tar.end(), &options()).unwrap();
    world.assert_nothing_outside_changed();
    assert_eq!(world.canary().metadata().unwrap().mtime(), canary.mtime());
    assert_eq!(fs::read_link(world.place().join("l")).unwrap(), Path::new("../outside/canary"));
}

#[test]
fn odd_names_are_only_names() {
    let world = World::new();
    let names: [&[u8]; 5] =
        [b"./a b;rm -rf $HOME", b"./new\nline", b"./\x1b[31mred", b"./\xff\xfe", b"./..."];
    let tar = names.iter().fold(Tar::default(), |tar, name| tar.file(name));
    world.extract(&tar.end(), &options()).unwrap();
    for name in names {
        assert_eq!(fs::read(world.place().join(OsStr::from_bytes(&name[2..]))).unwrap(), b"hostile");
    }
}

#[test]
fn more_than_was_announced_is_refused() {
    let tar = || Tar::default().file(b"./a").file(b"./b").end();
    let world = World::new();
    world.extract(&tar(), &ExtractOptions { members: 1, ..options() }).unwrap_err();
    World::new().extract(&tar(), &ExtractOptions { bytes: 13, ..options() }).unwrap_err();
    World::new().extract(&tar(), &ExtractOptions { bytes: 14, members: 2, ..options() }).unwrap();
}

#[test]
fn a_bomb_costs_no_more_than_was_announced() {
    let world = World::new();
    let mut packed = Vec::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(8 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    packed.extend_from_slice(header.as_bytes());
    packed.resize(1 << 20, 0);
    let bomb = zstd::encode_all(packed.as_slice(), 3).unwrap();
    let error = world.extract(&bomb, &options()).unwrap_err();
    assert!(error.to_string().contains("announced"), "{error}");
}

#[test]
fn a_disk_that_is_nearly_full_is_left_alone() {
    let world = World::new();
    let options = ExtractOptions { reserve: u64::MAX, ..options() };
    let error = world.extract(&Tar::default().file(b"./a").end(), &options).unwrap_err();
    assert!(matches!(error, ExtractError::Space { .. }), "{error}");
    assert_eq!(fs::read_dir(world.place()).unwrap().count(), 0);
}

/// A sparse file of the old GNU format that has a byte at its end, and nothing before.
fn hole(size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_mode(0o644);
    header.set_size(1);
    header.set_entry_type(tar::EntryType::GNUSparse);
    let gnu = header.as_gnu_mut().unwrap();
    let octal = |value: u64, field: &mut [u8; 12]| {
        let mut digits = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        digits[4..].copy_from_slice(&value.to_be_bytes());
        *field = digits;
    };
    octal(size - 1, &mut gnu.sparse[0].offset);
    octal(1, &mut gnu.sparse[0].numbytes);
    octal(size, &mut gnu.realsize);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &b"x"[..]).unwrap();
    builder.into_inner().unwrap()
}

/// Zero by zero, it would take an hour.
#[test]
fn a_huge_hole_of_a_foreign_archive_is_not_read() {
    const SIZE: u64 = 4 << 40;
    let world = World::new();
    let options = ExtractOptions { origin: Origin::Foreign, bytes: SIZE, ..options() };
    let extracted = world.extract(&hole(SIZE), &options).unwrap();
    assert_eq!((extracted.files, extracted.bytes), (1, SIZE));
    let made = world.place().join("hole").metadata().unwrap();
    assert_eq!(made.len(), SIZE);
    assert!(made.blocks() < 64, "{} blocks", made.blocks());
}

#[test]
fn what_is_saved_can_lie_as_deep_as_what_is_restored_and_no_deeper() {
    let source = TempDir::new().unwrap();
    let deep = source.path().join("d/".repeat(crate::archive::DEPTH_MAX - 1));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), "x").unwrap();
    let archive = || -> Result<Vec<u8>, ArchiveError> {
        let written = tempfile::NamedTempFile::new().unwrap();
        let out = written.reopen().unwrap();
        archive_tree(source.path(), &ArchiveOptions::default(), out, Vec::new(), &mut |_| {})?;
        Ok(fs::read(written.path()).unwrap())
    };
    let world = World::new();
    let saved = archive().unwrap();
    let extracted = world.extract(&saved, &options()).unwrap();
    assert_eq!(extracted.files, 1);
    fs::create_dir(deep.join("e")).unwrap();
    fs::write(deep.join("e/f"), "x").unwrap();
    let error = archive().unwrap_err();
    assert!(crate::model::error::chain(&error).contains("deeper than 400 directories"), "{error}");
}

#[test]
fn a_path_of_ten_thousand_directories_is_refused() {
    let world = World::new();
    let directory = TempDir::new().unwrap();
    let path = "d/".repeat(10_000) + "f";
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, std::io::empty()).unwrap();
    let error = world.extract(&builder.into_inner().unwrap(), &options()).unwrap_err();
    assert!(error.to_string().ends_with("too deep"), "{error}");
    drop(directory);
}

#[rstest]
#[case::foreign_top("backup/x", "", "backup/x/PG_VERSION", "PG_VERSION")]
#[case::dots("backup", "", "./backup/PG_VERSION", "PG_VERSION")]
#[case::absolute("backup", "", "/backup/PG_VERSION", "PG_VERSION")]
#[case::one_down("", "pgdata", "PG_VERSION", "pgdata/PG_VERSION")]
#[case::renamed("data", "18/docker", "data/PG_VERSION", "18/docker/PG_VERSION")]
fn what_lies_on_another_level_comes_to_the_right_one(
    #[case] strip: &str,
    #[case] prefix: &str,
    #[case] name: &str,
    #[case] expected: &str,
) {
    let world = World::new();
    let options =
        ExtractOptions { strip: strip.into(), prefix: prefix.into(), origin: Origin::Foreign, ..options() };
    world.extract(&Tar::default().file(name.as_bytes()).end(), &options).unwrap();
    assert_eq!(fs::read(world.place().join(expected)).unwrap(), b"hostile");
}

#[test]
fn what_lies_beside_the_data_is_refused() {
    let world = World::new();
    let options = ExtractOptions { strip: "data".into(), origin: Origin::Foreign, ..options() };
    let tar = Tar::default().file(b"data/a").file(b"other/b").end();
    world.extract(&tar, &options).unwrap_err();
}

/// Makes a tree with a bit of everything.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("a/deep er/down")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("a/file"), vec![7; 100_000]).unwrap();
    fs::write(root.join("a/closed"), "x").unwrap();
    fs::set_permissions(root.join("a/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::hard_link(root.join("a/file"), root.join("z-another-name")).unwrap();
    symlink("/nowhere", root.join("link")).unwrap();
    symlink("a/file", root.join("inner-link")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRUSR).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(b"data", 5 << 20).unwrap();
    std::os::unix::fs::chown(root.join("a/file"), Some(999), Some(70)).unwrap();
    std::os::unix::fs::lchown(root.join("link"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::chown(root.join("a/deep er"), Some(70), Some(70)).unwrap();
    xattr::set(root.join("a/file"), "user.note", b"\x00\xff").unwrap();
    xattr::set(root.join("empty"), "user.on-a-directory", b"1").unwrap();
    let _ = Command::new("setfacl").args(["-m", "u:1234:r"]).arg(root.join("a/file")).status();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o710)).unwrap();
    for path in ["a/deep er/down", "a/deep er", "a", "empty", "a/file", "sparse", ""] {
        let file = File::open(root.join(path)).unwrap();
        let time = nix::sys::time::TimeSpec::new(1_234_567_890, 123_456_789);
        nix::sys::stat::futimens(&file, &time, &time).unwrap();
    }
}

fn archived(root: &Path, list: &mut Vec<u8>) -> Vec<u8> {
    #[derive(Clone, Default)]
    struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let archive = Shared::default();
    archive_tree(root, &ArchiveOptions::default(), archive.clone(), list, &mut |_| {}).unwrap();
    std::mem::take(&mut *archive.0.lock().unwrap())
}

fn records(list: &[u8]) -> Vec<FileRecord> {
    FileListReader::new(std::io::BufReader::new(list)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_tree_with_a_bit_of_everything_comes_back_the_same() {
    let (source, world) = (TempDir::new().unwrap(), World::new());
    make_tree(source.path());
    let mut list = Vec::new();
    let archive = archived(source.path(), &mut list);
    let extracted = world.extract(&archive, &ExtractOptions { bytes: 1 << 30, ..options() }).unwrap();
    let mut digest = ListDigest::default();
    records(&list).iter().for_each(|record| digest.push(record));
    assert_eq!(extracted.digest, digest.finish(), "the digest of what was written is that of the list");
    let root = extracted.root.unwrap();
    Metadata::of_record(&root).apply(&File::open(world.place()).unwrap()).unwrap();

    let mut again = Vec::new();
    archived(&world.place(), &mut again);
    assert_eq!(records(&again), records(&list));
    assert!(fs::metadata(world.place().join("sparse")).unwrap().blocks() < 1000, "the holes were filled");
    world.assert_nothing_outside_changed();
}

#[test]
fn another_owner_takes_everything() {
    let (source, world) = (TempDir::new().unwrap(), World::new());
    make_tree(source.path());
    let archive = archived(source.path(), &mut Vec::new());
    let options = ExtractOptions { bytes: 1 << 30, owner: Some((4321, 1234)), ..options() };
    let extracted = world.extract(&archive, &options).unwrap();
    for path in ["a", "a/file", "link", "pipe", "empty", "sparse"] {
        let metadata = world.place().join(path).symlink_metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (4321, 1234), "{path}");
    }
    assert_eq!(extracted.root.unwrap().uid, 4321);
}

/// Something in a tree, named by numbers.
#[derive(Debug, Clone)]
struct Node {
    place: Vec<u8>,
    kind: u8,
    size: usize,
    owner: (u32, u32),
    mode: u32,
    mtime: (i64, i64),
    noted: bool,
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let size =
        prop_oneof![0..5000_usize, (1_usize << 20) - 2..(1 << 20) + 3, ((1_usize << 20) + 4096)..(3 << 20)];
    let node = (
        proptest::collection::vec(0_u8..4, 1..4),
        0_u8..7,
        size,
        (0_u32..70_000, 0_u32..70_000),
        0_u32..0o1000,
        (0_i64..4_000_000_000, 0_i64..1_000_000_000),
        any::<bool>(),
    );
    let node = node.prop_map(|(place, kind, size, owner, mode, mtime, noted)| Node {
        place,
        kind,
        size,
        owner,
        mode,
        mtime,
        noted,
    });
    proptest::collection::vec(node, 0..12)
}

/// Makes whatever can be made: it skips a name that is taken or lies below a file.
fn plant(root: &Path, nodes: &[Node]) {
    let mut directories = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let names = [&b"a"[..], b"with space", b"new\nline", b"\xff\xfe"];
        let path: PathBuf = root.join(
            node.place.iter().map(|name| OsStr::from_bytes(names[usize::from(*name)])).collect::<PathBuf>(),
        );
        if path.symlink_metadata().is_ok() || fs::create_dir_all(path.parent().unwrap()).is_err() {
            continue;
        }
        match node.kind {
            0 => fs::create_dir(&path).unwrap(),
            1 => symlink(format!("../{number}"), &path).unwrap(),
            2 if !files.is_empty() => fs::hard_link(&files[number % files.len()], &path).unwrap(),
            3 => {
                let sparse = File::create(&path).unwrap();
                sparse.set_len(node.size as u64 * 3).unwrap();
                sparse.write_all_at(b"data", node.size as u64).unwrap();
            }
            4 => nix::unistd::mkfifo(&path, Mode::S_IRUSR).unwrap(),
            _ => fs::write(&path, vec![u8::try_from(number).unwrap(); node.size]).unwrap(),
        }
        std::os::unix::fs::lchown(&path, Some(node.owner.0), Some(node.owner.1)).unwrap();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_symlink() {
            continue;
        }
        if node.noted && (metadata.is_file() || metadata.is_dir()) {
            xattr::set(&path, "user.note", &node.mode.to_le_bytes()).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(node.mode)).unwrap();
        if metadata.is_dir() {
            directories.push((path, node.mtime));
        } else {
            if metadata.is_file() {
                files.push(path.clone());
            }
            set_times(&path, node.mtime);
        }
    }
    directories.iter().for_each(|(path, mtime)| set_times(path, *mtime));
}

fn set_times(path: &Path, (secs, nanos): (i64, i64)) {
    let time = nix::sys::time::TimeSpec::new(secs, nanos);
    let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flags).unwrap();
}

proptest! {
    #![proptest_config(crate::agent::cases(48))]

    #[test]
    fn any_tree_comes_back_the_same(nodes in nodes()) {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let (source, world) = (TempDir::new().unwrap(), World::new());
        plant(source.path(), &nodes);
        let mut list = Vec::new();
        let archive = archived(source.path(), &mut list);
        let extracted = world.extract(&archive, &ExtractOptions { bytes: 1 << 30, ..options() }).unwrap();
        let mut digest = ListDigest::default();
        records(&list).iter().for_each(|record| digest.push(record));
        prop_assert_eq!(&extracted.digest, &digest.finish());
        let root = extracted.root.unwrap();
        Metadata::of_record(&root).apply(&File::open(world.place()).unwrap()).unwrap();
        let mut again = Vec::new();
        archived(&world.place(), &mut again);
        prop_assert_eq!(records(&again), records(&list));
    }
}
