//! PostgreSQL.

pub mod control;
pub mod page;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Inspection, Profile};
use crate::docker::Container;

/// PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

impl Profile for Postgres {
    fn name(&self) -> &'static str {
        "postgresql"
    }
    fn recognises(&self, _container: &Container) -> bool {
        false
    }
    fn data_directory(&self, _container: &Container) -> Option<PathBuf> {
        None
    }
    fn data_directory_command(&self, _container: &Container) -> Vec<String> {
        vec![]
    }
    fn ready_command(&self, _container: &Container) -> Vec<String> {
        vec![]
    }
    fn await_ready_command(&self, _container: &Container, _limit: Duration) -> Vec<String> {
        vec![]
    }
    fn stop_signal(&self) -> &'static str {
        "SIGINT"
    }
    fn stop_timeout(&self) -> Duration {
        Duration::from_secs(600)
    }
    fn find(&self, _root: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec![])
    }
    fn inspect(&self, _root: &Path, _data_directory: &Path) -> io::Result<Inspection> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn written_last(&self, _data_directory: &Path) -> Vec<PathBuf> {
        vec![]
    }
}
