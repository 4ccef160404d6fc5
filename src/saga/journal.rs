//! The journal: what is still to be put back, on disk before it is needed.
//!
//! One file a run, one JSON object a line, synced line by line. Its owner holds a file lock, which
//! the kernel releases when the owner dies, however it dies: a journal that can be locked has no
//! owner and is to be finished. A torn last line was never acknowledged, so its effect never
//! happened, and it is ignored. Any other line that is not understood is of a later volsnap: its journal
//! stays as it is for that one, since putting back a part in the wrong order could do harm.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Result, SagaError, When};
use crate::undo::Undo;

/// What a run is, in the first line of its journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The run's id.
    pub run: String,
    /// The verb: "snapshot".
    pub verb: String,
    /// On what, as a person calls it.
    pub subject: String,
    /// The engine's address, as it was given; `None` for the default.
    pub host: Option<String>,
    /// Process id of the command.
    pub pid: u32,
    /// When it began.
    pub started: DateTime<Utc>,
}

/// A registered compensation in a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, unique in the journal.
    pub number: u64,
    /// When it is due.
    pub when: When,
    /// What puts things back.
    pub compensation: Undo,
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
    },
    Register(Entry),
    Settled(u64),
    /// The run has done what it was for: from here on nothing of it is undone.
    Succeeded,
}

/// The journal of one run, locked by its holder.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    info: RunInfo,
    open: Vec<Entry>,
    next: u64,
    succeeded: bool,
    /// Bytes of whole lines: what a failed write leaves behind them is cut off.
    length: u64,
}

/// What became of opening a journal.
#[derive(Debug)]
pub enum Opened {
    /// Nobody holds it: it is ours now.
    Orphan(Journal),
    /// Its owner, or somebody finishing it, is at work.
    Held,
    /// It is finished and gone.
    Gone,
}

impl Journal {
    /// Creates the journal of a run below `state`, locked and durable.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(state: &Path, info: &RunInfo) -> Result<Self> {
        let directory = directory(state);
        let path = directory.join(format!("{}.jsonl", info.run));
        let create = || -> io::Result<File> {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            let file = create_locked(&path)?;
            File::open(&directory)?.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(|source| SagaError::Journal { path: path.clone(), source })?;
        let mut journal =
            Self { path, file, info: info.clone(), open: Vec::new(), next: 1, succeeded: false, length: 0 };
        let version = Some(env!("CARGO_PKG_VERSION").to_owned());
        let first = Line::Run { info: info.clone(), version };
        if let Err(error) = journal.append(&first) {
            // Nothing was begun. What cannot be removed is an empty journal, which the next run removes.
            let _ = journal.remove();
            return Err(error);
        }
        Ok(journal)
    }

    /// Opens the journal of a run whose owner may be dead.
    ///
    /// # Errors
    /// When it is there and cannot be read, or not all of it is understood; then it is left as it is.
    pub fn open(path: &Path) -> Result<Opened> {
        let failed = |source| SagaError::Journal { path: path.to_owned(), source };
        let file = match OpenOptions::new().read(true).append(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
            Err(error) => return Err(failed(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Opened::Held),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Whoever held it may have finished and removed it between our open and our lock, and another file may
        // be there by now: what is done by the path below must be done to the file that is locked.
        if !is_at(&file, path).map_err(failed)? {
            return Ok(Opened::Gone);
        }
        let text = io::read_to_string(&file).map_err(failed)?;
        let Replayed { info, version, open, next, succeeded, strange } = replay(&text);
        if strange > 0 {
            return Err(SagaError::NewerFormat { path: path.to_owned(), version, lines: strange });
        }
        let Some(info) = info else {
            // Its first line was never acknowledged: the run had not begun.
            std::fs::remove_file(path).map_err(failed)?;
            return Ok(Opened::Gone);
        };
        let length = text.len() as u64;
        let mut journal = Self { path: path.to_owned(), file, info, open, next, succeeded, length };
        journal.cut_torn_line(&text).map_err(failed)?;
        Ok(Opened::Orphan(journal))
    }

    /// Returns the journals below `state`, oldest first by name.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
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

    /// Reads what run a journal is of, without locking it.
    #[must_use]
    pub fn peek(path: &Path) -> Option<RunInfo> {
        replay(&std::fs::read_to_string(path).ok()?).info
    }

    /// Returns the journal's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what run it is of.
    #[must_use]
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// Records that the run has done what it was for: whoever finishes it undoes nothing any more.
    ///
    /// # Errors
    /// When it cannot be written; then the run has not succeeded.
    pub fn succeeded(&mut self) -> Result<()> {
        self.append(&Line::Succeeded)?;
        self.succeeded = true;
        Ok(())
    }

    /// Returns whether the run has done what it was for, as far as is known here.
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        self.succeeded
    }

    /// Returns what is still to be put back, oldest first.
    pub fn open_entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.open.iter()
    }

    /// Returns an open entry by its number.
    #[must_use]
    pub fn entry(&self, number: u64) -> Option<&Entry> {
        self.open.iter().find(|entry| entry.number == number)
    }

    /// Records a compensation and returns its number; it is durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn register(&mut self, when: When, compensation: Undo) -> Result<u64> {
        let entry = Entry { number: self.next, when, compensation };
        self.append(&Line::Register(entry.clone()))?;
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

    /// Records that an open compensation has another content; its place in the order stays.
    ///
    /// # Errors
    /// When it cannot be written; then it stays as it was.
    pub fn update(&mut self, number: u64, compensation: Undo) -> Result<()> {
        let Some(entry) = self.open.iter().find(|entry| entry.number == number) else { return Ok(()) };
        let amended = Entry { compensation, ..entry.clone() };
        self.append(&Line::Register(amended.clone()))?;
        register(&mut self.open, amended);
        Ok(())
    }

    /// Records a compensation in place of an open one, and returns its number: at no moment is
    /// neither of them durable.
    ///
    /// # Errors
    /// When it cannot be written; then the former stays.
    pub fn replace(&mut self, number: u64, when: When, compensation: Undo) -> Result<u64> {
        let next = self.register(when, compensation)?;
        // Both of them open would only do the work twice.
        let _ = self.settled(number);
        Ok(next)
    }

    /// Removes the journal: the run is finished.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.path)
            .map_err(|source| SagaError::Journal { path: self.path.clone(), source })
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let write = |file: &mut File| -> io::Result<u64> {
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            file.write_all(&text)?;
            file.sync_data()?;
            Ok(text.len() as u64)
        };
        match write(&mut self.file) {
            Ok(written) => {
                self.length += written;
                Ok(())
            }
            Err(source) => {
                // Half a line, as of a full disk, would swallow the line after it.
                let _ = self.file.set_len(self.length);
                Err(SagaError::Journal { path: self.path.clone(), source })
            }
        }
    }

    /// Removes the half line that a dead owner left: what is appended next is to be a line of its own.
    fn cut_torn_line(&mut self, text: &str) -> io::Result<()> {
        let whole = text.rfind('\n').map_or(0, |end| end as u64 + 1);
        if whole < self.length {
            self.file.set_len(whole)?;
            self.length = whole;
        }
        Ok(())
    }
}

/// Returns whether the open file is the one that lies at `path` now.
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
/// Another command may look at it before it is locked, find it empty, and remove it, as one whose run
/// never began; then it is made again.
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
#[derive(Debug, Default)]
struct Replayed {
    info: Option<RunInfo>,
    /// The volsnap that wrote it.
    version: Option<String>,
    open: Vec<Entry>,
    next: u64,
    succeeded: bool,
    /// Whole lines that are not understood.
    strange: usize,
}

fn replay(text: &str) -> Replayed {
    let mut replayed = Replayed { next: 1, ..Replayed::default() };
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        match serde_json::from_str(line) {
            Ok(Line::Run { info, version }) => {
                replayed.info = Some(info);
                replayed.version = version;
            }
            Ok(Line::Register(entry)) => {
                replayed.next = replayed.next.max(entry.number + 1);
                register(&mut replayed.open, entry);
            }
            Ok(Line::Succeeded) => replayed.succeeded = true,
            Ok(Line::Settled(number)) => replayed.open.retain(|entry: &Entry| entry.number != number),
            Err(error) => {
                tracing::warn!(%error, "a line of the journal cannot be read");
                replayed.strange += 1;
            }
        }
    }
    replayed
}

/// Adds an entry; one of the same number is there already and keeps its place.
fn register(open: &mut Vec<Entry>, entry: Entry) {
    match open.iter_mut().find(|before| before.number == entry.number) {
        Some(before) => *before = entry,
        None => open.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> RunInfo {
        RunInfo {
            run: "20261120T203011Z-4f2a91".into(),
            verb: "snapshot".into(),
            subject: "db".into(),
            host: None,
            pid: 1,
            started: DateTime::UNIX_EPOCH,
        }
    }

    fn delete(path: &str) -> Undo {
        Undo::DeleteDirectory { path: path.into() }
    }

    fn orphan(path: &Path) -> Journal {
        match Journal::open(path).unwrap() {
            Opened::Orphan(journal) => journal,
            other => panic!("expected an orphan, got {other:?}"),
        }
    }

    #[test]
    fn what_is_amended_keeps_its_place() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), &info()).unwrap();
        let first = journal.register(When::OnFailure, delete("/a")).unwrap();
        let second = journal.register(When::Always, delete("/b")).unwrap();
        journal.update(first, delete("/a/amended")).unwrap();
        journal.settled(second).unwrap();
        // One that is settled is not there to be amended.
        journal.update(second, delete("/b/amended")).unwrap();
        journal.register(When::Always, delete("/c")).unwrap();
        let path = journal.path().to_owned();
        drop(journal);
        let open: Vec<_> = orphan(&path).open_entries().map(|entry| entry.compensation.clone()).collect();
        assert_eq!(open, [delete("/a/amended"), delete("/c")]);
    }

    #[test]
    fn a_run_that_has_succeeded_has_so_for_whoever_finishes_it() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), &info()).unwrap();
        journal.register(When::OnFailure, delete("/a")).unwrap();
        journal.register(When::OnSuccess, delete("/b")).unwrap();
        let due = |journal: &Journal| -> Vec<Undo> {
            let is_due = |entry: &&Entry| entry.when.is_due(journal.has_succeeded());
            journal.open_entries().filter(is_due).map(|entry| entry.compensation.clone()).collect()
        };
        assert_eq!(due(&journal), [delete("/a")]);
        journal.succeeded().unwrap();
        let path = journal.path().to_owned();
        drop(journal);
        assert_eq!(due(&orphan(&path)), [delete("/b")]);
    }

    #[test]
    fn a_journal_whose_owner_died_has_what_was_registered_and_not_settled() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), &info()).unwrap();
        let first = journal.register(When::Always, delete("/a")).unwrap();
        journal.register(When::OnFailure, delete("/b")).unwrap();
        journal.settled(first).unwrap();
        let path = journal.path().to_owned();
        drop(journal);

        let journal = orphan(&path);
        assert_eq!(journal.info(), &info());
        let open: Vec<_> = journal.open_entries().map(|entry| entry.compensation.clone()).collect();
        assert_eq!(open, [delete("/b")]);
    }

    #[test]
    fn a_journal_with_a_living_owner_is_held() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::create(state.path(), &info()).unwrap();
        assert!(matches!(Journal::open(journal.path()).unwrap(), Opened::Held));
    }

    #[test]
    fn a_torn_last_line_is_ignored_at_every_length() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), &info()).unwrap();
        journal.register(When::Always, delete("/a")).unwrap();
        let whole = std::fs::read(journal.path()).unwrap();
        journal.register(When::Always, delete("/b")).unwrap();
        let path = journal.path().to_owned();
        let longer = std::fs::read(&path).unwrap();
        drop(journal);
        for length in whole.len()..longer.len() {
            std::fs::write(&path, &longer[..length]).unwrap();
            assert_eq!(orphan(&path).open_entries().count(), 1, "cut at {length}");
        }
    }

    #[test]
    fn what_is_registered_after_a_torn_line_is_a_line_of_its_own() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::create(state.path(), &info()).unwrap();
        let path = journal.path().to_owned();
        drop(journal);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"register\":{\"num");
        std::fs::write(&path, &text).unwrap();
        orphan(&path).register(When::Always, delete("/b")).unwrap();
        let open: Vec<_> = orphan(&path).open_entries().map(|entry| entry.compensation.clone()).collect();
        assert_eq!(open, [delete("/b")]);
    }

    #[test]
    fn a_replaced_compensation_leaves_only_the_new_one() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), &info()).unwrap();
        let first = journal.register(When::Always, delete("/a")).unwrap();
        journal.replace(first, When::Always, delete("/b")).unwrap();
        let path = journal.path().to_owned();
        drop(journal);
        let open: Vec<_> = orphan(&path).open_entries().map(|entry| entry.compensation.clone()).collect();
        assert_eq!(open, [delete("/b")]);
    }

    #[test]
    fn a_journal_being_made_is_never_lost_to_another_command_that_looks() {
        let state = tempfile::tempdir().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let lost = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        for path in Journal::all(state.path()).unwrap() {
                            drop(Journal::open(&path).unwrap());
                        }
                        std::thread::yield_now();
                    }
                });
            }
            let making = scope.spawn(|| {
                (0..200).find(|number| {
                    let info = RunInfo { run: format!("20261120T203011Z-{number:06x}"), ..info() };
                    let mut journal = Journal::create(state.path(), &info).unwrap();
                    journal.register(When::Always, delete("/a")).unwrap();
                    let found = Journal::peek(journal.path());
                    journal.remove().is_err() || found != Some(info)
                })
            });
            let lost = making.join();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            lost.unwrap()
        });
        assert_eq!(lost, None, "a journal was lost");
    }

    #[test]
    fn numbers_go_on_where_the_dead_owner_stopped() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), &info()).unwrap();
        let first = journal.register(When::Always, delete("/a")).unwrap();
        let path = journal.path().to_owned();
        drop(journal);
        assert!(orphan(&path).register(When::Always, delete("/b")).unwrap() > first);
    }

    #[test]
    fn a_journal_of_a_later_volsnap_is_left_as_it_is_and_says_whose_it_is() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), &info()).unwrap();
        journal.register(When::Always, delete("/a")).unwrap();
        let path = journal.path().to_owned();
        drop(journal);
        let ours = std::fs::read_to_string(&path).unwrap();
        let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
        assert!(ours.contains(&version), "{ours}");
        let unknown = "{\"register\":{\"number\":2,\"when\":\"always\",\"compensation\":{\"thaw\":{}}}}\n";
        for text in [ours.replace(&version, "\"version\":\"9.1.0\"") + unknown, unknown.to_owned()] {
            std::fs::write(&path, &text).unwrap();
            let error = Journal::open(&path).unwrap_err();
            let SagaError::NewerFormat { version, lines: 1, .. } = &error else { panic!("{error}") };
            assert_eq!(version.as_deref(), text.contains("9.1.0").then_some("9.1.0"));
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_journal_that_never_got_its_first_line_is_gone() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::create(state.path(), &info()).unwrap();
        let path = journal.path().to_owned();
        drop(journal);
        std::fs::write(&path, b"{\"run\":{").unwrap();
        assert!(matches!(Journal::open(&path).unwrap(), Opened::Gone));
        assert!(!path.exists());
    }
}
