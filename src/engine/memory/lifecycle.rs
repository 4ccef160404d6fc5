//! Created, running, paused, exited.

use std::time::Duration;

use tokio::time::timeout;

use super::program::{Behaviour, Program};
use super::{MemoryDocker, conflict, failure, missing, postgres};
use crate::engine::{DockerErrorKind, Grace, Result};
use crate::model::container::{Container, ContainerState, MountKind, Namespace};

/// An engine's own grace.
const GRACE_SECONDS: i64 = 10;
/// The exit code of a killed program.
const KILLED: i64 = 137;

impl MemoryDocker {
    pub(super) fn start_container(&self, id: &str) -> Result<()> {
        let doing = format!("start container {id}");
        let started_at = self.timestamp();
        let Some((container, program)) = self.set_running(&doing, id, started_at)? else { return Ok(()) };
        self.tell_changed();
        match program {
            Program::Agent => self.start_agent(&container),
            Program::Server { data_directory, initialises } => {
                self.boot(&container, &data_directory, initialises);
            }
            Program::BaseBackup { directory } => self.start_backup(&container, &directory),
            Program::VerifyBackup { directory } => self.start_verify(&container, &directory),
            Program::Other(Behaviour { ends_after: Some(after), exit_code, .. }) => {
                self.end_later(&container.id, &container.state.started_at, after, exit_code);
            }
            Program::Other(_) => {}
        }
        Ok(())
    }

    /// Returns what to run; `None` if it already runs.
    fn set_running(&self, doing: &str, id: &str, started_at: String) -> Result<Option<(Container, Program)>> {
        let mut state = self.state();
        let container = &state.find(id).ok_or_else(|| missing(doing, id))?.container;
        if container.state.paused {
            return Err(conflict(doing, "cannot start a paused container, try unpause instead"));
        }
        if container.state.running {
            return Ok(None);
        }
        for namespace in Namespace::ALL {
            if let Some(owner) = namespace.mode_of(container).strip_prefix("container:")
                && !state.find(owner).is_some_and(|owner| owner.container.state.running)
            {
                let message = format!("cannot join {namespace} of a non running container: {owner}");
                return Err(conflict(doing, message));
            }
        }
        let gone =
            container.mounts.iter().find(|mount| mount.kind == MountKind::Bind && !mount.source.exists());
        if let Some(gone) = gone {
            let message = format!("bind source path does not exist: {}", gone.source.display());
            return Err(failure(DockerErrorKind::NotFound, doing, message));
        }
        let record = state.find_mut(id).ok_or_else(|| missing(doing, id))?;
        record.stopping = false;
        let finished_at = record.container.state.finished_at.clone();
        record.container.state = ContainerState {
            status: "running".to_owned(),
            running: true,
            started_at,
            finished_at,
            ..ContainerState::default()
        };
        Ok(Some((record.container.clone(), record.program.clone())))
    }

    /// Ends the run of a container that began at that time, if that run still lasts.
    pub(super) fn exit(&self, id: &str, started_at: &str, exit_code: i64) {
        let finished_at = self.timestamp();
        let mut state = self.state();
        let Some(record) = state.find_mut(id) else { return };
        let now = &mut record.container.state;
        if !now.running || now.started_at != started_at {
            return;
        }
        *now = ContainerState {
            status: "exited".to_owned(),
            exit_code,
            started_at: started_at.to_owned(),
            finished_at,
            ..ContainerState::default()
        };
        (record.server, record.streams, record.hang_up, record.stopping) = (None, None, None, false);
        if record.container.auto_remove {
            state.containers.retain(|record| record.container.id != id);
        }
        drop(state);
        self.tell_changed();
    }

    pub(super) async fn stop_container(
        &self,
        id: &str,
        _signal: Option<&str>,
        grace: Grace,
        wait: Duration,
    ) -> Result<()> {
        let doing = format!("stop container {id}");
        let (container, program, server, is_stopping) = self.with(&doing, id, |record| {
            if record.container.state.paused {
                return Err(conflict(&doing, "it is paused: unpause it before stopping it"));
            }
            let was_stopping = record.stopping;
            record.stopping = record.container.state.running;
            Ok((record.container.clone(), record.program.clone(), record.server.clone(), was_stopping))
        })?;
        if !container.state.running {
            return Ok(());
        }
        if !is_stopping {
            self.begin_stop(&container, &program, server);
        }
        let seconds = match grace {
            Grace::Unlimited => None,
            Grace::Own => Some(container.stop_timeout.unwrap_or(GRACE_SECONDS)),
            Grace::Seconds(seconds) => Some(seconds.into()),
        };
        if let (Some(seconds), Program::Other(Behaviour { stops_within: None, .. })) = (seconds, &program) {
            let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            self.end_later(&container.id, &container.state.started_at, grace, KILLED);
        }
        let stopped = self.until_run_ends(&container.id, &container.state.started_at);
        timeout(wait, stopped).await.map_err(|_| {
            let message = format!("it has not stopped after {wait:?}; the engine goes on stopping it");
            failure(DockerErrorKind::TimedOut, &doing, message)
        })
    }

    /// Begins to stop a container, whoever waits for it.
    fn begin_stop(&self, container: &Container, program: &Program, server: Option<postgres::Server>) {
        let (id, started_at) = (container.id.clone(), container.state.started_at.clone());
        match (program, server) {
            (Program::Agent, _) => drop(self.with("stop", &id, |record| Ok(record.hang_up.take()))),
            (Program::Server { .. }, Some(server)) => {
                let (docker, name) = (self.clone(), container.name.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(postgres::SHUTDOWN).await;
                    // A server that was killed meanwhile writes nothing.
                    if docker.is_in_run(&id, &started_at) {
                        let exit_code = docker.shut_down(&name, &server);
                        docker.exit(&id, &started_at, exit_code);
                    }
                });
            }
            (Program::Other(Behaviour { stops_within: Some(within), exit_code, .. }), _) => {
                self.end_later(&id, &started_at, *within, *exit_code);
            }
            (Program::Other(_), _) => {}
            (Program::Server { .. } | Program::BaseBackup { .. } | Program::VerifyBackup { .. }, _) => {
                self.end_later(&id, &started_at, Duration::from_millis(10), KILLED);
            }
        }
    }

    pub(super) fn is_in_run(&self, id: &str, started_at: &str) -> bool {
        self.state().find(id).is_some_and(|record| {
            record.container.state.running && record.container.state.started_at == started_at
        })
    }

    pub(super) async fn until_run_ends(&self, id: &str, started_at: &str) {
        let mut changed = self.shared.changed.subscribe();
        while self.is_in_run(id, started_at) {
            // The engine keeps the other end for as long as a call lasts.
            let _ = changed.changed().await;
        }
    }

    pub(super) fn pause_container(&self, id: &str) -> Result<()> {
        let doing = format!("pause container {id}");
        self.with(&doing, id, |record| {
            let state = &mut record.container.state;
            if !state.running {
                return Err(conflict(&doing, format!("container {id} is not running")));
            }
            if state.paused {
                return Err(conflict(&doing, format!("container {id} is already paused")));
            }
            state.paused = true;
            "paused".clone_into(&mut state.status);
            Ok(())
        })?;
        self.tell_changed();
        Ok(())
    }

    pub(super) fn unpause_container(&self, id: &str) -> Result<()> {
        self.with(&format!("unpause container {id}"), id, |record| {
            let state = &mut record.container.state;
            if state.paused {
                state.paused = false;
                "running".clone_into(&mut state.status);
            }
            Ok(())
        })?;
        self.tell_changed();
        Ok(())
    }

    pub(super) async fn remove_by_force(&self, id: &str) -> Result<()> {
        let found = self.with("remove", id, |record| {
            drop(record.hang_up.take());
            Ok((record.container.clone(), record.program.clone()))
        });
        let Ok((container, program)) = found else { return Ok(()) };
        if program == Program::Agent {
            // A thread cannot be killed: it ends once it has done what it was asked.
            self.until_run_ends(&container.id, &container.state.started_at).await;
        }
        self.state().containers.retain(|record| record.container.id != container.id);
        self.tell_changed();
        Ok(())
    }
}
