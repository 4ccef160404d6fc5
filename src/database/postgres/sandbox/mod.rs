//! Boots a PostgreSQL on a copy of its data, away from everything that it used to reach.
//!
//! The server runs as the owner of the data, with nothing but the data. The copy's own rules replace the server's
//! about who may connect (only what is inside the container can). It archives nothing and follows nobody, and
//! everything that it would do by itself is off, so that it shows exactly what was restored.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Postgres;
use crate::database::sandbox::StructureCheck;
use crate::database::{Sandbox, SandboxSource, Structure};
use crate::model::container::{Container, ExecOutput};

const BOOT: &str = include_str!("boot.sh");
const STRUCTURE: &str = include_str!("structure.sh");

/// How many lines of damage to report; more say nothing new.
const DAMAGE_MAX: usize = 50;

impl SandboxSource for Postgres {
    fn sandbox(&self, data_directory: &Path, user: Option<&str>, database: Option<&str>) -> Sandbox {
        let directory = data_directory.display().to_string();
        let mut env = BTreeMap::from([("PGDATA".to_owned(), directory.clone())]);
        env.extend(user.map(|user| ("POSTGRES_USER".to_owned(), user.to_owned())));
        env.extend(database.map(|database| ("POSTGRES_DB".to_owned(), database.to_owned())));
        Sandbox {
            command: ["sh", "-c", BOOT, "volsnap", &directory].map(str::to_owned).to_vec(),
            env,
            scratch: vec!["/tmp".into(), "/var/run/postgresql".into()],
        }
    }

    fn structure_check(&self, _container: &Container) -> Option<StructureCheck> {
        Some(StructureCheck {
            tool: "amcheck",
            subject: "indexes",
            command: ["sh", "-c", STRUCTURE, "volsnap"].map(str::to_owned).to_vec(),
            limit: Duration::from_mins(30),
        })
    }

    fn structure(&self, output: &ExecOutput) -> Structure {
        let said = String::from_utf8_lossy(&output.stdout);
        match output.exit_code {
            0 => Structure::Sound,
            2 => {
                let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
                Structure::Damaged(lines.take(DAMAGE_MAX).map(str::to_owned).collect())
            }
            _ => Structure::Unknown(said.trim().replace('\n', "; ")),
        }
    }

    /// The server's own reason for giving up comes before what follows from it.
    fn stderr_tail(&self, log: &str) -> Option<String> {
        let is_fatal = |line: &&str| ["FATAL:", "PANIC:"].iter().any(|mark| line.contains(mark));
        let line =
            log.lines().find(is_fatal).or_else(|| log.lines().rfind(|line| !line.trim().is_empty()))?;
        let said = line.find("FATAL:").or_else(|| line.find("PANIC:")).map_or(line, |at| &line[at..]);
        Some(said.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database;

    #[test]
    fn what_boots_a_copy_is_known_for_a_server_of_the_same_kind() {
        let Sandbox { command, env, .. } = Postgres.sandbox(Path::new("/data/pg"), Some("app"), Some("shop"));
        let container = Container { command, ..Container::default() };
        assert_eq!(database::of(&container).map(database::Database::name), Some("postgresql"));
        assert_eq!((env["PGDATA"].as_str(), env["POSTGRES_USER"].as_str()), ("/data/pg", "app"));
        assert_eq!(env["POSTGRES_DB"], "shop");
    }

    #[test]
    fn what_amcheck_says_is_damage_only_when_it_has_looked() {
        let said = |exit_code, text: &str| {
            Postgres.structure(&ExecOutput { exit_code, stdout: text.into(), ..ExecOutput::default() })
        };
        assert_eq!(said(0, ""), Structure::Sound);
        assert_eq!(
            said(2, "heap table \"a.public.t\":\n    ERROR:  invalid page\n"),
            Structure::Damaged(vec!["heap table \"a.public.t\":".into(), "ERROR:  invalid page".into()])
        );
        assert_eq!(
            said(3, "the image has no pg_amcheck\n"),
            Structure::Unknown("the image has no pg_amcheck".into())
        );
        assert_eq!(said(127, ""), Structure::Unknown(String::new()));
    }

    #[test]
    fn the_last_words_are_those_of_the_failure() {
        let log = "2026-11-21 LOG:  starting\n2026-11-21 09:00 UTC [1] PANIC:  could not locate a valid checkpoint record\n\
                   2026-11-21 LOG:  startup process was terminated by signal 6\n";
        assert_eq!(
            Postgres.stderr_tail(log).as_deref(),
            Some("PANIC:  could not locate a valid checkpoint record")
        );
        assert_eq!(
            Postgres.stderr_tail("sh: exec: postgres: not found\n").as_deref(),
            Some("sh: exec: postgres: not found")
        );
        assert_eq!(Postgres.stderr_tail("\n"), None);
    }
}
