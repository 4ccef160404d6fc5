//! Whom a repository is encrypted to.
//!
//! The first recipients are in what makes it a repository. Nothing is ever overwritten, so each change is an object of its
//! own that has all recipients from then on, and the one with the highest number counts. A repository that was made without
//! recipients has none for ever: what is in it is not encrypted by saying so later.
//!
//! Whoever can write there can change them. So a host does not believe them: it compares them with those that it
//! [knows](crate::ops::trust).

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Repository;
use super::error::RepositoryError;
use super::listing::list;
use super::marks::put_once;
use super::tarball::layout::{KEYS, parse_recipients, recipients_key};
use crate::crypt::Recipients;
use crate::store::{Key, Store};

/// The format version of a change.
const CHANGE_FORMAT: u32 = 1;
/// More than any has.
const CHANGE_MAX: u64 = 1 << 20;

/// A change, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    format_version: u32,
    at: DateTime<Utc>,
    recipients: Recipients,
    tool_version: String,
}

impl Repository {
    /// Returns whom new snapshots in it are encrypted to; `None` if they are not.
    #[must_use]
    pub fn recipients(&self) -> Option<&Recipients> {
        self.recipients.as_ref()
    }

    /// Has new snapshots be encrypted to others than by now.
    ///
    /// # Errors
    /// When it is not encrypted, somebody has changed it meanwhile, or the change cannot be stored.
    pub async fn change_recipients(
        &mut self,
        recipients: Recipients,
        now: DateTime<Utc>,
    ) -> Result<(), RepositoryError> {
        let refused = |why: &str| RepositoryError::Refused { path: self.location(), why: why.to_owned() };
        let Some(before) = self.recipients() else {
            return Err(refused("nothing in it is encrypted, and an encrypted one must be made so"));
        };
        let (number, current) = newest(&self.store).await?.unzip();
        if current.is_some_and(|current| current != *before) {
            return Err(refused("somebody else has changed its recipients at this moment"));
        }
        let key = key_of(number.unwrap_or(0) + 1)?;
        let failed = |source| RepositoryError::write(&self.store.address().locate(&key), 0, source);
        let change = Change {
            format_version: CHANGE_FORMAT,
            at: now,
            recipients: recipients.clone(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let json = serde_json::to_vec_pretty(&change).map_err(|error| failed(error.into()))?;
        if !put_once(&self.store, &key, json.into()).await.map_err(failed)? {
            return Err(refused("somebody else has changed its recipients at this moment"));
        }
        self.recipients = Some(recipients);
        Ok(())
    }
}

fn key_of(number: u64) -> Result<Key, RepositoryError> {
    recipients_key(number).map_err(|_| RepositoryError::SourceKey { key: number.to_string() })
}

/// Returns the newest change and its number.
pub(super) async fn newest(store: &Arc<dyn Store>) -> Result<Option<(u64, Recipients)>, RepositoryError> {
    let found = list(store, &KEYS).await?;
    let Some(number) = found.iter().filter_map(|object| parse_recipients(object.key.name())).max() else {
        return Ok(None);
    };
    let key = key_of(number)?;
    let path = store.address().locate(&key);
    let bytes = store.read(&key, CHANGE_MAX).await.map_err(RepositoryError::io("read", path.clone()))?;
    let unreadable = |why: String| RepositoryError::Unreadable { path, why };
    match serde_json::from_slice::<Change>(&bytes) {
        Ok(change) if change.format_version > CHANGE_FORMAT => Err(unreadable(format!(
            "made by a later volsnap: its format version is {}",
            change.format_version
        ))),
        Ok(change) => Ok(Some((number, change.recipients))),
        Err(error) => {
            Err(unreadable(format!("it does not say whom the repository is encrypted to: {error}")))
        }
    }
}
