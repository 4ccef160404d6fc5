//! A volsnap that is measured: its binary, and a repository and a state of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::machine::{self, command};
use crate::table::Who;
use crate::watch::{Measured, measure};

#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) who: Who,
    /// As `--version` says it.
    pub(crate) version: String,
    binary: PathBuf,
    repository: PathBuf,
    state: PathBuf,
}

impl Contestant {
    /// Keeps what this one writes in a directory below `work`.
    pub(crate) fn new(who: Who, binary: &Path, work: &Path) -> Result<Self> {
        let binary = binary.canonicalize().with_context(|| format!("find {}", binary.display()))?;
        let version = machine::run(command(&binary).arg("--version"))?;
        let directory = work.join(format!("{who:?}").to_lowercase());
        std::fs::create_dir_all(&directory)?;
        let (repository, state) = (directory.join("repository"), directory.join("state"));
        Ok(Self { who, version, binary, repository, state })
    }

    /// How it is called in the story.
    pub(crate) fn name(&self) -> &'static str {
        if self.who == Who::Old { "volsnap, the old one" } else { "volsnap" }
    }

    fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = command(&self.binary);
        command.env("VOLSNAP_STATE_DIR", &self.state).arg("--repo").arg(&self.repository).arg("--json");
        command.args(arguments);
        command
    }

    /// Forgets every snapshot: gigabytes that are removed while something is measured would be felt.
    pub(crate) fn forget(&self) -> Result<()> {
        if self.repository.exists() {
            std::fs::remove_dir_all(&self.repository)?;
        }
        Ok(())
    }

    /// Takes a snapshot, the only one in its repository.
    pub(crate) fn snapshot(&self, target: &str, quiesce: &str, capture: &str) -> Result<Measured> {
        measure(&mut self.command(["snapshot", target, "--quiesce", quiesce, "--capture", capture]))
    }

    pub(crate) fn verify(&self, snapshot: &str) -> Result<Measured> {
        measure(&mut self.command(["verify", snapshot]))
    }

    pub(crate) fn drill(&self, snapshot: &str) -> Result<Measured> {
        measure(&mut self.command(["verify", "--drill", snapshot]))
    }

    pub(crate) fn restore(&self, snapshot: &str, options: &[&str]) -> Result<Measured> {
        measure(self.command(["restore", "-y", snapshot]).args(options))
    }

    pub(crate) fn check(&self, target: &str, options: &[&str]) -> Result<Measured> {
        measure(self.command(["check", target]).args(options))
    }

    /// Moves a service to a directory; Compose finds its project in `project`.
    pub(crate) fn migrate(&self, project: &Path, service: &str, directory: &Path) -> Result<Measured> {
        measure(self.command(["migrate", service]).arg(directory).arg("-y").current_dir(project))
    }

    /// Reads what it has stored, so that it is cached.
    pub(crate) fn warm_up(&self) -> Result<()> {
        machine::bash(r#"find "$1" -type f -exec cat {} + >/dev/null; sync"#, [&self.repository]).map(drop)
    }

    /// Forgets its runs as well.
    pub(crate) fn forget_runs(&self) -> Result<()> {
        if self.state.exists() {
            std::fs::remove_dir_all(&self.state)?;
        }
        Ok(())
    }
}
