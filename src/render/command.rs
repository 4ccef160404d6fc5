//! The commands that are printed as the next ones: they use the repository and the engine that this one was
//! given, whatever a shell would make of the names in them.

use volsnap::model::hint::{Hint, command_line, explained, in_turn};
use volsnap::model::quote::{printable, shell_quote};

/// What only plans.
const DRY_RUN: &str = "--dry-run";
/// The verbs that can.
const PLANNED: [&str; 6] = ["copy", "snapshot", "restore", "migrate", "restart", "verify"];

/// How this command was called, as far as the next one has to be called the same way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commands {
    /// The repository, if the command line named it.
    pub(crate) repo: Option<String>,
    /// The engine, if the command line named it.
    pub(crate) host: Option<String>,
    /// The Compose project, if the command line named it.
    pub(crate) project: Option<String>,
    /// Everything that was typed after `volsnap`.
    pub(crate) typed: Vec<String>,
    /// Whether it was typed for several targets at once.
    pub(crate) several: bool,
}

impl Commands {
    /// Returns a hint as a line to paste, with its purpose behind a `#`.
    pub(crate) fn line(&self, hint: &Hint) -> String {
        let (command, why) = match hint {
            Hint::Volsnap { args, why } => (self.volsnap(args), why),
            Hint::Again { without, with, otherwise, why } if self.is_of(otherwise) => {
                (self.again(without, with), why)
            }
            Hint::Again { with, otherwise, why, .. } => (self.volsnap(&[&otherwise[..], with].concat()), why),
            Hint::Replaced { word, by, otherwise, why } => (self.replaced(word, by, otherwise), why),
            Hint::Docker { args, why } => (self.docker(args), why),
            Hint::Shell { command, why } => (self.shell(command), why),
            Hint::Steps { steps, why } => (in_turn(&self.lines(steps)), why),
            Hint::Advice(text) => return printable(text),
        };
        explained(command, why.as_deref())
    }

    /// Returns several, each on a line of its own.
    pub(crate) fn lines<'h>(&self, hints: impl IntoIterator<Item = &'h Hint>) -> Vec<String> {
        hints.into_iter().map(|hint| self.line(hint)).collect()
    }

    fn volsnap(&self, args: &[String]) -> String {
        let mut words = vec!["volsnap"];
        let options = [("--repo", &self.repo), ("--host", &self.host), ("--project-name", &self.project)];
        for (option, value) in options {
            // A hint with a repository or an engine of its own means that one.
            if let (Some(value), false) = (value, args.iter().any(|arg| is_given(arg, option))) {
                words.extend([option, value.as_str()]);
            }
        }
        // Who wants JSON goes on with JSON, and who only plans has not asked for anything to be done.
        let is_typed = |option: &str| self.options().any(|word| word == option);
        if is_typed("--json") && !args.iter().any(|arg| arg == "--json") {
            words.push("--json");
        }
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        let plans = args.iter().find(|arg| !arg.starts_with('-')).is_some_and(|verb| PLANNED.contains(verb));
        if plans && is_typed(DRY_RUN) && !args.contains(&DRY_RUN) {
            let end = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
            args.insert(end, DRY_RUN);
        }
        command_line(words.into_iter().chain(args))
    }

    /// Returns what was typed before a `--`.
    fn options(&self) -> impl Iterator<Item = &String> {
        self.typed.iter().take_while(|word| *word != "--")
    }

    /// Returns whether the typed command is one of this verb, on one target, so that it can be changed into another of
    /// it. An empty command is of any.
    fn is_of(&self, command: &[String]) -> bool {
        let verb = command.first();
        verb.is_none_or(|verb| !self.several && self.options().any(|word| word == verb))
    }

    /// Returns the typed command without these options, and with these words: `--name=` is an option with whatever value,
    /// `--name=value` with that one, `--name` one that has none.
    fn again(&self, without: &[String], with: &[String]) -> String {
        let (mut words, mut rest) = (vec!["volsnap".to_owned()], Vec::new());
        let mut typed = self.typed.iter().peekable();
        while let Some(word) = typed.next() {
            if word == "--" {
                rest = std::iter::once(word).chain(typed).cloned().collect();
                break;
            }
            // An option's value may be the next word.
            let next = typed.peek().map_or("", |next| next.as_str());
            let goes = |option: &String| match option.split_once('=') {
                Some((name, "")) => word == name || word.starts_with(option.as_str()),
                Some((name, value)) => word == option || (word == name && next == value),
                None => word == option,
            };
            match without.iter().find(|option| goes(option)).and_then(|option| option.split_once('=')) {
                Some((name, _)) if word == name => _ = typed.next(),
                Some(_) => {}
                None if without.contains(word) => {}
                None => words.push(word.clone()),
            }
        }
        words.extend(with.iter().cloned());
        words.extend(rest);
        command_line(words)
    }

    fn replaced(&self, word: &str, by: &str, otherwise: &[String]) -> String {
        // The verb has the first word, whatever the target is called.
        let verb = otherwise.first().and_then(|verb| self.typed.iter().position(|typed| typed == verb));
        let after = self.typed.iter().enumerate().skip(verb.map_or(0, |verb| verb + 1));
        let is_it = |typed: &str| typed == word || typed.strip_prefix("--to=") == Some(word);
        let place = after.filter(|(_, typed)| is_it(typed)).map(|(place, _)| place).next();
        let Some(place) = place else { return self.volsnap(otherwise) };
        let mut words = self.typed.clone();
        words[place] = words[place].replace(word, by);
        command_line(std::iter::once("volsnap".to_owned()).chain(words))
    }

    fn docker(&self, args: &[String]) -> String {
        let host = self.host.iter().flat_map(|host| ["--host", host.as_str()]);
        command_line(std::iter::once("docker").chain(host).chain(args.iter().map(String::as_str)))
    }

    fn shell(&self, command: &str) -> String {
        match &self.host {
            // It can be several commands; the parentheses keep the variable out of the shell that runs them.
            Some(host) if runs_docker(command) => {
                format!("(export DOCKER_HOST={}; {command})", shell_quote(host))
            }
            _ => command.to_owned(),
        }
    }
}

/// Returns whether one of the commands of a line is the engine's client; its name may be part of other words.
fn runs_docker(line: &str) -> bool {
    let first = |command: &str| command.split_whitespace().next().unwrap_or_default().to_owned();
    line.split([';', '&', '|', '(']).any(|command| matches!(&*first(command), "docker" | "docker-compose"))
}

/// Returns whether a word is this option, with its value or before it.
fn is_given(word: &str, option: &str) -> bool {
    word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn commands(typed: &[&str]) -> Commands {
        Commands {
            repo: Some("/my repo".to_owned()),
            host: Some("tcp://db:2375".to_owned()),
            project: None,
            typed: typed.iter().map(|&word| word.to_owned()).collect(),
            several: false,
        }
    }

    #[test]
    fn a_command_means_the_project_that_this_one_was_given() {
        let shop = Commands { project: Some("shop".to_owned()), ..Commands::default() };
        assert_eq!(shop.line(&Hint::volsnap(["list", "db"])), "volsnap --project-name shop list db");
    }

    #[test]
    fn who_wants_json_goes_on_with_json_whatever_verb_it_is() {
        for verb in ["doctor", "show", "verify"] {
            let typed = [verb, "--json"].map(str::to_owned).into();
            let commands = Commands { typed, ..Commands::default() };
            assert_eq!(commands.line(&Hint::volsnap(["recover"])), "volsnap --json recover");
        }
    }

    #[test]
    fn a_word_in_the_place_of_another_keeps_the_rest_of_what_was_typed() {
        let hint = |verb: &str| Hint::Replaced {
            word: "db".to_owned(),
            by: "service:shop/db".to_owned(),
            otherwise: vec![verb.to_owned(), "service:shop/db".to_owned()],
            why: None,
        };
        let line = |typed: &[&str], verb| {
            Commands { typed: commands(typed).typed, ..Commands::default() }.line(&hint(verb))
        };
        assert_eq!(
            line(&["--repo", "db", "migrate", "db", "--back", "-y"], "migrate"),
            "volsnap --repo db migrate service:shop/db --back -y"
        );
        assert_eq!(
            line(&["migrate", "db", "/data/db"], "migrate"),
            "volsnap migrate service:shop/db /data/db"
        );
        assert_eq!(
            line(&["restore", "latest", "--to=db"], "restore"),
            "volsnap restore latest --to=service:shop/db"
        );
        assert_eq!(line(&["check"], "check"), "volsnap check service:shop/db");
    }

    #[test]
    fn a_command_means_the_repository_and_the_engine_that_this_one_was_given() {
        let (here, there) = (Commands::default(), commands(&[]));
        let list = Hint::volsnap(["list", "it's"]).why("says what there is");
        assert_eq!(here.line(&list), r"volsnap list 'it'\''s'    # says what there is");
        assert_eq!(
            there.line(&list),
            r"volsnap --repo '/my repo' --host tcp://db:2375 list 'it'\''s'    # says what there is"
        );
        let elsewhere = Hint::volsnap(["--repo", "/other", "snapshot", "db"]);
        assert_eq!(there.line(&elsewhere), "volsnap --host tcp://db:2375 --repo /other snapshot db");
        assert_eq!(here.line(&Hint::logs("db")), "docker logs --tail 20 db");
        assert_eq!(there.line(&Hint::logs("db")), "docker --host tcp://db:2375 logs --tail 20 db");
        let rescue = Hint::shell("docker stop a && docker cp a:/x .; docker start a");
        assert_eq!(
            there.line(&rescue),
            "(export DOCKER_HOST=tcp://db:2375; docker stop a && docker cp a:/x .; docker start a)"
        );
        assert_eq!(there.line(&Hint::shell("df -h /x")), "df -h /x");
        let group = "sudo usermod -aG docker \"$USER\"";
        assert_eq!(there.line(&Hint::shell(group)), group);
        assert_eq!(there.line(&Hint::advice("free some\nspace")), r"free some\nspace");
    }

    #[test]
    fn the_command_that_was_typed_is_changed_only_where_it_is_to_be() {
        let typed = commands(&["restore", "--dir=/x y", "latest", "--owner", "1:1", "--no-safety", "-y"]);
        let to = Hint::instead(&["--dir=", "--no-safety"], ["--to", "path:/x y"]);
        assert_eq!(typed.line(&to), "volsnap restore latest --owner 1:1 -y --to 'path:/x y'");
        let owner = Hint::instead(&["--owner="], [""; 0]);
        assert_eq!(typed.line(&owner), "volsnap restore '--dir=/x y' latest --no-safety -y");
        let killing = commands(&["restart", "db", "--kill", "a", "--kill=b", "--kill", "c", "--kill=d"]);
        let one = |name: &str| killing.line(&Hint::instead(&[&format!("--kill={name}")], ["--kill", "x"]));
        assert_eq!(one("b"), "volsnap restart db --kill a --kill c --kill=d --kill x");
        assert_eq!(one("c"), "volsnap restart db --kill a --kill=b --kill=d --kill x");
        let all = Hint::instead(&["--kill="], [""; 0]);
        assert_eq!(killing.line(&all), "volsnap restart db");
        let behind = commands(&["snapshot", "--", "-odd"]);
        assert_eq!(behind.line(&Hint::again(["--dry-run"])), "volsnap snapshot --dry-run -- -odd");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_what_is_printed_as_it_was_meant(
            name in "([^\0]|\\PC|[ '\"\\\\$`;\n\t\u{1b}!*#]){1,20}",
            why in "\\PC*|.*",
        ) {
            let commands = Commands { repo: Some(name.clone()), ..Commands::default() };
            let line = commands.line(&Hint::volsnap(["show", &name]).why(&why));
            prop_assert!(!line.chars().any(char::is_control));
            let script = format!("volsnap() {{ printf '%s\\0' \"$@\"; }}\n{line}");
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            let expected = format!("--repo\0{name}\0show\0{name}\0");
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        }
    }
}
