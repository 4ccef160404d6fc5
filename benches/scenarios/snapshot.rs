//! `snapshot`: a snapshot of a PostgreSQL that is stopped for it, beside `tar | zstd` and the usual procedure.

use std::path::Path;

use anyhow::Result;

use crate::contestant::Contestant;
use crate::machine::{bash, bytes_in, note, say, timed, warm_up};
use crate::postgres::Postgres;
use crate::stage::{Stage, in_turn};
use crate::table::{Aim, RowId, Table, Unit, Who};

pub(crate) const TAR: &str = "tar \\| zstd -T0 -3";

/// What is measured of a snapshot, of a database or of many files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) archive: RowId,
    pub(crate) stored: RowId,
    pub(crate) downtime: RowId,
    wall: RowId,
    cpu: RowId,
    pub(crate) memory: RowId,
    written: RowId,
    pub(crate) verify: RowId,
    verify_cpu: RowId,
}

impl Rows {
    pub(crate) fn of(table: &mut Table) -> Self {
        Self {
            archive: table.row_beside("archive step, synced", Unit::Seconds, TAR),
            stored: table.row_beside("stored size", Unit::Bytes, TAR),
            downtime: table.row_beside("downtime, `--capture direct`", Unit::Seconds, "stop, tar czf, start"),
            wall: table.row("the whole command", Unit::Seconds),
            cpu: table.row("processor time (command, guard, helper)", Unit::Seconds),
            memory: table.row("peak memory (command, guard, helper)", Unit::Mebibytes),
            written: table.row("written to disk", Unit::Bytes),
            verify: table.row("`verify`, of raw data, archive cached", Unit::MegabytesPerSecond),
            verify_cpu: table.row("`verify`, processor time", Unit::Seconds),
        }
    }

    /// Takes a snapshot, and reads it back.
    pub(crate) fn measure(
        self,
        table: &mut Table,
        contestant: &Contestant,
        (target, quiesce): (&str, &str),
        data: &Path,
    ) -> Result<()> {
        let who = contestant.who;
        contestant.forget()?;
        warm_up(data)?;
        let snapshot = contestant.snapshot(target, quiesce, "direct")?;
        let (archive, raw) = (snapshot.number("archive_ms")? / 1e3, snapshot.number("raw_bytes")?);
        table.push(self.archive, who, archive);
        table.push(self.stored, who, snapshot.number("stored_bytes")?);
        if quiesce != "none" {
            table.push(self.downtime, who, snapshot.number("downtime_ms")? / 1e3);
        }
        table.push(self.wall, who, snapshot.wall);
        table.push(self.cpu, who, snapshot.cpu);
        table.push(self.memory, who, snapshot.memory);
        table.push(self.written, who, snapshot.written);
        contestant.warm_up()?;
        let verify = contestant.verify(snapshot.text("id")?)?;
        table.push(self.verify, who, raw / 1e6 / verify.wall);
        table.push(self.verify_cpu, who, verify.cpu);
        note(format!(
            "{}: archive step {archive:.2} s, {:.2} s in all, {:.2} s of processors, {:.0} MiB; verify {:.2} s",
            contestant.name(),
            snapshot.wall,
            snapshot.cpu,
            snapshot.memory,
            verify.wall
        ));
        contestant.forget()
    }

    /// The comparison: `tar | zstd -T0 -3`, synced.
    pub(crate) fn measure_tar(self, table: &mut Table, data: &Path, work: &Path) -> Result<()> {
        let archive = work.join("by-tar.tar.zst");
        warm_up(data)?;
        let seconds = timed(|| {
            let script = r#"tar -C "$1" -cf - . | zstd -q -T0 -3 -o "$2"; sync "$2""#;
            bash(script, [data, &archive]).map(drop)
        })?;
        #[expect(clippy::cast_precision_loss, reason = "a figure")]
        let bytes = std::fs::metadata(&archive)?.len() as f64;
        table.push(self.archive, Who::Other, seconds);
        table.push(self.stored, Who::Other, bytes);
        note(format!("tar | zstd -T0 -3: {seconds:.2} s"));
        Ok(std::fs::remove_file(archive)?)
    }
}

pub(crate) fn play(stage: &Stage, postgres: &Postgres) -> Result<Table> {
    postgres.start(&[])?;
    let gigabytes = bytes_in(&postgres.data)? / 1e9;
    let mut table =
        Table::new("snapshot", format!("{gigabytes:.2} GB of PostgreSQL data, half of it random"));
    let rows = Rows::of(&mut table);
    table.aim(rows.archive, Aim::TimesOther(0.75));
    table.aim(rows.stored, Aim::TimesOther(1.01));
    table.aim(rows.downtime, Aim::TimesOther(1.0 / 8.0));
    table.aim(rows.memory, Aim::AtMost(256.0));
    table.aim(rows.verify, Aim::AtLeast(700.0));
    for round in 0..stage.rounds() {
        say(format!("snapshot: round {} of {}", round + 1, stage.rounds()));
        for contestant in in_turn(stage.contestants.iter().map(Some).chain([None]), round) {
            if let Some(contestant) = contestant {
                let target = postgres.target();
                rows.measure(&mut table, contestant, (&target, "stop"), &postgres.data)?;
                postgres.wait()?;
            } else {
                postgres.stop()?;
                rows.measure_tar(&mut table, &postgres.data, &stage.work)?;
                postgres.start_again()?;
            }
        }
    }
    // Once: it is so far off that its variation does not matter.
    if !stage.options.no_usual {
        postgres.warm_up()?;
        let away = postgres.usual_procedure(&stage.work.join("usual"))?;
        note(format!("stop, docker run … tar czf, start: away for {away:.1} s"));
        table.push(rows.downtime, Who::Other, away);
    }
    postgres.stop()?;
    Ok(table)
}
