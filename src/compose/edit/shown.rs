//! An edit as others may see it: on a terminal, in a log, in JSON.
//!
//! A Compose file has passwords in it, and whoever looks at a plan may share it. So an edit shows the lines that change
//! and none around them, and in these only what changes: whatever else a line says, such as the environment of a
//! service that is written on one line, is `***`, and a comment is `…`.

use std::collections::BTreeMap;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::yaml::Document;

/// What stands in place of a value.
pub(crate) const MASK: &str = "***";

/// Returns both texts with everything masked that is the same in both; line by line, they differ where the originals
/// do. `None` if one of them cannot be read.
pub(super) fn masked(before: &str, after: &str) -> Option<(String, String)> {
    let (old, new) = (Document::parse(before).ok()?, Document::parse(after).ok()?);
    let (old_values, new_values) = (old.values(), new.values());
    let texts = |values: &[Value<'_>]| values.iter().map(|value| value.text.to_owned()).collect::<Vec<_>>();
    let (old_texts, new_texts) = (texts(&old_values), texts(&new_values));
    let mut changed = (vec![false; old_texts.len()], vec![false; new_texts.len()]);
    for operation in capture_diff_slices(Algorithm::Myers, &old_texts, &new_texts) {
        if !matches!(operation, DiffOp::Equal { .. }) {
            changed.0[operation.old_range()].fill(true);
            changed.1[operation.new_range()].fill(true);
        }
    }
    // A comparison can line up equal words in a way of its own. What stands as often as before has not changed.
    let (old_counts, new_counts) = (counts(&old_texts), counts(&new_texts));
    let differs = |text: &str| old_counts.get(text) != new_counts.get(text);
    let shown = |values: &[Value<'_>], changed: &[bool]| -> Vec<bool> {
        values
            .iter()
            .zip(changed)
            .map(|(value, changed)| value.is_key || (*changed && differs(value.text)))
            .collect()
    };
    let (old_shown, new_shown) = (shown(&old_values, &changed.0), shown(&new_values, &changed.1));
    Some((write(before, &old_values, &old_shown), write(after, &new_values, &new_shown)))
}

/// The keys of a service whose values may be secrets; also what begins with `x-`.
const SECRET_KEYS: [&str; 11] = [
    "args",
    "command",
    "content",
    "driver_opts",
    "entrypoint",
    "environment",
    "healthcheck",
    "labels",
    "options",
    "post_start",
    "sysctls",
];

/// Returns the values in a Compose file that may be secrets: what it sets in containers, images and labels. Of
/// `NAME=value`, the value.
pub(crate) fn secrets_in(text: &str) -> Vec<String> {
    let Ok(document) = Document::parse(text) else { return Vec::new() };
    let (mut found, mut open) =
        (Vec::new(), Vec::from_iter(document.roots().iter().map(|root| (*root, false))));
    while let Some((id, secret)) = open.pop() {
        let id = document.resolve(id);
        open.extend(document.items(id).iter().map(|item| (*item, secret)));
        open.extend(document.pairs(id).iter().map(|(key, value)| {
            let key = document.scalar(*key).unwrap_or_default();
            (*value, secret || SECRET_KEYS.contains(&key) || key.starts_with("x-"))
        }));
        if let Some(value) = document.scalar(id).filter(|_| secret) {
            found.push(value.split_once('=').map_or(value, |(_, value)| value).to_owned());
        }
    }
    found
}

/// A scalar as it is written.
pub(super) struct Value<'t> {
    pub(super) start: usize,
    pub(super) text: &'t str,
    /// Whether it names a value, rather than being one.
    pub(super) is_key: bool,
}

fn counts(texts: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text.as_str()).or_default() += 1;
    }
    counts
}

/// Returns the text with all values masked but those to be shown; lines stay lines.
fn write(text: &str, values: &[Value<'_>], shown: &[bool]) -> String {
    let (mut out, mut at) = (String::new(), 0);
    for (value, shown) in values.iter().zip(shown) {
        out.push_str(&without_comments(&text[at..value.start]));
        if *shown || value.text.is_empty() {
            out.push_str(value.text);
        } else {
            out.push_str(MASK);
            out.extend(value.text.chars().filter(|c| *c == '\n'));
        }
        at = value.start + value.text.len();
    }
    out.push_str(&without_comments(&text[at..]));
    out
}

/// Returns what stands between values, with `…` for what its comments say.
fn without_comments(gap: &str) -> String {
    let line = |line: &str| match line.find('#') {
        Some(at) => {
            let ending = if line.ends_with('\n') { "\n" } else { "" };
            format!("{}# …{ending}", &line[..at])
        }
        None => line.to_owned(),
    };
    gap.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::FileEdit;

    const SECRETS: [&str; 4] = ["hunter2", "s3cr3t", "token-x", "note-y"];

    #[rstest]
    #[case::block(
        "services:\n  db:\n    environment:\n      PASSWORD: hunter2\n    volumes:\n      - data:/x # note-y\n    labels:\n      - a=token-x\n",
        ("data:/x", "/srv/d:/x"),
        "-      - data:/x # …\n+      - /srv/d:/x # …\n"
    )]
    #[case::one_line(
        "services: {db: {environment: {PASSWORD: hunter2, 'B': \"s3cr3t\"}, volumes: [\"data:/x\"], labels: [token-x]}} # note-y\n",
        ("data:/x", "/srv/d:/x"),
        "-services: {db: {environment: {PASSWORD: ***, 'B': ***}, volumes: [\"data:/x\"], labels: [***]}} # …\n\
         +services: {db: {environment: {PASSWORD: ***, 'B': ***}, volumes: [\"/srv/d:/x\"], labels: [***]}} # …\n"
    )]
    #[case::same_word(
        "a: {p: data, volumes: [{source: data, s: hunter2}]}\n",
        ("source: data", "source: /d"),
        "-a: {p: ***, volumes: [{source: data, s: ***}]}\n+a: {p: ***, volumes: [{source: /d, s: ***}]}\n"
    )]
    #[case::several_lines(
        "a: {k: &k \"hunter2\n  s3cr3t\", v: data}\n",
        ("data", "/d"),
        "-, v: data}\n+, v: /d}\n"
    )]
    #[case::not_yaml("a: [hunter2\nb: data\n", ("data", "/d"), "")]
    fn only_what_changes_is_shown(
        #[case] before: &str,
        #[case] (from, to): (&str, &str),
        #[case] expected: &str,
    ) {
        let edit = FileEdit {
            path: "/srv/compose.yaml".into(),
            before: Some(before.to_owned()),
            after: Some(before.replacen(from, to, 1)),
            parts: Vec::new(),
        };
        let diff = edit.diff();
        let is_line = |line: &&str| {
            line.starts_with(['-', '+']) && !line.starts_with("---") && !line.starts_with("+++")
        };
        let lines: String = diff.lines().filter(is_line).flat_map(|line| [line, "\n"]).collect();
        for secret in SECRETS {
            assert!(!diff.contains(secret), "{diff}");
        }
        assert_eq!(lines, expected, "{diff}");
    }
}
