//! The key of a safety snapshot in an encrypted repository.
//!
//! What a restore replaces is encrypted as everything in the repository is, and the identity that opens it need not be on
//! this host. But whoever undoes the restore must be able to, whether it is a guard, `recover` or a person. So the safety
//! snapshot is encrypted to one more recipient, whose identity is drawn for it alone and stays in the state directory, for its
//! owner to read, until the time to undo is over.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use crate::crypt::{CryptError, Identities, NewKey, Recipients};
use crate::disk::secret_file;
use crate::model::ids::SnapshotId;

/// For how long a restore can be undone with no other key than its own.
pub const UNDO_FOR: TimeDelta = TimeDelta::days(7);

const FOLDER: &str = "undo-keys";
const EXTENSION: &str = "key";
/// How a line of such a file begins; a time follows, and the latest counts.
const UNTIL: &str = "undoes a restore, until ";

/// Asks for the identity that the environment names.
#[async_trait]
pub trait AskIdentities: fmt::Debug + Send + Sync {
    /// Returns it; `None` if it names none.
    ///
    /// # Errors
    /// When it names one, and that cannot be had.
    async fn identities(&self) -> crate::Result<Option<Identities>>;
}

/// A key that was made for one safety snapshot.
#[derive(Debug, Clone)]
pub struct OneTimeKey {
    /// Its recipient.
    pub recipient: Recipients,
}

impl OneTimeKey {
    /// Makes the key of a snapshot, durably, for as long as it can be undone.
    ///
    /// # Errors
    /// When it cannot be written, or there is one.
    pub fn make(state: &Path, id: &SnapshotId, now: DateTime<Utc>) -> io::Result<Self> {
        let path = path_of(state, id);
        secret_file::make_directory(path.parent().unwrap_or(state))?;
        let key = NewKey::generate();
        secret_file::write_new(&path, &key.file(&format!("{UNTIL}{}", (now + UNDO_FOR).to_rfc3339())))?;
        Ok(Self { recipient: key.recipient })
    }
}

/// Has the key of a snapshot, if it has one here, stay for as long as if it were made now: the snapshot exists only from
/// now on.
///
/// # Errors
/// When that cannot be written.
pub fn prolong(state: &Path, id: &SnapshotId, now: DateTime<Utc>) -> io::Result<()> {
    // Behind the identity, which a torn line then leaves whole.
    let mut file = match OpenOptions::new().append(true).open(path_of(state, id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    file.write_all(format!("# {UNTIL}{}\n", (now + UNDO_FOR).to_rfc3339()).as_bytes())?;
    file.sync_all()
}

/// Returns the identity of a snapshot's key, if it has one here.
///
/// # Errors
/// When there is one, and it cannot be read.
pub fn identity_of(state: &Path, id: &SnapshotId) -> Result<Option<Identities>, CryptError> {
    match identity_in(&path_of(state, id)) {
        Err(CryptError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Returns the identity that a file has.
///
/// # Errors
/// When it cannot be read, or has none.
pub fn identity_in(path: &Path) -> Result<Identities, CryptError> {
    Identities::parse(&std::fs::read_to_string(path).map_err(CryptError::Io)?)
}

/// Removes the keys whose time is over, but none of a run that is still to be finished. What cannot be removed stays for the
/// next time.
pub fn forget_expired(state: &Path, now: DateTime<Utc>, is_unfinished: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(state.join(FOLDER)) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_key = path.extension().is_some_and(|extension| extension == EXTENSION);
        let run = path.file_stem().unwrap_or_default().to_string_lossy();
        if is_key && !is_unfinished(&run) && until(&path).is_some_and(|until| until <= now) {
            match std::fs::remove_file(&path) {
                Ok(()) => tracing::info!(%run, "the time to undo is over, and its key is removed"),
                Err(error) => tracing::warn!(%error, %run, "a key whose time is over cannot be removed"),
            }
        }
    }
}

/// Returns until when a key is kept; `None` if its file does not say.
fn until(path: &Path) -> Option<DateTime<Utc>> {
    let text = std::fs::read_to_string(path).ok()?;
    let said = text.lines().filter_map(|line| line.strip_prefix("# ")?.strip_prefix(UNTIL)?.parse().ok());
    said.max()
}

/// Returns the file with the identity of a snapshot's key.
#[must_use]
pub fn path_of(state: &Path, id: &SnapshotId) -> PathBuf {
    state.join(FOLDER).join(format!("{id}.{EXTENSION}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::{open_text, seal_text};

    #[test]
    fn it_opens_its_snapshot_until_its_time_is_over_and_its_run_is_finished() {
        let state = tempfile::tempdir().unwrap();
        let now: DateTime<Utc> = "2026-11-20T20:30:11Z".parse().unwrap();
        let id = SnapshotId::new(now, [1, 2, 3]);
        assert!(identity_of(state.path(), &id).unwrap().is_none());
        let key = OneTimeKey::make(state.path(), &id, now).unwrap();
        assert!(OneTimeKey::make(state.path(), &id, now).is_err(), "it is made once");
        let text = seal_text(b"old data", &key.recipient).unwrap();
        let identity = identity_of(state.path(), &id).unwrap().unwrap();
        assert_eq!(open_text(&text, &identity).unwrap(), b"old data");

        forget_expired(state.path(), now + UNDO_FOR - TimeDelta::seconds(1), |_| false);
        assert!(path_of(state.path(), &id).exists());
        forget_expired(state.path(), now + UNDO_FOR, |run| run == id.as_str());
        assert!(path_of(state.path(), &id).exists(), "a run that is not finished may need it");
        forget_expired(state.path(), now + UNDO_FOR, |_| false);
        assert!(!path_of(state.path(), &id).exists());
    }

    #[test]
    fn it_counts_from_when_its_snapshot_exists() {
        let state = tempfile::tempdir().unwrap();
        let now: DateTime<Utc> = "2026-11-20T20:30:11Z".parse().unwrap();
        let id = SnapshotId::new(now, [1, 2, 3]);
        prolong(state.path(), &id, now).unwrap();
        assert!(!path_of(state.path(), &id).exists(), "one that is not encrypted has no key");
        OneTimeKey::make(state.path(), &id, now).unwrap();
        let published = now + UNDO_FOR * 2;
        prolong(state.path(), &id, published).unwrap();
        forget_expired(state.path(), published + UNDO_FOR - TimeDelta::seconds(1), |_| false);
        assert!(identity_of(state.path(), &id).unwrap().is_some());
        forget_expired(state.path(), published + UNDO_FOR, |_| false);
        assert!(!path_of(state.path(), &id).exists());
    }
}
