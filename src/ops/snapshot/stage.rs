//! The stage: a copy made while the service runs, so that the service is held only for what changed in the last moment.
//!
//! Live passes prove nothing, they only save work: the final pass sees whatever somebody does to the database
//! meanwhile. So the users are looked at again before they are held, and one that somebody has restarted in between is
//! held as it is then. A stage that does not fit is given up before anything is held.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Prepared, SnapshotRun};
use crate::agent::archive::ArchiveStats;
use crate::agent::calls::{StageClear, StageKeep, StagePass};
use crate::agent::client::AgentError;
use crate::agent::staging::StageStats;
use crate::agent::tree::Stability;
use crate::model::container::EngineInfo;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Notice;
use crate::model::hint::Hint;
use crate::model::labels::{LABEL_RUN, LABEL_STAGE};
use crate::model::location::MountSource;
use crate::model::manifest::{Capture, Quiesce};
use crate::model::source::Source;
use crate::ops::helper::{StageMount, lower_priority};
use crate::ops::hold::HoldPlan;
use crate::ops::passes::Passes;
use crate::ops::plan::{CaptureChoice, STAGE_RESERVE};
use crate::ops::preconditions::somebody_at_work;
use crate::ops::snapshot::publish::Writers;
use crate::saga::{UndoId, When};
use crate::undo::Saga;
use crate::undo::Undo;

/// The start of a stage's name, before the run that makes it.
const PREFIX: &str = "volsnap-stage-";
/// Where a stage lies.
pub(super) struct StageVolume {
    /// The volume, or the directory beside the source.
    pub(super) location: MountSource,
    /// The labels of the volume.
    labels: BTreeMap<String, String>,
    /// What removes it.
    removal: Undo,
    /// Its place in the journal; `None` for a kept one that is not taken up yet.
    registered: Option<UndoId>,
}

impl StageVolume {
    /// Returns the stage of a volume that `run` makes or made.
    fn volume(name: String, source: &Source, run: &str) -> Self {
        let labels = BTreeMap::from([
            (LABEL_RUN.to_owned(), run.to_owned()),
            (LABEL_STAGE.to_owned(), source.key.clone()),
        ]);
        let removal = Undo::RemoveVolume { name: name.clone(), run: run.to_owned() };
        Self { location: MountSource::Volume(name), labels, removal, registered: None }
    }

    /// Returns the stage as the helper gets it.
    pub(super) fn mount(&self) -> StageMount<'_> {
        StageMount { location: &self.location, labels: &self.labels }
    }

    /// Returns the volume's name, or the directory.
    pub(super) fn name(&self) -> String {
        match &self.location {
            MountSource::Volume(name) => name.clone(),
            MountSource::Directory(path) => path.display().to_string(),
        }
    }
}

impl SnapshotRun<'_> {
    /// Chooses the place of a stage: one that an earlier run kept, or a new one. The journal has what removes a new one
    /// when this returns.
    ///
    /// A volume is made with the helper, whose name is the lock: so a source has no stages but the kept ones and that
    /// of the run that has the lock. One that another run takes away before we have the lock is made anew.
    pub(super) async fn choose_stage(
        &self,
        saga: &mut Saga,
        source: &Source,
        engine: &EngineInfo,
    ) -> Result<StageVolume> {
        // A database's own backup is whole, and does not fit a kept stage.
        if self.options.quiesce != Quiesce::Native
            && let Some(kept) = self.kept_stage(source).await?
        {
            return Ok(kept);
        }
        if let Some(place) = self.make_stage_beside(saga, source, engine)? {
            return Ok(place);
        }
        let run = self.run.id.as_str();
        let mut place = StageVolume::volume(format!("{PREFIX}{run}"), source, run);
        place.registered = Some(self.register(saga, &place.removal)?);
        self.run.monitor().step("create-stage");
        Ok(place)
    }

    /// Finds the newest kept stage of the source.
    async fn kept_stage(&self, source: &Source) -> Result<Option<StageVolume>> {
        let volumes = self
            .run
            .context
            .docker
            .volumes()
            .await
            .context(|| "look for a stage that was kept".to_owned())?;
        let is_of_source = |labels: &BTreeMap<String, String>| labels.get(LABEL_STAGE) == Some(&source.key);
        let kept = volumes
            .into_iter()
            .filter(|volume| is_of_source(&volume.labels))
            .filter_map(|volume| Some((volume.labels.get(LABEL_RUN)?.clone(), volume.name)))
            .max();
        Ok(kept.map(|(run, name)| StageVolume::volume(name, source, &run)))
    }

    /// Makes a directory beside a source that is a directory, if both lie on one file system and this process can
    /// remove them again: there, contents can be shared, and the room is the source's. A stage to keep is a volume,
    /// which can be found again.
    fn make_stage_beside(
        &self,
        saga: &mut Saga,
        source: &Source,
        engine: &EngineInfo,
    ) -> Result<Option<StageVolume>> {
        let MountSource::Directory(directory) = &source.location else { return Ok(None) };
        if !engine.local || self.options.keep_stage || !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let Some(path) = beside(directory, self.run.id.as_str()) else { return Ok(None) };
        let removal = Undo::DeleteDirectory { path: path.clone() };
        let registered = self.register(saga, &removal)?;
        self.run.monitor().step("create-stage");
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Some(StageVolume {
                location: MountSource::Directory(path),
                labels: BTreeMap::new(),
                removal,
                registered: Some(registered),
            })),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "no stage beside the source");
                saga.dismiss(registered);
                Ok(None)
            }
        }
    }

    fn register(&self, saga: &mut Saga, removal: &Undo) -> Result<UndoId> {
        saga.register(When::Always, removal.clone()).context(|| "write the journal".to_owned())
    }

    /// Brings the stage close to the source while it is being written, if the capture is staged. If it does not fit,
    /// the data is captured directly, if that is allowed.
    pub(in crate::ops) async fn stage_live(&self, saga: &mut Saga, prepared: &mut Prepared) -> Result<()> {
        let Some(stage) = prepared.stage.as_mut().filter(|_| prepared.plan.capture == Capture::Staged) else {
            return Ok(());
        };
        if stage.registered.is_none() {
            stage.registered = Some(self.register(saga, &stage.removal)?);
        }
        let passes = self.passes(&prepared.source, prepared.survey.bytes);
        match passes.live(&mut prepared.helper.agent, None).await {
            Ok(()) => {}
            Err(AgentError::StageFull(why)) if self.options.capture == CaptureChoice::Auto => {
                self.fall_back(prepared, &why).await;
            }
            Err(error @ AgentError::StageFull(_)) => {
                return Err(Error::failed(format!("stage {}", prepared.source.title))
                    .with_source(error)
                    .hint(self.unstaged().why("needs no stage, and holds the service for longer")));
            }
            Err(error) => {
                return Err(Error::failed(format!("stage {}", prepared.source.title)).with_source(error));
            }
        }
        self.look_again(prepared).await?;
        // What it writes now, it need not write during its shutdown. A frozen one writes nothing then, and what it
        // wrote now would only have to be staged.
        if self.options.quiesce == Quiesce::Stop {
            self.run.context.checkpoint(&prepared.source).await;
        }
        Ok(())
    }

    fn passes<'p>(&'p self, source: &'p Source, bytes: u64) -> Passes<'p> {
        let call = StagePass { exclude: self.excluded(), reserve: STAGE_RESERVE, ..StagePass::default() };
        Passes { run: self.run, source, call, bytes }
    }

    /// Gives the stage up: the data is captured directly.
    async fn fall_back(&self, prepared: &mut Prepared, why: &str) {
        // What was staged takes room that the archive needs.
        let empty = StagePass { exclude: vec!["*".to_owned()], ..StagePass::default() };
        if let Err(error) = prepared.helper.agent.call_watched(empty, self.run.monitor()).await {
            tracing::debug!(%error, "the stage is emptied when it is removed");
        }
        let plan = &mut prepared.plan;
        plan.capture = Capture::Direct;
        plan.capture_reason = format!("the stage did not fit: {why}");
        plan.expected_downtime_ms = prepared.estimate.direct_ms();
        prepared.hold.expected = Duration::from_millis(plan.expected_downtime_ms);
        self.warn_of_direct(plan);
        self.warn_of_downtime(plan);
    }

    /// Looks at the users once more: the passes took their time, and somebody may have restarted one.
    async fn look_again(&self, prepared: &mut Prepared) -> Result<()> {
        let source = self.run.context.resolve(&self.options.target).await?;
        if source.location != prepared.source.location {
            return Err(Error::failed(format!(
                "{} is not where it was: somebody has moved its data to {} meanwhile",
                prepared.source.title,
                source.host_path.display()
            ))
            .hint(somebody_at_work()));
        }
        self.refuse_what_cannot_be_held(&source).await?;
        let mute = self.mute(&source).await?;
        let hold = self.hold_plan(&source).look(&self.run.context).await?.freezing_the_deaf(&source)?;
        prepared.take_users(&self.run.context, HoldPlan { is_store: prepared.hold.is_store, mute, ..hold });
        prepared.source = source;
        Ok(())
    }

    /// Brings the stage up to the source, which is held.
    pub(super) async fn final_pass(&self, prepared: &mut Prepared) -> Result<StageStats> {
        let passes = self.passes(&prepared.source, prepared.survey.bytes);
        let stats = passes.last(&mut prepared.helper.agent).await;
        stats.context(|| format!("stage what has changed in {}", prepared.source.title))
    }

    /// Archives the stage, while the service is up.
    pub(super) async fn archive_stage(
        &self,
        saga: &mut Saga,
        prepared: &mut Prepared,
        writers: &mut Writers,
        staged: Option<StageStats>,
    ) -> Result<ArchiveStats> {
        lower_priority(&self.run.context, &prepared.source).await;
        let mut archived = self.archive(prepared, writers, Stability::Held).await?;
        // The stage never had what was left out.
        if let Some(staged) = staged {
            (archived.excluded, archived.sockets_skipped) = (staged.excluded, staged.sockets_skipped);
        }
        if self.options.keep_stage {
            self.keep_stage(saga, prepared).await;
        } else {
            self.clear_stage(prepared).await;
        }
        Ok(archived)
    }

    /// Empties the stage before the engine removes it: the engine would do it in one go, and a database that syncs its
    /// log meanwhile would wait.
    async fn clear_stage(&self, prepared: &mut Prepared) {
        self.run.monitor().step("clear-stage");
        if let Err(error) = prepared.helper.agent.call_watched(StageClear {}, self.run.monitor()).await {
            tracing::debug!(%error, "the stage is removed in one go");
        }
    }

    /// Leaves the stage to the next run. If that fails, the next one only takes longer.
    async fn keep_stage(&self, saga: &mut Saga, prepared: &mut Prepared) {
        let Some(stage) = &prepared.stage else { return };
        self.run.monitor().step("keep-stage");
        match (prepared.helper.agent.call_watched(StageKeep {}, self.run.monitor()).await, stage.registered) {
            (Ok(()), Some(registered)) => {
                saga.dismiss(registered);
                let notice =
                    Notice::from(format!("the stage stays for the next snapshot: volume {}", stage.name()));
                let list =
                    Hint::volsnap(["list", "--stages"]).why("says what it takes, and how to remove it");
                self.run.monitor().note(notice.hint(list));
            }
            (Ok(()), None) => {}
            (Err(error), _) => self.run.monitor().warning(format!("the stage is not kept: {error}")),
        }
    }
}

/// Returns where a stage lies beside a directory; `None` if that is another file system.
fn beside(directory: &Path, run: &str) -> Option<PathBuf> {
    let (parent, own) = (directory.parent()?, directory.metadata().ok()?);
    (parent.metadata().ok()?.dev() == own.dev()).then(|| parent.join(format!(".{PREFIX}{run}")))
}
