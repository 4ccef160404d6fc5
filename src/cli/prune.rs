//! `prune`: keep what is needed, and remove the rest.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, Local, Utc};
use clap::ValueEnum;
use volsnap::Error;
use volsnap::model::retention::{Count, Policy, Rule};
use volsnap::ops::Consent;
use volsnap::ops::prune::{PruneOptions, PrunePlan, prune};

use super::Global;
use super::exit::Exit;
use super::unfinished::say_first;
use crate::render::Ui;

const PRESETS: &str = "\
Rules that people use:
  --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --keep-yearly unlimited
  --keep-last 100
  --keep-within 14d --keep-weekly 8

What no rule keeps is marked. `volsnap undelete` has it back for a day, and the first prune after
that deletes it: so run it daily, or weekly.

Whatever the rules say, these stay:
  the last verified snapshot, and the last one on which the database was booted
  what is pinned, what a run reads, what one that stays needs
  what a restore has replaced, for a week
  what is damaged, not readable, or from the future

Nothing of a source is removed while a snapshot looks as if something had gone wrong: it is empty,
has shrunk to half, is of another database, or is damaged. `volsnap ack SOURCE` lets it go on.";

/// Keep the snapshots that your rules name, and remove the others, in two steps
///
/// The rules are applied to each source by itself. Each keeps the newest snapshot of each of its newest periods (hours,
/// days, ISO weeks, months, years) that have one; a snapshot stays if any rule keeps it. Without a rule nothing is done.
/// Exits with 6 if something could not be looked at or removed, or a source was left alone.
#[derive(Debug, clap::Args)]
#[command(after_long_help = PRESETS)]
pub(crate) struct Args {
    /// Only the snapshots of this source, as for `list` [default: each source]
    source: Option<String>,
    #[command(flatten)]
    rules: Rules,
    /// How long what is marked can be had back [default: 24h]; 0s only for a directory on a local disk
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    grace: Option<Duration>,
    /// Whose hours, days, weeks, months and years the rules mean
    #[arg(long, value_name = "ZONE", value_enum, default_value = "utc")]
    time_zone: Zone,
    /// Print the plan, each snapshot with its reasons, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Rules (N is a number, or `unlimited`)")]
struct Rules {
    /// The newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<Count>,
    /// The newest of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<Count>,
    /// The newest of each of the last N days that have one
    #[arg(long, value_name = "N")]
    keep_daily: Option<Count>,
    /// The newest of each of the last N weeks that have one
    #[arg(long, value_name = "N")]
    keep_weekly: Option<Count>,
    /// The newest of each of the last N months that have one
    #[arg(long, value_name = "N")]
    keep_monthly: Option<Count>,
    /// The newest of each of the last N years that have one
    #[arg(long, value_name = "N")]
    keep_yearly: Option<Count>,
    /// Everything younger than this, such as 14d, counted from now
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    keep_within: Option<Duration>,
    /// Never fewer than N, verified ones if there are so many
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_redundancy: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Zone {
    /// Coordinated universal time
    Utc,
    /// The zone of this machine
    Local,
}

/// Shows the plan, and does what it says.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let exit = say_first(global, ui);
    let repository = global.repository().await?;
    let options = PruneOptions {
        policy: args.rules.policy(),
        grace: args.grace,
        source: args.source.clone().map(|source| (source, global.project())),
        zone: args.time_zone.wall_clock(),
        state: Some(global.state_directory()?),
        only_plans: args.dry_run,
    };
    let (clock, monitor) = (global.clock(), ui.monitor());
    let mut shown = None;
    let consent = async |plan: &PrunePlan| {
        shown = Some(plan.clone());
        Ok(if args.dry_run { Consent::Decline } else { Consent::Execute })
    };
    let report = prune(&repository, &options, (&clock, &*monitor), consent).await?;
    ui.finish_progress();
    let Some(plan) = shown else { return Ok(exit.into()) };
    ui.pruned(&plan, report.as_ref(), args.grace);
    let is_whole = plan.is_whole() && report.is_none_or(|report| report.failed.is_empty());
    Ok(exit.worse(Exit::of_look(true, is_whole)).into())
}

impl Rules {
    fn policy(&self) -> Policy {
        let given = [
            (Rule::Last, self.keep_last),
            (Rule::Hourly, self.keep_hourly),
            (Rule::Daily, self.keep_daily),
            (Rule::Weekly, self.keep_weekly),
            (Rule::Monthly, self.keep_monthly),
            (Rule::Yearly, self.keep_yearly),
        ];
        let rules: BTreeMap<_, _> =
            given.into_iter().filter_map(|(rule, count)| Some((rule, count?))).collect();
        Policy { rules, within: self.keep_within, min_redundancy: self.min_redundancy }
    }
}

impl Zone {
    fn wall_clock(self) -> fn(DateTime<Utc>) -> DateTime<FixedOffset> {
        match self {
            Self::Utc => |at| at.fixed_offset(),
            Self::Local => |at| at.with_timezone(&Local).fixed_offset(),
        }
    }
}

/// Returns a time; a bare 0 has no unit.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}
