//! How closely to look at data, as the user types it.

use clap::ValueEnum;
use volsnap::model::facts::FactsLevel;

/// How closely to look at data.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FactsArg {
    /// Do not look
    None,
    /// For a few seconds: large tables are estimated
    Quick,
    /// Read every row; at most half an hour
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
