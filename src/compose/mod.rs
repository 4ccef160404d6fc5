//! Compose: what its labels say of a container, which project a directory belongs to, and how the files
//! of a project are found, edited and put to use.
//!
//! The engine's own records (labels) come first: they are true of what runs, whatever the files say
//! by now. A file is edited only where it still says what the container has.
//!
//! | file | holds |
//! |---|---|
//! | [`edit`] | the edit itself: another mount, and every other byte as it was |
//! | [`environment`] | variables in the files |
//! | [`files`] | finding a project's files by a container's labels |
//! | [`replacement`] | writing a file whole, and putting it back |
//! | [`command`] | running `docker compose` or `docker-compose` |
//! | [`runner`] | the programs themselves, or what plays them in a test |
//! | `recreate` | making the containers of services anew |

pub mod command;
pub mod edit;
pub mod environment;
pub mod files;
mod labels;
mod project;
mod recreate;
pub mod replacement;
pub mod runner;

pub use command::MARK;
pub use labels::{CONFIG_HASH_LABEL, Membership, VOLUME_LABEL, VolumeKey, WORKING_DIR_LABEL, volume_labels};
pub use project::{DirectoryProject, normalize_project_name};
use project::{FILE_NAMES, OVERRIDE_NAMES};
pub use recreate::{RECREATE_LIMIT, Recreate, RecreateError};
