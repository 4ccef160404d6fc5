//! Who starts another container where one has ended, as far as labels tell.
//!
//! An orchestrator takes a stopped container for a failed one, and starts another on the same data; a watchdog restarts
//! one that its healthcheck calls ill. Both are recognised by the labels that they put on, or want on, a container.

use std::time::Duration;

use super::container::Container;

const SWARM_TASK: &str = "com.docker.swarm.task.id";
const SWARM_SERVICE: &str = "com.docker.swarm.service.name";
const STACK: &str = "com.docker.stack.namespace";

/// An orchestrator, with what it calls a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Orchestrator<'c> {
    /// Docker's own.
    Swarm {
        /// The service that the container is a task of.
        service: &'c str,
    },
    /// Kubernetes on Docker (cri-dockerd, k3s).
    Kubernetes {
        /// The namespace of the pod.
        namespace: &'c str,
        /// The pod.
        pod: &'c str,
    },
    /// Nomad.
    Nomad {
        /// The allocation.
        allocation: &'c str,
    },
    /// The agent of Amazon's container service.
    Ecs {
        /// The cluster.
        cluster: &'c str,
        /// The task's definition.
        family: &'c str,
    },
}

impl<'c> Orchestrator<'c> {
    /// Returns whose container it is; `None` for one that nobody replaces, by its labels.
    #[must_use]
    pub fn of(container: &'c Container) -> Option<Self> {
        let label = |name: &str| container.labels.get(name).map(String::as_str);
        if let Some(task) = label(SWARM_TASK) {
            return Some(Self::Swarm { service: label(SWARM_SERVICE).unwrap_or(task) });
        }
        if let Some(pod) = label("io.kubernetes.pod.name") {
            let namespace = label("io.kubernetes.pod.namespace").unwrap_or("default");
            return Some(Self::Kubernetes { namespace, pod });
        }
        if let Some(allocation) = label("com.hashicorp.nomad.alloc_id") {
            return Some(Self::Nomad { allocation });
        }
        label("com.amazonaws.ecs.task-arn")?;
        let cluster = label("com.amazonaws.ecs.cluster").unwrap_or("default");
        Some(Self::Ecs {
            cluster,
            family: label("com.amazonaws.ecs.task-definition-family").unwrap_or_default(),
        })
    }

    /// Returns the Swarm service whose task a container is.
    #[must_use]
    pub fn swarm_service(container: &'c Container) -> Option<&'c str> {
        match Self::of(container)? {
            Self::Swarm { service } => Some(service),
            _ => None,
        }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Swarm { .. } => "Swarm",
            Self::Kubernetes { .. } => "Kubernetes",
            Self::Nomad { .. } => "Nomad",
            Self::Ecs { .. } => "the ECS agent",
        }
    }

    /// Returns what the container is to it.
    #[must_use]
    pub fn role(&self) -> String {
        match self {
            Self::Swarm { service } => format!("a task of the Swarm service {service}"),
            Self::Kubernetes { namespace, pod } => format!("part of the Kubernetes pod {namespace}/{pod}"),
            Self::Nomad { allocation } => format!("part of the Nomad allocation {allocation}"),
            Self::Ecs { cluster, family } => format!("a task of ECS ({family} in cluster {cluster})"),
        }
    }
}

/// Returns how long a container may be frozen until somebody who goes by its healthcheck takes it for ill; `None` if
/// nobody does.
#[must_use]
pub fn judged_after(container: &Container) -> Option<Duration> {
    let is_watched = Orchestrator::swarm_service(container).is_some()
        || container.labels.get("autoheal").is_some_and(|value| value == "true");
    container.health_patience.filter(|_| is_watched)
}

/// Returns the stack of a Swarm task, and what the stack's file calls its service.
#[must_use]
pub fn stack_service(container: &Container) -> Option<(&str, &str)> {
    let stack = container.labels.get(STACK)?;
    let service = Orchestrator::swarm_service(container)?;
    let short = service.strip_prefix(stack.as_str()).and_then(|rest| rest.strip_prefix('_'));
    Some((stack, short.unwrap_or(service)))
}

/// Leaves out what Swarm keeps of tasks that have ended, as long as there is a later one of the same service: nobody
/// will ever start them.
#[must_use]
pub fn without_dead_tasks(containers: Vec<Container>) -> Vec<Container> {
    let is_succeeded = |task: &Container| {
        let Some(service) = Orchestrator::swarm_service(task).filter(|_| !task.state.running) else {
            return false;
        };
        let standing = |one: &Container| (one.state.running, one.created_at(), one.id.clone());
        let fellows = containers.iter().filter(|one| Orchestrator::swarm_service(one) == Some(service));
        fellows.into_iter().any(|one| standing(one) > standing(task))
    };
    let dead: Vec<bool> = containers.iter().map(is_succeeded).collect();
    containers.into_iter().zip(dead).filter(|(_, dead)| !dead).map(|(container, _)| container).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, labels: &[(&str, &str)]) -> Container {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Container { id: name.to_owned(), name: name.to_owned(), labels, ..Container::default() }
    }

    #[test]
    fn each_orchestrator_is_known_by_its_labels() {
        let role = |labels: &[(&str, &str)]| {
            let container = container("c", labels);
            Orchestrator::of(&container).map(|one| (one.name(), one.role()))
        };
        assert_eq!(role(&[("com.docker.compose.service", "db")]), None);
        let swarm = role(&[(SWARM_TASK, "t1"), (SWARM_SERVICE, "shop_pg")]).unwrap();
        assert_eq!(swarm, ("Swarm", "a task of the Swarm service shop_pg".to_owned()));
        let pod =
            role(&[("io.kubernetes.pod.name", "db-0"), ("io.kubernetes.pod.namespace", "shop")]).unwrap();
        assert_eq!(pod, ("Kubernetes", "part of the Kubernetes pod shop/db-0".to_owned()));
        let nomad = role(&[("com.hashicorp.nomad.alloc_id", "8f2c")]).unwrap();
        assert_eq!(nomad, ("Nomad", "part of the Nomad allocation 8f2c".to_owned()));
        let ecs = role(&[("com.amazonaws.ecs.task-arn", "arn"), ("com.amazonaws.ecs.cluster", "c")]).unwrap();
        assert_eq!(ecs.0, "the ECS agent");
    }

    #[test]
    fn a_service_of_a_stack_has_the_name_that_its_file_gives_it() {
        let task = container("t", &[(SWARM_TASK, "t1"), (SWARM_SERVICE, "app_db"), (STACK, "app")]);
        assert_eq!(stack_service(&task), Some(("app", "db")));
        assert_eq!(stack_service(&container("t", &[(SWARM_TASK, "t1"), (SWARM_SERVICE, "pg")])), None);
    }

    #[test]
    fn of_tasks_that_have_ended_only_the_last_is_kept_and_none_beside_one_that_runs() {
        let task = |name: &str, service: &str, created: &str, running: bool| {
            let mut task = container(name, &[(SWARM_TASK, name), (SWARM_SERVICE, service)]);
            created.clone_into(&mut task.created);
            task.state.running = running;
            task
        };
        let names = |containers: Vec<Container>| {
            without_dead_tasks(containers).into_iter().map(|one| one.name).collect::<Vec<_>>()
        };
        let (first, second) = ("2026-11-20T10:00:00Z", "2026-11-20T11:00:00Z");
        let plain = container("plain", &[]);
        let ended = [task("a", "pg", first, false), task("b", "pg", second, false), plain];
        assert_eq!(names(ended.to_vec()), ["b", "plain"]);
        assert_eq!(names(vec![task("c", "pg", first, true), ended[1].clone()]), ["c"]);
        assert_eq!(names(vec![ended[0].clone(), task("d", "web", second, true)]), ["a", "d"]);
        assert_eq!(names(vec![task("c", "pg", first, true), task("d", "pg", second, true)]), ["c", "d"]);
    }

    #[test]
    fn only_who_goes_by_the_healthcheck_judges_what_is_frozen() {
        let patience = Some(Duration::from_secs(15));
        let judged = |labels: &[(&str, &str)]| {
            judged_after(&Container { health_patience: patience, ..container("c", labels) })
        };
        assert_eq!(judged(&[]), None);
        assert_eq!(judged(&[("autoheal", "true")]), patience);
        assert_eq!(judged(&[(SWARM_TASK, "t")]), patience);
        assert_eq!(judged_after(&container("c", &[(SWARM_TASK, "t")])), None);
    }
}
