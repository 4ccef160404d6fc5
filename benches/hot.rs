//! The inner loops, without an engine: `scripts/bench hot`. Data are made up and always the same; half of the bytes
//! do not compress.

use std::fs;
use std::io::{Cursor, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use tempfile::TempDir;
use volsnap::agent::calls::{StageCompare, StagePass};
use volsnap::agent::staging::Stage;
use volsnap::agent::tree::{TreeWalker, WalkOptions};
use volsnap::archive::{
    BlockOptions, BlockReader, BlockWriter, Codec, Entry, EntryKind, FileListReader, FileListWriter,
    FileRecord, Origin, TarReader, TarWriter, Timestamp,
};
use volsnap::database::postgres::page::{PageChecker, RelationFile};

fn main() {
    divan::main();
}

/// Bytes of a stream.
const STREAM: usize = 32 << 20;
/// Members of a tar, and lines of a file list.
const MEMBERS: usize = 5_000;
/// Files of a tree, and the bytes of each.
const FILES: usize = 400;
const FILE: usize = 64 << 10;
/// Of PostgreSQL, as its control file says them.
const PAGE: u32 = 8192;
const SEGMENT: u32 = 131_072;

/// Bytes half of which do not compress, by runs of 4 KiB.
fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8192);
    while bytes.len() < len {
        for _ in 0..512 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        while bytes.len() % 8192 != 0 {
            bytes.extend_from_slice(b"order shipped to customer 4711; \n");
            let whole = bytes.len().min(bytes.len().next_multiple_of(8192));
            bytes.truncate(whole);
        }
    }
    bytes.truncate(len);
    bytes
}

static RAW: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(STREAM));

fn packed(codec: Codec) -> Vec<u8> {
    let options = BlockOptions { codec, ..BlockOptions::default() };
    let mut writer = must(BlockWriter::new(Vec::new(), &options));
    must(writer.write_all(&RAW));
    must(writer.finish()).0
}

/// What fails here is a bug in the benchmark.
fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

const CODECS: [&str; 3] = ["zstd:3", "gzip:1", "none"];

#[divan::bench(args = CODECS, sample_count = 10)]
fn blocks_written(bencher: Bencher<'_, '_>, codec: &str) {
    let codec: Codec = must(codec.parse());
    bencher.counter(BytesCount::new(STREAM)).bench(|| packed(codec));
}

#[divan::bench(args = CODECS, sample_count = 10)]
fn blocks_read(bencher: Bencher<'_, '_>, codec: &str) {
    let packed = packed(must(codec.parse()));
    bencher.counter(BytesCount::new(STREAM)).bench(|| {
        let mut reader = must(BlockReader::open(Cursor::new(packed.clone()), Origin::Volsnap));
        must(std::io::copy(&mut reader, &mut std::io::sink()))
    });
}

fn entry(number: usize) -> Entry {
    Entry {
        path: format!("base/{}/{number}", number % 7).into_bytes(),
        kind: EntryKind::File,
        size: 100,
        mode: 0o600,
        uid: 999,
        gid: 999,
        mtime: Timestamp { secs: 1_795_900_000, nanos: 123_456_789 },
        link: Vec::new(),
        xattrs: Vec::new(),
        device: None,
        extents: None,
    }
}

fn tar() -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for number in 0..MEMBERS {
        must(writer.append(&entry(number)));
        let mut content = &RAW[..100];
        while writer.remaining() > 0 {
            must(writer.fill(|buffer| content.read(buffer)));
        }
    }
    must(writer.finish())
}

#[divan::bench]
fn tar_written(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(MEMBERS)).bench(tar);
}

#[divan::bench]
fn tar_read(bencher: Bencher<'_, '_>) {
    let tar = tar();
    bencher.counter(ItemsCount::new(MEMBERS)).bench(|| {
        let mut reader = TarReader::new(tar.as_slice());
        while let Some(entry) = must(reader.next_entry()) {
            while let Some(segment) = must(reader.next_segment()) {
                black_box(segment);
            }
            black_box(entry);
        }
    });
}

fn file_list() -> Vec<u8> {
    let mut writer = must(FileListWriter::new(Vec::new()));
    for number in 0..MEMBERS {
        must(writer.append(&FileRecord::new(entry(number), Some(blake3::hash(&number.to_le_bytes())))));
    }
    must(writer.finish())
}

#[divan::bench]
fn file_list_written(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(MEMBERS)).bench(file_list);
}

#[divan::bench]
fn file_list_read(bencher: Bencher<'_, '_>) {
    let list = file_list();
    bencher
        .counter(ItemsCount::new(MEMBERS))
        .bench(|| must(FileListReader::new(list.as_slice())).map(must).map(black_box).count());
}

#[divan::bench]
fn page_checksums(bencher: Bencher<'_, '_>) {
    // One page of a real table, over and over: it is sound at one place only, which costs the same to find out.
    let page = include_bytes!("../fixtures/pages/heap.bin");
    let relation: Vec<u8> = page.iter().copied().cycle().take(8 << 20).collect();
    let Some(relation_file) = RelationFile::parse(Path::new("base/5/16384")) else { return };
    bencher.counter(BytesCount::new(relation.len())).bench(|| {
        let mut checker = PageChecker::new(relation_file, PAGE, SEGMENT);
        relation.chunks(1 << 20).for_each(|piece| checker.feed(piece));
        checker.finish()
    });
}

/// A tree of files, in 20 directories.
struct Tree {
    directory: TempDir,
}

impl Tree {
    fn grown() -> Self {
        let directory = must(TempDir::new());
        for number in 0..FILES {
            let parent = directory.path().join(format!("source/{}", number % 20));
            must(fs::create_dir_all(&parent));
            must(fs::write(parent.join(number.to_string()), &RAW[number * 4096..number * 4096 + FILE]));
        }
        must(fs::create_dir(directory.path().join("stage")));
        Self { directory }
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn stage(&self) -> Stage {
        must(Stage::open(&self.directory.path().join("stage"), &self.source()))
    }
}

#[divan::bench]
fn tree_walked(bencher: Bencher<'_, '_>) {
    let tree = Tree::grown();
    bencher.counter(ItemsCount::new(FILES)).bench(|| {
        let mut walker = must(TreeWalker::open(&tree.source(), WalkOptions::default()));
        while let Some(member) = must(walker.next_member()) {
            black_box(member);
        }
    });
}

#[divan::bench(sample_count = 10)]
fn first_stage_pass(bencher: Bencher<'_, '_>) {
    let tree = Tree::grown();
    bencher
        .counter(BytesCount::new(FILES * FILE))
        // What is not kept is removed by the next that opens the place.
        .with_inputs(|| tree.stage())
        .bench_values(|mut stage| must(stage.pass(&StagePass::default(), &mut |_| {})));
}

#[divan::bench(sample_count = 20)]
fn stage_pass_over_what_is_unchanged(bencher: Bencher<'_, '_>) {
    let tree = Tree::grown();
    let mut stage = tree.stage();
    must(stage.pass(&StagePass::default(), &mut |_| {}));
    // What was written within two seconds is read again: a coarse clock may hide a later write.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    must(stage.pass(&StagePass::default(), &mut |_| {}));
    bencher
        .counter(ItemsCount::new(FILES))
        .bench_local(|| must(stage.pass(&StagePass::default(), &mut |_| {})));
}

#[divan::bench(sample_count = 10)]
fn stage_compared(bencher: Bencher<'_, '_>) {
    let tree = Tree::grown();
    let mut stage = tree.stage();
    must(stage.pass(&StagePass::default(), &mut |_| {}));
    let request = StageCompare::default();
    // What a comparison has proved it does not read again: each begins anew.
    let copy = tree.directory.path().join("stage").join(volsnap::agent::staging::TREE);
    bencher.counter(BytesCount::new(FILES * FILE)).bench(|| {
        let mut comparison = volsnap::agent::staging::compare::Comparison::of(&tree.source(), &copy);
        let compared = must(comparison.compare(&request, &mut |_| {}));
        assert_eq!(compared.different, 0, "{compared:?}");
    });
}
