//! The command line: one file a verb, whose `Args` doc comments are the help.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand};
use volsnap::clock::Clock;
use volsnap::compose::DirectoryProject;
use volsnap::engine::DockerError;
use volsnap::engine::bollard::DockerEngine;
use volsnap::engine::context::{Chosen, ContextError, DEFAULT_ADDRESS, choose};
use volsnap::engine::own::OwnContainer;
use volsnap::model::hint::Hint;
use volsnap::ops::Context;
use volsnap::ops::trust::SaidRecipients;
use volsnap::repository::{Repository, Snapshot};
use volsnap::saga::{GuardedBy, RetryBudget, SagaOptions};
use volsnap::selector::Bystanders;
use volsnap::signal::{self, Cancel};
use volsnap::store::redacted;
use volsnap::{Error, ErrorKind};

use self::exit::Exit;
use crate::render::{Commands, Ui, UiOptions};

mod agent;
mod bystanders;
mod check;
mod copy;
mod dirs;
mod doctor;
mod exit;
mod facts;
mod guard;
mod init;
mod install;
mod key;
mod keys;
mod list;
mod manual;
mod marks;
mod migrate;
mod prune;
mod question;
mod recover;
mod restart;
mod restore;
mod show;
mod snapshot;
mod unfinished;
mod verify;

/// Volume snapshots for databases in Docker.
///
/// Stops a service (or finds it stopped), archives its volume or directory through a throwaway
/// container, starts the service again at once, and proves what it has saved.
#[derive(Debug, Parser)]
#[command(name = "volsnap", version, arg_required_else_help = true, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    failed; everything is as it was before, and services run
  2    the command line is wrong
  3    verification found damage or a difference, or doctor found something at high risk
  4    something could not be put back; the message has the command to type
  5    another run holds the lock
  6    done, but not all of it: the message names what you asked for that was not looked at,
       not proved or not copied to its second place
  130, 143, 129   interrupted by INT, TERM, HUP; everything is back

Names:
  TARGET   what is acted on: a service of the project here (db),
           service:PROJECT/db, container:NAME, volume:NAME or path:DIR
  SOURCE   what a snapshot is of: any of these names, or the one in the column
           SOURCE of `volsnap list`; alone, its latest snapshot. A service that
           was migrated is one source
Environment:
  VOLSNAP_REPO        where snapshots are kept, as --repo
  VOLSNAP_STATE_DIR   where unfinished runs and what is remembered of data are kept [default: /var/lib/volsnap
                      for root, or $XDG_STATE_HOME/volsnap where that is set, else ~/.local/state/volsnap]
  VOLSNAP_CONFIG      the file with what is said of this machine's services [default: /etc/volsnap.toml]
  DOCKER_HOST         the engine's address, as --host
  VOLSNAP_RECIPIENTS  whom everything is encrypted to, with commas or line ends between them; VOLSNAP_RECIPIENTS_FILE
                      names a file with them
  VOLSNAP_IDENTITY_FILE, VOLSNAP_IDENTITY_COMMAND
                      the file with your identity, or the command that prints it: what opens what is encrypted

Examples:
  volsnap snapshot db               save the service db of the compose project here
  volsnap snapshot volume:pgdata    save a volume by name
  volsnap list                      list the snapshots
  volsnap verify latest             read the latest snapshot back
  volsnap restore latest            put it back where it came from
  volsnap copy db --to /mnt/nas     copy what is new to a second repository
  volsnap prune --keep-daily 7 --keep-weekly 4 --dry-run
                                    say which snapshots these rules would keep, and why
  volsnap migrate db /data/pg       move the data from its volume into a host directory
  volsnap restart db                stop, start, and compare the data before and after
  volsnap check db                  compare the data with what it was";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// The directory that holds the snapshots, or s3://BUCKET/FOLDER, sftp://USER@HOST/FOLDER, webdavs://HOST/FOLDER
    ///
    /// The default is /var/backups/volsnap for root, else $XDG_DATA_HOME/volsnap. An S3 server that is not Amazon's is
    /// named behind the folder, as in 's3://backups/db?endpoint=https://minio.example:9000'. Keys come from
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from a profile or from a role; those of WebDAV from WEBDAV_USERNAME
    /// and WEBDAV_PASSWORD; sftp uses ssh with its keys. None comes from the URL. {host} in it stands for the name of this
    /// machine.
    #[arg(long, global = true, value_name = "PLACE", env = "VOLSNAP_REPO")]
    repo: Option<PathBuf>,
    /// The engine's address, such as tcp://db:2375 [default: the engine that docker talks to]
    #[arg(long, global = true, value_name = "URL")]
    host: Option<String>,
    /// The Compose project that bare names are of [default: that of the current directory]
    #[arg(short, long, global = true, value_name = "NAME", env = "COMPOSE_PROJECT_NAME")]
    project_name: Option<String>,
    /// Print one JSON value on standard output, and nothing else there; of a failure too
    #[arg(long, global = true)]
    json: bool,
    /// Print one line of what was done, or nothing if there was nothing to do; failures and warnings in full
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Do not ask before going ahead
    #[arg(short, long, global = true)]
    yes: bool,
    /// Log more (-v: each action, -vv: every detail)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Draw no progress bars, even on a terminal
    #[arg(long, global = true)]
    no_progress: bool,
    /// The machine on which a test types it, in the place of this one.
    #[cfg(test)]
    #[arg(skip)]
    machine: Option<Context>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Snapshot(snapshot::Args),
    List(list::Args),
    Show(show::Args),
    Verify(verify::Args),
    Restore(restore::Args),
    Prune(prune::Args),
    Pin(marks::PinArgs),
    Unpin(marks::UnpinArgs),
    Remove(marks::RemoveArgs),
    Undelete(marks::UndeleteArgs),
    Ack(marks::AckArgs),
    Copy(copy::Args),
    Migrate(migrate::Args),
    Restart(restart::Args),
    Check(check::Args),
    Recover(recover::Args),
    Doctor(doctor::Args),
    Init(init::Args),
    Key(key::Args),
    Install(install::Args),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
    #[command(hide = true)]
    Agent(agent::Args),
    #[command(hide = true)]
    Guard(guard::Args),
}

impl Verb {
    fn has_several_targets(&self) -> bool {
        matches!(self, Self::Snapshot(args) if args.targets.len() > 1)
    }
}

/// Runs the command line and returns the exit code.
pub(crate) fn main() -> ExitCode {
    let Cli { global, verb } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The user asked for help and version; the rest is a usage error. A closed pipe is nobody's loss.
            let _ = match error.kind() {
                // Its own message would name commands that are not for people.
                clap::error::ErrorKind::MissingSubcommand => print_help(),
                _ => error.print(),
            };
            if error.use_stderr() && asks_for_json() {
                let said = error.render().to_string();
                crate::render::print_usage_error(said.lines().next().unwrap_or_default());
            }
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    // The agent runs alone in its container: no runtime, no terminal.
    if let Verb::Agent(args) = verb {
        return agent::run(&args);
    }
    let ui = Ui::new(&UiOptions {
        json: global.json,
        quiet: global.quiet,
        verbose: global.verbose,
        progress: !global.no_progress,
        commands: Commands {
            several: verb.has_several_targets(),
            ..global.commands(std::env::args_os().skip(1))
        },
    });
    let code = match run(&global, verb, &ui) {
        Ok(code) => code,
        Err(error) => fail(&ui, &error),
    };
    ui.finish_progress();
    code
}

/// Runs a command line as if it were typed on the machine of a test, and prints all of it to `paper`.
#[cfg(test)]
pub(crate) async fn type_on(
    machine: &Context,
    words: &[String],
    paper: impl std::io::Write + Send + Clone + 'static,
) -> ExitCode {
    let Cli { mut global, verb } =
        match Cli::try_parse_from(std::iter::once("volsnap").chain(words.iter().map(String::as_str))) {
            Ok(cli) => cli,
            Err(error) => {
                let _ = write!(paper.clone(), "{error}");
                return Exit::Usage.into();
            }
        };
    global.machine = Some(machine.clone());
    let commands = global.commands(words.iter().map(OsString::from));
    let ui = Ui::to(
        &UiOptions {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            progress: false,
            commands: Commands { several: verb.has_several_targets(), ..commands },
        },
        paper,
    );
    let code = match perform(&global, verb, &ui).await {
        Ok(code) => code,
        Err(error) => fail(&ui, &error),
    };
    ui.finish_progress();
    code
}

/// Prints a failure, and returns its exit code.
fn fail(ui: &Ui, error: &Error) -> ExitCode {
    ui.error(error);
    ui.json_error(error);
    Exit::from(error.kind()).into()
}

/// Prints what the bare command prints, as a usage error.
fn print_help() -> std::io::Result<()> {
    let help = Cli::command().render_help();
    std::io::Write::write_all(&mut std::io::stderr().lock(), help.to_string().as_bytes())
}

/// Returns whether a command line that is not understood asks for JSON.
fn asks_for_json() -> bool {
    std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json")
}

fn run(global: &Global, verb: Verb, ui: &Ui) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("start the runtime").with_source(error))?;
    let outcome = runtime.block_on(perform(global, verb, ui));
    // A blocking call that hangs must not keep the process alive: everything that matters is done.
    runtime.shutdown_background();
    outcome
}

async fn perform(global: &Global, verb: Verb, ui: &Ui) -> Result<ExitCode, Error> {
    match verb {
        Verb::Snapshot(args) => snapshot::run(global, args, ui).await,
        Verb::List(args) => list::run(global, &args, ui).await,
        Verb::Show(args) => show::run(global, &args, ui).await,
        Verb::Verify(args) => verify::run(global, &args, ui).await,
        Verb::Restore(args) => restore::run(global, args, ui).await,
        Verb::Prune(args) => prune::run(global, &args, ui).await,
        Verb::Pin(args) => marks::pin(global, args, ui).await,
        Verb::Unpin(args) => marks::unpin(global, &args, ui).await,
        Verb::Remove(args) => marks::remove(global, &args, ui).await,
        Verb::Undelete(args) => marks::undelete(global, &args, ui).await,
        Verb::Ack(args) => marks::ack(global, &args, ui).await,
        Verb::Copy(args) => copy::run(global, args, ui).await,
        Verb::Migrate(args) => migrate::run(global, args, ui).await,
        Verb::Restart(args) => restart::run(global, args, ui).await,
        Verb::Check(args) => check::run(global, args, ui).await,
        Verb::Recover(args) => recover::run(global, &args, ui).await,
        Verb::Doctor(args) => doctor::run(global, args, ui).await,
        Verb::Init(args) => init::run(global, &args, ui).await,
        Verb::Key(args) => key::run(global, args, ui).await,
        Verb::Install(args) => install::run(global, &args, ui),
        Verb::Completions(args) => Ok(manual::completions(&args)),
        Verb::Man(args) => manual::man(&args),
        Verb::Guard(args) => guard::run(global, &args).await,
        Verb::Agent(args) => Ok(agent::run(&args)),
    }
}

impl Global {
    /// Connects to the engine, starts to listen for signals, and gathers what the procedures need.
    async fn host(&self, ui: &Ui) -> Result<Context, Error> {
        #[cfg(test)]
        if let Some(machine) = &self.machine {
            let (compose_project, monitor) = (self.project_name.clone(), ui.monitor());
            let address = self.host.clone().unwrap_or_else(|| machine.address.clone());
            return Ok(Context { address, compose_project, monitor, ..machine.clone() });
        }
        let Chosen { address, by } = self.engine()?;
        tracing::info!("the engine at {address}, {by}");
        let mut docker = DockerEngine::connect(Some(&address)).await.map_err(unreached)?;
        let own = OwnContainer::find(&docker).await.map_err(unreached)?.map(Arc::new);
        if let Some(own) = &own {
            tracing::info!("volsnap runs in the container {}", own.container.name);
            docker = docker.with_other_files();
        }
        let directory = self
            .directory()
            .map_err(|error| Error::failed("find out the current directory").with_source(error))?;
        let cancel = Cancel::default();
        let monitor = ui.monitor();
        let again = monitor.clone();
        signal::listen(cancel.clone(), move |_| {
            again.warning(
                "still putting everything back; you cannot hurry this, and a second signal changes nothing",
            );
        })
        .map_err(|error| Error::failed("listen for signals").with_source(error))?;
        Ok(Context {
            docker: Arc::new(docker),
            address,
            saga: SagaOptions {
                state: self.state_directory()?,
                executable: executable()?,
                budget: RetryBudget::COMMAND,
                guarded_by: if own.is_some() { GuardedBy::Both } else { GuardedBy::Process },
            },
            directory,
            clock: self.clock(),
            compose: std::sync::Arc::new(volsnap::compose::runner::Processes),
            machine_file: dirs::machine_file(),
            compose_project: self.project_name.clone().filter(|name| !name.is_empty()),
            recipients: SaidRecipients::new(keys::said_recipients()),
            identities: Some(Arc::new(keys::Environment)),
            bystanders: Bystanders::default(),
            only_plans: false,
            own,
            cancel,
            monitor,
        })
    }

    /// Returns the state directory, which has the journals.
    fn state_directory(&self) -> Result<PathBuf, Error> {
        #[cfg(test)]
        if let Some(machine) = &self.machine {
            return Ok(machine.saga.state.clone());
        }
        dirs::state_directory()
    }

    /// Returns the current directory.
    fn directory(&self) -> std::io::Result<PathBuf> {
        #[cfg(test)]
        if let Some(machine) = &self.machine {
            return Ok(machine.directory.clone());
        }
        dirs::current_directory()
    }

    /// Returns what tells the time.
    fn clock(&self) -> Clock {
        #[cfg(test)]
        if let Some(machine) = &self.machine {
            return machine.clock.clone();
        }
        Clock::system()
    }

    /// Chooses the engine: the one that the user's own docker would talk to.
    fn engine(&self) -> Result<Chosen, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        choose(self.host.as_deref(), variable, dirs::home().as_deref(), Path::exists).map_err(no_engine)
    }

    /// Returns how to call a command on the same repository and engine as this one.
    fn commands(&self, typed: impl Iterator<Item = OsString>) -> Commands {
        let named = |repo: &&PathBuf| std::env::var_os("VOLSNAP_REPO").as_deref() != Some(repo.as_os_str());
        // A URL may have been typed with a password in it, which nobody repeats.
        let shown = |word: std::borrow::Cow<'_, str>| redacted(&word);
        let repo = self.repo.as_ref().filter(named).map(|repo| shown(repo.to_string_lossy()));
        let typed = typed.map(|word| shown(word.to_string_lossy()));
        let typed_name = |name: &&String| std::env::var("COMPOSE_PROJECT_NAME").ok().as_ref() != Some(name);
        let project = self.project_name.as_ref().filter(typed_name).cloned();
        Commands { repo, host: self.host.clone(), project, typed: typed.collect(), several: false }
    }

    /// Returns where the repository is, or will be.
    fn repository_location(&self) -> Result<PathBuf, Error> {
        let named = self.repo.clone().filter(|repo| !repo.as_os_str().is_empty());
        named.map_or_else(dirs::default_repository, |named| dirs::place(&named))
    }

    /// Returns the Compose project that bare names are of, as far as can be told without an engine.
    fn project(&self) -> Option<String> {
        let named = self.project_name.clone().filter(|name| !name.is_empty());
        let here = || Some(DirectoryProject::discover(&self.directory().ok()?)?.name);
        named.or_else(here)
    }

    /// Opens the repository, which has to exist.
    async fn repository(&self) -> Result<Repository, Error> {
        Ok(Repository::open(&self.repository_location()?).await?)
    }

    /// Returns the snapshot that `spec` means: one of the repository, or one by its file.
    async fn snapshot(&self, spec: &str) -> Result<Snapshot, Error> {
        let path = Path::new(spec);
        let has_prefix = ["service:", "container:", "volume:", "path:"].iter().any(|it| spec.starts_with(it));
        let is_name = path.components().count() <= 2 && path.extension().is_none() && !path.is_absolute();
        if is_name || has_prefix {
            Ok(self.repository().await?.resolve_in(spec, self.project().as_deref()).await?)
        } else {
            Ok(Snapshot::from_file(path).await?)
        }
    }
}

fn unreached(error: DockerError) -> Error {
    let said = error.to_string().to_ascii_lowercase();
    let hints = if said.contains("permission denied") {
        vec![
            Hint::advice("type it with sudo: the engine's socket is not for this user"),
            Hint::shell("sudo usermod -aG docker \"$USER\"").why(
                "or this, and log in again: the group docker may use it, which is as good as being root",
            ),
        ]
    } else {
        vec![
            Hint::docker(["info"]).why("does it answer? is --host or DOCKER_HOST right?"),
            Hint::shell("sudo systemctl start docker").why("if it does not run; where there is systemd"),
        ]
    };
    Error::failed("reach the Docker engine").with_source(error).state("nothing was touched").with_hints(hints)
}

/// Says how to reach an engine that is not reached as it is, or to name one where docker's choice cannot be read.
fn no_engine(error: ContextError) -> Error {
    let at = |address: &str| Hint::instead(&["--host="], ["--host", address]);
    let hints = match error.forwarding() {
        Some((forward, socket)) => {
            vec![forward.why("makes a socket here of the one there"), at(&socket).why("then")]
        }
        None => vec![at(DEFAULT_ADDRESS).why("or whatever docker talks to")],
    };
    let error = match error {
        ContextError::Unreadable { .. } | ContextError::Garbled { .. } | ContextError::NoEndpoint { .. } => {
            Error::failed("find out which engine docker talks to").with_source(error)
        }
        refused => Error::failed(refused.to_string()),
    };
    error.state("nothing was touched").with_hints(hints)
}

/// Returns the running program: it is its own guard and its own helper.
fn executable() -> Result<PathBuf, Error> {
    std::env::current_exe()
        .map_err(|error| Error::new(ErrorKind::Failed, "find out the running program").with_source(error))
}
