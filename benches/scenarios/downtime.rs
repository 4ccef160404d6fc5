//! `downtime`: how long a database under load is away, or keeps a client waiting, by each way of holding it.
//!
//! The longest gap without any snapshot varies with the machine: a gap says something only beside what the same
//! client saw without one, in alternation. The percentiles are of the gaps of all rounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::contestant::Contestant;
use crate::load::{LOAD_RATE, Load, settle};
use crate::machine::{bash, note, say, timed};
use crate::postgres::Postgres;
use crate::stage::{Stage, in_turn};
use crate::statistics::Sample;
use crate::table::{Aim, RowId, Table, Unit, Who};

/// What is measured in a round.
#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    /// A bare stop and start.
    Floor,
    Staged(&'a Contestant),
    Held(&'a Contestant, Hold),
    /// As long as a snapshot, without one.
    Nothing,
}

/// A way of holding a database that does not stop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Pause,
    Online,
}

impl Hold {
    const ALL: [Self; 2] = [Self::Pause, Self::Online];

    fn quiesce(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Online => "online",
        }
    }

    fn capture(self) -> &'static str {
        match self {
            Self::Pause => "staged",
            Self::Online => "auto",
        }
    }
}

/// What a client sees of one way.
#[derive(Debug, Clone, Copy)]
struct GapRows {
    p99: RowId,
    p999: RowId,
    longest: RowId,
    lost: RowId,
    wall: RowId,
    cpu: RowId,
}

impl GapRows {
    fn of(table: &mut Table, hold: Hold, longest_allowed: f64) -> Self {
        let name = format!("`--quiesce {}`", hold.quiesce());
        let without = "no snapshot";
        let rows = Self {
            p99: table.row_beside(format!("{name}: gaps of a client, p99"), Unit::Milliseconds, without),
            p999: table.row_beside(format!("{name}: gaps, p99.9"), Unit::Milliseconds, without),
            longest: table.row_beside(format!("{name}: longest gap"), Unit::Milliseconds, without),
            lost: table.row(format!("{name}: connections lost"), Unit::Count),
            wall: table.row(format!("{name}: the whole command"), Unit::Seconds),
            cpu: table.row(format!("{name}: processor time"), Unit::Seconds),
        };
        table.aim(rows.longest, Aim::AtMost(longest_allowed));
        table.aim(rows.lost, Aim::AtMost(0.0));
        rows
    }
}

struct Rows {
    floor: RowId,
    staged: RowId,
    above: RowId,
    wall: RowId,
    cpu: RowId,
    memory: RowId,
    written: RowId,
    large: RowId,
    pause: GapRows,
    online: GapRows,
    doubled: RowId,
}

impl Rows {
    fn of(table: &mut Table, shared: bool) -> Self {
        let rows = Self {
            floor: table.row_beside("a bare stop, start, answer: the floor", Unit::Milliseconds, "docker"),
            staged: table.row_beside(
                "`--quiesce stop`, staged: downtime",
                Unit::Milliseconds,
                "stop, tar czf, start",
            ),
            above: table.row("the same, minus the floor of the round", Unit::Milliseconds),
            wall: table.row("the same, the whole command", Unit::Seconds),
            cpu: table.row("the same, processor time", Unit::Seconds),
            memory: table.row("the same, peak memory", Unit::Mebibytes),
            written: table.row("the same, written to disk", Unit::Bytes),
            large: table.row("the same, peak memory as it would be for 100 GB", Unit::Mebibytes),
            pause: GapRows::of(table, Hold::Pause, 500.0),
            online: GapRows::of(table, Hold::Online, 100.0),
            doubled: table.row_beside(
                "staged: downtime with twice the data",
                Unit::Milliseconds,
                "half of it",
            ),
        };
        table.aim(rows.staged, Aim::TimesOther(1.0 / 25.0));
        table.aim(rows.above, Aim::AtMost(if shared { 300.0 } else { 500.0 }));
        table.aim(rows.large, Aim::AtMost(256.0));
        table.aim(rows.doubled, Aim::TimesOther(1.1));
        rows
    }

    fn gaps(&self, hold: Hold) -> GapRows {
        match hold {
            Hold::Pause => self.pause,
            Hold::Online => self.online,
        }
    }
}

/// What is measured so far.
struct Play<'a> {
    postgres: &'a Postgres,
    load: Load<'a>,
    table: Table,
    rows: Rows,
    /// All the gaps of all rounds: by who takes the snapshot, and how.
    gaps: BTreeMap<(usize, &'static str), Sample>,
    /// In seconds; how long the last snapshot took that a client watched.
    last_wall: f64,
}

pub(crate) fn play(stage: &Stage, postgres: &Postgres) -> Result<Table> {
    postgres.start(&[])?;
    postgres.undo_doubling()?;
    let shared = can_share(&postgres.data)?;
    let mut table = Table::new(
        "downtime",
        format!(
            "{} GB of PostgreSQL data{} under {LOAD_RATE} transactions a second of pgbench; a client writes every 10 ms; \
             files are {}",
            stage.options.size,
            stage.options.on.as_ref().map_or(String::new(), |kind| format!(" on {kind}")),
            if shared { "shared" } else { "copied" },
        ),
    );
    let rows = Rows::of(&mut table, shared);
    let load = Load::beside(stage, postgres);
    load.start()?;
    settle();
    let mut play = Play { postgres, load, table, rows, gaps: BTreeMap::new(), last_wall: 3.0 };
    for round in 0..stage.rounds() {
        say(format!("downtime: round {} of {}", round + 1, stage.rounds()));
        play.round(stage, round)?;
    }
    play.tell_percentiles();
    if !stage.options.no_usual {
        let away = postgres.usual_procedure(&stage.work.join("usual"))?;
        note(format!("stop, docker run … tar czf, start: away for {away:.1} s"));
        play.table.push(play.rows.staged, Who::Other, away * 1e3);
        settle();
    }
    if !stage.options.no_doubled {
        play.doubled(stage)?;
    }
    play.load.stop();
    postgres.stop()?;
    Ok(play.table)
}

impl Play<'_> {
    fn round(&mut self, stage: &Stage, round: usize) -> Result<()> {
        let new_and_old = &stage.contestants;
        let mut parts = vec![Part::Floor];
        parts.extend(new_and_old.iter().map(Part::Staged));
        for hold in Hold::ALL {
            parts.extend(new_and_old.iter().map(|contestant| Part::Held(contestant, hold)));
        }
        parts.push(Part::Nothing);
        let mut staged = Vec::new();
        let mut floor = 0.0;
        for part in in_turn(parts, round) {
            match part {
                Part::Floor => floor = self.floor()?,
                Part::Staged(contestant) => staged.push((contestant.who, self.staged(contestant)?)),
                Part::Held(contestant, hold) => self.held(contestant, hold)?,
                Part::Nothing => self.nothing()?,
            }
            settle();
        }
        for (who, downtime) in staged {
            self.table.push(self.rows.above, who, downtime - floor);
        }
        Ok(())
    }

    fn floor(&mut self) -> Result<f64> {
        let away = 1e3
            * timed(|| {
                self.postgres.stop()?;
                self.postgres.start_again()
            })?;
        self.table.push(self.rows.floor, Who::Other, away);
        note(format!("docker stop, start: {away:.0} ms"));
        Ok(away)
    }

    fn staged(&mut self, contestant: &Contestant) -> Result<f64> {
        contestant.forget()?;
        self.load.refuse_idle()?;
        let snapshot = contestant.snapshot(&self.postgres.target(), "stop", "staged")?;
        self.postgres.wait()?;
        let (who, downtime) = (contestant.who, snapshot.number("downtime_ms")?);
        // What is known of the stage grows with the data, 16 bytes for 256 KiB; nothing else does.
        // (tests/docker/staging.rs stages 100 GB of a sparse file, and reads the same of its helper.)
        let large =
            snapshot.memory + (100e9 - snapshot.number("raw_bytes")?) / 262_144.0 * 16.0 / 1_048_576.0;
        for (row, value) in [
            (self.rows.staged, downtime),
            (self.rows.wall, snapshot.wall),
            (self.rows.cpu, snapshot.cpu),
            (self.rows.memory, snapshot.memory),
            (self.rows.written, snapshot.written),
            (self.rows.large, large),
        ] {
            self.table.push(row, who, value);
        }
        note(format!("{}, staged: {downtime:.0} ms down, {:.2} s in all", contestant.name(), snapshot.wall));
        contestant.forget()?;
        Ok(downtime)
    }

    /// What the client sees of a snapshot.
    fn held(&mut self, contestant: &Contestant, hold: Hold) -> Result<()> {
        contestant.forget()?;
        let target = self.postgres.target();
        let (snapshot, seen) =
            self.load.watched(|| contestant.snapshot(&target, hold.quiesce(), hold.capture()))?;
        self.last_wall = snapshot.wall;
        let (who, rows) = (contestant.who, self.rows.gaps(hold));
        self.table.push(rows.longest, who, seen.gaps.most());
        self.table.push(rows.lost, who, seen.lost);
        self.table.push(rows.wall, who, snapshot.wall);
        self.table.push(rows.cpu, who, snapshot.cpu);
        self.gaps
            .entry((who as usize, hold.quiesce()))
            .or_default()
            .extend(seen.gaps.values().iter().copied());
        note(format!(
            "{}, {}: longest gap {:.0} ms, {} connections lost, {:.2} s in all",
            contestant.name(),
            hold.quiesce(),
            seen.gaps.most(),
            seen.lost,
            snapshot.wall
        ));
        contestant.forget()
    }

    /// What the load alone does to that client.
    fn nothing(&mut self) -> Result<()> {
        let wait = Duration::from_secs_f64(self.last_wall);
        let ((), seen) = self.load.watched(|| {
            std::thread::sleep(wait);
            Ok(())
        })?;
        for hold in Hold::ALL {
            self.table.push(self.rows.gaps(hold).longest, Who::Other, seen.gaps.most());
            let gaps = self.gaps.entry((Who::Other as usize, hold.quiesce())).or_default();
            gaps.extend(seen.gaps.values().iter().copied());
        }
        note(format!("no snapshot: longest gap {:.0} ms in {:.2} s", seen.gaps.most(), self.last_wall));
        Ok(())
    }

    fn tell_percentiles(&mut self) {
        for hold in Hold::ALL {
            let rows = self.rows.gaps(hold);
            for who in [Who::New, Who::Old, Who::Other] {
                if let Some(gaps) = self.gaps.get(&(who as usize, hold.quiesce())) {
                    self.table.pooled(rows.p99, who, gaps.quantile(0.99));
                    self.table.pooled(rows.p999, who, gaps.quantile(0.999));
                }
            }
        }
    }

    /// The downtime does not grow with the data.
    fn doubled(&mut self, stage: &Stage) -> Result<()> {
        say("downtime: doubling the data");
        self.load.stop();
        self.postgres.stop()?;
        self.postgres.double()?;
        self.postgres.start(&[])?;
        self.load.start()?;
        settle();
        let half = self.table.median(self.rows.staged, Who::New);
        self.table.push(self.rows.doubled, Who::Other, half);
        for _ in 0..stage.rounds().min(3) {
            let contestant = stage.new_one();
            contestant.forget()?;
            let snapshot = contestant.snapshot(&self.postgres.target(), "stop", "staged")?;
            self.postgres.wait()?;
            let downtime = snapshot.number("downtime_ms")?;
            self.table.push(self.rows.doubled, Who::New, downtime);
            note(format!("{:.1} GB: {downtime:.0} ms down", snapshot.number("raw_bytes")? / 1e9));
            contestant.forget()?;
            settle();
        }
        self.load.stop();
        self.postgres.undo_doubling()
    }
}

/// Whether files beside the data can be copied by reference.
fn can_share(data: &Path) -> Result<bool> {
    let script = r#"
        echo x >"$1"
        if cp --reflink=always "$1" "$1.copy" 2>/dev/null; then echo yes; else echo no; fi
        rm -f "$1" "$1.copy""#;
    Ok(bash(script, [data.with_file_name("volsnap-bench-reflink")])? == "yes")
}
