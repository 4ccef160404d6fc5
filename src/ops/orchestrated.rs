//! Refuses to stop what an orchestrator would replace, and says the whole way there is instead.
//!
//! An orchestrator takes a stopped container for a failed one and starts another on the same data, beside ours once
//! that is started again. So its containers are never stopped: it is the orchestrator that has to take them away and
//! bring them back, and in between the volume is like any other. What keeps a database available is one too: it makes
//! another member of the cluster the leader. Freezing stops nobody, but who goes by the healthcheck
//! must not take the frozen one for ill meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use super::Context;
use crate::database;
use crate::model::container::Container;
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::orchestrator::{Orchestrator, judged_after};
use crate::model::source::{Source, User};
use crate::selector::Target;

/// What is to be done with the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A snapshot that stops them.
    Snapshot,
    /// A snapshot that freezes them, for at most this long.
    Freeze(Duration),
    /// Other data in their place.
    Restore,
    /// Other containers in their place, even of those that do not run.
    Migrate,
    /// They are stopped and started.
    Restart,
}

impl Purpose {
    /// Returns whether a user would have to go for it.
    fn concerns(self, user: &User) -> bool {
        match self {
            Self::Migrate => true,
            // Also one that only reads: what it has open is replaced. One that only passes by need not see that.
            Self::Restore => user.container.state.running && !user.is_passer_by(),
            Self::Snapshot | Self::Freeze(_) | Self::Restart => user.is_to_be_held(),
        }
    }
}

impl Context {
    /// Refuses a source if an orchestrator would replace one of its users, or take it for ill.
    pub(super) async fn refuse_orchestrated(&self, source: &Source, purpose: Purpose) -> Result<()> {
        for user in source.users.iter().filter(|user| !user.as_sharer) {
            let container = &user.container;
            if purpose.concerns(user) {
                refuse_managed(source, container)?;
            }
            if let Purpose::Freeze(limit) = purpose {
                if container.state.running && user.writes {
                    refuse_freeze(container, limit)?;
                }
            } else if let Some(orchestrator) = Orchestrator::of(container)
                && purpose.concerns(user)
            {
                let tasks = match orchestrator {
                    Orchestrator::Swarm { service } => self.docker.replicas(service).await.ok().flatten(),
                    _ => None,
                };
                let hints = Way { orchestrator: &orchestrator, source, container, purpose, tasks }.hints();
                return Err(Error::failed(refusal(container, &orchestrator, purpose)).with_hints(hints));
            }
        }
        Ok(())
    }
}

fn refusal(container: &Container, orchestrator: &Orchestrator<'_>, purpose: Purpose) -> String {
    let (name, role, who) = (&container.name, orchestrator.role(), orchestrator.name());
    match purpose {
        Purpose::Migrate => format!("container {name} is {role}, and it is {who} that says what it mounts"),
        _ => format!(
            "container {name} is {role}: {who} takes a stopped one for a failed one and starts another on the same data"
        ),
    }
}

/// Refuses a server that something keeps available: it would answer a stop, or a long freeze, by a failover.
fn refuse_managed(source: &Source, container: &Container) -> Result<()> {
    let server = database::server_of(container);
    let Some(manager) = server.and_then(|server| server.manager(container)) else { return Ok(()) };
    let target = Target::at(&source.location).spelling();
    Err(Error::failed(format!(
        "{} keeps the database in container {} available: it takes one that stops, or does not answer for long, for a \
         failed one, and makes another member the leader",
        manager.name, container.name
    ))
    .hint(Hint::volsnap(["snapshot", &target, "--quiesce", "online"]).why("a snapshot, which holds nothing"))
    .or(manager.way))
}

/// Refuses to freeze a container for so long that somebody takes it for ill and ends it.
fn refuse_freeze(container: &Container, limit: Duration) -> Result<()> {
    let name = &container.name;
    let patience = judged_after(container);
    if let Some(patience) = patience.filter(|patience| *patience <= limit) {
        let shorter = format!("{}s", (patience / 2).as_secs().max(1));
        return Err(Error::failed(format!(
            "container {name} may be frozen for {} s, and is replaced once its healthcheck has failed for {} s",
            limit.as_secs(),
            patience.as_secs()
        ))
        .hint(Hint::instead(&["--max-downtime="], ["--max-downtime", &shorter]))
        .or(Hint::instead(&["--quiesce="], ["--quiesce", "online"])
            .why("for a database that makes a backup of itself")));
    }
    match Orchestrator::of(container) {
        None | Some(Orchestrator::Swarm { .. }) => Ok(()),
        Some(orchestrator) => Err(Error::failed(format!(
            "container {name} is {}: how soon {} takes a frozen one for failed cannot be seen here",
            orchestrator.role(),
            orchestrator.name()
        ))
        .hint(
            Hint::instead(&["--quiesce="], ["--quiesce", "online"])
                .why("for a database that makes a backup of itself"),
        )),
    }
}

/// The way there is instead.
struct Way<'a> {
    orchestrator: &'a Orchestrator<'a>,
    source: &'a Source,
    container: &'a Container,
    purpose: Purpose,
    /// How many tasks its Swarm service has to have, where the engine tells.
    tasks: Option<u64>,
}

impl Way<'_> {
    fn hints(&self) -> Vec<Hint> {
        let mut hints = match self.orchestrator {
            Orchestrator::Swarm { service } => self.by_swarm(service),
            Orchestrator::Kubernetes { namespace, pod } => {
                let owner = "jsonpath={.metadata.ownerReferences}";
                self.by_hand(format!("kubectl --namespace {namespace} get pod {pod} --output '{owner}'"))
            }
            Orchestrator::Nomad { allocation } => self.by_hand(format!("nomad alloc status {allocation}")),
            Orchestrator::Ecs { cluster, .. } => {
                self.by_hand(format!("aws ecs list-services --cluster {cluster}"))
            }
        };
        if self.purpose == Purpose::Snapshot {
            hints.extend(self.snapshot_that_stops_nobody());
        }
        hints
    }

    /// Returns one line to paste: the service is scaled to nothing, the work is done, and the service is scaled back
    /// whatever became of the work.
    fn by_swarm(&self, service: &str) -> Vec<Hint> {
        let scale = |tasks: u64| Hint::docker(["service", "scale", &format!("{service}={tasks}")]);
        let tasks = self.tasks.filter(|tasks| *tasks > 0).unwrap_or(1);
        let steps = std::iter::once(scale(0)).chain(self.work(service)).chain([scale(tasks)]);
        let way = Hint::steps(steps);
        if self.tasks.is_some() {
            return vec![way];
        }
        let asked = ["service", "inspect", "--format", "{{json .Spec.Mode}}", service];
        vec![
            way.why("if it has one task"),
            Hint::docker(asked).why("how many it has, on a manager of the swarm"),
        ]
    }

    /// Returns the first command, which names what has to be taken away, and what to do then.
    fn by_hand(&self, names: String) -> Vec<Hint> {
        let who = self.orchestrator.name();
        let mut hints =
            vec![Hint::shell(names).why(format!("what {who} has to take away first, and bring back last"))];
        hints.extend(self.work("").into_iter().map(|hint| hint.why("in between")));
        hints
    }

    /// Returns what is done while nobody runs on the data.
    fn work(&self, service: &str) -> Vec<Hint> {
        let target = Target::at(&self.source.location).spelling();
        let snapshot = Hint::volsnap(["snapshot", &target]);
        match self.purpose {
            Purpose::Snapshot | Purpose::Freeze(_) => vec![snapshot],
            Purpose::Restart => Vec::new(),
            Purpose::Restore => vec![Hint::again([""; 0])],
            Purpose::Migrate => {
                let at = self.source.mounted_at(self.container).unwrap_or_else(|| PathBuf::from("PATH"));
                let at = at.to_string_lossy();
                let mut work = vec![
                    snapshot,
                    Hint::volsnap(["restore", &format!("{}/latest", self.source.key), "--dir", "DIR"]),
                ];
                if !service.is_empty() {
                    let mount = format!("type=bind,src=DIR,dst={at}");
                    let update = ["service", "update", "--mount-rm", &at, "--mount-add", &mount, service];
                    work.push(Hint::docker(update));
                }
                work
            }
        }
    }

    /// Returns the snapshots that leave the container running.
    fn snapshot_that_stops_nobody(&self) -> Vec<Hint> {
        let target = Target::at(&self.source.location).spelling();
        let by = |quiesce: &str| Hint::volsnap(["snapshot", &target, "--quiesce", quiesce]);
        let mut hints = Vec::new();
        if database::of(self.container).is_some_and(|database| database.native().is_some()) {
            hints.push(by("online").why("holds nothing"));
        }
        let default = Duration::from_secs(30);
        if refuse_freeze(self.container, default).is_ok() {
            hints.push(by("pause").why("freezes it for a moment"));
        }
        hints
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::location::MountSource;

    fn container(labels: &[(&str, &str)], patience: Option<u64>) -> Container {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let health_patience = patience.map(Duration::from_secs);
        Container { name: "c".to_owned(), labels, health_patience, ..Container::default() }
    }

    fn source() -> Source {
        Source {
            location: MountSource::Volume("pgv".to_owned()),
            host_path: PathBuf::new(),
            key: "pgv".to_owned(),
            title: "volume pgv".to_owned(),
            users: Vec::new(),
            database_container: None,
            data_directory: None,
            onlookers: Vec::new(),
            servers: Vec::new(),
            database_containers: Vec::new(),
            held_by: None,
            warnings: Vec::new(),
        }
    }

    fn way(labels: &[(&str, &str)], purpose: Purpose, tasks: Option<u64>) -> Vec<String> {
        let (container, source) = (container(labels, None), source());
        let orchestrator = Orchestrator::of(&container).unwrap();
        let way = Way { orchestrator: &orchestrator, source: &source, container: &container, purpose, tasks };
        way.hints().iter().map(ToString::to_string).collect()
    }

    const TASK: [(&str, &str); 2] =
        [("com.docker.swarm.task.id", "t"), ("com.docker.swarm.service.name", "shop_pg")];

    #[test]
    fn a_service_of_swarm_is_scaled_to_nothing_and_back_to_what_it_was() {
        assert_eq!(
            way(&TASK, Purpose::Snapshot, Some(2))[0],
            "docker service scale shop_pg=0 && volsnap snapshot volume:pgv; docker service scale shop_pg=2"
        );
        assert_eq!(
            way(&TASK, Purpose::Restart, Some(1)),
            ["docker service scale shop_pg=0; docker service scale shop_pg=1"]
        );
        let unknown = way(&TASK, Purpose::Snapshot, None);
        assert!(unknown[0].ends_with("shop_pg=1    # if it has one task"), "{unknown:?}");
        assert!(unknown[1].starts_with("docker service inspect"), "{unknown:?}");
    }

    #[test]
    fn the_others_have_their_own_way() {
        let pod = [("io.kubernetes.pod.name", "db-0"), ("io.kubernetes.pod.namespace", "shop")];
        let said = way(&pod, Purpose::Snapshot, None);
        assert!(said[0].starts_with("kubectl --namespace shop get pod db-0"), "{said:?}");
        assert!(said[1].starts_with("volsnap snapshot volume:pgv"), "{said:?}");
        let said = way(&[("com.hashicorp.nomad.alloc_id", "8f2c")], Purpose::Restart, None);
        assert!(said[0].starts_with("nomad alloc status 8f2c"), "{said:?}");
    }

    #[test]
    fn what_is_frozen_must_be_back_before_it_is_taken_for_ill() {
        let limit = Duration::from_secs(30);
        refuse_freeze(&container(&[], Some(15)), limit).unwrap();
        refuse_freeze(&container(&TASK, None), limit).unwrap();
        refuse_freeze(&container(&TASK, Some(90)), limit).unwrap();
        let error = refuse_freeze(&container(&TASK, Some(15)), limit).unwrap_err();
        assert!(error.to_string().contains("30 s") && error.to_string().contains("15 s"), "{error}");
        refuse_freeze(&container(&TASK, Some(15)), Duration::from_secs(7)).unwrap();
        refuse_freeze(&container(&[("io.kubernetes.pod.name", "x")], None), limit).unwrap_err();
    }
}
