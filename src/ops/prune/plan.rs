//! What a prune will do: the policy, applied to what a repository holds and to what is at work on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::PruneOptions;
use super::open_runs::OpenRuns;
use crate::model::error::{Error, Result};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::retention::alarm::{Alarm, Seen, alarms};
use crate::model::retention::{Candidate, Decision, FUTURE_SLACK, Fate, Kind, Marked, Reason, plan};
use crate::repository::{Listing, Repository, Running, Snapshot, Unreadable};

/// What becomes of each snapshot.
#[derive(Debug, Clone)]
pub struct PrunePlan {
    /// The moment that counts as now.
    pub now: DateTime<Utc>,
    /// The sources, by name.
    pub sources: Vec<SourcePlan>,
    /// What dead runs have left, and is old enough to go.
    pub incomplete: Vec<IncompleteFiles>,
    /// The snapshots that an earlier prune has begun to delete, by source and id.
    pub half_deleted: Vec<(String, SnapshotId)>,
    /// What could not be looked at, in words.
    pub unread: Vec<String>,
}

/// What becomes of the snapshots of one source.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// The source.
    pub source: String,
    /// Why nothing of it is removed; `None` if something may be.
    pub stopped: Option<Stopped>,
    /// Its snapshots, the oldest first.
    pub snapshots: Vec<PlannedSnapshot>,
}

/// Why nothing of a source is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The data looks as if something had gone wrong.
    Alarms(Vec<Alarm>),
    /// What cannot be read may say that something must stay.
    Obstructed(Vec<String>),
}

/// What becomes of one snapshot.
#[derive(Debug, Clone)]
pub struct PlannedSnapshot {
    /// Its source.
    pub source: String,
    /// What becomes of it, and why.
    pub decision: Decision,
    /// Its archive's bytes; 0 if that is not known.
    pub stored_bytes: u64,
    /// When what is marked may be deleted.
    pub due: Option<DateTime<Utc>>,
}

impl PlannedSnapshot {
    /// Returns its unambiguous name: `SOURCE/ID`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.source, self.decision.id)
    }
}

/// Files that are no snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncompleteFiles {
    /// The source.
    pub source: String,
    /// The id that the snapshot was meant to have.
    pub id: SnapshotId,
    /// Their bytes.
    pub bytes: u64,
}

impl PrunePlan {
    /// Plans by what the repository holds now.
    pub(super) async fn of(
        repository: &Repository,
        options: &PruneOptions,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        // In this order: see the procedure.
        let mut listing = repository.snapshots(None).await?;
        let running = repository.running(now).await?;
        if let Some((source, project)) = &options.source {
            listing = listing.only(source, project.as_deref());
            if listing.is_empty() {
                return Err(nothing_of(repository, source));
            }
        }
        let open = options.state.as_deref().map(OpenRuns::look).transpose()?.unwrap_or_default();
        let grace = options.grace_of_marked(repository);
        Ok(Self::from(&listing, &Planner { options, grace, now, running: &running, open: &open }))
    }

    /// Plans by what was listed.
    pub(super) fn from(listing: &Listing, planner: &Planner<'_>) -> Self {
        let sources = planner.sources(listing);
        let incomplete = planner.incomplete(listing, &sources);
        let half_deleted = listing.half_deleted();
        let half_deleted = half_deleted.into_iter().map(|(source, id, _)| (source.to_owned(), id.clone()));
        let unread = listing.unreadable.iter().map(|one| format!("{}: {}", one.path.display(), one.why));
        let half_deleted = half_deleted.collect();
        Self { now: planner.now, sources, incomplete, half_deleted, unread: unread.collect() }
    }

    /// Returns the snapshots of which this becomes, the oldest of each source first.
    pub fn with_fate(&self, fate: Fate) -> impl DoubleEndedIterator<Item = &PlannedSnapshot> {
        self.snapshots().filter(move |one| one.decision.fate == fate)
    }

    fn snapshots(&self) -> impl DoubleEndedIterator<Item = &PlannedSnapshot> {
        self.sources.iter().flat_map(|source| &source.snapshots)
    }

    /// Returns those that are deleted now: marked before, and due.
    pub fn due(&self, grace: Option<Duration>) -> impl Iterator<Item = &PlannedSnapshot> {
        let now = self.now;
        let at_once = grace == Some(Duration::ZERO);
        self.snapshots().filter(move |one| match one.decision.fate {
            Fate::Marked => one.due.is_some_and(|due| now >= due),
            Fate::Remove => at_once,
            _ => false,
        })
    }

    /// Returns whether everything could be looked at, and nothing was left alone that should not have to be.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.unread.is_empty() && self.sources.iter().all(|source| source.stopped.is_none())
    }
}

/// Returns the error for a name that means nothing here.
pub(in crate::ops) fn nothing_of(repository: &Repository, source: &str) -> Error {
    Error::usage(format!("there are no snapshots of {source} in {}", repository.location().display()))
        .hint(Hint::volsnap(["list"]).why("says what there is"))
}

/// What a plan is made from.
pub(super) struct Planner<'a> {
    pub(super) options: &'a PruneOptions,
    /// The time of grace that counts for what is marked already, if it is shorter than what was said then.
    pub(super) grace: Option<Duration>,
    pub(super) now: DateTime<Utc>,
    pub(super) running: &'a [Running],
    pub(super) open: &'a OpenRuns,
}

impl Planner<'_> {
    fn sources(&self, listing: &Listing) -> Vec<SourcePlan> {
        let mut by_source: BTreeMap<&str, (Vec<&Snapshot>, Vec<&Unreadable>)> = BTreeMap::new();
        for snapshot in &listing.snapshots {
            by_source.entry(&snapshot.manifest.source).or_default().0.push(snapshot);
        }
        for unreadable in &listing.unreadable {
            let source =
                unreadable.snapshot.as_ref().map(|(source, _)| source).or(unreadable.obstructs.as_ref());
            if let Some(source) = source {
                by_source.entry(source).or_default().1.push(unreadable);
            }
        }
        by_source
            .into_iter()
            .map(|(source, (snapshots, unreadable))| self.source(listing, source, &snapshots, &unreadable))
            .collect()
    }

    fn source(
        &self,
        listing: &Listing,
        source: &str,
        snapshots: &[&Snapshot],
        unreadable: &[&Unreadable],
    ) -> SourcePlan {
        let readable = snapshots.iter().map(|snapshot| self.candidate(snapshot));
        let lost = unreadable.iter().filter_map(|one| lost(one));
        let candidates: Vec<_> = readable.chain(lost).collect();
        let stopped = self.stopped(listing, source, snapshots, unreadable);
        let mut decisions = plan(&self.options.policy, &candidates, self.now, &self.options.zone);
        if stopped.is_some() {
            decisions.iter_mut().for_each(stop);
        }
        let by_id: BTreeMap<_, _> = snapshots.iter().map(|one| (&one.manifest.id, *one)).collect();
        let planned = |decision: Decision| {
            let snapshot = by_id.get(&decision.id);
            let due = snapshot.and_then(|one| one.deletion.as_ref());
            PlannedSnapshot {
                source: source.to_owned(),
                stored_bytes: snapshot.map_or(0, |one| one.manifest.archive().stored_bytes),
                due: due.map(|deletion| deletion.due(self.grace)),
                decision,
            }
        };
        SourcePlan {
            source: source.to_owned(),
            stopped,
            snapshots: decisions.into_iter().map(planned).collect(),
        }
    }

    fn candidate(&self, snapshot: &Snapshot) -> Candidate {
        let (manifest, name) = (&snapshot.manifest, snapshot.name());
        let damaged = snapshot.verified.last().is_some_and(|last| !last.ok);
        let shown = snapshot.verified.iter().filter_map(crate::model::manifest::Verification::shows).max();
        let held = self.running.iter().find_map(|run| run.holds(&name));
        Candidate {
            id: manifest.id.clone(),
            kind: if manifest.is_safety() { Kind::Safety } else { Kind::Ordinary },
            shown: shown.filter(|_| !damaged),
            damaged,
            pinned: snapshot.pin.is_some(),
            marked: match &snapshot.deletion {
                None => Marked::No,
                Some(deletion) if deletion.by_hand => Marked::ByHand,
                Some(_) => Marked::ByPolicy,
            },
            held_by: held.or_else(|| self.open.holds(&name, manifest.is_safety())),
            needs: manifest.needs.clone(),
        }
    }

    fn stopped(
        &self,
        listing: &Listing,
        source: &str,
        snapshots: &[&Snapshot],
        unreadable: &[&Unreadable],
    ) -> Option<Stopped> {
        let obstructing = unreadable.iter().filter(|one| one.obstructs.is_some());
        let obstructing: Vec<_> =
            obstructing.map(|one| format!("{}: {}", one.path.display(), one.why)).collect();
        if !obstructing.is_empty() {
            return Some(Stopped::Obstructed(obstructing));
        }
        let alarms = alarms_of(listing, source, snapshots.iter().copied(), self.now);
        (!alarms.is_empty()).then_some(Stopped::Alarms(alarms))
    }

    /// Returns what dead runs have left. A run that is at work has said so, or has a journal.
    fn incomplete(&self, listing: &Listing, sources: &[SourcePlan]) -> Vec<IncompleteFiles> {
        let mut found: BTreeMap<(&str, &SnapshotId), (u64, bool)> = BTreeMap::new();
        for file in &listing.incomplete {
            let age = self.now.signed_duration_since(DateTime::<Utc>::from(file.modified));
            let is_old = age.to_std().is_ok_and(|age| age >= self.options.leftovers_after());
            let entry = found.entry((&file.source, &file.id)).or_insert((0, true));
            *entry = (entry.0 + file.bytes, entry.1 && is_old);
        }
        let half: BTreeSet<_> =
            listing.half_deleted().into_iter().map(|(source, id, _)| (source, id)).collect();
        let may_go = |source: &str, id: &SnapshotId| {
            let name = format!("{source}/{id}");
            let is_stopped = sources.iter().any(|one| one.source == source && one.stopped.is_some());
            !is_stopped
                && !half.contains(&(source, id))
                && self.running.iter().all(|run| run.holds(&name).is_none())
                && !self.open.writes(&name)
        };
        let left = found.into_iter().filter(|((source, id), (_, is_old))| *is_old && may_go(source, id));
        left.map(|((source, id), (bytes, _))| IncompleteFiles {
            source: source.to_owned(),
            id: id.clone(),
            bytes,
        })
        .collect()
    }
}

/// Leaves a snapshot of a stopped source as it is.
fn stop(decision: &mut Decision) {
    let fate = match decision.fate {
        Fate::Remove => Fate::Keep,
        Fate::Marked => Fate::Waits,
        Fate::Keep | Fate::Waits | Fate::Rescue => return,
    };
    *decision = Decision { fate, reasons: vec![Reason::Stopped], id: decision.id.clone() };
}

/// Returns a snapshot that cannot be read as a policy sees it.
fn lost(unreadable: &Unreadable) -> Option<Candidate> {
    let (_, id) = unreadable.snapshot.as_ref()?;
    Some(Candidate {
        id: id.clone(),
        kind: Kind::Unreadable,
        shown: None,
        damaged: false,
        pinned: false,
        marked: Marked::No,
        held_by: None,
        needs: unreadable.needs.clone(),
    })
}

/// Returns what looks wrong in the snapshots of a source and was not acknowledged.
pub(in crate::ops) fn alarms_of<'s>(
    listing: &Listing,
    source: &str,
    snapshots: impl Iterator<Item = &'s Snapshot>,
    now: DateTime<Utc>,
) -> Vec<Alarm> {
    let seen = snapshots.filter_map(|snapshot| {
        let manifest = &snapshot.manifest;
        let is_of_the_future = manifest.id.begun().is_none_or(|at| at > now + FUTURE_SLACK);
        let counts = manifest.counts();
        (!manifest.is_safety() && !is_of_the_future).then(|| Seen {
            id: manifest.id.clone(),
            raw_bytes: counts.raw_bytes,
            files: counts.files,
            identifier: manifest.evidence.database.as_ref().and_then(|database| database.identifier.clone()),
            // Whoever has it removed has seen it.
            failed: snapshot
                .verified
                .last()
                .filter(|last| !last.ok && !snapshot.deletion.as_ref().is_some_and(|mark| mark.by_hand))
                .map(|last| last.at),
        })
    });
    alarms(&seen.collect::<Vec<_>>(), listing.marks.acknowledged.get(source))
}
