//! `list`: what there is.

use std::process::ExitCode;

use volsnap::Error;

use super::Global;
use crate::ui::Ui;

/// List the snapshots, oldest first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this source
    source: Option<String>,
}

/// Prints the list; leftovers of runs that died stand apart.
pub(crate) fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let repository = global.repository()?;
    let source = args.source.as_deref();
    ui.list(&repository.snapshots(source)?, source, &repository);
    Ok(ExitCode::SUCCESS)
}
