//! Writing to a disk so that its other users do not feel it.

pub(crate) mod uncached_writer;
pub(crate) mod whole_file;
pub(crate) mod writeback;
