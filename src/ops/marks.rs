//! `pin`, `unpin`, `remove`, `undelete`, `ack`: what a person says of single snapshots, against what a policy says of all.
//!
//! Whoever writes here holds the repository's claim, where it is a directory of this machine. Elsewhere the times of grace
//! keep those apart who delete and those who want something back; both go by the repository's clock.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::prune::{GRACE, OpenRuns, alarms_of, nothing_of, refuse_short_grace};
use crate::clock::Clock;
use crate::model::error::{Context as _, Error, Result};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::manifest::Proof;
use crate::model::retention::alarm::Alarm;
use crate::repository::{
    Acknowledgement, Announced, Deletion, Listing, MARK_FORMAT, Pin, Repository, RunMarker, Snapshot, Swept,
};

/// How long before the end of its time of grace a snapshot cannot be had back any more, where nobody can be kept out:
/// longer than a call to the store takes.
const UNDELETE_SLACK: TimeDelta = TimeDelta::minutes(1);

/// What became of a snapshot that somebody wants gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It is marked, and may be deleted from then on.
    Marked {
        /// From when on.
        due: DateTime<Utc>,
    },
    /// It is gone, and so many bytes are free.
    Deleted {
        /// Bytes.
        bytes: u64,
    },
    /// It is marked, and cannot be deleted yet.
    Held {
        /// Why, in words.
        by: String,
    },
}

/// How to remove a snapshot.
#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    /// How long it can be had back; `None` for [`GRACE`].
    pub grace: Option<Duration>,
    /// Whether it may be the last one of its source, or the last one that was verified.
    pub even_the_last: bool,
    /// Where the journals of this machine's runs are: one that is not finished may need the snapshot.
    pub state: Option<PathBuf>,
}

/// Says that a command is at work in a repository; so it learns what time it is there.
async fn begin(repository: &Repository, verb: &str, clock: &Clock) -> Result<Announced> {
    let run = SnapshotId::new(clock.now(), clock.draw().context(|| "draw a random id".to_owned())?);
    Ok(repository.announce(&RunMarker::new(&run, verb, Vec::new(), Vec::new())).await?)
}

/// Pins a snapshot: no prune removes it. Returns whether it was not pinned before.
///
/// # Errors
/// When it is marked for deletion; when the pin cannot be written.
pub async fn pin(
    repository: &Repository,
    snapshot: &Snapshot,
    reason: Option<String>,
    clock: &Clock,
) -> Result<bool> {
    let (name, tool_version) = (snapshot.name(), env!("CARGO_PKG_VERSION").to_owned());
    let _claim = repository.claim().await?;
    // A prune may have been at work until now.
    let listing = repository.snapshots(Some(&snapshot.manifest.source)).await?;
    let still = listing.snapshots.iter().find(|one| one.manifest.id == snapshot.manifest.id);
    if still.ok_or_else(|| is_gone(&name))?.deletion.is_some() {
        return Err(Error::usage(format!("{name} is marked for deletion"))
            .state("it is not pinned")
            .hint(Hint::volsnap(["undelete", &name]).why("takes the mark away; then pin it")));
    }
    let pin = Pin { format_version: MARK_FORMAT, at: clock.now(), reason, tool_version };
    Ok(repository.pin(&snapshot.manifest.source, &snapshot.manifest.id, &pin).await?)
}

/// Takes the pin of a snapshot away; returns whether there was one.
///
/// # Errors
/// When it cannot be removed.
pub async fn unpin(repository: &Repository, snapshot: &Snapshot) -> Result<bool> {
    let _claim = repository.claim().await?;
    Ok(repository.unpin(&snapshot.manifest.source, &snapshot.manifest.id).await?)
}

/// Marks a snapshot for deletion, because somebody says so; without a time of grace, also deletes it.
///
/// # Errors
/// When it is pinned, another one needs it, it is the last one and may not be, or the mark cannot be written.
pub async fn remove(
    repository: &Repository,
    snapshot: &Snapshot,
    options: &RemoveOptions,
    clock: &Clock,
) -> Result<Removed> {
    refuse_short_grace(repository, options.grace)?;
    let _claim = repository.claim().await?;
    let announced = begin(repository, "remove", clock).await?;
    let outcome = remove_by(repository, snapshot, options, announced.began()).await;
    announced.release().await;
    outcome
}

async fn remove_by(
    repository: &Repository,
    snapshot: &Snapshot,
    options: &RemoveOptions,
    now: DateTime<Utc>,
) -> Result<Removed> {
    let (source, id) = (&snapshot.manifest.source, &snapshot.manifest.id);
    let listing = repository.snapshots(Some(source)).await?;
    refuse_needed(&listing, snapshot)?;
    if !options.even_the_last {
        refuse_last(&listing, snapshot)?;
    }
    let grace = options.grace.unwrap_or(GRACE);
    // It may have a mark by a policy, which a policy takes away again.
    repository.unmark(source, id).await?;
    let deletion = Deletion::new(now, grace, true, vec!["removed by hand".to_owned()]);
    repository.mark(source, id, &deletion).await?;
    let name = snapshot.name();
    // After the mark: see the sweep of a prune.
    if let Some(by) = repository.running(now).await?.iter().find_map(|run| run.holds(&name)) {
        return Ok(Removed::Held { by });
    }
    let open = options.state.as_deref().map(OpenRuns::look).transpose()?.unwrap_or_default();
    if let Some(by) = open.holds(&name, snapshot.manifest.is_safety()) {
        return Ok(Removed::Held { by });
    }
    if !grace.is_zero() {
        return Ok(Removed::Marked { due: deletion.due(None) });
    }
    match repository.sweep(source, id, now, Some(grace)).await? {
        Swept::Deleted { bytes } => Ok(Removed::Deleted { bytes }),
        Swept::Stays => Ok(Removed::Held { by: "somebody else has pinned it, or wants it back".to_owned() }),
    }
}

/// The error for a snapshot that somebody has deleted while this command waited.
fn is_gone(name: &str) -> Error {
    Error::failed(format!("{name} is gone"))
        .state("a prune has deleted it")
        .hint(Hint::volsnap(["list"]).why("says what there is"))
}

fn refuse_needed(listing: &Listing, snapshot: &Snapshot) -> Result<()> {
    let (name, id) = (snapshot.name(), &snapshot.manifest.id);
    let still = listing.snapshots.iter().find(|one| one.manifest.id == *id);
    if still.is_none() {
        return Err(is_gone(&name));
    }
    if still.is_some_and(|one| one.pin.is_some()) {
        return Err(Error::usage(format!("{name} is pinned"))
            .state("it stays")
            .hint(Hint::volsnap(["unpin", &name]).why("takes the pin away")));
    }
    let needs = |one: &&Snapshot| one.manifest.needs.contains(id) && one.deletion.is_none();
    if let Some(other) = listing.snapshots.iter().find(needs) {
        return Err(Error::usage(format!(
            "{name} is needed: {} cannot be restored without it",
            other.name()
        ))
        .state("it stays")
        .hint(Hint::volsnap(["remove", &other.name()]).why("removes that one first")));
    }
    if let Some(other) = listing.unreadable.iter().find(|one| one.obstructs.is_some()) {
        let why = format!("{} cannot be read, and may need it: {}", other.path.display(), other.why);
        return Err(Error::failed(format!("{name} may be needed"))
            .with_kind(crate::ErrorKind::Damaged)
            .state(format!("it stays: {why}"))
            .hint(Hint::volsnap(["list"]).why("says what cannot be read")));
    }
    Ok(())
}

/// Refuses the last snapshot of a source that is worth anything.
fn refuse_last(listing: &Listing, snapshot: &Snapshot) -> Result<()> {
    let is_verified =
        |one: &Snapshot| one.verified.last().is_some_and(|last| last.shows() >= Some(Proof::Verified));
    let is_damaged = |one: &Snapshot| one.verified.last().is_some_and(|last| !last.ok);
    if snapshot.manifest.is_safety() || is_damaged(snapshot) {
        return Ok(());
    }
    let others = listing.snapshots.iter().filter(|one| {
        one.manifest.id != snapshot.manifest.id
            && !one.manifest.is_safety()
            && one.deletion.is_none()
            && !is_damaged(one)
    });
    let others: Vec<_> = others.collect();
    let what = match (others.is_empty(), is_verified(snapshot)) {
        (true, _) => "the last good snapshot",
        (false, true) if !others.iter().any(|one| is_verified(one)) => "the last verified snapshot",
        _ => return Ok(()),
    };
    let refused = Error::usage(format!("{} is {what} of its source", snapshot.name())).state("it stays");
    let all_the_same = Hint::again(["--even-the-last"]).why("removes it all the same");
    Err(match others.last() {
        Some(other) => {
            refused.hint(Hint::volsnap(["verify", &other.name()]).why("verifies another")).or(all_the_same)
        }
        None => refused.hint(all_the_same),
    })
}

/// Takes the mark for deletion away from a snapshot.
///
/// # Errors
/// When it has none, when its time of grace is over where somebody else may be deleting it, or when it is gone.
pub async fn undelete(repository: &Repository, snapshot: &Snapshot, clock: &Clock) -> Result<()> {
    let _claim = repository.claim().await?;
    let announced = begin(repository, "undelete", clock).await?;
    let outcome = undelete_at(repository, snapshot, announced.began()).await;
    announced.release().await;
    outcome
}

async fn undelete_at(repository: &Repository, snapshot: &Snapshot, now: DateTime<Utc>) -> Result<()> {
    let (name, manifest) = (snapshot.name(), &snapshot.manifest);
    let Some(deletion) = &snapshot.deletion else {
        return Err(Error::usage(format!("{name} is not marked for deletion"))
            .hint(Hint::volsnap(["show", &name]).why("shows it"))
            .state("it is there"));
    };
    // Here the claim keeps out whoever deletes; elsewhere only time does, with some to spare for a call under way.
    if !repository.is_claimed_alone() && now + UNDELETE_SLACK >= deletion.due(None) {
        let over = format!("the time in which {name} could be had back is over");
        return Err(Error::usage(over)
            .state("a prune may be deleting it at this moment")
            .hint(Hint::volsnap(["list"]).why("says what there is")));
    }
    repository.unmark(&manifest.source, &manifest.id).await?;
    let listing = repository.snapshots(Some(&manifest.source)).await?;
    if listing.snapshots.iter().any(|one| one.manifest.id == manifest.id) {
        return Ok(());
    }
    Err(is_gone(&name))
}

/// Writes down that somebody has looked at what is wrong in a source, so that prune goes on there. Returns what that was.
///
/// # Errors
/// When the source has no snapshots; when it cannot be written down.
pub async fn acknowledge(
    repository: &Repository,
    (source, project): (&str, Option<&str>),
    clock: &Clock,
) -> Result<Vec<(String, Vec<Alarm>)>> {
    let _claim = repository.claim().await?;
    let listing = repository.snapshots(None).await?.only(source, project);
    if listing.is_empty() {
        return Err(nothing_of(repository, source));
    }
    let mut sources: Vec<_> = listing.snapshots.iter().map(|one| &one.manifest.source).collect();
    sources.sort();
    sources.dedup();
    let (now, mut acknowledged) = (clock.now(), Vec::new());
    for source in sources {
        let of_it = || listing.snapshots.iter().filter(|one| one.manifest.source == *source);
        let alarms = alarms_of(&listing, source, of_it(), now);
        let known = |one: &&SnapshotId| one.begun().is_some_and(|at| at <= now);
        let newest = of_it().map(|one| &one.manifest.id).filter(known).max();
        if let (Some(newest), false) = (newest, alarms.is_empty()) {
            let said = Acknowledgement {
                format_version: MARK_FORMAT,
                at: now,
                alarms: alarms.iter().map(ToString::to_string).collect(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            repository.acknowledge(source, newest, &said).await?;
            acknowledged.push((source.clone(), alarms));
        }
    }
    Ok(acknowledged)
}
