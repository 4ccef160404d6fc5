//! The program run as a user would, with directories of a test's own.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

/// Directories of a test's own, and the program.
pub(crate) struct Volsnap {
    directory: TempDir,
}

impl Volsnap {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// Returns the directory it is run in.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().join("here")
    }

    /// Returns its user's home directory.
    pub(crate) fn home(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Returns the program in a clean environment, in an empty directory.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let here = self.directory();
        std::fs::create_dir_all(&here).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_volsnap"));
        command
            .env_clear()
            .envs(["PATH", "DOCKER_HOST"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("HOME", self.home())
            .env("VOLSNAP_REPO", self.repository())
            .env("VOLSNAP_STATE_DIR", self.state())
            .current_dir(here)
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Runs it with more in its environment.
    pub(crate) fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        Ran::of(self.command(arguments).envs(environment.iter().copied()))
    }

    /// Pastes a printed command into a shell.
    pub(crate) fn paste(&self, line: &str) -> Ran {
        Ran::of(self.shell().args(["-c", line]))
    }

    /// Returns a shell that finds this program by its name.
    pub(crate) fn shell(&self) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_volsnap")).parent().unwrap().display().to_string();
        let path = format!("{program}:{}", std::env::var("PATH").unwrap());
        let as_volsnap = self.command::<&str>([]);
        let mut command = Command::new("bash");
        command.env_clear().current_dir(self.directory()).stdin(Stdio::null());
        command.envs(as_volsnap.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", path);
        command
    }

    /// Returns what `recover --list --json` has, whether or not a service is down.
    pub(crate) fn unfinished(&self) -> Value {
        let ran = self.run(["recover", "--list", "--json"]);
        assert!(matches!(ran.code(), Some(0 | 4)), "{}", ran.stderr());
        serde_json::from_str(&ran.stdout()).unwrap()
    }

    /// Returns what `list --json` has.
    pub(crate) fn list(&self) -> Vec<Value> {
        match self.run(["list", "--json"]).json() {
            Value::Array(rows) => rows,
            other => panic!("not a list: {other}"),
        }
    }

    /// Nothing is listed, and nothing of an unfinished run is left anywhere.
    #[track_caller]
    pub(crate) fn assert_no_snapshot(&self) {
        assert!(self.repository_files().is_empty(), "left: {:?}", self.repository_files());
        self.assert_no_leftovers();
    }

    /// No journal, no run directory, no partial file.
    #[track_caller]
    pub(crate) fn assert_no_leftovers(&self) {
        // What is remembered of the data is to stay.
        let remembered =
            ["facts", "migrations", "repositories", "undo-keys"].map(|name| self.state().join(name));
        let is_remembered = |path: &PathBuf| remembered.iter().any(|kept| path.starts_with(kept));
        let runs: Vec<_> =
            files_below(&self.state()).into_iter().filter(|path| !is_remembered(path)).collect();
        assert!(runs.is_empty(), "left in the state directory: {runs:?}");
        let partial: Vec<_> = self
            .repository_files()
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("partial"))
            .collect();
        assert!(partial.is_empty(), "left in the repository: {partial:?}");
    }

    /// Returns the files of snapshots in the repository.
    pub(crate) fn repository_files(&self) -> Vec<PathBuf> {
        files_below(&self.repository().join("snapshots"))
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// What came of running volsnap.
#[must_use]
pub(crate) struct Ran {
    output: Output,
    pid: u32,
    /// Where it ran; `None` where a shell of this machine would not be the same place, such as in a container.
    place: Option<Place>,
}

/// The surroundings of a command, for the next one.
struct Place {
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
}

impl Place {
    fn of(command: &Command) -> Option<Self> {
        let program = Path::new(command.get_program()).file_name()?;
        let set = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        (program == "volsnap" || program == "bash").then(|| Self {
            environment: set.collect(),
            directory: command.get_current_dir().map(Path::to_owned),
        })
    }

    /// Returns what comes of a line in a shell. One that says nothing for a minute has failed.
    fn paste(&self, line: &str) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_volsnap")).parent().unwrap().display().to_string();
        let path = format!("{program}:{}", std::env::var("PATH").unwrap());
        let mut shell = Command::new("timeout");
        shell.args(["60", "bash", "-c", line]).stdin(Stdio::null());
        shell.env_clear().envs(self.environment.iter().cloned()).env("PATH", path);
        self.directory.iter().for_each(|directory| _ = shell.current_dir(directory));
        shell.output().unwrap()
    }
}

/// Returns whether a printed command only looks: it can be pasted at once, whatever is to be seen afterwards.
fn only_looks(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["docker", rest @ ..] => {
            let rest = if let ["--host", _, rest @ ..] = rest { rest } else { rest };
            let looks = [&["logs"][..], &["inspect"], &["ps"], &["volume", "ls"], &["volume", "inspect"]];
            looks.iter().any(|look| rest.starts_with(look))
        }
        ["volsnap", rest @ ..] => {
            let is_verb = |verb: &&&str| ["list", "show", "recover"].contains(*verb);
            let verb = rest.iter().find(is_verb).copied();
            verb.is_some_and(|verb| verb != "recover" || rest.contains(&"--list"))
        }
        ["ls" | "df" | "sed", option, ..] => ["-l", "-ld", "-h", "-n"].contains(option),
        _ => false,
    }
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        Self { output: child.wait_with_output().unwrap(), pid, place: Place::of(command) }
    }

    /// Returns the process that it was.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    /// Returns the commands that the message says to type next.
    pub(crate) fn next(&self) -> Vec<String> {
        let printed = format!("{}{}", self.stderr(), self.stdout());
        let lines = printed.lines().map(str::trim_start);
        let command = |line: &str| {
            let leads = ["next: ", "or: ", "next ", "undo ", "verify "];
            let rest = leads.iter().find_map(|lead| line.strip_prefix(lead))?.trim_start();
            (rest.starts_with("volsnap ") || rest.starts_with("docker ")).then(|| rest.to_owned())
        };
        lines.filter_map(command).collect()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let stdout = self.expect(0).stdout();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }

    #[track_caller]
    pub(crate) fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code(), Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr());
        self.assert_next_is_understood();
        self.assert_looks_show_something();
        self
    }

    /// Each printed command that only looks shows something, in the state in which it is printed. One is pasted once in
    /// a test.
    #[track_caller]
    fn assert_looks_show_something(&self) {
        static PASTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        let Some(place) = &self.place else { return };
        let printed = format!("{}{}", self.stderr(), self.stdout());
        let after = |line: &str| {
            let leads = ["next: ", "or: ", "next ", "undo ", "verify "];
            let lead = leads.iter().find_map(|lead| line.trim_start().strip_prefix(lead));
            // A notice on the way has its commands below it.
            let rest = lead.or_else(|| line.strip_prefix("           "))?;
            Some(rest.split("    #").next()?.trim().to_owned())
        };
        for line in printed.lines().filter_map(after).filter(|line| only_looks(line)) {
            if !PASTED.lock().unwrap().insert(line.clone()) {
                continue;
            }
            let seen = place.paste(&line);
            // What is left of a dead run, or damaged, is no failure of who looks.
            let codes = if line.starts_with("volsnap") { &[0, 3, 4, 6][..] } else { &[0] };
            let looked = seen.status.code().is_some_and(|code| codes.contains(&code));
            let is_away = || !place.paste("timeout 5 docker version").status.success();
            let said = String::from_utf8_lossy(&seen.stderr);
            // Before the first snapshot, that says how to make it.
            let looked = looked || (said.contains("open repository") && said.contains("there is none"));
            assert!(looked || (line.starts_with("docker") && is_away()), "{line}: {}\n{said}", seen.status);
        }
    }

    /// A shell and the program understand every command of ours that was printed to be typed next. With `--help`
    /// behind its words nothing is done, and they are looked at all the same.
    #[track_caller]
    fn assert_next_is_understood(&self) {
        for line in self.next().iter().filter(|line| line.starts_with("volsnap ")) {
            let script = format!("volsnap() {{ \"$PROGRAM\" \"$@\" --help; }}\n{line}");
            let mut shell = Command::new("bash");
            shell.args(["-c", &script]).env("PROGRAM", env!("CARGO_BIN_EXE_volsnap")).stdin(Stdio::null());
            let output = shell.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "this cannot be typed: {line}\n{said}");
        }
    }

    /// It failed with this code, and its message has all of these.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        self.expect(code);
        let stderr = self.stderr();
        for word in words {
            assert!(stderr.contains(word), "{word:?} is not in the message:\n{stderr}");
        }
    }
}
