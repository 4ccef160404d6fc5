//! `recover`: finish what a dead run left.

use std::process::ExitCode;

use volsnap::model::hint::Hint;
use volsnap::ops::recover::{Survey, is_at, look, recover};
use volsnap::saga::RetryBudget;
use volsnap::{Error, ErrorKind};

use super::Global;
use super::exit::Exit;
use super::unfinished::say;
use crate::render::Ui;

/// Finish what a dead run left: start what it stopped, remove what it left behind
///
/// The guard of each run does this within seconds. Use this command after a reboot of the machine, or if the
/// guard could not finish. A run that is at work is left alone, and named with what it holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only list the unfinished runs
    #[arg(long, visible_alias = "dry-run")]
    list: bool,
}

/// Finishes every run that nobody works on.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    if args.list {
        let survey = look(&global.state_directory()?)?;
        let exit = say(global, ui, &survey);
        ui.unfinished(&survey.runs);
        return Ok(exit.into());
    }
    let host = global.host(ui).await?;
    let outcome = recover(&host, RetryBudget::COMMAND).await;
    let Survey { runs, strange } = look(&host.saga.state)?;
    let (held, open): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| run.held);
    for notice in held.iter().filter_map(|run| run.notice(&host.address)) {
        host.monitor.warning(notice);
    }
    let finished = outcome?;
    ui.finish_progress();
    ui.recovered(&finished, &held);
    let mut here = open.iter().filter(|run| is_at(run.run.host.as_deref(), &host.address));
    match here.find_map(|run| run.open.first()) {
        // What is no journal was named, and may be one that tells of more.
        None => Ok(if strange.is_empty() { Exit::Done } else { Exit::Partial }.into()),
        Some(what) => Err(Error::new(ErrorKind::NotPutBack, format!("not done: {what}"))
            .state("everything else was put back")
            .hint(Hint::volsnap(["recover", "--list"]).why("says what is left; recover tries again"))),
    }
}
