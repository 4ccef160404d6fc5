//! Tests against a real engine and a real PostgreSQL, one file a behaviour. They need an engine at
//! `DOCKER_HOST` or the default socket and the test image, and pull nothing.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what went wrong, and how long it took"
)]

mod advice;
mod away;
mod clone;
mod compose;
mod compose2;
mod configuration;
mod contained;
mod database;
mod deadlines;
#[path = "../shared/deep.rs"]
mod deep;
mod disaster;
mod doctor;
mod drill;
mod elsewhere;
mod encryption;
mod engine;
mod entrypoints;
mod facts;
mod foreign;
mod fresh;
mod hangs;
mod healthchecks;
mod holds;
mod interruptions;
mod limits;
mod looks;
mod looping;
mod migrate;
mod names;
mod neighbours;
mod newer;
mod online;
mod onlookers;
mod own_commands;
mod podman;
#[path = "../shared/program.rs"]
mod program;
mod project;
mod refusals;
mod replication;
mod restart;
mod restore;
mod retention;
mod round_trip;
#[path = "../shared/s3.rs"]
#[expect(dead_code, reason = "some of it is only for the tests of the store")]
mod s3;
#[path = "../shared/schema.rs"]
mod schema;
mod second_engine;
mod sharers;
#[allow(dead_code, reason = "shared with the tests of faults")]
mod small;
mod snapshots;
mod staging;
mod stores;
mod stuck;
mod watched;
mod world;
