//! Our code that runs inside the helper container, next to the data, and the command's way to talk
//! to it.
//!
//! | room | what |
//! |---|---|
//! | [`protocol`] | what the two sides say to each other |
//! | [`client`] | the command's side |
//! | [`session`] | the agent's side |
//! | [`survey`], [`tree`], [`archive`] | what the agent does |

pub mod archive;
pub mod client;
pub mod protocol;
pub mod session;
pub mod survey;
pub mod tree;
