//! The one format of a snapshot: an archive, a file list and a manifest, as objects of a store.
//!
//! | file | holds |
//! |---|---|
//! | [`layout`] | the names of the objects |
//! | `writer` | an object, written and digested as its bytes come |
//! | `publish` | the objects of a snapshot, until its manifest makes it exist |

pub mod layout;
mod publish;
mod writer;

pub use publish::PendingSnapshot;
pub use writer::{SnapshotObjectWriter, Stored};
