//! `install`: have this machine do by itself what is needed.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde::Serialize;
use volsnap::Error;
use volsnap::model::hint::Hint;
use volsnap::ops::install::{Installed, RECOVER_UNIT, RecoverUnit, is_booted, is_missing, uninstall, unit};

use super::dirs::{is_root, state_directory};
use super::{Global, executable};
use crate::render::Ui;

/// The variable that names another root than `/`.
pub(super) const ROOT_VARIABLE: &str = "VOLSNAP_SYSTEM_ROOT";

/// Have this machine do by itself what is needed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Recover(RecoverArgs),
}

/// Run `volsnap recover` at every boot, by a systemd unit
///
/// Whatever a run had stopped when the machine went down is then started again. The unit has the engine (--host,
/// DOCKER_HOST) and the state directory that this command has. Without systemd, have cron (@reboot) or a service of
/// OpenRC run `volsnap recover`: docs/boot.md.
#[derive(Debug, clap::Args)]
struct RecoverArgs {
    /// Remove the unit
    #[arg(long)]
    uninstall: bool,
    /// Only print the unit
    #[arg(long, conflicts_with = "uninstall")]
    print: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Install below this directory, for an image of a machine: nothing is asked of systemd
    #[arg(long, value_name = "DIR", env = ROOT_VARIABLE)]
    root: Option<PathBuf>,
}

/// What `install --json` prints.
#[derive(Debug, Serialize)]
struct InstalledObject<'a> {
    outcome: Option<Installed>,
    unit: &'a PathBuf,
    text: Option<&'a str>,
}

/// Installs, removes or prints the unit.
pub(crate) fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let What::Recover(args) = &args.what;
    let root = args.root.clone().unwrap_or_else(|| "/".into());
    let recover = RecoverUnit {
        executable: executable()?,
        state: absolute_state()?,
        host: Some(global.engine()?.address),
    };
    let (path, text) = (unit(&root), recover.text()?);
    let shown = path.display();
    let (outcome, said) = if args.print {
        (None, text.clone())
    } else if args.dry_run {
        let would = if args.uninstall { "would remove" } else { "would write" };
        (None, if args.uninstall { format!("{would} {shown}") } else { format!("{would} {shown}:\n{text}") })
    } else {
        if args.root.is_none() {
            refuse_without_systemd()?;
        }
        let outcome = if args.uninstall { uninstall(&root)? } else { recover.install(&root)? };
        if args.root.is_none() && matches!(outcome, Installed::Installed | Installed::Removed) {
            reload(ui);
        }
        let said = match outcome {
            Installed::Installed => format!("{shown} runs `volsnap recover` at every boot from now on"),
            Installed::Unchanged => format!("{shown} is installed already: nothing to do"),
            Installed::Removed => {
                format!("{shown} is removed: nothing runs `volsnap recover` at boot any more")
            }
            Installed::Absent => format!("{shown} is not there: nothing to do"),
        };
        (Some(outcome), said)
    };
    let text = (!args.uninstall).then_some(&*text);
    ui.installed(&InstalledObject { outcome, unit: &path, text }, &said);
    Ok(ExitCode::SUCCESS)
}

/// Says to a root user, once, that nothing recovers at boot.
pub(super) fn remind(ui: &Ui) {
    if is_wanted() {
        let hint = ui.commands().line(&Hint::volsnap(["install", "recover"]));
        ui.remark(&format!("after a power cut, a run's service comes back at boot only by: {hint}"));
    }
}

/// Returns whether this machine could recover at boot by itself and does not.
pub(super) fn is_wanted() -> bool {
    let root = std::env::var_os(ROOT_VARIABLE).map_or_else(|| "/".into(), PathBuf::from);
    is_root() && is_missing(&root)
}

fn absolute_state() -> Result<PathBuf, Error> {
    let state = state_directory()?;
    std::path::absolute(&state)
        .map_err(|error| Error::failed(format!("find out where {} is", state.display())).with_source(error))
}

fn refuse_without_systemd() -> Result<(), Error> {
    if !is_booted("/".as_ref()) {
        return Err(Error::failed("systemd does not run this machine")
            .state("nothing was changed")
            .hint(Hint::advice(
                "have cron run `volsnap recover` at boot: @reboot in root's crontab (docs/boot.md)",
            ))
            .or(Hint::volsnap(["install", "recover", "--print"]).why("prints the unit")));
    }
    if !is_root() {
        // Root believes no journal of another user.
        return Err(Error::failed("only root can install a unit of the system")
            .state("nothing was changed")
            .hint(Hint::shell("sudo volsnap install recover").why("for the runs of root"))
            .or(Hint::advice(
                "for your own runs, have your crontab say: @reboot volsnap recover (docs/boot.md)",
            )));
    }
    Ok(())
}

/// Has systemd read its units again. It does so at boot in any case.
fn reload(ui: &Ui) {
    let reloaded = Command::new("systemctl").arg("daemon-reload").output();
    if !reloaded.is_ok_and(|output| output.status.success()) {
        ui.note(&format!("systemd has not read {RECOVER_UNIT} again; it does so at the next boot"));
    }
}
