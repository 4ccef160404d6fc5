//! What the folder of a source has in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;

use super::error::RepositoryError;
use super::index::{Index, REBUILD_AFTER};
use super::listing::{Listing, SnapshotFiles, SnapshotReader, Unreadable, believable, list};
use crate::model::ids::SnapshotId;
use crate::store::{Key, Store};

/// How many files are read at a time from a disk of this machine, and from elsewhere, where each waits for a network.
const AT_ONCE: (usize, usize) = (16, 192);

/// From where the manifests are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// From the manifests themselves: for whoever acts on what they say.
    Themselves,
    /// From an index as far as it knows them, which is kept up to date: for whoever only looks.
    Overview,
    /// The same, and nothing is written.
    Glance,
}

/// Returns how many requests a store answers at a time without harm.
pub(super) fn at_once(store: &Arc<dyn Store>) -> usize {
    if store.capabilities().is_local { AT_ONCE.0 } else { AT_ONCE.1 }
}

/// Reads the folders of sources.
#[derive(Clone, Copy)]
pub(super) struct SourceReader<'a> {
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) reading: Reading,
    /// Who may ask the store for a file.
    pub(super) requests: &'a Semaphore,
    /// Whether all that is there is encrypted.
    pub(super) is_encrypted: bool,
}

impl SourceReader<'_> {
    /// Returns the contents of a source's folder.
    pub(super) async fn read(self, folder: &Key) -> Result<Listing, RepositoryError> {
        let (store, source) = (self.store, folder.name());
        // An index takes its time, and so does a long list.
        let index = async {
            match self.reading {
                Reading::Overview | Reading::Glance if !store.capabilities().is_local => {
                    Some(Index::read(store, source).await)
                }
                _ => None,
            }
        };
        let (found, mut index) = tokio::join!(list(store, folder), index);
        let (found, mut listing) = (found?, Listing::default());
        let mut by_id: BTreeMap<SnapshotId, SnapshotFiles<'_>> = BTreeMap::new();
        for entry in &found {
            match believable(entry, source) {
                Ok(name) => by_id.entry(name.id.clone()).or_default().add(entry, &name),
                Err(why) => listing.unreadable.push(Unreadable::file(store, &entry.key, why)),
            }
        }
        let read = Mutex::default();
        let collected = (index.is_some() && self.reading == Reading::Overview).then_some(&read);
        // Each is a request or two to a store elsewhere, which would take long one after the other.
        let mut reads = Vec::with_capacity(by_id.len());
        for (id, files) in &by_id {
            let known = index.as_mut().map(|index| files.known_to(index)).unwrap_or_default();
            let requests = Some(self.requests);
            let is_encrypted = self.is_encrypted;
            let reader = SnapshotReader { store, folder, source, id, requests, collected, is_encrypted };
            reads.push(async move {
                let mut unreadable = Vec::new();
                let read = match files.manifest {
                    Some(_) => Some(reader.read(files, known, &mut unreadable).await),
                    None => None,
                };
                (reader, files, read, unreadable)
            });
        }
        let mut reads = stream::iter(reads).buffered(at_once(store));
        while let Some((reader, files, read, unreadable)) = reads.next().await {
            listing.unreadable.extend(unreadable);
            match read {
                Some(Ok(snapshot)) => listing.snapshots.push(snapshot),
                Some(Err(refused)) if refused.error.is_disconnected() => return Err(refused.error),
                Some(Err(refused)) => listing.unreadable.push(reader.unreadable_snapshot(files, refused)),
                None => {}
            }
            listing.incomplete.extend(reader.incomplete(files));
        }
        drop(reads);
        let read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = index.filter(|_| read.len() >= REBUILD_AFTER) {
            index.replace(store, source, &found, read).await;
        }
        Ok(listing)
    }
}
