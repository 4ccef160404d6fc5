//! What can be seen of a container that nobody can ask anything: its first process and its ports, by its own `/proc`.
//!
//! An image's entrypoint is a script: it may walk through the data, give it to a user, and only then become the server
//! (`exec`). So a container is back if its first process is what it was before, and somebody listens where somebody
//! listened before. It is read by a `cat` in the container; an image without one, or a container that has not its own
//! processes, tells nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::Docker;
use crate::model::container::Container;

/// How long the look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Where the kernel's own choice of ports begins: such a port is another one after each start.
const EPHEMERAL: u16 = 32768;
/// The engine's own name server, in every container: 127.0.0.11.
const NAME_SERVER: &str = "0B00007F";
/// How much of a name the kernel keeps.
const NAME_LENGTH: usize = 15;
/// Programs that run what comes behind them, and become nothing else.
const SHELLS: [&str; 4] = ["sh", "bash", "dash", "ash"];
/// The state of a socket that listens.
const LISTENS: &str = "0A";

/// A look at a container while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// What its first process is called.
    pub process: String,
    /// The TCP ports on which somebody listens.
    pub ports: BTreeSet<u16>,
    /// The signals that its first process handles, or waits for, a bit each.
    pub heard: u64,
}

impl Vitals {
    /// Looks at a running container; `None` if it shows nothing.
    pub async fn of(docker: &dyn Docker, container: &Container) -> Option<Self> {
        if !container.state.running || container.state.paused || !container.pid_mode.is_empty() {
            return None;
        }
        let command = ["cat", "/proc/1/status", "/proc/net/tcp", "/proc/net/tcp6"].map(str::to_owned);
        let output = docker.exec(&container.id, &command, LOOK_LIMIT).await.ok()?;
        // A kernel without IPv6 lacks the last file.
        let mut vitals = Self::read(&String::from_utf8_lossy(&output.stdout))?;
        let network = container.network_mode.as_str();
        if network == "host" || network.starts_with("container:") {
            // Others listen there too.
            vitals.ports.clear();
        }
        Some(vitals)
    }

    /// Returns whether its first process may still be the script that the container begins with: nobody listens, and
    /// the process has the name of the first word of several.
    #[must_use]
    pub fn may_be_entrypoint(&self, container: &Container) -> bool {
        let [first, _, ..] = container.command.as_slice() else { return false };
        let name = first.rsplit('/').next().unwrap_or_default();
        let shown: String = name.chars().take(NAME_LENGTH).collect();
        self.ports.is_empty() && self.process == shown && !SHELLS.contains(&name)
    }

    fn read(said: &str) -> Option<Self> {
        let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mask = |name: &str| field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok());
        // A signal that is blocked is waited for: so do small inits and whoever uses signalfd.
        let heard = mask("SigCgt:")? | mask("SigBlk:")?;
        let ports = said.lines().filter_map(listening_port).collect();
        Some(Self { process: field("Name:")?.to_owned(), ports, heard })
    }

    /// Returns whether its first process acts on this signal. The kernel sends the first process of a container only
    /// what that process handles.
    #[must_use]
    pub fn hears(&self, signal: u32) -> bool {
        (1..=64).contains(&signal) && self.heard & (1 << (signal - 1)) != 0
    }
}

/// Returns the port of a line of `/proc/net/tcp`, if somebody listens on it.
fn listening_port(line: &str) -> Option<u16> {
    let mut words = line.split_whitespace();
    let (number, local, _, state) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (address, port) = local.split_once(':')?;
    let is_line = number.ends_with(':') && state == LISTENS && address != NAME_SERVER;
    let port = u16::from_str_radix(port, 16).ok()?;
    (is_line && port < EPHEMERAL).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Name:\tmariadbd\nUmask:\t0022\nSigBlk:\t0000000000000200\nSigIgn:\t0000000000001000\n\
        SigCgt:\t0000000000004001\n\
        \x20 sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        \x20  0: 0B00007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n\
        \x20  1: 00000000:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 2 1 0 100 0 0 10 0\n\
        \x20  2: 0100007F:9C40 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 2 1 0 100 0 0 10 0\n\
        \x20  3: 0100007F:0CEB 0100007F:9999 01 00000000:00000000 00:00000000 00000000   101        0 2 1 0 100 0 0 10 0\n\
        \x20  0: 00000000000000000000000000000000:18EB 00000000000000000000000000000000:0000 0A 00000000:00000000\n";

    #[test]
    fn the_ports_that_stay_the_same_are_read_and_no_others() {
        let vitals = Vitals::read(SAID).unwrap();
        assert_eq!(vitals.process, "mariadbd");
        assert_eq!(vitals.ports, BTreeSet::from([3306, 6379]));
    }

    #[test]
    fn a_signal_is_heard_if_it_is_handled_or_waited_for() {
        let vitals = Vitals::read(SAID).unwrap();
        let heard: Vec<_> = (0..=65).filter(|signal| vitals.hears(*signal)).collect();
        assert_eq!(heard, [1, 10, 15], "an ignored one is not heard");
    }

    #[test]
    fn an_entrypoint_is_at_work_as_long_as_the_process_has_its_name() {
        let container = |command: &[&str]| Container {
            command: command.iter().map(ToString::to_string).collect(),
            ..Container::default()
        };
        let shows = |process: &str| Vitals { process: process.to_owned(), ..Vitals::default() };
        let official = container(&["/usr/local/bin/docker-entrypoint.sh", "redis-server"]);
        assert!(shows("docker-entrypoi").may_be_entrypoint(&official));
        assert!(!shows("redis-server").may_be_entrypoint(&official));
        assert!(!shows("sh").may_be_entrypoint(&container(&["sh", "-c", "while :; do :; done"])));
        assert!(!shows("server").may_be_entrypoint(&container(&["/server"])));
        let listens = Vitals { ports: BTreeSet::from([80]), ..shows("docker-entrypoi") };
        assert!(!listens.may_be_entrypoint(&official));
    }

    #[test]
    fn what_shows_nothing_is_not_guessed() {
        assert_eq!(Vitals::read(""), None);
        assert_eq!(Vitals::read("Name:\tsh\n"), None);
    }
}
