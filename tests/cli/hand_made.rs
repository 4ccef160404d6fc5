//! Snapshots made without an engine: a small tree, archived and published by the library.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, TimeZone as _, Utc};
use tempfile::TempDir;
use volsnap::agent::archive::{ArchiveOptions, ArchiveStats, archive_tree};
use volsnap::archive::Codec;
use volsnap::clock::Clock;
use volsnap::model::ids::SnapshotId;
use volsnap::model::inspection::{Inspection, PageChecksums};
use volsnap::model::location::MountSource;
use volsnap::model::manifest::{
    ArchiveInfo, Capture, Consistency, Counts, Environment, Evidence, FORMAT_VERSION, FileListInfo, Manifest,
    Method, Part, Parts, Payload, Quiesce, Times,
};
use volsnap::model::unknown::UnknownFields;
use volsnap::repository::{PendingSnapshot, Repository, Snapshot, Stored};

use crate::program::Volsnap;

/// What a test's snapshot is of, and how it is made.
pub(crate) struct Recipe<'a> {
    pub(crate) source: &'a str,
    /// Tells it from others of the source; the later, the newer.
    pub(crate) second: i64,
    pub(crate) codec: Codec,
    /// What is changed in the manifest before it is published.
    pub(crate) adjust: &'a dyn Fn(&mut Manifest),
}

impl Default for Recipe<'_> {
    fn default() -> Self {
        Self { source: "shop_db_data", second: 0, codec: Codec::default(), adjust: &|_| {} }
    }
}

/// Returns the id of the snapshot begun at that second.
pub(crate) fn id(second: i64) -> SnapshotId {
    SnapshotId::new(at(second), [0x4f, 0x2a, 0x91])
}

fn at(second: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_795_206_611 + second, 0).unwrap()
}

/// Returns a small tree of every common kind of file, with contents that `seed` decides.
pub(crate) fn tree(seed: u8) -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    fs::write(root.join("text"), format!("a line of text, {seed:3}\n").repeat(2000)).unwrap();
    let mut random = vec![0; 300_000];
    blake3::Hasher::new().update(&[seed]).finalize_xof().read_exact(&mut random).unwrap();
    fs::write(root.join("sub/random"), random).unwrap();
    fs::write(root.join("sub/nothing"), "").unwrap();
    std::os::unix::fs::symlink("../text", root.join("sub/link")).unwrap();
    fs::hard_link(root.join("text"), root.join("sub/again")).unwrap();
    tree
}

/// Returns a tree with the files of a PostgreSQL that verification looks into, and what its shutdown proved.
pub(crate) fn database() -> (TempDir, Inspection) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("base/5")).unwrap();
    fs::create_dir(tree.path().join("global")).unwrap();
    fs::write(tree.path().join("PG_VERSION"), "15\n").unwrap();
    let control = fs::read(fixtures.join("pg_control/15-clean.bin")).unwrap();
    fs::write(tree.path().join("global/pg_control"), &control).unwrap();
    fs::copy(fixtures.join("pages/heap.bin"), tree.path().join("base/5/16384")).unwrap();
    fs::copy(fixtures.join("pages/heap-segment-1.bin"), tree.path().join("base/5/16390.1")).unwrap();
    let inspection = Inspection {
        engine: "postgresql".into(),
        version: "15".into(),
        data_directory: PathBuf::new(),
        identifier: Some("7710510804842835016".into()),
        state: "shut down".into(),
        clean: true,
        reasons: Vec::new(),
        proof_digest: blake3::hash(&control).to_hex().to_string(),
        page_checksums: Some(PageChecksums::On),
        page_size: NonZeroU32::new(8192),
        pages_per_segment: NonZeroU32::new(131_072),
        details: BTreeMap::new(),
        outside: Vec::new(),
        configuration: Vec::new(),
        slots: Vec::new(),
    };
    (tree, inspection)
}

/// Publishes a snapshot of a tree in the test's repository.
pub(crate) fn make(volsnap: &Volsnap, tree: &Path, recipe: &Recipe<'_>) -> Snapshot {
    let place = volsnap.repository();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let repository = Repository::open_or_init(&place, &Clock::system()).await.unwrap();
        make_in(&repository, tree, recipe).await
    })
}

/// Publishes a snapshot of a tree in any repository.
pub(crate) async fn make_in(repository: &Repository, tree: &Path, recipe: &Recipe<'_>) -> Snapshot {
    let id = id(recipe.second);
    let (mut archive, mut list) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let options = ArchiveOptions { codec: recipe.codec, threads: 2, ..ArchiveOptions::default() };
    let stats = archive_tree(tree, &options, archive.try_clone().unwrap(), &list, &mut |_| {}).unwrap();
    let [archive, list] = [&mut archive, &mut list].map(|file| {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        Bytes::from(bytes)
    });
    let pending = repository.begin(recipe.source, &id, recipe.codec).await.unwrap();
    let (archive, list) = store(&pending, archive, list).await;
    let mut manifest = manifest(recipe, id, &stats, (&archive, &list));
    (recipe.adjust)(&mut manifest);
    pending.publish(manifest, &archive, &list).await.unwrap()
}

async fn store(pending: &PendingSnapshot, archive: Bytes, list: Bytes) -> (Stored, Stored) {
    let mut archive_writer = pending.archive_writer().await.unwrap();
    archive_writer.write(archive).await.unwrap();
    let mut list_writer = pending.list_writer().await.unwrap();
    list_writer.write(list).await.unwrap();
    (archive_writer.finish().await.unwrap(), list_writer.finish().await.unwrap())
}

fn manifest(
    recipe: &Recipe<'_>,
    id: SnapshotId,
    stats: &ArchiveStats,
    (archive, list): (&Stored, &Stored),
) -> Manifest {
    let second = recipe.second;
    Manifest {
        format_version: FORMAT_VERSION,
        id,
        source: recipe.source.to_owned(),
        requires: Vec::new(),
        group: None,
        needs: Vec::new(),
        title: format!("volume {}", recipe.source),
        method: Method { quiesce: Quiesce::Stop, capture: Capture::Direct },
        payload: Payload::Physical,
        consistency: Consistency::StoppedAndQuiet,
        evidence: Evidence::default(),
        position: None,
        times: Times {
            started: at(second),
            held: at(second + 1),
            released: at(second + 3),
            published: at(second + 4),
        },
        downtime_ms: 0,
        phases: Vec::new(),
        parts: Parts::one(Part {
            location: MountSource::Volume(recipe.source.to_owned()),
            archive: ArchiveInfo {
                file: archive.file.clone(),
                codec: recipe.codec,
                stored_bytes: archive.bytes,
                tar_bytes: stats.tar_bytes,
                blake3: archive.blake3.clone(),
            },
            file_list: FileListInfo {
                file: list.file.clone(),
                stored_bytes: list.bytes,
                blake3: list.blake3.clone(),
            },
            counts: Counts {
                members: stats.members(),
                files: stats.files,
                raw_bytes: stats.raw_bytes,
                ..Counts::default()
            },
        }),
        environment: Environment::default(),
        facts: None,
        tags: BTreeMap::new(),
        sealed: None,
        tool_version: "0.1.0".to_owned(),
        unknown: UnknownFields::default(),
    }
}

/// Returns where the file list of a snapshot lies.
pub(crate) fn list_path(snapshot: &Snapshot) -> PathBuf {
    snapshot.archive_path().with_file_name(&snapshot.manifest.file_list().file)
}

/// Rewrites a file by what `change` does to its bytes, and gives it back as it was when dropped.
pub(crate) struct Changed {
    path: PathBuf,
    before: Vec<u8>,
}

impl Changed {
    pub(crate) fn by(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let before = fs::read(path).unwrap();
        let mut bytes = before.clone();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
        Self { path: path.to_owned(), before }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.before);
    }
}
