//! Finishing what a dead run left: whoever finds a journal without an owner puts back what it lists.

use std::path::Path;

use crate::engine::Docker;
use crate::model::error::{Context as _, Error, ErrorKind, Result, chain};
use crate::model::event::{Monitor, Phase};
use crate::model::quote::shell_quote;
use crate::saga::guard::finish_orphan;
use crate::saga::journal::{Journal, Opened, RunInfo};
use crate::saga::{FailedUndo, RetryBudget, SagaError};

use super::{Context, with_failures};

/// An unfinished run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Unfinished {
    /// What run it is.
    #[serde(flatten)]
    pub run: RunInfo,
    /// Whether somebody is at it: the command itself, its guard, or another `recover`.
    pub held: bool,
    /// What is still to be put back, in words.
    pub open: Vec<String>,
}

/// Returns the unfinished runs whose journals are below a state directory.
///
/// # Errors
/// When a journal cannot be read.
pub fn unfinished(state: &Path) -> Result<Vec<Unfinished>> {
    let mut runs = Vec::new();
    for path in Journal::all(state).context(|| "look for unfinished runs".to_owned())? {
        let opened = match Journal::open(&path) {
            Err(error @ SagaError::NewerFormat { .. }) => {
                if let Some(run) = Journal::peek(&path) {
                    runs.push(Unfinished { run, held: false, open: vec![chain(&error)] });
                    continue;
                }
                Err(error)
            }
            opened => opened,
        };
        match opened.context(|| "open a journal".to_owned())? {
            Opened::Gone => {}
            Opened::Held => {
                if let Some(run) = Journal::peek(&path) {
                    runs.push(Unfinished { run, held: true, open: Vec::new() });
                }
            }
            Opened::Orphan(journal) => runs.push(Unfinished {
                run: journal.info().clone(),
                held: false,
                open: journal
                    .open_entries()
                    .rev()
                    .filter(|entry| entry.when.is_due(journal.has_succeeded()))
                    .map(|entry| entry.compensation.describe())
                    .collect(),
            }),
        }
    }
    Ok(runs)
}

/// Finishes every run that nobody is at, on the host's engine. Returns the runs that it finished. What nothing
/// live hangs on is only warned of when it fails: its journal stays, and [`unfinished`] has it.
///
/// # Errors
/// [`ErrorKind::NotPutBack`] when something could not be put back, or a journal is
/// of a later volsnap; the journal stays.
pub async fn recover(context: &Context, patience: RetryBudget) -> Result<Vec<RunInfo>> {
    let (mut finished, mut failures, mut unreadable) = (Vec::new(), Vec::new(), None);
    for path in Journal::all(&context.saga.state).context(|| "look for unfinished runs".to_owned())? {
        let journal = match Journal::open(&path) {
            Ok(Opened::Orphan(journal)) => journal,
            Ok(Opened::Held | Opened::Gone) => continue,
            // The others are finished all the same.
            Err(error) => {
                unreadable.get_or_insert(not_understood(&path, error));
                continue;
            }
        };
        let run = journal.info().clone();
        if run.host != context.address {
            context.monitor.warning(format!("run {} was on another engine; {}", run.run, on_engine(&run)));
            continue;
        }
        let left = finish_one(journal, &run, &*context.docker, patience, &*context.monitor).await;
        if left.is_empty() {
            finished.push(run);
        }
        let (waiting, left): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|failure| failure.compensation.can_wait());
        for failure in waiting {
            let what = failure.compensation.describe();
            context.monitor.warning(format!("could not {what}: {}; volsnap recover", chain(&failure.error)));
        }
        failures.extend(left);
    }
    let outcome = match unreadable {
        Some(error) => Err(error),
        None if failures.is_empty() => Ok(finished),
        None => Err(Error::failed("could not finish what a dead run left")),
    };
    with_failures(outcome, &failures)
}

async fn finish_one(
    journal: Journal,
    run: &RunInfo,
    docker: &dyn Docker,
    patience: RetryBudget,
    monitor: &dyn Monitor,
) -> Vec<FailedUndo> {
    monitor.phase(
        Phase::Recover,
        format!("{} of {}, run {}, which died", run.verb, run.subject, run.run),
        None,
    );
    finish_orphan(journal, docker, patience, monitor).await
}

/// Returns the error for a journal that cannot be finished, and stays.
fn not_understood(path: &Path, error: SagaError) -> Error {
    let foreign = matches!(error, SagaError::NewerFormat { .. });
    let error = Error::failed("open a journal").with_source(error);
    if !foreign {
        return error;
    }
    error
        .with_kind(ErrorKind::NotPutBack)
        .state("what that run has stopped may not run; nothing was touched")
        .hint(format!(
            "volsnap recover    (with the volsnap that wrote it; or put everything back by hand, then: rm {})",
            shell_quote(&path.to_string_lossy())
        ))
}

fn on_engine(run: &RunInfo) -> String {
    match &run.host {
        Some(host) => format!("finish it with: volsnap --host {host} recover"),
        None => "finish it with: volsnap recover, without --host and DOCKER_HOST".to_owned(),
    }
}
