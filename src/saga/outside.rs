//! The guard outside: a process in a container of its own, for a command that runs in a container.
//!
//! Whatever a command starts ends with its container: by `docker kill`, for want of memory, when the container is made
//! anew, with the engine. So where the command runs in a container, a second guard watches from another one, which the
//! engine starts again as often as it ends. It has no pipe to the command. The lock of the journal, in a directory that
//! both see, says that the command, or whoever finishes its run, is alive; its container's state says nothing, since a
//! command that was run in a living container dies alone.
//!
//! The [guard beside the command](super::guard) acts first wherever it lives: this one waits a moment longer in all that
//! it does. It ends a command whose lease has run out, by the file beside the journal, such as one whose container is
//! frozen; no other process that has the lock.
//!
//! A lock that is free at the first look may mean that locks do not reach from container to container. So this guard then
//! touches nothing, unless the journal has what holds a service: the command registers such a thing only once this guard
//! has seen its lock held.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{sleep, timeout};

use super::guard::{Ended, GONE_LIMIT, connect_patiently, finish_orphan, outlive_signals, say, take_over};
use super::journal::{Journal, Opened};
use super::{Compensation, Leftovers, Rank, Result, RetryBudget, SagaError, shared_lease};
use crate::model::event::Monitor;

/// How often it looks whether the lock is free. The guard beside the command takes it within a few milliseconds.
const POLL: Duration = Duration::from_millis(200);
/// How long the guard beside the command has to act once a lease has run out.
const SLACK: Duration = Duration::from_secs(2);
/// How long an engine may be away before this ends, so that the engine starts it again: a socket that was made anew is
/// another file, and only a new start mounts that.
const AWAY_LIMIT: Duration = Duration::from_secs(20);
/// The locks of this machine, as the kernel lists them.
const LOCKS: &str = "/proc/locks";

/// What the guard outside says once it watches: which file it takes for the journal.
#[must_use]
pub fn watching(journal: &std::fs::Metadata) -> String {
    format!("watching {} {}", journal.dev(), journal.ino())
}

/// What it says of a journal whose lock nobody holds.
pub const UNLOCKED: &str = "nobody holds the lock of the journal";

/// Watches the lock of a journal until its run is finished, and finishes the run if whoever works on it dies. Returns what
/// could not be put back.
///
/// # Errors
/// When the journal cannot be read at first; later it is looked at again. When the engine stays away.
pub async fn watch_lock<U, C, F, E>(journal: &Path, connect: C, monitor: &dyn Monitor) -> Result<Leftovers<U>>
where
    U: Compensation,
    C: Fn(Option<String>) -> F,
    F: Future<Output = Result<Arc<U::World>, E>>,
    E: fmt::Display,
{
    if let Err(error) = outlive_signals() {
        tracing::debug!(%error, "a signal will end the guard");
    }
    let mut orphan = match Journal::<U>::open(journal)? {
        Opened::Gone => return Ok(Leftovers::default()),
        Opened::Orphan(found) if holds(&found) => Some(found),
        Opened::Orphan(_) => {
            drop(say(UNLOCKED));
            return Ok(Leftovers::default());
        }
        Opened::Held => None,
    };
    let command = Journal::<U>::peek(journal).and_then(|run| holder(journal, run.pid));
    if orphan.is_none() {
        // What cannot be reached now is not reached when it matters.
        let host = Journal::<U>::peek(journal).and_then(|run| run.host);
        let reached = timeout(AWAY_LIMIT, connect(host)).await;
        let reached = reached.map_err(|_| SagaError::Guard { reason: "the engine is away".into() })?;
        drop(reached.map_err(|error| SagaError::Guard { reason: error.to_string() })?);
    }
    if let Ok(metadata) = journal.metadata() {
        drop(say(&watching(&metadata)));
    }
    while orphan.is_none() {
        sleep(POLL).await;
        let overdue = shared_lease::has_run_out(journal, SLACK) && command.as_ref().is_some_and(is_alive);
        // One that could not be killed may go on later.
        let killed = overdue && command.as_ref().is_some_and(end);
        if overdue {
            sleep(GONE_LIMIT).await;
        }
        orphan = match Journal::<U>::open(journal) {
            Ok(Opened::Gone) => return Ok(Leftovers::default()),
            Ok(Opened::Orphan(found)) => Some(found),
            // It is frozen: whatever it may still have to do, it does not do. Anybody else who has the lock is at work.
            Ok(Opened::Held) if killed && command.as_ref().is_some_and(is_alive) => {
                take_over(journal, &[], Ended::Overdue).await?
            }
            Ok(Opened::Held) => None,
            Err(error) => {
                tracing::debug!(%error, "the journal cannot be read");
                None
            }
        };
    }
    let Some(orphan) = orphan else { return Ok(Leftovers::default()) };
    finish(orphan, journal, connect, monitor).await
}

/// Finishes a run. Who has its journal has its lock, so nobody else is at work on it.
async fn finish<U, C, F, E>(
    orphan: Journal<U>,
    journal: &Path,
    connect: C,
    monitor: &dyn Monitor,
) -> Result<Leftovers<U>>
where
    U: Compensation,
    C: Fn(Option<String>) -> F,
    F: Future<Output = Result<Arc<U::World>, E>>,
    E: fmt::Display,
{
    let host = orphan.info().host.clone();
    let connected = timeout(AWAY_LIMIT, connect_patiently(&connect, host, journal));
    let connected = connected.await.map_err(|_| SagaError::Guard { reason: "the engine is away".into() })?;
    let Some(world) = connected else { return Ok(Leftovers::default()) };
    let left = finish_orphan(orphan, &*world, RetryBudget::GUARD, monitor).await;
    shared_lease::remove(journal);
    Ok(left)
}

/// Returns whether a run has registered what is done to a service or its data.
fn holds<U: Compensation>(journal: &Journal<U>) -> bool {
    journal.open_entries().any(|entry| entry.rank() <= Rank::Service)
}

/// Returns a handle of the process that holds the lock of a journal, if it is the one that calls itself by this number in
/// its own container. `None` where the processes of the machine are not seen.
fn holder(journal: &Path, number: u32) -> Option<OwnedFd> {
    let inode = journal.metadata().ok()?.ino();
    let found = || {
        let locks = std::fs::read_to_string(LOCKS).unwrap_or_default();
        let holders: Vec<i32> = holders_of(&locks, inode).collect();
        holders.into_iter().find(|pid| own_number(*pid) == Some(number))
    };
    let pid = found()?;
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Between the two looks it was not gone, and its number was not reused.
    (found() == Some(pid)).then_some(handle)
}

/// Returns the process that holds the lock of a journal: its number here, and in the innermost container that it is in.
/// `None` where the processes of the machine are not seen.
#[must_use]
pub fn holder_of(journal: &Path) -> Option<(u32, u32)> {
    let inode = journal.metadata().ok()?.ino();
    let locks = std::fs::read_to_string(LOCKS).ok()?;
    holders_of(&locks, inode).find_map(|pid| Some((u32::try_from(pid).ok()?, own_number(pid)?)))
}

/// Returns who holds the lock of a file by itself, by the kernel's list: `1: FLOCK  ADVISORY  WRITE 812 fe:00:5712 0 EOF`.
fn holders_of(locks: &str, inode: u64) -> impl Iterator<Item = i32> {
    locks.lines().filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = words[..] else { return None };
        let is_it = file.rsplit(':').next().is_some_and(|found| found.parse() == Ok(inode));
        is_it.then(|| pid.parse().ok()).flatten()
    })
}

/// Returns the number of a process in the innermost container that it is in.
fn own_number(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}

fn is_alive(command: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // A handle can be read once its process has ended.
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(command, PollFlags::IN)], Some(&now)), Ok(0))
}

/// Kills the command. One that is frozen does nothing more, whenever it is woken.
fn end(command: &OwnedFd) -> bool {
    let sent = pidfd_send_signal(command, Signal::KILL).map_err(io::Error::from);
    sent.inspect_err(|error| tracing::debug!(%error, "the command is not killed")).is_ok()
}

#[cfg(test)]
#[path = "outside_tests.rs"]
mod tests;
