//! A restore of a real database: what was saved is there again, or what was there still is.

use std::path::PathBuf;
use std::process::Command;

use crate::database::{Postgres, Volsnap, Watched, steps_of};
use crate::deep::sampled;
use crate::small::{described, tree};
use crate::world::{World, docker};

fn mountpoint(volume: &str) -> PathBuf {
    docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", volume]).into()
}

/// Nothing of a restore is left in the volume.
#[track_caller]
fn assert_no_work(volume: &str) {
    let left: Vec<_> = std::fs::read_dir(mountpoint(volume))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".volsnap"))
        .collect();
    assert!(left.is_empty(), "left in the volume: {left:?}");
}

#[tokio::test]
async fn a_dropped_table_is_back_after_a_restore_and_gone_again_after_its_undo() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    postgres.query("drop table kept");
    postgres.query("create table later as select 7 as n");

    let restored = volsnap.run(["restore", "latest", "-y", "--json"]).json();

    postgres.assert_whole();
    assert_eq!(postgres.query("select to_regclass('later') is null"), "t");
    assert!(restored["downtime_ms"].as_u64().unwrap() > 0, "{restored}");
    assert_eq!(restored["raw_bytes"], snapshot["raw_bytes"]);
    postgres.assert_no_helper();
    volsnap.assert_no_leftovers();
    assert_no_work(&postgres.volume);
    println!("restore: {restored}");

    let safety = restored["safety"].as_str().unwrap();
    assert_eq!(volsnap.run(["show", safety, "--json"]).json()["tags"]["safety"], "true");
    assert_eq!(volsnap.run(["verify", safety, "--json"]).json()["ok"], true);
    let undo = restored["undo"].as_str().unwrap();
    let mut words: Vec<_> = undo.split(' ').skip(1).collect();
    words.push("-y");
    let _ = volsnap.run(words).expect(0);
    assert_eq!(postgres.query("select n from later"), "7");
    assert_eq!(postgres.query("select to_regclass('kept') is null"), "t");
    assert_no_work(&postgres.volume);
}

#[tokio::test]
async fn without_a_terminal_and_without_yes_nothing_is_touched() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let before = postgres.inspect("{{.State.StartedAt}}");
    volsnap.run(["restore", "latest"]).refused(2, &["-y", "nothing was touched"]);
    let plan = volsnap.run(["restore", "latest", "--dry-run", "--json"]).json();
    assert_eq!(plan["stops"][0], postgres.container);
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), before);
    assert_no_work(&postgres.volume);
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn the_tree_afterwards_equals_the_archive_and_no_stale_file_survives() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["stop", "-t", "60", &postgres.container]);
    let root = mountpoint(&postgres.volume);
    let (before, root_before) = (tree(&root), described(&root));
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    std::fs::write(root.join("stale"), "x").unwrap();
    std::fs::create_dir(root.join("pg_wal/stale")).unwrap();
    std::fs::remove_file(root.join("postgresql.conf")).unwrap();
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();

    let restored = volsnap.run(["restore", "latest", "-y"]);
    let next = restored.expect(0).next();

    assert_eq!(tree(&root), before);
    assert_eq!(described(&root), root_before, "the root itself");
    assert_eq!(postgres.inspect("{{.State.Status}}"), "exited", "what was stopped stays stopped");
    let start = next.iter().find(|line| line.starts_with("docker start ")).unwrap();
    let _ = volsnap.paste(start).expect(0);
    postgres.await_answer();
    postgres.assert_whole();
}

#[tokio::test]
async fn another_cluster_is_replaced_only_on_request() {
    let (one, other, volsnap) = (Postgres::start().await, Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &one.target()]).expect(0);
    other.query("create table precious as select 1 as n");
    volsnap
        .run(["restore", "latest", "--to", &other.target(), "-y"])
        .refused(1, &["another cluster", "--force-different-cluster", "nothing was stopped"]);
    assert_eq!(other.query("select n from precious"), "1");
    let _ = volsnap
        .run(["restore", "latest", "--to", &other.target(), "-y", "--force-different-cluster"])
        .expect(0);
    other.assert_whole();
    assert_eq!(other.query("select to_regclass('precious') is null"), "t");
}

#[tokio::test]
async fn a_new_volume_has_what_compose_expects_and_a_database_that_boots() {
    let labels = ["--label", "com.docker.compose.project=p", "--label", "com.docker.compose.service=db"];
    let (postgres, volsnap) = (Postgres::start_with(&labels).await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let name = postgres.world.name("made");
    let _ = volsnap.run(["restore", "latest", "--new-volume", &name, "-y"]).expect(0);
    volsnap.run(["restore", "latest", "--new-volume", &name, "-y"]).refused(2, &["already"]);
    let copy = postgres.world.name("copy");
    postgres.run(&copy, &["-v", &format!("{name}:/var/lib/postgresql/data")]);
    let copy = Postgres { container: copy, volume: name, ..postgres };
    copy.await_answer();
    copy.assert_whole();
    assert_no_work(&copy.volume);
    copy.assert_no_helper();
}

#[tokio::test]
async fn a_directory_is_made_and_filled_and_one_that_is_not_empty_is_refused() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("made here");
    let argument = directory.to_str().unwrap();
    let _ = volsnap.run(["restore", "latest", "--dir", argument, "-y"]).expect(0);
    assert!(directory.join("PG_VERSION").exists() && directory.join("global/pg_control").exists());
    assert_eq!(
        std::fs::read_dir(&directory)
            .unwrap()
            .filter(|name| { name.as_ref().unwrap().file_name().to_string_lossy().starts_with(".volsnap") })
            .count(),
        0
    );
    volsnap.run(["restore", "latest", "--dir", argument, "-y"]).refused(2, &["not empty"]);
}

#[tokio::test]
async fn plain_archives_of_other_tools_come_to_the_right_level() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["stop", "-t", "60", &postgres.container]);
    let root = mountpoint(&postgres.volume);
    let scratch = tempfile::tempdir().unwrap();
    let copied = scratch.path().join("backup/x");
    std::fs::create_dir_all(copied.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-a").arg(&root).arg(&copied).status().unwrap().success());
    for (suffix, flag) in
        [("tar", "-c"), ("tar.gz", "-cz"), ("tar.bz2", "-cj"), ("tar.xz", "-cJ"), ("tar.zst", "-c --zstd")]
    {
        let archive = scratch.path().join(format!("db.{suffix}"));
        let mut tar = Command::new("tar");
        tar.args(flag.split(' '))
            .arg("--numeric-owner")
            .arg("-f")
            .arg(&archive)
            .arg("-C")
            .arg(scratch.path())
            .arg("backup");
        assert!(tar.env("XZ_OPT", "-0").status().unwrap().success(), "{suffix}");
        std::fs::write(root.join("stale"), "x").unwrap();
        let archive = archive.to_str().unwrap();
        volsnap.run(["restore", archive, "-y"]).refused(2, &["--to"]);
        let _ = volsnap.run(["restore", archive, "--to", &postgres.target(), "-y", "--no-safety"]).expect(0);
        assert!(!root.join("stale").exists() && root.join("PG_VERSION").exists(), "{suffix}");
    }
    docker(&["start", &postgres.container]);
    postgres.await_answer();
    postgres.assert_whole();
}

#[tokio::test]
async fn an_archive_without_a_database_is_not_put_in_the_place_of_one() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("holiday.jpg"), "x").unwrap();
    let archive = scratch.path().join("photos.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).arg("-C").arg(scratch.path()).arg("holiday.jpg");
    assert!(tar.status().unwrap().success());
    volsnap
        .run(["restore", archive.to_str().unwrap(), "--to", &postgres.target(), "-y"])
        .refused(1, &["no database"]);
    postgres.assert_whole();
}

#[tokio::test]
async fn data_on_which_the_database_does_not_start_is_taken_back() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    // Saved with a configuration that no server starts with.
    docker(&["stop", "-t", "60", &postgres.container]);
    let configuration = mountpoint(&postgres.volume).join("postgresql.conf");
    let good = std::fs::read_to_string(&configuration).unwrap();
    std::fs::write(&configuration, format!("{good}\nno_such_setting = on\n")).unwrap();
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    std::fs::write(&configuration, good).unwrap();
    docker(&["start", &postgres.container]);
    postgres.await_answer();
    postgres.query("create table later as select 7 as n");

    volsnap
        .run(["restore", "latest", "-y"])
        .refused(1, &["start the service on the restored data", "the data is what it was before"]);
    postgres.assert_whole();
    assert_eq!(postgres.query("select n from later"), "7");
    assert_no_work(&postgres.volume);
    volsnap.assert_no_leftovers();
    assert_eq!(volsnap.list().len(), 1, "no safety snapshot of what was not replaced");
}

/// Every step of a restore that is seen from outside, in order.
const STEPS: &[&str] = &[
    "start-guard",
    "create-helper",
    "start-helper",
    "extract",
    "prove-extracted",
    "stop-container",
    "swap-in",
    "swapped",
    "start-container",
    "await-ready",
    "confirm",
    "commit",
    "committed",
    "safety",
    "write-manifest",
    "discard-old",
];

#[tokio::test]
async fn a_restore_killed_at_any_step_leaves_the_old_or_the_new_whole_and_running() {
    use nix::sys::signal::Signal::{SIGINT, SIGKILL};
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let id = volsnap.list()[0]["id"].as_str().unwrap().to_owned();
    let interrupted = &["extract", "stop-container", "swap-in", "start-container", "commit", "safety"];
    for (signal, steps, most) in [(SIGKILL, STEPS, 5), (SIGINT, interrupted, 3)] {
        for step in sampled(steps.iter().collect(), most) {
            postgres.query("create table if not exists later as select 7 as n");
            let before = volsnap.list().len();
            let mut watched = Watched::start(volsnap.command(["restore", &id, "-y"]));
            // A container's readiness is looked at before it is stopped too.
            let reached = if *step == "await-ready" {
                watched.reach("swapped") && watched.reach(step)
            } else {
                watched.reach(step)
            };
            assert!(reached, "{step} was never reached");
            println!("{signal} at {step}");
            watched.signal(signal);
            let (code, said) = watched.end();
            // It may have gone on before the signal came.
            let step = if signal == SIGKILL { steps_of(&said).pop().unwrap() } else { *step };
            if signal == SIGINT {
                assert_eq!(code, Some(130), "{step}: {said}");
                assert!(said.contains("restored data stays") || !is_committed(step), "{step}: {said}");
            }
            await_finished(&volsnap, step);
            postgres.await_answer();
            postgres.assert_whole();
            let is_old = postgres.query("select to_regclass('later') is not null") == "t";
            assert!(
                // A step is told by a thread of its own: the last one that was told may not be the last one taken.
                is_old || is_committed(step) || ["confirm", "commit"].contains(&step),
                "{step}: the new data stayed unconfirmed"
            );
            assert_no_work(&postgres.volume);
            postgres.assert_no_helper();
            // What was replaced is kept, whoever has finished it, and nothing that was not.
            let safety = volsnap.list().len() - before;
            assert_eq!(safety, usize::from(!is_old), "{step}: {safety} safety snapshots");
            assert_eq!(volsnap.repository_files().len(), 3 * volsnap.list().len(), "{step}");
        }
    }
    let kept = volsnap.list().into_iter().filter(|row| row["tags"]["safety"] == "true");
    let kept: Vec<_> = kept.map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert!(kept.len() >= 2, "{kept:?}");
    let _ = volsnap.run(["verify", "--all"]).expect(0);
    let _ = volsnap.run(["restore", &kept[kept.len() - 1], "-y"]).expect(0);
    assert_eq!(postgres.query("select n from later"), "7");
    postgres.assert_whole();
}

/// Whether the new data stays from this step on.
fn is_committed(step: &str) -> bool {
    ["committed", "safety", "write-manifest", "discard-old"].contains(&step)
}

/// Waits until what the killed command left is finished: by its guard, or by `recover` where it was killed
/// before it had one.
fn await_finished(volsnap: &Volsnap, step: &str) {
    let begun = std::time::Instant::now();
    loop {
        let open = volsnap.unfinished();
        match open.as_array().unwrap().as_slice() {
            [] => return,
            [run] if run["held"] == false && begun.elapsed().as_secs() > 5 => {
                let _ = volsnap.run(["recover"]).expect(0);
            }
            _ => {}
        }
        let journals = volsnap.state().join("journals");
        let text = || {
            let paths = std::fs::read_dir(&journals).unwrap().map(|path| path.unwrap().path());
            paths.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect::<String>()
        };
        assert!(begun.elapsed().as_secs() < 90, "unfinished after a kill at {step}: {open}\n{}", text());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[tokio::test]
async fn a_journal_of_a_later_volsnap_stays_and_says_whose_it_is() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let journals = volsnap.state().join("journals");
    std::fs::create_dir_all(&journals).unwrap();
    let journal = journals.join("20261120T203011Z-4f2a91.jsonl");
    let text = "{\"run\":{\"run\":\"20261120T203011Z-4f2a91\",\"verb\":\"migrate\",\"subject\":\"db\",\"host\":null,\
                \"pid\":1,\"started\":\"2026-11-20T20:30:11Z\",\"version\":\"9.1.0\"}}\n\
                {\"register\":{\"number\":1,\"when\":\"always\",\"compensation\":{\"thaw\":{}}}}\n";
    std::fs::write(&journal, text).unwrap();
    for arguments in [&["recover"][..], &["snapshot", &postgres.target()]] {
        volsnap.run(arguments).refused(4, &["volsnap 9.1.0", journal.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(&journal).unwrap(), text);
    }
    let listed = volsnap.unfinished();
    assert_eq!((&listed[0]["verb"], &listed[0]["held"]), (&"migrate".into(), &false.into()), "{listed}");
    postgres.assert_whole();
}

#[tokio::test]
async fn compose_takes_a_new_volume_for_its_own_without_a_warning() {
    let (world, volsnap) = (crate::world::World::new().await, Volsnap::new());
    let project = world.name("p").replace(|c: char| !c.is_ascii_alphanumeric(), "");
    let volume = format!("{project}_pgdata");
    let file = volsnap.directory().join("docker-compose.yml");
    std::fs::create_dir_all(volsnap.directory()).unwrap();
    let text = format!(
        "version: \"2.4\"\nservices:\n  db:\n    image: {}\n    network_mode: none\n    labels: [\"{}={}\"]\n    \
         environment: {{POSTGRES_PASSWORD: secret-word}}\n    volumes: [\"pgdata:/var/lib/postgresql/data\"]\n\
         volumes:\n  pgdata: {{}}\n",
        crate::database::image(),
        crate::world::LABEL,
        std::process::id()
    );
    std::fs::write(&file, text).unwrap();
    let compose = |arguments: &[&str]| {
        let mut compose = Command::new("docker-compose");
        let output = compose.args(["-p", &project, "-f"]).arg(&file).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    };
    /// Takes everything away, also when an assertion fails.
    struct Down<F: Fn()>(F);
    impl<F: Fn()> Drop for Down<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let down = Down(|| {
        let mut compose = Command::new("docker-compose");
        let _ = compose.args(["-p", &project, "-f"]).arg(&file).args(["down", "-v", "-t", "0"]).output();
        let _ = Command::new("docker").args(["volume", "rm", "-f", &volume]).output();
    });
    compose(&["up", "-d"]);
    let container = compose_container(&project);
    let answers = || {
        let ready = ["exec", &container, "pg_isready", "-q", "-h", "127.0.0.1"];
        Command::new("docker").args(ready).status().unwrap().success()
    };
    let begun = std::time::Instant::now();
    while !answers() {
        assert!(begun.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let _ = volsnap.run(["snapshot", &format!("volume:{volume}")]).expect(0);
    compose(&["down", "-v"]);
    let _ = volsnap.run(["restore", "latest", "--new-volume", &volume, "-y"]).expect(0);
    let said = compose(&["up", "-d"]);
    assert!(!said.contains("WARN") && !said.contains("already exists"), "{said}");
    let mounted = "{{range .Mounts}}{{.Name}}{{end}}";
    assert_eq!(docker(&["inspect", "--format", mounted, &compose_container(&project)]), volume);
    drop(down);
}

fn compose_container(project: &str) -> String {
    docker(&["ps", "-aq", "--filter", &format!("label=com.docker.compose.project={project}")])
}

#[tokio::test]
async fn a_server_that_runs_as_another_user_is_told_of_with_the_owner_that_fits() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let other = Postgres::start_image(&crate::database::image_70()).await;
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    let shown = volsnap.run(["show", snapshot["id"].as_str().unwrap(), "--json"]).json();
    let libc = shown["environment"]["libc"].as_str().unwrap();
    assert!(libc.starts_with("glibc 2."), "{libc}");
    let target = other.target();
    let restore = ["restore", "latest", "--to", &target, "--force-different-cluster"];
    let plan = volsnap.run([&restore[..], &["--dry-run", "--json"]].concat()).json();
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains("user 999") && warnings.contains("--owner 70:70"), "{warnings}");
    assert!(!warnings.contains("C library"), "both images have the same: {warnings}");
    let _ = volsnap.run([&restore[..], &["--owner", "70:70", "-y"]].concat()).expect(0);
    other.assert_whole();
    use std::os::unix::fs::MetadataExt as _;
    let metadata = mountpoint(&other.volume).join("PG_VERSION").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (70, 70));
}

#[tokio::test]
async fn a_data_directory_below_a_mount_of_root_keeps_its_own_owner_without_a_word() {
    let options = ["-e", "PGDATA=/var/lib/postgresql/own/data"];
    let (postgres, volsnap) = (Postgres::start_at("/var/lib/postgresql/own", &options).await, Volsnap::new());
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(mountpoint(&postgres.volume).metadata().unwrap().uid(), 0);
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    let plan = volsnap.run(["restore", "latest", "--dry-run", "--json"]).json();
    assert!(!plan["warnings"].to_string().contains("--owner"), "{plan}");
    let _ = volsnap.run(["restore", "latest", "--yes"]).expect(0);
    postgres.assert_whole();
    // Below the directory of somebody else it is still seen who does not fit.
    let other = Postgres::begin("/var/lib/postgresql/own", &options).await;
    other.await_answer();
    let restore =
        ["restore", "latest", "--to", &other.target(), "--force-different-cluster", "--owner", "70:70"];
    let plan = volsnap.run([&restore[..], &["--dry-run", "--json"]].concat()).json();
    assert!(plan["warnings"].to_string().contains("--owner 999:"), "{plan}");
}

#[tokio::test]
async fn a_volume_made_anew_has_the_labels_of_its_owner_and_says_that_it_has_not_the_options() {
    let (world, volsnap, directory) = (World::new().await, Volsnap::new(), tempfile::tempdir().unwrap());
    let (volume, device) = (world.name("odd"), format!("device={}", directory.path().display()));
    let options = ["--opt", "type=none", "--opt", "o=bind", "--opt", &device];
    docker(&[&["volume", "create", "--label", "owner=ops"], &options[..], &[&volume]].concat());
    let mount = format!("{volume}:/d");
    let script = "trap 'exit 0' TERM; echo data > /d/kept; ready; while :; do sleep 0.1; done";
    let _ = world.run_service("app", &["-v", &mount], script);
    let _ = volsnap.run(["snapshot", &format!("volume:{volume}")]).expect(0);

    let made = world.name("made");
    let restored = volsnap.run(["restore", "latest", "--new-volume", &made, "-y"]);
    let said = restored.expect(0).stderr();
    assert!(said.contains("had options (device, o, type), and the new one has none"), "{said}");
    assert_eq!(std::fs::read_to_string(mountpoint(&made).join("kept")).unwrap(), "data\n");
    let label = |volume: &str| docker(&["volume", "inspect", "-f", "{{index .Labels \"owner\"}}", volume]);
    assert_eq!((label(&made), label(&volume)), ("ops".to_owned(), "ops".to_owned()));
}
