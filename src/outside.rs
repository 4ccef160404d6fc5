//! Counts threads beside the runtime: a test with virtual time has to know when nobody is at work.
//!
//! A runtime with a paused clock moves the clock on as soon as it has nothing to do, even while a thread of ours
//! works for it. So a test [enters](Outside::enter) a counter, threads that serve the runtime hold a [`Token`] of it
//! while they work, and the runtime [waits](Outside::settle) for them before it is idle. Outside such a test there is
//! no counter, and a token does nothing.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

thread_local! {
    static CURRENT: RefCell<Option<Outside>> = const { RefCell::new(None) };
}

/// How long to wait between looks at the counters while somebody is at work.
const PAUSE: Duration = Duration::from_micros(10);

/// Counts who is at work beside the runtime of one test.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    busy: Arc<AtomicUsize>,
    alive: Arc<AtomicUsize>,
}

/// Somebody who is at work, or alive, holds it.
#[derive(Debug, Default)]
pub struct Token(Option<Arc<AtomicUsize>>);

impl Token {
    fn of(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(Some(counter.clone()))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(counter) = &self.0 {
            counter.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Outside {
    /// Counts here what this thread starts from now on.
    pub fn enter(&self) {
        CURRENT.with_borrow_mut(|current| *current = Some(self.clone()));
    }

    /// Returns the token to hold while a thread started from this one has work.
    pub(crate) fn busy() -> Token {
        CURRENT
            .with_borrow(|current| current.as_ref().map(|outside| Token::of(&outside.busy)))
            .unwrap_or_default()
    }

    /// Returns the token that a thread started from this one holds for as long as it lives.
    pub(crate) fn alive() -> Token {
        CURRENT
            .with_borrow(|current| current.as_ref().map(|outside| Token::of(&outside.alive)))
            .unwrap_or_default()
    }

    /// Waits until nobody works for the runtime of this thread. Call it before the runtime is idle.
    pub fn settle() {
        let Some(outside) = CURRENT.with_borrow(Clone::clone) else { return };
        while outside.busy.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until every thread has ended.
    pub fn await_end(&self) {
        while self.busy.load(Ordering::SeqCst) + self.alive.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(PAUSE);
        }
    }
}
