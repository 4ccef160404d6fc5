//! Asking a running database what is true of its data.

use std::time::Duration;

use crate::model::container::{Container, ExecOutput};
use crate::model::facts::{Facts, FactsLevel};
use crate::model::inspection::Inspection;

/// How a running database is asked what is true of its data: commands to run inside its container, and
/// what their output means. Secrets come from the container's own environment, never from a command.
pub trait FactsSource: Send + Sync {
    /// Returns the command that looks at the data. It only reads, and ends by itself.
    fn facts_command(&self, container: &Container, level: FactsLevel) -> Vec<String>;

    /// Returns how long that command may take at most.
    fn facts_limit(&self, level: FactsLevel) -> Duration;

    /// Returns the facts that the command's output tells.
    ///
    /// # Errors
    /// When it tells none.
    fn facts(&self, level: FactsLevel, output: &ExecOutput) -> Result<Facts, FactsError>;

    /// Returns the command that runs a query of the user's, read-only and for at most `limit`, in the
    /// named database or else in the service's own.
    fn query_command(
        &self,
        container: &Container,
        database: Option<&str>,
        query: &str,
        limit: Duration,
    ) -> Vec<String>;

    /// Returns the one value that the query gave.
    ///
    /// # Errors
    /// When it failed, or gave none or several.
    fn value(&self, output: &ExecOutput) -> Result<String, FactsError>;

    /// Returns whether facts are true of a copy of the files to the last row: nothing was written between
    /// the moment of the facts and what the files of the copy say.
    fn is_exact(&self, facts: &Facts, inspection: &Inspection) -> bool;
}

/// Why there are no facts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// The database or its client said no.
    #[error("{said}")]
    Failed {
        /// What it said, in a line.
        said: String,
    },
    /// The output ends before its end.
    #[error("the output is cut off after {bytes} bytes")]
    Cut {
        /// How much there is.
        bytes: usize,
    },
    /// The output is none that is understood.
    #[error("not understood: {line:?}")]
    NotUnderstood {
        /// The line.
        line: String,
    },
    /// A query that is to give one value gave none or several.
    #[error("the query gives {rows} rows, and a check takes one value")]
    Rows {
        /// How many.
        rows: usize,
    },
}
