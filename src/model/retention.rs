//! Which snapshots are kept, and why. Pure rules: no store, no clock.
//!
//! A [`Policy`] has the rules that people know from other tools; [`plan`] applies it to the snapshots of one source and
//! says of each what becomes of it, with all the reasons. The rules can only keep. What no rule keeps is removed, unless
//! something protects it:
//!
//! - the newest verified snapshots, as many as `--min-redundancy` says, and the newest one whose database was booted;
//! - what is pinned, what a run reads, and what a kept snapshot needs;
//! - what a restore has replaced, as long as that restore is open, and [a week](SAFETY_WINDOW) longer;
//! - what is damaged, cannot be read, or is [from the future](FUTURE_SLACK): none of these takes the place of a good one
//!   either.
//!
//! Times are those in the ids: when each run began. The periods are those of the zone that the caller names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, FixedOffset, TimeDelta, Timelike as _, Utc};

use crate::model::ids::SnapshotId;
use crate::model::manifest::Proof;
use crate::model::plural::counted;

pub mod alarm;
#[cfg(test)]
mod tests;

/// How far ahead of the clock a snapshot may be: more, and it is from the future.
pub const FUTURE_SLACK: TimeDelta = TimeDelta::minutes(5);
/// How long the data that a restore has replaced is kept at least: the restore's undo command needs it.
pub const SAFETY_WINDOW: TimeDelta = TimeDelta::days(7);

/// How many a rule keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// That many.
    Number(u64),
    /// All of them.
    Unlimited,
}

impl Count {
    fn is_reached_by(self, number: u64) -> bool {
        matches!(self, Self::Number(count) if number >= count)
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" => Ok(Self::Unlimited),
            _ => text.parse().map(Self::Number).map_err(|_| "it is a number, or \"unlimited\"".to_owned()),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(count) => count.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// A rule that keeps the newest snapshot of each of the newest periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Each snapshot is a period of its own.
    Last,
    /// Hours.
    Hourly,
    /// Days.
    Daily,
    /// ISO weeks, from Monday on.
    Weekly,
    /// Months.
    Monthly,
    /// Years.
    Yearly,
}

impl Rule {
    /// Every rule, the shortest periods first.
    pub const ALL: [Self; 6] =
        [Self::Last, Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// Returns what tells the period of a moment from others. No two moments of one hour differ by their offset, and the
    /// hour that comes twice in autumn is two hours.
    fn period(self, at: DateTime<FixedOffset>) -> String {
        match self {
            Self::Last => String::new(),
            Self::Hourly => format!("{}, {:02}:00 to {:02}:59", day(at), at.hour(), at.hour()),
            Self::Daily => day(at),
            Self::Weekly => {
                let week = at.iso_week();
                format!("week {} of {}", week.week(), week.year())
            }
            Self::Monthly => at.format("%B %Y").to_string(),
            Self::Yearly => at.year().to_string(),
        }
    }

    fn key(self, at: DateTime<FixedOffset>) -> (i32, u32, u32, i32) {
        match self {
            // Seconds may have several snapshots: the caller takes each for itself.
            Self::Last => (0, 0, 0, 0),
            Self::Hourly => (at.year(), at.ordinal(), at.hour(), at.offset().local_minus_utc()),
            Self::Daily => (at.year(), at.ordinal(), 0, 0),
            Self::Weekly => (at.iso_week().year(), at.iso_week().week(), 0, 0),
            Self::Monthly => (at.year(), at.month(), 0, 0),
            Self::Yearly => (at.year(), 0, 0, 0),
        }
    }
}

fn day(at: DateTime<FixedOffset>) -> String {
    at.format("%-d %B %Y").to_string()
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        })
    }
}

/// What to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How many each rule keeps; rules that nobody gave are missing.
    pub rules: BTreeMap<Rule, Count>,
    /// Everything that is younger stays.
    pub within: Option<Duration>,
    /// How many snapshots stay at least, verified ones if there are so many.
    pub min_redundancy: usize,
}

impl Policy {
    /// Returns whether no rule would keep anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.within.is_none_or(|within| within.is_zero())
            && self.rules.values().all(|count| *count == Count::Number(0))
    }
}

/// What a snapshot is, for a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One that somebody took.
    Ordinary,
    /// What a restore has replaced.
    Safety,
    /// One that exists and cannot be read.
    Unreadable,
}

/// Whether a snapshot is marked for deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// It is not.
    No,
    /// No rule kept it.
    ByPolicy,
    /// Somebody wants it gone.
    ByHand,
}

/// A snapshot as a policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// What it is.
    pub kind: Kind,
    /// The most that any look at it has shown, unless the latest look has found damage.
    pub shown: Option<Proof>,
    /// Whether the latest look at it has found damage.
    pub damaged: bool,
    /// Whether somebody has pinned it.
    pub pinned: bool,
    /// Whether it is marked for deletion.
    pub marked: Marked,
    /// Who is at work on it, in words.
    pub held_by: Option<String>,
    /// The snapshots without which it cannot be restored.
    pub needs: Vec<SnapshotId>,
}

impl Candidate {
    /// Returns whether it can stand for its moment: nobody wants to keep a damaged one in the place of a good one.
    fn is_good(&self) -> bool {
        self.kind != Kind::Unreadable && !self.damaged
    }

    fn is_marked(&self) -> bool {
        self.marked != Marked::No
    }
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep,
    /// It is to be marked for deletion.
    Remove,
    /// It is marked for deletion, and goes once its time has come.
    Marked,
    /// It is marked for deletion, and cannot go yet.
    Waits,
    /// It is marked for deletion, and must not be: something has come to protect it.
    Rescue,
}

/// Why a snapshot stays, or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule keeps it.
    Rule {
        /// Which one.
        rule: Rule,
        /// How many the rule has kept with this one.
        number: u64,
        /// How many it keeps.
        of: Count,
        /// Which period this is the newest of.
        period: String,
    },
    /// The oldest one stays as long as a rule is not filled.
    Oldest {
        /// That rule.
        rule: Rule,
    },
    /// It is young enough.
    Within {
        /// Than which.
        within: Duration,
    },
    /// It is one of the newest verified ones.
    Verified {
        /// How many of them stay.
        of: usize,
    },
    /// It is one of the newest, and there are not enough verified ones.
    Redundancy {
        /// How many stay.
        of: usize,
    },
    /// It is the newest one on which its database was booted.
    Booted,
    /// It is pinned.
    Pinned,
    /// Somebody is at work on it.
    Held {
        /// Who.
        by: String,
    },
    /// Another one cannot be restored without it.
    NeededBy {
        /// Which one.
        id: SnapshotId,
    },
    /// A restore has replaced this data lately.
    Safety,
    /// A look at it has found damage.
    Damaged,
    /// It cannot be read.
    Unreadable,
    /// It is from the future.
    Future,
    /// There is nothing better.
    Only,
    /// No rule keeps it.
    NoRule,
    /// A restore has replaced this data, long ago.
    SafetyOver,
    /// It was marked before.
    MarkedBefore,
    /// Nothing of its source is removed.
    Stopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { rule: Rule::Last, number, of, .. } => write!(f, "last {number} of {of}"),
            Self::Rule { rule, number, of, period } => {
                write!(f, "the newest of {period} ({rule} {number} of {of})")
            }
            Self::Oldest { rule } => write!(f, "the oldest, and {rule} has room for more"),
            Self::Within { within } => write!(f, "younger than {}", span(*within)),
            Self::Verified { of: 1 } => f.write_str("the last verified one"),
            Self::Verified { of } => write!(f, "one of the last {of} verified ones"),
            Self::Redundancy { of: 1 } => f.write_str("the newest, and none is verified"),
            Self::Redundancy { of } => write!(f, "one of the newest {of}, and fewer are verified"),
            Self::Booted => f.write_str("the last one on which the database was booted"),
            Self::Pinned => f.write_str("pinned"),
            Self::Held { by } => f.write_str(by),
            Self::NeededBy { id } => write!(f, "needed by {id}"),
            Self::Safety => f.write_str("what a restore has replaced, less than 7 days ago"),
            Self::Damaged => f.write_str("damaged: no rule counts it, and only `volsnap remove` removes it"),
            Self::Unreadable => f.write_str("not readable"),
            Self::Future => f.write_str("from the future: a clock is or was wrong"),
            Self::Only => f.write_str("there is nothing better"),
            Self::NoRule => f.write_str("no rule keeps it"),
            Self::SafetyOver => f.write_str("what a restore has replaced, more than 7 days ago"),
            Self::MarkedBefore => f.write_str("marked for deletion before"),
            Self::Stopped => f.write_str("nothing of its source is removed"),
        }
    }
}

/// Returns a span of time in whole units: "14 days".
#[must_use]
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, length) in [("day", 86_400), ("hour", 3600), ("minute", 60)] {
        if seconds >= length && seconds.is_multiple_of(length) {
            return counted(seconds / length, unit);
        }
    }
    counted(seconds, "second")
}

/// What becomes of one snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, all of it: at least one reason.
    pub reasons: Vec<Reason>,
}

/// Decides what becomes of each snapshot of one source; returns the decisions by id, the oldest first. `zone` returns a
/// moment as the clocks on the wall show it.
#[must_use]
pub fn plan(
    policy: &Policy,
    candidates: &[Candidate],
    now: DateTime<Utc>,
    zone: &dyn Fn(DateTime<Utc>) -> DateTime<FixedOffset>,
) -> Vec<Decision> {
    let mut planning = Planning::new(candidates, now);
    planning.apply_rules(policy, zone);
    planning.protect_what_is_special();
    planning.protect_the_verified(policy.min_redundancy);
    planning.protect_the_only_one();
    planning.protect_what_is_needed();
    planning.decide()
}

/// What is known so far.
struct Planning<'a> {
    /// The newest first.
    candidates: Vec<&'a Candidate>,
    now: DateTime<Utc>,
    reasons: BTreeMap<&'a SnapshotId, Vec<Reason>>,
}

impl<'a> Planning<'a> {
    fn new(candidates: &'a [Candidate], now: DateTime<Utc>) -> Self {
        let mut candidates: Vec<_> = candidates.iter().collect();
        candidates.sort_by(|a, b| b.id.cmp(&a.id));
        Self { candidates, now, reasons: BTreeMap::new() }
    }

    fn keep(&mut self, candidate: &'a Candidate, reason: Reason) {
        self.reasons.entry(&candidate.id).or_default().push(reason);
    }

    fn is_of_the_future(&self, candidate: &Candidate) -> bool {
        // Every id has a moment.
        candidate.id.begun().is_none_or(|at| at > self.now + FUTURE_SLACK)
    }

    /// Returns those that rules count, the newest first. What another policy has marked is among them: these rules may
    /// keep it.
    fn counted(&self) -> Vec<(&'a Candidate, DateTime<Utc>)> {
        let counts = |one: &&&Candidate| {
            one.kind == Kind::Ordinary
                && one.is_good()
                && one.marked != Marked::ByHand
                && !self.is_of_the_future(one)
        };
        let counted = self.candidates.iter().filter(counts);
        counted.filter_map(|one| Some((*one, one.id.begun()?))).collect()
    }

    fn apply_rules(&mut self, policy: &Policy, zone: &dyn Fn(DateTime<Utc>) -> DateTime<FixedOffset>) {
        let counted: Vec<_> = self.counted().into_iter().map(|(one, at)| (one, at, zone(at))).collect();
        for (&rule, &of) in &policy.rules {
            let (mut number, mut before) = (0, None);
            for (candidate, _, at) in &counted {
                let key = rule.key(*at);
                if of.is_reached_by(number) {
                    break;
                }
                if rule == Rule::Last || before != Some(key) {
                    before = Some(key);
                    number += 1;
                    self.keep(candidate, Reason::Rule { rule, number, of, period: rule.period(*at) });
                }
            }
            if let Some((oldest, ..)) = counted.last()
                && rule != Rule::Last
                && !of.is_reached_by(number)
                && of != Count::Unlimited
            {
                self.keep(oldest, Reason::Oldest { rule });
            }
        }
        let Some(within) = policy.within else { return };
        // Longer than any calendar is for ever.
        let limit = TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX);
        for candidate in self.candidates.clone() {
            let is_young = candidate.id.begun().is_some_and(|at| self.now.signed_duration_since(at) <= limit);
            let is_removed = candidate.marked == Marked::ByHand;
            if is_young && !is_removed && candidate.is_good() && !self.is_of_the_future(candidate) {
                self.keep(candidate, Reason::Within { within });
            }
        }
    }

    /// Keeps what a rule must not even look at.
    fn protect_what_is_special(&mut self) {
        for candidate in self.candidates.clone() {
            let age = candidate.id.begun().map(|at| self.now.signed_duration_since(at));
            if candidate.pinned {
                self.keep(candidate, Reason::Pinned);
            }
            if let Some(by) = &candidate.held_by {
                self.keep(candidate, Reason::Held { by: by.clone() });
            }
            // Whoever marked these has decided with his eyes open.
            if candidate.is_marked() {
                continue;
            }
            if candidate.kind == Kind::Unreadable {
                self.keep(candidate, Reason::Unreadable);
            } else if candidate.damaged {
                self.keep(candidate, Reason::Damaged);
            }
            if self.is_of_the_future(candidate) {
                self.keep(candidate, Reason::Future);
            } else if candidate.kind == Kind::Safety && age.is_none_or(|age| age < SAFETY_WINDOW) {
                self.keep(candidate, Reason::Safety);
            }
        }
    }

    /// Returns those that can stand for others: those that nobody has marked before those that a policy has marked, and
    /// of each the newest first. Nobody gets back what somebody wants gone.
    fn good(&self) -> Vec<&'a Candidate> {
        let good = |one: &&&Candidate| {
            one.kind == Kind::Ordinary
                && one.is_good()
                && one.marked != Marked::ByHand
                && !self.is_of_the_future(one)
        };
        let (marked, unmarked): (Vec<_>, Vec<_>) =
            self.candidates.iter().filter(good).copied().partition(|one| one.is_marked());
        unmarked.into_iter().chain(marked).collect()
    }

    fn protect_the_verified(&mut self, min_redundancy: usize) {
        // Without a single one, there would be no backup.
        let of = min_redundancy.max(1);
        let good = self.good();
        let (verified, others): (Vec<_>, Vec<_>) =
            good.iter().copied().partition(|one: &&Candidate| one.shown >= Some(Proof::Verified));
        for candidate in verified.iter().take(of) {
            self.keep(candidate, Reason::Verified { of });
        }
        for candidate in others.iter().take(of.saturating_sub(verified.len())) {
            self.keep(candidate, Reason::Redundancy { of });
        }
        if let Some(booted) = good.iter().find(|one| one.shown >= Some(Proof::Booted)) {
            self.keep(booted, Reason::Booted);
        }
    }

    /// Keeps the newest of what a restore has replaced, if there is nothing else.
    fn protect_the_only_one(&mut self) {
        if self.good().is_empty()
            && let Some(only) =
                self.candidates.iter().find(|one| one.is_good() && one.marked != Marked::ByHand).copied()
        {
            self.keep(only, Reason::Only);
        }
    }

    /// Keeps whatever a kept one needs, and what that needs.
    fn protect_what_is_needed(&mut self) {
        let by_id: BTreeMap<_, _> = self.candidates.iter().map(|one| (&one.id, *one)).collect();
        let mut kept: Vec<&Candidate> = self.reasons.keys().filter_map(|id| by_id.get(id).copied()).collect();
        let mut seen: BTreeSet<&SnapshotId> = kept.iter().map(|one| &one.id).collect();
        while let Some(candidate) = kept.pop() {
            for needed in &candidate.needs {
                let Some(needed) = by_id.get(needed).copied() else { continue };
                self.keep(needed, Reason::NeededBy { id: candidate.id.clone() });
                if seen.insert(&needed.id) {
                    kept.push(needed);
                }
            }
        }
    }

    fn decide(mut self) -> Vec<Decision> {
        let decide = |candidate: &&'a Candidate| {
            let reasons = self.reasons.remove(&candidate.id).unwrap_or_default();
            let only_held = reasons.iter().all(|reason| matches!(reason, Reason::Held { .. }));
            let (fate, reasons) = match (candidate.marked, reasons.is_empty()) {
                (Marked::No, false) => (Fate::Keep, reasons),
                (Marked::No, true) if candidate.kind == Kind::Safety => {
                    (Fate::Remove, vec![Reason::SafetyOver])
                }
                (Marked::No, true) => (Fate::Remove, vec![Reason::NoRule]),
                (_, true) => (Fate::Marked, vec![Reason::MarkedBefore]),
                (Marked::ByPolicy, false) if !only_held => (Fate::Rescue, reasons),
                (_, false) => (Fate::Waits, reasons),
            };
            Decision { id: candidate.id.clone(), fate, reasons }
        };
        self.candidates.iter().rev().map(decide).collect()
    }
}
