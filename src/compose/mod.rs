//! Compose: what its labels say of a container, which project a directory belongs to, and how to find, edit
//! and use the files of a project.
//!
//! The engine's own records (labels) come first: they are true of what runs, whatever the files say
//! by now. volsnap edits a file only if it still says what the container has.
//!
//! | file | holds |
//! |---|---|
//! | [`edit`] | the edit itself: another mount, and every other byte as it was |
//! | [`configuration`] | what Compose makes of the files, and where a container has something else |
//! | [`environment`] | variables in the files |
//! | [`files`] | finding a project's files by a container's labels |
//! | [`replacement`] | replacing a whole file, and putting it back |
//! | [`command`] | running `docker compose` or `docker-compose` |
//! | [`runner`] | the programs themselves, or their stand-in in a test |
//! | `secrets` | what Compose may quote, and nobody may read |
//! | `recreate` | recreating the containers of services |

pub mod command;
pub mod configuration;
pub mod edit;
pub mod environment;
pub mod files;
mod labels;
mod project;
mod recreate;
pub mod replacement;
pub mod runner;
mod secrets;

pub use command::MARK;
pub use labels::{
    CONFIG_HASH_LABEL, Membership, VOLUME_LABEL, VolumeKey, WORKING_DIR_LABEL, labels_by_name,
    labels_in_place, project_of, volume_labels,
};
pub use project::{DirectoryProject, normalize_project_name, projects_below};
use project::{FILE_NAMES, OVERRIDE_NAMES};
pub use recreate::{RECREATE_LIMIT, Recreate, RecreateError};
