//! A stage within the root that it is moved into, as the command asks for it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use tempfile::TempDir;

use super::super::protocol::StageRoom;
use super::super::swap::{PREFIX, leftovers, work_name};
use super::*;

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
        assert_eq!(session.answer(Request::StageInto { run: run.to_owned() }), Ok(Event::Done));
        session
    }

    fn refused(&self, run: &str) -> String {
        self.session().answer(Request::StageInto { run: run.to_owned() }).unwrap_err()
    }

    fn dest(&self, name: &str) -> PathBuf {
        self.options.stage.join(name)
    }

    fn leftovers(&self) -> Vec<String> {
        leftovers(&self.options.stage).unwrap().iter().map(|name| name.to_string_lossy().into()).collect()
    }
}

fn pass(session: &mut Session<'_>, finish: bool) -> staging::StageStats {
    let request = StagePassRequest { finish, ..StagePassRequest::default() };
    match session.answer(Request::StagePass(request)) {
        Ok(Event::Staged(stats)) => stats,
        other => panic!("{other:?}"),
    }
}

fn done(session: &mut Session<'_>, request: Request) {
    assert_eq!(session.answer(request), Ok(Event::Done));
}

fn run(name: &str) -> String {
    name.to_owned()
}

fn swap_in() -> Request {
    Request::SwapIn { run: run("r"), marker_files: vec!["global/pg_control".into()], root: None }
}

fn state(session: &mut Session<'_>) -> SwapState {
    match session.answer(Request::SwapState { run: run("r") }) {
        Ok(Event::Swap(state)) => state,
        other => panic!("{other:?}"),
    }
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
    let Ok(Event::Room(room)) = session.answer(Request::Room) else { panic!("no room") };
    assert!(!room.is_empty && room.leftovers == [work_name("r")] && room.owner == (0, 0), "{room:?}");

    pass(&mut session, false);
    assert_eq!(session.answer(swap_in()), Err("no final pass was made".to_owned()));
    done(&mut session, Request::StageKeep);
    pass(&mut session, true);
    let request = StageCompareRequest { finish: true, ..StageCompareRequest::default() };
    let Ok(Event::Compared(compared)) = session.answer(Request::StageCompare(request)) else { panic!() };
    assert_eq!((compared.entries, compared.files, compared.different), (4, 2, 0));
    let Ok(Event::Surveyed(survey)) = session.answer(Request::Survey { exclude: vec![], from_stage: true })
    else {
        panic!()
    };
    assert_eq!(survey.files, 2);

    done(&mut session, swap_in());
    assert_eq!(state(&mut session), SwapState::Swapped);
    assert_eq!(fs::read(world.dest("global/pg_control")).unwrap(), b"control");
    assert!(!world.dest("before").exists());
    let (root, source) = (world.dest("").metadata().unwrap(), world.options.root.metadata().unwrap());
    assert_eq!((root.uid(), root.gid(), root.mode()), (999, 999, source.mode()));
    assert_eq!((root.mtime(), root.mtime_nsec()), (source.mtime(), source.mtime_nsec()));
    let again = session.answer(Request::StagePass(StagePassRequest::default())).unwrap_err();
    assert!(again.contains("`.volsnap-work-r`") && again.contains("Swapped"), "{again}");

    done(&mut session, Request::SwapBack { run: run("r") });
    assert_eq!(fs::read(world.dest("before")).unwrap(), b"x");
    assert!(!world.dest("global").exists());
    let root = world.dest("").metadata().unwrap();
    assert_eq!((root.uid(), root.mode()), (before.uid(), before.mode()));
    done(&mut session, Request::Discard { run: run("r"), with_old: false });
    assert!(world.leftovers().is_empty());
    assert_eq!(fs::read(world.options.root.join("PG_VERSION")).unwrap(), b"15", "the source stays as it was");
}

#[test]
fn a_staged_tree_that_is_committed_stays() {
    let world = World::new();
    let mut session = world.staging_into("r");
    pass(&mut session, true);
    done(&mut session, swap_in());
    done(&mut session, Request::Commit { run: run("r") });
    done(&mut session, Request::SwapBack { run: run("r") });
    done(&mut session, Request::Discard { run: run("r"), with_old: true });
    assert_eq!(fs::read(world.dest("PG_VERSION")).unwrap(), b"15");
    assert!(world.leftovers().is_empty());
}

#[test]
fn what_a_run_that_died_has_kept_is_taken_up_by_the_next() {
    let world = World::new();
    let large = world.options.root.join("large");
    fs::write(&large, vec![1; 3 << 20]).unwrap();
    let mut session = world.staging_into("dead");
    pass(&mut session, false);
    done(&mut session, Request::StageKeep);
    let staged = world.dest(&work_name("dead")).join(staging::TREE).join("large");
    let number = staged.metadata().unwrap().ino();
    drop(session);
    let mut session = world.staging_into("r");
    assert_eq!(world.leftovers(), [work_name("r")]);
    let Ok(Event::StageRoom(StageRoom { warm, staged_bytes, .. })) =
        session.answer(Request::StageRoom { tree: PathBuf::new() })
    else {
        panic!()
    };
    assert!(warm && staged_bytes >= 3 << 20);
    let stats = pass(&mut session, true);
    assert_eq!((stats.created, stats.written_bytes), (0, 0), "{stats:?}");
    done(&mut session, swap_in());
    assert_eq!(world.dest("large").metadata().unwrap().ino(), number);
}

#[test]
fn a_run_that_died_before_it_kept_anything_is_no_hindrance() {
    let world = World::new();
    let mut session = world.staging_into("dead");
    pass(&mut session, false);
    drop(session);
    let mut session = world.staging_into("r");
    pass(&mut session, true);
    done(&mut session, swap_in());
    assert_eq!(fs::read(world.dest("PG_VERSION")).unwrap(), b"15");
}

#[test]
fn what_was_swapped_back_is_staged_anew() {
    let world = World::new();
    let mut session = world.staging_into("dead");
    pass(&mut session, true);
    let swap_in = Request::SwapIn { run: run("dead"), marker_files: Vec::new(), root: None };
    done(&mut session, swap_in);
    fs::write(world.dest("PG_VERSION"), "touched by the new server").unwrap();
    done(&mut session, Request::SwapBack { run: run("dead") });
    drop(session);
    let mut session = world.staging_into("r");
    assert!(!world.dest(&work_name("r")).join("undone").exists(), "it takes room");
    pass(&mut session, true);
    done(&mut session, self::swap_in());
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
