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
    quoted(&quoted(&known, "cannot unmarshal", '`'), "invalid interpolation format", '"')
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
        let harmless = "service \"db\": no image postgres:15 for volumes";
        assert_eq!(masked(harmless), harmless);
        assert!(masked("cannot unmarshal !!str `x` into y").ends_with("`***` into y"));
    }
}
