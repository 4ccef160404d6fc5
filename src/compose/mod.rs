//! Compose: what its labels say of a container, and which project a directory belongs to.
//!
//! The engine's own records (labels) come first: they are true of what runs, whatever the files say
//! by now. The files are read only for the name of a project that has no container to ask.

mod labels;
mod project;

pub use labels::{Membership, VOLUME_LABEL, VolumeKey, WORKING_DIR_LABEL, volume_labels};
pub use project::{DirectoryProject, normalize_project_name};
