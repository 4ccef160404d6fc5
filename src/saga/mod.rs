//! What puts things back, whatever happens.
//!
//! A procedure registers what undoes an effect **before** the effect. A [`Compensation`] is data,
//! not code, and is on disk in the [`Journal`] before [`Saga::register`] returns; so anyone who
//! holds the journal can finish: the process itself ([`Saga::finish`]), the [guard] it leaves
//! watching, `volsnap recover`, or the next command.
//!
//! A run whose work is many effects that make sense only together says in one line of the journal that it
//! [has succeeded](Saga::succeed): what was registered for its failure is void at once.
//!
//! Compensations are idempotent, run in reverse, and one that fails does not stop the rest. The
//! journal is removed only when every one of them has succeeded; until then the run is unfinished,
//! and says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::docker::Docker;
use crate::monitor::{Event, Monitor};

pub mod bring_back;
pub mod compensation;
pub mod containers;
pub mod guard;
pub mod journal;
pub mod pause;
mod processes;
pub mod restart;
pub mod safety;
pub mod volume;
pub mod withdraw;

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
    /// A journal has what this volsnap does not understand: none of it is put back, since the order matters.
    #[error("the journal {path} was written by {} and cannot be finished by this one, {}: {lines} of its lines mean nothing to it", writer(.version), env!("CARGO_PKG_VERSION"))]
    Foreign {
        /// The journal's file.
        path: PathBuf,
        /// Which volsnap wrote it, as far as it says.
        version: Option<String>,
        /// How many lines are not understood.
        lines: usize,
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
    /// A file could not be put back.
    #[error(transparent)]
    File(#[from] crate::compose::replacement::ReplaceError),
    /// What has the place of a container could not be stopped.
    #[error("stop what has the place of container {container}")]
    Replacement {
        /// The container that is to be had back.
        container: String,
        /// Why.
        source: Box<crate::agent::client::AgentError>,
    },
    /// What a restore has replaced could not be kept.
    #[error("keep the old data, which lies whole in {} of {place}", .old.display())]
    Safety {
        /// The volume or directory.
        place: String,
        /// Where in it the old data lies.
        old: PathBuf,
        /// Why.
        source: Box<crate::Error>,
    },
    /// A file could not be removed.
    #[error("remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A process did not end.
    #[error("end process {pid}")]
    NotEnded {
        /// The process.
        pid: i32,
    },
    /// A container that is to be brought back is not there, and no other has its place.
    #[error("container {container} is gone, and no other has its place")]
    Gone {
        /// Its name.
        container: String,
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

fn writer(version: &Option<String>) -> String {
    version.as_ref().map_or_else(|| "another volsnap".to_owned(), |version| format!("volsnap {version}"))
}

/// When a compensation is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// However the run ends.
    Always,
    /// Only when it fails.
    OnFailure,
    /// Only once it has [succeeded](Saga::succeed).
    OnSuccess,
}

impl When {
    /// Returns whether it is due for a run that has ended so.
    #[must_use]
    pub fn is_due(self, succeeded: bool) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => !succeeded,
            Self::OnSuccess => succeeded,
        }
    }
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
    guarded_by: GuardedBy,
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
    /// Who finishes a run whose process has died.
    pub guarded_by: GuardedBy,
}

/// Who finishes a run whose process has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuardedBy {
    /// A process of its own that watches, then whoever finds the journal.
    #[default]
    Process,
    /// Whoever finds the journal: for tests, whose runs die without a process.
    Finder,
}

impl Saga {
    /// Begins a run: its journal is on disk when this returns. The guard comes with
    /// [`watch`](Self::watch), before the first effect.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn begin(options: &SagaOptions, info: &RunInfo, docker: Arc<dyn Docker>) -> Result<Self> {
        let journal = Journal::create(&options.state, info)?;
        Ok(Self { journal, guard: None, guarded_by: options.guarded_by, docker, patience: options.patience })
    }

    /// Starts the guard, and returns once it watches. Nothing that needs a guard may be done before.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn watch(&mut self, executable: &Path) -> Result<()> {
        if self.guarded_by == GuardedBy::Process {
            self.guard = Some(Guard::start(executable, self.journal.path()).await?);
        }
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

    /// Records what has become known of a registered compensation, which keeps its place in the order.
    ///
    /// # Errors
    /// When it cannot be written: then it stays as it was.
    pub fn amend(&mut self, registered: Registered, compensation: Compensation) -> Result<()> {
        self.journal.amend(registered.0, compensation)
    }

    /// Records a registered compensation once more as the newest, so that it is run before those that were
    /// registered since.
    ///
    /// # Errors
    /// When it cannot be written: then it stays where it was.
    pub fn again_last(&mut self, registered: Registered) -> Result<Registered> {
        let Some(entry) = self.journal.entry(registered.0) else { return Ok(registered) };
        let again = self.journal.register(entry.when, entry.compensation.clone())?;
        self.discharge(registered);
        Ok(Registered(again))
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

    /// Records that the run has done what it was for. Whatever happens from here on, whoever finishes it leaves
    /// its work as it is: all that was registered for a failure is void at once, not one after the other.
    ///
    /// # Errors
    /// When it cannot be written: then the run has failed.
    pub fn succeed(&mut self) -> Result<()> {
        self.journal.succeeded()
    }

    /// Returns whether the run [has succeeded](Self::succeed).
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        self.journal.has_succeeded()
    }

    /// Ends the run: puts back what is still out, in reverse order, each whatever became of the
    /// others, then closes the journal. Returns what could not be put back; then the journal stays, and the
    /// guard goes on with it, as it does with what can wait.
    pub async fn finish(mut self, succeeded: bool, monitor: &dyn Monitor) -> Vec<Failure> {
        let succeeded = succeeded || self.has_succeeded();
        let due = |entry: &Entry| entry.when.is_due(succeeded) && !entry.compensation.can_wait();
        let failures = put_back(&mut self.journal, due, &*self.docker, self.patience, monitor).await;
        let waits = self.journal.open_entries().any(|entry| entry.compensation.can_wait());
        if failures.is_empty()
            && !waits
            && let Err(error) = self.journal.remove()
        {
            monitor.event(Event::Warning(format!("the journal stays behind: {error}")));
        }
        match self.guard.take() {
            Some(guard) if failures.is_empty() && !waits => guard.dismiss().await,
            Some(guard) if failures.is_empty() => guard.hand_over(),
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

/// Runs what a journal still has open and is due, newest first; what can wait comes last. What fails stays open;
/// the rest goes on, but for what must not be done without the data that is not back: a database that is started
/// on nothing makes itself a new one.
pub(crate) async fn put_back(
    journal: &mut Journal,
    due: impl Fn(&Entry) -> bool,
    docker: &dyn Docker,
    patience: Patience,
    monitor: &dyn Monitor,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    let open = journal.open_entries().rev().filter(|entry| due(entry)).cloned();
    let (last, first): (Vec<_>, Vec<_>) = open.partition(|entry| entry.compensation.can_wait());
    for entry in first.into_iter().chain(last) {
        let owed = failures.iter().any(|failure: &Failure| failure.compensation.owes_data());
        if owed && entry.compensation.needs_data() {
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
