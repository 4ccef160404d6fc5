//! Output that nobody reads holds no service down: the run goes on, and ends as it would.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::database::{Postgres, Volsnap};

/// Long enough for a snapshot on a slow machine, and for what is waited for in vain at its end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fills what `end` leads to, so that the next write to it blocks.
fn fill(end: &impl AsFd) {
    // Opened anew: this one alone does not wait.
    let path = format!("/proc/self/fd/{}", end.as_fd().as_raw_fd());
    let mut end = OpenOptions::new()
        .write(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
        .unwrap();
    for size in [512, 1] {
        while end.write(&vec![b'.'; size]).is_ok() {}
    }
}

/// A pipe that nobody reads; the reading end has to live.
fn full_pipe() -> (OwnedFd, File) {
    let (read, write) = nix::unistd::pipe().unwrap();
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    fill(&write);
    (read, write.into())
}

/// A terminal whose reader has stopped.
fn stopped_terminal() -> (OwnedFd, File) {
    let terminal = nix::pty::openpty(None, None).unwrap();
    fill(&terminal.slave);
    (terminal.master, terminal.slave.into())
}

fn await_end(mut child: Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    panic!("volsnap hangs");
}

async fn a_snapshot_goes_on(arguments: &[&str], stuck: (OwnedFd, File)) {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let (_reader, writer) = stuck;
    let mut command = volsnap.command(["snapshot", &postgres.target()]);
    let child = command.args(arguments).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    assert_eq!(await_end(child).code(), Some(0));
    postgres.assert_whole();
    let listed = volsnap.list();
    let downtime = listed[0]["downtime_ms"].as_u64().unwrap();
    assert!((1..15_000).contains(&downtime), "the service was away for {downtime} ms");
    volsnap.assert_no_leftovers();
    postgres.assert_no_helper();
}

#[tokio::test]
async fn a_snapshot_whose_messages_nobody_reads_is_taken_in_the_usual_time() {
    for verbose in ["-v", "-vvv", "--no-progress"] {
        a_snapshot_goes_on(&[verbose], full_pipe()).await;
    }
}

#[tokio::test]
async fn a_snapshot_on_a_stopped_terminal_is_taken_in_the_usual_time() {
    for option in ["-v", "--capture=staged"] {
        a_snapshot_goes_on(&[option], stopped_terminal()).await;
    }
}

#[tokio::test]
async fn a_failure_that_nobody_reads_has_its_exit_code_all_the_same() {
    let volsnap = Volsnap::new();
    let (_reader, writer) = full_pipe();
    let began = Instant::now();
    let child = volsnap.command(["snapshot", "volume:nosuch"]).stderr(writer).spawn().unwrap();
    assert_eq!(await_end(child).code(), Some(2));
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for {:?}", began.elapsed());
}
