//! What puts things back, whatever happens.
//!
//! A procedure registers what undoes an effect **before** the effect. A [`Compensation`] is data,
//! not code, and is on disk in the [`Journal`] before [`Saga::register`] returns; so anyone who
//! holds the journal can finish: the process itself ([`Saga::finish`]), the [guard] it leaves
//! watching, `volsnap recover`, or the next command.
//!
//! Compensations are idempotent, run in reverse, and one that fails does not stop the rest. The
//! journal is removed only when every one of them has succeeded; until then the run is unfinished,
//! and says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::docker::Docker;
use crate::monitor::{Event, Monitor};

pub mod compensation;
pub mod guard;
pub mod journal;
pub mod restart;
pub mod volume;

pub use compensation::Compensation;
pub use journal::{Journal, RunInfo};

use guard::Guard;
use journal::Entry;

/// The result of what a saga does.
pub type Result<T, E = SagaError> = std::result::Result<T, E>;

/// Why something could not be recorded or put back.
#[derive(Debug, thiserror::Error)]
pub enum SagaError {
    /// The journal could not be written: the effect it was for must not happen.
    #[error("write the journal {path}")]
    Journal {
        /// The journal's file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The guard could not be started: nothing may be stopped without it.
    #[error("start the guard: {reason}")]
    Guard {
        /// Why.
        reason: String,
    },
    /// The engine failed while something was put back.
    #[error(transparent)]
    Docker(#[from] crate::docker::DockerError),
    /// What lies in a volume or directory could not be put back.
    #[error("put back what is in {place}")]
    Volume {
        /// Which.
        place: String,
        /// Why.
        source: Box<crate::agent::client::AgentError>,
    },
    /// A file could not be removed.
    #[error("remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A container could not be brought back.
    #[error("container {container} {reason}")]
    NotBack {
        /// Its name.
        container: String,
        /// In which state it is instead.
        reason: String,
    },
}

/// When a compensation is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// However the run ends.
    Always,
    /// Only when it fails.
    OnFailure,
}

/// How long putting back is tried before it is reported as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(
    /// For each compensation.
    pub Duration,
);

impl Patience {
    /// For a command that a person waits for.
    pub const COMMAND: Self = Self(Duration::from_secs(300));
    /// For the guard, which waits for nobody: an engine being upgraded is gone for a while.
    pub const GUARD: Self = Self(Duration::from_secs(3600));
    /// For what nothing live hangs on.
    pub const SHORT: Self = Self(Duration::from_secs(30));
}

/// A registered compensation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered(u64);

/// What could not be put back, and why.
#[derive(Debug)]
pub struct Failure {
    /// What was tried.
    pub compensation: Compensation,
    /// Why it failed.
    pub error: SagaError,
}

/// A run with its journal and its guard.
#[derive(Debug)]
pub struct Saga {
    journal: Journal,
    guard: Option<Guard>,
    docker: Arc<dyn Docker>,
    patience: Patience,
}

/// Where a saga keeps its journal, and the program that guards it.
#[derive(Debug, Clone)]
pub struct SagaOptions {
    /// The directory of journals and run directories.
    pub state: PathBuf,
    /// The executable that is started as the guard; it must have the `guard` command.
    pub executable: PathBuf,
    /// How long putting back is tried.
    pub patience: Patience,
}

impl Saga {
    /// Begins a run: its journal is on disk when this returns. The guard comes with
    /// [`watch`](Self::watch), before the first effect.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn begin(options: &SagaOptions, info: &RunInfo, docker: Arc<dyn Docker>) -> Result<Self> {
        let journal = Journal::create(&options.state, info)?;
        Ok(Self { journal, guard: None, docker, patience: options.patience })
    }

    /// Starts the guard, and returns once it watches. Nothing that needs a guard may be done before.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn watch(&mut self, executable: &Path) -> Result<()> {
        self.guard = Some(Guard::start(executable, self.journal.path()).await?);
        Ok(())
    }

    /// Records what undoes the effect that comes next. It is durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written: then the effect must not happen.
    pub fn register(&mut self, when: When, compensation: Compensation) -> Result<Registered> {
        self.journal.register(when, compensation).map(Registered)
    }

    /// Records another compensation in place of a registered one: more has become known of the effect.
    ///
    /// # Errors
    /// When it cannot be written: then the former stays registered.
    pub fn replace(&mut self, registered: Registered, compensation: Compensation) -> Result<Registered> {
        let Some(entry) = self.journal.entry(registered.0) else { return Ok(registered) };
        let when = entry.when;
        self.journal.replace(registered.0, when, compensation).map(Registered)
    }

    /// Runs a compensation now, as restarting the service before the snapshot is published.
    ///
    /// # Errors
    /// When it fails; it stays registered and is tried again at the end.
    pub async fn settle(&mut self, registered: Registered, monitor: &dyn Monitor) -> Result<()> {
        let Some(entry) = self.journal.entry(registered.0) else { return Ok(()) };
        let compensation = entry.compensation.clone();
        compensation.run(&*self.docker, self.patience, monitor).await?;
        // A journal that cannot be written only means that this is done once more later.
        let _ = self.journal.settled(registered.0);
        Ok(())
    }

    /// Records that what a compensation would put back is not out any more: it was done another way.
    pub fn discharge(&mut self, registered: Registered) {
        // A journal that cannot be written only means that it is looked for once more later.
        let _ = self.journal.settled(registered.0);
    }

    /// Ends the run: puts back what is still out, in reverse order, each whatever became of the
    /// others, then closes the journal. Returns what could not be put back; then the journal stays, and the
    /// guard goes on with it.
    pub async fn finish(mut self, succeeded: bool, monitor: &dyn Monitor) -> Vec<Failure> {
        let failures = put_back(&mut self.journal, succeeded, &*self.docker, self.patience, monitor).await;
        if failures.is_empty()
            && let Err(error) = self.journal.remove()
        {
            monitor.event(Event::Warning(format!("the journal stays behind: {error}")));
        }
        match self.guard.take() {
            Some(guard) if failures.is_empty() => guard.dismiss().await,
            Some(guard) => {
                guard.hand_over();
                monitor.event(Event::Warning(format!(
                    "a guard goes on trying to put back the rest, for {} minutes",
                    Patience::GUARD.0.as_secs() / 60
                )));
            }
            None => {}
        }
        failures
    }
}

/// Runs what a journal still has open, newest first. What fails stays open; the rest goes on.
pub(crate) async fn put_back(
    journal: &mut Journal,
    succeeded: bool,
    docker: &dyn Docker,
    patience: Patience,
    monitor: &dyn Monitor,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    let open: Vec<Entry> = journal.open_entries().rev().cloned().collect();
    for entry in open {
        if entry.when == When::OnFailure && succeeded {
            continue;
        }
        monitor.step(entry.compensation.step());
        let outcome = match entry.compensation.run(docker, patience, monitor).await {
            // A journal that cannot be written only means that this is done once more later.
            Ok(()) => journal.settled(entry.number).or(Ok(())),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            failures.push(Failure { compensation: entry.compensation, error });
        }
    }
    failures
}
