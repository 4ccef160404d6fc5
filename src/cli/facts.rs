//! How closely data is looked at, as it is typed.

use clap::ValueEnum;
use volsnap::model::facts::FactsLevel;

/// How closely data is looked at.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FactsArg {
    /// Not at all
    None,
    /// For a few seconds: what is large is estimated
    Quick,
    /// Every row, and what is in it; half an hour at most
    Full,
}

impl From<FactsArg> for FactsLevel {
    fn from(level: FactsArg) -> Self {
        match level {
            FactsArg::None => Self::None,
            FactsArg::Quick => Self::Quick,
            FactsArg::Full => Self::Full,
        }
    }
}
