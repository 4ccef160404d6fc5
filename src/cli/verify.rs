//! `verify`: read everything back.

use std::process::ExitCode;

use volsnap::ops::verify::verify;
use volsnap::repository::{RepositoryError, Snapshot, Unreadable};
use volsnap::{Error, ErrorKind};

use super::{Global, exit};
use crate::ui::{Ui, json};

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

/// What is to be verified.
enum Subject {
    /// A snapshot that is there.
    Snapshot(Box<Snapshot>),
    /// One whose loss shows before a byte of its archive is read; its name where it is known.
    Lost(Option<String>, Error),
}

/// Verifies each; damage in one does not spare the others.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let subjects = if args.all { all(global, ui)? } else { named(global, &args.snapshots)? };
    let several = args.all || subjects.len() > 1;
    let monitor = ui.monitor();
    let (mut results, mut failed) = (Vec::new(), None);
    let mut damaged = false;
    for subject in subjects {
        match subject {
            Subject::Lost(name, error) => {
                damaged = true;
                ui.error(&error);
                results.push(json::lost(name.as_deref(), &error.chain()));
            }
            Subject::Snapshot(snapshot) => match verify((*snapshot).clone(), monitor.clone()).await {
                Ok(report) => {
                    ui.finish_progress();
                    damaged |= !report.ok;
                    ui.verified(&snapshot, &report);
                    results.push(json::value(&report));
                }
                Err(error) if !several => return Err(error),
                Err(error) => {
                    ui.error(&error);
                    failed.get_or_insert(error.kind());
                    results.push(json::lost(Some(snapshot.manifest.id.as_str()), &error.chain()));
                }
            },
        }
    }
    ui.json_results(results, several);
    let worst = if damaged { Some(ErrorKind::Damaged) } else { failed };
    Ok(worst.map_or(ExitCode::SUCCESS, exit::code_of))
}

fn all(global: &Global, ui: &Ui) -> Result<Vec<Subject>, Error> {
    let repository = global.repository()?;
    let listing = repository.snapshots(None)?;
    if listing.snapshots.is_empty() && listing.unreadable.is_empty() {
        ui.none(&repository);
    }
    let lost = listing.unreadable.into_iter().map(|Unreadable { path, why, snapshot }| {
        let id = snapshot.map(|(_, id)| id.to_string());
        Subject::Lost(id, RepositoryError::Unreadable { path, why }.into())
    });
    Ok(lost.chain(listing.snapshots.into_iter().map(|one| Subject::Snapshot(Box::new(one)))).collect())
}

fn named(global: &Global, specs: &[String]) -> Result<Vec<Subject>, Error> {
    let named = specs.iter().map(|spec| match global.snapshot(spec) {
        Ok(snapshot) => Ok(Subject::Snapshot(Box::new(snapshot))),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(Subject::Lost(Some(spec.clone()), error)),
        Err(error) => Err(error),
    });
    named.collect()
}
