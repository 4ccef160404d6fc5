//! `key`: who can open what is kept here.
//!
//! None of it holds a service or talks to an engine. A change of the recipients counts for new snapshots; those that are
//! there stay as they are, and [`copy`](super::copy) has them encrypted to others.

use std::io::Read as _;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::trust::Trust;
use crate::crypt::{Identities, NewKey, Recipients};
use crate::disk::secret_file;
use crate::model::error::{Context as _, Error, ErrorKind, Result};
use crate::model::hint::Hint;
use crate::repository::{Repository, Snapshot};

/// How much of an archive is decrypted to prove that it can be.
const PROVED_BYTES: u64 = 4 << 20;

/// Draws an identity and keeps it in a new file that only its owner may read; returns its recipient.
///
/// # Errors
/// When something has that name, or it cannot be written.
pub fn generate(path: &Path, now: DateTime<Utc>) -> Result<Recipients> {
    let key = NewKey::generate();
    let written = secret_file::write_new(path, &key.file(&format!("created: {}", now.to_rfc3339())));
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::usage(format!(
            "{} is there already, and no identity is ever overwritten",
            path.display()
        ))
        .state("nothing was written")
        .hint(Hint::instead(&["--output=", "-o="], ["--output", "FILE"]))),
        written => {
            written.context(|| format!("write {}", path.display()))?;
            Ok(key.recipient)
        }
    }
}

/// Refuses a single recipient: if its identity is lost, so is everything.
///
/// # Errors
/// As said, unless one is what is wanted.
pub fn refuse_single(recipients: &Recipients, single_key: bool) -> Result<()> {
    if recipients.count() > 1 || single_key {
        return Ok(());
    }
    Err(Error::usage("one recipient alone: whoever loses its identity loses every snapshot")
        .state("nothing was changed")
        .hint(Hint::again(["--recipient", "RECIPIENT"]).why("a second one, whose identity is kept elsewhere"))
        .or(Hint::again(["--single-key"]).why("if you want just one")))
}

/// Returns whom a repository is encrypted to.
///
/// # Errors
/// When nothing in it is encrypted.
pub fn recipients_of(repository: &Repository) -> Result<&Recipients> {
    repository.recipients().ok_or_else(|| {
        Error::usage(format!("nothing in {} is encrypted", repository.location().display()))
            .state("nothing was changed")
            .hint(
                Hint::advice(
                    "copy it into an encrypted one, with volsnap copy --to DIR --init --encrypt-to RECIPIENT --encrypt-to \
                     RECIPIENT",
                ),
            )
    })
}

/// Has new snapshots be encrypted to more recipients; returns whether they were not before.
///
/// # Errors
/// When nothing in it is encrypted, this host does not trust it, or the change cannot be stored.
pub async fn add(
    repository: &mut Repository,
    more: &Recipients,
    trust: &Trust,
    now: DateTime<Utc>,
) -> Result<bool> {
    trust.check(repository)?;
    let before = recipients_of(repository)?.clone();
    if before.has(more) {
        return Ok(false);
    }
    repository.change_recipients(before.and(more), now).await?;
    trust.trust(repository, now)?;
    Ok(true)
}

/// Has new snapshots be encrypted to fewer recipients; returns whether they were before. Those that are there can be opened
/// by them for ever.
///
/// # Errors
/// As for [`add`], when nobody would be left, or one alone where that is not wanted.
pub async fn remove(
    repository: &mut Repository,
    fewer: &Recipients,
    trust: &Trust,
    single_key: bool,
    now: DateTime<Utc>,
) -> Result<bool> {
    trust.check(repository)?;
    let before = recipients_of(repository)?.clone();
    let Some(left) = before.without(fewer) else {
        return Err(Error::usage("nobody could open the next snapshots: there would be no recipient")
            .state("nothing was changed")
            .hint(Hint::volsnap(["key", "add", "RECIPIENT"]).why("first")));
    };
    if left == before {
        return Ok(false);
    }
    if left.count() == 1 && !single_key {
        return Err(Error::usage(
            "one recipient alone would be left: whoever loses its identity loses the next snapshots",
        )
        .state("nothing was changed")
        .hint(Hint::volsnap(["key", "add", "RECIPIENT"]).why("first"))
        .or(Hint::again(["--single-key"]).why("if you want just one")));
    }
    repository.change_recipients(left, now).await?;
    trust.trust(repository, now)?;
    Ok(true)
}

/// What an identity opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCheck {
    /// Whether it can open the next snapshot; `None` if nothing new is encrypted.
    pub opens_new: Option<bool>,
    /// The newest encrypted snapshot, which it has opened: as `SOURCE/ID`.
    pub opened: Option<String>,
    /// Bytes of its archive and its file list that were decrypted.
    pub bytes: u64,
    /// How many encrypted snapshots it does not open, of all that there are.
    pub not_opened: (u64, u64),
}

/// Opens the newest encrypted snapshot with an identity: all of its manifest and of its file list, and the beginning of its
/// archive; of the others, their manifests.
///
/// # Errors
/// When it does not open the newest, or nothing is encrypted. Blocks.
pub async fn check(repository: &Repository, identities: &Identities) -> Result<KeyCheck> {
    let listing = repository.snapshots(None).await?;
    let encrypted: Vec<Snapshot> =
        listing.snapshots.into_iter().filter(|snapshot| snapshot.manifest.is_encrypted()).collect();
    let opens_new = repository.recipients().map(|recipients| identities.open_what_is_for(recipients));
    if encrypted.is_empty() && opens_new.is_none() {
        recipients_of(repository)?;
    }
    let total = encrypted.len() as u64;
    let Some(newest) = encrypted.last().cloned() else {
        return Ok(KeyCheck { opens_new, opened: None, bytes: 0, not_opened: (0, 0) });
    };
    let not_opened = encrypted.iter().filter(|snapshot| snapshot.open_with(identities).is_err()).count();
    let opened = newest.open_with(identities)?;
    let name = opened.name();
    let reading = tokio::task::spawn_blocking(move || read_some(&opened));
    let bytes = reading.await.context(|| format!("read {name}"))??;
    Ok(KeyCheck { opens_new, opened: Some(name), bytes, not_opened: (not_opened as u64, total) })
}

/// Decrypts all of a file list and the beginning of an archive; returns how many bytes that were.
fn read_some(snapshot: &Snapshot) -> Result<u64> {
    let damaged = |what: &str| {
        let what = format!("snapshot {} is damaged: its {what} cannot be decrypted", snapshot.name());
        Error::new(ErrorKind::Damaged, what)
            .hint(Hint::advice("take another snapshot, and keep this one for whoever looks into it"))
    };
    let mut list = Vec::new();
    let read = snapshot.decrypted(snapshot.open_file_list()?)?.read_to_end(&mut list);
    read.map_err(|error| damaged("file list").with_source(error))?;
    if snapshot.plain_digests().is_some_and(|plain| plain.file_list != blake3::hash(&list).to_hex().as_str())
    {
        return Err(damaged("file list").state("what it decrypts to is not what was encrypted"));
    }
    let mut begin = snapshot.decrypted(snapshot.open_archive()?)?.take(PROVED_BYTES);
    let read = std::io::copy(&mut begin, &mut std::io::sink());
    Ok(list.len() as u64 + read.map_err(|error| damaged("archive").with_source(error))?)
}
