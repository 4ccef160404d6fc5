//! What else the user wants to be true, in `volsnap.toml`. Each entry is a query that returns one value, and the value
//! that is expected.
//!
//! ```
//! # use volsnap::model::project_file::ProjectFile;
//! let checks: ProjectFile = r#"
//!     [[check]]
//!     name = "images have bytes"
//!     sql = "select count(*) from images where octet_length(data) = 0"
//!     expect = "= 0"
//!
//!     [[check]]
//!     name = "templates"
//!     sql = "select count(*) from templates"
//!     database = "memory_db"
//!     expect = "unchanged"
//! "#.parse()?;
//! assert_eq!(checks.check.len(), 2);
//! # Ok::<(), volsnap::model::project_file::InvalidProjectFile>(())
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The checks of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    /// The checks, in their order.
    pub check: Vec<Check>,
}

/// One thing that should be true.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name; no two checks have the same.
    pub name: String,
    /// A query that returns one value. It runs read-only, and the list of processes may show it.
    pub sql: String,
    /// The database to query; by default the service's own.
    #[serde(default)]
    pub database: Option<String>,
    /// The value that is expected.
    pub expect: Expectation,
}

/// The value that a check expects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Expectation {
    /// What it was before.
    Unchanged,
    /// A number that compares with this one by the sign.
    Number(Sign, i128),
}

/// How two numbers have to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

/// A longer sign stands before the one it begins with.
const SIGNS: [(&str, Sign); 6] = [
    (">=", Sign::AtLeast),
    ("<=", Sign::AtMost),
    ("!=", Sign::NotEqual),
    ("=", Sign::Equal),
    (">", Sign::Greater),
    ("<", Sign::Less),
];

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Its name.
    pub name: String,
    /// The value that is expected.
    pub expect: String,
    /// The value that it has; `None` if the query failed.
    pub value: Option<String>,
    /// The value before, if that matters and is known.
    pub before: Option<String>,
    /// Whether the value is as expected.
    pub ok: bool,
    /// What is wrong, or worth knowing.
    pub why: Option<String>,
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is none of: \"= 0\", \"> 0\", \">= N\", \"unchanged\"");
        let text = text.trim();
        if text == "unchanged" {
            return Ok(Self::Unchanged);
        }
        let (rest, comparison) = SIGNS
            .iter()
            .find_map(|(sign, comparison)| Some((text.strip_prefix(sign)?, *comparison)))
            .ok_or_else(wrong)?;
        Ok(Self::Number(comparison, rest.trim().parse().map_err(|_| wrong())?))
    }
}

impl TryFrom<String> for Expectation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("unchanged"),
            Self::Number(comparison, number) => {
                let sign = SIGNS.iter().find(|(_, one)| one == comparison).map_or("=", |(sign, _)| sign);
                write!(f, "{sign} {number}")
            }
        }
    }
}

impl Sign {
    fn holds(self, value: i128, number: i128) -> bool {
        match self {
            Self::Equal => value == number,
            Self::NotEqual => value != number,
            Self::Less => value < number,
            Self::AtMost => value <= number,
            Self::Greater => value > number,
            Self::AtLeast => value >= number,
        }
    }
}

impl Check {
    /// Returns the result of the check. `value` is what the query returned, or why it returned nothing;
    /// `before` is what it returned the last time.
    #[must_use]
    pub fn judge(&self, value: Result<String, String>, before: Option<&str>) -> Checked {
        let before = before.filter(|_| self.expect == Expectation::Unchanged).map(str::to_owned);
        let (ok, why) = match (&value, &self.expect) {
            (Err(why), _) => (false, Some(why.clone())),
            (Ok(value), Expectation::Unchanged) => match &before {
                Some(before) => (before == value, None),
                None => (true, Some("nothing to compare with yet".to_owned())),
            },
            (Ok(value), Expectation::Number(comparison, number)) => match value.trim().parse() {
                Ok(value) => (comparison.holds(value, *number), None),
                Err(_) => (false, Some("the query gives no whole number".to_owned())),
            },
        };
        Checked {
            name: self.name.clone(),
            expect: self.expect.to_string(),
            value: value.ok(),
            before,
            ok,
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn check(expect: &str) -> Check {
        Check { name: "c".into(), sql: "select 1".into(), database: None, expect: expect.parse().unwrap() }
    }

    #[rstest]
    #[case("= 0", "0", true)]
    #[case("= 0", "1", false)]
    #[case("> 0", "1", true)]
    #[case("> 0", "0", false)]
    #[case(">= 100", "100", true)]
    #[case(">= 100", "99", false)]
    #[case("<= -1", "-1", true)]
    #[case("<3", "3", false)]
    #[case("!= 3", "3", false)]
    #[case("= 0", "", false)]
    #[case("= 0", "no number", false)]
    #[case("= 1", "1.5", false)]
    fn a_number_is_compared_as_it_says(#[case] expect: &str, #[case] value: &str, #[case] ok: bool) {
        assert_eq!(check(expect).judge(Ok(value.to_owned()), None).ok, ok);
    }

    #[test]
    fn unchanged_is_what_it_was_before_whatever_that_is() {
        let judge = |value: &str, before| check("unchanged").judge(Ok(value.to_owned()), before);
        assert!(judge("a|b", Some("a|b")).ok);
        let differs = judge("6", Some("5"));
        assert_eq!((differs.ok, differs.before.as_deref()), (false, Some("5")));
        let first = judge("5", None);
        assert!(first.ok && first.why.is_some());
    }

    #[test]
    fn a_query_that_fails_is_not_as_it_is_to_be() {
        let failed = check("unchanged").judge(Err("relation \"x\" does not exist".into()), Some("1"));
        assert!(!failed.ok && failed.value.is_none());
        assert_eq!(failed.why.as_deref(), Some("relation \"x\" does not exist"));
    }
}
