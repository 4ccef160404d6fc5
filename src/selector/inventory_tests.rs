//! Who uses a source: by name, by path above and below, by a volume's device, through the network.

use rstest::rstest;

use super::*;

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
#[case::above(directory("/data/pg"), bind("/data"), true)]
#[case::below(directory("/data/pg"), bind("/data/pg/base"), true)]
#[case::the_root(directory("/data/pg"), bind("/"), true)]
#[case::sibling_of_like_name(directory("/data/pg"), bind("/data/pg2"), false)]
#[case::sibling(directory("/data/pg"), bind("/data/other"), false)]
#[case::volume_by_its_mountpoint(directory("/var/lib/docker/volumes/pg/_data"), volume_mount("pg"), true)]
#[case::mountpoint_bound(named("pg"), bind("/var/lib/docker/volumes"), true)]
#[case::volume_bound_to_the_directory(directory("/srv/db"), volume_mount("bound"), true)]
#[case::directory_of_a_bound_volume(named("bound"), bind("/srv/db/base"), true)]
#[case::two_volumes_on_one_device(named("bound"), volume_mount("twin"), true)]
#[case::nothing_known_of_a_path(directory("/data/pg"), bind(""), false)]
#[case::memory(directory("/data/pg"), Mount { kind: MountKind::Tmpfs, ..bind("/data/pg") }, false)]
fn a_container_uses_what_it_can_reach(
    #[case] location: MountSource,
    #[case] mount: Mount,
    #[case] uses: bool,
) {
    let volumes = [volume("pg"), volume("pg2"), bound("bound", "/srv/db"), bound("twin", "/srv/db/")];
    let inventory = inventory(&location, &[container("c", vec![mount])], &volumes);
    assert_eq!(!inventory.users.is_empty(), uses);
}

#[test]
fn a_driver_with_storage_of_its_own_is_compared_by_name_alone() {
    let plugin = Volume { driver: "rexray".to_owned(), mountpoint: "/".into(), ..volume("remote") };
    let containers = [container("a", vec![bind("/data")]), container("b", vec![volume_mount("remote")])];
    assert_eq!(names(&inventory(&named("remote"), &containers, &[plugin])), ["b"]);
}

#[test]
fn containers_that_do_not_run_and_readers_are_users_too() {
    let mut stopped = container("stopped", vec![volume_mount("pg")]);
    stopped.state.running = false;
    let reader = container("reader", vec![Mount { read_only: true, ..volume_mount("pg") }]);
    let both = container("both", vec![Mount { read_only: true, ..volume_mount("pg") }, volume_mount("pg")]);
    let inventory = inventory(&named("pg"), &[stopped, reader, both], &[volume("pg")]);
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
    let inventory = inventory(&named("pg"), &containers, &[]);
    let users: Vec<_> =
        inventory.users.iter().map(|user| (user.container.name.as_str(), user.through_network)).collect();
    assert_eq!(users, [("third", true), ("second", true), ("db", false)]);
}

#[test]
fn sharers_of_a_stopped_users_network_are_left_alone() {
    let mut db = container("db", vec![volume_mount("pg")]);
    db.state.running = false;
    let side = Container { network_mode: "container:db".to_owned(), ..container("side", vec![]) };
    assert_eq!(names(&inventory(&named("pg"), &[db, side], &[])), ["db"]);
}

#[test]
fn a_helper_is_no_user_but_another_run() {
    let mut helper = container("volsnap-1", vec![volume_mount("pg")]);
    helper.labels.insert(LABEL_RUN.to_owned(), "run-1".to_owned());
    let inventory = inventory(&named("pg"), &[helper, container("db", vec![volume_mount("pg")])], &[]);
    assert_eq!(names(&inventory), ["db"]);
    let run = inventory.held_by.unwrap();
    assert_eq!((run.run.as_str(), run.container.as_str(), run.running), ("run-1", "volsnap-1", true));
}

#[rstest]
#[case("/a/../b/./c/", "/b/c")]
#[case("/../../x", "/x")]
#[case("/", "/")]
fn paths_are_normalized_by_their_text(#[case] path: &str, #[case] expected: &str) {
    assert_eq!(normalize(Path::new(path)), Path::new(expected));
}
