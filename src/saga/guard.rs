//! The guard: a child in a session of its own that outlives a killed command, and ends one that hangs.
//!
//! It holds the read end of a pipe; only the command has the write end. The command sends it every line of its journal
//! over the pipe, and the guard acknowledges each line once it is in memory. So a state directory that is full or
//! stuck cannot keep a service down. "Done" means done. End of file without it means that the command died, by
//! whatever signal, and the guard runs the journal. If the [lease](super::Lease) runs out, the guard first kills the
//! command, by SIGKILL through a handle taken at the start. A second later it goes on, whether or not the process is
//! gone, and without the journal's lock if it cannot get it: a process in an uninterruptible read keeps both.
//!
//! What the command does at that moment is done or not done. A journal line that was not acknowledged has no effect,
//! because the command waits for it. A line that dismisses an undo is in the file before the guard is told. So the
//! longer of the file and the guard's memory tells it all that is open.
//!
//! The guard runs in a session of its own and ignores every signal that can be ignored, so whatever takes the command
//! down (Ctrl-C, a closing terminal, a service manager that ends a whole group) leaves the guard running. A manager that
//! kills a whole control group cannot be ignored: systemd does so with a service that does not stop in time, and logind
//! at a logout. Where systemd has the command in a service or a session, it is asked for a scope for the
//! guard, outside of that group.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout, timeout_at};

use super::journal::{Entry, Journal, Opened};
use super::lease::{Lease, Running, Terms};
use super::scope;
use super::shared_lease::SharedLease;
use super::{Compensation, Leftovers, Result, RetryBudget, SagaError};
use crate::model::event::Monitor;

/// How long the guard may take to say that it watches, or to acknowledge a line.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a state directory may take to answer, before the guard goes on from memory.
const STATE_LIMIT: Duration = Duration::from_secs(5);
/// How long the guard may take to read what it was told before a lease ran out, for example if it was stopped itself.
const UNREAD_LIMIT: Duration = Duration::from_millis(100);
/// How long a killed command may take to go, before the guard goes on without the lock of its journal.
pub(super) const GONE_LIMIT: Duration = Duration::from_secs(1);
const WATCHING: &str = "watching";
/// The option of the guard that has it share the lease.
pub const SHARE_LEASE: &str = "--share-lease";

/// What the command tells its guard, one JSON object per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Message {
    /// A line of the journal; answered with a line.
    Journal(String),
    /// A lease begins and replaces any that runs; or no lease runs any more.
    Lease(Option<Terms>),
    /// The run goes on.
    Renew,
    /// Everything is done.
    Done,
}

/// The command's end of the guard.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    pipe: Pipe,
}

/// The pipes to the guard and back. Nothing waits for longer than [`ANSWER_LIMIT`], whatever becomes of the guard.
#[derive(Clone)]
pub(super) struct Pipe(Arc<Mutex<Ends>>);

struct Ends {
    /// `None` once it was closed.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pipe")
    }
}

impl Guard {
    /// Starts `executable guard JOURNAL` and returns once it watches. If it `shares` the lease, it also writes that beside
    /// the journal, for a guard [outside](super::outside).
    ///
    /// # Errors
    /// When it does not say so in time.
    pub async fn start(executable: &Path, journal: &Path, shares: bool) -> Result<Self> {
        let mut words: Vec<OsString> = vec![executable.into(), "guard".into(), journal.into()];
        words.extend(shares.then(|| SHARE_LEASE.into()));
        let started = tokio::task::spawn_blocking(move || Self::start_blocking(&words));
        started.await.map_err(|error| failed(error.to_string()))?
    }

    fn start_blocking(guard: &[OsString]) -> Result<Self> {
        if let Some(scope) = scope::command() {
            match Self::start_by(Some(&scope), guard) {
                Ok(guard) => return Ok(guard),
                // Where the control group is killed, `recover` finds the journal.
                Err(error) => tracing::info!(%error, "no scope for the guard"),
            }
        }
        Self::start_by(None, guard)
    }

    /// Starts it, by another program that becomes it if one is named.
    fn start_by(launcher: Option<&[String]>, guard: &[OsString]) -> Result<Self> {
        let mut words = launcher.unwrap_or_default().iter().map(OsString::from).collect::<Vec<_>>();
        words.extend_from_slice(guard);
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(format!("{}: {error}", Path::new(&words[0]).display())))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("it has no pipes".into()));
        };
        for end in [stdin.as_fd(), stdout.as_fd()] {
            rustix::io::ioctl_fionbio(end, true).map_err(|error| failed(error.to_string()))?;
        }
        let mut ends = Ends { stdin: Some(stdin), stdout };
        let error = match ends.read_line() {
            Ok(said) if said == WATCHING => {
                return Ok(Self { child, pipe: Pipe(Arc::new(Mutex::new(ends))) });
            }
            Ok(said) => failed(format!("it says {said:?}")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                // Its end of the pipe is closed a moment before it is gone.
                std::thread::sleep(Duration::from_millis(20));
                failed(format!("it ended before it watched{}", exit_text(&mut child)))
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                failed(format!("it does not watch after {} s", ANSWER_LIMIT.as_secs()))
            }
            Err(error) => failed(error.to_string()),
        };
        // One that comes late, by a launcher that hung, must not watch beside the next.
        let _ = child.kill();
        let _ = child.wait();
        Err(error)
    }

    /// Tells it a line of the journal, and returns once it has it in memory.
    ///
    /// # Errors
    /// When the guard does not say so in time: then the effect that the line is for must not happen.
    pub fn tell_line(&self, line: &str) -> Result<()> {
        let mut ends = self.pipe.ends();
        let told =
            ends.write(&Message::Journal(line.to_owned()), ANSWER_LIMIT).and_then(|()| ends.read_line());
        told.map(drop).map_err(|error| failed(format!("it does not hear: {error}")))
    }

    /// Returns the guard's lease on the run.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::over(self.pipe.clone())
    }

    /// Tells the guard that everything is done.
    pub async fn dismiss(mut self) {
        let waited = tokio::task::spawn_blocking(move || {
            let mut ends = self.pipe.ends();
            // A guard that is gone already needs no telling.
            let _ = ends.write(&Message::Done, ANSWER_LIMIT);
            ends.stdin = None;
            drop(ends);
            let deadline = Instant::now() + ANSWER_LIMIT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let _ = waited.await;
    }

    /// Leaves to the guard what is still open. The guard treats the command as dead, and retries for longer than a
    /// person waits.
    pub fn hand_over(self) {
        self.pipe.ends().stdin = None;
    }
}

fn failed(reason: String) -> SagaError {
    SagaError::Guard { reason }
}

fn exit_text(child: &mut Child) -> String {
    match child.try_wait() {
        Ok(Some(status)) => format!(" ({status})"),
        _ => String::new(),
    }
}

impl Pipe {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        // The lock holds two descriptors: a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message that needs no answer. It skips a renewal that it cannot send at once: the next one does as
    /// well.
    pub(super) fn try_tell(&self, message: &Message) {
        let told = match message {
            Message::Renew => match self.0.try_lock() {
                Ok(mut ends) => ends.write(message, Duration::ZERO),
                Err(_) => return,
            },
            _ => self.ends().write(message, ANSWER_LIMIT),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the guard does not hear");
        }
    }
}

impl Ends {
    /// Writes a whole line, or nothing if the pipe has no room for its start within `limit`.
    fn write(&mut self, message: &Message, limit: Duration) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut text = serde_json::to_string(message)?;
        text.push('\n');
        let mut rest = text.as_bytes();
        let begun = Instant::now();
        while !rest.is_empty() {
            match stdin.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Half a line is no line: once a line has begun, wait for the rest.
                    let limit = if rest.len() < text.len() { ANSWER_LIMIT } else { limit };
                    until_ready(PollFd::new(stdin, PollFlags::OUT), limit.saturating_sub(begun.elapsed()))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads one line from the guard, without its end; the guard says one at a time.
    fn read_line(&mut self) -> io::Result<String> {
        let (mut line, mut byte, begun) = (Vec::new(), [0], Instant::now());
        loop {
            match io::Read::read(&mut self.stdout, &mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = ANSWER_LIMIT.saturating_sub(begun.elapsed());
                    until_ready(PollFd::new(&self.stdout, PollFlags::IN), left)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

/// Waits until a descriptor is ready.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when it is not in time.
fn until_ready(descriptor: PollFd<'_>, limit: Duration) -> io::Result<()> {
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut [descriptor], Some(&limit)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How a command ended that did not say that it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is dead.
    Died,
    /// Its guard killed it, but it is not gone.
    Overdue,
}

/// Is the guard: says that it watches, waits for the command's end or the end of its lease, and finishes the journal
/// if the command died. If it `shares` the lease, it writes that beside the journal. Returns what it could not put back.
///
/// # Errors
/// When the journal cannot be read and is not in memory either.
pub async fn watch<U, C, F, E>(
    journal: &Path,
    shares: bool,
    connect: C,
    monitor: &dyn Monitor,
) -> Result<Leftovers<U>>
where
    U: Compensation,
    C: Fn(Option<String>) -> F,
    F: Future<Output = Result<Arc<U::World>, E>>,
    E: fmt::Display,
{
    // A session of its own: neither Ctrl-C nor a closing terminal reaches it.
    if let Err(error) = nix::unistd::setsid() {
        tracing::debug!(%error, "no session of its own");
    }
    if let Err(error) = outlive_signals() {
        tracing::debug!(%error, "a signal will end the guard");
    }
    let command = handle_of_parent();
    if say(WATCHING).is_err() {
        return Ok(Leftovers::default());
    }
    // A command that is gone by now hears nothing; the next read shows that it is gone.
    let acknowledge = || drop(say(""));
    let mut shared = shares.then(|| SharedLease::of(journal));
    let share = |lease: Option<&Running>| shared.iter_mut().for_each(|shared| shared.share(lease));
    let watched = watch_command(&mut messages_of_stdin(), acknowledge, share, || end(command.as_ref())).await;
    match watched {
        None => Ok(Leftovers::default()),
        Some((ended, memory)) => conclude(journal, &memory, ended, connect, monitor).await,
    }
}

/// Finishes the journal of a command that did not say that it was done.
async fn conclude<U, C, F, E>(
    journal: &Path,
    memory: &[String],
    ended: Ended,
    connect: C,
    monitor: &dyn Monitor,
) -> Result<Leftovers<U>>
where
    U: Compensation,
    C: Fn(Option<String>) -> F,
    F: Future<Output = Result<Arc<U::World>, E>>,
    E: fmt::Display,
{
    // This comes before the guard takes the journal: while the engine is away, a person's `recover` is not locked out.
    let Some(host) = engine_of::<U>(journal, memory).await else { return Ok(Leftovers::default()) };
    let Some(world) = connect_patiently(&connect, host, journal).await else {
        return Ok(Leftovers::default());
    };
    match take_over::<U>(journal, memory, ended).await? {
        None => Ok(Leftovers::default()),
        Some(journal) => Ok(finish_orphan(journal, &*world, RetryBudget::GUARD, monitor).await),
    }
}

/// Returns the address of the engine that a run uses; `None` for a run that is finished.
async fn engine_of<U: Compensation>(journal: &Path, memory: &[String]) -> Option<Option<String>> {
    if let Some(journal) = Journal::<U>::from_memory(journal, memory) {
        return Some(journal.info().host.clone());
    }
    let path = journal.to_owned();
    let peeked = tokio::task::spawn_blocking(move || Journal::<U>::peek(&path));
    timeout(STATE_LIMIT, peeked).await.ok()?.ok()?.map(|run| run.host)
}

/// Follows a command until it is done (`None`), dead, or overdue; if it is overdue, calls `end`. Acknowledges each
/// journal line that the command sends, and returns them. Tells `share` the lease whenever it changes, and none before
/// anybody else than the command works on the journal.
async fn watch_command(
    messages: &mut mpsc::UnboundedReceiver<Message>,
    mut acknowledge: impl FnMut(),
    mut share: impl FnMut(Option<&Running>),
    end: impl FnOnce(),
) -> Option<(Ended, Vec<String>)> {
    let (mut memory, mut lease) = (Vec::new(), None::<Running>);
    loop {
        let ends_at = lease.as_ref().and_then(Running::ends_at);
        let Some(message) = next_until(messages, ends_at).await else { break };
        match message {
            None => {
                share(None);
                return Some((Ended::Died, memory));
            }
            Some(Message::Done) => return None,
            Some(Message::Lease(terms)) => lease = terms.map(Running::begin),
            Some(Message::Renew) => lease.iter_mut().for_each(Running::renew),
            Some(Message::Journal(line)) => {
                memory.push(line);
                lease.iter_mut().for_each(Running::renew);
                acknowledge();
            }
        }
        share(lease.as_ref());
    }
    share(None);
    end();
    // The last lines that it sent may still be unread. Nothing is acknowledged any more.
    let gone_by = tokio::time::Instant::now() + GONE_LIMIT;
    loop {
        match timeout_at(gone_by, messages.recv()).await {
            Err(_) => return Some((Ended::Overdue, memory)),
            Ok(None) => return Some((Ended::Died, memory)),
            Ok(Some(Message::Done)) => return None,
            Ok(Some(Message::Journal(line))) => memory.push(line),
            Ok(Some(Message::Lease(_) | Message::Renew)) => {}
        }
    }
}

/// Returns the next message (inside, `None` means that the command ended); `None` if none comes until `moment`.
async fn next_until(
    messages: &mut mpsc::UnboundedReceiver<Message>,
    moment: Option<tokio::time::Instant>,
) -> Option<Option<Message>> {
    let Some(moment) = moment else { return Some(messages.recv().await) };
    match timeout_at(moment, messages.recv()).await {
        Ok(message) => Some(message),
        Err(_) => timeout(UNREAD_LIMIT, messages.recv()).await.ok(),
    }
}

/// Reads what the command sends, in a thread of its own, which ends with the pipe.
fn messages_of_stdin() -> mpsc::UnboundedReceiver<Message> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(message) = line.map_err(drop).and_then(|line| serde_json::from_str(&line).map_err(drop))
            else {
                return;
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

pub(super) fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush())
}

/// Returns a handle of the command, which is our parent: its number alone may belong to another process by then.
fn handle_of_parent() -> Option<OwnedFd> {
    let parent = rustix::process::getppid()?;
    let handle = rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty()).ok()?;
    // Between the two calls it was not gone, and its number was not reused.
    (rustix::process::getppid() == Some(parent)).then_some(handle)
}

/// Kills a command that is overdue. If it is already gone, that is as good.
fn end(command: Option<&OwnedFd>) {
    let killed =
        command.map(|handle| rustix::process::pidfd_send_signal(handle, rustix::process::Signal::KILL));
    if let Some(Err(error)) = killed {
        tracing::debug!(%error, "the command was gone");
    }
}

/// Takes over a journal: what its file holds if it can be read, otherwise what the guard was told. `None` once
/// somebody else has finished it.
pub(super) async fn take_over<U: Compensation>(
    path: &Path,
    memory: &[String],
    ended: Ended,
) -> Result<Option<Journal<U>>> {
    loop {
        let opened = match read_in_time(path.to_owned()).await {
            Some(opened) => opened,
            // The state directory is stuck.
            None => return Ok(Journal::from_memory(path, memory)),
        };
        match (opened, ended) {
            (Ok(Opened::Gone), _) => return Ok(None),
            (Ok(Opened::Orphan(journal)), _) => return Ok(Some(journal)),
            (Ok(Opened::Held), Ended::Overdue) => {
                return Ok(newest_of(path, memory).await);
            }
            // The kernel has not released the dead command's lock yet, or `recover` is working on the journal.
            (Ok(Opened::Held), Ended::Died) => sleep(Duration::from_millis(50)).await,
            (Err(error), _) => match Journal::from_memory(path, memory) {
                Some(journal) => return Ok(Some(journal)),
                None => return Err(error),
            },
        }
    }
}

/// Opens a journal; `None` when its directory does not answer.
async fn read_in_time<U: Compensation>(path: PathBuf) -> Option<Result<Opened<U>>> {
    let opened = tokio::task::spawn_blocking(move || Journal::open(&path));
    timeout(STATE_LIMIT, opened).await.ok()?.ok()
}

/// Returns what is known of a journal that its owner still has locked. The owner may have written lines that it could
/// no longer send to the guard.
async fn newest_of<U: Compensation>(path: &Path, memory: &[String]) -> Option<Journal<U>> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file));
    let text =
        timeout(STATE_LIMIT, read).await.ok().and_then(std::result::Result::ok).and_then(io::Result::ok);
    let lines: Vec<String> = text
        .iter()
        .flat_map(|text| text.split_inclusive('\n'))
        .filter(|line| line.ends_with('\n'))
        .map(str::to_owned)
        .collect();
    Journal::from_memory(path, if lines.len() > memory.len() { &lines } else { memory })
}

/// Listens for the signals that would end the process, and does nothing about them: whoever ends a command this way
/// ends all of its processes, and this one must stay.
pub(super) fn outlive_signals() -> io::Result<()> {
    // Once a process has listened for a signal, that signal no longer ends it, even if nobody listens any more.
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()] {
        drop(signal(kind)?);
    }
    Ok(())
}

/// Puts back what a dead run left, and removes its journal if all of it succeeded.
pub async fn finish_orphan<U: Compensation>(
    mut journal: Journal<U>,
    world: &U::World,
    budget: RetryBudget,
    monitor: &dyn Monitor,
) -> Leftovers<U> {
    let succeeded = journal.has_succeeded();
    let is_due = |entry: &Entry<U>| entry.when.is_due(succeeded);
    let left = super::put_back(&mut journal, is_due, world, budget, monitor).await;
    if left.is_empty()
        && let Err(error) = journal.remove()
    {
        tracing::warn!(%error, "the journal stays behind");
    }
    left
}

/// Connects as soon as the engine is available; `None` once somebody else has finished the journal.
pub(super) async fn connect_patiently<C, F, W: ?Sized, E: fmt::Display>(
    connect: &C,
    host: Option<String>,
    journal: &Path,
) -> Option<Arc<W>>
where
    C: Fn(Option<String>) -> F,
    F: Future<Output = Result<Arc<W>, E>>,
{
    let deadline = tokio::time::Instant::now() + RetryBudget::GUARD.0;
    loop {
        match connect(host.clone()).await {
            Ok(world) => return Some(world),
            Err(error) if tokio::time::Instant::now() > deadline => {
                tracing::warn!(%error, "the engine did not come back");
                return None;
            }
            Err(_) => sleep(Duration::from_millis(500)).await,
        }
        if is_finished(journal).await {
            return None;
        }
    }
}

/// Returns whether a journal is known to be gone; for one that it cannot look at, it does not know.
async fn is_finished(journal: &Path) -> bool {
    let path = journal.to_owned();
    let looked = tokio::task::spawn_blocking(move || path.try_exists());
    matches!(timeout(STATE_LIMIT, looked).await, Ok(Ok(Ok(false))))
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
