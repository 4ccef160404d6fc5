//! Running Compose: `docker compose` or `docker-compose`, whichever is installed, on the project of a
//! container.
//!
//! Its processes carry the run's mark. If the command that ran Compose dies, its guard finds the processes by
//! that mark and ends them: a Compose that went on by itself could undo what the guard puts back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use super::configuration::Configuration;
use super::files::{FilesError, NamedFiles};
use super::labels::CONFIG_HASH_LABEL;
use super::runner::{Invocation, Runner};
use super::secrets::masked;
use crate::model::container::ApiVersion;
use crate::model::quote::shell_quote;

/// The environment variable that says to which run its processes belong.
pub const MARK: &str = "VOLSNAP_RUN";
/// How long a question may take.
const QUESTION_LIMIT: Duration = Duration::from_secs(30);
/// How many lines of Compose's output go into an error.
const LINES_KEPT: usize = 20;

/// Why Compose could not be run, or failed.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// Neither command is installed.
    #[error("neither `docker compose` nor `docker-compose` is installed here")]
    NotInstalled,
    /// It could not be started.
    #[error("run {command}")]
    NotStarted {
        /// The command.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// It did not end in time.
    #[error("{command} did not end within {} s", limit.as_secs())]
    TimedOut {
        /// The command.
        command: String,
        /// How long it had.
        limit: Duration,
    },
    /// It failed.
    #[error("{command} failed ({status}): {said}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// The last lines of its output.
        said: String,
    },
}

/// Which command Compose is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `docker compose`, the plugin.
    Plugin,
    /// `docker-compose` of version 2 and later.
    Standalone,
    /// `docker-compose` of version 1.
    One,
}

impl Spelling {
    /// Returns which command Compose is here; tries the plugin first.
    ///
    /// # Errors
    /// When it is not installed.
    pub async fn find(runner: &dyn Runner) -> Result<Self, ComposeError> {
        if version(runner, &["docker", "compose", "version", "--short"]).await.is_some() {
            return Ok(Self::Plugin);
        }
        match version(runner, &["docker-compose", "version", "--short"]).await {
            Some(version) if version.trim_start_matches('v').starts_with("1.") => Ok(Self::One),
            Some(_) => Ok(Self::Standalone),
            None => Err(ComposeError::NotInstalled),
        }
    }

    /// Returns whether a mount can say that Compose must not create its directory (`create_host_path: false`).
    #[must_use]
    pub fn guards_source(self) -> bool {
        self != Self::One
    }

    /// Returns whether it gives a recreated container the volumes of its predecessor, even if the files say
    /// something else by now. Version 1 does this if the image declares a volume at that path
    /// (`get_container_data_volumes` in its `service.py`), unless the predecessor is gone.
    #[must_use]
    pub fn clings_to_volumes(self) -> bool {
        self == Self::One
    }

    /// Returns whether it has a new container share the network of another one that does not run. Version 1 gives it a
    /// network of its own instead, and only warns (`ServiceNetworkMode` in its `network.py`).
    #[must_use]
    pub fn joins_stopped(self) -> bool {
        self != Self::One
    }

    /// Returns whether it can make a container anew, which has a predecessor, on an engine that speaks this version of
    /// the API. Version 1 reads a field of the predecessor's image that engines have left out since 1.45
    /// (`ContainerConfig`).
    #[must_use]
    pub fn recreates_on(self, api_version: ApiVersion) -> bool {
        self != Self::One || api_version < ApiVersion(1, 45)
    }

    /// Returns its first words.
    #[must_use]
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Plugin => &["docker", "compose"],
            Self::Standalone | Self::One => &["docker-compose"],
        }
    }
}

async fn version(runner: &dyn Runner, words: &[&str]) -> Option<String> {
    tokio::time::timeout(QUESTION_LIMIT, runner.version(words)).await.ok()?
}

/// Compose, on one project.
#[derive(Debug, Clone)]
pub struct Compose {
    runner: Arc<dyn Runner>,
    spelling: Spelling,
    project: String,
    directory: PathBuf,
    files: Vec<PathBuf>,
    environment_files: Vec<PathBuf>,
    /// The engine's address; none for the engine that `docker` talks to.
    address: Option<String>,
}

impl Compose {
    /// Returns Compose on the project of a container with these labels, for the engine at that address.
    ///
    /// # Errors
    /// When the labels do not name the project's files, or a file is gone.
    pub fn of(
        runner: &Arc<dyn Runner>,
        spelling: Spelling,
        labels: &BTreeMap<String, String>,
        address: Option<&str>,
    ) -> Result<Self, FilesError> {
        let NamedFiles { project, directory, files, environment_files } = NamedFiles::of(labels)?;
        let address = address.map(str::to_owned);
        let runner = runner.clone();
        Ok(Self { runner, spelling, project, directory, files, environment_files, address })
    }

    /// Returns the project's name.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Returns the same with one more file, for example a new override.
    #[must_use]
    pub fn with_file(mut self, file: PathBuf) -> Self {
        if !self.files.contains(&file) {
            self.files.push(file);
        }
        self
    }

    /// Returns the same without a file, for example an override that goes.
    #[must_use]
    pub fn without_file(mut self, file: &Path) -> Self {
        self.files.retain(|other| other != file);
        self
    }

    /// Runs the services as the files say, and recreates containers that differ; touches nothing else. `grace`
    /// is how long a container may take to stop; `run` marks the processes.
    ///
    /// # Errors
    /// When Compose fails, with its output.
    pub async fn up(
        &self,
        services: &[String],
        run: &str,
        grace: Duration,
        limit: Duration,
    ) -> Result<(), ComposeError> {
        let grace = grace.as_secs().to_string();
        let fixed = ["up", "-d", "--no-deps", "--no-build", "--timeout", &grace];
        let arguments: Vec<&str> = fixed.into_iter().chain(services.iter().map(String::as_str)).collect();
        self.run(&arguments, Some(run), limit).await.map(drop)
    }

    /// Recreates the containers of the services as the files say, and starts none of them; touches nothing else.
    /// `grace` is how long one that still runs may take to stop; `run` marks the processes.
    ///
    /// # Errors
    /// When Compose fails, with its output.
    pub async fn create(
        &self,
        services: &[String],
        run: &str,
        grace: Duration,
        limit: Duration,
    ) -> Result<(), ComposeError> {
        let grace = grace.as_secs().to_string();
        let fixed = ["up", "--no-start", "--force-recreate", "--no-deps", "--no-build", "--timeout", &grace];
        let arguments: Vec<&str> = fixed.into_iter().chain(services.iter().map(String::as_str)).collect();
        self.run(&arguments, Some(run), limit).await.map(drop)
    }

    /// Returns what Compose makes of the files, and what it warns of in the meantime.
    ///
    /// # Errors
    /// When it does not understand them, with its output.
    pub async fn configuration(&self) -> Result<Configuration, ComposeError> {
        let output = self.run(&["config"], None, QUESTION_LIMIT).await?;
        let [printed, warned] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        let warned = masked(&warned, &self.files, &self.environment_files);
        Ok(Configuration::of(&self.project, &printed, &warned))
    }

    /// Returns whether Compose would leave a container of a service as it is, because it is as the files say; none if
    /// it does not tell.
    ///
    /// Its digest proves that where it is the one on the container. But from version 2 on, the digest that `config`
    /// tells is not the one on the container if the service has an `env_file`. So Compose is then asked to rehearse,
    /// which touches nothing; versions before 2.17 cannot.
    pub async fn keeps(&self, service: &str, labels: &BTreeMap<String, String>) -> Option<bool> {
        let made_from = labels.get(CONFIG_HASH_LABEL);
        let same = self.config_hash(service).await.zip(made_from).map(|(now, then)| now == *then);
        if same == Some(true) || self.spelling == Spelling::One {
            return same;
        }
        self.rehearse(service).await.or(same)
    }

    async fn rehearse(&self, service: &str) -> Option<bool> {
        let words = ["--dry-run", "up", "--no-start", "--no-deps", "--no-build", "--pull", "never", service];
        let output = self.run(&words, None, QUESTION_LIMIT).await.ok()?;
        let said = [output.stdout, output.stderr].concat();
        rehearsed(&String::from_utf8_lossy(&said))
    }

    /// Returns the digest that Compose makes of a service's configuration and also puts on a container as a
    /// label; none if it does not tell.
    pub async fn config_hash(&self, service: &str) -> Option<String> {
        let output = self.run(&["config", "--hash", service], None, QUESTION_LIMIT).await.ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = said.lines().find_map(|line| line.strip_prefix(service))?.split_whitespace();
        words.next().map(str::to_owned)
    }

    /// Returns the command that a person would type.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> String {
        let words = self.words(arguments);
        words.iter().map(|word| shell_quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }

    fn words(&self, arguments: &[&str]) -> Vec<OsString> {
        let mut words: Vec<OsString> = self.spelling.words().iter().map(OsString::from).collect();
        let mut option = |name: &str, value: &OsStr| words.extend([OsString::from(name), value.to_owned()]);
        option("--project-name", self.project.as_ref());
        option("--project-directory", self.directory.as_ref());
        for file in &self.files {
            option("--file", file.as_ref());
        }
        // Version 1 takes one; it finds the default by itself.
        if self.spelling != Spelling::One || self.environment_files.len() == 1 {
            for file in &self.environment_files {
                option("--env-file", file.as_ref());
            }
        }
        words.extend(arguments.iter().map(OsString::from));
        words
    }

    async fn run(
        &self,
        arguments: &[&str],
        run: Option<&str>,
        limit: Duration,
    ) -> Result<Output, ComposeError> {
        let said = || self.command(arguments);
        let invocation = Invocation {
            words: self.words(arguments),
            directory: self.directory.clone(),
            run: run.map(str::to_owned),
            address: self.address.clone(),
        };
        let output = match tokio::time::timeout(limit, self.runner.run(invocation)).await {
            Ok(output) => output.map_err(|source| ComposeError::NotStarted { command: said(), source })?,
            Err(_) => return Err(ComposeError::TimedOut { command: said(), limit }),
        };
        if output.status.success() {
            return Ok(output);
        }
        Err(ComposeError::Failed {
            command: said(),
            status: output.status.to_string(),
            said: last_lines(&output, |text| masked(text, &self.files, &self.environment_files)),
        })
    }
}

/// Returns whether all is left as it is, by what Compose says that it would do: `DRY-RUN MODE - Container db Running`.
/// None if it says nothing of the kind.
fn rehearsed(said: &str) -> Option<bool> {
    let steps = said.lines().filter_map(|line| line.split_once("DRY-RUN MODE")?.1.split_once("Container "));
    let verbs: Vec<&str> = steps.filter_map(|(_, step)| step.split_whitespace().nth(1)).collect();
    let others = said.lines().filter(|line| line.contains("DRY-RUN MODE")).count() > verbs.len();
    let stays = |verb: &&str| matches!(*verb, "Running" | "Created" | "Exited" | "Healthy");
    (!verbs.is_empty() || others).then(|| !others && verbs.iter().all(stays))
}

fn last_lines(output: &Output, masked: impl Fn(&str) -> String) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = masked(&String::from_utf8_lossy(&text));
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_KEPT)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::runner::Processes;

    fn compose(spelling: Spelling) -> Compose {
        Compose {
            runner: Arc::new(Processes),
            spelling,
            project: "app".to_owned(),
            directory: "/srv/my app".into(),
            files: vec!["/srv/my app/compose.yaml".into()],
            environment_files: vec!["/srv/my app/.env".into(), "/etc/env".into()],
            address: None,
        }
    }

    #[test]
    fn version_1_makes_nothing_anew_on_an_engine_that_leaves_out_what_it_reads() {
        assert!(Spelling::One.recreates_on(ApiVersion(1, 44)));
        assert!(!Spelling::One.recreates_on(ApiVersion(1, 45)));
        for spelling in [Spelling::Plugin, Spelling::Standalone] {
            assert!(spelling.recreates_on(ApiVersion(1, 45)));
        }
    }

    #[test]
    fn the_project_is_named_as_it_was_made() {
        assert_eq!(
            compose(Spelling::Plugin).command(&["up", "db"]),
            "docker compose --project-name app --project-directory '/srv/my app' --file '/srv/my app/compose.yaml' \
             --env-file '/srv/my app/.env' --env-file /etc/env up db"
        );
        assert_eq!(
            compose(Spelling::One).with_file("/o.yaml".into()).command(&["up", "db"]),
            "docker-compose --project-name app --project-directory '/srv/my app' --file '/srv/my app/compose.yaml' \
             --file /o.yaml up db"
        );
    }

    #[rstest::rstest]
    #[case::runs(" DRY-RUN MODE -  Container app-db-1  Running ", Some(true))]
    #[case::stopped("level=warning msg=x\n DRY-RUN MODE -  Container app-db-1  Created ", Some(true))]
    #[case::other(
        " DRY-RUN MODE -  Container db  Recreate \n DRY-RUN MODE -  Container db  Recreated ",
        Some(false)
    )]
    #[case::gone(
        " DRY-RUN MODE -  Container db  Creating \n DRY-RUN MODE -  Container db  Created ",
        Some(false)
    )]
    #[case::network(
        " DRY-RUN MODE -  Network n  Removed \n DRY-RUN MODE -  Container db  Running ",
        Some(false)
    )]
    #[case::nothing("unknown flag: --dry-run", None)]
    fn a_rehearsal_tells_whether_all_is_left_as_it_is(#[case] said: &str, #[case] expected: Option<bool>) {
        assert_eq!(rehearsed(said), expected);
    }

    #[tokio::test]
    async fn what_compose_says_is_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let Ok(spelling) = Spelling::find(&Processes).await else { return };
        let mut compose = compose(spelling);
        compose.directory = directory.path().to_owned();
        compose.files = vec![directory.path().join("compose.yaml")];
        compose.environment_files.clear();
        std::fs::write(&compose.files[0], "services:\n  db: {nonsense: 1, image: x}\n").unwrap();
        let error = compose
            .up(&["db".to_owned()], "run", Duration::from_secs(1), Duration::from_secs(60))
            .await
            .unwrap_err();
        assert!(matches!(&error, ComposeError::Failed { said, .. } if said.contains("nonsense")), "{error}");
    }
}
