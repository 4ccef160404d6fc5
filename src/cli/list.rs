//! `list`: the snapshots there are.

use std::process::ExitCode;

use volsnap::Error;
use volsnap::ops::stages::stages;

use super::Global;
use super::unfinished::say_first;
use crate::render::Ui;

/// List the snapshots, oldest first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the snapshots of this source: `db`, `service:PROJECT/db`, `volume:NAME` …, or a name in the column SOURCE
    source: Option<String>,
    /// List the stages that `snapshot --keep-stage` kept, with the command that removes each
    #[arg(long, conflicts_with = "source")]
    stages: bool,
}

/// Prints the list, and apart from it what dead runs left.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let exit = say_first(global, ui);
    if args.stages {
        ui.stages(&stages(&global.host(ui).await?).await?);
        return Ok(exit.into());
    }
    let repository = global.repository().await?;
    let (source, listing) = (args.source.as_deref(), repository.overview(None).await?);
    let listing = match source {
        Some(source) => listing.only(source, global.project().as_deref()),
        None => listing,
    };
    ui.list(&listing, source, &repository);
    Ok(exit.into())
}
