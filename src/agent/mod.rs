//! Our code that runs inside the helper container, next to the data, and the command's way to talk
//! to it.
//!
//! | room | what |
//! |---|---|
//! | [`protocol`], [`calls`] | what the two sides say to each other, and what may be asked |
//! | [`client`] | the command's side |
//! | [`session`] | the agent's side |
//! | [`dialogue`] | what goes to the agent, taken apart by whoever stands between |
//! | [`survey`], [`tree`], [`archive`] | what the agent does to save |
//! | [`staging`] | what the agent does to have a copy of what is still being written |
//! | [`extract`], [`swap`], [`metadata`] | what the agent does to restore |

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

/// Returns how properties are tried: with as many cases as `PROPTEST_CASES` asks for, and with these without that.
#[cfg(test)]
fn cases(few: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { few };
    proptest::test_runner::Config { cases, failure_persistence: None, ..config }
}
