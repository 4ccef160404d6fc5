//! `drill`: how long a snapshot takes from its archive to a database that answers and is what it was.

use anyhow::{Result, ensure};

use crate::machine::{docker, note, say, sync};
use crate::postgres::Postgres;
use crate::stage::{Stage, in_turn};
use crate::table::{Table, Unit};

pub(crate) fn play(stage: &Stage, postgres: &Postgres) -> Result<Table> {
    postgres.start(&[])?;
    let mut ids = Vec::new();
    let mut raw = 0.0;
    for contestant in &stage.contestants {
        contestant.forget()?;
        let snapshot = contestant.snapshot(&postgres.target(), "stop", "direct")?;
        postgres.wait()?;
        raw = snapshot.number("raw_bytes")?;
        ids.push((contestant, snapshot.text("id")?.to_owned()));
    }
    let mut table = Table::new("drill", format!("{:.2} GB of PostgreSQL data, half of it random", raw / 1e9));
    let parts = [
        ("extract_ms", table.row("extract: unpack, digest, prove", Unit::Milliseconds)),
        ("boot_ms", table.row("boot, until it answers", Unit::Milliseconds)),
        ("compare_ms", table.row("compare: facts, indexes, checks", Unit::Milliseconds)),
        ("recovery_ms", table.row("recovery: from the archive to an answer", Unit::Milliseconds)),
    ];
    let wall = table.row("`verify --drill`, all of it, with the reading back", Unit::Seconds);
    let cpu = table.row("processor time", Unit::Seconds);
    let left_before = left_of_drills()?;
    for round in 0..stage.rounds() {
        say(format!("drill: round {} of {}", round + 1, stage.rounds()));
        for (contestant, id) in in_turn(&ids, round) {
            sync()?;
            let drill = contestant.drill(id)?;
            for (key, row) in parts {
                table.push(row, contestant.who, drill.number(&format!("drill.{key}"))?);
            }
            table.push(wall, contestant.who, drill.wall);
            table.push(cpu, contestant.who, drill.cpu);
            note(format!("{}: {:.2} s in all", contestant.name(), drill.wall));
        }
    }
    ensure!(left_of_drills()? == left_before, "a drill left a volume behind; see: volsnap recover --list");
    for (contestant, _) in &ids {
        contestant.forget()?;
    }
    postgres.stop()?;
    Ok(table)
}

/// The volumes of drills: none may be left behind.
fn left_of_drills() -> Result<String> {
    docker(["volume", "ls", "-q", "--filter", "name=volsnap-drill"])
}
