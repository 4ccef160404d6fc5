//! The policy, with a clock of its own.

use std::time::Instant;

use chrono::{NaiveDate, TimeZone as _};
use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400;
const NOW: i64 = 1_795_206_611;

fn moment(seconds: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(seconds, 0).unwrap()
}

fn now() -> DateTime<Utc> {
    moment(NOW)
}

fn utc(at: DateTime<Utc>) -> DateTime<FixedOffset> {
    at.fixed_offset()
}

/// The clocks of Berlin: an hour ahead, two from the last Sunday of March to that of October, at 1:00 UTC.
fn berlin(at: DateTime<Utc>) -> DateTime<FixedOffset> {
    let change = |month| {
        let last = NaiveDate::from_ymd_opt(at.year(), month, 31).unwrap();
        let sunday = last - TimeDelta::days(i64::from(last.weekday().num_days_from_sunday()));
        sunday.and_hms_opt(1, 0, 0).unwrap().and_utc()
    };
    let is_summer = (change(3)..change(10)).contains(&at);
    at.with_timezone(&FixedOffset::east_opt(if is_summer { 7200 } else { 3600 }).unwrap())
}

fn taken(at: &str, random: u8) -> Candidate {
    of(SnapshotId::new(at.parse().unwrap(), [0, 0, random]))
}

fn of(id: SnapshotId) -> Candidate {
    Candidate {
        id,
        kind: Kind::Ordinary,
        shown: None,
        damaged: false,
        pinned: false,
        marked: Marked::No,
        held_by: None,
        needs: Vec::new(),
    }
}

/// One that began so many seconds ago.
fn ago(seconds: i64) -> Candidate {
    of(SnapshotId::new(moment(NOW - seconds), [0, 0, 1]))
}

fn rules(rules: &[(Rule, u64)]) -> Policy {
    let rules = rules.iter().map(|&(rule, count)| (rule, Count::Number(count))).collect();
    Policy { rules, within: None, min_redundancy: 1 }
}

fn decide(policy: &Policy, candidates: &[Candidate]) -> Vec<Decision> {
    plan(policy, candidates, now(), &utc)
}

fn kept(decisions: &[Decision]) -> Vec<&str> {
    let kept = decisions.iter().filter(|decision| decision.fate == Fate::Keep);
    kept.map(|decision| decision.id.as_str()).collect()
}

fn fate_of(decisions: &[Decision], candidate: &Candidate) -> Fate {
    decisions.iter().find(|decision| decision.id == candidate.id).unwrap().fate
}

fn reasons_of(decisions: &[Decision], candidate: &Candidate) -> Vec<String> {
    let decision = decisions.iter().find(|decision| decision.id == candidate.id).unwrap();
    decision.reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn each_rule_keeps_the_newest_of_each_period_and_says_so() {
    let candidates: Vec<_> = [
        "2026-11-01T02:00:00Z",
        "2026-11-18T02:00:00Z",
        "2026-11-19T02:00:00Z",
        "2026-11-20T02:00:00Z",
        "2026-11-20T03:00:00Z",
    ]
    .map(|at| taken(at, 0))
    .to_vec();
    let decisions = decide(&rules(&[(Rule::Daily, 2), (Rule::Monthly, 1)]), &candidates);
    assert_eq!(kept(&decisions), ["20261119T020000Z-000000", "20261120T030000Z-000000"]);
    assert_eq!(
        reasons_of(&decisions, &candidates[4]),
        [
            "the newest of 20 November 2026 (daily 1 of 2)",
            "the newest of November 2026 (monthly 1 of 1)",
            "the newest, and none is verified",
        ]
    );
    assert_eq!(reasons_of(&decisions, &candidates[0]), ["no rule keeps it"]);
    let decisions = decide(&rules(&[(Rule::Yearly, 3)]), &candidates);
    assert_eq!(reasons_of(&decisions, &candidates[0]), ["the oldest, and yearly has room for more"]);
    assert_eq!(fate_of(&decisions, &candidates[1]), Fate::Remove);
}

#[test]
fn the_hour_that_comes_twice_is_two_hours_and_the_one_that_never_comes_is_none() {
    // The clocks in Berlin go back from 3:00 to 2:00.
    let autumn =
        ["2026-10-25T00:10:00Z", "2026-10-25T01:10:00Z", "2026-10-25T01:20:00Z"].map(|at| taken(at, 0));
    let hours = rules(&[(Rule::Hourly, 2)]);
    let decisions = plan(&hours, &autumn, now(), &berlin);
    assert_eq!(kept(&decisions), ["20261025T001000Z-000000", "20261025T012000Z-000000"]);
    // They go forward from 2:00 to 3:00.
    let spring = ["2026-03-29T00:50:00Z", "2026-03-29T01:10:00Z"].map(|at| taken(at, 0));
    assert_eq!(kept(&plan(&hours, &spring, now(), &berlin)).len(), 2);
    // A day has 25 hours there, and is one day.
    let day = ["2026-10-24T22:10:00Z", "2026-10-25T22:50:00Z"].map(|at| taken(at, 0));
    let days = rules(&[(Rule::Daily, 1)]);
    assert_eq!(kept(&plan(&days, &day, now(), &berlin)), ["20261025T225000Z-000000"]);
    assert_eq!(kept(&plan(&rules(&[(Rule::Daily, 2)]), &day, now(), &utc)).len(), 2);
}

#[test]
fn leap_days_iso_weeks_and_missing_years_are_what_the_calendar_says() {
    // Monday, 29 December 2025, and 1 January 2026 are in week 1 of 2026.
    let week =
        ["2025-12-28T12:00:00Z", "2025-12-29T12:00:00Z", "2026-01-01T12:00:00Z"].map(|at| taken(at, 0));
    let decisions = decide(&rules(&[(Rule::Weekly, 2)]), &week);
    assert_eq!(kept(&decisions), ["20251228T120000Z-000000", "20260101T120000Z-000000"]);
    let leap =
        ["2024-02-28T12:00:00Z", "2024-02-29T12:00:00Z", "2024-03-01T12:00:00Z"].map(|at| taken(at, 0));
    assert_eq!(kept(&decide(&rules(&[(Rule::Daily, 3)]), &leap)).len(), 3);
    assert_eq!(kept(&decide(&rules(&[(Rule::Monthly, 2)]), &leap)).len(), 2);
    // Three years, not the last three on the calendar.
    let years =
        ["2019-05-01T12:00:00Z", "2021-05-01T12:00:00Z", "2026-05-01T12:00:00Z"].map(|at| taken(at, 0));
    assert_eq!(kept(&decide(&rules(&[(Rule::Yearly, 3)]), &years)).len(), 3);
}

#[test]
fn snapshots_of_one_second_are_told_apart() {
    let same = [1, 2, 3].map(|random| taken("2026-11-20T02:00:00Z", random));
    assert_eq!(kept(&decide(&rules(&[(Rule::Last, 2)]), &same)).len(), 2);
    let hours = decide(&rules(&[(Rule::Hourly, 1)]), &same);
    assert_eq!(kept(&hours), ["20261120T020000Z-000003"]);
}

#[test]
fn the_last_verified_one_stays_whatever_the_rules_say_and_so_does_the_last_booted_one() {
    let booted = Candidate { shown: Some(Proof::Booted), ..ago(90 * DAY) };
    let verified = Candidate { shown: Some(Proof::Verified), ..ago(60 * DAY) };
    let candidates = [booted.clone(), ago(80 * DAY), verified.clone(), ago(2 * DAY), ago(DAY)];
    let decisions = decide(&rules(&[(Rule::Last, 1)]), &candidates);
    assert_eq!(reasons_of(&decisions, &verified), ["the last verified one"]);
    assert_eq!(reasons_of(&decisions, &booted), ["the last one on which the database was booted"]);
    assert_eq!(kept(&decisions).len(), 3);
    let three = Policy { min_redundancy: 4, ..rules(&[(Rule::Last, 1)]) };
    assert_eq!(
        kept(&decide(&three, &candidates)).len(),
        4,
        "two are verified, and the two newest others stay"
    );
}

#[test]
fn one_that_nobody_looked_into_does_not_stand_for_the_last_verified_one() {
    let verified = Candidate { shown: Some(Proof::Verified), ..ago(60 * DAY) };
    let stored = Candidate { shown: Some(Proof::Stored), ..ago(2 * DAY) };
    let decisions = decide(&rules(&[(Rule::Last, 1)]), &[verified.clone(), stored.clone(), ago(DAY)]);
    assert_eq!(reasons_of(&decisions, &verified), ["the last verified one"]);
    assert_eq!(fate_of(&decisions, &stored), Fate::Remove);
}

#[test]
fn what_is_damaged_unreadable_or_of_the_future_stays_and_takes_no_place() {
    let damaged = Candidate { damaged: true, ..ago(60) };
    let unreadable = Candidate { kind: Kind::Unreadable, ..ago(120) };
    let future = ago(-400);
    let candidates = [ago(3 * DAY), ago(2 * DAY), unreadable.clone(), damaged.clone(), future.clone()];
    let decisions = decide(&rules(&[(Rule::Last, 1)]), &candidates);
    assert_eq!(fate_of(&decisions, &candidates[1]), Fate::Keep, "the newest that is good");
    assert_eq!(fate_of(&decisions, &candidates[0]), Fate::Remove);
    for (candidate, why) in [(&damaged, "damaged"), (&unreadable, "not readable"), (&future, "future")] {
        let reasons = reasons_of(&decisions, candidate);
        assert!(reasons.len() == 1 && reasons[0].contains(why), "{reasons:?}");
    }
    // A few minutes ahead is nothing: two machines never agree.
    let ahead = ago(-240);
    assert_eq!(
        reasons_of(&decide(&rules(&[(Rule::Last, 1)]), std::slice::from_ref(&ahead)), &ahead)[0],
        "last 1 of 1"
    );
}

#[test]
fn what_a_restore_has_replaced_counts_for_no_rule_and_stays_a_week() {
    let safety = |days: i64| Candidate { kind: Kind::Safety, ..ago(days * DAY) };
    let candidates = [ago(20 * DAY), safety(8), safety(6)];
    let decisions = decide(&rules(&[(Rule::Last, 1)]), &candidates);
    assert_eq!(fate_of(&decisions, &candidates[0]), Fate::Keep);
    assert_eq!(fate_of(&decisions, &candidates[1]), Fate::Remove);
    assert_eq!(fate_of(&decisions, &candidates[2]), Fate::Keep);
    let open = Candidate { held_by: Some("restore 1 is not finished".to_owned()), ..safety(8) };
    let decisions = decide(&rules(&[(Rule::Last, 1)]), &[ago(20 * DAY), open.clone()]);
    assert_eq!(reasons_of(&decisions, &open), ["restore 1 is not finished"]);
    // There is nothing else.
    let decisions = decide(&rules(&[(Rule::Last, 1)]), &[safety(9), safety(8)]);
    assert_eq!(kept(&decisions), [safety(8).id.as_str()]);
}

#[test]
fn what_a_kept_one_needs_stays_however_old() {
    let base = ago(90 * DAY);
    let middle = Candidate { needs: vec![base.id.clone()], ..ago(80 * DAY) };
    let newest = Candidate { needs: vec![middle.id.clone()], ..ago(DAY) };
    let other = ago(85 * DAY);
    let candidates = [base.clone(), other.clone(), middle, newest.clone()];
    let decisions = decide(&rules(&[(Rule::Last, 1)]), &candidates);
    assert_eq!(reasons_of(&decisions, &base), [format!("needed by {}", candidates[2].id)]);
    assert_eq!(fate_of(&decisions, &other), Fate::Remove);
    // One that cannot be read needs what it needs all the same.
    let lost = Candidate { kind: Kind::Unreadable, ..newest };
    let decisions = decide(&rules(&[(Rule::Last, 1)]), &[base.clone(), candidates[2].clone(), lost, ago(60)]);
    assert_eq!(fate_of(&decisions, &base), Fate::Keep);
}

#[test]
fn what_is_marked_waits_and_comes_back_only_if_nothing_else_is_left() {
    let marked = |days: i64, marked| Candidate { marked, ..ago(days * DAY) };
    let policy = rules(&[(Rule::Last, 1)]);
    let decisions = decide(&policy, &[marked(3, Marked::ByPolicy), marked(2, Marked::ByHand), ago(DAY)]);
    assert_eq!(
        decisions.iter().map(|one| one.fate).collect::<Vec<_>>(),
        [Fate::Marked, Fate::Marked, Fate::Keep]
    );
    // The good one was found to be damaged.
    let damaged = Candidate { damaged: true, ..ago(DAY) };
    let decisions = decide(&policy, &[marked(3, Marked::ByPolicy), marked(2, Marked::ByHand), damaged]);
    assert_eq!(
        decisions.iter().map(|one| one.fate).collect::<Vec<_>>(),
        [Fate::Rescue, Fate::Marked, Fate::Keep]
    );
    let read = Candidate { held_by: Some("a drill reads it".to_owned()), ..marked(3, Marked::ByPolicy) };
    assert_eq!(decide(&policy, &[read, ago(DAY)])[0].fate, Fate::Waits);
}

#[test]
fn what_another_policy_has_marked_comes_back_if_this_one_keeps_it() {
    let marked = |days: i64, marked| Candidate { marked, ..ago(days * DAY) };
    let fates = |policy: &Policy| -> Vec<Fate> {
        let candidates = [marked(3, Marked::ByPolicy), marked(2, Marked::ByHand), ago(DAY)];
        decide(policy, &candidates).iter().map(|one| one.fate).collect()
    };
    assert_eq!(fates(&rules(&[(Rule::Last, 5)])), [Fate::Rescue, Fate::Marked, Fate::Keep]);
    let within = |days: u64| Policy { within: Some(Duration::from_secs(days * 86_400)), ..rules(&[]) };
    assert_eq!(fates(&within(14)), [Fate::Rescue, Fate::Marked, Fate::Keep]);
    assert_eq!(fates(&within(2)), [Fate::Marked, Fate::Marked, Fate::Keep]);
    // Longer than any calendar is for ever.
    let for_ever = Policy { within: Some(Duration::MAX), ..rules(&[]) };
    assert_eq!(fates(&for_ever), [Fate::Rescue, Fate::Marked, Fate::Keep]);
}

#[test]
fn within_counts_from_now_and_not_from_the_newest() {
    let policy = Policy { within: Some(Duration::from_secs(14 * 86_400)), ..rules(&[]) };
    let candidates = [ago(40 * DAY), ago(30 * DAY), ago(14 * DAY), ago(13 * DAY)];
    let decisions = decide(&policy, &candidates);
    assert_eq!(kept(&decisions).len(), 2);
    assert_eq!(reasons_of(&decisions, &candidates[2]), ["younger than 14 days"]);
    assert_eq!(
        kept(&decide(&policy, &candidates[..2])),
        [candidates[1].id.as_str()],
        "the newest always stays"
    );
}

#[test]
fn a_policy_without_a_rule_is_none() {
    assert!(rules(&[]).is_empty() && rules(&[(Rule::Last, 0)]).is_empty());
    assert!(Policy { within: Some(Duration::ZERO), ..rules(&[]) }.is_empty());
    assert!(!rules(&[(Rule::Yearly, 1)]).is_empty());
    assert_eq!("unlimited".parse(), Ok(Count::Unlimited));
    assert_eq!("7".parse(), Ok(Count::Number(7)));
    assert!("-1".parse::<Count>().is_err() && "all".parse::<Count>().is_err());
}

#[test]
fn ten_thousand_snapshots_are_planned_within_a_second() {
    let candidates: Vec<_> = (0..10_000)
        .map(|number| Candidate { shown: (number % 7 == 0).then_some(Proof::Verified), ..ago(number * 3600) })
        .collect();
    let policy = rules(&[(Rule::Hourly, 24), (Rule::Daily, 7), (Rule::Weekly, 4), (Rule::Monthly, 12)]);
    let policy = Policy {
        rules: policy.rules.into_iter().chain([(Rule::Yearly, Count::Unlimited)]).collect(),
        ..policy
    };
    let begun = Instant::now();
    let decisions = decide(&policy, &candidates);
    assert!(begun.elapsed().as_secs_f64() < 1.0, "{:?}", begun.elapsed());
    let kept = kept(&decisions).len();
    assert!((40..60).contains(&kept), "{kept}");
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    // Six years around now, with clocks that were wrong, and many in one second.
    let moments = prop_oneof![
        -5 * 365 * DAY..DAY,
        (0_i64..60).prop_map(|days| -days * DAY),
        prop::sample::select(vec![0, -1, -DAY, -365 * DAY, 365 * DAY]),
    ];
    let kinds = prop_oneof![
        8 => Just(Kind::Ordinary), 1 => Just(Kind::Safety), 1 => Just(Kind::Unreadable)
    ];
    let shown = prop_oneof![
        3 => Just(None), 1 => Just(Some(Proof::Verified)), 1 => Just(Some(Proof::Proved))
    ];
    let marked = prop_oneof![6 => Just(Marked::No), 1 => Just(Marked::ByPolicy), 1 => Just(Marked::ByHand)];
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    let one =
        (moments, any::<[u8; 3]>(), kinds, shown, marked, flags, prop::option::weighted(0.3, any::<usize>()));
    prop::collection::vec(one, 0..60).prop_map(|made| {
        let mut all: Vec<Candidate> = Vec::new();
        for (seconds, random, kind, shown, marked, (damaged, pinned, held), needs) in made {
            let id = SnapshotId::new(moment(NOW + seconds), random);
            if all.iter().any(|one| one.id == id) {
                continue;
            }
            let needs = needs.filter(|_| !all.is_empty()).map(|at| all[at % all.len()].id.clone());
            let (needs, held_by) = (needs.into_iter().collect(), held.then(|| "a drill reads it".to_owned()));
            let shown = shown.filter(|_| !damaged);
            all.push(Candidate { id, kind, shown, damaged, pinned, marked, held_by, needs });
        }
        all
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let count = prop_oneof![4 => (0_u64..9).prop_map(Count::Number), 1 => Just(Count::Unlimited)];
    let rules = prop::collection::btree_map(prop::sample::select(Rule::ALL.to_vec()), count, 0..5);
    let within = prop::option::of((0_u64..100).prop_map(|days| Duration::from_secs(days * 86_400)));
    (rules, within, 0_usize..4).prop_map(|(rules, within, min_redundancy)| Policy {
        rules,
        within,
        min_redundancy,
    })
}

proptest! {
    #[test]
    fn whatever_the_policy_nothing_that_is_needed_goes(
        candidates in candidates(), policy in policies(), in_berlin in any::<bool>()
    ) {
        let zone: &dyn Fn(DateTime<Utc>) -> DateTime<FixedOffset> = if in_berlin { &berlin } else { &utc };
        let decisions = plan(&policy, &candidates, now(), zone);
        prop_assert_eq!(decisions.len(), candidates.len());
        let find = |id: &SnapshotId| candidates.iter().find(|one| one.id == *id);
        let goes = |fate: Fate| matches!(fate, Fate::Remove | Fate::Marked);
        for decision in &decisions {
            prop_assert!(!decision.reasons.is_empty());
            let candidate = find(&decision.id).unwrap();
            prop_assert_eq!(
                matches!(decision.fate, Fate::Keep | Fate::Remove), candidate.marked == Marked::No
            );
            if goes(decision.fate) {
                prop_assert!(!candidate.pinned && candidate.held_by.is_none());
            }
            if decision.fate == Fate::Remove {
                prop_assert!(candidate.kind != Kind::Unreadable && !candidate.damaged);
                prop_assert!(candidate.id.begun().unwrap() <= now() + FUTURE_SLACK);
            } else if decision.fate != Fate::Marked {
                for needed in candidate.needs.iter().filter_map(find) {
                    prop_assert!(!goes(fate_of(&decisions, needed)), "{} needs {}", candidate.id, needed.id);
                }
            }
        }
        // If anything good exists that nobody wants gone, something good stays; and a verified one, if one exists.
        let good = |one: &&Candidate| {
            one.kind == Kind::Ordinary && one.is_good() && one.marked != Marked::ByHand
                && one.id.begun().unwrap() <= now() + FUTURE_SLACK
        };
        let stays = |one: &Candidate| !goes(fate_of(&decisions, one));
        let all: Vec<_> = candidates.iter().filter(good).collect();
        let of = policy.min_redundancy.max(1).min(all.len());
        prop_assert!(all.iter().filter(|one| stays(one)).count() >= of);
        let is_verified = |one: &&&Candidate| one.shown.is_some();
        let verified = all.iter().filter(is_verified).count();
        let kept = all.iter().filter(is_verified).filter(|one| stays(one)).count();
        prop_assert!(kept >= policy.min_redundancy.max(1).min(verified));
    }

    #[test]
    fn a_second_prune_right_after_the_first_removes_nothing_more(
        candidates in candidates(), policy in policies()
    ) {
        let first = decide(&policy, &candidates);
        let mut left = candidates;
        left.retain(|one| !matches!(fate_of(&first, one), Fate::Remove | Fate::Marked));
        for one in left.iter_mut().filter(|one| fate_of(&first, one) == Fate::Rescue) {
            one.marked = Marked::No;
        }
        // What was rescued counts now, and may take the place of an older one; what was kept before is not lost by it.
        if first.iter().any(|decision| decision.fate == Fate::Rescue) {
            return Ok(());
        }
        let second = decide(&policy, &left);
        prop_assert!(second.iter().all(|decision| decision.fate != Fate::Remove), "{:?}", second);
    }
}
