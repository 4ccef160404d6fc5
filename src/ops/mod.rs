//! The procedures. Each reads top to bottom as the story of what happens, and at each step what
//! undoes it stands beside it.

use std::any::Any;
use std::io::BufReader;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use crate::archive::{FileListReader, FileRecord};
use crate::engine::Docker;
use crate::model::error::{Context as _, Error, ErrorKind, Result, chain};
use crate::model::event::Monitor;
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::repository::Snapshot;
use crate::saga::Compensation as _;
use crate::saga::{RunInfo, SagaOptions};
use crate::signal::Cancel;
use crate::undo::{Leftovers, Saga};

pub mod check;
pub mod doctor;
pub mod drill;
mod errand;
pub mod facts;
mod helper;
mod hold;
mod libc_version;
pub mod migrate;
mod passes;
mod phase_timer;
pub mod plan;
pub mod recover;
pub mod restart;
pub mod restore;
pub mod snapshot;
pub mod stages;
pub mod verify;

/// What every procedure needs of the world around it.
#[derive(Clone)]
pub struct Context {
    /// The engine.
    pub docker: Arc<dyn Docker>,
    /// The engine's address as it was given, for whoever finishes a journal; `None` for the default.
    pub address: Option<String>,
    /// Where journals are kept and what guards a run. The executable is also packed as the helper.
    pub saga: SagaOptions,
    /// The current directory, whose compose project comes first.
    pub directory: PathBuf,
    /// The compose project named by the environment (`COMPOSE_PROJECT_NAME`).
    pub compose_project: Option<String>,
    /// Who asks for the end.
    pub cancel: Cancel,
    /// Who watches.
    pub monitor: Arc<dyn Monitor>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("docker", &self.docker).field("saga", &self.saga).finish_non_exhaustive()
    }
}

impl Context {
    /// Begins the journal of a run, before anything is touched; `subject` is what a person calls what it is about.
    fn begin(&self, verb: &str, subject: String, id: &SnapshotId, started: DateTime<Utc>) -> Result<Saga> {
        let info = RunInfo {
            run: id.to_string(),
            verb: verb.to_owned(),
            subject,
            host: self.address.clone(),
            pid: std::process::id(),
            started,
        };
        Saga::begin(&self.saga, &info, self.docker.clone()).map_err(|error| {
            Error::failed("begin the run's journal")
                .with_source(error)
                .state("nothing was touched")
                .hint(Hint::advice("VOLSNAP_STATE_DIR=DIR chooses another directory for journals"))
        })
    }

    /// Runs a procedure to its end, whichever comes first: its own, a signal, or a panic. Dropping it at
    /// any point is safe, because what undoes an effect is in the journal before the effect.
    async fn run_to_end<T>(&self, procedure: impl Future<Output = Result<T>>) -> Result<T> {
        let procedure = AssertUnwindSafe(procedure).catch_unwind();
        tokio::select! {
            biased;
            outcome = procedure => outcome.unwrap_or_else(|panic| Err(panicked(&*panic))),
            interrupt = self.cancel.wait() => {
                Err(Error::new(ErrorKind::Interrupted(interrupt), "interrupted by a signal"))
            }
        }
    }
}

/// Returns what the file list of a snapshot has, one record at a time.
///
/// # Errors
/// When it cannot be opened; a damaged one ends with the error.
pub fn files(snapshot: &Snapshot) -> Result<impl Iterator<Item = Result<FileRecord>> + use<>> {
    let doing = format!("read the file list of {}", snapshot.name());
    let records =
        FileListReader::new(BufReader::new(snapshot.open_file_list()?)).context(|| doing.clone())?;
    Ok(records.map(move |record| record.context(|| doing.clone())))
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

/// Adds to the outcome of a procedure what could not be put back after it.
fn with_leftovers<T>(outcome: Result<T>, left: &Leftovers) -> Result<T> {
    if left.is_empty() {
        return outcome;
    }
    let mut undone: Vec<String> = left
        .failed
        .iter()
        .map(|failed| format!("{}: {}", failed.undo.describe(), chain(&failed.error)))
        .collect();
    undone.extend(left.blocked.iter().map(|undo| format!("{}: not before that is done", undo.describe())));
    if left.newer > 0 {
        undone.push(format!("{} things that only a newer volsnap knows", left.newer));
    }
    let by_hand = left.failed.iter().filter_map(|failed| failed.undo.by_hand());
    let state = format!("not put back: {}", undone.join("; "));
    let hints = std::iter::once(Hint::volsnap(["recover"])).chain(by_hand.map(|hint| hint.why("by hand")));
    let error = match outcome {
        Err(error) => error,
        Ok(_) => Error::failed("the work was done, but not everything could be put back"),
    };
    let state = match error.state_text() {
        Some(before) => format!("{before}; {state}"),
        None => state,
    };
    Err(error.with_kind(ErrorKind::NotPutBack).state(state).with_hints(hints))
}
