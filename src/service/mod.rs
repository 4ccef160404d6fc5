//! A service, as it goes and comes back: who it is, in what order its containers go, and how they answer again.

pub mod identity;
pub mod order;
pub mod start;
