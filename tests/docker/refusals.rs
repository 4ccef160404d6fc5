//! What is refused is refused before anything is touched, and the message says what to type instead.
//!
//! Rows of the catalogue of faults: F12, F15, F31, F33, 15 to 18, 45, 47 and 54.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::database::{Postgres, Volsnap, Watched};
use crate::program::Ran;
use crate::world::{World, docker};

/// Does nothing until it is told to stop.
const IDLE: &str = "trap 'exit 0' TERM; ready; while :; do sleep 0.1; done";

/// Returns what would change if a container were touched.
fn state_of(container: &str) -> String {
    let format = "{{.Id}} {{.State.Status}} {{.State.StartedAt}} {{.State.FinishedAt}} {{.RestartCount}}";
    docker(&["inspect", "--format", format, container])
}

/// No helper of the run is left, no journal and no file of it; no repository was made.
#[track_caller]
fn assert_untouched(volsnap: &Volsnap, ran: &Ran) {
    let helper = format!("label=volsnap.pid={}", ran.pid());
    assert_eq!(docker(&["ps", "-aq", "--filter", &helper]), "", "a helper is left");
    volsnap.assert_no_snapshot();
    assert!(!volsnap.repository().exists(), "a repository was made");
}

/// The command is refused so, and nothing is touched.
#[track_caller]
fn refuse(volsnap: &Volsnap, arguments: &[&str], code: i32, words: &[&str]) {
    let ran = volsnap.run([&["snapshot"], arguments].concat());
    ran.refused(code, words);
    assert_eq!(ran.stdout(), "", "{arguments:?}");
    assert_untouched(volsnap, &ran);
}

/// A file system mounted for a test, as a small or a read-only disk.
struct Mounted(PathBuf);

impl Mounted {
    /// Returns `None` where this may not be done.
    fn tmpfs(at: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn an_unknown_name_is_refused_with_the_nearest_and_no_volume_is_made() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let (orders, misspelt) = (world.name("orders"), world.name("order"));
    docker(&["volume", "create", &orders]);
    let volume = format!("volsnap snapshot volume:{orders}");
    refuse(&volsnap, &[&format!("volume:{misspelt}")], 2, &["no volume is called", &misspelt, &volume]);
    refuse(&volsnap, &[&misspelt], 2, &["no service, container or volume is called", &misspelt, &volume]);
    refuse(&volsnap, &[&misspelt, "--dry-run"], 2, &[&volume]);
    let app = world.run_service("billing", &[], IDLE);
    let container = format!("volsnap snapshot container:{app}");
    refuse(&volsnap, &[&format!("container:{app}s")], 2, &["no container is called", &container]);
    // Never the part of a name, as `db` for `db-replica`.
    refuse(&volsnap, &[&format!("container:{}", &app[..app.len() - 1])], 2, &["no container", &container]);
    assert!(!docker(&["volume", "ls", "-q"]).lines().any(|name| name == misspelt));
}

#[tokio::test]
async fn a_volume_named_without_its_projects_prefix_is_refused_and_the_prefixed_one_offered() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    // A key that no other test's project has.
    let (project, key) = (world.name("shop"), format!("db_data{}", std::process::id()));
    let volume = format!("{project}_{key}");
    let labels =
        [format!("com.docker.compose.project={project}"), format!("com.docker.compose.volume={key}")];
    docker(&["volume", "create", "--label", &labels[0], "--label", &labels[1], &volume]);
    for target in [format!("volume:{key}"), key.clone()] {
        let offered = format!("next: volsnap snapshot volume:{volume}");
        refuse(&volsnap, &[&target], 2, &["with its project's prefix there is", &offered]);
    }
    assert!(!docker(&["volume", "ls", "-q"]).lines().any(|name| name == key), "it was made by naming it");
    for verb in ["check", "restart"] {
        let [only] = &volsnap.run([verb, &key]).next()[..] else { panic!("{verb}") };
        assert_eq!(*only, format!("volsnap {verb} volume:{volume}"));
    }
    // In the project's own directory the key is a name.
    let ran = volsnap.run_with(&["snapshot", &key], &[("COMPOSE_PROJECT_NAME", &project)]);
    ran.refused(1, &[&volume, "is empty"]);
    assert_untouched(&volsnap, &ran);
}

#[tokio::test]
async fn a_name_of_two_things_is_refused_with_a_command_for_each() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let (twin, other) = (world.name("twin"), world.name("other"));
    docker(&["volume", "create", &twin]);
    docker(&["volume", "create", &other]);
    let container = world.run_service("twin", &["-v", &format!("{other}:/data")], IDLE);
    let before = state_of(&container);
    let (first, second) = (
        format!("next: volsnap snapshot container:{twin}\n"),
        format!("  or: volsnap snapshot volume:{twin}\n"),
    );
    refuse(&volsnap, &[&twin], 2, &["is the name of several things", &first, &second]);
    assert_eq!(state_of(&container), before);
}

#[tokio::test]
async fn every_command_that_a_refusal_prints_can_be_pasted_and_does_what_it_says() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let host = "unix:///var/run/docker.sock";
    let elsewhere = volsnap.directory().join("it's elsewhere");
    let globals = ["--repo", elsewhere.to_str().unwrap(), "--host", host];
    let run = |arguments: &[&str]| volsnap.run([&globals[..], arguments].concat());
    let taken = run(&["snapshot", &postgres.target()]);
    let [verify] = &taken.expect(0).next()[..] else { panic!("{}", taken.stdout()) };
    assert!(volsnap.paste(verify).expect(0).stdout().contains("is verified"), "{verify}");

    // Of each, the command that is pasted, and what it then says.
    for (arguments, number, said) in [
        (&["restore", "latest"][..], 0, "restore "),
        (&["restore", "latest", "--new-volume", &postgres.volume, "--dry-run"], 0, "restore "),
        (&["snapshot", "nothing-of-that-name"], 0, "CONTAINER ID"),
        (&["snapshot", "nothing-of-that-name"], 1, "DRIVER"),
        (&["show", "nosuch"], 0, "SNAPSHOT"),
    ] {
        let refused = run(arguments);
        assert_eq!(refused.code(), Some(2), "{}", refused.stderr());
        let command = refused.next()[number].clone();
        let pasted = volsnap.paste(&command);
        let _ = pasted.expect(0);
        assert!(pasted.stdout().contains(said), "{command}: {}", pasted.stdout());
    }
    // Whose client is it? The one of the engine that was named.
    let refused = volsnap.run(["--host", host, "snapshot", "nothing-of-that-name"]).next();
    assert_eq!(
        refused,
        [format!("docker --host {host} ps --all"), format!("docker --host {host} volume ls")]
    );
}

#[tokio::test]
async fn what_holds_nothing_is_refused() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let empty = world.name("empty");
    docker(&["volume", "create", &empty]);
    for options in [&[][..], &["--dry-run"], &["--quiesce", "none"]] {
        let volume = format!("volume:{empty}");
        refuse(&volsnap, &[&[volume.as_str()], options].concat(), 1, &[&volume[7..], "is empty"]);
    }
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().display();
    refuse(&volsnap, &[&format!("path:{here}")], 1, &["is empty"]);
    refuse(&volsnap, &[&format!("path:{here}/nowhere")], 2, &["there is no directory", "nowhere", "ls -ld"]);
    assert!(!directory.path().join("nowhere").exists(), "it was made by naming it");
    fs::write(directory.path().join("file"), "x").unwrap();
    refuse(&volsnap, &[&format!("path:{here}/file")], 2, &["file is not a directory"]);
}

#[tokio::test]
async fn odd_names_are_data_and_never_shell() {
    let volsnap = Volsnap::new();
    let odd =
        ["a b", "x; touch pwned", "$(touch pwned)", "it's \"odd\"", "a\nb", "`touch pwned`", "-rf", "ü|é&"];
    for name in odd {
        // After `--`, since one of them looks like an option.
        for target in [
            name.to_owned(),
            format!("volume:{name}"),
            format!("container:{name}"),
            format!("service:{name}/{name}"),
        ] {
            let ran = volsnap.run(["snapshot", "--", &target]);
            ran.refused(2, &["called"]);
            assert!(!ran.stderr().contains("a\nb"), "{}", ran.stderr());
            assert_untouched(&volsnap, &ran);
        }
    }
    let outside = tempfile::tempdir().unwrap();
    for (number, name) in odd.iter().enumerate() {
        let directory = outside.path().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(name), number.to_string()).unwrap();
        let (target, tag) = (format!("path:{}", directory.display()), format!("--tag={name}={name}={name}"));
        let ran = volsnap.run(["snapshot", &target, "--json", &tag]);
        let snapshot = ran.json();
        assert_eq!(snapshot["tags"][*name], format!("{name}={name}"), "{snapshot}");
        let archive = snapshot["archive"].as_str().unwrap();
        let files = volsnap.run(["show", archive, "--files", "--json"]).expect(0).stdout();
        let paths: Vec<Value> =
            files.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["path"].clone()).collect();
        assert!(paths.contains(&Value::from(*name)), "{files}");
        let _ = volsnap.run(["verify", archive]).expect(0);
    }
    assert_eq!(volsnap.list().len(), odd.len(), "every directory is a source of its own");
    let made = |path: &Path| fs::read_dir(path).unwrap().any(|entry| entry.unwrap().file_name() == "pwned");
    assert!(!made(outside.path()) && !made(&volsnap.directory()), "a name was run");
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_volume_whose_database_lives_in_another_is_refused_and_the_real_one_named() {
    // The image has a volume of its own below, which the engine makes and nobody named.
    let (postgres, volsnap) = (Postgres::start_at("/var/lib/postgresql", &[]).await, Volsnap::new());
    let format =
        r#"{{range .Mounts}}{{if eq .Destination "/var/lib/postgresql/data"}}{{.Name}}{{end}}{{end}}"#;
    let real = postgres.inspect(format);
    let before = state_of(&postgres.container);
    let named = format!("volume:{}", postgres.volume);
    let instead = format!("volsnap snapshot volume:{real}");
    refuse(
        &volsnap,
        &[&named],
        1,
        &["does not hold the data", &postgres.container, "/var/lib/postgresql/data", &instead],
    );
    refuse(&volsnap, &[&named, "--quiesce", "none"], 1, &["does not hold the data", &instead]);
    assert_eq!(state_of(&postgres.container), before);

    let ran = volsnap.run(["snapshot", &postgres.target(), "--json"]);
    assert_eq!(ran.json()["source"], real.as_str());
    assert_eq!(ran.json()["consistency"], "clean");
    for word in ["warning", "anonymous", &postgres.volume, "has none of it"] {
        assert!(ran.stderr().contains(word), "{word} is not in {}", ran.stderr());
    }
    postgres.assert_whole();
}

#[tokio::test]
async fn data_that_a_snapshot_would_miss_is_refused() {
    let (postgres, volsnap) =
        (Postgres::start_with(&["-e", "POSTGRES_INITDB_WALDIR=/srv/wal"]).await, Volsnap::new());
    let before = state_of(&postgres.container);
    let wal = ["its pg_wal lies in /srv/wal", "nothing was stopped"];
    refuse(&volsnap, &[&postgres.target()], 1, &wal);
    refuse(&volsnap, &[&postgres.target(), "--dry-run"], 1, &wal);
    assert_eq!(state_of(&postgres.container), before);
    postgres.assert_whole();
}

#[tokio::test]
async fn a_tablespace_outside_is_refused_until_it_is_gone() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    docker(&["exec", &postgres.container, "install", "-d", "-o", "postgres", "/srv/space"]);
    postgres.query("create tablespace elsewhere location '/srv/space'");
    let before = state_of(&postgres.container);
    refuse(&volsnap, &[&postgres.target()], 1, &["tablespace", "/srv/space", &postgres.volume]);
    assert_eq!(state_of(&postgres.container), before);
    postgres.query("drop tablespace elsewhere");
    let ran = volsnap.run(["snapshot", &postgres.target(), "--dry-run"]);
    let _ = ran.expect(0);
    assert_untouched(&volsnap, &ran);
    postgres.assert_whole();
}

#[tokio::test]
async fn a_place_that_cannot_keep_the_snapshot_is_refused_before_anything_is_stopped() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let before = state_of(&postgres.container);
    let target = postgres.target();
    let refuse_repository = |repository: &str, code: i32, words: &[&str]| {
        for options in [&[][..], &["--dry-run"]] {
            let arguments = [&[target.as_str(), "--repo", repository], options].concat();
            refuse(&volsnap, &arguments, code, &[words, &[repository, "state: nothing was"]].concat());
        }
    };

    let source = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &postgres.volume]);
    let inside = format!("{source}/backups/volsnap");
    refuse_repository(&inside, 2, &["lies inside the source", "--repo DIR"]);
    assert!(!Path::new(&source).join("backups").exists());

    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&source, &link).unwrap();
    refuse_repository(&format!("{}/below", link.display()), 2, &["lies inside the source"]);
    let file = directory.path().join("file");
    fs::write(&file, "mine").unwrap();
    refuse_repository(file.to_str().unwrap(), 2, &["it is not a directory"]);
    refuse_repository(&format!("{}/below", file.display()), 2, &["a part of the path is a file"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("holiday.jpg"), "mine").unwrap();
    refuse_repository(foreign.to_str().unwrap(), 2, &["it is no repository", "holiday.jpg"]);
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);

    if let Some(small) = Mounted::tmpfs(directory.path().join("small"), "size=2m") {
        refuse_repository(small.path(), 1, &["2.1 MB free", "may need"]);
        assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
    }
    if let Some(read_only) = Mounted::tmpfs(directory.path().join("read-only"), "ro") {
        refuse_repository(read_only.path(), 1, &["Read-only file system"]);
        refuse_repository(&format!("{}/below", read_only.path()), 1, &["Read-only file system"]);
    }
    assert_eq!(state_of(&postgres.container), before);
    postgres.assert_whole();
}

#[tokio::test]
async fn what_cannot_be_held_still_is_refused_and_left_as_it_is() {
    let (postgres, volsnap) = (Postgres::start_with(&["--rm"]).await, Volsnap::new());
    let (name, target) = (&postgres.container, postgres.target());
    let before = state_of(name);
    refuse(&volsnap, &[&target], 1, &[name, "--rm", "could not be started again"]);
    let by_stop = format!("volsnap snapshot {target} --quiesce stop");
    refuse(&volsnap, &[&target, "--quiesce", "none"], 2, &[name, "is a running database", &by_stop]);
    let volume = format!("volume:{}", postgres.volume);
    refuse(&volsnap, &[&volume, "--quiesce", "none"], 2, &[name, "is a running database"]);
    assert_eq!(state_of(name), before);

    docker(&["pause", name]);
    refuse(&volsnap, &[&target], 1, &[name, "is paused", &format!("docker unpause {name}")]);
    assert_eq!(postgres.inspect("{{.State.Status}}"), "paused", "whoever paused it had a reason");
    docker(&["unpause", name]);
    postgres.assert_whole();
}

#[tokio::test]
async fn a_dry_run_prints_the_plan_and_touches_nothing() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let mount = format!("{}:/var/lib/postgresql/data", postgres.volume);
    let down = postgres.world.name("down");
    docker(&["create", "--name", &down, "--network", "none", "-v", &mount, &crate::database::image()]);
    let (name, target) = (&postgres.container, postgres.target());
    let before = state_of(name);
    let missing = ["--helper-image", "no-such/helper:1"];
    refuse(&volsnap, &[&[target.as_str()][..], &missing].concat(), 2, &["no-such/helper:1", "docker pull"]);

    let ran = volsnap.run(["snapshot", &target, "--dry-run"]);
    let text = ran.expect(0).stdout();
    assert_untouched(&volsnap, &ran);
    for word in ["would take", "postgresql 15", "stop", "start again", name, "stays down", &down, "at worst"]
    {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    let ran = volsnap.run(["snapshot", &target, "--dry-run", "--json"]);
    let plan = ran.json();
    assert_untouched(&volsnap, &ran);
    assert_eq!(plan["stops"], Value::from(vec![name.clone()]));
    assert_eq!(plan["starts"], Value::from(vec![name.clone()]));
    assert_eq!(plan["stay_stopped"], Value::from(vec![down]));
    assert_eq!(plan["source"], postgres.volume.as_str());
    assert!(plan["needed_bytes"].as_u64().unwrap() > plan["raw_bytes"].as_u64().unwrap());
    assert!(plan["expected_downtime_ms"].as_u64().unwrap() > 0);
    let archive = plan["archive"].as_str().unwrap();
    assert!(archive.starts_with(volsnap.repository().to_str().unwrap()), "{archive}");
    assert_eq!(state_of(name), before);
    postgres.assert_whole();
}

#[tokio::test]
async fn a_database_that_stays_in_its_entrypoint_is_refused() {
    let scripts = tempfile::tempdir().unwrap();
    fs::write(scripts.path().join("wait.sh"), "sleep 600\n").unwrap();
    let mount = format!("{}:/docker-entrypoint-initdb.d:ro", scripts.path().display());
    let (postgres, volsnap) =
        (Postgres::begin("/var/lib/postgresql/data", &["-v", &mount]).await, Volsnap::new());
    let before = state_of(&postgres.container);
    let logs = format!("docker logs --tail 20 {}", postgres.container);
    refuse(&volsnap, &[&postgres.target()], 1, &["is not ready to be stopped", &logs, "nothing was stopped"]);
    assert_eq!(state_of(&postgres.container), before);
}

#[tokio::test]
async fn a_second_run_on_the_same_data_leaves_at_once_and_stops_nothing() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let (target, volume) = (postgres.target(), format!("volume:{}", postgres.volume));
    let stranger = Volsnap::new();
    let mut first = Watched::start(volsnap.command(["snapshot", &target]));
    // Before the first has stopped anything (its helper is the lock), and while it has.
    for step in ["start-helper", "archive"] {
        assert!(first.reach(step));
        first.signal(Signal::SIGSTOP);
        let before = state_of(&postgres.container);
        // Neither another name of it nor another repository is a way around.
        for (second, target) in [(&volsnap, &volume), (&stranger, &target)] {
            for options in [&[][..], &["--dry-run"]] {
                let ran = second.run([&["snapshot", target.as_str()], options].concat());
                ran.refused(5, &["another volsnap run is at work on", &postgres.volume, "recover --list"]);
            }
        }
        assert_eq!(state_of(&postgres.container), before, "at {step}");
        let listed = volsnap.run(["recover", "--list"]).expect(0).stdout();
        assert!(listed.contains("at work"), "{listed}");
        assert_eq!(
            volsnap.run(["recover", "--json"]).json(),
            Value::Array(Vec::new()),
            "it recovered a live run"
        );
        assert_eq!(state_of(&postgres.container), before, "at {step}");
        first.signal(Signal::SIGCONT);
    }
    let (code, said) = first.end();
    assert_eq!(code, Some(0), "{said}");
    postgres.assert_whole();
    assert_eq!(volsnap.list().len(), 1);
    volsnap.assert_no_leftovers();
    assert!(!stranger.repository().exists());
    stranger.assert_no_snapshot();
}

#[tokio::test]
async fn a_task_of_swarm_is_never_stopped_and_can_be_frozen() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let volume = world.name("data");
    let labels = ["com.docker.swarm.task.id=t1", "com.docker.swarm.service.name=shop_pg"];
    let options = ["-v", &format!("{volume}:/data"), "--label", labels[0], "--label", labels[1]];
    let task = world.run_service("task", &options, &format!("echo 1 > /data/row; {IDLE}"));
    let (before, by_volume, by_container) =
        (state_of(&task), format!("volume:{volume}"), format!("container:{task}"));
    let frozen = format!("volsnap snapshot {by_volume} --quiesce pause");
    let words = ["a task of the Swarm service shop_pg", &frozen, "docker service scale shop_pg=0"];
    for target in [&by_volume, &by_container, &task] {
        refuse(&volsnap, &[target], 1, &words);
        refuse(&volsnap, &[target, "--dry-run"], 1, &words);
    }
    // What is offered in its place works as it is typed.
    let _ = volsnap.run(frozen.split(' ').skip(1)).expect(0);
    let directory = volsnap.directory().join("moved");
    let directory = directory.to_str().unwrap();
    let stopping: [&[&str]; 5] = [
        &["restart", &by_volume],
        &["restart", &task, "--recreate"],
        &["restart", &by_container, "--snapshot"],
        &["restore", "latest", "-y"],
        &["restore", "latest", "-y", "--to", &by_container],
    ];
    for arguments in stopping {
        volsnap.run(arguments).refused(1, &[words[0], words[2], "nothing was stopped"]);
    }
    let migrate = ["migrate", &by_volume, directory, "-y"];
    let service = "docker service update --mount-rm /data --mount-add";
    volsnap.run(migrate).refused(1, &[words[0], service, "nothing was stopped"]);
    assert_eq!(state_of(&task), before);
    // Nor is one moved that has ended: Swarm starts the next on the old data.
    docker(&["stop", "-t", "1", &task]);
    volsnap.run(migrate).refused(1, &[words[0], service]);
    assert!(!Path::new(directory).exists());
    volsnap.assert_no_leftovers();
}
