//! The frame of a run, written once: it finishes dead runs first, has a journal before anything is touched, ends the
//! work on a signal or a panic as on an error, and puts back what is out, whatever happened.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::phase_timer::PhaseTimer;
use super::recover::{not_for_others, writable_by_others};
use super::{Context, outside, recover, with_leftovers};
use crate::model::error::{Context as _, Error, ErrorKind, Result, chain};
use crate::model::event::{Event, Monitor, Notice, Phase};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::source::Source;
use crate::saga::{Lease, RetryBudget, RunInfo, Terms};
use crate::service::ServiceError;
use crate::service::newcomer::taken;
use crate::service::start::{StoppedContainer, ended_since, start_once};
use crate::undo::{Journal, Saga, one_time_key};

/// How long the last look at what was started may take.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// How long one may take to come up that is started once more after that look.
const START_LIMIT: Duration = Duration::from_mins(2);

/// What to do with a plan that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// It is executed: the very plan that was shown.
    Execute,
    /// It is dropped, and nothing was touched.
    Decline,
}

/// Agrees to every plan, without looking at it.
///
/// # Errors
/// Never.
pub async fn execute<P>(_plan: &P) -> Result<Consent> {
    Ok(Consent::Execute)
}

/// Agrees to no plan.
///
/// # Errors
/// Never.
pub async fn decline<P>(_plan: &P) -> Result<Consent> {
    Ok(Consent::Decline)
}

/// What a procedure says of itself after it failed.
pub(super) trait Aftermath {
    /// Returns in which state it leaves things; `all_back` if everything could be put back. `None` if there is nothing
    /// to say.
    fn state(&self, all_back: bool) -> Option<String>;

    /// Adds to an error what else the user must know.
    fn explain(&self, error: Error) -> Error {
        error
    }
}

/// What a run that only looks says of itself: nothing.
pub(super) struct Untouched;

impl Aftermath for Untouched {
    fn state(&self, _all_back: bool) -> Option<String> {
        None
    }
}

/// One run: who it is, and what it measures.
pub(super) struct Run {
    /// The world around it; whatever its monitor is told also renews the guard's lease.
    pub(super) context: Context,
    /// Its id, which is also that of the snapshot it may make.
    pub(super) id: SnapshotId,
    /// When it began.
    pub(super) started: DateTime<Utc>,
    /// The same on the monotonic clock.
    pub(super) begun: Instant,
    /// When the service went and came back, and how long each phase took.
    pub(super) timer: PhaseTimer,
    lease: Arc<OnceLock<Lease>>,
    /// What was stopped and started again, by name: each is looked at once more at the end.
    started_again: Mutex<BTreeMap<String, StoppedContainer>>,
    /// All that was stopped.
    stopped: Mutex<Vec<StoppedContainer>>,
    /// What dead runs left and could not be put back.
    left: Mutex<Option<Error>>,
}

impl Run {
    /// Begins a run. It first finishes what dead runs left, since the service may be down because of that. A run that only
    /// plans changes nothing of that, and only says so.
    ///
    /// # Errors
    /// When it cannot look for them. One that cannot be finished is an error only of those that act on the same: see
    /// [`refuse_unfinished`](Self::refuse_unfinished).
    pub(super) async fn begin(context: &Context) -> Result<Self> {
        let untouched = |error: Error| match error.state_text() {
            Some(_) => error,
            None => error.state("nothing was touched"),
        };
        let left = match context.only_plans {
            true => recover::tell(context),
            false => {
                let again = Hint::volsnap(["recover"]).why("tries again");
                recover::attempt(context, RetryBudget::COMMAND, &again).await.map(|(_, left)| left)
            }
        };
        let left = left.map_err(untouched)?;
        if !context.only_plans {
            forget_expired_keys(context);
        }
        let mut run = Self::new(context)?;
        run.left = Mutex::new(left.map(untouched));
        Ok(run)
    }

    /// Refuses a source that a dead run was about which could not be finished. Such a run of something else is none of our
    /// business, and is only told.
    ///
    /// # Errors
    /// What could not be put back.
    pub(super) fn refuse_unfinished(&self, source: &Source) -> Result<()> {
        // A plain value: a panic elsewhere does not spoil it.
        let Some(error) = self.left.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        if recover::concerning(&self.context, source).is_some() {
            return Err(error);
        }
        let text = format!("what a dead run of something else left is not put back: {}", chain(&error));
        self.monitor().warning(Notice::from(text).hint(Hint::volsnap(["recover"]).why("tries again")));
        Ok(())
    }

    /// Refuses a source for which we would have to stop ourselves.
    pub(super) fn refuse_ourselves(&self, source: &Source) -> Result<()> {
        outside::refuse_ourselves(&self.context, source, |_| true)
    }

    /// Begins a run that stops nothing, and leaves alone what dead runs left.
    ///
    /// # Errors
    /// When no id can be drawn.
    pub(super) fn new(context: &Context) -> Result<Self> {
        let random = context.clock.draw().context(|| "draw a random id".to_owned())?;
        let started = context.clock.now();
        let lease = Arc::new(OnceLock::new());
        let monitor = Arc::new(Renewing { monitor: context.monitor.clone(), lease: lease.clone() });
        Ok(Self {
            context: Context { monitor, ..context.clone() },
            id: SnapshotId::new(started, random),
            started,
            begun: Instant::now(),
            timer: PhaseTimer::default(),
            lease,
            started_again: Mutex::default(),
            stopped: Mutex::default(),
            left: Mutex::default(),
        })
    }

    /// Does `work` with a journal of its own, and puts back whatever is still out at its end. Work that comes to
    /// nothing (`None`), such as that of a declined plan, is put back as after a failure.
    ///
    /// # Errors
    /// Those of `work`; a signal and a panic, which end it at any point: the journal has what undoes an effect before
    /// the effect. [`ErrorKind::NotPutBack`] when not everything could be put back.
    pub(super) async fn conduct<T>(
        &self,
        verb: &str,
        subject: String,
        aftermath: &dyn Aftermath,
        work: impl AsyncFnOnce(&mut Saga) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let mut saga = self.open_journal(verb, subject)?;
        // A verb's state is large, and would be on the stack of whoever waits for it, once for each that passes it on.
        let outcome = self.to_end(Box::pin(work(&mut saga))).await;
        let succeeded = matches!(outcome, Ok(Some(_)));
        let left = saga.finish(succeeded, self.monitor()).await;
        let taken = self.taken().await;
        let all_back = left.is_empty() && taken.is_empty();
        let outcome = outcome.map_err(|error| {
            let error = match (error.state_text(), aftermath.state(all_back)) {
                (None, Some(state)) => error.state(state),
                _ => error,
            };
            aftermath.explain(error)
        });
        let ended = if left.is_empty() { self.ended_since().await } else { Vec::new() };
        with_ended(with_leftovers(with_taken(outcome, &taken, aftermath), &left), &ended, aftermath)
    }

    /// Notes who was stopped.
    pub(super) fn note_stopped(&self, stopped: &[StoppedContainer]) {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(stopped);
    }

    /// Looks in whose place somebody else runs by now, so that they were not started again.
    async fn taken(&self) -> Vec<ServiceError> {
        let stopped = std::mem::take(&mut *self.stopped.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::time::timeout(LOOK_LIMIT, taken(&*self.context.docker, &stopped)).await {
            Ok(Ok(taken)) => taken,
            outcome => {
                tracing::debug!(?outcome, "who runs on the data now is not known");
                Vec::new()
            }
        }
    }

    /// Notes who was stopped and is, or will be, started again.
    pub(super) fn note_started(&self, stopped: &[StoppedContainer]) {
        // Plain values: a panic elsewhere does not spoil them.
        let mut noted = self.started_again.lock().unwrap_or_else(PoisonError::into_inner);
        // A database is known to have answered.
        let unknown = stopped.iter().filter(|one| one.answered && one.database.is_none());
        noted.extend(unknown.map(|one| (one.identity.name.clone(), one.clone())));
    }

    /// Looks once more at those that were started again and could only be seen to run, now that everything of the run is
    /// gone: what a run leaves or removes may be what ended them. So those that failed are started once more: nothing of
    /// ours comes or goes any longer. Returns those that have ended for good.
    async fn ended_since(&self) -> Vec<(StoppedContainer, ServiceError)> {
        let noted = std::mem::take(&mut *self.started_again.lock().unwrap_or_else(PoisonError::into_inner));
        let started: Vec<_> = noted.into_values().collect();
        if started.is_empty() {
            return Vec::new();
        }
        self.monitor().step("look-again");
        let looking = ended_since(&*self.context.docker, &started);
        match tokio::time::timeout(LOOK_LIMIT, looking).await {
            Ok(Ok(ended)) => self.start_once_more(ended).await,
            // It was back, and nothing says that it no longer is.
            outcome => {
                tracing::debug!(?outcome, "what was started is not looked at once more");
                Vec::new()
            }
        }
    }

    /// Starts those once more that have failed; returns those that do not run.
    async fn start_once_more(
        &self,
        ended: Vec<(StoppedContainer, ServiceError)>,
    ) -> Vec<(StoppedContainer, ServiceError)> {
        let mut down = Vec::new();
        for (stopped, error) in ended {
            if !error.is_failure() {
                down.push((stopped, error));
                continue;
            }
            let deadline = Instant::now() + START_LIMIT;
            let docker = &*self.context.docker;
            match start_once(docker, std::slice::from_ref(&stopped), deadline, self.monitor()).await {
                Ok(_) => self.monitor().warning(format!("{error}; it was started once more, and runs")),
                Err(_) => down.push((stopped, error)),
            }
        }
        down
    }

    fn open_journal(&self, verb: &str, subject: String) -> Result<Saga> {
        let info = RunInfo {
            run: self.id.to_string(),
            verb: verb.to_owned(),
            subject,
            host: Some(self.context.address.clone()),
            pid: std::process::id(),
            started: self.started,
        };
        Saga::begin(&self.context.saga, &info, Arc::new(self.context.world_of_undos())).map_err(|error| {
            let elsewhere = Hint::advice("VOLSNAP_STATE_DIR=DIR chooses another directory for journals");
            let mend = writable_by_others(&error).map(|path| not_for_others(&path));
            Error::failed("begin the run's journal")
                .with_source(error)
                .state("nothing was touched")
                .with_hints(mend.into_iter().chain([elsewhere]))
        })
    }

    /// Runs work until it ends, a signal comes, or it panics, whichever comes first.
    pub(super) async fn to_end<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let work = AssertUnwindSafe(work).catch_unwind();
        tokio::select! {
            biased;
            outcome = work => outcome.unwrap_or_else(|panic| Err(panicked(&*panic))),
            interrupt = self.context.cancel.wait() => {
                Err(Error::new(ErrorKind::Interrupted(interrupt), "interrupted by a signal"))
            }
        }
    }

    /// Has the guards watch, before there is anything to put back: so nothing is ever out that only a later run would
    /// find. In a container, where the guard beside us dies with us, there is a second one outside.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(super) async fn watch(&self, saga: &mut Saga) -> Result<()> {
        let own = self.context.own.as_ref();
        own.map_or(Ok(()), |own| outside::refuse_own_state(&self.context, own))?;
        self.watch_alone(saga).await?;
        match own {
            Some(own) => outside::start(&self.context, own, saga, self.id.as_str()).await,
            None => Ok(()),
        }
    }

    /// The same for a run that holds no service: what it would leave in a container that ends harms nobody.
    ///
    /// # Errors
    /// When the guard cannot be started.
    pub(super) async fn watch_alone(&self, saga: &mut Saga) -> Result<()> {
        self.monitor().step("start-guard");
        saga.watch(&self.context.saga.executable).await.context(|| "start the guard".to_owned())?;
        // One run has one guard.
        let _ = self.lease.set(saga.lease());
        Ok(())
    }

    /// Begins the guard's lease on these terms, in place of the one before.
    pub(super) fn lease(&self, terms: Terms) {
        if let Some(lease) = self.lease.get() {
            lease.begin(terms);
        }
    }

    /// Ends the guard's lease: nothing is held any more.
    pub(super) fn end_lease(&self) {
        if let Some(lease) = self.lease.get() {
            lease.end();
        }
    }

    pub(super) fn monitor(&self) -> &dyn Monitor {
        &*self.context.monitor
    }

    /// A phase begins.
    pub(super) fn phase(&self, phase: Phase, detail: impl Into<String>, total_bytes: Option<u64>) {
        self.timer.phase(phase);
        self.monitor().phase(phase, detail, total_bytes);
    }

    /// Returns what a failed run says of what it stopped: "everything that was stopped runs again, after 1.2 s".
    pub(super) fn runs_again(&self, held_word: &str) -> Option<String> {
        let away: Duration = self.timer.away()?;
        Some(format!("everything that was {held_word} runs again, after {:.1} s", away.as_secs_f64()))
    }
}

/// Adds to an outcome in whose place somebody else runs. The service is not down, and it was not us who replaced it, so
/// nothing waits to be put back; but what was stopped does not run again, so the run has failed.
fn with_taken<T>(
    outcome: Result<Option<T>>,
    taken: &[ServiceError],
    aftermath: &dyn Aftermath,
) -> Result<Option<T>> {
    if taken.is_empty() {
        return outcome;
    }
    let said = taken.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let both = || Hint::docker(["ps", "--all"]).why("who runs, and who does not");
    Err(match outcome {
        Err(error) => {
            let state = error.state_text().map_or_else(|| said.clone(), |state| format!("{state}; {said}"));
            error.state(state)
        }
        Ok(_) => match aftermath.state(false) {
            Some(state) => Error::failed(said).state(state).hint(both()),
            None => Error::failed(said).hint(both()),
        },
    })
}

/// Adds to an outcome which services have ended since they were back.
fn with_ended<T>(
    outcome: Result<Option<T>>,
    ended: &[(StoppedContainer, ServiceError)],
    aftermath: &dyn Aftermath,
) -> Result<Option<T>> {
    if ended.is_empty() {
        return outcome;
    }
    let said: Vec<_> = ended.iter().map(|(_, error)| error.to_string()).collect();
    let names = ended.iter().map(|(one, _)| &one.identity.name);
    let error = match outcome {
        Err(error) => {
            let state = error.state_text().into_iter().chain(said.iter().map(String::as_str));
            let state = state.collect::<Vec<_>>().join("; ");
            error.with_kind(ErrorKind::NotPutBack).state(state)
        }
        Ok(_) => {
            let done = "all else is done, and in its place".to_owned();
            let state =
                aftermath.state(false).map_or_else(|| done.clone(), |state| format!("{state}; {done}"));
            Error::new(ErrorKind::NotPutBack, said.join("; ")).state(state)
        }
    };
    Err(error.hint(Hint::docker(["start"]).and(names)))
}

/// Passes everything on to another monitor, and renews the guard's lease: whatever is told is progress.
struct Renewing {
    monitor: Arc<dyn Monitor>,
    lease: Arc<OnceLock<Lease>>,
}

impl Monitor for Renewing {
    fn event(&self, event: Event) {
        self.goes_on();
        self.monitor.event(event);
    }

    fn step(&self, step: &'static str) {
        self.goes_on();
        self.monitor.step(step);
    }

    fn goes_on(&self) {
        if let Some(lease) = self.lease.get() {
            lease.renew();
        }
    }
}

/// Removes the keys of restores that can no longer be undone with them. A key that a dead run may need stays.
fn forget_expired_keys(context: &Context) {
    let state = &context.saga.state;
    let Ok(unfinished) = Journal::all(state) else { return };
    let is_unfinished =
        |run: &str| unfinished.iter().any(|path| path.file_stem().is_some_and(|of| of == run));
    one_time_key::forget_expired(state, context.clock.now(), is_unfinished);
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    Error::failed(format!("volsnap itself failed: {message}")).hint(Hint::advice(
        "report this at the project's issue tracker, with the output of the same command with -v",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::Container;

    fn ended() -> Vec<(StoppedContainer, ServiceError)> {
        let container = Container { name: "app".to_owned(), ..Container::default() };
        let reason = "has ended with exit code 1".to_owned();
        let error = ServiceError::EndedSince { container: container.name.clone(), exit_code: 1, reason };
        vec![(StoppedContainer::of(&container), error)]
    }

    #[test]
    fn what_has_ended_since_is_said_after_what_else_is_known() {
        let state_after = |error: Error| {
            let outcome = with_ended::<()>(Err(error), &ended(), &Untouched).unwrap_err();
            assert_eq!(outcome.kind(), ErrorKind::NotPutBack);
            outcome.state_text().unwrap().to_owned()
        };
        let said = ended()[0].1.to_string();
        assert_eq!(state_after(Error::failed("x")), said, "nothing stands before it");
        assert_eq!(
            state_after(Error::failed("x").state("nothing was touched")),
            format!("nothing was touched; {said}")
        );
    }

    #[test]
    fn work_that_was_done_is_not_a_failure_of_it() {
        let outcome = with_ended(Ok(Some(())), &ended(), &Untouched).unwrap_err();
        assert_eq!(outcome.state_text(), Some("all else is done, and in its place"));
        assert!(with_ended(Ok(Some(())), &[], &Untouched).is_ok());
    }
}
