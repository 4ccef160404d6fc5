//! Tests each store for what every store promises, and then the shield and the spool for what they promise.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::timeout;

use super::failing::{Failing, Fate};
use super::local::LocalStore;
use super::memory::MemoryStore;
use super::observed::{Call, Operation};
use super::recording::Recording;
use super::spool::Spool;
use super::*;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

async fn contents(store: &dyn Store, name: &str) -> Vec<u8> {
    store.read(&key(name), 1 << 20).await.unwrap()
}

async fn names(store: &dyn Store, folder: &Key) -> Vec<(String, ObjectKind, u64)> {
    let found = store.list(folder).await.unwrap();
    let size = |meta: &ObjectMeta| if meta.kind == ObjectKind::Object { meta.bytes } else { 0 };
    let mut names: Vec<_> = found.iter().map(|meta| (meta.key.to_string(), meta.kind, size(meta))).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names
}

/// Tests an empty store for everything that every store promises.
pub(super) async fn keeps_its_promises(store: Arc<dyn Store>) {
    assert!(store.list(&Key::ROOT).await.unwrap().is_empty());
    assert!(store.list(&key("none/at/all")).await.unwrap().is_empty());
    for error in [
        store.head(&key("a")).await.unwrap_err(),
        store.get(&key("a"), None).await.unwrap_err(),
        store.delete(&key("a")).await.unwrap_err(),
        store.delete_partial(&key("a")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
    store.delete_all_of(&key("a")).await.unwrap();

    // Whoever claims the place makes it.
    drop(store.claim().await.unwrap());

    // Complete or not at all, and never overwritten.
    let mut writer = store.create(&key("folder/sub/a")).await.unwrap();
    writer.write(Bytes::from_static(b"01234")).await.unwrap();
    assert_eq!(store.head(&key("folder/sub/a")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(store.create(&key("folder/sub/a")).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    writer.write(Bytes::from_static(b"56789")).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(store.create(&key("folder/sub/a")).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert!(store.put(&key("folder/sub/a"), Bytes::from_static(b"other")).await.is_err());
    let meta = store.head(&key("folder/sub/a")).await.unwrap();
    assert_eq!((meta.kind, meta.bytes, meta.key.name()), (ObjectKind::Object, 10, "a"));

    // Read as a whole and in ranges, asynchronously and synchronously.
    assert_eq!(contents(&*store, "folder/sub/a").await, b"0123456789");
    assert_eq!(store.read(&key("folder/sub/a"), 9).await.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    for (range, expected) in
        [(0..10, "0123456789"), (3..5, "34"), (8..99, "89"), (10..20, ""), (20..30, ""), (5..5, "")]
    {
        let stream = store.get(&key("folder/sub/a"), Some(range)).await.unwrap();
        assert_eq!(stream.length(), expected.len() as u64);
        assert_eq!(stream.read_to_end(99).await.unwrap(), expected.as_bytes());
    }
    let (opened, read) = (Arc::clone(&store), key("folder/sub/a"));
    let blocking = move || {
        let mut reader = ObjectReader::open(async { opened.get(&read, None).await }).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        (reader.length(), text)
    };
    assert_eq!(blocking(), (10, "0123456789".to_owned()), "where a task may not wait");
    assert_eq!(tokio::task::spawn_blocking(blocking).await.unwrap().0, 10);

    // The list has what is directly there.
    store.put(&key("folder/b"), Bytes::new()).await.unwrap();
    store.put(&key("folder2"), Bytes::from_static(b"x")).await.unwrap();
    let (folder, object) = (ObjectKind::Folder, ObjectKind::Object);
    assert_eq!(
        names(&*store, &Key::ROOT).await,
        [("folder".to_owned(), folder, 0), ("folder2".to_owned(), object, 1)]
    );
    assert_eq!(
        names(&*store, &key("folder")).await,
        [("folder/b".to_owned(), object, 0), ("folder/sub".to_owned(), folder, 0)]
    );

    // Aborted, dropped, and deleted under the hands of its writer.
    for end in ["abort", "drop", "delete"] {
        let mut writer = store.create(&key("gone/c")).await.unwrap();
        writer.write(Bytes::from_static(b"c")).await.unwrap();
        match end {
            "abort" => writer.abort().await.unwrap(),
            "drop" => drop(writer),
            _ => {
                store.delete_all_of(&key("gone/c")).await.unwrap();
                assert!(writer.finish().await.is_err());
            }
        }
        assert!(store.list(&key("gone")).await.unwrap().is_empty(), "{end}");
    }
    store.delete(&key("folder/b")).await.unwrap();
    store.delete_all_of(&key("folder/sub/a")).await.unwrap();
    assert!(store.head(&key("folder/sub/a")).await.is_err());
    store.prove_writable(&key("folder")).await.unwrap();
    store.may_write().await.unwrap();
    assert_eq!(store.free_space().await.unwrap().is_some(), store.capabilities().knows_free_space);
}

#[tokio::test]
async fn a_directory_keeps_the_promises_of_a_store() {
    let folder = TempDir::new().unwrap();
    let store = LocalStore::open(&folder.path().join("new/store")).await.unwrap();
    keeps_its_promises(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_promises_of_a_store_recorded_or_not() {
    keeps_its_promises(Arc::new(MemoryStore::local("a"))).await;
    let (store, recording) = Recording::of(Arc::new(MemoryStore::remote("b")));
    keeps_its_promises(store).await;
    assert!(recording.calls().len() > 40);
}

#[tokio::test]
async fn folders_and_files_of_a_directory_are_for_the_owner_alone_and_links_are_not_followed() {
    let folder = TempDir::new().unwrap();
    let store = LocalStore::open(folder.path()).await.unwrap();
    store.put(&key("a/b/c"), Bytes::from_static(b"c")).await.unwrap();
    let mode = |name: &str| folder.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o700, 0o700, 0o600));
    std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("link")).unwrap();
    assert!(store.create(&key("link/d")).await.is_err());
    assert!(store.list(&key("link")).await.is_err());
    assert_eq!(store.head(&key("link")).await.unwrap().kind, ObjectKind::Foreign);
}

#[tokio::test]
async fn the_address_of_a_directory_that_is_yet_to_be_made_has_no_links_either() {
    let folder = TempDir::new().unwrap();
    let real = folder.path().canonicalize().unwrap();
    std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
    let store = LocalStore::open(&real.join("link/new/store")).await.unwrap();
    assert_eq!(store.address().local_path().unwrap(), real.join("new/store"));
    let url = StoreAddress::Url("ftp://host/a".to_owned());
    assert!(matches!(open(&url).await, Err(OpenError::Refused(_))));
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Stores `manifest` shielded, and drops the caller once the store reaches the call that hangs.
async fn drop_while_it_hangs(
    operation: Operation,
    fate: Fate,
) -> (Arc<dyn Store>, Arc<Failing>, Arc<AtomicBool>) {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::remote(&format!("{operation:?}-{fate:?}")));
    let (store, failing) = Failing::of(memory, operation, "manifest", fate);
    let stored = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stored);
    let put = shield::put(Arc::clone(&store), key("manifest"), Bytes::from_static(b"{}"), move || {
        told.store(true, Ordering::Release);
    });
    tokio::select! {
        biased;
        _ = put => panic!("it did not hang"),
        () = failing.reached() => {}
    }
    (store, failing, stored)
}

#[tokio::test]
async fn what_is_shielded_is_stored_though_nobody_waits_and_who_must_know_waits_for_that() {
    for operation in [Operation::Create, Operation::Write, Operation::Finish] {
        for fate in [Fate::HangsBefore, Fate::HangsAfter] {
            let (store, failing, stored) = drop_while_it_hangs(operation, fate).await;
            let name = key("manifest");
            let soon = Duration::from_millis(50);
            assert!(timeout(soon, shield::ended(store.address(), &name)).await.is_err());
            // Nothing of another object is stored.
            timeout(PATIENCE, shield::ended(store.address(), &key("other"))).await.unwrap();
            failing.release();
            timeout(PATIENCE, shield::ended(store.address(), &name)).await.unwrap();
            assert!(stored.load(Ordering::Acquire), "{operation:?} {fate:?}");
            assert_eq!(contents(&*store, "manifest").await, b"{}", "{operation:?} {fate:?}");
        }
    }
}

#[tokio::test]
async fn what_is_shielded_and_fails_is_told_and_over() {
    for operation in [Operation::Create, Operation::Write, Operation::Finish] {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::remote(&format!("fails-{operation:?}")));
        let (store, _failing) = Failing::of(Arc::clone(&memory), operation, "", Fate::FailsBefore);
        let put = shield::put(store, key("manifest"), Bytes::from_static(b"{}"), || panic!("stored"));
        assert_eq!(put.await.unwrap_err().to_string(), "injected");
        timeout(PATIENCE, shield::ended(memory.address(), &key("manifest"))).await.unwrap();
        assert!(memory.list(&Key::ROOT).await.unwrap().is_empty());
        memory.put(&key("manifest"), Bytes::new()).await.unwrap();
    }
}

/// Writes an object through the spool; returns the calls before it is finished, and after.
async fn spooled(store: Arc<dyn Store>, directory: &Path) -> (Vec<Operation>, Vec<Operation>) {
    let (store, recording) = Recording::of(store);
    let operations = |recording: &Recording| {
        let calls = recording.calls();
        assert!(calls.iter().all(|Call { key, .. }| key.as_str() == "archive"));
        calls.iter().map(|call| call.operation).collect::<Vec<_>>()
    };
    let mut writer = Spool::new(directory.to_owned()).create(&store, &key("archive")).await.unwrap();
    for _ in 0..3 {
        writer.write(Bytes::from(vec![7; 700_000])).await.unwrap();
    }
    assert_eq!(writer.stored(), 2_100_000);
    let before = operations(&recording);
    writer.finish().await.unwrap();
    let after = operations(&recording).split_off(before.len());
    let stored = store.read(&key("archive"), 1 << 22).await.unwrap();
    assert!(stored.len() == 2_100_000 && stored.iter().all(|byte| *byte == 7));
    (before, after)
}

#[tokio::test]
async fn a_spool_asks_nothing_of_a_distant_store_until_the_writer_is_finished_and_leaves_nothing() {
    use Operation::{Create, Finish, Write};
    let folder = TempDir::new().unwrap();
    let directory = folder.path().join("spool");
    let (before, after) = spooled(Arc::new(MemoryStore::remote("spool")), &directory).await;
    assert!(before.is_empty(), "{before:?}");
    assert_eq!(after, [Create, Write, Write, Write, Finish]);
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);

    let (before, after) = spooled(Arc::new(MemoryStore::local("disk")), &directory).await;
    assert_eq!((before.as_slice(), after.as_slice()), (&[Create, Write, Write, Write][..], &[Finish][..]));
}

#[tokio::test]
async fn an_upload_that_fails_is_told_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let spool = Spool::new(folder.path().to_owned());
    for operation in [Operation::Create, Operation::Write, Operation::Finish] {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::remote(&format!("upload-{operation:?}")));
        let (store, _failing) = Failing::of(Arc::clone(&memory), operation, "", Fate::FailsBefore);
        let mut writer = spool.create(&store, &key("archive")).await.unwrap();
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(writer.finish().await.unwrap_err().to_string(), "injected");
        assert!(memory.list(&Key::ROOT).await.unwrap().is_empty());
        assert!(memory.create(&key("archive")).await.is_ok(), "nothing is begun either");
    }
    // An object that was given up never existed.
    let store: Arc<dyn Store> = Arc::new(MemoryStore::remote("given-up"));
    let mut writer = spool.create(&store, &key("archive")).await.unwrap();
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    writer.abort().await.unwrap();
    assert!(store.list(&Key::ROOT).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
