//! Stops a container with our own signal, whatever happens to the connection.

use std::convert::Infallible;
use std::future::pending;
use std::str::FromStr as _;
use std::time::Duration;

use bollard::query_parameters as query;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::failure::{failure, never_sent, not_found};
use super::{DockerEngine, POLL};
use crate::engine::{DockerErrorKind, Grace, Result};
use crate::model::container::ApiVersion;

/// The first API whose stop request takes a signal.
const STOP_TAKES_SIGNAL: ApiVersion = ApiVersion(1, 42);
/// The time from the stop request to our own signal, on engines whose stop request takes none.
const SIGNAL_DELAY: Duration = Duration::from_millis(200);

impl DockerEngine {
    /// Sends the stop request and sees it through, whatever happens to the connection.
    pub(super) async fn stop_and_watch(
        &self,
        doing: &str,
        id: &str,
        signal: Option<&str>,
        grace: Grace,
    ) -> Result<()> {
        let found =
            self.inspect(id).await?.ok_or_else(|| not_found(doing, format!("no such container: {id}")))?;
        let in_request = self.api_version >= STOP_TAKES_SIGNAL;
        let apart = signal.filter(|signal| !in_request && !same_signal(signal, found.stop_signal.as_deref()));
        let options = query::StopContainerOptions {
            signal: signal.filter(|_| in_request).map(ToOwned::to_owned),
            t: match grace {
                Grace::Unlimited => Some(-1),
                Grace::Own => None,
                Grace::Seconds(seconds) => Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            },
        };
        loop {
            let answer = tokio::select! {
                answer = self.client.stop_container(&found.id, Some(options.clone())) => answer,
                never = self.signal_apart(&found.id, apart) => match never {},
                () = self.until_stopped(&found.id) => return Ok(()),
            };
            match answer {
                Ok(()) => return Ok(()),
                // The request was never sent: send it again once the engine is back.
                Err(error) if never_sent(&error) => sleep(POLL).await,
                Err(error) => {
                    let error = failure(doing, &error);
                    match error.kind {
                        // The request was sent: the engine stops it, even if nobody listens.
                        DockerErrorKind::Unreachable | DockerErrorKind::TimedOut => {
                            self.until_stopped(&found.id).await;
                            return Ok(());
                        }
                        // The container removes itself when it stops, and was faster.
                        DockerErrorKind::NotFound => return Ok(()),
                        DockerErrorKind::Conflict | DockerErrorKind::Other => return Err(error),
                    }
                }
            }
        }
    }

    /// Sends `signal` a moment after the stop request, then waits for ever.
    ///
    /// A signal alone would not do: only the request tells the engine that this stop is intended, and keeps the
    /// restart policy from starting the container again.
    async fn signal_apart(&self, id: &str, signal: Option<&str>) -> Infallible {
        if let Some(signal) = signal {
            sleep(SIGNAL_DELAY).await;
            let options = query::KillContainerOptions { signal: signal.to_owned() };
            if let Err(error) = self.client.kill_container(id, Some(options)).await {
                tracing::debug!(id, signal, %error, "the signal beside the stop request was not delivered");
            }
        }
        pending().await
    }

    /// Waits until the container is seen not running, or is gone.
    async fn until_stopped(&self, id: &str) {
        loop {
            sleep(POLL).await;
            match self.inspect(id).await {
                Ok(Some(container)) if container.state.running || container.state.restarting => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(id, %error, "the engine does not say whether the container runs");
                }
            }
        }
    }
}

/// Whether a container's configured stop signal is the wanted one; if none is configured, it is SIGTERM.
fn same_signal(wanted: &str, configured: Option<&str>) -> bool {
    let configured = configured.filter(|signal| !signal.is_empty()).unwrap_or("SIGTERM");
    signal_name(wanted) == signal_name(configured)
}

/// One spelling for "SIGINT", "INT", "int" and "2".
fn signal_name(signal: &str) -> String {
    let upper = signal.to_ascii_uppercase();
    if let Some(signal) = upper.parse().ok().and_then(|number: i32| Signal::try_from(number).ok()) {
        return signal.as_str().to_owned();
    }
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&full).map_or(full, |signal| signal.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_the_same_in_every_spelling() {
        for spelling in ["SIGINT", "INT", "int", "2"] {
            assert!(same_signal("SIGINT", Some(spelling)), "{spelling}");
        }
        assert!(same_signal("TERM", None) && same_signal("SIGTERM", Some("")));
        assert!(same_signal("RTMIN+3", Some("SIGRTMIN+3")));
        assert!(!same_signal("SIGINT", None) && !same_signal("SIGINT", Some("SIGQUIT")));
    }
}
