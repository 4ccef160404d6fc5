//! Signals as events: the first one asks for an orderly end; later ones get a message that the run still
//! puts things back. A procedure never looks at signals itself; it looks at its [`Cancel`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a request for the end is put off at most: what takes longer hangs, and whoever asked is not kept waiting
/// for it.
const DEFERRED_AT_MOST: Duration = Duration::from_secs(30);

/// Which signal asked for the end of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// SIGINT: Ctrl-C.
    Int,
    /// SIGTERM.
    Term,
    /// SIGHUP: the terminal went away.
    Hup,
}

impl Interrupt {
    /// Returns the exit code that shells use for a process ended by this signal.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Int => 130,
            Self::Term => 143,
            Self::Hup => 129,
        }
    }
}

/// A request to end the run. Those who may make it and those who must heed it share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    token: CancellationToken,
    interrupt: Arc<OnceLock<Interrupt>>,
    deferrals: Arc<watch::Sender<usize>>,
}

/// Keeps a request back until something that has begun is over: see [`Cancel::defer`].
#[derive(Debug)]
pub struct Deferral(Arc<watch::Sender<usize>>);

impl Drop for Deferral {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Cancel {
    /// Asks for the end of the run. Returns true for the first request.
    pub fn request(&self, interrupt: Interrupt) -> bool {
        let first = self.interrupt.set(interrupt).is_ok();
        self.token.cancel();
        first
    }

    /// Returns which signal asked for the end, if one did.
    #[must_use]
    pub fn requested(&self) -> Option<Interrupt> {
        self.interrupt.get().copied()
    }

    /// Keeps requests back until the returned value is dropped, or for 30 seconds. Use it for the moment that decides
    /// what the run has done: that moment must be over, or not begun, when the run ends. What takes longer than that
    /// must be sound also if it is dropped in the middle.
    #[must_use]
    pub fn defer(&self) -> Deferral {
        self.deferrals.send_modify(|count| *count += 1);
        Deferral(Arc::clone(&self.deferrals))
    }

    /// Waits until somebody asks for the end and nothing [defers](Self::defer) it any more.
    pub async fn wait(&self) -> Interrupt {
        self.token.cancelled().await;
        let mut deferrals = self.deferrals.subscribe();
        let over = timeout(DEFERRED_AT_MOST, deferrals.wait_for(|count| *count == 0)).await;
        if over.is_err() {
            tracing::debug!("what puts off the end hangs, and is not waited for any longer");
        }
        self.requested().unwrap_or(Interrupt::Term)
    }
}

/// Listens for SIGINT, SIGTERM and SIGHUP until the runtime ends; `again` hears of every signal
/// after the first.
///
/// # Errors
/// When a signal handler cannot be installed.
pub fn listen(cancel: Cancel, again: impl Fn(Interrupt) + Send + 'static) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    // A file size limit should fail the write, which unwinds, and not end the process.
    let file_too_large = signal(SignalKind::from_raw(nix::sys::signal::Signal::SIGXFSZ as i32))?;
    tokio::spawn(async move {
        let _heard = file_too_large;
        loop {
            let interrupt = tokio::select! {
                _ = int.recv() => Interrupt::Int,
                _ = term.recv() => Interrupt::Term,
                _ = hup.recv() => Interrupt::Hup,
            };
            if !cancel.request(interrupt) {
                again(interrupt);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_is_heard_once_nothing_defers_it() {
        let cancel = Cancel::default();
        let (one, two) = (cancel.defer(), cancel.defer());
        cancel.request(Interrupt::Term);
        for deferral in [one, two] {
            assert!(timeout(DEFERRED_AT_MOST / 2, cancel.wait()).await.is_err());
            drop(deferral);
        }
        assert_eq!(cancel.wait().await, Interrupt::Term);
    }

    #[tokio::test(start_paused = true)]
    async fn what_defers_a_request_and_hangs_is_not_waited_for_any_longer() {
        let cancel = Cancel::default();
        let _hangs = cancel.defer();
        // Nobody has asked yet.
        assert!(timeout(DEFERRED_AT_MOST * 2, cancel.wait()).await.is_err());
        let asked = tokio::time::Instant::now();
        cancel.request(Interrupt::Int);
        assert_eq!(cancel.wait().await, Interrupt::Int);
        assert_eq!(asked.elapsed().as_secs(), DEFERRED_AT_MOST.as_secs());
    }
}
