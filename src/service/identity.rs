//! A container as the journal remembers it, and how it is found again after it was recreated.

use serde::{Deserialize, Serialize};

use crate::compose::Membership;
use crate::model::container::Container;
use crate::model::labels::LABEL_RUN;

/// What is kept of a container in order to find it again: the id changes when Compose recreates it, the service does
/// not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerIdentity {
    /// The full id.
    pub id: String,
    /// The name.
    pub name: String,
    /// The Compose project it belongs to.
    pub project: Option<String>,
    /// The service of that project.
    pub service: Option<String>,
    /// Which of the service's containers it is.
    pub number: Option<String>,
}

impl ContainerIdentity {
    /// Returns what to remember of a container.
    #[must_use]
    pub fn of(container: &Container) -> Self {
        let member = Membership::of(&container.labels);
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            project: member.map(|member| member.project.to_owned()),
            service: member.map(|member| member.service.to_owned()),
            number: member.and_then(|member| member.number).map(str::to_owned),
        }
    }

    /// Returns whether the container has the recorded one's place in its Compose service.
    pub(crate) fn has_place_of(&self, container: &Container) -> bool {
        let number = Membership::of(&container.labels).and_then(|member| member.number);
        self.service.is_some() && self.is_of_service(container) && number == self.number.as_deref()
    }

    /// Returns whether the container carries the recorded service's labels.
    fn is_of_service(&self, container: &Container) -> bool {
        Membership::of(&container.labels).is_some_and(|member| {
            self.project.as_deref() == Some(member.project) && self.service.as_deref() == Some(member.service)
        })
    }
}

/// Returns the recorded container: by id, else by its place in its Compose service, else by its exact name.
///
/// A container that is being removed is taken only if nothing else is left. If the numbers of a service changed, its
/// only container is taken; among several, none is guessed.
#[must_use]
pub fn find_recreated<'c>(
    recorded: &ContainerIdentity,
    containers: &'c [Container],
) -> Option<&'c Container> {
    let (alive, leaving): (Vec<_>, Vec<_>) = containers
        .iter()
        .filter(|container| !container.labels.contains_key(LABEL_RUN))
        .partition(|container| !matches!(container.state.status.as_str(), "removing" | "dead"));
    [alive, leaving].iter().find_map(|containers| find_among(recorded, containers))
}

fn find_among<'c>(recorded: &ContainerIdentity, containers: &[&'c Container]) -> Option<&'c Container> {
    let by_id = containers.iter().find(|container| container.id == recorded.id);
    let by_name = || containers.iter().find(|container| container.name == recorded.name);
    by_id.copied().or_else(|| find_in_service(recorded, containers)).or_else(|| by_name().copied())
}

fn find_in_service<'c>(recorded: &ContainerIdentity, containers: &[&'c Container]) -> Option<&'c Container> {
    let service: Vec<_> = containers.iter().copied().filter(|one| recorded.is_of_service(one)).collect();
    let number = |one: &&&Container| {
        Membership::of(&one.labels).and_then(|member| member.number) == recorded.number.as_deref()
    };
    let numbered: Vec<_> = service.iter().filter(number).copied().collect();
    match (numbered.as_slice(), service.as_slice()) {
        // While Compose recreates, the old and the new container carry the same number.
        ([_, ..], _) => numbered.into_iter().max_by_key(|one| (one.state.running, one.created_at(), &one.id)),
        ([], [only]) => Some(only),
        ([], _) => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn container(id: &str, name: &str, member: Option<(&str, &str, &str)>) -> Container {
        let mut container = Container { id: id.to_owned(), name: name.to_owned(), ..Container::default() };
        if let Some((project, service, number)) = member {
            for (label, value) in [("project", project), ("service", service), ("container-number", number)] {
                container.labels.insert(format!("com.docker.compose.{label}"), value.to_owned());
            }
        }
        container
    }

    fn db() -> Container {
        container("old", "p-db-1", Some(("p", "db", "1")))
    }

    #[rstest]
    #[case::by_id(vec![container("new", "p-db-1", None), container("old", "renamed", None)], Some("old"))]
    #[case::recreated(vec![container("x", "q-db-1", Some(("q", "db", "1"))), container("new", "other", Some(("p", "db", "1")))], Some("new"))]
    #[case::labels_before_name(vec![container("x", "p-db-1", None), container("new", "other", Some(("p", "db", "1")))], Some("new"))]
    #[case::right_number(vec![container("b", "p-db-2", Some(("p", "db", "2"))), container("a", "y", Some(("p", "db", "1")))], Some("a"))]
    #[case::only_one_left(vec![container("b", "p-db-2", Some(("p", "db", "2")))], Some("b"))]
    #[case::none_guessed(vec![container("b", "p-db-2", Some(("p", "db", "2"))), container("c", "p-db-3", Some(("p", "db", "3")))], None)]
    #[case::by_name(vec![container("x", "p-db-1", None)], Some("x"))]
    #[case::no_prefix_of_a_name(vec![container("x", "p-db-10", None)], None)]
    #[case::gone(vec![], None)]
    fn a_container_is_found_again(#[case] containers: Vec<Container>, #[case] expected: Option<&str>) {
        let found = find_recreated(&ContainerIdentity::of(&db()), &containers);
        assert_eq!(found.map(|container| container.id.as_str()), expected);
    }

    #[test]
    fn a_one_off_container_or_a_helper_is_never_taken_for_the_service() {
        let mut one_off = container("run", "p-db-run-1", Some(("p", "db", "1")));
        one_off.labels.insert("com.docker.compose.oneoff".to_owned(), "True".to_owned());
        let mut helper = container("helper", "p-db-1", None);
        helper.labels.insert(LABEL_RUN.to_owned(), "r".to_owned());
        assert_eq!(find_recreated(&ContainerIdentity::of(&db()), &[one_off, helper]), None);
    }

    #[test]
    fn the_new_container_is_taken_while_the_old_one_is_being_removed() {
        let mut old = db();
        old.state.status = "removing".to_owned();
        let new = container("new", "other", Some(("p", "db", "1")));
        let recorded = ContainerIdentity::of(&old);
        assert_eq!(
            find_recreated(&recorded, &[old.clone(), new]).map(|found| found.id.as_str()),
            Some("new")
        );
        assert_eq!(find_recreated(&recorded, &[old]).map(|found| found.id.as_str()), Some("old"));
    }

    #[test]
    fn a_record_survives_the_journal() {
        let recorded = ContainerIdentity::of(&db());
        let json = serde_json::to_string(&recorded).unwrap();
        assert_eq!(serde_json::from_str::<ContainerIdentity>(&json).unwrap(), recorded);
    }
}
