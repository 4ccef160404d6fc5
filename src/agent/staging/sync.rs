//! Sends dirty data to the disk, and meanwhile tells whoever waits that something goes on.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::times::{Synced, trusts_times};
use super::{StageError, device};
use crate::agent::archive::Progress;

/// How often to report progress.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// Sends the source's dirty data to the disk; returns when that began, if times prove anything.
pub(super) fn source(
    root: &File,
    slack: Duration,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Synced>, StageError> {
    let failed = |source: io::Error| StageError::Sync { what: "source", source };
    let synced = Synced::now(device(root).map_err(failed)?, slack);
    let result = telling(progress, || nix::unistd::syncfs(root));
    result.map_err(|errno| failed(errno.into()))?;
    Ok(trusts_times(root).then_some(synced))
}

/// Sends everything on the stage's file system to the disk.
pub(super) fn stage(directory: &File, progress: &mut dyn FnMut(Progress)) -> Result<(), StageError> {
    let result = telling(progress, || nix::unistd::syncfs(directory));
    result.map_err(|errno| StageError::Sync { what: "stage", source: errno.into() })
}

/// Reports progress while `work` takes its time.
pub(super) fn telling<T: Send>(progress: &mut dyn FnMut(Progress), work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        let working = scope.spawn(move || {
            let _ended = ended;
            work()
        });
        while end.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            progress(Progress::default());
        }
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
