//! Pure data and rules: no engine, no clock, no files.

pub mod container;
pub mod error;
pub mod event;
pub mod facts;
pub mod hint;
pub mod ids;
pub mod inspection;
pub mod labels;
pub mod location;
pub mod manifest;
mod masked;
pub mod orchestrator;
pub mod own_commands;
pub mod plural;
pub mod position;
pub mod project_file;
pub mod quote;
pub mod replication;
pub mod retention;
pub mod source;
pub mod unknown;
