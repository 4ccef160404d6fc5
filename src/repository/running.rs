//! Runs say what they read, so that nobody deletes it under them.
//!
//! A run stores a small object that names the snapshots it reads and the one it writes, and stores it anew every
//! [ten minutes](RENEWAL). Only then it looks whether what it reads still exists and is not marked for deletion. Whoever
//! deletes marks first, and looks at these objects afterwards. So one of the two sees the other. What was not stored anew
//! for a [day](DEAD_AFTER), by the store's clock, is that of a dead run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::error::RepositoryError;
use super::listing::list;
use super::marks::age;
use super::tarball::layout::{PARTIAL, RUNNING, run_key};
use crate::model::ids::SnapshotId;
use crate::store::{Key, Store};

/// How often a run says anew what it reads.
pub const RENEWAL: Duration = Duration::from_mins(10);
/// After how long a run that says nothing is dead.
pub const DEAD_AFTER: Duration = Duration::from_hours(24);
/// After how long nobody waits for a run that says nothing: it has missed to say it anew twice.
const WAITED_FOR: Duration = Duration::from_mins(30);
/// The format version of what a run says.
const RUN_FORMAT: u32 = 1;
/// More than any of it has.
const RUN_MAX: u64 = 4 << 20;

/// What a run says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunMarker {
    /// The version of the format.
    pub format_version: u32,
    /// The run's id.
    pub run: SnapshotId,
    /// What it does: `restore`, `drill`, `copy` …
    pub verb: String,
    /// The name of its machine; empty in an encrypted repository.
    pub host: String,
    /// What it reads, each as `SOURCE/ID`.
    #[serde(default)]
    pub reads: Vec<String>,
    /// What it writes.
    #[serde(default)]
    pub writes: Vec<String>,
}

impl RunMarker {
    /// Returns what a run on this machine says.
    #[must_use]
    pub fn new(run: &SnapshotId, verb: &str, reads: Vec<String>, writes: Vec<String>) -> Self {
        let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        let host = host.unwrap_or_default();
        Self { format_version: RUN_FORMAT, run: run.clone(), verb: verb.to_owned(), host, reads, writes }
    }

    /// Returns the same without the name of the machine, for a repository that is encrypted.
    #[must_use]
    pub fn without_host(self) -> Self {
        Self { host: String::new(), ..self }
    }

    /// Returns who that is, in words.
    fn who(&self) -> String {
        if self.host.is_empty() {
            format!("a {}", self.verb)
        } else {
            format!("a {} on {}", self.verb, self.host)
        }
    }
}

/// A run that has said what it reads.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its key.
    pub(super) key: Key,
    /// When it has said so last, by the store's clock.
    pub said: DateTime<Utc>,
    /// Whether it has not said so for too long.
    pub is_dead: bool,
    /// What it says; `None` if nobody can tell: it may read anything.
    pub says: Option<RunMarker>,
}

impl Running {
    /// Returns in words why a snapshot must stay for it; `None` if it need not.
    #[must_use]
    pub fn holds(&self, name: &str) -> Option<String> {
        if self.is_dead {
            return None;
        }
        match &self.says {
            None => Some(format!("{} cannot be read, and may be of a run that reads it", self.key.name())),
            Some(run) if run.reads.iter().any(|read| read == name) => {
                Some(format!("{} reads it (run {})", run.who(), run.run))
            }
            Some(run) if run.writes.iter().any(|written| written == name) => {
                Some(format!("{} writes it (run {})", run.who(), run.run))
            }
            Some(_) => None,
        }
    }

    /// Returns whether another run than this one still writes a snapshot at a time of the store's clock.
    pub(super) fn also_writes(&self, name: &str, run: &SnapshotId, now: DateTime<Utc>) -> bool {
        let writes = |says: &RunMarker| says.run != *run && says.writes.iter().any(|written| written == name);
        age(self.said.into(), now) < WAITED_FOR && self.says.as_ref().is_some_and(writes)
    }
}

/// Returns the runs that say what they read.
pub(super) async fn running(
    store: &Arc<dyn Store>,
    now: DateTime<Utc>,
) -> Result<Vec<Running>, RepositoryError> {
    let mut runs = Vec::new();
    for found in list(store, &RUNNING).await? {
        if found.key.name().ends_with(PARTIAL) {
            continue;
        }
        let says = match store.read(&found.key, RUN_MAX).await {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).ok().filter(|run: &RunMarker| run.format_version <= RUN_FORMAT)
            }
            // It has ended, or has just said so anew.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => None,
        };
        let is_dead = age(found.modified, now) > DEAD_AFTER;
        runs.push(Running { key: found.key, said: found.modified.into(), is_dead, says });
    }
    Ok(runs)
}

/// Removes what dead runs have said.
pub(super) async fn forget_dead(store: &Arc<dyn Store>, now: DateTime<Utc>) -> Result<(), RepositoryError> {
    for found in list(store, &RUNNING).await? {
        if age(found.modified, now) <= DEAD_AFTER {
            continue;
        }
        let key = match found.key.name().strip_suffix(PARTIAL) {
            Some(whole) => RUNNING.join(whole),
            None => Ok(found.key.clone()),
        };
        let removed = async { store.delete_all_of(&key?).await };
        removed.await.map_err(RepositoryError::io("remove", store.address().locate(&found.key)))?;
    }
    Ok(())
}

/// Says what a run reads, for as long as this exists.
#[derive(Debug)]
pub struct Announced {
    store: Arc<dyn Store>,
    current: Arc<Mutex<Key>>,
    renewal: JoinHandle<()>,
    began: DateTime<Utc>,
    is_over: bool,
}

impl Announced {
    /// Says it, and goes on saying it.
    pub(super) async fn begin(store: &Arc<dyn Store>, run: &RunMarker) -> Result<Self, RepositoryError> {
        let key_of = |number| {
            let key = run_key(&run.run, number);
            key.map_err(|_| RepositoryError::SourceKey { key: run.run.to_string() })
        };
        let key = key_of(0)?;
        let path = store.address().locate(&key);
        let json = serde_json::to_vec_pretty(run);
        let json = json.map_err(|error| RepositoryError::write(&path, 0, error.into()))?;
        store
            .put(&key, json.clone().into())
            .await
            .map_err(|source| RepositoryError::write(&path, 0, source))?;
        let written = store.head(&key).await.map_err(RepositoryError::io("look at", path))?;
        let current = Arc::new(Mutex::new(key));
        let (renewed, again, id) = (Arc::clone(&current), Arc::clone(store), run.run.clone());
        let renewal = tokio::spawn(async move {
            let mut ticks = interval_at(Instant::now() + RENEWAL, RENEWAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 1.. {
                ticks.tick().await;
                let Ok(next) = run_key(&id, number) else { return };
                match again.put(&next, json.clone().into()).await {
                    Ok(()) => {
                        let before = std::mem::replace(&mut *locked(&renewed), next);
                        if let Err(error) = again.delete(&before).await {
                            tracing::debug!(%error, key = %before, "what the run said before stays for a day");
                        }
                    }
                    Err(error) => tracing::warn!(%error, "a run cannot say anew what it reads"),
                }
            }
        });
        let began = written.modified.into();
        Ok(Self { store: Arc::clone(store), current, renewal, began, is_over: false })
    }

    /// Returns when it was said first, by the store's clock.
    #[must_use]
    pub fn began(&self) -> DateTime<Utc> {
        self.began
    }

    /// Says it no longer. What cannot be removed is taken for that of a dead run, after a day.
    pub async fn release(mut self) {
        self.is_over = true;
        self.renewal.abort();
        // A renewal may be under way: it is over once its task is.
        let _ = (&mut self.renewal).await;
        let key = locked(&self.current).clone();
        if let Err(error) = self.store.delete(&key).await {
            tracing::debug!(%error, %key, "what the run said stays for a day");
        }
    }
}

/// Ends the renewal even where nobody releases it; what was said last is removed if there is time for it.
impl Drop for Announced {
    fn drop(&mut self) {
        self.renewal.abort();
        if self.is_over {
            return;
        }
        let (store, key) = (Arc::clone(&self.store), locked(&self.current).clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { store.delete(&key).await });
        }
    }
}

fn locked(current: &Mutex<Key>) -> std::sync::MutexGuard<'_, Key> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}
