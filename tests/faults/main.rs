//! The snapshot procedure with every effect failed, one by one, on a real engine and a real PostgreSQL: after
//! each failure the services are as before, nothing is listed, and nothing is left.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that fails here shows where")]

// The harness has more than these tests need.
#[path = "../docker/database.rs"]
#[allow(dead_code, reason = "shared with the tests of the binary")]
mod database;
#[path = "../shared/program.rs"]
#[allow(dead_code, reason = "shared with the tests of the binary")]
mod program;
#[path = "../docker/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the binary")]
mod world;

mod calls;
mod disk;
mod stage;
mod steps;
