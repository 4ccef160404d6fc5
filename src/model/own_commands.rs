//! Commands of a person's own for a service, from the table `[commands]` of `volsnap.toml`. They run inside the
//! service's container, so that any database can be treated well, whether volsnap knows it or not.
//!
//! ```
//! # use volsnap::model::project_file::ProjectFile;
//! let file: ProjectFile = r#"
//!     [commands.cache]
//!     before_hold = { run = "redis-cli save", limit = "1m" }
//!     after_release = ["redis-cli", "config", "set", "save", "3600 1"]
//!     check = { run = "redis-cli ping", output = "PONG" }
//! "#.parse()?;
//! let cache = &file.commands["cache"];
//! assert_eq!(cache.before_hold.as_ref().unwrap().run, ["sh", "-c", "redis-cli save"]);
//! assert_eq!(cache.check.as_ref().unwrap().exit_code, 0);
//! # Ok::<(), volsnap::model::project_file::InvalidProjectFile>(())
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::checks::Checked;
use super::masked::{masked_line, masked_words};

/// How long a command may take that says nothing of it.
const LIMIT: Duration = Duration::from_secs(30);
/// How much of an output a report shows, in characters.
const SHOWN: usize = 200;

/// The commands for one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnCommands {
    /// Exits with 0 once the service answers: asked after a start, in place of its healthcheck.
    pub ready: Option<OwnCommand>,
    /// Runs before anything is stopped or frozen. If it fails, nothing is.
    pub before_hold: Option<OwnCommand>,
    /// Runs once the service is back, however the run has ended. It may run more than once, and without the one before.
    pub after_release: Option<OwnCommand>,
    /// Tells whether the data is right.
    pub check: Option<OwnCheck>,
}

impl OwnCommands {
    /// Returns what they are, for a plan: "before_hold: redis-cli save".
    #[must_use]
    pub fn around_a_hold(&self) -> Vec<String> {
        let named = [
            ("before_hold", &self.before_hold),
            ("after_release", &self.after_release),
            ("ready", &self.ready),
        ];
        let said = |(name, command): (&str, &Option<OwnCommand>)| {
            command.as_ref().map(|command| format!("{name}: {}", command.title()))
        };
        named.into_iter().filter_map(said).collect()
    }
}

/// A command that runs inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct OwnCommand {
    /// The program and its arguments. A line of text runs by the container's `sh`.
    pub run: Vec<String>,
    /// How long it may take, in seconds.
    pub limit: u64,
}

impl OwnCommand {
    /// Returns it on one line, for a person, without the passwords that are known by their place.
    #[must_use]
    pub fn title(&self) -> String {
        match self.run.as_slice() {
            [shell, option, line] if shell == "sh" && option == "-c" => masked_line(line),
            words => super::hint::command_line(masked_words(words)),
        }
    }

    /// Returns whether its [title](Self::title) leaves nothing out.
    #[must_use]
    pub fn is_shown_whole(&self) -> bool {
        masked_words(&self.run) == self.run
    }

    /// Returns how long it may take.
    #[must_use]
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }
}

/// A command that tells whether the data is right.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "WrittenCheck")]
pub struct OwnCheck {
    /// The command.
    pub command: OwnCommand,
    /// The code with which it has to exit.
    pub exit_code: i64,
    /// What it has to print, without the white space around it; `None` for anything.
    pub output: Option<String>,
}

impl OwnCheck {
    /// Returns the result of the check. `said` is the exit code with what was printed, or why there is none.
    #[must_use]
    pub fn judge(&self, name: &str, said: Result<(i64, String), String>) -> Checked {
        let output = self.output.as_deref().map(str::trim);
        let expect = match output {
            Some(output) => format!("exit code {}, {output:?}", self.exit_code),
            None => format!("exit code {}", self.exit_code),
        };
        let (ok, value, why) = match said {
            Err(why) => (false, None, Some(why)),
            Ok((code, printed)) => {
                let printed = printed.trim();
                let ok = code == self.exit_code && output.is_none_or(|output| output == printed);
                let shown: String = printed.chars().take(SHOWN).collect();
                (ok, Some(format!("exit code {code}, {shown:?}")), None)
            }
        };
        Checked { name: name.to_owned(), expect, value, before: None, ok, why }
    }
}

/// A command as it may be written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Line(String),
    Words(Vec<String>),
    Table(Table),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    run: Run,
    #[serde(default)]
    limit: Limit,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTable {
    run: Run,
    #[serde(default)]
    limit: Limit,
    #[serde(default)]
    exit_code: i64,
    output: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenCheck {
    Line(String),
    Words(Vec<String>),
    Table(WrittenTable),
}

/// What to run.
#[derive(Deserialize)]
#[serde(untagged)]
enum Run {
    Line(String),
    Words(Vec<String>),
}

/// A time: "90s", or seconds, as the journal has it.
#[derive(Deserialize)]
#[serde(try_from = "WrittenLimit")]
struct Limit(Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenLimit {
    Text(String),
    Seconds(u64),
}

impl Default for Limit {
    fn default() -> Self {
        Self(LIMIT)
    }
}

impl TryFrom<WrittenLimit> for Limit {
    type Error = String;

    fn try_from(written: WrittenLimit) -> Result<Self, String> {
        match written {
            WrittenLimit::Seconds(seconds) => Ok(Self(Duration::from_secs(seconds))),
            WrittenLimit::Text(text) => {
                let limit = humantime::parse_duration(&text);
                limit.map(Self).map_err(|error| format!("limit = {text:?} is no time: {error}"))
            }
        }
    }
}

impl OwnCommand {
    fn of(run: Run, Limit(limit): Limit) -> Self {
        let run = match run {
            Run::Line(line) => vec!["sh".to_owned(), "-c".to_owned(), line],
            Run::Words(words) => words,
        };
        Self { run, limit: limit.as_secs().max(1) }
    }
}

impl From<Written> for OwnCommand {
    fn from(written: Written) -> Self {
        match written {
            Written::Line(line) => Self::of(Run::Line(line), Limit::default()),
            Written::Words(words) => Self::of(Run::Words(words), Limit::default()),
            Written::Table(Table { run, limit }) => Self::of(run, limit),
        }
    }
}

impl From<WrittenCheck> for OwnCheck {
    fn from(written: WrittenCheck) -> Self {
        let plain = |run| Self { command: OwnCommand::of(run, Limit::default()), exit_code: 0, output: None };
        match written {
            WrittenCheck::Line(line) => plain(Run::Line(line)),
            WrittenCheck::Words(words) => plain(Run::Words(words)),
            WrittenCheck::Table(WrittenTable { run, limit, exit_code, output }) => {
                Self { command: OwnCommand::of(run, limit), exit_code, output }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn check(text: &str) -> OwnCheck {
        #[derive(Deserialize)]
        struct Holder {
            check: OwnCheck,
        }
        toml::from_str::<Holder>(text).unwrap().check
    }

    #[rstest]
    #[case("check = 'true'", 0, "", true)]
    #[case("check = 'true'", 1, "", false)]
    #[case("check = { run = 'x', exit_code = 3 }", 3, "", true)]
    #[case("check = { run = 'x', output = 'PONG' }", 0, "PONG\n", true)]
    #[case("check = { run = 'x', output = 'PONG' }", 0, "PONG PONG", false)]
    #[case("check = { run = 'x', output = 'PONG' }", 1, "PONG", false)]
    fn a_check_is_right_by_its_exit_code_and_output(
        #[case] text: &str,
        #[case] code: i64,
        #[case] printed: &str,
        #[case] ok: bool,
    ) {
        assert_eq!(check(text).judge("c", Ok((code, printed.to_owned()))).ok, ok);
    }

    #[test]
    fn a_check_that_could_not_run_is_not_right() {
        let judged = check("check = 'true'").judge("c", Err("it took more than 30 s".to_owned()));
        assert!(!judged.ok && judged.value.is_none());
        assert_eq!(judged.why.as_deref(), Some("it took more than 30 s"));
    }

    #[test]
    fn a_command_is_read_back_from_a_journal_as_it_was() {
        let command = OwnCommand { run: vec!["redis-cli".into(), "a b".into()], limit: 60 };
        let written = serde_json::to_string(&command).unwrap();
        assert_eq!(written, r#"{"run":["redis-cli","a b"],"limit":60}"#);
        assert_eq!(serde_json::from_str::<OwnCommand>(&written).unwrap(), command);
        assert_eq!(command.title(), "redis-cli 'a b'");
    }
}
