//! Files: writing to a disk so that its other users do not feel it, and whose a file is.

pub(crate) mod ownership;
pub(crate) mod secret_file;
pub(crate) mod uncached_writer;
pub(crate) mod whole_file;
pub(crate) mod writeback;
