//! Volume snapshots for databases in Docker.
//!
//! volsnap stops a database service, captures the named volume or host directory that holds its
//! data through a throwaway container, and starts the service again. It proves the shutdown by the
//! database's own files, and publishes an archive that plain `tar` can read.
//!
//! # What is promised
//!
//! - **G1 The service comes back.** A [journal](saga) records every effect, and what undoes it, before the
//!   effect happens. Whoever holds the journal can finish: the process itself, the guard that it leaves
//!   watching, `volsnap recover`, or the next command.
//! - **G2 Half is nothing.** A snapshot exists when its [manifest](model::manifest) exists, and the manifest is
//!   written last, durably ([repository]).
//! - **G3 Never worse.** volsnap checks what it can check before it touches live data. A
//!   [restore](ops::restore) writes beside that data, swaps by renames, and puts the old data back unless the
//!   database is proved to run on the new. A [migration](ops::migrate) keeps the old data, and puts files and
//!   containers back unless the same database is proved to run on the copy.
//! - **G4 "clean" is proved** by the database's own files ([database]), before and after the copy.
//! - **G5 The archive holds what was there.** Every file is digested as it is read ([archive]).
//! - **G6 Plain tools read it.** `tar --zstd -xf` restores an archive without volsnap.
//! - **G7 Nothing leaks.** No secret in a log, a message, JSON, a process list or a manifest.
//! - **G8 Failures speak.** Every [`Error`] says what volsnap was doing to what, what
//!   state things are in now, and the next command to type.
//!
//! # Layers
//!
//! A room may use the rooms below it, never one above or beside it; `scripts/layers` reads this table and
//! holds every file to it. `cli` and `render` are modules of the binary, so the compiler forbids the
//! library to print or to parse a command line; `cli` may use `render`. A room inside another, as
//! `engine::memory`, has a row of its own, and may use what is beside it in there.
//!
//! | rooms | what they are about |
//! |---|---|
//! | [`ops`] | the procedures, a verb each |
//! | [`undo`] | what takes an effect back, an undo each |
//! | [`service`], [`selector`] | a service that goes and comes back; what the user names, and what that means |
//! | [`engine::memory`], [`engine::failing`], `engine::failing_agent`, `engine::failing_compose` | an engine in memory, and one that fails, with all that they play, for tests |
//! | [`agent`] | our code inside the helper container, and the command's way to talk to it |
//! | [`repository`], [`database`] | where snapshots are kept; what is known of each database |
//! | [`store`] | where the objects of a repository lie, here or at a server, by address and key |
//! | [`compose`], [`engine`] | Compose: its labels, its files and their edit, its command; the engine |
//! | [`saga`] | the journal, the guard and the run of the undos, whatever they undo |
//! | [`model`] | pure data and rules: no engine, no clock, no files |
//! | [`archive`], [`crypt`], `disk`, [`clock`], [`signal`], [`outside`] | bytes: blocks, tar, file list; how they are encrypted; how files are written; time and chance; signals; threads, counted |
//!
//! # The shape, and why it is so
//!
//! - A verb in [`ops`] reads as its story: prepare, consent, hold, work, release. [`Run`](ops) is the frame, written
//!   once. The run executes the very plan that it showed; a dry run is a declined plan.
//! - The [`saga`] knows no engine. What it runs is a [`Compensation`](saga::Compensation); [`undo::Undo`] is ours. It
//!   undoes things in the order of their [`Rank`](saga::Rank), not in the order of their registration.
//! - Holding is in [`ops`], not in [`service`]: holding journals, and the undos use [`service`].
//! - Only a database's own folder in [`database`] knows anything of that database. A database has halves that are used
//!   apart: the command asks a [server](database::Server), the agent reads [files](database::DataFiles), and each
//!   database has those halves that are known of it. The journal says which database a container ran, and recovery
//!   believes it. `scripts/databases` checks the sources for this.
//! - A [repository] is a struct over a [`store::Store`], not a trait: there is one format, the
//!   [tarball](repository::tarball).
//! - A [`Source`](model::source::Source) is one volume or directory, though a manifest has
//!   [`Parts`](model::manifest::Parts): files outlive the program and must have room for what comes, values need not. A
//!   snapshot of several volumes adds a list of sources under one hold, which is of containers and knows no source; each
//!   source has a helper, a stage and an archive of its own then as now.
//! - Command and helper are of one build, but for an image that somebody has named or kept. So their
//!   [protocol](agent::protocol) has a version and no compatibility: another one is refused before anything is touched,
//!   and whoever finishes a dead run whose image is of no use takes an image of its own.
//! - The time of day and what is drawn by chance come from the [`Clock`](clock::Clock) in [`ops::Context`], and from
//!   nowhere else, so that a test can pin all that is written.

pub mod agent;
pub mod archive;
pub mod clock;
pub mod compose;
pub mod crypt;
pub mod database;
mod disk;
pub mod engine;
pub mod model;
pub mod ops;
pub mod outside;
pub mod repository;
pub mod saga;
pub mod selector;
pub mod service;
pub mod signal;
pub mod store;
pub mod undo;

pub use model::error::{Error, ErrorKind, Result};
