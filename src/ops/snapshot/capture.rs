//! While the users are held: prove the shutdown, write the archive, prove it again.

use std::path::PathBuf;

use tokio::time::timeout_at;

use super::publish::Writers;
use super::{Captured, Database, Preparation, Run};
use crate::agent::archive::ArchiveStats;
use crate::agent::client::AgentClient;
use crate::agent::protocol::ArchiveRequest;
use crate::database::{self, Inspection};
use crate::docker::Container;
use crate::docker::inventory::inventory;
use crate::error::{Context as _, Error, Result};
use crate::manifest::{Consistency, Evidence, Quiesce, StoppedContainer};
use crate::monitor::Phase;
use crate::ops::plan;
use crate::source::Source;

impl Run<'_> {
    pub(super) async fn capture_in_time(
        &self,
        prepared: &mut Preparation,
        writers: &mut Writers,
    ) -> Result<Captured> {
        let capture = self.capture(prepared, writers);
        match (self.options.max_downtime, self.clock.held_at()) {
            (Some(limit), Some(held)) => {
                timeout_at(held + plan::capture_budget(limit), capture).await.unwrap_or_else(|_| {
                    Err(Error::failed(format!(
                        "gave up, since the service would have been away for longer than {} s",
                        limit.as_secs_f64()
                    ))
                    .hint("a larger --max-downtime, or a time with less to save"))
                })
            }
            _ => capture.await,
        }
    }

    async fn capture(&self, prepared: &mut Preparation, writers: &mut Writers) -> Result<Captured> {
        self.phase(Phase::Prove, prepared.source.title.clone(), None);
        let mut evidence = self.prove(prepared).await?;
        let running = self.running_users(&prepared.source).await?;
        let consistency = self.judge(prepared, &evidence, &running)?;
        if consistency != Consistency::Clean {
            let why = if evidence.reasons.is_empty() {
                running.join(", ") + " ran meanwhile"
            } else {
                evidence.reasons.join("; ")
            };
            self.monitor().warning(format!("this snapshot is {consistency}: {why}"));
        }
        self.phase(Phase::Archive, prepared.source.title.clone(), Some(prepared.survey.bytes));
        let archived = self.archive(prepared, writers, consistency != Consistency::Unquiesced).await?;
        self.phase(Phase::Prove, prepared.source.title.clone(), None);
        self.prove_again(prepared, &mut evidence, consistency).await?;
        Ok(Captured { archived, consistency, evidence })
    }

    /// Reads what the engine and the database's own files say of the shutdown.
    async fn prove(&self, prepared: &mut Preparation) -> Result<Evidence> {
        self.monitor().step("prove");
        let mut evidence = Evidence::default();
        for before in &prepared.stops {
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

    /// Returns a stopped container as it is now, if it is still stopped and was not started in between.
    async fn still_stopped(&self, before: &Container) -> Result<Container> {
        let now = self
            .host
            .docker
            .container(&before.id)
            .await
            .doing(|| format!("look at container {}", before.name))?
            .ok_or_else(|| {
                Error::failed(format!("container {} was removed by somebody meanwhile", before.name))
            })?;
        if now.state.running || now.state.started_at != before.state.started_at {
            return Err(Error::failed(format!("container {} was started by somebody meanwhile", before.name))
                .hint("find out who starts it (a restart policy, an updater, another person), then take the snapshot again"));
        }
        Ok(now)
    }

    /// Decides what may be believed of the data that is about to be read.
    fn judge(&self, prepared: &Preparation, evidence: &Evidence, running: &[String]) -> Result<Consistency> {
        if !running.is_empty() {
            return match self.options.quiesce {
                Quiesce::None => Ok(Consistency::Unquiesced),
                Quiesce::Stop => Err(Error::failed(format!(
                    "{} was started by somebody on the same data meanwhile",
                    running.join(", ")
                ))),
            };
        }
        if evidence.reasons.is_empty() {
            return Ok(Consistency::Clean);
        }
        if prepared.database.is_none() || self.options.allow_crash_consistent {
            return Ok(Consistency::CrashConsistent);
        }
        Err(Error::failed(format!("the shutdown is not clean: {}", evidence.reasons.join("; "))).hint(
            format!(
                "volsnap snapshot {} --allow-crash-consistent    (publishes it, marked as such)",
                self.options.target.quoted()
            ),
        ))
    }

    /// Returns the names of the users that run now, whether or not they were there at the begin.
    async fn running_users(&self, source: &Source) -> Result<Vec<String>> {
        let world = self.host.world().await?;
        let inventory = inventory(&source.location, &world.containers, &world.volumes);
        Ok(inventory
            .users
            .into_iter()
            .filter(|user| user.container.state.running && user.writes)
            .map(|user| user.container.name)
            .collect())
    }

    async fn archive(
        &self,
        prepared: &mut Preparation,
        writers: &mut Writers,
        held: bool,
    ) -> Result<ArchiveStats> {
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
        };
        let archived = prepared
            .agent
            .archive(request, writers, self.monitor())
            .await
            .doing(|| format!("archive {}", prepared.source.title))?;
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
        for before in &prepared.stops {
            self.still_stopped(before).await?;
        }
        let running = self.running_users(&prepared.source).await?;
        if !running.is_empty() {
            return Err(Error::failed(format!(
                "{} was started by somebody while the data was read, so the copy is worth nothing",
                running.join(", ")
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
        evidence.unchanged_after = true;
        Ok(())
    }
}

pub(super) async fn inspect(agent: &mut AgentClient, database: &Database) -> Result<Inspection> {
    agent
        .inspect(database.profile.name(), &database.data_directory, database.mounted_at.as_deref())
        .await
        .doing(|| format!("read the files of {}", database.profile.name()))
}
