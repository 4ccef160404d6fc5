//! A hold has a deadline: the guard's lease on a run that holds a service.
//!
//! The command renews it whenever bytes have moved, a step was reached or the engine has answered, never by a timer.
//! So a run that hangs, is stopped, or waits for a dead disk does not renew it, even if its process is alive. When the
//! lease runs out, the guard ends the run and puts the service back.
//!
//! | while | without progress | in all |
//! |---|---|---|
//! | containers are asked to stop, or frozen | 60 s, or the user's limit | what they may take, and 60 s |
//! | a snapshot reads what is held | 60 s; none with the user's limit | 10 min or four times what is expected, or the user's limit |
//! | a restore or a migration changes data | 10 min | any time |
//! | Compose makes containers anew | any time | what it may take, and 60 s |
//! | a command has the service back | 60 s, or the user's limit | any time |
//!
//! Once the service answers, no lease applies. None applies either to a run that is putting things back because it has
//! ended: undoing takes the time that it takes.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a run may hold a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Milliseconds that may pass without a renewal; `None` for any time.
    pub progress_ms: Option<u64>,
    /// Milliseconds in all; `None` for any time.
    pub total_ms: Option<u64>,
}

/// A hold ends after this time without any progress.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// A phase that changes data ends after this time without any progress. The agent must say something sooner.
const CHANGE_LIMIT: Duration = Duration::from_mins(10);
/// A hold may always take this long, however short it was expected to be.
const TOTAL_LIMIT: Duration = Duration::from_mins(10);
/// How many times longer than expected a hold may take.
const OVER_EXPECTED: u32 = 4;
/// How long after the user's own limit the guard ends a run that has not ended by itself.
const OWN_END: Duration = Duration::from_secs(5);
/// How long an engine may take for one answer, whatever limit the user has set.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

impl Terms {
    /// Returns the terms of a hold with this expected duration: a minute without progress, or the larger of ten
    /// minutes and four times the expected duration. What is left of the user's `max_downtime` replaces both: the run
    /// ends itself at that moment, and if it does not, the guard ends it a little later.
    #[must_use]
    pub fn of_hold(expected: Duration, max_downtime_left: Option<Duration>) -> Self {
        match max_downtime_left {
            Some(limit) => Self { progress_ms: None, total_ms: Some(milliseconds(limit + OWN_END)) },
            None => Self {
                progress_ms: Some(milliseconds(PROGRESS_LIMIT)),
                total_ms: Some(milliseconds(TOTAL_LIMIT.max(expected * OVER_EXPECTED))),
            },
        }
    }

    /// Returns the terms of a wait for containers to stop. It has a limit of its own: meanwhile the command asks the
    /// engine, and each answer counts as progress.
    #[must_use]
    pub fn of_stop(limit: Duration, max_downtime: Option<Duration>) -> Self {
        Self { progress_ms: Some(milliseconds(patience(max_downtime))), ..Self::of_wait(limit) }
    }

    /// Returns the terms of a wait that has a limit of its own and shows no progress, such as that for Compose: the
    /// guard ends the run only if the run has not ended the wait itself.
    #[must_use]
    pub fn of_wait(limit: Duration) -> Self {
        Self { progress_ms: None, total_ms: Some(milliseconds(limit + PROGRESS_LIMIT)) }
    }

    /// Returns the terms of a phase that changes data, such as restoring or moving it. It may take any time as long as
    /// it goes on. It is silent for longer than a snapshot while a disk writes what it has taken, or while a tree is
    /// removed.
    #[must_use]
    pub fn of_change() -> Self {
        Self { progress_ms: Some(milliseconds(CHANGE_LIMIT)), total_ms: None }
    }

    /// Returns the terms of putting a service back. It may take any time as long as it goes on: if the run hangs
    /// there, its guard would do the same thing.
    #[must_use]
    pub fn of_release(max_downtime: Option<Duration>) -> Self {
        Self { progress_ms: Some(milliseconds(patience(max_downtime))), total_ms: None }
    }
}

/// Returns how long nothing may happen while the command asks the engine again and again.
fn patience(max_downtime: Option<Duration>) -> Duration {
    max_downtime.map_or(PROGRESS_LIMIT, |limit| (limit + OWN_END).clamp(ANSWER_LIMIT, PROGRESS_LIMIT))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A lease at the guard's end, on the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    terms: Terms,
    begun: Instant,
    renewed: Instant,
}

impl Running {
    pub(super) fn begin(terms: Terms) -> Self {
        let now = Instant::now();
        Self { terms, begun: now, renewed: now }
    }

    pub(super) fn renew(&mut self) {
        self.renewed = Instant::now();
    }

    /// Returns when it runs out; `None` for never.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let total = self.terms.total_ms.map(|ms| self.begun + Duration::from_millis(ms));
        let progress = self.terms.progress_ms.map(|ms| self.renewed + Duration::from_millis(ms));
        match (total, progress) {
            (Some(total), Some(progress)) => Some(total.min(progress)),
            (total, progress) => total.or(progress),
        }
    }
}

/// What the command says about its lease. Nothing here blocks or fails: a guard that does not hear has ended, or the
/// next registration will report it.
#[derive(Debug, Clone, Default)]
pub struct Lease(To);

/// Who hears it.
#[derive(Debug, Clone, Default)]
enum To {
    #[default]
    Nobody,
    Guard(Arc<Renewing>),
    Watch(LeaseWatch),
}

/// A lease that the process itself watches, for tests: whoever drives a run ends it when the lease runs out.
#[derive(Debug, Clone, Default)]
pub struct LeaseWatch(Arc<watch::Sender<Option<Running>>>);

impl LeaseWatch {
    /// Returns once a lease has run out.
    pub async fn run_out(&self) {
        let mut running = self.0.subscribe();
        loop {
            let ends_at = running.borrow_and_update().as_ref().and_then(Running::ends_at);
            let over = async {
                match ends_at {
                    Some(moment) => sleep_until(moment).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                // Its sender lives as long as this.
                _ = running.changed() => {}
                () = over => return,
            }
        }
    }
}

#[derive(Debug)]
struct Renewing {
    pipe: super::guard::Pipe,
    begun: Instant,
    /// Milliseconds from the start to the last renewal: what was just renewed is not renewed again.
    renewed_ms: AtomicU64,
}

/// Faster renewals would say nothing more.
const RENEW_AT_MOST_EVERY_MS: u64 = 500;

impl Lease {
    pub(super) fn over(pipe: super::guard::Pipe) -> Self {
        let renewing = Renewing { pipe, begun: Instant::now(), renewed_ms: AtomicU64::new(0) };
        Self(To::Guard(Arc::new(renewing)))
    }

    pub(super) fn watched_by(watch: &LeaseWatch) -> Self {
        Self(To::Watch(watch.clone()))
    }

    /// Begins a lease, and replaces any that runs.
    pub fn begin(&self, terms: Terms) {
        self.tell(Some(terms));
    }

    /// Ends it: from here on the run takes as long as it takes.
    pub fn end(&self) {
        self.tell(None);
    }

    fn tell(&self, terms: Option<Terms>) {
        match &self.0 {
            To::Nobody => {}
            To::Guard(renewing) => renewing.pipe.try_tell(&super::guard::Message::Lease(terms)),
            To::Watch(watch) => drop(watch.0.send_replace(terms.map(Running::begin))),
        }
    }

    /// Renews it: bytes have moved, or a step was reached.
    pub fn renew(&self) {
        let renewing = match &self.0 {
            To::Nobody => return,
            To::Guard(renewing) => renewing,
            To::Watch(watch) => {
                return watch.0.send_modify(|lease| lease.iter_mut().for_each(Running::renew));
            }
        };
        let now = milliseconds(renewing.begun.elapsed());
        let before = renewing.renewed_ms.load(Ordering::Relaxed);
        if before != 0 && now < before + RENEW_AT_MOST_EVERY_MS {
            return;
        }
        renewing.renewed_ms.store(now.max(1), Ordering::Relaxed);
        renewing.pipe.try_tell(&super::guard::Message::Renew);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_runs_out_without_progress_and_after_all_its_time_whatever_moves() {
        let mut lease = Running::begin(Terms::of_hold(Duration::from_secs(200), None));
        let begun = Instant::now();
        assert_eq!(lease.ends_at(), Some(begun + Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(50)).await;
        lease.renew();
        assert_eq!(lease.ends_at(), Some(begun + Duration::from_secs(110)));
        tokio::time::advance(Duration::from_secs(745)).await;
        lease.renew();
        assert_eq!(lease.ends_at(), Some(begun + Duration::from_secs(800)));
    }

    #[test]
    fn a_limit_of_the_user_replaces_both() {
        let terms = Terms::of_hold(Duration::from_secs(1), Some(Duration::from_secs(7)));
        assert_eq!(terms, Terms { progress_ms: None, total_ms: Some(12_000) });
        let short = Terms::of_hold(Duration::from_secs(1), None);
        assert_eq!(short.total_ms, Some(600_000));
    }

    #[test]
    fn a_limit_of_the_user_shortens_what_a_stop_and_a_start_may_be_silent_for() {
        for (max_downtime, seconds) in [(None, 60), (Some(1), 15), (Some(30), 35), (Some(3600), 60)] {
            let max_downtime = max_downtime.map(Duration::from_secs);
            let (stop, release) =
                (Terms::of_stop(Duration::from_secs(300), max_downtime), Terms::of_release(max_downtime));
            assert_eq!(stop, Terms { progress_ms: Some(seconds * 1000), total_ms: Some(360_000) });
            assert_eq!(release, Terms { progress_ms: Some(seconds * 1000), total_ms: None });
        }
    }
}
