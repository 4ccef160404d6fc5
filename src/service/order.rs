//! The order in which the users of a source are stopped and started.
//!
//! A container is stopped after those that share its network, its processes or its shared memory, which would be left
//! with dead ones, and after those that depend on it according to Compose. They are started in reverse. Pure.

use crate::compose::Membership;
use crate::model::container::{Container, Namespace, owner_of};
use crate::model::source::User;
use crate::service::sharing::shares;

/// Returns the running users in the order in which they are stopped.
#[must_use]
pub fn stop_order(users: &[User]) -> Vec<&Container> {
    let mut order = start_order(users);
    order.reverse();
    order
}

/// Returns the running users in the order in which they are started: what others need comes first,
/// then the older container, then the name.
#[must_use]
pub fn start_order(users: &[User]) -> Vec<&Container> {
    let mut waiting: Vec<&Container> =
        users.iter().map(|user| &user.container).filter(|container| container.state.running).collect();
    waiting.sort_by_key(|container| (container.created_at(), &container.name, &container.id));
    let mut order = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        order.push(waiting.remove(next(&waiting)));
    }
    order
}

/// Returns the index of the first that needs none of the others. In a circle, the first that at least shares nothing
/// of another: the engine enforces that need, while Compose only wishes for the rest.
fn next(waiting: &[&Container]) -> usize {
    let free_of = |needs: fn(&Container, &Container) -> bool| {
        waiting.iter().position(|one| waiting.iter().all(|other| one.id == other.id || !needs(one, other)))
    };
    free_of(|one, other| shares(one, other) || depends_on(one, other))
        .or_else(|| free_of(shares))
        .unwrap_or(0)
}

fn depends_on(one: &Container, other: &Container) -> bool {
    match (Membership::of(&one.labels), Membership::of(&other.labels)) {
        (Some(one), Some(other)) => one.project == other.project && one.depends_on(other.service),
        _ => false,
    }
}

/// Returns the running users that could not be started again once stopped: the container of which they share something
/// is gone or does not run. They must be refused before anything is stopped.
#[must_use]
pub fn stranded<'u>(users: &'u [User], containers: &[Container]) -> Vec<&'u Container> {
    let stranded = |container: &&Container| {
        let is_missing = |namespace: Namespace| {
            namespace.mode_of(container).starts_with("container:")
                && owner_of(namespace, container, containers).is_none_or(|owner| !owner.state.running)
        };
        container.state.running && Namespace::ALL.into_iter().any(is_missing)
    };
    users.iter().map(|user| &user.container).filter(stranded).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn user(name: &str, created: u32) -> User {
        let mut container =
            Container { id: format!("{name}-id"), name: name.to_owned(), ..Container::default() };
        container.created = format!("2026-01-01T00:00:{created:02}Z");
        container.state.running = true;
        User { container, writes: true, from_above: false, as_sharer: false }
    }

    fn service(mut user: User, project: &str, depends_on: &str) -> User {
        let name = user.container.name.clone();
        for (label, value) in [("project", project), ("service", &name), ("depends_on", depends_on)] {
            user.container.labels.insert(format!("com.docker.compose.{label}"), value.to_owned());
        }
        user
    }

    fn sharing(mut user: User, network: &str) -> User {
        user.container.network_mode = network.to_owned();
        user
    }

    #[rstest]
    #[case::older_starts_first(vec![user("b", 1), user("a", 2)], &["b", "a"])]
    #[case::then_the_name(vec![user("b", 1), user("a", 1)], &["a", "b"])]
    #[case::dependency_first(vec![service(user("app", 1), "p", "db:service_healthy:true"), service(user("db", 2), "p", "")], &["db", "app"])]
    #[case::only_in_its_project(vec![service(user("app", 1), "q", "db:service_healthy:true"), service(user("db", 2), "p", "")], &["app", "db"])]
    #[case::chain(vec![service(user("web", 1), "p", "app"), service(user("app", 2), "p", "db"), service(user("db", 3), "p", "")], &["db", "app", "web"])]
    #[case::network_by_id(vec![sharing(user("side", 1), "container:db-id"), user("db", 2)], &["db", "side"])]
    #[case::network_by_name(vec![sharing(user("side", 1), "container:db"), user("db", 2)], &["db", "side"])]
    #[case::network_is_transitive(vec![sharing(user("c", 1), "container:b"), sharing(user("b", 2), "container:a"), user("a", 3)], &["a", "b", "c"])]
    #[case::network_beats_a_circle(vec![sharing(service(user("side", 1), "p", ""), "container:db"), service(user("db", 2), "p", "side")], &["db", "side"])]
    #[case::circle(vec![service(user("a", 1), "p", "b"), service(user("b", 2), "p", "a"), user("c", 3)], &["c", "a", "b"])]
    #[case::itself(vec![service(sharing(user("a", 1), "container:a"), "p", "a")], &["a"])]
    fn what_others_need_starts_first_and_stops_last(#[case] users: Vec<User>, #[case] expected: &[&str]) {
        let names = |order: Vec<&Container>| order.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(start_order(&users)), expected);
        let mut reversed = expected.to_vec();
        reversed.reverse();
        assert_eq!(names(stop_order(&users)), reversed);
    }

    #[test]
    fn creation_times_are_compared_as_times() {
        let mut half = user("half", 0);
        half.container.created = "2026-01-01T00:00:00.5Z".to_owned();
        let whole = user("whole", 0);
        let mut later = user("later", 0);
        later.container.created = "2026-01-01T00:00:00.51Z".to_owned();
        let users = [later, half, whole];
        let order: Vec<_> = start_order(&users).iter().map(|one| one.name.as_str()).collect();
        assert_eq!(order, ["whole", "half", "later"]);
    }

    #[test]
    fn a_container_that_does_not_run_is_neither_stopped_nor_started() {
        let mut stopped = user("stopped", 1);
        stopped.container.state.running = false;
        assert!(stop_order(&[stopped.clone()]).is_empty() && start_order(&[stopped]).is_empty());
    }

    #[test]
    fn a_user_whose_network_owner_is_down_is_stranded() {
        let mut owner = user("vpn", 1);
        let users = [sharing(user("side", 2), "container:vpn"), user("db", 3)];
        assert!(stranded(&users, &[owner.container.clone()]).is_empty());
        owner.container.state.running = false;
        assert_eq!(stranded(&users, &[owner.container])[0].name, "side");
        assert_eq!(stranded(&users, &[])[0].name, "side");
    }
}
