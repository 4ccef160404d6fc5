//! `check`: is the data what it was?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use volsnap::Error;
use volsnap::model::facts::FactsLevel;
use volsnap::ops::check::{CheckOptions, check, plan};
use volsnap::selector::Target;

use super::exit::Exit;
use super::{Global, keys};
use crate::render::Ui;

/// Check that live data is what it was, and as you want it; stops nothing
///
/// Looks at the data read-only: databases, tables and their rows, foreign keys that lead nowhere, empty
/// BYTEA, sequences, indexes, extensions, roles, schema revisions. Compares that with the newest facts, those
/// of the last snapshot, restart or check. If the transaction numbers prove that nobody wrote in between,
/// everything has to be the same; otherwise it tells apart what clients do by writing. Exits with 3 if
/// something is lost, and with 6 if it could not look at something.
///
/// Changes nothing but what volsnap remembers: the facts that the next check compares with, if nothing is wrong.
/// Data that is no database is counted in a helper container, which only reads and is removed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// What to check: `db`, `service:db`, `service:PROJECT/db`, `container:NAME`, `volume:NAME`, `path:DIR`
    target: Target,
    /// Compare with this snapshot: an id, a unique prefix of one, `latest`, `SOURCE/latest`
    #[arg(long, value_name = "SNAPSHOT")]
    against: Option<String>,
    /// How closely to look at the data
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LevelArg::Quick)]
    facts: LevelArg,
    /// The file with your own checks [default: volsnap.toml beside the compose file]
    #[arg(long, value_name = "FILE")]
    checks: Option<PathBuf>,
    /// Only say what it would look at, and with what it would compare that
    #[arg(long)]
    dry_run: bool,
    /// Use this image for the helper container, instead of the one that volsnap packs from itself
    #[arg(long, value_name = "IMAGE")]
    helper_image: Option<String>,
}

const AFTER_HELP: &str = "\
Your own checks, in volsnap.toml beside the compose file:
  [[check]]
  name = \"images have bytes\"
  sql = \"select count(*) from images where octet_length(data) = 0\"
  expect = \"= 0\"

  [[check]]
  name = \"templates\"
  sql = \"select count(*) from templates\"
  database = \"memory_db\"        # default: the service's own
  expect = \"unchanged\"          # or: \"= 0\", \"!= 0\", \"> 0\", \">= N\", \"< N\", \"<= N\"

A query has to return one value. It runs read-only, for at most 30 s. Other programs on the machine
can see its text while it runs: put no secrets in it.";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LevelArg {
    /// For a few seconds: large tables are estimated
    Quick,
    /// Read every row; at most half an hour
    Full,
}

/// Checks; a difference is an exit code.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    let against = match args.against.as_deref() {
        Some(spec) => Some(keys::opened(global.snapshot(spec).await?).await?),
        None => None,
    };
    let options = CheckOptions {
        target: args.target,
        repository: global.repository_location()?,
        against,
        level: match args.facts {
            LevelArg::Quick => FactsLevel::Quick,
            LevelArg::Full => FactsLevel::Full,
        },
        checks: args.checks,
        helper_image: args.helper_image,
    };
    let host = global.host(ui).await?;
    if args.dry_run {
        let plan = plan(&host.only_planning(true), &options).await?;
        ui.finish_progress();
        ui.check_plan(&plan);
        return Ok(ExitCode::SUCCESS);
    }
    let report = check(&host, &options).await?;
    ui.finish_progress();
    ui.checked(&report);
    Ok(Exit::of_look(report.ok, report.unread.is_empty()).into())
}
