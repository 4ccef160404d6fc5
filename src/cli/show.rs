//! `show`: everything that volsnap knows of one snapshot.

use std::process::ExitCode;

use volsnap::Error;

use super::unfinished::say_first;
use super::{Global, keys};
use crate::render::Ui;

/// Show one snapshot: how it was made, the evidence for its consistency, and what is in it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An id, a unique prefix of one, `latest`, `SOURCE`, `SOURCE/latest`, or a path to an archive
    snapshot: String,
    /// List its files instead, one a line (with --json, one object a line)
    #[arg(long)]
    files: bool,
}

/// Prints the manifest, or the file list if `--files` asks for it.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let exit = say_first(global, ui);
    let snapshot = global.snapshot(&args.snapshot).await?;
    if args.files {
        ui.files(volsnap::ops::files(&keys::opened(snapshot).await?)?)?;
    } else {
        ui.show(&keys::opened_if_possible(snapshot, ui).await?);
    }
    Ok(exit.into())
}
