//! The commands that are printed, pasted on the engine in memory: each is read by the real command line, and acts on the
//! world in which it was printed. None is the very command just typed, each keeps the repository, the engine, `--json`
//! and `--dry-run` that were typed, and what it promises comes true.
//!
//! Which test pastes which command is written down in `tests/advice.txt`.

#[path = "../simulated/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod simulated;

mod desk;
mod doctors;
mod line;
mod migrations;
mod names;
mod recoveries;
mod restarts;
mod restores;
mod snapshots;
