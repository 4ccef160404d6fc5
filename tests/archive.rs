//! Archives survive: through our own reader, through plain tools, and in both directions; and no
//! damage to one passes unnoticed.

#![expect(clippy::unwrap_used, reason = "a test that fails here shows where")]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use proptest::prelude::*;
use tempfile::TempDir;
use volsnap::agent::archive::{ArchiveOptions, ArchiveStats, Progress, archive_tree};
use volsnap::agent::tree::Stability;
use volsnap::archive::{
    ArchiveError, BlockReader, Codec, EntryKind, FileListReader, FileProblem, FileRecord, Origin, Segment,
    TarReader, shown,
};

const CODECS: [Codec; 3] = [Codec::Zstd { level: 1 }, Codec::Gzip { level: 1 }, Codec::None];

/// A sink that can be looked into after the archive took it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Archived {
    archive: Vec<u8>,
    records: Vec<FileRecord>,
    stats: ArchiveStats,
}

fn try_archive(root: &Path, options: &ArchiveOptions) -> Result<Archived, ArchiveError> {
    let out = Shared::default();
    let mut list = Vec::new();
    let stats = archive_tree(root, options, out.clone(), &mut list, &mut |_| {})?;
    let records = FileListReader::new(list.as_slice())?.collect::<Result<_, _>>()?;
    Ok(Archived { archive: out.take(), records, stats })
}

fn archive_with(root: &Path, codec: Codec) -> Archived {
    try_archive(root, &ArchiveOptions { codec, ..ArchiveOptions::default() }).unwrap()
}

/// What can be seen of a member, however it got there.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Seen {
    kind: EntryKind,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    target: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    digest: Option<blake3::Hash>,
    /// The least of the names of the same file.
    first_name: Vec<u8>,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

/// Looks at a tree with nothing but the standard library.
fn look(root: &Path) -> Tree {
    let (mut tree, mut inodes) = (Tree::new(), BTreeMap::new());
    look_at(root, Path::new(""), &mut tree, &mut inodes);
    agree_on_first_names(&mut tree);
    tree
}

/// Which of a file's names came first is the choice of who looked: here it is the least of them, byte by byte.
fn agree_on_first_names(tree: &mut Tree) {
    let mut names: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (path, seen) in &*tree {
        names.entry(seen.first_name.clone()).or_insert_with(|| path.clone());
    }
    for seen in tree.values_mut() {
        seen.first_name.clone_from(&names[&seen.first_name]);
    }
}

fn look_at(root: &Path, path: &Path, tree: &mut Tree, inodes: &mut BTreeMap<u64, Vec<u8>>) {
    let full = root.join(path);
    let meta = fs::symlink_metadata(&full).unwrap();
    let file_type = meta.file_type();
    let name = if path == Path::new("") { b".".to_vec() } else { path.as_os_str().as_bytes().to_vec() };
    let kind = match file_type {
        t if t.is_dir() => EntryKind::Directory,
        t if t.is_symlink() => EntryKind::Symlink,
        t if t.is_fifo() => EntryKind::Fifo,
        t if t.is_char_device() => EntryKind::Char,
        t if t.is_block_device() => EntryKind::Block,
        t if t.is_socket() => return,
        _ => EntryKind::File,
    };
    let xattrs = xattr::list(&full).unwrap();
    let mut xattrs: Vec<_> = xattrs
        .map(|name| {
            let value = xattr::get(&full, &name).unwrap().unwrap();
            (name.into_vec(), value)
        })
        .collect();
    xattrs.sort();
    let first_name = match kind {
        EntryKind::File => inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone(),
        _ => name.clone(),
    };
    let seen = Seen {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap()),
        target: match kind {
            EntryKind::Symlink => fs::read_link(&full).unwrap().into_os_string().into_vec(),
            _ => Vec::new(),
        },
        xattrs,
        digest: (kind == EntryKind::File).then(|| blake3::hash(&fs::read(&full).unwrap())),
        first_name,
    };
    tree.insert(name, seen);
    if kind == EntryKind::Directory {
        let mut names: Vec<_> =
            fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            look_at(root, &path.join(name), tree, inodes);
        }
    }
}

/// Reads an archive into the same form; hard links become as their first names.
fn read_tree(source: impl Read, origin: Origin) -> Result<Tree, ArchiveError> {
    let mut reader = TarReader::new(BlockReader::with_threads(source, origin, 2)?);
    let mut tree = Tree::new();
    while let Some(entry) = reader.next_entry()? {
        let mut hasher = blake3::Hasher::new();
        let mut len = 0;
        while let Some(segment) = reader.next_segment()? {
            match segment {
                Segment::Data(data) => {
                    hasher.update(data);
                    len += data.len() as u64;
                }
                Segment::Hole(hole) => {
                    std::io::copy(&mut std::io::repeat(0).take(hole), &mut hasher).unwrap();
                    len += hole;
                }
            }
        }
        assert_eq!(len, entry.size, "{}", shown(&entry.path));
        let mut seen = Seen {
            kind: entry.kind,
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            mtime: (entry.mtime.secs, entry.mtime.nanos),
            target: entry.link.clone(),
            xattrs: entry.xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect(),
            digest: (entry.kind == EntryKind::File).then(|| hasher.finalize()),
            first_name: entry.path.clone(),
        };
        if entry.kind == EntryKind::Hardlink {
            seen = tree[&entry.link].clone();
        }
        assert!(tree.insert(entry.path, seen).is_none());
    }
    agree_on_first_names(&mut tree);
    Ok(tree)
}

fn assert_same(expected: &Tree, found: &Tree) {
    for (path, seen) in expected {
        assert_eq!(Some(seen), found.get(path), "{}", shown(path));
    }
    let extra: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(extra.is_empty(), "{extra:?}");
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Something to put into a tree.
#[derive(Debug, Clone)]
struct Plant {
    name: Vec<u8>,
    depth: usize,
    what: What,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattr: Option<(Vec<u8>, Vec<u8>)>,
    acl: bool,
}

#[derive(Debug, Clone)]
enum What {
    File(Vec<u8>),
    Sparse(Vec<(u64, u16)>, u64),
    Directory,
    Symlink(Vec<u8>),
    Hardlink,
    Fifo,
    Socket,
    Device,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no name has these", |byte| !matches!(byte, 0 | b'/'));
    prop_oneof![
        3 => "[a-z0-9_.]{1,12}".prop_map(String::into_bytes),
        2 => prop::collection::vec(byte, 1..40),
        1 => prop::sample::select(vec![
            b" ".to_vec(), b"a b".to_vec(), b"new\nline".to_vec(), b"it's \"quoted\"; rm".to_vec(),
            b"\\t\t%3D=%".to_vec(), vec![b'n'; 255], vec![b'm'; 100], vec![b'k'; 97], vec![0xff; 120],
            "\u{e9}\u{4e16}".as_bytes().to_vec(), b"-rf".to_vec(), b"...".to_vec(), b"c:x".to_vec(),
        ]),
    ]
    .prop_filter("these are no names", |name| !matches!(name.as_slice(), b"." | b".."))
}

fn what() -> impl Strategy<Value = What> {
    let bytes = prop::collection::vec(any::<u8>(), 0..2000);
    let target = prop_oneof![
        name(),
        Just(b"/absolute/../x".to_vec()),
        Just(vec![b't'; 101]),
        Just(b"dir/".repeat(150)),
    ];
    prop_oneof![
        6 => bytes.prop_map(What::File),
        2 => (prop::collection::vec((0_u64..200, any::<u16>()), 0..6), 0_u64..1_000_000)
            .prop_map(|(data, size)| What::Sparse(data, size)),
        4 => Just(What::Directory),
        2 => target.prop_map(What::Symlink),
        2 => Just(What::Hardlink),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        1 => Just(What::Device),
    ]
}

fn plant() -> impl Strategy<Value = Plant> {
    let id = prop_oneof![0_u32..70_000, Just(2_097_151), Just(2_097_152), Just(u32::MAX - 1)];
    let mode = prop_oneof![Just(0), Just(0o4755), Just(0o1777), Just(0o2070), 0_u32..0o7777];
    let secs = prop_oneof![0_i64..2_000_000_000, -2_000_000_000_i64..0, Just(-1)];
    let nanos = prop_oneof![Just(0_u32), 0_u32..1_000_000_000];
    let xattr = ("[a-z=%.]{1,20}", prop::collection::vec(any::<u8>(), 0..100))
        .prop_map(|(name, value)| (format!("user.{name}").into_bytes(), value));
    let owner = (id.clone(), id);
    let xattr = prop::option::weighted(0.3, xattr);
    (name(), 0..20_usize, what(), mode, owner, (secs, nanos), xattr, prop::bool::weighted(0.2)).prop_map(
        |(name, depth, what, mode, owner, mtime, xattr, acl)| Plant {
            name,
            depth,
            what,
            mode,
            owner,
            mtime,
            xattr,
            acl,
        },
    )
}

/// The kernel's bytes of `user::rwx,user:70:r-x,group::r-x,mask::rwx,other::r--`.
fn acl_bytes() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 5, 70), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)]
    {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Plants a tree; names that do not fit their place are left out.
fn grow(root: &Path, plants: &[Plant]) {
    let (mut directories, mut files) = (vec![root.to_owned()], Vec::new());
    let mut grown = Vec::new();
    for plant in plants {
        // Deep more often than wide, and never too long for a plain path.
        let parent = directories[directories.len() - 1 - plant.depth % directories.len().min(4)].clone();
        let path = parent.join(OsStr::from_bytes(&plant.name));
        if path.as_os_str().len() > 3000 || path.symlink_metadata().is_ok() {
            continue;
        }
        let is_grown = match &plant.what {
            What::File(content) => fs::write(&path, content).map(|()| files.push(path.clone())),
            What::Sparse(data, size) => grow_sparse(&path, data, *size).map(|()| files.push(path.clone())),
            What::Directory => fs::create_dir(&path).map(|()| directories.push(path.clone())),
            What::Symlink(target) => symlink(OsStr::from_bytes(target), &path),
            What::Hardlink => match files.first() {
                Some(first) => fs::hard_link(first, &path),
                None => continue,
            },
            What::Fifo => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).map_err(Into::into),
            What::Socket => match std::os::unix::net::UnixListener::bind(&path) {
                Ok(_) => Ok(()),
                Err(_) => continue,
            },
            What::Device if is_root() => {
                use nix::sys::stat::{Mode, SFlag, makedev, mknod};
                mknod(&path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).map_err(Into::into)
            }
            What::Device => continue,
        };
        is_grown.unwrap();
        grown.push((path, plant));
    }
    // The innermost first: what is done in a directory moves its time.
    for (path, plant) in grown.iter().rev() {
        dress(path, plant);
    }
}

fn grow_sparse(path: &Path, data: &[(u64, u16)], size: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    for (block, len) in data {
        file.seek(SeekFrom::Start(block * 4096))?;
        file.write_all(&vec![7; usize::from(*len)])?;
    }
    let len = file.metadata()?.len();
    file.set_len(len.max(size))
}

fn dress(path: &Path, plant: &Plant) {
    let is_symlink = matches!(plant.what, What::Symlink(_));
    let takes_xattrs =
        matches!(plant.what, What::File(_) | What::Sparse(..) | What::Directory | What::Hardlink);
    if let (Some((name, value)), true) = (&plant.xattr, takes_xattrs) {
        xattr::set(path, OsStr::from_bytes(name), value).unwrap();
    }
    if is_root() {
        lchown(path, Some(plant.owner.0), Some(plant.owner.1)).unwrap();
    }
    if !is_symlink {
        let mode = if is_root() { plant.mode } else { plant.mode | 0o700 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    if plant.acl && takes_xattrs {
        xattr::set(path, "system.posix_acl_access", &acl_bytes()).unwrap();
        if matches!(plant.what, What::Directory) {
            xattr::set(path, "system.posix_acl_default", &acl_bytes()).unwrap();
        }
    }
    let time = TimeSpec::new(plant.mtime.0, plant.mtime.1.into());
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    // GNU tar reports sockets, which it skips as we do.
    let ours: Vec<_> = complaint.lines().filter(|line| !line.contains("socket ignored")).collect();
    assert!(output.status.success() && ours.is_empty(), "{command:?}: {ours:?}");
    feeding.join().unwrap().unwrap();
    output.stdout
}

fn gnu_extract(tar: &[u8]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("tar");
    command.args([
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--warning=no-timestamp",
        "-xpf",
        "-",
        "-C",
    ]);
    run(command.arg(directory.path()), tar);
    directory
}

fn gnu_create(root: &Path, options: &[&str]) -> Vec<u8> {
    let mut command = Command::new("tar");
    run(command.args(options).args(["--numeric-owner", "-cf", "-", "-C"]).arg(root).arg("."), &[])
}

/// Runs in a directory that is removed whatever modes are in it.
fn with_tree(plants: &[Plant], test: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    grow(&root, plants);
    if is_root() {
        chown(&root, Some(999), Some(3_000_000)).unwrap();
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o1750)).unwrap();
    test(&root);
}

/// As many cases as are asked for, and these without that: `scripts/test --deep` asks for many.
fn cases(few: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { few };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200, ..config }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn any_tree_survives_the_way_through_gnu_tar(
        plants in prop::collection::vec(plant(), 0..25),
        codec in prop::sample::select(CODECS.to_vec()),
    ) {
        with_tree(&plants, |root| {
            let expected = look(root);
            let archived = archive_with(root, codec);
            assert_eq!(archived.records.len(), expected.len());
            for record in &archived.records {
                let seen = &expected[&record.path];
                if record.kind == EntryKind::File {
                    assert_eq!(record.digest, seen.digest);
                }
            }
            assert_same(&expected, &read_tree(archived.archive.as_slice(), Origin::Volsnap).unwrap());
            let tar = match codec {
                Codec::Zstd { .. } => run(Command::new("zstd").arg("-dc"), &archived.archive),
                Codec::Gzip { .. } => run(Command::new("gzip").arg("-dc"), &archived.archive),
                Codec::None => archived.archive,
            };
            let extracted = gnu_extract(&tar);
            assert_same(&expected, &look(extracted.path()));
        });
    }

    #[test]
    fn any_archive_of_gnu_tar_is_read(plants in prop::collection::vec(plant(), 0..25)) {
        with_tree(&plants, |root| {
            let expected = look(root);
            let tar = gnu_create(root, &["--format=pax", "--sparse", "--xattrs", "--xattrs-include=*", "--acls"]);
            assert_same(&expected, &read_tree(tar.as_slice(), Origin::Foreign).unwrap());
            for version in ["0.0", "0.1"] {
                let sparse = format!("--sparse-version={version}");
                let tar = gnu_create(root, &["--format=pax", "--sparse", &sparse, "--xattrs", "--acls"]);
                assert_same(&expected, &read_tree(tar.as_slice(), Origin::Foreign).unwrap());
            }
        });
    }

    #[test]
    fn any_archive_in_the_old_gnu_format_is_read(plants in prop::collection::vec(plant(), 0..25)) {
        with_tree(&plants, |root| {
            // That format has neither xattrs nor parts of seconds.
            let mut expected = look(root);
            for seen in expected.values_mut() {
                seen.xattrs.clear();
                seen.mtime.1 = 0;
            }
            let tar = gnu_create(root, &["--format=gnu", "--sparse"]);
            assert_same(&expected, &read_tree(tar.as_slice(), Origin::Foreign).unwrap());
        });
    }
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn small_tree() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["base/1", "global", "pg_wal"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["PG_VERSION", "base/1/1259", "base/1/2619", "global/pg_control", "zz"] {
        fs::write(root.join(name), name.repeat(500)).unwrap();
    }
    directory
}

fn paths(archived: &Archived) -> Vec<String> {
    archived.records.iter().map(|record| String::from_utf8(record.path.clone()).unwrap()).collect()
}

#[test]
fn members_come_in_order_and_the_deferred_last() {
    let tree = small_tree();
    let options = ArchiveOptions {
        deferred: vec!["PG_VERSION".into(), "global/pg_control".into(), "not/there".into()],
        exclude: vec!["base/1/26*".to_owned(), "**/nothing".to_owned()],
        ..ArchiveOptions::default()
    };
    let archived = try_archive(tree.path(), &options).unwrap();
    let expected =
        [".", "base", "base/1", "base/1/1259", "global", "pg_wal", "zz", "PG_VERSION", "global/pg_control"];
    assert_eq!(paths(&archived), expected);
    let stats = &archived.stats;
    assert_eq!((stats.files, stats.directories, stats.excluded), (4, 5, 1));
    let members = read_tree(archived.archive.as_slice(), Origin::Volsnap).unwrap();
    assert_eq!(members.len(), expected.len());
}

#[test]
fn a_glob_leaves_out_a_directory_with_all_that_is_in_it() {
    let tree = small_tree();
    let options = ArchiveOptions { exclude: vec!["base".to_owned()], ..ArchiveOptions::default() };
    let archived = try_archive(tree.path(), &options).unwrap();
    assert_eq!(paths(&archived), [".", "PG_VERSION", "global", "global/pg_control", "pg_wal", "zz"]);
    let options = ArchiveOptions { exclude: vec!["a[".to_owned()], ..ArchiveOptions::default() };
    let error = try_archive(tree.path(), &options).err().unwrap().to_string();
    assert!(error.contains("`a[`"), "{error}");
}

#[test]
fn the_same_tree_gives_the_same_archive() {
    let tree = small_tree();
    for codec in CODECS {
        assert!(archive_with(tree.path(), codec).archive == archive_with(tree.path(), codec).archive);
    }
}

/// Archives a tree of which `change` does something to a large file while it is read.
fn archive_while(stability: Stability, change: impl Fn(&Path)) -> Result<Archived, (PathBuf, FileProblem)> {
    let tree = small_tree();
    let victim = tree.path().join("base/1/victim");
    fs::write(&victim, noise(3 << 20)).unwrap();
    File::open(&victim).unwrap().sync_all().unwrap();
    let (out, mut list, mut is_done) = (Shared::default(), Vec::new(), false);
    let options = ArchiveOptions { stability, threads: 1, ..ArchiveOptions::default() };
    let mut act = |progress: Progress| {
        if !is_done && progress.raw_bytes > 1 << 20 {
            is_done = true;
            change(&victim);
        }
    };
    // Progress is told after 16 MiB at the latest; a file of holes before makes it sure.
    let filler = File::create(tree.path().join("base/1/filler")).unwrap();
    filler.set_len((16 << 20) - (1 << 20)).unwrap();
    match archive_tree(tree.path(), &options, out.clone(), &mut list, &mut act) {
        Ok(stats) => {
            let records = FileListReader::new(list.as_slice()).unwrap().map(Result::unwrap).collect();
            Ok(Archived { archive: out.take(), records, stats })
        }
        Err(ArchiveError::File { path, problem }) => Err((path, problem)),
        Err(other) => panic!("{other:?}"),
    }
}

fn append_to(victim: &Path) {
    File::options().append(true).open(victim).unwrap().write_all(b"more").unwrap();
}

#[test]
fn a_file_that_changes_while_it_is_held_fails_by_name() {
    let (path, problem) = archive_while(Stability::Held, append_to).err().unwrap();
    assert_eq!(path, Path::new("base/1/victim"));
    assert!(matches!(problem, FileProblem::Changed { what: "size" }), "{problem:?}");
}

#[test]
fn a_file_that_is_replaced_while_it_is_held_fails_by_name() {
    let (path, problem) =
        archive_while(Stability::Held, |victim| fs::remove_file(victim).unwrap()).err().unwrap();
    assert_eq!(path, Path::new("base/1/victim"));
    assert!(matches!(problem, FileProblem::Changed { what: "change time" }), "{problem:?}");
}

#[test]
fn a_file_that_grows_while_nothing_is_held_is_reported() {
    let archived = archive_while(Stability::Live, append_to).unwrap();
    assert_eq!(archived.stats.changed, [Path::new("base/1/victim")]);
    read_tree(archived.archive.as_slice(), Origin::Volsnap).unwrap();
}

#[test]
fn a_file_that_shrinks_fails_by_name() {
    let shrink = |victim: &Path| File::options().write(true).open(victim).unwrap().set_len(10).unwrap();
    let (path, problem) = archive_while(Stability::Live, shrink).err().unwrap();
    assert_eq!(path, Path::new("base/1/victim"));
    assert!(matches!(problem, FileProblem::Shrank { expected: 3_145_728, .. }), "{problem:?}");
}

#[test]
fn a_file_that_vanishes_is_an_error_only_while_held() {
    // The names of a directory are read when it is entered, its files looked at one by one.
    for stability in [Stability::Held, Stability::Live] {
        let result = archive_while(stability, |victim| {
            fs::remove_file(victim.parent().unwrap().parent().unwrap().parent().unwrap().join("zz")).unwrap();
        });
        match result {
            Ok(archived) => assert!(!stability.is_held() && archived.stats.vanished == 1),
            Err((path, problem)) => {
                assert!(stability.is_held() && path == Path::new("zz"), "{path:?}");
                assert!(matches!(problem, FileProblem::Vanished));
            }
        }
    }
}

#[test]
fn a_directory_that_gains_a_name_while_it_is_held_fails_by_name() {
    let (path, problem) = archive_while(Stability::Held, |victim| {
        fs::write(victim.with_file_name("aa-new"), b"").unwrap();
    })
    .err()
    .unwrap();
    assert_eq!(path, Path::new("base/1"));
    assert!(matches!(problem, FileProblem::Changed { .. }));
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let tree = small_tree();
    for name in ["zz", "nowhere"] {
        let error = try_archive(&tree.path().join(name), &ArchiveOptions::default()).err().unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_cancelled_archive_ends_with_that_error() {
    let tree = small_tree();
    let cancel = Arc::new(AtomicBool::new(true));
    let options = ArchiveOptions { cancel: Arc::clone(&cancel), ..ArchiveOptions::default() };
    assert!(matches!(try_archive(tree.path(), &options), Err(ArchiveError::Cancelled)));
    cancel.store(false, Ordering::Relaxed);
    assert!(try_archive(tree.path(), &options).is_ok());
}

#[test]
fn a_sparse_file_beyond_eight_gib_costs_nothing_but_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = File::create(directory.path().join("huge")).unwrap();
    file.seek(SeekFrom::Start(9 << 30)).unwrap();
    file.write_all(b"end").unwrap();
    let archived = archive_with(directory.path(), CODECS[2]);
    assert!(archived.archive.len() < 100_000);
    assert_eq!(archived.records[1].size, (9 << 30) + 3);
    assert!(archived.records[1].is_sparse);
    let extracted = gnu_extract(&archived.archive);
    let mut file = File::open(extracted.path().join("huge")).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), (9 << 30) + 3);
    assert!(meta.blocks() < 1000);
    let mut end = String::new();
    file.seek(SeekFrom::Start(9 << 30)).unwrap();
    file.read_to_string(&mut end).unwrap();
    assert_eq!(end, "end");
}

#[test]
fn every_truncation_and_every_kind_of_garbage_in_an_archive_is_an_error() {
    let tree = small_tree();
    for codec in CODECS {
        let archive = archive_with(tree.path(), codec).archive;
        for len in (0..archive.len()).step_by(64) {
            assert!(read_tree(&archive[..len], Origin::Volsnap).is_err(), "{codec} {len}");
        }
        let longer = [archive.as_slice(), b"x"].concat();
        assert!(read_tree(longer.as_slice(), Origin::Volsnap).is_err(), "{codec}");
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn no_bytes_make_a_reader_panic(
        seed in prop::collection::vec(any::<u8>(), 0..3000),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        fix in any::<bool>(),
    ) {
        let _ = read_tree(Cursor::new(&seed), Origin::Foreign);
        let mut tar = run_once();
        for (at, byte) in flips {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if fix {
            mend_checksums(&mut tar);
        }
        let mut reader = TarReader::new(tar.as_slice());
        while let Ok(Some(_)) = reader.next_entry() {
            while let Ok(Some(_)) = reader.next_segment() {}
        }
    }
}

/// An archive with everything in it that has a parser.
fn run_once() -> Vec<u8> {
    static TAR: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    TAR.get_or_init(|| {
        let tree = small_tree();
        let root = tree.path();
        grow_sparse(&root.join("sparse"), &[(1, 10), (9, 100), (30, 5)], 1_000_000).unwrap();
        fs::write(root.join("n".repeat(200)), "").unwrap();
        xattr::set(root.join("zz"), "user.x", b"y").unwrap();
        let pax = archive_with(root, Codec::None).archive;
        let gnu = gnu_create(root, &["--format=gnu", "--sparse"]);
        [&pax[..pax.len() - 1024], &gnu].concat()
    })
    .clone()
}

fn mend_checksums(tar: &mut [u8]) {
    for record in tar.chunks_exact_mut(512).filter(|record| &record[257..262] == b"ustar") {
        record[148..156].fill(b' ');
        let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
        record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn names_are_never_interpreted() {
    let directory = tempfile::tempdir().unwrap();
    let name = OsString::from_vec(b"$(touch x); `id` \x1b[31m\xff".to_vec());
    fs::write(directory.path().join(&name), "content").unwrap();
    let archived = archive_with(directory.path(), CODECS[0]);
    assert_eq!(archived.records[1].path, name.as_bytes());
    assert!(CString::new(archived.records[1].path.clone()).is_ok());
    let shown = shown(name.as_bytes()).to_string();
    assert!(!shown.contains('\x1b'), "{shown}");
}
