//! `verify`: read everything back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use volsnap::model::facts::FactsLevel;
use volsnap::ops::Context;
use volsnap::ops::drill::{DrillOptions, DrillReport, checks_of, drill};
use volsnap::ops::verify::verify;
use volsnap::repository::{RepositoryError, Snapshot, Unreadable};
use volsnap::{Error, ErrorKind};

use super::exit::Exit;
use super::{Global, keys};
use crate::render::{Ui, json};

/// Read all of a snapshot back, and check every digest and every page checksum
///
/// With --drill, also unpacks the snapshot into a volume of its own, boots its database there in the image that
/// the data ran in, without network or secrets, and compares what is true of it with what was true of the live
/// data. Touches nothing that runs, and leaves nothing behind. If the snapshot holds no database that volsnap
/// knows, the drill only unpacks it, and exits with 6.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An id, a unique prefix of one, `latest`, `SOURCE`, `SOURCE/latest`, or a path to an archive
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Verify every snapshot in the repository
    #[arg(long)]
    all: bool,
    /// Boot it, compare its data with what the snapshot recorded, and measure how long that takes
    #[arg(long)]
    drill: bool,
    /// Only say which snapshots it would read
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    how: DrillArgs,
}

/// How to boot a snapshot.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of a drill")]
pub(crate) struct DrillArgs {
    /// Boot this image, instead of the one that the data ran in
    #[arg(long, value_name = "IMAGE", requires = "drill")]
    image: Option<String>,
    /// How closely to look at the data: none, quick or full
    #[arg(long, value_name = "LEVEL", default_value = "quick", requires = "drill")]
    facts: FactsLevel,
    /// The file with your own checks [default: volsnap.toml beside the compose file; see `volsnap help check`]
    #[arg(long, value_name = "FILE", requires = "drill")]
    checks: Option<PathBuf>,
    /// How much memory the database may use
    #[arg(long, value_name = "SIZE", default_value = "2GiB", requires = "drill")]
    memory: ByteSize,
    /// How long the whole drill may take, such as 30m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1h", requires = "drill")]
    limit: Duration,
    /// Use this image for the helper container, instead of the one that volsnap packs from itself
    #[arg(long, value_name = "IMAGE", requires = "drill")]
    helper_image: Option<String>,
}

/// What to verify.
enum Subject {
    /// A snapshot that exists.
    Snapshot(Box<Snapshot>),
    /// One that is found lost before a byte of its archive is read; its name if known.
    Lost(Option<String>, Error),
}

impl Subject {
    fn id(&self) -> String {
        match self {
            Self::Snapshot(snapshot) => snapshot.manifest.id.to_string(),
            Self::Lost(name, _) => name.clone().unwrap_or_default(),
        }
    }
}

/// Verifies each; damage in one does not end the rest.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let subjects = if args.all { all(global, ui).await? } else { named(global, &args.snapshots).await? };
    let several = args.all || subjects.len() > 1;
    if args.dry_run {
        ui.would_verify(subjects.iter().map(Subject::id), args.drill);
        return Ok(ExitCode::SUCCESS);
    }
    let (mut results, mut worst) = (Vec::new(), Exit::Done);
    let mut damaged = false;
    for subject in subjects {
        let id = subject.id();
        match subject {
            Subject::Lost(name, error) => {
                damaged = true;
                ui.error(&error);
                results.push(json::value(&json::LostObject::new(name.as_deref(), error.chain())));
            }
            Subject::Snapshot(snapshot) => match prove(global, args, *snapshot, ui).await {
                Ok((exit, result)) => {
                    damaged |= exit == Exit::Damaged;
                    worst = worst.worse(exit);
                    results.push(result);
                }
                Err(error) if !several => return Err(error),
                Err(error) => {
                    ui.error(&error);
                    worst = worst.worse(error.kind().into());
                    results.push(json::value(&json::LostObject::new(Some(&id), error.chain())));
                }
            },
        }
    }
    ui.json_results(results, several);
    // Damage counts more than what could not be read for another reason.
    Ok(if damaged { Exit::Damaged } else { worst }.into())
}

/// Reads a snapshot back, and boots it if `--drill` asks for it; returns its exit code and its `--json` value.
async fn prove(
    global: &Global,
    args: &Args,
    snapshot: Snapshot,
    ui: &Ui,
) -> Result<(Exit, serde_json::Value), Error> {
    let mut snapshot = match args.drill {
        true => keys::opened(snapshot).await?,
        false => keys::opened_if_possible(snapshot, ui).await?,
    };
    let report = verify(snapshot.clone(), &global.clock(), ui.monitor()).await?;
    ui.finish_progress();
    ui.verified(&snapshot, &report, args.drill);
    if !args.drill {
        return Ok((Exit::of_look(report.ok, true), json::value(&json::VerifiedObject::new(&report, None))));
    }
    let host = global.host(ui).await?;
    let drilled = args.how.drill(global, &host, &mut snapshot).await?;
    ui.finish_progress();
    ui.drilled(&snapshot, &drilled, !report.ok);
    let drill = json::DrillObject::new(&drilled, ui.commands());
    let result = json::value(&json::VerifiedObject::new(&report, Some(drill)));
    Ok((Exit::of_look(report.ok && drilled.ok, drilled.is_whole()), result))
}

impl DrillArgs {
    /// Boots a snapshot.
    async fn drill(
        &self,
        global: &Global,
        host: &Context,
        snapshot: &mut Snapshot,
    ) -> Result<DrillReport, Error> {
        let options = DrillOptions {
            repository: global.repository_location()?,
            image: self.image.clone(),
            facts: self.facts,
            checks: checks_of(self.checks.as_deref(), snapshot, &host.directory)?,
            memory_bytes: self.memory.as_u64(),
            limit: self.limit,
            helper_image: self.helper_image.clone(),
        };
        drill(host, snapshot, &options).await
    }
}

/// Boots a new snapshot, and prints the outcome.
pub(crate) async fn drill_new(
    host: &Context,
    repository: &Path,
    helper_image: Option<&str>,
    snapshot: &mut Snapshot,
    ui: &Ui,
) -> Result<DrillReport, Error> {
    let options = DrillOptions {
        checks: checks_of(None, snapshot, &host.directory)?,
        helper_image: helper_image.map(str::to_owned),
        ..DrillOptions::new(repository)
    };
    let report = drill(host, snapshot, &options).await?;
    ui.finish_progress();
    ui.drilled(snapshot, &report, false);
    Ok(report)
}

async fn all(global: &Global, ui: &Ui) -> Result<Vec<Subject>, Error> {
    let repository = global.repository().await?;
    let listing = repository.snapshots(None).await?;
    if listing.snapshots.is_empty() && listing.unreadable.is_empty() {
        ui.none(&repository);
    }
    let lost = listing.unreadable.into_iter().map(|Unreadable { path, why, snapshot, .. }| {
        let id = snapshot.map(|(_, id)| id.to_string());
        Subject::Lost(id, RepositoryError::Unreadable { path, why }.into())
    });
    Ok(lost.chain(listing.snapshots.into_iter().map(|one| Subject::Snapshot(Box::new(one)))).collect())
}

async fn named(global: &Global, specs: &[String]) -> Result<Vec<Subject>, Error> {
    let mut named = Vec::new();
    for spec in specs {
        named.push(match global.snapshot(spec).await {
            Ok(snapshot) => Subject::Snapshot(Box::new(snapshot)),
            Err(error) if error.kind() == ErrorKind::Damaged => Subject::Lost(Some(spec.clone()), error),
            Err(error) => return Err(error),
        });
    }
    Ok(named)
}
