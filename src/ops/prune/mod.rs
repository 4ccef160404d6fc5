//! `prune`: keep what a policy keeps, and delete the rest, in two steps.
//!
//! The order, and why it is safe whoever dies where, and whoever else prunes at the same time:
//!
//! 1. The run says that it is there; so it learns what time it is by the repository's own clock, and judges by no other.
//! 2. It reads what is marked for deletion, then the manifests, then what other runs say they read; it plans.
//! 3. What was marked and is needed after all loses its mark.
//! 4. What no rule keeps is marked. It is still there, can be read, and `undelete` takes the mark away.
//! 5. What was marked long ago, and is still not needed, is deleted: the manifest first, the mark last. Each is looked at
//!    once more by its name, immediately before.
//! 6. What dead runs have left is deleted, once nobody has touched it for a day.
//!
//! A source in which something looks wrong, or cannot be read, is left alone as a whole.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};

use super::Consent;
use crate::clock::Clock;
use crate::model::error::{Context as _, Error, Result, chain};
use crate::model::event::Monitor;
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::retention::{Decision, Fate, Policy, Reason, span};
use crate::repository::{Deletion, Repository, RepositoryError, RunMarker, Swept};

mod open_runs;
mod plan;
#[cfg(test)]
mod tests;

pub(super) use open_runs::OpenRuns;
pub use plan::{IncompleteFiles, PlannedSnapshot, PrunePlan, SourcePlan, Stopped};
pub(super) use plan::{alarms_of, nothing_of};

/// How long a marked snapshot stays for those who want it back, unless somebody says otherwise.
pub const GRACE: Duration = Duration::from_hours(24);
/// Less is only for a directory on a disk of this machine: elsewhere, others may see what was an hour ago.
pub const LEAST_GRACE: Duration = Duration::from_hours(1);
/// For how long nobody may have touched what is taken for the leftovers of a dead run.
const LEFTOVERS_AFTER: Duration = Duration::from_hours(24);
/// How far this machine's clock and the repository's may be apart: ids have the time of the one, marks that of the other.
const SKEW: TimeDelta = TimeDelta::minutes(5);

/// What to prune, and how.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// What to keep.
    pub policy: Policy,
    /// How long what is marked stays; `None` for [`GRACE`], and what was marked with another one keeps that.
    pub grace: Option<Duration>,
    /// The sources: a name that means one, and the Compose project in which it does; `None` for all.
    pub source: Option<(String, Option<String>)>,
    /// Returns a moment as the clocks on the wall show it.
    pub zone: fn(DateTime<Utc>) -> DateTime<FixedOffset>,
    /// Where the journals of this machine's runs are.
    pub state: Option<PathBuf>,
    /// Whether nothing may be written.
    pub only_plans: bool,
}

/// What a prune has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What it has marked, each as `SOURCE/ID`.
    pub marked: Vec<String>,
    /// What it has deleted.
    pub deleted: Vec<String>,
    /// From which it has taken the mark.
    pub rescued: Vec<String>,
    /// Bytes that are free now.
    pub freed_bytes: u64,
    /// What could not be done, in words.
    pub failed: Vec<String>,
}

/// Prunes a repository as it was planned, once `consent` is given to the plan; `None` if it is declined.
///
/// # Errors
/// When no rule is given, the time of grace is too short for this repository, or it cannot be read. What fails with one
/// snapshot does not end the rest, and is in the report.
pub async fn prune(
    repository: &Repository,
    options: &PruneOptions,
    (clock, monitor): (&Clock, &dyn Monitor),
    consent: impl AsyncFnOnce(&PrunePlan) -> Result<Consent>,
) -> Result<Option<PruneReport>> {
    refuse_no_rule(&options.policy)?;
    refuse_short_grace(repository, options.grace)?;
    if options.only_plans {
        let plan = PrunePlan::of(repository, options, clock.now()).await?;
        consent(&plan).await?;
        return Ok(None);
    }
    let _claim = repository.claim().await?;
    let run = SnapshotId::new(clock.now(), clock.draw().context(|| "draw a random id".to_owned())?);
    let announced = repository.announce(&RunMarker::new(&run, "prune", Vec::new(), Vec::new())).await?;
    let outcome = async {
        let now = announced.began();
        refuse_skew(repository, clock, now)?;
        let plan = PrunePlan::of(repository, options, now).await?;
        if consent(&plan).await? == Consent::Decline {
            return Ok(None);
        }
        let mut pruning = Pruning { repository, options, now, monitor, report: PruneReport::default() };
        pruning.execute(&plan).await;
        Ok(Some(pruning.report))
    };
    let outcome = outcome.await;
    announced.release().await;
    outcome
}

/// Refuses a policy that keeps nothing.
fn refuse_no_rule(policy: &Policy) -> Result<()> {
    if !policy.is_empty() {
        return Ok(());
    }
    const RULES: [&str; 8] = [
        "--keep-last=",
        "--keep-hourly=",
        "--keep-daily=",
        "--keep-weekly=",
        "--keep-monthly=",
        "--keep-yearly=",
        "--keep-within=",
        "--dry-run",
    ];
    let usual = ["--keep-daily", "7", "--keep-weekly", "4", "--keep-monthly", "12", "--dry-run"];
    let newest = Hint::instead(&RULES, ["--keep-last", "100", "--dry-run"]);
    Err(Error::usage("no rule says what to keep, so nothing is removed")
        .hint(Hint::instead(&RULES, usual).why("says what these rules would keep"))
        .or(newest.why("or the newest hundred")))
}

/// Refuses a time of grace that is too short for what others may see of this repository.
pub(super) fn refuse_short_grace(repository: &Repository, grace: Option<Duration>) -> Result<()> {
    let Some(grace) = grace.filter(|grace| *grace < LEAST_GRACE) else { return Ok(()) };
    if repository.is_on_local_disk() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--grace {} is too short for {}: it is no directory on a disk of this machine, and others may still see it as it \
         was",
        span(grace),
        repository.location().display()
    ))
    .hint(Hint::instead(&["--grace="], ["--grace", "1h"])))
}

fn refuse_skew(repository: &Repository, clock: &Clock, theirs: DateTime<Utc>) -> Result<()> {
    let apart = clock.now().signed_duration_since(theirs).abs();
    if apart <= SKEW {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the clock of this machine and that of {} are {} minutes apart, so nobody can say what is old",
        repository.location().display(),
        apart.num_minutes()
    ))
    .state("nothing was removed")
    .hint(Hint::shell("timedatectl status").why("is this machine's clock right?")))
}

/// A prune at work.
struct Pruning<'a> {
    repository: &'a Repository,
    options: &'a PruneOptions,
    now: DateTime<Utc>,
    monitor: &'a dyn Monitor,
    report: PruneReport,
}

impl Pruning<'_> {
    async fn execute(&mut self, plan: &PrunePlan) {
        self.rescue(plan).await;
        let marked = self.mark(plan).await;
        self.sweep(plan, &marked).await;
        self.sweep_leftovers(plan).await;
    }

    async fn rescue(&mut self, plan: &PrunePlan) {
        for snapshot in plan.with_fate(Fate::Rescue) {
            self.monitor.step("rescue");
            match self.repository.unmark(&snapshot.source, &snapshot.decision.id).await {
                Ok(_) => self.report.rescued.push(snapshot.name()),
                Err(error) => self.failed(&snapshot.name(), &error),
            }
        }
    }

    /// Marks what no rule keeps, the newest first: what another one needs is marked after that one. Returns what it has
    /// marked.
    async fn mark<'p>(&mut self, plan: &'p PrunePlan) -> Vec<&'p PlannedSnapshot> {
        let mut marked = Vec::new();
        for snapshot in plan.with_fate(Fate::Remove).rev() {
            self.monitor.step("mark");
            let Decision { id, reasons, .. } = &snapshot.decision;
            let grace = self.options.grace.unwrap_or(GRACE);
            let reasons = reasons.iter().map(Reason::to_string).collect();
            let deletion = Deletion::new(self.now, grace, false, reasons);
            match self.repository.mark(&snapshot.source, id, &deletion).await {
                Ok(is_new) => {
                    if is_new {
                        self.report.marked.push(snapshot.name());
                    }
                    marked.push(snapshot);
                }
                // Another prune is marking it at this moment.
                Err(RepositoryError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => self.failed(&snapshot.name(), &error),
            }
        }
        marked
    }

    /// Deletes what was marked long enough ago, the newest first: nothing is left that needs what is gone.
    async fn sweep(&mut self, plan: &PrunePlan, marked: &[&PlannedSnapshot]) {
        let mut due: Vec<&PlannedSnapshot> = plan.with_fate(Fate::Marked).collect();
        // What has just been marked is only due where there is no time of grace.
        due.extend(marked.iter().filter(|_| self.options.grace == Some(Duration::ZERO)));
        due.sort_by(|a, b| b.decision.id.cmp(&a.decision.id));
        // After the marks: whoever has said since then that he reads one of these has seen its mark, and does not.
        let running = match self.repository.running(self.now).await {
            Ok(running) => running,
            Err(error) => return self.failed("what other runs read", &error),
        };
        for snapshot in due {
            if running.iter().any(|run| run.holds(&snapshot.name()).is_some()) {
                continue;
            }
            self.sweep_one(&snapshot.source, &snapshot.decision.id).await;
        }
        for (source, id) in &plan.half_deleted {
            let name = format!("{source}/{id}");
            if !running.iter().any(|run| run.holds(&name).is_some()) {
                self.sweep_one(source, id).await;
            }
        }
    }

    async fn sweep_one(&mut self, source: &str, id: &SnapshotId) {
        self.monitor.step("sweep");
        let name = format!("{source}/{id}");
        let grace = self.options.grace_of_marked(self.repository);
        match self.repository.sweep(source, id, self.now, grace).await {
            Ok(Swept::Deleted { bytes }) => {
                self.report.deleted.push(name);
                self.report.freed_bytes += bytes;
            }
            Ok(Swept::Stays) => {}
            Err(error) => self.failed(&name, &error),
        }
    }

    async fn sweep_leftovers(&mut self, plan: &PrunePlan) {
        for IncompleteFiles { source, id, .. } in &plan.incomplete {
            self.monitor.step("sweep-leftovers");
            let untouched = self.options.leftovers_after();
            match self.repository.sweep_incomplete(source, id, self.now, untouched).await {
                Ok(freed) => self.report.freed_bytes += freed.unwrap_or_default(),
                Err(error) => self.failed(&format!("what is left of {source}/{id}"), &error),
            }
        }
        if let Err(error) = self.repository.forget_dead_runs(self.now).await {
            self.failed("what dead runs have said", &error);
        }
    }

    fn failed(&mut self, what: &str, error: &RepositoryError) {
        self.report.failed.push(format!("{what}: {}", chain(error)));
    }
}

impl PruneOptions {
    /// Returns the time of grace for what is marked already. It is shorter than what was said then only where the claim
    /// keeps out whoever wants something back, and has been told that he may.
    fn grace_of_marked(&self, repository: &Repository) -> Option<Duration> {
        self.grace.filter(|_| repository.is_claimed_alone())
    }

    fn leftovers_after(&self) -> Duration {
        self.grace.unwrap_or(GRACE).max(LEFTOVERS_AFTER)
    }
}
