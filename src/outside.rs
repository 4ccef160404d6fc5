//! Threads beside the runtime, counted, so that a test whose time is virtual knows when nobody is at work.
//!
//! A runtime whose clock is paused moves it on as soon as it has nothing to do, also while a thread of ours works
//! for it. So a test [enters](Outside::enter) a counter, threads that serve the runtime hold a [`Token`] of it while
//! they are at work, and the runtime [waits](Outside::settle) for them before it is idle. Outside of such a test
//! there is no counter, and a token is nothing.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

thread_local! {
    static CURRENT: RefCell<Option<Outside>> = const { RefCell::new(None) };
}

/// How long a look at the counters is put off while somebody is at work.
const PAUSE: Duration = Duration::from_micros(10);

/// Counts who is at work beside the runtime of one test.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    busy: Arc<AtomicUsize>,
    alive: Arc<AtomicUsize>,
}

/// Held by somebody who is at work, or alive.
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
    /// Has what this thread starts from here on be counted here.
    pub fn enter(&self) {
        CURRENT.with_borrow_mut(|current| *current = Some(self.clone()));
    }

    /// Returns what to hold while there is work for a thread that was started from this one.
    pub(crate) fn busy() -> Token {
        CURRENT
            .with_borrow(|current| current.as_ref().map(|outside| Token::of(&outside.busy)))
            .unwrap_or_default()
    }

    /// Returns what a thread holds that is started from this one, for as long as it lives.
    pub(crate) fn alive() -> Token {
        CURRENT
            .with_borrow(|current| current.as_ref().map(|outside| Token::of(&outside.alive)))
            .unwrap_or_default()
    }

    /// Waits until nobody is at work for the runtime of this thread: to be called before it is idle.
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
