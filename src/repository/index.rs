//! An index of what a source's small objects say, for whoever only wants to see what there is.
//!
//! At a server each manifest is a request, and so is each record of a verification; ten thousand of them take their time.
//! The index holds their texts in one object. It only spares the reading: which snapshots exist is told by the names in
//! the source's folder, and by nothing else. A text counts only for an object that has the very length, time and tag that
//! the index says, and then goes through every check that it would go through if it had come from the object itself.
//! Whatever the index does not have, or has otherwise, is read from its object. So an index that is stale, damaged, or of
//! something else costs time, and hides or invents nothing.
//!
//! Somebody who may write there could still forge one, as he could forge a manifest that is not locked. So only `list`
//! reads it, and `snapshot` to tell how long it will take and whether it was the first. Whatever restores, verifies or
//! deletes reads the manifests themselves.
//!
//! Nobody changes an index. A `list` that had to read many objects stores a new one, under the digest of its bytes, and
//! deletes those that it replaces. What cannot be stored or deleted there is no failure.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::tarball::layout::{INDEX_END, index_folder};
use crate::model::manifest::Manifest;
use crate::store::{Key, ObjectKind, ObjectMeta, Store};

/// The format version of an index.
const INDEX_FORMAT: u32 = 1;
/// How many objects a listing has to read before it stores a new index.
pub(super) const REBUILD_AFTER: usize = 64;
/// A longer one is not read.
const STORED_MAX: u64 = 128 << 20;
/// What comes out of a longer one is not read either, and not stored: what it has no room for is read from its object.
const TEXT_MAX: usize = 128 << 20;
/// More than the first line has.
const HEAD_MAX: usize = 4 << 10;
/// How long the storing of a new one may take.
const STORE_WITHIN: Duration = Duration::from_secs(60);
/// How strongly it is compressed: manifests are alike.
const LEVEL: i32 = 3;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    format_version: u32,
    source: String,
}

/// What the index has of an object: a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    /// The object's name in the source's folder.
    name: String,
    bytes: u64,
    modified: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    text: String,
}

impl Line {
    /// Returns the line for an object and its contents; `None` if they are no text.
    pub(super) fn new(meta: &ObjectMeta, contents: &[u8]) -> Option<Self> {
        Some(Self {
            name: meta.key.name().to_owned(),
            bytes: meta.bytes,
            modified: meta.modified.into(),
            tag: meta.tag.clone(),
            text: std::str::from_utf8(contents).ok()?.to_owned(),
        })
    }

    /// Returns whether it is about this very object, as a listing of the folder has it.
    fn is_of(&self, meta: &ObjectMeta) -> bool {
        let modified = DateTime::<Utc>::from(meta.modified);
        meta.kind == ObjectKind::Object
            && self.bytes == meta.bytes
            && self.modified == modified
            && self.tag == meta.tag
            && self.text.len() as u64 == meta.bytes
    }
}

/// An index, as it was found.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<String, Entry>,
    /// Every index there is.
    found: Vec<Key>,
}

#[derive(Debug)]
struct Entry {
    line: Line,
    /// What it says, if it is a manifest: read while the server still lists the folder.
    manifest: Option<Manifest>,
}

impl Index {
    /// Reads the newest index of a source. One that cannot be read is as good as none.
    pub(super) async fn read(store: &Arc<dyn Store>, source: &str) -> Self {
        match Self::try_read(store, source).await {
            Ok(index) => index,
            Err(error) => {
                tracing::debug!(source, %error, "the index cannot be read");
                Self::default()
            }
        }
    }

    async fn try_read(store: &Arc<dyn Store>, source: &str) -> io::Result<Self> {
        let mut found = store.list(&index_folder(source)?).await?;
        found.retain(|one| one.kind == ObjectKind::Object && one.key.name().ends_with(INDEX_END));
        found.sort_by(|a, b| (a.modified, &a.key).cmp(&(b.modified, &b.key)));
        let mut index =
            Self { entries: HashMap::new(), found: found.into_iter().map(|one| one.key).collect() };
        let Some(newest) = index.found.last() else { return Ok(index) };
        let (name, source) = (newest.name().to_owned(), source.to_owned());
        let lines = async {
            let bytes = store.read(newest, STORED_MAX).await?;
            let read = tokio::task::spawn_blocking(move || entries_of(&name, &source, &bytes)).await;
            read.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        match lines.await {
            Ok(entries) => index.entries = entries,
            // It is replaced, all the same.
            Err(error) => tracing::debug!(%error, "the newest index cannot be read"),
        }
        Ok(index)
    }

    /// Takes the manifest that an object holds, if the index knows this very object.
    pub(super) fn take_manifest(&mut self, meta: &ObjectMeta) -> Option<Manifest> {
        self.entries.get_mut(meta.key.name()).filter(|entry| entry.line.is_of(meta))?.manifest.take()
    }

    /// Returns the contents of an object, if the index knows this very object.
    pub(super) fn text(&self, meta: &ObjectMeta) -> Option<&str> {
        let entry = self.entries.get(meta.key.name()).filter(|entry| entry.line.is_of(meta))?;
        Some(&entry.line.text)
    }

    /// Stores an index of what is there: of what this one knows of it, and of what had to be read.
    pub(super) async fn replace(
        self,
        store: &Arc<dyn Store>,
        source: &str,
        there: &[ObjectMeta],
        read: Vec<Line>,
    ) {
        let stored = async {
            let Self { mut entries, found } = self;
            let known = there.iter().filter_map(|meta| {
                entries.remove(meta.key.name()).map(|entry| entry.line).filter(|line| line.is_of(meta))
            });
            let mut lines: Vec<Line> = known.chain(read).collect();
            lines.sort_by(|a, b| a.name.cmp(&b.name));
            lines.dedup_by(|later, earlier| later.name == earlier.name);
            let of = source.to_owned();
            let written = tokio::task::spawn_blocking(move || written(&of, &lines)).await;
            let (name, bytes) = written.map_err(io::Error::other)??;
            let key = index_folder(source)?.join(&name)?;
            match store.put(&key, bytes.into()).await {
                // Somebody else has just stored the same.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                stored => stored?,
            }
            for old in found.iter().filter(|old| **old != key) {
                store.delete(old).await?;
            }
            Ok::<_, io::Error>(())
        };
        match timeout(STORE_WITHIN, stored).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(source, %error, "the index cannot be replaced"),
            Err(_) => tracing::debug!(source, "the index cannot be replaced in time"),
        }
    }
}

/// Returns the name of an index and its bytes.
fn written(source: &str, lines: &[Line]) -> io::Result<(String, Vec<u8>)> {
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    let head = Head { format_version: INDEX_FORMAT, source: source.to_owned() };
    let mut room = TEXT_MAX - HEAD_MAX;
    serde_json::to_writer(&mut encoder, &head)?;
    for line in lines {
        let text = serde_json::to_vec(line)?;
        let Some(rest) = room.checked_sub(text.len() + 1) else { break };
        room = rest;
        encoder.write_all(b"\n")?;
        encoder.write_all(&text)?;
    }
    encoder.write_all(b"\n")?;
    let bytes = encoder.finish()?;
    Ok((name_of(&bytes), bytes))
}

fn name_of(bytes: &[u8]) -> String {
    format!("{}{INDEX_END}", blake3::hash(bytes).to_hex())
}

/// Returns what an index says, by the objects' names.
fn entries_of(name: &str, source: &str, bytes: &[u8]) -> io::Result<HashMap<String, Entry>> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if name_of(bytes) != name {
        return Err(refused("its bytes are not those of its name"));
    }
    let mut lines = BufReader::new(zstd::Decoder::with_buffer(bytes)?.take(TEXT_MAX as u64)).lines();
    let head: Head = serde_json::from_str(&lines.next().ok_or_else(|| refused("it is empty"))??)?;
    if head.format_version != INDEX_FORMAT || head.source != source {
        return Err(refused("it is of another format, or of another source"));
    }
    let mut entries = HashMap::new();
    for line in lines {
        let line: Line = serde_json::from_str(&line?)?;
        let manifest = Manifest::from_json(line.text.as_bytes()).ok();
        entries.insert(line.name.clone(), Entry { line, manifest });
    }
    Ok(entries)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
