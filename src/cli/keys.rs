//! Whom to encrypt to, and what opens it again, as the environment says.
//!
//! An identity is read when it is needed and not before, and never shown. The command that prints one runs in a shell; what
//! it says on standard error is for the person who runs this.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use volsnap::crypt::{CryptError, Identities, Recipients, leave_no_core};
use volsnap::model::hint::Hint;
use volsnap::ops::trust::Trust;
use volsnap::repository::{RepositoryError, RepositoryLocation, Snapshot};
use volsnap::undo::one_time_key::{AskIdentities, identity_of};
use volsnap::{Error, ErrorKind};

use super::Global;
use super::dirs::state_directory;
use crate::render::Ui;

const RECIPIENTS: &str = "VOLSNAP_RECIPIENTS";
const RECIPIENTS_FILE: &str = "VOLSNAP_RECIPIENTS_FILE";
const IDENTITY_FILE: &str = "VOLSNAP_IDENTITY_FILE";
const IDENTITY_COMMAND: &str = "VOLSNAP_IDENTITY_COMMAND";

/// Returns the recipients that were typed; `None` if none were.
pub(super) fn typed_recipients(words: &[String]) -> Result<Option<Recipients>, Error> {
    if words.is_empty() {
        return Ok(None);
    }
    let recipients = Recipients::parse(&words.join("\n"));
    recipients.map(Some).map_err(|error| refused("the recipients", error))
}

/// Returns the recipients that the environment says; `None` if it says none.
pub(super) fn said_recipients() -> Result<Option<Recipients>, Error> {
    let text = match (set(RECIPIENTS), set(RECIPIENTS_FILE)) {
        (Some(_), Some(_)) => return Err(both(RECIPIENTS, RECIPIENTS_FILE)),
        (Some(text), None) => text,
        (None, Some(path)) => read(RECIPIENTS_FILE, Path::new(&path))?,
        (None, None) => return Ok(None),
    };
    let recipients = Recipients::parse(&text);
    recipients.map(Some).map_err(|error| refused(RECIPIENTS, error))
}

/// Returns the identities that the environment says; `None` if it says none.
pub(super) async fn identities() -> Result<Option<Identities>, Error> {
    // Should this process die, no core of it is to have what opens every snapshot.
    leave_no_core();
    let (name, text) = match (set(IDENTITY_FILE), set(IDENTITY_COMMAND)) {
        (Some(_), Some(_)) => return Err(both(IDENTITY_FILE, IDENTITY_COMMAND)),
        (Some(path), None) => (IDENTITY_FILE, read(IDENTITY_FILE, Path::new(&path))?),
        (None, Some(command)) => (IDENTITY_COMMAND, printed_by(&command).await?),
        (None, None) => return Ok(None),
    };
    Identities::parse(&text).map(Some).map_err(|error| refused(name, error))
}

/// Asks for the identity that the environment says.
#[derive(Debug)]
pub(super) struct Environment;

#[async_trait]
impl AskIdentities for Environment {
    async fn identities(&self) -> Result<Option<Identities>, Error> {
        identities().await
    }
}

/// Returns the identities that the environment says.
pub(super) async fn needed_identities() -> Result<Identities, Error> {
    identities().await?.ok_or_else(|| {
        Error::usage("no identity was given").state("nothing was decrypted").hint(
            Hint::shell("export VOLSNAP_IDENTITY_FILE=FILE")
                .why("the file with your identity; then type this command again"),
        )
    })
}

/// Returns a snapshot with what it holds to be read: opened by the key that its restore has left here, or by the identity
/// that the environment says.
pub(super) async fn opened(snapshot: Snapshot) -> Result<Snapshot, Error> {
    match try_open(snapshot).await? {
        Tried::Opened(opened) => Ok(opened),
        Tried::NoIdentity(locked) => Err(locked.locked().into()),
        Tried::WrongKey(_, error) => Err(error.into()),
    }
}

/// Returns a snapshot opened, or as it is if no identity that opens it was given; says so if one was given.
pub(super) async fn opened_if_possible(snapshot: Snapshot, ui: &Ui) -> Result<Snapshot, Error> {
    Ok(match try_open(snapshot).await? {
        Tried::Opened(snapshot) | Tried::NoIdentity(snapshot) => snapshot,
        Tried::WrongKey(snapshot, error) => {
            ui.monitor().warning(format!("{error}; only what anybody can see of it is looked at"));
            snapshot
        }
    })
}

/// What has become of a snapshot that was to be opened.
enum Tried {
    /// It is opened, or is not encrypted.
    Opened(Snapshot),
    /// There is no identity at all.
    NoIdentity(Snapshot),
    /// The identity that was given does not open it.
    WrongKey(Snapshot, RepositoryError),
}

async fn try_open(snapshot: Snapshot) -> Result<Tried, Error> {
    if !snapshot.is_locked() {
        return Ok(Tried::Opened(snapshot));
    }
    if let Ok(Some(own)) = identity_of(&state_directory()?, &snapshot.manifest.id)
        && let Ok(opened) = snapshot.open_with(&own)
    {
        return Ok(Tried::Opened(opened));
    }
    let Some(identities) = identities().await? else { return Ok(Tried::NoIdentity(snapshot)) };
    match snapshot.open_with(&identities) {
        Ok(opened) => Ok(Tried::Opened(opened)),
        Err(error @ RepositoryError::WrongKey { .. }) => Ok(Tried::WrongKey(snapshot, error)),
        Err(error) => Err(error.into()),
    }
}

/// Refuses to begin what ends with a look into a snapshot that is encrypted to others than the identity that was given.
pub(super) async fn refuse_unless_opened_later(repository: &Path) -> Result<(), Error> {
    let location = RepositoryLocation::probe(repository).await?;
    let Some(recipients) = location.repository().and_then(|repository| repository.recipients()) else {
        return Ok(());
    };
    if needed_identities().await?.open_what_is_for(recipients) {
        return Ok(());
    }
    Err(Error::usage(format!("the identity that was given opens nothing that is encrypted to {recipients}"))
        .state("nothing was touched")
        .hint(Hint::shell("export VOLSNAP_IDENTITY_FILE=FILE").why("the file with another one"))
        .or(Hint::instead(&["--drill"], [""; 0]).why("and drill it where its identity is")))
}

impl Global {
    /// Returns what this host goes by when it believes a repository.
    pub(super) fn trust(&self) -> Result<Trust, Error> {
        Ok(Trust::new(&state_directory()?, said_recipients()?))
    }
}

/// Returns what a command prints.
async fn printed_by(command: &str) -> Result<String, Error> {
    let failed = || format!("run the command in {IDENTITY_COMMAND}");
    let mut shell = tokio::process::Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = shell.output().await.map_err(|error| Error::failed(failed()).with_source(error))?;
    if !output.status.success() {
        return Err(Error::failed(format!("{}: {}", failed(), output.status))
            .state("nothing was decrypted")
            .hint(Hint::advice("run it by hand: it is to print the identity, and to exit with 0")));
    }
    String::from_utf8(output.stdout).map_err(|_| refused(IDENTITY_COMMAND, CryptError::NoIdentity))
}

fn read(name: &str, path: &Path) -> Result<String, Error> {
    let path: PathBuf = path.to_owned();
    std::fs::read_to_string(&path).map_err(|error| {
        Error::new(ErrorKind::Usage, format!("read {}, which {name} names", path.display()))
            .with_source(error)
            .state("nothing was touched")
    })
}

fn refused(name: &str, error: CryptError) -> Error {
    Error::usage(format!("use {name}")).with_source(error).state("nothing was touched")
}

fn both(one: &str, other: &str) -> Error {
    Error::usage(format!("both {one} and {other} are set, and only one of them counts"))
        .state("nothing was touched")
        .hint(Hint::advice("unset the one that you do not mean"))
}

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
