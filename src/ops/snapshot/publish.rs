//! Makes the snapshot exist: archive, file list, and last of all the manifest, each durable.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Captured, Output, Prepared, SnapshotRun};
use crate::agent::archive::ArchiveStats;
use crate::agent::client::ArchiveSink;
use crate::database;
use crate::model::container::{Container, EngineInfo, Volume};
use crate::model::error::{Context as _, Result};
use crate::model::event::Phase;
use crate::model::inspection::Inspection;
use crate::model::labels::lasting_labels;
use crate::model::location::MountSource;
use crate::model::manifest::{
    ArchiveInfo, Counts, Environment, FORMAT_VERSION, FileListInfo, Manifest, Method, Part, Parts, Payload,
    Times,
};
use crate::model::source::Source;
use crate::model::unknown::UnknownFields;
use crate::ops::facts::recorded;
use crate::ops::libc_version::libc_of;
use crate::ops::phase_timer::milliseconds;
use crate::ops::{Context, apart};
use crate::repository::{PendingSnapshot, Snapshot, SnapshotObjectWriter, Stored};
use crate::saga::When;
use crate::undo::Saga;
use crate::undo::Undo;

impl SnapshotRun<'_> {
    pub(super) async fn publish(
        &self,
        prepared: Prepared,
        Output { pending, writers, announced }: Output,
        captured: (ArchiveStats, Captured),
        (held, released): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Snapshot> {
        self.run.phase(Phase::Publish, prepared.plan.archive.display().to_string(), None);
        self.run.monitor().step("publish");
        let archive = writers.archive.finish().await?;
        let list = writers.list.finish().await?;
        let times =
            Times { started: self.run.started, held, released, published: self.run.context.clock.now() };
        let manifest = self.manifest(&prepared, captured, (&archive, &list), times);
        self.run.monitor().step("write-manifest");
        // A signal must find it done or not begun.
        let _deferral = self.run.context.cancel.defer();
        let snapshot = pending.publish(manifest, &archive, &list).await?;
        self.run.monitor().step("published");
        if let Some(announced) = announced {
            announced.release().await;
        }
        Ok(snapshot)
    }

    fn manifest(
        &self,
        prepared: &Prepared,
        (archived, captured): (ArchiveStats, Captured),
        (archive, list): (&Stored, &Stored),
        times: Times,
    ) -> Manifest {
        if let Some(said) = apart::emptied(captured.facts.as_ref(), captured.consistency) {
            self.run.monitor().note(said);
        }
        let facts = recorded(captured.facts, &captured.evidence);
        Manifest {
            format_version: FORMAT_VERSION,
            requires: Vec::new(),
            id: self.run.id.clone(),
            source: prepared.source.key.clone(),
            group: None,
            needs: Vec::new(),
            title: prepared.source.title.clone(),
            method: Method { quiesce: self.options.quiesce, capture: prepared.plan.capture },
            payload: Payload::Physical,
            consistency: captured.consistency,
            position: captured.evidence.database.as_ref().and_then(database::position),
            evidence: captured.evidence,
            times,
            downtime_ms: self.run.timer.away().map_or(0, milliseconds),
            phases: self.run.timer.phases(),
            parts: Parts::one(Part {
                location: prepared.source.location.clone(),
                archive: ArchiveInfo {
                    file: archive.file.clone(),
                    codec: self.options.codec,
                    stored_bytes: archive.bytes,
                    tar_bytes: archived.tar_bytes,
                    blake3: archive.blake3.clone(),
                },
                file_list: FileListInfo {
                    file: list.file.clone(),
                    stored_bytes: list.bytes,
                    blake3: list.blake3.clone(),
                },
                counts: Counts {
                    members: archived.members(),
                    files: archived.files,
                    raw_bytes: archived.raw_bytes,
                    sockets_skipped: archived.sockets_skipped,
                    excluded: archived.excluded,
                    vanished: archived.vanished,
                    changed: archived.changed,
                },
            }),
            environment: prepared.environment.clone(),
            facts,
            tags: self.options.tags.clone(),
            sealed: None,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            unknown: UnknownFields::default(),
        }
    }
}

/// Returns what the data of a source runs in; `files` is what the database's own say.
pub(in crate::ops) async fn environment(
    context: &Context,
    source: &Source,
    engine: &EngineInfo,
    files: Option<&Inspection>,
) -> Environment {
    let container = source.database();
    let server = container.and_then(database::server_of);
    // Other names of the image are worth having, but not worth failing for.
    let image = match container {
        Some(container) => context.docker.image(&container.image_id).await.ok().flatten(),
        None => None,
    };
    let libc = match container {
        Some(container) => libc_of(&*context.docker, container).await,
        None => None,
    };
    let configuration = match container {
        Some(container) => apart::configuration_of(&*context.docker, container, files).await,
        None => Vec::new(),
    };
    // What whoever made the volume said of it: one that takes its place is to say the same.
    let volume = match &source.location {
        MountSource::Volume(name) => context.docker.volume(name).await.ok().flatten(),
        MountSource::Directory(_) => None,
    };
    Environment {
        container: container.map(|container| container.name.clone()),
        image: container.map(|container| container.image.clone()),
        image_id: container.map(|container| container.image_id.clone()),
        image_digests: image.map(|image| image.repo_digests).unwrap_or_default(),
        labels: container.map(compose_labels).unwrap_or_default(),
        mounts: container.map(|container| container.mounts.clone()).unwrap_or_default(),
        data_directory: container.and_then(|container| server?.data_directory(container)),
        superuser: container.and_then(|container| {
            server.or_else(|| database::server_that_may_have_run_in(container))?.superuser(container)
        }),
        engine_version: engine.version.clone(),
        api_version: engine.api_version.to_string(),
        arch: engine.arch.clone(),
        libc,
        configuration,
        volume_options: volume.as_ref().map(options_of).unwrap_or_default(),
        volume_labels: volume.map(|volume| lasting_labels(volume.labels)).unwrap_or_default(),
    }
}

/// Returns the names of the options that a volume of the engine's own would not have.
fn options_of(volume: &Volume) -> Vec<String> {
    let driver = (volume.driver != "local").then(|| "driver".to_owned());
    driver.into_iter().chain(volume.options.keys().cloned()).collect()
}

fn compose_labels(container: &Container) -> BTreeMap<String, String> {
    let ours = |name: &str| name.starts_with("com.docker.compose.");
    container
        .labels
        .iter()
        .filter(|(name, _)| ours(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The files that the archive and the file list are written to.
pub(in crate::ops) struct Writers {
    pub(in crate::ops) archive: SnapshotObjectWriter,
    pub(in crate::ops) list: SnapshotObjectWriter,
}

impl Writers {
    /// Creates both files; the journal has what removes them before.
    pub(in crate::ops) async fn open(saga: &mut Saga, pending: &PendingSnapshot) -> Result<Self> {
        let compensation = Undo::DiscardUnpublished(pending.objects());
        saga.register(When::Always, compensation).context(|| "write the journal".to_owned())?;
        Ok(Self { archive: pending.archive_writer().await?, list: pending.list_writer().await? })
    }
}

#[async_trait]
impl ArchiveSink for Writers {
    async fn archive(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.archive.write(bytes).await?)
    }

    async fn file_list(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.list.write(bytes).await?)
    }
}
