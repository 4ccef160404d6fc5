//! A volsnap that is measured: its binary, and a repository and a state of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::machine::{self, command};
use crate::table::Who;
use crate::watch::{Measured, measure};

/// An identity and its recipient.
#[derive(Debug)]
pub(crate) struct Key {
    recipient: String,
    file: String,
}

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

    /// Makes an identity in a file.
    pub(crate) fn make_key(&self, file: &Path) -> Result<Key> {
        let file = file.to_str().context("a path in UTF-8")?.to_owned();
        let made: serde_json::Value =
            serde_json::from_str(&machine::run(&mut self.command(["key", "generate", "--output", &file]))?)?;
        let recipient = made["recipient"].as_str().context("a recipient")?.to_owned();
        Ok(Key { recipient, file })
    }

    /// Makes the repository, encrypted.
    pub(crate) fn init(&self, key: &Key) -> Result<()> {
        let init = ["init", "--recipient", &key.recipient, "--single-key"];
        machine::run(&mut self.command(init)).map(drop)
    }

    /// Reads a snapshot back, with the identity that opens it, if it is encrypted.
    pub(crate) fn verify_with(&self, snapshot: &str, key: Option<&Key>) -> Result<Measured> {
        let mut command = self.command(["verify", snapshot]);
        command.envs(key.map(|key| ("VOLSNAP_IDENTITY_FILE", &key.file)));
        measure(&mut command)
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
