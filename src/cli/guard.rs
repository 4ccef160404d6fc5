//! `guard`: outlives a killed command and finishes its journal. Not for people.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use volsnap::Error;
use volsnap::clock::Clock;
use volsnap::engine::bollard::DockerEngine;
use volsnap::engine::{Docker as _, DockerError};
use volsnap::model::event::Silent;
use volsnap::saga::guard::watch;
use volsnap::saga::outside::watch_lock;
use volsnap::saga::state_of;
use volsnap::undo::{Undo, World};

use super::Global;
use super::exit::Exit;

/// How long to wait for an engine that does not take the guard's container away, and how often.
const AGAIN: Duration = Duration::from_secs(2);
const TRIES: u32 = 10;

/// Watches the command that started it, and finishes its journal if it dies.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The journal
    journal: PathBuf,
    /// Write the run's lease beside the journal
    #[arg(long)]
    share_lease: bool,
    /// Watch the journal's lock, and remove the container of this name in the end: the guard's own
    #[arg(long, value_name = "CONTAINER", conflicts_with = "share_lease")]
    outside: Option<String>,
}

/// Watches until the command is done or dead.
pub(crate) async fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let state = state_of(&args.journal);
    let connect = |host: Option<String>| {
        let state = state.clone();
        async move {
            let engine = DockerEngine::connect(host.as_deref()).await?;
            // Nobody is there who could be asked for an identity.
            let world = World { docker: Arc::new(engine), clock: Clock::system(), state, identities: None };
            Ok::<_, DockerError>(Arc::new(world))
        }
    };
    let watched = match &args.outside {
        None => watch::<Undo, _, _, _>(&args.journal, args.share_lease, connect, &Silent).await,
        Some(container) => {
            let watched = watch_lock::<Undo, _, _, _>(&args.journal, connect, &Silent).await;
            if watched.is_ok() {
                go(global.host.as_deref(), container).await;
            }
            watched
        }
    };
    match watched {
        Ok(left) if left.is_empty() => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(Exit::NotPutBack.into()),
        Err(error) => Err(Error::failed("guard a run").with_source(error)),
    }
}

/// Has the engine remove the container that this runs in: its end is ours. If the engine does not, it starts this again,
/// and the journal that is gone says what to do.
async fn go(host: Option<&str>, container: &str) {
    for _ in 0..TRIES {
        let removed = async { DockerEngine::connect(host).await?.remove_container(container).await };
        if let Err(error) = removed.await {
            tracing::debug!(%error, "the guard's container stays");
        }
        tokio::time::sleep(AGAIN).await;
    }
}
