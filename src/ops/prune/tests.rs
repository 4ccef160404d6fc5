//! Prunes on a store in memory, with a clock of its own: who dies where, who prunes beside, what a stale listing shows.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeZone as _;
use tempfile::TempDir;

use super::*;
use crate::archive::Codec;
use crate::model::event::Silent;
use crate::model::location::MountSource;
use crate::model::manifest::*;
use crate::model::retention::{Count, Rule};
use crate::model::unknown::UnknownFields;
use crate::ops::marks::{self, RemoveOptions, Removed};
use crate::ops::{decline, execute};
use crate::repository::tarball::layout::{RUNNING, SnapshotNames};
use crate::repository::{DEAD_AFTER, Listing, Snapshot, Stored};
use crate::store::memory::MemoryStore;
use crate::store::observed::{Call, ObservedStore, Observer, Operation};
use crate::store::{ByteStream, Capabilities, Key, ObjectMeta, ObjectWriter, Store, StoreAddress};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const CODEC: Codec = Codec::Zstd { level: 3 };

fn start() -> DateTime<Utc> {
    Utc.timestamp_opt(1_795_206_611, 0).unwrap()
}

/// Returns the id of the snapshot of that day.
fn id(day: i64) -> SnapshotId {
    SnapshotId::new(start() - TimeDelta::days(30 - day), [0, 0, 1])
}

/// A repository in memory, and the time there.
struct World {
    store: Arc<dyn Store>,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        let clock = Clock::starting_at(start());
        Self { store: Arc::new(MemoryStore::remote("prune").with_clock(clock.clone())), clock }
    }

    async fn repository(&self) -> Repository {
        repository_in(Arc::clone(&self.store), &self.clock).await
    }

    /// Makes a snapshot of "db" for each of these days.
    async fn with_days(days: impl IntoIterator<Item = i64>) -> Self {
        let world = Self::new();
        let repository = world.repository().await;
        for day in days {
            make(&repository, "db", &id(day), &|_| {}).await;
        }
        world
    }

    async fn names(&self) -> Vec<String> {
        names(&self.repository().await.snapshots(None).await.unwrap().snapshots)
    }

    async fn marked(&self) -> Vec<String> {
        let listing = self.repository().await.snapshots(None).await.unwrap();
        let marked = listing.snapshots.into_iter().filter(|one| one.deletion.is_some());
        names(&marked.collect::<Vec<_>>())
    }

    async fn prune(&self, options: &PruneOptions) -> PruneReport {
        prune(&self.repository().await, options, (&self.clock, &Silent), execute).await.unwrap().unwrap()
    }

    /// Returns the keys of everything there is.
    async fn keys(&self) -> Vec<String> {
        let (mut keys, mut folders) = (Vec::new(), vec![Key::ROOT]);
        while let Some(folder) = folders.pop() {
            for found in self.store.list(&folder).await.unwrap() {
                match found.kind {
                    crate::store::ObjectKind::Folder => folders.push(found.key),
                    _ => keys.push(found.key.to_string()),
                }
            }
        }
        keys.sort();
        keys
    }
}

async fn repository_in(store: Arc<dyn Store>, clock: &Clock) -> Repository {
    let address = store.address().clone();
    Repository::open_or_init_in(store, &address, clock).await.unwrap()
}

fn names(snapshots: &[Snapshot]) -> Vec<String> {
    snapshots.iter().map(Snapshot::name).collect()
}

fn of_days(days: &[i64]) -> Vec<String> {
    days.iter().map(|day| format!("db/{}", id(*day))).collect()
}

/// Publishes a small snapshot, as a run does.
async fn try_make(
    repository: &Repository,
    source: &str,
    id: &SnapshotId,
    adjust: &dyn Fn(&mut Manifest),
) -> std::result::Result<Snapshot, crate::repository::RepositoryError> {
    let pending = repository.begin(source, id, CODEC).await?;
    let mut archive = pending.archive_writer().await?;
    archive.write(Bytes::from_static(b"archive")).await?;
    let archive = archive.finish().await?;
    let mut list = pending.list_writer().await?;
    list.write(Bytes::from_static(b"list")).await?;
    let list = list.finish().await?;
    let mut manifest = manifest(source, id, &archive, &list);
    adjust(&mut manifest);
    pending.publish(manifest, &archive, &list).await
}

async fn make(
    repository: &Repository,
    source: &str,
    id: &SnapshotId,
    adjust: &dyn Fn(&mut Manifest),
) -> Snapshot {
    try_make(repository, source, id, adjust).await.unwrap()
}

fn manifest(source: &str, id: &SnapshotId, archive: &Stored, list: &Stored) -> Manifest {
    let at = id.begun().unwrap();
    Manifest {
        format_version: FORMAT_VERSION,
        id: id.clone(),
        source: source.to_owned(),
        requires: Vec::new(),
        group: None,
        needs: Vec::new(),
        title: "volume db".to_owned(),
        method: Method { quiesce: Quiesce::Stop, capture: Capture::Direct },
        payload: Payload::Physical,
        consistency: Consistency::StoppedAndQuiet,
        evidence: Evidence::default(),
        position: None,
        times: Times { started: at, held: at, released: at, published: at },
        downtime_ms: 0,
        phases: Vec::new(),
        parts: Parts::one(Part {
            location: MountSource::Volume("db".to_owned()),
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
            counts: Counts { members: 1, files: 1, raw_bytes: 1000, ..Counts::default() },
        }),
        environment: Environment::default(),
        facts: None,
        tags: BTreeMap::new(),
        sealed: None,
        tool_version: "0.1.0".to_owned(),
        unknown: UnknownFields::default(),
    }
}

fn keep_last(count: u64) -> PruneOptions {
    PruneOptions {
        policy: Policy {
            rules: BTreeMap::from([(Rule::Last, Count::Number(count))]),
            within: None,
            min_redundancy: 1,
        },
        grace: None,
        source: None,
        zone: |at| at.fixed_offset(),
        state: None,
        only_plans: false,
    }
}

fn verification(at: DateTime<Utc>, ok: bool) -> Verification {
    Verification {
        at,
        kind: VerificationKind::Read,
        ok,
        problems: u64::from(!ok),
        ms: 1,
        proof: ok.then_some(Proof::Verified),
        drill: None,
        tool_version: "0.1.0".to_owned(),
        unknown: UnknownFields::default(),
    }
}

/// Everything that a whole snapshot of that day is.
fn objects_of(days: &[i64]) -> Vec<String> {
    let mut keys = vec!["volsnap.json".to_owned()];
    for day in days {
        let id = id(*day);
        keys.extend(["files.jsonl.zst", "json", "tar.zst"].map(|end| format!("snapshots/db/db-{id}.{end}")));
    }
    keys.sort();
    keys
}

/// A process that dies after so many calls of its store: none of the later ones happens.
#[derive(Debug)]
struct Dying {
    left: AtomicUsize,
}

impl Dying {
    fn after(store: &Arc<dyn Store>, calls: usize) -> (Arc<dyn Store>, Arc<Self>) {
        let dying = Arc::new(Self { left: AtomicUsize::new(calls) });
        (Arc::new(ObservedStore::new(Arc::clone(store), Arc::clone(&dying))), dying)
    }

    fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

#[async_trait]
impl Observer for Dying {
    async fn before(&self, _call: &Call) -> io::Result<()> {
        let live = |left: usize| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, live) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("dead")),
        }
    }

    async fn after(&self, _call: &Call) -> io::Result<()> {
        Ok(())
    }
}

/// A store whose listings show what was there a while ago.
#[derive(Debug)]
struct Stale {
    inner: Arc<dyn Store>,
    /// What each folder had when somebody looked on time.
    seen: Mutex<BTreeMap<Key, Vec<ObjectMeta>>>,
}

impl Stale {
    /// Returns a view of the store whose listings stay as they are now.
    async fn of(inner: &Arc<dyn Store>) -> Arc<dyn Store> {
        let (mut seen, mut folders) = (BTreeMap::new(), vec![Key::ROOT]);
        while let Some(folder) = folders.pop() {
            let found = inner.list(&folder).await.unwrap();
            let is_folder = |one: &&ObjectMeta| one.kind == crate::store::ObjectKind::Folder;
            folders.extend(found.iter().filter(is_folder).map(|one| one.key.clone()));
            seen.insert(folder, found);
        }
        Arc::new(Self { inner: Arc::clone(inner), seen: Mutex::new(seen) })
    }
}

#[async_trait]
impl Store for Stale {
    fn address(&self) -> &StoreAddress {
        self.inner.address()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn create(&self, key: &Key) -> io::Result<Box<dyn ObjectWriter>> {
        self.inner.create(key).await
    }
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream> {
        self.inner.get(key, range).await
    }
    async fn head(&self, key: &Key) -> io::Result<ObjectMeta> {
        self.inner.head(key).await
    }
    async fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>> {
        Ok(self.seen.lock().unwrap().get(folder).cloned().unwrap_or_default())
    }
    async fn delete(&self, key: &Key) -> io::Result<()> {
        self.inner.delete(key).await
    }
    async fn delete_partial(&self, key: &Key) -> io::Result<()> {
        self.inner.delete_partial(key).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_rule_keeps_is_marked_and_goes_a_day_later() {
    let world = World::with_days([1, 2, 3, 4]).await;
    let report = world.prune(&keep_last(2)).await;
    assert_eq!(report.marked, of_days(&[2, 1]));
    assert_eq!((report.deleted.len(), report.freed_bytes), (0, 0));
    assert_eq!(world.names().await.len(), 4, "all are still there");
    assert_eq!(world.marked().await, of_days(&[1, 2]));
    // Nobody who asks for the latest means a marked one; by its id it is found.
    let repository = world.repository().await;
    assert_eq!(repository.resolve("db").await.unwrap().name(), of_days(&[4])[0]);
    assert_eq!(repository.resolve(id(1).as_str()).await.unwrap().name(), of_days(&[1])[0]);

    tokio::time::advance(DAY - HOUR).await;
    assert_eq!(world.prune(&keep_last(2)).await, PruneReport::default(), "not before its time");
    tokio::time::advance(HOUR * 2).await;
    let report = world.prune(&keep_last(2)).await;
    assert_eq!(report.deleted, of_days(&[2, 1]));
    assert!(report.freed_bytes > 0);
    assert_eq!(world.keys().await, objects_of(&[3, 4]), "nothing else is left, of them or of the prune");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_writes_nothing_and_shows_what_is_then_done() {
    let world = World::with_days([1, 2, 3]).await;
    let before = world.keys().await;
    let mut shown = Vec::new();
    let options = PruneOptions { only_plans: true, ..keep_last(1) };
    let show = async |plan: &PrunePlan| {
        shown = plan.with_fate(Fate::Remove).map(PlannedSnapshot::name).collect();
        decline(plan).await
    };
    let outcome = prune(&world.repository().await, &options, (&world.clock, &Silent), show).await.unwrap();
    assert_eq!(outcome, None);
    assert_eq!(world.keys().await, before);
    let mut marked = world.prune(&keep_last(1)).await.marked;
    marked.sort();
    assert_eq!(marked, shown);
}

#[tokio::test(start_paused = true)]
async fn without_a_rule_or_with_a_short_time_of_grace_or_a_wrong_clock_nothing_is_done() {
    let world = World::with_days([1, 2]).await;
    let before = world.keys().await;
    let refused = async |options: &PruneOptions, clock: &Clock| {
        let repository = world.repository().await;
        let outcome = prune(&repository, options, (clock, &Silent), execute).await;
        let said = outcome.unwrap_err().to_string();
        assert_eq!(world.keys().await, before, "{said}");
        said
    };
    assert!(refused(&keep_last(0), &world.clock).await.contains("no rule"));
    for grace in [Duration::ZERO, HOUR / 2] {
        let options = PruneOptions { grace: Some(grace), ..keep_last(1) };
        assert!(refused(&options, &world.clock).await.contains("too short"));
    }
    let wrong = Clock::starting_at(start() + TimeDelta::days(400));
    assert!(refused(&keep_last(1), &wrong).await.contains("minutes apart"));
}

#[tokio::test(start_paused = true)]
async fn wherever_a_prune_dies_the_next_ones_finish_it_and_nothing_that_stays_is_touched() {
    // A prune that marks one, deletes another, and finds the leftovers of a dead snapshot and of a dead prune.
    let prepare = async || {
        let world = World::with_days([1, 2]).await;
        world.prune(&keep_last(1)).await;
        let repository = world.repository().await;
        make(&repository, "db", &id(3), &|_| {}).await;
        let pending = repository.begin("db", &id(0), CODEC).await.unwrap();
        let mut archive = pending.archive_writer().await.unwrap();
        archive.write(Bytes::from_static(b"half")).await.unwrap();
        archive.finish().await.unwrap();
        let dead = RunMarker::new(&id(0), "snapshot", Vec::new(), of_days(&[0]));
        let json = serde_json::to_vec(&dead).unwrap();
        let key = RUNNING.join("dead.0.json").unwrap();
        world.store.put(&key, json.into()).await.unwrap();
        tokio::time::advance(DAY + HOUR).await;
        world
    };
    let mut calls = 0;
    loop {
        let world = prepare().await;
        let (store, dying) = Dying::after(&world.store, calls);
        let address = store.address().clone();
        // It may die before it is at work.
        if let Ok(repository) = Repository::open_or_init_in(store, &address, &world.clock).await {
            let _ = prune(&repository, &keep_last(1), (&world.clock, &Silent), execute).await;
        }
        let survived = !dying.is_dead();
        let listing = world.repository().await.snapshots(None).await.unwrap();
        assert_eq!(listing.unreadable, [], "after {calls} calls nothing is half there");
        assert!(names(&listing.snapshots).contains(&of_days(&[3])[0]), "after {calls} calls");
        // The run that died is dead after a day.
        for _ in 0..3 {
            tokio::time::advance(DAY + HOUR).await;
            let report = world.prune(&keep_last(1)).await;
            assert_eq!(report.failed, Vec::<String>::new());
        }
        assert_eq!(world.keys().await, objects_of(&[3]), "after {calls} calls nothing is left");
        if survived {
            break;
        }
        calls += 1;
    }
    assert!(calls > 40, "only {calls} calls were interrupted");
}

#[tokio::test(start_paused = true)]
async fn two_prunes_at_once_do_what_one_does_wherever_the_first_is_held_up() {
    // The first hangs at its nth call, while the second does all of its own.
    #[derive(Debug)]
    struct Pausing {
        at: usize,
        calls: AtomicUsize,
        here: tokio::sync::Semaphore,
        go_on: tokio::sync::Semaphore,
    }
    #[async_trait]
    impl Observer for Pausing {
        async fn before(&self, _call: &Call) -> io::Result<()> {
            if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
                self.here.add_permits(1);
                self.go_on.acquire().await.unwrap().forget();
            }
            Ok(())
        }
        async fn after(&self, _call: &Call) -> io::Result<()> {
            Ok(())
        }
    }
    for at in 0.. {
        let world = World::with_days([1, 2, 3, 4]).await;
        world.prune(&keep_last(3)).await;
        tokio::time::advance(DAY + HOUR).await;
        let pausing = Arc::new(Pausing {
            at,
            calls: AtomicUsize::new(0),
            here: tokio::sync::Semaphore::new(0),
            go_on: tokio::sync::Semaphore::new(0),
        });
        let store: Arc<dyn Store> =
            Arc::new(ObservedStore::new(Arc::clone(&world.store), Arc::clone(&pausing)));
        let clock = world.clock.clone();
        let first = tokio::spawn(async move {
            let repository = repository_in(store, &clock).await;
            prune(&repository, &keep_last(2), (&clock, &Silent), execute).await.unwrap().unwrap()
        });
        let paused = tokio::select! {
            permit = pausing.here.acquire() => { permit.unwrap().forget(); true }
            () = async { while !first.is_finished() { tokio::task::yield_now().await; } } => false,
        };
        if paused {
            let report = world.prune(&keep_last(2)).await;
            assert_eq!(report.failed, Vec::<String>::new(), "held up at call {at}");
            pausing.go_on.add_permits(1);
        }
        let report = first.await.unwrap();
        assert_eq!(report.failed, Vec::<String>::new(), "held up at call {at}");
        assert_eq!(world.names().await, of_days(&[2, 3, 4]), "held up at call {at}");
        assert_eq!(world.marked().await, of_days(&[2]), "held up at call {at}");
        if !paused {
            assert!(at > 20, "only {at} calls were held up");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_listing_makes_a_prune_late_and_never_wrong() {
    let world = World::with_days([1, 2, 3]).await;
    world.prune(&keep_last(2)).await;
    // Just before its time somebody wants it back, another is marked by hand and pinned: the listing shows none of it.
    tokio::time::advance(DAY - HOUR / 2).await;
    let stale = Stale::of(&world.store).await;
    let repository = world.repository().await;
    let first = repository.resolve(id(1).as_str()).await.unwrap();
    marks::undelete(&repository, &first, &world.clock).await.unwrap();
    tokio::time::advance(HOUR).await;
    let late = repository_in(Arc::clone(&stale), &world.clock).await;
    let report = prune(&late, &keep_last(2), (&world.clock, &Silent), execute).await.unwrap().unwrap();
    assert_eq!((report.deleted.len(), report.failed.len()), (0, 0));
    assert_eq!(world.names().await, of_days(&[1, 2, 3]));

    // It marks again what the stale listing shows as marked: not at once deleted, since the new mark is young.
    world.prune(&keep_last(2)).await;
    let report = prune(&late, &keep_last(2), (&world.clock, &Silent), execute).await.unwrap().unwrap();
    assert_eq!(report.deleted.len(), 0);
    assert_eq!(world.names().await, of_days(&[1, 2, 3]));

    // A manifest that the listing does not show yet is asked for by its name before its archive is taken for a leftover.
    let repository = world.repository().await;
    let pending = repository.begin("db", &id(4), CODEC).await.unwrap();
    let mut archive = pending.archive_writer().await.unwrap();
    archive.write(Bytes::from_static(b"archive")).await.unwrap();
    let archive = archive.finish().await.unwrap();
    let mut list = pending.list_writer().await.unwrap();
    list.write(Bytes::from_static(b"list")).await.unwrap();
    let list = list.finish().await.unwrap();
    tokio::time::advance(DAY + HOUR).await;
    let stale = Stale::of(&world.store).await;
    pending.publish(manifest("db", &id(4), &archive, &list), &archive, &list).await.unwrap();
    let late = repository_in(stale, &world.clock).await;
    prune(&late, &keep_last(9), (&world.clock, &Silent), execute).await.unwrap().unwrap();
    let listing = world.repository().await.snapshots(None).await.unwrap();
    assert!(names(&listing.snapshots).contains(&of_days(&[4])[0]));
    assert_eq!(listing.unreadable, []);
}

#[tokio::test(start_paused = true)]
async fn what_a_run_reads_stays_until_it_has_ended_or_is_dead() {
    let world = World::with_days([1, 2]).await;
    let repository = world.repository().await;
    let read = repository.resolve(id(1).as_str()).await.unwrap();
    let announced = read.announce(&id(9), "restore", Vec::new()).await.unwrap().unwrap();
    assert_eq!(world.prune(&keep_last(1)).await.marked.len(), 0, "a restore reads it");
    // It goes on for days, and says so.
    for _ in 0..300 {
        tokio::time::advance(Duration::from_mins(10)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(world.prune(&keep_last(1)).await.marked.len(), 0);
    announced.release().await;
    assert_eq!(world.prune(&keep_last(1)).await.marked, of_days(&[1]));
    // Nobody begins to read what is marked.
    let error = read.announce(&id(9), "restore", Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("marked for deletion"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("undelete"));

    // One that has died says nothing any more.
    let kept = repository.resolve(id(2).as_str()).await.unwrap();
    std::mem::forget(kept.announce(&id(8), "drill", Vec::new()).await.unwrap());
    make(&repository, "db", &id(3), &|_| {}).await;
    let _ = DEAD_AFTER;
    assert_eq!(world.prune(&keep_last(1)).await.marked.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_read_after_it_was_marked_is_not_deleted_under_the_reader() {
    let world = World::with_days([1, 2]).await;
    let repository = world.repository().await;
    let read = repository.resolve(id(1).as_str()).await.unwrap();
    let announced = read.announce(&id(9), "copy", Vec::new()).await.unwrap().unwrap();
    // Marked all the same, by somebody who does not look.
    let deletion = Deletion::new(world.clock.now(), HOUR, false, vec!["no rule keeps it".to_owned()]);
    repository.mark("db", &id(1), &deletion).await.unwrap();
    tokio::time::advance(HOUR * 2).await;
    assert_eq!(world.prune(&keep_last(1)).await.deleted.len(), 0);
    announced.release().await;
    assert_eq!(world.prune(&keep_last(1)).await.deleted, of_days(&[1]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_that_needs_what_is_gone_or_marked() {
    let world = World::with_days([1, 2]).await;
    let repository = world.repository().await;
    let needs = |day: i64| move |manifest: &mut Manifest| manifest.needs = vec![id(day)];
    make(&repository, "db", &id(3), &needs(1)).await;
    // What a kept one needs is not marked, however old.
    assert_eq!(world.prune(&keep_last(1)).await.marked, of_days(&[2]));
    let error = try_make(&repository, "db", &id(4), &needs(2)).await.unwrap_err();
    assert!(error.to_string().contains("gone or marked for deletion"), "{error}");
    let error = try_make(&repository, "db", &id(5), &needs(7)).await.unwrap_err();
    assert!(error.to_string().contains("gone or marked for deletion"), "{error}");
    let listed = world.names().await;
    assert_eq!(listed, of_days(&[1, 2, 3]));

    // Marked between the look and the write: the manifest is withdrawn.
    #[derive(Debug)]
    struct Marking(Arc<dyn Store>, Clock);
    #[async_trait]
    impl Observer for Marking {
        async fn before(&self, call: &Call) -> io::Result<()> {
            if call.operation == Operation::Finish && call.key.name() == format!("db-{}.json", id(6)) {
                let repository = repository_in(Arc::clone(&self.0), &self.1).await;
                let deletion = Deletion::new(self.1.now(), HOUR, true, Vec::new());
                repository.mark("db", &id(3), &deletion).await.unwrap();
            }
            Ok(())
        }
        async fn after(&self, _call: &Call) -> io::Result<()> {
            Ok(())
        }
    }
    let marking = Arc::new(Marking(Arc::clone(&world.store), world.clock.clone()));
    let racing =
        repository_in(Arc::new(ObservedStore::new(Arc::clone(&world.store), marking)), &world.clock).await;
    try_make(&racing, "db", &id(6), &needs(3)).await.unwrap_err();
    assert_eq!(world.names().await, listed);
}

#[tokio::test(start_paused = true)]
async fn a_drop_stops_the_prune_of_its_source_until_somebody_has_looked() {
    let world = World::with_days([1, 2, 3]).await;
    let repository = world.repository().await;
    let other = make(&repository, "other", &id(1), &|_| {}).await;
    make(&repository, "other", &id(2), &|_| {}).await;
    world.prune(&keep_last(2)).await;
    let shrunk = |manifest: &mut Manifest| manifest.parts.first_mut().counts.raw_bytes = 500;
    make(&repository, "db", &id(4), &shrunk).await;
    tokio::time::advance(DAY + HOUR).await;
    let mut stopped = Vec::new();
    let look = async |plan: &PrunePlan| {
        assert!(!plan.is_whole());
        stopped = plan.sources.iter().map(|source| source.stopped.clone()).collect();
        execute(plan).await
    };
    let report = prune(&repository, &keep_last(1), (&world.clock, &Silent), look).await.unwrap().unwrap();
    assert!(
        matches!(&stopped[..], [Some(Stopped::Alarms(alarms)), None] if alarms.len() == 1),
        "{stopped:?}"
    );
    assert_eq!(report.marked, [other.name()], "the other source goes on");
    assert_eq!(report.deleted.len(), 0, "not even what was marked before the drop");

    let acknowledged = marks::acknowledge(&repository, ("db", None), &world.clock).await.unwrap();
    assert_eq!(acknowledged.len(), 1);
    let report = world.prune(&keep_last(1)).await;
    assert_eq!((report.deleted, report.marked), (of_days(&[1]), of_days(&[3, 2])));
    // Damage that is found later is another alarm.
    tokio::time::advance(HOUR).await;
    let mut last = repository.resolve(id(4).as_str()).await.unwrap();
    last.record_verification(verification(world.clock.now(), false)).await.unwrap();
    tokio::time::advance(DAY * 2).await;
    // The good ones are all that is left: one that was marked comes back, even while nothing is removed.
    let report = world.prune(&keep_last(1)).await;
    assert_eq!((report.deleted, report.rescued), (vec![other.name()], of_days(&[3])));
    marks::acknowledge(&repository, ("db", None), &world.clock).await.unwrap();
    assert_eq!(world.prune(&keep_last(1)).await.deleted, of_days(&[2]));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_source_goes_while_something_of_it_cannot_be_read() {
    let world = World::with_days([1, 2, 3]).await;
    world.prune(&keep_last(1)).await;
    let later = Key::new(format!("snapshots/db/db-{}.json", id(4))).unwrap();
    world.store.put(&later, Bytes::from_static(b"{\"format_version\": 99}")).await.unwrap();
    tokio::time::advance(DAY + HOUR).await;
    let report = world.prune(&keep_last(1)).await;
    assert_eq!((report.deleted.len(), report.marked.len()), (0, 0));
    world.store.delete(&later).await.unwrap();
    // A pin that nobody understands is a pin.
    let pin = Key::new(format!("marks/db/db-{}.pinned.json", id(1))).unwrap();
    world.store.put(&pin, Bytes::from_static(b"{\"format_version\": 99}")).await.unwrap();
    assert_eq!(world.prune(&keep_last(1)).await.deleted.len(), 0);
    world.store.delete(&pin).await.unwrap();
    assert_eq!(world.prune(&keep_last(1)).await.deleted.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pin_keeps_what_no_rule_keeps_and_what_is_marked_can_be_had_back() {
    let world = World::with_days([1, 2, 3]).await;
    let repository = world.repository().await;
    let find = async |day: i64| world.repository().await.resolve(id(day).as_str()).await.unwrap();
    assert!(marks::pin(&repository, &find(1).await, Some("tax".to_owned()), &world.clock).await.unwrap());
    assert!(!marks::pin(&repository, &find(1).await, None, &world.clock).await.unwrap());
    assert_eq!(find(1).await.pin.unwrap().reason.as_deref(), Some("tax"));
    assert_eq!(world.prune(&keep_last(1)).await.marked, of_days(&[2]));
    let error = marks::pin(&repository, &find(2).await, None, &world.clock).await.unwrap_err();
    assert!(error.to_string().contains("marked for deletion"));
    marks::undelete(&repository, &find(2).await, &world.clock).await.unwrap();
    assert!(find(2).await.deletion.is_none());
    assert!(marks::undelete(&repository, &find(2).await, &world.clock).await.is_err(), "it is not marked");
    assert!(marks::unpin(&repository, &find(1).await).await.unwrap());
    assert_eq!(world.prune(&keep_last(1)).await.marked, of_days(&[2, 1]));
    // Elsewhere somebody may already be deleting it.
    let late = find(2).await;
    tokio::time::advance(DAY).await;
    let error = marks::undelete(&repository, &late, &world.clock).await.unwrap_err();
    assert!(error.to_string().contains("is over"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_removes_goes_unless_it_is_needed_pinned_or_the_last() {
    let world = World::with_days([1, 2]).await;
    let repository = world.repository().await;
    let find = async |day: i64| world.repository().await.resolve(id(day).as_str()).await.unwrap();
    let remove = async |day: i64, even_the_last: bool| {
        let options = RemoveOptions { grace: None, even_the_last, state: None };
        marks::remove(&repository, &find(day).await, &options, &world.clock).await
    };
    marks::pin(&repository, &find(1).await, None, &world.clock).await.unwrap();
    assert!(remove(1, true).await.unwrap_err().to_string().contains("is pinned"));
    marks::unpin(&repository, &find(1).await).await.unwrap();
    make(&repository, "db", &id(3), &|manifest| manifest.needs = vec![id(1)]).await;
    assert!(remove(1, true).await.unwrap_err().to_string().contains("is needed"));

    let mut second = find(2).await;
    second.record_verification(verification(world.clock.now(), true)).await.unwrap();
    assert!(remove(2, false).await.unwrap_err().to_string().contains("the last verified"));
    assert!(matches!(remove(2, true).await.unwrap(), Removed::Marked { .. }));
    // A policy that would keep it does not bring it back.
    assert_eq!(world.prune(&keep_last(5)).await, PruneReport::default());
    tokio::time::advance(DAY + HOUR).await;
    assert_eq!(world.prune(&keep_last(5)).await.deleted, of_days(&[2]));
    assert!(matches!(remove(3, false).await.unwrap(), Removed::Marked { .. }));
    assert!(remove(1, false).await.unwrap_err().to_string().contains("the last good"));
}

#[tokio::test]
async fn on_a_local_disk_without_a_time_of_grace_what_goes_is_gone_at_once() {
    let folder = TempDir::new().unwrap();
    let clock = Clock::system();
    let repository = Repository::open_or_init(folder.path(), &clock).await.unwrap();
    assert!(repository.is_on_local_disk(), "the tests need a temporary directory on a local disk");
    for day in 1..=4 {
        make(&repository, "db", &id(day), &|_| {}).await;
    }
    let options = PruneOptions { grace: Some(Duration::ZERO), ..keep_last(2) };
    let report = prune(&repository, &options, (&clock, &Silent), execute).await.unwrap().unwrap();
    assert_eq!(report.deleted, of_days(&[2, 1]));
    let listing = repository.snapshots(None).await.unwrap();
    assert_eq!(names(&listing.snapshots), of_days(&[3, 4]));
    assert!(listing.incomplete.is_empty() && listing.unreadable.is_empty());
    let find = repository.resolve(id(3).as_str()).await.unwrap();
    let options = RemoveOptions { grace: Some(Duration::ZERO), ..RemoveOptions::default() };
    let removed = marks::remove(&repository, &find, &options, &clock).await.unwrap();
    assert!(matches!(removed, Removed::Deleted { bytes } if bytes > 0));
    // One copy into it at a time.
    let copying = repository.claim_for_copy().unwrap();
    assert!(copying.is_some() && repository.claim_for_copy().unwrap().is_none());
    drop(copying);
    assert!(repository.claim_for_copy().unwrap().is_some());
    // A record that nobody can read may be what proves a snapshot, or condemns it: all of its source stays.
    let record =
        folder.path().join("snapshots/db").join(SnapshotNames::new("db", &id(4)).verification(clock.now()));
    std::fs::write(&record, "{").unwrap();
    let plan = PrunePlan::of(&repository, &keep_last(1), clock.now()).await.unwrap();
    assert!(matches!(plan.sources[0].stopped, Some(Stopped::Obstructed(_))), "{plan:?}");
    std::fs::remove_file(&record).unwrap();
    // What a dead process has left of a mark is in nobody's way.
    let mark = folder.path().join(format!("marks/db/db-{}.pinned.json.partial", id(4)));
    std::fs::write(&mark, "{").unwrap();
    let last = repository.resolve(id(4).as_str()).await.unwrap();
    assert!(marks::pin(&repository, &last, None, &clock).await.unwrap());
    assert!(!mark.exists());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_dies_anywhere_leaves_no_half_snapshot_and_is_gone_on_with() {
    let source = World::with_days([1]).await;
    let from = source.repository().await.resolve(id(1).as_str()).await.unwrap();
    let copy = async |repository: &Repository| {
        let pending = repository.begin_copy(&from).await?;
        let (archive, list) = pending.copy_objects(&from, &Silent).await?;
        pending.publish(from.manifest.clone(), &archive, &list).await
    };
    let mut calls = 0;
    loop {
        let there = World { store: Arc::new(MemoryStore::remote("there")), clock: source.clock.clone() };
        there.repository().await;
        let (store, dying) = Dying::after(&there.store, calls);
        let address = store.address().clone();
        if let Ok(repository) = Repository::open_or_init_in(store, &address, &there.clock).await {
            let _ = copy(&repository).await;
        }
        let survived = !dying.is_dead();
        let listing = there.repository().await.snapshots(None).await.unwrap();
        assert_eq!(listing.unreadable, [], "after {calls} calls");
        let again = copy(&there.repository().await).await;
        match again {
            Err(crate::repository::RepositoryError::Exists { .. }) => assert_eq!(listing.snapshots.len(), 1),
            outcome => assert_eq!(outcome.unwrap().name(), from.name(), "after {calls} calls"),
        }
        assert_eq!(there.keys().await, objects_of(&[1]), "after {calls} calls");
        let copied = there.repository().await.resolve(id(1).as_str()).await.unwrap();
        assert_eq!(copied.manifest, from.manifest);
        if survived {
            break;
        }
        calls += 1;
    }
    assert!(calls > 15, "only {calls} calls were interrupted");
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_where_it_is_or_where_it_goes_to_is_not_copied_as_it_is() {
    let source = World::with_days([1]).await;
    let from = source.repository().await.resolve(id(1).as_str()).await.unwrap();
    let archive = Key::new(format!("snapshots/db/db-{}.tar.zst", id(1))).unwrap();
    let replace = async |store: &Arc<dyn Store>, bytes: &'static [u8]| {
        let _ = store.delete(&archive).await;
        store.put(&archive, Bytes::from_static(bytes)).await.unwrap();
    };
    let there = World { store: Arc::new(MemoryStore::remote("there")), clock: source.clock.clone() };
    let repository = there.repository().await;
    // What an earlier attempt has left, and is not what it should be, is replaced.
    replace(&there.store, b"arch1ve").await;
    replace(&source.store, b"arcHive").await;
    let pending = repository.begin_copy(&from).await.unwrap();
    let error = pending.copy_objects(&from, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("it is damaged"), "{error}");
    assert_eq!(crate::Error::from(error).kind(), crate::ErrorKind::Damaged);
    assert_eq!(there.names().await, Vec::<String>::new());
    replace(&source.store, b"archive").await;
    replace(&there.store, b"arch1ve").await;
    let (archived, list) = pending.copy_objects(&from, &Silent).await.unwrap();
    pending.publish(from.manifest.clone(), &archived, &list).await.unwrap();
    assert_eq!(there.store.read(&archive, 99).await.unwrap(), b"archive");
    // What is being deleted there does not come back by the way.
    let deletion = Deletion::new(there.clock.now(), HOUR, false, Vec::new());
    repository.mark("db", &id(1), &deletion).await.unwrap();
    assert!(repository.begin_copy(&from).await.unwrap_err().to_string().contains("marked for deletion"));
}

#[tokio::test(start_paused = true)]
async fn two_copies_to_one_server_see_each_other_and_none_publishes_what_the_other_has_taken_away() {
    let source = World::with_days([1]).await;
    let from = source.repository().await.resolve(id(1).as_str()).await.unwrap();
    let there = World { store: Arc::new(MemoryStore::remote("there")), clock: source.clock.clone() };
    let repository = there.repository().await;
    let (names, runs) = (vec![from.name()], [id(7), id(8)]);
    let says = |run| RunMarker::new(run, "copy", Vec::new(), names.clone());
    let first = repository.announce(&says(&runs[0])).await.unwrap();
    let alone = repository.written_by_others(&runs[0], &first, &names).await.unwrap();
    assert_eq!(alone, None);
    let second = repository.announce(&says(&runs[1])).await.unwrap();
    let written = repository.written_by_others(&runs[1], &second, &names).await.unwrap();
    assert_eq!(written.as_ref(), Some(&names[0]));
    let others = [format!("db/{}", id(2))];
    assert_eq!(repository.written_by_others(&runs[1], &second, &others).await.unwrap(), None);
    second.release().await;
    first.release().await;
    let pending = repository.begin_copy(&from).await.unwrap();
    let (archived, list) = pending.copy_objects(&from, &Silent).await.unwrap();
    there
        .store
        .delete(&Key::new(format!("snapshots/db/{}", from.manifest.archive().file)).unwrap())
        .await
        .unwrap();
    let error = pending.publish(from.manifest.clone(), &archived, &list).await.unwrap_err();
    assert!(error.to_string().contains("no longer what was written"), "{error}");
    assert_eq!(there.names().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_a_stale_listing_hides_for_less_than_the_time_of_grace_saves_what_it_needs() {
    let world = World::with_days([1, 2]).await;
    let stale = Stale::of(&world.store).await;
    make(&world.repository().await, "db", &id(3), &|manifest| manifest.needs = vec![id(1)]).await;
    let late = repository_in(stale, &world.clock).await;
    let report = prune(&late, &keep_last(1), (&world.clock, &Silent), execute).await.unwrap().unwrap();
    assert_eq!(report.marked, of_days(&[1]), "it does not see who needs it");
    tokio::time::advance(HOUR).await;
    let stale = Stale::of(&world.store).await;
    tokio::time::advance(DAY).await;
    let late = repository_in(stale, &world.clock).await;
    let report = prune(&late, &keep_last(1), (&world.clock, &Silent), execute).await.unwrap().unwrap();
    assert_eq!((report.rescued, report.deleted.len()), (of_days(&[1]), 0));
    assert_eq!(world.names().await, of_days(&[1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_snapshots_are_planned_within_a_second() {
    const MANY: i64 = 10_000;
    let world = World::with_days([1]).await;
    let one = world.repository().await.snapshots(None).await.unwrap().snapshots.remove(0);
    let of = |hour: i64| {
        let mut snapshot = one.clone();
        snapshot.manifest.id = SnapshotId::new(start() - TimeDelta::hours(hour), [0, 0, 2]);
        snapshot
    };
    let snapshots = (1..=MANY).rev().map(of).collect();
    let listing = Listing { snapshots, ..Listing::default() };
    let rules = [
        (Rule::Last, Count::Number(100)),
        (Rule::Daily, Count::Number(7)),
        (Rule::Weekly, Count::Number(4)),
        (Rule::Monthly, Count::Number(12)),
        (Rule::Yearly, Count::Unlimited),
    ];
    let mut options = keep_last(0);
    options.policy.rules = BTreeMap::from(rules);
    let open = OpenRuns::default();
    let planner = plan::Planner { options: &options, grace: None, now: start(), running: &[], open: &open };
    let began = std::time::Instant::now();
    let plan = PrunePlan::from(&listing, &planner);
    let took = began.elapsed();
    let kept = plan.with_fate(Fate::Keep).count();
    assert!((110..130).contains(&kept), "{kept}");
    assert_eq!(plan.with_fate(Fate::Remove).count() + kept, usize::try_from(MANY).unwrap());
    eprintln!("{took:.2?} for {MANY} snapshots");
    assert!(took < Duration::from_secs(1), "{took:?}");
}
