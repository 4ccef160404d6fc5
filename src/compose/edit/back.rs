//! The way back: an edit undone, so that a file says again what it said, to the byte.
//!
//! A new edit could only say the same in other words: `${VOLUME:-data}` would become `data`, options for volumes alone
//! (`nocopy`) would be gone, and an override that the edit made would stay. So whoever edits keeps what stood there
//! ([`Written`]). It is put back only if it proves to be the mount that is wanted, with nothing else changed; what
//! others have written to the file since stays.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::project::{Entry, Model};
use super::rewrite::{Splice, apply, span};
use super::yaml::{self, Document, Step};
use super::{
    EditError, EditOptions, FileEdit, MountChange, ProjectFiles, check_source, edit, entry_of, is_made,
};

/// What an edit wrote to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// BLAKE3 of all of it, hexadecimal, if the edit made the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// The changes in a file that was there, in the order in which they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// A change in a file. It has nothing of the file but the mount, so none of its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The byte where it begins.
    pub at: usize,
    /// What stood there.
    pub before: String,
    /// What stands there now.
    pub after: String,
}

impl Part {
    /// Returns what splices change in a text, and the text with them; none if they contradict each other.
    pub(super) fn of(text: &str, splices: Vec<Splice>) -> Option<(Self, String)> {
        let range = span(&splices)?;
        let behind = text.len() - range.end;
        let edited = apply(text, splices)?;
        let after = edited.get(range.start..edited.len() - behind)?.to_owned();
        Some((Self { at: range.start, before: text.get(range.clone())?.to_owned(), after }, edited))
    }

    /// Returns the text without the change; the nearest place counts, if others have written to the file since.
    fn undone(&self, text: &str) -> Option<String> {
        let places = text.match_indices(&self.after).map(|(place, _)| place);
        let place = places.min_by_key(|place| place.abs_diff(self.at))?;
        Some([&text[..place], &self.before, &text[place + self.after.len()..]].concat())
    }
}

impl FileEdit {
    /// Returns what is worth keeping of the edit for the way back; none of one that removes a file.
    #[must_use]
    pub fn written(&self) -> Option<Written> {
        let after = self.after.as_ref()?;
        let made = self.before.is_none().then(|| digest(after));
        Some(Written { path: self.path.clone(), made, parts: self.parts.clone() })
    }
}

fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Returns the edits that make each of the changes: what was written is undone, if that makes them and nothing else,
/// else they are made like any other.
///
/// # Errors
/// As [`edit`].
pub fn edit_back(
    project: &ProjectFiles,
    changes: &[MountChange],
    written: &[Written],
    options: EditOptions,
) -> Result<Vec<FileEdit>, EditError> {
    let undone = undo(project, written).filter(|undone| is_meant(project, undone, changes).unwrap_or(false));
    let Some(undone) = undone else { return edit(project, changes, options) };
    let changed = project.texts.iter().filter_map(|(path, text)| {
        let after = undone.texts.get(path).cloned();
        (after.as_ref() != Some(text)).then(|| FileEdit {
            path: path.clone(),
            before: Some(text.clone()),
            after,
            parts: Vec::new(),
        })
    });
    Ok(changed.collect())
}

/// Returns the project without what was written.
fn undo(project: &ProjectFiles, written: &[Written]) -> Option<ProjectFiles> {
    let mut undone = project.clone();
    for written in written.iter().rev() {
        let text = undone.texts.get(&written.path)?;
        if let Some(made) = &written.made {
            // Others may have written more into it.
            if digest(text) != *made || undone.files.len() < 2 {
                return None;
            }
            undone.texts.remove(&written.path);
            undone.files.retain(|file| *file != written.path);
            continue;
        }
        let text = written.parts.iter().rev().try_fold(text.clone(), |text, part| part.undone(&text))?;
        undone.texts.insert(written.path.clone(), text);
    }
    (undone != *project).then_some(undone)
}

/// Returns whether the files make these changes now, and no other.
fn is_meant(
    project: &ProjectFiles,
    undone: &ProjectFiles,
    changes: &[MountChange],
) -> Result<bool, EditError> {
    let (model, after) = (Model::of(project)?, Model::of(undone)?);
    let (old, new) = (model.mounts()?, after.mounts()?);
    let mut entries = Vec::new();
    for change in changes {
        let entry = entry_of(&model, &old, change)?;
        check_source(&model, entry, change)?;
        if !is_made(entry_of(&after, &new, change)?, &change.to) {
            return Ok(false);
        }
        entries.push(entry);
    }
    let asked = |service: &str, target: &Path| {
        changes.iter().any(|change| change.service == service && super::clean(&change.destination) == target)
    };
    let same_keys = old.keys().eq(new.keys());
    let same = |((service, target), entry): (&(String, PathBuf), &Entry)| {
        asked(service, target)
            || new.get(&(service.clone(), target.clone())).is_some_and(|other| other.mount == entry.mount)
    };
    Ok(same_keys && old.iter().all(same) && says_the_rest(project, undone, &entries, changes)?)
}

/// Returns whether the files say what they said, except for these entries and the services' own `volumes`.
fn says_the_rest(
    project: &ProjectFiles,
    undone: &ProjectFiles,
    entries: &[&Entry],
    changes: &[MountChange],
) -> Result<bool, EditError> {
    for (file, text) in &project.texts {
        // What is gone was proved to be what the edit made, and the mounts do not miss it.
        let Some(after) = undone.texts.get(file) else { continue };
        let parse = |text: &str| {
            Document::parse(text)
                .map_err(|error| EditError::Unreadable { file: file.clone(), why: error.to_string() })
        };
        let (old, new) = (parse(text)?, parse(after)?);
        let places = old.places();
        let here = entries.iter().filter(|entry| entry.file == *file);
        let places: Vec<&yaml::Path> = here
            .flat_map(|entry| [entry.node, old.resolve(entry.node)])
            .filter_map(|id| places.get(&id))
            .collect();
        let is_own = |path: &yaml::Path| {
            let key = |index: usize| match path.0.get(index) {
                Some(Step::Key(key)) => Some(key.as_str()),
                _ => None,
            };
            let of_service = changes.iter().any(|change| key(1) == Some(&change.service));
            key(0) == Some("services")
                && match path.0.len() {
                    1 => has_volumes_alone(&old, changes, None),
                    2 => of_service && has_volumes_alone(&old, changes, key(1)),
                    _ => of_service && key(2) == Some("volumes"),
                }
        };
        let is_meant = |path: &yaml::Path| places.iter().any(|place| path.is_in(place)) || is_own(path);
        if !old.differences(&new).iter().all(is_meant) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether a service, or each of a file's, says nothing but what it mounts, and is asked for.
fn has_volumes_alone(document: &Document, changes: &[MountChange], service: Option<&str>) -> bool {
    let Some(services) = document.at(&["services"]) else { return false };
    let mut pairs = document.pairs(services).iter().filter(|(name, _)| match service {
        Some(service) => document.scalar(*name) == Some(service),
        None => true,
    });
    pairs.all(|(name, body)| {
        let name = document.scalar(*name).unwrap_or_default();
        let keys = document.pairs(*body).iter().map(|(key, _)| document.scalar(*key));
        changes.iter().any(|change| change.service == name) && keys.eq([Some("volumes")])
    })
}
