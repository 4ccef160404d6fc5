//! `restart`: stop, start, and compare the data.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use volsnap::Error;
use volsnap::archive::Codec;
use volsnap::database::native::MaxRate;
use volsnap::model::facts::FactsLevel;
use volsnap::model::manifest::Quiesce;
use volsnap::ops::plan::CaptureChoice;
use volsnap::ops::restart::{RestartOptions, RestartPlan, restart};
use volsnap::ops::snapshot::SnapshotOptions;
use volsnap::ops::{Consent, Context};
use volsnap::selector::Target;

use super::Global;
use super::bystanders::BystandersArgs;
use super::exit::Exit;
use super::facts::FactsArg;
use super::question::{ask, refuse_without_terminal};
use crate::render::Ui;

/// Restart a database, and check that its data is what it was
///
/// Looks at the data, stops every container that uses it (a fast, clean shutdown, never a kill), and reads the
/// proof of the shutdown from the database's own files. Starts the containers again in order, waits until each
/// answers, looks at the data again, and says what is the same and what is not. If something is lost, exits with
/// 3 and prints the next command for each loss. Whatever happens on the way, even kill -9, the containers are
/// started again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to restart: `db`, `service:db`, `service:PROJECT/db`, `container:NAME`, `volume:NAME`, `path:DIR`
    target: Target,
    /// Take a snapshot while the database is stopped anyway
    #[arg(long)]
    snapshot: bool,
    /// Have Compose recreate the containers from their compose files, on the same volumes; asks first if they would get
    /// other variables, another image or the like than they have
    #[arg(long)]
    recreate: bool,
    /// How closely to look at the data, before and after
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = FactsArg::Quick)]
    facts: FactsArg,
    /// The file with your own checks [default: volsnap.toml beside the compose file; see `volsnap help check`]
    #[arg(long, value_name = "FILE")]
    checks: Option<PathBuf>,
    /// How long to wait for a container to stop, such as 90s; it is never killed [default: 10m for what keeps data, for
    /// any other the time that its owner has given it, else 1m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    stop_timeout: Option<Duration>,
    #[command(flatten)]
    bystanders: BystandersArgs,
    /// Let this container be killed if it does not stop in time, as one with the label volsnap.kill=true may be; you can
    /// give several
    #[arg(long = "kill", value_name = "NAME")]
    kills: Vec<String>,
    /// Use this image for the helper container, instead of the one that volsnap packs from itself
    #[arg(long, value_name = "IMAGE")]
    helper_image: Option<String>,
    /// Print the plan, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

/// Restarts; a difference is an exit code.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    let options = args.options(global)?;
    let host = global.host(ui).await?.only_planning(args.dry_run);
    let host = Context { bystanders: args.bystanders.get(), ..host };
    let consent = async |plan: &RestartPlan| {
        if args.dry_run {
            ui.finish_progress();
            ui.restart_plan(plan);
            return Ok(Consent::Decline);
        }
        if plan.changes.is_empty() || global.yes {
            return Ok(Consent::Execute);
        }
        ui.finish_progress();
        ui.show_restart_plan(plan);
        refuse_without_terminal("make containers anew that will not be as before: see `changes` above")?;
        ask(ui).await
    };
    let Some(report) = restart(&host, &options, consent).await? else { return Ok(ExitCode::SUCCESS) };
    ui.finish_progress();
    ui.restarted(&report);
    Ok(Exit::of_look(report.ok, report.unread.is_empty()).into())
}

impl Args {
    fn options(&self, global: &Global) -> Result<RestartOptions, Error> {
        let repository = global.repository_location()?;
        let snapshot = self.snapshot.then(|| SnapshotOptions {
            capture: CaptureChoice::Auto,
            keep_stage: false,
            repository: repository.clone(),
            target: self.target.clone(),
            quiesce: Quiesce::Stop,
            codec: Codec::default(),
            stop_timeout: self.stop_timeout,
            kills: self.kills.clone(),
            max_downtime: None,
            max_rate: MaxRate::default(),
            allow_crash_consistent: false,
            facts: FactsLevel::from(self.facts),
            tags: BTreeMap::from([("why".to_owned(), "restart".to_owned())]),
            exclude: Vec::new(),
            helper_image: self.helper_image.clone(),
        });
        Ok(RestartOptions {
            target: self.target.clone(),
            repository,
            level: self.facts.into(),
            snapshot,
            recreate: self.recreate,
            checks: self.checks.clone(),
            stop_timeout: self.stop_timeout,
            kills: self.kills.clone(),
            helper_image: self.helper_image.clone(),
        })
    }
}
