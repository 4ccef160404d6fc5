//! The short form of a mount, `SOURCE:TARGET:MODE`, and how to write text as a YAML scalar.

use super::yaml::Style;

/// The parts of a mount in its short form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShortMount<'t> {
    /// What is mounted; none for a volume that nobody named.
    pub(super) source: Option<&'t str>,
    /// The path in the container.
    pub(super) target: &'t str,
    /// Options, such as "ro,z".
    pub(super) mode: Option<&'t str>,
}

impl<'t> ShortMount<'t> {
    /// Returns the parts of a text. A colon in `${NAME:-default}` separates nothing.
    pub(super) fn split(text: &'t str) -> Self {
        let (mut parts, mut depth, mut begin) = (Vec::new(), 0_usize, 0);
        for (at, c) in text.char_indices() {
            match c {
                '{' if text[..at].ends_with('$') || depth > 0 => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                ':' if depth == 0 && parts.len() < 2 => {
                    parts.push(&text[begin..at]);
                    begin = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&text[begin..]);
        match parts[..] {
            [source, target] => Self { source: Some(source), target, mode: None },
            [source, target, mode] => Self { source: Some(source), target, mode: Some(mode) },
            _ => Self { source: None, target: text, mode: None },
        }
    }

    /// Returns the options that also apply to another kind of source.
    pub(super) fn kept_modes(&self) -> Vec<&'t str> {
        let kept = |mode: &&str| matches!(*mode, "ro" | "rw" | "z" | "Z") || mode.contains('$');
        self.mode.map(|mode| mode.split(',').filter(kept).collect()).unwrap_or_default()
    }
}

/// Returns a text as a scalar in the wanted style, with quotes if it needs them.
pub(super) fn scalar(text: &str, style: Style, in_flow: bool) -> String {
    match style {
        Style::Single => format!("'{}'", text.replace('\'', "''")),
        Style::Plain if is_plain(text, in_flow) => text.to_owned(),
        _ => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

/// Returns whether a text means itself without quotes.
fn is_plain(text: &str, in_flow: bool) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '.' | '_' | '$'));
    let looks_like_key = text.contains(": ") || text.contains(" #") || text.ends_with([':', ' ']);
    let brackets = in_flow && text.contains([',', '[', ']', '{', '}']);
    first && !looks_like_key && !brackets && !WORDS.contains(&text.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::anonymous("/x", None, "/x", None)]
    #[case::named("pgdata:/x", Some("pgdata"), "/x", None)]
    #[case::mode("pgdata:/x:ro,z", Some("pgdata"), "/x", Some("ro,z"))]
    #[case::default("${VOL:-pgdata}:/x", Some("${VOL:-pgdata}"), "/x", None)]
    #[case::nested("${A:-${B:-c}}:${T:-/x}:${M:-ro}", Some("${A:-${B:-c}}"), "${T:-/x}", Some("${M:-ro}"))]
    fn a_short_mount_is_parted(
        #[case] text: &str,
        #[case] source: Option<&str>,
        #[case] target: &str,
        #[case] mode: Option<&str>,
    ) {
        assert_eq!(ShortMount::split(text), ShortMount { source, target, mode });
    }

    #[rstest]
    #[case("/data/pg:/x", Style::Plain, false, "/data/pg:/x")]
    #[case("/data/a #b", Style::Plain, false, "\"/data/a #b\"")]
    #[case("/data/a,b", Style::Plain, true, "\"/data/a,b\"")]
    #[case("/it's", Style::Single, false, "'/it''s'")]
    #[case("/a\"b\\", Style::Double, false, "\"/a\\\"b\\\\\"")]
    #[case("123", Style::Plain, false, "\"123\"")]
    #[case("off", Style::Plain, false, "\"off\"")]
    #[case("/a b", Style::Plain, false, "/a b")]
    fn text_gets_the_quotes_that_it_needs(
        #[case] text: &str,
        #[case] style: Style,
        #[case] in_flow: bool,
        #[case] expected: &str,
    ) {
        assert_eq!(scalar(text, style, in_flow), expected);
    }
}
