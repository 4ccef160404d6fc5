//! `init`: make the place where snapshots are kept.

use std::process::ExitCode;

use volsnap::Error;
use volsnap::crypt::Recipients;
use volsnap::model::hint::Hint;
use volsnap::ops::key::refuse_single;
use volsnap::ops::trust::Trust;
use volsnap::repository::{Repository, RepositoryLocation};

use super::dirs::state_directory;
use super::exit::Exit;
use super::{Global, keys};
use crate::render::Ui;

/// Make the repository that --repo names, and try what can be done there
///
/// The first snapshot makes it, too; this tells beforehand whether it will. At a server it tries whether objects can be
/// written, read back, listed and deleted, and what the server does with one that exists already. What it finds is kept
/// with the repository. Where there is a repository, it proves that it can be written to, and changes nothing.
///
/// With recipients, everything in it is encrypted: see `volsnap key generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Encrypt every snapshot to this recipient, which begins with age1 or is a public key of ssh; give two [default: those in
    /// VOLSNAP_RECIPIENTS]
    #[arg(long = "recipient", value_name = "RECIPIENT")]
    recipients: Vec<String>,
    /// One recipient is enough: whoever loses its identity loses every snapshot
    #[arg(long)]
    single_key: bool,
}

/// Makes it, and says what it is like.
pub(crate) async fn run(global: &Global, args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let location = RepositoryLocation::probe(&global.repository_location()?).await?;
    let is_new = location.repository().is_none();
    let typed = keys::typed_recipients(&args.recipients)?;
    let wanted = match typed {
        Some(typed) => Some(typed),
        None => keys::said_recipients()?,
    };
    let (clock, trust) = (global.clock(), Trust::new(&state_directory()?, keys::said_recipients()?));
    if wanted.is_none() {
        trust.check_place(&location)?;
    }
    let repository = match &wanted {
        Some(recipients) if is_new => {
            refuse_single(recipients, args.single_key)?;
            location.open_or_init_encrypted(recipients, &clock).await?
        }
        _ => location.open_or_init(&clock).await?,
    };
    if is_new {
        trust.trust(&repository, clock.now())?;
    } else {
        refuse_other(&repository, wanted.as_ref())?;
        trust.accept(&repository, clock.now())?;
    }
    ui.initialised(&repository, is_new);
    Ok(Exit::Done.into())
}

/// Refuses to take for made what was there and is encrypted to others than was asked for: it stays as it is.
fn refuse_other(repository: &Repository, wanted: Option<&Recipients>) -> Result<(), Error> {
    let Some(wanted) = wanted.filter(|wanted| Some(*wanted) != repository.recipients()) else {
        return Ok(());
    };
    let is = match repository.recipients() {
        Some(recipients) => format!("encrypted to {recipients}"),
        None => "not encrypted".to_owned(),
    };
    let place = repository.location();
    Err(Error::usage(format!(
        "there is a repository in {}, which is {is}; it was to be encrypted to {wanted}",
        place.display()
    ))
    .state("nothing was changed")
    .hint(Hint::instead(&["--repo="], ["--repo", "PLACE"]).why("for a new one")))
}
