//! A database that is backed up while it runs: its own programs fill the stage.
//!
//! 1. Before anything is made, the database is asked whether it can be backed up, through the same connection that the
//!    backup will open. If something is in the way, it is refused, with the line that mends it.
//! 2. The stage gets what lies beside the data, and an empty data directory of the database's user.
//! 3. A throwaway container of the database's *own image* writes the backup there, run by that user in the database's
//!    network. It gets the password over its standard input.
//! 4. Another container of that image, without any network, proves that the backup is whole; then our own reading of
//!    its files must agree, and the cluster must be the one that was asked.
//!
//! Nothing is stopped or frozen, and the database should notice little: what writes and proves the backup gives way to
//! it when both want a processor, and what is written goes to the disk in small steps, as it comes. The journal has
//! what removes a container before there is one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Captured, Prepared, SnapshotRun};
use crate::agent::calls::StagePass;
use crate::agent::staging::TREE;
use crate::database;
use crate::database::native::{MaxRate, NativeAccess, NativeBackup, NativeRefusal};
use crate::engine::helper::STAGE;
use crate::engine::oneshot::{Finished, run_to_end};
use crate::engine::{ContainerSpec, DockerError, MountSpec, Network, TmpfsSpec};
use crate::model::container::Container;
use crate::model::error::{Context as _, Error, Result};
use crate::model::event::{Event, Phase};
use crate::model::hint::Hint;
use crate::model::inspection::Inspection;
use crate::model::labels::{LABEL_PID, LABEL_RUN};
use crate::model::location::MountSource;
use crate::model::manifest::{Consistency, Evidence};
use crate::model::source::Source;
use crate::ops::plan::STAGE_RESERVE;
use crate::saga::When;
use crate::undo::Saga;
use crate::undo::Undo;

/// How long the database may take to say whether it can be backed up.
const ASK_LIMIT: Duration = Duration::from_secs(60);
/// What a backup needs in memory: a file of one line.
const TMPFS_BYTES: u64 = 1 << 20;
/// Processes of a backup: two, and a shell.
const PIDS: u32 = 64;

/// A running database that can be backed up.
pub(super) struct Online {
    container: Container,
    backup: &'static dyn NativeBackup,
    access: NativeAccess,
}

impl SnapshotRun<'_> {
    /// Asks the database whether it can be backed up while it runs.
    pub(super) async fn ask_online(&self, source: &Source) -> Result<Online> {
        let instead = self.stopping();
        let running = |container: &&Container| container.state.running && !container.state.paused;
        let Some(container) = source.database().filter(running) else {
            return Err(Error::usage(format!(
                "no database runs on {}, and only one that runs makes a backup of itself",
                source.title
            ))
            .hint(instead));
        };
        let database = database::of(container);
        let halves = database.and_then(|one| Some((one.name(), one.server()?, one.native()?)));
        let Some((database, server, backup)) = halves else {
            return Err(Error::usage(format!(
                "container {} runs a database of which it is not known how to back it up while it runs",
                container.name
            ))
            .hint(instead));
        };
        let directory = match (source.seen_at(container), &source.data_directory) {
            (Some(mounted_at), Some(directory)) => mounted_at.join(directory),
            _ => server.data_directory(container).unwrap_or_default(),
        };
        refuse_rate(backup, self.options.max_rate)?;
        self.run.monitor().step("ask-online");
        let question = backup.question(container, &directory);
        let answer = self.run.context.docker.exec(&container.id, &question, ASK_LIMIT).await;
        let answer = answer.context(|| format!("ask the {database} in {}", container.name))?;
        let access = backup.access(container, &answer).map_err(|refusal| refused(container, refusal))?;
        Ok(Online { container: container.clone(), backup, access })
    }

    /// Has the stage filled while the database runs; returns what can be believed of it, and when the backup began and
    /// ended.
    pub(super) async fn capture_online(
        &self,
        saga: &mut Saga,
        prepared: &mut Prepared,
        online: &Online,
    ) -> Result<(Captured, (DateTime<Utc>, DateTime<Utc>))> {
        let Prepared { database: Some(database), stage: Some(stage), helper, source, survey, .. } = prepared
        else {
            return Err(Error::failed(format!("there is no stage for {}", prepared.source.title)));
        };
        let agent = &mut helper.agent;
        let name = &online.container.name;
        self.run.phase(Phase::Stage, format!("{name}, a backup of its own"), Some(survey.bytes));
        self.run.monitor().step("stage-beside");
        let beside = StagePass {
            exclude: self.excluded(),
            reserve: STAGE_RESERVE,
            external_dir: Some(database.data_directory.clone()),
            ..StagePass::default()
        };
        let stage = stage.location.clone();
        let directory = Path::new(STAGE).join(TREE).join(&database.data_directory);
        let made = agent.call_watched(beside, self.run.monitor()).await;
        made.context(|| format!("stage what lies beside the data in {}", source.title))?;
        let begun = self.run.context.clock.now();
        self.back_up(saga, online, &stage, &directory).await?;
        let ended = self.run.context.clock.now();

        self.run.phase(Phase::Prove, format!("{name}, the backup"), None);
        self.verify_backup(saga, online, &stage, &directory).await?;
        let inspection = database.inspect_stage(agent).await?;
        refuse_doubtful(online, &inspection)?;
        let evidence = Evidence {
            reasons: inspection.reasons.clone(),
            database: Some(inspection),
            ..Evidence::default()
        };
        let captured = Captured {
            consistency: Consistency::Online,
            evidence,
            archived: None,
            staged: None,
            facts: None,
        };
        Ok((captured, (begun, ended)))
    }

    /// Has the database's own backup fill the data directory of the stage.
    async fn back_up(
        &self,
        saga: &mut Saga,
        online: &Online,
        stage: &MountSource,
        directory: &Path,
    ) -> Result<()> {
        let (backup, access) = (online.backup, &online.access);
        self.run.monitor().step("back-up-online");
        let spec = ContainerSpec {
            command: backup.backup_command(access, directory, self.options.max_rate),
            network: Network::Of(online.container.id.clone()),
            ..self.of_the_image(online, "backup", stage, false)
        };
        let monitor = self.run.monitor();
        let mut on_stderr = |said: &[u8]| {
            if let Some(bytes) = backup.progress(&String::from_utf8_lossy(said)) {
                monitor.event(Event::Progress { bytes, files: 0 });
            }
        };
        let doing = format!("back up the database in {} while it runs", online.container.name);
        let finished = self.run_throwaway(saga, spec, access.secret.reveal(), &mut on_stderr).await;
        succeeded(online, &doing, finished)
    }

    /// Has the backup proved whole.
    async fn verify_backup(
        &self,
        saga: &mut Saga,
        online: &Online,
        stage: &MountSource,
        directory: &Path,
    ) -> Result<()> {
        self.run.monitor().step("verify-online");
        let spec = ContainerSpec {
            command: online.backup.verify_command(directory),
            ..self.of_the_image(online, "verify", stage, true)
        };
        let doing = format!("verify the backup of the database in {}", online.container.name);
        let finished = self.run_throwaway(saga, spec, &[], &mut |_| {}).await;
        succeeded(online, &doing, finished)
    }

    /// Describes a throwaway container of the database's own image, run by its user.
    fn of_the_image(
        &self,
        online: &Online,
        what: &str,
        stage: &MountSource,
        read_only: bool,
    ) -> ContainerSpec {
        let destination = PathBuf::from(STAGE);
        ContainerSpec {
            name: format!("volsnap-{what}-{}", self.run.id),
            // By its content: the name may mean another image by now.
            image: online.container.image_id.clone(),
            labels: BTreeMap::from([
                (LABEL_RUN.to_owned(), self.run.id.to_string()),
                (LABEL_PID.to_owned(), std::process::id().to_string()),
            ]),
            mounts: vec![MountSpec { source: stage.clone(), destination, read_only }],
            user: Some(online.access.owner),
            tmpfs: vec![TmpfsSpec { destination: PathBuf::from("/tmp"), bytes: TMPFS_BYTES }],
            pids: Some(PIDS),
            // The helper does not give way meanwhile: what it sends to the disk late, it sends at once.
            yields: true,
            kept: true,
            ..ContainerSpec::default()
        }
    }

    /// Runs a throwaway container to its end. The journal has what removes it before it is made.
    async fn run_throwaway(
        &self,
        saga: &mut Saga,
        spec: ContainerSpec,
        input: &[u8],
        on_stderr: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Finished> {
        let docker = &*self.run.context.docker;
        let (name, run) = (spec.name.clone(), self.run.id.to_string());
        let expected = Undo::RemoveExpectedHelper { name: name.clone(), run: run.clone() };
        let expected = saga.register(When::Always, expected).context(|| "write the journal".to_owned())?;
        let created = docker.create_container(&spec).await;
        let removal = if created.as_ref().is_err_and(DockerError::is_in_doubt) {
            expected
        } else {
            let removal = Undo::RemoveHelper { name: name.clone(), run };
            saga.replace(expected, removal).context(|| "write the journal".to_owned())?
        };
        let id = created.context(|| format!("create the container {name}"))?;
        let finished = run_to_end(docker, &id, input, on_stderr).await;
        let finished = finished.context(|| format!("run the container {name}"))?;
        // If it cannot be removed now, the run's end tries again.
        let _ = saga.undo_now(removal, self.run.monitor()).await;
        Ok(finished)
    }
}

/// Refuses a rate at which the database cannot back itself up.
fn refuse_rate(backup: &dyn NativeBackup, rate: MaxRate) -> Result<()> {
    let rates = backup.rates();
    let is_refused = rate.bytes_per_second().is_some_and(|bytes| !rates.contains(&bytes));
    if !is_refused {
        return Ok(());
    }
    let (slowest, fastest) = (MaxRate::of(*rates.start()), MaxRate::of(*rates.end()));
    Err(Error::usage(format!(
        "the database makes its backup at a rate between {slowest} and {fastest}, and {rate} is none"
    ))
    .hint(Hint::instead(&["--max-rate="], ["--max-rate", &fastest.to_string()])))
}

/// Refuses a backup whose files are not what they must be.
fn refuse_doubtful(online: &Online, inspection: &Inspection) -> Result<()> {
    match online.backup.doubts(&online.access, inspection).as_slice() {
        [] => Ok(()),
        doubts => Err(Error::failed(format!(
            "the backup of the database in {} is not whole: {}",
            online.container.name,
            doubts.join("; ")
        ))
        .hint(Hint::advice("look at the log of the database, then try again"))),
    }
}

/// Refuses a container that did not end well.
fn succeeded(online: &Online, doing: &str, finished: Result<Finished>) -> Result<()> {
    let finished = finished.context(|| doing.to_owned())?;
    if finished.oom_killed {
        return Err(Error::failed(format!("{doing}: it was killed for want of memory"))
            .hint(Hint::advice("free some memory on the engine's machine, and try again")));
    }
    if finished.exit_code == 0 {
        return Ok(());
    }
    let said = [finished.stderr, finished.stdout].concat();
    let refusal = online.backup.failure(&online.access, &String::from_utf8_lossy(&said));
    let error = Error::failed(format!("{doing}: {}", refusal.problem));
    Err(match refusal.mend {
        Some(mend) => error.hint(Hint::advice(mend)),
        None => error.hint(Hint::logs(&online.container.name)),
    })
}

fn refused(container: &Container, refusal: NativeRefusal) -> Error {
    let error = Error::failed(format!(
        "the database in {} cannot be backed up while it runs: {}",
        container.name, refusal.problem
    ));
    match refusal.mend {
        Some(mend) => error.hint(Hint::advice(mend)),
        None => error.hint(Hint::advice("take it in another way: --quiesce stop stops it for a moment")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;

    #[test]
    fn a_rate_that_the_database_does_not_take_is_refused_with_one_that_it_does() {
        let backup = database::named("postgresql").and_then(Database::native).unwrap();
        let refused = |rate: &str| refuse_rate(backup, rate.parse().unwrap());
        for rate in ["none", "32k", "100M", "1G"] {
            refused(rate).unwrap();
        }
        for rate in ["31k", "2G"] {
            let error = refused(rate).unwrap_err();
            assert!(error.to_string().contains("between 32k and 1G"), "{error}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("--max-rate 1G")), "{error:?}");
        }
    }
}
