//! Compose, as far as volsnap uses it: it makes the containers of services anew, with the mounts that the project's
//! files give them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Output};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use super::MemoryDocker;
use super::create::mount_of;
use crate::compose::runner::{Invocation, Runner};
use crate::compose::{CONFIG_HASH_LABEL, Membership};
use crate::engine::{Docker as _, DockerError, Grace};
use crate::model::container::Container;
use crate::model::location::MountSource;

/// How long it takes to start.
const START: Duration = Duration::from_millis(200);
/// How long a container that is made anew may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct MemoryCompose {
    docker: MemoryDocker,
    /// Whether it is of version 1, and as such joins no network of a container that does not run.
    is_first: bool,
}

impl MemoryDocker {
    /// Returns Compose, for this engine.
    #[must_use]
    pub fn compose(&self) -> Arc<dyn Runner> {
        Arc::new(MemoryCompose { docker: self.clone(), is_first: false })
    }

    /// Returns Compose of version 1, for this engine. It makes nothing anew that has been removed.
    #[must_use]
    pub fn first_compose(&self) -> Arc<dyn Runner> {
        Arc::new(MemoryCompose { docker: self.clone(), is_first: true })
    }
}

/// Returns the digest that Compose makes of a service's configuration; here it covers all files.
#[must_use]
pub fn config_hash(texts: &[String]) -> String {
    blake3::hash(texts.concat().as_bytes()).to_hex().to_string()
}

#[async_trait]
impl Runner for MemoryCompose {
    async fn version(&self, words: &[&str]) -> Option<String> {
        match (self.is_first, words) {
            (false, ["docker", "compose", ..]) => Some("2.27.0".to_owned()),
            (true, ["docker-compose", ..]) => Some("1.29.2".to_owned()),
            _ => None,
        }
    }

    async fn run(&self, invocation: Invocation) -> io::Result<Output> {
        sleep(START).await;
        let words: Vec<String> =
            invocation.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let command = Command::of(&words);
        let texts = command.files.iter().map(std::fs::read_to_string).collect::<io::Result<Vec<_>>>()?;
        let outcome = match command.action.as_slice() {
            ["config"] => Ok(texts.concat()),
            // The real one leaves out what stands in files for the environment.
            ["config", "--hash", service] => Ok(format!("{service} {}\n", config_hash(&texts))),
            ["--dry-run", "up", .., service] => self.rehearse(&command, &texts, service).await,
            ["up", ..] => self.make_anew(&command, &texts).await.map_err(|error| error.to_string()),
            other => Err(format!("unknown command: {other:?}")),
        };
        let (code, stdout, stderr) = match outcome {
            Ok(said) => (0, said, String::new()),
            Err(why) => (1, String::new(), why),
        };
        let status = ExitStatus::from_raw(code << 8);
        Ok(Output { status, stdout: stdout.into_bytes(), stderr: stderr.into_bytes() })
    }
}

impl MemoryCompose {
    /// Says what would become of a service's container.
    async fn rehearse(
        &self,
        command: &Command<'_>,
        texts: &[String],
        service: &str,
    ) -> Result<String, String> {
        let all = self.docker.containers().await.map_err(|error| error.to_string())?;
        let is_meant = |container: &&Container| {
            Membership::of(&container.labels)
                .is_some_and(|member| member.project == command.project && member.service == service)
        };
        let digest = config_hash(&with_environment(command, texts));
        let verb = match all.iter().find(is_meant) {
            Some(container) if container.labels.get(CONFIG_HASH_LABEL) == Some(&digest) => "Running",
            Some(_) => "Recreate",
            None => "Creating",
        };
        Ok(format!(" DRY-RUN MODE -  Container {service}  {verb} \n"))
    }

    /// Makes the containers of the services anew, and starts none of them.
    async fn make_anew(&self, command: &Command<'_>, texts: &[String]) -> Result<String, DockerError> {
        let mut mounts = BTreeMap::new();
        let mut successors = BTreeMap::new();
        texts.iter().for_each(|text| mounts.extend(mounts_of(text)));
        // Options come before the services, and one of them has a number.
        let services = command.action.iter().rev().take_while(|word| word.parse::<u64>().is_err());
        for service in services.collect::<Vec<_>>().into_iter().rev() {
            let all = self.docker.containers().await?;
            let is_meant = |container: &&Container| {
                Membership::of(&container.labels)
                    .is_some_and(|member| member.project == command.project && member.service == *service)
            };
            let Some(before) = all.iter().find(is_meant) else { continue };
            self.docker.stop(&before.id, None, Grace::Own, STOP_LIMIT).await?;
            self.docker.remove_stopped_container(&before.id).await?;
            let mut made = Container { id: String::new(), ..before.clone() };
            for mount in &mut made.mounts {
                let key = ((*service).to_owned(), mount.destination.clone());
                if let Some(source) = mounts.get(&key) {
                    *mount = mount_of(source, mount.destination.clone(), mount.read_only);
                }
            }
            let digest = config_hash(&with_environment(command, texts));
            made.labels.insert(CONFIG_HASH_LABEL.to_owned(), digest);
            let shared = made.network_mode.strip_prefix("container:").map(str::to_owned);
            if let Some(owner) = shared {
                made.network_mode = match successors.get(&owner) {
                    _ if self.is_first => "default".to_owned(),
                    Some(successor) => format!("container:{successor}"),
                    None => format!("container:{owner}"),
                };
            }
            let id = self.docker.add(made)?;
            successors.insert(before.id.clone(), id);
        }
        Ok(String::new())
    }
}

/// Returns the texts of the files, and of those that they name by `env_file`.
fn with_environment(command: &Command<'_>, texts: &[String]) -> Vec<String> {
    let names =
        texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.trim().strip_prefix("env_file: "));
    let read = |name| std::fs::read_to_string(command.directory.join(name)).unwrap_or_default();
    texts.iter().cloned().chain(names.map(read)).collect()
}

/// A command line, taken apart.
struct Command<'w> {
    project: &'w str,
    directory: PathBuf,
    files: Vec<PathBuf>,
    action: Vec<&'w str>,
}

impl<'w> Command<'w> {
    fn of(words: &'w [String]) -> Self {
        let mut command =
            Self { project: "", directory: PathBuf::new(), files: Vec::new(), action: Vec::new() };
        let spelling = if words.first().is_some_and(|word| word == "docker") { 2 } else { 1 };
        let mut words = words.iter().map(String::as_str).skip(spelling);
        while let Some(word) = words.next() {
            match word {
                "--project-name" => command.project = words.next().unwrap_or_default(),
                "--file" => command.files.extend(words.next().map(PathBuf::from)),
                "--project-directory" => command.directory = words.next().unwrap_or_default().into(),
                "--env-file" => _ = words.next(),
                action => {
                    command.action = std::iter::once(action).chain(words.by_ref()).collect();
                }
            }
        }
        command
    }
}

/// Returns what services mount and where, from a file in block style that calls each volume by its name.
fn mounts_of(text: &str) -> BTreeMap<(String, PathBuf), MountSource> {
    let mut mounts = BTreeMap::new();
    let (mut section, mut service, mut list) = (String::new(), String::new(), String::new());
    let mut long: Option<MountSource> = None;
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        let (indent, said) = (line.len() - line.trim_start().len(), line.trim());
        let key = said.split(':').next().unwrap_or_default().to_owned();
        match indent {
            0 => section = key,
            2 => service = key,
            4 if !said.starts_with('-') => list = key,
            _ if section == "services" && list == "volumes" => {
                let said = said.trim_start_matches("- ");
                let value = |name: &str| {
                    said.strip_prefix(name)?
                        .strip_prefix(':')
                        .map(|value| value.trim().trim_matches(['"', '\'']))
                };
                if let Some(source) = value("source") {
                    long = Some(source_of(source));
                } else if let (Some(target), Some(source)) = (value("target"), &long) {
                    mounts.insert((service.clone(), target.into()), source.clone());
                } else if let Some((source, target)) = said.split_once(":/") {
                    let target =
                        target.split([':', ' ']).next().unwrap_or_default().trim_matches(['"', '\'']);
                    let source = source_of(source.trim_matches(['"', '\'']));
                    mounts.insert((service.clone(), format!("/{target}").into()), source);
                }
            }
            _ => {}
        }
    }
    mounts
}

fn source_of(source: &str) -> MountSource {
    if source.starts_with('/') {
        MountSource::Directory(source.into())
    } else {
        MountSource::Volume(source.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_in_either_form() {
        let text = "services:\n  db:\n    image: x\n    volumes:\n      - data:/a   # kept\n      - /srv/x:/b:ro\n  app:\n    \
                    volumes:\n      - type: bind\n        source: \"/srv/y\"\n        target: /c\n        bind:\n          \
                    create_host_path: false\nvolumes:\n  data:\n    name: data\n";
        let expected = [
            (("app".to_owned(), "/c".into()), MountSource::Directory("/srv/y".into())),
            (("db".to_owned(), "/a".into()), MountSource::Volume("data".to_owned())),
            (("db".to_owned(), "/b".into()), MountSource::Directory("/srv/x".into())),
        ];
        assert_eq!(mounts_of(text), BTreeMap::from(expected));
    }
}
