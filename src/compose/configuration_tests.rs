use rstest::rstest;

use super::*;
use crate::model::container::Mount;

/// As Compose 1 prints it.
const SHORT: &str = "\
services:
  db:
    command: postgres -c fsync=on
    environment:
      A: pa$$x
      B: ''
      GONE: null
    healthcheck:
      test: [CMD, 'true']
    image: postgres:15
    restart: 'no'
    stop_grace_period: 1m
    volumes:
    - data:/var/lib/postgresql/data:rw
    - /srv/conf:/conf:ro
version: '3.9'
volumes:
  data:
    driver_opts: {type: none, device: /srv}
";

/// As Compose 2 prints it.
const LONG: &str = "\
name: app
services:
  db:
    command: [postgres, -c, fsync=on]
    entrypoint: null
    environment: {A: pa$$x, B: ''}
    healthcheck: {test: [CMD, 'true']}
    image: postgres:15
    networks: {default: null}
    stop_grace_period: 1m0s
    volumes:
      - {type: volume, source: data, target: /var/lib/postgresql/data, volume: {}}
      - {type: bind, source: /srv/conf, target: /conf, read_only: true, bind: {create_host_path: true}}
volumes:
  data: {name: app_data, driver_opts: {type: none, device: /srv}}
";

fn image() -> Image {
    Image {
        id: "sha256:1".to_owned(),
        env: vec!["PATH=/bin".to_owned()],
        entrypoint: vec!["docker-entrypoint.sh".to_owned()],
        command: vec!["postgres".to_owned()],
        ..Image::default()
    }
}

fn container() -> Container {
    let mount = |kind, volume: Option<&str>, source: &str, destination: &str, read_only| Mount {
        kind,
        volume: volume.map(str::to_owned),
        source: source.into(),
        destination: destination.into(),
        read_only,
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Container {
        image: "postgres:15".to_owned(),
        image_id: "sha256:1".to_owned(),
        command: words(&["docker-entrypoint.sh", "postgres", "-c", "fsync=on"]),
        env: words(&["A=pa$x", "B=", "PATH=/bin"]),
        labels: [("com.docker.compose.project".to_owned(), "app".to_owned())].into(),
        mounts: vec![
            mount(MountKind::Volume, Some("app_data"), "/v", "/var/lib/postgresql/data", false),
            mount(MountKind::Bind, None, "/srv/conf", "/conf", true),
        ],
        network_mode: "app_default".to_owned(),
        stop_timeout: Some(60),
        ..Container::default()
    }
}

#[rstest]
#[case::compose_1(SHORT)]
#[case::compose_2(LONG)]
fn a_container_that_is_as_the_files_say_differs_in_nothing(#[case] printed: &str) {
    let configuration = Configuration::of("app", printed, "");
    assert_eq!(configuration.differences("db", &container(), Some(&image())), []);
    assert!(configuration.not_compared("db").contains(&"healthcheck".to_owned()));
    let [volume] = &configuration.volumes("db")[..] else { panic!("{:?}", configuration.volumes("db")) };
    assert_eq!((volume.name.as_str(), volume.options["device"].as_str()), ("app_data", "/srv"));
}

type Edit = fn(&mut Container);

#[rstest]
#[case::image(|made: &mut Container| made.image = "postgres:14".to_owned(), "image")]
#[case::tag_that_moved_on(|made: &mut Container| made.image_id = "sha256:2".to_owned(), "image")]
#[case::variable(|made: &mut Container| made.env[0] = "A=secret".to_owned(), "environment A")]
#[case::variable_that_was_empty(|made: &mut Container| made.env[1] = "B=secret".to_owned(), "environment B")]
#[case::variable_no_longer_there(|made: &mut Container| made.env.push("GONE=secret".to_owned()), "environment GONE")]
#[case::variable_of_the_image(|made: &mut Container| made.env[2] = "PATH=/secret".to_owned(), "environment PATH")]
#[case::label(|made: &mut Container| drop(made.labels.insert("a".to_owned(), "secret".to_owned())), "labels a")]
#[case::command(|made: &mut Container| made.command.truncate(2), "command")]
#[case::restart(|made: &mut Container| made.restart_policy = "always".to_owned(), "restart")]
#[case::grace(|made: &mut Container| made.stop_timeout = None, "stop_grace_period")]
#[case::network(|made: &mut Container| made.network_mode = "host".to_owned(), "network_mode")]
#[case::volume(|made: &mut Container| made.mounts[0].volume = Some("other".to_owned()), "volumes /var/lib/postgresql/data")]
#[case::not_mounted(|made: &mut Container| drop(made.mounts.pop()), "volumes /conf")]
#[case::read_only(|made: &mut Container| made.mounts[1].read_only = false, "volumes /conf")]
fn what_differs_is_told_by_its_name_and_never_by_its_value(#[case] edit: Edit, #[case] expected: &str) {
    let mut made = container();
    edit(&mut made);
    for printed in [SHORT, LONG] {
        let configuration = Configuration::of("app", printed, "");
        let [change] = &configuration.differences("db", &made, Some(&image()))[..] else {
            panic!("{expected}")
        };
        assert_eq!(change.to_string(), expected);
        assert_eq!(matches!(change, Change::Mount(_)), expected.starts_with("volumes "), "{change:?}");
    }
}

#[test]
fn a_variable_without_a_value_is_told_from_other_warnings() {
    let warned = "time=\"x\" level=warning msg=\"The \\\"TAG\\\" variable is not set. Defaulting to a blank string.\"\n\
                  The TAG variable is not set. Defaulting to a blank string.\n\
                  The *** variable is not set. Defaulting to a blank string.\n\
                  time=\"x\" level=warning msg=\"`version` is obsolete\"\n";
    let configuration = Configuration::of("app", LONG, warned);
    assert_eq!(configuration.unset, ["TAG"]);
    assert_eq!(configuration.warnings, [PIECE, "`version` is obsolete"]);
}

#[test]
fn a_service_that_is_gone_is_said_to_be_so() {
    let configuration = Configuration::of("app", "services: {}\n", "");
    assert_eq!(configuration.differences("db", &container(), None), [Change::Gone]);
    assert_eq!(configuration.image("db"), None);
}
