//! Command lines as they are shown: without what is a password by its place or by the name before it.
//!
//! A person writes them, so this knows the usual ways to hand over a password, and no other. A variable is shown: it is
//! the way to keep the password itself out of the file.

use std::fmt::Write as _;

/// What stands for a secret.
const MASK: &str = "***";
/// What is in the name of an option or a variable that has a secret.
const NAMES: [&str; 8] = ["pass", "pwd", "secret", "token", "auth", "credential", "apikey", "api-key"];

/// Returns the words of a command, without secrets.
pub(crate) fn masked_words(words: &[String]) -> Vec<String> {
    let mut shown = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| words.get(before));
        // What a shell is given is a command line.
        shown.push(match word.contains(char::is_whitespace) && before.is_some_and(|before| before == "-c") {
            true => masked_line(word),
            false => masked_word(before.map(String::as_str), word),
        });
    }
    shown
}

/// Returns a command line, without secrets.
pub(crate) fn masked_line(line: &str) -> String {
    let (mut shown, mut before) = (String::new(), None);
    for piece in pieces(line) {
        if piece.starts_with(char::is_whitespace) {
            shown.push_str(piece);
            continue;
        }
        let _ = write!(shown, "{}", masked_word(before, piece));
        before = Some(piece);
    }
    shown
}

/// Returns the words of a line, with their quotes, and the white space between them.
fn pieces(line: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut quote) = (Vec::new(), 0, None);
    let mut was_space = None;
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
        let is_space = quote.is_none() && c.is_whitespace();
        if was_space.is_some_and(|was| was != is_space) {
            pieces.push(&line[start..at]);
            start = at;
        }
        was_space = Some(is_space);
    }
    pieces.push(&line[start..]);
    pieces
}

fn masked_word(before: Option<&str>, word: &str) -> String {
    if before.is_some_and(announces) && !word.starts_with('-') {
        return of_value(word);
    }
    if let Some((quote, inside)) = quoted(word).filter(|(_, inside)| inside.contains(char::is_whitespace)) {
        return format!("{quote}{}{quote}", masked_line(inside));
    }
    // `-psecret`, as the clients of MySQL take it; of any other program it is a port.
    if let Some(value) = word.strip_prefix("-p").filter(|value| !value.is_empty() && !word.starts_with("-p="))
    {
        return format!("-p{}", of_value(value));
    }
    if let Some((name, value)) = word.split_once('=')
        && is_secret(name)
    {
        return format!("{name}={}", of_value(value));
    }
    without_user_info(word)
}

/// Returns whether the next word is a secret: after `--password`, after `-a` as redis-cli takes it, and after the words
/// of SQL and of Redis.
fn announces(word: &str) -> bool {
    let words = ["-a", "password", "auth", "requirepass", "masterauth"];
    let is_option = word.starts_with('-') && !word.contains('=');
    (is_option && is_secret(word)) || words.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Returns the quotes of a word, and what is in them.
fn quoted(word: &str) -> Option<(char, &str)> {
    let quote = word.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    Some((quote, word.strip_prefix(quote)?.strip_suffix(quote)?))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|known| name.contains(known))
}

/// Returns a value as it is shown: one that a shell takes from a variable is none itself.
fn of_value(value: &str) -> String {
    let bare = value.trim_matches(['"', '\'']);
    let is_variable = bare.strip_prefix('$').is_some_and(|name| {
        let name = name.trim_matches(['{', '}']);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    if is_variable || bare.is_empty() { value.to_owned() } else { MASK.to_owned() }
}

/// Masks what stands before the host of an address: `redis://user:password@host`.
fn without_user_info(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{MASK}{}", &rest[at..]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("redis-cli -a hunter2 save", "redis-cli -a *** save")]
    #[case("redis-cli -a 'hunt er2' save", "redis-cli -a *** save")]
    #[case("redis-cli -a \"$REDIS_PASSWORD\" save", "redis-cli -a \"$REDIS_PASSWORD\" save")]
    #[case("redis-cli -a \"${REDIS_PASSWORD}\"  save", "redis-cli -a \"${REDIS_PASSWORD}\"  save")]
    #[case("redis-cli -a \"$PREFIX-hunter2\" save", "redis-cli -a *** save")]
    #[case("mysql -uroot -phunter2 -e 'flush tables'", "mysql -uroot -p*** -e 'flush tables'")]
    #[case("mysql --password=hunter2 -e x", "mysql --password=*** -e x")]
    #[case("mysql --password hunter2 -e x", "mysql --password *** -e x")]
    #[case("mysql --password -e x", "mysql --password -e x")]
    #[case("PGPASSWORD=hunter2 psql -c 'CHECKPOINT'", "PGPASSWORD=*** psql -c 'CHECKPOINT'")]
    #[case("AUTH_TOKEN='hunter 2' x", "AUTH_TOKEN=*** x")]
    #[case("psql postgres://me:hunter2@db/shop?x=1", "psql postgres://***@db/shop?x=1")]
    #[case("curl http://db:8080/a@b", "curl http://db:8080/a@b")]
    #[case("redis-cli config set save '3600 1'", "redis-cli config set save '3600 1'")]
    #[case("psql -c \"alter role a password 'hunter2'\" x", "psql -c \"alter role a password ***\" x")]
    #[case("redis-cli config set requirepass hunter2", "redis-cli config set requirepass ***")]
    #[case("", "")]
    #[case("  a\tb ", "  a\tb ")]
    fn what_is_a_password_by_its_place_is_not_shown(#[case] line: &str, #[case] shown: &str) {
        assert_eq!(masked_line(line), shown);
    }

    #[test]
    fn words_are_masked_as_a_line_is() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            masked_words(&words(&["redis-cli", "-a", "hunt er2", "save"])),
            words(&["redis-cli", "-a", "***", "save"])
        );
        assert_eq!(
            masked_words(&words(&["bash", "-c", "redis-cli -a hunter2"])),
            words(&["bash", "-c", "redis-cli -a ***"])
        );
    }
}
