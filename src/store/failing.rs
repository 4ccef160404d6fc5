//! A store of which one call fails or hangs: a test then looks at what is left.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::Store;
use super::observed::{Call, ObservedStore, Observer, Operation};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It fails and does not happen.
    FailsBefore,
    /// It happens and fails: the answer is lost.
    FailsAfter,
    /// It waits before it happens, until it is [released](Failing::release).
    HangsBefore,
    /// It happens, and waits before it returns, until it is [released](Failing::release).
    HangsAfter,
}

/// The calls of one kind that fail or hang.
#[derive(Debug)]
pub struct Failing {
    operation: Operation,
    /// How the affected keys end.
    suffix: String,
    fate: Fate,
    reached: watch::Sender<bool>,
    released: watch::Sender<bool>,
}

impl Failing {
    /// Returns `inner`, except for the calls of this kind on keys with this end.
    #[must_use]
    pub fn of(
        inner: Arc<dyn Store>,
        operation: Operation,
        suffix: &str,
        fate: Fate,
    ) -> (Arc<dyn Store>, Arc<Self>) {
        let (reached, released) = (watch::Sender::new(false), watch::Sender::new(false));
        let failing = Arc::new(Self { operation, suffix: suffix.to_owned(), fate, reached, released });
        (Arc::new(ObservedStore::new(inner, Arc::clone(&failing))), failing)
    }

    /// Waits until such a call was made.
    pub async fn reached(&self) {
        let _ = self.reached.subscribe().wait_for(|reached| *reached).await;
    }

    /// Lets the hanging calls go on.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    async fn meet(&self, call: &Call, fails: Fate, hangs: Fate) -> io::Result<()> {
        if call.operation != self.operation || !call.key.as_str().ends_with(&self.suffix) {
            return Ok(());
        }
        if self.fate == fails {
            self.reached.send_replace(true);
            return Err(io::Error::other("injected"));
        }
        if self.fate == hangs {
            self.reached.send_replace(true);
            let _ = self.released.subscribe().wait_for(|released| *released).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Observer for Failing {
    async fn before(&self, call: &Call) -> io::Result<()> {
        self.meet(call, Fate::FailsBefore, Fate::HangsBefore).await
    }

    async fn after(&self, call: &Call) -> io::Result<()> {
        self.meet(call, Fate::FailsAfter, Fate::HangsAfter).await
    }
}
