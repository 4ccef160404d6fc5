//! What the user names, and how it becomes a [`Source`](crate::source::Source). Pure rules over
//! what the engine has on record: no engine calls, no clock.
