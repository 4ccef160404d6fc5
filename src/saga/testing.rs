//! Compensations that only record that they were run, for the tests of this room.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::{Compensation, Rank, RetryBudget};
use crate::model::event::Monitor;

/// What was run, and what is to fail.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    done: Mutex<Vec<String>>,
    fails: BTreeSet<String>,
}

impl Recorded {
    pub(super) fn failing(names: &[&str]) -> Self {
        Self { fails: names.iter().map(ToString::to_string).collect(), ..Self::default() }
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
        if world.fails.contains(&self.name) {
            return Err(Fails(self.name.clone()));
        }
        world.done.lock().unwrap().push(self.name.clone());
        Ok(())
    }
}
