//! What a container's healthcheck says. It is a command that somebody wrote, and it may be wrong: it asks another host,
//! or a user that does not exist. So it is no last word on a database, which can be asked itself; and one that fails
//! before a stop may fail after it.

use std::fmt;
use std::time::Duration;

use crate::compose::edit::MASK;
use crate::engine::Docker;
use crate::model::container::Container;
use crate::model::quote::printable;

/// How long the command may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How much is shown of the command, and of what it says, in characters.
const SHOWN: usize = 200;
/// What the name of a variable or an option has in it whose value is a secret.
const SECRET: [&str; 7] = ["pass", "pwd", "secret", "token", "key", "auth", "cred"];
/// Options whose value is a secret: the next word, or the rest of this one.
const SECRET_OPTIONS: [&str; 2] = ["-a", "-p"];
/// Options whose value is a user, with a password behind a colon where one is given.
const USER_OPTIONS: [&str; 2] = ["-u", "--user"];

/// A healthcheck that does not pass, or that could not be run, which says nothing. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedHealthcheck {
    /// The container's name.
    pub container: String,
    /// Its command.
    command: String,
    /// What it said, or why it could not be run, in one line.
    said: String,
    /// Whether it was run.
    was_run: bool,
    /// Whether its database was asked, and answers.
    pub(super) answers: bool,
}

impl FailedHealthcheck {
    /// Returns whether it says something: it was run.
    #[must_use]
    pub fn was_run(&self) -> bool {
        self.was_run
    }

    /// Returns whether its database was asked, and answers.
    #[must_use]
    pub fn database_answers(&self) -> bool {
        self.answers
    }

    /// Returns what is well all the same, as it follows "although".
    #[must_use]
    pub fn although(&self) -> &'static str {
        if self.answers { "its database answers" } else { "it runs, as far as can be seen" }
    }
}

impl fmt::Display for FailedHealthcheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = if self.was_run { "fails" } else { "cannot be run" };
        write!(
            f,
            "the healthcheck of container {} {does} (`{}`: {})",
            self.container, self.command, self.said
        )
    }
}

/// Runs the healthcheck of a container that runs, unless the engine says that it passes: the engine's own next run may
/// be half a minute away. Returns how it fails, or why it cannot be run; `None` if it passes or there is none.
pub async fn failing(docker: &dyn Docker, container: &Container) -> Option<FailedHealthcheck> {
    if container.healthcheck.is_empty() || container.state.health.as_deref() == Some("healthy") {
        return None;
    }
    let (was_run, said) = match docker.exec(&container.id, &container.healthcheck, ASK_LIMIT).await {
        Ok(output) if output.exit_code == 0 => return None,
        Ok(output) => {
            let said = [output.stderr, output.stdout].map(|said| String::from_utf8_lossy(&said).into_owned());
            let said = said.into_iter().find(|said| !said.trim().is_empty());
            (true, said.unwrap_or_else(|| format!("exit code {}", output.exit_code)))
        }
        // It says nothing of the service that it could not be run here, or not within this time: neither that it
        // passes nor that it fails.
        Err(error) => (false, error.message),
    };
    let command = match container.healthcheck.as_slice() {
        [shell, option, script] if shell == "/bin/sh" && option == "-c" => script.clone(),
        words => words.join(" "),
    };
    Some(FailedHealthcheck {
        container: container.name.clone(),
        command: shown(&command, container),
        said: shown(&said, container),
        was_run,
        answers: false,
    })
}

/// Returns `text` as others may see it: one line, without what the container keeps as a secret, nor what an option or
/// an address gives as one.
fn shown(text: &str, container: &Container) -> String {
    let mut text = text.to_owned();
    for (name, value) in container.env.iter().filter_map(|pair| pair.split_once('=')) {
        if is_secret(name) && !value.is_empty() {
            text = text.replace(value, MASK);
        }
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let options = std::iter::once("").chain(words.iter().copied());
    let words: Vec<String> =
        words.iter().zip(options).map(|(word, option)| shown_behind(option, word)).collect();
    printable(&words.join(" ")).chars().take(SHOWN).collect()
}

/// Returns a word that stands behind another one, without the secret that it is or has.
fn shown_behind(option: &str, word: &str) -> String {
    let is_named = option.starts_with("--") && !option.contains('=') && is_secret(option);
    let is_secret = SECRET_OPTIONS.contains(&option) || is_named;
    let has_secret = USER_OPTIONS.contains(&option) && word.contains(':');
    if has_secret || is_secret && !is_harmless(word) { MASK.to_owned() } else { without_secret(word) }
}

/// Returns a word without the secret in it: `NAME=value`, `--option=value`, `-pvalue`, `user:value@host`.
fn without_secret(word: &str) -> String {
    if let Some((name, value)) = word.split_once('=').filter(|(name, _)| is_secret(name)) {
        return if is_harmless(value) { word.to_owned() } else { format!("{name}={MASK}") };
    }
    if let Some((user, host)) = word.rsplit_once('@').filter(|(user, _)| user.contains(':')) {
        let scheme = user.find("://").map_or("", |end| &user[..end + 3]);
        return format!("{scheme}{MASK}@{host}");
    }
    let option = SECRET_OPTIONS.iter().find(|option| word.len() > 2 && word.starts_with(**option));
    match option {
        Some(option) if !is_harmless(&word[2..]) => format!("{option}{MASK}"),
        _ => word.to_owned(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    !name.contains("method") && SECRET.iter().any(|secret| name.contains(secret))
}

/// Returns whether a value is none that a secret would be: a variable, or a port.
fn is_harmless(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'']);
    value.starts_with('$') || (value.len() <= 5 && value.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::host("pg_isready -h wronghost -p 5432 -U app", "pg_isready -h wronghost -p 5432 -U app")]
    #[case::variable("mysqladmin ping -p$MYSQL_PWD", "mysqladmin ping -p$MYSQL_PWD")]
    #[case::attached("mysqladmin ping -phunter2", "mysqladmin ping -p***")]
    #[case::next_word("redis-cli -a hunter2 ping", "redis-cli -a *** ping")]
    #[case::long("x --password hunter2 --pass=hunter2", "x --password *** --pass=***")]
    #[case::own_variable("PGPASSWORD=hunter2 psql -c 'select 1'", "PGPASSWORD=*** psql -c 'select 1'")]
    #[case::address("psql postgres://app:hunter2@db/app", "psql postgres://***@db/app")]
    #[case::user("curl -u app:hunter2 http://db/", "curl -u *** http://db/")]
    #[case::user_alone("mysql -u root", "mysql -u root")]
    #[case::known("sh -c check hunter3", "sh -c check ***")]
    #[case::escape("x\u{1b}[2Jy", "x\\u{1b}[2Jy")]
    fn a_command_is_shown_without_its_secrets(#[case] command: &str, #[case] expected: &str) {
        let container =
            Container { env: vec!["APP_SECRET=hunter3".into(), "TZ=UTC".into()], ..Container::default() };
        assert_eq!(shown(command, &container), expected);
    }
}
