//! The program as it is typed, on repositories made by hand: no engine is needed.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod advice;
mod arguments;
mod damage;
mod elsewhere;
mod encryption;
mod formats;
mod hand_made;
mod hints;
mod hosts;
mod listing;
mod manual;
mod others;
mod output;
#[path = "../shared/program.rs"]
#[expect(dead_code, reason = "some of it is only for the tests with an engine")]
mod program;
mod retention;
#[path = "../shared/s3.rs"]
#[expect(dead_code, reason = "some of it is only for the tests of the store")]
mod s3;
#[path = "../shared/schema.rs"]
mod schema;
#[path = "../shared/sshd.rs"]
mod sshd;
mod unfinished;
#[path = "../shared/webdav.rs"]
mod webdav;
