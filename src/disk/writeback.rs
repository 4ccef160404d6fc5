//! Flushing written bytes to the disk while more are written: little is left to wait for at the end.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Sends the dirty pages in a range of a file to the disk, and does not wait for them.
///
/// In small steps, this leaves little to wait for when others sync to the same disk, such as a database its log. It is
/// advice: without it the same bytes go to the disk, only later and all at once.
pub(crate) fn start(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // This writes dirty pages, and forgets only clean ones.
    let _ignored = posix_fadvise(file, offset, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// A thread that syncs on request.
///
/// The system reports a failed write-back once for all handles of one opened file. So this thread must pass
/// such an error to the writer: the last sync would not report it again.
#[derive(Debug)]
pub(crate) struct Writeback {
    kick: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Writeback {
    /// Starts the thread; `sync` puts on the disk everything that was written before the call.
    pub(crate) fn spawn(mut sync: impl FnMut() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (kick, kicked) = sync_channel::<()>(1);
        let thread = thread::Builder::new().name("volsnap-writeback".to_owned()).spawn(move || {
            while kicked.recv().is_ok() {
                sync()?;
            }
            Ok(())
        })?;
        Ok(Self { kick, thread })
    }

    /// Asks for a sync; one that already waits covers this request too.
    pub(crate) fn kick(self) -> io::Result<Self> {
        match self.kick.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => Ok(self),
            Err(TrySendError::Disconnected(())) => match self.finish() {
                Err(error) => Err(error),
                Ok(()) => Err(io::Error::other("the write-back thread ended early")),
            },
        }
    }

    /// Waits for the thread, and returns its error.
    pub(crate) fn finish(self) -> io::Result<()> {
        drop(self.kick);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the write-back thread panicked")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_thread_is_told_reaches_the_writer() {
        let mut writeback = Writeback::spawn(|| Err(io::ErrorKind::StorageFull.into())).unwrap();
        let error = loop {
            match writeback.kick() {
                Ok(kicked) => writeback = kicked,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_request_that_waits_is_served_before_the_end() {
        let (synced, count) = std::sync::mpsc::channel();
        let writeback = Writeback::spawn(move || synced.send(()).map_err(io::Error::other)).unwrap();
        writeback.kick().unwrap().finish().unwrap();
        assert_eq!(count.iter().count(), 1);
    }
}
