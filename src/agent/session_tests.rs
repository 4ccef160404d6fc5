//! A stage within the root that it moves into, as the command requests it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use tempfile::TempDir;

use super::super::swap::{PREFIX, leftovers, work_name};
use super::*;
use crate::agent::tree::Stability;

struct World {
    _directory: TempDir,
    options: SessionOptions,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let place = |name: &str| directory.path().join(name);
        let options = SessionOptions {
            root: place("source"),
            stage: place("dest"),
            fifo: place("f"),
            kernel: place("k"),
            input: place("i"),
        };
        fs::create_dir_all(options.root.join("global")).unwrap();
        fs::create_dir(&options.stage).unwrap();
        fs::write(options.root.join("PG_VERSION"), "15").unwrap();
        fs::write(options.root.join("global/pg_control"), "control").unwrap();
        chown(&options.root, Some(999), Some(999)).unwrap();
        fs::set_permissions(&options.root, fs::Permissions::from_mode(0o700)).unwrap();
        Self { _directory: directory, options }
    }

    fn session(&self) -> Session<'_> {
        let (_, input) = mpsc::channel();
        let options = &self.options;
        Session::new(options, false, input, Output::new(io::sink()), Output::new(io::sink()))
    }

    /// Starts a session whose stage lies in the destination.
    fn staging_into(&self, run: &str) -> Session<'_> {
        let mut session = self.session();
        ask(&mut session, calls::StageInto { run: run.to_owned() }).unwrap();
        session
    }

    fn refused(&self, run: &str) -> String {
        ask(&mut self.session(), calls::StageInto { run: run.to_owned() }).unwrap_err()
    }

    fn dest(&self, name: &str) -> PathBuf {
        self.options.stage.join(name)
    }

    fn leftovers(&self) -> Vec<String> {
        leftovers(&self.options.stage).unwrap().iter().map(|name| name.to_string_lossy().into()).collect()
    }
}

/// Calls as a client does: in JSON, both ways.
fn ask<C: Call>(session: &mut Session<'_>, call: C) -> Result<C::Answer, String> {
    let line = serde_json::to_string(&std::collections::BTreeMap::from([(C::NAME, call)])).unwrap();
    let event = session.answer(serde_json::from_str(&line).unwrap()).map_err(|failure| failure.message)?;
    Ok(event.answered::<C>().unwrap())
}

fn pass(session: &mut Session<'_>, kind: PassKind) -> StageStats {
    ask(session, calls::StagePass { kind, ..Default::default() }).unwrap()
}

fn run(name: &str) -> String {
    name.to_owned()
}

fn swap_in(name: &str) -> calls::SwapIn {
    calls::SwapIn { run: run(name), marker_files: vec!["global/pg_control".into()], root: None }
}

fn swap_back(name: &str) -> calls::SwapBack {
    calls::SwapBack { run: run(name) }
}

fn discard(name: &str, with_old: bool) -> calls::Discard {
    calls::Discard { run: run(name), with_old }
}

#[test]
fn a_staged_tree_takes_the_place_of_what_was_there_and_gives_it_back() {
    let world = World::new();
    fs::write(world.dest("before"), "x").unwrap();
    fs::set_permissions(world.dest(""), fs::Permissions::from_mode(0o755)).unwrap();
    let before = world.dest("").metadata().unwrap();
    let mut session = world.staging_into("r");
    let after = world.dest("").metadata().unwrap();
    assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
    let room = ask(&mut session, calls::Room {}).unwrap();
    assert!(!room.is_empty && room.leftovers == [work_name("r")] && room.owner == (0, 0), "{room:?}");

    pass(&mut session, PassKind::Live);
    assert_eq!(ask(&mut session, swap_in("r")).unwrap_err(), "no final pass was made");
    ask(&mut session, calls::StageKeep {}).unwrap();
    pass(&mut session, PassKind::Final);
    let compare = calls::StageCompare { stability: Stability::Held, ..Default::default() };
    let compared = ask(&mut session, compare).unwrap();
    assert_eq!((compared.entries, compared.files, compared.different), (4, 2, 0));
    let survey = ask(&mut session, calls::Survey { side: Side::Stage, ..Default::default() }).unwrap();
    assert_eq!(survey.files, 2);

    ask(&mut session, swap_in("r")).unwrap();
    assert_eq!(ask(&mut session, calls::SwapState { run: run("r") }), Ok(SwapState::Swapped));
    assert_eq!(fs::read(world.dest("global/pg_control")).unwrap(), b"control");
    assert!(!world.dest("before").exists());
    let (root, source) = (world.dest("").metadata().unwrap(), world.options.root.metadata().unwrap());
    assert_eq!((root.uid(), root.gid(), root.mode()), (999, 999, source.mode()));
    assert_eq!((root.mtime(), root.mtime_nsec()), (source.mtime(), source.mtime_nsec()));
    let again = ask(&mut session, calls::StagePass::default()).unwrap_err();
    assert!(again.contains("`.volsnap-work-r`") && again.contains("Swapped"), "{again}");

    ask(&mut session, swap_back("r")).unwrap();
    assert_eq!(fs::read(world.dest("before")).unwrap(), b"x");
    assert!(!world.dest("global").exists());
    let root = world.dest("").metadata().unwrap();
    assert_eq!((root.uid(), root.mode()), (before.uid(), before.mode()));
    ask(&mut session, discard("r", false)).unwrap();
    assert!(world.leftovers().is_empty());
    assert_eq!(fs::read(world.options.root.join("PG_VERSION")).unwrap(), b"15", "the source stays as it was");
}

#[test]
fn a_staged_tree_that_is_committed_stays() {
    let world = World::new();
    let mut session = world.staging_into("r");
    pass(&mut session, PassKind::Final);
    ask(&mut session, swap_in("r")).unwrap();
    ask(&mut session, calls::Commit { run: run("r") }).unwrap();
    ask(&mut session, swap_back("r")).unwrap();
    ask(&mut session, discard("r", true)).unwrap();
    assert_eq!(fs::read(world.dest("PG_VERSION")).unwrap(), b"15");
    assert!(world.leftovers().is_empty());
}

#[test]
fn what_a_run_that_died_has_kept_is_taken_up_by_the_next() {
    let world = World::new();
    let large = world.options.root.join("large");
    fs::write(&large, vec![1; 3 << 20]).unwrap();
    let mut session = world.staging_into("dead");
    pass(&mut session, PassKind::Live);
    ask(&mut session, calls::StageKeep {}).unwrap();
    let staged = world.dest(&work_name("dead")).join(staging::TREE).join("large");
    let number = staged.metadata().unwrap().ino();
    drop(session);
    let mut session = world.staging_into("r");
    assert_eq!(world.leftovers(), [work_name("r")]);
    let room = ask(&mut session, calls::StageRoom::default()).unwrap();
    assert!(room.warm && room.staged_bytes >= 3 << 20, "{room:?}");
    let stats = pass(&mut session, PassKind::Final);
    assert_eq!((stats.created, stats.written_bytes), (0, 0), "{stats:?}");
    ask(&mut session, swap_in("r")).unwrap();
    assert_eq!(world.dest("large").metadata().unwrap().ino(), number);
}

#[test]
fn a_run_that_died_before_it_kept_anything_is_no_hindrance() {
    let world = World::new();
    let mut session = world.staging_into("dead");
    pass(&mut session, PassKind::Live);
    drop(session);
    let mut session = world.staging_into("r");
    pass(&mut session, PassKind::Final);
    ask(&mut session, swap_in("r")).unwrap();
    assert_eq!(fs::read(world.dest("PG_VERSION")).unwrap(), b"15");
}

#[test]
fn what_was_swapped_back_is_staged_anew() {
    let world = World::new();
    let mut session = world.staging_into("dead");
    pass(&mut session, PassKind::Final);
    ask(&mut session, swap_in("dead")).unwrap();
    fs::write(world.dest("PG_VERSION"), "touched by the new server").unwrap();
    ask(&mut session, swap_back("dead")).unwrap();
    drop(session);
    let mut session = world.staging_into("r");
    assert!(!world.dest(&work_name("r")).join("undone").exists(), "it takes room");
    pass(&mut session, PassKind::Final);
    ask(&mut session, swap_in("r")).unwrap();
    assert_eq!(fs::read(world.dest("PG_VERSION")).unwrap(), b"15");
}

#[test]
fn what_cannot_be_taken_up_is_named_and_left_as_it_is() {
    let world = World::new();
    let name = |run: &str| world.dest(&work_name(run));
    let refused = |what: &str| {
        let before = world.leftovers();
        let error = world.refused("r");
        assert!(error.contains(&format!("`{}", before[0])) && error.contains(what), "{error}");
        assert_eq!(world.leftovers(), before);
    };
    for run in ["a", "b"] {
        fs::create_dir(name(run)).unwrap();
    }
    refused("`.volsnap-work-b`");
    fs::remove_dir(name("b")).unwrap();
    for (mark, state) in [("plan", "Swapped"), ("committed", "Committed"), ("emptied", "Emptied")] {
        fs::write(name("a").join(mark), "").unwrap();
        refused(state);
        fs::remove_file(name("a").join(mark)).unwrap();
    }
    fs::write(name("a").join("state"), "nonsense").unwrap();
    refused("its state cannot be read");
    fs::remove_dir_all(name("a")).unwrap();
    fs::write(name("a"), "no directory").unwrap();
    refused("irectory");
    fs::remove_file(name("a")).unwrap();
    std::os::unix::fs::symlink("/", name("a")).unwrap();
    refused("irectory");
    fs::remove_file(name("a")).unwrap();
    let alive = world.staging_into("alive");
    refused("another run is at work in it");
    drop(alive);
    world.staging_into("r");
    assert_eq!(world.leftovers(), [format!("{PREFIX}r")]);
}

/// Returns a session's answers to these lines, after its first word.
fn answers_to(world: &World, lines: &str) -> Vec<Event> {
    let written = Arc::new(Mutex::new(Vec::new()));
    let streams = Streams {
        input: Box::new(io::Cursor::new(lines.to_owned().into_bytes())),
        archive: Output::new(io::sink()),
        events: Output(written.clone()),
    };
    serve(&world.options, streams, || {});
    let written = written.lock().unwrap();
    let events = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    events.skip(1).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[test]
fn what_is_not_known_in_a_call_is_refused_and_the_session_goes_on() {
    let world = World::new();
    let lines = [
        r#"{"survey":{"side":"source","exclude":[],"follow_links":true}}"#,
        r#"{"extract":{"run":"r","channel":"fifo","emptied":false,"options":{"origin":"volsnap","deduplicate":true}}}"#,
        r#"{"teleport":{}}"#,
        r#"{"room":{}}"#,
    ];
    let answers = answers_to(&world, &lines.map(|line| format!("{line}\n")).concat());
    let [survey, extract, teleport, room] = &answers[..] else { panic!("{answers:?}") };
    for (event, named) in [(survey, "follow_links"), (extract, "deduplicate"), (teleport, "teleport")] {
        let Event::Failed(failure) = event else { panic!("{event:?}") };
        assert!(
            failure
                .message
                .contains(&format!("unknown {}", if named == "teleport" { "variant" } else { "field" }))
        );
        assert!(failure.message.contains(named), "{failure:?}");
    }
    assert!(room.answered::<calls::Room>().is_some(), "{room:?}");
    assert!(world.leftovers().is_empty());
}
