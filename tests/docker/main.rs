//! Tests against a real engine and a real PostgreSQL, one file a behaviour. They need an engine at
//! `DOCKER_HOST` or the default socket and the test image, and pull nothing.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod database;
mod engine;
mod interruptions;
#[path = "../shared/program.rs"]
mod program;
mod refusals;
mod restore;
mod snapshots;
mod world;
