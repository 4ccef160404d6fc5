//! Containers that share something of another one, its network above all, and that one is made anew.
//!
//! The engine names the other one by its id. So once that is another container, who shares something of it can never be
//! started again, and has to be made anew, too: the same in everything except for the id that it names. Nobody is
//! without a container at any moment: the old one goes aside, the new one gets its name, and then the old one is removed
//! (its volumes are kept). Whoever comes later finds the one or the other, and goes on from there.

use serde::{Deserialize, Serialize};

use super::identity::{ContainerIdentity, find_recreated};
use super::stop::stop_again;
use super::{Result, ServiceError};
use crate::database;
use crate::engine::Docker;
use crate::model::container::{Container, Namespace, owner_of, owners};
use crate::model::event::Monitor;
use crate::model::labels::LABEL_RUN;

/// A container that shares something of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharer {
    /// Which it is.
    pub identity: ContainerIdentity,
    /// What it shares, and of whom.
    pub owners: Vec<Owner>,
    /// What it is called while another takes its place.
    pub aside: String,
}

/// Who has what a sharer shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// What is shared.
    pub namespace: Namespace,
    /// Whose it is.
    pub identity: ContainerIdentity,
}

impl Sharer {
    /// Returns the record of a container, with what it shares of these; `run` is the one that makes them anew.
    #[must_use]
    pub fn of(container: &Container, containers: &[Container], run: &str) -> Self {
        let owners = owners(container, containers)
            .map(|(namespace, owner)| Owner { namespace, identity: ContainerIdentity::of(owner) });
        Self {
            identity: ContainerIdentity::of(container),
            owners: owners.collect(),
            aside: format!("{}-volsnap-rejoins-{run}", container.name),
        }
    }

    /// Has it share what it shared, of whoever has the place of its owners by now; `all` are those that do.
    async fn rejoin(&self, docker: &dyn Docker, all: &[Self], monitor: &dyn Monitor) -> Result<()> {
        let (aside, containers): (Vec<_>, Vec<_>) =
            docker.containers().await?.into_iter().partition(|one| one.name == self.aside);
        match (in_place(&self.identity, &containers), aside.first()) {
            (Some(here), aside) => {
                if let Some(aside) = aside {
                    docker.remove_stopped_container(&aside.id).await?;
                }
                if self.stale(here, &containers, all)?.is_empty() {
                    return Ok(());
                }
                stop_again(docker, here, database::server_of(here), monitor).await?;
                monitor.step("sharer-aside");
                docker.rename_container(&here.id, &self.aside).await?;
                self.take_place_of(here, docker, (&containers, all), monitor).await
            }
            (None, Some(aside)) => self.take_place_of(aside, docker, (&containers, all), monitor).await,
            // Somebody has removed it.
            (None, None) => Ok(()),
        }
    }

    /// Gives its name to one like the old one, which lies aside, or to that itself, if its owners are back.
    async fn take_place_of(
        &self,
        old: &Container,
        docker: &dyn Docker,
        (containers, all): (&[Container], &[Self]),
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let stale = self.stale(old, containers, all)?;
        if stale.is_empty() {
            return Ok(docker.rename_container(&old.id, &self.identity.name).await?);
        }
        let mut described = docker.inspect_raw(&old.id).await?;
        for (namespace, owner) in stale {
            described = described.sharing(namespace, owner);
        }
        monitor.step("sharer-like");
        docker.clone_container(&described, &self.identity.name, None).await?;
        monitor.step("remove-sharer");
        Ok(docker.remove_stopped_container(&old.id).await?)
    }

    /// Returns what a container shares of one that is no longer in its place, and who is there. What somebody has made
    /// share nothing is left so, and so is what shares something of another one of `all` that somebody has removed.
    ///
    /// # Errors
    /// When it shares something of one that is gone, and nobody has the place of that one yet.
    fn stale<'c>(
        &self,
        container: &Container,
        containers: &'c [Container],
        all: &[Self],
    ) -> Result<Vec<(Namespace, &'c str)>> {
        let mut stale = Vec::new();
        for Owner { namespace, identity } in &self.owners {
            if !namespace.mode_of(container).starts_with("container:") {
                continue;
            }
            // It may name its owner by id or by name.
            let named = owner_of(*namespace, container, containers);
            match (named, in_place(identity, containers)) {
                (Some(named), Some(owner)) if named.id == owner.id => {}
                (_, Some(owner)) => stale.push((*namespace, owner.id.as_str())),
                (Some(_), None) => {}
                (None, None) if all.iter().any(|other| other.identity.id == identity.id) => {}
                (None, None) => return Err(ServiceError::Gone { container: identity.name.clone() }),
            }
        }
        Ok(stale)
    }
}

/// Returns every container that shares something of one of these, or of another one that does, owners first. Helpers of
/// volsnap are not among them, nor those that `stay` as they are, with who shares something of these alone.
#[must_use]
pub fn sharers_of(
    anew: &[&Container],
    containers: &[Container],
    stay: impl Fn(&Container) -> bool,
) -> Vec<Container> {
    let mut found: Vec<Container> = Vec::new();
    loop {
        let is_new = |one: &&Container| {
            let is_of = |(_, owner): (Namespace, &Container)| {
                anew.iter().any(|other| other.id == owner.id)
                    || found.iter().any(|other| other.id == owner.id)
            };
            !one.labels.contains_key(LABEL_RUN)
                && found.iter().all(|other| other.id != one.id)
                && !stay(one)
                && owners(one, containers).any(is_of)
        };
        let Some(next) = containers.iter().find(is_new).cloned() else { return owners_first(found) };
        found.push(next);
    }
}

/// Returns the same containers in an order in which each comes after those of which it shares something.
#[must_use]
pub fn owners_first(containers: Vec<Container>) -> Vec<Container> {
    let mut waiting = containers;
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let is_free = |one: &Container| waiting.iter().all(|other| other.id == one.id || !shares(one, other));
        // There are no circles: who shares something was made after whoever it shares it of.
        let first = waiting.iter().position(is_free).unwrap_or(0);
        ordered.push(waiting.remove(first));
    }
    ordered
}

/// Returns whether a container shares something of another one.
#[must_use]
pub fn shares(one: &Container, other: &Container) -> bool {
    owners(one, std::slice::from_ref(other)).next().is_some()
}

/// Has each of the containers share what it shared, of whoever has the place of its owners by now; starts none of them.
/// One that does so already is left as it is.
///
/// # Errors
/// When the engine fails; then one has its name or lies aside, and the next attempt goes on from there.
pub async fn rejoin(docker: &dyn Docker, sharers: &[Sharer], monitor: &dyn Monitor) -> Result<()> {
    let mut outcome = Ok(());
    // They come after their owners; what an attempt has left aside may have that otherwise.
    for _ in sharers {
        outcome = Ok(());
        for sharer in sharers {
            if let Err(error) = sharer.rejoin(docker, sharers, monitor).await {
                outcome = outcome.and(Err(error));
            }
        }
    }
    outcome
}

/// Returns the container that has the place of the recorded one, whatever has become of that one.
pub(crate) fn in_place<'c>(
    recorded: &ContainerIdentity,
    containers: &'c [Container],
) -> Option<&'c Container> {
    let has_place = |one: &&Container| one.name == recorded.name || recorded.has_place_of(one);
    let there: Vec<Container> = containers.iter().filter(has_place).cloned().collect();
    let found = find_recreated(recorded, &there)?;
    containers.iter().find(|one| one.id == found.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::engine::memory::MemoryDocker;
    use crate::model::event::Silent;

    const RUN: &str = "20261129T145921Z-281107";

    /// An engine with `db`, `side` on its network and processes, and `third` on the network of `side`.
    struct Bench {
        engine: MemoryDocker,
        sharers: Vec<Sharer>,
        _directory: tempfile::TempDir,
    }

    impl Bench {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let engine = MemoryDocker::new(directory.path(), Clock::default());
            engine.add_image("app:1", &[]);
            let bench = Self { engine, sharers: Vec::new(), _directory: directory };
            let db = bench.add("db", |_| ()).await;
            let side = bench
                .add("side", |side| {
                    side.network_mode = format!("container:{db}");
                    side.pid_mode = format!("container:{db}");
                })
                .await;
            bench.add("third", |third| third.network_mode = format!("container:{side}")).await;
            bench.add("stranger", |_| ()).await;
            let all = bench.engine.containers().await.unwrap();
            let db = all.iter().find(|one| one.name == "db").unwrap();
            let sharers = sharers_of(&[db], &all, |_| false);
            let sharers = sharers.iter().map(|one| Sharer::of(one, &all, RUN)).collect();
            Self { sharers, ..bench }
        }

        async fn add(&self, name: &str, edit: impl FnOnce(&mut Container)) -> String {
            let mut container =
                Container { name: name.to_owned(), image: "app:1".to_owned(), ..Container::default() };
            edit(&mut container);
            self.engine.add(container).unwrap()
        }

        /// Makes the database anew, as Compose does.
        async fn make_anew(&self) -> String {
            self.engine.remove_stopped_container("db").await.unwrap();
            self.add("db", |_| ()).await
        }

        async fn rejoin(&self) {
            rejoin(&self.engine, &self.sharers, &Silent).await.unwrap();
        }

        async fn named(&self, name: &str) -> Container {
            self.engine.container(name).await.unwrap().unwrap_or_else(|| panic!("{name} is gone"))
        }

        async fn assert_joined(&self, db: &str) {
            let (side, third) = (self.named("side").await, self.named("third").await);
            let of = |id: &str| format!("container:{id}");
            assert_eq!((side.network_mode, side.pid_mode), (of(db), of(db)));
            assert_eq!(third.network_mode, of(&side.id));
            assert_eq!(self.engine.containers().await.unwrap().len(), 4, "nothing lies aside");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sharers_are_found_through_each_other_owners_first() {
        let names: Vec<_> = Bench::new().await.sharers.into_iter().map(|one| one.identity.name).collect();
        assert_eq!(names, ["side", "third"]);
    }

    #[test]
    fn who_shares_something_of_several_comes_after_all_of_them() {
        let container = |name: &str, network: &str, memory: &str| Container {
            id: format!("{name}-id"),
            name: name.to_owned(),
            network_mode: network.to_owned(),
            ipc_mode: memory.to_owned(),
            ..Container::default()
        };
        let db = container("db", "bridge", "shareable");
        let all = [
            container("both", "container:db-id", "container:side-id"),
            container("side", "container:db", "shareable"),
            container("of-side", "container:side-id", ""),
            db.clone(),
        ];
        let names = |stay: &str| -> Vec<String> {
            sharers_of(&[&db], &all, |one| one.name == stay).into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(""), ["side", "both", "of-side"]);
        assert_eq!(names("side"), ["both"], "who shares something of one that stays keeps it");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_settled_while_its_owner_is_missing() {
        let bench = Bench::new().await;
        bench.engine.remove_stopped_container("db").await.unwrap();
        let before = bench.named("side").await;
        let error = rejoin(&bench.engine, &bench.sharers, &Silent).await.unwrap_err();
        assert!(matches!(&error, ServiceError::Gone { container } if container == "db"), "{error}");
        assert_eq!(bench.named("side").await, before);
        let db = bench.add("db", |_| ()).await;
        bench.rejoin().await;
        bench.assert_joined(&db).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_names_its_owner_by_name_has_it_whoever_that_is() {
        let bench = Bench::new().await;
        bench.engine.remove_stopped_container("side").await.unwrap();
        let side = bench.add("side", |side| side.network_mode = "container:db".to_owned()).await;
        bench.make_anew().await;
        bench.rejoin().await;
        assert_eq!(bench.named("side").await.id, side, "it was made anew for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn who_shares_something_of_a_container_shares_it_of_each_successor() {
        let bench = Bench::new().await;
        for _ in 0..2 {
            let db = bench.make_anew().await;
            bench.rejoin().await;
            bench.assert_joined(&db).await;
        }
        let (db, side) = (bench.named("db").await.id, bench.named("side").await.id);
        bench.rejoin().await;
        bench.assert_joined(&db).await;
        assert_eq!(bench.named("side").await.id, side, "one that shares it already is left as it is");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_later_goes_on_from_what_lies_aside() {
        let bench = Bench::new().await;
        let (engine, aside) = (&bench.engine, bench.sharers[0].aside.clone());
        let db = bench.make_anew().await;
        engine.rename_container("side", &aside).await.unwrap();
        bench.rejoin().await;
        bench.assert_joined(&db).await;
        // Its successor was made, and the old one was still to be removed.
        let left = bench.add(&aside, |_| ()).await;
        bench.rejoin().await;
        bench.assert_joined(&db).await;
        assert_eq!(engine.container(&left).await.unwrap(), None);
        // It lies aside, and its owner is the one from before.
        let side = bench.named("side").await.id;
        engine.rename_container("side", &aside).await.unwrap();
        bench.rejoin().await;
        assert_eq!(bench.named("side").await.id, side);
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_has_removed_or_made_otherwise_is_left_so() {
        let bench = Bench::new().await;
        bench.make_anew().await;
        bench.engine.remove_stopped_container("side").await.unwrap();
        let other = bench.add("side", |side| side.network_mode = "default".to_owned()).await;
        bench.rejoin().await;
        assert_eq!(bench.named("side").await.id, other);
        bench.engine.remove_stopped_container("side").await.unwrap();
        bench.rejoin().await;
        assert_eq!(bench.engine.container("side").await.unwrap(), None);
    }
}
