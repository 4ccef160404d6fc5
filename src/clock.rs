//! What differs from one run to the next: the time of day, and what is drawn by chance. Both are asked of a value that is
//! handed down, so that a test can say what comes of them; `scripts/check` has them asked nowhere else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// Says what time it is, and draws ids.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Fixed>);

/// A clock that a test has set.
#[derive(Debug, Clone)]
struct Fixed {
    start: DateTime<Utc>,
    begun: Instant,
    drawn: Arc<AtomicU64>,
}

impl Clock {
    /// Returns the machine's clock, and its source of chance.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// Returns a clock that shows `start` now and goes on with the runtime's time, which a test may have virtual. What is
    /// drawn of it is 1, then 2, and so on.
    #[must_use]
    pub fn starting_at(start: DateTime<Utc>) -> Self {
        Self(Some(Fixed { start, begun: Instant::now(), drawn: Arc::default() }))
    }

    /// Returns the time of day.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            None => Utc::now(),
            Some(fixed) => fixed.start + TimeDelta::from_std(fixed.begun.elapsed()).unwrap_or(TimeDelta::MAX),
        }
    }

    /// Draws bytes that nobody else has drawn.
    ///
    /// # Errors
    /// When the machine has none.
    pub fn draw<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        match &self.0 {
            None => getrandom::fill(&mut bytes).map_err(io::Error::other)?,
            Some(fixed) => {
                let number = fixed.drawn.fetch_add(1, Ordering::Relaxed) + 1;
                let low = number.to_le_bytes().into_iter();
                bytes.iter_mut().rev().zip(low).for_each(|(byte, low)| *byte = low);
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_set_clock_goes_on_with_the_runtimes_time_and_draws_one_after_another() {
        let start: DateTime<Utc> = "2026-11-20T20:30:11Z".parse().unwrap();
        let clock = Clock::starting_at(start);
        let same = clock.clone();
        assert_eq!(clock.now(), start);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(same.now(), start + TimeDelta::seconds(90));
        assert_eq!(clock.draw().unwrap(), [0, 0, 1]);
        assert_eq!(same.draw().unwrap(), [0, 0, 0, 2]);
    }

    #[test]
    fn the_machines_clock_draws_what_it_has_not_drawn() {
        let clock = Clock::system();
        assert_ne!(clock.draw::<16>().unwrap(), clock.draw::<16>().unwrap());
    }
}
