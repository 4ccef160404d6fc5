//! What the doctor says to type next.

use std::collections::BTreeMap;

use volsnap::engine::Docker as _;
use volsnap::model::container::{Container, Mount, MountKind};
use volsnap::model::labels::LABEL_RUN;

use super::desk::{Desk, Ran};
use super::simulated::{DATA, PGDATA, run};

impl Desk {
    /// Returns what the doctor says of everything.
    async fn doctor(&self) -> Ran {
        self.run(&["doctor"]).await
    }
}

#[test]
fn what_a_migration_has_left_is_removed_or_has_the_data_back() {
    run(async {
        let desk = Desk::new().await;
        let place = desk.world.elsewhere.path().join("migrated");
        let migrate = ["migrate", "db", place.to_str().unwrap(), "--yes"];
        desk.run(&migrate).await.expect(0);
        let found = desk.doctor().await;
        let back = found.printed().into_iter().find(|line| line.ends_with("--back")).unwrap();
        let remove = found.printed().into_iter().find(|line| line.ends_with("volume rm data")).unwrap();
        desk.paste(&format!("{back} --yes")).await.expect(0);
        desk.assert_well(&back).await;
        std::fs::remove_dir_all(&place).unwrap();
        desk.run(&migrate).await.expect(0);
        desk.paste(&remove).await.expect(0);
        desk.assert_well(&remove).await;
        desk.run(&["snapshot", "db"]).await.expect(0);
    });
}

#[test]
fn the_last_copy_is_saved_and_one_that_is_in_use_again_has_its_place() {
    run(async {
        let desk = Desk::composed().await;
        let target = "service:shop/db";
        let place = desk.world.elsewhere.path().join("migrated");
        desk.run(&["migrate", target, place.to_str().unwrap(), "--yes"]).await.expect(0);
        // Somebody has brought the old containers up on the volume.
        let on_volume = Mount {
            kind: MountKind::Volume,
            volume: Some(DATA.to_owned()),
            destination: PGDATA.into(),
            ..Mount::default()
        };
        desk.change("db", |db| db.mounts = vec![on_volume.clone()]).await;
        let at_view = Mount { destination: "/view".into(), ..on_volume };
        for name in ["app", "old"] {
            desk.change(name, |one| one.mounts = vec![at_view.clone()]).await;
        }
        let found = desk.doctor().await;
        // A restart would not follow the file to other data.
        assert!(
            found.text.contains("in the project's file") && !found.text.contains("db:/var"),
            "{}",
            found.text
        );
        let aside = found.printed().into_iter().find(|line| line.starts_with("mv ")).unwrap();
        desk.paste(&aside).await.expect(0);
        desk.assert_well(&aside).await;

        for name in ["db", "app", "old"] {
            desk.stop(name).await;
            desk.world.engine.remove_container(name).await.unwrap();
        }
        let found = desk.doctor().await;
        let save = found.printed().into_iter().find(|line| line.ends_with("snapshot volume:data")).unwrap();
        desk.paste(&save).await.expect(0);
    });
}

#[test]
fn a_stage_and_a_stray_helper_are_removed() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db", "--capture", "staged", "--keep-stage"]).await.expect(0);
        let stray = |name: &str| Container {
            name: name.to_owned(),
            image: "app:1".to_owned(),
            command: ["sh", "-c", name].map(str::to_owned).into(),
            labels: BTreeMap::from([(LABEL_RUN.to_owned(), "20261120T203011Z-4f2a91".to_owned())]),
            ..Container::default()
        };
        let id = desk.world.engine.add(stray("volsnap-stray-up")).unwrap();
        desk.world.engine.start(&id).await.unwrap();
        desk.world.engine.add(stray("volsnap-stray-down")).unwrap();
        let found = desk.doctor().await;
        for has in ["volume rm volsnap-stage", "rm -f volsnap-stray-down", "State.StartedAt"] {
            desk.paste_of(&found, has).await;
        }
        desk.assert_well("cleaned").await;
        // Of another machine it cannot be seen what a stage takes.
        desk.run(&["snapshot", "db", "--capture", "staged", "--keep-stage"]).await.expect(0);
        desk.world.engine.pretend_remote();
        let found = desk.doctor().await;
        desk.paste_of(&found, "list --stages").await;
    });
}

#[test]
fn what_a_restore_has_left_and_a_damaged_repository_are_looked_at() {
    run(async {
        let desk = Desk::new().await;
        desk.run(&["snapshot", "db"]).await.expect(0);
        let left = desk.world.engine.directory_of(DATA).join(".volsnap-work-20261120T203011Z-4f2a91");
        std::fs::create_dir(&left).unwrap();
        let found = desk.doctor().await;
        desk.paste_of(&found, " recover").await;
        std::fs::remove_dir(&left).unwrap();
        let manifests = super::simulated::invariants::files_below(&desk.world.repository());
        let manifest = manifests.iter().find(|path| path.to_string_lossy().ends_with("-4f2a91.json"));
        let manifest = manifest.or_else(|| {
            manifests.iter().find(|path| {
                path.extension().is_some_and(|it| it == "json") && !path.ends_with("volsnap.json")
            })
        });
        std::fs::write(manifest.unwrap(), "{").unwrap();
        let found = desk.doctor().await;
        desk.paste_of(&found, " list").await;
        // One that is none is not told to be listed.
        std::fs::remove_dir_all(desk.world.repository()).unwrap();
        std::fs::create_dir(desk.world.repository()).unwrap();
        std::fs::write(desk.world.repository().join("volsnap.json"), "{}").unwrap();
        let found = desk.doctor().await;
        assert!(!found.text.contains("volsnap --repo") || !found.text.contains(" list"), "{}", found.text);
    });
}

#[test]
fn what_the_doctor_says_of_a_service_is_refused_by_nobody() {
    run(async {
        let desk = Desk::composed_on_disk().await;
        let found = desk.doctor().await;
        for has in [" migrate service:shop/db", " restart service:shop/db --recreate"] {
            let printed = found.printed();
            let command =
                printed.iter().find(|line| line.contains(has)).unwrap_or_else(|| panic!("{}", found.text));
            desk.paste(&format!("{command} --dry-run")).await.expect(0);
            desk.assert_well(command).await;
        }
    });
}

#[test]
fn a_volume_that_may_be_left_over_is_saved_before_it_is_removed() {
    run(async {
        let desk = Desk::composed().await;
        let place = desk.world.elsewhere.path().join("migrated");
        desk.run(&["migrate", "service:shop/db", place.to_str().unwrap(), "--yes"]).await.expect(0);
        let labels = [("com.docker.compose.project", "shop"), ("com.docker.compose.volume", "before")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        desk.world.engine.create_volume("shop_before", &labels).await.unwrap();
        std::fs::write(desk.world.engine.directory_of("shop_before").join("kept"), "x").unwrap();
        let found = desk.doctor().await;
        desk.paste_of(&found, "snapshot volume:shop_before").await;
        desk.paste_of(&found, "volume rm shop_before").await;
        desk.assert_well("removed").await;
    });
}
