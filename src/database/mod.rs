//! What volsnap knows of each kind of database, in one folder each.
//!
//! A [`Database`] has halves that are used separately, and only those that are known for it:
//!
//! | half | what it is | used by |
//! |---|---|---|
//! | [`Server`] | what to ask a *container* that runs it, and how to stop that | the command |
//! | [`DataFiles`] | what its *files* say; only they prove a clean shutdown | the agent, next to the data |
//! | [`FactsSource`] | how to ask the running database what is true of its data | `check`, and whatever takes
//! snapshots |
//! | [`NativeBackup`](native::NativeBackup) | the backup that it makes of itself while it runs | `snapshot --quiesce
//! online` |
//! | [`SandboxSource`] | how to boot a copy of its data away from everything | `verify --drill` |
//! | [`Advice`] | words and commands for a person | whoever finds something wrong |
//!
//! Of [other stores](stores) it knows no more than what they are called, and what a person should know of them.
//!
//! [`compare`](mod@compare) finds what differs between two looks at the same data, for every database alike.
//!
//! # One more database
//!
//! Add a folder beside [`postgres`] and a line in [`all`]. Nobody else names a database or knows anything about one:
//! callers have a container and ask for [its server](server_of), or have a name from a manifest, a journal or the
//! agent's answer, and ask for [its files](files_of). `scripts/databases` enforces that for the rest of the sources.

use std::fmt;

use crate::model::container::Container;
use crate::model::inspection::Inspection;
use crate::model::position::Position;

pub mod advice;
pub mod compare;
pub mod dumps;
pub mod facts;
pub mod files;
pub mod fresh;
pub mod native;
pub mod postgres;
pub mod sandbox;
pub mod server;
pub mod stores;

pub use advice::Advice;
pub use facts::{FactsError, FactsSource};
pub use files::{Checked, ContentCheck, Damage, DataFiles, NeededLog};
pub use sandbox::{CopyConfiguration, Sandbox, SandboxSource, Structure};
pub use server::{Links, Manager, Server};

/// One kind of database, by the halves that are known for it.
pub trait Database: Send + Sync + fmt::Debug {
    /// Returns the name that is shown and stored: "postgresql".
    fn name(&self) -> &'static str;

    /// Returns what is known of its server.
    fn server(&self) -> Option<&'static dyn Server> {
        None
    }

    /// Returns what is known of its files.
    fn files(&self) -> Option<&'static dyn DataFiles> {
        None
    }

    /// Returns how to ask it what is true of its data.
    fn facts(&self) -> Option<&'static dyn FactsSource> {
        None
    }

    /// Returns how it makes a backup of itself.
    fn native(&self) -> Option<&'static dyn native::NativeBackup> {
        None
    }

    /// Returns how to boot a copy of its data.
    fn sandbox(&self) -> Option<&'static dyn SandboxSource> {
        None
    }

    /// Returns what it advises.
    fn advice(&self) -> &'static dyn Advice {
        &advice::Silent
    }
}

/// Returns every known database.
#[must_use]
pub fn all() -> &'static [&'static dyn Database] {
    &[&postgres::Postgres]
}

/// Returns the database of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn Database> {
    all().iter().copied().find(|database| database.name() == name)
}

/// Returns the database that a container runs, or was made to run.
#[must_use]
pub fn of(container: &Container) -> Option<&'static dyn Database> {
    let runs =
        |database: &&dyn Database| database.server().is_some_and(|server| server.recognises(container));
    all().iter().copied().find(runs)
}

/// Returns the server that a container runs, or was made to run.
#[must_use]
pub fn server_of(container: &Container) -> Option<&'static dyn Server> {
    of(container)?.server()
}

/// Returns the server that a container that does not run may have run; see [`Server::may_have_run_in`].
#[must_use]
pub fn server_that_may_have_run_in(container: &Container) -> Option<&'static dyn Server> {
    all().iter().filter_map(|database| database.server()).find(|server| server.may_have_run_in(container))
}

/// Returns the server that a container runs: by the database's name if that was recorded, otherwise by how the
/// container looks. An image that has changed since may no longer say it.
#[must_use]
pub fn server_by(name: Option<&str>, container: &Container) -> Option<&'static dyn Server> {
    let recorded = name.and_then(named).and_then(Database::server);
    recorded.or_else(|| server_of(container))
}

/// Returns what is known of the files of the database of that name.
#[must_use]
pub fn files_of(name: &str) -> Option<&'static dyn DataFiles> {
    named(name)?.files()
}

/// Returns what the database of that name advises; nothing if it is not known.
#[must_use]
pub fn advice_of(name: &str) -> &'static dyn Advice {
    named(name).map_or(&advice::Silent, Database::advice)
}

/// Returns where a database's files stand in its log, if they tell.
#[must_use]
pub fn position(inspection: &Inspection) -> Option<Position> {
    files_of(&inspection.engine)?.position(inspection)
}
