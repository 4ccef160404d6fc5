//! `snapshot`: take snapshots of services, volumes or directories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use volsnap::archive::Codec;
use volsnap::manifest::Quiesce;
use volsnap::ops::Host;
use volsnap::ops::snapshot::{SnapshotOptions, dry_run, snapshot};
use volsnap::target::Target;
use volsnap::{Error, ErrorKind};

use super::{Global, exit};
use crate::ui::Ui;

/// Take a snapshot of a service, a volume or a directory
///
/// Checks everything first, then stops every container that uses the data (a fast, clean shutdown,
/// never a kill), proves the shutdown by the database's own files, archives, and starts them again.
/// Whatever happens on the way, also kill -9, they are started again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to save: `db`, `service:db`, `service:PROJECT/db`, `container:NAME`, `volume:NAME`, `path:DIR`
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<Target>,
    /// How writers are held still
    #[arg(long, value_enum, default_value_t = QuiesceArg::Stop)]
    quiesce: QuiesceArg,
    /// How the bytes are taken
    #[arg(long, value_enum, default_value_t = CaptureArg::Direct)]
    capture: CaptureArg,
    /// How the archive is compressed: zstd, gzip or none, with a level as in zstd:19
    #[arg(long, value_name = "CODEC[:LEVEL]", default_value = "zstd:3")]
    compression: Codec,
    /// How long a container may take to stop, as 90s or 20m; it is never killed [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    stop_timeout: Option<Duration>,
    /// Give up, and have the service back, when it would be away for longer than this, as 90s
    #[arg(long, value_name = "TIME", value_parser = parse_max_downtime)]
    max_downtime: Option<Duration>,
    /// Publish also when the shutdown is not proved clean, marked as crash-consistent
    #[arg(long)]
    allow_crash_consistent: bool,
    /// Tag the snapshot, as why=upgrade; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    tags: Vec<(String, String)>,
    /// Leave out what matches, relative to the root of the data, as '*.tmp'; may be given several times
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    exclude: Vec<String>,
    /// Use this image as the helper, in place of one packed from volsnap itself
    #[arg(long, value_name = "IMAGE")]
    helper_image: Option<String>,
    /// Print what would be done, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum QuiesceArg {
    /// Stop the containers that use the data
    Stop,
    /// Hold nothing; refused for a running database
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CaptureArg {
    /// Archive while the service is held
    Direct,
}

/// Takes the snapshots one after the other; one that fails does not stop the rest.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    let repository = global.repository_location()?;
    refuse_repeated_tags(&args.tags)?;
    let host = global.host(ui).await?;
    let several = args.targets.len() > 1;
    let mut worst = None;
    let mut results = Vec::new();
    for target in &args.targets {
        match one(&host, &args.options(target, &repository), args.dry_run, ui).await {
            Ok(json) => results.push(json),
            Err(error) if !several => return Err(error),
            Err(error) => {
                ui.error(&error);
                let interrupted = matches!(error.kind(), ErrorKind::Interrupted(_));
                worst.get_or_insert(error.kind());
                if interrupted {
                    break;
                }
            }
        }
    }
    let Some(kind) = worst else {
        ui.json_results(results, several);
        return Ok(ExitCode::SUCCESS);
    };
    ui.note(&format!("{} of {} snapshots were taken", results.len(), args.targets.len()));
    ui.json_results(results, several);
    Ok(exit::code_of(kind))
}

async fn one(host: &Host, options: &SnapshotOptions, dry: bool, ui: &Ui) -> Result<serde_json::Value, Error> {
    if dry {
        let plan = dry_run(host, options).await?;
        ui.finish_progress();
        ui.plan(&plan);
        return Ok(crate::ui::json::value(&plan));
    }
    let taken = snapshot(host, options).await?;
    ui.finish_progress();
    ui.snapshot(&taken);
    Ok(crate::ui::json::snapshot(&taken))
}

impl Args {
    fn options(&self, target: &Target, repository: &Path) -> SnapshotOptions {
        let CaptureArg::Direct = self.capture;
        SnapshotOptions {
            repository: repository.to_owned(),
            target: target.clone(),
            quiesce: match self.quiesce {
                QuiesceArg::Stop => Quiesce::Stop,
                QuiesceArg::None => Quiesce::None,
            },
            codec: self.compression,
            stop_timeout: self.stop_timeout,
            max_downtime: self.max_downtime,
            allow_crash_consistent: self.allow_crash_consistent,
            tags: self.tags.iter().cloned().collect::<BTreeMap<_, _>>(),
            exclude: self.exclude.clone(),
            helper_image: self.helper_image.clone(),
        }
    }
}

fn refuse_repeated_tags(tags: &[(String, String)]) -> Result<(), Error> {
    let mut keys = BTreeSet::new();
    match tags.iter().find(|(key, _)| !keys.insert(key)) {
        Some((key, _)) => Err(Error::usage(format!("the tag {key:?} is given twice"))),
        None => Ok(()),
    }
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is KEY=VALUE".to_owned()),
    }
}

fn parse_max_downtime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => {
            Err("what is stopped is away for a moment; --quiesce none stops nothing".to_owned())
        }
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn parse_glob(text: &str) -> Result<String, String> {
    match globset::Glob::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
