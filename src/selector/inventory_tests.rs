//! Who uses a source: by name, by path above and below, by a volume's device, through the network.

use rstest::rstest;

use super::*;
use crate::model::container::MountKind;
use crate::model::location::normalize;
use crate::selector::Bystanders;
use std::path::Path;

fn world(containers: Vec<Container>, volumes: Vec<Volume>) -> EngineInventory {
    EngineInventory {
        containers,
        volumes,
        directory: "/".into(),
        compose_project: None,
        directory_project: None,
        projects_below: vec![],
        data_directories: BTreeMap::new(),
        open_files: BTreeMap::new(),
        bystanders: Bystanders::default(),
        real_directories: std::collections::BTreeMap::new(),
        typed: String::new(),
        command: vec!["snapshot".to_owned()],
    }
}

fn container(name: &str, mounts: Vec<Mount>) -> Container {
    let mut container =
        Container { id: format!("{name}-id"), name: name.to_owned(), mounts, ..Container::default() };
    container.state.running = true;
    container
}

fn bind(source: &str) -> Mount {
    Mount { kind: MountKind::Bind, source: source.into(), destination: "/d".into(), ..Mount::default() }
}

fn volume_mount(name: &str) -> Mount {
    let source = format!("/var/lib/docker/volumes/{name}/_data").into();
    Mount { volume: Some(name.to_owned()), source, destination: "/d".into(), ..Mount::default() }
}

fn volume(name: &str) -> Volume {
    let mountpoint = format!("/var/lib/docker/volumes/{name}/_data").into();
    Volume { name: name.to_owned(), driver: "local".to_owned(), mountpoint, ..Volume::default() }
}

fn bound(name: &str, device: &str) -> Volume {
    let options = [("type", "none"), ("o", "rw,bind"), ("device", device)];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Volume { options, ..volume(name) }
}

fn directory(path: &str) -> MountSource {
    MountSource::Directory(path.into())
}

fn named(name: &str) -> MountSource {
    MountSource::Volume(name.to_owned())
}

fn names(inventory: &Inventory) -> Vec<&str> {
    inventory.users.iter().map(|user| user.container.name.as_str()).collect()
}

#[rstest]
#[case::same_volume(named("pg"), volume_mount("pg"), true)]
#[case::other_volume(named("pg"), volume_mount("pg2"), false)]
#[case::same_directory(directory("/data/pg"), bind("/data/pg"), true)]
#[case::not_normal(directory("/data/pg"), bind("/data/./x/../pg/"), true)]
#[case::above(directory("/data/pg"), bind("/data"), false)]
#[case::below(directory("/data/pg"), bind("/data/pg/base"), true)]
#[case::the_root(directory("/data/pg"), bind("/"), false)]
#[case::sibling_of_like_name(directory("/data/pg"), bind("/data/pg2"), false)]
#[case::sibling(directory("/data/pg"), bind("/data/other"), false)]
#[case::volume_by_its_mountpoint(directory("/var/lib/docker/volumes/pg/_data"), volume_mount("pg"), true)]
#[case::mountpoint_bound(named("pg"), bind("/var/lib/docker/volumes"), false)]
#[case::volume_bound_to_the_directory(directory("/srv/db"), volume_mount("bound"), true)]
#[case::directory_of_a_bound_volume(named("bound"), bind("/srv/db/base"), true)]
#[case::two_volumes_on_one_device(named("bound"), volume_mount("twin"), true)]
#[case::nothing_known_of_a_path(directory("/data/pg"), bind(""), false)]
#[case::memory(directory("/data/pg"), Mount { kind: MountKind::Tmpfs, ..bind("/data/pg") }, false)]
fn a_container_uses_what_it_mounts_or_a_part_of_it(
    #[case] location: MountSource,
    #[case] mount: Mount,
    #[case] uses: bool,
) {
    let volumes = [volume("pg"), volume("pg2"), bound("bound", "/srv/db"), bound("twin", "/srv/db/")];
    let inventory = inventory(&location, &world(vec![container("c", vec![mount])], volumes.to_vec()));
    assert_eq!(!inventory.users.is_empty(), uses);
}

#[test]
fn a_driver_with_storage_of_its_own_is_compared_by_name_alone() {
    let plugin = Volume { driver: "rexray".to_owned(), mountpoint: "/".into(), ..volume("remote") };
    let containers = [container("a", vec![bind("/data")]), container("b", vec![volume_mount("remote")])];
    assert_eq!(names(&inventory(&named("remote"), &world(containers.to_vec(), vec![plugin]))), ["b"]);
}

#[test]
fn containers_that_do_not_run_and_readers_are_users_too() {
    let mut stopped = container("stopped", vec![volume_mount("pg")]);
    stopped.state.running = false;
    let reader = container("reader", vec![Mount { read_only: true, ..volume_mount("pg") }]);
    let both = container("both", vec![Mount { read_only: true, ..volume_mount("pg") }, volume_mount("pg")]);
    let inventory = inventory(&named("pg"), &world(vec![stopped, reader, both], vec![volume("pg")]));
    let writes: Vec<_> =
        inventory.users.iter().map(|user| (user.container.name.as_str(), user.writes)).collect();
    assert_eq!(writes, [("stopped", true), ("reader", false), ("both", true)]);
}

#[test]
fn sharers_of_a_users_network_are_found_through_each_other() {
    let share = |name: &str, owner: &str| Container {
        network_mode: format!("container:{owner}"),
        ..container(name, vec![])
    };
    let containers = [
        share("third", "second-id"),
        share("second", "db"),
        container("db", vec![volume_mount("pg")]),
        share("stranger", "elsewhere"),
        share("circle", "circle"),
    ];
    let inventory = inventory(&named("pg"), &world(containers.to_vec(), vec![]));
    let users: Vec<_> =
        inventory.users.iter().map(|user| (user.container.name.as_str(), user.as_sharer)).collect();
    assert_eq!(users, [("third", true), ("second", true), ("db", false)]);
}

#[test]
fn sharers_of_a_stopped_users_network_are_left_alone() {
    let mut db = container("db", vec![volume_mount("pg")]);
    db.state.running = false;
    let side = Container { network_mode: "container:db".to_owned(), ..container("side", vec![]) };
    assert_eq!(names(&inventory(&named("pg"), &world(vec![db, side], vec![]))), ["db"]);
}

#[test]
fn a_helper_is_no_user_but_another_run() {
    let mut helper = container("volsnap-1", vec![volume_mount("pg")]);
    helper.labels.insert(LABEL_RUN.to_owned(), "run-1".to_owned());
    let inventory =
        inventory(&named("pg"), &world(vec![helper, container("db", vec![volume_mount("pg")])], vec![]));
    assert_eq!(names(&inventory), ["db"]);
    let run = inventory.held_by.unwrap();
    assert_eq!((run.run.as_str(), run.container.as_str(), run.running), ("run-1", "volsnap-1", true));
}

fn onlookers(inventory: &Inventory) -> Vec<(&str, bool, bool, bool)> {
    let shown = |one: &'_ Onlooker| (one.writes, one.ignored, one.looked);
    let all = inventory.onlookers.iter();
    all.map(|one| (one.container.as_str(), shown(one).0, shown(one).1, shown(one).2)).collect()
}

fn postgres(name: &str, pgdata: &str, mounts: Vec<Mount>) -> Container {
    Container {
        image: "postgres:15".to_owned(),
        command: vec!["docker-entrypoint.sh".to_owned(), "postgres".to_owned()],
        env: vec![format!("PGDATA={pgdata}"), "PG_MAJOR=15".to_owned()],
        ..container(name, mounts)
    }
}

fn of_project(mut container: Container, project: &str) -> Container {
    for (label, value) in [("project", project), ("service", "s"), ("oneoff", "False")] {
        container.labels.insert(format!("com.docker.compose.{label}"), value.to_owned());
    }
    container
}

fn below(source: &str, destination: &str) -> Mount {
    Mount { destination: destination.into(), ..bind(source) }
}

#[test]
fn an_agent_that_sees_everything_is_an_onlooker_and_named() {
    let agent = container("agent", vec![below("/", "/rootfs")]);
    let reader = container("reader", vec![Mount { read_only: true, ..bind("/var/lib/docker") }]);
    let mut gone = container("gone", vec![bind("/")]);
    gone.state.running = false;
    let db = container("db", vec![volume_mount("pg")]);
    let inventory = inventory(&named("pg"), &world(vec![agent, reader, gone, db], vec![volume("pg")]));
    assert_eq!(names(&inventory), ["db"]);
    assert_eq!(onlookers(&inventory), [("agent", true, false, false), ("reader", false, false, false)]);
}

#[test]
fn a_database_is_a_user_whatever_it_mounts_and_whoever_says_to_ignore_it() {
    let mut db = postgres("db", "/root/var/lib/docker/volumes/pg/_data", vec![below("/", "/root")]);
    db.labels.insert(LABEL_IGNORE.to_owned(), "true".to_owned());
    let mut world = world(vec![db], vec![volume("pg")]);
    world.bystanders.ignore.push("db".to_owned());
    assert_eq!(names(&inventory(&named("pg"), &world)), ["db"]);
}

#[rstest]
#[case::a_file_open("/rootfs/var/lib/docker/volumes/pg/_data/base/1", true)]
#[case::working_there("/rootfs/var/lib/docker/volumes/pg/_data", true)]
#[case::elsewhere("/rootfs/var/lib/docker/volumes/pg2/_data/base/1", false)]
#[case::another_mount_hides_it("/rootfs/var/lib/docker/volumes/pg/_data/own/1", false)]
fn what_a_container_has_open_makes_it_a_user(#[case] open: &str, #[case] uses: bool) {
    let hiding = below("/elsewhere", "/rootfs/var/lib/docker/volumes/pg/_data/own");
    let agent = container("agent", vec![below("/", "/rootfs"), hiding]);
    let mut world = world(vec![agent.clone()], vec![volume("pg"), volume("pg2")]);
    world.open_files.insert(agent.id, vec![open.into()]);
    let inventory = inventory(&named("pg"), &world);
    assert_eq!(!inventory.users.is_empty(), uses);
    assert_eq!(onlookers(&inventory), if uses { vec![] } else { vec![("agent", true, false, true)] });
}

#[test]
fn what_mounts_a_directory_above_is_a_user_in_the_project_that_uses_the_source() {
    let db = of_project(container("db", vec![bind("/srv/shop/pg")]), "shop");
    let app = of_project(container("app", vec![bind("/srv/shop")]), "shop");
    let mut stack = container("stack", vec![bind("/srv/shop")]);
    stack.labels.insert(STACK.to_owned(), "shop".to_owned());
    let other = of_project(container("other", vec![bind("/srv/shop")]), "mall");
    let elsewhere = of_project(postgres("elsewhere", "/d/pg2", vec![bind("/srv/shop")]), "shop");
    let world = world(vec![db, app, stack, other, elsewhere], vec![]);
    let inventory = inventory(&directory("/srv/shop/pg"), &world);
    assert_eq!(names(&inventory), ["db", "app", "stack"]);
    assert_eq!(onlookers(&inventory).iter().map(|one| one.0).collect::<Vec<_>>(), ["other", "elsewhere"]);
}

#[test]
fn the_volumes_own_project_counts_where_nobody_mounts_it() {
    let mut pg = volume("pg");
    for (label, value) in [("project", "shop"), ("volume", "pg")] {
        pg.labels.insert(format!("com.docker.compose.{label}"), value.to_owned());
    }
    let app = of_project(container("app", vec![bind("/var/lib/docker/volumes")]), "shop");
    assert_eq!(names(&inventory(&named("pg"), &world(vec![app], vec![pg]))), ["app"]);
}

#[test]
fn the_user_has_the_last_word_on_who_is_held_and_who_is_ignored() {
    let mut labelled = container("labelled", vec![volume_mount("pg")]);
    labelled.labels.insert(LABEL_IGNORE.to_owned(), "true".to_owned());
    let containers =
        vec![labelled, container("sidecar", vec![volume_mount("pg")]), container("agent", vec![bind("/")])];
    let mut world = world(containers, vec![volume("pg")]);
    assert_eq!(names(&inventory(&named("pg"), &world)), ["sidecar"]);
    world.bystanders = Bystanders {
        hold: vec!["agent".to_owned(), "labelled".to_owned()],
        ignore: vec!["sidecar".to_owned()],
        own: None,
    };
    let inventory = inventory(&named("pg"), &world);
    assert_eq!(names(&inventory), ["labelled", "agent"]);
    assert_eq!(onlookers(&inventory), [("sidecar", true, true, false)]);
}

#[test]
fn the_container_that_we_run_in_is_no_user_and_a_guard_is_nobody() {
    let mut guard = container("guard", vec![volume_mount("pg")]);
    for label in [LABEL_RUN, LABEL_GUARD] {
        guard.labels.insert(label.to_owned(), "run-1".to_owned());
    }
    let ours = container("box", vec![volume_mount("pg")]);
    let mut world = world(vec![guard, ours, container("db", vec![volume_mount("pg")])], vec![volume("pg")]);
    world.bystanders.own = Some("box".to_owned());
    let inventory = inventory(&named("pg"), &world);
    assert_eq!(names(&inventory), ["db"]);
    assert!(inventory.held_by.is_none());
    assert_eq!(onlookers(&inventory), [("box", true, true, false)]);
}

#[rstest]
#[case("/a/../b/./c/", "/b/c")]
#[case("/../../x", "/x")]
#[case("/", "/")]
fn paths_are_normalized_by_their_text(#[case] path: &str, #[case] expected: &str) {
    assert_eq!(normalize(Path::new(path)), Path::new(expected));
}
