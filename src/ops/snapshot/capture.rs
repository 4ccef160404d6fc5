//! While the users are held: prove the shutdown, write the archive or finish the stage, prove it again.

use std::path::PathBuf;

use tokio::time::timeout_at;

use super::publish::Writers;
use super::{Captured, Database, Preparation, Run};
use crate::agent::archive::ArchiveStats;
use crate::agent::client::AgentClient;
use crate::agent::protocol::ArchiveRequest;
use crate::database;
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::Phase;
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::manifest::{Capture, Consistency, Evidence, Quiesce, StoppedContainer};
use crate::model::source::{Source, User};
use crate::ops::plan;
use crate::selector::inventory::inventory;

/// The users that could write, by name.
struct UsersNow {
    running: Vec<String>,
    frozen: Vec<String>,
}

impl Run<'_> {
    pub(super) async fn capture_in_time(
        &self,
        prepared: &mut Preparation,
        writers: &mut Writers,
    ) -> Result<(Captured, Option<ArchiveStats>)> {
        let capture = self.capture(prepared, writers);
        match (self.max_downtime(), self.clock.held_at()) {
            (Some(limit), Some(held)) => {
                timeout_at(held + plan::capture_budget(limit), capture).await.unwrap_or_else(|_| {
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

    /// Returns what was read, and what became of the archive; `None` when it is yet to be made of the stage.
    async fn capture(
        &self,
        prepared: &mut Preparation,
        writers: &mut Writers,
    ) -> Result<(Captured, Option<ArchiveStats>)> {
        self.phase(Phase::Prove, prepared.source.title.clone(), None);
        let mut evidence = self.prove(prepared).await?;
        let users = self.users_now(&prepared.source).await?;
        let consistency = self.judge(prepared, &mut evidence, &users)?;
        if consistency != Consistency::Clean && self.options.quiesce != Quiesce::Pause {
            let why = if evidence.reasons.is_empty() {
                users.running.join(", ") + " ran meanwhile"
            } else {
                evidence.reasons.join("; ")
            };
            self.monitor().warning(format!("this snapshot is {consistency}: {why}"));
        }
        let archived = match prepared.plan.capture {
            Capture::Direct => {
                Some(self.archive(prepared, writers, consistency != Consistency::Unquiesced).await?)
            }
            Capture::Staged => {
                self.final_pass(prepared).await?;
                None
            }
        };
        self.phase(Phase::Prove, prepared.source.title.clone(), None);
        self.prove_again(prepared, &mut evidence, consistency).await?;
        Ok((Captured { consistency, evidence }, archived))
    }

    /// Reads what the engine and the database's own files say of the shutdown.
    async fn prove(&self, prepared: &mut Preparation) -> Result<Evidence> {
        self.monitor().step("prove");
        let mut evidence = Evidence::default();
        for before in &prepared.holds.pauses {
            self.still_frozen(before).await?;
        }
        for before in &prepared.holds.stops {
            let now = self.still_stopped(before).await?;
            let is_database = database::profile_of(before).is_some();
            if now.state.oom_killed {
                evidence.reasons.push(format!("container {} was killed for want of memory", now.name));
            } else if (is_database && now.state.exit_code != 0) || now.state.exit_code == 137 {
                evidence
                    .reasons
                    .push(format!("container {} ended with exit code {}", now.name, now.state.exit_code));
            }
            evidence.stopped.push(StoppedContainer {
                name: now.name,
                exit_code: now.state.exit_code,
                oom_killed: now.state.oom_killed,
            });
        }
        if let Some(database) = &prepared.database {
            let inspection = inspect(&mut prepared.agent, database).await?;
            evidence.reasons.extend(inspection.reasons.iter().cloned());
            evidence.database = Some(inspection);
        }
        Ok(evidence)
    }

    /// Refuses a frozen container that is not frozen any more, or was in between.
    async fn still_frozen(&self, before: &Container) -> Result<()> {
        let now = self.still_there(before).await?;
        if now.state.paused && now.state.started_at == before.state.started_at {
            return Ok(());
        }
        Err(Error::failed(format!(
            "container {} was unfrozen, stopped or started by somebody meanwhile",
            before.name
        ))
        .hint(Hint::advice(
            "find out who does it (a watchdog, an updater, another person), then take the snapshot again",
        )))
    }

    async fn still_there(&self, before: &Container) -> Result<Container> {
        let now = self.context.docker.container(&before.id).await;
        now.context(|| format!("look at container {}", before.name))?.ok_or_else(|| {
            Error::failed(format!("container {} was removed by somebody meanwhile", before.name))
        })
    }

    /// Returns a stopped container as it is now, if it is still stopped and was not started in between.
    async fn still_stopped(&self, before: &Container) -> Result<Container> {
        let now = self.still_there(before).await?;
        if now.state.running || now.state.started_at != before.state.started_at {
            return Err(Error::failed(format!("container {} was started by somebody meanwhile", before.name))
                .hint(Hint::advice("find out who starts it (a restart policy, an updater, another person), then take the snapshot again")));
        }
        Ok(now)
    }

    /// Decides what may be believed of the data that is about to be read.
    fn judge(
        &self,
        prepared: &Preparation,
        evidence: &mut Evidence,
        users: &UsersNow,
    ) -> Result<Consistency> {
        if !users.running.is_empty() {
            return match self.options.quiesce {
                Quiesce::None => Ok(Consistency::Unquiesced),
                Quiesce::Stop | Quiesce::Pause | Quiesce::Online => Err(Error::failed(format!(
                    "{} was started by somebody on the same data meanwhile",
                    users.running.join(", ")
                ))),
            };
        }
        if !users.frozen.is_empty() {
            evidence.reasons.insert(0, format!("{} was frozen while it ran", users.frozen.join(", ")));
            evidence.paused.clone_from(&users.frozen);
            return Ok(Consistency::CrashConsistent);
        }
        if evidence.reasons.is_empty() {
            return Ok(Consistency::Clean);
        }
        if prepared.database.is_none() || self.options.allow_crash_consistent {
            return Ok(Consistency::CrashConsistent);
        }
        Err(Error::failed(format!("the shutdown is not clean: {}", evidence.reasons.join("; "))).hint(
            Hint::volsnap(["snapshot", &self.options.target.spelling(), "--allow-crash-consistent"])
                .why("publishes it, marked as such"),
        ))
    }

    /// Looks at the users that could write now, whether or not they were there at the begin. Frozen
    /// ones count as such where freezing is what holds them.
    async fn users_now(&self, source: &Source) -> Result<UsersNow> {
        let world = self.context.world().await?;
        let inventory = inventory(&source.location, &world.containers, &world.volumes);
        let writers = inventory.users.into_iter().filter(|user| user.container.state.running && user.writes);
        let freezing = self.options.quiesce == Quiesce::Pause;
        let (frozen, running): (Vec<_>, Vec<_>) =
            writers.partition(|user| freezing && user.container.state.paused);
        let names = |users: Vec<User>| users.into_iter().map(|user| user.container.name).collect();
        Ok(UsersNow { running: names(running), frozen: names(frozen) })
    }

    /// Archives the source, or the stage where there is all of it.
    pub(super) async fn archive(
        &self,
        prepared: &mut Preparation,
        writers: &mut Writers,
        held: bool,
    ) -> Result<ArchiveStats> {
        self.phase(Phase::Archive, prepared.source.title.clone(), Some(prepared.survey.bytes));
        self.monitor().step("archive");
        let request = ArchiveRequest {
            codec: self.options.codec,
            exclude: self.excluded(),
            last: prepared
                .database
                .as_ref()
                .map(|database| database.profile.written_last(&database.data_directory))
                .unwrap_or_default(),
            held,
            tree: PathBuf::new(),
            from_stage: prepared.plan.capture == Capture::Staged,
        };
        let archived = prepared
            .agent
            .archive(request, writers, self.monitor())
            .await
            .context(|| format!("archive {}", prepared.source.title))?;
        self.clock.bytes(archived.raw_bytes);
        Ok(archived)
    }

    /// Reads the proof again after the last byte: nobody may have started anything meanwhile.
    async fn prove_again(
        &self,
        prepared: &mut Preparation,
        evidence: &mut Evidence,
        consistency: Consistency,
    ) -> Result<()> {
        self.monitor().step("prove-again");
        if consistency == Consistency::Unquiesced {
            return Ok(());
        }
        for before in &prepared.holds.pauses {
            self.still_frozen(before).await?;
        }
        for before in &prepared.holds.stops {
            self.still_stopped(before).await?;
        }
        let users = self.users_now(&prepared.source).await?;
        if !users.running.is_empty() {
            return Err(Error::failed(format!(
                "{} was started by somebody while the data was read, so the copy is worth nothing",
                users.running.join(", ")
            )));
        }
        if let (Some(database), Some(before)) = (&prepared.database, &evidence.database) {
            let after = inspect(&mut prepared.agent, database).await?;
            if after.proof_digest != before.proof_digest || after.reasons != before.reasons {
                return Err(Error::failed(
                    "the database was started by somebody while the data was read, so the copy is worth nothing",
                ));
            }
        }
        if let (Some(database), Some(before), Some(_)) =
            (&prepared.database, &evidence.database, prepared.staged)
        {
            let copied = inspect_stage(&mut prepared.agent, database).await?;
            if copied.proof_digest != before.proof_digest {
                return Err(Error::failed(format!(
                    "the copy in the stage is not what {} has on its disk",
                    prepared.source.title
                )));
            }
        }
        evidence.unchanged_after = true;
        Ok(())
    }
}

pub(super) async fn inspect_stage(agent: &mut AgentClient, database: &Database) -> Result<Inspection> {
    agent
        .inspect_stage(database.profile.name(), &database.data_directory, database.mounted_at.as_deref())
        .await
        .context(|| format!("read the files of {} in the stage", database.profile.name()))
}

pub(super) async fn inspect(agent: &mut AgentClient, database: &Database) -> Result<Inspection> {
    agent
        .inspect(database.profile.name(), &database.data_directory, database.mounted_at.as_deref())
        .await
        .context(|| format!("read the files of {}", database.profile.name()))
}
