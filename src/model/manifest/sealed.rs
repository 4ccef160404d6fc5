//! The manifest of an encrypted snapshot: what is in clear, and what is sealed.
//!
//! In clear is what `list`, `prune` and a plain `copy` need, so none of them needs an identity: what the snapshot is called,
//! when and how it was taken, how large it is, its digests, and which service it is of. The whole manifest is in it once
//! more, encrypted. So what is said of the data inside is read there, and what is in clear can be compared with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Environment, Evidence, Feature, Manifest, REPLACED_BY_TAG};
use crate::crypt::Recipients;
use crate::model::inspection::Inspection;
use crate::model::location::MountSource;
use crate::model::unknown::UnknownFields;

/// The feature that a reader of encrypted snapshots knows.
pub(super) const ENCRYPTED: &str = "age-encryption";
/// The labels by which a user names a service.
const SERVICE_LABELS: [&str; 3] =
    ["com.docker.compose.project", "com.docker.compose.service", "com.docker.compose.oneoff"];

/// What of a manifest only an identity opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Whom the snapshot is encrypted to.
    pub recipients: Recipients,
    /// [What is sealed](SealedContents), encrypted, as text.
    pub contents: String,
}

/// What is sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SealedContents {
    /// The whole manifest.
    pub manifest: Manifest,
    /// Digests of the files as they are once decrypted.
    pub plain: PlainDigests,
}

/// Digests of what a snapshot's files are before they are encrypted: BLAKE3, hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainDigests {
    /// That of the archive.
    pub archive: String,
    /// That of the file list.
    pub file_list: String,
}

impl Manifest {
    /// Returns whether the snapshot is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.sealed.is_some()
    }

    /// Returns it as it is stored beside an encrypted archive; it requires of its readers that they know of encryption.
    #[must_use]
    pub fn sealed(self, sealed: Sealed) -> Self {
        let mut clear = Self { sealed: Some(sealed), unknown: UnknownFields::default(), ..self.in_clear() };
        let feature = Feature::named(ENCRYPTED);
        if !clear.requires.contains(&feature) {
            clear.requires.push(feature);
        }
        clear
    }

    /// Returns what of it is in clear once it is sealed. Doing so twice changes nothing.
    #[must_use]
    pub fn in_clear(&self) -> Self {
        let mut clear = self.clone();
        clear.title = match (self.label(SERVICE_LABELS[1]), self.label(SERVICE_LABELS[0])) {
            (Some(service), Some(project)) => format!("service {service} of {project}"),
            _ => self.source.clone(),
        };
        clear.evidence = Evidence {
            database: self.evidence.database.as_ref().map(inspection_in_clear),
            unchanged_after: self.evidence.unchanged_after,
            ..Evidence::default()
        };
        clear.position = None;
        clear.environment = Environment {
            labels: self.environment.labels.clone(),
            engine_version: self.environment.engine_version.clone(),
            api_version: self.environment.api_version.clone(),
            arch: self.environment.arch.clone(),
            ..Environment::default()
        };
        clear.environment.labels.retain(|label, _| SERVICE_LABELS.contains(&label.as_str()));
        clear.facts = None;
        // It may have the path of a file of the host.
        clear.tags.remove(REPLACED_BY_TAG);
        let part = clear.parts.first_mut();
        if let MountSource::Directory(path) = &mut part.location {
            *path = PathBuf::new();
        }
        part.counts.changed = Vec::new();
        clear
    }

    /// Returns whether this, which is in clear, is said of the same snapshot as that, which was sealed.
    #[must_use]
    pub fn is_clear_part_of(&self, whole: &Self) -> bool {
        let said = |manifest: &Self| {
            let clear = manifest.in_clear();
            let (consistency, tags, needs) = (clear.consistency, clear.tags, clear.needs);
            (clear.id, clear.source, clear.times, clear.parts, consistency, tags, needs)
        };
        said(self) == said(whole)
    }

    fn label(&self, name: &str) -> Option<&String> {
        self.environment.labels.get(name)
    }
}

/// Returns what is in clear of what a database's files say: enough to tell one database from another.
fn inspection_in_clear(inspection: &Inspection) -> Inspection {
    Inspection {
        engine: inspection.engine.clone(),
        version: inspection.version.clone(),
        data_directory: PathBuf::new(),
        identifier: inspection.identifier.clone(),
        state: inspection.state.clone(),
        clean: inspection.clean,
        reasons: Vec::new(),
        proof_digest: String::new(),
        page_checksums: inspection.page_checksums,
        page_size: inspection.page_size,
        pages_per_segment: inspection.pages_per_segment,
        details: std::collections::BTreeMap::new(),
        outside: Vec::new(),
        configuration: Vec::new(),
        slots: Vec::new(),
    }
}
