//! What can be asked for.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// A PostgreSQL volume: time, size, downtime and memory of a snapshot, and how fast it is verified
    Snapshot,
    /// A volume of very many small files: time and memory
    Files,
    /// A restore and its undo
    Restore,
    /// A database under load: staged, paused and online, beside a bare stop and start
    Downtime,
    /// Facts, and what they cost a pgbench that runs meanwhile
    Facts,
    /// From an archive to a database that answers, in parts
    Drill,
    /// A Compose service under load moves to a host directory, beside the move by hand
    Migrate,
    /// What it costs that a snapshot is encrypted
    Encryption,
    /// All but the encryption: the tables of the README
    Readme,
}

impl Scenario {
    /// Returns the scenarios that this one is made of, in the order in which they are run.
    pub(crate) fn parts(self) -> Vec<Self> {
        match self {
            Self::Readme => vec![
                Self::Snapshot,
                Self::Restore,
                Self::Drill,
                Self::Facts,
                Self::Migrate,
                Self::Downtime,
                Self::Files,
            ],
            one => vec![one],
        }
    }
}

/// Measures volsnap beside what people use today, and beside an older volsnap, in one run, on the same data and the
/// same disk. Markdown tables go to standard output, the story to standard error. Needs root: the comparison reads
/// volumes at their place on the host, so that it pays for no container.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
pub(crate) struct Options {
    /// What is measured
    #[arg(value_enum, default_values = ["readme"])]
    pub(crate) scenarios: Vec<Scenario>,
    /// Gigabytes of PostgreSQL data
    #[arg(long, value_name = "GB", default_value_t = 3.2)]
    pub(crate) size: f64,
    /// Rounds of what is compared; medians count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    pub(crate) rounds: usize,
    /// Files in the volume of files
    #[arg(long, value_name = "N", default_value_t = 300_000, value_parser = at_least_one)]
    pub(crate) files: usize,
    /// An older volsnap, to be run in alternation with this tree's
    #[arg(long, value_name = "BINARY")]
    pub(crate) against: Option<PathBuf>,
    /// Where archives go
    #[arg(long, value_name = "DIR", env = "TMPDIR", default_value = "/var/tmp")]
    pub(crate) dir: PathBuf,
    /// Also write every round of every figure to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Keep the volumes of data for the next run
    #[arg(long)]
    pub(crate) keep_data: bool,
    /// Leave out the usual procedure (stop, tar czf, start), which takes a minute or two
    #[arg(long)]
    pub(crate) no_usual: bool,
    /// Leave out the second half of `downtime`, with twice the data
    #[arg(long)]
    pub(crate) no_doubled: bool,
    /// End with status 1 when an aim is missed, or something is worse than it was by more than the spread
    #[arg(long)]
    pub(crate) assert: bool,
    /// Have the data of `downtime` on a file system of this kind, in a file below --dir: there files can be shared
    #[arg(long, value_name = "FS", value_parser = ["xfs", "btrfs"])]
    pub(crate) on: Option<String>,
    /// The volsnap that is measured; a release build of this tree by default
    #[arg(long, value_name = "BINARY", env = "VOLSNAP_BIN", default_value = env!("CARGO_BIN_EXE_volsnap"))]
    pub(crate) volsnap: PathBuf,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}
