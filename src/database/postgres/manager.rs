//! What keeps a PostgreSQL cluster available: such a manager answers a member that stops, or does not answer for long,
//! by making another member the leader.

use crate::database::Manager;
use crate::model::container::Container;
use crate::model::hint::Hint;

/// One manager, and how it is known.
struct Known {
    name: &'static str,
    /// The names of its programs.
    programs: &'static [&'static str],
    /// How the names of its environment variables begin. An image may have them although nothing of the manager runs in
    /// this container, so they count only for one that nobody has seen the processes of.
    variables: &'static [&'static str],
    /// What is run in the container, in the manager's own way.
    way: &'static [&'static str],
    why: &'static str,
}

const MANAGERS: &[Known] = &[
    Known {
        name: "Patroni",
        programs: &["patroni"],
        variables: &["PATRONI_", "SPILO_"],
        way: &["patronictl", "list"],
        why: "who leads; patronictl switchover takes a leader out of service first, patronictl restart restarts a member",
    },
    Known {
        name: "repmgr",
        programs: &["repmgrd"],
        variables: &["REPMGR_"],
        way: &["repmgr", "cluster", "show"],
        why: "who leads; repmgr service pause keeps it from failing over while you stop a member",
    },
    Known {
        name: "Stolon",
        programs: &["stolon-keeper"],
        variables: &["STKEEPER_"],
        way: &["stolonctl", "status"],
        why: "who leads; stolonctl failkeeper takes a leader out of service first",
    },
    Known {
        name: "pg_auto_failover",
        programs: &["pg_autoctl"],
        variables: &["PG_AUTOCTL_"],
        way: &["pg_autoctl", "show", "state"],
        why: "who leads; pg_autoctl enable maintenance takes a member out of service first",
    },
];

/// Returns the manager of the server in a container: by the processes that were seen in it, else by its command, its
/// environment and its labels.
pub(super) fn of(container: &Container) -> Option<Manager> {
    let known = MANAGERS.iter().find(|known| known.runs_in(container))?;
    let words = ["exec", &container.name].into_iter().chain(known.way.iter().copied());
    Some(Manager { name: known.name, way: Hint::docker(words).why(known.why) })
}

impl Known {
    fn runs_in(&self, container: &Container) -> bool {
        let is_program = |word: &String| self.programs.contains(&super::container::basename(word));
        if !container.processes.is_empty() {
            return container.processes.iter().any(|process| process.command.iter().any(is_program));
        }
        let declares = |pair: &String| self.variables.iter().any(|beginning| pair.starts_with(beginning));
        let is_label = |label: &String| self.programs.iter().any(|program| label.starts_with(program));
        container.command.iter().any(is_program)
            || container.env.iter().any(declares)
            || container.labels.keys().any(is_label)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::model::container::Process;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[rstest]
    #[case("/usr/bin/python3 /usr/local/bin/patroni /home/postgres/postgres.yml", Some("Patroni"))]
    #[case("/opt/bitnami/repmgr/bin/repmgrd -f /opt/bitnami/repmgr/conf/repmgr.conf", Some("repmgr"))]
    #[case("stolon-keeper --data-dir /stolon", Some("Stolon"))]
    #[case("pg_autoctl run --pgdata /data", Some("pg_auto_failover"))]
    #[case("postgres -D /data -c cluster_name=patroni-demo", None)]
    fn a_manager_is_known_by_its_process(#[case] line: &str, #[case] name: Option<&str>) {
        let server = Process { command: words("postgres -D /data"), first: false, ..Process::default() };
        let processes = vec![Process { command: words(line), first: true, ..Process::default() }, server];
        let container = Container { name: "pg".into(), processes, ..Container::default() };
        assert_eq!(of(&container).map(|manager| manager.name), name);
    }

    #[rstest]
    #[case("SPILO_PROVIDER=local", Some("Patroni"))]
    #[case("REPMGR_PRIMARY_HOST=pg-0", Some("repmgr"))]
    #[case("POSTGRES_PASSWORD=repmgr", None)]
    fn a_stopped_one_is_known_by_its_environment(#[case] pair: &str, #[case] name: Option<&str>) {
        let mut container = Container { env: vec![pair.to_owned()], ..Container::default() };
        assert_eq!(of(&container).map(|manager| manager.name), name);
        // What was seen wins: nothing of it runs.
        container.processes = vec![Process { command: words("postgres"), first: true, ..Process::default() }];
        assert_eq!(of(&container), None);
    }
}
