//! The options that say of containers what volsnap cannot know.

use volsnap::selector::Bystanders;

/// What the user says of containers by name.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BystandersArgs {
    /// Hold this container too, which only sees the data because it mounts a directory above it, such as `/`; you can
    /// give several
    #[arg(long, value_name = "NAME")]
    hold: Vec<String>,
    /// Leave this container alone, though it mounts the data; you can give several. The label `volsnap.ignore=true`
    /// does the same
    #[arg(long, value_name = "NAME")]
    ignore: Vec<String>,
}

impl BystandersArgs {
    /// Returns what the library calls them.
    pub(crate) fn get(&self) -> Bystanders {
        Bystanders { hold: self.hold.clone(), ignore: self.ignore.clone(), own: None }
    }
}
