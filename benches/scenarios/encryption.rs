//! `encryption`: what it costs that a snapshot is encrypted, beside the same snapshot in clear.

use anyhow::Result;

use crate::contestant::Contestant;
use crate::machine::{bytes_in, note, say, warm_up};
use crate::postgres::Postgres;
use crate::stage::{Stage, in_turn};
use crate::table::{Aim, Table, Unit, Who};

const CLEAR: &str = "the same, in clear";

pub(crate) fn play(stage: &Stage, postgres: &Postgres) -> Result<Table> {
    postgres.start(&[])?;
    let gigabytes = bytes_in(&postgres.data)? / 1e9;
    let mut table =
        Table::new("encryption", format!("{gigabytes:.2} GB of PostgreSQL data, half of it random"));
    let archive = table.row_beside("archive step, `--capture direct`, encrypted", Unit::Seconds, CLEAR);
    let staged = table.row_beside("a whole staged snapshot, encrypted", Unit::Seconds, CLEAR);
    let cpu = table.row_beside("processor time of that", Unit::Seconds, CLEAR);
    let verify = table.row_beside("`verify` of it, with an identity", Unit::Seconds, CLEAR);
    table.aim(archive, Aim::TimesOther(1.45));
    table.aim(staged, Aim::TimesOther(1.15));
    let work = stage.work.join("encryption");
    std::fs::create_dir_all(&work)?;
    let encrypted = Contestant::new(Who::New, &stage.options.volsnap, &work)?;
    let clear = Contestant::new(Who::Other, &stage.options.volsnap, &work)?;
    let key = encrypted.make_key(&work.join("identity.txt"))?;
    let target = postgres.target();
    for round in 0..stage.rounds() {
        say(format!("encryption: round {} of {}", round + 1, stage.rounds()));
        for (contestant, key) in in_turn([(&encrypted, Some(&key)), (&clear, None)], round) {
            let who = contestant.who;
            let name = if key.is_some() { "encrypted" } else { "in clear" };
            let begin = || -> Result<()> {
                contestant.forget()?;
                key.map_or(Ok(()), |key| contestant.init(key))?;
                warm_up(&postgres.data)
            };
            begin()?;
            let direct = contestant.snapshot(&target, "stop", "direct")?;
            postgres.wait()?;
            let seconds = direct.number("archive_ms")? / 1e3;
            table.push(archive, who, seconds);
            let verified = contestant.verify_with(direct.text("id")?, key)?;
            table.push(verify, who, verified.wall);
            begin()?;
            let whole = contestant.snapshot(&target, "stop", "staged")?;
            postgres.wait()?;
            table.push(staged, who, whole.wall);
            table.push(cpu, who, whole.cpu);
            note(format!("{name}: archive step {seconds:.2} s, staged {:.2} s in all", whole.wall));
            contestant.forget()?;
        }
    }
    postgres.stop()?;
    Ok(table)
}
