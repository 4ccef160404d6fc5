//! `facts`: how long quick facts take, and what they cost a pgbench that runs meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::contestant::Contestant;
use crate::machine::{note, say};
use crate::postgres::Postgres;
use crate::stage::{Stage, in_turn};
use crate::table::{Aim, Table, Unit, Who};

/// How long each pgbench runs.
const PGBENCH: Duration = Duration::from_secs(12);
/// From the begin of one check to that of the next.
const EVERY: Duration = Duration::from_secs(5);

/// What is measured in a round.
enum Part<'a> {
    Check(&'a Contestant),
    Alone,
    Beside,
}

pub(crate) fn play(stage: &Stage, postgres: &Postgres) -> Result<Table> {
    postgres.start(&[])?;
    let target = postgres.target();
    let mut table = Table::new("facts", format!("{} GB of PostgreSQL data", stage.options.size));
    let quick = table.row("`check`, quick facts", Unit::Seconds);
    let cpu = table.row("processor time of it", Unit::Seconds);
    let busy = table.row("`check` while pgbench runs", Unit::Seconds);
    let rate = table.row_beside("pgbench, with a `check` every 5 s", Unit::Transactions, "alone");
    let full = table.row("`check --facts full`", Unit::Seconds);
    table.aim(quick, Aim::AtMost(5.0));
    table.aim(busy, Aim::AtMost(5.0));
    table.aim(rate, Aim::AtLeastTimesOther(0.9));
    for round in 0..stage.rounds() {
        say(format!("facts: round {} of {}", round + 1, stage.rounds()));
        let checks = stage.contestants.iter().map(Part::Check);
        for part in in_turn(checks.chain([Part::Alone, Part::Beside]), round) {
            match part {
                Part::Check(contestant) => {
                    let check = contestant.check(&target, &[])?;
                    table.push(quick, contestant.who, check.wall);
                    table.push(cpu, contestant.who, check.cpu);
                    note(format!("{}: quick facts {:.2} s", contestant.name(), check.wall));
                }
                Part::Alone => {
                    let alone = postgres.pgbench(PGBENCH)?;
                    table.push(rate, Who::Other, alone);
                    note(format!("pgbench alone: {alone:.0} tps"));
                }
                Part::Beside => {
                    let (beside, checks) = pgbench_beside_checks(stage.new_one(), postgres)?;
                    table.push(rate, Who::New, beside);
                    checks.into_iter().for_each(|seconds| table.push(busy, Who::New, seconds));
                    note(format!("pgbench beside checks: {beside:.0} tps"));
                }
            }
        }
    }
    for contestant in &stage.contestants {
        let check = contestant.check(&target, &["--facts", "full"])?;
        table.push(full, contestant.who, check.wall);
        note(format!("{}: full facts {:.2} s", contestant.name(), check.wall));
    }
    postgres.stop()?;
    Ok(table)
}

/// Returns the transactions a second, and how long each check took.
fn pgbench_beside_checks(contestant: &Contestant, postgres: &Postgres) -> Result<(f64, Vec<f64>)> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let checks = scope.spawn(|| check_all_the_while(contestant, &postgres.target(), &over));
        let rate = postgres.pgbench(PGBENCH);
        over.store(true, Ordering::Relaxed);
        let checks = checks.join().map_err(|_| anyhow::anyhow!("the checks panicked"))?;
        Ok((rate?, checks?))
    })
}

fn check_all_the_while(contestant: &Contestant, target: &str, over: &AtomicBool) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        seconds.push(contestant.check(target, &[])?.wall);
        while begin.elapsed() < EVERY && !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(seconds)
}
