//! The journal: what is still to be put back, on disk before it is needed.
//!
//! One file per run, one JSON object per line, synced line by line (`docs/formats.md`). Its owner holds a file lock,
//! which the kernel releases when the owner dies, however it dies. So a journal that can be locked has no owner and
//! must be finished. A torn last line was never acknowledged, so its effect never happened; readers ignore it.
//!
//! A journal is executed, so it must be ours: a regular file, opened without waiting and without following a link, that
//! belongs to root or to the user, below directories that do, and that nobody else can write. Whatever else is there is
//! named and left as it is. Only [`open`](Journal::open) changes a journal; [`look`](Journal::look) changes nothing.
//!
//! A newer volsnap may have written a line. Beside each registered compensation stands its rank and what it is about,
//! so even one that this volsnap does not understand has its place. What does not have to wait for it runs all the
//! same, above all the starts of services, and the journal stays for the volsnap that knows the rest.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Compensation, Rank, Result, SagaError, When};
use crate::disk::ownership::{refuse_others, refuse_others_directories};

/// The format that this code writes. Journals of format 1 name no format, no rank and no concerns; this code reads and
/// finishes them.
pub const FORMAT: u32 = 2;

/// Which run it is: the first line of its journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The run's id.
    pub run: String,
    /// The verb: "snapshot".
    pub verb: String,
    /// What it acts on, as a person calls it.
    pub subject: String,
    /// The engine's address, as it was given; `None` for the default.
    pub host: Option<String>,
    /// Process id of the command.
    pub pid: u32,
    /// When it began.
    pub started: DateTime<Utc>,
}

/// A registered compensation in a journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<U> {
    /// Its number, unique in the journal.
    pub number: u64,
    /// When it is due.
    pub when: When,
    rank: Rank,
    /// What it is about; `None` if that is not known: then it may be about anything.
    concerns: Option<Vec<String>>,
    content: Content<U>,
}

#[derive(Debug, Clone, PartialEq)]
enum Content<U> {
    Known(U),
    /// Of a newer volsnap.
    Newer(Value),
}

impl<U: Compensation> Entry<U> {
    fn of(number: u64, when: When, undo: U) -> Self {
        let (rank, concerns) = (undo.rank(), Some(undo.concerns()));
        Self { number, when, rank, concerns, content: Content::Known(undo) }
    }

    /// Returns what puts things back; `None` if only a newer volsnap knows.
    #[must_use]
    pub fn undo(&self) -> Option<&U> {
        match &self.content {
            Content::Known(undo) => Some(undo),
            Content::Newer(_) => None,
        }
    }

    /// Returns when its turn is.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Returns what it does, in words for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.content {
            Content::Known(undo) => undo.describe(),
            // What it holds may be the environment of a container, and so a secret: its kind alone is said.
            Content::Newer(value) => match kind_of(value) {
                Some(kind) => format!("what only a newer volsnap knows: {kind}"),
                None => "what only a newer volsnap knows".to_owned(),
            },
        }
    }

    /// Returns what it is about, as [`Compensation::concerns`] has it; `None` if that is not known.
    #[must_use]
    pub fn concerns(&self) -> Option<&[String]> {
        self.concerns.as_deref()
    }

    /// Returns whether both are about the same thing.
    pub(super) fn concerns_any_of(&self, other: &Self) -> bool {
        match (&self.concerns, &other.concerns) {
            (Some(ours), Some(theirs)) => ours.iter().any(|one| theirs.contains(one)),
            _ => true,
        }
    }
}

/// Returns what a compensation calls itself.
fn kind_of(undo: &Value) -> Option<&str> {
    undo.as_str().or_else(|| undo.as_object()?.keys().next().map(String::as_str))
}

/// An entry in its written form.
#[derive(Debug, Serialize, Deserialize)]
struct WrittenEntry {
    number: u64,
    when: When,
    /// Not in format 1.
    #[serde(default, deserialize_with = "known_rank")]
    rank: Option<Rank>,
    /// Not in format 1.
    #[serde(default)]
    concerns: Option<Vec<String>>,
    #[serde(alias = "compensation")]
    undo: Value,
}

/// Reads a rank; one that only a newer volsnap knows counts as none.
fn known_rank<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Rank>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

impl WrittenEntry {
    fn of<U: Compensation>(entry: &Entry<U>) -> serde_json::Result<Self> {
        let undo = match &entry.content {
            Content::Known(undo) => serde_json::to_value(undo)?,
            Content::Newer(value) => value.clone(),
        };
        let concerns = entry.concerns.clone();
        Ok(Self { number: entry.number, when: entry.when, rank: Some(entry.rank), concerns, undo })
    }

    fn read<U: Compensation>(self) -> Entry<U> {
        let Self { number, when, rank, concerns, undo } = self;
        match serde_json::from_value::<U>(undo.clone()) {
            Ok(known) => Entry::of(number, when, known),
            // If it does not say, assume the worst: services must not start without it.
            Err(error) => {
                // The error would quote what is there.
                tracing::warn!(kind = ?error.classify(), "a compensation of a newer volsnap");
                let rank = rank.unwrap_or(Rank::Data);
                Entry { number, when, rank, concerns, content: Content::Newer(undo) }
            }
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Run {
        #[serde(flatten)]
        info: RunInfo,
        /// The volsnap that writes the journal.
        #[serde(default)]
        version: Option<String>,
        /// The journal's format; not in format 1.
        #[serde(default)]
        format: Option<u32>,
    },
    Register(WrittenEntry),
    Settled(u64),
    /// The run has done its work: from here on nothing of it is undone.
    Succeeded,
}

/// The journal of one run.
#[derive(Debug)]
pub struct Journal<U> {
    path: PathBuf,
    /// `None` for a journal that could not be read or locked; then it is finished from what is known of it.
    file: Option<File>,
    info: RunInfo,
    version: Option<String>,
    open: Vec<Entry<U>>,
    next: u64,
    succeeded: bool,
    /// The number of whole lines that are not understood at all.
    strange: usize,
    /// All whole lines.
    lines: Vec<String>,
    /// Bytes of whole lines: whatever a failed write leaves after them is cut off.
    length: u64,
}

/// The outcome of opening a journal.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and nearly always the large one")]
pub enum Opened<U> {
    /// Nobody holds it: it is ours now.
    Orphan(Journal<U>),
    /// Its owner, or somebody finishing it, is at work.
    Held,
    /// It is finished and gone.
    Gone,
}

impl<U: Compensation> Journal<U> {
    /// Creates the journal of a run below `state`, locked and durable.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(state: &Path, info: &RunInfo) -> Result<Self> {
        let directory = directory(state);
        let path = directory.join(format!("{}.jsonl", info.run));
        let create = || -> io::Result<File> {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            refuse_others_directories(&path, 2)?;
            let file = create_locked(&path)?;
            File::open(&directory)?.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(|source| SagaError::Journal { path: path.clone(), source })?;
        let mut journal = Self {
            path,
            file: Some(file),
            info: info.clone(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            open: Vec::new(),
            next: 1,
            succeeded: false,
            strange: 0,
            lines: Vec::new(),
            length: 0,
        };
        let first = Line::Run { info: info.clone(), version: journal.version.clone(), format: Some(FORMAT) };
        if let Err(error) = journal.append(&first) {
            // Nothing had begun. If the removal fails, an empty journal stays, and the next run removes it.
            let _ = journal.remove();
            return Err(error);
        }
        Ok(journal)
    }

    /// Opens the journal of a run whose owner may be dead.
    ///
    /// # Errors
    /// When it exists but cannot be read, or does not name its run; then it stays as it is.
    pub fn open(path: &Path) -> Result<Opened<U>> {
        let failed = |source| SagaError::Journal { path: path.to_owned(), source };
        let file = match open_ours(path, OpenOptions::new().read(true).append(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
            Err(error) => return Err(failed(error)),
        };
        if !lock(&file).map_err(failed)? {
            return Ok(Opened::Held);
        }
        // Its holder may have finished and removed it between our open and our lock, and another file may be there by
        // now: what we do below by its path must be done to the file that we locked.
        if !is_at(&file, path).map_err(failed)? {
            return Ok(Opened::Gone);
        }
        let bytes = read_whole(&file).map_err(failed)?;
        if has_not_begun(&bytes) {
            // Its first line was never acknowledged: the run had not begun. We hold the lock until the file is gone,
            // so the process that is making it notices that.
            std::fs::remove_file(path).map_err(failed)?;
            return Ok(Opened::Gone);
        }
        let Some(mut journal) = Replayed::of_bytes(&bytes).into_journal(path, Some(file)) else {
            return Err(failed(nameless(&bytes)));
        };
        journal.length = bytes.len() as u64;
        journal.cut_torn_line(&bytes).map_err(failed)?;
        Ok(Opened::Orphan(journal))
    }

    /// Returns what a journal says, and whether its owner is alive or somebody finishes it; `None` for one that is gone,
    /// or whose run has not begun. Changes nothing, and what it returns is not to be finished.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn look(path: &Path) -> Result<Option<(Self, bool)>> {
        let failed = |source| SagaError::Journal { path: path.to_owned(), source };
        let file = match open_ours(path, OpenOptions::new().read(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        // Shared, so that two that look do not take each other for an owner.
        let held = match file.try_lock_shared() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        let bytes = read_whole(&file).map_err(failed)?;
        if has_not_begun(&bytes) || !is_at(&file, path).map_err(failed)? {
            return Ok(None);
        }
        match Replayed::of_bytes(&bytes).into_journal(path, None) {
            Some(journal) => Ok(Some((journal, held))),
            None => Err(failed(nameless(&bytes))),
        }
    }

    /// Returns the journal that these lines make, to be finished from memory: its file cannot be read, or a process
    /// that does not go still locks it. `None` if the lines do not name its run.
    #[must_use]
    pub fn from_memory(path: &Path, lines: &[String]) -> Option<Self> {
        Replayed::of(lines.iter().map(String::as_bytes)).into_journal(path, None)
    }

    /// Returns the journals below `state`, oldest first by name.
    ///
    /// # Errors
    /// When the directory exists and cannot be read.
    pub fn all(state: &Path) -> Result<Vec<PathBuf>> {
        let directory = directory(state);
        let failed = |source| SagaError::Journal { path: directory.clone(), source };
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Returns which run a journal belongs to, without locking it.
    #[must_use]
    pub fn peek(path: &Path) -> Option<RunInfo> {
        let file = open_ours(path, OpenOptions::new().read(true)).ok()?;
        Replayed::<U>::of_bytes(&read_whole(&file).ok()?).info
    }

    /// Returns the journal's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns which run it belongs to.
    #[must_use]
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Returns the volsnap that wrote it, as far as it says.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Returns how many lines a newer volsnap wrote; only that one can finish them.
    #[must_use]
    pub fn newer_lines(&self) -> usize {
        self.strange + self.open.iter().filter(|entry| entry.undo().is_none()).count()
    }

    /// Returns how many lines are not understood at all, not even what they are about.
    pub(super) fn strange_lines(&self) -> usize {
        self.strange
    }

    /// Returns its lines, oldest first.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Records that the run has done its work: whoever finishes it undoes nothing of it any more.
    ///
    /// # Errors
    /// When it cannot be written; then the run has not succeeded.
    pub fn succeeded(&mut self) -> Result<()> {
        self.append(&Line::Succeeded)?;
        self.succeeded = true;
        Ok(())
    }

    /// Returns whether the run has done its work, as far as is known here.
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        self.succeeded
    }

    /// Returns what is still to be put back, oldest first.
    pub fn open_entries(&self) -> impl DoubleEndedIterator<Item = &Entry<U>> {
        self.open.iter()
    }

    /// Returns an open entry by its number.
    #[must_use]
    pub fn entry(&self, number: u64) -> Option<&Entry<U>> {
        self.open.iter().find(|entry| entry.number == number)
    }

    /// Records a compensation and returns its number; the record is durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn register(&mut self, when: When, undo: U) -> Result<u64> {
        let entry = Entry::of(self.next, when, undo);
        self.append_entry(&entry)?;
        self.next += 1;
        self.open.push(entry);
        Ok(self.next - 1)
    }

    /// Records that a compensation has run.
    ///
    /// # Errors
    /// When it cannot be written; the compensation then runs once more, which harms nothing.
    pub fn settled(&mut self, number: u64) -> Result<()> {
        self.open.retain(|entry| entry.number != number);
        self.append(&Line::Settled(number))
    }

    /// Gives an open compensation another content; it keeps its place in the order.
    ///
    /// # Errors
    /// When it cannot be written; then it stays as it was.
    pub fn update(&mut self, number: u64, undo: U) -> Result<()> {
        let Some(entry) = self.entry(number) else { return Ok(()) };
        let updated = Entry::of(number, entry.when, undo);
        self.append_entry(&updated)?;
        register(&mut self.open, updated);
        Ok(())
    }

    /// Removes the journal: the run is finished.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.path)
            .map_err(|source| SagaError::Journal { path: self.path.clone(), source })?;
        super::shared_lease::remove(&self.path);
        Ok(())
    }

    fn append_entry(&mut self, entry: &Entry<U>) -> Result<()> {
        let failed = |error| SagaError::Journal { path: self.path.clone(), source: io::Error::from(error) };
        let written = WrittenEntry::of(entry).map_err(failed)?;
        self.append(&Line::Register(written))
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let length = self.length;
        let write = |file: Option<&mut File>| -> io::Result<String> {
            let mut text = serde_json::to_string(line)?;
            text.push('\n');
            let Some(file) = file else { return Ok(text) };
            let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
            if written.is_err() {
                // Half a line, for example from a full disk, would swallow the line after it.
                let _ = file.set_len(length);
            }
            written.map(|()| text)
        };
        let failed = |source| SagaError::Journal { path: self.path.clone(), source };
        let text = write(self.file.as_mut()).map_err(failed)?;
        self.length += text.len() as u64;
        self.lines.push(text);
        Ok(())
    }

    /// Removes the half line that a dead owner left, so the next line stands on its own.
    fn cut_torn_line(&mut self, bytes: &[u8]) -> io::Result<()> {
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
        if let Some(file) = self.file.as_ref().filter(|_| whole < self.length) {
            file.set_len(whole)?;
            self.length = whole;
        }
        Ok(())
    }
}

/// More than any run writes: what is larger is no journal.
const LARGEST: u64 = 64 << 20;
/// How often a lock is tried: one that only looks has it for a moment.
const LOCK_TRIES: u32 = 5;
/// How the first line of every journal begins.
const FIRST_LINE: &[u8] = b"{\"run\":";

/// Opens a file that is to be believed: see the module.
fn open_ours(path: &Path, options: &OpenOptions) -> io::Result<File> {
    // A FIFO would have us wait for its other end, and a link could lead anywhere.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
    let kind = std::fs::symlink_metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let file = options.clone().custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other("it is far too large for a journal"));
    }
    refuse_others(path, &metadata)?;
    refuse_others_directories(path, 2)?;
    Ok(file)
}

/// Takes the lock of a journal; `false` if somebody has it.
fn lock(file: &File) -> io::Result<bool> {
    for tried in 1.. {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if tried < LOCK_TRIES => {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns whether a journal has no more than the begin of its first line. One that has lost its first line has more, and
/// is never taken for one that had not begun.
fn has_not_begun(bytes: &[u8]) -> bool {
    let compared = bytes.len().min(FIRST_LINE.len());
    !bytes.contains(&b'\n') && bytes[..compared] == FIRST_LINE[..compared]
}

/// Returns why a journal cannot be finished that does not say whose it is.
fn nameless(bytes: &[u8]) -> io::Error {
    let what = if bytes.starts_with(FIRST_LINE) {
        "its first line is not understood"
    } else {
        "its first line, which names the run and its engine, is not there"
    };
    io::Error::other(what)
}

/// Returns whether the open file is the one now at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(identity(there) == identity(file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates a journal's file with its lock held.
///
/// Before the file is locked, another command may look at it, find it empty, and remove it, as if its run had never
/// begun; then this makes it again.
fn create_locked(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)?;
        file.lock()?;
        if file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Returns the directory of journals below `state`.
fn directory(state: &Path) -> PathBuf {
    state.join("journals")
}

/// What a journal says.
#[derive(Debug)]
struct Replayed<U> {
    info: Option<RunInfo>,
    version: Option<String>,
    open: Vec<Entry<U>>,
    next: u64,
    succeeded: bool,
    strange: usize,
    lines: Vec<String>,
}

impl<U: Compensation> Replayed<U> {
    fn of_bytes(bytes: &[u8]) -> Self {
        Self::of(bytes.split_inclusive(|byte| *byte == b'\n'))
    }

    fn of<'l>(lines: impl Iterator<Item = &'l [u8]>) -> Self {
        let mut replayed = Self {
            info: None,
            version: None,
            open: Vec::new(),
            next: 1,
            succeeded: false,
            strange: 0,
            lines: Vec::new(),
        };
        for line in lines.filter(|line| line.ends_with(b"\n")) {
            match std::str::from_utf8(line) {
                Ok(line) => replayed.apply(line),
                Err(_) => replayed.strange += 1,
            }
            replayed.lines.push(String::from_utf8_lossy(line).into_owned());
        }
        replayed
    }

    fn apply(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Line::Run { info, version, .. }) => {
                self.info = Some(info);
                self.version = version;
            }
            Ok(Line::Register(entry)) => {
                // No number follows the largest one.
                self.next = self.next.max(entry.number.saturating_add(1));
                register(&mut self.open, entry.read());
            }
            Ok(Line::Succeeded) => self.succeeded = true,
            Ok(Line::Settled(number)) => self.open.retain(|entry| entry.number != number),
            Err(error) => {
                tracing::warn!(kind = ?error.classify(), "a line of the journal cannot be read");
                self.strange += 1;
            }
        }
    }

    fn into_journal(self, path: &Path, file: Option<File>) -> Option<Journal<U>> {
        let Self { info, version, open, next, succeeded, strange, lines } = self;
        let (path, length) = (path.to_owned(), 0);
        Some(Journal { path, file, info: info?, version, open, next, succeeded, strange, lines, length })
    }
}

/// Adds an entry; if one of the same number is there, the new one takes its place.
fn register<U>(open: &mut Vec<Entry<U>>, entry: Entry<U>) {
    match open.iter_mut().find(|before| before.number == entry.number) {
        Some(before) => *before = entry,
        None => open.push(entry),
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
