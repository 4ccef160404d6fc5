//! The same change in an override beside the project's files, which stay as they are.
//!
//! Compose reads an override by itself only if no file was named. It merges the mounts of a service by
//! their path in the container, so one entry is enough.

use std::path::{Path, PathBuf};

use super::project::{Entry, Model};
use super::rewrite::{add_entry, append_lines, service_lines};
use super::yaml::{Document, Step};
use super::{
    EditError, EditOptions, FileEdit, MountChange, Part, ProjectFiles, check_source, entry_of, is_made,
    new_entry, proof, unsupported, wanted,
};
use crate::compose::{FILE_NAMES, OVERRIDE_NAMES};

/// Returns the edit that makes all the changes in an override beside the project's files: a new one, or
/// the existing one. None if the changes are already made.
///
/// # Errors
/// When Compose would not read it, or for a reason that [`edit`](super::edit) gives.
pub fn edit_override(
    project: &ProjectFiles,
    changes: &[MountChange],
    options: EditOptions,
) -> Result<Option<FileEdit>, EditError> {
    let path = place_of(project)?;
    let before = Model::of(project)?.mounts()?;
    let (mut current, mut parts) = (project.clone(), Vec::new());
    for change in changes {
        let model = Model::of(&current)?;
        let mounts = model.mounts()?;
        let entry = entry_of(&model, &mounts, change)?;
        if is_made(entry, &change.to) {
            continue;
        }
        check_source(&model, entry, change)?;
        let (part, text) = with_entry(&model, &path, entry, change, options)?;
        parts.extend(part);
        let mut edited = current.clone();
        edited.texts.insert(path.clone(), text);
        if !edited.files.contains(&path) {
            edited.files.push(path.clone());
        }
        proof::prove_mounts(&edited, &model, entry, change, changes, &before)?;
        current = edited;
    }
    let (before, after) = (project.texts.get(&path), current.texts.get(&path));
    let Some(after) = after.filter(|after| before != Some(after)) else { return Ok(None) };
    if let Some(before) = before {
        prove_rest(&path, before, after, changes)?;
    }
    let parts = if before.is_some() { parts } else { Vec::new() };
    Ok(Some(FileEdit { path, before: before.cloned(), after: Some(after.clone()), parts }))
}

/// Returns where the override is, or where Compose would read it.
fn place_of(project: &ProjectFiles) -> Result<PathBuf, EditError> {
    let is_beside = |file: &Path, names: &[&str]| {
        file.parent() == Some(&project.directory)
            && file.file_name().is_some_and(|name| names.iter().any(|other| name == *other))
    };
    let explicit = |file: &Path| Err(EditError::Explicit { file: file.to_owned() });
    match project.files.as_slice() {
        [] => explicit(&project.directory),
        [file, ..] if !is_beside(file, &FILE_NAMES) => explicit(file),
        [_, file] if is_beside(file, &OVERRIDE_NAMES) => Ok(file.clone()),
        [_, file, ..] => explicit(file),
        [file] => {
            if project.environment.contains_key("COMPOSE_FILE") {
                return explicit(file);
            }
            if let Some(file) = &project.unused_override {
                return Err(EditError::UnusedOverride { file: file.clone() });
            }
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let extension = file.extension().unwrap_or_default().to_string_lossy();
            Ok(project.directory.join(format!("{stem}.override.{extension}")))
        }
    }
}

/// Returns the override's text with the entry in it, and what that changes in one that is there.
fn with_entry(
    model: &Model<'_>,
    path: &Path,
    entry: &Entry,
    change: &MountChange,
    options: EditOptions,
) -> Result<(Option<Part>, String), EditError> {
    let wanted = wanted(model, entry, change)?;
    let new = new_entry(entry, true);
    let service =
        || {
            service_lines(&change.service, &new, &wanted, options).map_err(|(_, what)| {
                EditError::Unsupported { file: path.to_owned(), line: 1, what: what.to_owned() }
            })
        };
    let Some(text) = model.project.texts.get(path) else {
        let lines: String = service()?.iter().map(|line| format!("  {line}\n")).collect();
        // Compose 1 wants the same version in all files; Compose 2 ignores it.
        return Ok((None, format!("{}services:\n{lines}", version(model).unwrap_or_default())));
    };
    let document = model.document(path)?;
    let refused = |refused| unsupported(path, document, refused);
    let splice = match (document.at(&["services"]), document.at(&["services", &change.service])) {
        (_, Some(service)) => add_entry(document, service, &new, &wanted, options).map_err(refused)?,
        (Some(services), None) if !document.is_flow(services) && !document.pairs(services).is_empty() => {
            append_lines(document, services, &service()?)
        }
        (None, None)
            if document
                .roots()
                .last()
                .is_some_and(|root| !document.is_flow(*root) && !document.pairs(*root).is_empty()) =>
        {
            let lines: Vec<String> = ["services:".to_owned()]
                .into_iter()
                .chain(service()?.iter().map(|line| format!("  {line}")))
                .collect();
            append_lines(document, *document.roots().last().ok_or_else(|| refused((0, "nothing")))?, &lines)
        }
        _ => return Err(refused((0, "no services that one could be added to"))),
    };
    let (part, text) =
        Part::of(text, vec![splice]).ok_or_else(|| EditError::Unproved { file: path.to_owned() })?;
    Ok((Some(part), text))
}

/// Returns the line with the version of the format, if the first file has one.
fn version(model: &Model<'_>) -> Option<String> {
    let document = model.document(model.project.files.first()?).ok()?;
    let version = document.node(document.at(&["version"])?);
    Some(format!("version: {}\n", &document.text()[version.start..version.end]))
}

/// Proves that an override says what it said, except for the mounts.
fn prove_rest(path: &Path, before: &str, after: &str, changes: &[MountChange]) -> Result<(), EditError> {
    let parse = |text| {
        Document::parse(text)
            .map_err(|error| EditError::Unreadable { file: path.to_owned(), why: error.to_string() })
    };
    let is_meant = |place: &super::yaml::Path| {
        let key = |index: usize| match place.0.get(index) {
            Some(Step::Key(key)) => Some(key.as_str()),
            _ => None,
        };
        let of_service = changes.iter().any(|change| key(1) == Some(&change.service));
        key(0) == Some("services")
            && match place.0.len() {
                1 => true,
                2 => of_service,
                _ => of_service && key(2) == Some("volumes"),
            }
    };
    if parse(before)?.differences(&parse(after)?).iter().all(is_meant) {
        Ok(())
    } else {
        Err(EditError::Unproved { file: path.to_owned() })
    }
}
