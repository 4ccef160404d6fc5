//! `verify`: read everything back.

use std::process::ExitCode;

use volsnap::ops::verify::verify;
use volsnap::{Error, ErrorKind};

use super::{Global, exit};
use crate::ui::Ui;

/// Read a snapshot back, whole: stored digest, every file's digest, and every page checksum
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An id, a unique prefix of one, `latest`, `SOURCE/latest`, or a path to an archive
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Every snapshot in the repository
    #[arg(long)]
    all: bool,
}

/// Verifies each; damage in one does not spare the others.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let mut snapshots = Vec::new();
    let mut damaged = false;
    if args.all {
        let listing = global.repository()?.snapshots(None)?;
        for unreadable in &listing.unreadable {
            damaged = true;
            ui.note(&format!("{} cannot be verified: {}", unreadable.path.display(), unreadable.why));
        }
        snapshots.extend(listing.snapshots);
    }
    for spec in &args.snapshots {
        snapshots.push(global.snapshot(spec)?);
    }
    let several = args.all || snapshots.len() > 1;
    let monitor = ui.monitor();
    let mut results = Vec::new();
    for snapshot in snapshots {
        let report = verify(snapshot.clone(), monitor.clone()).await?;
        ui.finish_progress();
        damaged |= !report.ok;
        ui.verified(&snapshot, &report);
        results.push(crate::ui::json::value(&report));
    }
    ui.json_results(results, several);
    Ok(if damaged { exit::code_of(ErrorKind::Damaged) } else { ExitCode::SUCCESS })
}
