//! How a repository names its files, and what a file's name says. Pure rules.
//!
//! ```text
//! volsnap.json                                    format version, repository id
//! snapshots/SOURCE/SOURCE-ID.tar.zst              the archive (.tar.gz, .tar)
//! snapshots/SOURCE/SOURCE-ID.files.jsonl.zst      the file list
//! snapshots/SOURCE/SOURCE-ID.json                 the manifest, written last
//! snapshots/SOURCE/SOURCE-ID.verified-TIME.json   one verification
//! marks/SOURCE/SOURCE-ID.deleted.json             the snapshot is to be deleted
//! marks/SOURCE/SOURCE-ID.pinned.json              it is not to be deleted
//! marks/SOURCE/SOURCE-ID.acknowledged-TIME.json   somebody has looked at what was wrong up to this snapshot
//! running/RUN.N.json                              what a run reads; the Nth time that it says so
//! keys/N.json                                     the Nth change of whom an encrypted repository is encrypted to
//! …anything.age                                   an archive or a file list, encrypted
//! index/SOURCE/DIGEST.jsonl.zst                   the manifests of a source in one object, at a server
//! …anything.partial                               being written, or what a dead run left
//! ```
//!
//! What may come and go again lies apart from the snapshots: an earlier volsnap does not look there.
//!
//! A name is read from its end: first the suffix, then an id of fixed shape; everything left is the source. So a
//! source may contain `-`, `.` and even another source's name without being taken for it: names are compared whole,
//! never by prefix.

use chrono::{DateTime, Utc};

use crate::archive::Codec;
use crate::crypt::EXTENSION;
use crate::model::ids::SnapshotId;
use crate::store::{Key, KeyError};

pub use crate::store::local::{PARTIAL, partial};

/// The newest format version of a repository: of its layout, not of its manifests. It is that of an encrypted one: an
/// earlier volsnap would write into it what anybody can read.
pub const REPOSITORY_FORMAT: u32 = 2;
/// The format version of a repository in which nothing is encrypted.
pub const PLAIN_FORMAT: u32 = 1;
/// The object that makes a store a repository.
pub const MARKER: Key = Key::literal("volsnap.json");
/// The folder that holds the sources' folders.
pub const SNAPSHOTS: Key = Key::literal("snapshots");
/// The folder that holds what is said of snapshots, a folder each source.
pub const MARKS: Key = Key::literal("marks");
/// The folder in which runs say what they read.
pub const RUNNING: Key = Key::literal("running");
/// The folder of what has changed of a repository's recipients.
pub const KEYS: Key = Key::literal("keys");
/// The folder of the indexes, a folder each source.
pub const INDEX: Key = Key::literal("index");
/// The end of an index's name; the beginning is the BLAKE3 of its bytes.
pub const INDEX_END: &str = ".jsonl.zst";
/// The longest source key: with the longest suffix a name still fits in 255 bytes.
pub const SOURCE_KEY_MAX: usize = 180;

const FILE_LIST: &str = ".files.jsonl.zst";
const JSON: &str = ".json";
const VERIFIED: &str = ".verified-";
const DELETED: &str = ".deleted";
const PINNED: &str = ".pinned";
const ACKNOWLEDGED: &str = ".acknowledged-";
const VERIFIED_TIME: &str = "%Y%m%dT%H%M%S%3fZ";
const ID_LENGTH: usize = 23;
const EXTENSIONS: [&str; 3] = ["tar.zst", "tar.gz", "tar"];

/// Returns the end of an archive's name, without the leading dot.
#[must_use]
pub fn extension(codec: Codec) -> &'static str {
    match codec {
        Codec::Zstd { .. } => "tar.zst",
        Codec::Gzip { .. } => "tar.gz",
        Codec::None => "tar",
    }
}

/// Returns whether the key is safe as a part of a file name everywhere: at most [`SOURCE_KEY_MAX`] letters, digits,
/// `_`, `.` and `-`, the first a letter or digit.
#[must_use]
pub fn is_source_key(key: &str) -> bool {
    key.len() <= SOURCE_KEY_MAX
        && key.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The names of one snapshot's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotNames {
    source: String,
    id: SnapshotId,
    encrypted: bool,
}

impl SnapshotNames {
    /// Returns the names for a source key that [is valid](is_source_key).
    #[must_use]
    pub fn new(source: &str, id: &SnapshotId) -> Self {
        Self { source: source.to_owned(), id: id.clone(), encrypted: false }
    }

    /// Returns those of an encrypted snapshot, or of one that is not.
    #[must_use]
    pub fn encrypted(self, encrypted: bool) -> Self {
        Self { encrypted, ..self }
    }

    fn age(&self) -> &'static str {
        if self.encrypted { EXTENSION } else { "" }
    }

    /// Returns the source's folder.
    ///
    /// # Errors
    /// When the source's key is not valid.
    pub fn folder(&self) -> Result<Key, KeyError> {
        source_folder(&self.source)
    }

    /// Returns the archive's file name.
    #[must_use]
    pub fn archive(&self, codec: Codec) -> String {
        format!("{}-{}.{}{}", self.source, self.id, extension(codec), self.age())
    }

    /// Returns the file list's file name.
    #[must_use]
    pub fn file_list(&self) -> String {
        format!("{}-{}{FILE_LIST}{}", self.source, self.id, self.age())
    }

    /// Returns the manifest's file name.
    #[must_use]
    pub fn manifest(&self) -> String {
        format!("{}-{}{JSON}", self.source, self.id)
    }

    /// Returns the file name of a verification that ended at that moment.
    #[must_use]
    pub fn verification(&self, at: DateTime<Utc>) -> String {
        format!("{}-{}{VERIFIED}{}{JSON}", self.source, self.id, at.format(VERIFIED_TIME))
    }

    /// Returns the key of a mark, whose time is only in the name of an acknowledgement.
    ///
    /// # Errors
    /// When the source's key is not valid.
    pub fn mark(&self, kind: MarkKind, at: DateTime<Utc>) -> Result<Key, KeyError> {
        let end = match kind {
            MarkKind::Deletion => DELETED.to_owned(),
            MarkKind::Pin => PINNED.to_owned(),
            MarkKind::Acknowledgement => format!("{ACKNOWLEDGED}{}", at.format(VERIFIED_TIME)),
        };
        marks_folder(&self.source)?.join(&format!("{}-{}{end}{JSON}", self.source, self.id))
    }
}

/// What is said of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// It is to be deleted.
    Deletion,
    /// It is not to be deleted.
    Pin,
    /// Somebody has looked at what was wrong up to it.
    Acknowledgement,
}

/// Returns what the name of a mark says: source, id and kind; `None` for a name that volsnap would not give.
#[must_use]
pub fn parse_mark(name: &str) -> Option<(&str, SnapshotId, MarkKind)> {
    let stem = name.strip_suffix(JSON)?;
    let (stem, kind) = if let Some(stem) = stem.strip_suffix(DELETED) {
        (stem, MarkKind::Deletion)
    } else if let Some(stem) = stem.strip_suffix(PINNED) {
        (stem, MarkKind::Pin)
    } else {
        (split_time(stem, ACKNOWLEDGED)?, MarkKind::Acknowledgement)
    };
    let (source, id) = split_id(stem)?;
    Some((source, id, kind))
}

/// Returns the folder of what is said of a source's snapshots.
///
/// # Errors
/// When the source's key is not valid.
pub fn marks_folder(source: &str) -> Result<Key, KeyError> {
    MARKS.join(source)
}

/// Returns the key of the `number`th change of a repository's recipients.
///
/// # Errors
/// Never, as the names are ours.
pub fn recipients_key(number: u64) -> Result<Key, KeyError> {
    KEYS.join(&format!("{number}{JSON}"))
}

/// Returns the number that the name of such a change says; `None` for any other name.
#[must_use]
pub fn parse_recipients(name: &str) -> Option<u64> {
    name.strip_suffix(JSON)?.parse().ok()
}

/// Returns the key under which a run says for the `number`th time what it reads.
///
/// # Errors
/// When the run's name is not valid.
pub fn run_key(run: &SnapshotId, number: u64) -> Result<Key, KeyError> {
    RUNNING.join(&format!("{run}.{number}{JSON}"))
}

/// Returns the folder of a source's index.
///
/// # Errors
/// When the source's key is not valid.
pub fn index_folder(source: &str) -> Result<Key, KeyError> {
    INDEX.join(source)
}

/// Returns the folder of a source.
///
/// # Errors
/// When the source's key is not valid.
pub fn source_folder(source: &str) -> Result<Key, KeyError> {
    SNAPSHOTS.join(source)
}

/// What kind of file a name is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An archive of any codec.
    Archive,
    /// A file list.
    FileList,
    /// A manifest.
    Manifest,
    /// The record of a verification.
    Verification,
}

/// What the name of a snapshot's file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileName<'a> {
    /// The source's key.
    pub source: &'a str,
    /// The snapshot's id.
    pub id: SnapshotId,
    /// What the file is.
    pub kind: FileKind,
    /// Whether it is still being written.
    pub partial: bool,
}

impl<'a> FileName<'a> {
    /// Returns what the name says; `None` for a name that volsnap would not give.
    #[must_use]
    pub fn parse(name: &'a str) -> Option<Self> {
        let (whole, partial) = match name.strip_suffix(PARTIAL) {
            Some(whole) => (whole, true),
            None => (name, false),
        };
        let (stem, kind) = split_kind(whole)?;
        let (source, id) = split_id(stem)?;
        Some(Self { source, id, kind, partial })
    }
}

/// Splits a name into source and id, and the kind that its suffix tells.
fn split_kind(name: &str) -> Option<(&str, FileKind)> {
    let plain = name.strip_suffix(EXTENSION).unwrap_or(name);
    if let Some(stem) = plain.strip_suffix(FILE_LIST) {
        return Some((stem, FileKind::FileList));
    }
    if let Some(stem) = name.strip_suffix(JSON) {
        // Only the end counts: a source may be called "x.verified-y".
        return Some(match split_verification(stem) {
            Some(stem) => (stem, FileKind::Verification),
            None => (stem, FileKind::Manifest),
        });
    }
    EXTENSIONS.iter().find_map(|extension| {
        let stem = plain.strip_suffix(extension)?.strip_suffix('.')?;
        Some((stem, FileKind::Archive))
    })
}

/// Returns what stands before `.verified-TIME`.
fn split_verification(stem: &str) -> Option<&str> {
    split_time(stem, VERIFIED)
}

/// Returns what stands before a word and a time.
fn split_time<'a>(stem: &'a str, word: &str) -> Option<&'a str> {
    let (stem, time) = stem.rsplit_once(word)?;
    let digits = time.strip_suffix('Z')?;
    let is_time = digits.len() == 18
        && digits.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'T' } else { b.is_ascii_digit() });
    is_time.then_some(stem)
}

/// Splits `SOURCE-ID`.
fn split_id(stem: &str) -> Option<(&str, SnapshotId)> {
    let (source, id) = stem.split_at_checked(stem.len().checked_sub(ID_LENGTH)?)?;
    let source = source.strip_suffix('-')?;
    is_source_key(source).then_some((source, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use proptest::prelude::*;

    use super::*;

    const CODECS: [Codec; 3] = [Codec::Zstd { level: 3 }, Codec::Gzip { level: 6 }, Codec::None];

    fn ids() -> impl Strategy<Value = SnapshotId> {
        (0_i64..253_402_300_799, any::<[u8; 3]>())
            .prop_map(|(seconds, random)| SnapshotId::new(Utc.timestamp_opt(seconds, 0).unwrap(), random))
    }

    fn keys() -> impl Strategy<Value = String> {
        prop_oneof![
            "[A-Za-z0-9][A-Za-z0-9_.-]{0,179}",
            // Sources that look like names of snapshot files.
            (ids(), "(a|a-b)(-|[.]verified-)", "([.]tar|[.]json|[.]partial|[.]files[.]jsonl[.]zst)?")
                .prop_map(|(id, before, after)| format!("{before}{id}{after}")),
        ]
    }

    proptest! {
        #[test]
        fn a_name_is_parsed_back_to_what_made_it(key in keys(), id in ids(), millis in 0_i64..253_402_300_799_000) {
            prop_assert!(is_source_key(&key));
            let names = SnapshotNames::new(&key, &id);
            let at = Utc.timestamp_millis_opt(millis).unwrap();
            let mut made = vec![
                (names.file_list(), FileKind::FileList),
                (names.manifest(), FileKind::Manifest),
                (names.verification(at), FileKind::Verification),
            ];
            made.extend(CODECS.map(|codec| (names.archive(codec), FileKind::Archive)));
            let encrypted = names.clone().encrypted(true);
            made.push((encrypted.file_list(), FileKind::FileList));
            made.extend(CODECS.map(|codec| (encrypted.archive(codec), FileKind::Archive)));
            for (name, kind) in made {
                let whole = FileName { source: &key, id: id.clone(), kind, partial: false };
                prop_assert_eq!(FileName::parse(&name), Some(whole.clone()));
                let name = partial(&name);
                prop_assert_eq!(FileName::parse(&name), Some(FileName { partial: true, ..whole }));
                prop_assert!(name.len() <= 255, "{} is too long for a file name", name);
            }
        }

        #[test]
        fn the_name_of_a_mark_is_parsed_back(key in keys(), id in ids(), millis in 0_i64..253_402_300_799_000) {
            let names = SnapshotNames::new(&key, &id);
            let at = Utc.timestamp_millis_opt(millis).unwrap();
            for kind in [MarkKind::Deletion, MarkKind::Pin, MarkKind::Acknowledgement] {
                let made = names.mark(kind, at).unwrap();
                prop_assert_eq!(parse_mark(made.name()), Some((key.as_str(), id.clone(), kind)));
                prop_assert!(partial(made.name()).len() <= 255);
            }
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in "\\PC*") {
            if let Some(parsed) = FileName::parse(&text) {
                prop_assert!(is_source_key(parsed.source));
            }
            let _ = (text.parse::<SnapshotId>(), parse_mark(&text));
        }

        #[test]
        fn an_id_is_parsed_back(id in ids()) {
            prop_assert_eq!(id.as_str().parse::<SnapshotId>().unwrap(), id);
        }
    }

    #[test]
    fn sources_that_begin_alike_never_mix() {
        let id = "20261120T203011Z-4f2a91".parse().unwrap();
        for (source, other) in [("a", "ab"), ("app", "app-staging"), ("db", "db-20261120T203011Z-4f2a91")] {
            let name = SnapshotNames::new(other, &id).manifest();
            assert_eq!(FileName::parse(&name).unwrap().source, other, "not {source}");
        }
    }

    #[test]
    fn only_what_holds_data_is_ever_encrypted() {
        let names = SnapshotNames::new("db", &"20261120T203011Z-4f2a91".parse().unwrap()).encrypted(true);
        assert_eq!(names.archive(CODECS[0]), "db-20261120T203011Z-4f2a91.tar.zst.age");
        assert_eq!(names.file_list(), "db-20261120T203011Z-4f2a91.files.jsonl.zst.age");
        assert_eq!(names.manifest(), "db-20261120T203011Z-4f2a91.json");
        assert_eq!(FileName::parse("db-20261120T203011Z-4f2a91.json.age"), None);
        assert_eq!(FileName::parse("db-20261120T203011Z-4f2a91.age"), None);
    }

    #[test]
    fn unsafe_source_keys_are_refused() {
        for key in ["", ".", "..", "-a", "_a", ".hidden", "a/b", "a b", "a\n", "ü", "a\0"] {
            assert!(!is_source_key(key), "{key:?}");
        }
        assert!(!is_source_key(&"a".repeat(SOURCE_KEY_MAX + 1)));
    }

    #[test]
    fn texts_that_only_resemble_an_id_are_refused() {
        for text in [
            "",
            "20261120T203011Z",
            "20261120T203011Z-4f2a9",
            "20261120T203011Z-4f2a911",
            "20261120T203011Z-4F2A91",
            "20261320T203011Z-4f2a91",
            "20261120T203011Z-4f2a9g",
            "20261120t203011z-4f2a91",
            "+2026112T203011Z-4f2a91",
            "20261120T203011Z_4f2a91",
            " 20261120T203011Z-4f2a9",
        ] {
            assert!(text.parse::<SnapshotId>().is_err(), "{text:?}");
        }
    }
}
