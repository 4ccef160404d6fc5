//! `copy`: snapshots into a second repository.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use volsnap::Error;
use volsnap::ops::Context;
use volsnap::ops::copy::{CopyOptions, CopyReport, copy};

use super::exit::Exit;
use super::{Global, dirs, keys};
use crate::render::Ui;

/// Copy snapshots into a second repository, and prove each byte on the way
///
/// Reads, digests and compares what it copies, and holds no service. Copies of each source what is newer than the newest
/// that is there, so that what was removed there does not come back; a snapshot that you name by its id is copied in any
/// case. A copy that was interrupted goes on with the first snapshot that is missing. Exits with 6 if one could not be
/// copied.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Sources, ids, or `SOURCE/latest` [default: everything, but what restores have replaced]
    what: Vec<String>,
    /// The directory of the second repository
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Copy also what is older than the newest that is there
    #[arg(long)]
    all: bool,
    /// Make the second repository, if there is none
    #[arg(long)]
    init: bool,
    /// Encrypt what is copied to this recipient, whatever it is encrypted to by now; you can give several
    ///
    /// What is encrypted to others needs an identity that opens it: see VOLSNAP_IDENTITY_FILE. With --init, the second
    /// repository is made so that what comes later is encrypted to them as well. Without, what is encrypted is copied as it
    /// is, and what is not is encrypted as the second repository is.
    #[arg(long = "encrypt-to", value_name = "RECIPIENT")]
    encrypt_to: Vec<String>,
    /// Only say what would be copied
    #[arg(long)]
    dry_run: bool,
}

/// Copies.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    let encrypt_to = keys::typed_recipients(&args.encrypt_to)?;
    let identities = if encrypt_to.is_some() { keys::identities().await? } else { None };
    let host = global.host(ui).await?.only_planning(args.dry_run);
    let options = CopyOptions {
        from: global.repository_location()?,
        to: dirs::place(&args.to)?,
        what: args.what,
        project: global.project(),
        all: args.all,
        init: args.init,
        dry_run: args.dry_run,
        encrypt_to,
        identities,
    };
    let report = copy(&host, &options).await?;
    ui.finish_progress();
    ui.copied(&report, &options.to, options.dry_run);
    Ok(exit_of(&report).into())
}

/// Copies a new snapshot; whatever goes wrong, the snapshot stands.
pub(super) async fn copy_new(host: &Context, from: &Path, to: &Path, name: &str, ui: &Ui) -> Exit {
    let options = CopyOptions {
        from: from.to_owned(),
        to: to.to_owned(),
        what: vec![name.to_owned()],
        project: None,
        all: false,
        init: false,
        dry_run: false,
        encrypt_to: None,
        identities: None,
    };
    match copy(host, &options).await {
        Ok(report) => {
            ui.finish_progress();
            ui.copied_new(&report, to);
            if report.failed.is_empty() { Exit::Done } else { Exit::Partial }
        }
        Err(error) => {
            let error =
                error.state(format!("snapshot {name} is published, and not copied to {}", to.display()));
            ui.error(&error);
            match error.kind() {
                // Whatever it was asked for besides, it was asked to end.
                volsnap::ErrorKind::Interrupted(interrupt) => Exit::Interrupted(interrupt),
                volsnap::ErrorKind::NotPutBack => Exit::NotPutBack,
                _ => Exit::Partial,
            }
        }
    }
}

fn exit_of(report: &CopyReport) -> Exit {
    Exit::of_look(!report.damaged, report.failed.is_empty())
}
