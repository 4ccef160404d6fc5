//! Brings a stage close to data that is being written, so that little is left to do while the writers are held.

use std::time::Duration;

use super::Context;
use crate::agent::calls::{PassKind, StageKeep, StagePass};
use crate::agent::client::{AgentClient, AgentError};
use crate::agent::staging::StageStats;
use crate::database;
use crate::model::event::Phase;
use crate::model::source::Source;
use crate::ops::run::Run;

/// How many live passes there are at most: each takes as long as what was written during the one before.
const PASSES_MAX: u32 = 5;
/// A pass with less to do than this takes as long as one with nothing to do.
const SETTLED_BYTES: u64 = 64 << 20;
/// How long the database may take to write what it holds in memory.
const CHECKPOINT_LIMIT: Duration = Duration::from_mins(10);

/// What the passes of one run share.
pub(super) struct Passes<'a> {
    pub(super) run: &'a Run,
    pub(super) source: &'a Source,
    /// What each pass is asked for, except whether it is the last.
    pub(super) call: StagePass,
    /// Bytes of the source's contents.
    pub(super) bytes: u64,
}

impl Passes<'_> {
    /// Makes passes until they have little to do, or no longer get shorter. With `kept`, each pass leaves what a later
    /// run can go on from, and then `kept` is called.
    pub(super) async fn live(
        &self,
        agent: &mut AgentClient,
        mut kept: Option<&mut (dyn FnMut() + Send)>,
    ) -> Result<(), AgentError> {
        let mut before = u64::MAX;
        for number in 1..=PASSES_MAX {
            if number > 1 {
                self.run.context.checkpoint(self.source).await;
            }
            let detail = format!("{}, pass {number} while it is in use", self.source.title);
            self.run.phase(Phase::Stage, detail, Some(self.bytes));
            self.run.context.monitor.step("live-pass");
            let stats = self.pass(agent, PassKind::Live).await?;
            tracing::debug!(number, ?stats, "live pass");
            if let Some(kept) = &mut kept {
                self.run.context.monitor.step("keep-stage");
                agent.call_watched(StageKeep {}, &*self.run.context.monitor).await?;
                kept();
            }
            let work = stats.read_bytes + stats.written_bytes + stats.reflinked_bytes;
            if number > 1 && (work < SETTLED_BYTES || work > before / 5 * 4) {
                break;
            }
            before = work;
        }
        Ok(())
    }

    /// Makes the pass after which the stage is the source: everything that writes is held.
    pub(super) async fn last(&self, agent: &mut AgentClient) -> Result<StageStats, AgentError> {
        self.run.phase(Phase::FinalPass, self.source.title.clone(), Some(self.bytes));
        self.run.context.monitor.step("final-pass");
        let stats = self.pass(agent, PassKind::Final).await?;
        tracing::debug!(?stats, "final pass");
        Ok(stats)
    }

    async fn pass(&self, agent: &mut AgentClient, kind: PassKind) -> Result<StageStats, AgentError> {
        let call = StagePass { kind, ..self.call.clone() };
        let stats = agent.call_watched(call, &*self.run.context.monitor).await?;
        self.run.timer.bytes(stats.read_bytes + stats.reflinked_bytes);
        Ok(stats)
    }
}

impl Context {
    /// Has the database write what it holds in memory. If that fails, the hold only lasts longer.
    pub(super) async fn checkpoint(&self, source: &Source) {
        let is_up = |state: &crate::model::container::ContainerState| state.running && !state.paused;
        let Some(container) = source.database().filter(|container| is_up(&container.state)) else { return };
        let server = database::server_of(container);
        let Some(command) = server.and_then(|server| server.checkpoint_command(container)) else { return };
        self.monitor.step("checkpoint");
        let why = match self.docker.exec(&container.id, &command, CHECKPOINT_LIMIT).await {
            Ok(output) if output.exit_code == 0 => return,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        self.monitor.warning(format!(
            "container {} did not write a checkpoint, so it may be held for longer: {why}",
            container.name
        ));
    }
}
