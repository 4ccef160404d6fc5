use super::super::testing::{Act, Recorded, info};
use super::*;

type Journal = super::Journal<Act>;

fn delete(name: &str) -> Act {
    Act::of(Rank::Cleanup, name, &[])
}

fn orphan(path: &Path) -> Journal {
    match Journal::open(path).unwrap() {
        Opened::Orphan(journal) => journal,
        other => panic!("expected an orphan, got {other:?}"),
    }
}

#[test]
fn what_is_amended_keeps_its_place() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &info()).unwrap();
    let first = journal.register(When::OnFailure, delete("/a")).unwrap();
    let second = journal.register(When::Always, delete("/b")).unwrap();
    journal.update(first, delete("/a/amended")).unwrap();
    journal.settled(second).unwrap();
    // A settled entry is no longer there to amend.
    journal.update(second, delete("/b/amended")).unwrap();
    journal.register(When::Always, delete("/c")).unwrap();
    let path = journal.path().to_owned();
    drop(journal);
    let open: Vec<_> = orphan(&path).open_entries().filter_map(|entry| entry.undo().cloned()).collect();
    assert_eq!(open, [delete("/a/amended"), delete("/c")]);
}

#[test]
fn a_run_that_has_succeeded_has_so_for_whoever_finishes_it() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &info()).unwrap();
    journal.register(When::OnFailure, delete("/a")).unwrap();
    journal.register(When::OnSuccess, delete("/b")).unwrap();
    let due = |journal: &Journal| -> Vec<Act> {
        let is_due = |entry: &&Entry<Act>| entry.when.is_due(journal.has_succeeded());
        journal.open_entries().filter(is_due).filter_map(|entry| entry.undo().cloned()).collect()
    };
    assert_eq!(due(&journal), [delete("/a")]);
    journal.succeeded().unwrap();
    let path = journal.path().to_owned();
    drop(journal);
    assert_eq!(due(&orphan(&path)), [delete("/b")]);
}

#[test]
fn a_journal_whose_owner_died_has_what_was_registered_and_not_settled() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &info()).unwrap();
    let first = journal.register(When::Always, delete("/a")).unwrap();
    journal.register(When::OnFailure, delete("/b")).unwrap();
    journal.settled(first).unwrap();
    let path = journal.path().to_owned();
    drop(journal);

    let journal = orphan(&path);
    assert_eq!(journal.info(), &info());
    let open: Vec<_> = journal.open_entries().filter_map(|entry| entry.undo().cloned()).collect();
    assert_eq!(open, [delete("/b")]);
}

#[test]
fn a_journal_with_a_living_owner_is_held() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::create(state.path(), &info()).unwrap();
    assert!(matches!(Journal::open(journal.path()).unwrap(), Opened::Held));
}

#[test]
fn a_torn_last_line_is_ignored_at_every_length() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &info()).unwrap();
    journal.register(When::Always, delete("/a")).unwrap();
    let whole = std::fs::read(journal.path()).unwrap();
    journal.register(When::Always, delete("/b")).unwrap();
    let path = journal.path().to_owned();
    let longer = std::fs::read(&path).unwrap();
    drop(journal);
    for length in whole.len()..longer.len() {
        std::fs::write(&path, &longer[..length]).unwrap();
        assert_eq!(orphan(&path).open_entries().count(), 1, "cut at {length}");
    }
}

#[test]
fn what_is_registered_after_a_torn_line_is_a_line_of_its_own() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::create(state.path(), &info()).unwrap();
    let path = journal.path().to_owned();
    drop(journal);
    let mut text = std::fs::read(&path).unwrap();
    text.extend_from_slice(b"{\"register\":{\"num");
    std::fs::write(&path, &text).unwrap();
    orphan(&path).register(When::Always, delete("/b")).unwrap();
    let open: Vec<_> = orphan(&path).open_entries().filter_map(|entry| entry.undo().cloned()).collect();
    assert_eq!(open, [delete("/b")]);
}

#[test]
fn a_journal_being_made_is_never_lost_to_another_command_that_looks() {
    let state = tempfile::tempdir().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let lost = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for path in Journal::all(state.path()).unwrap() {
                        drop(Journal::open(&path).unwrap());
                    }
                    std::thread::yield_now();
                }
            });
        }
        let making = scope.spawn(|| {
            (0..200).find(|number| {
                let info = RunInfo { run: format!("20261120T203011Z-{number:06x}"), ..info() };
                let mut journal = Journal::create(state.path(), &info).unwrap();
                journal.register(When::Always, delete("/a")).unwrap();
                let found = Journal::peek(journal.path());
                journal.remove().is_err() || found != Some(info)
            })
        });
        let lost = making.join();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        lost.unwrap()
    });
    assert_eq!(lost, None, "a journal was lost");
}

#[test]
fn numbers_go_on_where_the_dead_owner_stopped() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &info()).unwrap();
    let first = journal.register(When::Always, delete("/a")).unwrap();
    let path = journal.path().to_owned();
    drop(journal);
    assert!(orphan(&path).register(When::Always, delete("/b")).unwrap() > first);
}

fn with_line(line: &str) -> (tempfile::TempDir, Journal) {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &info()).unwrap();
    journal.register(When::Always, Act::of(Rank::Service, "start db", &["db"])).unwrap();
    journal.register(When::Always, Act::of(Rank::Service, "start app", &["app"])).unwrap();
    let path = journal.path().to_owned();
    drop(journal);
    let text = std::fs::read_to_string(&path).unwrap() + line + "\n";
    std::fs::write(&path, text).unwrap();
    (state, orphan(&path))
}

async fn finish(journal: Journal) -> (Vec<String>, super::super::Leftovers<Act>) {
    let world = Recorded::default();
    let budget = super::super::RetryBudget::SHORT;
    let left =
        super::super::guard::finish_orphan(journal, &world, budget, &crate::model::event::Silent).await;
    (world.done(), left)
}

#[tokio::test]
async fn what_was_stopped_is_started_whatever_lines_of_a_newer_volsnap_say_of_other_things() {
    for line in [
        r#"{"register":{"number":9,"when":"always","rank":"cleanup","concerns":[],"undo":{"thaw":{}}}}"#,
        r#"{"register":{"number":9,"when":"always","rank":"service","concerns":["db"],"undo":{"thaw":{}}}}"#,
        r#"{"noted":{"moment":7}}"#,
    ] {
        let (_state, journal) = with_line(line);
        let path = journal.path().to_owned();
        let (done, left) = finish(journal).await;
        assert_eq!(done, ["start app", "start db"], "{line}");
        assert_eq!((left.newer, left.failed.len(), left.blocked.len()), (1, 0, 0), "{line}");
        assert!(path.exists(), "what the other volsnap knows is gone: {line}");
    }
}

#[tokio::test]
async fn nothing_is_started_on_data_that_only_a_newer_volsnap_can_put_back() {
    let data =
        r#"{"register":{"number":9,"when":"always","rank":"data","concerns":["db"],"undo":{"thaw":{}}}}"#;
    let (_state, journal) = with_line(data);
    let (done, left) = finish(journal).await;
    assert_eq!(done, ["start app"]);
    assert_eq!((left.newer, left.blocked.len()), (1, 1));
    // If it does not say what it is about, it may be about anything.
    let anything = r#"{"register":{"number":9,"when":"always","rank":"unheard-of","undo":{"thaw":{}}}}"#;
    let (_state, journal) = with_line(anything);
    let (done, left) = finish(journal).await;
    assert!(done.is_empty());
    assert_eq!((left.newer, left.blocked.len()), (1, 2));
}

#[tokio::test]
async fn a_journal_of_format_1_is_finished_by_the_rank_that_its_undos_have() {
    let line = |number: u64, act: Act| {
        let act = serde_json::to_string(&act).unwrap();
        format!(r#"{{"register":{{"number":{number},"when":"always","compensation":{act}}}}}"#) + "\n"
    };
    let first = r#"{"run":{"run":"20261120T203011Z-4f2a91","verb":"restore","subject":"db","host":null,"pid":1,"started":"2026-11-20T20:30:11Z","version":"0.1.0"}}"#;
    let text = format!("{first}\n")
        + &line(1, Act::of(Rank::Later, "archive the old data", &[]))
        + &line(2, Act::of(Rank::Service, "start db", &["db"]))
        + &line(3, Act::of(Rank::Data, "swap back", &["db"]))
        + &line(4, Act::of(Rank::Helper, "remove the helper", &[]))
        + "{\"settled\":4}\n";
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("20261120T203011Z-4f2a91.jsonl");
    std::fs::write(&path, text).unwrap();
    let journal = orphan(&path);
    assert_eq!((journal.newer_lines(), journal.version()), (0, Some("0.1.0")));
    let (done, left) = finish(journal).await;
    assert_eq!(done, ["swap back", "start db", "archive the old data"]);
    assert!(left.is_empty() && !path.exists());
}

#[test]
fn a_journal_whose_first_line_is_not_understood_is_left_as_it_is() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("r.jsonl");
    std::fs::write(&path, "{\"began\":{}}\n").unwrap();
    assert!(Journal::open(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"began\":{}}\n");
}

#[test]
fn a_journal_without_its_first_line_is_never_removed() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &info()).unwrap();
    journal.register(When::Always, delete("/a")).unwrap();
    let path = journal.path().to_owned();
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for rest in [&whole[second..], &whole[second..whole.len() - 1], &whole[3..second - 1], &[0; 100]] {
        std::fs::write(&path, rest).unwrap();
        for _ in 0..2 {
            assert!(Journal::look(&path).is_err());
            assert!(Journal::open(&path).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), rest, "it is left as it is");
        }
    }
    // What is torn in its first line had not begun. Who only looks leaves that too.
    for length in 0..second {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(Journal::look(&path).unwrap().is_none());
        assert!(path.exists());
        assert!(matches!(Journal::open(&path).unwrap(), Opened::Gone));
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_line_that_is_no_text_hides_no_other() {
    let (_state, journal) = with_line("");
    let path = journal.path().to_owned();
    drop(journal);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"register\":\xff\xfe}\n");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(
        Journal::look(&path).unwrap().map(|(journal, held)| (journal.open.len(), held)),
        Some((2, false))
    );
    let (done, left) = finish(orphan(&path)).await;
    assert_eq!(done, ["start app", "start db"]);
    assert!(left.newer > 0 && path.exists(), "it stays, since it says something more");
}

#[test]
fn what_is_no_file_of_ours_is_neither_waited_for_nor_followed() {
    use std::os::unix::fs::PermissionsExt as _;
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::create(state.path(), &info()).unwrap();
    let (path, directory) = (journal.path().to_owned(), journal.path().parent().unwrap().to_owned());
    drop(journal);
    let [fifo, folder, link, open] = ["fifo", "folder", "link", "open"].map(|name| directory.join(name));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    std::fs::copy(&path, &open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o666)).unwrap();
    for strange in [&fifo, &folder, &link, &open] {
        assert!(Journal::look(strange).is_err(), "{}", strange.display());
        assert!(Journal::open(strange).is_err(), "{}", strange.display());
        assert_eq!(Journal::peek(strange), None);
    }
    if nix::unistd::geteuid().is_root() {
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Journal::open(&open).is_ok());
        std::fs::copy(&path, &open).unwrap();
        std::os::unix::fs::chown(&open, Some(12345), None).unwrap();
        let error = Journal::open(&open).unwrap_err();
        assert!(crate::model::error::chain(&error).contains("another user (12345)"), "{error:?}");
    }
    // Where others can put files in place of ours, nothing is believed, and nothing is begun.
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Journal::open(&path).is_err());
    assert!(Journal::create(state.path(), &RunInfo { run: "other".into(), ..info() }).is_err());
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(Journal::open(&path).unwrap(), Opened::Orphan(_)));
}

#[test]
fn who_looks_neither_locks_nor_changes() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(state.path(), &info()).unwrap();
    journal.register(When::Always, Act::of(Rank::Service, "start db", &["name:db"])).unwrap();
    let path = journal.path().to_owned();
    let (seen, held) = Journal::look(&path).unwrap().unwrap();
    assert_eq!((seen.open_entries().count(), held), (1, true));
    drop(journal);
    assert!(!Journal::look(&path).unwrap().unwrap().1);
    let torn = [std::fs::read(&path).unwrap(), b"{\"settled".to_vec()].concat();
    std::fs::write(&path, &torn).unwrap();
    assert!(Journal::look(&path).unwrap().is_some());
    assert_eq!(std::fs::read(&path).unwrap(), torn);
}

#[test]
fn a_journal_is_the_same_from_memory() {
    let (_state, journal) = with_line(r#"{"settled":1}"#);
    let again = Journal::from_memory(journal.path(), journal.lines()).unwrap();
    assert_eq!(again.info(), journal.info());
    assert!(again.open_entries().eq(journal.open_entries()));
    assert_eq!(again.open_entries().count(), 1);
}

#[test]
fn a_journal_that_never_got_its_first_line_is_gone() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::create(state.path(), &info()).unwrap();
    let path = journal.path().to_owned();
    drop(journal);
    std::fs::write(&path, b"{\"run\":{").unwrap();
    assert!(matches!(Journal::open(&path).unwrap(), Opened::Gone));
    assert!(!path.exists());
}
