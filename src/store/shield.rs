//! Writing that is never dropped half-way: the object whose existence decides what others are worth.
//!
//! Whoever waits for a call may be dropped: by a signal, a panic, a limit of time. A call that is dropped with it has
//! then happened, or not, or does so later, behind whoever undoes the rest. So such an object is stored by a task of
//! its own, and who removes what belongs to it [waits](ended) until that task has ended: then the object is there for
//! good or will never be.

use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Key, Store, StoreAddress};

/// What this process is storing at the moment.
static IN_FLIGHT: Mutex<Vec<InFlight>> = Mutex::new(Vec::new());

struct InFlight {
    store: StoreAddress,
    key: Key,
    ended: watch::Receiver<()>,
}

/// Ends the entry of an object, however its task ends.
struct Ends(watch::Sender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut in_flight = IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.retain(|other| !other.ended.same_channel(&self.0.subscribe()));
    }
}

/// Stores a small new object in a task of its own. It is stored, or has failed, whatever becomes of who waits for
/// this; `stored` is called before anybody can learn that the task has ended.
///
/// # Errors
/// As for [`Store::put`].
pub async fn put(
    store: Arc<dyn Store>,
    key: Key,
    contents: Bytes,
    stored: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let (sender, ended) = watch::channel(());
    let entry = InFlight { store: store.address().clone(), key: key.clone(), ended };
    IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    let ends = Ends(sender);
    let task = tokio::spawn(async move {
        let _ends = ends;
        store.put(&key, contents).await.inspect(|()| stored())
    });
    match task.await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

/// Waits until this process does not store an object any more.
pub async fn ended(store: &StoreAddress, key: &Key) {
    let of_it: Vec<_> = {
        let in_flight = IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = in_flight.iter().filter(|one| one.store == *store && one.key == *key);
        of_it.map(|one| one.ended.clone()).collect()
    };
    for mut ended in of_it {
        // Nothing is ever sent: it is over when the sender is gone.
        let _ = ended.changed().await;
    }
}
