//! What is not drawn yet: a bounded queue between a run and the thread that draws it.
//!
//! A stopped terminal, or a pipe that nobody reads, blocks its writer, and a run that blocks keeps a service
//! down. So a run only ever [puts](Queue::put) things here, and never waits for them to be written: without room
//! the queue drops them, and a count takes their place.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A bounded queue whose producer never waits.
pub(super) struct Queue<T> {
    limit: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// What waits.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<T> {
    /// What was put.
    Item(T),
    /// How many found no room here.
    Dropped(u64),
}

struct State<T> {
    waiting: VecDeque<Entry<T>>,
    /// Whether the consumer still works on what it took.
    busy: bool,
    /// How many are done.
    done: u64,
}

impl<T> Queue<T> {
    /// Returns an empty queue with room for `limit`.
    pub(super) fn new(limit: usize) -> Self {
        let state = State { waiting: VecDeque::new(), busy: false, done: 0 };
        Self { limit, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Puts something last, or counts it as dropped if there is no room.
    pub(super) fn put(&self, item: T) {
        let mut state = self.state();
        let full = state.waiting.len() >= self.limit;
        match state.waiting.back_mut() {
            Some(Entry::Dropped(count)) if full => *count += 1,
            _ if full => state.waiting.push_back(Entry::Dropped(1)),
            _ => state.waiting.push_back(Entry::Item(item)),
        }
        self.changed.notify_all();
    }

    /// Puts something last that makes older ones of its kind needless: replaces the last if `same` says so, and
    /// drops it uncounted if there is no room.
    pub(super) fn put_latest(&self, item: T, same: impl FnOnce(&T) -> bool) {
        let mut state = self.state();
        let full = state.waiting.len() >= self.limit;
        match state.waiting.back_mut() {
            Some(Entry::Item(last)) if same(last) => *last = item,
            _ if full => {}
            _ => state.waiting.push_back(Entry::Item(item)),
        }
        self.changed.notify_all();
    }

    /// Puts something last even without room. For the few things that end a run.
    pub(super) fn put_always(&self, item: T) {
        self.state().waiting.push_back(Entry::Item(item));
        self.changed.notify_all();
    }

    /// Takes the first; waits for it, but not longer than `limit`. The one taken before counts as done.
    pub(super) fn take(&self, limit: Option<Duration>) -> Option<Entry<T>> {
        let mut state = self.state();
        if state.busy {
            state.busy = false;
            state.done += 1;
            self.changed.notify_all();
        }
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            if let Some(entry) = state.waiting.pop_front() {
                state.busy = true;
                return Some(entry);
            }
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Waits until all are done; gives up if none is done within `patience`. Returns whether all are done.
    pub(super) fn drain(&self, patience: Duration) -> bool {
        let mut state = self.state();
        let (mut done, mut since) = (state.done, Instant::now());
        while state.busy || !state.waiting.is_empty() {
            if state.done != done {
                (done, since) = (state.done, Instant::now());
            }
            let left = patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);

    fn all(queue: &Queue<u32>) -> Vec<Entry<u32>> {
        std::iter::from_fn(|| queue.take(Some(Duration::ZERO))).collect()
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted_where_it_would_have_been() {
        let queue = Queue::new(2);
        (1..=5).for_each(|item| queue.put(item));
        queue.put_always(6);
        queue.put(7);
        assert_eq!(queue.take(None), Some(Entry::Item(1)));
        let left = [Entry::Item(2), Entry::Dropped(3), Entry::Item(6), Entry::Dropped(1)];
        assert_eq!(all(&queue), left);
        queue.put(8);
        assert_eq!(all(&queue), [Entry::Item(8)]);
    }

    #[test]
    fn the_latest_replaces_its_like_and_nothing_else() {
        let queue = Queue::new(3);
        queue.put(1);
        (10..20).for_each(|item| queue.put_latest(item, |last| *last >= 10));
        queue.put(2);
        (20..30).for_each(|item| queue.put_latest(item, |last| *last >= 10));
        assert_eq!(all(&queue), [1, 19, 2].map(Entry::Item));
    }

    #[test]
    fn one_waits_for_the_end_only_as_long_as_something_is_done() {
        let queue = Arc::new(Queue::new(9));
        assert!(queue.drain(MOMENT), "nothing is waiting");
        (1..=3).for_each(|item| queue.put(item));
        assert!(!queue.drain(MOMENT), "nobody takes anything");
        let worker = thread::spawn({
            let queue = queue.clone();
            move || {
                while queue.take(Some(MOMENT * 50)).is_some_and(|entry| entry != Entry::Item(4)) {
                    thread::sleep(MOMENT);
                }
            }
        });
        assert!(queue.drain(MOMENT * 40), "each took less than that");
        queue.put(4);
        worker.join().unwrap();
        assert!(!queue.drain(MOMENT), "the last was taken and never done");
    }
}
