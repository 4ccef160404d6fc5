//! Writing tar: POSIX ustar headers, and PAX records only where ustar is not enough.
//!
//! Nothing is lost on the way to GNU tar: owners are numbers, times have nanoseconds, access lists
//! and xattrs travel as `SCHILY.*` records, and sparse files in GNU's format 1.0.

use std::io;

use super::entry::{Extent, member_name};
use super::error::ArchiveError;
use super::{Device, Entry, EntryKind, Fill, acl, pax};

/// The unit of a tar.
const RECORD: usize = 512;
/// The largest number that seven octal digits hold: owners, devices.
const MAX_OCTAL_7: u32 = 0o777_7777;
/// The largest number that eleven octal digits hold: sizes, times.
const MAX_OCTAL_11: u64 = 0o777_7777_7777;
/// The most bytes that the records of one member may take: what [`Limits`](super::Limits) lets a reader
/// accept.
const MAX_PAX: usize = 1 << 20;
/// The length of the name in a header, and of a link's target.
const NAME_LEN: usize = 100;
/// The length of the directories that may stand before the name.
const PREFIX_LEN: usize = 155;

/// Writes members one after the other; the caller streams the content of files.
#[derive(Debug)]
pub struct TarWriter<W> {
    sink: W,
    path: Vec<u8>,
    remaining: u64,
    padding: usize,
    position: u64,
}

impl<W: Fill> TarWriter<W> {
    /// Returns a writer of an archive that begins here.
    pub fn new(sink: W) -> Self {
        Self { sink, path: Vec::new(), remaining: 0, padding: 0, position: 0 }
    }

    /// Returns how many bytes of tar were written.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns how many bytes of the current file's data are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Writes the header of `entry`. For a regular file, as many bytes of data as [`Entry::data_len`] says
    /// must follow through [`fill`](Self::fill).
    ///
    /// The extents of a sparse file begin at multiples of 512, and all lengths but the last are such
    /// multiples: GNU tar reads the data of each from the beginning of a record.
    ///
    /// # Errors
    /// If the sink fails, if the member cannot be represented, or if data of the member before is
    /// missing.
    pub fn append(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        self.end_data()?;
        self.path.clone_from(&entry.path);
        let map = entry.extents.as_deref().map(|extents| sparse_map(extents, entry.size));
        let is_file = entry.kind == EntryKind::File;
        let data_len = if is_file { entry.data_len() } else { 0 };
        let stored_len = data_len + map.as_ref().map_or(0, |map| map.len() as u64);
        let mut header = Header::new(entry, stored_len, map.is_some())?;
        if !header.records.is_empty() {
            self.write_records(entry, &header.records)?;
        }
        header.finish();
        self.write(&header.raw)?;
        self.write(&map.unwrap_or_default())?;
        self.remaining = data_len;
        self.padding = padding(data_len);
        Ok(())
    }

    /// Lends a buffer no longer than what the current file still needs, and takes the filled part.
    ///
    /// Returns 0 once the file is complete, or if `read` returned 0.
    ///
    /// # Errors
    /// What `read` returned, or a failure of the sink with an [`ArchiveError`] inside.
    pub fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let remaining = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        if remaining == 0 {
            return Ok(0);
        }
        let count = self.sink.fill(|tail| {
            let len = tail.len().min(remaining);
            let count = read(&mut tail[..len])?;
            Ok(count.min(len))
        })?;
        self.remaining -= count as u64;
        self.position += count as u64;
        Ok(count)
    }

    /// Ends the archive and returns the sink.
    ///
    /// # Errors
    /// If the sink fails, or if data of the last member is missing.
    pub fn finish(mut self) -> Result<W, ArchiveError> {
        self.end_data()?;
        self.write(&[0; 2 * RECORD])?;
        Ok(self.sink)
    }

    fn end_data(&mut self) -> Result<(), ArchiveError> {
        if self.remaining > 0 {
            let what = format!("{} bytes of its data are missing", self.remaining);
            return Err(ArchiveError::Unrepresentable { path: self.path.clone(), what });
        }
        let padding = std::mem::take(&mut self.padding);
        self.write(&[0; RECORD][..padding])
    }

    /// Writes the PAX header that goes before a member.
    fn write_records(&mut self, entry: &Entry, records: &[u8]) -> Result<(), ArchiveError> {
        if records.len() > MAX_PAX {
            let what = format!("its name and attributes take more than {MAX_PAX} bytes");
            return Err(ArchiveError::Unrepresentable { path: entry.path.clone(), what });
        }
        let mut header = tar::Header::new_ustar();
        set_short_name(&mut header, b"./PaxHeaders/", &entry.path);
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_mode(0o644);
        set_owner(&mut header, 0, 0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.write(records)?;
        self.write(&[0; RECORD][..padding(records.len() as u64)])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.sink.write_all(bytes).map_err(|source| ArchiveError::writing("archive", source))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

/// Returns how many zeros fill the last record of `len` bytes.
fn padding(len: u64) -> usize {
    // Less than RECORD, whatever the length.
    usize::try_from(len.wrapping_neg() % RECORD as u64).unwrap_or(0)
}

/// A header in the making, with the records for what it cannot hold.
struct Header {
    raw: [u8; RECORD],
    records: Vec<u8>,
}

impl Header {
    fn new(entry: &Entry, stored_len: u64, is_sparse: bool) -> Result<Self, ArchiveError> {
        let mut header = tar::Header::new_ustar();
        let mut records = Vec::new();
        header.set_entry_type(entry_type(entry.kind));
        header.set_mode(entry.mode & 0o7777);
        put_name(&mut header, &mut records, entry, is_sparse);
        put_link(&mut header, &mut records, entry);
        put_numbers(&mut header, &mut records, entry, stored_len);
        put_xattrs(&mut records, entry)?;
        Ok(Self { raw: *header.as_bytes(), records })
    }

    fn finish(&mut self) {
        let mut header = tar::Header::new_ustar();
        *header.as_mut_bytes() = self.raw;
        header.set_cksum();
        self.raw = *header.as_bytes();
    }
}

fn entry_type(kind: EntryKind) -> tar::EntryType {
    match kind {
        EntryKind::File => tar::EntryType::Regular,
        EntryKind::Hardlink => tar::EntryType::Link,
        EntryKind::Symlink => tar::EntryType::Symlink,
        EntryKind::Directory => tar::EntryType::Directory,
        EntryKind::Fifo => tar::EntryType::Fifo,
        EntryKind::Char => tar::EntryType::Char,
        EntryKind::Block => tar::EntryType::Block,
    }
}

fn put_name(header: &mut tar::Header, records: &mut Vec<u8>, entry: &Entry, is_sparse: bool) {
    let name = member_name(&entry.path, entry.kind);
    if is_sparse {
        // Readers that know nothing of sparse files see another name, not a broken file.
        pax::push(records, b"GNU.sparse.major", b"1");
        pax::push(records, b"GNU.sparse.minor", b"0");
        pax::push(records, b"GNU.sparse.name", &name);
        pax::push(records, b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
        set_short_name(header, b"./GNUSparseFile.0/", &entry.path);
        return;
    }
    let bytes = header.as_mut_bytes();
    if name.len() <= NAME_LEN {
        bytes[..name.len()].copy_from_slice(&name);
    } else if let Some(at) = prefix_split(&name) {
        bytes[..name.len() - at - 1].copy_from_slice(&name[at + 1..]);
        bytes[345..345 + at].copy_from_slice(&name[..at]);
    } else {
        pax::push(records, b"path", &name);
        bytes[..NAME_LEN].copy_from_slice(&name[..NAME_LEN]);
    }
}

/// Returns the slash at which a long name fits into prefix and name.
fn prefix_split(name: &[u8]) -> Option<usize> {
    let first = name.len().checked_sub(NAME_LEN + 1)?;
    let last = PREFIX_LEN.min(name.len().saturating_sub(2));
    let slash = |at: &usize| *at > 0 && name[*at] == b'/';
    (first..=last).find(slash)
}

/// Sets a name that only a reader without PAX sees.
fn set_short_name(header: &mut tar::Header, directory: &[u8], path: &[u8]) {
    let base = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let base = &base[..base.len().min(NAME_LEN - directory.len())];
    let bytes = header.as_mut_bytes();
    bytes[..directory.len()].copy_from_slice(directory);
    bytes[directory.len()..directory.len() + base.len()].copy_from_slice(base);
}

fn put_link(header: &mut tar::Header, records: &mut Vec<u8>, entry: &Entry) {
    let target = match entry.kind {
        EntryKind::Hardlink => member_name(&entry.link, EntryKind::File),
        EntryKind::Symlink => entry.link.as_slice().into(),
        _ => return,
    };
    let short = &target[..target.len().min(NAME_LEN)];
    header.as_mut_bytes()[157..157 + short.len()].copy_from_slice(short);
    if target.len() > NAME_LEN {
        pax::push(records, b"linkpath", &target);
    }
}

fn put_numbers(header: &mut tar::Header, records: &mut Vec<u8>, entry: &Entry, stored_len: u64) {
    // Beyond octal, the header holds base 256 for readers that know it but not PAX.
    header.set_size(stored_len);
    if stored_len > MAX_OCTAL_11 {
        pax::push(records, b"size", stored_len.to_string().as_bytes());
    }
    set_owner(header, entry.uid, entry.gid);
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if id > MAX_OCTAL_7 {
            pax::push(records, key, id.to_string().as_bytes());
        }
    }
    let secs = u64::try_from(entry.mtime.secs).ok().filter(|secs| *secs <= MAX_OCTAL_11);
    header.set_mtime(secs.unwrap_or(0));
    if secs.is_none() || entry.mtime.nanos > 0 {
        pax::push(records, b"mtime", pax::format_time(entry.mtime).as_bytes());
    }
    if let Some(Device { major, minor }) = entry.device {
        set_octal(header, 329, major);
        set_octal(header, 337, minor);
    }
}

fn set_owner(header: &mut tar::Header, uid: u32, gid: u32) {
    header.set_uid(u64::from(uid));
    header.set_gid(u64::from(gid));
}

/// Writes seven octal digits; the kernel's device numbers fit.
fn set_octal(header: &mut tar::Header, at: usize, number: u32) {
    let digits = format!("{:07o}", number.min(MAX_OCTAL_7));
    header.as_mut_bytes()[at..at + 7].copy_from_slice(digits.as_bytes());
}

fn put_xattrs(records: &mut Vec<u8>, entry: &Entry) -> Result<(), ArchiveError> {
    for xattr in &entry.xattrs {
        let acl_key = match xattr.name.as_slice() {
            acl::ACCESS_XATTR => Some(&b"SCHILY.acl.access"[..]),
            acl::DEFAULT_XATTR => Some(&b"SCHILY.acl.default"[..]),
            _ => None,
        };
        let Some(acl_key) = acl_key else {
            let key = [b"SCHILY.xattr.", &*pax::encode_xattr_name(&xattr.name)].concat();
            pax::push(records, &key, &xattr.value);
            continue;
        };
        let text = acl::to_text(&xattr.value).ok_or_else(|| ArchiveError::Unrepresentable {
            path: entry.path.clone(),
            what: "its access list is of an unknown form".to_owned(),
        })?;
        pax::push(records, acl_key, text.as_bytes());
    }
    Ok(())
}

/// Returns the map of GNU's sparse format 1.0, padded to whole records.
fn sparse_map(extents: &[Extent], size: u64) -> Vec<u8> {
    // A file that ends in a hole gets an empty extent at its end, as GNU tar writes it.
    let end = extents.last().map_or(0, |extent| extent.offset + extent.len);
    let tail = (end < size || extents.is_empty()).then_some(Extent { offset: size, len: 0 });
    let mut map = format!("{}\n", extents.len() + usize::from(tail.is_some()));
    for Extent { offset, len } in extents.iter().copied().chain(tail) {
        map.push_str(&format!("{offset}\n{len}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_split_only_where_both_halves_fit() {
        let name = |dirs: usize, base: usize| [vec![b'd'; dirs], vec![b'/'], vec![b'b'; base]].concat();
        assert_eq!(prefix_split(&name(155, 100)), Some(155));
        assert_eq!(prefix_split(&name(156, 50)), None);
        assert_eq!(prefix_split(&name(50, 101)), None);
        assert_eq!(prefix_split(&[vec![b'd'; 110], vec![b'/']].concat()), None);
    }

    #[test]
    fn a_file_whose_data_is_missing_is_an_error() {
        let mut writer = TarWriter::new(Vec::new());
        writer.append(&crate::archive::tar_reader::tests::file("a", 10)).unwrap();
        writer.fill(|tail| Ok(tail.len().min(4))).unwrap();
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("6 bytes of its data are missing"), "{error}");
    }

    #[test]
    fn data_beyond_the_size_is_not_taken() {
        let mut writer = TarWriter::new(Vec::new());
        writer.append(&crate::archive::tar_reader::tests::file("a", 10)).unwrap();
        assert_eq!(writer.fill(|tail| Ok(tail.len())).unwrap(), 10);
        assert_eq!(writer.fill(|tail| Ok(tail.len())).unwrap(), 0);
        assert_eq!(writer.finish().unwrap().len(), 512 + 512 + 1024);
    }
}
