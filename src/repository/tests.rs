//! What a repository promises, on real directories; the order of effects, and each of their failures. A comment above
//! a test names the rows of the fault catalogue that it covers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeZone, Utc};
use tempfile::TempDir;

use super::tarball::layout::{MARKER, SNAPSHOTS, SnapshotNames};
use super::*;
use crate::model::error::{Error, ErrorKind};
use crate::model::location::MountSource;
use crate::model::manifest::*;
use crate::model::unknown::UnknownFields;
use crate::store::local::{LocalStore, Step, Watch};

pub(super) const CODEC: Codec = Codec::Zstd { level: 3 };

fn at(second: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_795_206_611 + second, 0).unwrap()
}

pub(super) fn id(second: i64) -> SnapshotId {
    SnapshotId::new(at(second), [0x4f, 0x2a, 0x91])
}

pub(super) fn stored(file: String, contents: &[u8]) -> Stored {
    let blake3 = blake3::hash(contents).to_hex().to_string();
    Stored { file, bytes: contents.len() as u64, blake3, plain_blake3: None }
}

pub(super) fn manifest(source: &str, id: &SnapshotId, archive: &Stored, list: &Stored) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        id: id.clone(),
        source: source.to_owned(),
        requires: Vec::new(),
        group: None,
        needs: Vec::new(),
        title: "service db of memory-service".to_owned(),
        method: Method { quiesce: Quiesce::Stop, capture: Capture::Direct },
        payload: Payload::Physical,
        consistency: Consistency::StoppedAndQuiet,
        evidence: Evidence::default(),
        position: None,
        times: Times { started: at(0), held: at(1), released: at(2), published: at(3) },
        downtime_ms: 1234,
        phases: Vec::new(),
        parts: Parts::one(Part {
            location: MountSource::Volume("memory-service_db_data".to_owned()),
            archive: ArchiveInfo {
                file: archive.file.clone(),
                codec: CODEC,
                stored_bytes: archive.bytes,
                tar_bytes: 10_240,
                blake3: archive.blake3.clone(),
            },
            file_list: FileListInfo {
                file: list.file.clone(),
                stored_bytes: list.bytes,
                blake3: list.blake3.clone(),
            },
            counts: Counts { members: 1, ..Counts::default() },
        }),
        environment: Environment::default(),
        facts: None,
        tags: BTreeMap::from([("why".to_owned(), "before the upgrade".to_owned())]),
        sealed: None,
        tool_version: "0.1.0".to_owned(),
        unknown: UnknownFields::default(),
    }
}

fn sample() -> Manifest {
    let names = SnapshotNames::new("db", &id(0));
    manifest("db", &id(0), &stored(names.archive(CODEC), b"archive"), &stored(names.file_list(), b"list"))
}

/// Feeds a writer everything.
async fn store(
    writer: Result<SnapshotObjectWriter, RepositoryError>,
    contents: &[u8],
) -> Result<Stored, RepositoryError> {
    let mut writer = writer?;
    for chunk in contents.chunks(3) {
        writer.write(Bytes::copy_from_slice(chunk)).await?;
    }
    writer.finish().await
}

/// Makes a snapshot, as a procedure does, and leaves behind what a failure leaves.
async fn make(repository: &Repository, source: &str, id: &SnapshotId) -> Result<Snapshot, RepositoryError> {
    let pending = repository.begin(source, id, CODEC).await?;
    let archive = store(pending.archive_writer().await, b"archive").await?;
    let list = store(pending.list_writer().await, b"list").await?;
    pending.publish(manifest(source, id, &archive, &list), &archive, &list).await
}

/// A repository in a new directory, with snapshots of these sources at these seconds.
async fn repository_with(snapshots: &[(&str, i64)]) -> (TempDir, Repository) {
    let folder = TempDir::new().unwrap();
    let repository = Repository::open_or_init(folder.path(), &Clock::system()).await.unwrap();
    for (source, second) in snapshots {
        make(&repository, source, &id(*second)).await.unwrap();
    }
    (folder, repository)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Returns the path of each object after that of its partial file, in the order in which they are removed.
fn paths_of(pending: &PendingSnapshot) -> impl Iterator<Item = PathBuf> {
    let SnapshotObjects { store, keys, .. } = pending.objects();
    let root = store.local_path().unwrap().to_owned();
    keys.into_iter().flat_map(move |key| [root.join(partial(key.as_str())), root.join(key.as_str())])
}

fn names_of(listing: &Listing) -> Vec<String> {
    listing.snapshots.iter().map(Snapshot::name).collect()
}

fn file_of(root: &Path, source: &str, name: &str) -> PathBuf {
    root.join(SNAPSHOTS.as_str()).join(source).join(name)
}

/// Runs `test` on a small file system of its own; skips it if mounting is not permitted.
fn on_a_small_disk(options: &str, test: impl FnOnce(&Path)) {
    /// Unmounts, even if an assertion fails.
    struct Mounted(TempDir);
    impl Drop for Mounted {
        fn drop(&mut self) {
            Command::new("umount").arg("-l").arg(self.0.path()).status().unwrap();
        }
    }
    let folder = TempDir::new().unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path());
    if !mount.output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: mounting is not permitted here");
        return;
    }
    let mounted = Mounted(folder);
    test(mounted.0.path());
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

mod opening {
    use super::*;

    #[tokio::test]
    async fn an_empty_or_a_new_directory_becomes_a_repository_for_the_owner_alone() {
        let folder = TempDir::new().unwrap();
        let new = folder.path().join("a/b");
        let repository = Repository::open_or_init(&new, &Clock::system()).await.unwrap();
        assert_eq!(repository.id().len(), 32);
        assert_eq!(Repository::open(&new).await.unwrap().id(), repository.id());
        assert_eq!(Repository::open_or_init(&new, &Clock::system()).await.unwrap().id(), repository.id());
        assert_eq!(repository.local_path().unwrap(), new.canonicalize().unwrap());
        assert!(repository.free_space().await.unwrap().unwrap() > 0);
        for (path, mode) in
            [(new.clone(), 0o700), (new.join(SNAPSHOTS.as_str()), 0o700), (new.join(MARKER.as_str()), 0o600)]
        {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
        assert_eq!(files_below(&new), [new.join(MARKER.as_str())]);
    }

    #[tokio::test]
    async fn the_leftovers_of_a_file_system_and_of_a_dead_init_do_not_matter() {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        fs::write(folder.path().join("volsnap.json.partial"), "{").unwrap();
        Repository::open_or_init(folder.path(), &Clock::system()).await.unwrap();
        assert_eq!(files_below(folder.path()), [folder.path().join(MARKER.as_str())]);
    }

    #[test]
    fn many_that_init_at_once_get_one_repository() {
        let folder = TempDir::new().unwrap();
        let place = folder.path().join("new");
        let open = || block_on(Repository::open_or_init(&place, &Clock::system())).unwrap().id().to_owned();
        let ids: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ids.len(), 1);
    }

    // F15.
    #[tokio::test]
    async fn what_is_no_repository_is_refused_by_name_and_left_alone() {
        let folder = TempDir::new().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::write(place("file"), "").unwrap();
        fs::create_dir(place("documents")).unwrap();
        fs::write(place("documents/thesis.txt"), "").unwrap();
        symlink("nowhere", place("dangling")).unwrap();
        let before = files_below(folder.path());
        for (location, says) in [
            (place("file"), "not a directory"),
            (place("file/below"), "a part of the path is a file"),
            (place("documents"), "thesis.txt"),
            (place("dangling"), "leads nowhere"),
            (PathBuf::from("ftp://host/path"), "nowhere else"),
            (PathBuf::from("s3://a/path"), "no bucket's name"),
            (PathBuf::new(), "empty"),
        ] {
            for outcome in [
                Repository::open(&location).await,
                Repository::open_or_init(&location, &Clock::system()).await,
            ] {
                let error = outcome.unwrap_err();
                assert!(error.to_string().contains(says), "{error}");
                assert_eq!(Error::from(error).kind(), ErrorKind::Usage);
            }
        }
        assert_eq!(files_below(folder.path()), before);
    }

    #[tokio::test]
    async fn opening_to_read_creates_nothing_and_says_how_to_create() {
        let folder = TempDir::new().unwrap();
        for place in [folder.path().to_owned(), folder.path().join("none")] {
            let error = Repository::open(&place).await.unwrap_err();
            assert!(error.to_string().contains(place.to_str().unwrap()));
            assert!(error.hint().unwrap().to_string().contains("snapshot TARGET"));
        }
        assert_eq!(files_below(folder.path()), Vec::<PathBuf>::new());
    }

    // F38.
    #[tokio::test]
    async fn a_later_format_and_a_damaged_marker_are_refused() {
        let folder = TempDir::new().unwrap();
        for (marker, says) in [
            (r#"{"format_version":3,"something":"else"}"#, "made by a later volsnap"),
            ("", "does not say which format"),
            ("{\"format_version\":", "does not say which format"),
        ] {
            fs::write(folder.path().join(MARKER.as_str()), marker).unwrap();
            let error = Repository::open(folder.path()).await.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    // F15.
    #[tokio::test]
    async fn a_link_in_place_of_a_folder_is_not_followed() {
        let folder = TempDir::new().unwrap();
        let elsewhere = TempDir::new().unwrap();
        let repository = Repository::open_or_init(folder.path(), &Clock::system()).await.unwrap();
        symlink(elsewhere.path(), folder.path().join("snapshots/db")).unwrap();
        assert!(repository.begin("db", &id(0), CODEC).await.is_err());
        assert_eq!(repository.snapshots(None).await.unwrap().unreadable.len(), 1);
        fs::remove_file(folder.path().join("snapshots/db")).unwrap();
        fs::remove_dir(folder.path().join("snapshots")).unwrap();
        symlink(elsewhere.path(), folder.path().join("snapshots")).unwrap();
        assert!(Repository::open(folder.path()).await.unwrap_err().to_string().contains("not followed"));
    }

    // F15.
    #[test]
    fn a_read_only_repository_can_be_read_but_is_refused_for_writing() {
        on_a_small_disk("size=1m", |root| {
            block_on(async {
                make(&Repository::open_or_init(root, &Clock::system()).await.unwrap(), "db", &id(0)).await
            })
            .unwrap();
            Command::new("mount").args(["-o", "remount,ro"]).arg(root).status().unwrap();
            let error = block_on(Repository::open_or_init(root, &Clock::system())).unwrap_err();
            assert!(error.to_string().starts_with("write "), "{error}");
            let listing = block_on(async { Repository::open(root).await.unwrap().snapshots(None).await });
            assert_eq!(listing.unwrap().snapshots.len(), 1);
        });
    }

    #[test]
    fn the_default_place_depends_on_the_user() {
        let home = || Some(PathBuf::from("/home/a"));
        let places = |is_root, xdg: Option<&str>, home| {
            Places { is_root, xdg_data_home: xdg.map(PathBuf::from), home }.default_repository()
        };
        assert_eq!(places(true, Some("/x"), home()).unwrap(), Path::new("/var/backups/volsnap"));
        assert_eq!(places(false, Some("/x"), home()).unwrap(), Path::new("/x/volsnap"));
        for xdg in [None, Some(""), Some("relative")] {
            assert_eq!(places(false, xdg, home()).unwrap(), Path::new("/home/a/.local/share/volsnap"));
        }
        assert_eq!(places(false, None, None), None);
    }
}

mod publishing {
    use super::*;

    /// Records every step, and fails the one with this number.
    #[derive(Debug, Default)]
    struct Recorder {
        steps: Mutex<Vec<Step>>,
        fail: Option<usize>,
        armed: Mutex<bool>,
    }

    impl Watch for Recorder {
        fn before(&self, step: Step) -> io::Result<()> {
            if !*self.armed.lock().unwrap() {
                return Ok(());
            }
            let mut steps = self.steps.lock().unwrap();
            steps.push(step);
            if self.fail == Some(steps.len() - 1) {
                return Err(io::Error::other("injected"));
            }
            Ok(())
        }
    }

    /// Makes one snapshot beside an older one, and fails the step with this number.
    async fn record(
        fail: Option<usize>,
    ) -> (TempDir, Repository, Vec<Step>, Result<Snapshot, RepositoryError>) {
        let (folder, plain) = repository_with(&[("db", 0)]).await;
        let recorder = Arc::new(Recorder { fail, armed: Mutex::new(true), ..Recorder::default() });
        let store = LocalStore::watched(folder.path().to_owned(), Arc::clone(&recorder) as _);
        let repository = Repository { store: Arc::new(store), id: plain.id, probed: None, recipients: None };
        let outcome = make(&repository, "web", &id(9)).await;
        *recorder.armed.lock().unwrap() = false;
        let steps = recorder.steps.lock().unwrap().clone();
        (folder, repository, steps, outcome)
    }

    // F37.
    #[tokio::test]
    async fn everything_is_durable_under_its_name_before_the_manifest_is_begun() {
        let (folder, _repository, steps, outcome) = record(None).await;
        outcome.unwrap();
        let snapshots = folder.path().join(SNAPSHOTS.as_str());
        let source = snapshots.join("web");
        let names = SnapshotNames::new("web", &id(9));
        let mut expected = vec![Step::MakeFolder(source.clone()), Step::SyncFolder(snapshots)];
        for (name, writes) in [(names.archive(CODEC), 3), (names.file_list(), 2), (names.manifest(), 1)] {
            let partial = source.join(crate::repository::tarball::layout::partial(&name));
            expected.push(Step::Create(partial.clone()));
            expected.extend(vec![Step::Write(partial.clone()); writes]);
            expected.push(Step::Sync(partial));
            expected.push(Step::Rename(source.join(name)));
            expected.push(Step::SyncFolder(source.clone()));
        }
        assert_eq!(steps, expected);
    }

    // F16, 21, 27, 28, 55.
    #[tokio::test]
    async fn a_failure_at_any_step_lists_nothing_and_discard_leaves_nothing() {
        let (_, _, steps, _) = record(None).await;
        for (fail, step) in steps.iter().enumerate() {
            let (folder, repository, _, outcome) = record(Some(fail)).await;
            let error = outcome.expect_err("a failed step fails the snapshot");
            assert!(!error.to_string().is_empty());
            let listing = repository.snapshots(None).await.unwrap();
            assert_eq!(names_of(&listing), [format!("db/{}", id(0))], "after a failed {step:?}");
            assert!(listing.unreadable.is_empty(), "after a failed {step:?}");
            assert!(
                !files_below(folder.path()).iter().any(|path| path.ends_with(".partial")),
                "after a failed {step:?}"
            );

            let store: Arc<dyn Store> = Arc::new(LocalStore::at(folder.path().to_owned()));
            let pending = PendingSnapshot::unchecked(store, ("web", &id(9)), CODEC, false).unwrap();
            pending.discard().await.unwrap();
            pending.discard().await.unwrap();
            assert_eq!(files_below(folder.path()).len(), 4, "after a failed {step:?}");
        }
    }

    #[tokio::test]
    async fn a_removal_that_fails_does_not_stop_the_others() {
        let (folder, repository, _, outcome) = record(None).await;
        outcome.unwrap();
        let source = folder.path().join("snapshots/web");
        let names = SnapshotNames::new("web", &id(9));
        fs::remove_file(source.join(names.manifest())).unwrap();
        fs::create_dir(source.join(names.manifest())).unwrap();
        let pending =
            PendingSnapshot::unchecked(Arc::clone(&repository.store), ("web", &id(9)), CODEC, false).unwrap();
        let error = pending.discard().await.unwrap_err();
        assert!(error.to_string().contains(&names.manifest()), "{error}");
        assert_eq!(files_below(&source), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn nothing_but_the_folder_is_there_before_the_paths_are_known() {
        let (folder, repository) = repository_with(&[]).await;
        let pending = repository.begin("db", &id(0), CODEC).await.unwrap();
        assert_eq!(files_below(folder.path()), [folder.path().join(MARKER.as_str())]);
        let objects = pending.objects();
        let paths: Vec<_> = paths_of(&pending).collect();
        let mut writer = pending.archive_writer().await.unwrap();
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        let _list = store(pending.list_writer().await, b"list").await.unwrap();
        for file in files_below(&folder.path().join(SNAPSHOTS.as_str())) {
            assert!(paths.contains(&file), "{} was not announced", file.display());
        }
        let manifest = file_of(folder.path(), "db", &SnapshotNames::new("db", &id(0)).manifest());
        assert_eq!(paths[1], manifest, "the manifest is deleted before what it needs");
        assert_eq!(objects.manifest_path(), manifest);
    }

    #[tokio::test]
    async fn files_are_for_the_owner_alone() {
        let (folder, _repository) = repository_with(&[("db", 0)]).await;
        let files = files_below(folder.path());
        assert_eq!(files.len(), 4);
        for file in files {
            assert_eq!(
                fs::metadata(&file).unwrap().permissions().mode() & 0o777,
                0o600,
                "{}",
                file.display()
            );
        }
        let source = folder.path().join("snapshots/db");
        assert_eq!(fs::metadata(source).unwrap().permissions().mode() & 0o777, 0o700);
    }

    // 31.
    #[tokio::test]
    async fn nothing_is_ever_overwritten() {
        let (folder, repository) = repository_with(&[("db", 0)]).await;
        let contents =
            |files: &[PathBuf]| files.iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>();
        let files = files_below(folder.path());
        let before = contents(&files);
        assert!(matches!(repository.begin("db", &id(0), CODEC).await, Err(RepositoryError::Exists { .. })));

        // The same id begins twice, before either has a file: only one of the two gets each name.
        let (one, two) = (
            repository.begin("db", &id(1), CODEC).await.unwrap(),
            repository.begin("db", &id(1), CODEC).await.unwrap(),
        );
        let writer = one.archive_writer().await.unwrap();
        assert!(two.archive_writer().await.is_err());
        // Meanwhile something appears under the final name.
        let [partial, archive] = &paths_of(&one).collect::<Vec<_>>()[2..4] else { panic!("no archive") };
        fs::write(archive, "precious").unwrap();
        assert!(writer.finish().await.is_err());
        assert_eq!(fs::read(archive).unwrap(), b"precious");
        assert!(!partial.exists());
        assert_eq!(contents(&files), before);
    }

    // F20, 19.
    #[tokio::test]
    async fn an_empty_archive_and_a_foreign_manifest_are_not_published() {
        let (_folder, repository) = repository_with(&[]).await;
        let pending = repository.begin("db", &id(0), CODEC).await.unwrap();
        let archive = store(pending.archive_writer().await, b"archive").await.unwrap();
        let list = store(pending.list_writer().await, b"list").await.unwrap();
        let good = manifest("db", &id(0), &archive, &list);
        let nothing = stored(archive.file.clone(), b"");
        let publish = async |manifest: Manifest, archive: &Stored| {
            let error = pending.publish(manifest, archive, &list).await.unwrap_err();
            assert!(matches!(error, RepositoryError::Unpublishable { .. }), "{error}");
        };
        publish(manifest("db", &id(0), &nothing, &list), &nothing).await;
        let mut empty = good.clone();
        empty.parts.first_mut().counts = Counts::default();
        publish(empty, &archive).await;
        publish(Manifest { source: "d".to_owned(), ..good.clone() }, &archive).await;
        publish(Manifest { id: id(1), ..good.clone() }, &archive).await;
        publish(manifest("db", &id(0), &stored(archive.file.clone(), b"ARCHIVE"), &list), &archive).await;
        publish(manifest("db", &id(0), &archive, &stored(list.file.clone(), b"LIST")), &archive).await;
        assert!(repository.snapshots(None).await.unwrap().snapshots.is_empty());
        pending.publish(good, &archive, &list).await.unwrap();
        assert_eq!(repository.snapshots(None).await.unwrap().snapshots.len(), 1);
    }

    #[tokio::test]
    async fn a_writer_digests_what_it_stores_and_an_abandoned_one_leaves_nothing() {
        let (folder, repository) = repository_with(&[]).await;
        let pending = repository.begin("db", &id(0), CODEC).await.unwrap();
        let mut writer = pending.archive_writer().await.unwrap();
        writer.write(Bytes::from_static(b"archive")).await.unwrap();
        writer.abort().await.unwrap();
        assert_eq!(files_below(folder.path()).len(), 1);

        let stored_archive = store(pending.archive_writer().await, b"archive").await.unwrap();
        assert_eq!(stored_archive, stored(SnapshotNames::new("db", &id(0)).archive(CODEC), b"archive"));

        drop(pending.list_writer().await.unwrap());
        let gone = Instant::now() + Duration::from_secs(10);
        while files_below(folder.path()).len() > 2 && Instant::now() < gone {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(files_below(folder.path()).len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn snapshots_published_at_once_are_all_there() {
        let (_folder, repository) = repository_with(&[]).await;
        let tasks: Vec<_> = (0..32)
            .map(|n| {
                let repository = repository.clone();
                tokio::spawn(async move {
                    make(&repository, if n % 2 == 0 { "a" } else { "a-b" }, &id(n)).await.map(drop)
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let listing = repository.snapshots(None).await.unwrap();
        assert_eq!((listing.snapshots.len(), listing.incomplete.len(), listing.unreadable.len()), (32, 0, 0));
        assert_eq!(repository.snapshots(Some("a")).await.unwrap().snapshots.len(), 16);
    }

    // F26.
    #[tokio::test]
    async fn a_clock_that_went_back_is_noticed() {
        let (_folder, repository) = repository_with(&[("db", 100), ("web", 500)]).await;
        assert_eq!(repository.begin("db", &id(0), CODEC).await.unwrap().newer(), Some(&id(100)));
        assert_eq!(repository.begin("db", &id(200), CODEC).await.unwrap().newer(), None);
    }

    // F13, 26.
    #[test]
    fn a_full_disk_is_said_and_leaves_nothing() {
        on_a_small_disk("size=1m", |root| {
            block_on(async {
                let repository = Repository::open_or_init(root, &Clock::system()).await.unwrap();
                make(&repository, "db", &id(0)).await.unwrap();
                let pending = repository.begin("db", &id(1), CODEC).await.unwrap();
                let mut writer = pending.archive_writer().await.unwrap();
                let chunk = Bytes::from(vec![7; 256 << 10]);
                let error = loop {
                    if let Err(error) = writer.write(chunk.clone()).await {
                        break error;
                    }
                };
                let RepositoryError::DiskFull { path, written, .. } = &error else {
                    panic!("{error}");
                };
                assert_eq!(Some(path), paths_of(&pending).nth(3).as_ref());
                assert!((512 << 10..=1 << 20).contains(written), "{written}");
                assert!(error.to_string().contains("disk full after"), "{error}");
                assert!(matches!(writer.write(chunk).await, Err(RepositoryError::WriterFailed { .. })));
                writer.abort().await.unwrap();

                let listing = repository.snapshots(None).await.unwrap();
                assert_eq!((names_of(&listing).len(), listing.incomplete.len()), (1, 0));
                assert!(repository.free_space().await.unwrap().unwrap() > 900 << 10);
            });
        });
    }
}

/// On stores that are not directories.
mod elsewhere {
    use tokio::time::timeout;

    use super::*;
    use crate::store::failing::{Failing, Fate};
    use crate::store::memory::MemoryStore;
    use crate::store::observed::{Call, ObservedStore, Observer, Operation};
    use crate::store::recording::Recording;
    use crate::store::spool::Spool;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn distant(name: &str) -> Arc<dyn Store> {
        Arc::new(MemoryStore::remote(name))
    }

    async fn repository_in(store: &Arc<dyn Store>) -> Repository {
        Repository::open_or_init_in(Arc::clone(store), store.address(), &Clock::system()).await.unwrap()
    }

    #[tokio::test]
    async fn snapshots_are_made_and_found_wherever_the_store_is() {
        let store = distant("made");
        let repository = repository_in(&store).await;
        assert_eq!(repository_in(&store).await.id(), repository.id());
        assert_eq!((repository.local_path(), repository.free_space().await.unwrap()), (None, None));
        make(&repository, "db", &id(0)).await.unwrap();
        let mut snapshot = repository.resolve("latest").await.unwrap();
        let archive = Path::new("memory://made/snapshots/db").join(&snapshot.manifest.archive().file);
        assert_eq!(snapshot.archive_path(), archive);
        let mut text = String::new();
        snapshot.open_archive().unwrap().read_to_string(&mut text).unwrap();
        snapshot.open_file_list().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "archivelist");
        let verification = Verification {
            proof: None,
            at: at(20),
            kind: VerificationKind::Read,
            ok: true,
            problems: 0,
            ms: 12,
            drill: None,
            tool_version: "0.1.0".to_owned(),
            unknown: UnknownFields::default(),
        };
        snapshot.record_verification(verification.clone()).await.unwrap();
        assert_eq!(repository.resolve("latest").await.unwrap().verified, [verification]);
        assert!(matches!(repository.begin("db", &id(0), CODEC).await, Err(RepositoryError::Exists { .. })));
        let stranger = distant("stranger");
        stranger.put(&Key::literal("holiday.jpg"), Bytes::new()).await.unwrap();
        let error = Repository::open_or_init_in(Arc::clone(&stranger), stranger.address(), &Clock::system())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("holiday.jpg"), "{error}");
    }

    #[tokio::test]
    async fn a_direct_capture_asks_nothing_of_a_distant_store_while_it_writes() {
        let folder = TempDir::new().unwrap();
        let (store, recording) = Recording::of(distant("held"));
        let pending = repository_in(&store).await.begin("db", &id(0), CODEC).await.unwrap();
        let pending = pending.spooled(Spool::new(folder.path().join("spool")));
        recording.clear();
        let mut archive = pending.archive_writer().await.unwrap();
        let mut list = pending.list_writer().await.unwrap();
        archive.write(Bytes::from_static(b"archive")).await.unwrap();
        list.write(Bytes::from_static(b"list")).await.unwrap();
        assert!(recording.calls().is_empty(), "{:?}", recording.calls());
        // Now the service is back.
        let (archive, list) = (archive.finish().await.unwrap(), list.finish().await.unwrap());
        pending.publish(manifest("db", &id(0), &archive, &list), &archive, &list).await.unwrap();
        let finished: Vec<_> = recording
            .calls()
            .into_iter()
            .filter(|call| call.operation == Operation::Finish)
            .map(|call| call.key.name().to_owned())
            .collect();
        let names = SnapshotNames::new("db", &id(0));
        assert_eq!(finished, [names.archive(CODEC), names.file_list(), names.manifest()]);
    }

    /// Lets every call take a network's time.
    #[derive(Debug)]
    struct Far;

    #[async_trait::async_trait]
    impl Observer for Far {
        async fn before(&self, _call: &Call) -> std::io::Result<()> {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(())
        }

        async fn after(&self, _call: &Call) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_distant_repository_is_listed_in_the_time_of_few_requests() {
        let near = distant("many");
        let repository = repository_in(&near).await;
        let template = make(&repository, "db", &id(0)).await.unwrap();
        let folder = Key::new("snapshots/db").unwrap();
        let copies = 1000;
        for number in 1..copies {
            let (id, mut manifest) = (id(number), template.manifest.clone());
            let names = SnapshotNames::new("db", &id);
            manifest.id = id;
            let part = manifest.parts.first_mut();
            (part.archive.file, part.file_list.file) = (names.archive(CODEC), names.file_list());
            let json = manifest.to_json().unwrap();
            for (name, bytes) in [
                (names.archive(CODEC), Bytes::from_static(b"archive")),
                (names.file_list(), Bytes::from_static(b"list")),
                (names.manifest(), json.into()),
            ] {
                near.put(&folder.join(&name).unwrap(), bytes).await.unwrap();
            }
        }
        let far: Arc<dyn Store> = Arc::new(ObservedStore::new(near, Arc::new(Far)));
        // Time passes only while everybody waits.
        let began = tokio::time::Instant::now();
        let repository =
            Repository::open_or_init_in(Arc::clone(&far), far.address(), &Clock::system()).await.unwrap();
        let listing = repository.snapshots(None).await.unwrap();
        assert_eq!(listing.snapshots.len(), usize::try_from(copies).unwrap());
        let took = began.elapsed();
        assert!(took <= Duration::from_millis(50 * 15), "{took:?}");
    }

    /// Publishes to a store in which the manifest's PUT meets this fate; if it hangs, drops the call at once.
    async fn publish(fate: Fate) -> (Repository, PendingSnapshot, Arc<Failing>) {
        let (store, failing) =
            Failing::of(distant(&format!("{fate:?}")), Operation::Finish, "4f2a91.json", fate);
        let repository = repository_in(&store).await;
        let pending = repository.begin("db", &id(0), CODEC).await.unwrap();
        let archive = super::store(pending.archive_writer().await, b"archive").await.unwrap();
        let list = super::store(pending.list_writer().await, b"list").await.unwrap();
        let publishing = pending.publish(manifest("db", &id(0), &archive, &list), &archive, &list);
        tokio::select! {
            biased;
            outcome = publishing => assert_eq!(chain(&outcome.unwrap_err()), "injected"),
            () = failing.reached() => {}
        }
        (repository, pending, failing)
    }

    fn chain(error: &RepositoryError) -> String {
        std::error::Error::source(error).unwrap().to_string()
    }

    #[tokio::test]
    async fn who_discards_waits_for_a_manifest_that_is_on_its_way_and_then_leaves_the_snapshot_whole() {
        for fate in [Fate::HangsBefore, Fate::HangsAfter] {
            let (repository, pending, failing) = publish(fate).await;
            let (objects, store) = (pending.objects(), Arc::clone(&repository.store));
            let soon = Duration::from_millis(20);
            let error = objects.discard_unpublished_from(&*store, soon).await.unwrap_err();
            assert_eq!(chain(&error), "it is still being written");
            let discarding =
                tokio::spawn(async move { objects.discard_unpublished_from(&*store, PATIENCE).await });
            tokio::time::sleep(soon).await;
            assert!(!discarding.is_finished(), "it does not wait");
            failing.release();
            assert!(timeout(PATIENCE, discarding).await.unwrap().unwrap().unwrap(), "it is published");
            assert!(pending.published().load(std::sync::atomic::Ordering::Acquire));
            let listing = repository.snapshots(None).await.unwrap();
            assert_eq!(names_of(&listing), [format!("db/{}", id(0))]);
            assert!(listing.unreadable.is_empty() && listing.incomplete.is_empty());
        }
    }

    #[tokio::test]
    async fn a_repository_that_does_not_answer_is_not_waited_for_any_longer_than_patience_lasts() {
        let (repository, pending, _failing) = publish(Fate::FailsBefore).await;
        let inner = Arc::clone(&repository.store);
        let (stuck, _hangs) = Failing::of(inner, Operation::Head, ".json", Fate::HangsBefore);
        let soon = Duration::from_millis(20);
        let discarding = pending.objects();
        let error = timeout(PATIENCE, discarding.discard_unpublished_from(&*stuck, soon)).await.unwrap();
        assert_eq!(chain(&error.unwrap_err()), "the repository does not answer");
    }

    #[tokio::test]
    async fn a_manifest_that_cannot_be_stored_leaves_nothing_and_one_whose_answer_is_lost_all() {
        for (fate, published) in [(Fate::FailsBefore, false), (Fate::FailsAfter, true)] {
            let (repository, pending, _failing) = publish(fate).await;
            let store = Arc::clone(&repository.store);
            let found = pending.objects().discard_unpublished_from(&*store, PATIENCE).await.unwrap();
            assert_eq!(found, published);
            let listing = repository.snapshots(None).await.unwrap();
            assert_eq!(listing.snapshots.len(), usize::from(published));
            assert!(listing.unreadable.is_empty() && listing.incomplete.is_empty());
        }
    }
}

mod listing {
    use super::*;

    // 37, 39.
    #[tokio::test]
    async fn snapshots_are_in_the_order_of_their_ids_and_sources_do_not_mix() {
        let (_folder, repository) = repository_with(&[("a-b", 3), ("a", 1), ("a", 2), ("ab", 0)]).await;
        let all = [
            format!("ab/{}", id(0)),
            format!("a/{}", id(1)),
            format!("a/{}", id(2)),
            format!("a-b/{}", id(3)),
        ];
        assert_eq!(names_of(&repository.snapshots(None).await.unwrap()), all);
        assert_eq!(names_of(&repository.snapshots(Some("a")).await.unwrap()), all[1..3]);
        for nothing in ["b", "", "..", "a/../ab"] {
            assert!(repository.snapshots(Some(nothing)).await.unwrap().snapshots.is_empty());
        }
    }

    // 21.
    #[tokio::test]
    async fn leftovers_are_told_apart_from_snapshots() {
        let (folder, repository) = repository_with(&[("db", 0), ("db", 1)]).await;
        let names = SnapshotNames::new("db", &id(1));
        fs::remove_file(file_of(folder.path(), "db", &names.manifest())).unwrap();
        fs::write(file_of(folder.path(), "db", &format!("{}.partial", names.manifest())), "{").unwrap();
        let names = SnapshotNames::new("db", &id(2));
        fs::write(file_of(folder.path(), "db", &format!("{}.partial", names.archive(CODEC))), "12345")
            .unwrap();

        let listing = repository.snapshots(None).await.unwrap();
        assert_eq!(names_of(&listing), [format!("db/{}", id(0))]);
        assert!(listing.unreadable.is_empty());
        let found: Vec<_> = listing.incomplete.iter().map(|i| (i.id.clone(), i.what, i.bytes)).collect();
        assert_eq!(
            found,
            [
                (id(1), "has no manifest", 4),
                (id(1), "only partly written", 1),
                (id(1), "has no manifest", 7),
                (id(2), "only partly written", 5),
            ]
        );
        assert_eq!(repository.resolve("latest").await.unwrap().manifest.id, id(0));
    }

    // F18, F20.
    #[tokio::test]
    async fn what_does_not_belong_there_is_said_and_hides_nothing() {
        let (folder, repository) =
            repository_with(&[("db", 0), ("db", 1), ("db", 2), ("db", 3), ("web", 4)]).await;
        let file = |second: i64, name: fn(&SnapshotNames) -> String| {
            file_of(folder.path(), "db", &name(&SnapshotNames::new("db", &id(second))))
        };
        let archive: fn(&SnapshotNames) -> String = |names| names.archive(CODEC);
        // The archive is gone, the archive is cut, the list is gone, a manifest has another's name, strangers.
        fs::remove_file(file(0, archive)).unwrap();
        fs::write(file(1, archive), "arch").unwrap();
        fs::remove_file(file(2, SnapshotNames::file_list)).unwrap();
        fs::copy(file(3, SnapshotNames::manifest), file(5, SnapshotNames::manifest)).unwrap();
        let web = SnapshotNames::new("web", &id(4));
        fs::copy(
            file_of(folder.path(), "web", &web.manifest()),
            file_of(folder.path(), "db", &web.manifest()),
        )
        .unwrap();
        fs::write(file_of(folder.path(), "db", "notes.txt"), "").unwrap();
        fs::write(folder.path().join(SNAPSHOTS.as_str()).join("README"), "").unwrap();
        // What a dead run has left of its trial is not worth a word.
        fs::write(folder.path().join(SNAPSHOTS.as_str()).join(".writable.partial"), "").unwrap();

        let listing = repository.snapshots(None).await.unwrap();
        assert_eq!(names_of(&listing), [format!("db/{}", id(3)), format!("web/{}", id(4))]);
        assert!(listing.incomplete.is_empty());
        let why = |path: &Path| {
            let found = listing.unreadable.iter().find(|unreadable| unreadable.path.ends_with(path));
            found.unwrap_or_else(|| panic!("{} is not mentioned", path.display())).why.clone()
        };
        assert!(why(&file(0, archive)).contains("missing"));
        assert_eq!(why(&file(1, archive)), "it has 4 bytes, and by its manifest 7");
        assert!(why(&file(2, SnapshotNames::file_list)).contains("missing"));
        assert_eq!(why(&file(5, SnapshotNames::manifest)), format!("it is the manifest of db/{}", id(3)));
        assert_eq!(why(&file_of(folder.path(), "db", &web.manifest())), "it belongs to another source, web");
        assert_eq!(why(&file_of(folder.path(), "db", "notes.txt")), "it is not a file of volsnap's");
        assert_eq!(
            why(&folder.path().join(SNAPSHOTS.as_str()).join("README")),
            "it is not the directory of a source"
        );
        assert_eq!(listing.unreadable.len(), 7);
    }

    // F20.
    #[tokio::test]
    async fn a_renamed_source_directory_lists_nothing_as_its_own() {
        let (folder, repository) = repository_with(&[("db", 0)]).await;
        fs::rename(folder.path().join("snapshots/db"), folder.path().join("snapshots/other")).unwrap();
        let listing = repository.snapshots(None).await.unwrap();
        assert!(listing.snapshots.is_empty());
        assert_eq!(listing.unreadable.len(), 3);
    }

    #[tokio::test]
    async fn links_and_devices_in_place_of_files_are_refused_without_hanging() {
        let (folder, repository) = repository_with(&[("db", 0), ("db", 1)]).await;
        let (one, two) = (SnapshotNames::new("db", &id(0)), SnapshotNames::new("db", &id(1)));
        let manifest = file_of(folder.path(), "db", &one.manifest());
        fs::remove_file(&manifest).unwrap();
        nix::unistd::mkfifo(&manifest, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let archive = file_of(folder.path(), "db", &two.archive(CODEC));
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&archive, &elsewhere).unwrap();
        symlink(&elsewhere, &archive).unwrap();
        let listing = repository.snapshots(None).await.unwrap();
        assert!(listing.snapshots.is_empty());
        assert!(listing.unreadable.iter().all(|unreadable| unreadable.why.contains("not a regular file")));
        assert_eq!(listing.unreadable.len(), 2);
    }

    #[tokio::test]
    async fn verifications_are_added_beside_and_a_damaged_one_does_not_hide_the_snapshot() {
        let (folder, repository) = repository_with(&[("db", 0)]).await;
        let mut snapshot = repository.resolve("latest").await.unwrap();
        let verification = |second, ok| Verification {
            proof: None,
            at: at(second),
            kind: VerificationKind::Read,
            ok,
            problems: u64::from(!ok),
            ms: 12,
            drill: None,
            tool_version: "0.1.0".to_owned(),
            unknown: UnknownFields::default(),
        };
        let manifest = fs::read(snapshot.manifest_path()).unwrap();
        snapshot.record_verification(verification(20, false)).await.unwrap();
        snapshot.record_verification(verification(10, true)).await.unwrap();
        assert!(snapshot.record_verification(verification(10, false)).await.is_err(), "never overwritten");
        let read = repository.resolve("latest").await.unwrap();
        assert_eq!(read.verified, [verification(10, true), verification(20, false)]);
        assert_eq!(read.verified, snapshot.verified);
        assert_eq!(fs::read(snapshot.manifest_path()).unwrap(), manifest);

        let names = SnapshotNames::new("db", &id(0));
        fs::write(file_of(folder.path(), "db", &names.verification(at(20))), "{").unwrap();
        let listing = repository.snapshots(None).await.unwrap();
        assert_eq!((listing.snapshots[0].verified.len(), listing.unreadable.len()), (1, 1));
        assert_eq!(listing.resolve("latest").unwrap().manifest.id, id(0));
    }

    #[tokio::test]
    async fn a_snapshot_is_read_back_and_found_by_any_of_its_files_anywhere() {
        let (folder, repository) = repository_with(&[("db", 0)]).await;
        let snapshot = repository.resolve("latest").await.unwrap();
        let elsewhere = TempDir::new().unwrap();
        for file in files_below(&folder.path().join(SNAPSHOTS.as_str())) {
            fs::copy(&file, elsewhere.path().join(file.file_name().unwrap())).unwrap();
        }
        for file in files_below(elsewhere.path()) {
            let found = Snapshot::from_file(&file).await.unwrap();
            assert_eq!(found.manifest, snapshot.manifest);
            let mut contents = String::new();
            found.open_archive().unwrap().read_to_string(&mut contents).unwrap();
            found.open_file_list().unwrap().read_to_string(&mut contents).unwrap();
            assert_eq!(contents, "archivelist");
            assert!(found.archive_path().starts_with(elsewhere.path().canonicalize().unwrap()));
        }
        let manifest = elsewhere.path().join(SnapshotNames::new("db", &id(0)).manifest());
        let renamed = elsewhere.path().join(SnapshotNames::new("web", &id(0)).manifest());
        fs::rename(&manifest, &renamed).unwrap();
        for (path, says) in [
            (renamed, "it is the manifest of db/"),
            (elsewhere.path().join(&snapshot.manifest.archive().file), "no manifest beside it"),
            (elsewhere.path().join("none"), "there is none of that name"),
            (folder.path().join(MARKER.as_str()), "not that of a snapshot's file"),
        ] {
            let error = Snapshot::from_file(&path).await.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn hundreds_of_snapshots_are_listed_quickly() {
        let (folder, repository) = repository_with(&[]).await;
        for second in 0..500 {
            let names = SnapshotNames::new("db", &id(second));
            let (archive, list) =
                (stored(names.archive(CODEC), b"archive"), stored(names.file_list(), b"list"));
            let manifest = manifest("db", &id(second), &archive, &list).to_json().unwrap();
            fs::create_dir_all(folder.path().join("snapshots/db")).unwrap();
            let files: [(String, &[u8]); 3] =
                [(archive.file, b"archive"), (list.file, b"list"), (names.manifest(), manifest.as_bytes())];
            for (name, contents) in files {
                fs::write(file_of(folder.path(), "db", &name), contents).unwrap();
            }
        }
        let begun = Instant::now();
        assert_eq!(repository.snapshots(None).await.unwrap().snapshots.len(), 500);
        assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
    }
}

mod damage {
    use super::*;

    // F18, F19.
    #[test]
    fn a_manifest_is_refused_at_whatever_byte_it_is_cut_or_changed() {
        let json = sample().to_json().unwrap();
        assert_eq!(Manifest::from_json(json.as_bytes()).unwrap(), sample());
        for length in 0..json.len() {
            assert!(Manifest::from_json(&json.as_bytes()[..length]).is_err(), "cut to {length}");
        }
        for position in 0..json.len() {
            for flip in [0x01, 0x08, 0x20, 0x80, 0xff] {
                let mut bytes = json.clone().into_bytes();
                bytes[position] ^= flip;
                assert!(Manifest::from_json(&bytes).is_err(), "byte {position} ^ {flip:#x}");
            }
        }
    }

    // F19, F38.
    #[tokio::test]
    async fn a_damaged_manifest_hides_no_other_and_is_not_passed_over_by_latest() {
        let (folder, repository) = repository_with(&[("db", 0), ("db", 1)]).await;
        let path = file_of(folder.path(), "db", &SnapshotNames::new("db", &id(1)).manifest());
        let whole = fs::read(&path).unwrap();
        let later = String::from_utf8(whole.clone())
            .unwrap()
            .replace("\"format_version\": 2", "\"format_version\": 3");
        let damaged: [(&[u8], &str); 4] = [
            (b"", "not a whole manifest"),
            (&whole[..whole.len() / 2], "not a whole manifest"),
            (br#"{"name": "package", "format_version": 1}"#, "not a whole manifest"),
            (later.as_bytes(), "made by a later volsnap"),
        ];
        for (bytes, says) in damaged {
            fs::write(&path, bytes).unwrap();
            let listing = repository.snapshots(None).await.unwrap();
            assert_eq!(names_of(&listing), [format!("db/{}", id(0))]);
            assert!(listing.incomplete.is_empty());
            assert_eq!(listing.unreadable[0].path, path.canonicalize().unwrap());
            assert!(listing.unreadable[0].why.contains(says), "{}", listing.unreadable[0].why);
            for spec in ["latest", "db/latest", id(1).as_str()] {
                let error = repository.resolve(spec).await.unwrap_err();
                assert!(matches!(error, RepositoryError::Unreadable { .. }), "{error}");
            }
            assert_eq!(repository.resolve(id(0).as_str()).await.unwrap().manifest.id, id(0));
        }
    }
}

mod resolving {
    use super::*;

    async fn resolve(snapshots: &[(&str, i64)], spec: &str) -> Result<String, RepositoryError> {
        let (_folder, repository) = repository_with(snapshots).await;
        repository.resolve(spec).await.map(|snapshot| snapshot.name())
    }

    #[tokio::test]
    async fn every_way_to_name_one_finds_it() {
        let (_folder, repository) = repository_with(&[("db", 0), ("db", 60), ("db-2", 120)]).await;
        let (oldest, newer) = (format!("db/{}", id(0)), format!("db/{}", id(60)));
        let oldest_id = id(0);
        let prefix = &oldest_id.as_str()[..13];
        for (spec, expected) in [
            (id(0).as_str(), &oldest),
            (prefix, &oldest),
            (&oldest, &oldest),
            (&format!("db/{prefix}"), &oldest),
            ("db/latest", &newer),
        ] {
            assert_eq!(&repository.resolve(spec).await.unwrap().name(), expected, "{spec}");
        }
    }

    #[tokio::test]
    async fn latest_is_the_newest_of_the_only_source() {
        assert_eq!(resolve(&[("db", 5), ("db", 1)], "latest").await.unwrap(), format!("db/{}", id(5)));
    }

    #[tokio::test]
    async fn what_may_mean_two_is_refused_with_both() {
        let two = [("db", 0), ("web", 1)];
        for (spec, says) in [
            ("latest", format!("db/{}, web/{}", id(0), id(1))),
            ("2026", format!("db/{}, web/{}", id(0), id(1))),
        ] {
            let error = resolve(&two, spec).await.unwrap_err();
            assert!(matches!(error, RepositoryError::Ambiguous { .. }));
            assert!(error.to_string().contains(&says), "{error}");
        }
        // One id in two sources.
        let error = resolve(&[("db", 0), ("web", 0)], id(0).as_str()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Ambiguous { .. }));
    }

    /// Returns a listing of two projects' `db`, one of which was migrated from a volume into a directory.
    async fn of_services() -> (tempfile::TempDir, Listing) {
        let sources = [("shop_data", 0), ("data-pg-1a2b3c", 60), ("mall_data", 120)];
        let (folder, repository) = repository_with(&sources).await;
        let mut listing = repository.snapshots(None).await.unwrap();
        for snapshot in &mut listing.snapshots {
            let project = if snapshot.manifest.source == "mall_data" { "mall" } else { "shop" };
            for (label, value) in [("project", project), ("service", "db")] {
                let label = format!("com.docker.compose.{label}");
                snapshot.manifest.environment.labels.insert(label, value.to_owned());
            }
            snapshot.manifest.environment.container = Some(format!("{project}-db-1"));
        }
        (folder, listing)
    }

    #[tokio::test]
    async fn a_snapshot_is_found_by_the_names_that_a_target_has() {
        let (_folder, listing) = of_services().await;
        let (migrated, mall) = (format!("data-pg-1a2b3c/{}", id(60)), format!("mall_data/{}", id(120)));
        for (spec, project, expected) in [
            ("db", Some("shop"), &migrated),
            ("db/latest", Some("shop"), &migrated),
            ("service:db", Some("mall"), &mall),
            ("service:shop/db", Some("mall"), &migrated),
            ("service:shop/db/latest", None, &migrated),
            ("container:mall-db-1", None, &mall),
            ("shop-db-1", None, &migrated),
            ("mall_data", None, &mall),
        ] {
            assert_eq!(&listing.resolve_in(spec, project).unwrap().name(), expected, "{spec}");
        }
        assert_eq!(listing.resolve_in("shop_data/latest", None).unwrap().manifest.id, id(0));
        // Of another project it is not meant.
        assert!(matches!(listing.resolve_in("db", Some("third")), Err(RepositoryError::Unknown { .. })));
    }

    #[tokio::test]
    async fn a_migrated_service_has_one_history_and_two_services_have_two() {
        let (_folder, listing) = of_services().await;
        let both = format!("mall_data/{}, data-pg-1a2b3c/{}", id(120), id(60));
        for (spec, project) in [("latest", None), ("latest", Some("shop")), ("db", None)] {
            let error = listing.resolve_in(spec, project).unwrap_err();
            assert!(matches!(error, RepositoryError::Ambiguous { .. }), "{spec}: {error}");
            assert!(error.to_string().contains(&both), "{error}");
        }
        let names = |listing: Listing| {
            listing.snapshots.into_iter().map(|one| one.manifest.source).collect::<Vec<_>>()
        };
        assert_eq!(names(listing.clone().only("db", Some("shop"))), ["shop_data", "data-pg-1a2b3c"]);
        assert_eq!(names(listing.clone().only("mall_data", Some("shop"))), ["mall_data"]);
        let mut shop = listing;
        shop.snapshots.retain(|snapshot| snapshot.manifest.source != "mall_data");
        assert_eq!(shop.resolve("latest").unwrap().manifest.id, id(60));
    }

    #[tokio::test]
    async fn a_source_with_nothing_but_leftovers_makes_latest_ambiguous() {
        let (_folder, repository) = repository_with(&[("web", 0)]).await;
        let pending = repository.begin("db", &id(1), CODEC).await.unwrap();
        store(pending.archive_writer().await, b"archive").await.unwrap();
        assert!(matches!(repository.resolve("latest").await, Err(RepositoryError::Ambiguous { .. })));
        assert!(matches!(repository.resolve("db/latest").await, Err(RepositoryError::Unknown { .. })));
        let error = repository.resolve(id(1).as_str()).await.unwrap_err();
        assert!(error.to_string().contains("incomplete"), "{error}");
    }

    #[tokio::test]
    async fn what_means_nothing_is_refused_with_the_nearest() {
        let snapshots = [("memory-service_db_data", 0)];
        for (spec, nearest) in [
            ("memory-service_db_dat/latest", "memory-service_db_data/latest".to_owned()),
            ("memory_service_db_data", "memory-service_db_data/latest".to_owned()),
            ("20261120T203011Z-4f2a92", id(0).to_string()),
        ] {
            let error = resolve(&snapshots, spec).await.unwrap_err();
            assert!(error.to_string().contains(&nearest), "{spec}: {error}");
            assert!(error.hint().unwrap().to_string().contains("volsnap list"));
        }
        for spec in ["", "/", "latest/", "db/", "/latest", "zzz", "../db/latest"] {
            let error = resolve(&snapshots, spec).await.unwrap_err();
            assert!(matches!(error, RepositoryError::Unknown { .. }), "{spec}: {error}");
        }
        assert!(matches!(resolve(&[], "latest").await, Err(RepositoryError::Unknown { .. })));
    }
}
