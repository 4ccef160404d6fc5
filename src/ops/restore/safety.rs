//! What was replaced is kept: archived with the service up, published like any snapshot, then removed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::prepare::Prepared;
use super::replace::{Hold, Replaced};
use super::{Destination, RestoreRun};
use crate::agent::calls::Discard;
use crate::agent::swap::old_tree;
use crate::archive::Codec;
use crate::crypt::Recipients;
use crate::database;
use crate::model::error::{Context as _, Result};
use crate::model::event::Notice;
use crate::model::hint::Hint;
use crate::model::location::MountSource;
use crate::model::manifest::{
    ArchiveInfo, Capture, Counts, FORMAT_VERSION, FRESH_TAG, FileListInfo, Manifest, Method, Part, Parts,
    Payload, Quiesce, REPLACED_BY_TAG, SAFETY_TAG, Times,
};
use crate::model::unknown::UnknownFields;
use crate::ops::helper::lower_priority;
use crate::ops::phase_timer::milliseconds;
use crate::ops::snapshot::publish::environment;
use crate::ops::trust::Trust;
use crate::repository::{Repository, Snapshot};
use crate::saga::{UndoId, When};
use crate::undo::Saga;
use crate::undo::Undo;
use crate::undo::archive_old::ArchiveReplacedData;
use crate::undo::one_time_key::OneTimeKey;

impl RestoreRun<'_> {
    /// Records that what is replaced must be kept once the new data stays: from that moment on, whoever holds the
    /// journal can do it.
    pub(super) async fn promise_safety(
        &self,
        saga: &mut Saga,
        prepared: &Prepared,
        hold: &Hold,
        released: DateTime<Utc>,
    ) -> Result<Option<PromisedSnapshot>> {
        if !prepared.keeps {
            return Ok(None);
        }
        let safety = self.safety(prepared, hold, released, old_tree(self.run.id.as_str())).await?;
        let keep = Undo::ArchiveReplaced { place: prepared.place.clone(), safety: safety.clone() };
        let registered = saga.register(When::Always, keep).context(|| "write the journal".to_owned())?;
        Ok(Some(PromisedSnapshot { safety, registered }))
    }

    /// Returns what keeps the data that is in `tree`.
    pub(super) async fn safety(
        &self,
        prepared: &Prepared,
        hold: &Hold,
        released: DateTime<Utc>,
        tree: PathBuf,
    ) -> Result<ArchiveReplacedData> {
        let codec = Codec::default();
        let repository = self.open_for_safety().await?;
        let recipients = self.safety_recipients(&repository)?;
        let pending = repository.begin(&prepared.source.key, &self.run.id, codec).await?;
        let pending = pending.encrypted_to(recipients.as_ref())?;
        Ok(ArchiveReplacedData {
            needed_bytes: prepared.plan.safety_needs_bytes,
            objects: pending.objects(),
            tree,
            last: prepared.marker_files(),
            recipients,
            manifest: Box::new(self.safety_manifest(prepared, hold, codec, released).await),
        })
    }

    /// Opens the repository that the safety snapshot goes to. One that is not what this host knows is refused.
    pub(super) async fn open_for_safety(&self) -> Result<Repository> {
        let context = &self.run.context;
        let repository = self.repository.open_or_init(&context.clock).await?;
        Trust::of(context)?.accept(&repository, context.clock.now())?;
        Ok(repository)
    }

    /// Returns whom the safety snapshot is encrypted to: those of the repository, and a key of its own, which stays on this
    /// host as long as the restore can be undone. So no undo ever needs another key.
    fn safety_recipients(&self, repository: &Repository) -> Result<Option<Recipients>> {
        let Some(recipients) = repository.recipients() else { return Ok(None) };
        let (state, now) = (&self.run.context.saga.state, self.run.context.clock.now());
        let key = OneTimeKey::make(state, &self.run.id, now);
        let key = key.context(|| "keep the key that opens the safety snapshot".to_owned())?;
        Ok(Some(recipients.and(&key.recipient)))
    }

    /// Keeps the data that was replaced, if it is to be kept, and removes it from where it was. The restore is done:
    /// what fails here is only reported, and leaves the old data where it is and the rest to the guard.
    pub(super) async fn archive_replaced(
        &self,
        saga: &mut Saga,
        prepared: &mut Prepared,
        replaced: Replaced,
    ) -> Option<Snapshot> {
        let kept = match &replaced.promised {
            Some(promised) => {
                self.run.timer.phase(crate::model::event::Phase::Safety);
                lower_priority(&self.run.context, &prepared.source).await;
                let keeping = (&self.run.context.clock, &self.run.context.cancel);
                let kept = promised.safety.keep(&mut prepared.agent, keeping, self.run.monitor()).await;
                kept.map(Some)
            }
            None => Ok(None),
        };
        let outcome = match kept {
            Ok(safety) => {
                self.run.monitor().step("discard-old");
                let discard = Discard { run: self.run.id.to_string(), with_old: true };
                let discarded = prepared.agent.call(discard).await;
                discarded
                    .context(|| "remove the old data".to_owned())
                    .map(|()| safety.clone())
                    .map_err(|error| (error, safety))
            }
            Err(error) => Err((error, None)),
        };
        match outcome {
            Ok(safety) => {
                if let Some(promised) = replaced.promised {
                    saga.dismiss(promised.registered);
                }
                saga.dismiss(replaced.work);
                let _ = saga.undo_now(prepared.helper, self.run.monitor()).await;
                safety
            }
            Err((error, safety)) => {
                let notice = Notice::from(format!(
                    "the data is restored, but {}; the old data still lies in {} of {}",
                    error.chain(),
                    old_tree(self.run.id.as_str()).display(),
                    prepared.source.title
                ));
                let recover = Hint::volsnap(["recover"]).why("archives the old data, and removes it then");
                self.run.monitor().warning(notice.hint(recover));
                safety
            }
        }
    }

    /// Returns the manifest that the safety snapshot will have.
    async fn safety_manifest(
        &self,
        prepared: &Prepared,
        hold: &Hold,
        codec: Codec,
        released: DateTime<Utc>,
    ) -> Manifest {
        let evidence = hold.evidence.clone();
        let mut environment = {
            let (source, engine, files) = (&prepared.source, &prepared.engine, evidence.database.as_ref());
            environment(&self.run.context, source, engine, files).await
        };
        // A database that is stopped at this moment does not tell.
        environment.libc = environment.libc.or_else(|| prepared.libc.clone());
        Manifest {
            format_version: FORMAT_VERSION,
            requires: Vec::new(),
            id: self.run.id.clone(),
            source: prepared.source.key.clone(),
            group: None,
            needs: Vec::new(),
            title: prepared.source.title.clone(),
            method: Method { quiesce: Quiesce::Stop, capture: Capture::Direct },
            payload: Payload::Physical,
            consistency: evidence.at_rest(),
            position: evidence.database.as_ref().and_then(database::position),
            evidence,
            times: Times { started: self.run.started, held: hold.held.at, released, published: released },
            downtime_ms: self.run.timer.away().map_or(0, milliseconds),
            phases: self.run.timer.phases(),
            parts: Parts::one(Part {
                location: prepared.source.location.clone(),
                archive: ArchiveInfo {
                    file: String::new(),
                    codec,
                    stored_bytes: 0,
                    tar_bytes: 0,
                    blake3: String::new(),
                },
                file_list: FileListInfo { file: String::new(), stored_bytes: 0, blake3: String::new() },
                counts: Counts { raw_bytes: prepared.plan.replaces_bytes, ..Counts::default() },
            }),
            environment,
            facts: None,
            tags: self.safety_tags(prepared),
            sealed: None,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            unknown: UnknownFields::default(),
        }
    }

    fn safety_tags(&self, prepared: &Prepared) -> BTreeMap<String, String> {
        let mut tags = BTreeMap::from([
            (SAFETY_TAG.to_owned(), "true".to_owned()),
            (REPLACED_BY_TAG.to_owned(), self.options.archive.name()),
        ]);
        if prepared.plan.fresh.is_some() {
            tags.insert(FRESH_TAG.to_owned(), "true".to_owned());
        }
        tags
    }

    /// Returns the command that undoes the restore.
    pub(super) fn undo(&self, safety: &Snapshot, prepared: &Prepared) -> Hint {
        let location = match &prepared.source.location {
            MountSource::Volume(name) => format!("volume:{name}"),
            MountSource::Directory(path) => format!("path:{}", path.display()),
        };
        // Forced if this restore was, or need not be: the safety snapshot is of the other cluster.
        let is_other = self.options.force.different_cluster || prepared.plan.fresh.is_some();
        let cluster = is_other.then_some("--force-different-cluster");
        let to = match self.options.destination {
            Destination::Origin => Vec::new(),
            _ => vec!["--to", location.as_str()],
        };
        // Their consumers take them up where they were.
        let has_slots = prepared.present.as_ref().is_some_and(|present| !present.slots.is_empty());
        let slots = has_slots.then_some("--keep-slots");
        Hint::volsnap(["restore", &safety.name()]).and(to).and(cluster).and(slots)
    }
}

/// What is replaced will be kept: the journal says so.
pub(super) struct PromisedSnapshot {
    safety: ArchiveReplacedData,
    registered: UndoId,
}
