//! Finishes what a dead run left: whoever finds a journal without an owner puts back what it lists.

use std::path::Path;

use super::{Context, with_leftovers};
use crate::engine::context::{DEFAULT_ADDRESS, is_default};
use crate::model::error::{Context as _, Error, ErrorKind, Result, chain};
use crate::model::event::{Notice, Phase};
use crate::model::hint::Hint;
use crate::model::quote::shell_quote;
use crate::saga::guard::finish_orphan;
use crate::saga::journal::{Entry, Opened};
use crate::saga::{Compensation as _, Rank, RetryBudget, RunInfo};
use crate::undo::{Journal, Leftovers};

/// An unfinished run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Unfinished {
    /// Which run it is.
    #[serde(flatten)]
    pub run: RunInfo,
    /// Whether somebody is at work on it: the command itself, its guard, or another `recover`.
    pub held: bool,
    /// What must still be put back, in words.
    pub open: Vec<String>,
}

/// Returns the unfinished runs whose journals are below a state directory.
///
/// # Errors
/// When a journal cannot be read.
pub fn unfinished(state: &Path) -> Result<Vec<Unfinished>> {
    let mut runs = Vec::new();
    for path in Journal::all(state).context(|| "look for unfinished runs".to_owned())? {
        match Journal::open(&path).context(|| "open a journal".to_owned())? {
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
                    .map(Entry::describe)
                    .chain(newer_text(&journal))
                    .collect(),
            }),
        }
    }
    Ok(runs)
}

/// Finishes every run that nobody is at work on, on the context's engine. Returns the runs that it finished. If
/// something that no live service depends on cannot be put back, it only warns: the journal stays, and [`unfinished`]
/// has it.
///
/// # Errors
/// [`ErrorKind::NotPutBack`] when something could not be put back, such as what only a later volsnap knows; the journal
/// stays.
pub async fn recover(context: &Context, budget: RetryBudget) -> Result<Vec<RunInfo>> {
    let (mut finished, mut all_left, mut first_error) = (Vec::new(), Leftovers::default(), None);
    for path in Journal::all(&context.saga.state).context(|| "look for unfinished runs".to_owned())? {
        let journal = match Journal::open(&path) {
            Ok(Opened::Orphan(journal)) => journal,
            Ok(Opened::Held | Opened::Gone) => continue,
            // The others are finished all the same.
            Err(error) => {
                first_error.get_or_insert(Error::failed("open a journal").with_source(error));
                continue;
            }
        };
        let run = journal.info().clone();
        if !is_at(run.host.as_deref(), &context.address) {
            let notice = Notice::from(format!("run {} was on another engine", run.run));
            context.monitor.warning(notice.hint(on_engine(&run)));
            continue;
        }
        let newer = newer_error(&journal, &path);
        let mut left = finish_one(context, journal, &run, budget).await;
        if left.is_empty() {
            finished.push(run);
        }
        if left.newer > 0 {
            first_error = first_error.or(newer);
            left.newer = 0;
        }
        let (waiting, failed): (Vec<_>, Vec<_>) =
            left.failed.into_iter().partition(|failed| failed.undo.rank() == Rank::Later);
        for failed in waiting {
            let what = failed.undo.describe();
            let notice = Notice::from(format!("could not {what}: {}", chain(&failed.error)));
            context.monitor.warning(notice.hint(Hint::volsnap(["recover"]).why("tries again")));
        }
        all_left.failed.extend(failed);
        all_left.blocked.extend(left.blocked);
    }
    let outcome = match first_error {
        Some(error) => Err(error),
        None if all_left.is_empty() => Ok(finished),
        None => Err(Error::failed("could not finish what a dead run left")),
    };
    with_leftovers(outcome, &all_left)
}

async fn finish_one(context: &Context, journal: Journal, run: &RunInfo, budget: RetryBudget) -> Leftovers {
    context.monitor.phase(
        Phase::Recover,
        format!("{} of {}, run {}, which died", run.verb, run.subject, run.run),
        None,
    );
    finish_orphan(journal, &context.world_of_undos(), budget, &*context.monitor).await
}

/// Returns the text for a journal that has what only another volsnap can finish.
fn newer_text(journal: &Journal) -> Option<String> {
    let lines = journal.newer_lines();
    let writer = journal.version().unwrap_or("another version");
    (lines > 0).then(|| {
        format!(
            "{lines} of its lines were written by volsnap {writer} and mean nothing to this one, {}",
            env!("CARGO_PKG_VERSION")
        )
    })
}

/// Returns the error for a journal that cannot be finished completely, and so stays.
fn newer_error(journal: &Journal, path: &Path) -> Option<Error> {
    let text = newer_text(journal)?;
    Some(
        Error::failed(format!("the journal {} cannot be finished: {text}", path.display()))
            .with_kind(ErrorKind::NotPutBack)
            .state("what that run has stopped was started, but for what waits for the rest; the rest is as it was left")
            .hint(Hint::volsnap(["recover"]).why("with the volsnap that wrote it"))
            .or(Hint::shell(format!("rm {}", shell_quote(&path.to_string_lossy())))
                .why("once the rest is put back by hand")),
    )
}

/// Returns whether a run was on the engine at this address. Older versions wrote none for the one where nobody names
/// one.
#[must_use]
pub fn is_at(host: Option<&str>, address: &str) -> bool {
    host.map_or_else(|| is_default(address), |host| host.trim_end_matches('/') == address)
}

/// Returns the command that finishes a run on the engine that it was on.
fn on_engine(run: &RunInfo) -> Hint {
    let host = run.host.as_deref().unwrap_or(DEFAULT_ADDRESS);
    Hint::volsnap(["--host", host, "recover"]).why("finishes it")
}
