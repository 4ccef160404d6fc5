//! What `doctor` prints has been tried: as far as it can be, without an effect.

use volsnap::ops::doctor::{DoctorOptions, Kind, doctor};

use crate::simulated::faults::Scenario as _;
use crate::simulated::migrations::Migrate;
use crate::simulated::{COMPOSE_FILE, World, run};

impl World {
    /// Returns what mends the first finding of a kind, a line each.
    async fn advised(&self, kind: Kind) -> Vec<String> {
        let options = DoctorOptions {
            target: None,
            repository: self.repository(),
            recovers_nothing_at_boot: false,
            environment: Default::default(),
        };
        let findings = doctor(&self.host, &options).await.unwrap();
        let found = findings.into_iter().find(|finding| finding.kind == kind);
        found.unwrap_or_else(|| panic!("no {kind:?}")).mitigation.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_migration_is_advised_unless_the_files_of_the_service_would_refuse_it() {
    run(async {
        let mut world = World::on_disk(true).await;
        world.arm(None);
        let recording = world.record();
        let [migrate] = &world.advised(Kind::Prune).await[..] else { panic!("one way") };
        assert!(migrate.starts_with("volsnap migrate service:shop/db /srv/shop/db"), "{migrate}");
        let lines = recording.lines();
        assert!(!lines.contains("create") && !lines.contains("journal"), "doctor has effects: {lines}");
        std::fs::write(
            world.compose_file(),
            COMPOSE_FILE.replace("image: postgres:15", "image: postgres:16"),
        )
        .unwrap();
        assert_eq!(world.advised(Kind::Prune).await, ["volsnap snapshot service:shop/db"]);
    });
}

#[test]
fn a_service_is_made_anew_by_a_restart_only_if_compose_understands_its_files() {
    run(async {
        let world = World::new(true).await;
        let [restart] = &world.advised(Kind::StopGrace).await[..] else { panic!("one way") };
        assert!(restart.starts_with("volsnap restart service:shop/db --recreate"), "{restart}");
        std::fs::write(world.compose_file(), COMPOSE_FILE.replace("- data:/var", "- other:/var")).unwrap();
        let advised = world.advised(Kind::StopGrace).await;
        assert!(advised[0].starts_with("put `stop_grace_period: 2m` into the service db"), "{advised:?}");
        assert!(advised[1].contains("another volume for the data"), "{advised:?}");
    });
}

#[test]
fn the_way_back_is_advised_unless_it_would_be_refused() {
    run(async {
        let mut world = World::new(true).await;
        let migrate = Migrate::into_directory(true);
        migrate.prepare(&mut world).await;
        migrate.act(&world).await.unwrap();
        let advised = world.advised(Kind::LeftoverVolume).await;
        assert!(advised[1].starts_with("volsnap migrate service:shop/db --back "), "{advised:?}");
        std::fs::remove_file(world.compose_file()).unwrap();
        let advised = world.advised(Kind::LeftoverVolume).await;
        assert!(
            advised[1].starts_with("the way back into a volume is refused as things are: "),
            "{advised:?}"
        );
        assert_eq!(advised[2], "put the file back where it was, and try again");
    });
}
