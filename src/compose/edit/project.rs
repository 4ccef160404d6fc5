//! The files of a project and what they say of each service's mounts, by Compose's own rules of merging.
//!
//! The stronger entry comes first: a later `-f` file before an earlier one, a service's own entry before one
//! that it takes over by `extends`. Two entries are for the same mount if they have the same path in the
//! container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::super::environment::{Environment, interpolate};
use super::EditError;
use super::short::ShortMount;
use super::yaml::{Document, Kind, NodeId};
use crate::model::location::MountSource;

/// A chain of `extends` or `include` longer than this is a circle.
const MAX_DEPTH: usize = 16;

/// The files of a project, as they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectFiles {
    /// The project's name.
    pub project: String,
    /// Its directory: the base of relative paths.
    pub directory: PathBuf,
    /// The absolute paths of its files; a later one wins.
    pub files: Vec<PathBuf>,
    /// The texts of these files, and of the files from which they take services (`extends`, `include`).
    pub texts: BTreeMap<PathBuf, String>,
    /// Values of variables.
    pub environment: Environment,
    /// An override beside the first file that is not part of the project.
    pub unused_override: Option<PathBuf>,
}

/// Every file of a project, parsed.
#[derive(Debug, Clone)]
pub(super) struct Model<'p> {
    pub(super) project: &'p ProjectFiles,
    documents: BTreeMap<PathBuf, Document>,
    /// The files that define services of the project, in groups that Compose merges; one more for each `include`.
    groups: Vec<Vec<PathBuf>>,
}

/// Where an entry of a service's `volumes` stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The file that it stands in.
    pub(super) file: PathBuf,
    /// The entry as written; perhaps an alias.
    pub(super) node: NodeId,
    /// The file whose service has it in the end.
    pub(super) owner: PathBuf,
    /// Whether the service takes it over from another one (`extends`).
    pub(super) inherited: bool,
    /// The mount.
    pub(super) mount: Mount,
}

/// What an entry of `volumes` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The path in the container.
    pub(super) target: PathBuf,
    /// What is mounted there.
    pub(super) source: Source,
    /// Everything else that the entry says.
    pub(super) rest: BTreeSet<String>,
}

/// What an entry mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A volume, by the engine's name for it, or a host directory; and a path below it.
    Known(MountSource, Option<String>),
    /// A volume that nobody named.
    Anonymous,
    /// Memory or the like.
    Other(String),
    /// A variable whose value is unknown.
    Variable(String),
}

/// The mounts of every service, by service and path in the container.
pub(super) type Mounts = BTreeMap<(String, PathBuf), Entry>;

impl<'p> Model<'p> {
    /// Parses the files of a project.
    pub(super) fn of(project: &'p ProjectFiles) -> Result<Self, EditError> {
        let mut documents = BTreeMap::new();
        for (path, text) in &project.texts {
            let document = Document::parse(text)
                .map_err(|error| EditError::Unreadable { file: path.clone(), why: error.to_string() })?;
            documents.insert(path.clone(), document);
        }
        let mut model = Self { project, documents, groups: Vec::new() };
        model.gather(project.files.clone(), 0)?;
        Ok(model)
    }

    /// Adds a group of files and those that they include.
    fn gather(&mut self, files: Vec<PathBuf>, depth: usize) -> Result<(), EditError> {
        for file in &files {
            let included = includes(self.document(file)?, file, &self.project.environment);
            for group in included {
                if depth >= MAX_DEPTH {
                    return Err(EditError::Circle { file: file.clone() });
                }
                self.gather(group, depth + 1)?;
            }
        }
        self.groups.push(files);
        Ok(())
    }

    /// Returns a file of the project.
    pub(super) fn document(&self, file: &Path) -> Result<&Document, EditError> {
        self.documents.get(file).ok_or_else(|| EditError::Missing { file: file.to_owned() })
    }

    /// Returns the mounts of every service.
    pub(super) fn mounts(&self) -> Result<Mounts, EditError> {
        let mut mounts = Mounts::new();
        for group in &self.groups {
            for service in self.services(group)? {
                for entry in self.service_mounts(group, &service)? {
                    mounts.entry((service.clone(), entry.mount.target.clone())).or_insert(entry);
                }
            }
        }
        Ok(mounts)
    }

    /// Returns the last file that says something about a service of the project.
    pub(super) fn file_of(&self, service: &str) -> Option<&Path> {
        let defines = |file: &&PathBuf| {
            self.documents.get(*file).is_some_and(|document| document.at(&["services", service]).is_some())
        };
        self.groups.iter().rev().find_map(|group| group.iter().rev().find(defines)).map(PathBuf::as_path)
    }

    /// Returns the services that take over all mounts of another one.
    pub(super) fn volumes_from(&self, service: &str) -> bool {
        self.documents.values().any(|document| {
            document
                .at(&["services", service, "volumes_from"])
                .is_some_and(|list| !document.items(list).is_empty())
        })
    }

    /// Returns what a project calls a volume of the engine, if it has it.
    pub(super) fn key_of_volume(&self, name: &str) -> Option<String> {
        let keys: BTreeSet<String> = self
            .documents
            .values()
            .flat_map(|document| {
                let volumes = document.all(&["volumes"]);
                let pairs = volumes.iter().flat_map(|volumes| document.pairs(*volumes));
                pairs.filter_map(|(key, _)| document.scalar(*key).map(str::to_owned)).collect::<Vec<_>>()
            })
            .collect();
        keys.into_iter().find(|key| self.volume_named(key).as_deref() == Ok(name))
    }

    fn services(&self, group: &[PathBuf]) -> Result<BTreeSet<String>, EditError> {
        let mut services = BTreeSet::new();
        for file in group {
            let document = self.document(file)?;
            let all = document.all(&["services"]);
            let pairs = all.iter().flat_map(|services| document.pairs(*services));
            services.extend(pairs.filter_map(|(name, _)| document.scalar(*name)).map(str::to_owned));
        }
        Ok(services)
    }

    /// Returns the entries of a service, the strongest first; several may have the same target.
    fn service_mounts(&self, group: &[PathBuf], service: &str) -> Result<Vec<Entry>, EditError> {
        let mut entries = Vec::new();
        for file in group.iter().rev() {
            if self.collect(file, service, file, 0, &mut entries)? == Merging::Replaced {
                break;
            }
        }
        Ok(entries)
    }

    fn collect(
        &self,
        file: &Path,
        service: &str,
        owner: &Path,
        depth: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<Merging, EditError> {
        let document = self.document(file)?;
        if depth > MAX_DEPTH {
            return Err(EditError::Circle { file: file.to_owned() });
        }
        for body in document.all(&["services", service]).into_iter().rev() {
            let place = (file, owner, depth);
            if self.collect_from(document, body, place, entries)? == Merging::Replaced {
                return Ok(Merging::Replaced);
            }
        }
        Ok(Merging::Merged)
    }

    /// Adds the entries of what a document says of a service, and of what it extends.
    fn collect_from(
        &self,
        document: &Document,
        body: NodeId,
        (file, owner, depth): (&Path, &Path, usize),
        entries: &mut Vec<Entry>,
    ) -> Result<Merging, EditError> {
        if let Some(volumes) = document.get(body, "volumes") {
            // Of two entries in one list with the same target, the last one counts.
            for node in document.items(volumes).iter().rev() {
                let mount = self.mount(file, document, *node)?;
                let (file, owner) = (file.to_owned(), owner.to_owned());
                entries.push(Entry { file, node: *node, owner, inherited: depth > 0, mount });
            }
            let tag = [volumes, document.resolve(volumes)]
                .into_iter()
                .find_map(|id| document.node(id).tag.as_deref());
            if matches!(tag, Some("!override" | "!reset")) {
                return Ok(Merging::Replaced);
            }
        }
        match document.get(body, "extends") {
            Some(extends) => {
                let (base_file, base) = self.base_of(file, document, extends)?;
                self.collect(&base_file, &base, owner, depth + 1, entries)
            }
            None => Ok(Merging::Merged),
        }
    }

    fn base_of(
        &self,
        file: &Path,
        document: &Document,
        extends: NodeId,
    ) -> Result<(PathBuf, String), EditError> {
        let text =
            |id: Option<NodeId>| id.and_then(|id| document.scalar(id)).map(|text| self.value(file, text));
        let service = text(Some(extends)).or_else(|| text(document.get(extends, "service"))).transpose()?;
        let Some(service) = service else {
            let line = document.line(document.node(extends).start);
            return Err(EditError::Unsupported {
                file: file.to_owned(),
                line,
                what: "this `extends`".to_owned(),
            });
        };
        let Some(named) = text(document.get(extends, "file")).transpose()? else {
            return Ok((file.to_owned(), service));
        };
        let candidates = [
            file.parent().map(|parent| clean(&parent.join(&named))),
            Some(clean(&self.project.directory.join(&named))),
        ];
        let found = candidates.into_iter().flatten().find(|path| self.documents.contains_key(path));
        found.map(|found| (found, service)).ok_or_else(|| EditError::Missing { file: named.into() })
    }

    fn value(&self, file: &Path, text: &str) -> Result<String, EditError> {
        interpolate(text, &self.project.environment)
            .map_err(|unknown| EditError::Variable { file: file.to_owned(), name: unknown.0 })
    }

    /// Returns what an entry of `volumes` asks for.
    pub(super) fn mount(&self, file: &Path, document: &Document, node: NodeId) -> Result<Mount, EditError> {
        let resolved = document.resolve(node);
        match &document.node(resolved).kind {
            Kind::Scalar(text, _) => self.short_mount(file, text),
            Kind::Mapping(..) => self.long_mount(file, document, resolved),
            Kind::Sequence(..) | Kind::Alias(_) => Err(EditError::Unsupported {
                file: file.to_owned(),
                line: document.line(document.node(node).start),
                what: "an entry of `volumes` that is neither text nor a mapping".to_owned(),
            }),
        }
    }

    fn short_mount(&self, file: &Path, text: &str) -> Result<Mount, EditError> {
        // A variable may stand for the source alone, and then its value need not be known, or for all of it.
        let written = ShortMount::split(text);
        let whole = self.value(file, text);
        let (target, mode, source) = match &whole {
            Ok(whole) => {
                let short = ShortMount::split(whole);
                let source = match short.source {
                    Some(source) => self.named(file, source),
                    None => Source::Anonymous,
                };
                (short.target.to_owned(), short.mode.map(str::to_owned), source)
            }
            Err(EditError::Variable { name, .. }) => {
                (self.target(written.target), written.mode.map(str::to_owned), Source::Variable(name.clone()))
            }
            Err(error) => return Err(error.clone()),
        };
        let rest = mode.iter().flat_map(|mode| mode.split(',')).map(str::to_owned).collect();
        Ok(Mount { target: clean(Path::new(&target)), source, rest })
    }

    fn long_mount(&self, file: &Path, document: &Document, map: NodeId) -> Result<Mount, EditError> {
        let text = |key: &str| document.get(map, key).and_then(|id| document.scalar(id));
        let Some(target) = text("target") else {
            let line = document.line(document.content_end(map));
            return Err(EditError::Unsupported {
                file: file.to_owned(),
                line,
                what: "a mount without a target".to_owned(),
            });
        };
        let below = document.get(map, "volume").and_then(|volume| document.get(volume, "subpath"));
        let below = below.and_then(|below| document.scalar(below)).map(|below| self.target(below));
        let source = match (text("type"), text("source")) {
            (Some("volume" | "bind"), Some(source)) => match (self.value(file, source), text("type")) {
                (Ok(source), Some("bind")) => {
                    Source::Known(MountSource::Directory(self.path(file, &source)), None)
                }
                (Ok(source), _) => self.volume(&source, below),
                (Err(EditError::Variable { name, .. }), _) => Source::Variable(name),
                (Err(error), _) => return Err(error),
            },
            (Some("volume"), None) => Source::Anonymous,
            (kind, _) => Source::Other(kind.unwrap_or_default().to_owned()),
        };
        // Settings of how to mount only a volume, or only a directory, go with it.
        let kept = |key: &&str| !matches!(*key, "type" | "source" | "target" | "volume" | "bind" | "<<");
        let rest = document.pairs(map).iter().filter_map(|(key, value)| {
            let key = document.scalar(*key).filter(kept)?;
            Some(format!("{key}={}", document.scalar(*value).unwrap_or_default()))
        });
        Ok(Mount { target: clean(Path::new(&self.target(target))), source, rest: rest.collect() })
    }

    /// Returns a path in a container; as written if it depends on a variable without a value.
    fn target(&self, text: &str) -> String {
        interpolate(text, &self.project.environment).unwrap_or_else(|_| text.to_owned())
    }

    /// Returns the source of the short form: a path, or the key of a volume.
    fn named(&self, file: &Path, source: &str) -> Source {
        if source.starts_with(['/', '.', '~']) {
            Source::Known(MountSource::Directory(self.path(file, source)), None)
        } else {
            self.volume(source, None)
        }
    }

    fn volume(&self, key: &str, below: Option<String>) -> Source {
        match self.volume_named(key) {
            Ok(name) => Source::Known(MountSource::Volume(name), below),
            Err(variable) => Source::Variable(variable),
        }
    }

    /// Returns the engine's name for a volume of the project, else the variable on which it depends.
    fn volume_named(&self, key: &str) -> Result<String, String> {
        let files = self.groups.iter().rev().flat_map(|group| group.iter().rev());
        let mut external = false;
        for document in files.filter_map(|file| self.documents.get(file)) {
            let Some(volume) = document.at(&["volumes", key]) else { continue };
            let outside = document.get(volume, "external");
            let name = document.get(volume, "name").or_else(|| document.get(outside?, "name"));
            if let Some(name) = name.and_then(|name| document.scalar(name)) {
                return interpolate(name, &self.project.environment).map_err(|unknown| unknown.0);
            }
            let said =
                outside.and_then(|outside| document.scalar(outside)).unwrap_or_default().to_lowercase();
            external |= matches!(said.as_str(), "true" | "yes" | "on" | "y")
                || outside.is_some_and(|outside| !document.pairs(outside).is_empty());
        }
        Ok(if external { key.to_owned() } else { format!("{}_{key}", self.project.project) })
    }

    /// Returns a path as Compose makes it absolute.
    fn path(&self, file: &Path, path: &str) -> PathBuf {
        let home = self.project.environment.get("HOME").map(Path::new);
        if let (Some(below), Some(home)) = (path.strip_prefix('~'), home) {
            return clean(&home.join(below.trim_start_matches('/')));
        }
        // A path in another file is relative to that file.
        let is_own = self.project.files.iter().any(|own| own == file);
        let base = if is_own { Some(self.project.directory.as_path()) } else { file.parent() };
        clean(&base.unwrap_or(Path::new("/")).join(path))
    }
}

/// How a file's entries combine with those of weaker files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merging {
    /// They are added.
    Merged,
    /// They replace the others (`!override`, `!reset`).
    Replaced,
}

/// Returns the files from which a text takes services: those it includes, and those whose services it
/// extends.
///
/// # Errors
/// When the text is not YAML that volsnap can edit.
pub fn references(
    text: &str,
    file: &Path,
    directory: &Path,
    environment: &Environment,
) -> Result<Vec<PathBuf>, EditError> {
    let document = &Document::parse(text)
        .map_err(|error| EditError::Unreadable { file: file.to_owned(), why: error.to_string() })?;
    let mut found: Vec<PathBuf> = includes(document, file, environment).into_iter().flatten().collect();
    let services = document.all(&["services"]);
    for (_, service) in services.iter().flat_map(|services| document.pairs(*services)) {
        let named = document.get(*service, "extends").and_then(|extends| document.get(extends, "file"));
        let Some(named) = named.and_then(|named| document.scalar(named)) else { continue };
        let Ok(named) = interpolate(named, environment) else { continue };
        let beside = file.parent().map(|parent| clean(&parent.join(&named)));
        let in_project = clean(&directory.join(&named));
        found.push(beside.filter(|beside| *beside == in_project || beside.exists()).unwrap_or(in_project));
    }
    Ok(found)
}

fn includes(document: &Document, file: &Path, environment: &Environment) -> Vec<Vec<PathBuf>> {
    let Some(include) = document.at(&["include"]) else { return Vec::new() };
    let directory = file.parent().unwrap_or(Path::new("/"));
    let group = |item: &NodeId| {
        let paths = document.get(*item, "path").unwrap_or(*item);
        let all = match document.scalar(paths) {
            Some(_) => vec![paths],
            None => document.items(paths).to_vec(),
        };
        let texts = all.iter().filter_map(|path| document.scalar(*path));
        texts
            .filter_map(|text| interpolate(text, environment).ok())
            .map(|path| clean(&directory.join(path)))
            .collect()
    };
    document.items(include).iter().map(group).collect()
}

/// Returns the path without `.`, `..` and a slash at its end.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
