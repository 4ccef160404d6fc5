//! Reading tar, ours and others': ustar, PAX, GNU long names, GNU's three sparse formats.
//!
//! The reader takes nothing on trust: every number is checked, every claim of a length meets a
//! [limit](Limits) before memory is spent on it, and an archive that ends without its marker, or goes
//! on after it, is an error.

mod header;
mod sparse;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead};

use super::entry::plain_path;
use super::error::{ArchiveError, MemberProblem};
use super::{Entry, EntryKind, Extent, Xattr, acl, pax};
use header::RawHeader;

/// The unit of a tar.
const RECORD: usize = 512;

/// The most that a member may claim.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of PAX records, or of a GNU long name, before one member.
    pub records_len: u64,
    /// Bytes of a path or of a link's target.
    pub path_len: usize,
    /// Stretches of data in a sparse file.
    pub extents: usize,
}

impl Limits {
    /// The most extents a sparse file has in our archives.
    pub const MAX_EXTENTS: usize = 1 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self { records_len: 1 << 20, path_len: 64 << 10, extents: Self::MAX_EXTENTS }
    }
}

/// A piece of a file's content.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// A number of zeros that are not stored.
    Hole(u64),
    /// Stored bytes, never none.
    Data(&'a [u8]),
}

/// Reads members one after the other; the content of each is streamed from the source's own buffer.
#[derive(Debug)]
pub struct TarReader<R> {
    source: R,
    limits: Limits,
    position: u64,
    /// The bytes that the last segment lent; consumed before anything else.
    lent: usize,
    path: Vec<u8>,
    member_at: u64,
    globals: Records,
    content: Content,
}

/// What is left of the current member.
#[derive(Debug, Default)]
struct Content {
    /// Stretches of data still to return; between them are holes.
    extents: VecDeque<Extent>,
    /// The position of the next byte in the file.
    logical: u64,
    size: u64,
    /// Stored bytes not yet returned, and zeros after them.
    stored: u64,
    padding: u64,
}

/// PAX records by key; the last one of a key counts.
type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Returns whether `bytes` begin with a tar header.
pub(super) fn is_header(bytes: &[u8]) -> bool {
    bytes.first_chunk::<RECORD>().is_some_and(|raw| RawHeader(*raw).has_right_checksum())
}

impl<R: BufRead> TarReader<R> {
    /// Returns a reader of the archive that begins here.
    pub fn new(source: R) -> Self {
        Self::with_limits(source, Limits::default())
    }

    /// Like [`new`](Self::new), with other limits.
    pub fn with_limits(source: R, limits: Limits) -> Self {
        Self {
            source,
            limits,
            position: 0,
            lent: 0,
            path: Vec::new(),
            member_at: 0,
            globals: Records::new(),
            content: Content::default(),
        }
    }

    /// Returns how many bytes of tar were read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the source, to ask it how much it read.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Skips the rest of the current member and returns the next one.
    ///
    /// `None` comes after the end-of-archive marker, once the source has been read to its end.
    ///
    /// # Errors
    /// If the source fails or the archive is damaged.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip_content()?;
        let mut records = Records::new();
        loop {
            self.member_at = self.position;
            let Some(header) = self.read_header()? else { return Ok(None) };
            match header.typeflag() {
                b'x' => self.read_records(&header, &mut records)?,
                b'g' => {
                    let mut globals = std::mem::take(&mut self.globals);
                    self.read_records(&header, &mut globals)?;
                    self.globals = globals;
                }
                b'L' => {
                    let name = self.read_long_name(&header)?;
                    records.insert(b"path".to_vec(), name);
                }
                b'K' => {
                    let target = self.read_long_name(&header)?;
                    records.insert(b"linkpath".to_vec(), target);
                }
                // A volume label is no file.
                b'V' => self.read_small(&header).map(drop)?,
                _ => return self.read_member(&header, &records).map(Some),
            }
        }
    }

    /// Returns the next piece of the current file's content; `None` at its end.
    ///
    /// # Errors
    /// If the source fails or ends.
    pub fn next_segment(&mut self) -> Result<Option<Segment<'_>>, ArchiveError> {
        self.return_lent();
        while self.content.extents.front().is_some_and(|extent| extent.len == 0) {
            let Some(Extent { offset, .. }) = self.content.extents.pop_front() else { break };
            if offset > self.content.logical {
                return Ok(Some(self.hole_until(offset)));
            }
        }
        let Some(extent) = self.content.extents.front().copied() else {
            let size = self.content.size;
            return Ok((size > self.content.logical).then(|| self.hole_until(size)));
        };
        if extent.offset > self.content.logical {
            return Ok(Some(self.hole_until(extent.offset)));
        }
        let len = self.fill()?;
        let len = len.min(usize::try_from(extent.len).unwrap_or(usize::MAX));
        self.content.extents[0] = Extent { offset: extent.offset + len as u64, len: extent.len - len as u64 };
        self.content.logical += len as u64;
        self.content.stored -= len as u64;
        self.lent = len;
        let buffer = self.source.fill_buf().map_err(reading)?;
        Ok(Some(Segment::Data(&buffer[..len])))
    }

    fn hole_until<'a>(&mut self, offset: u64) -> Segment<'a> {
        let len = offset - self.content.logical;
        self.content.logical = offset;
        Segment::Hole(len)
    }

    fn return_lent(&mut self) {
        let lent = std::mem::take(&mut self.lent);
        self.consume(lent);
    }

    fn consume(&mut self, count: usize) {
        self.source.consume(count);
        self.position += count as u64;
    }

    /// Returns how many bytes are available; the archive must not end here.
    fn fill(&mut self) -> Result<usize, ArchiveError> {
        match self.source.fill_buf().map_err(reading)?.len() {
            0 => Err(self.error(MemberProblem::Truncated)),
            len => Ok(len),
        }
    }

    fn error(&self, problem: MemberProblem) -> ArchiveError {
        ArchiveError::Member { path: self.path.clone(), offset: self.member_at, problem }
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        self.return_lent();
        let content = std::mem::take(&mut self.content);
        self.skip(content.stored)?;
        self.skip(content.padding)
    }

    fn skip(&mut self, count: u64) -> Result<(), ArchiveError> {
        let mut left = count;
        while left > 0 {
            let piece = self.fill()?.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.consume(piece);
            left -= piece as u64;
        }
        Ok(())
    }

    /// Reads one record; `None` if the source ends before it.
    fn read_record(&mut self) -> Result<Option<[u8; RECORD]>, ArchiveError> {
        let mut record = [0; RECORD];
        let mut filled = 0;
        while filled < RECORD {
            let buffer = self.source.fill_buf().map_err(reading)?;
            if buffer.is_empty() && filled == 0 {
                return Ok(None);
            }
            let piece = buffer.len().min(RECORD - filled);
            record[filled..filled + piece].copy_from_slice(&buffer[..piece]);
            if piece == 0 {
                return Err(self.error(MemberProblem::Truncated));
            }
            self.consume(piece);
            filled += piece;
        }
        Ok(Some(record))
    }

    /// Reads a header; `None` at the end of the archive.
    fn read_header(&mut self) -> Result<Option<RawHeader>, ArchiveError> {
        let Some(record) = self.read_record()? else {
            return Err(self.error(MemberProblem::MissingEnd));
        };
        if record == [0; RECORD] {
            return self.read_end();
        }
        let header = RawHeader(record);
        if header.has_right_checksum() { Ok(Some(header)) } else { Err(self.error(MemberProblem::Checksum)) }
    }

    /// Reads what follows the first record of zeros: another one, then only zeros, if anything.
    fn read_end(&mut self) -> Result<Option<RawHeader>, ArchiveError> {
        match self.read_record()? {
            Some(record) if record == [0; RECORD] => {}
            Some(_) => return Err(self.error(MemberProblem::TrailingGarbage)),
            None => return Err(self.error(MemberProblem::MissingEnd)),
        }
        // Tools pad their last larger block with zeros.
        loop {
            let buffer = self.source.fill_buf().map_err(reading)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            if buffer.iter().any(|byte| *byte != 0) {
                return Err(self.error(MemberProblem::TrailingGarbage));
            }
            let count = buffer.len();
            self.consume(count);
        }
    }

    /// Reads the content of a small member into memory.
    fn read_small(&mut self, header: &RawHeader) -> Result<Vec<u8>, ArchiveError> {
        let size = header.size().map_err(|problem| self.error(problem))?;
        let limit = self.limits.records_len;
        if size > limit {
            return Err(self.error(MemberProblem::TooLarge { what: "extended header", limit }));
        }
        let mut content = Vec::new();
        let mut left = usize::try_from(size).unwrap_or(usize::MAX);
        while left > 0 {
            let piece = self.fill()?.min(left);
            let buffer = self.source.fill_buf().map_err(reading)?;
            content.extend_from_slice(&buffer[..piece]);
            self.consume(piece);
            left -= piece;
        }
        self.skip(padding(size))?;
        Ok(content)
    }

    fn read_long_name(&mut self, header: &RawHeader) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.read_small(header)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_records(&mut self, header: &RawHeader, into: &mut Records) -> Result<(), ArchiveError> {
        let content = self.read_small(header)?;
        let mut rest = content.as_slice();
        // The old sparse format 0.0 repeats its keys: gather them into the form of 0.1.
        let mut sparse_map: Vec<u8> = Vec::new();
        while !rest.is_empty() {
            let Some((key, value, after)) = pax::split(rest) else {
                return Err(self.error(MemberProblem::Field { field: "extended header" }));
            };
            match key {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    if !sparse_map.is_empty() {
                        sparse_map.push(b',');
                    }
                    sparse_map.extend_from_slice(value);
                }
                _ => {
                    into.insert(key.to_vec(), value.to_vec());
                }
            }
            rest = after;
        }
        if !sparse_map.is_empty() {
            into.insert(b"GNU.sparse.map".to_vec(), sparse_map);
        }
        Ok(())
    }

    /// Combines header and records, and gets ready to stream the content.
    fn read_member(&mut self, header: &RawHeader, records: &Records) -> Result<Entry, ArchiveError> {
        let member = Member { header, records, globals: &self.globals };
        let described = member.path().and_then(|path| {
            self.path.clone_from(&path);
            member.describe(path, &self.limits)
        });
        let (mut entry, stored) = described.map_err(|problem| self.error(problem))?;
        if entry.kind != EntryKind::File {
            return Ok(entry);
        }
        self.content = Content { stored, padding: padding(stored), ..Content::default() };
        let extents = self.read_extents(header, records, &mut entry)?;
        self.content.size = entry.size;
        self.content.extents = match &extents {
            Some(extents) => extents.iter().copied().collect(),
            None => VecDeque::from([Extent { offset: 0, len: entry.size }]),
        };
        // An empty extent only marks the end of a file that ends in a hole.
        entry.extents = extents.map(|extents| extents.into_iter().filter(|extent| extent.len > 0).collect());
        Ok(entry)
    }
}

fn reading(source: io::Error) -> ArchiveError {
    ArchiveError::reading("archive", source)
}

/// Returns how many zeros fill the last record of `len` bytes.
fn padding(len: u64) -> u64 {
    len.wrapping_neg() % RECORD as u64
}

/// A header with the records that override it.
struct Member<'a> {
    header: &'a RawHeader,
    records: &'a Records,
    globals: &'a Records,
}

impl Member<'_> {
    fn record(&self, key: &[u8]) -> Option<&[u8]> {
        let value = self.records.get(key).or_else(|| self.globals.get(key))?;
        // An empty value takes back what a global header said.
        (!value.is_empty()).then_some(value)
    }

    /// Returns the full name as it is stored.
    fn name(&self) -> Vec<u8> {
        let name = self.record(b"GNU.sparse.name").or_else(|| self.record(b"path"));
        name.map_or_else(|| self.header.name(), <[u8]>::to_vec)
    }

    fn path(&self) -> Result<Vec<u8>, MemberProblem> {
        let name = self.name();
        if name.is_empty() || name.contains(&0) {
            return Err(MemberProblem::Field { field: "path" });
        }
        Ok(plain_path(&name).to_vec())
    }

    /// Returns the entry and how many bytes are stored after its header.
    fn describe(&self, path: Vec<u8>, limits: &Limits) -> Result<(Entry, u64), MemberProblem> {
        let kind = self.kind()?;
        let link = self.link(kind)?;
        let limit = limits.path_len as u64;
        for (what, value) in [("path", &path), ("link target", &link)] {
            if value.len() > limits.path_len {
                return Err(MemberProblem::TooLarge { what, limit });
            }
        }
        let stored = self.stored_len(kind)?;
        let is_device = matches!(kind, EntryKind::Char | EntryKind::Block);
        let entry = Entry {
            path,
            kind,
            size: if kind == EntryKind::File { stored } else { 0 },
            mode: self.header.mode()? & 0o7777,
            uid: self.owner(b"uid", self.header.uid())?,
            gid: self.owner(b"gid", self.header.gid())?,
            mtime: match self.record(b"mtime") {
                Some(text) => pax::parse_time(text).ok_or(MemberProblem::Field { field: "mtime" })?,
                None => self.header.mtime()?,
            },
            link,
            xattrs: self.xattrs()?,
            device: if is_device { Some(self.header.device()?) } else { None },
            extents: None,
        };
        Ok((entry, stored))
    }

    fn kind(&self) -> Result<EntryKind, MemberProblem> {
        Ok(match self.header.typeflag() {
            // Before POSIX a directory was a file whose name ends in a slash.
            b'\0' | b'0' if self.name().ends_with(b"/") => EntryKind::Directory,
            b'\0' | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::Hardlink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Char,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            typeflag => return Err(MemberProblem::Type { typeflag }),
        })
    }

    fn link(&self, kind: EntryKind) -> Result<Vec<u8>, MemberProblem> {
        let target = match kind {
            EntryKind::Hardlink | EntryKind::Symlink => {
                self.record(b"linkpath").map_or_else(|| self.header.link(), <[u8]>::to_vec)
            }
            _ => return Ok(Vec::new()),
        };
        if target.is_empty() || target.contains(&0) {
            return Err(MemberProblem::Field { field: "link target" });
        }
        let is_path = kind == EntryKind::Hardlink;
        Ok(if is_path { plain_path(&target).to_vec() } else { target })
    }

    fn stored_len(&self, kind: EntryKind) -> Result<u64, MemberProblem> {
        let field = MemberProblem::Field { field: "size" };
        let size = match self.record(b"size") {
            Some(text) => pax::parse_decimal(text).ok_or(field.clone())?,
            None => self.header.size()?,
        };
        // A size beyond any file system is a lie, and would overflow sums later.
        match kind {
            EntryKind::File if size <= i64::MAX.unsigned_abs() => Ok(size),
            // POSIX lets a directory say how much room it will need, but stores nothing for it.
            EntryKind::Directory => Ok(0),
            EntryKind::File => Err(field),
            _ if size == 0 => Ok(0),
            _ => Err(field),
        }
    }

    fn owner(
        &self,
        key: &'static [u8],
        from_header: Result<u32, MemberProblem>,
    ) -> Result<u32, MemberProblem> {
        let Some(text) = self.record(key) else { return from_header };
        pax::parse_decimal(text)
            .and_then(|id| u32::try_from(id).ok())
            .ok_or(MemberProblem::Field { field: "owner" })
    }

    fn xattrs(&self) -> Result<Vec<Xattr>, MemberProblem> {
        let mut xattrs = Vec::new();
        for (key, value) in self.globals.iter().chain(self.records) {
            let (name, value) = match key.as_slice() {
                b"SCHILY.acl.access" => (acl::ACCESS_XATTR.to_vec(), acl::from_text(value)?),
                b"SCHILY.acl.default" => (acl::DEFAULT_XATTR.to_vec(), acl::from_text(value)?),
                _ => match key.strip_prefix(b"SCHILY.xattr.") {
                    Some(name) => (pax::decode_xattr_name(name), value.clone()),
                    None => continue,
                },
            };
            xattrs.retain(|xattr: &Xattr| xattr.name != name);
            xattrs.push(Xattr { name, value });
        }
        xattrs.sort();
        Ok(xattrs)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Device, Fill, TarWriter, Timestamp};
    use super::*;

    pub(in crate::archive) fn file(path: &str, size: u64) -> Entry {
        Entry {
            path: path.as_bytes().to_vec(),
            kind: EntryKind::File,
            size,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            link: Vec::new(),
            xattrs: Vec::new(),
            device: None,
            extents: None,
        }
    }

    fn archive(entries: &[Entry]) -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new());
        for entry in entries {
            writer.append(entry).unwrap();
            while writer.remaining() > 0 {
                writer
                    .fill(|tail| {
                        tail.fill(7);
                        Ok(tail.len())
                    })
                    .unwrap();
            }
        }
        writer.finish().unwrap()
    }

    fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
        let mut reader = TarReader::new(tar);
        let mut members = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            while let Some(segment) = reader.next_segment()? {
                match segment {
                    Segment::Hole(len) => content.resize(content.len() + usize::try_from(len).unwrap(), 0),
                    Segment::Data(data) => content.extend_from_slice(data),
                }
            }
            members.push((entry, content));
        }
        Ok(members)
    }

    fn problem(tar: &[u8]) -> MemberProblem {
        match read(tar) {
            Err(ArchiveError::Member { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_field_survives() {
        let long = "d/".repeat(200) + &"n".repeat(255);
        let extremes = Entry {
            mode: 0o7777,
            uid: u32::MAX - 1,
            gid: 3_000_000,
            mtime: Timestamp { secs: -5, nanos: 123_456_789 },
            xattrs: vec![
                Xattr { name: b"user.a=b%".to_vec(), value: b"\0\n=\xff".to_vec() },
                Xattr { name: b"user.empty".to_vec(), value: Vec::new() },
            ],
            ..file(&long, 1000)
        };
        let entries = [
            Entry { kind: EntryKind::Directory, mode: 0o1777, ..file(".", 0) },
            Entry { kind: EntryKind::Directory, ..file("d", 0) },
            Entry { path: b"new\nline \xff'\"".to_vec(), ..file("", 512) },
            extremes,
            Entry { kind: EntryKind::Hardlink, link: long.clone().into(), ..file("h", 0) },
            Entry { kind: EntryKind::Symlink, link: b"./x/".to_vec(), ..file("s", 0) },
            Entry { kind: EntryKind::Symlink, link: vec![b'/'; 300], ..file("t", 0) },
            Entry { kind: EntryKind::Fifo, ..file("f", 0) },
            Entry {
                kind: EntryKind::Block,
                device: Some(Device { major: 259, minor: 1_048_575 }),
                ..file("b", 0)
            },
            file("empty", 0),
        ];
        let members = read(&archive(&entries)).unwrap();
        assert_eq!(members.iter().map(|(entry, _)| entry.clone()).collect::<Vec<_>>(), entries);
        assert_eq!(members[3].1, vec![7; 1000]);
    }

    #[test]
    fn holes_survive_at_the_beginning_between_and_at_the_end() {
        let extent = |offset, len| Extent { offset, len };
        for (size, extents) in [
            (4096, vec![]),
            (8192, vec![extent(4096, 4096)]),
            (20_000, vec![extent(0, 512), extent(4096, 1024), extent(8192, 512)]),
            (8200, vec![extent(8192, 8)]),
        ] {
            let entry = Entry { extents: Some(extents.clone()), ..file("sparse", size) };
            let members = read(&archive(&[entry.clone(), file("after", 1)])).unwrap();
            assert_eq!(members[0].0, entry);
            let mut expected = vec![0; usize::try_from(size).unwrap()];
            for extent in extents {
                let (from, to) = (extent.offset, extent.offset + extent.len);
                expected[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()].fill(7);
            }
            assert!(members[0].1 == expected);
            assert_eq!(members[1].0.path, b"after");
        }
    }

    #[test]
    fn a_size_beyond_eight_gib_is_written_for_pax_and_for_others() {
        let mut writer = TarWriter::new(Vec::new());
        let size = (8 << 30) + 1;
        writer.append(&file("big", size)).unwrap();
        let mut sink = Vec::new();
        sink.fill(|_| Ok(0)).unwrap();
        let error = writer.finish().unwrap_err();
        assert!(error.to_string().contains(&size.to_string()), "{error}");
        let map = vec![Extent { offset: size, len: 4096 }];
        let entry = Entry { extents: Some(map), ..file("big", size + 4096) };
        let (read, _) = {
            let tar = archive(std::slice::from_ref(&entry));
            let mut reader = TarReader::new(tar.as_slice());
            (reader.next_entry().unwrap().unwrap(), ())
        };
        assert_eq!(read, entry);
    }

    #[test]
    fn every_truncation_is_noticed() {
        let tar = archive(&[file("a", 600), Entry { uid: 9_000_000, ..file("b", 3) }]);
        for len in (0..tar.len()).step_by(64) {
            let problem = problem(&tar[..len]);
            assert!(
                matches!(problem, MemberProblem::Truncated | MemberProblem::MissingEnd),
                "{len}: {problem}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let tar = archive(&[file("a", 0)]);
        let whole = read(&tar).unwrap();
        for bit in 0..512 * 8 {
            let mut damaged = tar.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // A blank instead of a zero, or of the end, says the same.
            let same = read(&damaged).is_ok_and(|members| members == whole);
            assert!(read(&damaged).is_err() || (same && (148..156).contains(&(bit / 8))), "bit {bit}");
        }
    }

    #[test]
    fn what_follows_the_end_is_noticed() {
        let mut tar = archive(&[file("a", 1)]);
        tar.extend_from_slice(&[0; 4096]);
        assert_eq!(read(&tar).unwrap().len(), 1);
        tar.push(1);
        assert_eq!(problem(&tar), MemberProblem::TrailingGarbage);
    }

    #[test]
    fn absurd_claims_are_refused() {
        let limits = Limits { records_len: 2000, path_len: 300, extents: 2 };
        let read = |tar: &[u8]| {
            let mut reader = TarReader::with_limits(tar, limits);
            match reader.next_entry() {
                Err(ArchiveError::Member { problem: MemberProblem::TooLarge { what, .. }, .. }) => what,
                other => panic!("{other:?}"),
            }
        };
        let extents = (0..3).map(|n| Extent { offset: n * 1024, len: 512 }).collect();
        assert_eq!(read(&archive(&[file(&"p".repeat(400), 0)])), "path");
        assert_eq!(read(&archive(&[file(&"p".repeat(3000), 0)])), "extended header");
        assert_eq!(read(&archive(&[Entry { extents: Some(extents), ..file("s", 4096) }])), "sparse map");
    }

    #[test]
    fn a_global_header_holds_for_all_members_that_do_not_differ() {
        let tar = archive(&[file("a", 0), Entry { uid: 9_000_000, ..file("b", 0) }]);
        let mut records = Vec::new();
        pax::push(&mut records, b"uid", b"70");
        pax::push(&mut records, b"comment", b"of no interest");
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XGlobalHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        records.resize(512, 0);
        let whole = [header.as_bytes(), records.as_slice(), &tar].concat();
        let owners: Vec<_> = read(&whole).unwrap().iter().map(|(entry, _)| entry.uid).collect();
        assert_eq!(owners, [70, 9_000_000]);
    }
}
