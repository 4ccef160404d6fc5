//! Every call of every verb fails, in every way there is, on the engine in memory: whatever happens, services run on
//! whole data, and nothing is left. Time is virtual.

#![expect(clippy::unwrap_used, reason = "a test that fails here shows where")]

#[path = "../simulated/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod simulated;

mod contained;
mod copy;
mod encryption;
mod healthchecks;
mod migrate;
mod newcomers;
mod protocol;
mod restart;
mod restore;
mod snapshot;
