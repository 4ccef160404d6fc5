//! One member of an archive, as the writer takes it and the reader returns it.

use std::borrow::Cow;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file, the first of its links.
    File,
    /// Another name of an earlier file.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// A point in time: whole seconds since 1970, rounded down, and the nanoseconds after them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds, always forward.
    pub nanos: u32,
}

/// The numbers of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The unit.
    pub minor: u32,
}

/// A stretch of a sparse file that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
}

/// An extended attribute; POSIX access lists are `system.posix_acl_access` and `…_default`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// The name with its namespace.
    pub name: Vec<u8>,
    /// The value, any bytes.
    pub value: Vec<u8>,
}

/// One member of an archive without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path without a leading `./` and without a trailing `/`; the root is `.`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// The size of a regular file with its holes; 0 for everything else.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// When it was last modified.
    pub mtime: Timestamp,
    /// The target of a symbolic link, or the first name of a hard link (in the form of [`Entry::path`]); empty
    /// for everything else.
    pub link: Vec<u8>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// The numbers of a device.
    pub device: Option<Device>,
    /// The stretches of a sparse file that hold data, in order; `None` if it has no holes.
    pub extents: Option<Vec<Extent>>,
}

impl Entry {
    /// Returns how many bytes of content are stored, without holes.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        match &self.extents {
            Some(extents) => extents.iter().map(|extent| extent.len).sum(),
            None => self.size,
        }
    }
}

/// Returns a member's name without a leading `./` and trailing slashes; the root is `.`.
///
/// Mends nothing else: whoever extracts must see `..` and absolute names as they are.
pub(super) fn plain_path(name: &[u8]) -> &[u8] {
    let mut rest = name;
    while let Some(inner) = rest.strip_prefix(b"./") {
        rest = inner;
    }
    while let [inner @ .., b'/'] = rest
        && !inner.is_empty()
    {
        rest = inner;
    }
    if rest.is_empty() && !name.is_empty() { b"." } else { rest }
}

/// Returns the name a member has in our archives: `./` before the path, `/` after a directory.
pub(super) fn member_name(path: &[u8], kind: EntryKind) -> Cow<'_, [u8]> {
    if path == b"." {
        return Cow::Borrowed(b"./");
    }
    let mut name = Vec::with_capacity(path.len() + 3);
    name.extend_from_slice(b"./");
    name.extend_from_slice(path);
    if kind == EntryKind::Directory {
        name.push(b'/');
    }
    Cow::Owned(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_stripped_of_what_says_nothing() {
        for (name, path) in [
            ("./", "."),
            (".", "."),
            ("./a/b/", "a/b"),
            ("././a", "a"),
            ("/etc", "/etc"),
            ("/", "/"),
            ("../a", "../a"),
            ("", ""),
        ] {
            assert_eq!(plain_path(name.as_bytes()), path.as_bytes(), "{name}");
        }
    }
}
