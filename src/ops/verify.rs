//! `verify`: read a snapshot back, whole, and say what is damaged.
//!
//! One pass over the archive checks everything: the digest of the stored bytes, the codec's own checksums, the
//! structure of the tar and its end, every member against the file list, every file's digest, the file that the proof
//! of a clean shutdown rests on, and the checksum of every page. Damage is a result, not an error: an error means that
//! the verification could not be done.
//!
//! Of an encrypted snapshot that no identity has opened, the stored bytes are all that can be read back: their digests show
//! whether they are what was stored.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::time::Instant;

use crate::archive::{
    ArchiveError, BlockReader, Entry, EntryKind, FileListReader, FileRecord, ListDigest, Origin, Segment,
    TarReader,
};
use crate::clock::Clock;
use crate::database;
use crate::database::{ContentCheck, DataFiles};
use crate::model::error::{Context as _, Error, ErrorKind, Result, chain};
use crate::model::event::{Event, Monitor, Phase};
use crate::model::hint::Hint;
use crate::model::ids::SnapshotId;
use crate::model::inspection::{Inspection, PageChecksums};
use crate::model::manifest::{Consistency, Proof, Verification, VerificationKind};
use crate::model::plural::{counted, grouped};
use crate::model::unknown::UnknownFields;
use crate::repository::Snapshot;

/// More problems than this say nothing new.
const MAX_PROBLEMS: usize = 10_000;
/// Bytes between two reports of progress.
const PROGRESS_STEP: u64 = 16 << 20;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The snapshot.
    pub id: SnapshotId,
    /// Whether nothing is damaged.
    pub ok: bool,
    /// What is damaged; at most the first ten thousand problems.
    pub problems: Vec<Problem>,
    /// What else was checked, and what could not be, in words.
    pub notes: Vec<String>,
    /// Regular files read back.
    pub files: u64,
    /// Bytes of their contents.
    pub raw_bytes: u64,
    /// Pages whose checksum was computed again.
    pub pages: u64,
    /// Whether only the stored bytes were read back, and not what they hold: it is encrypted, and nobody opened it.
    pub sealed: bool,
    /// Milliseconds it took.
    pub ms: u64,
}

/// A damaged thing.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// The file in the archive; `None` for the archive itself.
    pub path: Option<String>,
    /// The page of the file, counted from 0, if it is one page.
    pub block: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// Reads a snapshot back and writes the outcome beside it.
///
/// # Errors
/// When it cannot be read at all, for example for lack of permission. Damage is in the report.
pub async fn verify(mut snapshot: Snapshot, clock: &Clock, monitor: Arc<dyn Monitor>) -> Result<Report> {
    let (read, watched) = (snapshot.clone(), monitor.clone());
    let report = tokio::task::spawn_blocking(move || verify_blocking(&read, &*watched))
        .await
        .context(|| format!("verify snapshot {}", snapshot.manifest.id))??;
    let verification = Verification {
        at: clock.now(),
        kind: VerificationKind::Read,
        ok: report.ok,
        problems: report.problems.len() as u64,
        ms: report.ms,
        proof: report.ok.then_some(if report.sealed { Proof::Stored } else { Proof::Verified }),
        drill: None,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        unknown: UnknownFields::default(),
    };
    if let Err(error) = snapshot.record_verification(verification).await {
        let error = Error::from(error);
        let why = Error::failed("the verification could not be written down").with_source(error);
        monitor.warning(&why);
    }
    Ok(report)
}

fn verify_blocking(snapshot: &Snapshot, monitor: &dyn Monitor) -> Result<Report> {
    let begun = Instant::now();
    let manifest = &snapshot.manifest;
    monitor.phase(Phase::Verify, snapshot.name(), Some(manifest.counts().raw_bytes));
    let mut reading = Reading::of(snapshot, monitor);
    reading.read_back(snapshot)?;
    let mut report = reading.report;
    report.ok = report.problems.is_empty();
    report.ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// What the file list of a snapshot adds up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Members of every kind.
    pub members: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of their contents, holes included.
    pub bytes: u64,
    /// The digest of all records; see [`ListDigest`].
    pub digest: String,
    /// Whether there are devices, or programs that gain privileges (set-ID bits, capabilities).
    pub has_devices: bool,
    /// Owner and group of the database's own directory, else of the root.
    pub owner: Option<(u32, u32)>,
}

/// Returns what the file list of a snapshot adds up to, after proving that the list is the one that was published and
/// that the archive has the size it had. Quick, whatever the size: whoever unpacks the archive compares the outcome
/// with [`Listed::digest`].
///
/// # Errors
/// [`ErrorKind::Damaged`] naming what is damaged; when something cannot be read.
pub fn check_list(snapshot: &Snapshot, monitor: &dyn Monitor) -> Result<Listed> {
    let manifest = &snapshot.manifest;
    let size = snapshot.open_archive()?.length();
    if size != manifest.archive().stored_bytes {
        let expected = manifest.archive().stored_bytes;
        return Err(damaged(
            snapshot,
            &format!(
                "its archive has {}, and the manifest says {}",
                counted(size, "byte"),
                grouped(expected)
            ),
        ));
    }
    let plain = snapshot.plain_digests().map(|plain| plain.file_list.as_str());
    let list = (manifest.file_list().blake3.as_str(), plain);
    check_digest(snapshot, "file list", snapshot.open_file_list()?, list, monitor)?;
    let listed = add_up(snapshot).map_err(|error| damaged(snapshot, &chain(&error)))?;
    let counts = manifest.counts();
    if (listed.members, listed.files, listed.bytes) != (counts.members, counts.files, counts.raw_bytes) {
        return Err(damaged(snapshot, "the file list does not have what the manifest says"));
    }
    Ok(listed)
}

/// Reads every stored byte of a snapshot's archive and proves that it is the one that was published; decompresses
/// nothing. One that is encrypted and opened is decrypted in the same pass, and proved to be what was encrypted.
///
/// # Errors
/// [`ErrorKind::Damaged`] when it is another, or cannot be decrypted; when it cannot be read.
pub fn check_archive(snapshot: &Snapshot, monitor: &dyn Monitor) -> Result<()> {
    let archive = snapshot.manifest.archive();
    monitor.phase(Phase::Verify, snapshot.name(), Some(archive.stored_bytes));
    let plain = snapshot.plain_digests().map(|plain| plain.archive.as_str());
    check_digest(snapshot, "archive", snapshot.open_archive()?, (&archive.blake3, plain), monitor)
}

/// Compares the digests of a stored file and, if it is known, of what that decrypts to.
fn check_digest<R: Read + Send + 'static>(
    snapshot: &Snapshot,
    what: &str,
    stored: R,
    (expected, plain): (&str, Option<&str>),
    monitor: &dyn Monitor,
) -> Result<()> {
    let read = || format!("read the {what} of {}", snapshot.name());
    let stored = Digesting::new(stored);
    let decrypted = plain.map(|_| -> Result<String, String> {
        let content = snapshot.decrypted(stored.clone()).map_err(|error| chain(&error))?;
        digest_of(content, monitor).map_err(|error| chain(&error))
    });
    if let Some(error) = stored.take_failure() {
        return Err(error).context(read);
    }
    // What cannot be decrypted ends the reading early; the digest still covers the whole file.
    digest_of(stored.clone(), monitor).context(read)?;
    if stored.digest() != expected {
        let what = format!("the stored {what} does not have the digest that the manifest says");
        return Err(damaged(snapshot, &what));
    }
    match decrypted.transpose() {
        Err(why) => Err(damaged(snapshot, &format!("its {what} cannot be decrypted: {why}"))),
        Ok(found) if found.as_deref() != plain => {
            let what = format!("what its {what} decrypts to does not have the digest that was sealed");
            Err(damaged(snapshot, &what))
        }
        Ok(_) => Ok(()),
    }
}

fn damaged(snapshot: &Snapshot, what: &str) -> Error {
    Error::new(ErrorKind::Damaged, format!("snapshot {} is damaged: {what}", snapshot.name()))
        .hint(Hint::volsnap(["verify", snapshot.manifest.id.as_str()]).why("says all that is damaged"))
}

fn digest_of(mut reader: impl Read, monitor: &dyn Monitor) -> io::Result<String> {
    let (mut hasher, mut buffer, mut bytes, mut told) = (blake3::Hasher::new(), vec![0; 1 << 20], 0, 0);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
        if bytes - told >= PROGRESS_STEP {
            told = bytes;
            monitor.event(Event::Progress { bytes, files: 0 });
        }
    }
}

fn add_up(snapshot: &Snapshot) -> Result<Listed> {
    use std::os::unix::ffi::OsStrExt as _;
    let database = snapshot.manifest.evidence.database.as_ref();
    let home =
        database.map_or(&b"."[..], |inspection| match inspection.data_directory.as_os_str().as_bytes() {
            b"" => b".",
            path => path,
        });
    let proof = database.and_then(|inspection| {
        let files = database::files_of(&inspection.engine)?;
        Some((files.proof_file(&inspection.data_directory), inspection.proof_digest.clone()))
    });
    let (mut listed, mut digest, mut proved) = (Listed::default(), ListDigest::default(), proof.is_none());
    for record in super::files(snapshot)? {
        let record = record?;
        digest.push(&record);
        listed.members += 1;
        if record.kind == EntryKind::File {
            listed.files += 1;
            listed.bytes += record.size;
        }
        listed.has_devices |= matches!(record.kind, EntryKind::Char | EntryKind::Block)
            || (record.kind == EntryKind::File && record.mode & 0o6000 != 0)
            || record.xattrs.iter().any(|xattr| xattr.name == b"security.capability");
        if record.path == home {
            listed.owner = Some((record.uid, record.gid));
        }
        if let Some((path, expected)) = &proof
            && record.path == path.as_os_str().as_bytes()
        {
            let found = record.digest.map(|digest| digest.to_hex().to_string());
            proved = found.as_deref() == Some(expected);
        }
    }
    if !proved {
        return Err(Error::failed(
            "the file list does not have the file on which the proof of the shutdown rests",
        ));
    }
    listed.digest = digest.finish();
    Ok(listed)
}

/// The state of one reading.
struct Reading<'m> {
    report: Report,
    monitor: &'m dyn Monitor,
    reported: u64,
    /// What is known of the files, if the snapshot is of a database.
    database: Option<(&'static dyn DataFiles, Inspection)>,
    /// Pages are sound only after a clean shutdown: otherwise a torn one is no damage.
    pages_count: bool,
    proof_seen: bool,
}

impl<'m> Reading<'m> {
    fn of(snapshot: &Snapshot, monitor: &'m dyn Monitor) -> Self {
        let manifest = &snapshot.manifest;
        let database =
            manifest.evidence.database.clone().and_then(|inspection| {
                database::files_of(&inspection.engine).map(|files| (files, inspection))
            });
        let mut notes = Vec::new();
        let mut pages_count = false;
        if let Some((_, inspection)) = &database {
            match (inspection.page_checksums, manifest.consistency) {
                (Some(PageChecksums::On), Consistency::Clean) => pages_count = true,
                (Some(PageChecksums::On), other) => notes.push(format!(
                    "page checksums were NOT checked: the snapshot is {other}, and a page that was being written is no damage"
                )),
                (Some(PageChecksums::Off), _) => notes.push(
                    "page checksums were NOT checked: the database has them off, so damage inside a page cannot be seen"
                        .to_owned(),
                ),
                (Some(PageChecksums::Unknown), _) => notes
                    .push("page checksums were NOT checked: it is not known whether the database has them on".to_owned()),
                // It has none to check.
                (None, _) => {}
            }
        }
        let report = Report {
            id: manifest.id.clone(),
            ok: false,
            problems: Vec::new(),
            notes,
            files: 0,
            raw_bytes: 0,
            pages: 0,
            sealed: snapshot.is_locked(),
            ms: 0,
        };
        Self { report, monitor, reported: 0, database, pages_count, proof_seen: false }
    }

    fn read_back(&mut self, snapshot: &Snapshot) -> Result<()> {
        let manifest = &snapshot.manifest;
        let archive = Digesting::new(snapshot.open_archive()?);
        let list = Digesting::new(snapshot.open_file_list()?);
        if !self.report.sealed
            && let Err(damage) = self.read_content_back(snapshot, archive.clone(), list.clone())
        {
            // A disk that cannot be read does not mean that what is on it is damaged.
            if let Some(error) = archive.take_failure().or(list.take_failure()) {
                return Err(Error::failed(format!("read snapshot {}", manifest.id)).with_source(error));
            }
            self.damaged(None, &damage);
        }
        self.compare_digest("archive", archive, &manifest.archive().blake3)?;
        self.compare_digest("file list", list, &manifest.file_list().blake3)?;
        if self.report.sealed {
            self.report.notes = vec![
                "the digests of the stored bytes; what they hold was NOT checked: it is encrypted, and no identity that opens it was given"
                    .to_owned(),
            ];
        } else {
            self.conclude(snapshot);
        }
        Ok(())
    }

    /// Reads what archive and list hold; returns what is damaged as a whole.
    fn read_content_back<R: Read + Send + 'static>(
        &mut self,
        snapshot: &Snapshot,
        archive: R,
        list: R,
    ) -> Result<(), String> {
        let decrypted = snapshot.decrypted(archive).and_then(|plain| Ok((plain, snapshot.decrypted(list)?)));
        let (archive, list) = decrypted.map_err(|error| chain(&error))?;
        let archive = Digesting::new(archive);
        self.compare(archive.clone(), list).map_err(|error| chain(&error))?;
        if let Some(plain) = snapshot.plain_digests() {
            io::copy(&mut archive.clone(), &mut io::sink()).map_err(|error| chain(&error))?;
            if archive.digest() != plain.archive {
                self.damaged(None, "what the archive decrypts to does not have the digest that was sealed");
            }
        }
        Ok(())
    }

    /// Reads archive and list side by side: they have the same members in the same order.
    fn compare(&mut self, archive: impl Read, list: impl Read) -> Result<(), ArchiveError> {
        let mut tar = TarReader::new(BlockReader::open(archive, Origin::Volsnap)?);
        let mut list = FileListReader::new(BufReader::new(list))?;
        while let Some(entry) = tar.next_entry()? {
            let digest = self.read_content(&mut tar, &entry)?;
            let found = FileRecord::new(entry, digest);
            match list.next().transpose()? {
                Some(listed) => self.compare_records(&found, &listed),
                None => self.damaged(Some(&found), "is in the archive and not in the file list"),
            }
        }
        if let Some(listed) = list.next().transpose()? {
            self.damaged(Some(&listed), "is in the file list and not in the archive");
        }
        Ok(())
    }

    fn read_content<R: io::BufRead>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
    ) -> Result<Option<blake3::Hash>, ArchiveError> {
        if entry.kind != EntryKind::File {
            return Ok(None);
        }
        let mut check = self.content_check(&entry.path);
        let mut hasher = blake3::Hasher::new();
        while let Some(segment) = tar.next_segment()? {
            match segment {
                Segment::Data(bytes) => {
                    hasher.update(bytes);
                    if let Some(check) = &mut check {
                        check.feed(bytes);
                    }
                    self.progress(bytes.len() as u64);
                }
                Segment::Hole(length) => self.read_hole(length, &mut hasher, &mut check),
            }
        }
        self.report.files += 1;
        if let Some(check) = check {
            let found = check.finish();
            self.report.pages += found.pages;
            for damage in found.damage {
                self.problem(Some(crate::archive::shown(&entry.path).to_string()), damage.block, damage.what);
            }
        }
        Ok(Some(hasher.finalize()))
    }

    fn read_hole(
        &mut self,
        mut length: u64,
        hasher: &mut blake3::Hasher,
        check: &mut Option<Box<dyn ContentCheck>>,
    ) {
        while length > 0 {
            let piece = &ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len()).min(ZEROS.len())];
            hasher.update(piece);
            if let Some(check) = check {
                check.feed(piece);
            }
            length -= piece.len() as u64;
            self.progress(piece.len() as u64);
        }
    }

    fn content_check(&self, path: &[u8]) -> Option<Box<dyn ContentCheck>> {
        use std::os::unix::ffi::OsStrExt as _;
        let (files, inspection) = self.database.as_ref().filter(|_| self.pages_count)?;
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        files.content_check(inspection, path.strip_prefix(&inspection.data_directory).ok()?)
    }

    fn compare_records(&mut self, found: &FileRecord, listed: &FileRecord) {
        if found != listed {
            let what = found.difference(listed).unwrap_or_else(|| "differs from the file list".to_owned());
            self.damaged(Some(listed), &what);
        }
        let Some((files, inspection)) = &self.database else { return };
        if found.display_path() != files.proof_file(&inspection.data_directory).to_string_lossy() {
            return;
        }
        self.proof_seen = true;
        if found.digest.map(|digest| digest.to_hex().to_string()).as_deref() != Some(&inspection.proof_digest)
        {
            self.damaged(Some(found), "is not the file on which the proof of the shutdown rests");
        }
    }

    fn compare_digest<R: Read>(
        &mut self,
        what: &str,
        mut reader: Digesting<R>,
        expected: &str,
    ) -> Result<()> {
        // Damage ends the reading early; the digest still covers the whole file.
        io::copy(&mut reader, &mut io::sink()).context(|| format!("read the {what}"))?;
        if reader.digest() != expected {
            self.damaged(None, &format!("the stored {what} does not have the digest that the manifest says"));
        }
        Ok(())
    }

    fn conclude(&mut self, snapshot: &Snapshot) {
        let counts = snapshot.manifest.counts();
        let whole = self.report.problems.is_empty();
        if whole && (self.report.files, self.report.raw_bytes) != (counts.files, counts.raw_bytes) {
            let what = format!(
                "the archive has {} of {}, and the manifest says {} of {}",
                counted(self.report.files, "file"),
                counted(self.report.raw_bytes, "byte"),
                grouped(counts.files),
                grouped(counts.raw_bytes)
            );
            self.damaged(None, &what);
        }
        if let Some((files, inspection)) = &self.database {
            let proof = files.proof_file(&inspection.data_directory);
            if self.proof_seen && whole {
                self.report.notes.push(format!("{} says: {}", proof.display(), inspection.state));
            } else if whole {
                let what = format!("{} is not in the archive", proof.display());
                self.problem(None, None, what);
            }
        }
        if self.pages_count {
            self.report.notes.push(format!("the checksums of {}", counted(self.report.pages, "page")));
        }
    }

    fn damaged(&mut self, record: Option<&FileRecord>, what: &str) {
        self.problem(record.map(FileRecord::display_path), None, what.to_owned());
    }

    fn problem(&mut self, path: Option<String>, block: Option<u64>, what: String) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(Problem { path, block, what });
        }
    }

    fn progress(&mut self, bytes: u64) {
        self.report.raw_bytes += bytes;
        if self.report.raw_bytes - self.reported >= PROGRESS_STEP {
            self.reported = self.report.raw_bytes;
            self.monitor.event(Event::Progress { bytes: self.report.raw_bytes, files: self.report.files });
        }
    }
}

/// Digests what is read through it. Clones read on in the same place: the archive's reader takes one, and what it
/// leaves unread is digested through another.
struct Digesting<R>(Arc<Mutex<Digested<R>>>);

struct Digested<R> {
    reader: R,
    hasher: blake3::Hasher,
    failure: Option<io::Error>,
}

impl<R> Clone for Digesting<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Read> Digesting<R> {
    fn new(reader: R) -> Self {
        Self(Arc::new(Mutex::new(Digested { reader, hasher: blake3::Hasher::new(), failure: None })))
    }

    /// Returns the digest of everything read so far, hexadecimal.
    fn digest(&self) -> String {
        self.locked().hasher.finalize().to_hex().to_string()
    }

    /// Returns what kept the reader from reading, if something did.
    fn take_failure(&self) -> Option<io::Error> {
        self.locked().failure.take()
    }

    fn locked(&self) -> MutexGuard<'_, Digested<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Digested { reader, hasher, failure } = &mut *self.locked();
        match reader.read(buffer) {
            Ok(count) => {
                hasher.update(&buffer[..count]);
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                *failure = Some(error);
                Err(kind.into())
            }
        }
    }
}
