//! How to show and paste odd names. Names are data: they may hold anything.

use std::fmt::Write as _;

/// Returns `text` on one line. Escapes the characters that would act on a terminal or hide text:
/// control characters, and those that turn or join text unseen.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Returns `text` as one word of a shell command line, on one line.
///
/// Plain words stay as they are. Words that would act on a terminal are written in the `$'…'` form
/// that bash, zsh and POSIX 2024 shells know.
#[must_use]
pub fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else if text.chars().any(acts) {
        format!("$'{}'", ansi_c(text))
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn ansi_c(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        if c == '\'' || c == '\\' {
            quoted.extend(['\\', c]);
        } else if acts(c) {
            // By bytes: every shell that has the form knows three octal digits.
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(quoted, "\\{byte:03o}");
            }
        } else {
            quoted.push(c);
        }
    }
    quoted
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("volume:pgdata", "volume:pgdata")]
    #[case("path:/data/my pg", "'path:/data/my pg'")]
    #[case("a;rm -rf $HOME", "'a;rm -rf $HOME'")]
    #[case("it's", r"'it'\''s'")]
    #[case("a\nb's\\", r"$'a\012b\'s\\'")]
    #[case("", "''")]
    #[case("~", "'~'")]
    fn a_name_is_quoted_only_where_it_must_be(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(shell_quote(name), expected);
    }

    #[rstest]
    #[case("plain ü;'", "plain ü;'")]
    #[case("a\nb\u{1b}[31m", r"a\nb\u{1b}[31m")]
    #[case("abc\u{202e}cba", r"abc\u{202e}cba")]
    fn what_acts_on_a_terminal_is_escaped(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(printable(name), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_a_quoted_name_as_it_was(name in "([^\0]|\\PC|[ '\"\\\\$`;\n\t\u{1b}!*]){0,20}") {
            let script = format!("printf %s {}", shell_quote(&name));
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), name);
        }

        #[test]
        fn what_is_shown_stays_on_one_line(name in "\\PC*|.*|[\\x00-\\x1f]*") {
            prop_assert!(!printable(&name).chars().any(char::is_control));
            prop_assert!(!shell_quote(&name).chars().any(char::is_control));
        }
    }
}
