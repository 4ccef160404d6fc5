//! What the contract is tried on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use volsnap::clock::Clock;
use volsnap::engine::helper::HelperImage;
use volsnap::engine::memory::MemoryDocker;
use volsnap::engine::memory::program::Behaviour;
use volsnap::engine::{ContainerSpec, Docker};
use volsnap::model::container::{Container, Mount, MountKind};
use volsnap::outside::Outside;

use crate::world::{World, docker};

/// Sleeps until it is signalled, and ends at once.
pub(crate) const OBEDIENT: &str = "trap 'exit 0' TERM INT; ready; while :; do sleep 0.1; done";
/// Hears no signal.
pub(crate) const STUBBORN: &str = "trap '' TERM; ready; while :; do sleep 0.1; done";
/// Takes its time once it is signalled.
pub(crate) const SLOW: &str = "trap 'sleep 3; exit 7' TERM; ready; while :; do sleep 0.1; done";
/// Ends by itself.
pub(crate) const SHORT: &str = "exit 3";

/// An engine, and how a user makes things on it.
pub(crate) struct Bench {
    pub(crate) docker: Arc<dyn Docker>,
    kind: Kind,
}

enum Kind {
    Memory { engine: MemoryDocker, directory: TempDir },
    Real(Box<World>),
}

/// Runs a part of the contract on the engine in memory.
pub(crate) fn in_memory(part: impl FnOnce(Bench) -> Pin<Box<dyn Future<Output = ()>>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(Outside::settle)
        .build()
        .unwrap();
    runtime.block_on(async { part(Bench::memory()).await });
}

impl Bench {
    fn memory() -> Self {
        let directory = TempDir::new().unwrap();
        Outside::default().enter();
        let engine = MemoryDocker::new(directory.path(), Clock::system());
        engine.add_image("test:1", &[]);
        engine.teach(STUBBORN, Behaviour { stops_within: None, ..Behaviour::OBEDIENT });
        let slow =
            Behaviour { stops_within: Some(Duration::from_secs(3)), exit_code: 7, ..Behaviour::OBEDIENT };
        engine.teach(SLOW, slow);
        let short =
            Behaviour { ends_after: Some(Duration::from_millis(10)), exit_code: 3, ..Behaviour::OBEDIENT };
        engine.teach(SHORT, short);
        Self { docker: Arc::new(engine.clone()), kind: Kind::Memory { engine, directory } }
    }

    pub(crate) async fn real() -> Self {
        let world = World::new().await;
        Self { docker: Arc::new(world.engine.clone()), kind: Kind::Real(Box::new(world)) }
    }

    /// Returns a name of this test's own.
    pub(crate) fn name(&self, suffix: &str) -> String {
        match &self.kind {
            Kind::Memory { .. } => suffix.to_owned(),
            Kind::Real(world) => world.name(suffix),
        }
    }

    /// Describes a throwaway container.
    pub(crate) fn spec(&self, suffix: &str, script: &str) -> ContainerSpec {
        match &self.kind {
            Kind::Memory { .. } => ContainerSpec {
                name: suffix.to_owned(),
                image: "test:1".to_owned(),
                command: ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec(),
                ..ContainerSpec::default()
            },
            Kind::Real(world) => world.spec(suffix, script),
        }
    }

    /// Runs a service, as a user would, on a volume where one is named; returns its name.
    pub(crate) async fn run(&self, suffix: &str, script: &str, volume: Option<&str>, grace: u32) -> String {
        match &self.kind {
            Kind::Memory { engine, .. } => {
                let mounts = volume.map(|volume| Mount {
                    kind: MountKind::Volume,
                    volume: Some(volume.to_owned()),
                    destination: "/data".into(),
                    ..Mount::default()
                });
                let container = Container {
                    name: suffix.to_owned(),
                    image: "test:1".to_owned(),
                    command: ["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec(),
                    mounts: mounts.into_iter().collect(),
                    stop_timeout: Some(grace.into()),
                    ..Container::default()
                };
                let id = engine.add(container).unwrap();
                engine.start(&id).await.unwrap();
                suffix.to_owned()
            }
            Kind::Real(world) => {
                let (mount, grace) = (volume.map(|volume| format!("{volume}:/data")), grace.to_string());
                let mut options = vec!["--stop-timeout", &grace];
                options.extend(mount.iter().flat_map(|mount| ["-v", mount]));
                world.run_service(suffix, &options, script)
            }
        }
    }

    /// Makes a volume, as a user would; returns its name.
    pub(crate) async fn volume(&self, suffix: &str) -> String {
        let name = self.name(suffix);
        self.docker.create_volume(&name, &BTreeMap::new()).await.unwrap();
        name
    }

    /// Writes a file into a volume.
    pub(crate) async fn write(&self, volume: &str, file: &str, content: &str) {
        match &self.kind {
            Kind::Memory { engine, .. } => {
                std::fs::write(engine.directory_of(volume).join(file), content).unwrap();
            }
            Kind::Real(world) => {
                let script = format!("printf %s '{content}' >/data/{file}");
                let mount = format!("{volume}:/data");
                let name = world.run_service("writer", &["-v", &mount], &script);
                docker(&["wait", &name]);
                docker(&["rm", &name]);
            }
        }
    }

    /// Returns an image with our agent.
    pub(crate) async fn helper_image(&self) -> String {
        match &self.kind {
            Kind::Memory { engine, .. } => {
                engine.add_image("helper:1", &[]);
                "helper:1".to_owned()
            }
            Kind::Real(_) => {
                let image = HelperImage::of(Path::new(env!("CARGO_BIN_EXE_volsnap"))).unwrap();
                image.ensure(&*self.docker, &Clock::system()).await.unwrap()
            }
        }
    }

    /// Returns a directory of this test's own, which the engine sees.
    pub(crate) fn directory(&self) -> PathBuf {
        match &self.kind {
            Kind::Memory { directory, .. } => directory.path().to_owned(),
            Kind::Real(_) => std::env::temp_dir(),
        }
    }

    /// Waits until a container is gone.
    pub(crate) async fn await_gone(&self, id: &str) {
        for _ in 0..500 {
            if self.docker.container(id).await.unwrap().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("container {id} is not removed");
    }

    /// Waits until a container does not run.
    pub(crate) async fn await_end(&self, id: &str) -> Container {
        for _ in 0..500 {
            let container = self.docker.container(id).await.unwrap().unwrap();
            if container.state.status == "exited" {
                return container;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("container {id} does not end");
    }
}
