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
pub mod orchestrator;
pub mod plural;
pub mod position;
pub mod quote;
pub mod source;
pub mod unknown;
pub mod replication;
