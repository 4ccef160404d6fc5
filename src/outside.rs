//! Threads beside the runtime, counted, so that a test whose time is virtual knows when nobody is at work.
//!
//! A runtime whose clock is paused moves it on as soon as it has nothing to do, also while a thread of ours works
//! for it. So a test [enters](Outside::enter) a counter, threads that serve the runtime hold a [`Token`] of it while
//! they are at work, and the runtime [waits](Outside::settle) for them before it is idle. Outside of such a test
//! there is no counter, and a token is nothing.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

thread_local! {
    static CURRENT: RefCell<Option<Outside>> = const { RefCell::new(None) };
}

/// Counts who is at work beside the runtime of one test.
#[derive(Debug, Clone, Default)]
pub struct Outside(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    busy: usize,
    alive: usize,
}

impl Counts {
    fn of(&mut self, what: What) -> &mut usize {
        match what {
            What::Busy => &mut self.busy,
            What::Alive => &mut self.alive,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Busy,
    Alive,
}

/// Held by somebody who is at work, or alive.
#[derive(Debug, Default)]
pub struct Token(Option<(Outside, What)>);

impl Token {
    fn of_current(what: What) -> Self {
        let Some(outside) = CURRENT.with_borrow(Clone::clone) else { return Self(None) };
        *outside.counts().of(what) += 1;
        Self(Some((outside, what)))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some((outside, what)) = &self.0 {
            *outside.counts().of(*what) -= 1;
            outside.0.fewer.notify_all();
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
        Token::of_current(What::Busy)
    }

    /// Returns what a thread holds that is started from this one, for as long as it lives.
    pub(crate) fn alive() -> Token {
        Token::of_current(What::Alive)
    }

    /// Waits until nobody is at work for the runtime of this thread: to be called before it is idle.
    pub fn settle() {
        if let Some(outside) = CURRENT.with_borrow(Clone::clone) {
            outside.wait_while(|counts| counts.busy > 0);
        }
    }

    /// Waits until every thread has ended.
    pub fn await_end(&self) {
        self.wait_while(|counts| counts.busy + counts.alive > 0);
    }

    fn wait_while(&self, is_so: impl Fn(&Counts) -> bool) {
        let waited = self.0.fewer.wait_while(self.counts(), |counts| is_so(counts));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// No panic comes while it is held.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
