//! Golden pairs: each directory of `fixtures/compose-edit` is a case and its edited result.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;
use crate::compose::environment::Environment;

/// A case's `case.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it is about.
    #[serde(rename = "about")]
    _about: String,
    /// The project's files, and the file of the case with the text of each.
    files: BTreeMap<PathBuf, String>,
    /// The same for files that belong to the project without being part of it.
    #[serde(default)]
    beside: BTreeMap<PathBuf, String>,
    #[serde(default)]
    environment: Environment,
    changes: Vec<Change>,
    #[serde(default = "yes")]
    guards_source: bool,
    /// Whether the edit makes an override.
    #[serde(default, rename = "override")]
    in_override: bool,
    /// Why it is refused.
    refused: Option<String>,
    /// Whether there is nothing to do.
    #[serde(default)]
    unchanged: bool,
}

#[derive(Debug, Deserialize)]
struct Change {
    service: String,
    destination: PathBuf,
    from: MountSource,
    to: MountSource,
}

fn yes() -> bool {
    true
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/compose-edit")
}

impl Case {
    fn read(directory: &Path) -> Self {
        serde_json::from_slice(&fs::read(directory.join("case.json")).unwrap()).unwrap()
    }

    fn project(&self, directory: &Path) -> ProjectFiles {
        // The file `before` comes first.
        let mut files: Vec<_> = self.files.keys().cloned().collect();
        files.sort_by_key(|file| self.files[file] != "before.yaml");
        let texts = self.files.iter().chain(&self.beside);
        ProjectFiles {
            project: "app".to_owned(),
            directory: "/srv/app".into(),
            files,
            texts: texts
                .map(|(path, name)| (path.clone(), fs::read_to_string(directory.join(name)).unwrap()))
                .collect(),
            environment: self.environment.clone(),
            unused_override: None,
        }
    }

    fn changes(&self) -> Vec<MountChange> {
        let change = |change: &Change| MountChange {
            service: change.service.clone(),
            destination: change.destination.clone(),
            from: change.from.clone(),
            to: change.to.clone(),
        };
        self.changes.iter().map(change).collect()
    }

    fn edits(&self, project: &ProjectFiles) -> Result<Vec<FileEdit>, EditError> {
        let options = EditOptions { guards_source: self.guards_source };
        if self.in_override {
            return Ok(edit_override(project, &self.changes(), options)?.into_iter().collect());
        }
        edit(project, &self.changes(), options)
    }

    /// Returns the file of the case with what a file of the project should say.
    fn golden(&self, path: &Path) -> String {
        match self.files.get(path).or_else(|| self.beside.get(path)).map(String::as_str) {
            Some("before.yaml") | None => "after.yaml".to_owned(),
            Some(name) => name.replace(".yaml", ".after.yaml"),
        }
    }
}

#[test]
fn each_case_becomes_what_it_is_to_be_byte_for_byte() {
    let mut pairs = 0;
    for directory in fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()) {
        let case = Case::read(&directory);
        let project = case.project(&directory);
        let outcome = case.edits(&project);
        if let Some(why) = &case.refused {
            assert_eq!(&outcome.unwrap_err().to_string(), why, "{}", directory.display());
            continue;
        }
        let edits = outcome.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        assert_eq!(edits.is_empty(), case.unchanged, "{}", directory.display());
        for edit in &edits {
            let golden = directory.join(case.golden(&edit.path));
            let expected = fs::read_to_string(&golden).unwrap_or_default();
            assert_eq!(edit.after.as_deref(), Some(expected.as_str()), "{}", golden.display());
            pairs += 1;
        }
    }
    assert!(pairs >= 25, "{pairs} pairs");
}

/// Returns the project after edits, which leaves each file as it should be.
fn edited(project: &ProjectFiles, edits: &[FileEdit]) -> ProjectFiles {
    let mut edited = project.clone();
    for edit in edits {
        match &edit.after {
            Some(after) => {
                edited.texts.insert(edit.path.clone(), after.clone());
                if !edited.files.contains(&edit.path) && edit.before.is_none() {
                    edited.files.push(edit.path.clone());
                }
            }
            None => {
                edited.texts.remove(&edit.path);
                edited.files.retain(|file| *file != edit.path);
            }
        }
    }
    edited
}

/// What is mounted there cannot be proved to be the same again: a variable has no value, or only a part is mounted.
const NOT_UNDONE: [&str; 2] = ["long-subpath", "variable-unknown"];

#[test]
fn each_edit_is_undone_to_the_byte_also_after_others_have_written_to_the_file() {
    let (mut undone, mut others) = (0, BTreeSet::new());
    for directory in fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()) {
        let case = Case::read(&directory);
        let project = case.project(&directory);
        let Ok(edits) = case.edits(&project) else { continue };
        let written: Vec<Written> = edits.iter().filter_map(FileEdit::written).collect();
        let written: Vec<Written> = serde_json::from_value(serde_json::to_value(written).unwrap()).unwrap();
        let turned = |change: MountChange| MountChange { from: change.to, to: change.from, ..change };
        let back: Vec<MountChange> = case.changes().into_iter().map(turned).collect();
        let options = EditOptions { guards_source: case.guards_source };
        for note in ["", "# somebody's note\n"] {
            let is_noted = |path: &Path| edits.iter().any(|edit| edit.path == path && edit.before.is_some());
            let noted = |project: &ProjectFiles| {
                let mut noted = project.clone();
                let texts = noted.texts.iter_mut().filter(|(path, _)| is_noted(path));
                texts.for_each(|(_, text)| *text = with_note(text, note));
                noted
            };
            let there = noted(&edited(&project, &edits));
            let here = edit_back(&there, &back, &written, options).map(|edits| edited(&there, &edits));
            if edits.is_empty() {
                continue;
            } else if here.is_ok_and(|here| here == noted(&project)) {
                undone += 1;
            } else {
                others.insert(directory.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    assert_eq!(others, NOT_UNDONE.map(str::to_owned).into());
    assert!(undone >= 60, "{undone} edits were undone");
}

/// Returns the text with a note at its end.
fn with_note(text: &str, note: &str) -> String {
    let newline = if text.ends_with('\n') || note.is_empty() { "" } else { "\n" };
    format!("{text}{newline}{note}")
}

/// The files as Compose itself reads them, by service: every entry of `volumes`, and everything else as one.
type Effective = BTreeMap<String, (Vec<String>, String)>;

/// Asks docker-compose how it reads the project's files; none if this version refuses them.
fn effective(project: &ProjectFiles) -> Option<Effective> {
    let root = tempfile::tempdir().unwrap();
    let inside = |path: &Path| root.path().join(path.strip_prefix("/").unwrap());
    for (path, text) in &project.texts {
        fs::create_dir_all(inside(path).parent().unwrap()).unwrap();
        fs::write(inside(path), text).unwrap();
    }
    let mut command = std::process::Command::new("docker-compose");
    command.args(["-p", &project.project, "--project-directory"]).arg(inside(&project.directory));
    for file in &project.files {
        command.arg("-f").arg(inside(file));
    }
    let output = command.arg("config").env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    let output = output.envs(&project.environment).output().unwrap();
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).unwrap().replace(root.path().to_str().unwrap(), "");
    let document = Document::parse(&text).unwrap();
    let written = |id| {
        let node = document.node(id);
        let begin = if document.pairs(id).is_empty() {
            node.start
        } else {
            document.node(document.pairs(id)[0].0).start
        };
        document.text()[begin..document.content_end(id)].to_owned()
    };
    let service = |(name, body): &(yaml::NodeId, yaml::NodeId)| {
        let volumes = document.get(*body, "volumes").map(|list| document.items(list)).unwrap_or_default();
        let others = document.pairs(*body).iter().filter(|(key, _)| document.scalar(*key) != Some("volumes"));
        let others: String =
            others.map(|(key, value)| format!("{}: {}\n", written(*key), written(*value))).collect();
        (
            document.scalar(*name).unwrap().to_owned(),
            (volumes.iter().map(|item| written(*item)).collect(), others),
        )
    };
    Some(document.pairs(document.at(&["services"]).unwrap()).iter().map(service).collect())
}

/// By the real docker-compose, if installed: it knows nothing of how the edit finds the mount.
#[test]
fn by_docker_compose_itself_only_the_mounts_differ() {
    const CASES: [&str; 13] = [
        "anchored-entry",
        "block-text",
        "earlier-file",
        "extends",
        "extends-file",
        "flow-mapping",
        "flow-not-indented",
        "indented-by-four",
        "later-file",
        "long-nocopy-compose-1",
        "override",
        "quoted-to-the-left",
        "variable",
    ];
    if std::process::Command::new("docker-compose").arg("version").output().is_err() {
        return;
    }
    let mut checked = 0;
    for name in CASES {
        let directory = fixtures().join(name);
        let mut case = Case::read(&directory);
        case.guards_source = false;
        let project = case.project(&directory);
        let mut edited = project.clone();
        for edit in case.edits(&project).unwrap() {
            if !edited.files.contains(&edit.path) && !edited.texts.contains_key(&edit.path) {
                edited.files.push(edit.path.clone());
            }
            edited.texts.insert(edit.path, edit.after.unwrap());
        }
        let (before, after) = std::thread::scope(|scope| {
            let before = scope.spawn(|| effective(&project));
            let after = effective(&edited);
            (before.join().unwrap(), after)
        });
        let before = before.unwrap_or_else(|| panic!("{name}: not taken"));
        let after = after.unwrap_or_else(|| panic!("{name}: not taken any more"));
        assert!(before.keys().eq(after.keys()), "{name}");
        for (service, (mounts, others)) in &before {
            let (mounts_after, others_after) = &after[service];
            assert_eq!(others, others_after, "{name}: {service}");
            let gone: Vec<_> = mounts.iter().filter(|mount| !mounts_after.contains(mount)).collect();
            let come: Vec<_> = mounts_after.iter().filter(|mount| !mounts.contains(mount)).collect();
            let changes: Vec<_> = case.changes.iter().filter(|change| change.service == *service).collect();
            assert_eq!(
                (gone.len(), come.len()),
                (changes.len(), changes.len()),
                "{name}: {service}: {come:?}"
            );
            for change in changes {
                let MountSource::Directory(to) = &change.to else { panic!("{name} goes back") };
                let target = change.destination.to_str().unwrap();
                let is_made =
                    |mount: &&&String| mount.contains(target) && mount.contains(to.to_str().unwrap());
                assert_eq!(come.iter().filter(is_made).count(), 1, "{name}: {service}: {come:?}");
                checked += 1;
            }
        }
    }
    assert!(checked >= CASES.len());
}

#[test]
fn another_volume_in_the_files_is_a_difference_and_what_they_leave_open_is_none() {
    let file = PathBuf::from("/srv/app/compose.yaml");
    let text = "services:\n  db:\n    volumes:\n      - fresh:/data\n      - /anonymous\n      - $UNKNOWN:/variable\n      \
                - ./config:/config\nvolumes:\n  fresh:\n";
    let project = ProjectFiles {
        project: "app".to_owned(),
        directory: "/srv/app".into(),
        files: vec![file.clone()],
        texts: BTreeMap::from([(file.clone(), text.to_owned())]),
        environment: Environment::new(),
        unused_override: None,
    };
    let of = |destination: &str, volume: &str| {
        differences(
            &project,
            &[("db".to_owned(), destination.into(), MountSource::Volume(volume.to_owned()))],
        )
        .unwrap()
    };
    assert_eq!(of("/data", "app_fresh"), []);
    let [other] = &of("/data", "app_old")[..] else { panic!() };
    assert_eq!((&other.file, other.line, other.found.as_str()), (&file, 4, "the volume app_fresh"));
    let [directory] = &of("/config", "app_old")[..] else { panic!() };
    assert_eq!(directory.found, "the directory /srv/app/config");
    for left_open in ["/anonymous", "/variable", "/elsewhere"] {
        assert_eq!(of(left_open, "app_old"), [], "{left_open}");
    }
}
