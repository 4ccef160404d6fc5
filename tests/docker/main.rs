//! Tests against a real engine: what is promised, on real containers.

mod database;
mod engine;
mod interruptions;
mod refusals;
mod snapshots;
mod world;
