//! Encrypted snapshots: how their manifests are sealed, and how an identity opens them.

use std::io::Read;

use super::error::RepositoryError;
use super::listing::Snapshot;
use super::tarball::Stored;
use crate::crypt::{CryptError, Identities, Recipients, open_text, opened, seal_text};
use crate::model::manifest::{Manifest, PlainDigests, Sealed, SealedContents};

/// What opens a snapshot, once an identity has opened its manifest.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    identities: Identities,
    /// The digests of its files once they are decrypted.
    plain: PlainDigests,
}

/// Returns a manifest as it is stored beside what was encrypted to these recipients.
pub(super) fn seal(
    manifest: &Manifest,
    recipients: &Recipients,
    (archive, list): (&Stored, &Stored),
) -> Result<Manifest, CryptError> {
    let digest = |stored: &Stored| stored.plain_blake3.clone().unwrap_or_default();
    let whole = Manifest { sealed: None, ..manifest.clone() };
    let plain = PlainDigests { archive: digest(archive), file_list: digest(list) };
    let contents = SealedContents { manifest: whole, plain };
    let json = serde_json::to_vec(&contents).map_err(|error| CryptError::Io(error.into()))?;
    let contents = seal_text(&json, recipients)?;
    Ok(manifest.clone().sealed(Sealed { recipients: recipients.clone(), contents }))
}

impl Snapshot {
    /// Returns whether nobody has opened it yet, and it is encrypted: then only a part of its manifest is known, and nothing
    /// of what it holds.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.manifest.is_encrypted() && self.opened.is_none()
    }

    /// Returns it opened: with all of its manifest, and with what it holds to be read. One that is not encrypted is
    /// returned as it is.
    ///
    /// # Errors
    /// When no identity opens it, what is sealed is not whole, or it is not about this snapshot.
    pub fn open_with(&self, identities: &Identities) -> Result<Self, RepositoryError> {
        let Some(sealed) = &self.manifest.sealed else { return Ok(self.clone()) };
        let damaged = |why: String| RepositoryError::Unreadable { path: self.manifest_path(), why };
        let contents = open_text(&sealed.contents, identities).map_err(|error| self.not_opened(error))?;
        let SealedContents { manifest, plain } = serde_json::from_slice(&contents)
            .map_err(|error| damaged(format!("what is sealed in it is not understood: {error}")))?;
        if !self.manifest.is_clear_part_of(&manifest) {
            return Err(damaged(
                "what it says in clear is not what is sealed in it: somebody has changed it".to_owned(),
            ));
        }
        let mut snapshot = self.clone();
        snapshot.manifest = Manifest { sealed: Some(sealed.clone()), ..manifest };
        snapshot.opened = Some(Opened { identities: identities.clone(), plain });
        Ok(snapshot)
    }

    /// Returns what a stored file of it holds: decrypted, if it is encrypted.
    ///
    /// # Errors
    /// When it is encrypted and nobody has opened it, or its beginning is damaged.
    pub fn decrypted<R: Read + Send + 'static>(
        &self,
        stored: R,
    ) -> Result<Box<dyn Read + Send>, RepositoryError> {
        if !self.manifest.is_encrypted() {
            return Ok(Box::new(stored));
        }
        let opened_with = self.opened.as_ref().ok_or_else(|| self.locked())?;
        opened(stored, &opened_with.identities).map_err(|error| self.not_opened(error))
    }

    /// Returns the digests of its files once they are decrypted; `None` if it is not encrypted, or not opened.
    #[must_use]
    pub fn plain_digests(&self) -> Option<&PlainDigests> {
        self.opened.as_ref().map(|opened| &opened.plain)
    }

    /// Returns the error of one that needs an identity, where none was given.
    #[must_use]
    pub fn locked(&self) -> RepositoryError {
        RepositoryError::Locked { name: self.name(), recipients: self.recipients() }
    }

    /// Returns whom it is encrypted to, for messages.
    fn recipients(&self) -> String {
        self.manifest.sealed.as_ref().map(|sealed| sealed.recipients.to_string()).unwrap_or_default()
    }

    fn not_opened(&self, error: CryptError) -> RepositoryError {
        match error {
            CryptError::WrongKey => {
                RepositoryError::WrongKey { name: self.name(), recipients: self.recipients() }
            }
            CryptError::Io(source) => RepositoryError::io("read", self.archive_path())(source),
            other => {
                let why = format!("it cannot be decrypted: {other}");
                RepositoryError::Unreadable { path: self.manifest_path(), why }
            }
        }
    }
}
