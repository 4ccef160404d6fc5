//! The printed commands, pasted in the state in which they are printed. None is the very command just typed, each keeps
//! the repository, the engine, `--json` and `--dry-run` that were typed, and the service runs afterwards.
//!
//! Which test pastes which command is written down in `tests/advice.txt`.

use std::path::Path;

use crate::database::{Postgres, Volsnap};
use crate::program::Ran;
use crate::project::Project;
use crate::world::{World, docker};

/// A database, and a volsnap that is told repository and engine on its command line.
struct Scene {
    postgres: Postgres,
    volsnap: Volsnap,
    globals: [String; 4],
}

impl Scene {
    async fn new() -> Self {
        let (postgres, volsnap) = (Postgres::start().await, Volsnap::new());
        postgres.fill();
        let repository = volsnap.directory().join("it's elsewhere").display().to_string();
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        Self { postgres, volsnap, globals: ["--repo".to_owned(), repository, "--host".to_owned(), host] }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let globals = self.globals.iter().map(String::as_str);
        self.volsnap.run(globals.chain(arguments.iter().copied()))
    }

    /// Types a command that ends with this code, and pastes the printed command of this number; returns both.
    #[track_caller]
    fn follow(&self, typed: &[&str], code: i32, number: usize) -> (String, Ran) {
        let refused = self.run(typed);
        refused.expect(code);
        let printed = refused.next();
        let command = printed.get(number).unwrap_or_else(|| panic!("{printed:?}\n{}", refused.stderr()));
        let command = command.split("    #").next().unwrap().to_owned();
        self.assert_kept(typed, &command);
        let pasted = self.volsnap.paste(&command);
        (command, pasted)
    }

    /// The command keeps what was typed, and is another one.
    #[track_caller]
    fn assert_kept(&self, typed: &[&str], command: &str) {
        let has = |word: &str| command.contains(word) || command.contains(&word.replace('\'', r"'\''"));
        if command.starts_with("volsnap") {
            assert!(has(&self.globals[1]), "another repository: {command}");
            let kept = ["--json", "--dry-run"].iter().filter(|word| typed.contains(word));
            kept.for_each(|word| assert!(has(word), "{word} is lost: {command}"));
            let rest = command.split_whitespace().filter(|word| typed.contains(word)).count();
            let more = command.split_whitespace().count() - self.globals.len() - 1;
            assert!(rest != typed.len() || more != typed.len() + 1, "the very command just typed: {command}");
        }
        assert!(!command.starts_with("docker") || has(&self.globals[3]), "another engine: {command}");
    }

    /// As [`follow`](Self::follow); the pasted command succeeds, and the database has its rows.
    #[track_caller]
    fn leads_on(&self, typed: &[&str], code: i32, number: usize, said: &str) {
        let (command, pasted) = self.follow(typed, code, number);
        pasted.expect(0);
        let output = format!("{}{}", pasted.stdout(), pasted.stderr());
        assert!(output.contains(said), "{command}: {output}");
        self.postgres.await_answer();
        self.postgres.assert_whole();
        self.volsnap.assert_no_leftovers();
    }
}

#[tokio::test]
async fn what_a_refused_snapshot_advises_can_be_pasted() {
    let scene = Scene::new().await;
    let target = scene.postgres.target();
    // What is left out stays left out, whichever way is taken.
    let none = ["snapshot", &target, "--quiesce", "none", "--exclude", "pg_stat_tmp/*", "--json"];
    scene.leads_on(&none, 2, 0, "\"clean\"");
    scene.leads_on(&["snapshot", &target, "--quiesce", "none", "--dry-run"], 2, 0, "snapshot");
    assert_eq!(scene.run(&["list", "--json"]).json().as_array().unwrap().len(), 1, "a plan was executed");

    let online = ["snapshot", &target, "--quiesce", "online", "--capture", "direct"];
    scene.leads_on(&online, 2, 0, "online");
    scene.leads_on(&online, 2, 1, "clean");
}

#[tokio::test]
async fn what_an_option_that_names_the_wrong_container_advises_keeps_the_right_ones() {
    let scene = Scene::new().await;
    let (target, container) = (scene.postgres.target(), scene.postgres.container.clone());
    let (wrong, kept) = (format!("{container}x"), format!("--kill={container}"));
    let keeps = |command: &str| assert!(command.contains(&kept), "{command}");
    let plan = ["snapshot", &target, "--dry-run", &kept];
    let (command, planned) = scene.follow(&[&plan[..], &["--kill", &wrong]].concat(), 2, 0);
    keeps(&command);
    assert!(command.contains(&format!("--kill {container}")) && !command.contains(&wrong), "{command}");
    planned.expect(0);
    for option in ["--ignore", "--hold"] {
        // A database is never ignored, and who cannot see the data is nobody to hold.
        let bystander = scene.postgres.world.name("bystander");
        let name = if option == "--ignore" { &container } else { &bystander };
        if option == "--hold" {
            crate::doctor::create(
                &scene.postgres.world,
                "bystander",
                &["--tmpfs", "/var/lib/postgresql/data"],
            );
        }
        let (command, planned) = scene.follow(&[&plan[..], &[option, name]].concat(), 2, 0);
        keeps(&command);
        assert!(!command.contains(option), "{command}");
        planned.expect(0);
    }
}

#[tokio::test]
async fn what_is_advised_for_a_service_that_is_frozen_or_down_can_be_pasted() {
    let scene = Scene::new().await;
    let (target, container) = (scene.postgres.target(), scene.postgres.container.clone());
    let _ = scene.run(&["snapshot", &target]).expect(0);
    docker(&["pause", &container]);
    scene.leads_on(&["restart", &target], 1, 0, "");
    for arguments in [&["check", &target][..], &["restart", &target]] {
        docker(&["stop", "-t", "60", &container]);
        scene.leads_on(arguments, 1, 0, "");
    }
    let _ = scene.run(&["restart", &target]).expect(0);
}

#[tokio::test]
async fn what_a_refused_restore_advises_can_be_pasted() {
    let scene = Scene::new().await;
    let (target, volume) = (scene.postgres.target(), scene.postgres.volume.clone());
    let _ = scene.run(&["snapshot", &target]).expect(0);
    // Nobody said yes.
    scene.leads_on(&["restore", "latest"], 2, 0, "restore");
    scene.leads_on(&["restore", "latest"], 2, 1, "restored");
    // What is there already is where it can go.
    scene.leads_on(&["restore", "latest", "--new-volume", &volume, "--yes", "--no-safety"], 2, 0, "restored");
    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("mine"), "x").unwrap();
    let full = full.path().to_str().unwrap();
    scene.leads_on(&["restore", "latest", "--dir", full, "--dry-run", "--json"], 2, 0, full);
    assert!(Path::new(full).join("mine").exists());
    // The undo of a restore keeps what it replaces.
    let restored = scene.run(&["restore", "latest", "--yes"]);
    let undo = restored.expect(0).next().into_iter().find(|line| line.contains("restore")).unwrap();
    scene.postgres.await_answer();
    let _ = scene.volsnap.paste(&format!("{undo} --yes")).expect(0);
    scene.postgres.await_answer();
    scene.postgres.assert_whole();
}

#[tokio::test]
async fn what_a_restore_of_data_that_is_gone_advises_brings_it_back() {
    let scene = Scene::new().await;
    let (container, volume) = (scene.postgres.container.clone(), scene.postgres.volume.clone());
    let _ = scene.run(&["snapshot", &scene.postgres.target()]).expect(0);
    docker(&["rm", "-f", &container]);
    docker(&["volume", "rm", &volume]);
    let (command, planned) = scene.follow(&["restore", "latest", "--dry-run"], 2, 0);
    assert!(command.contains("--new-volume") && planned.expect(0).stdout().contains(&volume), "{command}");

    let restored = scene.run(&["restore", "latest", "--new-volume", &volume, "--yes"]);
    let next = restored.expect(0).next();
    let run = next.iter().find(|line| line.contains(" run -d ")).unwrap();
    let _ = scene.volsnap.paste(run).expect(0);
    scene.postgres.await_answer();
    scene.postgres.assert_whole();
    let look = next.iter().find(|line| line.contains(" exec ")).unwrap();
    assert!(scene.volsnap.paste(look).expect(0).stdout().contains("memory_db"), "{look}");
    docker(&["rm", "-f", &container]);
    docker(&["volume", "rm", &volume]);
}

#[tokio::test]
async fn files_that_say_another_thing_are_followed_by_a_restart_and_never_to_other_data() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up_with(&world, str::to_owned);
    let mut postgres = Postgres { container: project.service(), volume: project.volume("db_data"), world };
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    let (target, text) = (project.target(), project.text());
    let place = volsnap.directory().join("moved");
    let migrate = |options: &[&str]| {
        volsnap.run([&["migrate", &target, place.to_str().unwrap(), "-y"], options].concat())
    };

    // Another volume is never advised to be brought up, in whatever words the files name it.
    project.rewrite(|text| {
        let text = text.replace("- db_data:/", "- other_data:/");
        text.replace("\nvolumes:\n", "\nvolumes:\n  other_data:\n")
    });
    let refused = migrate(&[]);
    refused.refused(1, &["nothing was stopped", "docker inspect"]);
    assert!(!refused.stderr().contains(" up -d"), "{}", refused.stderr());

    // What is no data is made as the files say, and the migration goes on.
    project.rewrite(|_| text.replace("POSTGRES_DB: memory_db", "POSTGRES_DB: other_db"));
    let refused = migrate(&[]);
    refused.refused(1, &["environment POSTGRES_DB", "--recreate"]);
    let restart = refused.next().remove(0);
    let _ = volsnap.paste(&restart).expect(2);
    let restart = restart.split("    #").next().unwrap().to_owned();
    let _ = volsnap.paste(&format!("{restart} --yes")).expect(0);
    postgres.container = project.service();
    postgres.assert_whole();
    let moved = migrate(&[]);
    let back = moved.expect(0).next();
    postgres.container = project.service();
    postgres.assert_whole();
    drop(back);
    let _ = volsnap.run(["migrate", &target, "--back", "-y"]).expect(0);
    postgres.container = project.service();
    postgres.assert_whole();
}
