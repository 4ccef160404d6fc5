//! Counts threads beside the runtime: a test with virtual time has to know when nobody is at work.
//!
//! A runtime with a paused clock moves the clock on as soon as it has nothing to do, even while a thread of ours
//! works for it. So a test [enters](Outside::enter) a counter, threads that serve the runtime hold a [`Token`] of it
//! while they work, and the runtime [waits](Outside::settle) for them before it is idle. Outside such a test there is
//! no counter, and a token does nothing.

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

/// Somebody who is at work, or alive, holds it.
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
    /// Counts here what this thread starts from now on.
    pub fn enter(&self) {
        CURRENT.with_borrow_mut(|current| *current = Some(self.clone()));
    }

    /// Returns the token to hold while a thread started from this one has work.
    pub(crate) fn busy() -> Token {
        Token::of_current(What::Busy)
    }

    /// Returns the token that a thread started from this one holds for as long as it lives.
    pub(crate) fn alive() -> Token {
        Token::of_current(What::Alive)
    }

    /// Waits until nobody works for the runtime of this thread. Call it before the runtime is idle.
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
