//! A database that is away for a run: whoever looks is told first, nobody is told to start it by hand, and whatever kills
//! run and guard together (a power cut, a manager that kills a whole control group), the next `recover` brings it back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::database::{Postgres, Volsnap, Watched};
use crate::program::Ran;

/// Where control groups are: those of systemd, or, in the second version, all of them.
const GROUPS: [&str; 2] = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup"];
/// What a killed process may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// A control group that is killed as a whole, as a service manager does it; removed when this is dropped.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let root = GROUPS.into_iter().find(|root| Path::new(root).is_dir()).unwrap();
        let path = Path::new(root).join(format!("volsnap-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Returns the command, run in this group.
    fn holds(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args()).env_clear();
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside.current_dir(command.get_current_dir().unwrap());
        inside
    }

    fn processes(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn kill(&self) {
        let begun = Instant::now();
        while !self.processes().is_empty() {
            for process in self.processes() {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
            assert!(begun.elapsed() < GONE_LIMIT);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until whatever is in it has come to its own end.
    #[track_caller]
    fn await_end(&self) {
        let begun = Instant::now();
        while !self.processes().is_empty() {
            assert!(begun.elapsed() < 3 * GONE_LIMIT, "its processes do not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Holds the database in a run of this group, at its archive.
fn held_in(group: &Group, postgres: &Postgres, volsnap: &Volsnap) -> Watched {
    let arguments = ["snapshot", &postgres.target(), "--capture", "direct"];
    let mut watched = Watched::start(group.holds(&volsnap.command(arguments)));
    assert!(watched.reach("prove"), "the run ended before it held the database");
    for process in group.processes() {
        let _ = kill(Pid::from_raw(process), Signal::SIGSTOP);
    }
    assert!(!postgres.answers());
    watched
}

/// It says first which service is away, and does not say to start it by hand.
#[track_caller]
fn assert_told(ran: &Ran, code: i32, postgres: &Postgres, words: &[&str]) {
    let said = format!("{}{}", ran.stderr(), ran.stdout());
    assert_eq!(ran.code(), Some(code), "{said}");
    for word in words.iter().chain([&&*postgres.container]) {
        assert!(said.contains(word), "{word:?} is not said:\n{said}");
    }
    assert!(!said.contains("docker start"), "{said}");
}

#[tokio::test]
async fn who_looks_while_a_living_run_holds_the_database_is_told_how_to_end_it() {
    let (postgres, volsnap) = (Postgres::start_with(&["--restart", "unless-stopped"]).await, Volsnap::new());
    let group = Group::new("living");
    let mut watched = held_in(&group, &postgres, &volsnap);
    let end = format!("kill -TERM {}", watched.child.id());
    let recovered = volsnap.run(["recover"]);
    assert_told(&recovered, 0, &postgres, &[&end, "is at work and holds"]);
    assert!(!recovered.stdout().contains("nothing to recover"), "{}", recovered.stdout());
    assert_told(&volsnap.run(["recover", "--list"]), 0, &postgres, &[&end]);
    let examined = volsnap.run(["doctor", &postgres.target()]);
    let code = examined.code().unwrap();
    assert_ne!(code, 4, "it will be back");
    assert_told(&examined, code, &postgres, &[&end]);
    assert!(examined.stdout().starts_with("run "), "first of all: {}", examined.stdout());
    assert_told(&volsnap.run(["check", &postgres.target()]), 1, &postgres, &["recover --list"]);
    // The command that was printed ends it.
    assert!(Command::new("sh").args(["-c", &end]).status().unwrap().success());
    for process in group.processes() {
        let _ = kill(Pid::from_raw(process), Signal::SIGCONT);
    }
    let status = watched.child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    postgres.await_answer();
    postgres.assert_whole();
    volsnap.run(["recover", "--list"]).refused(0, &[]);
}

#[tokio::test]
async fn what_a_boot_runs_brings_back_what_went_down_with_run_and_guard() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
    let on_systemd = [("VOLSNAP_SYSTEM_ROOT", root.path().to_str().unwrap())];
    let take = |options: &[&str]| {
        volsnap.run_with(&[&["snapshot", &postgres.target()], options].concat(), &on_systemd)
    };
    let first = take(&[]);
    first.refused(0, &[]);
    // What only root can install is said to root alone, and only once.
    let is_root = nix::unistd::geteuid().is_root();
    assert_eq!(first.stderr().contains("volsnap install recover"), is_root, "{}", first.stderr());
    let examined = volsnap.run_with(&["doctor"], &on_systemd);
    assert_eq!(examined.stdout().contains("volsnap install recover"), is_root, "{}", examined.stdout());
    let second = take(&["-q"]);
    second.refused(0, &[]);
    assert_eq!(second.stdout().lines().count(), 1, "{}", second.stdout());
    assert!(!second.stderr().contains("install recover"), "{}", second.stderr());
    let install = |more: &[&str]| {
        let root = root.path().to_str().unwrap();
        volsnap.run([&["install", "recover", "--root", root], more].concat())
    };
    assert!(install(&[]).expect(0).stdout().contains("every boot"));
    assert!(install(&[]).expect(0).stdout().contains("nothing to do"));
    let unit = root.path().join("etc/systemd/system/volsnap-recover.service");
    verify_unit(&unit);

    let group = Group::new("boot");
    let mut watched = held_in(&group, &postgres, &volsnap);
    group.kill();
    let _ = watched.child.wait();
    // The engine starts at boot nothing that was stopped before.
    assert!(!postgres.answers());
    let died = ["died, and has not brought back", "volsnap recover"];
    assert_told(&volsnap.run(["list"]), 4, &postgres, &died);
    assert_told(&volsnap.run(["show", "latest"]), 4, &postgres, &died);
    assert_told(&volsnap.run(["recover", "--list"]), 4, &postgres, &died);
    let examined = volsnap.run(["doctor", &postgres.target()]);
    assert_told(&examined, 4, &postgres, &died);
    assert!(examined.stdout().starts_with("run "), "first of all: {}", examined.stdout());
    let listed = volsnap.run(["list", "--json"]);
    assert_told(&listed, 4, &postgres, &died);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&listed.stdout()).unwrap().as_array().unwrap().len(),
        2
    );
    assert_told(&take(&["--dry-run"]), 4, &postgres, &died);
    assert!(!postgres.answers(), "who only looks has started it");

    let booted = run_unit(&unit);
    assert!(booted.status.success(), "{}", String::from_utf8_lossy(&booted.stderr));
    postgres.await_answer();
    postgres.assert_whole();
    volsnap.run(["list"]).refused(0, &[]);
    volsnap.assert_no_leftovers();
    assert!(install(&["--uninstall"]).expect(0).stdout().contains("is removed"));
    assert!(!unit.exists());
}

/// systemd understands the unit, where it is installed.
fn verify_unit(unit: &Path) {
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let about: Vec<_> = said.lines().filter(|line| line.contains("volsnap-recover")).collect();
            assert!(about.is_empty(), "{about:?}");
        }
        Err(_) => println!("systemd-analyze is not here: the unit is not verified"),
    }
}

/// Runs what the unit says, with nothing in its environment but what the unit says.
fn run_unit(unit: &Path) -> std::process::Output {
    let text = fs::read_to_string(unit).unwrap();
    let said = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let script = format!("env -i {} {}", said("Environment="), said("ExecStart="));
    Command::new("sh").args(["-c", &script]).output().unwrap()
}

#[tokio::test]
async fn a_guard_in_a_scope_of_its_own_outlives_a_service_that_is_killed_as_a_whole() {
    let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
    let (service, scope) = (Group::new("killed.service"), Group::new("guard.scope"));
    // Stands in for the manager's own command: it moves itself out, and becomes what it was to run.
    let programs = tempfile::tempdir().unwrap();
    let stand_in = programs.path().join("systemd-run");
    let script = format!(
        "#!/bin/sh\necho $$ > {}/cgroup.procs || exit 1\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n",
        scope.0.display()
    );
    fs::write(&stand_in, script).unwrap();
    fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let command = volsnap.command(["snapshot", &postgres.target(), "--capture", "direct"]);
    // A machine that systemd runs, for this command alone.
    let mut booted = Command::new("unshare");
    let mount = "mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && exec \"$@\"";
    booted.args(["-m", "sh", "-c", mount, "sh"]).arg(command.get_program()).args(command.get_args());
    booted.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    booted.env("PATH", path).current_dir(volsnap.directory());
    let mut watched = Watched::start(service.holds(&booted));
    assert!(watched.reach("prove"), "the run ended before it held the database");
    assert_eq!(scope.processes().len(), 1, "the guard is not in its scope");
    service.kill();
    let _ = watched.child.wait();
    postgres.await_answer_within(Duration::from_secs(15));
    postgres.assert_whole();
    scope.await_end();
    volsnap.assert_no_leftovers();
}
