//! What a restore, and a refused one, says to type next.

use std::path::Path;

use volsnap::engine::Docker as _;
use volsnap::model::container::Container;
use volsnap::model::manifest::{ArchiveInfo, Manifest};

use super::desk::Desk;
use super::restarts::once_on;
use super::simulated::restores::LATER;
use super::simulated::{DATA, KEPT, run};

fn read(manifest: &Path) -> Manifest {
    Manifest::from_json(&std::fs::read(manifest).unwrap()).unwrap()
}

impl Desk {
    /// Takes a snapshot, and writes a row after it.
    async fn saved_and_changed(&self) {
        self.run(&["snapshot", "db"]).await.expect(0);
        self.world.engine.insert("db", KEPT.0, &[LATER]).unwrap();
    }
}

#[test]
fn without_room_for_both_what_is_there_is_kept_elsewhere_first() {
    run(async {
        let desk = Desk::new().await;
        std::fs::create_dir(desk.world.elsewhere.path().join("repository")).unwrap();
        let repository = desk.world.repository();
        let desk = desk.with_repository(repository.to_str().unwrap());
        desk.saved_and_changed().await;
        desk.world.engine.pretend_room(1 << 20);
        let typed = ["restore", "latest", "--yes", "--no-safety"];
        let (command, restored) = desk.follow(&typed, 1, 0).await;
        assert!(!command.contains("--no-safety"), "{command}");
        // Whether it goes depends on how much room there is; it is never the same refusal.
        assert!(!restored.text.contains("--no-safety"), "{}", restored.text);
    });
}

#[test]
fn another_cluster_is_replaced_only_by_who_says_so() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        desk.stop("db").await;
        let data = desk.world.engine.directory_of(DATA);
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::create_dir(&data).unwrap();
        desk.world.engine.start("db").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        for number in 0..50 {
            desk.world.engine.insert("db", &format!("table{number}"), &["one", "two"]).unwrap();
        }
        let found = desk.run(&["check", "db"]).await;
        desk.paste_of(&found, "json .Mounts").await;
        let refused = desk.run(&["restore", "latest", "--yes"]).await;
        refused.expect(1);
        desk.paste_of(&refused, "--force-different-cluster").await;
        desk.assert_well("restored").await;
    });
}

#[test]
fn a_directory_that_is_a_file_or_in_use_is_named_otherwise() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        let file = desk.path("file");
        std::fs::write(&file, "x").unwrap();
        let refused = desk.run(&["restore", "latest", "--yes", "--dir", file.to_str().unwrap()]).await;
        assert!(refused.expect(2).text.contains("next:"), "{}", refused.text);
    });
}

#[test]
fn what_is_replaced_and_not_kept_yet_is_kept_by_the_recovery() {
    run(async {
        let mut desk = Desk::new().await;
        for nth in 1..80 {
            desk.saved_and_changed().await;
            desk.arm();
            desk.world.failing.fail_nth("agent archive", nth, volsnap::engine::failing::Mode::Before);
            let ran = desk.run(&["restore", "latest", "--yes"]).await;
            desk.arm();
            if ran.text.contains("the old data still lies in") {
                desk.paste_of(&ran, " recover").await;
                desk.assert_well("recovered").await;
                return;
            }
        }
        panic!("it is never kept in vain");
    });
}

#[test]
fn the_service_of_the_project_here_is_brought_up_on_what_was_restored() {
    run(async {
        let mut desk = Desk::composed().await;
        desk.run(&["snapshot", "service:shop/db"]).await.expect(0);
        let made: Vec<Container> =
            [desk.world.container("db").await, desk.world.container("app").await].into();
        for name in ["db", "app", "old"] {
            desk.stop(name).await;
            desk.world.engine.remove_container(name).await.unwrap();
        }
        desk.world.engine.remove_volume(DATA).await.unwrap();
        desk.world.host.directory = desk.world.compose_file().parent().unwrap().to_owned();
        let restored = desk.run(&["restore", "latest", "--new-volume", DATA, "--yes"]).await;
        restored.expect(0);
        // What Compose would make of its file.
        desk.to_bring_up(made);
        let up = restored.printed().into_iter().find(|line| line.contains("up -d")).unwrap();
        desk.paste(&up).await.expect(0);
        desk.assert_well(&up).await;
    });
}

#[test]
fn who_is_started_on_the_data_meanwhile_is_looked_at() {
    run(async {
        let mut desk = Desk::new().await;
        desk.saved_and_changed().await;
        desk.arm();
        let Container { image, command, mounts, .. } = desk.world.container("app").await;
        let tool = Container { name: "tool".to_owned(), image, command, mounts, ..Container::default() };
        once_on(&desk, "agent extract", move |engine| {
            tokio::spawn(async move {
                let id = engine.add(tool).unwrap();
                engine.start(&id).await.unwrap();
            });
        });
        let refused = desk.run(&["restore", "latest", "--yes"]).await;
        refused.expect(1);
        desk.arm();
        desk.paste_of(&refused, "logs --tail 20 tool").await;
        assert!(desk.world.answers("db").await);
    });
}

#[test]
fn data_that_is_not_what_the_snapshot_saw_is_booted_apart() {
    run(async {
        let mut desk = Desk::new().await;
        desk.saved_and_changed().await;
        let files = super::simulated::invariants::files_below(&desk.world.repository().join("snapshots"));
        let manifest = files.iter().find(|path| path.extension().is_some_and(|it| it == "json")).unwrap();
        let mut seen = read(manifest);
        seen.facts.as_mut().unwrap().seen.roles.insert("somebody".to_owned(), vec!["login".to_owned()]);
        std::fs::write(manifest, seen.to_json().unwrap()).unwrap();
        let asks = ["has-row", LATER].map(str::to_owned);
        desk.change("db", |db| db.healthcheck = asks.into()).await;
        desk.arm();
        let (command, drilled) = desk.follow(&["restore", "latest", "--yes"], 1, 0).await;
        assert!(command.ends_with("--drill"), "{command}");
        drilled.expect(3);
        assert!(desk.world.answers("db").await && drilled.text.contains("somebody"), "{}", drilled.text);
    });
}

#[test]
fn a_file_that_is_no_archive_is_made_one_and_an_empty_one_is_looked_into() {
    run(async {
        let desk = Desk::new().await;
        let file = desk.path("app.sqlite");
        std::fs::write(&file, b"SQLite format 3\0rest").unwrap();
        let volume = ["--new-volume", "made", "--yes"];
        let typed = [&["restore", file.to_str().unwrap()], &volume[..]].concat();
        let refused = desk.run(&typed).await;
        desk.paste_of(&refused, "tar -cf").await;
        let made = file.with_extension("tar");
        desk.run(&[&["restore", made.to_str().unwrap()], &volume[..]].concat()).await.expect(0);
        assert!(desk.world.engine.directory_of("made").join("app.sqlite").exists());

        let empty = desk.path("empty.tar");
        let nothing = desk.path("nothing");
        std::fs::create_dir(&nothing).unwrap();
        desk.paste(&format!("tar -cf '{}' -C '{}' .", empty.display(), nothing.display())).await.expect(0);
        let typed = ["restore", empty.to_str().unwrap(), "--new-volume", "other", "--yes"];
        let refused = desk.run(&typed).await;
        desk.paste_of(&refused, "tar -tvf").await;
    });
}

#[test]
fn a_snapshot_that_is_damaged_is_verified() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        let rows = desk.world.engine.directory_of(DATA).join(volsnap::engine::memory::postgres::ROWS);
        let text = std::fs::read_to_string(&rows).unwrap();
        std::fs::write(&rows, text.replace("three", "thrEE")).unwrap();
        desk.run(&["snapshot", "db"]).await.expect(0);
        let folder = desk.world.repository().join("snapshots/data");
        let files = super::simulated::invariants::files_below(&folder);
        let of = |ending: &str| {
            let mut found: Vec<_> =
                files.iter().filter(|path| path.to_string_lossy().ends_with(ending)).collect();
            found.sort();
            found
        };
        // The archive of the second, in the place of the first one's, whose file list says another thing.
        let (archives, manifests) = (of(".tar.zst"), of(".json"));
        let (mut first, second) = (read(manifests[0]), read(manifests[1]));
        let file = first.archive().file.clone();
        first.parts.first_mut().archive = ArchiveInfo { file, ..second.archive().clone() };
        std::fs::write(manifests[0], first.to_json().unwrap()).unwrap();
        std::fs::copy(archives[1], archives[0]).unwrap();
        let refused = desk.run(&["restore", first.id.as_str(), "--yes"]).await;
        refused.expect(3);
        let verify = refused.printed().into_iter().find(|line| line.contains(" verify ")).unwrap();
        desk.paste(&verify).await.expect(3);

        let list = of(".files.jsonl.zst")[1];
        let mut bytes = std::fs::read(list).unwrap();
        bytes[20] ^= 1;
        std::fs::write(list, bytes).unwrap();
        let refused = desk.run(&["restore", "latest", "--yes"]).await;
        refused.expect(3);
        let verify = refused.printed().into_iter().find(|line| line.contains(" verify ")).unwrap();
        desk.paste(&verify).await.expect(3);
        assert!(desk.world.answers("db").await);
    });
}

#[test]
fn what_is_marked_for_deletion_is_had_back_before_it_is_restored() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        desk.run(&["snapshot", "db"]).await.expect(0);
        let id = desk.world.first_snapshot().await.manifest.id;
        desk.run(&["remove", id.as_str()]).await.expect(0);
        let restore = ["restore", id.as_str(), "--yes"];
        desk.leads_on(&restore, 2, 0, "undelete").await;
        desk.run(&restore).await.expect(0);
        desk.assert_well("restored").await;
    });
}
