//! A store of which every answer takes its time, and ten thousand snapshots in it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::sleep;

use super::*;
use crate::clock::Clock;
use crate::model::ids::SnapshotId;
use crate::repository::tarball::layout::{INDEX, SnapshotNames, source_folder};
use crate::repository::tests::{CODEC, id, manifest, stored};
use crate::repository::{Listing, Repository};
use crate::store::memory::MemoryStore;
use crate::store::observed::{Call, ObservedStore, Observer, Operation};

/// What an answer takes.
const LATENCY: Duration = Duration::from_millis(50);
/// How many names an answer has.
const PAGE: usize = 1000;

/// Makes every call wait as for a server, and counts the readings.
#[derive(Debug)]
struct Far {
    near: Arc<dyn Store>,
    read: AtomicUsize,
}

impl Far {
    fn of(near: Arc<dyn Store>) -> (Arc<dyn Store>, Arc<Self>) {
        let far = Arc::new(Self { near: Arc::clone(&near), read: 0.into() });
        (Arc::new(ObservedStore::new(near, Arc::clone(&far))), far)
    }

    /// Returns how many objects were read since somebody asked.
    fn read(&self) -> usize {
        self.read.swap(0, Ordering::Relaxed)
    }
}

#[async_trait]
impl Observer for Far {
    async fn before(&self, call: &Call) -> io::Result<()> {
        self.read.fetch_add(usize::from(call.operation == Operation::Get), Ordering::Relaxed);
        let answers = match call.operation {
            Operation::List => self.near.list(&call.key).await?.len().div_ceil(PAGE).max(1),
            _ => 1,
        };
        for _ in 0..answers {
            sleep(LATENCY).await;
        }
        Ok(())
    }

    async fn after(&self, _call: &Call) -> io::Result<()> {
        Ok(())
    }
}

/// Stores a snapshot as it lies there; each has a record of a verification, if it is to.
async fn put(store: &dyn Store, source: &str, second: i64, verified: bool) -> Key {
    let (id, folder) = (id(second), source_folder(source).unwrap());
    let names = SnapshotNames::new(source, &id);
    let (archive, list) = (stored(names.archive(CODEC), b"archive"), stored(names.file_list(), b"list"));
    let text = manifest(source, &id, &archive, &list).to_json().unwrap();
    for (name, contents) in [
        (&archive.file, Bytes::from_static(b"archive")),
        (&list.file, Bytes::from_static(b"list")),
        (&names.manifest(), text.into()),
    ] {
        store.put(&folder.join(name).unwrap(), contents).await.unwrap();
    }
    if verified {
        let record = Bytes::from_static(include_bytes!("../../fixtures/formats/v2/verification.json"));
        let at = id.begun().unwrap();
        store.put(&folder.join(&names.verification(at)).unwrap(), record).await.unwrap();
    }
    folder.join(&names.manifest()).unwrap()
}

async fn repository(store: &Arc<dyn Store>) -> Repository {
    let clock = Clock::starting_at("2026-11-30T05:00:00Z".parse().unwrap());
    Repository::open_or_init_in(Arc::clone(store), &store.address().clone(), &clock).await.unwrap()
}

async fn indexes(store: &dyn Store) -> Vec<Key> {
    let folder = INDEX.join("db").unwrap();
    store.list(&folder).await.unwrap().into_iter().map(|one| one.key).collect()
}

fn said(listing: &Listing) -> Vec<(String, usize)> {
    listing.snapshots.iter().map(|one| (one.name(), one.verified.len())).collect()
}

/// Returns the ids that both ways of reading tell of, which must be the same.
async fn both(repository: &Repository) -> Vec<SnapshotId> {
    let (overview, themselves) =
        (repository.overview(None).await.unwrap(), repository.snapshots(None).await.unwrap());
    assert_eq!(said(&overview), said(&themselves));
    assert_eq!(overview.unreadable, themselves.unreadable);
    assert_eq!(overview.incomplete, themselves.incomplete);
    overview.snapshots.iter().map(|one| one.manifest.id.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_snapshots_of_a_distant_store_are_listed_in_three_seconds() {
    const MANY: i64 = 10_000;
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::remote("ten-thousand"));
    let (store, far) = Far::of(Arc::clone(&memory));
    let repository = repository(&store).await;
    for second in 0..MANY {
        put(&*memory, "db", second, second % 7 == 0).await;
    }
    let listed = async |what: &str| {
        let (began, work) = (tokio::time::Instant::now(), Instant::now());
        let listing = repository.overview(None).await.unwrap();
        assert_eq!(listing.snapshots.len(), 10_000);
        let (waited, worked) = (began.elapsed(), work.elapsed());
        eprintln!("{what}: {waited:.2?} for the network, {worked:.2?} of work, {} objects read", far.read());
        waited
    };
    far.read();
    listed("without an index").await;
    assert_eq!(indexes(&*memory).await.len(), 1);
    let waited = listed("with an index").await;
    assert!(waited <= Duration::from_secs(3), "{waited:?}");
    for second in MANY..MANY + 20 {
        put(&*memory, "db", second, true).await;
    }
    let began = tokio::time::Instant::now();
    assert_eq!(repository.overview(None).await.unwrap().snapshots.len(), 10_020);
    assert_eq!(far.read(), 41, "the index, and what it does not know: two objects each");
    assert!(began.elapsed() <= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn an_index_hides_and_invents_nothing() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::remote("index"));
    let repository = repository(&memory).await;
    for second in 0..100 {
        put(&*memory, "db", second, second % 2 == 0).await;
    }
    assert!(repository.snapshots(None).await.unwrap().snapshots.len() == 100);
    assert!(indexes(&*memory).await.is_empty(), "who acts on what he reads stores none");
    assert_eq!(both(&repository).await.len(), 100);
    let [index] = &indexes(&*memory).await[..] else { panic!("one index") };

    // What came, what went, and what was replaced since.
    let new = put(&*memory, "db", 200, true).await;
    let gone = source_folder("db").unwrap().join(&SnapshotNames::new("db", &id(7)).manifest()).unwrap();
    memory.delete(&gone).await.unwrap();
    let replaced = source_folder("db").unwrap().join(&SnapshotNames::new("db", &id(8)).manifest()).unwrap();
    let text = memory.read(&replaced, 1 << 20).await.unwrap();
    memory.delete(&replaced).await.unwrap();
    memory.put(&replaced, vec![b' '; text.len()].into()).await.unwrap();
    let ids = both(&repository).await;
    assert_eq!(ids.len(), 99);
    assert!(ids.contains(&id(200)) && !ids.contains(&id(7)) && !ids.contains(&id(8)), "{new}");
    assert_eq!(indexes(&*memory).await, std::slice::from_ref(index), "for so little no new one is stored");

    // Others' bytes, another source's index, a later format, and bytes of which nobody makes anything.
    let theirs = written("other", &[]).unwrap();
    let mut later = zstd::encode_all(&b"{\"format_version\":2,\"source\":\"db\"}\n"[..], 3).unwrap();
    for (name, bytes) in [
        (theirs.0, theirs.1),
        (name_of(&later), std::mem::take(&mut later)),
        (format!("{}{INDEX_END}", "0".repeat(64)), b"no index".to_vec()),
        (name_of(b"no index either"), b"no index either".to_vec()),
    ] {
        memory.put(&INDEX.join("db").unwrap().join(&name).unwrap(), bytes.into()).await.unwrap();
        assert_eq!(both(&repository).await.len(), 99);
        let left = indexes(&*memory).await;
        assert_eq!(left.len(), 1, "a new one has replaced both");
        assert!(left[0].name() != name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_forged_index_is_believed_by_nobody_who_acts() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::remote("forged"));
    let repository = repository(&memory).await;
    let key = put(&*memory, "db", 0, false).await;
    let truth = memory.read(&key, 1 << 20).await.unwrap();
    // Of the same length, and sealed as well.
    let mut manifest = Manifest::from_json(&truth).unwrap();
    manifest.title = manifest.title.replace("db", "xx");
    let forged = manifest.to_json().unwrap();
    assert_eq!(forged.len(), truth.len());
    let line = Line::new(&memory.head(&key).await.unwrap(), forged.as_bytes()).unwrap();
    let (name, bytes) = written("db", &[line]).unwrap();
    memory.put(&INDEX.join("db").unwrap().join(&name).unwrap(), bytes.into()).await.unwrap();
    let title = |listing: &Listing| listing.snapshots[0].manifest.title.clone();
    assert!(title(&repository.overview(None).await.unwrap()).contains("xx"), "the test forges nothing");
    assert!(!title(&repository.snapshots(None).await.unwrap()).contains("xx"));
    assert!(!repository.resolve("latest").await.unwrap().manifest.title.contains("xx"));
}

#[tokio::test(start_paused = true)]
async fn a_place_where_nothing_may_be_written_is_listed_all_the_same() {
    #[derive(Debug)]
    struct ReadOnly;
    #[async_trait]
    impl Observer for ReadOnly {
        async fn before(&self, call: &Call) -> io::Result<()> {
            let writes = matches!(call.operation, Operation::Create | Operation::Delete);
            if writes { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }

        async fn after(&self, _call: &Call) -> io::Result<()> {
            Ok(())
        }
    }
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::remote("read-only"));
    let writable = repository(&memory).await;
    for second in 0..70 {
        put(&*memory, "db", second, false).await;
    }
    assert_eq!(writable.glance(None).await.unwrap().snapshots.len(), 70);
    assert!(indexes(&*memory).await.is_empty(), "a glance writes nothing");
    let store: Arc<dyn Store> = Arc::new(ObservedStore::new(Arc::clone(&memory), Arc::new(ReadOnly)));
    let repository = Repository::open_or_init_in(Arc::clone(&store), store.address(), &Clock::system()).await;
    assert_eq!(both(&repository.unwrap()).await.len(), 70);
    assert!(indexes(&*memory).await.is_empty());
}

#[tokio::test]
async fn a_listing_ends_with_the_connection_instead_of_calling_each_snapshot_unreadable() {
    #[derive(Debug)]
    struct Cut;

    #[async_trait]
    impl Observer for Cut {
        async fn before(&self, call: &Call) -> io::Result<()> {
            let is_cut = call.operation == Operation::Get && call.key.as_str().starts_with("snapshots/");
            if is_cut { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
        }

        async fn after(&self, _call: &Call) -> io::Result<()> {
            Ok(())
        }
    }
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::remote("cut"));
    drop(repository(&memory).await);
    put(&*memory, "db", 1, true).await;
    let store: Arc<dyn Store> = Arc::new(ObservedStore::new(Arc::clone(&memory), Arc::new(Cut)));
    let error = repository(&store).await.snapshots(None).await.unwrap_err();
    assert!(error.is_disconnected(), "{error}");
}

#[test]
fn an_index_is_read_as_it_is_written() {
    let line = Line {
        name: "db-20261120T203011Z-4f2a91.json".to_owned(),
        bytes: 3,
        modified: "2026-11-30T05:00:00.123456789Z".parse().unwrap(),
        tag: Some("\"etag\"".to_owned()),
        text: "{}\n".to_owned(),
    };
    let (name, bytes) = written("db", std::slice::from_ref(&line)).unwrap();
    let text = String::from_utf8(zstd::decode_all(&bytes[..]).unwrap()).unwrap();
    let expected = concat!(
        r#"{"format_version":1,"source":"db"}"#,
        "\n",
        r#"{"name":"db-20261120T203011Z-4f2a91.json","bytes":3,"modified":"2026-11-30T05:00:00.123456789Z","#,
        r#""tag":"\"etag\"","text":"{}\n"}"#,
        "\n",
    );
    assert_eq!(text, expected);
    let entries = entries_of(&name, "db", &bytes).unwrap();
    assert_eq!(entries[&line.name].line, line);
}
