//! A service as it stops and comes back: who it is, in what order its containers go, and how they answer again.

pub mod freeze;
pub mod health;
pub mod identity;
pub mod newcomer;
pub mod order;
pub mod own_command;
pub mod ready;
pub mod sharing;
pub mod start;
pub mod stop;
pub mod vitals;

/// The result of bringing a service back.
pub type Result<T, E = ServiceError> = std::result::Result<T, E>;

/// Why a service is not back.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::engine::DockerError),
    /// A container did not stop in time; it goes on stopping.
    #[error("container {container} had not stopped after {seconds} s")]
    NotStopped {
        /// Its name.
        container: String,
        /// How long it was given.
        seconds: u64,
        /// What the engine said.
        source: crate::engine::DockerError,
    },
    /// Containers could not be frozen in time.
    #[error("{containers} could not be frozen within {seconds} s")]
    NotFrozen {
        /// Their names.
        containers: String,
        /// How long they were given.
        seconds: u64,
    },
    /// A container to bring back is not there, and no other has its place.
    #[error("container {container} is gone, and no other has its place")]
    Gone {
        /// Its name.
        container: String,
    },
    /// A container could not be brought back.
    #[error("container {container} {reason}")]
    NotBack {
        /// Its name.
        container: String,
        /// The state it is in instead.
        reason: String,
    },
    /// A container must not be started: somebody who was not there when it was stopped runs on its data.
    #[error("container {container} is not started, since container {by} has begun to run on its data")]
    Taken {
        /// Its name.
        container: String,
        /// Who that is.
        by: String,
        /// Whether that one does what it did, so that the service runs.
        succeeds: bool,
    },
    /// A command of a person's own failed.
    #[error("the command `{command}` in container {container}: {why}")]
    OwnCommand {
        /// The container's name.
        container: String,
        /// The command.
        command: String,
        /// How it failed.
        why: String,
    },
    /// A container was back, but ended before the run did.
    #[error("container {container} {reason}")]
    EndedSince {
        /// Its name.
        container: String,
        /// Its exit code.
        exit_code: i64,
        /// The same, and its last words.
        reason: String,
    },
}

impl ServiceError {
    /// Returns whether it tells of a container that ended by a failure, and not because it was done.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::EndedSince { exit_code, .. } if *exit_code != 0)
    }
}
