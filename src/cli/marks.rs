//! `pin`, `unpin`, `remove`, `undelete`, `ack`: what a person says of single snapshots.

use std::process::ExitCode;
use std::time::Duration;

use volsnap::Error;
use volsnap::ops::marks::{self, RemoveOptions};
use volsnap::repository::{Repository, Snapshot};

use super::Global;
use super::exit::Exit;
use super::prune::parse_time;
use crate::render::{Ui, json};

/// Keep a snapshot whatever the rules of `prune` say
#[derive(Debug, clap::Args)]
pub(crate) struct PinArgs {
    /// An id, a unique prefix of one, `latest`, `SOURCE`, or `SOURCE/latest`
    snapshot: String,
    /// Why, for those who read `show`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Leave a pinned snapshot to the rules of `prune` again
#[derive(Debug, clap::Args)]
pub(crate) struct UnpinArgs {
    /// An id, a unique prefix of one, `latest`, `SOURCE`, or `SOURCE/latest`
    snapshot: String,
}

/// Mark a snapshot for deletion
///
/// It can be had back with `volsnap undelete` for a day, and the first prune after that deletes it. One that is pinned, or
/// that another one needs, is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// An id, or a unique prefix of one
    snapshot: String,
    /// How long it can be had back [default: 24h]; 0s deletes it at once, and only from a directory on a local disk
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    grace: Option<Duration>,
    /// Even if it is the last good one of its source, or the last verified one
    #[arg(long)]
    even_the_last: bool,
}

/// Have a snapshot back that is marked for deletion
#[derive(Debug, clap::Args)]
pub(crate) struct UndeleteArgs {
    /// An id, or a unique prefix of one
    snapshot: String,
}

/// Say that you have looked at what is wrong in a source, so that `prune` goes on there
///
/// `prune` leaves a source alone when a snapshot is empty, has shrunk to half, is of another database, or is damaged: what
/// it would remove may be the last good ones.
#[derive(Debug, clap::Args)]
pub(crate) struct AckArgs {
    /// The source, as for `list`
    source: String,
}

/// Returns the repository, and the snapshot in it that is meant.
async fn named(global: &Global, spec: &str) -> Result<(Repository, Snapshot), Error> {
    let repository = global.repository().await?;
    let snapshot = repository.resolve_in(spec, global.project().as_deref()).await?;
    Ok((repository, snapshot))
}

/// Pins a snapshot.
pub(crate) async fn pin(global: &Global, args: PinArgs, ui: &Ui) -> Result<ExitCode, Error> {
    let (repository, snapshot) = named(global, &args.snapshot).await?;
    let is_new = marks::pin(&repository, &snapshot, args.reason, &global.clock()).await?;
    let said = if is_new { "is pinned: no prune removes it" } else { "was pinned before" };
    ui.marked(&json::MarkedObject::new(&snapshot, "pinned"), &format!("{} {said}", snapshot.name()));
    Ok(ExitCode::SUCCESS)
}

/// Takes a pin away.
pub(crate) async fn unpin(global: &Global, args: &UnpinArgs, ui: &Ui) -> Result<ExitCode, Error> {
    let (repository, snapshot) = named(global, &args.snapshot).await?;
    let was = marks::unpin(&repository, &snapshot).await?;
    let said = if was { "is not pinned any more" } else { "was not pinned" };
    ui.marked(&json::MarkedObject::new(&snapshot, "unpinned"), &format!("{} {said}", snapshot.name()));
    Ok(ExitCode::SUCCESS)
}

/// Marks a snapshot for deletion, or deletes it.
pub(crate) async fn remove(global: &Global, args: &RemoveArgs, ui: &Ui) -> Result<ExitCode, Error> {
    let (repository, snapshot) = named(global, &args.snapshot).await?;
    let state = Some(global.state_directory()?);
    let options = RemoveOptions { grace: args.grace, even_the_last: args.even_the_last, state };
    let removed = marks::remove(&repository, &snapshot, &options, &global.clock()).await?;
    ui.removed(&snapshot, &removed);
    Ok(Exit::of_look(true, !matches!(removed, marks::Removed::Held { .. })).into())
}

/// Takes the mark for deletion away.
pub(crate) async fn undelete(global: &Global, args: &UndeleteArgs, ui: &Ui) -> Result<ExitCode, Error> {
    let (repository, snapshot) = named(global, &args.snapshot).await?;
    marks::undelete(&repository, &snapshot, &global.clock()).await?;
    ui.undeleted(&snapshot);
    Ok(ExitCode::SUCCESS)
}

/// Writes down that somebody has looked.
pub(crate) async fn ack(global: &Global, args: &AckArgs, ui: &Ui) -> Result<ExitCode, Error> {
    let (repository, project) = (global.repository().await?, global.project());
    let of = (args.source.as_str(), project.as_deref());
    let acknowledged = marks::acknowledge(&repository, of, &global.clock()).await?;
    ui.acknowledged(&args.source, &acknowledged);
    Ok(ExitCode::SUCCESS)
}
