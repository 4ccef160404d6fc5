//! The names of stores and objects.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::IpAddr;
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
    /// When nothing is typed, there is no current directory for a relative path, or a URL holds credentials.
    pub fn parse(typed: &Path) -> Result<Self, AddressError> {
        match typed.to_str().filter(|typed| typed.contains("://")) {
            Some(url) if holds_credentials(url) => Err(AddressError::Credentials),
            Some(url) => Ok(Self::Url(url.to_owned())),
            None => std::path::absolute(typed).map(Self::Directory).map_err(AddressError::Path),
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

    /// Returns what its URL says behind the question mark, by the name of it.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        let Self::Url(url) = self else { return None };
        let pairs = url.split_once('?')?.1.split('&');
        let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(known, _)| *known == name)?.1;
        percent_decoded(value)
    }

    /// Returns the address of a folder in it, as that of a store of its own.
    #[must_use]
    pub fn below(&self, folder: &str) -> Self {
        match self {
            Self::Directory(path) => Self::Directory(path.join(folder)),
            Self::Url(url) => {
                let (place, query) = url.split_once('?').map_or((url.as_str(), None), |(a, b)| (a, Some(b)));
                let below = format!("{}/{folder}", place.trim_end_matches('/'));
                Self::Url(query.map_or_else(|| below.clone(), |query| format!("{below}?{query}")))
            }
        }
    }

    /// Returns the name of an object in it, for messages.
    #[must_use]
    pub fn locate(&self, key: &Key) -> PathBuf {
        match self {
            // Joining nothing would add a slash.
            Self::Directory(path) if key.is_root() => path.clone(),
            Self::Directory(path) => path.join(key.as_str()),
            Self::Url(url) if key.is_root() => PathBuf::from(redacted(url)),
            // How the server is reached does not belong to the object's name.
            Self::Url(url) => {
                let place = url.split('?').next().unwrap_or_default().trim_end_matches('/');
                PathBuf::from(redacted(&format!("{place}/{key}")))
            }
        }
    }
}

/// What is wrong with an address that was typed.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is empty, or relative to nothing.
    #[error("the name is empty")]
    Path(#[source] io::Error),
    /// It is a URL with a password in it, which the process list and journals would show.
    #[error(
        "a URL holds no credentials, for everybody sees it in the process list; they come from the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or WEBDAV_USERNAME and WEBDAV_PASSWORD, or from a profile; by sftp:// a user comes in with a key"
    )]
    Credentials,
}

/// What stands for what nobody may see.
const HIDDEN: &str = "***";
/// The parameters of a URL that may be shown.
const SHOWN: [&str; 2] = ["endpoint", "region"];

/// Returns whether the name of a host means this machine alone.
pub(super) fn is_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns whether a URL, or a server that it names, has credentials in it.
pub(super) fn holds_credentials(url: &str) -> bool {
    let has_user = |url: &str| {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let user = rest.split(['/', '?']).next().and_then(|host| host.rsplit_once('@')).map(|(user, _)| user);
        // By SSH a user comes in with a key; his name is no secret.
        user.is_some_and(|user| scheme != "sftp" || user.contains(':'))
    };
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let is_secret = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = name.to_ascii_lowercase();
        ["key", "secret", "token", "pass", "signature", "credential"].iter().any(|word| name.contains(word))
            || percent_decoded(value).as_deref().is_some_and(|value| value.contains("://") && has_user(value))
    };
    has_user(place) || query.split('&').any(is_secret)
}

/// Returns a URL as it may be shown: without credentials, and without the values of parameters that nobody knows. What
/// is no URL is returned as it is.
#[must_use]
pub fn redacted(url: &str) -> String {
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let Some((scheme, rest)) = place.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let hidden = |(user, host): (&str, &str)| match (scheme, user.contains(':')) {
        ("sftp", false) => format!("{user}@{host}"),
        _ => format!("{HIDDEN}@{host}"),
    };
    let host = host.rsplit_once('@').map_or(host.to_owned(), hidden);
    let mut shown = format!("{scheme}://{host}");
    if let Some(path) = path {
        shown.push('/');
        shown.push_str(path);
    }
    for (at, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        shown.push(if at == 0 { '?' } else { '&' });
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let hidden = !SHOWN.contains(&name) || holds_credentials(&format!("x://?{pair}"));
        shown.push_str(&format!("{name}={}", if hidden { HIDDEN } else { value }));
    }
    shown
}

/// Returns a parameter's value with its escapes resolved; `None` if they stand for nothing.
pub(super) fn percent_decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Url(url) => redacted(url).fmt(f),
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
        let url = StoreAddress::Url("s3://bucket/prefix?endpoint=http://minio:9000&region=eu".to_owned());
        assert_eq!(url.locate(&Key::literal("a/b")), Path::new("s3://bucket/prefix/a/b"));
        assert_eq!(url.parameter("endpoint").as_deref(), Some("http://minio:9000"));
        assert_eq!((url.parameter("region").as_deref(), url.parameter("other")), (Some("eu"), None));
        assert_eq!(
            url.locate(&Key::ROOT),
            Path::new("s3://bucket/prefix?endpoint=http://minio:9000&region=eu")
        );
        let below = url.below("web-1");
        assert_eq!(
            below,
            StoreAddress::Url("s3://bucket/prefix/web-1?endpoint=http://minio:9000&region=eu".into())
        );
        let below = StoreAddress::Directory("/mnt/nas".into()).below("web-1");
        assert_eq!(below, StoreAddress::Directory("/mnt/nas/web-1".into()));
        assert!(serde_json::from_value::<StoreAddress>("relative".into()).is_err());
        assert!(StoreAddress::parse(Path::new("")).is_err());
        assert!(StoreAddress::parse(Path::new("here")).unwrap().local_path().unwrap().is_absolute());
    }
    #[test]
    fn credentials_in_a_url_are_refused_and_never_shown() {
        for url in [
            "s3://AKIA:hunter2@bucket/prefix",
            "s3://hunter2@bucket?region=eu",
            "s3://bucket?endpoint=https://AKIA:hunter2@minio:9000",
            "s3://bucket?endpoint=https%3A%2F%2Fa:hunter2%40minio",
            "s3://bucket?secret_access_key=hunter2&region=eu",
            "s3://bucket?X-Amz-Signature=hunter2",
            "sftp://me:hunter2@nas/srv",
            "webdavs://me:hunter2@nas/srv",
            "webdavs://hunter2@nas/srv",
        ] {
            assert!(matches!(StoreAddress::parse(Path::new(url)), Err(AddressError::Credentials)), "{url}");
            assert!(!redacted(url).contains("hunter2"), "{}", redacted(url));
        }
        // A parameter that nobody knows may be a secret, too.
        assert_eq!(redacted("s3://bucket/a?pw=hunter2&region=eu"), "s3://bucket/a?pw=***&region=eu");
        for url in [
            "s3://bucket/a?endpoint=http://h:9000&region=eu",
            "s3://bucket",
            "/a/b@c",
            "memory://x",
            "sftp://me@nas/a",
        ] {
            assert_eq!(redacted(url), url);
        }
    }
}
