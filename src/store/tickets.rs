//! The right to write an object: one writer in this process at a time, as long as nobody takes it away.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Key;

/// The number of the latest writer of this process, whatever its store.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// The objects that a store is writing, each by its writer's number.
#[derive(Debug, Clone, Default)]
pub(super) struct Tickets(Arc<Mutex<HashMap<Key, u64>>>);

/// The right to write one object.
#[derive(Debug)]
pub(super) struct Ticket {
    tickets: Tickets,
    key: Key,
    number: u64,
}

impl Tickets {
    fn locked(&self) -> MutexGuard<'_, HashMap<Key, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the right to write an object.
    pub(super) fn take(&self, key: &Key) -> io::Result<Ticket> {
        let mut writing = self.locked();
        if writing.contains_key(key) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = LATEST.fetch_add(1, Ordering::Relaxed) + 1;
        writing.insert(key.clone(), number);
        Ok(Ticket { tickets: self.clone(), key: key.clone(), number })
    }

    /// Takes the right away from whoever has it; returns whether somebody had.
    pub(super) fn revoke(&self, key: &Key) -> bool {
        self.locked().remove(key).is_some()
    }
}

impl Ticket {
    /// Returns the object.
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Returns what tells this writer from all others of this process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Refuses if the right was taken away.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.tickets.locked().get(&self.key) == Some(&self.number) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "somebody has removed what was written of it"))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut writing = self.tickets.locked();
        if writing.get(&self.key) == Some(&self.number) {
            writing.remove(&self.key);
        }
    }
}
