//! How to store a manifest and read it again: its format number, what a reader must know, and the seal.
//!
//! A later volsnap may have written the manifest. If its format is a later one, or it [needs](Feature) something
//! unknown here, this code refuses it, and the error names the reason. It keeps any other unknown field, and writes it
//! again with the manifest.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::{Map, Value, json};

use super::sealed::ENCRYPTED;
use super::{Consistency, Manifest, Quiesce, Verification};
use crate::model::facts::FACTS_VERSION;
use crate::model::unknown::UnknownFields;

/// The format version this code writes; it reads this one and those before, and refuses later ones by name.
///
/// A version may gain fields: a reader keeps those it does not know. What a reader must know to understand a snapshot
/// is a [`Feature`]. A change of what already exists takes a new version.
pub const FORMAT_VERSION: u32 = 2;

/// The format version of a [`Verification`]. One without a version is of version 1, and has the same fields.
const VERIFICATION_VERSION: u32 = 2;

/// The features that this volsnap knows.
const KNOWN_FEATURES: &[&str] = &[ENCRYPTED];

/// What a reader must know to understand a snapshot, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Feature(String);

impl Feature {
    /// Returns the feature of that name.
    pub(super) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// Why nobody can believe that bytes are a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A later volsnap wrote it.
    #[error(
        "made by a later volsnap: its format version is {found}, and this volsnap reads up to {FORMAT_VERSION}"
    )]
    LaterFormat {
        /// The version it names.
        found: u64,
    },
    /// It needs something that this volsnap does not know.
    #[error("it needs {feature:?}, which this volsnap does not know (written by volsnap {tool_version})")]
    UnknownFeature {
        /// The name of what it needs.
        feature: String,
        /// The version that wrote it, as it says.
        tool_version: String,
    },
    /// The digest at its end does not match what comes before, or is missing.
    #[error("not a whole manifest: it is cut short, was changed after it was written, or never was one")]
    Unsealed,
    /// Its seal matches, but it holds something that this version does not understand.
    #[error("not understood by this volsnap (written by volsnap {tool_version})")]
    NotUnderstood {
        /// The version that wrote it, as it says.
        tool_version: String,
        /// What is not understood.
        source: serde_json::Error,
    },
}

/// The last lines of a manifest file around its own digest. Their length is fixed: a reader finds the digest
/// without understanding what comes before, whatever fields a later volsnap added there.
const SEAL_BEGIN: &str = ",\n  \"seal\": \"";
const SEAL_END: &str = "\"\n}\n";
const SEAL_DIGEST: usize = blake3::OUT_LEN * 2;

impl Manifest {
    /// Returns the manifest as it is stored: indented JSON whose last field, `seal`, is the BLAKE3 of
    /// all bytes before that field. The seal shows a single changed bit anywhere. Of an encrypted snapshot's, only what
    /// may be in clear is stored so.
    ///
    /// # Errors
    /// If JSON cannot hold a path in it.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut json = match self.is_encrypted() {
            true => serde_json::to_string_pretty(&self.in_clear())?,
            false => serde_json::to_string_pretty(self)?,
        };
        json.truncate(json.strip_suffix("\n}").unwrap_or(&json).len());
        let seal = blake3::hash(json.as_bytes()).to_hex();
        json.push_str(SEAL_BEGIN);
        json.push_str(&seal);
        json.push_str(SEAL_END);
        Ok(json)
    }

    /// Returns the manifest that [`to_json`](Self::to_json) wrote, in this or an earlier format. Keeps fields that a
    /// later volsnap added.
    ///
    /// # Errors
    /// When the bytes are no complete, unchanged manifest of a format version this code reads.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut value: Value = serde_json::from_slice(bytes).map_err(|_| ManifestError::Unsealed)?;
        // The version first: a later format may have another seal.
        let version = format_version(&value).ok_or(ManifestError::Unsealed)?;
        if version > u64::from(FORMAT_VERSION) {
            return Err(ManifestError::LaterFormat { found: version });
        }
        if !is_sealed(bytes) {
            return Err(ManifestError::Unsealed);
        }
        if let Some(fields) = value.as_object_mut() {
            fields.remove("seal");
        }
        Self::from_value(value)
    }

    fn from_value(value: Value) -> Result<Self, ManifestError> {
        let tool_version = value["tool_version"].as_str().unwrap_or_default().to_owned();
        let version = format_version(&value).unwrap_or_default();
        if version > u64::from(FORMAT_VERSION) {
            return Err(ManifestError::LaterFormat { found: version });
        }
        if let Some(feature) = unknown_feature(&value) {
            return Err(ManifestError::UnknownFeature { feature, tool_version });
        }
        let value = said_as_now(if version < 2 { upgrade(value) } else { value });
        let understand = || {
            let mut manifest = Self::deserialize(&without_later_facts(value.clone()))?;
            let known = Self::serialize(&manifest, serde_json::value::Serializer)?;
            manifest.unknown = UnknownFields::between(&value, &known);
            Ok(manifest)
        };
        understand().map_err(|source| ManifestError::NotUnderstood { tool_version, source })
    }

    /// Returns the version of its facts if they are of a later volsnap; this one keeps them without understanding them.
    #[must_use]
    pub fn later_facts(&self) -> Option<u64> {
        self.unknown.get("facts").and_then(facts_version)
    }
}

/// Returns whether the bytes end in a seal that matches.
fn is_sealed(bytes: &[u8]) -> bool {
    let sealed = || {
        let rest = bytes.strip_suffix(SEAL_END.as_bytes())?;
        let (rest, digest) = rest.split_at_checked(rest.len().checked_sub(SEAL_DIGEST)?)?;
        let body = rest.strip_suffix(SEAL_BEGIN.as_bytes())?;
        Some(blake3::hash(body).to_hex().as_bytes() == digest)
    };
    sealed().unwrap_or(false)
}

fn format_version(value: &Value) -> Option<u64> {
    value.get("format_version")?.as_u64()
}

/// Returns the first unknown feature that a manifest needs.
fn unknown_feature(value: &Value) -> Option<String> {
    let needed = value.get("requires")?.as_array()?;
    let is_known = |feature: &&Value| feature.as_str().is_some_and(|name| KNOWN_FEATURES.contains(&name));
    needed.iter().find(|feature| !is_known(feature)).map(|feature| match feature {
        Value::String(name) => name.clone(),
        other => other.to_string(),
    })
}

/// Turns a manifest of version 1, which is of one volume or directory, into one of version 2.
fn upgrade(mut value: Value) -> Value {
    let Some(fields) = value.as_object_mut() else { return value };
    let mut take = |names: &[&str]| -> Map<String, Value> {
        names.iter().filter_map(|name| fields.remove_entry(*name)).collect()
    };
    let part = take(&["location", "archive", "file_list", "counts"]);
    let mut method = take(&["quiesce", "capture"]);
    if let Some(quiesce) = method.get_mut("quiesce").filter(|quiesce| *quiesce == "online") {
        *quiesce = json!("native");
    }
    for (name, field) in [
        ("parts", json!([part])),
        ("method", json!(method)),
        ("payload", json!("physical")),
        ("requires", json!([])),
    ] {
        fields.insert(name.to_owned(), field);
    }
    value
}

/// Returns a manifest in today's words: earlier ones also said "clean" of data whose own files prove nothing.
fn said_as_now(mut value: Value) -> Value {
    if value["consistency"] == "clean" && value["evidence"]["database"].is_null() {
        value["consistency"] = json!(Consistency::StoppedAndQuiet);
    }
    value
}

/// Returns the manifest without its facts if those are of a later volsnap: the snapshot does not need them.
fn without_later_facts(mut value: Value) -> Value {
    let is_later = |facts: &Value| facts_version(facts).is_some_and(|found| found > u64::from(FACTS_VERSION));
    if value.get("facts").is_some_and(is_later)
        && let Some(fields) = value.as_object_mut()
    {
        fields.remove("facts");
    }
    value
}

fn facts_version(facts: &Value) -> Option<u64> {
    facts.get("seen")?.get("version")?.as_u64()
}

/// Writes this code's own version, whatever was read.
pub(super) fn newest_version<S: Serializer>(_read: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(FORMAT_VERSION)
}

/// How [`Quiesce`] is written in a manifest.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Quiesce", rename_all = "lowercase")]
pub(super) enum StoredQuiesce {
    Stop,
    Pause,
    Native,
    None,
}

impl Serialize for Manifest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.unknown.is_empty() {
            return Self::serialize(self, serializer);
        }
        let mut value =
            Self::serialize(self, serde_json::value::Serializer).map_err(<S::Error as ser::Error>::custom)?;
        self.unknown.put_back(&mut value);
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(value).map_err(<D::Error as de::Error>::custom)
    }
}

impl Serialize for Verification {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value =
            Self::serialize(self, serde_json::value::Serializer).map_err(<S::Error as ser::Error>::custom)?;
        value["format_version"] = json!(VERIFICATION_VERSION);
        self.unknown.put_back(&mut value);
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Verification {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let understand = || {
            let found = format_version(&value).unwrap_or(1);
            if found > u64::from(VERIFICATION_VERSION) {
                let why = format!("made by a later volsnap: its format version is {found}");
                return Err(<serde_json::Error as de::Error>::custom(why));
            }
            let mut verification = Self::deserialize(&value)?;
            let mut known = Self::serialize(&verification, serde_json::value::Serializer)?;
            known["format_version"] = json!(VERIFICATION_VERSION);
            verification.unknown = UnknownFields::between(&value, &known);
            Ok(verification)
        };
        understand().map_err(<D::Error as de::Error>::custom)
    }
}
