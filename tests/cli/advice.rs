//! Every place in the sources that makes a command to be printed has a line in `tests/advice.txt`, which says what test
//! pastes that command, or why none does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = "tests/advice.txt";
/// How many commands no test pastes as yet. It only ever falls.
const OWED: usize = 8;
/// What makes a command.
const MAKERS: [&str; 9] =
    ["volsnap(", "again(", "instead(", "docker(", "logs(", "mounts(", "shell(", "steps(", "Replaced {"];

/// What makes a command: a file, and the text that does.
type Site = (String, String);

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the sources of a directory, each with its text.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files_below(Path::new(directory), &mut found);
    found.sort();
    let text = |path: PathBuf| (path.display().to_string(), fs::read_to_string(&path).unwrap());
    found.into_iter().map(text).collect()
}

/// Returns whether a file makes hints only for tests, or defines and prints them.
fn is_other(path: &str) -> bool {
    let others =
        ["src/model/hint.rs", "src/model/error.rs", "src/render/command.rs", "src/render/samples.rs"];
    others.contains(&path) || path.ends_with("tests.rs") || path.contains("/tests/")
}

/// Returns the text of a call from its begin to the bracket that closes it, on one line.
fn call(text: &str) -> String {
    let (mut depth, mut end) = (0, text.len());
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            end = at + 1;
            break;
        }
    }
    let words = text[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    // As it would stand on one line.
    let pairs =
        [("( ", "("), ("[ ", "["), ("{ ", "{"), (", )", ")"), (", ]", "]"), (", }", "}"), (" )", ")")];
    let joined = pairs.iter().fold(words, |words, (from, to)| words.replace(from, to));
    [(" ]", "]"), (" }", "}"), (",)", ")"), (",]", "]"), (",}", "}")]
        .iter()
        .fold(joined, |words, (from, to)| words.replace(from, to))
}

fn sites() -> BTreeSet<Site> {
    let mut sites = BTreeSet::new();
    for (path, text) in sources("src").into_iter().filter(|(path, _)| !is_other(path)) {
        let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (at, _) in own.match_indices("Hint::") {
            let rest = &own[at..];
            if MAKERS.iter().any(|maker| rest["Hint::".len()..].starts_with(maker)) {
                sites.insert((path.clone(), call(rest)));
            }
        }
    }
    sites
}

/// Returns each line of the table: the site, and what is said of it.
fn table() -> BTreeMap<Site, String> {
    let text = fs::read_to_string(TABLE).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
        [path, call, how] => ((path.to_owned(), call.to_owned()), how.to_owned()),
        _ => panic!("not three fields: {line}"),
    };
    lines.map(row).collect()
}

/// Returns the text of a test, up to the next one.
fn body<'t>(tests: &'t [(String, String)], name: &str) -> Option<&'t str> {
    let begin = format!("fn {name}(");
    let text = tests.iter().find_map(|(_, text)| Some(&text[text.find(&begin)?..]))?;
    let end = text[1..].find("#[test]").into_iter().chain(text[1..].find("#[tokio::test]")).min();
    Some(&text[..end.map_or(text.len(), |end| end + 1)])
}

#[test]
fn every_command_that_is_printed_is_pasted_by_a_test_or_it_is_said_why_not() {
    let (sites, table) = (sites(), table());
    assert!(sites.len() > 150, "they are not found: {}", sites.len());
    let known: BTreeSet<Site> = table.keys().cloned().collect();
    let show =
        |sites: Vec<&Site>| sites.iter().map(|(path, call)| format!("{path}\t{call}\n")).collect::<String>();
    let new: Vec<_> = sites.difference(&known).collect();
    assert!(new.is_empty(), "which test pastes these? {TABLE} does not say:\n{}", show(new));
    let gone: Vec<_> = known.difference(&sites).collect();
    assert!(gone.is_empty(), "these are in {TABLE} and not in the sources:\n{}", show(gone));

    let tests = sources("tests");
    let mut owed = 0;
    for ((path, call), how) in &table {
        let place = format!("{path} {call}");
        match how.split_once(": ").unwrap_or((how, "")) {
            ("pasted", name) => {
                let body = body(&tests, name).unwrap_or_else(|| panic!("{place}: there is no test {name}"));
                let pastes =
                    ["paste(", "paste_of(", "leads_on(", "follow(", "run_what_is_printed(", "-c\", "];
                assert!(pastes.iter().any(|paste| body.contains(paste)), "{place}: {name} pastes nothing");
            }
            // `Ran::expect` pastes what only looks, wherever it is printed.
            ("looks", name) => {
                let body = body(&tests, name).unwrap_or_else(|| panic!("{place}: there is no test {name}"));
                let expects = ["refuse", "expect(", "leads_on(", "paste("];
                assert!(expects.iter().any(|expect| body.contains(expect)), "{place}: {name} runs nothing");
            }
            ("not", why) => assert!(why.len() > 20, "{place}: no reason"),
            ("owed", "") => owed += 1,
            _ => panic!("{place}: {how}?"),
        }
    }
    assert!(owed <= OWED, "{owed} commands are pasted by no test, and there were {OWED}");
    assert!(owed == OWED, "only {owed} are owed by now: let OWED say so");
}

/// What makes a refusal.
const REFUSALS: [&str; 4] = ["Error::usage(", "Error::failed(", "Error::busy(", "Error::new(ErrorKind"];
/// What says to type next, or has it from the error beneath. Who only adds what he was doing to what the engine or the
/// system refuses is no refusal.
const SAYS: [&str; 4] = ["hint", "or", "with_hints", "with_source"];
/// The refusals that say nothing themselves, by their file and the begin of their text, and why they need not.
const SILENT: [(&str, &str, &str); 12] = [
    ("src/cli/mod.rs", "Error::failed(refused.to_string())", "the hints are added below"),
    ("src/ops/check.rs", "Error::failed(format!(\"survey ", "no way leads there"),
    ("src/ops/drill.rs", "Error::failed(\"the drill came to nothing\")", "no way leads there"),
    ("src/ops/migrate/prepare.rs", "Error::failed(\"a directory is copied", "no way leads there"),
    ("src/ops/mod.rs", "Error::failed(\"the work was done, but", "the hints are added below"),
    ("src/ops/recover.rs", "Error::failed(\"could not finish what", "who adds what is left adds the hints"),
    ("src/ops/restore/replace.rs", "Error::failed(\"nothing was extracted\")", "no way leads there"),
    ("src/ops/run.rs", "Error::new(ErrorKind::Interrupted(", "the user wants nothing more"),
    ("src/ops/run.rs", "Error::new(ErrorKind::NotPutBack, said", "the hints are added below"),
    ("src/ops/snapshot/online.rs", "Error::failed(format!(\"there is no stage", "no way leads there"),
    (
        "src/ops/trust.rs",
        "Error::usage(format!( \"the repository {} is {}, and",
        "who refuses it adds the hint",
    ),
    ("src/ops/verify.rs", "Error::failed( \"the file list does not have", "who reports damage adds the hint"),
];

/// Returns the names of the methods that are called on what a text begins with, one after the other.
fn methods(text: &str) -> Vec<&str> {
    let (mut rest, mut found) = (&text[end_of_call(text)..], Vec::new());
    loop {
        let trimmed = rest.trim_start();
        // A comment may stand between them.
        if trimmed.starts_with("//") {
            rest = &trimmed[trimmed.find('\n').unwrap_or(trimmed.len())..];
            continue;
        }
        let Some(method) = trimmed.strip_prefix('.') else { return found };
        let Some(name) = method.split(|c: char| !c.is_alphanumeric() && c != '_').next() else {
            return found;
        };
        found.push(name);
        rest = &method[end_of_call(method)..];
    }
}

/// Returns where the first call of a text ends, behind the bracket that closes it; what is in quotes is no bracket.
fn end_of_call(text: &str) -> usize {
    let (mut depth, mut is_quoted, mut is_escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '(' | '[' | '{' if !is_quoted => depth += 1,
            ')' | ']' | '}' if !is_quoted => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

#[test]
fn every_refusal_of_a_procedure_says_what_to_do() {
    let rooms = ["src/cli/", "src/ops/", "src/undo/"];
    let is_meant = |path: &str| rooms.iter().any(|room| path.starts_with(room)) && !is_other(path);
    let (mut seen, mut silent, mut used) = (0, String::new(), BTreeSet::new());
    for (path, text) in sources("src").into_iter().filter(|(path, _)| is_meant(path)) {
        let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for refusal in REFUSALS {
            for (at, _) in own.match_indices(refusal) {
                seen += 1;
                let is_bound = own[..at].trim_end().ends_with('=');
                if is_bound || methods(&own[at..]).iter().any(|method| SAYS.contains(method)) {
                    continue;
                }
                let words = own[at..].split_whitespace().collect::<Vec<_>>().join(" ");
                let allowed =
                    SILENT.iter().position(|(file, begin, _)| *file == path && words.starts_with(begin));
                match allowed {
                    Some(number) => _ = used.insert(number),
                    None => {
                        silent
                            .push_str(&format!("{path}: {}\n", words.chars().take(100).collect::<String>()));
                    }
                }
            }
        }
    }
    assert!(seen > 200, "they are not found: {seen}");
    assert!(silent.is_empty(), "these say nothing to type next:\n{silent}");
    let vain: Vec<_> = SILENT.iter().enumerate().filter(|(number, _)| !used.contains(number)).collect();
    assert!(vain.is_empty(), "these are not there any more: {vain:?}");
}
