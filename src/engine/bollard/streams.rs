//! Carries what flows to and from a container: its standard streams, and commands run in it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::errors::Error as ClientError;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt as _;
use tokio::io::AsyncWrite;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::DockerEngine;
use super::convert::output_from;
use super::failure::failure;
use crate::engine::{Output, Result};
use crate::model::container::ExecOutput;

const EXEC_OUTPUT_LIMIT: usize = 64 << 20;
const EXEC_ERROR_LIMIT: usize = 1 << 20;

impl DockerEngine {
    pub(super) async fn run_exec(&self, doing: &str, id: &str, command: &[String]) -> Result<ExecOutput> {
        let failed = |error: ClientError| failure(doing, &error);
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..ExecConfig::default()
        };
        let exec = self.client.create_exec(id, config).await.map_err(failed)?.id;
        let mut result = ExecOutput::default();
        if let StartExecResults::Attached { mut output, input } =
            self.client.start_exec(&exec, None).await.map_err(failed)?
        {
            while let Some(piece) = output.next().await {
                match output_from(piece.map_err(failed)?) {
                    Output::Stdout(bytes) => keep_head(&mut result.stdout, &bytes, EXEC_OUTPUT_LIMIT),
                    Output::Stderr(bytes) => keep_head(&mut result.stderr, &bytes, EXEC_ERROR_LIMIT),
                }
            }
            drop(input);
        }
        loop {
            let state = self.client.inspect_exec(&exec).await.map_err(failed)?;
            match state.exit_code {
                Some(exit_code) if state.running != Some(true) => {
                    return Ok(ExecOutput { exit_code, ..result });
                }
                // The output ends a moment before the engine knows the exit code.
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// A container's stdin that closes when it is dropped.
///
/// The client's own does not close: its reading half keeps the connection open.
pub(super) struct ClosingStdin(pub(super) Option<Pin<Box<dyn AsyncWrite + Send>>>);

impl ClosingStdin {
    fn inner(&mut self) -> io::Result<Pin<&mut (dyn AsyncWrite + Send + 'static)>> {
        self.0.as_mut().map(Pin::as_mut).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for ClosingStdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(cx)
    }
}

impl Drop for ClosingStdin {
    fn drop(&mut self) {
        if let (Some(mut stdin), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move { tokio::io::AsyncWriteExt::shutdown(&mut stdin).await });
        }
    }
}

fn keep_head(kept: &mut Vec<u8>, more: &[u8], limit: usize) {
    let room = limit.saturating_sub(kept.len()).min(more.len());
    kept.extend_from_slice(&more[..room]);
}

pub(super) fn keep_tail(kept: &mut Vec<u8>, more: &[u8], limit: usize) {
    kept.extend_from_slice(more);
    let excess = kept.len().saturating_sub(limit);
    kept.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_kept_up_to_a_limit_from_the_end_they_matter_at() {
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        for piece in [&b"abc"[..], b"def", b"", b"ghi"] {
            keep_head(&mut head, piece, 5);
            keep_tail(&mut tail, piece, 5);
        }
        assert_eq!((&head[..], &tail[..]), (&b"abcde"[..], &b"efghi"[..]));
    }
}
