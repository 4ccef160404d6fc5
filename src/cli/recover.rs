//! `recover`: finish what a dead run left.

use std::process::ExitCode;

use volsnap::model::hint::Hint;
use volsnap::ops::recover::{is_at, recover, unfinished};
use volsnap::saga::RetryBudget;
use volsnap::{Error, ErrorKind};

use super::Global;
use crate::cli::dirs::state_directory;
use crate::render::Ui;

/// Finish what a dead run left: start what it stopped, remove what it left behind
///
/// The guard of each run does this within seconds. Use this command after a reboot of the machine, or if the
/// guard could not finish.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only list the unfinished runs
    #[arg(long, visible_alias = "dry-run")]
    list: bool,
}

/// Finishes every run that nobody works on.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    if args.list {
        ui.unfinished(&unfinished(&state_directory()?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let host = global.host(ui).await?;
    let finished = recover(&host, RetryBudget::COMMAND).await?;
    ui.finish_progress();
    ui.recovered(&finished);
    let left = unfinished(&host.saga.state)?;
    let (held, open): (Vec<_>, Vec<_>) = left
        .into_iter()
        .filter(|run| is_at(run.run.host.as_deref(), &host.address))
        .partition(|run| run.held);
    if !held.is_empty() {
        ui.still_held(&held);
    }
    match open.first().and_then(|run| run.open.first()) {
        None => Ok(ExitCode::SUCCESS),
        Some(what) => Err(Error::new(ErrorKind::NotPutBack, format!("not done: {what}"))
            .state("everything else was put back")
            .hint(Hint::volsnap(["recover"]).why("type it again when the obstacle is gone"))),
    }
}
