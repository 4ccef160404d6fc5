//! A hold has a deadline: a command that hangs is ended by its guard, and the service is back.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::database::{Postgres, Volsnap};
use crate::interruptions::{BACK_LIMIT, await_tidy};

/// What the guard gives a command that has a limit of its own to end itself.
const OWN_END: Duration = Duration::from_secs(5);

/// Stops the command (SIGSTOP) as soon as it has begun a step of its hold: nothing of it runs any more, and nothing
/// of it ends.
async fn is_back_when_stopped_at(step: &str) {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let mut watched = postgres.snapshot(&volsnap, &["--capture", "direct", "--max-downtime", "2s"]);
    assert!(watched.reach(step), "the run ended before {step}");
    watched.signal(Signal::SIGSTOP);
    let hung = Instant::now();
    postgres.await_answer_within(Duration::from_secs(2) + OWN_END + BACK_LIMIT);
    println!("{step}: the service answered {:.1} s after it hung", hung.elapsed().as_secs_f64());
    // It was killed, and by nobody but its guard.
    let (code, said) = watched.end();
    assert_eq!(code, None, "{said}");
    await_tidy(&postgres, &volsnap);
    postgres.assert_whole();
    assert!(volsnap.list().is_empty(), "published by a run that was ended");
}

#[tokio::test]
async fn a_command_that_is_stopped_while_it_looks_at_the_shutdown_is_ended_by_its_guard() {
    is_back_when_stopped_at("prove").await;
}

#[tokio::test]
async fn a_command_that_is_stopped_while_it_archives_is_ended_by_its_guard() {
    is_back_when_stopped_at("archive").await;
}

#[tokio::test]
async fn a_command_that_goes_on_after_a_pause_goes_on_with_its_snapshot() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let mut watched = postgres.snapshot(&volsnap, &[]);
    assert!(watched.reach("prove"), "the run ended before the hold");
    watched.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(3));
    watched.signal(Signal::SIGCONT);
    let (code, said) = watched.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(volsnap.list().len(), 1);
}

/// A file system that can be made to hang; only root can have one.
struct Disk {
    path: PathBuf,
    _image: tempfile::TempDir,
}

impl Disk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (image, path) = (directory.path().join("image"), directory.path().join("disk"));
        std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(&path).unwrap();
        let is_done = |program: &str, options: &[&str], paths: &[&Path]| {
            Command::new(program).args(options).args(paths).output().is_ok_and(|done| done.status.success())
        };
        let mounted = nix::unistd::geteuid().is_root()
            && is_done("mkfs.ext4", &["-q"], &[&image])
            && is_done("mount", &["-o", "loop"], &[&image, &path]);
        mounted.then_some(Self { path, _image: directory })
    }

    /// From here on every write waits, in the kernel, where no signal ends it.
    fn freeze(&self, on: bool) {
        let option = if on { "--freeze" } else { "--unfreeze" };
        let done = Command::new("fsfreeze").arg(option).arg(&self.path).output().unwrap();
        assert!(done.status.success() || !on, "{done:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.freeze(false);
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

#[tokio::test]
async fn a_repository_that_hangs_keeps_nothing_down_though_its_writer_cannot_be_killed() {
    let Some(disk) = Disk::mount() else { return };
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let repository = disk.path.join("repository");
    let mut command = volsnap.command([
        "snapshot",
        &postgres.target(),
        "--capture",
        "direct",
        "--max-downtime",
        "2s",
        "--repo",
        repository.to_str().unwrap(),
    ]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    while postgres.answers() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    disk.freeze(true);
    let hung = Instant::now();
    postgres.await_answer_within(Duration::from_secs(2) + OWN_END + BACK_LIMIT);
    println!(
        "a repository that hangs: the service answered {:.1} s after it hung",
        hung.elapsed().as_secs_f64()
    );
    disk.freeze(false);
    let ended = child.wait().unwrap();
    // It may have been done before it was frozen.
    assert!(ended.signal().is_some() || ended.code().is_some());
    let ran = volsnap.command(["verify", "--all", "--repo", repository.to_str().unwrap()]).output().unwrap();
    assert!(matches!(ran.status.code(), Some(0 | 2)), "{ran:?}");
    postgres.assert_whole();
}
