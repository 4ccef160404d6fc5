//! What each target means, and how each refusal reads.

mod data;
mod names;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::resolve::Resolver;
use super::*;
use crate::database::Server;
use crate::model::container::{Container, Mount, MountKind, Volume};
use crate::model::error::ErrorKind;
use crate::model::source::Source;

const ANONYMOUS: &str = "3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a";
const PGDATA: &str = "/var/lib/postgresql/data";

/// A server whose data directory is where `PGDATA` says.
#[derive(Debug)]
struct TestServer;

impl Server for TestServer {
    fn recognises(&self, container: &Container) -> bool {
        self.data_directory(container).is_some()
    }
    fn data_directory(&self, container: &Container) -> Option<PathBuf> {
        container.env.iter().find_map(|entry| entry.strip_prefix("PGDATA=")).map(PathBuf::from)
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
}

fn server_of(container: &Container) -> Option<&'static dyn Server> {
    TestServer.recognises(container).then_some(&TestServer)
}

fn resolved(target: &str, world: &EngineInventory) -> Result<Source> {
    Resolver { world, server_of }.resolve(&target.parse()?)
}

/// Returns the refusal: its kind, its message and its hint.
fn refusal(target: &str, world: &EngineInventory) -> (ErrorKind, String, String) {
    let error = resolved(target, world).expect_err(target);
    (error.kind(), error.to_string(), error.hint_text().unwrap_or_default())
}

fn location(target: &str, world: &EngineInventory) -> String {
    let source = resolved(target, world).unwrap_or_else(|error| panic!("{target}: {error}"));
    crate::selector::data::target_of(&source.location).spelling()
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

fn world(directory: &str, containers: Vec<Container>, volumes: Vec<Volume>) -> EngineInventory {
    EngineInventory {
        containers,
        volumes,
        directory: directory.into(),
        compose_project: None,
        directory_project: None,
        projects_below: vec![],
        data_directories: std::collections::BTreeMap::new(),
        open_files: std::collections::BTreeMap::new(),
        bystanders: Bystanders::default(),
        real_directories: std::collections::BTreeMap::new(),
        typed: String::new(),
        command: vec!["snapshot".to_owned()],
    }
}

/// Returns a service `db` with its volume `PROJECT_db_data`, and its container.
fn db_of(project: &str) -> (Container, Volume) {
    let data = mounted(&format!("{project}_db_data"), PGDATA);
    let db = of_service(database(&format!("{project}-db-1"), PGDATA, vec![data]), project, "db");
    (db, volume_of(project, "db_data"))
}

/// Two projects with a database each, an app without data, a container and a volume beside them.
fn town(directory: &str) -> EngineInventory {
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
