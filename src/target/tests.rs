//! What each target means, and how each refusal reads.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::resolve::Resolver;
use super::*;
use crate::compose::DirectoryProject;
use crate::database::{Inspection, Profile};
use crate::docker::helper::LABEL_RUN;
use crate::docker::{Container, Mount, MountKind, MountSource, Volume};
use crate::error::ErrorKind;
use crate::source::Source;

const ANONYMOUS: &str = "3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a";
const PGDATA: &str = "/var/lib/postgresql/data";

/// A database whose data directory is where `PGDATA` says.
#[derive(Debug)]
struct TestProfile;

impl Profile for TestProfile {
    fn name(&self) -> &'static str {
        "test"
    }
    fn recognises(&self, container: &Container) -> bool {
        container.env.iter().any(|entry| entry.starts_with("PGDATA="))
    }
    fn data_directory(&self, container: &Container) -> Option<PathBuf> {
        container.env.iter().find_map(|entry| entry.strip_prefix("PGDATA=")).map(PathBuf::from)
    }
    fn data_directory_command(&self, _: &Container) -> Vec<String> {
        vec![]
    }
    fn ready_command(&self, _: &Container) -> Vec<String> {
        vec![]
    }
    fn await_ready_command(&self, _: &Container, _: Duration) -> Vec<String> {
        vec![]
    }
    fn stop_signal(&self) -> &'static str {
        "SIGINT"
    }
    fn stop_timeout(&self) -> Duration {
        Duration::ZERO
    }
    fn find(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec![])
    }
    fn inspect(&self, _: &Path, _: &Path) -> io::Result<Inspection> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn written_last(&self, _: &Path) -> Vec<PathBuf> {
        vec![]
    }
}

fn profile_of(container: &Container) -> Option<&'static dyn Profile> {
    TestProfile.recognises(container).then_some(&TestProfile)
}

fn resolved(target: &str, world: &World) -> Result<Source> {
    Resolver { world, profile_of }.resolve(&target.parse()?)
}

/// Returns the refusal: its kind, its message and its hint.
fn refusal(target: &str, world: &World) -> (ErrorKind, String, String) {
    let error = resolved(target, world).expect_err(target);
    (error.kind(), error.to_string(), error.hint_text().unwrap_or_default().to_owned())
}

fn location(target: &str, world: &World) -> String {
    let source = resolved(target, world).unwrap_or_else(|error| panic!("{target}: {error}"));
    super::data::target_of(&source.location).spelling()
}

fn container(name: &str, mounts: Vec<Mount>) -> Container {
    let mut container = Container { name: name.to_owned(), mounts, ..Container::default() };
    container.id = blake3::hash(name.as_bytes()).to_hex().to_string();
    container.state.running = true;
    container
}

fn stopped(mut container: Container) -> Container {
    container.state.running = false;
    container
}

fn database(name: &str, data_directory: &str, mounts: Vec<Mount>) -> Container {
    Container {
        env: vec![format!("PGDATA={data_directory}"), "PASSWORD=secret".to_owned()],
        ..container(name, mounts)
    }
}

fn of_service(mut container: Container, project: &str, service: &str) -> Container {
    let directory = format!("/srv/{project}");
    let labels = [
        ("project", project),
        ("service", service),
        ("project.working_dir", &directory),
        ("oneoff", "False"),
    ];
    for (label, value) in labels {
        container.labels.insert(format!("com.docker.compose.{label}"), value.to_owned());
    }
    container
}

fn mounted(volume: &str, destination: &str) -> Mount {
    let source = format!("/var/lib/docker/volumes/{volume}/_data").into();
    let destination = destination.into();
    Mount { kind: MountKind::Volume, volume: Some(volume.to_owned()), source, destination, read_only: false }
}

fn bound(source: &str, destination: &str) -> Mount {
    let (source, destination) = (source.into(), destination.into());
    Mount { kind: MountKind::Bind, volume: None, source, destination, read_only: false }
}

fn read_only(mount: Mount) -> Mount {
    Mount { read_only: true, ..mount }
}

fn tmpfs(destination: &str) -> Mount {
    Mount { kind: MountKind::Tmpfs, ..bound("", destination) }
}

fn volume(name: &str) -> Volume {
    let mountpoint = format!("/var/lib/docker/volumes/{name}/_data").into();
    Volume { name: name.to_owned(), driver: "local".to_owned(), mountpoint, ..Volume::default() }
}

fn volume_of(project: &str, key: &str) -> Volume {
    let mut volume = volume(&format!("{project}_{key}"));
    for (label, value) in [("project", project), ("volume", key)] {
        volume.labels.insert(format!("com.docker.compose.{label}"), value.to_owned());
    }
    volume
}

fn world(directory: &str, containers: Vec<Container>, volumes: Vec<Volume>) -> World {
    World {
        containers,
        volumes,
        directory: directory.into(),
        compose_project: None,
        directory_project: None,
        data_directories: std::collections::BTreeMap::new(),
        command: "volsnap snapshot".to_owned(),
    }
}

/// Returns a service `db` with its volume `PROJECT_db_data`, and its container.
fn db_of(project: &str) -> (Container, Volume) {
    let data = mounted(&format!("{project}_db_data"), PGDATA);
    let db = of_service(database(&format!("{project}-db-1"), PGDATA, vec![data]), project, "db");
    (db, volume_of(project, "db_data"))
}

/// Two projects with a database each, an app without data, a container and a volume beside them.
fn town(directory: &str) -> World {
    let ((shop_db, shop_data), (mall_db, mall_data)) = (db_of("shop"), db_of("mall"));
    let app = of_service(container("shop-app-1", vec![]), "shop", "app");
    let pg = database("pg", PGDATA, vec![mounted("pgdata", PGDATA)]);
    let web = container("web", vec![bound("/srv/www", "/www")]);
    world(
        directory,
        vec![shop_db, mall_db, app, pg, web],
        vec![shop_data, mall_data, volume("pgdata"), volume("spare")],
    )
}

#[rstest]
#[case("db", Target::Word("db".into()))]
#[case("service:db", Target::Service { project: None, service: "db".into() })]
#[case("service:shop/db", Target::Service { project: Some("shop".into()), service: "db".into() })]
#[case("container:pg", Target::Container("pg".into()))]
#[case("volume:pgdata", Target::Volume("pgdata".into()))]
#[case("volume:a:b", Target::Volume("a:b".into()))]
#[case("path:/data/pg", Target::Directory("/data/pg".into()))]
#[case("path:pg", Target::Directory("pg".into()))]
#[case("data/pg", Target::Directory("data/pg".into()))]
#[case(".", Target::Directory(".".into()))]
#[case("../pg", Target::Directory("../pg".into()))]
#[case("/x:y", Target::Directory("/x:y".into()))]
#[case("host:db", Target::Word("host:db".into()))]
#[case("a b;'\"\n$(x)", Target::Word("a b;'\"\n$(x)".into()))]
fn a_target_is_parsed(#[case] text: &str, #[case] expected: Target) {
    assert_eq!(text.parse::<Target>().unwrap(), expected);
}

#[rstest]
fn an_empty_name_is_refused(
    #[values("", "service:", "service:/db", "service:shop/", "container:", "volume:", "path:")] text: &str,
) {
    assert_eq!(text.parse::<Target>().unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn a_target_is_shown_on_one_line() {
    assert_eq!(Target::Volume("a\n\u{1b}[2Jb".to_owned()).to_string(), r"volume:a\n\u{1b}[2Jb");
}

#[rstest]
#[case::service_of_the_current_project("/srv/shop", "db", "volume:shop_db_data")]
#[case::below_the_projects_directory("/srv/mall/src/x", "db", "volume:mall_db_data")]
#[case::service_here("/srv/mall", "service:db", "volume:mall_db_data")]
#[case::service_of_a_project("/srv/shop", "service:mall/db", "volume:mall_db_data")]
#[case::container_name("/", "pg", "volume:pgdata")]
#[case::container("/", "container:shop-db-1", "volume:shop_db_data")]
#[case::volume_name("/", "spare", "volume:spare")]
#[case::volume("/", "volume:shop_db_data", "volume:shop_db_data")]
#[case::volume_key_of_the_current_project("/srv/shop", "db_data", "volume:shop_db_data")]
#[case::only_directory_of_a_container("/", "web", "path:/srv/www")]
#[case::path("/", "path:/srv/www", "path:/srv/www")]
#[case::relative_path("/srv/shop", "../www/./", "path:/srv/www")]
fn a_name_leads_to_its_source(#[case] directory: &str, #[case] target: &str, #[case] expected: &str) {
    assert_eq!(location(target, &town(directory)), expected);
}

#[test]
fn an_id_of_twelve_digits_or_more_names_a_container() {
    let world = town("/");
    let id = world.containers[3].id.clone();
    assert_eq!(location(&id[..12], &world), "volume:pgdata");
    assert_eq!(location(&format!("container:{id}"), &world), "volume:pgdata");
    assert_eq!(refusal(&id[..11], &world).0, ErrorKind::Usage);
}

#[test]
fn a_source_says_what_it_is() {
    let source = resolved("db", &town("/srv/shop")).unwrap();
    assert_eq!(source.title, "service db of shop (volume shop_db_data)");
    assert_eq!(source.key, "shop_db_data");
    assert_eq!(source.host_path, Path::new("/var/lib/docker/volumes/shop_db_data/_data"));
    assert_eq!(source.database().unwrap().name, "shop-db-1");
    assert_eq!(source.data_directory.as_deref(), Some(Path::new("")));
    assert_eq!(source.users.len(), 1);
    assert!(source.warnings.is_empty() && source.held_by.is_none());
    assert_eq!(resolved("container:pg", &town("/")).unwrap().title, "container pg (volume pgdata)");
    assert_eq!(resolved("volume:pgdata", &town("/")).unwrap().title, "volume pgdata");
    assert_eq!(resolved("/srv/www", &town("/")).unwrap().title, "directory /srv/www");
}

#[rstest]
#[case::named("/srv/shop", Some("mall"), None, "mall")]
#[case::file_says_which("/elsewhere", None, Some(("mall", "/elsewhere")), "mall")]
#[case::nearer_file_wins("/srv/shop/sub", None, Some(("mall", "/srv/shop/sub")), "mall")]
#[case::nearer_label_wins("/srv/shop/sub", None, Some(("mall", "/srv")), "shop")]
fn the_current_project_is_found(
    #[case] directory: &str,
    #[case] named: Option<&str>,
    #[case] file: Option<(&str, &str)>,
    #[case] expected: &str,
) {
    let directory_project =
        file.map(|(name, directory)| DirectoryProject { name: name.to_owned(), directory: directory.into() });
    let world = World { compose_project: named.map(str::to_owned), directory_project, ..town(directory) };
    assert_eq!(location("db", &world), format!("volume:{expected}_db_data"));
}

#[test]
fn of_two_projects_in_one_directory_the_file_decides_else_neither() {
    let mut world = town("/srv/shop");
    let label = "com.docker.compose.project.working_dir".to_owned();
    world.containers[1].labels.insert(label, "/srv/shop".to_owned());
    assert_eq!(refusal("db", &world).2, "volsnap snapshot service:mall/db\nvolsnap snapshot service:shop/db");
    world.directory_project =
        Some(DirectoryProject { name: "mall".to_owned(), directory: "/srv/shop".into() });
    assert_eq!(location("db", &world), "volume:mall_db_data");
}

#[test]
fn a_service_of_several_projects_is_ambiguous_outside_them() {
    for target in ["db", "service:db"] {
        let (kind, message, hint) = refusal(target, &town("/srv/shop2"));
        assert_eq!(kind, ErrorKind::Usage);
        assert!(message.contains("service:mall/db, service:shop/db"), "{message}");
        assert_eq!(hint, "volsnap snapshot service:mall/db\nvolsnap snapshot service:shop/db");
    }
}

#[test]
fn a_word_for_several_sources_is_ambiguous_and_for_one_it_is_fine() {
    let mut world = town("/srv/shop");
    world.containers.push(container("spare", vec![mounted("spare", "/x")]));
    assert_eq!(location("spare", &world), "volume:spare");
    world.volumes.push(volume("db"));
    world.containers.push(container("db", vec![mounted("other", "/x")]));
    let hint = refusal("db", &world).2;
    let commands =
        ["service:shop/db", "container:db", "volume:db"].map(|target| format!("volsnap snapshot {target}"));
    assert_eq!(hint, commands.join("\n"));
}

#[rstest]
#[case::misspelt("dbb", "service:mall/db")]
#[case::container("pgg", "container:pg")]
#[case::volume("volume:pgdat", "volume:pgdata")]
#[case::of_another_kind("volume:web", "container:web")]
#[case::case_folded("service:DB", "service:mall/db")]
fn an_unknown_name_is_refused_with_the_nearest(#[case] target: &str, #[case] nearest: &str) {
    let (kind, message, hint) = refusal(target, &town("/"));
    assert_eq!(kind, ErrorKind::Usage);
    assert!(message.contains("the nearest names are") && message.contains(nearest), "{message}");
    assert_eq!(hint.lines().next().unwrap(), format!("volsnap snapshot {nearest}"));
}

#[test]
fn a_name_like_no_other_is_refused_with_the_way_to_look() {
    let (_, message, hint) = refusal("zzzzzz", &town("/"));
    assert_eq!(message, "no service, container or volume is called \"zzzzzz\"");
    assert_eq!(hint, "docker ps --all && docker volume ls");
}

// faults.md row 17.
#[rstest]
#[case("/srv/shop", "volume:db_data", &["shop_db_data", "mall_db_data"])]
#[case("/", "db_data", &["shop_db_data", "mall_db_data"])]
fn a_volume_without_its_projects_prefix_is_refused_naming_it(
    #[case] directory: &str,
    #[case] target: &str,
    #[case] expected: &[&str],
) {
    let (kind, message, hint) = refusal(target, &town(directory));
    assert_eq!(kind, ErrorKind::Usage);
    assert!(message.contains("with its project's prefix there is volume:shop_db_data"), "{message}");
    let commands: Vec<_> = expected.iter().map(|name| format!("volsnap snapshot volume:{name}")).collect();
    assert_eq!(hint, commands.join("\n"));
}

// faults.md row 54.
#[rstest]
fn odd_names_are_data(#[values("a b", "x;rm -rf /", "it's", "a\"b", "$(id)", "a\nb", "--help")] name: &str) {
    let world = world("/", vec![], vec![volume(name), volume(&format!("{name}2"))]);
    assert_eq!(location(&format!("volume:{name}"), &world), format!("volume:{name}"));
    let (_, message, hint) = refusal(&format!("volume:{name}3"), &world);
    assert!(!message.contains('\n'), "{message}");
    assert_eq!(hint.lines().count(), 2, "{hint}");
    assert!(hint.contains(&shell_quote(&format!("volume:{name}"))), "{hint}");
}

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
    // Naming the volume does not make it whole.
    assert!(refusal("volume:v", &world).1.contains(said));
}

#[test]
fn data_in_a_containers_own_layer_is_refused_with_the_way_to_save_it() {
    let running = database("my pg", PGDATA, vec![]);
    let hint = refusal("my pg", &world("/", vec![running.clone()], vec![])).2;
    let copy = "docker cp --archive 'my pg:/var/lib/postgresql/data' ./rescued-data";
    assert_eq!(hint, format!("docker stop --time 600 'my pg' && {copy}; docker start 'my pg'"));
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
    assert_eq!(hint, "docker stop --time 600 b");
    let one = world("/", vec![stopped(pg("a")), pg("b")], volumes.clone());
    assert_eq!(resolved("a", &one).unwrap().database().unwrap().name, "b");
    let none = world("/", vec![stopped(pg("a")), stopped(pg("b"))], volumes);
    assert_eq!(resolved("a", &none).unwrap().database().unwrap().name, "a");
}

#[test]
fn a_directory_with_several_databases_is_refused_naming_each() {
    let pg = |name: &str| database(name, PGDATA, vec![bound(&format!("/data/{name}"), PGDATA)]);
    let world = world("/", vec![pg("a"), stopped(pg("b"))], vec![]);
    assert_eq!(refusal("/data", &world).2, "volsnap snapshot container:a\nvolsnap snapshot container:b");
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

#[test]
fn no_secret_is_in_a_refusal() {
    for target in ["dbb", "db", "volume:db_data", "app", "/srv"] {
        if let Err(error) = resolved(target, &town("/")) {
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_target_makes_it_panic(text in "(service:|container:|volume:|path:|)(\\PC|[/.;'\" \n\t\0]|db|shop|pg){0,8}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert!(!target.to_string().chars().any(char::is_control));
            for world in [town("/srv/shop"), world("/", vec![], vec![])] {
                if let Err(error) = (Resolver { world: &world, profile_of }).resolve(&target) {
                    prop_assert!(!error.to_string().chars().any(char::is_control));
                }
            }
        }
    }

    #[test]
    fn a_spelling_is_parsed_as_what_was_spelt(text in "(service:|container:|volume:|path:|)\\PC{1,8}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.spelling().parse::<Target>().unwrap(), target);
        }
    }
}
