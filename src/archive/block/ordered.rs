//! Work in parallel, results in order.
//!
//! Each job brings the channel for its result. A thread that dies drops that channel, and whoever waits on
//! the other end learns of it: nobody can wait for ever.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::archive::ArchiveError;

/// Threads that work on jobs of type `J` and answer with `O`.
pub(super) struct Workers<J, O> {
    jobs: Sender<(J, SyncSender<O>)>,
}

/// The promise of one result.
pub(super) struct Ticket<O>(Receiver<O>);

impl<J: Send + 'static, O: Send + 'static> Workers<J, O> {
    /// Starts `threads` threads; each makes its own state with `make`, then works on jobs.
    pub(super) fn start<F: FnMut(J) -> O>(
        threads: usize,
        make: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Self, ArchiveError> {
        let (jobs, queue) = channel::<(J, SyncSender<O>)>();
        let queue = Arc::new(Mutex::new(queue));
        let make = Arc::new(make);
        for number in 0..threads.max(1) {
            let (queue, make) = (Arc::clone(&queue), Arc::clone(&make));
            thread::Builder::new()
                .name(format!("block-{number}"))
                .spawn(move || work(&queue, make()))
                .map_err(|source| ArchiveError::Threads { source })?;
        }
        Ok(Self { jobs })
    }

    /// Hands `job` to the next free thread.
    pub(super) fn submit(&self, job: J) -> Result<Ticket<O>, ArchiveError> {
        let (answer, ticket) = sync_channel(1);
        self.jobs.send((job, answer)).map_err(|_| ArchiveError::WorkerDied)?;
        Ok(Ticket(ticket))
    }
}

impl<O> Ticket<O> {
    /// Waits for the result.
    pub(super) fn wait(self) -> Result<O, ArchiveError> {
        self.0.recv().map_err(|_| ArchiveError::WorkerDied)
    }
}

/// Works until the queue's other end is gone.
fn work<J, O>(queue: &Mutex<Receiver<(J, SyncSender<O>)>>, mut job: impl FnMut(J) -> O) {
    loop {
        // It holds the lock while it waits, and for nothing that could panic.
        let next = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok((input, answer)) = next else { return };
        // The caller may have gone meanwhile; then nobody needs the answer.
        let _gone = answer.send(job(input));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let workers = Workers::start(3, || {
            |n: u64| {
                thread::sleep(std::time::Duration::from_millis(5 - n % 5));
                n
            }
        })
        .unwrap();
        let tickets: Vec<_> = (0..20).map(|n| workers.submit(n).unwrap()).collect();
        let results: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
        assert_eq!(results, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_worker_that_panics_is_an_error_for_all_that_wait() {
        let workers = Workers::start(1, || {
            |n: u32| {
                assert!(n != 1, "the panic of this test");
                n
            }
        })
        .unwrap();
        let tickets: Vec<_> = (0..3).filter_map(|n| workers.submit(n).ok()).collect();
        let died = tickets.into_iter().map(Ticket::wait).filter(Result::is_err).count();
        assert!(died >= 1);
    }
}
