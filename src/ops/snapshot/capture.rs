//! While the users are held: prove the shutdown, write the archive or finish the stage, prove it again.

use std::path::PathBuf;

use tokio::time::timeout_at;

use super::publish::Writers;
use super::{Captured, Output, Prepared, SnapshotRun};
use crate::agent::archive::ArchiveStats;
use crate::agent::calls::{self, Side};
use crate::agent::tree::Stability;
use crate::database::stores;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::hint::Hint;
use crate::model::manifest::{Capture, Consistency, Evidence, Quiesce};
use crate::model::source::{Source, User};
use crate::ops::evidence::{self, DatabaseFiles, still_frozen, still_stopped};
use crate::ops::hold::Held;
use crate::ops::plan;
use crate::ops::preconditions::somebody_at_work;
use crate::selector::inventory::inventory;

/// The names of the users that could write.
struct UsersNow {
    running: Vec<String>,
    frozen: Vec<String>,
    /// Of those that are no users, the ones that could write all the same.
    onlookers: Vec<String>,
}

impl SnapshotRun<'_> {
    pub(in crate::ops) async fn capture_in_time(
        &self,
        prepared: &mut Prepared,
        output: &mut Output,
        held: &Held,
    ) -> Result<Captured> {
        let capture = self.capture(prepared, &mut output.writers, held);
        match (self.max_downtime(), self.run.timer.held_at()) {
            (Some(limit), Some(since)) => {
                timeout_at(since + plan::capture_budget(limit), capture).await.unwrap_or_else(|_| {
                    Err(Error::failed(format!(
                        "gave up, since the service would have been away for longer than {} s",
                        limit.as_secs_f64()
                    ))
                    .hint(Hint::advice("a larger --max-downtime, or a time with less to save")))
                })
            }
            _ => capture.await,
        }
    }

    async fn capture(&self, prepared: &mut Prepared, writers: &mut Writers, held: &Held) -> Result<Captured> {
        self.run.phase(Phase::Prove, prepared.source.title.clone(), None);
        let source = prepared.source.clone();
        // Both at once: the service is away. What the proof says comes first, whoever answers first.
        let (evidence, users) = tokio::join!(self.prove(prepared, held), self.users_now(&source, held));
        let (mut evidence, users) = (evidence?, users?);
        let consistency = self.judge(prepared, &mut evidence, &users)?;
        self.warn_of_what_is_in_memory(prepared, &users);
        self.look_into_what_was_empty(prepared).await?;
        if !consistency.is_at_rest() && self.options.quiesce != Quiesce::Pause {
            let why = match evidence.reasons.is_empty() {
                true => [&users.running[..], &users.onlookers[..]].concat().join(", ") + " ran meanwhile",
                false => evidence.reasons.join("; "),
            };
            self.run.monitor().warning(format!("this snapshot is {consistency}: {why}"));
        }
        let (archived, staged) = match prepared.plan.capture {
            Capture::Direct => {
                let stability = match consistency {
                    Consistency::Unquiesced => Stability::Live,
                    _ => Stability::Held,
                };
                (Some(self.archive(prepared, writers, stability).await?), None)
            }
            Capture::Staged => (None, Some(self.final_pass(prepared).await?)),
        };
        self.run.phase(Phase::Prove, prepared.source.title.clone(), None);
        let consistency = self.prove_again(prepared, held, &mut evidence, consistency).await?;
        Ok(Captured { consistency, evidence, archived, staged, facts: None })
    }

    /// Reads what the engine and the database's own files say of the hold.
    async fn prove(&self, prepared: &mut Prepared, held: &Held) -> Result<Evidence> {
        self.run.monitor().step("prove");
        self.refuse_unfrozen(held).await?;
        let database = prepared.database.as_ref();
        let agent = &mut prepared.helper.agent;
        let stops = held.stopped_containers();
        let mut evidence = evidence::of_shutdown(&self.run.context, stops, database, agent).await?;
        for server in &prepared.servers {
            let at = server.data_directory.display();
            let inspection = server.inspect(agent).await?;
            evidence.reasons.extend(inspection.reasons.iter().map(|reason| format!("{at}: {reason}")));
        }
        if prepared.database.is_none() {
            evidence
                .reasons
                .extend(evidence::of_those_down_before(&prepared.source, &prepared.survey.stores));
        }
        Ok(evidence)
    }

    async fn refuse_unfrozen(&self, held: &Held) -> Result<()> {
        for before in held.frozen_containers() {
            still_frozen(&self.run.context, before).await?;
        }
        Ok(())
    }

    async fn refuse_released(&self, held: &Held) -> Result<()> {
        self.refuse_unfrozen(held).await?;
        for before in held.stopped_containers() {
            still_stopped(&self.run.context, before).await?;
        }
        Ok(())
    }

    /// Decides what can be believed of the data that is about to be read.
    fn judge(&self, prepared: &Prepared, evidence: &mut Evidence, users: &UsersNow) -> Result<Consistency> {
        if !users.running.is_empty() {
            return match self.options.quiesce {
                Quiesce::None => Ok(Consistency::Unquiesced),
                Quiesce::Stop | Quiesce::Pause | Quiesce::Native => Err(Error::failed(format!(
                    "{} was started by somebody on the same data meanwhile",
                    users.running.join(", ")
                ))
                .hint(somebody_at_work())),
            };
        }
        if evidence.database.is_none() {
            evidence.onlookers.clone_from(&users.onlookers);
        }
        let stopped = self.options.quiesce == Quiesce::Stop;
        let is_proved = stopped && evidence.database.is_some() && evidence.reasons.is_empty();
        if !users.frozen.is_empty() && !is_proved {
            let why =
                if self.options.quiesce == Quiesce::Stop { ", since it cannot stop by itself" } else { "" };
            evidence.reasons.insert(0, format!("{} was frozen while it ran{why}", users.frozen.join(", ")));
            evidence.paused.clone_from(&users.frozen);
            evidence.reasons.extend(could_write(&evidence.onlookers));
            return Ok(Consistency::CrashConsistent);
        }
        let consistency = evidence.at_rest();
        if consistency == Consistency::CrashConsistent {
            evidence.reasons.extend(could_write(&evidence.onlookers));
        }
        let is_plain = prepared.database.is_none() && prepared.servers.is_empty();
        if consistency.is_at_rest() || is_plain || self.options.allow_crash_consistent {
            return Ok(consistency);
        }
        Err(Error::failed(format!("the shutdown is not clean: {}", evidence.reasons.join("; ")))
            .hint(self.instead(&[], ["--allow-crash-consistent"]).why("publishes it, marked as such")))
    }

    /// Says that a store which is not stopped has in memory what it has acknowledged.
    fn warn_of_what_is_in_memory(&self, prepared: &Prepared, users: &UsersNow) {
        let runs = |name: &String| users.running.contains(name) || users.frozen.contains(name);
        let running = prepared.source.users.iter().filter(|user| runs(&user.container.name));
        let programs = running.clone().filter_map(|user| stores::of(&user.container));
        let by_files = prepared.survey.stores.iter().filter_map(|name| stores::named(name));
        let mut known = programs.chain(by_files.filter(|_| running.clone().next().is_some()));
        if let Some(store) = known.find(|store| store.keeps_in_memory) {
            self.run.monitor().warning(format!(
                "{} acknowledges writes that it has in memory only: this copy has what it had written to the disk by \
                 then, and nothing later; stopped, it writes all of it",
                store.name
            ));
        }
    }

    /// Looks again at data that was not there before its store was stopped: it may have written it only then.
    async fn look_into_what_was_empty(&self, prepared: &mut Prepared) -> Result<()> {
        if prepared.survey.entries > 0 {
            return Ok(());
        }
        let survey = calls::Survey { exclude: self.excluded(), ..Default::default() };
        let survey = prepared.helper.agent.call(survey).await;
        prepared.survey = survey.context(|| format!("survey {}", prepared.source.title))?;
        if prepared.survey.entries > 0 {
            return Ok(());
        }
        Err(Error::failed(format!(
            "{} is empty even now that everything is stopped: what uses it keeps its data in memory alone, or has none",
            prepared.source.title
        ))
        .hint(Hint::advice("have it save to the disk (Redis: save points, or appendonly yes), or save what it is made of")))
    }

    /// Looks at the users that could write now, whether or not they existed at the beginning. Frozen ones count if
    /// freezing is what holds them.
    async fn users_now(&self, source: &Source, held: &Held) -> Result<UsersNow> {
        let world = self.run.context.world().await?;
        let inventory = inventory(&source.location, &world);
        let onlookers = inventory.onlookers.into_iter().filter(|onlooker| onlooker.writes);
        let onlookers = onlookers.map(|onlooker| onlooker.container).collect();
        let writers = inventory.users.into_iter().filter(|user| user.container.state.running && user.writes);
        let is_frozen = |user: &User| {
            let by_us = held.frozen_containers().iter().any(|frozen| frozen.id == user.container.id);
            user.container.state.paused && (self.options.quiesce == Quiesce::Pause || by_us)
        };
        let (frozen, running): (Vec<_>, Vec<_>) = writers.partition(is_frozen);
        let names = |users: Vec<User>| users.into_iter().map(|user| user.container.name).collect();
        Ok(UsersNow { running: names(running), frozen: names(frozen), onlookers })
    }

    /// Archives the source, or the stage if that is complete.
    pub(super) async fn archive(
        &self,
        prepared: &mut Prepared,
        writers: &mut Writers,
        stability: Stability,
    ) -> Result<ArchiveStats> {
        self.run.phase(Phase::Archive, prepared.source.title.clone(), Some(prepared.survey.bytes));
        self.run.monitor().step("archive");
        let call = calls::Archive {
            side: match prepared.plan.capture {
                Capture::Direct => Side::Source,
                Capture::Staged => Side::Stage,
            },
            tree: PathBuf::new(),
            codec: self.options.codec,
            exclude: self.excluded(),
            last: prepared.database.as_ref().map(DatabaseFiles::marker_files).unwrap_or_default(),
            stability,
        };
        let archived = prepared
            .helper
            .agent
            .archive(call, writers, self.run.monitor())
            .await
            .context(|| format!("archive {}", prepared.source.title))?;
        self.run.timer.bytes(archived.raw_bytes);
        Ok(archived)
    }

    /// Reads the proof again after the last byte: nobody must have started anything meanwhile. Returns what can be
    /// believed then: an onlooker that has come in between takes the quiet from data that nothing else proves.
    async fn prove_again(
        &self,
        prepared: &mut Prepared,
        held: &Held,
        evidence: &mut Evidence,
        consistency: Consistency,
    ) -> Result<Consistency> {
        self.run.monitor().step("prove-again");
        if consistency == Consistency::Unquiesced {
            return Ok(consistency);
        }
        let source = prepared.source.clone();
        // All at once: the service is away.
        let (still_held, users, files) = tokio::join!(
            self.refuse_released(held),
            self.users_now(&source, held),
            self.refuse_changed_files(prepared, evidence)
        );
        still_held?;
        let users = users?;
        if !users.running.is_empty() {
            return Err(Error::failed(format!(
                "{} was started by somebody while the data was read, so the copy is worth nothing",
                users.running.join(", ")
            ))
            .hint(somebody_at_work()));
        }
        files?;
        evidence.unchanged_after = true;
        if consistency == Consistency::StoppedAndQuiet {
            evidence.onlookers = users.onlookers;
            return Ok(evidence.at_rest());
        }
        Ok(consistency)
    }

    /// Refuses data whose proof is not what it was before the copy, and a stage that is not what the source is.
    async fn refuse_changed_files(&self, prepared: &mut Prepared, evidence: &Evidence) -> Result<()> {
        let (Some(database), Some(before)) = (&prepared.database, &evidence.database) else { return Ok(()) };
        let after = database.inspect(&mut prepared.helper.agent).await?;
        if after.proof_digest != before.proof_digest || after.reasons != before.reasons {
            let started =
                "the database was started by somebody while the data was read, so the copy is worth nothing";
            return Err(Error::failed(started).hint(somebody_at_work()));
        }
        if prepared.plan.capture == Capture::Staged {
            let copied = database.inspect_stage(&mut prepared.helper.agent).await?;
            if copied.proof_digest != before.proof_digest {
                return Err(Error::failed(format!(
                    "the copy in the stage is not what {} has on its disk",
                    prepared.source.title
                ))
                .hint(
                    self.instead(&["--capture=", "--keep-stage"], ["--capture", "direct"])
                        .why("takes no copy"),
                ));
            }
        }
        Ok(())
    }
}

/// Returns what speaks against data beside which these ran.
fn could_write(onlookers: &[String]) -> Option<String> {
    (!onlookers.is_empty()).then(|| format!("{} could write meanwhile", onlookers.join(", ")))
}
