//! The file list: one JSON line a member, in the archive's order, compressed with zstd.
//!
//! A name that is UTF-8 is a string; any other is the same field with `_bytes`, in hexadecimal. So every
//! name survives, and the usual ones are readable.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};

use super::error::{ArchiveError, shown};
use super::{Device, Entry, EntryKind, Timestamp, Xattr};

/// The longest line: the PAX records of a member, twice as long in hexadecimal, and their frame.
const MAX_LINE: usize = 4 << 20;
/// Fast: a list is mostly digests, which do not compress.
const LEVEL: i32 = 3;
/// The name of the file list in messages.
const FILE_LIST: &str = "file list";

/// What the file list says of one member.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Line<'static>")]
pub struct FileRecord {
    /// The path relative to the root; the root is `.`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The size of a regular file with its holes.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When it was last modified.
    pub mtime: Timestamp,
    /// The target of a symbolic link, or the path of a hard link's first name.
    pub link: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// BLAKE3 of a regular file's content with its holes.
    pub digest: Option<blake3::Hash>,
    /// The numbers of a device.
    pub device: Option<Device>,
    /// Whether it has holes.
    pub is_sparse: bool,
}

impl FileRecord {
    /// Returns what the list says of `entry`, whose content has `digest`.
    #[must_use]
    pub fn new(entry: Entry, digest: Option<blake3::Hash>) -> Self {
        Self {
            path: entry.path,
            kind: entry.kind,
            size: entry.size,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            link: entry.link,
            xattrs: entry.xattrs,
            digest,
            device: entry.device,
            is_sparse: entry.extents.is_some(),
        }
    }
}

/// The digest of all records of a file list, whatever their compression: equal for two trees if and only
/// if their lists are equal.
#[derive(Debug, Default)]
pub struct ListDigest(blake3::Hasher);

impl ListDigest {
    /// Takes the next record.
    pub fn push(&mut self, record: &FileRecord) {
        // JSON could only refuse a map whose keys are no strings, and a record has none.
        let line = serde_json::to_vec(record).unwrap_or_default();
        self.0.update(&line);
        self.0.update(b"\n");
    }

    /// Returns the digest of all records, hexadecimal.
    #[must_use]
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

impl Serialize for FileRecord {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Line::from(self).serialize(serializer)
    }
}

/// A record as its line of JSON.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    r#type: EntryKind,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link_bytes: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<XattrLine<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sparse: bool,
}

#[derive(Serialize, Deserialize)]
struct XattrLine<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name_bytes: Option<String>,
    value: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Returns a name as a string if it is one, else in hexadecimal.
fn split_name(name: &[u8]) -> (Option<Cow<'_, str>>, Option<String>) {
    match std::str::from_utf8(name) {
        Ok(text) => (Some(Cow::Borrowed(text)), None),
        Err(_) => (None, Some(to_hex(name))),
    }
}

fn join_name(text: Option<Cow<'_, str>>, hex: Option<&str>) -> Result<Vec<u8>, &'static str> {
    match (text, hex) {
        (Some(text), None) => Ok(text.into_owned().into_bytes()),
        (None, Some(hex)) => from_hex(hex).ok_or("a name is not hexadecimal"),
        _ => Err("a name is missing, or there are two"),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

impl<'a> From<&'a FileRecord> for Line<'a> {
    fn from(record: &'a FileRecord) -> Self {
        let (path, path_bytes) = split_name(&record.path);
        let (link, link_bytes) = match record.link.as_slice() {
            [] => (None, None),
            link => split_name(link),
        };
        let xattr_line = |xattr: &'a Xattr| {
            let (name, name_bytes) = split_name(&xattr.name);
            XattrLine { name, name_bytes, value: to_hex(&xattr.value) }
        };
        Self {
            path,
            path_bytes,
            r#type: record.kind,
            size: record.size,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            mtime: record.mtime,
            link,
            link_bytes,
            xattrs: record.xattrs.iter().map(xattr_line).collect(),
            digest: record.digest.map(|digest| Cow::Owned(digest.to_hex().to_string())),
            device: record.device,
            sparse: record.is_sparse,
        }
    }
}

impl TryFrom<Line<'_>> for FileRecord {
    type Error = &'static str;

    fn try_from(line: Line<'_>) -> Result<Self, Self::Error> {
        let has_link = line.link.is_some() || line.link_bytes.is_some();
        let xattr = |line: XattrLine<'_>| {
            let name = join_name(line.name, line.name_bytes.as_deref())?;
            let value = from_hex(&line.value).ok_or("the value of an xattr is not hexadecimal")?;
            Ok(Xattr { name, value })
        };
        let digest = |hex: Cow<'_, str>| {
            blake3::Hash::from_hex(hex.as_bytes()).map_err(|_| "its digest is not hexadecimal")
        };
        Ok(Self {
            path: join_name(line.path, line.path_bytes.as_deref())?,
            kind: line.r#type,
            size: line.size,
            mode: line.mode,
            uid: line.uid,
            gid: line.gid,
            mtime: line.mtime,
            link: if has_link { join_name(line.link, line.link_bytes.as_deref())? } else { Vec::new() },
            xattrs: line.xattrs.into_iter().map(xattr).collect::<Result<_, Self::Error>>()?,
            digest: line.digest.map(digest).transpose()?,
            device: line.device,
            is_sparse: line.sparse,
        })
    }
}

/// Writes a file list.
pub struct FileListWriter<W: Write> {
    encoder: zstd::stream::write::Encoder<'static, io::BufWriter<W>>,
    line: Vec<u8>,
}

impl<W: Write> FileListWriter<W> {
    /// Returns a writer of a list that begins here.
    ///
    /// # Errors
    /// If the compressor cannot be made.
    pub fn new(sink: W) -> Result<Self, ArchiveError> {
        let sink = io::BufWriter::with_capacity(128 * 1024, sink);
        let encoder = zstd::stream::write::Encoder::new(sink, LEVEL).and_then(|mut encoder| {
            encoder.include_checksum(true)?;
            Ok(encoder)
        });
        let encoder = encoder.map_err(|source| ArchiveError::writing(FILE_LIST, source))?;
        Ok(Self { encoder, line: Vec::new() })
    }

    /// Writes one line.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn append(&mut self, record: &FileRecord) -> Result<(), ArchiveError> {
        self.line.clear();
        let written = serde_json::to_writer(&mut self.line, record).map_err(io::Error::from).and_then(|()| {
            self.line.push(b'\n');
            self.encoder.write_all(&self.line)
        });
        written.map_err(|source| ArchiveError::writing(FILE_LIST, source))
    }

    /// Ends the list and returns the sink, flushed.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn finish(self) -> Result<W, ArchiveError> {
        let failed = |source| ArchiveError::writing(FILE_LIST, source);
        let buffered = self.encoder.finish().map_err(failed)?;
        let mut sink = buffered.into_inner().map_err(|error| failed(error.into_error()))?;
        sink.flush().map_err(failed)?;
        Ok(sink)
    }
}

impl FileRecord {
    /// Returns the path as text, escaped where it is not UTF-8.
    #[must_use]
    pub fn display_path(&self) -> String {
        shown(&self.path).to_string()
    }

    /// Returns in words how another record of the same member differs; `None` if it does not.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let differs = [
            ("path", self.path != other.path),
            ("type", self.kind != other.kind),
            ("size", self.size != other.size),
            ("content", self.digest != other.digest),
            ("mode", self.mode != other.mode),
            ("owner", (self.uid, self.gid) != (other.uid, other.gid)),
            ("time", self.mtime != other.mtime),
            ("link target", self.link != other.link),
            ("attributes", self.xattrs != other.xattrs),
            ("device", self.device != other.device),
            ("sparseness", self.is_sparse != other.is_sparse),
        ];
        let names: Vec<_> = differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        (!names.is_empty()).then(|| format!("differs from the file list in {}", names.join(", ")))
    }
}

/// Reads a file list, one record at a time.
pub struct FileListReader<R: Read> {
    lines: BufReader<zstd::stream::read::Decoder<'static, BufReader<R>>>,
    line: u64,
    is_done: bool,
}

impl<R: Read> FileListReader<R> {
    /// Returns a reader of the list that begins here.
    ///
    /// # Errors
    /// If the decompressor cannot be made.
    pub fn new(source: R) -> Result<Self, ArchiveError> {
        let decoder = zstd::stream::read::Decoder::new(source);
        let decoder = decoder.map_err(|source| ArchiveError::reading(FILE_LIST, source))?;
        let lines = BufReader::with_capacity(128 * 1024, decoder);
        Ok(Self { lines, line: 0, is_done: false })
    }

    fn read(&mut self) -> Result<Option<FileRecord>, ArchiveError> {
        self.line += 1;
        let number = self.line;
        let error = |what: String| ArchiveError::FileList { line: number, what };
        let mut line = Vec::new();
        let mut bounded = (&mut self.lines).take(MAX_LINE as u64);
        let count = bounded.read_until(b'\n', &mut line).map_err(|source| error(source.to_string()))?;
        match line.pop() {
            None if count == 0 => Ok(None),
            Some(b'\n') => {
                serde_json::from_slice(&line).map(Some).map_err(|source| error(source.to_string()))
            }
            _ if count == MAX_LINE => Err(error(format!("it is longer than {MAX_LINE} bytes"))),
            _ => Err(error("it ends too early".to_owned())),
        }
    }
}

impl<R: Read> Iterator for FileListReader<R> {
    type Item = Result<FileRecord, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.read().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<FileRecord> {
        let file = FileRecord {
            path: "base/1/2619 é\n".as_bytes().to_vec(),
            kind: EntryKind::File,
            size: 8192,
            mode: 0o600,
            uid: 999,
            gid: 999,
            mtime: Timestamp { secs: -1, nanos: 5 },
            link: Vec::new(),
            xattrs: vec![Xattr { name: b"user.\xff".to_vec(), value: vec![0, 255] }],
            digest: Some(blake3::hash(b"x")),
            device: None,
            is_sparse: true,
        };
        let link = FileRecord {
            path: vec![0xff, b'/', b'a'],
            kind: EntryKind::Symlink,
            link: vec![0xfe],
            digest: None,
            is_sparse: false,
            ..file.clone()
        };
        vec![file, link]
    }

    fn list() -> Vec<u8> {
        let mut writer = FileListWriter::new(Vec::new()).unwrap();
        records().iter().for_each(|record| writer.append(record).unwrap());
        writer.finish().unwrap()
    }

    fn read(list: &[u8]) -> Result<Vec<FileRecord>, ArchiveError> {
        FileListReader::new(list)?.collect()
    }

    #[test]
    fn records_survive() {
        assert_eq!(read(&list()).unwrap(), records());
    }

    #[test]
    fn a_usual_record_is_a_readable_line() {
        let mut record = records().remove(0);
        (record.path, record.xattrs) = (b"PG_VERSION".to_vec(), Vec::new());
        insta::assert_snapshot!(
            serde_json::to_string(&record).unwrap(),
            @r#"{"path":"PG_VERSION","type":"file","size":8192,"mode":384,"uid":999,"gid":999,"mtime":{"secs":-1,"nanos":5},"digest":"3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5","sparse":true}"#
        );
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let list = list();
        for len in 1..list.len() {
            assert!(read(&list[..len]).is_err(), "{len}");
        }
        for bit in 0..list.len() * 8 {
            let mut damaged = list.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let same = read(&damaged).is_ok_and(|read| read == records());
            // One bit of a frame's descriptor has no meaning.
            assert!(read(&damaged).is_err() || same, "bit {bit}");
        }
    }

    #[test]
    fn a_difference_is_called_by_the_field_that_it_is_in() {
        let record = records().remove(0);
        assert_eq!(record.difference(&record), None);
        type Change = fn(&mut FileRecord);
        let changes: [(&str, Change); 12] = [
            ("path", |record| record.path.push(b'x')),
            ("type", |record| record.kind = EntryKind::Fifo),
            ("size", |record| record.size += 1),
            ("content", |record| record.digest = Some(blake3::hash(b"y"))),
            ("mode", |record| record.mode ^= 1),
            ("owner", |record| record.uid += 1),
            ("owner", |record| record.gid += 1),
            ("time", |record| record.mtime.nanos += 1),
            ("link target", |record| record.link.push(b'x')),
            ("attributes", |record| record.xattrs.clear()),
            ("device", |record| record.device = Some(Device { major: 1, minor: 3 })),
            ("sparseness", |record| record.is_sparse = false),
        ];
        for (field, change) in changes {
            let mut other = record.clone();
            change(&mut other);
            let expected = format!("differs from the file list in {field}");
            assert_eq!(other.difference(&record), Some(expected.clone()));
            assert_eq!(record.difference(&other), Some(expected));
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let bomb = zstd::encode_all(&vec![b' '; MAX_LINE + 1][..], 1).unwrap();
        let error = read(&bomb).unwrap_err().to_string();
        assert!(error.contains("line 1 of the file list: it is longer"), "{error}");
    }
}
