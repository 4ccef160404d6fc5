//! `init`: make the place where snapshots are kept.

use std::process::ExitCode;

use volsnap::Error;
use volsnap::repository::RepositoryLocation;

use super::Global;
use super::exit::Exit;
use crate::render::Ui;

/// Make the repository that --repo names, and try what can be done there
///
/// The first snapshot makes it, too; this tells beforehand whether it will. At a server it tries whether objects can be
/// written, read back, listed and deleted, and what the server does with one that exists already. What it finds is kept
/// with the repository. Where there is a repository, it proves that it can be written to, and changes nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Makes it, and says what it is like.
pub(crate) async fn run(global: &Global, _args: &Args, ui: &Ui) -> Result<ExitCode, Error> {
    let location = RepositoryLocation::probe(&global.repository_location()?).await?;
    let is_new = location.repository().is_none();
    let repository = location.open_or_init(&global.clock()).await?;
    ui.initialised(&repository, is_new);
    Ok(Exit::Done.into())
}
