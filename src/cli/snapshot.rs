//! `snapshot`: take snapshots of services, volumes or directories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use volsnap::archive::Codec;
use volsnap::database::online::MaxRate;
use volsnap::model::hint::Hint;
use volsnap::model::manifest::Quiesce;
use volsnap::ops::plan::{CaptureChoice, Plan};
use volsnap::ops::snapshot::{SnapshotOptions, snapshot};
use volsnap::ops::{Consent, Context};
use volsnap::selector::Target;
use volsnap::{Error, ErrorKind};

use super::Global;
use super::exit::Exit;
use super::facts::FactsArg;
use super::verify::drill_new;
use crate::render::{Ui, json};

/// Take a snapshot of a service, a volume or a directory
///
/// Checks everything first and copies the data while it is in use, then stops every container that uses it
/// (a fast, clean shutdown, never a kill), proves the shutdown by the database's own files, copies what has
/// changed, starts them again, and archives the copy. Whatever happens on the way, also kill -9, they are
/// started again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to save: `db`, `service:db`, `service:PROJECT/db`, `container:NAME`, `volume:NAME`, `path:DIR`
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<Target>,
    /// How writers are held still
    #[arg(long, value_enum, default_value_t = QuiesceArg::Stop)]
    quiesce: QuiesceArg,
    /// How the bytes are taken
    #[arg(long, value_enum, default_value_t = CaptureArg::Auto)]
    capture: CaptureArg,
    /// Leave the copy for the next snapshot of the same data, which then copies only what has changed; shown
    /// by `list --stages`
    #[arg(long)]
    keep_stage: bool,
    /// How the archive is compressed: zstd, gzip or none, with a level as in zstd:19
    #[arg(long, value_name = "CODEC[:LEVEL]", default_value = "zstd:3")]
    compression: Codec,
    /// How long a container may take to stop, as 90s or 20m; it is never killed [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    stop_timeout: Option<Duration>,
    /// Give up, and have the service back, when it would be away for longer than this, as 90s [default: 30s for
    /// --quiesce pause]
    #[arg(long, value_name = "TIME", value_parser = parse_max_downtime)]
    max_downtime: Option<Duration>,
    /// Let the database's own backup take at most so many bytes per second, as 50M, or none for no limit; of
    /// --quiesce online [default: 100M]
    #[arg(long, value_name = "RATE")]
    max_rate: Option<MaxRate>,
    /// Publish also when the shutdown is not proved clean, marked as crash-consistent
    #[arg(long)]
    allow_crash_consistent: bool,
    /// How closely the live data is looked at first, for the facts that are kept with the snapshot
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = FactsArg::Quick)]
    facts: FactsArg,
    /// Tag the snapshot, as why=upgrade; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    tags: Vec<(String, String)>,
    /// Leave out what matches, relative to the root of the data, as '*.tmp'; may be given several times
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    exclude: Vec<String>,
    /// Use this image as the helper, in place of one packed from volsnap itself
    #[arg(long, value_name = "IMAGE")]
    helper_image: Option<String>,
    /// Boot the snapshot right away, in a volume of its own, and compare its data: see `verify --drill`
    #[arg(long, conflicts_with = "dry_run")]
    drill: bool,
    /// Print what would be done, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum QuiesceArg {
    /// Stop the containers that use the data
    Stop,
    /// Freeze them for a moment: connections survive, and the snapshot recovers as after a power loss
    Pause,
    /// Hold nothing: the database makes a backup of itself (PostgreSQL), which is verified and archived
    Online,
    /// Hold nothing; refused for a running database
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CaptureArg {
    /// Staged when there is room for the copy and the data is not small, else direct
    Auto,
    /// Archive while the service is held
    Direct,
    /// Copy while the service runs, hold it for what has changed only, archive the copy
    Staged,
}

/// Takes the snapshots one after the other; one that fails does not stop the rest.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    let repository = global.repository_location()?;
    refuse_repeated_tags(&args.tags)?;
    args.refuse_what_online_has_no_use_for()?;
    let host = global.host(ui).await?;
    let several = args.targets.len() > 1;
    let mut worst = Exit::Done;
    let mut results = Vec::new();
    for target in &args.targets {
        match one(&host, &args.options(target, &repository), &args, ui).await {
            Ok((json, exit)) => {
                results.push(json);
                worst = worst.worse(exit);
            }
            Err(error) if !several => return Err(error),
            Err(error) => {
                ui.error(&error);
                let interrupted = matches!(error.kind(), ErrorKind::Interrupted(_));
                worst = worst.worse(error.kind().into());
                if interrupted {
                    break;
                }
            }
        }
    }
    if results.len() < args.targets.len() {
        ui.note(&format!("{} of {} snapshots were taken", results.len(), args.targets.len()));
    }
    ui.json_results(results, several);
    Ok(worst.into())
}

/// Takes one snapshot, or plans it; returns what `--json` prints of it, and what the exit code says of it.
async fn one(
    host: &Context,
    options: &SnapshotOptions,
    args: &Args,
    ui: &Ui,
) -> Result<(serde_json::Value, Exit), Error> {
    let mut planned = serde_json::Value::Null;
    let consent = async |plan: &Plan| {
        if !args.dry_run {
            return Ok(Consent::Execute);
        }
        ui.finish_progress();
        ui.plan(plan);
        planned = json::value(&json::SnapshotPlanObject::from(plan));
        Ok(Consent::Decline)
    };
    let Some(mut taken) = snapshot(host, options, consent).await? else { return Ok((planned, Exit::Done)) };
    ui.finish_progress();
    ui.snapshot(&taken);
    if !args.drill {
        return Ok((json::value(&json::SnapshotObject::new(&taken, None)), Exit::Done));
    }
    let helper = options.helper_image.as_deref();
    let drilled = drill_new(host, &options.repository, helper, &mut taken, ui).await;
    let drilled =
        drilled.map_err(|error| error.state(format!("snapshot {} is published", taken.manifest.id)))?;
    let drill = json::DrillObject::new(&drilled, ui.commands());
    let object = json::SnapshotObject::new(&taken, Some(drill));
    Ok((json::value(&object), Exit::of_look(drilled.ok, drilled.image.is_some())))
}

impl Args {
    /// A backup of the database's own is always staged, and no copy that a later one could go on from; and it
    /// alone has a rate.
    fn refuse_what_online_has_no_use_for(&self) -> Result<(), Error> {
        if self.max_rate.is_some() && !matches!(self.quiesce, QuiesceArg::Online) {
            return Err(Error::usage(
                "--max-rate is how fast a database backs itself up, which it does not here",
            )
            .hint(Hint::instead(&["--max-rate="], [""; 0]))
            .or(Hint::instead(&["--quiesce="], ["--quiesce", "online"])));
        }
        let useless = match (self.quiesce, self.capture, self.keep_stage) {
            (QuiesceArg::Online, CaptureArg::Direct, _) => "--capture direct",
            (QuiesceArg::Online, _, true) => "--keep-stage",
            _ => return Ok(()),
        };
        Err(Error::usage(format!("--quiesce online and {useless} do not go together"))
            .hint(Hint::instead(&["--capture=", "--keep-stage"], [""; 0]))
            .or(Hint::instead(&["--quiesce="], ["--quiesce", "stop"])))
    }

    fn options(&self, target: &Target, repository: &Path) -> SnapshotOptions {
        SnapshotOptions {
            repository: repository.to_owned(),
            target: target.clone(),
            quiesce: match self.quiesce {
                QuiesceArg::Stop => Quiesce::Stop,
                QuiesceArg::Pause => Quiesce::Pause,
                QuiesceArg::Online => Quiesce::Native,
                QuiesceArg::None => Quiesce::None,
            },
            capture: match self.capture {
                CaptureArg::Auto => CaptureChoice::Auto,
                CaptureArg::Direct => CaptureChoice::Direct,
                CaptureArg::Staged => CaptureChoice::Staged,
            },
            keep_stage: self.keep_stage,
            codec: self.compression,
            stop_timeout: self.stop_timeout,
            max_downtime: self.max_downtime,
            max_rate: self.max_rate.unwrap_or_default(),
            allow_crash_consistent: self.allow_crash_consistent,
            tags: self.tags.iter().cloned().collect::<BTreeMap<_, _>>(),
            facts: self.facts.into(),
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
