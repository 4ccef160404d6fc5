//! `copy`: have snapshots in a second repository as well.
//!
//! It holds no service. Each snapshot is read from the one repository, digested, compared with what its manifest says, and
//! published in the other, the oldest first, so that the next copy finds where to go on. Before the first byte, the journal
//! has what removes a half copy, and both repositories are told what is read and written. So a copy that dies leaves whole
//! snapshots there and nothing else, and the next one goes on with the first that is missing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::Context;
use super::outside::refuse_own_repository;
use super::run::{Run, Untouched};
use super::trust::Trust;
use crate::crypt::{Identities, Recipients};
use crate::model::error::{Context as _, Error, ErrorKind, Result, chain};
use crate::model::event::Phase;
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::manifest::Manifest;
use crate::model::retention::FUTURE_SLACK;
use crate::repository::{
    Announced, Listing, Repository, RepositoryError, RepositoryLocation, RunMarker, Snapshot, Unreadable,
};
use crate::saga::When;
use crate::undo::{Saga, Undo};

/// What to copy, and where to.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The repository that has the snapshots.
    pub from: PathBuf,
    /// The one that is to have them.
    pub to: PathBuf,
    /// Snapshots, or sources; everything if there are none.
    pub what: Vec<String>,
    /// The Compose project that bare names are of.
    pub project: Option<String>,
    /// Whether to copy also what is older than the newest that is there.
    pub all: bool,
    /// Whether to make the second repository.
    pub init: bool,
    /// Whether to say only what would be copied.
    pub dry_run: bool,
    /// Whom to encrypt what is copied to. Without, what is encrypted stays as it is, and what is not becomes what the second
    /// repository is.
    pub encrypt_to: Option<Recipients>,
    /// What opens what is encrypted by now, to encrypt it to others.
    pub identities: Option<Identities>,
}

/// What a copy has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// What it has copied, each as `SOURCE/ID`; or would copy, in a dry run.
    pub copied: Vec<String>,
    /// Bytes of that.
    pub bytes: u64,
    /// What was there already.
    pub there: Vec<String>,
    /// What it has left out, since it is older than the newest that is there.
    pub older: Vec<String>,
    /// What could not be copied, and why.
    pub failed: Vec<(String, String)>,
    /// Whether something of that is damaged where it was.
    pub damaged: bool,
}

/// Copies snapshots from one repository into another.
///
/// # Errors
/// When either repository cannot be used, or nothing is meant. What fails with one snapshot does not end the rest, and is
/// in the report.
pub async fn copy(context: &Context, options: &CopyOptions) -> Result<CopyReport> {
    let run = Run::begin(context).await?;
    let subject = options.what.join(" ");
    let copied = run.conduct("copy", subject, &Untouched, async |saga| {
        if options.dry_run && options.init && !is_there(options).await? {
            return plan_anew(context, options).await.map(Some);
        }
        let copy = Copying::prepare(&run, options).await?;
        copy.execute(saga).await.map(Some)
    });
    Ok(copied.await?.unwrap_or_default())
}

async fn is_there(options: &CopyOptions) -> Result<bool> {
    Ok(RepositoryLocation::probe(&options.to).await?.repository().is_some())
}

/// Returns what would be copied into a second repository that a plan does not make.
async fn plan_anew(context: &Context, options: &CopyOptions) -> Result<CopyReport> {
    let (listing, there) =
        (Repository::open(&options.from).await?.snapshots(None).await?, Listing::default());
    let mut report = CopyReport::default();
    let chosen = choose((&listing, &there), options, context.clock.now(), &mut report)?;
    name_unread(&listing, &there, options, &mut report);
    report.plan(&chosen);
    Ok(report)
}

impl CopyReport {
    /// Says that these would be copied.
    fn plan(&mut self, chosen: &[Snapshot]) {
        self.copied.extend(chosen.iter().map(Snapshot::name));
        self.bytes += chosen.iter().map(stored_bytes).sum::<u64>();
    }
}

/// A copy that is prepared.
struct Copying<'a> {
    run: &'a Run,
    options: &'a CopyOptions,
    from: Repository,
    to: Repository,
    /// The oldest first.
    chosen: Vec<Snapshot>,
    report: CopyReport,
}

impl<'a> Copying<'a> {
    async fn prepare(run: &'a Run, options: &'a CopyOptions) -> Result<Self> {
        let from = Repository::open(&options.from).await?;
        let to = second(&run.context, options, &from).await?;
        let (listing, there) = (from.snapshots(None).await?, to.snapshots(None).await?);
        let mut report = CopyReport::default();
        let mut chosen = choose((&listing, &there), options, run.context.clock.now(), &mut report)?;
        refuse_broken(&there, &mut chosen, &mut report);
        name_unread(&listing, &there, options, &mut report);
        refuse_locked(options, &chosen)?;
        Ok(Self { run, options, from, to, chosen, report })
    }

    async fn execute(mut self, saga: &mut Saga) -> Result<CopyReport> {
        if self.options.dry_run || self.chosen.is_empty() {
            self.report.plan(&self.chosen);
            return Ok(self.report);
        }
        let Some(_claim) = self.to.claim_for_copy()? else {
            let at_work = format!("another copy to {} is at work", self.to.location().display());
            return Err(Error::failed(at_work)
                .state("nothing was copied")
                .hint(Hint::advice("copy once it has ended")));
        };
        let names: Vec<String> = self.chosen.iter().map(Snapshot::name).collect();
        let reads = RunMarker::new(&self.run.id, "copy", names.clone(), Vec::new());
        let writes = RunMarker::new(&self.run.id, "copy", Vec::new(), names.clone());
        // One that can only be read is told nothing: then its time of grace protects what is read.
        let read = match self.from.announce(&reads).await {
            Ok(announced) => Some(announced),
            Err(error) => {
                self.run.monitor().warning(format!(
                    "{} is not told what is read from it: {}",
                    self.from.location().display(),
                    chain(&error)
                ));
                None
            }
        };
        let written = self.to.announce(&writes).await?;
        if let Err(error) = self.refuse_other_copy(&written, &names).await {
            written.release().await;
            if let Some(read) = read {
                read.release().await;
            }
            return Err(error);
        }
        self.run.watch_alone(saga).await?;
        let mut stuck: BTreeSet<String> = BTreeSet::new();
        for snapshot in std::mem::take(&mut self.chosen) {
            let (name, source) = (snapshot.name(), &snapshot.manifest.source);
            if stuck.contains(source) {
                let why = "not tried, since an older one failed, which the next copy would leave out";
                self.report.failed.push((name, why.to_owned()));
                continue;
            }
            match self.copy(saga, &snapshot).await {
                Ok(true) => {
                    self.report.bytes += stored_bytes(&snapshot);
                    self.report.copied.push(name);
                }
                Ok(false) => self.report.there.push(name),
                Err(error) => {
                    let is_damaged = error.kind() == ErrorKind::Damaged;
                    self.report.damaged |= is_damaged;
                    // One that is damaged stays so: it holds up no better one.
                    if !is_damaged {
                        stuck.insert(source.clone());
                    }
                    self.report.failed.push((name, error.chain()));
                }
            }
        }
        written.release().await;
        if let Some(read) = read {
            read.release().await;
        }
        Ok(self.report)
    }

    /// Refuses to write what another run writes: each would take the other's unfinished objects for its own.
    async fn refuse_other_copy(&self, ours: &Announced, names: &[String]) -> Result<()> {
        let Some(name) = self.to.written_by_others(&self.run.id, ours, names).await? else { return Ok(()) };
        let at_work = format!("another run writes {name} to {}", self.to.location().display());
        Err(Error::new(ErrorKind::Busy, at_work)
            .state("nothing was copied")
            .hint(Hint::advice("copy once it has ended; one that was killed is waited for half an hour")))
    }

    /// Copies one snapshot; returns whether it was not there.
    async fn copy(&self, saga: &mut Saga, snapshot: &Snapshot) -> Result<bool> {
        let monitor = self.run.monitor();
        let bytes = stored_bytes(snapshot);
        monitor.phase(Phase::Publish, snapshot.name(), Some(bytes));
        monitor.step("copy");
        snapshot.refuse_marked().await?;
        let recipients = self.recipients_of(snapshot);
        let begun = match recipients {
            Some(recipients) => self.to.begin_encrypted_copy(snapshot, recipients).await,
            None => self.to.begin_copy(snapshot).await,
        };
        let pending = match begun {
            Ok(pending) => pending,
            Err(RepositoryError::Exists { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if let Some(free) = self.to.free_space().await?.filter(|free| *free < bytes) {
            return Err(Error::failed(format!(
                "{} has {} MB free, and {} needs {} MB",
                self.to.location().display(),
                free / 1_000_000,
                snapshot.name(),
                bytes / 1_000_000
            ))
            .hint(Hint::advice(
                "make room there: `volsnap prune` says what may go, or name a larger disk by --to",
            )));
        }
        let discard = Undo::DiscardUnpublished(pending.objects());
        saga.register(When::Always, discard).context(|| "write the journal".to_owned())?;
        let (archive, list, manifest) = match recipients {
            Some(_) => pending.copy_encrypted(&self.opened(snapshot)?, monitor).await?,
            None => {
                let (archive, list) = pending.copy_objects(snapshot, monitor).await?;
                (archive, list, snapshot.manifest.clone())
            }
        };
        // A signal must find it done or not begun.
        let _deferral = self.run.context.cancel.defer();
        pending.publish(manifest, &archive, &list).await?;
        monitor.step("copied");
        Ok(true)
    }

    /// Returns whom a snapshot is encrypted to on the way; `None` if it is copied as it is.
    fn recipients_of(&self, snapshot: &Snapshot) -> Option<&Recipients> {
        let as_there = || self.to.recipients().filter(|_| !snapshot.manifest.is_encrypted());
        self.options.encrypt_to.as_ref().or_else(as_there)
    }

    /// Returns a snapshot with what it holds to be read.
    fn opened(&self, snapshot: &Snapshot) -> Result<Snapshot> {
        if !snapshot.is_locked() {
            return Ok(snapshot.clone());
        }
        let identities = self.options.identities.as_ref().ok_or_else(|| snapshot.locked())?;
        Ok(snapshot.open_with(identities)?)
    }
}

fn stored_bytes(snapshot: &Snapshot) -> u64 {
    let manifest = &snapshot.manifest;
    manifest.archive().stored_bytes + manifest.file_list().stored_bytes
}

/// Returns the command that makes the second repository as well; a snapshot may have asked for the copy.
fn with_init(options: &CopyOptions) -> Hint {
    let to = options.to.to_string_lossy();
    let what = options.what.iter().map(String::as_str);
    let recipients = options.encrypt_to.iter().flat_map(Recipients::iter);
    let encrypt_to = recipients.flat_map(|recipient| ["--encrypt-to", recipient]);
    let command = ["copy"].into_iter().chain(what).chain(["--to", &to]).chain(encrypt_to);
    Hint::again(["--init"]).otherwise(command)
}

/// Returns the second repository. A disk that is not mounted is no place for a new one, so nobody makes one by the way.
async fn second(context: &Context, options: &CopyOptions, from: &Repository) -> Result<Repository> {
    let location = RepositoryLocation::probe(&options.to).await?;
    if location.repository().is_none() && (!options.init || options.dry_run) {
        let there_is_none = format!("copy to {}: there is no repository", options.to.display());
        return Err(Error::usage(there_is_none)
            .state("nothing was copied")
            .hint(with_init(options).why("makes it; first look whether its disk is mounted")));
    }
    if let Some(to) = location.repository() {
        refuse_same(from, to)?;
    }
    refuse_own_repository(context, &location)?;
    // What the environment says is of the first one.
    let trust = Trust::new(&context.saga.state, None);
    let repository = match &options.encrypt_to {
        Some(recipients) if location.repository().is_none() => {
            refuse_single(options, recipients)?;
            let made = location.open_or_init_encrypted(recipients, &context.clock).await?;
            if made.recipients() == Some(recipients) {
                // A person on this host has just said so, whatever was there before.
                trust.trust(&made, context.clock.now())?;
            }
            made
        }
        _ => {
            trust.check_place(&location)?;
            location.open_or_init(&context.clock).await?
        }
    };
    if !options.dry_run {
        trust.accept(&repository, context.clock.now())?;
    }
    Ok(repository)
}

/// Refuses to copy a repository into itself, before anything is kept of the second.
fn refuse_same(from: &Repository, to: &Repository) -> Result<()> {
    if from.id() != to.id() {
        return Ok(());
    }
    let (from, to) = (from.location(), to.location());
    Err(Error::usage(format!("{} and {} are the same repository", from.display(), to.display()))
        .hint(Hint::advice("name another directory, on another disk")))
}

/// Refuses to make a repository that only one identity opens: if that is lost, so is everything.
fn refuse_single(options: &CopyOptions, recipients: &Recipients) -> Result<()> {
    let (to, named) = (options.to.to_string_lossy(), recipients.to_string());
    if recipients.count() > 1 {
        return Ok(());
    }
    let init = Hint::volsnap(["--repo", &to, "init", "--recipient", &named, "--single-key"]);
    Err(Error::usage("one recipient alone: whoever loses its identity loses every snapshot there")
        .state("nothing was copied")
        .hint(Hint::again(["--encrypt-to", "RECIPIENT"]).why("a second one, kept elsewhere"))
        .or(init.why("if you want just one; then copy without --init")))
}

/// Refuses to encrypt anew what no identity opens.
fn refuse_locked(options: &CopyOptions, chosen: &[Snapshot]) -> Result<()> {
    if options.encrypt_to.is_none() || options.identities.is_some() {
        return Ok(());
    }
    match chosen.iter().find(|snapshot| snapshot.is_locked()) {
        Some(locked) => Err(locked.locked().into()),
        None => Ok(()),
    }
}

/// Returns what is to be copied, the oldest first.
fn choose(
    (listing, there): (&Listing, &Listing),
    options: &CopyOptions,
    now: DateTime<Utc>,
    report: &mut CopyReport,
) -> Result<Vec<Snapshot>> {
    let mut chosen: Vec<Snapshot> = Vec::new();
    if options.what.is_empty() {
        chosen.extend(worth_copying(listing));
    }
    let (mut named, project) = (BTreeSet::new(), options.project.as_deref());
    for word in &options.what {
        if is_of_one_snapshot(listing, word) {
            let snapshot = listing.resolve_in(word, project)?;
            named.insert(snapshot.name());
            chosen.push(snapshot);
            continue;
        }
        let of_source = listing.clone().only(word, project);
        if of_source.snapshots.is_empty() {
            // Its error names what is like it.
            listing.resolve_in(word, project)?;
        }
        chosen.extend(worth_copying(&of_source));
    }
    chosen.sort_by(|a, b| (&a.manifest.id, a.name()).cmp(&(&b.manifest.id, b.name())));
    chosen.dedup_by(|a, b| a.name() == b.name());
    let names: BTreeSet<String> = there.snapshots.iter().map(Snapshot::name).collect();
    let newest = |source: &str| {
        // What a restore has kept there, and what a wrong clock has named, say nothing of what a copy has brought.
        let is_of_now =
            |one: &&Snapshot| one.manifest.id.begun().is_some_and(|begun| begun <= now + FUTURE_SLACK);
        let of_it = there.snapshots.iter().filter(|one| one.manifest.source == source);
        let of_it = of_it.filter(|one| !one.manifest.is_safety()).filter(is_of_now);
        of_it.map(|one| &one.manifest.id).max()
    };
    chosen.retain(|snapshot| {
        let name = snapshot.name();
        if names.contains(&name) {
            report.there.push(name);
            return false;
        }
        // What was removed there by its own policy does not come back each week.
        let is_older = |id: &SnapshotId| snapshot.manifest.id < *id;
        if !options.all && !named.contains(&name) && newest(&snapshot.manifest.source).is_some_and(is_older) {
            report.older.push(name);
            return false;
        }
        true
    });
    add_needed(listing, &names, &mut chosen);
    Ok(chosen)
}

/// Takes those out that are there and cannot be read there: a copy does not mend them, and must not say that they are
/// there.
fn refuse_broken(there: &Listing, chosen: &mut Vec<Snapshot>, report: &mut CopyReport) {
    chosen.retain(|snapshot| {
        let (source, id) = (&snapshot.manifest.source, &snapshot.manifest.id);
        let is_it =
            |one: &&Unreadable| one.snapshot.as_ref().is_some_and(|(of, it)| of == source && it == id);
        let Some(broken) = there.unreadable.iter().find(is_it) else { return true };
        report.damaged = true;
        report
            .failed
            .push((snapshot.name(), format!("{} is damaged: {}", broken.path.display(), broken.why)));
        false
    });
}

/// Names what is meant, is not there, and cannot be read here, so that nobody takes it for copied.
fn name_unread(listing: &Listing, there: &Listing, options: &CopyOptions, report: &mut CopyReport) {
    let project = options.project.as_deref();
    for unread in &listing.unreadable {
        let Some((source, id)) = &unread.snapshot else { continue };
        let is_meant = options.what.is_empty()
            || options.what.iter().any(|word| {
                let of_it = listing.clone().only(word, project);
                word == source || of_it.snapshots.iter().any(|one| one.manifest.source == *source)
            });
        let is_there =
            there.snapshots.iter().any(|one| one.manifest.source == *source && one.manifest.id == *id);
        if is_meant && !is_there {
            let why = format!("{} cannot be read: {}", unread.path.display(), unread.why);
            report.failed.push((format!("{source}/{id}"), why));
        }
    }
}

/// Adds what the chosen snapshots need and is not there, however old: without it they could not be restored there.
fn add_needed(listing: &Listing, there: &BTreeSet<String>, chosen: &mut Vec<Snapshot>) {
    let mut next = 0;
    while let Some(Manifest { source, needs, .. }) = chosen.get(next).map(|one| &one.manifest) {
        let is_needed = |one: &&Snapshot| one.manifest.source == *source && needs.contains(&one.manifest.id);
        let is_missing = |one: &&Snapshot| {
            let name = one.name();
            !there.contains(&name) && chosen.iter().all(|chosen| chosen.name() != name)
        };
        let needed: Vec<_> = listing.snapshots.iter().filter(is_needed).filter(is_missing).cloned().collect();
        chosen.extend(needed);
        next += 1;
    }
    chosen.sort_by(|a, b| (&a.manifest.id, a.name()).cmp(&(&b.manifest.id, b.name())));
}

/// Returns the snapshots that somebody who names none means: not those that go, and not what restores have replaced.
fn worth_copying(listing: &Listing) -> impl Iterator<Item = Snapshot> + '_ {
    let worth = |one: &&Snapshot| one.deletion.is_none() && !one.manifest.is_safety();
    listing.snapshots.iter().filter(worth).cloned()
}

/// Returns whether a word means a single snapshot, not all of a source.
fn is_of_one_snapshot(listing: &Listing, word: &str) -> bool {
    let (_, wanted) = word.rsplit_once('/').unwrap_or(("", word));
    let is_id = |id: &SnapshotId| !wanted.is_empty() && id.as_str().starts_with(wanted);
    wanted == "latest" || listing.snapshots.iter().any(|one| is_id(&one.manifest.id))
}
