//! Boots a PostgreSQL on a copy of its data, away from everything that it used to reach.
//!
//! The server runs as the owner of the data, with nothing but the data. The copy's own rules replace the server's
//! about who may connect (only what is inside the container can). It archives nothing and follows nobody, and
//! everything that it would do by itself is off, so that it shows exactly what was restored. Configuration that lies
//! outside the data is there only if the image has it: the copy does without the rest, and says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Postgres;
use crate::database::sandbox::StructureCheck;
use crate::database::{Sandbox, SandboxSource, Structure};
use crate::model::container::{Container, ExecOutput};

const BOOT: &str = include_str!("boot.sh");
const STRUCTURE: &str = include_str!("structure.sh");

/// Where the script that boots a copy writes what is its own; in memory.
const SCRATCH: &str = "/tmp";
/// What that script writes down of the configuration, in there.
const ELSEWHERE: &str = "/tmp/volsnap-elsewhere";
/// Where the copy listens, whatever the image declares.
const PORT: &str = "5432";

/// How many lines of damage to report; more say nothing new.
const DAMAGE_MAX: usize = 50;

impl SandboxSource for Postgres {
    fn sandbox(&self, data_directory: &Path, user: Option<&str>, database: Option<&str>) -> Sandbox {
        let directory = data_directory.display().to_string();
        let mut env = BTreeMap::from([
            ("PGDATA".to_owned(), directory.clone()),
            ("PGPORT".to_owned(), PORT.to_owned()),
        ]);
        env.extend(user.map(|user| ("POSTGRES_USER".to_owned(), user.to_owned())));
        env.extend(database.map(|database| ("POSTGRES_DB".to_owned(), database.to_owned())));
        Sandbox {
            command: ["sh", "-c", BOOT, "volsnap", &directory, SCRATCH].map(str::to_owned).to_vec(),
            env,
            scratch: vec![SCRATCH.into(), "/var/run/postgresql".into()],
        }
    }

    fn copy_configuration_command(&self) -> Option<Vec<String>> {
        Some(["cat", ELSEWHERE].map(str::to_owned).to_vec())
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
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::Command;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;
    use crate::database;

    /// A data directory, and a place outside of it.
    struct Scene {
        root: TempDir,
    }

    impl Scene {
        fn new(files: &[(&str, &str)]) -> Self {
            let scene = Self { root: TempDir::new().unwrap() };
            for directory in ["data", "scratch", "bin"] {
                fs::create_dir(scene.root.path().join(directory)).unwrap();
            }
            for (name, text) in files {
                scene.write(name, &text.replace("ROOT", scene.root.path().to_str().unwrap()));
            }
            scene
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Boots it with a server that only says what it is given; returns that, the settings that were put together,
        /// and what is said of the configuration.
        fn boot(&self) -> [String; 3] {
            let control =
                "echo 'max_connections setting:              300'; echo 'max_prepared_xacts setting:  7'";
            for (name, script) in [("postgres", "echo \"$@\""), ("pg_controldata", control)] {
                let name = format!("bin/{name}");
                self.write(&name, &format!("#!/bin/sh\n{script}\n"));
                fs::set_permissions(self.root.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
            }
            let root = self.root.path();
            let output = Command::new("sh")
                .args(["-c", BOOT, "volsnap"])
                .args([root.join("data"), root.join("scratch")])
                .env("PATH", format!("{}:/usr/bin:/bin", root.join("bin").display()))
                .output()
                .unwrap();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            let said = |name: &str| fs::read_to_string(root.join("scratch").join(name)).unwrap();
            let root = root.canonicalize().unwrap().display().to_string();
            let short = |text: String| text.replace(&root, "ROOT");
            [
                short(String::from_utf8(output.stdout).unwrap()),
                short(said("volsnap.conf")),
                short(said("volsnap-elsewhere")),
            ]
        }
    }

    /// What the server last ran with, which counts for more than all that the files say.
    const RAN_WITH: &str = "-c max_connections=300 -c max_prepared_transactions=7";

    #[rstest]
    #[case::include("include 'ROOT/no.conf'", "absent ROOT/no.conf")]
    #[case::include_in_another_form("  INCLUDE=ROOT/no.conf# mine", "absent ROOT/no.conf")]
    #[case::relative("include '../no.conf'", "absent ROOT/data/../no.conf")]
    #[case::directory("include_dir = 'ROOT/no.d'", "absent ROOT/no.d")]
    fn what_is_not_there_is_left_out_and_told(#[case] line: &str, #[case] told: &str) {
        let scene = Scene::new(&[(
            "data/postgresql.conf",
            &format!("work_mem = '5MB' # include\n{line}\njit = off"),
        )]);
        let [given, settings, said] = scene.boot();
        assert!(given.contains("config_file=ROOT/scratch/volsnap.conf"), "{given}");
        assert_eq!(settings, "work_mem = '5MB' # include\njit = off\n");
        assert!(given.trim_end().ends_with(RAN_WITH), "{given}");
        let told = told.replace("/data/..", "");
        assert_eq!(said, format!("used ROOT/data/postgresql.conf\n{told}\n"));
    }

    #[test]
    fn what_is_there_is_read_in_the_servers_order_whichever_file_is_not() {
        let scene = Scene::new(&[
            ("data/postgresql.conf", "include_dir 'conf.d'\ninclude 'ROOT/image/own.conf'\nlast = 1\n"),
            ("data/conf.d/b.conf", "b = 1\n"),
            ("data/conf.d/a.conf", "include 'deeper'\n"),
            ("data/conf.d/deeper", "a = 1\n"),
            ("image/own.conf", "own = 1\ninclude 'mounted.conf'\ninclude_if_exists 'perhaps.conf'\n"),
        ]);
        let [given, settings, said] = scene.boot();
        assert!(given.contains("config_file="), "{given}");
        assert_eq!(settings, "a = 1\nb = 1\nown = 1\nlast = 1\n");
        let outside: Vec<_> = said.lines().filter(|line| !line.contains("ROOT/data/")).collect();
        assert_eq!(outside, ["used ROOT/image/own.conf", "absent ROOT/image/mounted.conf"]);
    }

    #[test]
    fn its_own_files_stand_as_they_are_where_all_are_there() {
        let scene = Scene::new(&[
            ("data/postgresql.conf", "include_if_exists 'ROOT/no.conf'\ninclude 'ROOT/image/own.conf'\n"),
            ("image/own.conf", "own = 1\n"),
        ]);
        let [given, _, said] = scene.boot();
        assert!(given.starts_with("-D ROOT/data -c data_directory=ROOT/data "), "{given}");
        assert!(!given.contains("config_file"), "{given}");
        // It may have been started with arguments, which no file has.
        assert!(given.trim_end().ends_with(RAN_WITH), "{given}");
        assert_eq!(said, "used ROOT/data/postgresql.conf\nused ROOT/image/own.conf\n");
    }

    #[rstest]
    #[case::none_at_all(None, "")]
    #[case::led_outside(Some("/no/postgresql.conf"), "absent /no/postgresql.conf\n")]
    fn without_its_file_it_runs_with_what_it_last_ran_with(
        #[case] leads_to: Option<&str>,
        #[case] told: &str,
    ) {
        let scene = Scene::new(&[]);
        if let Some(target) = leads_to {
            symlink(target, scene.root.path().join("data/postgresql.conf")).unwrap();
        }
        let [given, settings, said] = scene.boot();
        assert!(given.contains("config_file="), "{given}");
        assert!(given.trim_end().ends_with(RAN_WITH), "{given}");
        assert_eq!((settings.as_str(), said.as_str()), ("", told));
    }

    #[test]
    fn what_boots_a_copy_is_known_for_a_server_of_the_same_kind() {
        let Sandbox { command, env, .. } = Postgres.sandbox(Path::new("/data/pg"), Some("app"), Some("shop"));
        let pairs = env.iter().map(|(name, value)| format!("{name}={value}"));
        let container = Container { command, env: pairs.collect(), ..Container::default() };
        assert_eq!(database::of(&container).map(database::Database::name), Some("postgresql"));
        let server = database::server_of(&container).unwrap();
        assert_eq!(server.data_directory(&container).as_deref(), Some(Path::new("/data/pg")));
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
