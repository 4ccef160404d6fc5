//! What runs Compose: its own processes, or a stand-in in a test.

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
    /// The directory to run it in.
    pub directory: PathBuf,
    /// The run whose mark its processes carry.
    pub run: Option<String>,
    /// The engine's address; none for the default.
    pub address: Option<String>,
}

/// Runs Compose. To drop a call before its end is to give it up.
#[async_trait]
pub trait Runner: Send + Sync + fmt::Debug {
    /// Returns the output of a command that asks for a version; `None` if it fails.
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
        // This asks no engine, and a missing context would be in the way.
        command.env_remove("DOCKER_CONTEXT");
        let output = command.output().await.ok()?;
        // Without the plugin, docker does not know the command `compose`.
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    async fn run(&self, invocation: Invocation) -> io::Result<Output> {
        let Invocation { words, directory, run, address } = invocation;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(&directory).stdin(Stdio::null());
        // We handle signals from the terminal; and nobody waits for a process that was given up.
        command.process_group(0).kill_on_drop(true);
        if let Some(run) = run {
            command.env(MARK, run);
        }
        if let Some(address) = &address {
            command.env("DOCKER_HOST", address).env_remove("DOCKER_CONTEXT");
        }
        // The command line says it, for this project alone.
        command.env_remove("COMPOSE_FILE").env_remove("COMPOSE_PROJECT_NAME").env_remove("COMPOSE_PROFILES");
        command.output().await
    }
}
