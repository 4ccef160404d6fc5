//! What to type next, as data. The library does not know how it was called: the printer puts the repository and the
//! engine of the command into the hints.

use std::fmt;

use super::quote::{printable, shell_quote};

/// What to type next.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hint {
    /// A command of our own, on the repository and the engine of the failed one.
    Volsnap {
        /// Its words, unquoted, without `volsnap`.
        args: Vec<String>,
        /// Its purpose.
        why: Option<String>,
    },
    /// The command that was typed, changed.
    Again {
        /// Options to leave out; one that takes a value ends in `=`, or in `=` and the one value to leave out.
        without: Vec<String>,
        /// Words to add, unquoted.
        with: Vec<String>,
        /// The words of our own command to change instead, if another verb was typed, or this one on several targets;
        /// none if only one command can have been typed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        otherwise: Vec<String>,
        /// Its purpose.
        why: Option<String>,
    },
    /// The command that was typed, with another word in the place of one of its own.
    Replaced {
        /// The word that was typed.
        word: String,
        /// The word in its place.
        by: String,
        /// The words of our own command, if that word was not typed.
        otherwise: Vec<String>,
        /// Its purpose.
        why: Option<String>,
    },
    /// A command of the engine's client, on the same engine.
    Docker {
        /// Its words, unquoted, without `docker`.
        args: Vec<String>,
        /// Its purpose.
        why: Option<String>,
    },
    /// Another command line, already quoted.
    Shell {
        /// The line.
        command: String,
        /// Its purpose.
        why: Option<String>,
    },
    /// Several commands in one line.
    Steps {
        /// The commands: each follows if the one before has succeeded, but the last, which follows in any case.
        steps: Vec<Hint>,
        /// Their purpose.
        why: Option<String>,
    },
    /// Advice, where no command helps.
    Advice(String),
}

impl Hint {
    /// Returns a command of our own from its words, unquoted.
    pub fn volsnap<A: Into<String>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::Volsnap { args: words(args), why: None }
    }

    /// Returns the command that was typed, with more words, unquoted.
    pub fn again<A: Into<String>>(with: impl IntoIterator<Item = A>) -> Self {
        Self::instead(&[], with)
    }

    /// Returns the command that was typed without these options, and with other words. Write an option that takes
    /// a value with a `=` at its end; with the value behind that, only this one is left out, and others stay.
    pub fn instead<A: Into<String>>(without: &[&str], with: impl IntoIterator<Item = A>) -> Self {
        let without = words(without.iter().copied());
        Self::Again { without, with: words(with), otherwise: Vec::new(), why: None }
    }

    /// Has a change of the typed command be one of these words, where another verb was typed, or this one on several
    /// targets: a restart takes a snapshot on its way, and has none of its options.
    #[must_use]
    pub fn otherwise<A: Into<String>>(mut self, command: impl IntoIterator<Item = A>) -> Self {
        if let Self::Again { otherwise, .. } = &mut self {
            *otherwise = words(command);
        }
        self
    }

    /// Returns a command of the engine's client from its words, unquoted.
    pub fn docker<A: Into<String>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::Docker { args: words(args), why: None }
    }

    /// Returns the command that shows the end of a container's log.
    #[must_use]
    pub fn logs(container: &str) -> Self {
        Self::docker(["logs", "--tail", "20", container])
    }

    /// Returns the command that shows what is mounted in a container.
    #[must_use]
    pub fn mounts(container: &str) -> Self {
        Self::docker(["inspect", "--format", "{{json .Mounts}}", container])
    }

    /// Returns another command line, which is already quoted.
    pub fn shell(command: impl Into<String>) -> Self {
        Self::Shell { command: command.into(), why: None }
    }

    /// Returns several commands in one line: each follows if the one before has succeeded, but the last, which puts
    /// things back, in any case.
    pub fn steps(steps: impl IntoIterator<Item = Self>) -> Self {
        Self::Steps { steps: steps.into_iter().collect(), why: None }
    }

    /// Returns advice, where no command helps.
    pub fn advice(text: impl Into<String>) -> Self {
        Self::Advice(text.into())
    }

    /// Adds the purpose of a command.
    #[must_use]
    pub fn why(mut self, reason: impl Into<String>) -> Self {
        match &mut self {
            Self::Volsnap { why, .. }
            | Self::Again { why, .. }
            | Self::Replaced { why, .. }
            | Self::Docker { why, .. }
            | Self::Shell { why, .. }
            | Self::Steps { why, .. } => *why = Some(reason.into()),
            Self::Advice(text) => *text = format!("{text}: {}", reason.into()),
        }
        self
    }

    /// Adds words to a command of our own, or of the engine's client.
    #[must_use]
    pub fn and<A: Into<String>>(mut self, more: impl IntoIterator<Item = A>) -> Self {
        match &mut self {
            Self::Volsnap { args, .. } | Self::Docker { args, .. } | Self::Again { with: args, .. } => {
                args.extend(words(more));
            }
            Self::Replaced { .. } | Self::Shell { .. } | Self::Steps { .. } | Self::Advice(_) => {}
        }
        self
    }
}

fn words<A: Into<String>>(args: impl IntoIterator<Item = A>) -> Vec<String> {
    args.into_iter().map(Into::into).collect()
}

/// Returns words as a command line.
#[must_use]
pub fn command_line<A: AsRef<str>>(words: impl IntoIterator<Item = A>) -> String {
    words.into_iter().map(|word| shell_quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Returns several command lines as one: see [`Hint::steps`].
#[must_use]
pub fn in_turn(commands: &[String]) -> String {
    match commands.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{}; {last}", before.join(" && ")),
        _ => commands.concat(),
    }
}

/// Adds the purpose to a command line as a comment, which a shell ignores.
#[must_use]
pub fn explained(command: String, why: Option<&str>) -> String {
    match why {
        Some(why) => format!("{command}    # {}", printable(why)),
        None => command,
    }
}

/// Shows the hint as a user types it who names no repository and no engine.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, why) = match self {
            Self::Volsnap { args, why } => (format!("volsnap {}", command_line(args)), why),
            Self::Replaced { otherwise, why, .. } => (format!("volsnap {}", command_line(otherwise)), why),
            Self::Again { with, otherwise, why, .. } if !otherwise.is_empty() => {
                (format!("volsnap {}", command_line(otherwise.iter().chain(with))), why)
            }
            Self::Again { without, with, why, .. } => {
                let changes = [("without", without), ("with", with)];
                let changes = changes.into_iter().filter(|(_, words)| !words.is_empty());
                let changes = changes.map(|(how, words)| format!(" {how} {}", command_line(words)));
                (format!("the same command{}", changes.collect::<String>()), why)
            }
            Self::Docker { args, why } => (format!("docker {}", command_line(args)), why),
            Self::Shell { command, why } => (command.clone(), why),
            Self::Steps { steps, why } => {
                let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
                (in_turn(&steps), why)
            }
            Self::Advice(text) => return f.write_str(&printable(text)),
        };
        f.write_str(&explained(command, why.as_deref()))
    }
}
