//! Our code inside the helper container: it sees the data, and nothing else.

pub mod archive;
pub mod tree;
