//! Secrets in what Compose says: it quotes values of the files when it does not understand them.
//!
//! What the project's files set, and what their environment files set, is masked wherever it is quoted. A file that is
//! no YAML tells nothing of the kind, so what Compose quotes of a value is masked by its own words as well.

use std::path::PathBuf;

use super::edit::{MASK, secrets_in};
use super::environment::variables_of;

/// A shorter value is masked by Compose's own words alone: it may be part of any word.
const SHORTEST: usize = 4;

/// Returns what Compose has said, without the values that these files set.
pub(super) fn masked(said: &str, files: &[PathBuf], environment_files: &[PathBuf]) -> String {
    let text = |path: &PathBuf| std::fs::read_to_string(path).ok();
    let mut secrets: Vec<String> = files.iter().filter_map(text).flat_map(|text| secrets_in(&text)).collect();
    secrets
        .extend(environment_files.iter().filter_map(text).flat_map(|text| variables_of(&text).into_values()));
    secrets.retain(|secret| secret.len() >= SHORTEST);
    // One can be part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    let known = secrets.iter().fold(said.to_owned(), |said, secret| said.replace(secret, MASK));
    let texts: Vec<String> = files.iter().chain(environment_files).filter_map(text).collect();
    let known = without_false_variables(&known, &texts);
    let known = quoted(&quoted(&known, "cannot unmarshal", '`'), "invalid interpolation format", '"');
    // Of a file of variables that it does not understand, it quotes the line (compose-go, dotenv).
    ["in variable name", "unterminated quoted value"].iter().fold(known, |said, words| cut(&said, words))
}

/// Masks what Compose takes for the name of a variable without a value, where it may be a piece of a password with a `$`
/// in it. What stands in braces is a name, and so is a word of capitals that stands alone.
fn without_false_variables(said: &str, texts: &[String]) -> String {
    const WORDS: &str = " variable is not set";
    let is_name = |name: &str| {
        let (in_braces, bare) = (format!("${{{name}"), format!("${name}"));
        let alone = |text: &String| {
            let mut places = text.match_indices(&bare).map(|(at, found)| (at, at + found.len()));
            places.all(|(start, end)| {
                let (before, after) = (text[..start].chars().next_back(), text[end..].chars().next());
                let is_edge =
                    |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_' && c != '$');
                is_edge(before) && is_edge(after)
            })
        };
        let capitals = name.chars().all(|c| matches!(c, 'A'..='Z' | '0'..='9' | '_'));
        texts.iter().any(|text| text.contains(&in_braces)) || (capitals && texts.iter().all(alone))
    };
    let line = |line: &str| {
        let Some((head, tail)) = line.split_once(WORDS) else { return line.to_owned() };
        let word = head.rsplit(' ').next().unwrap_or_default();
        let name = word.trim_start_matches("msg=").trim_matches(['"', '\\']);
        if name.is_empty() || is_name(name) {
            return line.to_owned();
        }
        format!("{}{WORDS}{tail}", head.replace(name, MASK))
    };
    said.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Masks all that stands behind these words in a line.
fn cut(said: &str, words: &str) -> String {
    let line = |line: &str| match line.split_once(words) {
        Some((head, _)) => format!("{head}{words} {MASK}"),
        None => line.to_owned(),
    };
    said.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Masks what is quoted behind these words in a line.
fn quoted(said: &str, words: &str, quote: char) -> String {
    let line = |line: &str| {
        let Some(at) = line.to_ascii_lowercase().find(words) else { return line.to_owned() };
        let (head, tail) = line.split_at(at);
        match (tail.find(quote), tail.rfind(quote)) {
            (Some(first), Some(last)) if first < last => {
                format!("{head}{}{MASK}{}", &tail[..=first], &tail[last..])
            }
            // It goes on in the next line.
            (Some(first), _) => format!("{head}{}{MASK}", &tail[..=first]),
            _ => line.to_owned(),
        }
    };
    said.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_file_is_in_what_compose_says() {
        let directory = tempfile::tempdir().unwrap();
        let [file, variables] = ["compose.yaml", ".env"].map(|name| directory.path().join(name));
        let yaml = "services:\n  db:\n    image: postgres:15\n    command: [serve, --key=cmd-secret]\n    environment:\n\
                    \x20     PASSWORD: 'hunter2$'\n      LONG: hunter2$and-more\n    labels: [a=label-secret]\n";
        std::fs::write(&file, yaml).unwrap();
        std::fs::write(&variables, "TOKEN=env-secret\n").unwrap();
        let masked = |said: &str| masked(said, std::slice::from_ref(&file), std::slice::from_ref(&variables));
        for said in [
            "bad hunter2$, label-secret, a=label-secret, env-secret, --key=cmd-secret, hunter2$and-more",
            "invalid interpolation format for services.db.environment.PASSWORD: \"pa$%x\". You may need to escape",
            "line 5: cannot unmarshal !!str `other-s...` into map[string]interface {}",
            "line 5: cannot unmarshal !!str `other-s",
        ] {
            let masked = masked(said);
            for secret in ["hunter2", "and-more", "-secret", "pa$%x", "other-s"] {
                assert!(!masked.contains(secret), "{masked}");
            }
        }
        for (name, shown) in
            [("TAG", "TAG"), ("lower", "lower"), ("word", "***"), ("PIECE", "***"), ("gone", "***")]
        {
            let yaml = "services: {db: {image: 'x:$TAG', user: '${lower:-}', command: 'pa$word1 a$PIECE'}}\n";
            std::fs::write(&file, yaml).unwrap();
            for said in [
                format!("The {name} variable is not set. Defaulting to a blank string."),
                format!(
                    "level=warning msg=\"The \\\"{name}\\\" variable is not set. Defaulting to a blank string.\""
                ),
            ] {
                assert_eq!(masked(&said), said.replace(name, shown), "{said}");
            }
        }
        let harmless = "service \"db\": no image postgres:15 for volumes";
        assert_eq!(masked(harmless), harmless);
        assert!(masked("cannot unmarshal !!str `x` into y").ends_with("`***` into y"));
    }
}
