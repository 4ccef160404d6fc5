//! What is said of snapshots beside them: that one is to be deleted, that one must stay, that somebody has looked at what
//! was wrong.
//!
//! A mark has one name for each snapshot, so whoever wants to know of it asks for that name, and need not trust a listing
//! that may be stale. Nobody changes a mark: it is there or not. The store says when it was written, by one clock for all
//! hosts; a mark that says a later time itself is believed in that.
//!
//! Where the store is a directory of this machine, whoever writes a mark holds the [claim](crate::repository::Repository::claim).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::contents::at_once;
use super::error::RepositoryError;
use super::listing::{Unreadable, list};
use super::tarball::layout::{MARKS, MarkKind, SnapshotNames, is_source_key, marks_folder, parse_mark};
use crate::model::ids::SnapshotId;
use crate::model::retention::alarm::Acknowledged;
use crate::store::{Key, ObjectKind, ObjectMeta, Store};

/// The format version of every mark.
pub const MARK_FORMAT: u32 = 1;
/// More than any mark has.
const MARK_MAX: u64 = 1 << 20;

/// That a snapshot is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// The version of the format.
    pub format_version: u32,
    /// When it was marked, by the store's clock.
    pub at: DateTime<Utc>,
    /// How long it stays for those who want it back.
    pub grace_seconds: u64,
    /// Whether somebody named it; otherwise no rule kept it.
    pub by_hand: bool,
    /// Why it goes, in words.
    pub reasons: Vec<String>,
    /// The version of volsnap that marked it.
    pub tool_version: String,
}

impl Deletion {
    /// Returns the mark to write.
    #[must_use]
    pub fn new(at: DateTime<Utc>, grace: Duration, by_hand: bool, reasons: Vec<String>) -> Self {
        let tool_version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            format_version: MARK_FORMAT,
            at,
            grace_seconds: grace.as_secs(),
            by_hand,
            reasons,
            tool_version,
        }
    }

    /// Returns when it may be deleted. `grace` is that of whoever wants to know, if he says one: then the shorter counts,
    /// and without any it is due whatever the clocks say.
    #[must_use]
    pub fn due(&self, grace: Option<Duration>) -> DateTime<Utc> {
        if grace == Some(Duration::ZERO) {
            return DateTime::<Utc>::MIN_UTC;
        }
        let own = Duration::from_secs(self.grace_seconds);
        let grace = grace.map_or(own, |grace| grace.min(own));
        TimeDelta::from_std(grace)
            .ok()
            .and_then(|grace| self.at.checked_add_signed(grace))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// That a snapshot must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The version of the format.
    pub format_version: u32,
    /// When it was pinned.
    pub at: DateTime<Utc>,
    /// Why, in the user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version of volsnap that pinned it.
    pub tool_version: String,
}

/// That somebody has looked at what was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The version of the format.
    pub format_version: u32,
    /// When he did.
    pub at: DateTime<Utc>,
    /// What was wrong, in words.
    pub alarms: Vec<String>,
    /// The version of volsnap that wrote it down.
    pub tool_version: String,
}

/// What is said of the snapshots of a repository.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// Those that are to be deleted, by source and id.
    pub deletions: BTreeMap<(String, SnapshotId), Deletion>,
    /// Those that are pinned.
    pub pins: BTreeMap<(String, SnapshotId), Pin>,
    /// What somebody has looked at last, by source.
    pub acknowledged: BTreeMap<String, Acknowledged>,
    /// What cannot be read.
    pub(super) unreadable: Vec<Unreadable>,
}

impl Marks {
    /// Reads what is said of the snapshots in a store; of those of one source only, if it is named.
    pub(super) async fn read(store: &Arc<dyn Store>, source: Option<&str>) -> Result<Self, RepositoryError> {
        let mut marks = Self::default();
        let folders = match source {
            Some(source) => marks_folder(source).into_iter().filter(|_| is_source_key(source)).collect(),
            None => {
                let found = list(store, &MARKS).await?;
                found.into_iter().filter(|one| one.kind == ObjectKind::Folder).map(|one| one.key).collect()
            }
        };
        let folders: Vec<Key> = folders;
        let mut lists = Vec::with_capacity(folders.len());
        for folder in &folders {
            lists.push(list(store, folder));
        }
        let mut lists = stream::iter(lists).buffered(at_once(store));
        let mut found = Vec::new();
        while let Some(listed) = lists.next().await {
            found.extend(listed?);
        }
        let mut reads = Vec::with_capacity(found.len());
        for meta in &found {
            let Some((source, id, kind)) = parse_mark(meta.key.name()) else { continue };
            if marks_folder(source).is_ok_and(|folder| meta.key.as_str().starts_with(&format!("{folder}/"))) {
                reads.push(said(store, meta, (source.to_owned(), id), kind));
            }
        }
        let mut reads = stream::iter(reads).buffered(at_once(store));
        while let Some((of, said)) = reads.next().await {
            marks.add(of, said);
        }
        Ok(marks)
    }

    fn add(&mut self, of: (String, SnapshotId), said: Result<Option<Said>, Unreadable>) {
        match said {
            Ok(None) => {}
            Ok(Some(Said::Deletion(deletion))) => {
                self.deletions.insert(of, deletion);
            }
            Ok(Some(Said::Pin(pin))) => {
                self.pins.insert(of, pin);
            }
            Ok(Some(Said::Acknowledgement(mark))) => {
                let known = Acknowledged { at: mark.at, upto: of.1 };
                let latest = self.acknowledged.entry(of.0).or_insert_with(|| known.clone());
                latest.at = latest.at.max(known.at);
                latest.upto = latest.upto.clone().max(known.upto);
            }
            Err(unreadable) => self.unreadable.push(unreadable),
        }
    }
}

/// What a mark says.
enum Said {
    Deletion(Deletion),
    Pin(Pin),
    Acknowledgement(Acknowledgement),
}

/// Returns of which snapshot a mark is, and what it says; nothing if it is gone.
async fn said(
    store: &Arc<dyn Store>,
    found: &ObjectMeta,
    of: (String, SnapshotId),
    kind: MarkKind,
) -> ((String, SnapshotId), Result<Option<Said>, Unreadable>) {
    let written = DateTime::<Utc>::from(found.modified);
    let said = match kind {
        MarkKind::Deletion => read_mark::<Deletion>(store, &found.key)
            .await
            .map(|mark| mark.map(|mark| Said::Deletion(Deletion { at: mark.at.max(written), ..mark }))),
        MarkKind::Pin => read_mark(store, &found.key).await.map(|mark| mark.map(Said::Pin)),
        MarkKind::Acknowledgement => {
            read_mark(store, &found.key).await.map(|mark| mark.map(Said::Acknowledgement))
        }
    };
    let obstructs = Some(of.0.clone());
    let said = said.map_err(|why| {
        let path = store.address().locate(&found.key);
        Unreadable { path, why, snapshot: None, needs: Vec::new(), obstructs }
    });
    (of, said)
}

/// Returns what a mark says; `None` if it is gone; or why nobody can tell.
async fn read_mark<T: DeserializeOwned>(store: &Arc<dyn Store>, key: &Key) -> Result<Option<T>, String> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let bytes = match store.read(key, MARK_MAX).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    let not_understood = |error: serde_json::Error| format!("not understood: {error}");
    let Version { format_version } = serde_json::from_slice(&bytes).map_err(not_understood)?;
    if format_version > MARK_FORMAT {
        return Err(format!("made by a later volsnap (its format version is {format_version})"));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(not_understood)
}

/// Returns the mark for deletion that a snapshot has now, whatever a listing says.
pub(super) async fn deletion_of(
    store: &Arc<dyn Store>,
    source: &str,
    id: &SnapshotId,
) -> Result<Option<Deletion>, RepositoryError> {
    let key = key_of(source, id, MarkKind::Deletion, DateTime::<Utc>::MIN_UTC)?;
    let path = store.address().locate(&key);
    let written = match store.head(&key).await {
        Ok(found) => DateTime::<Utc>::from(found.modified),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RepositoryError::io("look at", path)(error)),
    };
    let read = read_mark::<Deletion>(store, &key).await;
    let mark = read.map_err(|why| RepositoryError::Unreadable { path, why })?;
    Ok(mark.map(|mark| Deletion { at: mark.at.max(written), ..mark }))
}

/// Returns whether a snapshot has such a mark now, whatever a listing says. One that nobody can read counts.
pub(super) async fn has_mark(
    store: &Arc<dyn Store>,
    source: &str,
    id: &SnapshotId,
    kind: MarkKind,
) -> Result<bool, RepositoryError> {
    let key = key_of(source, id, kind, DateTime::<Utc>::MIN_UTC)?;
    exists(store, &key).await
}

/// Returns whether something has a key now.
pub(super) async fn exists(store: &Arc<dyn Store>, key: &Key) -> Result<bool, RepositoryError> {
    match store.head(key).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RepositoryError::io("look at", store.address().locate(key))(error)),
    }
}

/// Writes a mark; returns whether it is new.
pub(super) async fn put_mark(
    store: &Arc<dyn Store>,
    source: &str,
    id: &SnapshotId,
    (kind, at): (MarkKind, DateTime<Utc>),
    mark: &(impl Serialize + Sync),
) -> Result<bool, RepositoryError> {
    let key = key_of(source, id, kind, at)?;
    let failed = |source| RepositoryError::write(&store.address().locate(&key), 0, source);
    let json = serde_json::to_vec_pretty(mark).map_err(|error| failed(error.into()))?;
    put_once(store, &key, json.into()).await.map_err(failed)
}

/// Stores a small object; returns whether it is new. The half of it that a dead process has left is nobody's: whoever
/// writes such an object holds the claim, where there are halves.
pub(super) async fn put_once(store: &Arc<dyn Store>, key: &Key, contents: Bytes) -> io::Result<bool> {
    let outcome = store.put(key, contents.clone()).await;
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match store.head(key).await {
            Ok(_) => Ok(false),
            // Elsewhere somebody may be writing it at this moment.
            Err(missing) if missing.kind() == io::ErrorKind::NotFound && !store.capabilities().is_local => {
                Err(error)
            }
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                match store.delete_partial(key).await {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                store.put(key, contents).await.map(|()| true)
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Removes a mark; returns whether there was one.
pub(super) async fn remove_mark(
    store: &Arc<dyn Store>,
    source: &str,
    id: &SnapshotId,
    kind: MarkKind,
) -> Result<bool, RepositoryError> {
    let key = key_of(source, id, kind, DateTime::<Utc>::MIN_UTC)?;
    match store.delete(&key).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(RepositoryError::io("remove", store.address().locate(&key))(error)),
    }
}

fn key_of(source: &str, id: &SnapshotId, kind: MarkKind, at: DateTime<Utc>) -> Result<Key, RepositoryError> {
    let key = SnapshotNames::new(source, id).mark(kind, at);
    key.map_err(|_| RepositoryError::SourceKey { key: source.to_owned() })
}

/// Returns how long ago something was written, by the store's own clock; nothing for what is younger than `now`.
pub(super) fn age(modified: SystemTime, now: DateTime<Utc>) -> Duration {
    now.signed_duration_since(DateTime::<Utc>::from(modified)).to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::repository::running::RunMarker;
    use crate::store::memory::MemoryStore;

    const DELETED: &str = include_str!("../../fixtures/formats/v2/mark-deleted.json");
    const PINNED: &str = include_str!("../../fixtures/formats/v2/mark-pinned.json");
    const ACKNOWLEDGED: &str = include_str!("../../fixtures/formats/v2/mark-acknowledged.json");
    const RUNNING: &str = include_str!("../../fixtures/formats/v2/running.json");

    fn id() -> SnapshotId {
        "20261120T203011Z-4f2a91".parse().unwrap()
    }

    fn at() -> DateTime<Utc> {
        "2026-11-30T05:12:07.123Z".parse().unwrap()
    }

    /// A store that has these texts as the marks of one snapshot, written at that moment.
    async fn store_with(texts: &[(MarkKind, &'static str)], written: DateTime<Utc>) -> Arc<dyn Store> {
        let store: Arc<dyn Store> =
            Arc::new(MemoryStore::remote("marks").with_clock(Clock::starting_at(written)));
        for (kind, text) in texts {
            let key = SnapshotNames::new("db", &id()).mark(*kind, at()).unwrap();
            store.put(&key, Bytes::from_static(text.as_bytes())).await.unwrap();
        }
        store
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_disk_is_understood_and_written_alike() {
        let all = [
            (MarkKind::Deletion, DELETED),
            (MarkKind::Pin, PINNED),
            (MarkKind::Acknowledgement, ACKNOWLEDGED),
        ];
        let marks = Marks::read(&store_with(&all, at()).await, None).await.unwrap();
        let of = ("db".to_owned(), id());
        let deletion = &marks.deletions[&of];
        assert_eq!(deletion.due(None), at() + TimeDelta::days(1));
        assert_eq!(deletion.due(Some(Duration::from_hours(1))), at() + TimeDelta::hours(1));
        assert_eq!(
            deletion.due(Some(Duration::from_hours(48))),
            at() + TimeDelta::days(1),
            "it was promised"
        );
        assert_eq!(marks.acknowledged["db"], Acknowledged { at: at(), upto: id() });
        assert_eq!(marks.unreadable, []);
        let said: Acknowledgement = serde_json::from_str(ACKNOWLEDGED).unwrap();
        let running: RunMarker = serde_json::from_str(RUNNING).unwrap();
        for (written, text) in [
            (serde_json::to_string_pretty(deletion), DELETED),
            (serde_json::to_string_pretty(&marks.pins[&of]), PINNED),
            (serde_json::to_string_pretty(&said), ACKNOWLEDGED),
            (serde_json::to_string_pretty(&running), RUNNING),
        ] {
            assert_eq!(written.unwrap(), text.trim_end());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_later_of_two_clocks_counts_for_a_deletion() {
        let later = at() + TimeDelta::days(9);
        let store = store_with(&[(MarkKind::Deletion, DELETED)], later).await;
        assert_eq!(deletion_of(&store, "db", &id()).await.unwrap().unwrap().at, later);
        let store = store_with(&[(MarkKind::Deletion, DELETED)], at() - TimeDelta::days(9)).await;
        assert_eq!(deletion_of(&store, "db", &id()).await.unwrap().unwrap().at, at());
        assert_eq!(deletion_of(&store, "other", &id()).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_understands_is_told_with_its_source() {
        for text in ["", "{}", "{\"format_version\": 2}", "{\"format_version\": 1, \"at\": 7}"] {
            let store = store_with(&[(MarkKind::Pin, text)], at()).await;
            let marks = Marks::read(&store, Some("db")).await.unwrap();
            let [unreadable] = &marks.unreadable[..] else { panic!("{:?}", marks.unreadable) };
            assert_eq!((unreadable.obstructs.as_deref(), &unreadable.snapshot), (Some("db"), &None));
            assert!(marks.pins.is_empty());
        }
    }
}
