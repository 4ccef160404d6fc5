//! What the user names, and how it becomes a [`Source`](crate::model::source::Source). Pure rules over
//! what the engine has on record: no engine calls, no clock.
//!
//! A name either leads to exactly one volume or directory, or is refused with the command to type
//! instead: a guess would capture, or overwrite, the wrong data. Naming something never creates it. Names
//! are data: whatever characters they hold, they are compared, never interpreted.

use crate::model::quote::{printable, shell_quote};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::model::error::{Error, Result};
use crate::model::location::MountSource;

pub mod configuration;
mod containers;
mod data;
mod engine_inventory;
pub mod inventory;
pub mod memory;
mod names;
mod place;
mod resolve;
mod suggest;

pub use containers::containers;
pub use data::{DatabaseData, database_data, is_anonymous, location_of, writable};
pub use engine_inventory::{Bystanders, EngineInventory};
pub use names::describe;
pub use resolve::resolve;
pub use suggest::refuse_unknown_container;

/// What the user names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `db`: a service, a container or a volume, whichever has that name.
    Word(String),
    /// `service:db` or `service:PROJECT/db`.
    Service {
        /// The Compose project; `None` for the current directory's, else any that has the service.
        project: Option<String>,
        /// The service.
        service: String,
    },
    /// `container:pg`: a name, an id, or its first twelve digits or more.
    Container(String),
    /// `volume:pgdata`.
    Volume(String),
    /// `path:/data/pg`, or any word with a slash or a leading dot.
    Directory(PathBuf),
}

impl Target {
    /// Returns the target for a volume or directory.
    #[must_use]
    pub fn at(location: &MountSource) -> Self {
        match location {
            MountSource::Volume(name) => Self::Volume(name.clone()),
            MountSource::Directory(path) => Self::Directory(path.clone()),
        }
    }

    /// Returns the target as a user types it, with its prefix if it has one, not yet quoted.
    #[must_use]
    pub fn spelling(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Service { project: Some(project), service } => format!("service:{project}/{service}"),
            Self::Service { project: None, service } => format!("service:{service}"),
            Self::Container(name) => format!("container:{name}"),
            Self::Volume(name) => format!("volume:{name}"),
            Self::Directory(path) => format!("path:{}", path.display()),
        }
    }

    /// Returns the target quoted for a shell.
    #[must_use]
    pub fn quoted(&self) -> String {
        shell_quote(&self.spelling())
    }

    fn names_nothing(&self) -> bool {
        match self {
            Self::Word(name) | Self::Container(name) | Self::Volume(name) => name.is_empty(),
            Self::Service { project, service } => {
                service.is_empty() || project.as_ref().is_some_and(String::is_empty)
            }
            Self::Directory(path) => path.as_os_str().is_empty(),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let owned = str::to_owned;
        let target = match text.split_once(':') {
            Some(("service", name)) => match name.split_once('/') {
                Some((project, service)) => {
                    Self::Service { project: Some(owned(project)), service: owned(service) }
                }
                None => Self::Service { project: None, service: owned(name) },
            },
            Some(("container", name)) => Self::Container(owned(name)),
            Some(("volume", name)) => Self::Volume(owned(name)),
            Some(("path", path)) => Self::Directory(path.into()),
            _ if text.contains('/') || text.starts_with('.') => Self::Directory(text.into()),
            _ => Self::Word(owned(text)),
        };
        if target.names_nothing() {
            let message = format!("the target \"{}\" has an empty name", printable(text));
            return Err(Error::usage(message).with_hints(suggest::what_there_is()));
        }
        Ok(target)
    }
}

/// Shows the target on one line, with control characters escaped.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.spelling()))
    }
}

#[cfg(test)]
mod tests;
