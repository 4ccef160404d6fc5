//! `migrate`: a named volume becomes a host directory.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use volsnap::Error;
use volsnap::compose::environment::Environment;
use volsnap::ops::migrate::{Destination, MigrateOptions, MigratePlan, migrate};
use volsnap::ops::{Consent, Context};
use volsnap::selector::Target;

use super::Global;
use super::bystanders::BystandersArgs;
use super::facts::FactsArg;
use super::question::{ask, refuse_without_terminal};
use super::restore::parse_owner;
use crate::render::Ui;

/// Move the data of a named volume into a host directory, and the service with it
///
/// Copies the data while the service runs, then reads both and compares them. Stops the service for a few
/// moments, copies what changed last, edits the compose file (keeps comments and all else, and leaves a backup),
/// and has Compose recreate the container on the directory. Starts it, and proves that it is the same database
/// with the same data. If anything fails on the way, even by kill -9, everything is rolled back. The volume is
/// kept; `volsnap migrate TARGET --back` goes back.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to migrate: `db`, `service:db`, `service:PROJECT/db`, `container:NAME`, `volume:NAME`
    target: Target,
    /// The directory for the data: empty, or not there yet
    #[arg(required_unless_present = "back", conflicts_with = "back")]
    directory: Option<PathBuf>,
    /// Move the data back from the directory into the volume it came from
    #[arg(long)]
    back: bool,
    /// The volume to go back into [default: the one that the migration left]
    #[arg(long, value_name = "NAME", requires = "back")]
    volume: Option<String>,
    /// Write an override file beside the compose file, instead of editing the compose file
    #[arg(long = "override")]
    override_file: bool,
    /// Give the copy to this owner, such as 999:999 [default: the owners that the data has]
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner)]
    owner: Option<(u32, u32)>,
    /// How closely to look at the data, before and after
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = FactsArg::Quick)]
    facts: FactsArg,
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

/// Migrates, once the user agrees to the plan.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    if !global.yes && !args.dry_run {
        refuse_without_terminal("migrate")?;
    }
    let options = args.options();
    let host = global.host(ui).await?.only_planning(args.dry_run);
    let host = Context { bystanders: args.bystanders.get(), ..host };
    let consent = async |plan: &MigratePlan| {
        if args.dry_run {
            ui.finish_progress();
            ui.migrate_plan(plan);
            return Ok(Consent::Decline);
        }
        ui.finish_progress();
        ui.show_migrate_plan(plan);
        if global.yes { Ok(Consent::Execute) } else { ask(ui).await }
    };
    let outcome = migrate(&host, &options, consent).await?;
    ui.finish_progress();
    outcome.iter().for_each(|outcome| ui.migrated(outcome));
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn options(&self) -> MigrateOptions {
        let destination = match &self.directory {
            Some(directory) => Destination::Directory(directory.clone()),
            None => Destination::Back { volume: self.volume.clone() },
        };
        MigrateOptions {
            target: self.target.clone(),
            destination,
            override_file: self.override_file,
            owner: self.owner,
            level: self.facts.into(),
            stop_timeout: self.stop_timeout,
            kills: self.kills.clone(),
            environment: environment(),
            helper_image: self.helper_image.clone(),
        }
    }
}

/// Returns the variables to which compose files may refer; they cannot refer to one that is not UTF-8.
pub(super) fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
