//! `files`: a volume of very many small files, which nobody uses.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::machine::{docker, mountpoint, note, remove_volume, say, timed};
use crate::snapshot::Rows;
use crate::stage::{Stage, in_turn};
use crate::table::{Aim, Table};

pub(crate) fn play(stage: &Stage) -> Result<Table> {
    let count = stage.options.files;
    let volume = format!("volsnap-bench-files-{count}");
    let data = filled(&volume, count)?;
    let mut table = Table::new("files", format!("{count} small files in a volume"));
    let rows = Rows::of(&mut table);
    table.aim(rows.memory, Aim::AtMost(512.0));
    for round in 0..stage.rounds() {
        say(format!("files: round {} of {}", round + 1, stage.rounds()));
        for contestant in in_turn(stage.contestants.iter().map(Some).chain([None]), round) {
            if let Some(contestant) = contestant {
                rows.measure(&mut table, contestant, (&format!("volume:{volume}"), "none"), &data)?;
            } else {
                rows.measure_tar(&mut table, &data, &stage.work)?;
            }
        }
    }
    if !stage.options.keep_data {
        remove_volume(&volume);
    }
    Ok(table)
}

/// Returns where the volume lies, filled now or by an earlier run.
fn filled(volume: &str, count: usize) -> Result<PathBuf> {
    docker(["volume", "create", "--label", "volsnap.bench=data", volume])?;
    let data = mountpoint(volume)?;
    let mark = data.with_file_name("volsnap-bench-filled");
    if mark.exists() {
        say(format!("Using the volume {volume} of an earlier run"));
        return Ok(data);
    }
    say(format!("Filling the volume {volume} with {count} files"));
    let took = timed(|| fill(&data, count))?;
    note(format!("filled in {took:.0} s"));
    fs::write(mark, "")?;
    Ok(data)
}

fn fill(data: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let directory = data.join(format!("{:03}", number / 1000));
        if number % 1000 == 0 {
            fs::create_dir_all(&directory)?;
        }
        let mut file = fs::File::create(directory.join(format!("file-{number}.txt")))?;
        writeln!(file, "file {number} of {count}: {}", "x".repeat(number % 200))?;
    }
    Ok(())
}
