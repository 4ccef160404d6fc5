//! Each way to hang, on a real engine: a stopped helper, a source whose file system does not answer, Ctrl-Z, a command
//! that is stopped where its run releases, publishes or commits. The time until the service answers is printed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::database::{Postgres, Volsnap, Watched};
use crate::interruptions::{BACK_LIMIT, assert_all_verified, await_tidy};
use crate::small::{Service, Tree, differences, tree};
use crate::world::{World, docker};

/// What these runs allow the service to be away.
const MAX_DOWNTIME: Duration = Duration::from_secs(2);
/// What the guard gives a command that has a limit of its own to end itself.
const OWN_END: Duration = Duration::from_secs(5);
/// How long nothing may happen while a container is stopped or started, whatever limit was set.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

const IN_TIME: [&str; 4] = ["--capture", "direct", "--max-downtime", "2s"];

/// The service answers within `limit` of the moment at which something hung.
#[track_caller]
fn assert_back(postgres: &Postgres, hung: Instant, limit: Duration, what: &str) {
    postgres.await_answer_within(limit.saturating_sub(hung.elapsed()));
    println!("{what}: the service answered {:.1} s after it hung", hung.elapsed().as_secs_f64());
}

/// Waits until somebody has ended the command, and returns its exit code.
#[track_caller]
fn await_end(watched: &mut Watched, limit: Duration) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = watched.child.try_wait().unwrap() {
            return status.code();
        }
        assert!(begun.elapsed() < limit, "nobody has ended it after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until no run is unfinished.
#[track_caller]
fn await_finished(volsnap: &Volsnap, context: &str) {
    let (journals, begun) = (volsnap.state().join("journals"), Instant::now());
    while std::fs::read_dir(&journals).unwrap().next().is_some() {
        assert!(begun.elapsed() < 3 * BACK_LIMIT, "{context}: the guard does not come to its end");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns the process of the helper on this data, as the host numbers it.
fn helper_on(volume: &str) -> Pid {
    let filter = format!("volume={volume}");
    let helper = docker(&["ps", "-q", "--filter", "label=volsnap.run", "--filter", &filter]);
    let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &helper]);
    Pid::from_raw(pid.parse().unwrap())
}

/// Stops the helper (SIGSTOP) at a step, with the command held meanwhile; returns when.
fn stop_helper_at(watched: &mut Watched, step: &str, volume: &str) -> Instant {
    assert!(watched.reach(step), "the run ended before {step}");
    watched.signal(Signal::SIGSTOP);
    kill(helper_on(volume), Signal::SIGSTOP).unwrap();
    watched.signal(Signal::SIGCONT);
    Instant::now()
}

#[tokio::test]
async fn a_command_that_is_stopped_where_the_service_is_stopped_or_started_is_ended_by_its_guard() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    for step in ["stop-container", "start-container"] {
        let mut watched = postgres.snapshot(&volsnap, &IN_TIME);
        assert!(watched.reach(step), "the run ended before {step}");
        watched.signal(Signal::SIGSTOP);
        let hung = Instant::now();
        assert_eq!(await_end(&mut watched, ANSWER_LIMIT + BACK_LIMIT), None, "{step}");
        assert_back(&postgres, hung, ANSWER_LIMIT + BACK_LIMIT, step);
        await_tidy(&postgres, &volsnap);
        postgres.assert_whole();
        assert!(volsnap.list().is_empty(), "published by a run that was ended");
    }
}

#[tokio::test]
async fn a_command_that_is_stopped_while_it_publishes_holds_nothing_and_goes_on_when_it_is_let() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    for step in ["publish", "write-manifest"] {
        let mut watched = postgres.snapshot(&volsnap, &IN_TIME);
        assert!(watched.reach(step), "the run ended before {step}");
        watched.signal(Signal::SIGSTOP);
        assert_back(&postgres, Instant::now(), Duration::from_secs(2), step);
        // Longer than its hold could have taken.
        std::thread::sleep(MAX_DOWNTIME + OWN_END + Duration::from_secs(1));
        watched.signal(Signal::SIGCONT);
        let (code, said) = watched.end();
        assert_eq!(code, Some(0), "{step}: {said}");
    }
    assert_eq!(volsnap.list().len(), 2);
    await_tidy(&postgres, &volsnap);
    assert_all_verified(&volsnap);
}

#[tokio::test]
async fn a_command_that_is_woken_after_its_guard_has_acted_does_nothing_more() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let mut watched = postgres.snapshot(&volsnap, &IN_TIME);
    assert!(watched.reach("archive"));
    watched.signal(Signal::SIGSTOP);
    let hung = Instant::now();
    assert_back(&postgres, hung, MAX_DOWNTIME + OWN_END + BACK_LIMIT, "archive");
    let started = postgres.inspect("{{.State.StartedAt}}");
    watched.signal(Signal::SIGCONT);
    let (code, said) = watched.end();
    assert_eq!(code, None, "{said}");
    await_tidy(&postgres, &volsnap);
    postgres.assert_whole();
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started, "it was started once");
    volsnap.assert_no_snapshot();
}

#[tokio::test]
async fn a_helper_that_hangs_while_it_archives_keeps_nothing_down() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let mut watched = postgres.snapshot(&volsnap, &IN_TIME);
    let hung = stop_helper_at(&mut watched, "archive", &postgres.volume);
    assert_back(&postgres, hung, MAX_DOWNTIME + BACK_LIMIT, "a stopped helper");
    let (code, said) = watched.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("away for longer than 2 s"), "{said}");
    postgres.assert_whole();
    volsnap.assert_no_snapshot();
    postgres.assert_no_helper();
}

#[tokio::test]
async fn a_helper_that_hangs_in_a_restore_is_gone_before_the_old_data_is_back() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let _ = volsnap.run(["snapshot", &postgres.target()]).expect(0);
    postgres.query("create table later as select 7 as n");
    for step in ["swap-in", "commit"] {
        let mut watched = Watched::start(volsnap.command(["restore", "latest", "-y"]));
        let hung = stop_helper_at(&mut watched, step, &postgres.volume);
        std::thread::sleep(Duration::from_millis(500));
        watched.signal(Signal::SIGINT);
        let (code, said) = watched.end();
        assert_eq!(code, Some(130), "{step}: {said}");
        assert_back(&postgres, hung, 2 * BACK_LIMIT, &format!("a helper stopped at {step}, and Ctrl-C"));
        // What was asked for before the helper was stopped may have been done by then.
        let is_new = postgres.query("select to_regclass('later') is null") == "t";
        assert!(!is_new || step == "commit", "{step}: the old data is back");
        assert!(said.contains("the data is what it was before") || step == "commit", "{said}");
        postgres.assert_whole();
        await_finished(&volsnap, step);
        postgres.assert_no_helper();
        volsnap.assert_no_leftovers();
    }
}

#[tokio::test]
async fn a_restore_that_is_stopped_where_it_commits_has_the_service_up_and_ends_on_all_of_old_or_new() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let snapshot = volsnap.run(["snapshot", &postgres.target(), "--json"]).json();
    let id = snapshot["id"].as_str().unwrap().to_owned();
    for step in ["commit", "committed"] {
        postgres.query("create table if not exists later as select 7 as n");
        let mut watched = Watched::start(volsnap.command(["restore", &id, "-y"]));
        assert!(watched.reach(step), "the run ended before {step}");
        watched.signal(Signal::SIGSTOP);
        assert_back(&postgres, Instant::now(), Duration::from_secs(2), step);
        watched.signal(Signal::SIGKILL);
        let killed = Instant::now();
        assert_eq!(watched.end().0, None);
        await_finished(&volsnap, step);
        assert_back(&postgres, killed, 3 * BACK_LIMIT, step);
        postgres.assert_whole();
        let is_new = postgres.query("select to_regclass('later') is null") == "t";
        assert!(is_new || step == "commit", "what was committed stays");
        postgres.assert_no_helper();
        volsnap.assert_no_leftovers();
    }
    assert_all_verified(&volsnap);
}

/// Returns where a container has its data.
fn mounted(container: &str) -> PathBuf {
    let format = r#"{{range .Mounts}}{{if eq .Destination "/data"}}{{.Source}}{{end}}{{end}}"#;
    docker(&["inspect", "--format", format, container]).into()
}

#[tokio::test]
async fn a_migration_that_dies_where_it_succeeds_runs_on_old_or_new_and_knows_the_way_back_if_on_new() {
    let elsewhere = tempfile::tempdir().unwrap();
    for step in ["commit", "succeed", "succeeded", "discard-work"] {
        let (service, volsnap) = (Service::start().await, Volsnap::new());
        let (place, before) = (elsewhere.path().join(step), service.tree());
        let target = format!("container:{}", service.container);
        let arguments = ["migrate", &target, place.to_str().unwrap(), "-y"];
        let mut watched = Watched::start(volsnap.command(arguments));
        assert!(watched.reach(step), "the run ended before {step}");
        watched.signal(Signal::SIGSTOP);
        assert_eq!(service.state(), "running", "{step}: stopped there, it holds nothing");
        watched.signal(Signal::SIGKILL);
        let (killed, _) = (Instant::now(), watched.end());
        await_finished(&volsnap, step);
        println!("{step}: all was in order {:.1} s after the kill", killed.elapsed().as_secs_f64());
        assert_eq!(service.state(), "running", "{step}");
        let is_new = mounted(&service.container) == place;
        let whole = |found: &Tree| differences(found, &before);
        assert_eq!(whole(&tree(&mounted(&service.container))), Vec::<String>::new(), "{step}");
        assert!(is_new || matches!(step, "commit" | "succeed"), "{step}: what has succeeded stays");
        let records = volsnap.state().join("migrations");
        let recorded = std::fs::read_dir(records).is_ok_and(|entries| entries.count() == 1);
        assert_eq!(recorded, is_new, "{step}: on record");
        if is_new {
            docker(&["volume", "rm", service.target.strip_prefix("volume:").unwrap()]);
            let _ = volsnap.run(["migrate", &target, "--back", "-y"]).expect(0);
            assert_eq!(mounted(&service.container), service.root, "{step}: back");
        }
        volsnap.assert_no_leftovers();
    }
}

/// A file system in a process, which hangs when that is stopped: what is asked of it is not answered.
struct Hanging {
    directory: tempfile::TempDir,
    server: Child,
}

impl Hanging {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["lower", "upper", "work", "mounted"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let options = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", at(name).display()));
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let server = Command::new("fuse-overlayfs")
            .args(["-f", "-o", &options.join(",")])
            .arg(at("mounted"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let hanging = Self { directory, server };
        let begun = Instant::now();
        while !hanging.is_mounted() {
            if begun.elapsed() > Duration::from_secs(5) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::create_dir(hanging.data()).unwrap();
        Some(hanging)
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.contains(self.directory.path().join("mounted").to_str().unwrap())
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("mounted/data")
    }

    fn hang(&self, on: bool) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).unwrap());
        kill(pid, if on { Signal::SIGSTOP } else { Signal::SIGCONT }).unwrap();
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.hang(false);
        let _ = Command::new("umount").arg("-l").arg(self.directory.path().join("mounted")).output();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Starts a database whose data is a directory.
async fn start_in(data: &Path) -> Postgres {
    let (world, data) = (World::new().await, data.display().to_string());
    let postgres = Postgres { container: world.name("db"), volume: data.clone(), world };
    postgres.run(&postgres.container, &["-v", &format!("{data}:/var/lib/postgresql/data")]);
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    postgres
}

#[tokio::test]
async fn a_source_that_hangs_has_its_service_asked_to_start_in_time_and_back_once_it_answers() {
    let Some(disk) = Hanging::mount() else {
        println!("skipped: fuse-overlayfs, or what it needs, is not here");
        return;
    };
    let (postgres, volsnap) = (start_in(&disk.data()).await, Volsnap::new());
    postgres.fill();
    postgres.query("checkpoint");
    let mut watched = postgres.snapshot(&volsnap, &IN_TIME);
    assert!(watched.reach("archive"));
    disk.hang(true);
    let hung = Instant::now();
    assert!(watched.reach("start-container"), "nobody started it");
    println!("a source that hangs: the start was asked for after {:.1} s", hung.elapsed().as_secs_f64());
    assert!(hung.elapsed() < MAX_DOWNTIME + OWN_END, "{:?}", hung.elapsed());
    std::thread::sleep(Duration::from_secs(3));
    disk.hang(false);
    assert_back(&postgres, Instant::now(), 2 * BACK_LIMIT, "a source that hung, since it answers");
    let (code, said) = watched.end();
    assert_eq!(code, Some(1), "{said}");
    postgres.assert_whole();
    volsnap.assert_no_snapshot();
    postgres.assert_no_helper();
}

/// A shell on a terminal, as somebody sits at.
struct Terminal {
    shell: Child,
    keyboard: File,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(environment: &Command) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let end = |end: &OwnedFd| Stdio::from(end.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", "bash", "--norc", "--noprofile", "-i"]);
        command.env_clear().envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(environment.get_current_dir().unwrap());
        let shell =
            command.stdin(end(&pty.slave)).stdout(end(&pty.slave)).stderr(end(&pty.slave)).spawn().unwrap();
        let (mut screen, keyboard) = (File::from(pty.master.try_clone().unwrap()), File::from(pty.master));
        let seen = Arc::<Mutex<String>>::default();
        let shown = seen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut piece) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        Self { shell, keyboard, seen }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    #[track_caller]
    fn await_text(&self, text: &str, limit: Duration) {
        let begun = Instant::now();
        while !self.seen().contains(text) {
            assert!(begun.elapsed() < limit, "{text:?} is not in {}", self.seen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[tokio::test]
async fn ctrl_z_in_a_hold_does_not_keep_the_service_away_and_fg_says_what_became_of_it() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    postgres.fill();
    let command =
        volsnap.command([&["snapshot", &postgres.target(), "-vv", "--no-progress"], &IN_TIME[..]].concat());
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let mut terminal = Terminal::open(&command);
    terminal.press(&format!("{line}\n"));
    // Not the step of that name: on a terminal it has colours within.
    terminal.await_text("archive container ", Duration::from_secs(60));
    // Ctrl-Z
    terminal.press("\x1a");
    let hung = Instant::now();
    terminal.await_text("Stopped", BACK_LIMIT);
    assert_back(&postgres, hung, MAX_DOWNTIME + OWN_END + BACK_LIMIT, "Ctrl-Z");
    let started = postgres.inspect("{{.State.StartedAt}}");
    terminal.press("fg; echo ended with $?\n");
    terminal.await_text("Killed", BACK_LIMIT);
    await_tidy(&postgres, &volsnap);
    postgres.assert_whole();
    assert_eq!(postgres.inspect("{{.State.StartedAt}}"), started, "it was started once");
    volsnap.assert_no_snapshot();
}
