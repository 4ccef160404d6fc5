//! `volsnap.toml`: what a person says of the services of a project, or of the machine.
//!
//! The file is small and strict: a key that volsnap does not know is an error, so that nothing that somebody meant is
//! left undone without a word. Where it may lie, and whose it must be, is said where it is looked for.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::Deserialize;

use super::facts::checks::Check;
use super::own_commands::OwnCommands;

/// The name of the file.
pub const FILE_NAME: &str = "volsnap.toml";

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectFile {
    /// The checks of the data, in their order.
    #[serde(default)]
    pub check: Vec<Check>,
    /// Commands for services, by name: that of the service, or of a container; in the file of the machine,
    /// `PROJECT/SERVICE`.
    #[serde(default)]
    pub commands: BTreeMap<String, OwnCommands>,
}

/// A file that makes no sense; says where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .message.trim_end())]
pub struct InvalidProjectFile {
    message: String,
}

impl FromStr for ProjectFile {
    type Err = InvalidProjectFile;

    fn from_str(text: &str) -> Result<Self, InvalidProjectFile> {
        let file: Self =
            toml::from_str(text).map_err(|error| InvalidProjectFile { message: error.to_string() })?;
        match file.wrong() {
            Some(message) => Err(InvalidProjectFile { message }),
            None => Ok(file),
        }
    }
}

impl ProjectFile {
    /// Returns what makes no sense in it.
    fn wrong(&self) -> Option<String> {
        let mut names = BTreeSet::new();
        let wrong_check = |check: &Check| {
            if check.name.trim().is_empty() {
                Some("a check needs a name".to_owned())
            } else if !names.insert(check.name.clone()) {
                Some(format!("two checks are called {:?}", check.name))
            } else if check.sql.trim().is_empty() {
                Some(format!("the check {:?} has no sql", check.name))
            } else {
                None
            }
        };
        let in_checks = self.check.iter().find_map(wrong_check);
        in_checks.or_else(|| self.commands.iter().find_map(|(name, own)| wrong_commands(name, own)))
    }
}

fn wrong_commands(name: &str, own: &OwnCommands) -> Option<String> {
    let check = own.check.as_ref().map(|check| &check.command);
    let all = [own.ready.as_ref(), own.before_hold.as_ref(), own.after_release.as_ref(), check];
    let is_empty = |words: &[String]| words.iter().all(|word| word.trim().is_empty());
    let mut all = all.into_iter().flatten();
    let says_nothing = all.any(|command| match command.run.as_slice() {
        [_, _, line] if command.run[0] == "sh" => line.trim().is_empty(),
        words => is_empty(words),
    });
    says_nothing.then(|| format!("a command for {name:?} is empty"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("[commands.db]\nbefor_hold = 'true'", "befor_hold")]
    #[case("[commands.db]\nbefore_hold = { run = 'true', limit = 'soon' }", "before_hold")]
    #[case("[commands.db]\nbefore_hold = ''", "a command for \"db\" is empty")]
    #[case("[commands.db]\nready = []", "a command for \"db\" is empty")]
    #[case("[command.db]\nready = 'true'", "command")]
    #[case("[[check]]\nname = ''\nsql = 'x'\nexpect = '= 0'", "a check needs a name")]
    fn what_makes_no_sense_is_refused(#[case] text: &str, #[case] said: &str) {
        let error = text.parse::<ProjectFile>().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }

    #[rstest]
    #[case::unknown_field("[[check]]\nname = 'a'\nsql = 'x'\nexpect = '= 0'\nquery = 'y'\n", &["line 5", "query"])]
    #[case::unknown_table("[checks]\n", &["line 1", "checks"])]
    #[case::no_expectation("[[check]]\nname = 'a'\nsql = 'x'\n", &["line 1", "expect"])]
    #[case::odd_expectation("[[check]]\nname = 'a'\nsql = 'x'\nexpect = 'many'\n", &["line 4", "unchanged"])]
    #[case::no_number("[[check]]\nname = 'a'\nsql = 'x'\nexpect = '> a few'\n", &["line 4", ">= N"])]
    #[case::same_name("[[check]]\nname = 'a'\nsql = 'x'\nexpect = '= 0'\n[[check]]\nname = 'a'\nsql = 'y'\nexpect = '= 0'\n", &["\"a\""])]
    #[case::no_sql("[[check]]\nname = 'a'\nsql = ' '\nexpect = '= 0'\n", &["\"a\"", "sql"])]
    #[case::no_toml("check: 1\n", &["line 1"])]
    fn what_cannot_be_meant_is_refused_with_its_line(#[case] text: &str, #[case] words: &[&str]) {
        let error = text.parse::<ProjectFile>().unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
    }

    #[test]
    fn a_file_without_checks_is_one() {
        assert_eq!("".parse::<ProjectFile>().unwrap(), ProjectFile::default());
        assert_eq!("# none yet\n".parse::<ProjectFile>().unwrap(), ProjectFile::default());
    }
}
