//! How long a call may take, and what its failure means.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use bollard::errors::Error as ClientError;
use tokio::time::timeout;

use crate::engine::{DockerError, DockerErrorKind, NO_DIRECTORY, Result};

/// Waits for a call, for at most `limit`.
pub(super) async fn bounded<T>(
    doing: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, ClientError>> + Send,
) -> Result<T> {
    match timeout(limit, call).await {
        Ok(result) => result.map_err(|error| failure(doing, &error)),
        Err(_) => Err(timed_out(doing, limit)),
    }
}

/// Waits for a call that reports failure in its own words, for at most `limit`.
pub(super) async fn within<T>(
    doing: &str,
    limit: Duration,
    call: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(timed_out(doing, limit)))
}

/// Turns "there is no such object" into `None`.
pub(super) fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind == DockerErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn failure(doing: &str, error: &ClientError) -> DockerError {
    let message = match error {
        ClientError::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        ClientError::DockerStreamError { error } => error.clone(),
        _ => chain(error),
    };
    DockerError { kind: kind_of(error), doing: doing.to_owned(), message }
}

fn kind_of(error: &ClientError) -> DockerErrorKind {
    match error {
        ClientError::DockerResponseServerError { status_code: 404, .. } => DockerErrorKind::NotFound,
        ClientError::DockerResponseServerError { status_code: 409, .. } => DockerErrorKind::Conflict,
        ClientError::DockerResponseServerError { message, .. }
            if message.contains(NO_DIRECTORY)
                // A short name that begins several ids and is no name itself.
                || message.to_ascii_lowercase().contains("multiple ids found") =>
        {
            DockerErrorKind::NotFound
        }
        ClientError::RequestTimeoutError => DockerErrorKind::TimedOut,
        ClientError::IOError { .. }
        | ClientError::HyperResponseError { .. }
        | ClientError::HyperLegacyError { .. }
        | ClientError::SocketNotFoundError(_) => DockerErrorKind::Unreachable,
        _ => DockerErrorKind::Other,
    }
}

/// Whether the request cannot have reached the engine.
pub(super) fn never_sent(error: &ClientError) -> bool {
    match error {
        ClientError::HyperLegacyError { err } => err.is_connect(),
        ClientError::SocketNotFoundError(_) => true,
        _ => false,
    }
}

/// Returns the error and its causes in one line.
fn chain(error: &dyn StdError) -> String {
    let mut message = error.to_string();
    let mut beneath = error.source();
    while let Some(error) = beneath {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        beneath = error.source();
    }
    message
}

pub(super) fn not_found(doing: &str, message: String) -> DockerError {
    DockerError { kind: DockerErrorKind::NotFound, doing: doing.to_owned(), message }
}

pub(super) fn timed_out(doing: &str, limit: Duration) -> DockerError {
    let message = format!("no answer within {limit:?}");
    DockerError { kind: DockerErrorKind::TimedOut, doing: doing.to_owned(), message }
}

pub(super) fn other(doing: impl Into<String>, message: impl Into<String>) -> DockerError {
    DockerError { kind: DockerErrorKind::Other, doing: doing.into(), message: message.into() }
}
