//! Finds `volsnap.toml`, for each container that it may be about.
//!
//! | place | about |
//! |---|---|
//! | beside the compose file; for a container of no project, in the current directory | the services of that project, and containers, by name |
//! | `/etc/volsnap.toml`, or the file in `VOLSNAP_CONFIG` | any service, as `PROJECT/SERVICE`, and containers, by name |
//!
//! What the first one says of a service stands; the second one is not asked of it then. Checks of the data are taken
//! from the first alone.
//!
//! A file is believed only if it and the directories above it belong to root or the user, and nobody else can write
//! them: its commands run in containers, on behalf of whoever runs volsnap. A file that is not believed is no silence:
//! whatever would have followed it is refused, and the error says what to change.

use std::path::{Path, PathBuf};

use super::Context;
use super::recover::{not_for_others, writable_by_others};
use crate::compose::{Membership, WORKING_DIR_LABEL};
use crate::disk::ownership::refuse_not_of_the_user;
use crate::model::container::Container;
use crate::model::error::{Error, Result};
use crate::model::facts::checks::{Checked, Checks};
use crate::model::hint::Hint;
use crate::model::own_commands::OwnCommands;
use crate::model::project_file::{FILE_NAME, ProjectFile};
use crate::model::quote::shell_quote;

/// The file of the machine, unless the environment names another.
pub const MACHINE_FILE: &str = "/etc/volsnap.toml";

/// Returns the user's checks that go with a container, and the file they are in: the named one, else the one beside the
/// compose file, else the one in the current directory. Only a named file must exist, and it may be anybody's.
///
/// # Errors
/// When the file cannot be read, understood or believed, or a named file does not exist.
pub fn find_checks(
    named: Option<&Path>,
    container: &Container,
    directory: &Path,
) -> Result<Option<(PathBuf, Checks)>> {
    let found = match named {
        Some(path) => Some((path.to_owned(), read(path)?)),
        None => beside(container, directory)?,
    };
    Ok(found.map(|(path, file)| (path, Checks { check: file.check })))
}

impl Context {
    /// Returns the file that lies beside a container's compose file, or in the current directory. In a container of our
    /// own the project's directory may be another one, or none.
    fn beside(&self, container: &Container) -> Result<Option<(PathBuf, ProjectFile)>> {
        let Some(project) = container.labels.get(WORKING_DIR_LABEL).filter(|_| self.own.is_some()) else {
            return beside(container, &self.directory);
        };
        match self.seen_here(Path::new(project)) {
            Some(seen) => Ok(at(&seen.join(FILE_NAME))?.map(|file| (seen.join(FILE_NAME), file))),
            None => Ok(None),
        }
    }

    /// Returns the commands that somebody has written for a container.
    ///
    /// # Errors
    /// When a file cannot be read, understood or believed.
    pub(super) fn own_commands(&self, container: &Container) -> Result<OwnCommands> {
        if let Some((_, file)) = self.beside(container)?
            && let Some(own) = of(&file, container, |member| member.service.to_owned())
        {
            return Ok(own);
        }
        let qualified = |member: Membership<'_>| format!("{}/{}", member.project, member.service);
        let file = at(&self.machine_file)?;
        if file.is_none() && self.machine_file != Path::new(MACHINE_FILE) {
            let named =
                format!("there is no file {}, which VOLSNAP_CONFIG names", self.machine_file.display());
            return Err(Error::usage(named).hint(Hint::advice("name one that is there, or none")));
        }
        Ok(file.and_then(|file| of(&file, container, qualified)).unwrap_or_default())
    }

    /// Returns whether the data is right, by the check that somebody has written for the container; `None` if nobody
    /// has.
    ///
    /// # Errors
    /// As for [`own_commands`](Self::own_commands). A check that cannot be run is not right.
    pub(super) async fn own_check(&self, container: &Container) -> Result<Option<Checked>> {
        let Some(check) = self.own_commands(container)?.check else { return Ok(None) };
        let limit = check.command.limit();
        let said = match self.docker.exec(&container.id, &check.command.run, limit).await {
            Ok(output) => Ok((output.exit_code, String::from_utf8_lossy(&output.stdout).into_owned())),
            Err(error) => Err(error.to_string()),
        };
        Ok(Some(check.judge(&format!("check of {}", container.name), said)))
    }
}

/// Returns the file that lies beside a container's compose file, or in the current directory.
fn beside(container: &Container, directory: &Path) -> Result<Option<(PathBuf, ProjectFile)>> {
    let path = match container.labels.get(WORKING_DIR_LABEL) {
        Some(project) => Path::new(project).join(FILE_NAME),
        None => directory.join(FILE_NAME),
    };
    Ok(at(&path)?.map(|file| (path, file)))
}

/// Returns a file, if it is there and is believed.
fn at(path: &Path) -> Result<Option<ProjectFile>> {
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            return Ok(None);
        }
        Err(error) => return Err(Error::usage(format!("read {}", path.display())).with_source(error)),
        Ok(_) => {}
    }
    refuse_not_of_the_user(path).map_err(|error| {
        let quoted = shell_quote(&path.to_string_lossy());
        let refused = Error::usage(format!("{} is not followed: {error}", path.display()))
            .hint(Hint::shell(format!("ls -ld {quoted} \"$(dirname {quoted})\"")).why("whose it is"));
        match writable_by_others(&error) {
            Some(writable) => refused.or(not_for_others(&writable)),
            None => refused,
        }
    })?;
    read(path).map(Some)
}

fn read(path: &Path) -> Result<ProjectFile> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::usage(format!("read {}", path.display())).with_source(error))?;
    let understood = text.parse::<ProjectFile>();
    understood.map_err(|error| {
        Error::usage(format!("understand {}", path.display()))
            .with_source(error)
            .hint(Hint::shell(format!("\"${{EDITOR:-vi}}\" {}", shell_quote(&path.to_string_lossy()))))
    })
}

/// Returns what a file says of a container: of its service, or of itself.
fn of(
    file: &ProjectFile,
    container: &Container,
    service: impl Fn(Membership<'_>) -> String,
) -> Option<OwnCommands> {
    let service = Membership::of(&container.labels).map(service);
    let by_service = service.and_then(|service| file.commands.get(&service));
    by_service.or_else(|| file.commands.get(&container.name)).cloned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn in_project(directory: &Path) -> Container {
        let label = (WORKING_DIR_LABEL.to_owned(), directory.display().to_string());
        Container { labels: [label].into(), ..Container::default() }
    }

    #[test]
    fn checks_lie_beside_the_compose_file_or_where_they_are_said_to_be() {
        let (project, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let check = |name: &str| format!("[[check]]\nname = '{name}'\nsql = 'select 1'\nexpect = '= 1'\n");
        let container = in_project(project.path());
        assert!(find_checks(None, &container, here.path()).unwrap().is_none());
        std::fs::write(here.path().join(FILE_NAME), check("here")).unwrap();
        assert!(find_checks(None, &container, here.path()).unwrap().is_none(), "another project's");
        std::fs::write(project.path().join(FILE_NAME), check("project")).unwrap();
        let found = |named: Option<&Path>, container: &Container| {
            find_checks(named, container, here.path()).unwrap().unwrap().1.check[0].name.clone()
        };
        assert_eq!(found(None, &container), "project");
        assert_eq!(found(None, &Container::default()), "here");
        assert_eq!(found(Some(&here.path().join(FILE_NAME)), &container), "here");
        let error = find_checks(Some(&here.path().join("none.toml")), &container, here.path()).unwrap_err();
        assert!(error.chain().contains("none.toml"), "{}", error.chain());
        std::fs::write(project.path().join(FILE_NAME), "[[check]]\nname = 1\n").unwrap();
        let error = find_checks(None, &container, here.path()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage);
        assert!(error.chain().contains("line 2"), "{}", error.chain());
    }

    #[test]
    fn commands_are_found_by_service_or_by_container() {
        let labels = [("project", "shop"), ("service", "cache")]
            .map(|(name, value)| (format!("com.docker.compose.{name}"), value.to_owned()));
        let cache = Container { name: "shop-cache-1".into(), labels: labels.into(), ..Container::default() };
        let file: ProjectFile = "[commands.cache]\nready = 'a'\n[commands.'shop/cache']\nready = 'b'\n\
            [commands.shop-cache-1]\nready = 'c'\n[commands.db]\nready = 'd'\n"
            .parse()
            .unwrap();
        let ready = |own: Option<OwnCommands>| own.and_then(|own| own.ready).map(|ready| ready.title());
        let service = of(&file, &cache, |member| member.service.to_owned());
        assert_eq!(ready(service).as_deref(), Some("a"));
        let qualified = of(&file, &cache, |member| format!("{}/{}", member.project, member.service));
        assert_eq!(ready(qualified).as_deref(), Some("b"));
        let alone = Container { labels: BTreeMap::new(), ..cache };
        assert_eq!(ready(of(&file, &alone, |_| unreachable!())).as_deref(), Some("c"));
        let other = Container { name: "other".into(), ..alone };
        assert_eq!(of(&file, &other, |_| unreachable!()), None);
    }

    #[test]
    fn a_file_that_others_can_write_is_refused_unless_it_is_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let project = tempfile::tempdir().unwrap();
        let path = project.path().join(FILE_NAME);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let error = find_checks(None, &in_project(project.path()), project.path()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage);
        assert!(
            error.chain().contains("is not followed") && error.chain().contains("chmod go-w"),
            "{}",
            error.chain()
        );
        assert!(find_checks(Some(&path), &Container::default(), project.path()).unwrap().is_some());
    }
}
