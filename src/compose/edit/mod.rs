//! Editing a project's files: the mount of a service becomes another one, and nothing else changes.
//!
//! The edit finds the mount by Compose's own rules. It replaces only the bytes that say what is mounted, so
//! every comment, anchor, quote, indentation and line ending stays. Then it reads the files again and
//! compares them with what they said before: every mount of every service, and everything else. It refuses
//! to change more than it was asked to, or less.

use std::path::{Path, PathBuf};

use crate::model::location::MountSource;

mod back;
mod override_file;
mod plain;
mod project;
mod proof;
mod relaxed;
mod rewrite;
mod short;
mod shown;
mod yaml;

pub use back::{Part, Written, edit_back};
pub use override_file::edit_override;
pub(super) use plain::said;
use project::{Entry, Model, Mounts, Source, clean};
pub use project::{ProjectFiles, references};
use rewrite::{NewEntry, Refused, Splice};
pub(crate) use shown::MASK;
pub(super) use shown::secrets_in;
use yaml::Document;

/// A mount, and what it should become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountChange {
    /// The service.
    pub service: String,
    /// The path in its containers.
    pub destination: PathBuf,
    /// What is mounted there now: a volume by the engine's name, or a host directory.
    pub from: MountSource,
    /// What should be mounted there. If the service mounts only a directory of a volume, this means the
    /// same directory in it.
    pub to: MountSource,
}

/// How to write edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EditOptions {
    /// Whether a mount in the long form says that Compose must not create a missing directory.
    /// docker-compose 1 does not know the word for that, and creates none in the long form.
    pub guards_source: bool,
}

/// A file that changes, is new, or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEdit {
    /// The file.
    pub path: PathBuf,
    /// What it says now; none for a new one.
    pub before: Option<String>,
    /// What it should say; none for one that goes.
    pub after: Option<String>,
    /// What changes in one that was there and stays, unless it is an earlier edit that is undone.
    pub parts: Vec<Part>,
}

impl FileEdit {
    /// Returns the change as a unified diff that has nothing but what changes.
    #[must_use]
    pub fn diff(&self) -> String {
        let before = self.before.as_deref().unwrap_or_default();
        let after = self.after.as_deref().unwrap_or_default();
        let name = self.path.display().to_string();
        let named = |is_there: bool| if is_there { name.as_str() } else { "/dev/null" };
        let (old, new) = (named(self.before.is_some()), named(self.after.is_some()));
        // What cannot be read is not shown at all; no such file is edited.
        let (before, after) = shown::masked(before, after).unwrap_or_default();
        similar::TextDiff::from_lines(&before, &after)
            .unified_diff()
            .context_radius(0)
            .header(old, new)
            .to_string()
    }
}

/// A file mounts something else than the container has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} line {line} mounts {found} at {} of {service}, while the container has {expected}: the file is not what the container was made from",
    file.display(), destination.display()
)]
pub struct Difference {
    /// The file.
    pub file: PathBuf,
    /// The line.
    pub line: usize,
    /// The service.
    pub service: String,
    /// The path in the container.
    pub destination: PathBuf,
    /// What the file says.
    pub found: String,
    /// What the container has.
    pub expected: String,
}

/// Why a project's files cannot be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// A file is not YAML, or volsnap cannot edit it.
    #[error("cannot read {}: {why}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// A needed file was not given.
    #[error("the file {} is not there", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// Files take services from each other in a circle.
    #[error("{} takes services from itself", file.display())]
    Circle {
        /// One of the files.
        file: PathBuf,
    },
    /// No file has that service.
    #[error("no file of the project has the service {service} any more")]
    NoService {
        /// The service.
        service: String,
    },
    /// The service has no such mount.
    #[error("the project's files mount nothing at {} of the service {service}", destination.display())]
    NoMount {
        /// The service.
        service: String,
        /// The path in the container.
        destination: PathBuf,
    },
    /// The service takes over all mounts of another one.
    #[error("the service {service} takes its mounts over from another one (`volumes_from`)")]
    VolumesFrom {
        /// The service.
        service: String,
    },
    /// The file mounts something else than the container has.
    #[error(transparent)]
    Different(Box<Difference>),
    /// A variable with an unknown value decides.
    #[error("{} has the variable {name}, which has no value here", file.display())]
    Variable {
        /// The file.
        file: PathBuf,
        /// The variable.
        name: String,
    },
    /// Others would change with it.
    #[error("{} line {line} also says what {} mounts", file.display(), others.join(", "))]
    Shared {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// Services that should not change.
        others: Vec<String>,
    },
    /// volsnap cannot edit the way in which it is written.
    #[error("{} line {line} has {what}, which cannot be edited", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The line.
        line: usize,
        /// What is written there.
        what: String,
    },
    /// The project has no such volume.
    #[error("no file of the project has the volume {volume}")]
    NoVolume {
        /// The engine's name of the volume.
        volume: String,
    },
    /// A file cannot hold the directory's name.
    #[error("{} cannot be written into a Compose file", path.display())]
    Unwritable {
        /// The directory.
        path: PathBuf,
    },
    /// The files were named, so Compose would not read an override.
    #[error("{} was named with -f, so Compose does not read an override beside it", file.display())]
    Explicit {
        /// The file.
        file: PathBuf,
    },
    /// There is an override from which the container was not made.
    #[error("{} is there, but the container was not made from it", file.display())]
    UnusedOverride {
        /// The file.
        file: PathBuf,
    },
    /// The edit would not do what it should.
    #[error("the edit of {} would not change this mount alone", file.display())]
    Unproved {
        /// The file.
        file: PathBuf,
    },
}

/// What to mount, as a file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    source: MountSource,
    /// Its name in a Compose file: `$` doubled, a volume by its key.
    written: String,
}

impl Wanted {
    fn is_bind(&self) -> bool {
        matches!(self.source, MountSource::Directory(_))
    }

    fn kind(&self) -> &'static str {
        if self.is_bind() { "bind" } else { "volume" }
    }

    fn source(&self) -> String {
        self.written.clone()
    }
}

/// Returns the edits that make each of the changes, in the file that says what is mounted now. None for a
/// change that is already made. Changes nothing itself.
///
/// # Errors
/// When the containers were not made from these files, when other mounts would change too, or when volsnap
/// cannot edit the way in which the mount is written.
pub fn edit(
    project: &ProjectFiles,
    changes: &[MountChange],
    options: EditOptions,
) -> Result<Vec<FileEdit>, EditError> {
    let before = Model::of(project)?.mounts()?;
    let mut current = project.clone();
    let mut parts: Vec<(PathBuf, Part)> = Vec::new();
    for change in changes {
        let Some(edited) = edit_one(&current, change, changes, &before, options)? else { continue };
        current = edited.project;
        parts.push((edited.file, edited.part));
    }
    let done = Model::of(&current)?.mounts()?;
    for change in changes {
        proof::prove_made(&done, &before, change)?;
    }
    let changed = project.texts.iter().filter_map(|(path, text)| {
        let after = current.texts.get(path).filter(|after| *after != text)?;
        let parts = parts.iter().filter(|(file, _)| file == path).map(|(_, part)| part.clone()).collect();
        Some(FileEdit { path: path.clone(), before: Some(text.clone()), after: Some(after.clone()), parts })
    });
    Ok(changed.collect())
}

/// A project after a change.
struct Edited {
    project: ProjectFiles,
    /// The file that changed.
    file: PathBuf,
    /// What changed in it.
    part: Part,
}

/// Returns the project after one of the changes; none if it is already made.
fn edit_one(
    project: &ProjectFiles,
    change: &MountChange,
    all: &[MountChange],
    before: &Mounts,
    options: EditOptions,
) -> Result<Option<Edited>, EditError> {
    let model = Model::of(project)?;
    let mounts = model.mounts()?;
    let entry = entry_of(&model, &mounts, change)?;
    if is_made(entry, &change.to) {
        return Ok(None);
    }
    check_source(&model, entry, change)?;
    let wanted = wanted(&model, entry, change)?;
    let document = model.document(&entry.file)?;
    let mut refusal = None;
    for attempt in Attempt::ALL {
        let splices = match attempt {
            // The entry's text, wherever it is written.
            Attempt::InPlace if project.files.contains(&entry.file) || !entry.inherited => {
                rewrite::replace_entry(
                    document,
                    document.resolve(entry.node),
                    new_entry(entry, false),
                    &wanted,
                    options,
                )
                .map(|splices| (&entry.file, splices))
            }
            // Only this use of what others use too.
            Attempt::ThisUse if document.resolve(entry.node) != entry.node && !entry.inherited => {
                rewrite::replace_entry(document, entry.node, new_entry(entry, false), &wanted, options)
                    .map(|splices| (&entry.file, splices))
            }
            // A stronger entry of the service's own.
            Attempt::OwnEntry if entry.inherited => {
                own_entry(&model, entry, change, &wanted, options).map(|splice| (&entry.owner, vec![splice]))
            }
            _ => continue,
        };
        let outcome = splices
            .map_err(|(at, what)| unsupported(&entry.file, document, (at, what)))
            .and_then(|(file, splices)| spliced(project, file, splices))
            .and_then(|edited| {
                proof::prove_mounts(&edited.project, &model, entry, change, all, before)?;
                proof::prove_rest(&edited.project, project, entry).map(|()| edited)
            });
        match outcome {
            Ok(edited) => return Ok(Some(edited)),
            Err(error) => refusal.get_or_insert(error),
        };
    }
    Err(refusal.unwrap_or_else(|| EditError::Unproved { file: entry.file.clone() }))
}

/// The places where a change is possible, the best first.
#[derive(Debug, Clone, Copy)]
enum Attempt {
    InPlace,
    ThisUse,
    OwnEntry,
}

impl Attempt {
    const ALL: [Self; 3] = [Self::InPlace, Self::ThisUse, Self::OwnEntry];
}

fn own_entry(
    model: &Model<'_>,
    entry: &Entry,
    change: &MountChange,
    wanted: &Wanted,
    options: EditOptions,
) -> Result<Splice, Refused> {
    let document = model.document(&entry.owner).map_err(|_| (0, "nothing"))?;
    let service = document.at(&["services", &change.service]).ok_or((0, "no such service"))?;
    let is_long = model.document(&entry.file).is_ok_and(|document| document.scalar(entry.node).is_none());
    rewrite::add_entry(document, service, &new_entry(entry, is_long), wanted, options)
}

fn new_entry(entry: &Entry, long: bool) -> NewEntry<'_> {
    let modes = entry.mount.rest.iter().filter_map(|said| match said.as_str() {
        "ro" | "read_only=true" => Some("ro"),
        "z" | "Z" => Some(said.as_str()),
        _ => None,
    });
    let target = entry.mount.target.to_string_lossy().replace('$', "$$");
    NewEntry { target, modes: modes.collect(), long }
}

fn unsupported(file: &Path, document: &Document, (at, what): Refused) -> EditError {
    EditError::Unsupported { file: file.to_owned(), line: document.line(at), what: what.to_owned() }
}

/// Returns the project with a file changed.
fn spliced(project: &ProjectFiles, file: &Path, splices: Vec<Splice>) -> Result<Edited, EditError> {
    let text = project.texts.get(file).ok_or_else(|| EditError::Missing { file: file.to_owned() })?;
    let mut edited = project.clone();
    let (part, edit) =
        Part::of(text, splices).ok_or_else(|| EditError::Unproved { file: file.to_owned() })?;
    edited.texts.insert(file.to_owned(), edit);
    Ok(Edited { project: edited, file: file.to_owned(), part })
}

/// Returns the entry that decides what is mounted.
fn entry_of<'m>(model: &Model<'_>, mounts: &'m Mounts, change: &MountChange) -> Result<&'m Entry, EditError> {
    if let Some(entry) = mounts.get(&(change.service.clone(), clean(&change.destination))) {
        return Ok(entry);
    }
    let Some(file) = model.file_of(&change.service) else {
        return Err(EditError::NoService { service: change.service.clone() });
    };
    if model.volumes_from(&change.service) {
        return Err(EditError::VolumesFrom { service: change.service.clone() });
    }
    // A path that depends on a variable may be this one.
    let in_variable = mounts
        .keys()
        .filter(|(service, _)| *service == change.service)
        .find_map(|(_, target)| target.to_str()?.split_once('$').map(|(_, name)| name.to_owned()));
    Err(match in_variable {
        Some(name) => {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name =
                name.trim_start_matches('{').split(|c| !is_name(c)).next().unwrap_or_default().to_owned();
            EditError::Variable { file: file.to_owned(), name }
        }
        None => {
            EditError::NoMount { service: change.service.clone(), destination: change.destination.clone() }
        }
    })
}

fn is_made(entry: &Entry, to: &MountSource) -> bool {
    matches!(&entry.mount.source, Source::Known(source, None) if source == to)
}

/// Returns what to mount: if only a directory of a volume was mounted, that directory.
fn meant(before: &Mounts, change: &MountChange) -> MountSource {
    let entry = before.get(&(change.service.clone(), clean(&change.destination)));
    match (entry.map(|entry| &entry.mount.source), &change.to) {
        (Some(Source::Known(from, Some(below))), MountSource::Directory(path)) if *from == change.from => {
            MountSource::Directory(clean(&path.join(below)))
        }
        _ => change.to.clone(),
    }
}

/// Returns which of these mounts differ in the files of a project: a container made from the files would have
/// something else at that path. Silence of the files, or an unknown variable in them, is no difference.
///
/// # Errors
/// When the files make no sense.
pub fn differences(
    project: &ProjectFiles,
    mounts: &[(String, PathBuf, MountSource)],
) -> Result<Vec<Difference>, EditError> {
    let model = Model::of(project)?;
    let said = model.mounts()?;
    let mut differences = Vec::new();
    for (service, destination, source) in mounts {
        let Some(entry) = said.get(&(service.clone(), clean(destination))) else { continue };
        // Compose itself keeps the data behind a mount that names nothing.
        let is_named = matches!(&entry.mount.source, Source::Known(..) | Source::Other(_));
        let change = MountChange {
            service: service.clone(),
            destination: destination.clone(),
            from: source.clone(),
            to: source.clone(),
        };
        match check_source(&model, entry, &change) {
            Err(EditError::Different(difference)) if is_named => differences.push(*difference),
            Err(EditError::Different(_)) | Ok(()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(differences)
}

/// Refuses a file that mounts something else than the container has.
fn check_source(model: &Model<'_>, entry: &Entry, change: &MountChange) -> Result<(), EditError> {
    let found = match &entry.mount.source {
        Source::Known(source, _) if *source == change.from => return Ok(()),
        // The shell that made the container knew its value; the container itself says that it is this volume.
        Source::Variable(_) => return Ok(()),
        Source::Known(source, _) => described(source),
        Source::Anonymous => "a volume without a name".to_owned(),
        Source::Other(kind) => format!("a {kind}"),
    };
    let document = model.document(&entry.file)?;
    Err(EditError::Different(Box::new(Difference {
        file: entry.file.clone(),
        line: document.line(document.node(entry.node).start),
        service: change.service.clone(),
        destination: change.destination.clone(),
        found,
        expected: described(&change.from),
    })))
}

fn described(source: &MountSource) -> String {
    match source {
        MountSource::Volume(name) => format!("the volume {name}"),
        MountSource::Directory(path) => format!("the directory {}", path.display()),
    }
}

fn wanted(model: &Model<'_>, entry: &Entry, change: &MountChange) -> Result<Wanted, EditError> {
    let written = match &change.to {
        MountSource::Volume(name) => {
            model.key_of_volume(name).ok_or_else(|| EditError::NoVolume { volume: name.clone() })?
        }
        MountSource::Directory(path) => {
            let path = match &entry.mount.source {
                Source::Known(_, Some(below)) => clean(&path.join(below)),
                _ => path.clone(),
            };
            let text = path.to_str().filter(|text| !text.contains(char::is_control) && text.starts_with('/'));
            text.ok_or_else(|| EditError::Unwritable { path: path.clone() })?.replace('$', "$$")
        }
    };
    Ok(Wanted { source: change.to.clone(), written })
}

#[cfg(test)]
mod tests;
