//! What puts data at risk is found on real containers, said with what mends it, and nothing is touched.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::Value;
use volsnap::saga::RunInfo;
use volsnap::undo::Journal;

use crate::database::{Postgres, Volsnap, image};
use crate::project::Project;
use crate::world::{World, docker};

/// Everything that is found, or of one target.
#[track_caller]
pub(crate) fn findings(volsnap: &Volsnap, target: &[&str], code: i32) -> Vec<Value> {
    let ran = volsnap.run([&["doctor", "--json"], target].concat());
    let stdout = ran.expect(code).stdout();
    assert!(!stdout.contains("secret-word"), "{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

/// Returns the kinds found of a container, each with its risk, as "stop-grace high".
pub(crate) fn kinds(findings: &[Value], container: &str) -> Vec<String> {
    let of = findings.iter().filter(|finding| finding["container"] == container);
    let mut kinds: Vec<_> = of
        .map(|one| format!("{} {}", one["kind"].as_str().unwrap(), one["risk"].as_str().unwrap()))
        .collect();
    kinds.sort();
    kinds
}

fn device(path: &str) -> u64 {
    std::fs::metadata(path).unwrap().dev()
}

/// Creates a container of the database's image that never runs.
pub(crate) fn create(world: &World, suffix: &str, options: &[&str]) -> String {
    let (name, label) = (world.name(suffix), format!("{}={}", crate::world::LABEL, std::process::id()));
    let fixed = ["create", "--name", &name, "--label", &label, "-e", "POSTGRES_PASSWORD=secret-word"];
    docker(&[&fixed[..], options, &[&image()]].concat());
    name
}

#[tokio::test]
async fn what_is_wrong_with_a_running_database_is_found_and_goes_as_it_is_mended() {
    let volsnap = Volsnap::new();
    let options = ["--stop-timeout", "1", "--restart", "unless-stopped"];
    let postgres = Postgres::start_with(&options).await;
    docker(&["exec", &postgres.container, "sh", "-c", "mkdir /elsewhere && chown postgres /elsewhere"]);
    postgres.query("create tablespace elsewhere location '/elsewhere'");
    let target = postgres.target();

    let found = findings(&volsnap, &[&target], 3);
    let mountpoint = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &postgres.volume]);
    let same_disk = device(&mountpoint) == device(volsnap.directory().to_str().unwrap());
    let disk = |kinds: &[&str]| {
        // Reading the directory takes root, as the engine's volumes do.
        let mut kinds: Vec<_> = kinds.iter().map(|&kind| kind.to_owned()).collect();
        if same_disk {
            kinds.push("same-disk medium".to_owned());
        }
        kinds.sort();
        kinds
    };
    assert_eq!(
        kinds(&found, &postgres.container),
        ["data-location info", "data-outside high", "no-snapshot high", "prune low", "stop-grace high"]
    );
    let location = found.iter().find(|finding| finding["kind"] == "data-location").unwrap();
    assert!(
        location["what"].as_str().unwrap().contains(&format!("is in volume {}", postgres.volume)),
        "{location}"
    );
    let outside = found.iter().find(|finding| finding["kind"] == "data-outside").unwrap();
    assert!(outside["what"].as_str().unwrap().contains("/elsewhere"), "{outside}");
    let list = outside["mitigation"].as_str().unwrap();
    assert!(volsnap.paste(list).expect(0).stdout().contains("elsewhere"), "{outside}");

    // Mended, one after the other.
    postgres.query("drop tablespace elsewhere");
    volsnap.run(["snapshot", &target, "--quiet"]).expect(0);
    let found = findings(&volsnap, &[&target], 3);
    assert_eq!(
        kinds(&found, &postgres.container),
        disk(&[
            "data-location info",
            "never-drilled low",
            "never-verified medium",
            "prune low",
            "stop-grace high"
        ])
    );
    volsnap.run(["verify", "latest"]).expect(0);
    docker(&["stop", "-t", "60", &postgres.container]);
    let found = findings(&volsnap, &[&format!("volume:{}", postgres.volume)], 3);
    assert_eq!(
        kinds(&found, &postgres.container),
        disk(&[
            "data-location info",
            "never-drilled low",
            "not-examined low",
            "prune medium",
            "stays-stopped medium",
            "stop-grace high"
        ])
    );

    // For people: the same, and nothing was touched.
    let ran = volsnap.run(["doctor", &target]);
    let text = ran.expect(3).stdout();
    assert!(text.starts_with(&format!("container {}\n", postgres.container)), "{text}");
    assert!(text.contains("  HIGH    `docker stop`") && text.contains("-> docker start "), "{text}");
    assert_eq!(postgres.inspect("{{.State.Status}}"), "exited");
    volsnap.assert_no_leftovers();
    postgres.assert_no_helper();
}

#[tokio::test]
async fn data_that_is_where_nobody_meant_it_to_be_is_found_without_a_container_running() {
    const PGDATA: &str = "/var/lib/postgresql/data";
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let (named, project, old) = (world.name("named"), world.name("shop"), world.name("shop_data"));
    let enough = ["--stop-timeout", "120"];
    let with = |options: &[&'static str]| [&enough[..], options].concat();
    docker(&["volume", "create", &named]);
    let wrong_level =
        create(&world, "level", &[&enough[..], &["-v", &format!("{named}:/var/lib/postgresql")]].concat());
    let memory = create(&world, "memory", &with(&["--mount", "type=tmpfs,dst=/var/lib/postgresql/data"]));
    let removed = create(&world, "removed", &with(&["--rm", "--stop-signal", "SIGTERM"]));
    let elsewhere = create(&world, "layer", &with(&["-e", "PGDATA=/srv/pg"]));
    // A project whose data was moved into a directory.
    let project_label = format!("com.docker.compose.project={project}");
    docker(&[
        "volume",
        "create",
        "--label",
        &project_label,
        "--label",
        "com.docker.compose.volume=data",
        &old,
    ]);
    let (directory, service) = (tempfile::tempdir().unwrap(), "com.docker.compose.service=db");
    let bind = format!("{}:{PGDATA}", directory.path().display());
    let labels = ["--label", &project_label, "--label", service, "-v", &bind];
    let moved = create(&world, "moved", &[&enough[..], &labels].concat());
    // What a dead run has left: a journal, and the helper of another one.
    let info = RunInfo {
        run: "20261120T203011Z-4f2a91".to_owned(),
        verb: "snapshot".to_owned(),
        subject: "volume pg".to_owned(),
        host: None,
        pid: 1,
        started: chrono::Utc::now(),
    };
    drop(Journal::create(&volsnap.state(), &info).unwrap());
    let helper = create(&world, "helper", &["--label", "volsnap.run=20261120T203012Z-4f2a92"]);

    let found = findings(&volsnap, &[], 3);
    let of = |name: &str| kinds(&found, name);
    let usual = ["data-location info", "not-examined low"];
    for (name, expected) in [
        (&wrong_level, &["anonymous-volume high", "no-snapshot high", "wrong-mount-level high"][..]),
        (&memory, &["data-in-memory high"]),
        (&removed, &["anonymous-volume high", "auto-remove high", "no-snapshot high", "stop-signal medium"]),
        (&elsewhere, &["data-in-container high"]),
        (&moved, &["no-snapshot high"]),
        (&helper, &[]),
    ] {
        let mut found = of(name);
        // On which disk a test's directory is, is the machine's affair.
        found.retain(|kind| kind != "same-disk medium" && !usual.contains(&kind.as_str()));
        assert_eq!(found, expected, "{name}");
    }
    let about = |kind: &str, name: &str| {
        let is_it = |one: &&Value| one["kind"] == kind && one["subject"].as_str().unwrap().contains(name);
        found.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} of {name}")).clone()
    };
    // Nobody remembers its migration, so it may be another service's.
    let first =
        format!("volsnap --json snapshot volume:{old}    # keeps what is in it\ndocker volume rm {old}");
    assert_eq!(about("leftover-volume", &old)["mitigation"], first);
    assert_eq!(about("open-journal", &info.run)["mitigation"], "volsnap --json recover");
    assert_eq!(about("stray-helper", &helper)["mitigation"], format!("docker rm -f {helper}"));

    // Of a target, only what is about it; where nothing is, nothing is said, and a wrong name is refused.
    let found = findings(&volsnap, &[&format!("container:{memory}")], 3);
    assert!(found.iter().all(|finding| finding["container"] == memory.as_str()), "{found:?}");
    let unused = world.name("unused");
    docker(&["volume", "create", &unused]);
    assert_eq!(findings(&volsnap, &[&format!("volume:{unused}")], 0), Vec::<Value>::new());
    volsnap
        .run(["doctor", &format!("volume:{unused}s")])
        .refused(2, &["no volume is called", "volsnap doctor volume:"]);
    assert!(Path::new(&volsnap.state()).join("journals").exists(), "the journal is not doctor's to finish");
    assert!(!volsnap.repository().exists(), "a repository was made");
}

#[tokio::test]
async fn what_a_migration_leaves_is_known_and_whoever_uses_it_again_is_a_high_risk() {
    let (volsnap, postgres) = (Volsnap::new(), Postgres::start().await);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("db");
    let (target, at) = (postgres.target(), directory.to_str().unwrap());
    volsnap.run(["migrate", &target, at, "-y"]).expect(0);

    let of_volume = |found: &[Value]| -> Vec<Value> {
        let subject = format!("volume {}", postgres.volume);
        found.iter().filter(|finding| finding["subject"] == subject.as_str()).cloned().collect()
    };
    // There is no snapshot, which is a high risk.
    let [left] = &of_volume(&findings(&volsnap, &[&target], 3))[..] else { panic!("not one") };
    assert_eq!((&left["kind"], &left["risk"]), (&"leftover-volume".into(), &"low".into()));
    let mitigation = left["mitigation"].as_str().unwrap();
    let back = format!("\nvolsnap --json migrate {target} --back ");
    assert!(mitigation.starts_with(&format!("docker volume rm {} ", postgres.volume)), "{mitigation}");
    assert!(mitigation.contains(&back), "{mitigation}");

    // Somebody takes the volume for what it was.
    let mount = format!("{}:/var/lib/postgresql/data", postgres.volume);
    let by_hand = create(&postgres.world, "again", &["-v", &mount]);
    let [used] = &of_volume(&findings(&volsnap, &[&target], 3))[..] else { panic!("not one") };
    assert_eq!((&used["kind"], &used["risk"]), (&"leftover-in-use".into(), &"medium".into()));
    docker(&["start", &by_hand]);
    let [used] = &of_volume(&findings(&volsnap, &[&format!("container:{by_hand}")], 3))[..] else {
        panic!("not one")
    };
    assert_eq!((&used["kind"], &used["risk"]), (&"leftover-in-use".into(), &"high".into()));
    assert_eq!(used["container"], by_hand.as_str());
    let what = used["what"].as_str().unwrap();
    assert!(what.contains(&format!("is in {at}, which {} uses", postgres.container)), "{what}");
    docker(&["rm", "-f", &by_hand]);

    // As doctor says: the data is in the volume, the migration is forgotten, and there is nothing to say of it.
    volsnap.run(["migrate", &target, "--back", "-y"]).expect(0);
    assert_eq!(of_volume(&findings(&volsnap, &[&target], 3)), Vec::<Value>::new());
    postgres.assert_whole();
}

#[tokio::test]
async fn a_volume_that_a_project_removes_is_to_be_migrated_and_a_kept_stage_is_known() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let project = Project::up(&world);
    let target = project.target();
    let container = docker(&["inspect", "--format", "{{slice .Name 1}}", &project.service()]);
    let begun = std::time::Instant::now();
    while volsnap.run(["snapshot", &target, "--capture", "staged", "--keep-stage", "--quiet"]).code()
        != Some(0)
    {
        assert!(begun.elapsed().as_secs() < 60, "no snapshot of {target}");
    }

    let found = findings(&volsnap, &[], 3);
    let of = |kind: &str, field: &str, value: &str| {
        let is_it = |finding: &&Value| finding["kind"] == kind && finding[field] == value;
        found.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} of {value}"))
    };
    let down = of("compose-down", "container", &container);
    assert_eq!(down["mitigation"], format!("volsnap --json migrate {target} /srv/{}/db", project.name));
    // The command is one that would be carried out.
    let words: Vec<&str> = down["mitigation"].as_str().unwrap().split(' ').skip(1).collect();
    volsnap.run([&words[..], &["--dry-run"]].concat()).expect(0);
    assert!(!Path::new("/srv").join(&project.name).exists(), "a dry run has made a directory");

    let filter = format!("label=volsnap.stage={}", project.volume("db_data"));
    let volume = docker(&["volume", "ls", "-q", "--filter", &filter]);
    let subject = format!("stage {volume}");
    let stage = of("kept-stage", "subject", &subject);
    assert_eq!(stage["mitigation"], format!("docker volume rm {volume}"));
    let what = stage["what"].as_str().unwrap();
    assert!(what.contains("made less than a day ago; it takes ") && what.ends_with(" MB"), "{what}");
    docker(&["volume", "rm", &volume]);
    let found = findings(&volsnap, &[], 3);
    assert!(!found.iter().any(|finding| finding["subject"] == subject.as_str()), "{found:?}");
}
