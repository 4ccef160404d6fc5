//! Variables in a Compose file: `${NAME:-default}` and its kin, and where their values come from.
//!
//! The shell that ran Compose is gone, so nobody knows a value that came from there, and nothing here guesses it.

use std::collections::BTreeMap;

/// Values of variables.
pub type Environment = BTreeMap<String, String>;

/// A variable without a known value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the variable {0} has no value here")]
pub struct Unknown(
    /// The variable.
    pub String,
);

/// Deeper than anybody nests defaults.
const MAX_DEPTH: usize = 16;

/// Returns the text with its variables replaced, by Compose's rules.
///
/// # Errors
/// When a variable has no value and no default.
pub fn interpolate(text: &str, environment: &Environment) -> Result<String, Unknown> {
    interpolate_within(text, environment, 0)
}

fn interpolate_within(text: &str, environment: &Environment, depth: usize) -> Result<String, Unknown> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        let name = name_at(after);
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some((inside, after)) = after.strip_prefix('{').and_then(braced) {
            out.push_str(&expand(inside, environment, depth + 1)?);
            after
        } else if name.is_empty() {
            out.push('$');
            after
        } else {
            out.push_str(environment.get(name).ok_or_else(|| Unknown(name.to_owned()))?);
            &after[name.len()..]
        };
    }
    out.push_str(rest);
    Ok(out)
}

/// Returns what is between the braces, and what follows them; the opening brace is already gone.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn name_at(text: &str) -> &str {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) { "" } else { &text[..end] }
}

/// Returns the value of what stands between braces, such as `NAME:-default`.
fn expand(inside: &str, environment: &Environment, depth: usize) -> Result<String, Unknown> {
    let name = name_at(inside);
    let (value, operator) = (environment.get(name), &inside[name.len()..]);
    if depth > MAX_DEPTH {
        return Err(Unknown(name.to_owned()));
    }
    let (not_empty, operator) = match operator.strip_prefix(':') {
        Some(operator) => (value.filter(|value| !value.is_empty()), operator),
        None => (value, operator),
    };
    let word = |text: &str| interpolate_within(text, environment, depth);
    match (operator.chars().next(), not_empty) {
        (Some('+'), Some(_)) => word(&operator[1..]),
        (Some('+'), None) => Ok(String::new()),
        (_, Some(value)) => Ok(value.clone()),
        (Some('-'), None) => word(&operator[1..]),
        (_, None) => Err(Unknown(name.to_owned())),
    }
}

/// Returns the variables that an environment file sets, in the form of `.env`.
#[must_use]
pub fn variables_of(file: &str) -> Environment {
    let mut variables = Environment::new();
    for line in file.lines() {
        let line = line.trim_start().trim_start_matches('\u{feff}');
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.trim_end();
        if name.is_empty() || name_at(name) != name {
            continue;
        }
        let value = value_of(value, &variables);
        variables.insert(name.to_owned(), value);
    }
    variables
}

fn value_of(text: &str, before: &Environment) -> String {
    let text = text.trim();
    let quoted = |quote: char| text.strip_prefix(quote)?.split_once(quote).map(|(value, _)| value);
    if let Some(literal) = quoted('\'') {
        return literal.to_owned();
    }
    let value = quoted('"').unwrap_or_else(|| {
        if text.starts_with('#') { "" } else { text.split(" #").next().unwrap_or_default().trim_end() }
    });
    interpolate(value, before).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("pgdata", Ok("pgdata"))]
    #[case::bare("$SET/x", Ok("value/x"))]
    #[case::braces("${SET}x", Ok("valuex"))]
    #[case::default("${UNSET:-pgdata}", Ok("pgdata"))]
    #[case::default_where_empty("${EMPTY:-pgdata}", Ok("pgdata"))]
    #[case::default_where_unset("${EMPTY-pgdata}", Ok(""))]
    #[case::nested("${UNSET:-${SET}/d}", Ok("value/d"))]
    #[case::required("${SET:?must be set}", Ok("value"))]
    #[case::instead("${SET:+other}", Ok("other"))]
    #[case::instead_of_nothing("${UNSET+other}", Ok(""))]
    #[case::dollar("a$$b", Ok("a$b"))]
    #[case::unset("$UNSET", Err("UNSET"))]
    #[case::unset_and_required("${UNSET:?must be set}", Err("UNSET"))]
    #[case::empty_and_required("${EMPTY:?must be set}", Err("EMPTY"))]
    #[case::never_closed("${SET", Ok("${SET"))]
    fn variables_are_replaced_by_composes_rules(#[case] text: &str, #[case] expected: Result<&str, &str>) {
        let environment = variables_of("SET=value\nEMPTY=\n");
        let expected = expected.map(str::to_owned).map_err(|name| Unknown(name.to_owned()));
        assert_eq!(interpolate(text, &environment), expected);
    }

    #[test]
    fn an_environment_file_is_read() {
        let file = "# c\nA=1\nexport B = 'it $A' # c\nC=\"x $A\"\nD=plain # c\nE=\nF=a#b\nnot a line\n1X=1\n";
        let expected = [("A", "1"), ("B", "it $A"), ("C", "x 1"), ("D", "plain"), ("E", ""), ("F", "a#b")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables_of(file), Environment::from(expected));
    }
}
