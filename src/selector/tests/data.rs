//! Which mount holds the data.

use rstest::rstest;

use super::*;
use crate::model::labels::LABEL_RUN;
use crate::model::location::MountSource;

#[test]
fn a_scaled_service_is_fine_when_its_containers_share_the_source() {
    let replica = |number: u32, volume: &str| {
        of_service(
            container(&format!("shop-files-{number}"), vec![mounted(volume, "/files")]),
            "shop",
            "files",
        )
    };
    let shared = world("/", vec![replica(1, "v"), replica(2, "v")], vec![volume("v")]);
    assert_eq!(location("files", &shared), "volume:v");
    let apart = world("/", vec![replica(1, "v"), replica(2, "w")], vec![volume("v"), volume("w")]);
    assert_eq!(
        refusal("files", &apart).2,
        "volsnap snapshot container:shop-files-1\nvolsnap snapshot container:shop-files-2"
    );
}

#[test]
fn a_one_off_container_is_not_the_service() {
    let (db, data) = db_of("shop");
    let mut one_off = of_service(container("shop-db-run-1", vec![mounted("other", "/x")]), "shop", "db");
    one_off.labels.insert("com.docker.compose.oneoff".to_owned(), "True".to_owned());
    let world = world("/", vec![one_off, db], vec![data]);
    assert_eq!(location("service:db", &world), "volume:shop_db_data");
}

// faults.md F33.
#[rstest]
#[case::root_of_the_mount(PGDATA, vec![mounted("v", PGDATA)], "volume:v", "")]
#[case::below_the_mount("/var/lib/postgresql/data/pgdata", vec![mounted("v", PGDATA)], "volume:v", "pgdata")]
#[case::layout_of_18("/var/lib/postgresql/18/docker", vec![mounted("v", "/var/lib/postgresql")], "volume:v", "18/docker")]
#[case::bind(PGDATA, vec![bound("/data/pg", PGDATA)], "path:/data/pg", "")]
#[case::innermost_mount(PGDATA, vec![mounted("w", "/var/lib"), mounted("v", "/var/lib/postgresql")], "volume:v", "data")]
#[case::no_prefix_of_a_component("/data/pg2", vec![mounted("w", "/data/pg"), mounted("v", "/data")], "volume:v", "pg2")]
#[case::configuration_beside(PGDATA, vec![mounted("v", PGDATA), bound("/c/pg.conf", "/etc/pg.conf"), mounted("b", "/backups")], "volume:v", "")]
#[case::configuration_inside(PGDATA, vec![mounted("v", PGDATA), bound("/c/pg.conf", "/var/lib/postgresql/data/postgresql.conf")], "volume:v", "")]
fn a_database_is_found_in_the_mount_that_holds_it(
    #[case] data_directory: &str,
    #[case] mounts: Vec<Mount>,
    #[case] expected: &str,
    #[case] below: &str,
) {
    let volumes = ["v", "w", "b"].map(volume).to_vec();
    let world = world("/", vec![database("pg", data_directory, mounts)], volumes);
    assert_eq!(location("pg", &world), expected);
    for target in ["pg", expected] {
        let source = resolved(target, &world).unwrap();
        assert_eq!(source.data_directory.as_deref(), Some(Path::new(below)));
        assert_eq!(source.database().unwrap().name, "pg");
    }
}

#[test]
fn what_the_running_database_says_of_its_data_directory_wins() {
    let mounts = vec![mounted("v", PGDATA), mounted("real", "/real")];
    let mut world = world("/", vec![database("pg", PGDATA, mounts)], vec![volume("v"), volume("real")]);
    world.data_directories.insert(world.containers[0].id.clone(), "/real/pg".into());
    let source = resolved("pg", &world).unwrap();
    assert_eq!(source.location, MountSource::Volume("real".to_owned()));
    assert_eq!(source.data_directory.as_deref(), Some(Path::new("pg")));
}

#[rstest]
#[case::own_layer(vec![mounted("v", "/backups")], "container's own layer: nothing is mounted at /var/lib/postgresql/data")]
#[case::memory(vec![mounted("v", "/var/lib/postgresql"), tmpfs(PGDATA)], "lies in memory (/var/lib/postgresql/data)")]
#[case::wal_in_another_volume(vec![mounted("v", PGDATA), mounted("wal", "/var/lib/postgresql/data/pg_wal")], "/var/lib/postgresql/data/pg_wal lies in volume wal")]
#[case::wal_in_a_directory(vec![mounted("v", PGDATA), bound("/wal", "/var/lib/postgresql/data/pg_wal")], "lies in directory /wal")]
fn data_that_no_single_mount_holds_is_refused(#[case] mounts: Vec<Mount>, #[case] said: &str) {
    let world = world("/", vec![database("pg", PGDATA, mounts)], vec![volume("v"), volume("wal")]);
    let (kind, message, _) = refusal("pg", &world);
    assert_eq!(kind, ErrorKind::Failed);
    assert!(message.contains(said), "{message}");
    // Naming the volume does not add the missing part.
    assert!(refusal("volume:v", &world).1.contains(said));
}

#[test]
fn data_in_a_containers_own_layer_is_refused_with_the_way_to_save_it() {
    let running = database("my pg", PGDATA, vec![]);
    let hint = refusal("my pg", &world("/", vec![running.clone()], vec![])).2;
    let copy = "docker cp --archive 'my pg:/var/lib/postgresql/data' ./rescued-data";
    assert_eq!(hint, format!("docker stop -t 600 'my pg' && {copy}; docker start 'my pg'"));
    // A stop would take these away, with what is to be saved.
    let removed = Container { auto_remove: true, ..running.clone() };
    let mut task = running.clone();
    task.labels.insert("com.docker.swarm.task.id".to_owned(), "t".to_owned());
    for container in [removed, task] {
        let hint = refusal("container:my pg", &world("/", vec![container], vec![])).2;
        let freeze = format!("docker pause 'my pg' && {copy}; docker unpause 'my pg'");
        assert!(hint.starts_with(&freeze), "{hint}");
    }
    assert_eq!(refusal("my pg", &world("/", vec![stopped(running)], vec![])).2, copy);
}

// faults.md F33 and row 18.
#[test]
fn a_volume_above_the_anonymous_one_with_the_data_is_not_taken_for_it() {
    let mounts = vec![mounted("pgdata", "/var/lib/postgresql"), mounted(ANONYMOUS, PGDATA)];
    let world = world("/", vec![database("pg", PGDATA, mounts)], vec![volume("pgdata"), volume(ANONYMOUS)]);
    let source = resolved("pg", &world).unwrap();
    assert_eq!(source.location, MountSource::Volume(ANONYMOUS.to_owned()));
    let [warning] = source.warnings.as_slice() else { panic!("{:?}", source.warnings) };
    assert!(
        warning.contains(ANONYMOUS) && warning.contains("volume pgdata at /var/lib/postgresql"),
        "{warning}"
    );
    let (kind, message, hint) = refusal("volume:pgdata", &world);
    assert_eq!(kind, ErrorKind::Failed);
    assert!(message.contains("volume pgdata does not hold the data of container pg"), "{message}");
    assert_eq!(hint, format!("volsnap snapshot volume:{ANONYMOUS}"));
}

#[rstest]
#[case::volume_beside_an_anonymous_one(vec![mounted("v", "/var/lib/postgresql/data"), mounted(ANONYMOUS, "/var/lib/postgresql")], "/var/lib/postgresql/18/docker")]
#[case::own_layer(vec![mounted("v", PGDATA)], "/elsewhere")]
#[case::above_another_volume(vec![mounted("v", "/var/lib/postgresql"), mounted("w", PGDATA)], PGDATA)]
#[case::inside_the_data(vec![mounted("v", "/var/lib/postgresql/data/pg_wal"), mounted("w", PGDATA)], PGDATA)]
fn a_volume_that_only_seems_to_hold_the_data_is_refused(
    #[case] mounts: Vec<Mount>,
    #[case] data_directory: &str,
) {
    let volumes = ["v", "w", ANONYMOUS].map(volume).to_vec();
    let world = world("/", vec![database("pg", data_directory, mounts)], volumes);
    assert_eq!(refusal("volume:v", &world).0, ErrorKind::Failed);
}

#[test]
fn a_volume_that_a_database_uses_besides_its_data_is_taken_with_a_warning() {
    let mounts =
        vec![mounted("pgdata", PGDATA), mounted("backups", "/backups"), read_only(mounted("ro", "/ro"))];
    let volumes = ["pgdata", "backups", "ro"].map(volume).to_vec();
    let world = world("/", vec![database("pg", PGDATA, mounts)], volumes);
    let source = resolved("volume:backups", &world).unwrap();
    assert_eq!(source.warnings, ["volume backups is used by container pg, but its data is in volume pgdata"]);
    assert_eq!(source.database_container, None);
    assert!(resolved("volume:ro", &world).unwrap().warnings.is_empty());
}

#[rstest]
#[case::above("/data", "pg")]
#[case::itself("/data/pg", "")]
fn a_directory_reveals_the_database_below_it(#[case] path: &str, #[case] below: &str) {
    let world = world("/", vec![database("pg", PGDATA, vec![bound("/data/pg", PGDATA)])], vec![]);
    let source = resolved(path, &world).unwrap();
    assert_eq!(source.database().unwrap().name, "pg");
    assert_eq!(source.data_directory.as_deref(), Some(Path::new(below)));
}

#[test]
fn a_part_of_a_data_directory_is_refused() {
    let world = world("/", vec![database("pg", PGDATA, vec![bound("/data/pg", PGDATA)])], vec![]);
    let (_, message, hint) = refusal("/data/pg/base", &world);
    assert!(
        message.contains("directory /data/pg/base is only a part of the data of container pg"),
        "{message}"
    );
    assert_eq!(hint, "volsnap snapshot path:/data/pg");
}

#[test]
fn two_servers_on_one_data_directory_are_refused() {
    let pg = |name| database(name, PGDATA, vec![mounted("v", PGDATA)]);
    let volumes = vec![volume("v")];
    let both = world("/", vec![pg("a"), pg("b")], volumes.clone());
    let (kind, message, hint) = refusal("a", &both);
    assert_eq!(kind, ErrorKind::Failed);
    assert!(message.contains("containers a and b run two servers on one data directory"), "{message}");
    assert_eq!(hint, "docker stop -t 600 b");
    let one = world("/", vec![stopped(pg("a")), pg("b")], volumes.clone());
    assert_eq!(resolved("a", &one).unwrap().database().unwrap().name, "b");
    let none = world("/", vec![stopped(pg("a")), stopped(pg("b"))], volumes);
    assert_eq!(resolved("a", &none).unwrap().database().unwrap().name, "a");
}

/// Returns two servers with a data directory each in one volume, in a project or not.
fn neighbours(project: Option<&str>) -> EngineInventory {
    let server = |name: &str| {
        let server = database(name, &format!("/pg/{name}"), vec![mounted("both", "/pg")]);
        project.map_or(server.clone(), |project| of_service(server, project, name))
    };
    world("/", vec![server("a"), stopped(server("b"))], vec![volume("both")])
}

#[rstest]
#[case::of_one_project(Some("shop"))]
#[case::of_none(None)]
fn of_two_servers_in_one_volume_each_has_its_own_directory(#[case] project: Option<&str>) {
    let world = neighbours(project);
    for name in ["a", "b"] {
        let source = resolved(&format!("container:{name}"), &world).unwrap();
        let own = format!("/var/lib/docker/volumes/both/_data/{name}");
        assert_eq!(source.location, MountSource::Directory(own.into()));
        assert_eq!(source.database().unwrap().name, name);
        assert_eq!(source.data_directory.as_deref(), Some(Path::new("")));
        assert_eq!(source.seen_at(source.database().unwrap()), Some(format!("/pg/{name}").into()));
        assert_eq!(source.users.len(), 1, "the neighbour is none of its users");
    }
}

#[test]
fn a_volume_with_two_servers_is_taken_whole_when_it_is_named() {
    let source = resolved("volume:both", &neighbours(None)).unwrap();
    assert_eq!(source.location, MountSource::Volume("both".to_owned()));
    assert_eq!(source.users.len(), 2);
    assert_eq!(source.databases().count(), 2);
    assert_eq!(source.servers, [Path::new("a"), Path::new("b")]);
    assert!(source.database().is_none() && source.warnings[0].contains("2 servers (a, b)"));
    let apart = |name: &str| database(name, PGDATA, vec![bound(&format!("/data/{name}"), PGDATA)]);
    let world = world("/", vec![apart("a"), stopped(apart("b"))], vec![]);
    assert_eq!(resolved("/data", &world).unwrap().servers.len(), 2);
    assert_eq!(location("a", &world), "path:/data/a");
}

#[rstest]
#[case::the_only_volume(vec![mounted("v", "/x")], "volume:v")]
#[case::configuration_aside(vec![mounted("v", "/x"), read_only(bound("/c", "/c")), bound("/c/a.yml", "/etc/a.yml"), tmpfs("/t")], "volume:v")]
#[case::sockets_aside(vec![bound("/d", "/d"), bound("/var/run/docker.sock", "/var/run/docker.sock"), bound("/etc/localtime", "/etc/localtime")], "path:/d")]
#[case::mounted_twice(vec![mounted("v", "/x"), mounted("v", "/y")], "volume:v")]
#[case::directory_like_a_file(vec![bound("/srv/site.conf", "/www")], "path:/srv/site.conf")]
fn without_a_known_database_the_only_writable_mount_is_taken(
    #[case] mounts: Vec<Mount>,
    #[case] expected: &str,
) {
    let world = world("/", vec![container("c", mounts)], vec![volume("v")]);
    assert_eq!(location("c", &world), expected);
}

#[test]
fn without_a_known_database_several_or_no_writable_mounts_are_refused() {
    let several = container("c", vec![mounted("v", "/x"), bound("/my d", "/d")]);
    let (kind, _, hint) = refusal("c", &world("/", vec![several], vec![volume("v")]));
    assert_eq!(kind, ErrorKind::Usage);
    assert_eq!(hint, "volsnap snapshot 'path:/my d'\nvolsnap snapshot volume:v");
    let (kind, message, _) = refusal("app", &town("/srv/shop"));
    assert_eq!(kind, ErrorKind::Failed);
    assert!(message.contains("nothing to capture of container shop-app-1"), "{message}");
}

#[test]
fn a_helper_is_neither_a_target_nor_a_user_but_another_run() {
    let mut world = town("/srv/shop");
    let mut helper = container("volsnap-1", vec![read_only(mounted("shop_db_data", "/.volsnap/source"))]);
    helper.labels.insert(LABEL_RUN.to_owned(), "20261120T203011Z-4f2a91".to_owned());
    world.containers.push(helper);
    let source = resolved("db", &world).unwrap();
    assert_eq!(source.held_by.unwrap().run, "20261120T203011Z-4f2a91");
    assert_eq!(source.users.len(), 1);
    assert_eq!(refusal("container:volsnap-1", &world).0, ErrorKind::Usage);
    assert!(resolved("pg", &world).unwrap().held_by.is_none());
}
