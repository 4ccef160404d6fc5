//! What runs Compose: processes of its own, or whatever plays it in a test.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use async_trait::async_trait;
use tokio::process::Command;

use super::command::MARK;

/// A command of Compose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The program and its arguments.
    pub words: Vec<OsString>,
    /// Where it is run.
    pub directory: PathBuf,
    /// The run that its processes are marked with.
    pub run: Option<String>,
    /// The engine's address; none for the default.
    pub address: Option<String>,
}

/// Runs Compose. What is dropped before its end is given up.
#[async_trait]
pub trait Runner: Send + Sync + fmt::Debug {
    /// Returns what a command prints that asks for a version; `None` where it fails.
    async fn version(&self, words: &[&str]) -> Option<String>;

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    async fn run(&self, invocation: Invocation) -> io::Result<Output>;
}

/// The programs that are installed here.
#[derive(Debug, Clone, Copy)]
pub struct Processes;

#[async_trait]
impl Runner for Processes {
    async fn version(&self, words: &[&str]) -> Option<String> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // No engine is asked, and a context that is not there would be in the way.
        command.env_remove("DOCKER_CONTEXT");
        let output = command.output().await.ok()?;
        // docker without the plugin takes `compose` for an unknown command.
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    async fn run(&self, invocation: Invocation) -> io::Result<Output> {
        let Invocation { words, directory, run, address } = invocation;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&directory).stdin(Stdio::null());
        // A signal from the terminal is ours to handle; and nobody waits for one that was given up.
        command.process_group(0).kill_on_drop(true);
        if let Some(run) = run {
            command.env(MARK, run);
        }
        if let Some(address) = &address {
            command.env("DOCKER_HOST", address).env_remove("DOCKER_CONTEXT");
        }
        // Said by the command itself, for this project alone.
        command.env_remove("COMPOSE_FILE").env_remove("COMPOSE_PROJECT_NAME").env_remove("COMPOSE_PROFILES");
        command.output().await
    }
}
