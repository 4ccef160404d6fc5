//! `snapshot`: take snapshots of services, volumes or directories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use volsnap::archive::Codec;
use volsnap::database::native::MaxRate;
use volsnap::model::hint::Hint;
use volsnap::model::manifest::Quiesce;
use volsnap::model::plural::{counted, grouped};
use volsnap::ops::plan::{CaptureChoice, Plan};
use volsnap::ops::snapshot::{SnapshotOptions, snapshot};
use volsnap::ops::{Consent, Context};
use volsnap::repository::Repository;
use volsnap::selector::Target;
use volsnap::{Error, ErrorKind};

use super::bystanders::BystandersArgs;
use super::copy::copy_new;
use super::exit::Exit;
use super::facts::FactsArg;
use super::install::remind;
use super::keys::{opened, refuse_unless_opened_later};
use super::verify::drill_new;
use super::{Global, dirs};
use crate::render::{Ui, json};

/// Take a snapshot of a service, a volume or a directory
///
/// Checks everything first and copies the data while it is in use. Then stops every container that uses it
/// (a fast, clean shutdown, never a kill), proves the shutdown by the database's own files, copies what has
/// changed, starts the containers again, and archives the copy. Whatever happens on the way, even kill -9, the
/// containers are started again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to save: `db`, `service:db`, `service:PROJECT/db`, `container:NAME`, `volume:NAME`, `path:DIR`
    #[arg(required = true, value_name = "TARGET")]
    pub(super) targets: Vec<Target>,
    /// How to hold writers still
    #[arg(long, value_enum, default_value_t = QuiesceArg::Stop)]
    quiesce: QuiesceArg,
    /// When to copy the bytes
    #[arg(long, value_enum, default_value_t = CaptureArg::Auto)]
    capture: CaptureArg,
    /// Keep the copy for the next snapshot of the same data, which then copies only what has changed;
    /// `list --stages` lists the kept copies
    #[arg(long)]
    keep_stage: bool,
    /// How to compress the archive: zstd (levels 1 to 22, such as zstd:19), gzip (1 to 9) or none
    #[arg(long, value_name = "CODEC[:LEVEL]", default_value = "zstd:3")]
    compression: Codec,
    /// How long to wait for a container to stop, such as 90s; it is never killed [default: 10m for what keeps data, for
    /// any other the time that its owner has given it, else 1m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    stop_timeout: Option<Duration>,
    /// Let this container be killed if it does not stop in time, as one with the label volsnap.kill=true may be; you can
    /// give several
    #[arg(long = "kill", value_name = "NAME")]
    kills: Vec<String>,
    /// Give up and bring the service back, rather than keep it down for longer than this, such as 90s [default: 30s
    /// for --quiesce pause]
    #[arg(long, value_name = "TIME", value_parser = parse_max_downtime)]
    max_downtime: Option<Duration>,
    /// With --quiesce online: limit the database's own backup to so many bytes per second, such as 50M, or none
    /// [default: 100M]
    #[arg(long, value_name = "RATE")]
    max_rate: Option<MaxRate>,
    /// Publish even if nothing proves the shutdown clean; marks the snapshot as crash-consistent
    #[arg(long)]
    allow_crash_consistent: bool,
    /// How closely to look at the live data first, for the facts that the snapshot records
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = FactsArg::Quick)]
    facts: FactsArg,
    /// Tag the snapshot, such as why=upgrade; you can give several
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    tags: Vec<(String, String)>,
    /// Leave out what matches, relative to the root of the data, such as '*.tmp'; you can give several
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    exclude: Vec<String>,
    #[command(flatten)]
    bystanders: BystandersArgs,
    /// Use this image for the helper container, instead of the one that volsnap packs from itself
    #[arg(long, value_name = "IMAGE")]
    helper_image: Option<String>,
    /// Boot the snapshot right away, in a volume of its own, and compare its data; see `verify --drill`
    #[arg(long, conflicts_with = "dry_run")]
    drill: bool,
    /// Copy the snapshot into this second repository as well; if that fails, the snapshot stands
    #[arg(long, value_name = "DIR", conflicts_with = "dry_run")]
    copy_to: Option<PathBuf>,
    /// Print the plan, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum QuiesceArg {
    /// Stop the containers that use the data
    Stop,
    /// Freeze them for a moment: connections survive, and the snapshot is crash-consistent
    Pause,
    /// Hold nothing: PostgreSQL (13 or newer) backs itself up, and the backup is checked and archived
    Online,
    /// Hold nothing; refused for a running database
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CaptureArg {
    /// Staged if there is room for the copy and the data is not small, else direct
    Auto,
    /// Archive while the service is held
    Direct,
    /// Copy while the service runs, hold it only for what has changed, then archive the copy
    Staged,
}

/// Takes the snapshots one after the other; one that fails does not stop the rest.
pub(crate) async fn run(global: &Global, mut args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    let repository = global.repository_location()?;
    args.copy_to = args.copy_to.as_deref().map(dirs::place).transpose()?;
    refuse_repeated_tags(&args.tags)?;
    args.refuse_what_online_has_no_use_for()?;
    if args.drill {
        refuse_unless_opened_later(&repository).await?;
    }
    let host = global.host(ui).await?.only_planning(args.dry_run);
    let host = Context { bystanders: args.bystanders.get(), ..host };
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
        let asked = counted(args.targets.len() as u64, "snapshot");
        ui.note(&format!("{} of {asked} were taken", grouped(results.len() as u64)));
    }
    ui.json_results(results, several);
    Ok(worst.into())
}

/// Takes one snapshot, or plans it; returns its `--json` value and its exit code.
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
    let Some(taken) = snapshot(host, options, consent).await? else { return Ok((planned, Exit::Done)) };
    ui.finish_progress();
    ui.snapshot(&taken, args.drill);
    if is_first(&options.repository).await {
        remind(ui);
    }
    let copied = match &args.copy_to {
        Some(to) => copy_new(host, &options.repository, to, &taken.name(), ui).await,
        None => Exit::Done,
    };
    if !args.drill {
        return Ok((json::value(&json::SnapshotObject::new(&taken, None)), copied));
    }
    let helper = options.helper_image.as_deref();
    let published = |error: Error| error.state(format!("snapshot {} is published", taken.manifest.id));
    let mut opened = opened(taken.clone()).await.map_err(published)?;
    let drilled = drill_new(host, &options.repository, helper, &mut opened, ui).await.map_err(published)?;
    let drill = json::DrillObject::new(&drilled, ui.commands());
    let object = json::SnapshotObject::new(&taken, Some(drill));
    Ok((json::value(&object), copied.worse(Exit::of_look(drilled.ok, drilled.is_whole()))))
}

/// Returns whether a repository has one snapshot alone.
async fn is_first(repository: &Path) -> bool {
    let listed = async { Repository::open(repository).await?.glance(None).await };
    listed.await.is_ok_and(|listing| listing.snapshots.len() == 1)
}

impl Args {
    /// Refuses options that do not fit: the database's own backup is always staged, no later snapshot can go on
    /// from its copy, and it alone has a rate.
    fn refuse_what_online_has_no_use_for(&self) -> Result<(), Error> {
        if self.max_rate.is_some() && !matches!(self.quiesce, QuiesceArg::Online) {
            return Err(Error::usage(
                "--max-rate limits a backup that the database makes of itself; this one does not",
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
            kills: self.kills.clone(),
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
        Some((key, _)) => {
            Err(Error::usage(format!("the tag {key:?} is given twice"))
                .hint(Hint::advice("name each tag once")))
        }
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
        Ok(Duration::ZERO) => Err("a stop takes a moment at least; --quiesce none stops nothing".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn parse_glob(text: &str) -> Result<String, String> {
    match globset::Glob::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
