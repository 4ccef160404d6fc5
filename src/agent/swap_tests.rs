#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method alone is not general enough in its lifetime"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;

use rstest::rstest;
use tempfile::TempDir;

use super::*;

const RUN: &str = "r";

/// Lets every step happen, or fails the one with a given number.
struct Script {
    steps: Rc<RefCell<Vec<Step>>>,
    fail_at: Option<usize>,
}

impl Script {
    fn watch(&mut self) -> impl FnMut(&Step) -> io::Result<()> {
        let (steps, fail_at) = (Rc::clone(&self.steps), self.fail_at);
        move |step| {
            steps.borrow_mut().push(step.clone());
            if Some(steps.borrow().len()) == fail_at { Err(io::Error::other("injected")) } else { Ok(()) }
        }
    }
}

fn script(fail_at: Option<usize>) -> Script {
    Script { steps: Rc::default(), fail_at }
}

/// Names with their contents; for a directory these begin with a slash.
fn contents(root: &Path) -> BTreeMap<OsString, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let content = if path.is_dir() {
            format!("/{}", fs::read_to_string(path.join("inside")).unwrap())
        } else {
            fs::read_to_string(path).unwrap()
        };
        found.insert(entry.file_name(), content);
    }
    found
}

fn fill(directory: &Path, names: &[&str], text: &str) {
    for name in names {
        if let Some(name) = name.strip_suffix('/') {
            fs::create_dir(directory.join(name)).unwrap();
            fs::write(directory.join(name).join("inside"), text).unwrap();
        } else {
            fs::write(directory.join(name), text).unwrap();
        }
    }
}

const OLD_NAMES: &[&str] = &["PG_VERSION", "base/", "global/", "only-old", ".hidden", "changes-kind/"];
const NEW_NAMES: &[&str] = &["PG_VERSION", "base/", "global/", "only-new", "changes-kind"];

struct World {
    root: TempDir,
    old: BTreeMap<OsString, String>,
    new: BTreeMap<OsString, String>,
}

impl World {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        fill(root.path(), OLD_NAMES, "old");
        // A name that is not text.
        fs::write(root.path().join(OsStr::from_bytes(b"\xff\n")), "old").unwrap();
        let old = contents(root.path());
        let mut script = script(None);
        let mut watch = script.watch();
        let workplace = WorkDir::create(root.path(), RUN, &mut watch).unwrap();
        drop(workplace);
        let place = root.path().join(new_tree(RUN));
        fill(&place, NEW_NAMES, "new");
        let new = contents(&place);
        Self { root, old, new }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn marker_files() -> Vec<PathBuf> {
        vec!["PG_VERSION".into(), "global/pg_control".into()]
    }

    /// Does something with the work directory and fails at one step; returns the steps taken.
    fn work(
        &self,
        fail_at: Option<usize>,
        work: impl FnOnce(&mut WorkDir<'_>) -> io::Result<()>,
    ) -> (Vec<Step>, io::Result<()>) {
        let mut script = script(fail_at);
        let mut watch = script.watch();
        let mut workplace = WorkDir::open(self.path(), RUN, &mut watch).unwrap().unwrap();
        let outcome = work(&mut workplace);
        drop(workplace);
        drop(watch);
        let steps = script.steps.borrow().clone();
        (steps, outcome)
    }

    fn swap_in(&self, fail_at: Option<usize>) -> (Vec<Step>, io::Result<()>) {
        let root = Metadata {
            uid: 0,
            gid: 0,
            mode: 0o750,
            mtime: crate::archive::Timestamp { secs: 7, nanos: 8 },
            xattrs: Vec::new(),
        };
        self.work(fail_at, |workplace| workplace.swap_in(&Self::marker_files(), Some(&root.to_record())))
    }

    fn swap_back(&self, fail_at: Option<usize>) -> (Vec<Step>, io::Result<()>) {
        self.work(fail_at, |workplace| workplace.swap_back())
    }

    /// A server starts only if both of its marker files are there, of one tree.
    #[track_caller]
    fn assert_no_mixture_starts(&self) {
        let now = contents(self.path());
        let (Some(version), Some(global)) =
            (now.get(OsStr::new("PG_VERSION")), now.get(OsStr::new("global")))
        else {
            return;
        };
        assert_eq!(format!("/{version}"), *global, "a mixture would start");
        let whole = if version == "old" { &self.old } else { &self.new };
        assert!(
            whole.iter().all(|(name, content)| now.get(name) == Some(content)),
            "half of {version}: {now:?}"
        );
    }
}

#[test]
fn the_new_tree_takes_the_place_of_the_old_with_its_heads_last() {
    let world = World::new();
    let (steps, outcome) = world.swap_in(None);
    outcome.unwrap();
    assert_eq!(contents(world.path()), world.new);
    assert_eq!(contents(&world.path().join(old_tree(RUN))), world.old);
    let moves: Vec<_> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Move { to, name, .. } => Some((*to, name.to_str().unwrap_or("?"))),
            _ => None,
        })
        .collect();
    assert_eq!(moves[..2], [(OLD, "global"), (OLD, "PG_VERSION")]);
    assert_eq!(moves[moves.len() - 2..], [("", "PG_VERSION"), ("", "global")]);
    let metadata = Metadata::of_file(&open_directory(world.path()).unwrap()).unwrap();
    assert_eq!((metadata.mode, metadata.mtime.secs, metadata.mtime.nanos), (0o750, 7, 8));
}

#[test]
fn wherever_a_swap_and_then_its_undoing_end_the_old_tree_comes_back_whole() {
    let steps = World::new().swap_in(None).0.len();
    for fail_at in 1..=steps + 1 {
        let undoing = {
            let world = World::new();
            drop(world.swap_in(Some(fail_at)));
            world.swap_back(None).0.len()
        };
        for undo_fails_at in 1..=undoing + 1 {
            let world = World::new();
            let before = Metadata::of_file(&open_directory(world.path()).unwrap()).unwrap();
            let (_, swapped) = world.swap_in(Some(fail_at));
            assert_eq!(swapped.is_ok(), fail_at > steps);
            world.assert_no_mixture_starts();
            drop(world.swap_back(Some(undo_fails_at)));
            world.assert_no_mixture_starts();
            world.swap_back(None).1.unwrap();
            assert_eq!(
                contents(world.path()),
                world.old,
                "swap ended at {fail_at}, undoing at {undo_fails_at}"
            );
            let after = Metadata::of_file(&open_directory(world.path()).unwrap()).unwrap();
            assert_eq!(after.mode, before.mode);
            world.work(None, |_| Ok(())).1.unwrap();
            let mut watch = |_: &Step| Ok(());
            WorkDir::open(world.path(), RUN, &mut watch).unwrap().unwrap().discard(false).unwrap();
            assert_eq!(contents(world.path()), world.old);
            assert!(leftovers(world.path()).unwrap().is_empty());
        }
    }
}

#[test]
fn what_the_new_server_has_made_goes_when_the_old_tree_comes_back() {
    let world = World::new();
    world.swap_in(None).1.unwrap();
    fill(world.path(), &["postmaster.pid", "only-old", "pg_new/"], "made by the server");
    world.swap_back(None).1.unwrap();
    assert_eq!(contents(world.path()), world.old);
}

#[test]
fn what_is_committed_stays_whatever_asks_for_the_old() {
    let world = World::new();
    world.swap_in(None).1.unwrap();
    world.work(None, |workplace| workplace.commit()).1.unwrap();
    world.swap_back(None).1.unwrap();
    assert_eq!(contents(world.path()), world.new);
    let mut watch = |_: &Step| Ok(());
    let workplace = WorkDir::open(world.path(), RUN, &mut watch).unwrap().unwrap();
    assert_eq!(workplace.state().unwrap(), SwapState::Committed);
    workplace.discard(false).unwrap_err();
    assert_eq!(
        contents(&world.path().join(old_tree(RUN))),
        world.old,
        "the only copy of the old data is kept"
    );
    WorkDir::open(world.path(), RUN, &mut watch).unwrap().unwrap().discard(true).unwrap();
    assert_eq!(contents(world.path()), world.new);
}

#[test]
fn a_commit_that_fails_leaves_one_of_the_two_states() {
    for fail_at in 1..=2 {
        let world = World::new();
        world.swap_in(None).1.unwrap();
        world.work(Some(fail_at), |workplace| workplace.commit()).1.unwrap_err();
        world.swap_back(None).1.unwrap();
        let now = contents(world.path());
        assert!(now == world.old || now == world.new, "{now:?}");
    }
}

#[test]
fn what_is_owed_is_never_discarded() {
    let world = World::new();
    world.swap_in(None).1.unwrap();
    let mut watch = |_: &Step| Ok(());
    WorkDir::open(world.path(), RUN, &mut watch).unwrap().unwrap().discard(true).unwrap_err();
    world.swap_back(None).1.unwrap();
    assert_eq!(contents(world.path()), world.old);
}

#[rstest]
#[case::empty_old(&[], &["a"])]
#[case::empty_new(&["a", "b/"], &[])]
fn an_empty_tree_is_a_tree(#[case] old: &[&str], #[case] new: &[&str]) {
    let root = TempDir::new().unwrap();
    fill(root.path(), old, "old");
    let before = contents(root.path());
    let mut watch = |_: &Step| Ok(());
    let mut workplace = WorkDir::create(root.path(), RUN, &mut watch).unwrap();
    fill(&root.path().join(new_tree(RUN)), new, "new");
    workplace.swap_in(&[], None).unwrap();
    assert_eq!(contents(root.path()).len(), new.len());
    workplace.swap_back().unwrap();
    assert_eq!(contents(root.path()), before);
}

#[test]
fn the_roots_time_does_not_tell_of_the_work_directory() {
    let root = TempDir::new().unwrap();
    let directory = open_directory(root.path()).unwrap();
    set_mtime(&directory, TimeSpec::new(1_000, 5)).unwrap();
    let mut watch = |_: &Step| Ok(());
    WorkDir::create(root.path(), RUN, &mut watch).unwrap().discard(false).unwrap();
    let metadata = Metadata::of_file(&directory).unwrap();
    assert_eq!((metadata.mtime.secs, metadata.mtime.nanos), (1_000, 5));
}

/// Empties the root, makes the new tree again, and moves it in; fails at a step of either.
fn begin_anew(world: &World, fail_at: Option<usize>, swap_fails_at: Option<usize>) -> io::Result<()> {
    let mut nothing = |_: &Step| Ok(());
    drop(WorkDir::open_or_make(world.path(), RUN, &mut nothing).unwrap());
    world.work(fail_at, |workplace| workplace.empty(&World::marker_files())).1?;
    fill(&world.path().join(new_tree(RUN)), NEW_NAMES, "new");
    world.swap_in(swap_fails_at).1
}

#[test]
fn an_emptied_root_has_lost_its_heads_first_and_is_owed_until_a_tree_stays() {
    let world = World::new();
    fs::write(world.path().join("global/pg_control"), "old").unwrap();
    let (mut first, path) = (None, world.path().to_owned());
    let mut watch = |step: &Step| {
        if *step == Step::Remove && first.is_none() {
            first = Some(contents(&path));
        }
        let whole = path.join("PG_VERSION").exists() && path.join("global/pg_control").exists();
        let all = contents(&path).len() >= OLD_NAMES.len();
        assert!(!whole || all, "it would start on a part");
        Ok(())
    };
    WorkDir::open_or_make(&path, RUN, &mut watch).unwrap().empty(&World::marker_files()).unwrap();
    assert_eq!(first.unwrap(), world.old, "nothing goes before the mark");
    assert!(contents(world.path()).is_empty());
    // From here on nothing watches, for as long as the test runs.
    let open = || WorkDir::open(&path, RUN, Box::leak(Box::new(|_: &Step| Ok(())))).unwrap().unwrap();
    assert_eq!(open().state().unwrap(), SwapState::Emptied);
    open().commit().unwrap_err();
    open().discard(true).unwrap_err();
    fill(&world.path().join(new_tree(RUN)), NEW_NAMES, "new");
    world.swap_in(None).1.unwrap();
    assert_eq!(open().state().unwrap(), SwapState::Emptied);
    open().discard(true).unwrap_err();
    open().commit().unwrap();
    assert_eq!(open().state().unwrap(), SwapState::Committed);
    open().empty(&[]).unwrap_err();
    open().discard(true).unwrap();
    assert_eq!(contents(world.path()), world.new);
    assert!(leftovers(world.path()).unwrap().is_empty());
}

#[test]
fn wherever_emptying_ends_it_can_be_begun_anew() {
    for swap_fails_at in [None, Some(1), Some(5), Some(9), Some(13)] {
        for fail_at in (1..30).map(Some).chain([None]) {
            let world = World::new();
            drop(begin_anew(&world, fail_at, swap_fails_at));
            world.assert_no_mixture_starts();
            begin_anew(&world, None, None).unwrap();
            assert_eq!(contents(world.path()), world.new, "{fail_at:?} {swap_fails_at:?}");
        }
    }
}

fn plan_fixture(format: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/formats/{format}/swap-plan")))
        .unwrap()
}

#[rstest]
#[case("v1", 1)]
#[case("v2", 2)]
fn a_plan_of_every_format_is_read(#[case] format: &str, #[case] number: u32) {
    let plan = understand_plan(&plan_fixture(format)).unwrap();
    let names = |names: &[Name]| names.iter().map(Name::to_os).collect::<Vec<_>>();
    let old: [&[u8]; 4] = [b"PG_VERSION", b"odd\xffname", b"base", b"global"];
    assert_eq!(names(&plan.old), old.map(OsStr::from_bytes));
    assert_eq!(names(&plan.marker_files), ["PG_VERSION", "global"]);
    assert_eq!((plan.format, plan.root.mode, plan.root.uid), (number, 0o700, 999));
    assert_eq!(plan.root.mtime, crate::archive::Timestamp { secs: 1_795_964_340, nanos: 409_615_968 });
}

#[test]
fn a_swap_that_version_0_1_began_is_undone() {
    let world = World::new();
    let steps = world.swap_in(None).0.len();
    for fail_at in [None, Some(steps / 2)] {
        let world = World::new();
        let _ = world.swap_in(fail_at);
        let path = world.path().join(work_name(RUN)).join(PLAN);
        let mut plan: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let fields = plan.as_object_mut().unwrap();
        fields.remove("format");
        let heads = fields.remove("marker_files").unwrap();
        fields.insert("heads".into(), heads);
        fs::write(&path, plan.to_string()).unwrap();
        world.swap_back(None).1.unwrap();
        assert_eq!(contents(world.path()), world.old);
    }
}

#[test]
fn a_plan_of_a_later_format_is_not_acted_on() {
    let world = World::new();
    world.swap_in(None).1.unwrap();
    let path = world.path().join(work_name(RUN)).join(PLAN);
    fs::write(&path, r#"{"format":3,"owed":{"names":[]}}"#).unwrap();
    let error = world.swap_back(None).1.unwrap_err();
    assert!(error.to_string().contains("later volsnap (format 3)"), "{error}");
    assert_eq!(contents(world.path()), world.new);
}
