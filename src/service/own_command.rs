//! Runs a command of a person's own inside a service's container.

use serde::{Deserialize, Serialize};

use super::identity::{ContainerIdentity, find_recreated};
use super::{Result, ServiceError};
use crate::engine::Docker;
use crate::model::event::Monitor;
use crate::model::own_commands::OwnCommand;

/// How much of what a failed command said is told, in lines.
const LINES: usize = 3;

/// A command that is owed to a service once it is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedCommand {
    /// How its container is found again, even if it was recreated meanwhile.
    pub container: ContainerIdentity,
    /// The command.
    pub command: OwnCommand,
}

/// Runs a command in a container.
///
/// # Errors
/// [`ServiceError::OwnCommand`] when it fails, takes too long, or cannot be run.
pub async fn run_own_command(docker: &dyn Docker, id: &str, name: &str, command: &OwnCommand) -> Result<()> {
    let failed =
        |why: String| ServiceError::OwnCommand { container: name.to_owned(), command: command.title(), why };
    let output = docker.exec(id, &command.run, command.limit()).await;
    let output = output.map_err(|error| failed(crate::model::error::chain(&error)))?;
    if output.exit_code == 0 {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join(" / ");
    let said = if last.is_empty() { String::new() } else { format!("; it says: {last}") };
    Err(failed(format!("exit code {}{said}", output.exit_code)))
}

/// Runs what is owed to a service that is back. Nothing is owed to a container that was removed for good.
///
/// # Errors
/// As for [`run_own_command`].
pub async fn pay(docker: &dyn Docker, owed: &OwedCommand, monitor: &dyn Monitor) -> Result<()> {
    monitor.step("own-command");
    let containers = docker.containers().await?;
    match find_recreated(&owed.container, &containers) {
        Some(container) => run_own_command(docker, &container.id, &container.name, &owed.command).await,
        None => Ok(()),
    }
}
