//! The machine: commands and the docker CLI, files, and the page cache.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Says on standard error that a step begins.
pub(crate) fn say(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "==> {}", text.as_ref());
}

/// Says a detail of the step.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "    {}", text.as_ref());
}

/// Returns a command that reads nothing.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns what it printed, without the last newline.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    check(command, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn check(command: &Command, output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

/// Runs `docker` with arguments, and returns what it printed.
pub(crate) fn docker<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Result<String> {
    run(command("docker").args(arguments))
}

/// Removes containers by force, with the volumes that only they have; whatever is not there is gone already.
pub(crate) fn remove_containers(names: &[&str]) {
    let _ = command("docker").args(["rm", "-f", "-v"]).args(names).output();
}

/// Removes a volume; whatever is not there is gone already.
pub(crate) fn remove_volume(name: &str) {
    let _ = command("docker").args(["volume", "rm", "-f", name]).output();
}

/// Runs a line of bash, with the rest as its `$1` and so on; a pipe fails when a part of it does.
pub(crate) fn bash<I: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = I>) -> Result<String> {
    run(command("bash").args(["-euo", "pipefail", "-c", script, "bash"]).args(arguments))
}

/// Runs something and returns how long it took, in seconds.
pub(crate) fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Asks until the answer is yes.
pub(crate) fn wait_for(what: &str, limit: Duration, mut answer: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !answer()? {
        ensure!(begin.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Where a volume lies on the host.
pub(crate) fn mountpoint(volume: &str) -> Result<PathBuf> {
    docker(["volume", "inspect", "-f", "{{.Mountpoint}}", volume]).map(PathBuf::from)
}

/// The bytes in regular files below a directory, as volsnap counts them.
pub(crate) fn bytes_in(directory: &Path) -> Result<f64> {
    let sum = bash(
        r#"find "$1" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%.0f", sum }'"#,
        [directory],
    )?;
    sum.parse().context("count bytes")
}

/// Reads all of a tree, so that contestants find the same pages cached, and writes what is dirty, so that none pays
/// for what another left.
pub(crate) fn warm_up(directory: &Path) -> Result<()> {
    bash(r#"tar -C "$1" -cf - . | cat >/dev/null; sync"#, [directory])?;
    Ok(())
}

/// Waits until everything that was written is on the disk.
pub(crate) fn sync() -> Result<()> {
    run(&mut command("sync")).map(drop)
}

/// What the figures were measured on.
pub(crate) fn description() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let kernel = run(command("uname").arg("-sr"))?;
    let engine = docker(["version", "--format", "{{.Server.Version}}"])?;
    Ok(format!("{cores} cores, {kernel}, engine {engine}"))
}
