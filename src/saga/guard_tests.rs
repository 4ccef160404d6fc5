//! The guard at every boundary of a lease: what it was told, what it was not, and what it then undoes. Time is
//! virtual.

use std::cell::RefCell;
use std::convert::Infallible;

use tokio::time::Instant;

use super::*;
use crate::model::event::Silent;
use crate::saga::testing::{Act, Recorded, info};
use crate::saga::{Rank, When};

type TestJournal = Journal<Act>;

/// The limits without progress, and in all.
const TERMS: Terms = Terms { progress_ms: Some(60_000), total_ms: Some(600_000) };
const PROGRESS: Duration = Duration::from_secs(60);
/// The longest time from the end of a lease until something is undone.
const GRACE: Duration = Duration::from_millis(100 + 1000 + 100);

/// A command that its guard watches, and what it has said so far.
struct Command {
    _state: tempfile::TempDir,
    journal: Option<TestJournal>,
    path: PathBuf,
    pipe: mpsc::UnboundedSender<Message>,
    /// How many lines of the journal were told.
    told: usize,
}

/// What a killed command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    /// It is gone at once.
    Goes,
    /// It waits in the kernel: its pipe stays open, and its journal locked.
    Stays,
}

/// What the guard has done.
struct Outcome {
    /// Names, in the order in which they were undone.
    undone: Vec<String>,
    /// Lines that it has acknowledged.
    acknowledged: usize,
    /// When the command was killed.
    killed_at: Option<Instant>,
    ended_at: Instant,
}

impl Command {
    fn new() -> (Self, mpsc::UnboundedReceiver<Message>) {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::create(state.path(), &info()).unwrap();
        let (pipe, messages) = mpsc::unbounded_channel();
        let path = journal.path().to_owned();
        let mut command = Self { _state: state, journal: Some(journal), path, pipe, told: 0 };
        command.tell();
        (command, messages)
    }

    /// Is gone, with its pipe and its lock.
    fn die(&mut self) {
        (self.journal, self.pipe) = (None, mpsc::unbounded_channel().0);
    }

    fn journal(&mut self) -> &mut TestJournal {
        self.journal.as_mut().unwrap()
    }

    /// Tells the guard what it has not told yet.
    fn tell(&mut self) {
        let lines = self.journal.as_ref().unwrap().lines();
        for line in &lines[self.told..] {
            let _ = self.pipe.send(Message::Journal(line.clone()));
        }
        self.told = lines.len();
    }

    fn say(&self, message: Message) {
        let _ = self.pipe.send(message);
    }

    /// Writes, without telling.
    fn write(&mut self, act: Act) -> u64 {
        self.journal().register(When::Always, act).unwrap()
    }

    fn register(&mut self, act: Act) -> u64 {
        let number = self.write(act);
        self.tell();
        number
    }

    fn dismiss(&mut self, number: u64) {
        self.journal().settled(number).unwrap();
        self.tell();
    }
}

/// Has the guard watch a command that runs this script and then does nothing until somebody kills it.
async fn guard(killed: Killed, script: impl AsyncFnOnce(&mut Command)) -> Outcome {
    let (command, mut messages) = Command::new();
    let path = command.path.clone();
    let command = RefCell::new(Some(command));
    let (acknowledged, mut killed_at) = (RefCell::new(0), None);
    let watched = {
        let end = || {
            killed_at = Some(Instant::now());
            if killed == Killed::Goes {
                command.borrow_mut().as_mut().unwrap().die();
            }
        };
        let watching = watch_command(&mut messages, || *acknowledged.borrow_mut() += 1, |_| (), end);
        let acting = async {
            let mut acting = command.borrow_mut().take().unwrap();
            // Killing a command while it acts would require dropping it: none of these scripts needs that.
            script(&mut acting).await;
            *command.borrow_mut() = Some(acting);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            never = acting => match never {},
            watched = watching => watched,
        }
    };
    let world = Arc::new(Recorded::default());
    if let Some((ended, memory)) = watched {
        let connect = async |_: Option<String>| Ok::<_, fmt::Error>(world.clone());
        let left = conclude::<Act, _, _, _>(&path, &memory, ended, connect, &Silent).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
    Outcome {
        undone: world.done(),
        acknowledged: acknowledged.into_inner(),
        killed_at,
        ended_at: Instant::now(),
    }
}

fn start() -> Act {
    Act::of(Rank::Service, "start db", &["db"])
}

fn swap_back() -> Act {
    Act::of(Rank::Data, "swap back", &["db"])
}

/// Every kind of command that may outlast its lease.
const KILLED: [Killed; 2] = [Killed::Goes, Killed::Stays];

#[tokio::test(start_paused = true)]
async fn a_line_that_was_told_just_before_the_lease_ran_out_is_undone() {
    for killed in KILLED {
        let begun = Instant::now();
        let outcome = guard(killed, async |command| {
            command.say(Message::Lease(Some(TERMS)));
            sleep(PROGRESS - Duration::from_millis(1)).await;
            command.register(start());
        })
        .await;
        // The line itself was progress.
        let overdue = begun + PROGRESS - Duration::from_millis(1) + PROGRESS;
        let killed_at = outcome.killed_at.unwrap();
        assert!(killed_at >= overdue && killed_at <= overdue + UNREAD_LIMIT * 2, "{killed:?}");
        assert_eq!((outcome.undone, outcome.acknowledged), (vec!["start db".to_owned()], 2), "{killed:?}");
        assert!(outcome.ended_at <= overdue + GRACE, "{killed:?}: {:?}", outcome.ended_at - overdue);
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_in_the_file_and_was_not_told_is_undone_too() {
    for killed in KILLED {
        let outcome = guard(killed, async |command| {
            command.register(start());
            command.say(Message::Lease(Some(TERMS)));
            command.write(swap_back());
        })
        .await;
        assert_eq!(outcome.undone, ["swap back", "start db"], "{killed:?}");
        assert_eq!(outcome.acknowledged, 2, "what was not acknowledged has no effect");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_dismissed_and_not_told_is_not_undone_once_more() {
    for killed in KILLED {
        let outcome = guard(killed, async |command| {
            let back = command.register(swap_back());
            command.register(start());
            command.say(Message::Lease(Some(TERMS)));
            command.journal().settled(back).unwrap();
        })
        .await;
        assert_eq!(outcome.undone, ["start db"], "{killed:?}");
    }
}

/// If the file cannot be read, only the pipe tells what it holds, to its end.
#[tokio::test(start_paused = true)]
async fn what_was_told_after_the_lease_ran_out_is_known_without_the_file() {
    let (command, mut messages) = Command::new();
    let path = command.path.clone();
    let command = RefCell::new(command);
    let back = command.borrow_mut().register(swap_back());
    command.borrow_mut().register(start());
    command.borrow_mut().say(Message::Lease(Some(TERMS)));
    let acknowledged = RefCell::new(0);
    let end = || {
        let mut command = command.borrow_mut();
        command.dismiss(back);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    };
    let watched = watch_command(&mut messages, || *acknowledged.borrow_mut() += 1, |_| (), end).await;
    let (ended, memory) = watched.unwrap();
    assert_eq!((ended, memory.len(), *acknowledged.borrow()), (Ended::Overdue, 4, 3));
    let world = Arc::new(Recorded::default());
    let connect = async |_: Option<String>| Ok::<_, fmt::Error>(world.clone());
    conclude::<Act, _, _, _>(&path, &memory, ended, connect, &Silent).await.unwrap();
    assert_eq!(world.done(), ["start db"]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_a_release_has_ended_runs_out_no_more() {
    let begun = Instant::now();
    let outcome = guard(Killed::Goes, async |command| {
        let back = command.register(start());
        command.say(Message::Lease(Some(TERMS)));
        sleep(PROGRESS - Duration::from_millis(1)).await;
        command.dismiss(back);
        command.say(Message::Lease(None));
        // It hangs for as long as it likes, and dies.
        sleep(PROGRESS * 600).await;
        command.die();
    })
    .await;
    assert_eq!((outcome.undone, outcome.killed_at), (Vec::new(), None));
    assert!(outcome.ended_at >= begun + PROGRESS * 600);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_runs_out_after_the_service_was_started_and_before_that_is_on_record_starts_it_once_more()
 {
    for killed in KILLED {
        // The start was requested and answered; nothing was written about it.
        let outcome = guard(killed, async |command| {
            command.register(start());
            command.say(Message::Lease(Some(TERMS)));
            sleep(PROGRESS / 2).await;
            command.say(Message::Lease(Some(Terms::of_release(None))));
        })
        .await;
        assert_eq!(outcome.undone, ["start db"], "{killed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn progress_puts_it_off_until_all_of_the_time_is_over() {
    let begun = Instant::now();
    let outcome = guard(Killed::Goes, async |command| {
        command.register(start());
        command.say(Message::Lease(Some(TERMS)));
        let pipe = command.pipe.clone();
        tokio::task::spawn_local(async move {
            while pipe.send(Message::Renew).is_ok() {
                sleep(Duration::from_millis(500)).await;
            }
        });
    });
    let outcome = tokio::task::LocalSet::new().run_until(outcome).await;
    let away = outcome.killed_at.unwrap() - begun;
    assert!(away >= Duration::from_secs(600) && away < Duration::from_secs(602), "{away:?}");
    assert_eq!(outcome.undone, ["start db"]);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_was_sent_in_time_and_is_read_late_counts_and_one_after_the_end_does_not() {
    let (mut command, mut messages) = Command::new();
    command.register(start());
    command.say(Message::Lease(Some(TERMS)));
    let mut killed_at = None;
    let begun = Instant::now();
    {
        let pipe = command.pipe.clone();
        let watching = watch_command(
            &mut messages,
            || (),
            |_| (),
            || {
                killed_at = Some(Instant::now());
                // It was on its way.
                let _ = pipe.send(Message::Renew);
                let _ = pipe.send(Message::Lease(Some(TERMS)));
            },
        );
        tokio::pin!(watching);
        // It reads the lease, and is scheduled again only long after it ran out, like a guard that was stopped itself.
        assert!(timeout(Duration::ZERO, &mut watching).await.is_err());
        tokio::time::advance(PROGRESS * 2).await;
        command.say(Message::Renew);
        assert_eq!(watching.await.map(|(ended, _)| ended), Some(Ended::Overdue));
    }
    let away = killed_at.unwrap() - begun;
    assert!(away >= PROGRESS * 3 && away < PROGRESS * 3 + GRACE, "{away:?}");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_was_done_is_not_undone_though_its_lease_has_run_out() {
    let (mut command, mut messages) = Command::new();
    command.register(start());
    command.say(Message::Lease(Some(TERMS)));
    let watched = watch_command(&mut messages, || (), |_| (), || command.say(Message::Done)).await;
    assert!(watched.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_has_succeeded_by_its_last_line_has_nothing_of_its_failure_undone() {
    for (killed, is_told) in [(Killed::Goes, true), (Killed::Goes, false), (Killed::Stays, true)] {
        let outcome = guard(killed, async |command| {
            let journal = command.journal();
            journal.register(When::OnFailure, swap_back()).unwrap();
            journal.register(When::OnSuccess, Act::of(Rank::Cleanup, "remember", &[])).unwrap();
            journal.register(When::Always, start()).unwrap();
            command.tell();
            command.say(Message::Lease(Some(TERMS)));
            command.journal().succeeded().unwrap();
            if is_told {
                command.tell();
            }
        })
        .await;
        assert_eq!(outcome.undone, ["start db", "remember"], "{killed:?}, told: {is_told}");
    }
}

/// What a restore has in its journal, line by line, and what is open after each.
const RESTORE: &[(&str, &[&str])] = &[
    ("+ remove the helper", &["remove the helper"]),
    ("+ discard the work", &["remove the helper", "discard the work"]),
    ("+ start db", &["start db", "remove the helper", "discard the work"]),
    ("+ swap back", &["swap back", "start db", "remove the helper", "discard the work"]),
    ("+ keep the old", &["swap back", "start db", "remove the helper", "discard the work", "keep the old"]),
    // Committed.
    ("- swap back", &["start db", "remove the helper", "discard the work", "keep the old"]),
    ("- start db", &["remove the helper", "discard the work", "keep the old"]),
    ("- keep the old", &["remove the helper", "discard the work"]),
    ("- discard the work", &["remove the helper"]),
];

fn rank_of(name: &str) -> Rank {
    match name {
        "swap back" => Rank::Data,
        "start db" => Rank::Service,
        "remove the helper" => Rank::Helper,
        "discard the work" => Rank::Work,
        _ => Rank::Later,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_runs_out_after_any_line_of_a_restore_has_undone_what_is_open_by_then() {
    for killed in KILLED {
        for last in 0..RESTORE.len() {
            for is_told in [true, false] {
                let outcome = guard(killed, async |command| {
                    let mut numbers = std::collections::BTreeMap::new();
                    command.say(Message::Lease(Some(TERMS)));
                    for (at, (line, _)) in RESTORE[..=last].iter().enumerate() {
                        let (sign, name) = line.split_once(' ').unwrap();
                        if sign == "+" {
                            numbers.insert(name, command.write(Act::of(rank_of(name), name, &["db"])));
                        } else {
                            command.journal().settled(numbers[name]).unwrap();
                        }
                        if is_told || at < last {
                            command.tell();
                        }
                    }
                })
                .await;
                let (line, open) = RESTORE[last];
                assert_eq!(outcome.undone, open, "{killed:?} after {line}, told: {is_told}");
            }
        }
    }
}
