//! The lease of a run in a file beside its journal, for a guard that shares no pipe with the command.
//!
//! The guard beside the command writes it, in a thread of its own: a state directory that hangs keeps neither the
//! command nor that guard. The file has the moment at which the lease runs out, on the machine's monotonic clock, which
//! is the same in every container of a machine. A moment of an earlier boot means nothing, and nobody asks for it: the
//! process that held the lease is gone with that boot.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::lease::Running;

/// Returns the file that belongs to a journal.
pub(super) fn path_of(journal: &Path) -> PathBuf {
    journal.with_extension("lease")
}

/// Writes a lease as it changes.
pub(super) struct SharedLease {
    moments: mpsc::Sender<Option<Duration>>,
    last: Option<Duration>,
}

impl SharedLease {
    /// Begins to write the lease of a journal's run; there is none yet.
    pub(super) fn of(journal: &Path) -> Self {
        let (moments, changes) = mpsc::channel::<Option<Duration>>();
        let path = path_of(journal);
        std::thread::spawn(move || {
            while let Ok(mut moment) = changes.recv() {
                // The newest alone counts.
                while let Ok(newer) = changes.try_recv() {
                    moment = newer;
                }
                if let Err(error) = write(&path, moment) {
                    tracing::debug!(%error, "the lease is not shared");
                }
            }
        });
        Self { moments, last: None }
    }

    /// Shares the lease as it is now.
    pub(super) fn share(&mut self, lease: Option<&Running>) {
        let ends_at = lease.and_then(Running::ends_at);
        let left = ends_at.map(|moment| moment.saturating_duration_since(tokio::time::Instant::now()));
        let moment = left.map(|left| now() + left);
        if moment != self.last {
            self.last = moment;
            // A thread that is stuck hears it when it can.
            let _ = self.moments.send(moment);
        }
    }
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Writes a moment: milliseconds, or nothing for a run without a lease. A file that is not there is made only for a
/// lease: whoever finishes the run removes it.
fn write(path: &Path, moment: Option<Duration>) -> io::Result<()> {
    let text = moment.map_or_else(|| "-".to_owned(), |moment| moment.as_millis().to_string());
    let mut options = OpenOptions::new();
    match options.write(true).create(moment.is_some()).truncate(false).mode(0o600).open(path) {
        // Of one length, so that whoever reads meanwhile has the old or the new.
        Ok(mut file) => file.write_all(format!("{text:>20}\n").as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns whether a run's lease ran out at least `slack` ago, as far as is known here.
pub(super) fn has_run_out(journal: &Path, slack: Duration) -> bool {
    let text = std::fs::read_to_string(path_of(journal)).unwrap_or_default();
    let moment = text.trim().parse().ok().map(Duration::from_millis);
    moment.is_some_and(|moment| now() > moment + slack)
}

/// Removes the lease of a run that is finished.
pub(super) fn remove(journal: &Path) {
    // Without its journal it says nothing to anybody.
    let _ = std::fs::remove_file(path_of(journal));
}

#[cfg(test)]
mod tests {
    use super::super::Terms;
    use super::*;

    #[test]
    fn a_lease_runs_out_by_the_file_alone_and_one_that_has_ended_never_does() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("run.jsonl");
        assert!(!has_run_out(&journal, Duration::ZERO), "nothing is known");
        write(&path_of(&journal), None).unwrap();
        assert!(!path_of(&journal).exists(), "made for no lease");
        write(&path_of(&journal), Some(now() + Duration::from_secs(60))).unwrap();
        assert!(!has_run_out(&journal, Duration::ZERO));
        write(&path_of(&journal), Some(now().saturating_sub(Duration::from_secs(3)))).unwrap();
        assert!(has_run_out(&journal, Duration::from_secs(2)));
        assert!(!has_run_out(&journal, Duration::from_secs(60)), "the guard beside it has time to act first");
        write(&path_of(&journal), None).unwrap();
        assert!(!has_run_out(&journal, Duration::ZERO));
        remove(&journal);
        assert!(!path_of(&journal).exists());
    }

    #[tokio::test]
    async fn what_is_shared_reaches_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("run.jsonl");
        let mut shared = SharedLease::of(&journal);
        let terms = Terms { progress_ms: Some(50), total_ms: None };
        shared.share(Some(&Running::begin(terms)));
        let begun = std::time::Instant::now();
        while !has_run_out(&journal, Duration::ZERO) {
            assert!(begun.elapsed() < Duration::from_secs(5), "it never runs out");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
