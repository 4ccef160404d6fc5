//! `verify`: read everything back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use volsnap::clock::Clock;
use volsnap::model::facts::FactsLevel;
use volsnap::ops::Context;
use volsnap::ops::drill::{DrillOptions, DrillReport, checks_of, drill};
use volsnap::ops::verify::verify;
use volsnap::repository::{RepositoryError, Snapshot, Unreadable};
use volsnap::{Error, ErrorKind};

use super::Global;
use super::exit::Exit;
use crate::render::{Ui, json};

/// Read a snapshot back, whole: stored digest, every file's digest, and every page checksum
///
/// With --drill it is also unpacked into a volume of its own and its database booted there, in the image it
/// ran in, without network or secrets; what is true of it then is compared with what was true of the live data.
/// Nothing that runs is touched, and nothing is left. What holds no database that is known is unpacked only, and
/// exits with 6.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An id, a unique prefix of one, `latest`, `SOURCE/latest`, or a path to an archive
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Every snapshot in the repository
    #[arg(long)]
    all: bool,
    /// Boot it, compare its data with what the snapshot says of it, and measure how long that takes
    #[arg(long)]
    drill: bool,
    #[command(flatten)]
    how: DrillArgs,
}

/// How a snapshot is booted.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of a drill")]
pub(crate) struct DrillArgs {
    /// Boot this image, in place of the one that the data ran in
    #[arg(long, value_name = "IMAGE", requires = "drill")]
    image: Option<String>,
    /// How closely the data is looked at: none, quick or full
    #[arg(long, value_name = "LEVEL", default_value = "quick", requires = "drill")]
    facts: FactsLevel,
    /// The file of your own checks [default: volsnap.toml beside the compose file]
    #[arg(long, value_name = "FILE", requires = "drill")]
    checks: Option<PathBuf>,
    /// Memory that the database may take, as 2GiB
    #[arg(long, value_name = "SIZE", default_value = "2GiB", requires = "drill")]
    memory: ByteSize,
    /// How long it may take in all, as 30m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1h", requires = "drill")]
    limit: Duration,
    /// Use this image as the helper, in place of one packed from volsnap itself
    #[arg(long, value_name = "IMAGE", requires = "drill")]
    helper_image: Option<String>,
}

/// What is to be verified.
enum Subject {
    /// A snapshot that is there.
    Snapshot(Box<Snapshot>),
    /// One whose loss shows before a byte of its archive is read; its name where it is known.
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

/// Verifies each; damage in one does not spare the others.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let subjects = if args.all { all(global, ui).await? } else { named(global, &args.snapshots).await? };
    let several = args.all || subjects.len() > 1;
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
    // Damage counts before what could not be read for another reason.
    Ok(if damaged { Exit::Damaged } else { worst }.into())
}

/// Reads a snapshot back, and boots it where that is asked for; returns what the exit code says of it.
async fn prove(
    global: &Global,
    args: &Args,
    mut snapshot: Snapshot,
    ui: &Ui,
) -> Result<(Exit, serde_json::Value), Error> {
    let report = verify(snapshot.clone(), &Clock::system(), ui.monitor()).await?;
    ui.finish_progress();
    ui.verified(&snapshot, &report);
    if !args.drill {
        return Ok((Exit::of_look(report.ok, true), json::value(&json::VerifiedObject::new(&report, None))));
    }
    let host = global.host(ui).await?;
    let drilled = args.how.drill(global, &host, &mut snapshot, ui).await?;
    let drill = json::DrillObject::new(&drilled, ui.commands());
    let result = json::value(&json::VerifiedObject::new(&report, Some(drill)));
    Ok((Exit::of_look(report.ok && drilled.ok, drilled.image.is_some()), result))
}

impl DrillArgs {
    /// Boots a snapshot, and prints what came of it.
    async fn drill(
        &self,
        global: &Global,
        host: &Context,
        snapshot: &mut Snapshot,
        ui: &Ui,
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
        boot(host, snapshot, &options, ui).await
    }
}

/// Boots a snapshot that was just taken.
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
    boot(host, snapshot, &options, ui).await
}

async fn boot(
    host: &Context,
    snapshot: &mut Snapshot,
    options: &DrillOptions,
    ui: &Ui,
) -> Result<DrillReport, Error> {
    let report = drill(host, snapshot, options).await?;
    ui.finish_progress();
    ui.drilled(snapshot, &report);
    Ok(report)
}

async fn all(global: &Global, ui: &Ui) -> Result<Vec<Subject>, Error> {
    let repository = global.repository().await?;
    let listing = repository.snapshots(None).await?;
    if listing.snapshots.is_empty() && listing.unreadable.is_empty() {
        ui.none(&repository);
    }
    let lost = listing.unreadable.into_iter().map(|Unreadable { path, why, snapshot }| {
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
