//! Docker 26 with Compose 2 and PostgreSQL 17: everything that is done to a service, done there.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::database::Volsnap;
use crate::program::Ran;
use crate::second_engine::SecondEngine;

/// Two databases. What `mail` is given in a file makes of its configuration something that Compose 2 does not
/// recognise as its own.
const COMPOSE: &str = r#"
name: shop
services:
  db:
    image: ${POSTGRES_IMAGE}
    environment:
      POSTGRES_DB: memory_db
      POSTGRES_USER: user
      POSTGRES_PASSWORD: secret-word
    healthcheck:
      test: ["CMD", "pg_isready", "-h", "127.0.0.1", "-U", "user", "-d", "memory_db"]
      interval: 1s
      retries: 60
    volumes:
      - db_data:/var/lib/postgresql/data
  mail:
    image: ${POSTGRES_IMAGE}
    env_file: mail.env
    volumes:
      - mail_data:/var/lib/postgresql/data
volumes:
  db_data:
    labels: {owner: "the shop"}
  mail_data:
"#;

const MAIL: &str =
    "POSTGRES_DB=memory_db\nPOSTGRES_USER=user\nPOSTGRES_PASSWORD=secret-word\nGREETING=hello\n";

/// What the image is called by whoever pulls it.
const IMAGE: &str = "postgres:17";

/// Returns the image with a PostgreSQL 17 in it; the engine alone has it.
fn image_17() -> String {
    std::env::var("VOLSNAP_TEST_IMAGE_17").unwrap_or_else(|_| "volsnap-test/postgres:17".to_owned())
}

/// The project on the engine, and volsnap with Compose 2 for a plugin.
pub(crate) struct Shop {
    pub(crate) engine: SecondEngine,
    volsnap: Volsnap,
    /// It has the project, and a disk for backups.
    directory: TempDir,
}

impl Shop {
    pub(crate) fn open() -> Option<Self> {
        let (engine, volsnap) = (SecondEngine::newer()?, Volsnap::new());
        engine.install_compose(&volsnap.home().join(".docker"));
        let directory = tempfile::tempdir().unwrap();
        // What a manifest names is what a registry has.
        engine.docker(&["tag", &image_17(), IMAGE]);
        let shop = Self { engine, volsnap, directory };
        for directory in [shop.path(), shop.disk()] {
            std::fs::create_dir(directory).unwrap();
        }
        shop.write("compose.yaml", COMPOSE);
        shop.write("mail.env", MAIL);
        shop.write(".env", &format!("POSTGRES_IMAGE={IMAGE}\n"));
        Some(shop)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Returns the project's directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("shop")
    }

    /// Returns the directory for backups.
    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn in_it(&self, mut command: Command) -> Command {
        command.current_dir(self.path()).env("DOCKER_HOST", self.engine.address());
        command
    }

    /// Returns a shell as its user has it.
    pub(crate) fn shell(&self) -> Command {
        let mut shell = self.volsnap.shell();
        shell.env("DOCKER_HOST", self.engine.address());
        shell
    }

    /// Takes everything away but the backups and the image.
    pub(crate) fn lose(&self) {
        let lists: [(&[&str], &[&str]); 3] = [
            (&["ps", "-aq"], &["rm", "-fv"]),
            (&["volume", "ls", "-q"], &["volume", "rm"]),
            (&["network", "ls", "-q", "--filter", "type=custom"], &["network", "rm"]),
        ];
        for (list, remove) in lists {
            let listed = self.engine.docker(list);
            if !listed.is_empty() {
                self.engine.docker(&[remove, &listed.lines().collect::<Vec<_>>()].concat());
            }
        }
        let _ = std::fs::remove_dir_all(self.path());
        let _ = std::fs::remove_dir_all(self.volsnap.state());
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.in_it(self.volsnap.command(arguments)))
    }

    /// Runs Compose 2, which has to succeed; returns what it said.
    #[track_caller]
    pub(crate) fn compose(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("docker");
        command.env("HOME", self.volsnap.home()).arg("compose").args(arguments);
        let output = self.in_it(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    /// A docker-compose of version 1 cannot make a container anew there. Known by what it says of its version, it need
    /// not be a real one: it is not to be run.
    #[track_caller]
    fn assert_version_1_is_refused(&self) {
        let programs = self.directory.path().join("programs");
        std::fs::create_dir(&programs).unwrap();
        // Nor has its client the plugin.
        let version_1 = "#!/bin/sh\n[ \"$1\" = version ] && echo 1.29.2\n";
        for (name, text) in [("docker-compose", version_1), ("docker", "#!/bin/sh\nexit 1\n")] {
            std::fs::write(programs.join(name), text).unwrap();
            std::fs::set_permissions(programs.join(name), Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = self.in_it(self.volsnap.command(["restart", "mail", "--recreate"]));
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        Ran::of(command.env("PATH", path))
            .refused(1, &["docker-compose 1", "install Compose 2", "nothing was stopped"]);
    }

    /// Returns the container of a service, by its id.
    fn service(&self, name: &str) -> String {
        let filter = format!("label=com.docker.compose.service={name}");
        self.engine.docker(&["ps", "-q", "--no-trunc", "--filter", &filter])
    }

    #[track_caller]
    pub(crate) fn ask(&self, service: &str, sql: &str) -> String {
        self.engine.await_answer(|| self.service(service), sql)
    }
}

#[tokio::test]
async fn a_service_of_compose_2_with_postgresql_17_is_saved_drilled_restored_and_moved_there_and_back() {
    let Some(shop) = Shop::open() else { return };
    shop.compose(&["up", "-d", "--wait", "db"]);
    shop.ask("db", "create table kept as select generate_series(1, 1000) as n");
    let taken = shop.run(&["snapshot", "db", "--json"]).json();
    let taken = format!("shop_db_data/{}", taken["id"].as_str().unwrap());
    let shown = shop.run(&["show", &taken]);
    let said = shown.expect(0).stdout();
    assert!(said.contains("clean") && said.contains("postgresql 17"), "{said}");
    let _ = shop.run(&["snapshot", "db", "--quiesce", "online"]).expect(0);
    let drilled = shop.run(&["verify", "--drill", &taken]);
    assert!(drilled.expect(0).stdout().contains("is proved"), "{}", drilled.stdout());

    shop.ask("db", "delete from kept");
    let _ = shop.run(&["restore", &taken, "-y"]).expect(0);
    assert_eq!(shop.ask("db", "select count(*) from kept"), "1000");
    let before = shop.service("db");
    let _ = shop.run(&["restart", "db", "--recreate"]).expect(0);
    assert_ne!(shop.service("db"), before, "it was made anew");

    let place = shop.path().join("data");
    let mounted = || {
        let format = "{{range .Mounts}}{{.Type}} {{.Source}}{{end}}";
        shop.engine.docker(&["inspect", "--format", format, &shop.service("db")])
    };
    let on_volume = mounted();
    let _ = shop.run(&["migrate", "db", place.to_str().unwrap(), "-y"]).expect(0);
    assert_eq!(mounted(), format!("bind {}", place.display()));
    assert_eq!(shop.ask("db", "select count(*) from kept"), "1000");
    let _ = shop.run(&["migrate", "db", "--back", "-y"]).expect(0);
    assert_eq!(mounted(), on_volume);
    assert_eq!(shop.ask("db", "select count(*) from kept"), "1000");
    // Compose has nothing to change in it, and nothing to say.
    let before = shop.service("db");
    let said = shop.compose(&["up", "-d", "--wait", "db"]);
    assert_eq!(shop.service("db"), before, "{said}");
    assert!(!said.contains("warn"), "{said}");

    // The volume comes back after its loss, with what its owner said of it; what brings up the service is printed.
    shop.compose(&["down", "-v"]);
    let mut elsewhere = shop.volsnap.command(["restore", &taken, "--new-volume", "shop_db_data", "-y"]);
    let restored = Ran::of(elsewhere.env("DOCKER_HOST", shop.engine.address()));
    let next = restored.expect(0).next();
    let up = next.iter().find(|line| line.starts_with("docker compose")).unwrap();
    let brought_up = Ran::of(shop.shell().args(["-c", up]));
    let said = brought_up.expect(0).stderr();
    assert!(!said.contains("not created by Docker Compose"), "{said}");
    assert_eq!(shop.ask("db", "select count(*) from kept"), "1000");
    let owner = "{{index .Labels \"owner\"}}";
    assert_eq!(shop.engine.docker(&["volume", "inspect", "-f", owner, "shop_db_data"]), "the shop");
    shop.volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_service_with_an_env_file_is_saved_and_made_anew_with_all_that_it_had() {
    let Some(shop) = Shop::open() else { return };
    shop.compose(&["up", "-d", "mail"]);
    shop.ask("mail", "create table kept as select generate_series(1, 1000) as n");
    let variables = || {
        let format = "{{range .Config.Env}}{{println .}}{{end}}";
        let told = shop.engine.docker(&["inspect", "--format", format, &shop.service("mail")]);
        told.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (before, had) = (shop.service("mail"), variables());
    assert!(had.contains("GREETING=hello"), "{had:?}");
    for arguments in [&["snapshot", "mail"][..], &["restart", "mail"]] {
        let _ = shop.run(arguments).expect(0);
        assert_eq!(shop.service("mail"), before);
    }
    shop.assert_version_1_is_refused();
    assert_eq!(shop.service("mail"), before);
    let _ = shop.run(&["restart", "mail", "--recreate"]).expect(0);
    assert_ne!(shop.service("mail"), before, "it was made anew");
    assert_eq!(variables(), had);
    assert_eq!(shop.ask("mail", "select count(*) from kept"), "1000");
    shop.volsnap.assert_no_leftovers();
}
