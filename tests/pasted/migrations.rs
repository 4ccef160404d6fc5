//! What a migration, and a refused one, says to type next.

use std::path::{Path, PathBuf};

use serde_json::Value;
use volsnap::engine::Docker as _;
use volsnap::engine::failing::Mode;
use volsnap::engine::memory::compose::config_hash;
use volsnap::model::container::{Container, Mount, MountKind};

use super::desk::{Desk, Ran};
use super::simulated::{COMPOSE_FILE, DATA, run};

const SERVICE: &str = "service:shop/db";

impl Desk {
    /// Returns where the data is moved to.
    fn destination(&self) -> PathBuf {
        self.world.elsewhere.path().join("migrated")
    }

    /// Returns the words that migrate a target there.
    fn there<'w>(&self, target: &'w str, place: &'w Path) -> [&'w str; 4] {
        ["migrate", target, place.to_str().unwrap(), "--yes"]
    }

    async fn migrate(&self, target: &str) {
        let place = self.destination();
        self.run(&self.there(target, &place)).await.expect(0);
        self.assert_well("migrated").await;
    }

    /// Adds a running container that mounts the volume of the database.
    async fn add_user(&self, name: &str, image: &str) {
        let mount = Mount {
            kind: MountKind::Volume,
            volume: Some(DATA.to_owned()),
            destination: if image == "app:1" { "/view" } else { super::simulated::PGDATA }.into(),
            ..Mount::default()
        };
        let script =
            if image == "app:1" { vec!["sh", "-c", name] } else { vec!["docker-entrypoint.sh", "postgres"] };
        let user = Container {
            name: name.to_owned(),
            image: image.to_owned(),
            command: script.into_iter().map(str::to_owned).collect(),
            mounts: vec![mount],
            ..Container::default()
        };
        let id = self.world.engine.add(user).unwrap();
        self.world.engine.start(&id).await.unwrap();
    }

    /// Writes another compose file, from which the containers are as if they were made.
    async fn made_from(&self, text: &str) {
        std::fs::write(self.world.compose_file(), text).unwrap();
        for name in ["db", "app"] {
            let digest = config_hash(&[text.to_owned()]);
            let label = "com.docker.compose.config-hash".to_owned();
            self.change(name, |one| _ = one.labels.insert(label, digest)).await;
        }
    }
}

/// Migrates in one world after the other, in each of which a later call of this name fails, until this is printed.
async fn migration_that_prints(is_composed: bool, call: &'static str, has: &str) -> (Desk, Ran) {
    for nth in 1..60 {
        let mut desk = if is_composed { Desk::composed().await } else { Desk::new().await };
        let place = desk.destination();
        desk.world.failing.fail_nth(call, nth, Mode::Before);
        let ran = desk.run(&desk.there(if is_composed { SERVICE } else { "db" }, &place)).await;
        desk.arm();
        if ran.printed().iter().any(|line| line.contains(has)) {
            return (desk, ran);
        }
    }
    panic!("{has} is never printed");
}

#[test]
fn what_was_moved_is_moved_back_and_what_it_leaves_is_removed() {
    run(async {
        let desk = Desk::new().await;
        let place = desk.destination();
        let moved = desk.run(&desk.there("db", &place)).await;
        moved.expect(0);
        let printed = moved.printed();
        let [remove, back] = [" volume rm ", " --back"].map(|has| {
            printed.iter().find(|line| line.contains(has)).unwrap_or_else(|| panic!("{printed:?}")).clone()
        });
        // It is asked before.
        desk.paste(&back).await.expect(2);
        let other = desk.world.elsewhere.path().join("other");
        let refused = desk.run(&desk.there("db", &other)).await;
        refused.expect(2);
        assert_eq!(refused.printed(), std::slice::from_ref(&back));
        let returned = desk.paste(&format!("{back} --yes")).await;
        returned.expect(0);
        desk.assert_well(&back).await;
        let directory = returned.printed().into_iter().find(|line| line.starts_with("rm -r ")).unwrap();
        desk.paste(&directory).await.expect(0);
        assert!(!place.exists());
        desk.assert_well(&directory).await;
        desk.migrate("db").await;
        desk.paste(&remove).await.expect(0);
        desk.assert_well(&remove).await;
    });
}

#[test]
fn data_in_a_volume_without_a_name_is_saved_first() {
    run(async {
        let desk = Desk::new().await;
        desk.change("db", |db| db.mounts[0].volume = Some("0123456789abcdef".repeat(4))).await;
        let place = desk.destination();
        let (command, saved) = desk.follow(&desk.there("db", &place), 2, 0).await;
        assert!(command.ends_with("snapshot db"), "{command}");
        saved.expect(0);
    });
}

#[test]
fn who_is_in_the_way_of_the_way_back_is_stopped_ignored_or_looked_at() {
    run(async {
        let desk = Desk::new().await;
        desk.migrate("db").await;
        desk.add_user("other", "app:1").await;
        let back = ["migrate", "db", "--back", "--yes", "--dry-run"];
        desk.leads_on(&back, 1, 1, "--ignore other").await;
        desk.leads_on(&back, 1, 0, "stop other").await;
        desk.run(&back).await.expect(0);
        desk.add_user("pg2", "postgres:15").await;
        desk.leads_on(&back, 1, 0, "json .Mounts").await;
    });
}

#[test]
fn a_volume_with_other_data_is_removed_before_anything_is_moved_into_it() {
    run(async {
        let desk = Desk::new().await;
        desk.migrate("db").await;
        desk.world.engine.remove_volume(DATA).await.unwrap();
        desk.world.engine.create_volume(DATA, &Default::default()).await.unwrap();
        std::fs::write(desk.world.engine.directory_of(DATA).join("mine"), "x").unwrap();
        let back = ["migrate", "db", "--back", "--yes"];
        desk.leads_on(&back, 1, 0, "volume rm data").await;
        desk.run(&back).await.expect(0);
        desk.assert_well("back").await;
    });
}

#[test]
fn who_would_be_left_with_the_old_data_is_looked_at_or_ignored() {
    run(async {
        let desk = Desk::new().await;
        let part = desk.world.engine.directory_of(DATA).join("base");
        let mount =
            Mount { kind: MountKind::Bind, source: part, destination: "/part".into(), ..Mount::default() };
        desk.change("app", |app| app.mounts = vec![mount]).await;
        let place = desk.destination();
        let typed = desk.there("db", &place);
        desk.leads_on(&typed, 1, 0, "json .Mounts").await;
        desk.leads_on(&typed, 1, 1, "--ignore app").await;
    });
}

#[test]
fn who_has_the_network_of_one_that_is_down_is_stopped_or_ignored() {
    run(async {
        let desk = Desk::new().await;
        let engine = &desk.world.engine;
        let old = desk.world.container("old").await;
        engine.start("old").await.unwrap();
        let side = Container {
            name: "side".to_owned(),
            image: "app:1".to_owned(),
            command: ["sh", "-c", "side"].map(str::to_owned).into(),
            network_mode: format!("container:{}", old.id),
            ..Container::default()
        };
        let id = engine.add(side).unwrap();
        engine.start(&id).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let place = desk.destination();
        let typed = [&desk.there("db", &place)[..], &["--dry-run"]].concat();
        desk.leads_on(&typed, 1, 1, "--ignore side").await;
        desk.leads_on(&typed, 1, 0, "stop side").await;
        desk.run(&typed).await.expect(0);
    });
}

#[test]
fn what_compose_ran_once_is_stopped_and_what_it_does_not_name_is_looked_at() {
    run(async {
        let desk = Desk::composed().await;
        let place = desk.destination();
        let typed = [&desk.there(SERVICE, &place)[..], &["--dry-run"]].concat();
        let one_off = "com.docker.compose.oneoff".to_owned();
        desk.change("app", |app| _ = app.labels.insert(one_off, "True".to_owned())).await;
        desk.leads_on(&typed, 1, 0, "stop app").await;
        desk.run(&typed).await.expect(0);
        desk.change("db", |db| _ = db.labels.remove("com.docker.compose.project.config_files")).await;
        desk.leads_on(&typed, 1, 0, "json .Config.Labels").await;
    });
}

#[test]
fn a_file_that_cannot_be_edited_is_left_as_it_is_beside_an_override_file() {
    run(async {
        let desk = Desk::composed().await;
        let shared = COMPOSE_FILE.replace(
            "  db:\n    image: postgres:15\n    volumes:\n      - data:/var/lib/postgresql/data   # the shop's\n",
            "  db:\n    image: postgres:15\n    volumes: &mounts\n      - data:/var/lib/postgresql/data\n  \
             other:\n    image: postgres:15\n    volumes: *mounts\n",
        );
        assert_ne!(shared, COMPOSE_FILE);
        desk.made_from(&shared).await;
        let place = desk.destination();
        desk.leads_on(&desk.there(SERVICE, &place), 1, 0, "--override").await;
        assert_eq!(std::fs::read_to_string(desk.world.compose_file()).unwrap(), shared);
    });
}

#[test]
fn where_compose_is_told_its_files_no_override_file_is_written() {
    run(async {
        let desk = Desk::composed().await;
        let file = desk.world.compose_file();
        let other = file.with_file_name("shop.yml");
        std::fs::rename(&file, &other).unwrap();
        for name in ["db", "app"] {
            let files = "com.docker.compose.project.config_files".to_owned();
            let other = other.display().to_string();
            desk.change(name, |one| _ = one.labels.insert(files, other)).await;
        }
        let place = desk.destination();
        let typed = [&desk.there(SERVICE, &place)[..], &["--override"]].concat();
        desk.leads_on(&typed, 1, 0, "--yes").await;
        assert!(std::fs::read_to_string(&other).unwrap().contains(place.to_str().unwrap()));
    });
}

#[test]
fn what_compose_does_not_understand_is_asked_of_it() {
    run(async {
        let (desk, refused) = migration_that_prints(true, "compose config", "config --quiet").await;
        refused.expect(1);
        desk.paste_of(&refused, "config --quiet").await;
        desk.assert_well("asked").await;
    });
}

#[test]
fn the_commands_of_a_plan_do_by_hand_what_is_left_once_the_files_are_edited() {
    run(async {
        let desk = Desk::composed().await;
        let place = desk.destination();
        let planned = desk.run(&[&desk.there(SERVICE, &place)[..], &["--dry-run", "--json"]].concat()).await;
        let json = &planned.expect(0).text[planned.text.find('{').unwrap()..];
        let plan: Value = serde_json::from_str(json).unwrap();
        let commands: Vec<_> =
            plan["commands"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        desk.migrate(SERVICE).await;
        assert!(!commands.is_empty());
        for command in commands {
            desk.paste(command).await.expect(0);
            desk.assert_well(command).await;
        }
        let db = desk.world.container("db").await;
        assert_eq!(db.mounts[0].source, place);
    });
}

#[test]
fn facts_that_cannot_be_had_before_a_migration_are_done_without() {
    run(async {
        let (desk, refused) = migration_that_prints(false, "exec", "--facts none").await;
        desk.paste_of(&refused, "--facts none").await;
        desk.assert_well("migrated").await;
    });
}

#[test]
fn a_record_that_is_not_to_be_read_is_forgotten() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        desk.migrate("db").await;
        let records = std::fs::read_dir(desk.world.state().join("migrations")).unwrap();
        let record = records.map(|entry| entry.unwrap().path()).next().unwrap();
        let text = std::fs::read_to_string(&record).unwrap();
        let restore = ["restore", "latest", "--yes", "--dry-run"];

        for name in ["db", "app", "old"] {
            desk.stop(name).await;
            desk.world.engine.remove_container(name).await.unwrap();
        }
        // One of another engine: the data may be anywhere.
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["engine"] = "another".into();
        std::fs::write(&record, value.to_string()).unwrap();
        let refused = desk.run(&restore).await;
        refused.expect(1);
        desk.paste_of(&refused, "--to").await;
        desk.paste_of(&refused, "rm ").await;
        assert!(!record.exists());
        desk.run(&restore).await.expect(0);
        value["format"] = 9.into();
        std::fs::write(&record, value.to_string()).unwrap();
        let refused = desk.run(&restore).await;
        refused.expect(1);
        desk.paste_of(&refused, "rm ").await;
        assert!(!record.exists());
        desk.run(&restore).await.expect(0);
    });
}
