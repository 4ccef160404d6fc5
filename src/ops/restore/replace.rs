//! The new data beside the old, then in its place; and the proof that the database runs on it.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::RestoreRun;
use super::plan::RESERVE;
use super::prepare::Prepared;
use super::safety::PromisedSnapshot;
use crate::agent::calls::{Channel, Extract, SwapIn};
use crate::agent::extract::{ExtractOptions, Extracted};
use crate::agent::swap::new_tree;
use crate::archive::Origin;
use crate::model::error::{Context as _, Error, ErrorKind, Result};
use crate::model::event::Phase;
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::manifest::Evidence;
use crate::ops::evidence;
use crate::ops::hold::{Held, HoldPlan};
use crate::saga::{Terms, UndoId, When};
use crate::selector::inventory::inventory;
use crate::undo::Saga;
use crate::undo::Undo;

/// How long a recovery may take.
const RECOVERY_LIMIT: Duration = Duration::from_hours(6);

/// The users are stopped; the journal has what starts them.
pub(super) struct Hold {
    pub(super) held: Held,
    /// What the data that is about to be replaced says.
    pub(super) evidence: Evidence,
}

/// The new data stays.
pub(super) struct Replaced {
    /// What keeps the old data.
    pub(super) promised: Option<PromisedSnapshot>,
    /// What removes the work directory.
    pub(super) work: UndoId,
}

impl RestoreRun<'_> {
    /// Extracts the archive beside the data and proves that what was written is what was stored.
    pub(super) async fn extract(&self, saga: &mut Saga, prepared: &mut Prepared) -> Result<Extracted> {
        self.refuse_other_run(prepared).await?;
        if prepared.keeps {
            // If it cannot be written, we find out before anything is stopped.
            self.open_for_safety().await?;
        }
        let work = Undo::DiscardWork { place: prepared.place.clone(), with_old: !prepared.keeps };
        let work = saga.register(When::Always, work).context(|| "write the journal".to_owned())?;
        prepared.work = Some(work);
        self.unpack(prepared, false).await
    }

    /// Extracts the archive into the work directory, and proves that what was written is what was stored.
    pub(super) async fn unpack(&self, prepared: &mut Prepared, emptied: bool) -> Result<Extracted> {
        self.run.phase(Phase::Extract, prepared.source.title.clone(), Some(prepared.known.bytes));
        self.run.monitor().step("extract");
        let origin = match self.options.archive.snapshot() {
            Some(_) => Origin::Volsnap,
            None => Origin::Foreign,
        };
        let call = Extract {
            run: self.run.id.to_string(),
            channel: Channel::default(),
            emptied,
            options: ExtractOptions {
                origin,
                strip: prepared.plan.level.strip.clone(),
                prefix: prepared.plan.level.prefix.clone(),
                owner: self.options.owner,
                allow_devices: prepared.known.has_devices,
                members: prepared.known.members,
                bytes: prepared.known.bytes,
                reserve: RESERVE,
            },
        };
        let mut feed = self.options.archive.open(&prepared.known)?;
        let extracted = prepared.agent.extract(call, &mut feed, self.run.monitor()).await.context(|| {
            format!("extract {} beside the data of {}", self.options.archive.name(), prepared.source.title)
        });
        let extracted = match extracted {
            Ok(extracted) => extracted,
            // Damage is reported in terms of the snapshot, not of what it did to the unpacking.
            Err(error) => return Err(self.verify().await.err().unwrap_or(error)),
        };
        self.run.timer.bytes(extracted.bytes);
        self.prove_extracted(prepared, &extracted).await?;
        prepared.slots_left_out = self.remove_slots(prepared).await?;
        Ok(extracted)
    }

    /// Refuses data on which another run of ours has begun to work since it was looked at.
    pub(super) async fn refuse_other_run(&self, prepared: &Prepared) -> Result<()> {
        let world = self.run.context.world().await?;
        let inventory = inventory(&prepared.source.location, &world);
        let known: Vec<_> = prepared.source.users.iter().map(|user| &user.container.id).collect();
        let new = inventory
            .users
            .iter()
            .find(|user| user.container.state.running && !known.contains(&&user.container.id));
        match new {
            Some(user) => Err(Error::failed(format!(
                "container {} was started on {} meanwhile",
                user.container.name, prepared.source.title
            ))
            .hint(
                Hint::logs(&user.container.name)
                    .why("what it does there; once it has ended, type the same again"),
            )),
            None => Ok(()),
        }
    }

    async fn prove_extracted(&self, prepared: &mut Prepared, extracted: &Extracted) -> Result<()> {
        self.run.monitor().step("prove-extracted");
        if let Some(digest) = &prepared.known.digest
            && *digest != extracted.digest
        {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("what {} unpacks to is not what its file list says", self.options.archive.name()),
            )
            .hint(Hint::volsnap(["verify", &self.options.archive.name()]).why("says what is damaged")));
        }
        let Some(database) = &prepared.database else { return Ok(()) };
        let tree = new_tree(self.run.id.as_str());
        let found = database.inspect_tree(&mut prepared.agent, &tree).await?;
        if let Some(link) = found.outside.first() {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!(
                    "the {} in the archive is not whole: its {} leads to {}",
                    found.engine,
                    link.what,
                    link.target.display()
                ),
            )
            .hint(Hint::advice("restore a snapshot, or an archive, that has all of it")));
        }
        let snapshot = self.options.archive.snapshot();
        let expected = snapshot.and_then(|snapshot| snapshot.manifest.evidence.database.as_ref());
        if expected.is_some_and(|expected| expected.proof_digest != found.proof_digest) {
            let what = "what was extracted is not the cluster that the manifest speaks of";
            return Err(Error::new(ErrorKind::Damaged, what)
                .hint(Hint::volsnap(["verify", &self.options.archive.name()]).why("says what is damaged")));
        }
        self.check_found(prepared, &found)
    }

    /// Checks what only now is known of a foreign archive.
    fn check_found(&self, prepared: &Prepared, found: &Inspection) -> Result<()> {
        if self.options.archive.snapshot().is_some() {
            return Ok(());
        }
        if !found.clean {
            self.run.monitor().warning(format!(
                "the {} in the archive was not cleanly shut down ({}): it recovers like after a power loss, if it \
                 was all copied at one moment",
                found.engine,
                found.reasons.join("; ")
            ));
        }
        let facts = super::checks::Facts {
            database: Some((found.engine.clone(), found.version.clone())),
            identifier: found.identifier.clone(),
            server: prepared.source.database().and_then(super::checks::server_version),
            present_identifier: prepared.present.as_ref().and_then(|present| present.identifier.clone()),
            present_is_fresh: prepared.plan.fresh.is_some(),
            engine_arch: prepared.engine.arch.clone(),
            ..super::checks::Facts::default()
        };
        let warnings = super::checks::check(&facts, self.options.force)?;
        warnings.iter().for_each(|warning| self.run.monitor().warning(warning));
        Ok(())
    }

    /// Stops the users, and reads what the data that is about to be replaced says: what its safety snapshot is worth.
    pub(super) async fn hold(&self, saga: &mut Saga, prepared: &mut Prepared) -> Result<Hold> {
        let plan = HoldPlan {
            location: Some(prepared.source.location.clone()),
            containers: prepared.users.stops.clone(),
            mute: prepared.users.mute.clone(),
            stop_timeout: self.options.stop_timeout,
            kills: self.options.kills.clone(),
            is_store: prepared.is_store,
            ..HoldPlan::default()
        };
        let plan = plan.look(&self.run.context).await?;
        let held = self.run.hold(saga, &plan).await?;
        // The data is changed from here on. Each phase goes on as long as it makes progress.
        if !plan.is_empty() {
            self.run.lease(Terms::of_change());
        }
        let evidence = self.evidence(prepared, &held).await?;
        Ok(Hold { held, evidence })
    }

    async fn evidence(&self, prepared: &mut Prepared, held: &Held) -> Result<Evidence> {
        let context = &self.run.context;
        let stops = held.stopped_containers();
        let mut evidence = evidence::of_shutdown(context, stops, None, &mut prepared.agent).await?;
        if prepared.database.is_none() {
            evidence.reasons.extend(evidence::of_those_down_before(&prepared.source, &[]));
        }
        self.refuse_other_run(prepared).await?;
        let inventory = inventory(&prepared.source.location, &context.world().await?);
        let writers = inventory.onlookers.into_iter().filter(|onlooker| onlooker.writes);
        evidence.onlookers = writers.map(|onlooker| onlooker.container).collect();
        if let (Some(database), true) = (&prepared.database, prepared.present.is_some()) {
            match database.inspect_tree(&mut prepared.agent, Path::new("")).await {
                Ok(inspection) => {
                    evidence.reasons.extend(inspection.reasons.iter().cloned());
                    evidence.database = Some(inspection);
                    evidence.onlookers.clear();
                }
                Err(error) => evidence.reasons.push(error.chain()),
            }
        }
        Ok(evidence)
    }

    /// Puts the new data in the place of the old, has the service run on it, and makes it stay once that is proved.
    pub(super) async fn replace(
        &self,
        saga: &mut Saga,
        prepared: &mut Prepared,
        extracted: &Extracted,
        hold: Hold,
    ) -> Result<Replaced> {
        let back = Undo::SwapBack { place: prepared.place.clone(), users: hold.held.stopped.clone() };
        let back = saga.register(When::Always, back).context(|| "write the journal".to_owned())?;
        let released = self.swap_and_start(prepared, extracted, &hold).await?;
        let promised = self.promise_safety(saga, prepared, &hold, released).await?;
        self.commit(prepared).await?;
        saga.dismiss(back);
        hold.held.dismiss(self.run, saga).await;
        let work = prepared.work.ok_or_else(|| Error::failed("nothing was extracted"))?;
        Ok(Replaced { promised, work })
    }

    /// Puts the new data in its place and has the service run on it; returns when it answered.
    pub(super) async fn swap_and_start(
        &self,
        prepared: &mut Prepared,
        extracted: &Extracted,
        hold: &Hold,
    ) -> Result<DateTime<Utc>> {
        self.run.phase(Phase::Swap, prepared.source.title.clone(), None);
        self.run.monitor().step("swap-in");
        let root = extracted.root.clone().filter(|_| prepared.plan.level.is_same());
        let swap = SwapIn { run: self.run.id.to_string(), marker_files: prepared.marker_files(), root };
        prepared.agent.call(swap).await.context(|| format!("swap the data of {}", prepared.source.title))?;
        self.run.monitor().step("swapped");
        let before = match &prepared.database {
            Some(database) => Some(database.inspect_tree(&mut prepared.agent, Path::new("")).await?),
            None => None,
        };
        let limit = self.start_limit(before.as_ref());
        if limit == RECOVERY_LIMIT && !hold.held.stopped.is_empty() {
            self.run.monitor().note(format!(
                "what is restored was not shut down cleanly, so the database recovers first; it is waited for up to {} \
                 h, and Ctrl-C has the old data back",
                limit.as_secs() / 3600
            ));
        }
        let started = hold.held.start_once(self.run, limit, "start the service on the restored data").await?;
        self.confirm_running(prepared, before).await?;
        self.confirm_facts(prepared, &started.unhealthy).await?;
        Ok(started.at)
    }

    /// Returns how long the service may take to answer on the restored data: data that was not shut down cleanly is
    /// recovered first.
    fn start_limit(&self, restored: Option<&Inspection>) -> Duration {
        let at_rest = match self.options.archive.snapshot() {
            Some(snapshot) => snapshot.manifest.consistency.is_at_rest(),
            // Of what somebody else has archived only its files tell, if it is a database at all.
            None => restored.is_none_or(|restored| restored.clean),
        };
        if at_rest { self.run.context.saga.budget.0 } else { RECOVERY_LIMIT }
    }
}
