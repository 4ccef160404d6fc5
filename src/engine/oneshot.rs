//! Runs a throwaway container to its end.
//!
//! Its input comes over its standard input: the only way to give it a secret that neither the list of processes nor
//! the engine's description of the container shows. It must be [kept](super::ContainerSpec::kept), so that its exit
//! code exists when it has ended; whoever made it removes it.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

use super::{Docker, DockerError, DockerErrorKind, Output, Result};

/// How much of its output to keep, from the end.
const OUTPUT_LIMIT: usize = 64 << 10;
/// How long the engine may take to learn that a container has ended after its output has.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How a throwaway container ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finished {
    /// Its exit code.
    pub exit_code: i64,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
    /// The end of what it wrote.
    pub stdout: Vec<u8>,
    /// The end of what it wrote to stderr.
    pub stderr: Vec<u8>,
}

/// Starts a created container, gives it `input` and then the end of its standard input, and returns once it has ended.
/// `on_stderr` gets what it writes to stderr, as it comes.
///
/// # Errors
/// When it cannot be started, or is gone before anybody knows how it ended.
pub async fn run_to_end(
    docker: &dyn Docker,
    id: &str,
    input: &[u8],
    on_stderr: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Finished> {
    let mut attached = docker.attach(id).await?;
    docker.start(id).await?;
    let written = async {
        attached.stdin.write_all(input).await?;
        attached.stdin.shutdown().await
    };
    if let Err(error) = written.await {
        // It has already ended: its exit code and its output say why.
        tracing::debug!(id, %error, "what the container is told was not taken");
    }
    let mut finished = Finished::default();
    while let Some(piece) = attached.output.next().await {
        match piece? {
            Output::Stdout(bytes) => keep_end(&mut finished.stdout, &bytes),
            Output::Stderr(bytes) => {
                on_stderr(&bytes);
                keep_end(&mut finished.stderr, &bytes);
            }
        }
    }
    let state = ended(docker, id).await?;
    Ok(Finished { exit_code: state.exit_code, oom_killed: state.oom_killed, ..finished })
}

/// Its output ends a moment before the engine knows its exit code.
async fn ended(docker: &dyn Docker, id: &str) -> Result<crate::model::container::ContainerState> {
    let failed = |kind, message: &str| DockerError {
        kind,
        doing: format!("wait for container {id}"),
        message: message.to_owned(),
    };
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let Some(container) = docker.container(id).await? else {
            return Err(failed(DockerErrorKind::NotFound, "somebody has removed it"));
        };
        if !container.state.running {
            return Ok(container.state);
        }
        if Instant::now() > deadline {
            return Err(failed(DockerErrorKind::TimedOut, "its output has ended, and it runs on"));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn keep_end(kept: &mut Vec<u8>, more: &[u8]) {
    kept.extend_from_slice(more);
    let excess = kept.len().saturating_sub(OUTPUT_LIMIT);
    kept.drain(..excess);
}
