//! Who has come onto the data while a container was stopped.
//!
//! An orchestrator, a watchdog or a person takes a stopped service for a failed one, and starts another on the same
//! data. Two servers on one data directory destroy it, and neither of them notices. So before a stopped container is
//! started, by whomever and for whatever reason, we look who writes to its data now. If that is a server that was not
//! there when it was stopped, ours is not started.
//!
//! If the newcomer does what ours did, it has succeeded it: the service runs, and nothing is left down. Any other server
//! is waited for. What is no server, as far as can be seen (somebody's shell, a tool that looks into the volume), keeps
//! nobody's service down: ours is started beside it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ServiceError;
use super::identity::{ContainerIdentity, find_recreated};
use super::start::StoppedContainer;
use crate::database::{self, Database, stores};
use crate::engine::Docker;
use crate::model::container::{Container, Mount};
use crate::model::labels::LABEL_RUN;

/// The data that a container is stopped for, and who used it then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldData {
    /// The volumes that it is in, by name.
    pub volumes: Vec<String>,
    /// Where the engine's host has it.
    pub paths: Vec<PathBuf>,
    /// Those that ran and could write to it.
    pub users: Vec<ContainerIdentity>,
}

impl HeldData {
    /// Returns the data in these volumes and at these paths, with those of the containers that are at work on it.
    #[must_use]
    pub fn of(volumes: Vec<String>, paths: Vec<PathBuf>, containers: &[Container]) -> Self {
        let mut data = Self { volumes, paths, users: Vec::new() };
        let users = containers.iter().filter(|one| is_at_work(one) && data.is_written_by(one));
        let users = users.map(ContainerIdentity::of).collect();
        data.users = users;
        data
    }

    /// Returns whether a container can write to the data. A directory above it counts only for a database: an agent
    /// that sees the whole disk is no second server.
    #[must_use]
    pub fn is_written_by(&self, container: &Container) -> bool {
        let above = database::of(container).is_some();
        container.mounts.iter().any(|mount| !mount.read_only && self.is_reached_by(mount, above))
    }

    fn is_reached_by(&self, mount: &Mount, above: bool) -> bool {
        let by_name = mount.volume.as_ref().is_some_and(|volume| self.volumes.contains(volume));
        let has_path = mount.source.is_absolute();
        let by_path =
            |path: &PathBuf| mount.source.starts_with(path) || (above && path.starts_with(&mount.source));
        by_name || (has_path && self.paths.iter().any(by_path))
    }

    fn knows(&self, container: &Container) -> bool {
        self.users.iter().any(|known| {
            known.id == container.id || known.name == container.name || known.has_place_of(container)
        })
    }

    /// Returns what `docker ps --filter volume=…` finds its users by.
    pub(super) fn filter(&self) -> String {
        let path = || self.paths.first().map(|path| path.display().to_string());
        self.volumes.first().cloned().or_else(path).unwrap_or_default()
    }
}

/// Returns whether a container runs, and is no helper of ours.
fn is_at_work(container: &Container) -> bool {
    container.state.running && !container.labels.contains_key(LABEL_RUN)
}

/// Refuses to start `ours`, as which `stopped` was found, if somebody has come onto its data; who has succeeded one of
/// its `fellows` is none of its business.
///
/// # Errors
/// [`ServiceError::Taken`].
pub(super) fn refuse_newcomer(
    stopped: &StoppedContainer,
    ours: &Container,
    fellows: &[StoppedContainer],
    containers: &[Container],
) -> super::Result<()> {
    let Some(data) = &stopped.data else { return Ok(()) };
    let succeeds = |one: &StoppedContainer, newcomer: &Container| {
        find_recreated(&one.identity, containers).is_some_and(|before| is_alike(one, before, newcomer))
    };
    let mut newcomers: Vec<_> = containers
        .iter()
        .filter(|one| one.id != ours.id && is_at_work(one) && !data.knows(one) && data.is_written_by(one))
        .map(|one| (succeeds(stopped, one), one))
        .filter(|(is_ours, one)| {
            *is_ours || (is_server(one) && !fellows.iter().any(|fellow| succeeds(fellow, one)))
        })
        .collect();
    newcomers.sort_by_key(|(is_ours, _)| !is_ours);
    match newcomers.first() {
        None => Ok(()),
        Some((succeeds, newcomer)) => Err(ServiceError::Taken {
            container: stopped.identity.name.clone(),
            by: newcomer.name.clone(),
            succeeds: *succeeds,
        }),
    }
}

/// Returns whether a container runs something that keeps data, and would be a second one on it.
fn is_server(container: &Container) -> bool {
    database::of(container).is_some() || stores::of(container).is_some()
}

/// Returns whether a newcomer does what a stopped container did: it runs the same database, or else the same image.
fn is_alike(stopped: &StoppedContainer, before: &Container, newcomer: &Container) -> bool {
    let database = database::of(newcomer).map(Database::name);
    database == stopped.database.as_deref()
        && (database.is_some() || (!before.image_id.is_empty() && before.image_id == newcomer.image_id))
}

/// Returns those of the stopped containers that cannot be started now, since somebody has come onto their data, each
/// with who that is.
///
/// # Errors
/// When the engine does not tell.
pub async fn taken(
    docker: &dyn Docker,
    stopped: &[StoppedContainer],
) -> crate::engine::Result<Vec<ServiceError>> {
    if stopped.iter().all(|one| one.data.is_none()) {
        return Ok(Vec::new());
    }
    let containers = docker.containers().await?;
    let refused = stopped.iter().filter_map(|one| {
        let ours = find_recreated(&one.identity, &containers).filter(|ours| !ours.state.running)?;
        refuse_newcomer(one, ours, stopped, &containers).err()
    });
    Ok(refused.collect())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::model::container::MountKind;

    /// A container that runs this on that mount.
    fn container(name: &str, image: &str, mount: Mount) -> Container {
        let mut container = Container {
            id: format!("id-of-{name}"),
            name: name.to_owned(),
            image: image.to_owned(),
            image_id: format!("sha256:{image}"),
            mounts: vec![mount],
            ..Container::default()
        };
        container.state.running = true;
        if image.starts_with("postgres") {
            container.command = ["docker-entrypoint.sh", "postgres"].map(str::to_owned).into();
        }
        container
    }

    fn volume() -> Mount {
        let source = PathBuf::from("/volumes/data/_data");
        Mount { volume: Some("data".to_owned()), source, ..Mount::default() }
    }

    fn bind(path: &str) -> Mount {
        Mount { kind: MountKind::Bind, source: path.into(), ..Mount::default() }
    }

    /// A database and what shares its data, both stopped, and what else there is.
    fn outcome(others: &[Container]) -> [Option<(String, bool)>; 2] {
        let both = [container("db", "postgres:15", volume()), container("app", "app:1", volume())];
        let paths = vec![PathBuf::from("/volumes/data/_data")];
        let agent = container("agent", "agent:1", volume());
        let there = [&both[..], std::slice::from_ref(&agent)].concat();
        let data = HeldData::of(vec!["data".to_owned()], paths, &there);
        let stopped = both
            .each_ref()
            .map(|one| StoppedContainer { data: Some(data.clone()), ..StoppedContainer::of(one) });
        let mut now = both.to_vec();
        now.iter_mut().for_each(|one| one.state.running = false);
        now.push(agent);
        now.extend_from_slice(others);
        [0, 1].map(|number: usize| match refuse_newcomer(&stopped[number], &both[number], &stopped, &now) {
            Ok(()) => None,
            Err(ServiceError::Taken { by, succeeds, .. }) => Some((by, succeeds)),
            Err(other) => panic!("{other}"),
        })
    }

    #[rstest]
    #[case::nobody_else(&[], None)]
    #[case::the_same_database(&[container("x", "postgres:16", volume())], Some(true))]
    #[case::it_by_the_path(&[container("x", "postgres:15", bind("/volumes/data/_data/pg"))], Some(true))]
    #[case::it_by_a_directory_above(&[container("x", "postgres:15", bind("/volumes"))], Some(true))]
    #[case::another_server(&[container("x", "redis:7", volume())], Some(false))]
    #[case::another_program(&[container("x", "tool:1", volume())], None)]
    #[case::an_agent_that_sees_the_whole_disk(&[container("x", "tool:1", bind("/"))], None)]
    #[case::one_that_only_reads(&[container("x", "postgres:15", Mount { read_only: true, ..volume() })], None)]
    #[case::one_on_other_data(&[container("x", "postgres:15", bind("/volumes/data/_data2"))], None)]
    fn who_has_come_onto_the_data_of_a_database(
        #[case] others: &[Container],
        #[case] expected: Option<bool>,
    ) {
        let [db, _] = outcome(others);
        assert_eq!(db, expected.map(|succeeds| ("x".to_owned(), succeeds)));
    }

    #[test]
    fn what_shares_the_data_is_started_beside_whoever_has_succeeded_the_database() {
        let [_, app] = outcome(&[container("x", "postgres:15", volume())]);
        assert_eq!(app, None);
        let [db, app] = outcome(&[container("x", "app:1", volume())]);
        assert_eq!((db, app), (None, Some(("x".to_owned(), true))));
        let [db, app] = outcome(&[container("x", "redis:7", volume())]);
        assert_eq!((&db, &app), (&Some(("x".to_owned(), false)), &db));
    }

    #[test]
    fn one_that_does_not_run_a_helper_and_one_made_anew_have_not_come() {
        let mut ended = container("x", "postgres:15", volume());
        ended.state.running = false;
        let mut helper = container("y", "helper:1", volume());
        helper.labels.insert(LABEL_RUN.to_owned(), "run".to_owned());
        let mut anew = container("agent", "agent:2", volume());
        anew.id = "another".to_owned();
        assert_eq!(outcome(&[ended, helper, anew]), [None, None]);
    }
}
