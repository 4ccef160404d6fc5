//! Compensations that only record that they were run, for the tests of this room.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use super::{Compensation, Rank, RetryBudget, RunInfo};
use crate::model::event::Monitor;

/// Returns the details of a test's run.
pub(super) fn info() -> RunInfo {
    RunInfo {
        run: "20261120T203011Z-4f2a91".into(),
        verb: "snapshot".into(),
        subject: "db".into(),
        host: None,
        pid: 1,
        started: DateTime::UNIX_EPOCH,
    }
}

/// What was run, and what should fail.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    done: Mutex<Vec<String>>,
    fails: BTreeSet<String>,
    journal: Option<PathBuf>,
    lengths: Mutex<Vec<usize>>,
}

impl Recorded {
    pub(super) fn failing(names: &[&str]) -> Self {
        Self { fails: names.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// Counts the lines of a journal whenever something runs.
    pub(super) fn looking_at(self, journal: &Path) -> Self {
        Self { journal: Some(journal.to_owned()), ..self }
    }

    pub(super) fn lengths(&self) -> Vec<usize> {
        self.lengths.lock().unwrap().clone()
    }

    pub(super) fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }
}

/// A compensation by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Act {
    rank: Rank,
    name: String,
    about: Vec<String>,
}

impl Act {
    pub(super) fn of(rank: Rank, name: &str, about: &[&str]) -> Self {
        Self { rank, name: name.to_owned(), about: about.iter().map(ToString::to_string).collect() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0} fails")]
pub(super) struct Fails(String);

impl Compensation for Act {
    type World = Recorded;
    type Error = Fails;

    fn rank(&self) -> Rank {
        self.rank
    }

    fn concerns(&self) -> Vec<String> {
        self.about.clone()
    }

    fn step(&self) -> &'static str {
        "act"
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn run(&self, world: &Recorded, _budget: RetryBudget, _monitor: &dyn Monitor) -> Result<(), Fails> {
        if let Some(journal) = &world.journal {
            let length = std::fs::read_to_string(journal).unwrap().lines().count();
            world.lengths.lock().unwrap().push(length);
        }
        if world.fails.contains(&self.name) {
            return Err(Fails(self.name.clone()));
        }
        world.done.lock().unwrap().push(self.name.clone());
        Ok(())
    }
}
