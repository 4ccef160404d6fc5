//! `doctor`: what puts the data at risk.

use std::process::ExitCode;

use volsnap::Error;
use volsnap::engine::context::{Chosen, ChosenBy};
use volsnap::ops::doctor::{DoctorOptions, Finding, Kind, Risk, doctor};
use volsnap::selector::Target;

use super::Global;
use super::exit::Exit;
use super::install::is_wanted;
use super::migrate::environment;
use crate::render::Ui;

/// List what puts the data of databases at risk, each with the command that mends it
///
/// Looks at every database, and at every volume and directory that another container writes: where the data really
/// is, what `compose down -v`, pruning and the removal of its container would do to it, how it stops and comes
/// back, what snapshots it has. Changes nothing and starts nothing. Exits with 3 if something is at high risk, with
/// 4 if a dead run has left a service down.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to look at: `db`, `service:db`, `container:NAME`, `volume:NAME`, `path:DIR` [default: everything]
    target: Option<Target>,
}

/// Examines, and prints the findings.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    let host = global.host(ui).await?;
    if let Ok(Chosen { address, by: by @ ChosenBy::Context { .. } }) = global.engine() {
        host.monitor.note(format!("what is looked at is the engine at {address}, {by}"));
    }
    let options = DoctorOptions {
        target: args.target,
        repository: global.repository_location()?,
        recovers_nothing_at_boot: is_wanted(),
        environment: environment(),
    };
    let findings = doctor(&host, &options).await?;
    ui.finish_progress();
    ui.findings(&findings);
    let any = |is: &dyn Fn(&Finding) -> bool| findings.iter().any(is);
    let exit = match () {
        () if any(&|finding| finding.kind == Kind::ServiceLeftDown) => Exit::NotPutBack,
        () if any(&|finding| finding.risk == Risk::High) => Exit::Damaged,
        () => Exit::Done,
    };
    Ok(exit.into())
}
