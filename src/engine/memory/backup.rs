//! A server's base backup, and the proof of one: throwaway containers of the server's image.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::agent::Streams;
use super::files::copy_tree;
use super::{MemoryDocker, postgres};
use crate::engine::Output;
use crate::model::container::Container;

/// How long either takes.
const DURATION: Duration = Duration::from_millis(500);
/// How often to check whether all of the input is there.
const POLL: Duration = Duration::from_millis(5);

impl MemoryDocker {
    pub(super) fn start_backup(&self, container: &Container, directory: &Path) {
        let dest = self.path_in(container, directory);
        let owner = container.network_mode.strip_prefix("container:").unwrap_or_default().to_owned();
        self.run_apart(container, move |docker| {
            let server = docker.answering(&owner).ok_or("connection to server at \"127.0.0.1\" failed")?;
            back_up(&server, &dest).map_err(|error| error.to_string())
        });
    }

    pub(super) fn start_verify(&self, container: &Container, directory: &Path) {
        let directory = self.path_in(container, directory);
        self.run_apart(container, move |_| {
            let wanted = ["backup_manifest", "backup_label", "PG_VERSION", postgres::ROWS];
            match wanted.iter().find(|name| !directory.join(name).exists()) {
                Some(missing) => Err(format!("\"{missing}\" is present in the manifest but not on disk")),
                None => Ok(()),
            }
        });
    }

    /// Waits for the end of its input, works for as long as this takes, and ends the container.
    fn run_apart(
        &self,
        container: &Container,
        work: impl FnOnce(&Self) -> Result<(), String> + Send + 'static,
    ) {
        let Streams { input, output } = self.take_streams(container);
        let (docker, id, started_at) =
            (self.clone(), container.id.clone(), container.state.started_at.clone());
        tokio::spawn(async move {
            while !input.is_closed() {
                sleep(POLL).await;
            }
            sleep(DURATION).await;
            let ended = if docker.is_in_run(&id, &started_at) { work(&docker) } else { Ok(()) };
            if let Err(why) = &ended {
                output.send(Output::Stderr(Bytes::from(format!("{why}\n"))));
            }
            output.cut();
            docker.exit(&id, &started_at, i64::from(ended.is_err()));
        });
    }
}

fn back_up(server: &postgres::Server, dest: &Path) -> io::Result<()> {
    copy_tree(&server.directory, dest)?;
    std::fs::remove_file(dest.join("postmaster.pid"))?;
    std::fs::write(dest.join("backup_label"), "START WAL LOCATION: 0/2000028\n")?;
    std::fs::write(dest.join("backup_manifest"), "{}\n")
}
