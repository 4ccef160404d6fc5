//! How bytes reach a disk without being felt by who else uses it.

pub(crate) mod uncached_writer;
pub(crate) mod whole_file;
pub(crate) mod writeback;
