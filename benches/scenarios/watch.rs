//! What a volsnap costs while it runs: time, processor, memory and bytes written, of the command, the guard it leaves
//! watching, and the containers it makes.
//!
//! Everything is read from /proc and the control groups. The kernel keeps the peaks and the sums, so that looking now
//! and then only has to see each process shortly before it ends; the command itself is read once more as a zombie.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::machine::{command, docker};

/// Between two looks.
const TICK: Duration = Duration::from_millis(40);

/// A run of volsnap, and what it cost.
#[derive(Debug)]
pub(crate) struct Measured {
    /// What it printed.
    pub(crate) json: Value,
    /// From its begin to its end, in seconds.
    pub(crate) wall: f64,
    /// User and system time of command, guard and containers, in seconds.
    pub(crate) cpu: f64,
    /// The peaks of all the processes, added up, in MiB.
    pub(crate) memory: f64,
    /// What the processes had written to disks, in bytes.
    pub(crate) written: f64,
}

impl Measured {
    /// A number of what was printed: of the first, where there are several.
    pub(crate) fn number(&self, key: &str) -> Result<f64> {
        self.field(key).and_then(Value::as_f64).with_context(|| format!("`{key}` of {}", self.json))
    }

    /// A text of what was printed.
    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        self.field(key).and_then(Value::as_str).with_context(|| format!("`{key}` of {}", self.json))
    }

    fn field(&self, key: &str) -> Option<&Value> {
        let object = if self.json.is_array() { &self.json[0] } else { &self.json };
        key.split('.').try_fold(object, |value, part| value.get(part))
    }
}

/// Runs a volsnap that prints JSON.
///
/// # Errors
///
/// It failed, with what it said; or it printed no JSON.
pub(crate) fn measure(volsnap: &mut Command) -> Result<Measured> {
    let begin = Instant::now();
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let mut out = tempfile::tempfile()?;
    let mut err = tempfile::tempfile()?;
    let child = volsnap.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).spawn();
    let mut child = child.with_context(|| format!("run {volsnap:?}"))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let mut watch = Watch::of(child.id(), since)?;
    let (ended, end) = mpsc::channel();
    // The end is noticed at once, whatever is being looked at.
    let waiter = std::thread::spawn(move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(pid), flags) {}
        let _ = ended.send(begin.elapsed());
    });
    let wall = loop {
        watch.look();
        match end.recv_timeout(TICK) {
            Ok(wall) => break wall,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(error) => return Err(error.into()),
        }
    };
    watch.look();
    let status = child.wait()?;
    let _ = waiter.join();
    let (out, err) = (read_from_start(&mut out)?, read_from_start(&mut err)?);
    if !status.success() {
        bail!("{volsnap:?}: {status}\n{out}{err}");
    }
    let json = serde_json::from_str(&out).with_context(|| format!("{volsnap:?} prints no JSON: {out}"))?;
    Ok(watch.finish(json, wall.as_secs_f64()))
}

fn read_from_start(file: &mut fs::File) -> Result<String> {
    use std::io::{Read as _, Seek as _};
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// What is known of a process.
#[derive(Debug, Default)]
struct Process {
    peak_kib: f64,
    written: f64,
    /// In seconds; of containers the group knows better.
    cpu: f64,
    in_container: bool,
}

struct Watch {
    command: u32,
    processes: BTreeMap<u32, Process>,
    /// Each container's processor time, by the directory of its control group.
    groups: BTreeMap<PathBuf, f64>,
    events: Child,
    containers: mpsc::Receiver<String>,
}

impl Watch {
    /// Watches a command, and the containers that bear its number in the label `volsnap.pid`.
    fn of(command_pid: u32, since: f64) -> Result<Self> {
        let mut events = command("docker")
            .args(["events", "--since", &format!("{since:.3}"), "--format", "{{.ID}}"])
            .args(["--filter", "type=container", "--filter", "event=start"])
            .args(["--filter", &format!("label=volsnap.pid={command_pid}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(events.stdout.take().context("standard output")?).lines();
        let (seen, containers) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| seen.send(line)));
        let processes = BTreeMap::from([(command_pid, Process::default())]);
        Ok(Self { command: command_pid, processes, groups: BTreeMap::new(), events, containers })
    }

    fn look(&mut self) {
        while let Ok(container) = self.containers.try_recv() {
            self.groups.extend(group_of(&container).map(|group| (group, 0.0)));
        }
        for pid in numbers(&format!("/proc/{0}/task/{0}/children", self.command)) {
            self.processes.entry(pid).or_default();
        }
        for (group, cpu) in &mut self.groups {
            *cpu = cpu_of(group).unwrap_or_default().max(*cpu);
            for pid in numbers(&group.join("cgroup.procs").to_string_lossy()) {
                self.processes.entry(pid).or_default().in_container = true;
            }
        }
        for (pid, process) in &mut self.processes {
            process.look(*pid);
        }
    }

    fn finish(mut self, json: Value, wall: f64) -> Measured {
        let _ = self.events.kill();
        let _ = self.events.wait();
        let sum = |part: fn(&Process) -> f64| self.processes.values().map(part).sum::<f64>();
        let alone = sum(|process| if process.in_container { 0.0 } else { process.cpu });
        Measured {
            json,
            wall,
            cpu: alone + self.groups.values().sum::<f64>(),
            memory: sum(|process| process.peak_kib) / 1024.0,
            written: sum(|process| process.written),
        }
    }
}

impl Process {
    /// Takes in what is known now; who has ended stays as it was last seen.
    fn look(&mut self, pid: u32) {
        let field = |file: &str, key: &str| -> Option<f64> {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
            text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
        };
        self.peak_kib = field("status", "VmHWM:").unwrap_or_default().max(self.peak_kib);
        self.written = field("io", "write_bytes:").unwrap_or_default().max(self.written);
        self.cpu = ticks(pid).map_or(0.0, |ticks| ticks / 100.0).max(self.cpu);
    }
}

/// User and system time of a process and of its children that have ended, in hundredths of a second.
fn ticks(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have blanks; the times are fields 14 to 17 of the line.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').skip(11).take(4).map(|field| field.parse::<f64>().ok()).sum()
}

fn numbers(path: &str) -> Vec<u32> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// The directory of a container's control group that counts processor time, of either version.
fn group_of(container: &str) -> Option<PathBuf> {
    let pid = docker(["inspect", "-f", "{{.State.Pid}}", container]).ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let root = PathBuf::from("/sys/fs/cgroup");
        if controllers.split(',').any(|controller| controller == "cpuacct") {
            Some(root.join("cpuacct").join(path))
        } else {
            (controllers.is_empty() && root.join("cgroup.controllers").exists()).then(|| root.join(path))
        }
    })
}

/// The processor time of a control group, in seconds.
fn cpu_of(group: &std::path::Path) -> Option<f64> {
    if let Ok(nanoseconds) = fs::read_to_string(group.join("cpuacct.usage")) {
        return Some(nanoseconds.trim().parse::<f64>().ok()? / 1e9);
    }
    let stat = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let microseconds = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(microseconds.parse::<f64>().ok()? / 1e6)
}
