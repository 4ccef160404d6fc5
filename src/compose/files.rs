//! Finding the files of a container's project by the labels that Compose put on the container.
//!
//! This tells if a file is gone, or was written to after the container was made. The [edit](super::edit)
//! finds out whether a file still says what the container has.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::edit::{EditError, ProjectFiles, references};
use super::environment::{Environment, variables_of};
use super::labels::{CONFIG_FILES_LABEL, ENVIRONMENT_FILE_LABEL, Membership, WORKING_DIR_LABEL};
use super::{FILE_NAMES, OVERRIDE_NAMES};

/// More bytes than any Compose file has; a longer file is none.
const FILE_MAX: u64 = 4 << 20;

/// Why the files of a project cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The container is not Compose's.
    #[error("the container was not made by Compose")]
    NotCompose,
    /// The labels do not name the files.
    #[error("the labels of the container do not name its files: an old Compose leaves that out")]
    NotNamed,
    /// The project came from standard input.
    #[error("the project's file was given on standard input")]
    StandardInput,
    /// A file is gone.
    #[error("the container was made from the file {}, which is not there", file.display())]
    Gone {
        /// The file.
        file: PathBuf,
    },
    /// A file cannot be read.
    #[error("read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no Compose file that volsnap can edit.
    #[error(transparent)]
    Unusable(#[from] EditError),
}

/// What the labels of a container say of its project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFiles {
    /// The project's name.
    pub project: String,
    /// Its directory: the base of relative paths.
    pub directory: PathBuf,
    /// The absolute paths of its files; all of them exist.
    pub files: Vec<PathBuf>,
    /// The files with variables that Compose was given, or finds.
    pub environment_files: Vec<PathBuf>,
}

impl NamedFiles {
    /// Reads them from the labels of a container.
    ///
    /// # Errors
    /// When the labels do not name them, or a file is gone.
    pub fn of(labels: &BTreeMap<String, String>) -> Result<Self, FilesError> {
        let member = Membership::of(labels).ok_or(FilesError::NotCompose)?;
        let named = |label| labels.get(label).filter(|value| !value.is_empty());
        let (Some(directory), Some(files)) = (named(WORKING_DIR_LABEL), named(CONFIG_FILES_LABEL)) else {
            return Err(FilesError::NotNamed);
        };
        let directory = PathBuf::from(directory);
        if files.split(',').any(|file| file == "-") {
            return Err(FilesError::StandardInput);
        }
        let files = files.split(',').map(|file| locate(&directory, Path::new(file)));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let environment_files = match named(ENVIRONMENT_FILE_LABEL) {
            Some(files) => files.split(',').map(|file| directory.join(file)).collect(),
            None => {
                vec![directory.join(".env")].into_iter().filter(|file| file.is_file()).collect::<Vec<_>>()
            }
        };
        Ok(Self { project: member.project.to_owned(), directory, files, environment_files })
    }
}

/// The project of a container, with its files as they are now.
#[derive(Debug, Clone)]
pub struct FoundProject {
    /// The files and their texts.
    pub files: ProjectFiles,
    /// The files with variables that Compose was given, or found.
    pub environment_files: Vec<PathBuf>,
    /// When each file was last written to.
    pub modified: BTreeMap<PathBuf, SystemTime>,
}

impl FoundProject {
    /// Finds and reads the files of the project of a container with these labels. `shell` has the caller's
    /// variables, which come before those of files.
    ///
    /// # Errors
    /// When the labels do not name them, or a file is gone or makes no sense.
    pub fn of(labels: &BTreeMap<String, String>, shell: &Environment) -> Result<Self, FilesError> {
        let NamedFiles { project, directory, files, environment_files } = NamedFiles::of(labels)?;
        let mut environment = Environment::new();
        for file in &environment_files {
            environment.extend(variables_of(&read(file)?));
        }
        environment.insert("COMPOSE_PROJECT_NAME".to_owned(), project.clone());
        environment.extend(shell.iter().map(|(name, value)| (name.clone(), value.clone())));
        let unused_override = unused_override(&directory, &files);
        let mut files =
            ProjectFiles { project, directory, files, texts: BTreeMap::new(), environment, unused_override };
        let modified = read_all(&mut files)?;
        Ok(Self { files, environment_files, modified })
    }

    /// Returns the files that were written to after a container was made at `created`: the container may have
    /// been made from another text.
    #[must_use]
    pub fn changed_since(&self, created: SystemTime) -> Vec<&Path> {
        self.modified.iter().filter(|(_, at)| **at > created).map(|(file, _)| file.as_path()).collect()
    }
}

/// Returns the path of a file that a label names. docker-compose 1 puts it as it was typed, relative to a
/// directory that the label does not name: the project's, or one above it.
fn locate(directory: &Path, file: &Path) -> Result<PathBuf, FilesError> {
    if file.is_absolute() {
        let there = file.is_file().then(|| file.to_owned());
        return there.ok_or_else(|| FilesError::Gone { file: file.to_owned() });
    }
    let mut places = directory.ancestors().map(|above| normal(&above.join(file)));
    places
        .find(|place| place.is_file())
        .ok_or_else(|| FilesError::Gone { file: normal(&directory.join(file)) })
}

fn normal(path: &Path) -> PathBuf {
    crate::model::location::normalize(path)
}

/// Returns the override beside a project that was made without it.
fn unused_override(directory: &Path, files: &[PathBuf]) -> Option<PathBuf> {
    let [only] = files else { return None };
    let is_default = FILE_NAMES.iter().any(|name| *only == directory.join(name));
    let mut overrides = OVERRIDE_NAMES.iter().map(|name| directory.join(name));
    overrides.find(|file| is_default && file.exists())
}

/// Reads the project's files and those from which they take services, and returns when each was last written to.
fn read_all(project: &mut ProjectFiles) -> Result<BTreeMap<PathBuf, SystemTime>, FilesError> {
    let mut modified = BTreeMap::new();
    let mut open: VecDeque<PathBuf> = project.files.iter().cloned().collect();
    while let Some(file) = open.pop_front() {
        if project.texts.contains_key(&file) {
            continue;
        }
        let text = read(&file)?;
        open.extend(references(&text, &file, &project.directory, &project.environment)?);
        let at = std::fs::metadata(&file).and_then(|metadata| metadata.modified());
        modified.insert(file.clone(), at.map_err(|source| FilesError::Read { file: file.clone(), source })?);
        project.texts.insert(file, text);
    }
    Ok(modified)
}

fn read(file: &Path) -> Result<String, FilesError> {
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FilesError::Gone { file: file.to_owned() },
        _ => FilesError::Read { file: file.to_owned(), source },
    };
    let metadata = std::fs::metadata(file).map_err(refused)?;
    if !metadata.is_file() || metadata.len() > FILE_MAX {
        return Err(refused(io::Error::other("its kind or its length is not that of a Compose file")));
    }
    std::fs::read_to_string(file).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use rstest::rstest;

    use super::*;

    const FILE: &str = "services:\n  db: {image: x, volumes: ['${VOL}:/x']}\n";

    fn labels(directory: &Path, files: &str) -> BTreeMap<String, String> {
        let pairs = [
            ("com.docker.compose.project", "app"),
            ("com.docker.compose.service", "db"),
            (WORKING_DIR_LABEL, directory.to_str().unwrap()),
            (CONFIG_FILES_LABEL, files),
        ];
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[rstest]
    #[case::as_compose_1_names_it("compose.yaml")]
    #[case::typed_from_above("app/compose.yaml")]
    fn the_files_are_found_by_the_labels(#[case] named: &str) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("app");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("compose.yaml"), FILE).unwrap();
        fs::write(directory.join(".env"), "VOL=from-file\nOTHER=1\n").unwrap();
        let shell = Environment::from([("OTHER".to_owned(), "2".to_owned())]);
        let found = FoundProject::of(&labels(&directory, named), &shell).unwrap();
        let file = directory.join("compose.yaml");
        assert_eq!(found.files.files, [file.as_path()]);
        assert_eq!(found.files.texts[&file], FILE);
        assert_eq!(found.files.environment["VOL"], "from-file");
        assert_eq!(found.files.environment["OTHER"], "2");
        assert_eq!(found.files.project, "app");
        let now = SystemTime::now();
        assert!(found.changed_since(now + Duration::from_secs(60)).is_empty());
        assert_eq!(found.changed_since(now - Duration::from_secs(60)), [file.as_path()]);
    }

    #[test]
    fn files_that_others_take_services_from_are_read_too() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("db")).unwrap();
        let main =
            "include: [db/compose.yaml]\nservices:\n  app: {extends: {file: base.yaml, service: app}}\n";
        for (name, text) in [
            ("compose.yaml", main),
            ("base.yaml", "services: {app: {image: x}}\n"),
            ("db/compose.yaml", FILE),
        ] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let found = FoundProject::of(&labels(root.path(), "compose.yaml"), &Environment::new()).unwrap();
        assert_eq!(found.files.files.len(), 1);
        assert_eq!(found.files.texts.len(), 3);
        fs::remove_file(root.path().join("base.yaml")).unwrap();
        let error = FoundProject::of(&labels(root.path(), "compose.yaml"), &Environment::new()).unwrap_err();
        assert!(matches!(error, FilesError::Gone { file } if file.ends_with("base.yaml")));
    }

    #[test]
    fn what_is_gone_or_was_never_a_file_is_said() {
        let root = tempfile::tempdir().unwrap();
        let of =
            |files: &str| FoundProject::of(&labels(root.path(), files), &Environment::new()).unwrap_err();
        assert!(matches!(of("compose.yaml"), FilesError::Gone { .. }));
        assert!(matches!(of("/nowhere/compose.yaml"), FilesError::Gone { .. }));
        assert!(matches!(of("-"), FilesError::StandardInput));
        assert!(matches!(of(""), FilesError::NotNamed));
        let error = FoundProject::of(&BTreeMap::new(), &Environment::new()).unwrap_err();
        assert!(matches!(error, FilesError::NotCompose));
    }

    #[test]
    fn an_override_that_the_project_is_not_made_of_is_remarked() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("compose.yaml"), FILE).unwrap();
        fs::write(root.path().join("compose.override.yaml"), FILE).unwrap();
        let found = FoundProject::of(&labels(root.path(), "compose.yaml"), &Environment::new()).unwrap();
        assert_eq!(found.files.unused_override, Some(root.path().join("compose.override.yaml")));
    }
}
