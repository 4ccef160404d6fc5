//! Tests against a real engine, one file a behaviour. They need an engine at `DOCKER_HOST` or the
//! default socket, and pull nothing.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod engine;
mod world;
