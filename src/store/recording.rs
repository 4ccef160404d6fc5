//! A store that records its calls: a test asserts the order of all of them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::Store;
use super::observed::{Call, ObservedStore, Observer};

/// The calls of a store so far.
#[derive(Debug, Default)]
pub struct Recording(Mutex<Vec<Call>>);

impl Recording {
    /// Returns `inner` as a store, and the record of its calls.
    #[must_use]
    pub fn of(inner: Arc<dyn Store>) -> (Arc<dyn Store>, Arc<Self>) {
        let recording = Arc::new(Self::default());
        (Arc::new(ObservedStore::new(inner, Arc::clone(&recording))), recording)
    }

    /// Returns the calls so far, in the order in which they began.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the calls so far.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[async_trait]
impl Observer for Recording {
    async fn before(&self, call: &Call) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        Ok(())
    }

    async fn after(&self, _call: &Call) -> io::Result<()> {
        Ok(())
    }
}
