//! What the description of a container says about the server in it.
//!
//! The image alone does not make a server: clients and backup jobs run from the same image. So what runs in it decides,
//! where somebody has looked; else the command does, read as the engine and the official entrypoint would run it. An
//! entrypoint of any name may start a server, by itself or under a supervisor.

use std::path::{Path, PathBuf};

use crate::model::container::{Container, Process};

/// The port, if nothing says otherwise.
const DEFAULT_PORT: &str = "5432";

/// Images (the last part of their name) that are PostgreSQL servers although their environment does not say so.
const IMAGES: &[&str] = &[
    "postgres",
    "postgresql",
    "postgis",
    "timescaledb",
    "timescaledb-ha",
    "pgvector",
    "pgvecto-rs",
    "citus",
];

/// The entrypoint of the official image and of most images made from it. It runs `postgres` if its first argument is
/// an option.
const OFFICIAL_ENTRYPOINT: &str = "docker-entrypoint.sh";

/// Programs that run what follows their options.
const WRAPPERS: &[&str] = &[
    "tini",
    "tini-static",
    "dumb-init",
    "docker-init",
    "catatonit",
    "env",
    "exec",
    "setpriv",
    "nice",
    "ionice",
];

/// Programs that run what follows a user's name.
const USER_WRAPPERS: &[&str] = &["gosu", "su-exec"];

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash"];

/// Returns whether the container runs, or was made to run, a PostgreSQL server.
pub(super) fn is_server(container: &Container) -> bool {
    let Some(server) = Server::of(container) else { return false };
    // Other images have an entrypoint of that name too, and take options: only the name `postgres` says whose server
    // it is.
    server.by_name || looks_like_postgres(container)
}

/// Returns whether a container that does not run looks as if it had run a server: its entrypoint may have any name, but
/// who sets one up names it.
pub(super) fn may_have_run_in(container: &Container) -> bool {
    let is_ours = |pair: &String| {
        let name = pair.split('=').next().unwrap_or_default();
        name.starts_with("POSTGRES")
            || name.starts_with("PG_")
            || matches!(name, "PGDATA" | "PGROOT" | "PGVERSION")
    };
    let image = image_name(&container.image);
    IMAGES.iter().any(|known| image.contains(known)) || container.env.iter().any(is_ours)
}

/// Returns whether the server that was seen in the container is not the process that gets the engine's signals, and that
/// one does not hand them on: a supervisor, or a shell that waits.
pub(super) fn is_supervised(container: &Container) -> bool {
    let mut processes = container.processes.iter();
    let first = processes.find(|process| process.first);
    let hands_on = |program: &str| WRAPPERS.contains(&program) || USER_WRAPPERS.contains(&program);
    first.is_some_and(|first| {
        let program = first.command.first().map_or("", |word| basename(word));
        Server::seen_in(first).is_none() && !hands_on(program) && Server::seen(container).is_some()
    })
}

fn looks_like_postgres(container: &Container) -> bool {
    let has = |name| variable(container, name).is_some();
    has("PGDATA") && (has("PG_MAJOR") || has("PG_VERSION")) || IMAGES.contains(&image_name(&container.image))
}

/// Returns the last part of an image's name: `postgres` for `docker.io/library/postgres:15@sha256:…`.
fn image_name(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    let name = basename(name);
    name.split(':').next().unwrap_or(name)
}

/// Returns where the server keeps its data, according to its command and environment.
pub(super) fn data_directory(container: &Container) -> PathBuf {
    let server = Server::of(container);
    let from_command = server.as_ref().and_then(|server| {
        // `-D` may name a directory of configuration files, such as Debian's under /etc, whose postgresql.conf names
        // the data directory.
        let given = server.option(Some('D'), "data_directory");
        given.filter(|directory| !Path::new(directory).starts_with("/etc"))
    });
    from_command
        .map(PathBuf::from)
        .or_else(|| variable(container, "PGDATA").map(PathBuf::from))
        .unwrap_or_else(|| default_data_directory(container))
}

/// The configuration that a command names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NamedConfiguration {
    /// What lies outside the data directory.
    pub(super) paths: Vec<PathBuf>,
    /// Whether the data directory's own `postgresql.conf` is not read.
    pub(super) replaces_own: bool,
}

/// Returns the configuration that the server's command names outside its data directory.
pub(super) fn configuration(container: &Container) -> NamedConfiguration {
    const FILES: [&str; 7] = [
        "hba_file",
        "ident_file",
        "ssl_cert_file",
        "ssl_key_file",
        "ssl_ca_file",
        "ssl_crl_file",
        "ssl_dh_params_file",
    ];
    let Some(server) = Server::of(container) else { return NamedConfiguration::default() };
    let data_directory = data_directory(container);
    let is_apart = |path: &PathBuf| path.is_absolute() && !path.starts_with(&data_directory);
    let named = |setting| server.option(None, setting).map(PathBuf::from).filter(is_apart);
    // `-D` names where the settings are, whatever they say of the data directory.
    let given = server.option(Some('D'), "").map(PathBuf::from).filter(is_apart);
    let replaces_own = given.is_some() || server.option(None, "config_file").is_some();
    let settings = named("config_file").or(given);
    let paths = settings.into_iter().chain(FILES.into_iter().filter_map(named)).collect();
    NamedConfiguration { paths, replaces_own }
}

/// Returns the major version that the image declares.
pub(super) fn major_version(container: &Container) -> Option<String> {
    let major = variable(container, "PG_MAJOR")?;
    major.parse::<u32>().is_ok().then(|| major.to_owned())
}

/// Returns the role that an entrypoint makes first, which owns everything. `probe.sh` takes the same names.
pub(super) fn superuser(container: &Container) -> String {
    // Where this is set, the role that POSTGRESQL_USERNAME names owns one database only.
    let has_own_password = variable(container, "POSTGRESQL_POSTGRES_PASSWORD").is_some();
    let named = variable(container, "POSTGRESQL_USERNAME").filter(|_| !has_own_password);
    variable(container, "POSTGRES_USER")
        .or(named)
        .or_else(|| variable(container, "PGUSER_SUPERUSER"))
        .unwrap_or("postgres")
        .to_owned()
}

/// Returns where the official image keeps its data, if nothing says otherwise.
fn default_data_directory(container: &Container) -> PathBuf {
    let major = variable(container, "PG_MAJOR").and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= 18 => format!("/var/lib/postgresql/{major}/docker").into(),
        _ => "/var/lib/postgresql/data".into(),
    }
}

/// Returns the port that the server listens on, according to its command and environment; a number.
pub(super) fn port(container: &Container) -> String {
    let is_port = |port: &String| port.parse::<u16>().is_ok();
    let server = Server::of(container);
    server
        .and_then(|server| server.option(Some('p'), "port"))
        .filter(is_port)
        .or_else(|| {
            let named =
                variable(container, "PGPORT").or_else(|| variable(container, "POSTGRESQL_PORT_NUMBER"));
            named.map(str::to_owned).filter(is_port)
        })
        .unwrap_or_else(|| DEFAULT_PORT.to_owned())
}

/// Returns an environment variable of the container; `None` also if it is empty.
fn variable<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    let value = container.env.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.filter(|value| !value.is_empty())
}

pub(super) fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A server's place in a command.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    /// Whether the command names `postgres`, not only the entrypoint that would run it.
    by_name: bool,
    /// The arguments of the server.
    arguments: Vec<String>,
}

impl Server {
    /// Returns the server in a container: the one that was seen, else the one that its command runs.
    fn of(container: &Container) -> Option<Self> {
        Self::seen(container).or_else(|| Self::find(&container.command))
    }

    /// Returns the server among the processes that were seen in a container.
    fn seen(container: &Container) -> Option<Self> {
        container.processes.iter().find_map(Self::seen_in)
    }

    /// Returns the server that a process is. Its children have titles, as "postgres: checkpointer"; those that only set
    /// a cluster up, or repair it, serve nobody.
    fn seen_in(process: &Process) -> Option<Self> {
        const SERVES_NOBODY: [&str; 5] = ["--boot", "--single", "--check", "--describe-config", "-C"];
        let (program, arguments) = process.command.split_first()?;
        let serves = !arguments.iter().any(|argument| SERVES_NOBODY.contains(&argument.as_str()));
        (matches!(basename(program), "postgres" | "postmaster") && serves)
            .then(|| Self { by_name: true, arguments: arguments.to_vec() })
    }

    /// Returns the server that a command runs, if it runs one.
    fn find(command: &[String]) -> Option<Self> {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        Self::in_words(&words).or_else(|| Self::in_script(&words))
    }

    /// Skips what only wraps: `tini -- docker-entrypoint.sh postgres -c …`.
    fn in_words(words: &[&str]) -> Option<Self> {
        let (first, rest) = words.split_first()?;
        let program = basename(first);
        let here = |by_name, arguments: &[&str]| {
            Some(Self { by_name, arguments: arguments.iter().map(|word| (*word).to_owned()).collect() })
        };
        if program == "postgres" || program == "postmaster" {
            return here(true, rest);
        }
        if program == OFFICIAL_ENTRYPOINT && rest.first().is_some_and(|word| word.starts_with('-')) {
            return here(false, rest);
        }
        if WRAPPERS.contains(&program) {
            let own = rest.iter().take_while(|word| word.starts_with('-') || word.contains('=')).count();
            return Self::in_words(&rest[own..]);
        }
        if USER_WRAPPERS.contains(&program) {
            return Self::in_words(rest.get(1..)?);
        }
        // A shell that runs a script file, or an entrypoint of any other name that runs its
        // arguments.
        let runs_the_rest = SHELLS.contains(&program) || program.contains("entrypoint");
        if runs_the_rest { Self::in_words(rest) } else { None }
    }

    /// Looks into `sh -c SCRIPT`, which may be behind an entrypoint: `cp …; exec postgres -c …`.
    fn in_script(words: &[&str]) -> Option<Self> {
        let option = words.iter().position(|word| *word == "-c" || *word == "-ec" || *word == "-lc")?;
        let shell = option.checked_sub(1).and_then(|before| words.get(before))?;
        let script = words.get(option + 1).filter(|_| SHELLS.contains(&basename(shell)))?;
        let commands = script.split([';', '\n', '&', '|']);
        commands
            .map(words_of)
            .find_map(|words| Self::in_words(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Returns the last value given for a setting: `-D x`, `-Dx`, `-c data_directory=x`,
    /// `--data-directory=x`.
    fn option(&self, letter: Option<char>, setting: &str) -> Option<String> {
        let mut value = None;
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            let assignment = if let Some(long) = argument.strip_prefix("--") {
                long
            } else if let Some(rest) = argument.strip_prefix("-c") {
                if rest.is_empty() { arguments.next().map_or("", String::as_str) } else { rest }
            } else {
                let short = letter.and_then(|letter| argument.strip_prefix('-')?.strip_prefix(letter));
                match short {
                    Some("") => value = arguments.next().cloned(),
                    Some(attached) => value = Some(attached.to_owned()),
                    None => {}
                }
                continue;
            };
            // In a setting's name, the server takes dashes for underscores.
            if let Some((name, given)) = assignment.split_once('=')
                && name.replace('-', "_") == setting
            {
                value = Some(given.trim_matches('\'').to_owned());
            }
        }
        value.filter(|value| !value.is_empty())
    }
}

/// Splits a simple command of a shell script into words, without their quotes.
fn words_of(command: &str) -> Vec<String> {
    command
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\'', '(', ')', '{', '}']).to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Returns a container of the official image with this command.
    fn official(command: &[&str]) -> Container {
        Container {
            image: "postgres:15".into(),
            env: vec![
                "PG_MAJOR=15".into(),
                "PG_VERSION=15.18".into(),
                "PGDATA=/var/lib/postgresql/data".into(),
            ],
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ..Container::default()
        }
    }

    #[rstest]
    #[case(&["docker-entrypoint.sh", "postgres"])]
    #[case(&["/usr/local/bin/docker-entrypoint.sh", "postgres", "-c", "shared_buffers=1GB"])]
    #[case(&["docker-entrypoint.sh", "-c", "fsync=off"])]
    #[case(&["/tini", "--", "docker-entrypoint.sh", "postgres"])]
    #[case(&["gosu", "postgres", "/usr/lib/postgresql/15/bin/postgres", "-D", "/data"])]
    #[case(&["postgres", "-D", "/data"])]
    #[case(&["/our-entrypoint.sh", "postgres"])]
    #[case(&["bash", "/usr/local/bin/docker-entrypoint.sh", "postgres"])]
    #[case(&["sh", "-c", "cp /x /y && exec docker-entrypoint.sh postgres -c a=b"])]
    #[case(&["docker-entrypoint.sh", "sh", "-c", "chown postgres /x; exec postgres"])]
    fn a_server_is_known_by_its_command(#[case] command: &[&str]) {
        assert!(is_server(&official(command)));
    }

    #[rstest]
    #[case(&["docker-entrypoint.sh", "psql", "-U", "postgres"])]
    #[case(&["docker-entrypoint.sh", "bash", "-c", "while true; do psql -h db -U postgres; sleep 1; done"])]
    #[case(&["docker-entrypoint.sh", "pg_dump", "-h", "db", "postgres"])]
    #[case(&["sh", "-c", "psql postgresql://user@db/postgres"])]
    #[case(&["sh", "-c", "until pg_isready -h db; do sleep 1; done; psql -d postgres"])]
    #[case(&["/app/writer.sh"])]
    #[case(&["sleep", "infinity"])]
    #[case(&["docker-entrypoint.sh"])]
    #[case(&[])]
    fn a_client_in_the_same_image_is_no_server(#[case] command: &[&str]) {
        assert!(!is_server(&official(command)));
    }

    /// Returns a container whose command says nothing, in which these processes were seen; the first of them is first.
    fn seen(lines: &[&str]) -> Container {
        let process = |(index, line): (usize, &&str)| Process {
            command: line.split(' ').map(str::to_owned).collect(),
            first: index == 0,
            ..Process::default()
        };
        Container {
            image: "our/app:1".into(),
            command: vec!["/opt/start/run.sh".into()],
            processes: lines.iter().enumerate().map(process).collect(),
            ..Container::default()
        }
    }

    #[rstest]
    #[case::run_sh(&["/opt/bitnami/postgresql/bin/postgres -D /bitnami/data -p 6004", "postgres: checkpointer"], false)]
    #[case::a_shell_that_waits(&["bash /scripts/start.sh", "postgres -D /bitnami/data -p 6004", "postgres: writer"], true)]
    #[case::supervisord(&["/usr/bin/python3 /usr/bin/supervisord -n", "/usr/lib/postgresql/15/bin/postgres -D /bitnami/data -p 6004"], true)]
    #[case::s6(&["s6-svscan /run/service", "s6-supervise postgres", "postmaster -D /bitnami/data -p 6004"], true)]
    #[case::tini(&["/sbin/tini -- /start.sh", "/start.sh", "postgres -D /bitnami/data -p 6004"], false)]
    fn a_server_is_known_by_its_process_whatever_started_it(
        #[case] lines: &[&str],
        #[case] supervised: bool,
    ) {
        let container = seen(lines);
        assert!(is_server(&container));
        assert_eq!(data_directory(&container), Path::new("/bitnami/data"));
        assert_eq!(port(&container), "6004");
        assert_eq!(is_supervised(&container), supervised);
    }

    #[rstest]
    #[case::initdb(&["/bin/sh /init.sh", "postgres --boot -D /data"])]
    #[case::a_client(&["psql -h db postgres", "sh -c postgres"])]
    #[case::nobody_looked(&[])]
    fn what_only_sounds_like_a_server_is_none(#[case] lines: &[&str]) {
        assert!(!is_server(&seen(lines)));
        assert!(!is_supervised(&seen(lines)));
    }

    #[rstest]
    #[case("bitnami/postgresql:15", &[], true)]
    #[case("our/app:1", &["POSTGRESQL_PASSWORD=x"], true)]
    #[case("our/app:1", &["PGDATA=/data"], true)]
    #[case("alpine:3", &["PATH=/bin"], false)]
    fn a_stopped_one_is_known_by_what_it_is_set_up_for(
        #[case] image: &str,
        #[case] environment: &[&str],
        #[case] expected: bool,
    ) {
        let env = environment.iter().map(|&pair| pair.to_owned()).collect();
        let container = Container { image: image.into(), env, ..Container::default() };
        assert_eq!(may_have_run_in(&container), expected);
    }

    #[rstest]
    #[case(&["POSTGRES_USER=app"], "app")]
    #[case(&["POSTGRESQL_USERNAME=app", "POSTGRESQL_PASSWORD=x"], "app")]
    #[case(&["POSTGRESQL_USERNAME=app", "POSTGRESQL_POSTGRES_PASSWORD=x"], "postgres")]
    #[case(&["PGUSER_SUPERUSER=root"], "root")]
    #[case(&[], "postgres")]
    fn the_superuser_goes_by_the_names_of_every_known_image(
        #[case] environment: &[&str],
        #[case] expected: &str,
    ) {
        let env = environment.iter().map(|&pair| pair.to_owned()).collect();
        assert_eq!(superuser(&Container { env, ..Container::default() }), expected);
    }

    #[test]
    fn another_database_with_the_same_entrypoint_is_no_postgresql() {
        let redis = Container {
            image: "redis:7".into(),
            command: vec!["docker-entrypoint.sh".into(), "--save".into(), "60".into()],
            ..Container::default()
        };
        assert!(!is_server(&redis));
    }

    #[rstest]
    #[case("docker.io/library/postgres:15", "postgres")]
    #[case("registry:5000/postgis/postgis@sha256:00", "postgis")]
    #[case("timescale/timescaledb:latest-pg16", "timescaledb")]
    #[case("postgres", "postgres")]
    fn an_image_is_known_by_the_last_part_of_its_name(#[case] image: &str, #[case] name: &str) {
        assert_eq!(image_name(image), name);
    }

    #[rstest]
    #[case(&["docker-entrypoint.sh", "postgres"], "/var/lib/postgresql/data")]
    #[case(&["docker-entrypoint.sh", "postgres", "-D", "/a b"], "/a b")]
    #[case(&["docker-entrypoint.sh", "postgres", "-D/a"], "/a")]
    #[case(&["docker-entrypoint.sh", "-c", "data_directory=/b"], "/b")]
    #[case(&["docker-entrypoint.sh", "postgres", "-cdata_directory='/b'"], "/b")]
    #[case(&["docker-entrypoint.sh", "postgres", "--data-directory=/c"], "/c")]
    #[case(&["docker-entrypoint.sh", "postgres", "-D", "/etc/postgresql"], "/var/lib/postgresql/data")]
    fn the_command_may_name_the_data_directory(#[case] command: &[&str], #[case] expected: &str) {
        assert_eq!(data_directory(&official(command)), Path::new(expected));
    }

    #[rstest]
    #[case(&["postgres"], &[], false)]
    #[case(&["postgres", "-c", "config_file=/etc/pg/own.conf"], &["/etc/pg/own.conf"], true)]
    #[case(&["postgres", "--hba-file=/etc/hba", "-cident_file=ident"], &["/etc/hba"], false)]
    #[case(&["postgres", "-D", "/etc/postgresql/15/main"], &["/etc/postgresql/15/main"], true)]
    #[case(&["postgres", "-D", "/var/lib/postgresql/data"], &[], false)]
    #[case(&["postgres", "-c", "config_file=/var/lib/postgresql/data/b.conf"], &[], true)]
    fn the_command_may_name_configuration_outside_the_data(
        #[case] command: &[&str],
        #[case] paths: &[&str],
        #[case] replaces_own: bool,
    ) {
        let paths = paths.iter().map(PathBuf::from).collect();
        assert_eq!(configuration(&official(command)), NamedConfiguration { paths, replaces_own });
    }

    #[test]
    fn without_pgdata_the_default_of_the_version_holds() {
        let mut container = official(&["docker-entrypoint.sh", "postgres"]);
        container.env = vec!["PG_MAJOR=18".into()];
        assert_eq!(data_directory(&container), Path::new("/var/lib/postgresql/18/docker"));
        container.env = vec!["PGDATA=".into()];
        assert_eq!(data_directory(&container), Path::new("/var/lib/postgresql/data"));
    }

    #[rstest]
    #[case(&["docker-entrypoint.sh", "postgres"], &[], "5432")]
    #[case(&["docker-entrypoint.sh", "postgres"], &["PGPORT=6000"], "6000")]
    #[case(&["docker-entrypoint.sh", "postgres"], &["PGPORT=; rm -rf /"], "5432")]
    #[case(&["docker-entrypoint.sh", "postgres", "-p", "6001"], &["PGPORT=6000"], "6001")]
    #[case(&["docker-entrypoint.sh", "-c", "port=6002"], &[], "6002")]
    #[case(&["docker-entrypoint.sh", "-p6003", "-c", "fsync=on"], &[], "6003")]
    fn the_port_is_that_of_command_then_environment(
        #[case] command: &[&str],
        #[case] environment: &[&str],
        #[case] expected: &str,
    ) {
        let mut container = official(command);
        container.env.extend(environment.iter().map(|&pair| pair.to_owned()));
        assert_eq!(port(&container), expected);
    }
}
