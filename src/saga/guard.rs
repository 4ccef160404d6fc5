//! The guard: a child in a session of its own that outlives a killed command.
//!
//! It holds the read end of a pipe whose write end only the command has. A byte means "done"; end of
//! file without it means that the command died, by whatever signal, and the guard runs the journal.
//! It is in a session of its own and heeds no signal that can be ignored, so that what takes the
//! command down (Ctrl-C, a closing terminal, a service manager that ends a whole group) leaves it.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::journal::{Entry, Journal, Opened};
use super::{FailedUndo, Result, RetryBudget, SagaError};
use crate::engine::Docker;
use crate::model::event::Monitor;

/// How long the guard may take to say that it watches.
const START_LIMIT: Duration = Duration::from_secs(10);
const WATCHING: &str = "watching";

/// The command's end of the guard.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    pipe: ChildStdin,
}

impl Guard {
    /// Starts `executable guard JOURNAL` and returns once it watches.
    ///
    /// # Errors
    /// When it does not say so in time.
    pub async fn start(executable: &Path, journal: &Path) -> Result<Self> {
        let failed = |reason: String| SagaError::Guard { reason };
        let mut child = Command::new(executable)
            .arg("guard")
            .arg(journal)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", executable.display())))?;
        let (Some(pipe), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("it has no pipes".into()));
        };
        let mut said = String::new();
        match timeout(START_LIMIT, BufReader::new(stdout).read_line(&mut said)).await {
            Ok(Ok(_)) if said.trim_end() == WATCHING => Ok(Self { child, pipe }),
            Ok(Ok(_)) => Err(failed(format!("it ended before it watched{}", exit_text(&mut child)))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("it does not watch after {} s", START_LIMIT.as_secs()))),
        }
    }

    /// Tells the guard that everything is done.
    pub async fn dismiss(mut self) {
        // A guard that is gone already needs no telling.
        let _ = self.pipe.write_all(b".").await;
        drop(self.pipe);
        let _ = timeout(START_LIMIT, self.child.wait()).await;
    }

    /// Leaves what is still open to the guard: for it the command is as good as dead, and it tries
    /// for longer than a person waits.
    pub fn hand_over(self) {
        drop(self.pipe);
    }
}

fn exit_text(child: &mut Child) -> String {
    match child.try_wait() {
        Ok(Some(status)) => format!(" ({status})"),
        _ => String::new(),
    }
}

/// Is the guard: says that it watches, waits for the command's end, and finishes its journal if it
/// died. Returns what could not be put back.
///
/// # Errors
/// When the journal cannot be read.
pub async fn watch<C, F>(journal: &Path, connect: C, monitor: &dyn Monitor) -> Result<Vec<FailedUndo>>
where
    C: Fn(Option<String>) -> F,
    F: Future<Output = crate::engine::Result<Box<dyn Docker>>>,
{
    // A session of its own: neither Ctrl-C nor a closing terminal reaches it.
    if let Err(error) = nix::unistd::setsid() {
        tracing::debug!(%error, "no session of its own");
    }
    if let Err(error) = outlive_signals() {
        tracing::debug!(%error, "a signal will end the guard");
    }
    let told = writeln!(io::stdout(), "{WATCHING}").and_then(|()| io::stdout().flush());
    if told.is_err() || command_finished() {
        return Ok(Vec::new());
    }
    // Before the journal is taken: while the engine is away, a person's `recover` is not kept out.
    let Some(run) = Journal::peek(journal) else { return Ok(Vec::new()) };
    let Some(docker) = connect_patiently(&connect, run.host, journal).await? else { return Ok(Vec::new()) };
    loop {
        match Journal::open(journal)? {
            Opened::Gone => return Ok(Vec::new()),
            // The kernel has not released the dead command's lock yet, or `recover` is at it.
            Opened::Held => sleep(Duration::from_millis(50)).await,
            Opened::Orphan(journal) => {
                return Ok(finish_orphan(journal, &*docker, RetryBudget::GUARD, monitor).await);
            }
        }
    }
}

/// Hears the signals that would end the process, and does nothing about them: who ends a command
/// this way ends every process of it, and this one is to stay.
fn outlive_signals() -> io::Result<()> {
    // Whoever has once listened is not ended by the signal any more, though nobody listens on.
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()] {
        drop(signal(kind)?);
    }
    Ok(())
}

/// Puts back what a dead run left and removes its journal if all of it could be.
pub async fn finish_orphan(
    mut journal: Journal,
    docker: &dyn Docker,
    patience: RetryBudget,
    monitor: &dyn Monitor,
) -> Vec<FailedUndo> {
    let succeeded = journal.has_succeeded();
    let due = |entry: &Entry| entry.when.is_due(succeeded);
    let failures = super::put_back(&mut journal, due, docker, patience, monitor).await;
    if failures.is_empty()
        && let Err(error) = journal.remove()
    {
        tracing::warn!(%error, "the journal stays behind");
    }
    failures
}

/// Waits for the command's word; true when it was "done", false when the command died. Blocks: until
/// then the guard has nothing else to do.
fn command_finished() -> bool {
    let mut byte = [0];
    io::stdin().read_exact(&mut byte).is_ok()
}

/// Connects as soon as the engine is there; `None` once somebody else has finished the journal.
async fn connect_patiently<C, F>(
    connect: &C,
    host: Option<String>,
    journal: &Path,
) -> crate::engine::Result<Option<Box<dyn Docker>>>
where
    C: Fn(Option<String>) -> F,
    F: Future<Output = crate::engine::Result<Box<dyn Docker>>>,
{
    let deadline = tokio::time::Instant::now() + RetryBudget::GUARD.0;
    while journal.exists() {
        match connect(host.clone()).await {
            Ok(docker) => return Ok(Some(docker)),
            Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(500)).await,
        }
    }
    Ok(None)
}
