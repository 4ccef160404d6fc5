//! The procedures with their effects failed, one by one, on a real engine and a real PostgreSQL: after
//! each failure the services are as before, nothing is listed, and nothing is left.
//!
//! Every call in every way fails in the tests with the engine in memory; here it is a sample of them, so that what
//! is learnt there is known to be true. With `VOLSNAP_TEST_DEEP` it is all of them here, too.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that fails here shows where")]

// The harness has more than these tests need.
#[path = "../docker/database.rs"]
#[allow(dead_code, reason = "shared with the tests of the binary")]
mod database;
#[path = "../shared/deep.rs"]
mod deep;
#[path = "../shared/program.rs"]
#[allow(dead_code, reason = "shared with the tests of the binary")]
mod program;
#[path = "../docker/project.rs"]
#[allow(dead_code, reason = "shared with the tests of the binary")]
mod project;
#[path = "../docker/small.rs"]
#[allow(dead_code, reason = "shared with the tests of the binary")]
mod small;
#[path = "../docker/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the binary")]
mod world;

mod calls;
mod disk;
mod ended;
mod facts;
mod migrate;
mod newcomers;
mod restores;
mod room;
mod small_disk;
mod stage;
mod steps;
