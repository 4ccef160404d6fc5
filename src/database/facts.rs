//! Asks a running database what is true of its data.

use std::time::Duration;

use crate::model::container::{Container, ExecOutput};
use crate::model::facts::{Facts, FactsLevel};
use crate::model::inspection::Inspection;
use crate::model::replication::Consumer;

/// How to ask a running database what is true of its data: commands to run inside its container, and what their output
/// means. Secrets come from the container's own environment, never from a command.
pub trait FactsSource: Send + Sync {
    /// Returns the command that looks at the data. It only reads, and ends by itself.
    fn facts_command(&self, container: &Container, level: FactsLevel) -> Vec<String>;

    /// Returns the longest time that this command may take.
    fn facts_limit(&self, level: FactsLevel) -> Duration;

    /// Returns the facts in the command's output.
    ///
    /// # Errors
    /// When the output has none.
    fn facts(&self, level: FactsLevel, output: &ExecOutput) -> Result<Facts, FactsError>;

    /// Returns the command that runs a user's query, read-only and for at most `limit`, in the named database or
    /// otherwise in the service's own.
    fn query_command(
        &self,
        container: &Container,
        database: Option<&str>,
        query: &str,
        limit: Duration,
    ) -> Vec<String>;

    /// Returns the one value that the query returned.
    ///
    /// # Errors
    /// When it failed, or returned none or several.
    fn value(&self, output: &ExecOutput) -> Result<String, FactsError>;

    /// Returns the query that tells who takes the log of the running database; its value is for
    /// [`consumers`](Self::consumers). `None` for a database whose log nobody takes.
    fn consumers_query(&self) -> Option<&'static str> {
        None
    }

    /// Returns who takes, or may take, the log of the running database, from the value of that query.
    ///
    /// # Errors
    /// When it is not understood.
    fn consumers(&self, _value: &str) -> Result<Vec<Consumer>, FactsError> {
        Ok(Vec::new())
    }

    /// Returns whether facts are true of a copy of the files to the last row: nothing was written between the moment
    /// of the facts and the state that the copy's files show.
    fn is_exact(&self, facts: &Facts, inspection: &Inspection) -> bool;
}

/// Why there are no facts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// The database or its client refused.
    #[error("{said}")]
    Failed {
        /// What it said, in one line.
        said: String,
    },
    /// The output is cut off.
    #[error("the output is cut off after {bytes} bytes")]
    Cut {
        /// The bytes that arrived.
        bytes: usize,
    },
    /// The output cannot be understood.
    #[error("not understood: {line:?}")]
    NotUnderstood {
        /// The line.
        line: String,
    },
    /// A query that must return one value returned none or several.
    #[error("the query gives {rows} rows, and a check takes one value")]
    Rows {
        /// How many it returned.
        rows: usize,
    },
}
