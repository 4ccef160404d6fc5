//! Compose, recorded and failed on demand like the calls to the engine.

use std::future::pending;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Output};
use std::sync::Arc;

use async_trait::async_trait;

use crate::compose::runner::{Invocation, Runner};
use crate::engine::failing::{Mode, Shared};

/// A [`Runner`] whose commands are calls of a [`FailingDocker`](crate::engine::failing::FailingDocker).
#[derive(Debug)]
pub(super) struct FailingCompose {
    pub(super) inner: Arc<dyn Runner>,
    pub(super) shared: Arc<Shared>,
}

#[async_trait]
impl Runner for FailingCompose {
    async fn version(&self, words: &[&str]) -> Option<String> {
        self.inner.version(words).await
    }

    async fn run(&self, invocation: Invocation) -> io::Result<Output> {
        if self.shared.is_dead() {
            pending::<()>().await;
        }
        let has = |wanted: &str| invocation.words.iter().any(|word| word == wanted);
        let is_up = has("up") && !has("--dry-run");
        let name = if is_up { "compose up" } else { "compose config" };
        match self.shared.note(name, "", "") {
            None => return self.inner.run(invocation).await,
            Some(Mode::Before) => {}
            Some(Mode::After) => drop(self.inner.run(invocation).await),
            Some(Mode::Hang) => pending().await,
            Some(Mode::Panic) => panic!("injected panic at {name}"),
            Some(mode @ (Mode::Kill | Mode::KillAfter)) => {
                if mode == Mode::KillAfter {
                    drop(self.inner.run(invocation).await);
                }
                self.shared.kill();
                pending::<()>().await;
            }
        }
        let stderr = b"injected failure".to_vec();
        Ok(Output { status: ExitStatus::from_raw(1 << 8), stdout: Vec::new(), stderr })
    }
}
