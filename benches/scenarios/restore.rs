//! `restore`: a restore over the live data and its undo, beside `zstd -dc | tar x` into the same volume.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::contestant::Contestant;
use crate::machine::{bash, note, say, sync, timed};
use crate::postgres::Postgres;
use crate::stage::{Stage, in_turn};
use crate::table::{Aim, RowId, Table, Unit, Who};

struct Rows {
    wall: RowId,
    downtime: RowId,
    cpu: RowId,
    memory: RowId,
    written: RowId,
    kept: RowId,
    undo: RowId,
}

impl Rows {
    fn of(table: &mut Table) -> Self {
        Self {
            wall: table.row_beside("`restore --no-safety`, synced", Unit::Seconds, "zstd -dc \\| tar x"),
            downtime: table.row("downtime of it", Unit::Seconds),
            cpu: table.row("processor time", Unit::Seconds),
            memory: table.row("peak memory", Unit::Mebibytes),
            written: table.row("written to disk", Unit::Bytes),
            kept: table.row("with the safety snapshot", Unit::Seconds),
            undo: table.row("downtime of the undo", Unit::Seconds),
        }
    }
}

pub(crate) fn play(stage: &Stage, postgres: &Postgres) -> Result<Table> {
    postgres.start(&[])?;
    let mut ids = Vec::new();
    let mut archive = String::new();
    let mut raw = 0.0;
    for contestant in &stage.contestants {
        contestant.forget()?;
        let snapshot = contestant.snapshot(&postgres.target(), "stop", "direct")?;
        postgres.wait()?;
        raw = snapshot.number("raw_bytes")?;
        ids.push((contestant, snapshot.text("id")?.to_owned()));
        if contestant.who == Who::New {
            snapshot.text("archive")?.clone_into(&mut archive);
        }
    }
    let mut table = Table::new(
        "restore",
        format!("{:.2} GB of PostgreSQL data, half of it random, archive cached", raw / 1e9),
    );
    let rows = Rows::of(&mut table);
    table.aim(rows.wall, Aim::TimesOther(0.9));
    for round in 0..stage.rounds() {
        say(format!("restore: round {} of {}", round + 1, stage.rounds()));
        for part in in_turn(ids.iter().map(Some).chain([None]), round) {
            match part {
                Some((contestant, id)) => rows.measure(&mut table, contestant, id)?,
                None => rows.measure_tar(&mut table, Path::new(&archive), &postgres.data)?,
            }
        }
    }
    say("restore: once with the safety snapshot, and its undo");
    for (contestant, id) in &ids {
        rows.measure_undo(&mut table, contestant, id)?;
        contestant.forget()?;
    }
    postgres.stop()?;
    Ok(table)
}

impl Rows {
    fn measure(&self, table: &mut Table, contestant: &Contestant, id: &str) -> Result<()> {
        contestant.warm_up()?;
        let restored = contestant.restore(id, &["--no-safety"])?;
        let downtime = restored.number("downtime_ms")? / 1e3;
        for (row, value) in [
            (self.wall, restored.wall),
            (self.downtime, downtime),
            (self.cpu, restored.cpu),
            (self.memory, restored.memory),
            (self.written, restored.written),
        ] {
            table.push(row, contestant.who, value);
        }
        note(format!("{}: {:.2} s, down for {downtime:.2} s", contestant.name(), restored.wall));
        Ok(())
    }

    /// Beside the live data of the same volume.
    fn measure_tar(&self, table: &mut Table, archive: &Path, data: &Path) -> Result<()> {
        let into = data.with_file_name("volsnap-bench-by-tar");
        bash(r#"cat "$1" >/dev/null; mkdir "$2"; sync"#, [archive, &into])?;
        let seconds = timed(|| {
            let script =
                r#"zstd -q -dc "$1" | tar -C "$2" --numeric-owner --acls --xattrs -xpf -; sync -f "$2""#;
            bash(script, [archive, &into]).map(drop)
        })?;
        std::fs::remove_dir_all(into)?;
        sync()?;
        table.push(self.wall, Who::Other, seconds);
        note(format!("zstd -dc | tar x: {seconds:.2} s"));
        Ok(())
    }

    fn measure_undo(&self, table: &mut Table, contestant: &Contestant, id: &str) -> Result<()> {
        contestant.warm_up()?;
        let kept = contestant.restore(id, &[])?;
        let safety = kept.text("safety").context("the restore kept no safety snapshot")?;
        let undo = contestant.restore(safety, &["--no-safety"])?;
        table.push(self.kept, contestant.who, kept.wall);
        table.push(self.undo, contestant.who, undo.number("downtime_ms")? / 1e3);
        note(format!("{}: {:.2} s, its undo {:.2} s", contestant.name(), kept.wall, undo.wall));
        Ok(())
    }
}
