//! The names of stores and objects.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a store is: a directory of this machine, or the URL of one elsewhere.
///
/// It is written as one string, for journals. For a directory that string is the path, as in journals of format 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreAddress {
    /// A directory of this machine; the path is absolute.
    Directory(PathBuf),
    /// A store elsewhere.
    Url(String),
}

impl StoreAddress {
    /// Returns the address that a user typed.
    ///
    /// # Errors
    /// When nothing is typed, or there is no current directory for a relative path.
    pub fn parse(typed: &Path) -> io::Result<Self> {
        match typed.to_str().filter(|typed| typed.contains("://")) {
            Some(url) => Ok(Self::Url(url.to_owned())),
            None => std::path::absolute(typed).map(Self::Directory),
        }
    }

    /// Returns its directory, if it is one of this machine.
    #[must_use]
    pub fn local_path(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Url(_) => None,
        }
    }

    /// Returns the name of an object in it, for messages.
    #[must_use]
    pub fn locate(&self, key: &Key) -> PathBuf {
        match self {
            // Joining nothing would add a slash.
            Self::Directory(path) if key.is_root() => path.clone(),
            Self::Directory(path) => path.join(key.as_str()),
            Self::Url(url) if key.is_root() => PathBuf::from(url),
            Self::Url(url) => PathBuf::from(format!("{}/{key}", url.trim_end_matches('/'))),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl Serialize for StoreAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Directory(path) => path.serialize(serializer),
            Self::Url(url) => url.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for StoreAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = String::deserialize(deserializer)?;
        if written.contains("://") {
            return Ok(Self::Url(written));
        }
        if !Path::new(&written).is_absolute() {
            return Err(serde::de::Error::custom(format!("{written:?} is not the address of a store")));
        }
        Ok(Self::Directory(written.into()))
    }
}

/// The name of an object in a store, with `/` between its folders.
///
/// It is relative and leads nowhere else: no part of it is empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Key(Cow<'static, str>);

/// A name that no object can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be the name of an object")]
pub struct KeyError(String);

impl Key {
    /// The store itself, as the folder of all others; no object has this key.
    pub const ROOT: Self = Self(Cow::Borrowed(""));

    /// Returns the key of a name.
    ///
    /// # Errors
    /// When it is empty or leads elsewhere.
    pub fn new(name: impl Into<String>) -> Result<Self, KeyError> {
        let name = name.into();
        let leads_elsewhere =
            |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
        if name.split('/').any(leads_elsewhere) { Err(KeyError(name)) } else { Ok(Self(Cow::Owned(name))) }
    }

    /// Returns a key that this program itself named; the compiler refuses an invalid one.
    #[must_use]
    pub const fn literal(name: &'static str) -> Self {
        let first = name.as_bytes().first_chunk::<1>();
        assert!(matches!(first, Some([byte]) if *byte != b'/' && *byte != b'.'), "not a key");
        Self(Cow::Borrowed(name))
    }

    /// Returns the key with this name in the folder of this key.
    ///
    /// # Errors
    /// When the name is empty or leads elsewhere.
    pub fn join(&self, name: &str) -> Result<Self, KeyError> {
        if self.is_root() { Self::new(name) } else { Self::new(format!("{self}/{name}")) }
    }

    /// Returns it as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns its last part, its name in its folder.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Returns whether it is [`ROOT`](Self::ROOT).
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<KeyError> for io::Error {
    fn from(error: KeyError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_nowhere_but_below_its_store() {
        for name in ["a", "snapshots/db/db-1.json", "a..b/...", " ", "ä/ö"] {
            assert_eq!(Key::new(name).unwrap().as_str(), name);
            assert_eq!(serde_json::from_value::<Key>(name.into()).unwrap().as_str(), name);
        }
        for name in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", "a\0b"] {
            assert!(Key::new(name).is_err(), "{name:?}");
            assert!(serde_json::from_value::<Key>(name.into()).is_err(), "{name:?}");
        }
        let folder = Key::literal("snapshots").join("db").unwrap();
        assert_eq!((folder.as_str(), folder.name()), ("snapshots/db", "db"));
        assert_eq!(Key::ROOT.join("a").unwrap().as_str(), "a");
        assert!(folder.join("..").is_err());
    }

    #[test]
    fn an_address_is_one_string_and_read_back_as_what_it_was() {
        for (address, written) in [
            (StoreAddress::Directory("/var/backups/volsnap".into()), "/var/backups/volsnap"),
            (StoreAddress::Url("s3://bucket/prefix".to_owned()), "s3://bucket/prefix"),
        ] {
            assert_eq!(serde_json::to_value(&address).unwrap(), written);
            assert_eq!(serde_json::from_value::<StoreAddress>(written.into()).unwrap(), address);
            assert_eq!(address.to_string(), written);
            assert_eq!(address.locate(&Key::literal("a/b")), Path::new(&format!("{written}/a/b")));
            assert_eq!(address.locate(&Key::ROOT), Path::new(written));
        }
        assert!(serde_json::from_value::<StoreAddress>("relative".into()).is_err());
        assert!(StoreAddress::parse(Path::new("")).is_err());
        assert!(StoreAddress::parse(Path::new("here")).unwrap().local_path().unwrap().is_absolute());
    }
}
