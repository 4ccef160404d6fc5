//! Our code that runs inside the helper container, next to the data, and the command's way to talk to it.
//!
//! | room | what |
//! |---|---|
//! | [`protocol`], [`calls`] | what the two sides say to each other, and what the command may ask |
//! | [`client`] | the command's side |
//! | [`session`] | the agent's side |
//! | [`dialogue`] | taking apart what goes to the agent, for whoever stands between |
//! | [`survey`], [`tree`], [`archive`] | what the agent does to save data |
//! | [`staging`] | how the agent copies data that is still being written |
//! | [`extract`], [`swap`], [`metadata`] | what the agent does to restore data |

pub mod archive;
pub mod calls;
pub mod client;
pub mod dialogue;
pub mod extract;
pub mod feed;
pub mod metadata;
pub mod protocol;
pub mod session;
pub mod staging;
pub mod survey;
pub mod swap;
pub mod tree;

/// Returns how to test properties: with as many cases as `PROPTEST_CASES` says, or with this many without it.
#[cfg(test)]
fn cases(few: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { few };
    proptest::test_runner::Config { cases, failure_persistence: None, ..config }
}
