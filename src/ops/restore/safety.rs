//! What was replaced is kept: archived with the service up, published as any snapshot, then removed.

use std::collections::BTreeMap;

use chrono::Utc;

use super::prepare::Ready;
use super::replace::Replaced;
use super::{Destination, Run};
use crate::agent::protocol::{ArchiveRequest, Request};
use crate::agent::swap::old_tree;
use crate::archive::Codec;
use crate::docker::MountSource;
use crate::error::{Context as _, Error, Result};
use crate::manifest::{
    ArchiveInfo, Capture, Consistency, Counts, FORMAT_VERSION, FileListInfo, Manifest, Quiesce, SAFETY_TAG,
    Times,
};
use crate::monitor::Phase;
use crate::ops::clock::milliseconds;
use crate::ops::snapshot::publish::{Writers, environment};
use crate::repository::Snapshot;
use crate::saga::Saga;
use crate::target::shell_quote;

impl Run<'_> {
    /// Keeps the data that was replaced, where it is to be kept, and removes it from where it was. The
    /// restore is done: what fails here is said, and leaves the old data where it is.
    pub(super) async fn keep_old(
        &self,
        saga: &mut Saga,
        ready: &mut Ready,
        replaced: Replaced,
    ) -> Option<Snapshot> {
        let work = replaced.work;
        let kept = if ready.keeps { self.safety(saga, ready, replaced).await.map(Some) } else { Ok(None) };
        let outcome = match kept {
            Ok(safety) => {
                self.monitor().step("discard-old");
                let discard = Request::Discard { run: self.id.to_string(), with_old: true };
                let discarded = ready.agent.perform(discard).await;
                discarded
                    .doing(|| "remove the old data".to_owned())
                    .map(|()| safety.clone())
                    .map_err(|error| (error, safety))
            }
            Err(error) => Err((error, None)),
        };
        match outcome {
            Ok(safety) => {
                saga.discharge(work);
                let _ = saga.settle(ready.helper, self.monitor()).await;
                safety
            }
            Err((error, safety)) => {
                saga.discharge(work);
                self.monitor().warning(format!(
                    "the data is restored, but {}; the old data still lies in {} of {}",
                    error.chain(),
                    old_tree(self.id.as_str()).display(),
                    ready.source.title
                ));
                safety
            }
        }
    }

    async fn safety(&self, saga: &mut Saga, ready: &mut Ready, replaced: Replaced) -> Result<Snapshot> {
        self.phase(Phase::Safety, "what was replaced", Some(ready.plan.replaces_bytes));
        self.monitor().step("safety");
        let codec = Codec::default();
        let pending = self.site.open_or_init()?.begin(&ready.source.key, &self.id, codec)?;
        let mut writers = Writers::open(saga, &pending)?;
        let last =
            ready.database.as_ref().map(|database| database.profile.written_last(&database.data_directory));
        let request = ArchiveRequest {
            codec,
            exclude: Vec::new(),
            last: last.unwrap_or_default(),
            held: false,
            tree: old_tree(self.id.as_str()),
        };
        let archived = ready
            .agent
            .archive(request, &mut writers, self.monitor())
            .await
            .doing(|| "archive what was replaced".to_owned())?;
        if let Some(path) = archived.changed.first() {
            return Err(Error::failed(format!(
                "{} was changed by somebody while it was archived",
                path.display()
            )));
        }
        self.clock.bytes(archived.raw_bytes);
        let environment = environment(self.host, &ready.source, &ready.engine).await;
        let (archive, list) = (writers.archive.finish().await?, writers.list.finish().await?);
        let evidence = replaced.evidence;
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            id: self.id.clone(),
            source: ready.source.key.clone(),
            location: ready.source.location.clone(),
            title: ready.source.title.clone(),
            quiesce: Quiesce::Stop,
            capture: Capture::Direct,
            consistency: if evidence.reasons.is_empty() {
                Consistency::Clean
            } else {
                Consistency::CrashConsistent
            },
            evidence,
            times: Times {
                started: self.started,
                held: replaced.held,
                released: replaced.released,
                published: Utc::now(),
            },
            downtime_ms: self.clock.away().map_or(0, milliseconds),
            phases: self.clock.phases(),
            archive: ArchiveInfo {
                file: archive.file.clone(),
                codec,
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
            environment,
            tags: BTreeMap::from([
                (SAFETY_TAG.to_owned(), "true".to_owned()),
                ("replaced-by".to_owned(), self.options.archive.name()),
            ]),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.monitor().step("write-manifest");
        Ok(pending.publish(manifest, &archive, &list)?)
    }

    /// Returns the command that undoes the restore.
    pub(super) fn undo(&self, safety: &Snapshot, ready: &Ready) -> String {
        let location = match &ready.source.location {
            MountSource::Volume(name) => format!("volume:{name}"),
            MountSource::Directory(path) => format!("path:{}", path.display()),
        };
        // Forced where this one was: the safety snapshot is of the other cluster.
        let cluster = if self.options.force.different_cluster { " --force-different-cluster" } else { "" };
        let to = match self.options.destination {
            Destination::Origin => String::new(),
            _ => format!(" --to {}", shell_quote(&location)),
        };
        format!("volsnap restore {}{to}{cluster}", shell_quote(&safety.name()))
    }
}
