//! Writing that is never dropped half-way, for the object whose existence decides what others are worth.
//!
//! A signal, a panic or a time limit may drop a caller that waits. The dropped call may have happened, or not, or may
//! happen later, behind the back of whoever undoes the rest. So a task of its own stores such an object. Whoever removes
//! what belongs to the object [waits](ended) until that task has ended: by then the object exists, or never will.

use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Key, Store, StoreAddress};

/// The objects that this process is storing at the moment.
static IN_FLIGHT: Mutex<Vec<InFlight>> = Mutex::new(Vec::new());

struct InFlight {
    store: StoreAddress,
    key: Key,
    ended: watch::Receiver<()>,
}

/// Removes the entry of an object, however its task ends.
struct Ends(watch::Sender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut in_flight = IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.retain(|other| !other.ended.same_channel(&self.0.subscribe()));
    }
}

/// Stores a small new object in a task of its own. The task stores it or fails, even if the caller is dropped; it calls
/// `stored` before anybody can learn that it has ended.
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

/// Waits until this process no longer stores an object.
pub async fn ended(store: &StoreAddress, key: &Key) {
    let of_it: Vec<_> = {
        let in_flight = IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = in_flight.iter().filter(|one| one.store == *store && one.key == *key);
        of_it.map(|one| one.ended.clone()).collect()
    };
    for mut ended in of_it {
        // Nobody ever sends anything: the task has ended when the sender is gone.
        let _ = ended.changed().await;
    }
}
