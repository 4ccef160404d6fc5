//! A place for the guard outside of the control group of its command.
//!
//! systemd kills all that is left of a service after its stop limit, and what is left of a session at a logout (where
//! `KillUserProcesses` is set). A process leaves its group only by the manager: `systemd-run --scope` has it make a group
//! of its own and then becomes what it runs, so the guard is the command's child as ever. Where there is no systemd, or it
//! refuses, the guard stays where it is, and what it would have done is left to `recover`.

use std::path::Path;

/// Where a systemd that runs this machine has its things.
const BOOTED: &str = "/run/systemd/system";
/// The control groups of this process.
const GROUPS: &str = "/proc/self/cgroup";

/// Returns the words before those of the guard that have systemd make a scope for it; `None` where it would change
/// nothing.
pub(super) fn command() -> Option<Vec<String>> {
    let groups = std::fs::read_to_string(GROUPS).unwrap_or_default();
    let booted = Path::new(BOOTED).is_dir();
    (booted && is_killed_as_a_whole(&groups)).then(|| words(nix::unistd::geteuid().is_root()))
}

/// Returns whether a manager may kill the group as a whole: that of a service, or of a login.
fn is_killed_as_a_whole(groups: &str) -> bool {
    let of_systemd = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    });
    let is_unit = |name: &str| {
        let session = name.starts_with("session-") && name.ends_with(".scope");
        name.ends_with(".service") || session
    };
    of_systemd.flat_map(|path| path.split('/')).any(is_unit)
}

fn words(root: bool) -> Vec<String> {
    let mut words = vec!["systemd-run", "--scope", "--quiet", "--collect"];
    if !root {
        words.push("--user");
    }
    words.extend(["--description=guard of a run of volsnap", "--"]);
    words.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::service("0::/system.slice/backup.service\n", true)]
    #[case::login("0::/user.slice/user-0.slice/session-3.scope\n", true)]
    #[case::user_service("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", true)]
    #[case::first_version("9:name=systemd:/system.slice/cron.service\n8:pids:/x\n", true)]
    #[case::other_controller("8:pids:/system.slice/cron.service\n0::/\n", false)]
    #[case::container("0::/\n", false)]
    #[case::own_scope("0::/system.slice/run-r1.scope\n", false)]
    #[case::nothing("", false)]
    fn only_a_group_that_is_killed_as_a_whole_is_left(#[case] groups: &str, #[case] expected: bool) {
        assert_eq!(is_killed_as_a_whole(groups), expected);
    }

    #[test]
    fn a_user_asks_the_users_own_manager() {
        assert!(!words(true).contains(&"--user".to_owned()));
        assert!(words(false).contains(&"--user".to_owned()));
        assert_eq!(words(true).last().map(String::as_str), Some("--"), "what follows is the guard's");
    }
}
