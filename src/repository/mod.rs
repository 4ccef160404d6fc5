//! Where snapshots are kept.
//!
//! A snapshot exists when its manifest exists. The manifest is written last, after archive and file list are durable
//! under their names, and is itself durable before anyone hears of it: partial file, sync, rename that replaces
//! nothing, sync of the folder. So after a failure or a power cut at any moment there is a whole snapshot or none, and
//! the older ones are untouched: nothing in a repository is ever overwritten.
//!
//! Reading trusts nothing: a manifest carries a digest of itself, must be about the files beside it, and those must
//! have the length that it says. What does not fit is reported with the reason and never listed as a snapshot.
//!
//! A snapshot goes in two steps: somebody marks it for deletion, and a later run, after a time of grace, deletes what is
//! marked and still not needed, its manifest first. So whoever dies at any moment leaves a whole snapshot, or leftovers
//! that the next one finds by their mark. [Runs say what they read](RunMarker).
//!
//! The [layout](tarball::layout) says what lies where. A [store] takes bytes and names, and nothing here knows what is
//! behind it. There is one format, the [tarball], so [`Repository`] is no trait: a second format would make it one.

mod contents;
mod copy;
mod error;
mod index;
mod listing;
mod marks;
mod objects;
mod recipients;
mod resolve;
mod running;
mod sealing;
mod sweep;
pub mod tarball;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

pub use error::RepositoryError;
pub use listing::{Incomplete, Listing, Snapshot, Unreadable};
pub use marks::{Acknowledgement, Deletion, MARK_FORMAT, Marks, Pin};
pub use objects::SnapshotObjects;
pub use running::{Announced, DEAD_AFTER, RENEWAL, RunMarker, Running};
pub use sweep::Swept;
pub use tarball::{PendingSnapshot, SnapshotObjectWriter, Stored};

use crate::archive::Codec;
use crate::clock::Clock;
use crate::crypt::Recipients;
use crate::model::ids::SnapshotId;
use crate::store::{self, Claim, Key, ObjectKind, OpenError, PROBE, Probed, Store, StoreAddress};
use contents::Reading;
use tarball::layout::{
    MARKER, MarkKind, PLAIN_FORMAT, REPOSITORY_FORMAT, SNAPSHOTS, SnapshotNames, is_source_key, partial,
};

/// How many folders are looked into at a time.
const LOOKS: usize = 16;
/// More than any marker has.
const MARKER_MAX: u64 = 64 << 10;

/// A repository of snapshots.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    id: String,
    probed: Option<Probed>,
    recipients: Option<Recipients>,
}

/// What the default place of a repository depends on.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Whether the user is root.
    pub is_root: bool,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
}

impl Places {
    /// Returns where the repository is if none is named: `/var/backups/volsnap` for root, otherwise `volsnap` in the
    /// user's data directory; `None` for a user without a home.
    #[must_use]
    pub fn default_repository(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some(PathBuf::from("/var/backups/volsnap"));
        }
        let xdg = self.xdg_data_home.clone().filter(|path| path.is_absolute());
        let data = xdg.or_else(|| Some(self.home.as_ref()?.join(".local/share")))?;
        Some(data.join("volsnap"))
    }
}

/// The contents of `volsnap.json`. Every format has the version.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format_version: u32,
    #[serde(default)]
    repository_id: String,
    /// What the store proved when the repository was made, if it is one elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<Probed>,
    /// Whom what is in it is encrypted to, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recipients: Option<Recipients>,
}

/// A place for a repository, inspected but not yet touched.
#[derive(Debug, Clone)]
pub struct RepositoryLocation {
    address: StoreAddress,
    store: Arc<dyn Store>,
    repository: Option<Repository>,
}

impl RepositoryLocation {
    /// Inspects a place without changing anything there.
    ///
    /// # Errors
    /// When it is neither a repository nor a place for one, or the user may not write to it.
    pub async fn probe(location: &Path) -> Result<Self, RepositoryError> {
        Self::probe_at(address_of(location)?).await
    }

    /// Inspects the place at an address, as [`probe`](Self::probe) does.
    ///
    /// # Errors
    /// As for [`probe`](Self::probe).
    pub async fn probe_at(address: StoreAddress) -> Result<Self, RepositoryError> {
        let store = open_store(&address).await?;
        let repository = look(&store, &address).await?;
        // This only looks; a write proves later what the permissions promise.
        let may_write = store.may_write().await;
        may_write.map_err(RepositoryError::io("keep snapshots in", address.locate(&Key::ROOT)))?;
        Ok(Self { address, store, repository })
    }

    /// Returns where it is.
    #[must_use]
    pub fn address(&self) -> &StoreAddress {
        &self.address
    }

    /// Returns where that really is, by whatever links it was named; for messages, and to compare.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        self.store.address().locate(&Key::ROOT)
    }

    /// Returns the repository that already exists there.
    #[must_use]
    pub fn repository(&self) -> Option<&Repository> {
        self.repository.as_ref()
    }

    /// Returns whether it is on a disk of this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.store.capabilities().is_local
    }

    /// Returns how many bytes can be stored there, if that is known. For a directory that does not exist yet, it looks
    /// at the directory that will hold it.
    pub async fn free_space(&self) -> Option<u64> {
        self.store.free_space().await.ok().flatten()
    }

    /// Returns where the archive of a snapshot will lie, for messages.
    #[must_use]
    pub fn archive_path(&self, source: &str, id: &SnapshotId, codec: Codec) -> PathBuf {
        let is_encrypted = self.repository().is_some_and(|repository| repository.recipients().is_some());
        let names = SnapshotNames::new(source, id).encrypted(is_encrypted);
        let folder = names.folder().unwrap_or(SNAPSHOTS);
        self.address.locate(&folder).join(names.archive(codec))
    }

    /// Opens the repository for writing, and makes one if none exists. Writes to find out whether it can be written.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub async fn open_or_init(&self, clock: &Clock) -> Result<Repository, RepositoryError> {
        Repository::open_or_init_at(&self.address, clock).await
    }

    /// Opens the repository for writing, and makes an encrypted one if none exists.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub async fn open_or_init_encrypted(
        &self,
        recipients: &Recipients,
        clock: &Clock,
    ) -> Result<Repository, RepositoryError> {
        let store = open_store(&self.address).await?;
        Repository::open_or_make(store, &self.address, Some(recipients), clock).await
    }
}

impl Repository {
    /// Opens the repository at a place, at least for reading.
    ///
    /// # Errors
    /// When there is none, a later volsnap made it, or the place is something else.
    pub async fn open(location: &Path) -> Result<Self, RepositoryError> {
        Self::open_at(&address_of(location)?).await
    }

    /// Opens the repository at an address, as [`open`](Self::open) does.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_at(address: &StoreAddress) -> Result<Self, RepositoryError> {
        let found = look(&open_store(address).await?, address).await?;
        found.ok_or_else(|| RepositoryError::Missing { path: address.locate(&Key::ROOT) })
    }

    /// Opens the repository at a place for writing; makes one if there is nothing or an empty directory. Writes to
    /// find out whether it can be written.
    ///
    /// # Errors
    /// As for [`open`](Self::open), or when it cannot be made or written.
    pub async fn open_or_init(location: &Path, clock: &Clock) -> Result<Self, RepositoryError> {
        Self::open_or_init_at(&address_of(location)?, clock).await
    }

    /// Opens or makes the repository at an address, as [`open_or_init`](Self::open_or_init) does.
    ///
    /// # Errors
    /// As for [`open_or_init`](Self::open_or_init).
    pub async fn open_or_init_at(address: &StoreAddress, clock: &Clock) -> Result<Self, RepositoryError> {
        Self::open_or_init_in(open_store(address).await?, address, clock).await
    }

    /// Opens or makes the repository in a store; messages name it by its `address`.
    ///
    /// # Errors
    /// As for [`open_or_init`](Self::open_or_init).
    pub async fn open_or_init_in(
        store: Arc<dyn Store>,
        address: &StoreAddress,
        clock: &Clock,
    ) -> Result<Self, RepositoryError> {
        Self::open_or_make(store, address, None, clock).await
    }

    /// Opens the repository in a store for writing; makes one that is encrypted to these recipients, if there is none.
    async fn open_or_make(
        store: Arc<dyn Store>,
        address: &StoreAddress,
        recipients: Option<&Recipients>,
        clock: &Clock,
    ) -> Result<Self, RepositoryError> {
        let repository = match look(&store, address).await? {
            Some(repository) => repository,
            None => init(&store, address, recipients, clock).await?,
        };
        let proved = store.prove_writable(&SNAPSHOTS).await;
        proved.map_err(|source| RepositoryError::write(&store.address().locate(&SNAPSHOTS), 0, source))?;
        Ok(repository)
    }

    /// Returns what tells this repository from others.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns where it is, for messages.
    #[must_use]
    pub fn location(&self) -> PathBuf {
        self.store.address().locate(&Key::ROOT)
    }

    /// Returns what its store proved when the repository was made; `None` for a directory, of which all is known.
    #[must_use]
    pub fn probed(&self) -> Option<&Probed> {
        self.probed.as_ref()
    }

    /// Returns its directory, if it is one of this machine.
    #[must_use]
    pub fn local_path(&self) -> Option<PathBuf> {
        self.store.address().local_path().map(Path::to_owned)
    }

    /// Returns how many bytes can still be stored, if that is known.
    ///
    /// # Errors
    /// When the system does not tell.
    pub async fn free_space(&self) -> Result<Option<u64>, RepositoryError> {
        let free = self.store.free_space().await;
        free.map_err(RepositoryError::io("ask for the free space of", self.location()))
    }

    /// Begins a snapshot, encrypted to its [recipients](Self::recipients). Creates nothing: [`PendingSnapshot::objects`] has its objects before any exists.
    ///
    /// # Errors
    /// When the source's key does not fit a file name, or something already has the id.
    pub async fn begin(
        &self,
        source: &str,
        id: &SnapshotId,
        codec: Codec,
    ) -> Result<PendingSnapshot, RepositoryError> {
        if !is_source_key(source) {
            return Err(RepositoryError::SourceKey { key: source.to_owned() });
        }
        let recipients = self.recipients.clone();
        PendingSnapshot::begin(Arc::clone(&self.store), (source, id), codec, recipients).await
    }

    /// Returns what exists; of one source only, if it is named.
    ///
    /// # Errors
    /// When a directory cannot be read. The listing tells what is wrong with a single file.
    pub async fn snapshots(&self, source: Option<&str>) -> Result<Listing, RepositoryError> {
        Listing::read(&self.store, source, (Reading::Themselves, self.recipients.is_some())).await
    }

    /// Returns what exists, for whoever only looks: at a server it reads an index of the manifests as far as there is one,
    /// and keeps the index up to date if it may write there. What exists, and with which lengths, is asked of the server
    /// all the same.
    ///
    /// # Errors
    /// As for [`snapshots`](Self::snapshots).
    pub async fn overview(&self, source: Option<&str>) -> Result<Listing, RepositoryError> {
        Listing::read(&self.store, source, (Reading::Overview, self.recipients.is_some())).await
    }

    /// Returns what [`overview`](Self::overview) returns, and writes nothing.
    ///
    /// # Errors
    /// As for [`snapshots`](Self::snapshots).
    pub async fn glance(&self, source: Option<&str>) -> Result<Listing, RepositoryError> {
        Listing::read(&self.store, source, (Reading::Glance, self.recipients.is_some())).await
    }

    /// Keeps out others who mark or delete, where the store is a directory of this machine. Elsewhere it keeps out nobody,
    /// and need not: see [`sweep`](Self::sweep).
    ///
    /// # Errors
    /// When the store cannot be claimed.
    pub async fn claim(&self) -> Result<Claim, RepositoryError> {
        self.store.claim().await.map_err(RepositoryError::io("lock", self.location()))
    }

    /// Keeps out other copies into it while the result lives; `None` if one is at work. Only a directory of this machine
    /// can; elsewhere each says [what it writes](Self::written_by_others).
    ///
    /// # Errors
    /// When the repository cannot be looked at.
    pub fn claim_for_copy(&self) -> Result<Option<Claim>, RepositoryError> {
        let Some(root) = self.local_path() else { return Ok(Some(Claim::default())) };
        let path = root.join(MARKER.as_str());
        let marker = File::open(&path).map_err(RepositoryError::io("open", path))?;
        match marker.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            Ok(()) => Ok(Some(Claim::new(marker))),
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "the repository cannot be locked");
                Ok(Some(Claim::default()))
            }
        }
    }

    /// Returns whether it is a directory on a disk of this machine, of which nobody else can have a stale view.
    #[must_use]
    pub fn is_on_local_disk(&self) -> bool {
        self.local_path().is_some_and(|path| sweep::is_local_disk(&path))
    }

    /// Returns whether the [claim](Self::claim) keeps out everybody else.
    #[must_use]
    pub fn is_claimed_alone(&self) -> bool {
        self.is_on_local_disk()
    }

    /// Says what a run reads and writes.
    ///
    /// # Errors
    /// When that cannot be stored.
    pub async fn announce(&self, run: &RunMarker) -> Result<Announced, RepositoryError> {
        match self.recipients {
            Some(_) => Announced::begin(&self.store, &run.clone().without_host()).await,
            None => Announced::begin(&self.store, run).await,
        }
    }

    /// Returns the runs that say what they read. Ask after you have marked what you want to delete.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn running(&self, now: DateTime<Utc>) -> Result<Vec<Running>, RepositoryError> {
        running::running(&self.store, now).await
    }

    /// Removes what dead runs have said of themselves.
    ///
    /// # Errors
    /// When it cannot be listed or removed.
    pub async fn forget_dead_runs(&self, now: DateTime<Utc>) -> Result<(), RepositoryError> {
        running::forget_dead(&self.store, now).await
    }

    /// Marks a snapshot for deletion; returns whether it was not marked before.
    ///
    /// # Errors
    /// When the mark cannot be stored.
    pub async fn mark(
        &self,
        source: &str,
        id: &SnapshotId,
        deletion: &Deletion,
    ) -> Result<bool, RepositoryError> {
        let kind = (MarkKind::Deletion, deletion.at);
        marks::put_mark(&self.store, source, id, kind, deletion).await
    }

    /// Takes the mark for deletion away; returns whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn unmark(&self, source: &str, id: &SnapshotId) -> Result<bool, RepositoryError> {
        marks::remove_mark(&self.store, source, id, MarkKind::Deletion).await
    }

    /// Pins a snapshot; returns whether it was not pinned before.
    ///
    /// # Errors
    /// When the pin cannot be stored.
    pub async fn pin(&self, source: &str, id: &SnapshotId, pin: &Pin) -> Result<bool, RepositoryError> {
        marks::put_mark(&self.store, source, id, (MarkKind::Pin, pin.at), pin).await
    }

    /// Takes the pin of a snapshot away; returns whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn unpin(&self, source: &str, id: &SnapshotId) -> Result<bool, RepositoryError> {
        marks::remove_mark(&self.store, source, id, MarkKind::Pin).await
    }

    /// Writes down that somebody has looked at what was wrong up to a snapshot.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn acknowledge(
        &self,
        source: &str,
        upto: &SnapshotId,
        said: &Acknowledgement,
    ) -> Result<(), RepositoryError> {
        let kind = (MarkKind::Acknowledgement, said.at);
        marks::put_mark(&self.store, source, upto, kind, said).await.map(drop)
    }

    /// Deletes a snapshot that is marked, if it is still marked, its time of grace is over, and it is not pinned: its
    /// manifest first, the mark last. It asks for all of that by name, at the last moment, and believes no listing.
    ///
    /// # Errors
    /// When something cannot be looked at or deleted; what is left is found by its mark.
    pub async fn sweep(
        &self,
        source: &str,
        id: &SnapshotId,
        now: DateTime<Utc>,
        grace: Option<Duration>,
    ) -> Result<Swept, RepositoryError> {
        sweep::sweep(&self.store, (source, id), now, grace).await
    }

    /// Deletes what a dead run has left of a snapshot that does not exist, if nobody has written to any of it for this
    /// long; returns the bytes. The manifest is asked for by its name.
    ///
    /// # Errors
    /// When something cannot be looked at or deleted.
    pub async fn sweep_incomplete(
        &self,
        source: &str,
        id: &SnapshotId,
        now: DateTime<Utc>,
        untouched: Duration,
    ) -> Result<Option<u64>, RepositoryError> {
        sweep::sweep_incomplete(&self.store, (source, id), now, untouched).await
    }

    /// Returns the snapshot that `spec` means: see [`Listing::resolve`].
    ///
    /// # Errors
    /// When no snapshot is meant, more than one may be, or the one that is meant cannot be trusted.
    pub async fn resolve(&self, spec: &str) -> Result<Snapshot, RepositoryError> {
        self.snapshots(None).await?.resolve(spec)
    }

    /// Returns the snapshot that `spec` means in a Compose project: see [`Listing::resolve_in`].
    ///
    /// # Errors
    /// As for [`resolve`](Self::resolve).
    pub async fn resolve_in(&self, spec: &str, project: Option<&str>) -> Result<Snapshot, RepositoryError> {
        self.snapshots(None).await?.resolve_in(spec, project)
    }
}

/// Returns the address that a user has typed.
fn address_of(location: &Path) -> Result<StoreAddress, RepositoryError> {
    StoreAddress::parse(location).map_err(|error| RepositoryError::Refused {
        path: store::redacted(&location.to_string_lossy()).into(),
        why: error.to_string(),
    })
}

/// Opens the store at an address.
async fn open_store(address: &StoreAddress) -> Result<Arc<dyn Store>, RepositoryError> {
    let path = || address.locate(&Key::ROOT);
    store::open(address).await.map_err(|error| match error {
        OpenError::Refused(why) => RepositoryError::Refused { path: path(), why },
        OpenError::Io(source) => RepositoryError::io("open repository", path())(source),
    })
}

/// Returns the repository in a store, without changing anything; `None` if there is nothing.
async fn look(store: &Arc<dyn Store>, address: &StoreAddress) -> Result<Option<Repository>, RepositoryError> {
    let refused = |why: String| RepositoryError::Refused { path: address.locate(&Key::ROOT), why };
    // This comes before the marker: another run may be making the repository right now.
    let stranger = first_stranger(&**store).await;
    let stranger = stranger.map_err(RepositoryError::io("list", store.address().locate(&Key::ROOT)))?;
    let marker = match store.read(&MARKER, MARKER_MAX).await {
        Ok(marker) => marker,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match stranger {
                None => Ok(None),
                Some(name) => match repositories_in(store, address).await {
                    below if below.is_empty() => {
                        Err(refused(format!("it is no repository, but not empty either: it has {name}")))
                    }
                    below => Err(RepositoryError::Above { path: address.locate(&Key::ROOT), below }),
                },
            };
        }
        Err(error) => return Err(RepositoryError::io("read", store.address().locate(&MARKER))(error)),
    };
    let Marker { repository_id: id, store: probed, mut recipients, .. } =
        check_marker(store.address(), &marker)?;
    if let Some(probed) = &probed {
        store.trust(probed);
    }
    if recipients.is_some()
        && let Some((_, changed)) = recipients::newest(store).await?
    {
        recipients = Some(changed);
    }
    match store.head(&SNAPSHOTS).await {
        Ok(found) if found.kind != ObjectKind::Folder => {
            Err(refused(format!("{SNAPSHOTS} in it is not a directory; a link is not followed")))
        }
        _ => Ok(Some(Repository { store: Arc::clone(store), id, probed, recipients })),
    }
}

/// Returns what the marker says, if this volsnap can read what it stands for.
fn check_marker(address: &StoreAddress, bytes: &[u8]) -> Result<Marker, RepositoryError> {
    let marker: Marker = serde_json::from_slice(bytes).map_err(|error| RepositoryError::Unreadable {
        path: address.locate(&MARKER),
        why: format!("it does not say which format the repository has: {error}"),
    })?;
    if marker.format_version > REPOSITORY_FORMAT {
        return Err(RepositoryError::LaterFormat {
            path: address.locate(&Key::ROOT),
            found: marker.format_version,
        });
    }
    Ok(marker)
}

/// Returns the repositories that lie directly in a place that is none itself: those of several machines, say.
async fn repositories_in(store: &Arc<dyn Store>, address: &StoreAddress) -> Vec<PathBuf> {
    let mut folders = store.list(&Key::ROOT).await.unwrap_or_default();
    let mut looks = Vec::new();
    folders.retain(|folder| folder.kind == ObjectKind::Folder);
    folders.sort_by(|a, b| a.key.cmp(&b.key));
    for folder in &folders {
        looks.push(async move {
            let marker = folder.key.join(MARKER.as_str()).ok()?;
            store.head(&marker).await.ok().map(|_| address.below(folder.key.name()).locate(&Key::ROOT))
        });
    }
    stream::iter(looks).buffered(LOOKS).filter_map(|found| async { found }).collect().await
}

/// Returns the name of something that must not be in the place of a new repository.
async fn first_stranger(store: &dyn Store) -> io::Result<Option<String>> {
    let harmless = ["lost+found".to_owned(), partial(MARKER.as_str())];
    let found = store.list(&Key::ROOT).await?;
    let stranger = found
        .iter()
        .map(|object| object.key.name())
        // A probe that could not be deleted.
        .find(|name| !name.starts_with(PROBE) && !harmless.iter().any(|harmless| harmless == name));
    Ok(stranger.map(str::to_owned))
}

/// Makes a repository at a vacant place.
async fn init(
    store: &Arc<dyn Store>,
    address: &StoreAddress,
    recipients: Option<&Recipients>,
    clock: &Clock,
) -> Result<Repository, RepositoryError> {
    let failed = |source| RepositoryError::write(&store.address().locate(&MARKER), 0, source);
    // One run at a time, as long as the store has locks: so a marker that a dead run left half-written can be told
    // from one that is being written.
    let claim = store.claim().await;
    let _claim = claim.map_err(RepositoryError::io("make directory", address.locate(&Key::ROOT)))?;
    if let Some(repository) = look(store, address).await? {
        return Ok(repository);
    }
    match store.delete_partial(&MARKER).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let random = || -> io::Result<String> {
        Ok(clock.draw::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    let probed = store.probe(&random().map_err(failed)?).await;
    let probed =
        probed.map_err(RepositoryError::io("try what can be done in", address.locate(&Key::ROOT)))?;
    if let Some(probed) = &probed {
        store.trust(probed);
    }
    let marker = Marker {
        format_version: if recipients.is_some() { REPOSITORY_FORMAT } else { PLAIN_FORMAT },
        repository_id: random().map_err(failed)?,
        store: probed,
        recipients: recipients.cloned(),
    };
    let json = serde_json::to_string_pretty(&marker).map_err(|error| failed(error.into()))?;
    store.put(&MARKER, format!("{json}\n").into()).await.map_err(failed)?;
    let made = look(store, address).await?;
    made.ok_or_else(|| RepositoryError::Missing { path: address.locate(&Key::ROOT) })
}
