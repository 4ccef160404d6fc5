//! Ends the processes that a command started beside itself and that may have outlived it; their mark tells them.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::{Result, UndoError};
use crate::compose::MARK;
use crate::saga::RetryBudget;

const POLL: Duration = Duration::from_millis(20);

/// Ends every process that carries the mark of a run, and returns once there is none: nothing is put back or started
/// before. If processes cannot be looked at, none of them is ours: only Linux has the engine on the same machine.
///
/// # Errors
/// When a process does not go within `patience`, for example because it waits for a dead disk.
pub(super) async fn end(run: &str, patience: RetryBudget) -> Result<()> {
    let deadline = Instant::now() + patience.0;
    loop {
        let marked = marked(Path::new("/proc"), run);
        let Some(first) = marked.first() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(UndoError::NotEnded { pid: first.as_raw() });
        }
        for pid in &marked {
            // If it is already gone, that is as good.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        sleep(POLL).await;
    }
}

/// Returns the processes with the mark in their environment. A process that has ended no longer has one.
fn marked(processes: &Path, run: &str) -> Vec<Pid> {
    let mark = format!("{MARK}={run}");
    let has_mark =
        |environment: &[u8]| environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes());
    let Ok(entries) = std::fs::read_dir(processes) else { return Vec::new() };
    let pid_of = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        has_mark(&std::fs::read(entry.path().join("environ")).ok()?).then(|| Pid::from_raw(pid))
    };
    entries.flatten().filter_map(pid_of).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn only_what_carries_the_mark_is_ended_with_all_that_it_has_started() {
        let start = |run: &str| {
            let script = "sleep 300 & echo started; wait";
            let mut child = Command::new("sh")
                .args(["-c", script])
                .env(MARK, run)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = [0; 8];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
            child
        };
        let own = format!("test-{}", std::process::id());
        let (mut ours, mut other) = (start(&own), start(&format!("{own}-other")));
        // The shell and its sleep.
        assert_eq!(marked(Path::new("/proc"), &own).len(), 2);
        end(&own, RetryBudget::SHORT).await.unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        end(&format!("{own}-other"), RetryBudget::SHORT).await.unwrap();
        other.wait().unwrap();
        end(&own, RetryBudget::SHORT).await.unwrap();
    }
}
