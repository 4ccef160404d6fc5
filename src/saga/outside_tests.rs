//! The guard outside, on real locks of real processes.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Instant;

use super::*;
use crate::model::event::Silent;
use crate::saga::testing::{Act, Recorded, info};
use crate::saga::{RunInfo, When};

/// Longer than the guard takes for anything.
const SOON: Duration = Duration::from_secs(10);

/// Makes a journal with these things registered, whose owner holds its lock as long as it is returned.
fn journal_of(acts: &[Act], pid: u32) -> (tempfile::TempDir, Journal<Act>) {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &RunInfo { pid, ..info() }).unwrap();
    for act in acts {
        journal.register(When::Always, act.clone()).unwrap();
    }
    (state, journal)
}

fn start() -> Act {
    Act::of(Rank::Service, "start db", &["db"])
}

fn helper() -> Act {
    Act::of(Rank::Helper, "remove the helper", &[])
}

/// Watches until the end, and returns what was done.
async fn watch(journal: PathBuf) -> Vec<String> {
    let world = Arc::new(Recorded::default());
    let connect = async |_: Option<String>| Ok::<_, fmt::Error>(world.clone());
    let watched = watch_lock::<Act, _, _, _>(&journal, connect, &Silent);
    tokio::time::timeout(SOON, watched).await.expect("it watches on").unwrap();
    world.done()
}

/// A process of its own that holds the lock of a journal.
fn hold(journal: &Path) -> Child {
    let holder =
        Command::new("flock").args(["-x", "-o"]).arg(journal).args(["sleep", "300"]).spawn().unwrap();
    let begun = Instant::now();
    while !matches!(Journal::<Act>::open(journal), Ok(Opened::Held)) {
        assert!(begun.elapsed() < SOON, "nobody holds it");
        std::thread::sleep(Duration::from_millis(10));
    }
    holder
}

#[tokio::test]
async fn a_run_is_finished_as_soon_as_its_lock_is_free_and_not_before() {
    let (_state, journal) = journal_of(&[helper(), start()], 1);
    let path = journal.path().to_owned();
    let held = Instant::now();
    let dies = async {
        sleep(Duration::from_secs(1)).await;
        drop(journal);
    };
    let (done, ()) = tokio::join!(watch(path.clone()), dies);
    assert!(held.elapsed() >= Duration::from_secs(1), "while its owner was alive");
    assert_eq!(done, ["start db", "remove the helper"]);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_run_that_finishes_by_itself_is_left_alone() {
    let (_state, journal) = journal_of(&[start()], 1);
    let finishes = async {
        sleep(Duration::from_millis(300)).await;
        journal.remove().unwrap();
    };
    let (done, ()) = tokio::join!(watch(journal.path().to_owned()), finishes);
    assert!(done.is_empty(), "{done:?}");
}

#[tokio::test]
async fn a_lock_that_is_free_at_first_means_death_only_if_a_service_is_held() {
    let (_state, journal) = journal_of(&[helper()], 1);
    let path = journal.path().to_owned();
    drop(journal);
    assert!(watch(path.clone()).await.is_empty());
    assert!(path.exists(), "it may be a live run whose lock is not seen");
    // After the engine was restarted, say.
    let (_state, journal) = journal_of(&[helper(), start()], 1);
    let path = journal.path().to_owned();
    drop(journal);
    assert_eq!(watch(path.clone()).await, ["start db", "remove the helper"]);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_command_whose_lease_has_run_out_is_ended_and_nobody_else_who_has_the_lock() {
    let (_state, journal) = journal_of(&[start()], 1);
    let path = journal.path().to_owned();
    drop(journal);
    let run_out = || std::fs::write(shared_lease::path_of(&path), "1\n").unwrap();

    // Somebody who finishes the run, with another number than the command's.
    let mut other = hold(&path);
    run_out();
    let watched = tokio::time::timeout(SLACK * 2, watch(path.clone())).await;
    assert!(watched.is_err(), "it did not wait");
    assert!(other.try_wait().unwrap().is_none(), "it was killed");
    other.kill().unwrap();
    other.wait().unwrap();

    // The command itself, stopped.
    let mut command = hold(&path);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"pid\":1,", &format!("\"pid\":{},", command.id()))).unwrap();
    let pid = nix::unistd::Pid::from_raw(command.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    assert_eq!(watch(path.clone()).await, ["start db"]);
    assert_eq!(command.wait().unwrap().code(), None, "it was not killed");
    assert!(!path.exists() && !shared_lease::path_of(&path).exists());
}

#[test]
fn the_holder_of_a_lock_is_read_from_the_kernels_list() {
    let locks = "1: FLOCK  ADVISORY  WRITE 812 fe:00:5712 0 EOF\n\
                 2: POSIX  ADVISORY  WRITE 813 fe:00:5712 0 EOF\n\
                 3: FLOCK  ADVISORY  READ  814 fe:00:5712 0 EOF\n\
                 4: FLOCK  ADVISORY  WRITE 815 00:2f:57120 0 EOF\n\
                 4: -> FLOCK  ADVISORY  WRITE 816 fe:00:5712 0 EOF\n";
    assert_eq!(holders_of(locks, 5712).collect::<Vec<_>>(), [812]);
    assert_eq!(own_number(std::process::id().try_into().unwrap()), Some(std::process::id()));
}
