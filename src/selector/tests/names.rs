//! What a target names.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::compose::DirectoryProject;

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
fn a_task_of_swarm_is_found_by_its_service_and_by_what_its_stack_calls_that() {
    let mut task = container("app_db.1.x9f3", vec![mounted("app_db_data", "/data")]);
    for (label, value) in [
        ("com.docker.swarm.task.id", "x9f3"),
        ("com.docker.swarm.service.name", "app_db"),
        ("com.docker.stack.namespace", "app"),
    ] {
        task.labels.insert(label.to_owned(), value.to_owned());
    }
    let world = world("/", vec![task], vec![volume("app_db_data")]);
    for target in ["db", "service:app/db", "app_db", "container:app_db"] {
        assert_eq!(location(target, &world), "volume:app_db_data", "{target}");
    }
    assert_eq!(refusal("web", &world).0, ErrorKind::Usage);
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
    let world =
        EngineInventory { compose_project: named.map(str::to_owned), directory_project, ..town(directory) };
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
    let mut world = town("/");
    world.containers.push(container("spare", vec![mounted("spare", "/x")]));
    assert_eq!(location("spare", &world), "volume:spare");
    world.volumes.push(volume("db"));
    world.containers.push(container("db", vec![mounted("other", "/x")]));
    let hint = refusal("db", &world).2;
    let commands = ["service:mall/db", "service:shop/db", "container:db", "volume:db"]
        .map(|target| format!("volsnap snapshot {target}"));
    assert_eq!(hint, commands.join("\n"));
    // Where a project is known, its service is meant.
    world.directory = "/srv/shop".into();
    assert_eq!(location("db", &world), "volume:shop_db_data");
}

/// Returns a project whose service is up, seen from another whose file is there and whose service is not.
fn beside_another_project(other: Container, volumes: Vec<Volume>) -> EngineInventory {
    let directory_project = Some(DirectoryProject { name: "two".to_owned(), directory: "/srv/two".into() });
    EngineInventory { directory_project, ..world("/srv/two", vec![other], volumes) }
}

#[rstest]
#[case::by_file(false)]
#[case::by_variable(true)]
fn a_bare_name_never_means_the_service_of_another_project(#[case] by_variable: bool) {
    let appdb = of_service(database("one-appdb-1", PGDATA, vec![mounted("v", PGDATA)]), "one", "appdb");
    let mut world = beside_another_project(appdb, vec![volume("v")]);
    if by_variable {
        world.directory_project = None;
        world.compose_project = Some("two".to_owned());
        world.directory = "/srv/one".into();
    }
    for target in ["appdb", "service:appdb"] {
        let (kind, message, hint) = refusal(target, &world);
        assert_eq!(kind, ErrorKind::Usage);
        let said = "in the project here (two); other projects have service:one/appdb";
        assert!(message.contains(said), "{message}");
        assert_eq!(hint, "volsnap snapshot service:one/appdb");
    }
    let hint = refusal("one-appdb-1", &world).2;
    assert_eq!(hint, "volsnap snapshot container:one-appdb-1");
    assert_eq!(location("service:one/appdb", &world), "volume:v");
    assert_eq!(location("container:one-appdb-1", &world), "volume:v");
    let id = world.containers[0].id.clone();
    assert_eq!(location(&id, &world), "volume:v");
    world.volumes.push(volume_of("two", "appdb"));
    assert_eq!(location("appdb", &world), "volume:two_appdb", "what the project here has is meant");
}

#[rstest]
#[case::in_its_directory("/srv/shop")]
#[case::anywhere("/")]
fn a_service_wins_over_its_own_projects_volume_of_its_name(#[case] directory: &str) {
    let db = of_service(database("db", PGDATA, vec![bound("/data/pg", PGDATA)]), "shop", "db");
    let mut left = volume_of("shop", "db");
    left.name = "db".to_owned();
    let world = world(directory, vec![db], vec![volume_of("shop", "db"), left]);
    assert_eq!(location("db", &world), "path:/data/pg");
    assert_eq!(location("volume:db", &world), "volume:db");
}

#[test]
fn a_project_is_found_by_whatever_name_its_directory_has() {
    let mut world = town("/srv/current");
    for (name, real) in [("/srv/current", "/releases/7"), ("/srv/mall", "/releases/7")] {
        world.real_directories.insert(name.into(), real.into());
    }
    assert_eq!(location("db", &world), "volume:mall_db_data");
}

#[test]
fn what_is_below_the_directory_comes_first() {
    let mut world = town("/work");
    for container in &mut world.containers {
        if container.labels.get("com.docker.compose.project").is_some_and(|project| project == "shop") {
            let label = "com.docker.compose.project.working_dir".to_owned();
            container.labels.insert(label, "/work/docker".to_owned());
        }
    }
    assert_eq!(refusal("db", &world).2, "volsnap snapshot service:shop/db\nvolsnap snapshot service:mall/db");
}

#[rstest]
#[case("/srv/shop", "appd", &["service:shop/appdb", "service:mall/appdb"])]
#[case("/srv/mall", "apdb", &["service:mall/appdb", "service:shop/appdb"])]
#[case("/srv/mall", "appbd", &["service:mall/appdb", "service:shop/appdb"])]
fn of_near_names_those_of_the_own_project_come_first(
    #[case] directory: &str,
    #[case] typed: &str,
    #[case] expected: &[&str],
) {
    let of = |project: &str, service: &str| {
        of_service(container(&format!("{project}-{service}-1"), vec![]), project, service)
    };
    let containers = vec![of("shop", "appdb"), of("mall", "appdb"), of("shop", "approval")];
    let hint = refusal(typed, &world(directory, containers, vec![])).2;
    let commands: Vec<_> = expected.iter().map(|target| format!("volsnap snapshot {target}")).collect();
    assert!(hint.starts_with(&commands.join("\n")), "{hint}");
}

#[rstest]
#[case::misspelt("dbb", "service:mall/db")]
#[case::container("pgg", "container:pg")]
#[case::volume("volume:pgdat", "volume:pgdata")]
#[case::of_another_kind("volume:web", "container:web")]
#[case::word_in_a_name("shop", "container:shop-db-1")]
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
    assert_eq!(hint, "docker ps --all\ndocker volume ls");
}

#[test]
fn a_project_whose_file_is_below_is_pointed_at_where_nothing_has_the_name() {
    let mut world = town("/work");
    let below = DirectoryProject { name: "docker".to_owned(), directory: "/work/docker".into() };
    world.projects_below.push(below);
    let (_, _, hint) = refusal("zzzzzz", &world);
    let first =
        "docker compose --project-directory /work/docker ps --all    # project docker has its file there";
    assert_eq!(hint.lines().next(), Some(first));
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
                if let Err(error) = (Resolver { world: &world, server_of }).resolve(&target) {
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

#[test]
fn an_option_that_names_no_container_is_refused_with_the_nearest_ones() {
    let db = of_service(container("shop-db-1", vec![]), "shop", "database");
    let world = world("/srv", vec![db, container("agent", vec![])], vec![]);
    let refusal = |name: &str| {
        let error = refuse_unknown_container("--kill", name, &world).expect_err(name);
        (error.to_string(), error.hint_text().unwrap_or_default())
    };
    assert!(refuse_unknown_container("--kill", "agent", &world).is_ok());
    for typed in ["db", "database", "shop_db_1"] {
        let (said, hint) = refusal(typed);
        assert!(said.contains("which --kill names") && said.contains("shop-db-1"), "{said}");
        assert!(hint.contains("--kill shop-db-1"), "{hint}");
    }
    assert_eq!(
        refusal("agemt").0,
        "no container is called \"agemt\", which --kill names; the nearest names are agent"
    );
    assert!(refusal("elsewhere").1.contains("docker ps --all"));
}
