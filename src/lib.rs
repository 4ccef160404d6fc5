//! Volume snapshots for databases in Docker.
//!
//! volsnap stops a database service, captures the named volume or host directory that holds its
//! data through a throwaway container, and has the service back; it proves the shutdown by the
//! database's own files, and publishes an archive that plain `tar` can read.
//!
//! # What is promised
//!
//! - **G1 The service comes back.** Every effect is written to a [journal](saga) before it happens,
//!   beside what undoes it. The process itself, the guard it leaves watching, `volsnap recover`, or
//!   the next command: whoever holds the journal can finish.
//! - **G2 Half is nothing.** A snapshot exists when its [manifest] exists, and that is written last,
//!   durably ([repository]).
//! - **G3 Never worse.** What can be checked is checked before live data is touched; a
//!   [restore](ops::restore) writes beside it, swaps by renames, and has the old data back unless the
//!   database is proved to run on the new; a [migration](ops::migrate) keeps the old data, and has files and
//!   containers back unless the same database is proved to run on the copy.
//! - **G4 "clean" is proved** by the database's own files ([database]), before and after the copy.
//! - **G5 Stored is what was there.** Every file is digested as it is read ([archive]).
//! - **G6 Plain tools read it.** `tar --zstd -xf` restores an archive without volsnap.
//! - **G7 Nothing leaks.** No secret in a log, a message, JSON, a process list or a manifest.
//! - **G8 Failures speak.** Every [`Error`] says what was being done to what, what
//!   state things are in now, and the next command to type.
//!
//! # Layers
//!
//! A layer may use those below it, never above. `cli` and `ui` are modules of the binary, so the
//! compiler forbids the library to print or to parse a command line.
//!
//! | layer | room |
//! |---|---|
//! | the procedures | [`ops`] |
//! | what puts things back | [`saga`] |
//! | our code inside the helper container | [`agent`] |
//! | what the user names, and what that means | [`target`] |
//! | what is known of each database | [`database`] |
//! | the engine | [`docker`] |
//! | Compose: its labels, its files and their edit, its command | [`compose`] |
//! | where snapshots are kept | [`repository`] |
//! | where their objects lie, by address and key | [`store`] |
//! | bytes: blocks, tar, file list | [`archive`] |
//! | pure data and rules | [`source`], [`manifest`], [`facts`], [`quote`] |
//! | events out, signals in, errors | [`monitor`], [`signal`], [`error`](mod@error) |
//! | threads, counted for tests | [`outside`] |

pub mod agent;
pub mod archive;
pub mod compose;
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
