//! `guard`: outlives a killed command and finishes its journal. Not for people.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use volsnap::Error;
use volsnap::clock::Clock;
use volsnap::engine::bollard::DockerEngine;
use volsnap::model::event::Silent;
use volsnap::saga::guard::watch;
use volsnap::undo::{Undo, World};

use super::exit::Exit;

/// Watches the command that started it, and finishes its journal if it dies.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The journal
    journal: PathBuf,
}

/// Watches until the command is done or dead.
pub(crate) async fn run(args: &Args) -> Result<ExitCode, Error> {
    let connect = |host: Option<String>| async move {
        let engine = DockerEngine::connect(host.as_deref()).await?;
        Ok::<_, volsnap::engine::DockerError>(Arc::new(World {
            docker: Arc::new(engine),
            clock: Clock::system(),
        }))
    };
    match watch::<Undo, _, _, _>(&args.journal, connect, &Silent).await {
        Ok(left) if left.is_empty() => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(Exit::NotPutBack.into()),
        Err(error) => Err(Error::failed("guard a run").with_source(error)),
    }
}
