//! The stages that snapshots kept for later ones.
//!
//! A kept stage is a volume like any other, and is removed like any other. Only its size must be read from within, by a
//! helper.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Context;
use super::helper::start_helper;
use super::run::{Run, Untouched};
use crate::agent::calls::Survey;
use crate::engine::helper::Access;
use crate::model::container::{EngineInfo, Volume};
use crate::model::error::{Context as _, Result};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::labels::{LABEL_RUN, LABEL_STAGE};
use crate::selector::Target;
use crate::undo::Saga;

/// A stage that lies on the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptStage {
    /// The key of the source that it is a copy of.
    pub source: String,
    /// The volume.
    pub volume: String,
    /// The run that made it.
    pub run: String,
    /// When that run began, if its id says so.
    pub made: Option<DateTime<Utc>>,
    /// Bytes that it occupies; `None` while a run is at work on it.
    pub bytes: Option<u64>,
    /// The command that removes it.
    pub remove: Hint,
}

/// Returns the stages there are, by source and age.
///
/// # Errors
/// When the engine cannot be asked, or one cannot be looked into.
pub async fn stages(context: &Context) -> Result<Vec<KeptStage>> {
    let volumes = context.docker.volumes().await.context(|| "list the volumes".to_owned())?;
    let engine = context.docker.engine().await.context(|| "ask the engine what it is".to_owned())?;
    let mut stages = Vec::new();
    for volume in volumes {
        let (Some(source), Some(run)) = (volume.labels.get(LABEL_STAGE), volume.labels.get(LABEL_RUN)) else {
            continue;
        };
        let bytes = match measure(context, &engine, &volume).await {
            Ok(bytes) => bytes,
            // A run that has ended meanwhile removed its own.
            Err(_) if context.docker.volume(&volume.name).await.is_ok_and(|volume| volume.is_none()) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        stages.push(KeptStage {
            source: source.clone(),
            run: run.clone(),
            made: run.parse().ok().and_then(|id: SnapshotId| id.begun()),
            bytes,
            remove: Hint::docker(["volume", "rm", &volume.name]),
            volume: volume.name,
        });
    }
    stages.sort_by(|a, b| (&a.source, &a.run).cmp(&(&b.source, &b.run)));
    Ok(stages)
}

/// Returns what a stage occupies; `None` if a run has it.
async fn measure(context: &Context, engine: &EngineInfo, volume: &Volume) -> Result<Option<u64>> {
    let target = Target::Volume(volume.name.clone());
    let source = context.resolve(&target).await?;
    if source.held_by.is_some() {
        return Ok(None);
    }
    let run = Run::new(context)?;
    let measuring = async |saga: &mut Saga| {
        let (id, access) = (run.id.as_str(), (Access::Read, None));
        let mut helper = start_helper(&run.context, saga, id, &source, access, (engine, None), &[]).await?;
        let survey = helper
            .agent
            .call(Survey::default())
            .await
            .context(|| format!("survey volume {}", volume.name))?;
        Ok(Some(survey.disk_bytes))
    };
    run.conduct("list", target.to_string(), &Untouched, measuring).await
}
