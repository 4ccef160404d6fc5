//! `list`: what there is.

use std::process::ExitCode;

use volsnap::Error;
use volsnap::ops::stages::stages;

use super::Global;
use crate::render::Ui;

/// List the snapshots, oldest first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this source
    source: Option<String>,
    /// List the stages that snapshots have kept (--keep-stage), with what removes each
    #[arg(long, conflicts_with = "source")]
    stages: bool,
}

/// Prints the list; leftovers of runs that died stand apart.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    if args.stages {
        ui.stages(&stages(&global.host(ui).await?).await?);
        return Ok(ExitCode::SUCCESS);
    }
    let repository = global.repository().await?;
    let source = args.source.as_deref();
    ui.list(&repository.snapshots(source).await?, source, &repository);
    Ok(ExitCode::SUCCESS)
}
