//! The benchmark: what volsnap costs, beside what people use today and beside an older volsnap. `scripts/bench` makes
//! sure of what it needs, and runs it; a file each for the scenarios.
//!
//! Contestants take turns within a round, and the order changes from round to round. A figure is the median of the
//! rounds, told with the least and the most of them.

mod contestant;
mod downtime;
mod drill;
mod encryption;
mod facts;
mod files;
mod load;
mod machine;
mod migrate;
mod options;
mod postgres;
mod restore;
mod snapshot;
mod stage;
mod statistics;
mod table;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use serde_json::{Value, json};

use crate::machine::{note, say};
use crate::options::{Options, Scenario};
use crate::postgres::Postgres;
use crate::stage::Stage;
use crate::table::{Labels, Table};

fn main() -> ExitCode {
    // Cargo runs this in the directory of the package; files are named from where the caller is.
    if let Some(directory) = std::env::var_os("VOLSNAP_BENCH_FROM") {
        let _ = std::env::set_current_dir(directory);
    }
    match Options::parse().start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn start(self) -> Result<()> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "volumes are read at their place on the host, which needs root"
        );
        ensure!(
            self.on.is_none() || self.scenarios == [Scenario::Downtime],
            "--on is for the scenario `downtime` alone"
        );
        let stage = Arc::new(Stage::set(self)?);
        tidy_when_interrupted(&stage)?;
        let played = play(&stage);
        stage.tidy();
        played
    }
}

/// Plays every scenario that was asked for, and prints its table as soon as it is complete.
fn play(stage: &Stage) -> Result<()> {
    let labels = labels(stage);
    let machine = machine::description()?;
    print(&format!("{machine}; {} rounds, medians (least – most)\n", stage.rounds()))?;
    let scenarios: Vec<Scenario> =
        stage.options.scenarios.iter().flat_map(|scenario| scenario.parts()).collect();
    let mut results = Vec::new();
    let mut misses = Vec::new();
    // Filled for the first that wants it, and the same for all.
    let mut postgres = None;
    for scenario in scenarios {
        let begin = Instant::now();
        say(format!("Scenario {scenario:?}"));
        let table = play_one(stage, scenario, &mut postgres)?;
        let seconds = begin.elapsed().as_secs();
        note(format!("{scenario:?} took {seconds} s"));
        print(&table.markdown(&labels))?;
        misses.extend(table.misses());
        let mut result = table.json();
        result["seconds"] = seconds.into();
        results.push(result);
    }
    if let Some(postgres) = postgres {
        postgres.remove(stage.options.keep_data);
    }
    write_json(
        stage,
        &json!({ "machine": machine, "new": labels.new, "old": labels.old, "tables": results }),
    )?;
    for miss in &misses {
        note(miss);
    }
    if stage.options.assert && !misses.is_empty() {
        bail!("{} figures are not what they should be", misses.len());
    }
    Ok(())
}

fn play_one(stage: &Stage, scenario: Scenario, filled: &mut Option<Postgres>) -> Result<Table> {
    if scenario == Scenario::Files {
        return files::play(stage);
    }
    let postgres = match filled {
        Some(postgres) => postgres,
        None => filled.insert(Postgres::filled(stage)?),
    };
    match scenario {
        Scenario::Snapshot => snapshot::play(stage, postgres),
        Scenario::Restore => restore::play(stage, postgres),
        Scenario::Downtime => downtime::play(stage, postgres),
        Scenario::Facts => facts::play(stage, postgres),
        Scenario::Drill => drill::play(stage, postgres),
        Scenario::Migrate => migrate::play(stage, postgres),
        Scenario::Encryption => encryption::play(stage, postgres),
        Scenario::Files | Scenario::Readme => bail!("{scenario:?} is no scenario of a database"),
    }
}

/// The versions, where they differ; else which is which.
fn labels(stage: &Stage) -> Labels {
    let version = |index: usize| stage.contestants.get(index).map(|contestant| contestant.version.clone());
    match (version(0), version(1)) {
        (Some(new), Some(old)) if new != old => Labels { new, old },
        (new, _) => Labels { new: new.unwrap_or_default(), old: "the older build".to_owned() },
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("print the tables")
}

fn write_json(stage: &Stage, result: &Value) -> Result<()> {
    let Some(path) = &stage.options.json else { return Ok(()) };
    std::fs::write(path, format!("{result:#}\n")).with_context(|| format!("write {}", path.display()))
}

/// Leaves nothing behind when the run is ended early: a database that is being filled is of no use to the next run.
fn tidy_when_interrupted(stage: &Arc<Stage>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stage = Arc::clone(stage);
    std::thread::spawn(move || {
        let status = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hang_up = signal(SignalKind::hangup())?;
            std::io::Result::Ok(tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
                _ = hang_up.recv() => 129,
            })
        });
        stage.tidy();
        std::process::exit(status.unwrap_or(1));
    });
    Ok(())
}
