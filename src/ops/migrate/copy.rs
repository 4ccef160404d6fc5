//! The copy: made while the service runs, finished while it is stopped, and read a second time.

use std::path::PathBuf;

use tokio::time::Instant;

use super::MigrateRun;
use super::prepare::{Database, Prepared};
use crate::agent::calls::{StageCompare, StagePass};
use crate::agent::client::AgentError;
use crate::agent::staging::CompareStats;
use crate::agent::tree::Stability;
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::facts::checks::Checks;
use crate::model::facts::{Facts, FactsLevel};
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::source::Source;
use crate::ops::facts::{run_checks, take};
use crate::ops::hold::{Held, HoldPlan};
use crate::ops::passes::Passes;
use crate::ops::plan::STAGE_RESERVE;
use crate::ops::preconditions::somebody_at_work;
use crate::saga::{Terms, UndoId, When};
use crate::selector::inventory::inventory;
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::retract_copy::{MigratedCopy, Proof};

/// The users are stopped; the journal has what starts them.
pub(super) struct Hold {
    pub(super) held: Held,
    /// What takes the copy away from its place.
    pub(super) retract: UndoId,
    /// The copy, as far as it is known.
    pub(super) copy: MigratedCopy,
    /// What the database's own files said after its shutdown.
    pub(super) stopped: Option<Inspection>,
}

impl Hold {
    /// Writes to the journal what is known of the copy by now.
    fn amend(&self, saga: &mut Saga) -> Result<()> {
        let retract = Undo::RetractCopy { copy: self.copy.clone() };
        saga.update(self.retract, retract).context(|| "write the journal".to_owned())
    }

    /// Writes to the journal that services are about to be started on the copy.
    pub(super) fn about_to_start(&mut self, saga: &mut Saga) -> Result<()> {
        self.copy.started = true;
        self.amend(saga)
    }
}

impl MigrateRun<'_> {
    /// Brings the copy close to the data while the service runs, and compares the two. Once there is something to go on
    /// from, a failure leaves it.
    pub(super) async fn copy_live(&self, saga: &mut Saga, prepared: &mut Prepared) -> Result<()> {
        let passes = self.passes(&prepared.source, prepared.survey.bytes);
        let location = prepared.place.location.clone();
        let mut kept = || {
            // The directory's removal is the first: it removes everything, so it is dismissed last.
            for removal in std::mem::take(&mut prepared.removals).into_iter().rev() {
                saga.dismiss(removal);
            }
            let _ = self.kept.set(location.clone());
        };
        let live = passes.live(&mut prepared.agent, Some(&mut kept)).await;
        live.map_err(|error| self.not_copied(error, prepared))?;
        self.run.monitor().step("compare");
        self.run.phase(
            Phase::Compare,
            format!("{} with its copy, while it is in use", prepared.source.title),
            None,
        );
        let compared = self.compare(prepared, Stability::Live).await?;
        tracing::debug!(?compared, "live comparison");
        self.look_again(prepared).await
    }

    fn passes<'p>(&'p self, source: &'p Source, bytes: u64) -> Passes<'p> {
        Passes {
            run: self.run,
            source,
            call: StagePass {
                exclude: excluded(),
                reserve: STAGE_RESERVE,
                owner: self.options.owner,
                ..StagePass::default()
            },
            bytes,
        }
    }

    fn not_copied(&self, error: AgentError, prepared: &Prepared) -> Error {
        let full = matches!(error, AgentError::StageFull(_));
        let error =
            Error::failed(format!("copy {} to {}", prepared.plan.from, prepared.plan.to)).with_source(error);
        if full {
            error.hint(Hint::advice("free some space there, or choose a directory on a larger disk"))
        } else {
            error
        }
    }

    async fn compare(&self, prepared: &mut Prepared, stability: Stability) -> Result<CompareStats> {
        let call = StageCompare { stability, exclude: excluded(), owner: self.options.owner };
        let compared = prepared.agent.call_watched(call, self.run.monitor()).await;
        let compared = compared.context(|| format!("compare {} with its copy", prepared.source.title))?;
        self.run.timer.bytes(compared.bytes);
        Ok(compared)
    }

    /// Looks at the users once more: the passes took their time, and somebody may have restarted one.
    async fn look_again(&self, prepared: &mut Prepared) -> Result<()> {
        let source = self.run.context.resolve_for(&["migrate"], &self.options.target).await?;
        let ids = |source: &Source| -> Vec<String> {
            let users = source.users.iter().filter(|user| !user.is_passer_by());
            let mut ids: Vec<_> = users.map(|user| user.container.id.clone()).collect();
            ids.sort();
            ids
        };
        if source.location != prepared.source.location || ids(&source) != ids(&prepared.source) {
            return Err(Error::failed(format!(
                "who uses {} has changed while it was copied",
                prepared.source.title
            ))
            .hint(Self::again()));
        }
        prepared.look_at(&self.run.context, source)
    }

    /// Returns what to do after a failure that leaves a copy: the command is the one that was typed.
    pub(super) fn again() -> Hint {
        Hint::advice("once what was in its way is gone, type the same again: it goes on from the copy")
    }

    /// Takes the facts of the data, with the values of the user's checks.
    pub(super) async fn before(&self, prepared: &Prepared) -> Result<Option<Facts>> {
        let Some(database) = prepared.running_database() else { return Ok(None) };
        let facts = self.facts(&database.container, prepared.checks.as_ref()).await;
        facts.map_err(|error| {
            error.hint(Hint::instead(&["--facts="], ["--facts", "none"]).why("does not compare"))
        })
    }

    pub(super) async fn facts(
        &self,
        container: &Container,
        checks: Option<&Checks>,
    ) -> Result<Option<Facts>> {
        if self.options.level == FactsLevel::None {
            return Ok(None);
        }
        self.run.phase(Phase::Facts, container.name.clone(), None);
        self.run.monitor().step("facts");
        let Some(mut facts) = take(&*self.run.context.docker, container, self.options.level).await? else {
            return Ok(None);
        };
        if let Some(checks) = checks {
            run_checks(&*self.run.context.docker, container, checks, None, &mut facts).await;
        }
        Ok(Some(facts))
    }

    /// Stops the users. Before the first is asked to stop, the journal has what takes the copy away from its place, and
    /// then what starts the users again: so the copy is taken away last, with the service up.
    pub(super) async fn hold(&self, saga: &mut Saga, prepared: &mut Prepared) -> Result<Hold> {
        self.run.context.checkpoint(&prepared.source).await;
        let journal = || "write the journal".to_owned();
        let copy = MigratedCopy {
            place: prepared.place.clone(),
            started: false,
            proof: None,
            made: prepared.made.clone(),
        };
        let retract = Undo::RetractCopy { copy: copy.clone() };
        let retract = saga.register(When::OnFailure, retract).context(journal)?;
        let plan = HoldPlan {
            location: Some(prepared.source.location.clone()),
            containers: prepared.stops.clone(),
            stop_timeout: self.options.stop_timeout,
            kills: self.options.kills.clone(),
            is_store: !prepared.survey.stores.is_empty(),
            ..HoldPlan::default()
        };
        let plan = plan.look(&self.run.context).await?;
        plan.refuse_the_deaf()?;
        let held = self.run.hold(saga, &plan).await?;
        // Each phase goes on as long as it makes progress: the copy's last pass is as long as what was written.
        if !plan.is_empty() {
            self.run.lease(Terms::of_change());
        }
        let mut hold = Hold { held, retract, copy, stopped: None };
        hold.stopped = self.shutdown(prepared).await?;
        Ok(hold)
    }

    /// Reads what the database's own files say of the shutdown. Data of a shutdown that was not clean is copied as it
    /// is.
    async fn shutdown(&self, prepared: &mut Prepared) -> Result<Option<Inspection>> {
        let Some(database) = &prepared.database else { return Ok(None) };
        self.run.phase(Phase::Prove, prepared.source.title.clone(), None);
        self.run.monitor().step("prove");
        let inspection = database.files.inspect(&mut prepared.agent).await?;
        if !inspection.clean {
            self.run.monitor().warning(format!(
                "the shutdown was not clean, and is copied as it is: {}",
                inspection.reasons.join("; ")
            ));
        }
        Ok(Some(inspection))
    }

    /// Finishes the copy and proves that it is one: by a second reading, and by the database's own files, which also
    /// say whether anybody has started it meanwhile.
    pub(super) async fn copy_held(
        &self,
        saga: &mut Saga,
        prepared: &mut Prepared,
        hold: &mut Hold,
    ) -> Result<CompareStats> {
        let passes = self.passes(&prepared.source, prepared.survey.bytes);
        let last = passes.last(&mut prepared.agent).await;
        last.map_err(|error| self.not_copied(error, prepared))?;
        self.run.monitor().step("compare-held");
        self.run.phase(Phase::Compare, format!("{} with its copy", prepared.source.title), None);
        let begun = Instant::now();
        let compared = self.compare(prepared, Stability::Held).await?;
        tracing::debug!(?compared, elapsed = ?begun.elapsed(), "held comparison");
        if compared.different > 0 {
            return Err(Error::failed(format!(
                "the copy is not what {} has: {}",
                prepared.plan.from,
                compared.differences.join("; ")
            ))
            .hint(Hint::shell("dmesg | tail").why("says whether the disk of the copy is sound")));
        }
        self.refuse_running(prepared).await?;
        let (Some(database), Some(stopped)) = (&prepared.database, &hold.stopped) else {
            return Ok(compared);
        };
        let now = database.files.inspect(&mut prepared.agent).await?;
        let copied = database.files.inspect_stage(&mut prepared.agent).await?;
        if now.proof_digest != stopped.proof_digest || copied.proof_digest != stopped.proof_digest {
            return Err(Error::failed("the database was started by somebody while it was copied")
                .hint(somebody_at_work()));
        }
        let proof = Proof {
            engine: database.files.engine.to_owned(),
            data_directory: database.files.data_directory.clone(),
            mounted_at: database.files.mounted_at.clone(),
            digest: stopped.proof_digest.clone(),
        };
        hold.copy.proof = Some(proof);
        hold.amend(saga)?;
        Ok(compared)
    }

    /// Refuses to go on if somebody has started a container on the data meanwhile.
    async fn refuse_running(&self, prepared: &Prepared) -> Result<()> {
        let world = self.run.context.world().await?;
        let inventory = inventory(&prepared.source.location, &world);
        let running = inventory.users.iter().find(|user| user.container.state.running && user.writes);
        match running {
            Some(user) => Err(Error::failed(format!(
                "container {} was started by somebody on {} meanwhile",
                user.container.name, prepared.source.title
            ))
            .hint(somebody_at_work())),
            None => Ok(()),
        }
    }
}

/// Returns what is never copied: the old data that a dead restore kept.
pub(super) fn excluded() -> Vec<String> {
    vec![format!("{}*", crate::agent::swap::PREFIX)]
}

/// Returns the files without which there is no database, as the swap wants them.
pub(super) fn marker_files(database: Option<&Database>) -> Vec<PathBuf> {
    database.map(|database| database.files.marker_files()).unwrap_or_default()
}
