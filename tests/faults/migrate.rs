//! A migration with its command killed at each step, and with each call to the engine failed: the service runs on
//! the old data and its file is to the byte what it was, or on the new and the file says so; never on a mixture.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::SIGKILL;
use tokio::time::timeout;
use volsnap::engine::failing::{Call, Mode};
use volsnap::model::facts::FactsLevel;
use volsnap::ops::execute;
use volsnap::ops::migrate::{Destination, MigrateOptions, Outcome, migrate};
use volsnap::saga::RetryBudget;
use volsnap::{Error, ErrorKind, Result};

use crate::database::{Postgres, Watched, steps_of};
use crate::deep::sampled;
use crate::project::Project;
use crate::restores::{LIMIT, await_finished, ends_of_runs};
use crate::small::{Service, Tree, differences, tree};
use crate::small_disk::SmallDisk;
use crate::stage::Stage;
use crate::world::{World, docker};

/// The steps for a container that the engine makes anew, in their order: what undoes a thing stands before the thing.
const STEPS: &[&str] = &[
    "start-guard",
    "make-directory",
    "create-helper",
    "start-helper",
    "stage-into",
    "live-pass",
    "keep-stage",
    "live-pass",
    "keep-stage",
    "compare",
    "stop-container",
    "final-pass",
    "compare-held",
    "swap-in",
    "rename-aside",
    "create-like",
    "start-container",
    "await-ready",
    "confirm",
    "commit",
    "succeed",
    "succeeded",
    "discard-work",
    "remove-replaced",
    "delete-directory",
    "look-again",
];

/// The steps for a service that Compose makes anew.
const COMPOSE_STEPS: &[&str] = &[
    "start-guard",
    "await-ready",
    "make-directory",
    "create-helper",
    "start-helper",
    "stage-into",
    "live-pass",
    "keep-stage",
    "checkpoint",
    "live-pass",
    "keep-stage",
    "compare",
    "facts",
    "checkpoint",
    "stop-container",
    "prove",
    "final-pass",
    "compare-held",
    "swap-in",
    "edit-file",
    "remove-container",
    "recreate",
    "start-container",
    "await-ready",
    "confirm",
    "facts",
    "commit",
    "succeed",
    "succeeded",
    "discard-work",
    "remove-replaced",
    "delete-directory",
];

/// What runs on the old data or on the new.
trait Ground {
    fn target(&self) -> String;

    /// Has it run on the old data again, whatever it runs on.
    fn again(&mut self);

    /// It runs, whole, on the old data or on what is in the directory; returns whether on the latter.
    fn assert_one_of_two(&mut self, place: &Path, context: &str) -> bool;
}

/// Returns the one container that begins with this name, and what it mounts at a path.
#[track_caller]
fn mounted(container: &str, at: &str, context: &str) -> PathBuf {
    let format = format!(
        "{{{{range .Mounts}}}}{{{{if eq .Destination {at:?}}}}}{{{{.Source}}}}{{{{end}}}}{{{{end}}}}"
    );
    let source = docker(&["inspect", "--format", &format, container]);
    assert_ne!(source, "", "{context}: nothing is mounted at {at}");
    source.into()
}

/// No helper is left; one whose removal has failed is given the moment in which it removes itself.
#[track_caller]
fn assert_no_helper(place: &Path, volume: &str, context: &str) {
    let place = place.to_str().unwrap();
    let format = ["ps", "-a", "--no-trunc", "--filter", "label=volsnap.run", "--format", "{{.Mounts}}"];
    let begun = Instant::now();
    loop {
        let helpers = docker(&format);
        if !helpers.contains(volume) && !helpers.contains(place) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{context}: a helper is left: {helpers}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A container without Compose, and without a database.
struct Plain {
    service: Service,
    data: Tree,
}

impl Plain {
    async fn new() -> Self {
        let service = Service::start().await;
        let data = service.tree();
        Self { service, data }
    }
}

impl Ground for Plain {
    fn target(&self) -> String {
        format!("container:{}", self.service.container)
    }

    fn again(&mut self) {
        if mounted(&self.service.container, "/data", "again") != self.service.root {
            docker(&["rm", "-f", &self.service.container]);
            self.service.run();
        }
    }

    fn assert_one_of_two(&mut self, place: &Path, context: &str) -> bool {
        let container = &self.service.container;
        let named = format!("name={container}");
        let names = docker(&["ps", "-a", "--filter", &named, "--format", "{{.Names}}"]);
        assert_eq!(&names, container, "{context}: it is not alone");
        assert_eq!(self.service.state(), "running", "{context}");
        assert_eq!(
            differences(&self.service.tree(), &self.data),
            Vec::<String>::new(),
            "{context}: the volume"
        );
        let source = mounted(container, "/data", context);
        let is_new = source == place;
        if is_new {
            assert_eq!(
                differences(&tree(place), &self.data),
                Vec::<String>::new(),
                "{context}: the directory"
            );
        } else {
            assert_eq!(source, self.service.root, "{context}");
        }
        assert_no_helper(place, self.service.target.strip_prefix("volume:").unwrap(), context);
        is_new
    }
}

/// A PostgreSQL that Compose has made.
struct Composed {
    project: Project,
    postgres: Postgres,
    text: String,
}

impl Composed {
    async fn new() -> Self {
        let world = World::new().await;
        let project = Project::up(&world);
        let postgres = Postgres { container: project.service(), volume: project.volume("db_data"), world };
        postgres.await_answer();
        postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
        Self { text: project.text(), postgres, project }
    }

    /// Returns the files beside the compose file.
    fn beside(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.project.directory()).unwrap();
        let known = ["compose.yaml", ".env"].map(|name| self.project.directory().join(name));
        entries.map(|entry| entry.unwrap().path()).filter(|path| !known.contains(path)).collect()
    }
}

impl Ground for Composed {
    fn target(&self) -> String {
        self.project.target()
    }

    fn again(&mut self) {
        self.beside().iter().for_each(|path| std::fs::remove_file(path).unwrap());
        if self.project.text() != self.text {
            self.project.rewrite(|_| self.text.clone());
            self.project.compose(&["up", "-d", "--no-deps", "db"]);
            self.postgres.container = self.project.service();
            self.postgres.await_answer();
        }
    }

    fn assert_one_of_two(&mut self, place: &Path, context: &str) -> bool {
        let project = format!("label=com.docker.compose.project={}", self.project.name);
        let containers = docker(&["ps", "-aq", "--no-trunc", "--filter", &project]);
        assert_eq!(containers.lines().count(), 1, "{context}: {containers}");
        self.postgres.container = containers;
        self.postgres.await_answer();
        self.postgres.assert_whole();
        let source = mounted(&self.postgres.container, "/var/lib/postgresql/data", context);
        let (is_new, beside) = (source == place, self.beside());
        if is_new {
            let line = format!("- {}:/var/lib/postgresql/data", place.display());
            let expected = self.text.replace("- db_data:/var/lib/postgresql/data", &line);
            assert_eq!(self.project.text(), expected, "{context}");
            assert_eq!(beside.len(), 1, "{context}: {beside:?}");
            assert_eq!(std::fs::read_to_string(&beside[0]).unwrap(), self.text, "{context}");
        } else {
            assert!(
                source.to_string_lossy().contains(&self.postgres.volume),
                "{context}: {}",
                source.display()
            );
            assert_eq!(self.project.text(), self.text, "{context}");
            assert_eq!(beside, Vec::<PathBuf>::new(), "{context}");
        }
        assert_no_helper(place, &self.postgres.volume, context);
        is_new
    }
}

fn position(steps: &[&str], step: &str) -> usize {
    steps.iter().position(|one| *one == step).unwrap()
}

/// Kills at each of the steps that are `wanted`.
async fn kill_at_each(ground: &mut impl Ground, steps: &[&str], wanted: impl Fn(&str) -> bool) {
    let (stage, data) = (Stage::new().await.with_helper_image().await, tempfile::tempdir().unwrap());
    let target = ground.target();
    let start = |place: &Path| {
        Watched::start(stage.volsnap.command(["migrate", &target, place.to_str().unwrap(), "-y"]))
    };
    let place = data.path().join("undisturbed/data");
    let (code, said) = start(&place).end();
    assert_eq!(code, Some(0), "{said}");
    println!("{:?}", steps_of(&said));
    assert_eq!(steps_of(&said), steps);
    assert!(ground.assert_one_of_two(&place, "undisturbed"));
    let (kept, succeed) = (position(steps, "keep-stage"), position(steps, "succeed"));
    let all = (0..steps.len()).filter(|index| wanted(steps[*index])).collect();
    for index in sampled(all, 5) {
        ground.again();
        let begun = Instant::now();
        let place = data.path().join(format!("{index}/data"));
        let mut watched = start(&place);
        for step in &steps[..=index] {
            assert!(watched.reach(step), "the run ended before {step}");
        }
        watched.signal(SIGKILL);
        // It may have gone on before the signal came.
        let index = steps_of(&watched.end().1).len() - 1;
        let step = &steps[index];
        let context = format!("killed at {index} {step}");
        if *step == "start-guard" {
            // Nobody watches yet, and there is nothing to put back: the next command removes the empty journal.
            let _ = stage.volsnap.run(["recover"]).expect(0);
        }
        await_finished(&stage, &context).await;
        let is_new = ground.assert_one_of_two(&place, &context);
        println!("{context}: new {is_new}, {:?}", begun.elapsed());
        // The line in the journal may be there by the time the signal is, or not.
        assert!(index == succeed || is_new == (index > succeed), "{context}: new {is_new}");
        assert!(index >= kept || !place.parent().unwrap().exists(), "{context}: the directory is left");
        // In its place and never run on: nobody misses it.
        let unused = ["edit-file", "remove-container", "recreate", "rename-aside", "create-like"];
        assert!(!unused.contains(step) || !place.exists(), "{context}: the copy is left");
        stage.volsnap.assert_no_leftovers();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_migration_is_killed_at_any_step_runs_on_the_old_or_the_new() {
    kill_at_each(&mut Plain::new().await, STEPS, |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compose_service_whose_migration_is_killed_at_any_step_runs_on_the_old_or_the_new() {
    // Before these nothing depends on who makes the container, and the others find what the one before them does.
    let wanted = [
        "swap-in",
        "edit-file",
        "remove-container",
        "recreate",
        "start-container",
        "await-ready",
        "commit",
        "succeed",
        "succeeded",
        "delete-directory",
    ];
    kill_at_each(&mut Composed::new().await, COMPOSE_STEPS, |step| wanted.contains(&step)).await;
}

/// Says yes.
impl Stage {
    async fn migrate(&self, ground: &impl Ground, place: &Path) -> Result<Outcome> {
        let options = MigrateOptions {
            target: ground.target().parse().unwrap(),
            destination: Destination::Directory(place.to_owned()),
            override_file: false,
            owner: None,
            level: FactsLevel::Quick,
            stop_timeout: None,
            kills: Vec::new(),
            environment: std::env::vars().collect(),
            helper_image: None,
        };
        Ok(timeout(LIMIT, migrate(&self.host, &options, execute)).await.unwrap()?.unwrap())
    }
}

/// A failure says what was being done, why, and in which state things are.
#[track_caller]
fn assert_speaks(error: &Error, context: &str) {
    assert_eq!(error.kind(), ErrorKind::Failed, "{context}: {}", error.chain());
    assert!(error.chain().contains("injected failure"), "{context}: {}", error.chain());
    assert!(!error.to_string().contains("injected"), "{context}: it does not say what was being done");
    let state = error.state_text().unwrap_or_default();
    let is_said = state.contains("nothing was stopped") || state.contains("everything is as it was before");
    assert!(is_said, "{context}: {state:?}");
}

/// The calls that do something: the lost answer to a question is a question that was never asked.
const HAVE_EFFECTS: &[&str] = &[
    "create_container",
    "attach",
    "start",
    "stop",
    "remove_container",
    "remove_stopped_container",
    "rename_container",
    "clone_container",
];

/// Returns the calls to fail, and how: those that do something in both ways, and each question where it is asked last.
fn rounds(calls: &[Call]) -> Vec<(&'static str, usize, Mode)> {
    let places = ends_of_runs(calls);
    let is_last =
        |name: &str, nth: usize| !places.iter().any(|(other, later)| *other == name && *later > nth);
    let modes = |(name, nth): (&'static str, usize)| match HAVE_EFFECTS.contains(&name) {
        true => vec![(name, nth, Mode::Before), (name, nth, Mode::After)],
        false if is_last(name, nth) => vec![(name, nth, Mode::Before)],
        false => Vec::new(),
    };
    places.iter().copied().flat_map(modes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_migration_that_fails_or_whose_answer_is_lost_leaves_the_old_or_the_new() {
    let (mut plain, data) = (Plain::new().await, tempfile::tempdir().unwrap());
    let recorded = Stage::new().await.with_helper_image().await;
    let place = data.path().join("undisturbed/data");
    recorded.migrate(&plain, &place).await.unwrap();
    assert!(plain.assert_one_of_two(&place, "undisturbed"));
    let calls = recorded.docker.calls();
    println!("{}", calls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let (mut failed, mut survived) = (0, Vec::new());
    for (number, (name, nth, mode)) in sampled(rounds(&calls), 5).into_iter().enumerate() {
        let context = format!("{mode:?} {name} {nth}");
        plain.again();
        let (stage, begun) = (Stage::new().await, Instant::now());
        stage.docker.fail_nth(name, nth, mode);
        let place = data.path().join(format!("{number}/data"));
        let outcome = stage.migrate(&plain, &place).await;
        await_finished(&stage, &context).await;
        let is_new = plain.assert_one_of_two(&place, &context);
        println!("{context}: new {is_new}, {:?}", begun.elapsed());
        match outcome {
            Ok(_) => {
                assert!(is_new, "{context}: it is said to be migrated");
                survived.push(context);
            }
            Err(error) => {
                assert_speaks(&error, &context);
                assert!(!is_new, "{context}: {}", error.chain());
                failed += 1;
            }
        }
        stage.volsnap.assert_no_leftovers();
    }
    println!("{failed} failed, survived: {survived:?}");
    assert!(failed >= 3, "{failed}");
}

/// What differs with Compose is when the old container goes: before there is a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_gone_before_compose_has_made_another_is_had_back() {
    let (mut composed, data) = (Composed::new().await, tempfile::tempdir().unwrap());
    let (stage, place) = (Stage::new().await.with_helper_image().await, data.path().join("made/data"));
    stage.docker.fail_nth("remove_stopped_container", 1, Mode::After);
    let error = stage.migrate(&composed, &place).await.unwrap_err();
    assert_speaks(&error, "gone");
    assert!(!composed.assert_one_of_two(&place, "gone"));
    assert!(!place.parent().unwrap().exists(), "the directory is left");
    stage.volsnap.assert_no_leftovers();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_migration_cannot_put_back_its_guard_does() {
    let mut plain = Plain::new().await;
    let data = tempfile::tempdir().unwrap();
    for step in ["swap-in", "create-like", "start-container", "commit"] {
        plain.again();
        let mut stage = Stage::new().await.with_helper_image().await;
        stage.host.saga.budget = RetryBudget(Duration::from_secs(1));
        let engine = stage.docker.clone();
        stage.at(step, move || {
            let next = engine.calls().len() + 1;
            engine.fail_during(next..usize::MAX, Mode::Before);
        });
        let place = data.path().join(step);
        let error = stage.migrate(&plain, &place).await.unwrap_err();
        await_finished(&stage, step).await;
        // What commits is the helper, over a connection that is there: only the tidying is left.
        assert_eq!(plain.assert_one_of_two(&place, step), step == "commit", "{step}");
        assert_eq!(error.kind(), ErrorKind::NotPutBack, "{step}: {}", error.chain());
        assert!(error.hint_text().is_some_and(|hint| hint.contains("volsnap recover")), "{step}");
        stage.volsnap.assert_no_leftovers();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_have_the_data_is_refused_before_anything_is_stopped() {
    let (mut plain, stage) = (Plain::new().await, Stage::new().await);
    let target = plain.target();
    let started = || docker(&["inspect", "--format", "{{.State.StartedAt}}", &plain.service.container]);
    let before = started();
    let refused = |place: &Path, code: i32, words: &[&str]| {
        let ran = stage.volsnap.run(["migrate", &target, place.to_str().unwrap(), "-y"]);
        ran.refused(code, &[words, &["nothing was stopped"]].concat());
        assert_eq!(started(), before);
    };
    let Some(disk) = SmallDisk::ext4(48) else { return };
    refused(disk.path(), 2, &["is a mount point", "name a directory in it"]);
    refused(&disk.data(), 1, &["MB free", "on a larger disk"]);
    refused(&disk.path().join("made/for/it"), 1, &["MB free", "on a larger disk"]);
    assert!(!disk.path().join("made").exists());
    assert_eq!(std::fs::read_dir(disk.data()).unwrap().count(), 0);
    drop(disk);

    match Fat::mount() {
        Some(fat) => {
            let words = ["cannot hold what the data has", "choose a directory on a local disk"];
            refused(&fat.0.path().join("disk/made"), 1, &words);
            assert!(!fat.0.path().join("disk/made").exists());
        }
        None => println!("skipped: no FAT file system can be made and mounted here"),
    }
    assert!(!plain.assert_one_of_two(Path::new("/nonexistent"), "refused"));
    stage.volsnap.assert_no_leftovers();
}

/// A file with a FAT file system, which has no owners.
struct Fat(tempfile::TempDir);

impl Fat {
    fn mount() -> Option<Self> {
        let fat = Self(tempfile::tempdir().unwrap());
        let (image, disk) = (fat.0.path().join("image"), fat.0.path().join("disk"));
        std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(&disk).unwrap();
        let ran = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let mounted = ran(Command::new("mkfs.vfat").arg(&image))
            && ran(Command::new("mount").args(["-t", "vfat", "-o", "loop"]).arg(&image).arg(&disk));
        mounted.then_some(fat)
    }
}

impl Drop for Fat {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path().join("disk")).output();
    }
}
