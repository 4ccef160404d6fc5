//! Puts things back, whatever happens. This module knows no engine and no database: a module above defines what an
//! undo does, as a [`Compensation`].
//!
//! A procedure registers what undoes an effect **before** the effect. A compensation is data, not code, and is on disk
//! in the [`Journal`] before [`Saga::register`] returns. So anyone who holds the journal can finish: the process
//! itself ([`Saga::finish`]), the [guard] that it leaves watching, `volsnap recover`, or the next command.
//!
//! If a run's work is many effects that make sense only together, the run writes one line to the journal that says
//! that it [has succeeded](Saga::succeed): from then on everything registered for its failure is void.
//!
//! Compensations are idempotent. They run by [`Rank`], and within a rank the newest first. If one fails, the rest
//! still run, except those that must not run without it: no service starts on data that is not back. The journal is
//! removed only when every compensation has succeeded; until then the run is unfinished, and says so.
//!
//! A run that holds a service has a deadline, the guard's [`Lease`] on it: if the run hangs, even with its process
//! alive, the guard kills it and finishes its journal. A run may end at any point and leave a sound state: its effects
//! are in the journal before they happen, and one line or one rename decides between two outcomes. A run without a
//! lease holds nothing; it may hang for as long as it likes. Putting things back has no deadline, and no service waits
//! for a state directory that hangs.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::event::Monitor;
use crate::model::plural::counted;

pub mod guard;
pub mod journal;
mod lease;
pub mod outside;
mod scope;
mod shared_lease;
#[cfg(test)]
mod testing;

pub use journal::{Journal, RunInfo};
pub use lease::{Lease, LeaseWatch, Terms};

use guard::Guard;
use journal::Entry;

/// The result of a saga's calls.
pub type Result<T, E = SagaError> = std::result::Result<T, E>;

/// Why something could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum SagaError {
    /// The journal could not be written: the effect that it was for must not happen.
    #[error("write the journal {path}")]
    Journal {
        /// The journal's file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The guard could not be started, or does not hear: nothing may be stopped without it.
    #[error("start the guard: {reason}")]
    Guard {
        /// Why.
        reason: String,
    },
}

/// Returns the state directory that a journal lies below.
#[must_use]
pub fn state_of(journal: &Path) -> PathBuf {
    let journals = journal.parent().unwrap_or(journal);
    journals.parent().unwrap_or(journals).to_owned()
}

/// What puts an effect back: data, so that a journal can hold it. Running it twice does no harm.
pub trait Compensation: Clone + fmt::Debug + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// What it acts on.
    type World: ?Sized + Send + Sync;
    /// Why it fails.
    type Error: StdError + Send + Sync + 'static;

    /// Returns in which turn it runs.
    fn rank(&self) -> Rank;

    /// Returns what it is about, by name: the containers that it starts, or that must not start without it. These
    /// names decide what its failure [blocks](Rank).
    fn concerns(&self) -> Vec<String>;

    /// Returns the name of the step, for progress.
    fn step(&self) -> &'static str;

    /// Returns what it does, in words for a person, such as "start db_1".
    fn describe(&self) -> String;

    /// Puts the effect back, and retries for as long as `budget` allows.
    #[expect(
        async_fn_in_trait,
        reason = "one implementation: whether its future may be sent is known where it is used"
    )]
    async fn run(
        &self,
        world: &Self::World,
        budget: RetryBudget,
        monitor: &dyn Monitor,
    ) -> Result<(), Self::Error>;
}

/// The turn in which compensations run, whatever order they were registered in: what may still write ends before data
/// is put back, data is back before a service starts on it, and a service runs again before anything is tidied up.
///
/// A failed [`EndProcesses`](Self::EndProcesses) blocks [`Data`](Self::Data) and [`Service`](Self::Service); a failed
/// [`Data`](Self::Data) blocks the service of what it concerns, and [`Work`](Self::Work). Nothing else blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rank {
    /// Ends what a run has started beside itself: it may still write.
    EndProcesses,
    /// Puts data, files and containers back as they were.
    Data,
    /// Starts a service again.
    Service,
    /// Removes a throwaway container, which holds volumes and directories.
    Helper,
    /// Removes what a run has made in or beside the data, but only once the data itself is back.
    Work,
    /// Removes what else a run has made.
    Cleanup,
    /// Work that nothing live depends on: a command that somebody waits for leaves it to its guard.
    Later,
}

/// When a compensation is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Returns whether it is due for a run that ended this way.
    #[must_use]
    pub fn is_due(self, succeeded: bool) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => !succeeded,
            Self::OnSuccess => succeeded,
        }
    }
}

/// How long putting back is retried before it is reported as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget(
    /// For each compensation.
    pub Duration,
);

impl RetryBudget {
    /// For a command that a person waits for.
    pub const COMMAND: Self = Self(Duration::from_secs(300));
    /// For the guard, which keeps nobody waiting: an engine being upgraded is gone for a while.
    pub const GUARD: Self = Self(Duration::from_secs(3600));
    /// For what nothing live depends on.
    pub const SHORT: Self = Self(Duration::from_secs(30));
}

/// A registered compensation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UndoId(u64);

/// A compensation that failed, and why.
#[derive(Debug)]
pub struct FailedUndo<U: Compensation> {
    /// What was tried.
    pub undo: U,
    /// Why it failed.
    pub error: U::Error,
}

/// What could not be put back.
#[derive(Debug)]
pub struct Leftovers<U: Compensation> {
    /// What failed.
    pub failed: Vec<FailedUndo<U>>,
    /// What was not tried, because something that failed must come before it.
    pub blocked: Vec<U>,
    /// How many compensations of a newer volsnap are left: this volsnap does not know what they do.
    pub newer: usize,
}

impl<U: Compensation> Default for Leftovers<U> {
    fn default() -> Self {
        Self { failed: Vec::new(), blocked: Vec::new(), newer: 0 }
    }
}

impl<U: Compensation> Leftovers<U> {
    /// Returns whether everything is back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.blocked.is_empty() && self.newer == 0
    }
}

/// Where a saga keeps its journal, and the program that guards it.
#[derive(Debug, Clone)]
pub struct SagaOptions {
    /// The directory of journals and run directories.
    pub state: PathBuf,
    /// The executable that is started as the guard; it must have the `guard` command.
    pub executable: PathBuf,
    /// How long putting back is retried.
    pub budget: RetryBudget,
    /// Who finishes a run whose process has died.
    pub guarded_by: GuardedBy,
}

/// Who finishes a run whose process has died.
#[derive(Debug, Clone, Default)]
pub enum GuardedBy {
    /// A process of its own that watches, then whoever finds the journal.
    #[default]
    Process,
    /// The same process, and one [outside] of the container that ours ends with. Whoever begins the run starts that one;
    /// the process shares the lease with it.
    Both,
    /// Whoever finds the journal: for tests, whose runs die without a process. The run reports its lease to whoever
    /// drives it.
    Finder(LeaseWatch),
}

/// A run with its journal and its guard.
pub struct Saga<U: Compensation> {
    journal: Journal<U>,
    guard: Option<Guard>,
    guarded_by: GuardedBy,
    world: Arc<U::World>,
    budget: RetryBudget,
}

impl<U: Compensation> fmt::Debug for Saga<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saga").field("journal", &self.journal).finish_non_exhaustive()
    }
}

impl<U: Compensation> Saga<U> {
    /// Begins a run: its journal is on disk when this returns. The guard comes with [`watch`](Self::watch), before the
    /// first effect.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn begin(options: &SagaOptions, info: &RunInfo, world: Arc<U::World>) -> Result<Self> {
        let journal = Journal::create(&options.state, info)?;
        let (guarded_by, budget) = (options.guarded_by.clone(), options.budget);
        Ok(Self { journal, guard: None, guarded_by, world, budget })
    }

    /// Starts the guard, and returns once it watches and has the journal's lines in memory. Nothing that needs a guard
    /// may be done earlier.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn watch(&mut self, executable: &Path) -> Result<()> {
        if let GuardedBy::Finder(_) = self.guarded_by {
            return Ok(());
        }
        let shares = matches!(self.guarded_by, GuardedBy::Both);
        let guard = Guard::start(executable, self.journal.path(), shares).await?;
        for line in self.journal.lines() {
            guard.tell_line(line)?;
        }
        self.guard = Some(guard);
        Ok(())
    }

    /// Returns the journal's file.
    #[must_use]
    pub fn journal(&self) -> &Path {
        self.journal.path()
    }

    /// Returns the guard's lease on the run: see [`Lease`].
    #[must_use]
    pub fn lease(&self) -> Lease {
        match (&self.guarded_by, &self.guard) {
            (GuardedBy::Finder(watch), _) => Lease::watched_by(watch),
            (_, Some(guard)) => guard.lease(),
            (_, None) => Lease::default(),
        }
    }

    /// Records what undoes the next effect. When this returns, the record is durable and the guard has it in memory.
    ///
    /// # Errors
    /// When it cannot be written or the guard does not hear it: then the effect must not happen.
    pub fn register(&mut self, when: When, undo: U) -> Result<UndoId> {
        let number = self.journal.register(when, undo)?;
        self.tell_guard()?;
        Ok(UndoId(number))
    }

    /// Replaces a registered compensation by another: more has become known about the effect.
    ///
    /// # Errors
    /// When it cannot be written: then the earlier one stays registered.
    pub fn replace(&mut self, registered: UndoId, undo: U) -> Result<UndoId> {
        let Some(entry) = self.journal.entry(registered.0) else { return Ok(registered) };
        let number = self.journal.register(entry.when, undo)?;
        self.tell_guard()?;
        // If both stayed open, the work would only be done twice.
        self.dismiss(registered);
        Ok(UndoId(number))
    }

    /// Records what has become known about a registered compensation, which keeps its place in the order.
    ///
    /// # Errors
    /// When it cannot be written: then it stays as it was.
    pub fn update(&mut self, registered: UndoId, undo: U) -> Result<()> {
        self.journal.update(registered.0, undo)?;
        self.tell_guard()
    }

    /// Runs a compensation now, for example to restart the service before the snapshot is published.
    ///
    /// # Errors
    /// When it fails; it stays registered and is tried again at the end.
    pub async fn undo_now(&mut self, registered: UndoId, monitor: &dyn Monitor) -> Result<(), U::Error> {
        let Some(undo) = self.journal.entry(registered.0).and_then(Entry::undo).cloned() else {
            return Ok(());
        };
        undo.run(&*self.world, self.budget, monitor).await?;
        self.dismiss(registered);
        Ok(())
    }

    /// Records that a compensation has nothing left to put back: it was done another way.
    pub fn dismiss(&mut self, registered: UndoId) {
        // If this cannot be written or told, the compensation only runs once more later.
        let _ = self.journal.settled(registered.0).and_then(|()| self.tell_guard());
    }

    /// Records that the run has done its work. Whatever happens from here on, whoever finishes it leaves its work as
    /// it is: everything registered for a failure is void at once, not one by one.
    ///
    /// # Errors
    /// When it cannot be written: then the run has failed.
    pub fn succeed(&mut self) -> Result<()> {
        self.journal.succeeded()?;
        self.tell_guard()
    }

    fn tell_guard(&mut self) -> Result<()> {
        match (&self.guard, self.journal.lines().last()) {
            (Some(guard), Some(line)) => guard.tell_line(line),
            _ => Ok(()),
        }
    }

    /// Ends the run: runs every compensation that is still open, even if others fail, then closes the journal. Returns
    /// what could not be put back; then the journal stays, and the guard goes on with it, as it does with what can
    /// wait. No deadline applies here.
    pub async fn finish(mut self, succeeded: bool, monitor: &dyn Monitor) -> Leftovers<U> {
        self.lease().end();
        let succeeded = succeeded || self.journal.has_succeeded();
        let is_due = |entry: &Entry<U>| entry.when.is_due(succeeded) && entry.rank() != Rank::Later;
        let left = put_back(&mut self.journal, is_due, &*self.world, self.budget, monitor).await;
        let waits = self.journal.open_entries().any(|entry| entry.rank() == Rank::Later);
        if left.is_empty()
            && !waits
            && let Err(error) = self.journal.remove()
        {
            monitor.warning(format!("the journal stays behind: {error}"));
        }
        match self.guard.take() {
            Some(guard) if left.is_empty() && !waits => guard.dismiss().await,
            Some(guard) if left.is_empty() => guard.hand_over(),
            Some(guard) => {
                guard.hand_over();
                monitor.warning(format!(
                    "a guard goes on trying to put back the rest, for {}",
                    counted(RetryBudget::GUARD.0.as_secs() / 60, "minute")
                ));
            }
            None => {}
        }
        left
    }
}

/// Runs the compensations of a journal that are open and due, by rank and newest first. One that fails stays open, and
/// the rest go on, except those that must not run without it.
pub(crate) async fn put_back<U: Compensation>(
    journal: &mut Journal<U>,
    is_due: impl Fn(&Entry<U>) -> bool,
    world: &U::World,
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Leftovers<U> {
    let due = in_turn(journal, is_due);
    let mut left = Leftovers { newer: journal.strange_lines(), ..Leftovers::default() };
    let mut undone: Vec<Entry<U>> = Vec::new();
    let mut unrecorded = Vec::new();
    for entry in due {
        // Only after the services run: a state directory that hangs keeps none of them down.
        if entry.rank() > Rank::Service {
            record(journal, &mut unrecorded);
        }
        let Some(undo) = entry.undo() else {
            left.newer += 1;
            undone.push(entry);
            continue;
        };
        if undone.iter().any(|before| blocks(before, &entry)) {
            left.blocked.push(undo.clone());
            undone.push(entry);
            continue;
        }
        monitor.step(undo.step());
        match undo.run(world, budget, monitor).await {
            Ok(()) => unrecorded.push(entry.number),
            Err(error) => {
                left.failed.push(FailedUndo { undo: undo.clone(), error });
                undone.push(entry);
            }
        }
    }
    record(journal, &mut unrecorded);
    left
}

/// Records what was put back.
fn record<U: Compensation>(journal: &mut Journal<U>, numbers: &mut Vec<u64>) {
    for number in numbers.drain(..) {
        // If the journal cannot be written, this is only done once more later.
        let _ = journal.settled(number);
    }
}

/// Returns what is due, in its order: by rank, and within a rank the newest first.
pub(crate) fn in_turn<U: Compensation>(
    journal: &Journal<U>,
    is_due: impl Fn(&Entry<U>) -> bool,
) -> Vec<Entry<U>> {
    let mut due: Vec<Entry<U>> =
        journal.open_entries().rev().filter(|entry| is_due(entry)).cloned().collect();
    due.sort_by_key(Entry::rank);
    due
}

/// Returns whether `before`, which was not done, must come before `entry`.
fn blocks<U: Compensation>(before: &Entry<U>, entry: &Entry<U>) -> bool {
    match (before.rank(), entry.rank()) {
        (Rank::EndProcesses, Rank::Data | Rank::Service | Rank::Work) | (Rank::Data, Rank::Work) => true,
        (Rank::Data, Rank::Service) => before.concerns_any_of(entry),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Act, Recorded, info};
    use super::*;
    use crate::model::event::Silent;

    /// Puts back what is registered in this order; returns what was done, what failed and what was not tried.
    async fn put_back_of(acts: &[Act], fails: &[&str]) -> [Vec<String>; 3] {
        let (state, info) = (tempfile::tempdir().unwrap(), info());
        let mut journal = Journal::create(state.path(), &info).unwrap();
        for act in acts {
            journal.register(When::Always, act.clone()).unwrap();
        }
        let world = Recorded::failing(fails);
        let left = put_back(&mut journal, |_| true, &world, RetryBudget::SHORT, &Silent).await;
        let failed = left.failed.iter().map(|failed| failed.undo.describe()).collect();
        let blocked = left.blocked.iter().map(Compensation::describe).collect();
        [world.done(), failed, blocked]
    }

    fn acts() -> Vec<Act> {
        vec![
            Act::of(Rank::Later, "archive the old data", &[]),
            Act::of(Rank::Cleanup, "remove the stage", &[]),
            Act::of(Rank::Helper, "remove the helper", &[]),
            Act::of(Rank::Service, "start db", &["db"]),
            Act::of(Rank::Work, "discard the work", &[]),
            Act::of(Rank::Service, "start other", &["other"]),
            Act::of(Rank::Data, "swap back", &["db"]),
            Act::of(Rank::EndProcesses, "end compose", &[]),
        ]
    }

    #[tokio::test]
    async fn things_are_put_back_by_rank_and_the_newest_first_whenever_they_were_registered() {
        let mut backwards = acts();
        backwards.reverse();
        let in_order = [
            "end compose",
            "swap back",
            "start other",
            "start db",
            "remove the helper",
            "discard the work",
            "remove the stage",
            "archive the old data",
        ];
        let [done, failed, blocked] = put_back_of(&acts(), &[]).await;
        assert_eq!(done, in_order);
        assert!(failed.is_empty() && blocked.is_empty());
        let [mut done, _, _] = put_back_of(&backwards, &[]).await;
        done.swap(2, 3);
        assert_eq!(done, in_order);
    }

    #[tokio::test]
    async fn nothing_waits_for_the_journal_before_services_run() {
        let (state, info) = (tempfile::tempdir().unwrap(), info());
        let mut journal = Journal::create(state.path(), &info).unwrap();
        for act in acts() {
            journal.register(When::Always, act).unwrap();
        }
        let (path, lines) = (journal.path().to_owned(), journal.lines().len());
        let world = Recorded::default().looking_at(&path);
        let left = put_back(&mut journal, |_| true, &world, RetryBudget::SHORT, &Silent).await;
        assert!(left.is_empty());
        let written: Vec<_> = world.lengths().into_iter().map(|length| length - lines).collect();
        assert_eq!(written, [0, 0, 0, 0, 4, 5, 6, 7], "lines written before each of them");
        assert_eq!(journal.lines().len() - lines, 8);
    }

    #[tokio::test]
    async fn a_service_is_not_started_on_data_that_is_not_back_and_others_are() {
        let [done, failed, blocked] = put_back_of(&acts(), &["swap back"]).await;
        assert_eq!(failed, ["swap back"]);
        assert_eq!(blocked, ["start db", "discard the work"]);
        assert_eq!(done[..3], ["end compose", "start other", "remove the helper"]);
    }

    #[tokio::test]
    async fn nothing_is_put_back_or_started_while_something_may_still_write() {
        let [done, failed, blocked] = put_back_of(&acts(), &["end compose"]).await;
        assert_eq!(failed, ["end compose"]);
        assert_eq!(blocked, ["swap back", "start other", "start db", "discard the work"]);
        assert_eq!(done, ["remove the helper", "remove the stage", "archive the old data"]);
    }
}
