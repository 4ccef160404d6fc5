//! What a run measures: when the service went and came back, and how long each phase took.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::event::Phase;
use crate::model::manifest::PhaseTime;

/// The measurements of one run. They outlive the procedure, so a failed one can tell the downtime too.
#[derive(Debug, Default)]
pub(super) struct PhaseTimer(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    held: Option<Instant>,
    released: Option<Instant>,
    phases: Vec<(Phase, Instant, u64)>,
}

impl PhaseTimer {
    /// Notes that the stop is about to be asked for.
    pub(super) fn held(&self) {
        self.measured().held = Some(Instant::now());
    }

    /// Returns when the stop was asked for.
    pub(super) fn held_at(&self) -> Option<Instant> {
        self.measured().held
    }

    /// Notes that the service answers again, and returns how long it was away.
    pub(super) fn released(&self) -> Duration {
        let mut measured = self.measured();
        let now = Instant::now();
        measured.released = Some(now);
        measured.held.map_or(Duration::ZERO, |held| now - held)
    }

    /// Returns how long the service was away, or has been until now; `None` if nothing was stopped.
    pub(super) fn away(&self) -> Option<Duration> {
        let measured = self.measured();
        let end = measured.released.unwrap_or_else(Instant::now);
        measured.held.map(|held| end - held)
    }

    /// Notes that a phase begins.
    pub(super) fn phase(&self, phase: Phase) {
        self.measured().phases.push((phase, Instant::now(), 0));
    }

    /// Notes that the current phase has read this many bytes more.
    pub(super) fn bytes(&self, bytes: u64) {
        if let Some((_, _, total)) = self.measured().phases.last_mut() {
            *total += bytes;
        }
    }

    /// Returns how long each phase took, the last one until now.
    pub(super) fn phases(&self) -> Vec<PhaseTime> {
        let measured = self.measured();
        let ends = measured.phases.iter().skip(1).map(|(_, begin, _)| *begin).chain([Instant::now()]);
        measured
            .phases
            .iter()
            .zip(ends)
            .map(|((phase, begin, bytes), end)| PhaseTime {
                phase: *phase,
                ms: milliseconds(end - *begin),
                bytes: *bytes,
            })
            .collect()
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        // Plain values, whole at every moment: a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a duration in whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
