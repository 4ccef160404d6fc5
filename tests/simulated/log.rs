//! The effects of a run in their order: calls to the engine, requests to an agent, lines of the journal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use volsnap::engine::failing::Call;
use volsnap::engine::memory::MemoryDocker;

use super::World;

/// Calls that only ask.
const QUESTIONS: &[&str] =
    &["engine", "containers", "container", "volumes", "volume", "image", "images", "logs", "inspect_raw"];

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    /// Journals by the run's name: a second name of the file, and how much of it was read.
    journals: BTreeMap<String, (PathBuf, usize)>,
    /// What containers are called, by their ids.
    names: BTreeMap<String, String>,
}

/// What is written down of a run.
pub(crate) struct Recording(Arc<Mutex<Log>>, PathBuf);

impl World {
    /// Has everything from here on written down.
    pub(crate) fn record(&self) -> Recording {
        let (log, engine) = (Arc::<Mutex<Log>>::default(), self.engine.clone());
        let (written, state, aside) = (log.clone(), self.state(), self.directory.path().join("journals"));
        std::fs::create_dir_all(&aside).unwrap();
        self.failing.on_call(move |call| {
            let mut log = written.lock().unwrap();
            log.read_journals(&state, &aside);
            log.take(call, &engine);
        });
        Recording(log, self.state())
    }
}

impl Recording {
    /// Returns the lines, in which what differs from run to run has one name.
    pub(crate) fn lines(&self) -> String {
        let mut log = self.0.lock().unwrap();
        log.read_known();
        for path in log.journals.keys().cloned().collect::<Vec<_>>() {
            let gone = !self.1.join("journals").join(&path).exists();
            log.push(if gone { "journal removed" } else { "journal stays" }.to_owned());
        }
        let mut text = log.lines.join("\n");
        for run in log.journals.keys() {
            let run = run.trim_end_matches(".jsonl");
            text = text.replace(run, "RUN").replace(&run.to_lowercase(), "RUN");
        }
        text.lines().map(without_keys).collect::<Vec<_>>().join("\n")
    }
}

/// Gives a helper one name whatever its source is called, whose digest it bears.
fn without_keys(line: &str) -> String {
    let is_helper = |word: &str| {
        let digest = word.strip_prefix("volsnap-");
        digest.is_some_and(|digest| digest.len() == 12 && digest.chars().all(|c| c.is_ascii_hexdigit()))
    };
    line.split(' ').map(|word| if is_helper(word) { "HELPER" } else { word }).collect::<Vec<_>>().join(" ")
}

impl Log {
    fn take(&mut self, call: &Call, engine: &MemoryDocker) {
        if QUESTIONS.contains(&call.name) {
            return;
        }
        if let Some(name) = engine.name_of(&call.object) {
            self.names.insert(call.object.clone(), name);
        }
        // A helper may have removed itself by now.
        let object = self.names.get(&call.object).unwrap_or(&call.object);
        let line = format!("{} {object} {}", call.name, call.detail);
        self.push(line.trim_end().to_owned());
    }

    /// Adds a line; the same again and again is one.
    fn push(&mut self, line: String) {
        if self.lines.last() != Some(&line) {
            self.lines.push(line);
        }
    }

    fn read_journals(&mut self, state: &std::path::Path, aside: &std::path::Path) {
        let Ok(entries) = std::fs::read_dir(state.join("journals")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // For it to be read to its end once it is removed.
            let second = aside.join(&name);
            self.journals.entry(name).or_insert_with(|| {
                std::fs::hard_link(entry.path(), &second).unwrap();
                (second, 0)
            });
        }
        self.read_known();
    }

    fn read_known(&mut self) {
        let mut lines = Vec::new();
        for (path, read) in self.journals.values_mut() {
            let text = std::fs::read_to_string(path).unwrap();
            lines.extend(text[*read..].lines().map(said));
            *read = text.len();
        }
        lines.into_iter().for_each(|line| self.push(line));
    }
}

/// Returns a line of a journal in words.
fn said(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    if let Some(run) = line.get("run") {
        return format!("journal begun: {}", run["verb"].as_str().unwrap());
    }
    if let Some(number) = line.get("settled") {
        return format!("journal - {number}");
    }
    if let Some(entry) = line.get("register") {
        let kind = entry["undo"].as_object().unwrap().keys().next().unwrap();
        return format!("journal + {} {} {kind}", entry["number"], entry["when"].as_str().unwrap());
    }
    format!("journal {line}")
}
