//! Our code that runs inside the helper container, next to the data.
pub mod protocol;
pub mod survey;
