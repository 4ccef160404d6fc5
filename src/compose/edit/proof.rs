//! The proof, from what the files say afterwards, that an edit did what it should and nothing else.

use std::collections::BTreeSet;

use super::project::{Entry, Model, Mounts, clean};
use super::yaml::{self, Document, Step};
use super::{EditError, MountChange, ProjectFiles, is_made, meant};

/// Proves that an edit made the mount what it should be, and changed no other mount of any service.
pub(super) fn prove_mounts(
    edited: &ProjectFiles,
    model: &Model<'_>,
    entry: &Entry,
    change: &MountChange,
    all: &[MountChange],
    before: &Mounts,
) -> Result<(), EditError> {
    let unproved = || EditError::Unproved { file: entry.file.clone() };
    let after = Model::of(edited)?;
    let mounts = after.mounts()?;
    let key = (change.service.clone(), clean(&change.destination));
    if !mounts.get(&key).is_some_and(|entry| is_made(entry, &meant(before, change))) {
        return Err(unproved());
    }
    let keys: BTreeSet<_> = before.keys().chain(mounts.keys()).collect();
    let mut others = BTreeSet::new();
    for key in keys {
        let (Some(old), Some(new)) = (before.get(key), mounts.get(key)) else { return Err(unproved()) };
        if old.mount == new.mount {
            continue;
        }
        let asked =
            all.iter().find(|change| (&change.service, &clean(&change.destination)) == (&key.0, &key.1));
        match asked {
            None => {
                others.insert(key.0.clone());
            }
            Some(change) if is_made(new, &meant(before, change)) && keeps_options(old, new) => {}
            Some(_) => return Err(unproved()),
        }
    }
    if !others.is_empty() {
        let document = model.document(&entry.file)?;
        let line = document.line(document.node(document.resolve(entry.node)).start);
        let others = others.into_iter().map(|service| format!("the service {service}")).collect();
        return Err(EditError::Shared { file: entry.file.clone(), line, others });
    }
    Ok(())
}

/// Returns whether a mount has its earlier options, as far as they apply to the new kind of source.
fn keeps_options(old: &Entry, new: &Entry) -> bool {
    let said = |entry: &Entry| -> BTreeSet<String> {
        let kept = |option: &&String| {
            !matches!(
                option.as_str(),
                "nocopy" | "rw" | "read_only=false" | "consistent" | "cached" | "delegated" | "z" | "Z"
            ) && !option.ends_with("private")
                && !option.ends_with("shared")
                && !option.ends_with("slave")
                && !option.starts_with("consistency=")
        };
        let spelled =
            |option: &String| if option == "ro" { "read_only=true".to_owned() } else { option.clone() };
        entry.mount.rest.iter().filter(kept).map(spelled).collect()
    };
    said(old) == said(new)
}

/// Proves that the files say what they said, except for `volumes`.
pub(super) fn prove_rest(
    edited: &ProjectFiles,
    project: &ProjectFiles,
    entry: &Entry,
) -> Result<(), EditError> {
    for (file, text) in &project.texts {
        let unproved = || EditError::Unproved { file: entry.file.clone() };
        let after = edited.texts.get(file).ok_or_else(unproved)?;
        if after == text {
            continue;
        }
        let parse = |text: &str| {
            Document::parse(text)
                .map_err(|error| EditError::Unreadable { file: file.clone(), why: error.to_string() })
        };
        let (old, new) = (parse(text)?, parse(after)?);
        // In the entry that was edited, or in the list that one was added to.
        let place = (*file == entry.file).then(|| old.places().remove(&old.resolve(entry.node))).flatten();
        let use_place = (*file == entry.file).then(|| old.places().remove(&entry.node)).flatten();
        let is_meant = |path: &yaml::Path| {
            [&place, &use_place].into_iter().flatten().any(|place| path.is_in(place))
                || (entry.inherited && is_volumes(path))
        };
        if !old.differences(&new).iter().all(is_meant) {
            return Err(unproved());
        }
    }
    Ok(())
}

/// Returns whether a place is a service's `volumes`, or an entry of it.
fn is_volumes(path: &yaml::Path) -> bool {
    let key = |index: usize| match path.0.get(index) {
        Some(Step::Key(key)) => key.as_str(),
        _ => "",
    };
    key(0) == "services" && key(2) == "volumes" && path.0.len() <= 4
}

pub(super) fn prove_made(mounts: &Mounts, before: &Mounts, change: &MountChange) -> Result<(), EditError> {
    let entry = mounts.get(&(change.service.clone(), clean(&change.destination)));
    if entry.is_some_and(|entry| is_made(entry, &meant(before, change))) {
        return Ok(());
    }
    Err(EditError::NoMount { service: change.service.clone(), destination: change.destination.clone() })
}
