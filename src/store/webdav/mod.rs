//! A folder of a WebDAV server.
//!
//! An object is whole or not there: it is written under a name of its own, measured, and moved to its
//! key. The move is asked to overwrite nothing (`Overwrite: F`), and the key is looked for before; whether the server heeds
//! that is found out when a repository is made, and nothing rests on it: keys are unique by themselves. A condition on
//! the writing itself (`If-None-Match`) is not used, since widespread servers ignore it.
//!
//! A big object goes there as one stream, whose length nobody knows before its end; so memory is bounded, and an upload
//! that breaks off is begun anew by whoever wants it. What is read comes in pieces of 8 MiB, four at a time.
//!
//! A deletion at such a server takes a folder with all that is in it. So only what is known to be a file is deleted.

mod client;
mod properties;
mod settings;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::surroundings::Surroundings;
use super::temporary::{object_of, shown};
use super::tickets::Tickets;
use super::trouble::{Failure, Service, Trouble};
use super::{
    ByteStream, Capabilities, Claim, Key, ObjectKind, ObjectMeta, ObjectWriter, OpenError, PROBE, Probed,
    Store, StoreAddress, TRIAL,
};
use client::{PAUSES, Request, Server, plain};
use properties::Found;
use settings::Settings;
use writer::Upload;

/// How much is asked for at once.
const PIECE: u64 = 8 << 20;
/// How many bytes a slow server moves a second, where it copies for that.
const MOVED_A_SECOND: u64 = 10_000_000;
/// How long nobody looks whether it has.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How many pieces are asked for at a time.
const AHEAD: usize = 4;

/// A folder of a WebDAV server.
#[derive(Debug)]
pub struct WebDavStore {
    address: StoreAddress,
    shared: Arc<Shared>,
}

/// What the store and its writers share.
struct Shared {
    server: Server,
    tickets: Tickets,
    /// The folders that are known to exist.
    folders: Mutex<HashSet<Key>>,
    probed: Mutex<Option<Probed>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("server", &self.server).finish_non_exhaustive()
    }
}

impl WebDavStore {
    /// Opens the store that a URL names; asks the server nothing.
    ///
    /// # Errors
    /// When the URL or the credentials cannot be right.
    pub fn open(url: &str, around: &dyn Surroundings) -> Result<Self, OpenError> {
        let settings = Settings::of(url, around).map_err(OpenError::Refused)?;
        let shared = Shared {
            server: Server::new(&settings, around)?,
            tickets: Tickets::default(),
            folders: Mutex::default(),
            probed: Mutex::default(),
        };
        let address = StoreAddress::Url(url.trim_end_matches('/').to_owned());
        Ok(Self { address, shared: Arc::new(shared) })
    }
}

impl Shared {
    /// Returns what has a key.
    async fn head(&self, key: &Key) -> io::Result<Found> {
        let found = self.server.find(self.server.url(key)?, "0").await;
        let found = match found {
            // Of a folder some want the slash.
            Err(error) if matches!(Failure::of(&error), Some(one) if matches!(one.trouble, Trouble::Region { .. })) => {
                self.server.find(self.server.folder_url(key)?, "0").await
            }
            found => found,
        };
        found?.into_iter().next().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Returns what is directly in a folder, with the names that it has at the server.
    async fn list(&self, folder: &Key) -> io::Result<Vec<(String, Found)>> {
        let mut found = match self.server.find(self.server.folder_url(folder)?, "1").await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            found => found?,
        };
        // The folder itself comes along; a proxy may have given the server another path than ours.
        let own = found.iter().map(|one| one.path.len()).min().unwrap_or_default();
        if found.iter().any(|one| one.path.len() == own && !one.is_folder) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        found.retain(|one| one.path.len() == own + 1);
        Ok(found.into_iter().filter_map(|one| Some((one.path.last()?.clone(), one))).collect())
    }

    /// Makes a folder and those above it, as far as they do not exist.
    async fn make_folder(&self, folder: &Key) -> io::Result<()> {
        if self.folders.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
            return Ok(());
        }
        let url = self.server.folder_url(folder)?;
        let (status, ..) = self.server.answer(&plain("MKCOL", url)).await?;
        match status {
            // It says so of whatever has the name; what is no folder fails at the next step.
            StatusCode::CREATED | StatusCode::OK | StatusCode::METHOD_NOT_ALLOWED => {}
            // What it would be in is missing.
            StatusCode::CONFLICT | StatusCode::NOT_FOUND if !folder.is_root() => {
                let above =
                    folder.as_str().rsplit_once('/').map_or(Ok(Key::ROOT), |(above, _)| Key::new(above))?;
                Box::pin(self.make_folder(&above)).await?;
                let again = self.server.folder_url(folder)?;
                self.server.expect(&plain("MKCOL", again)).await?;
            }
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => return self.make_root().await,
            status => return Err(self.server.refused(status)),
        }
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone());
        Ok(())
    }

    /// Makes the folder of the store, and those above it from the first that is missing.
    async fn make_root(&self) -> io::Result<()> {
        let root = self.server.folder_url(&Key::ROOT)?;
        let parts: Vec<String> =
            root.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut status = StatusCode::NOT_FOUND;
        for upto in 1..=parts.len() {
            let mut url = root.clone();
            url.set_path(&format!("/{}/", parts[..upto].join("/")));
            // A part that belongs to the server, as /remote.php, may answer anything.
            (status, ..) = self.server.answer(&plain("MKCOL", url)).await?;
        }
        match status {
            StatusCode::CREATED | StatusCode::OK | StatusCode::METHOD_NOT_ALLOWED => Ok(()),
            status => Err(self.server.refused(status)),
        }
    }

    /// Gives what was written its key, unless something has it. A server may copy all of it for that, and answer nobody
    /// meanwhile: so it is asked again only once it is seen to do nothing.
    async fn move_to(&self, from: &Key, to: &Key, bytes: u64) -> io::Result<()> {
        let mut pauses = PAUSES.iter();
        let mut calls = 0;
        loop {
            calls += 1;
            let destination = self.server.url(to)?.to_string();
            let headers = vec![("Destination", destination), ("Overwrite", "F".to_owned())];
            let request =
                Request { method: "MOVE", url: self.server.url(from)?, headers, body: Bytes::new() };
            let outcome = self.server.answer_once(&request).await;
            if matches!(&outcome, Ok((status, ..)) if status.is_success()) {
                return Ok(());
            }
            let may_pass = self.server.may_pass(&outcome, calls);
            let error = match outcome {
                Ok((status, ..)) => self.server.refused(status),
                Err(error) => error,
            };
            let is_silent = error.kind() == io::ErrorKind::TimedOut;
            let patience =
                if is_silent { Duration::from_secs(bytes / MOVED_A_SECOND) } else { Duration::ZERO };
            if self.is_moved(from, to, bytes, may_pass.then_some(patience)).await {
                return Ok(());
            }
            match pauses.next().filter(|_| may_pass) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(error),
            }
        }
    }

    /// Returns whether an object has its key. The answer may have been lost: looks again while the server is at it, and as
    /// long as it may be; only once without `patience`.
    async fn is_moved(&self, from: &Key, to: &Key, bytes: u64, patience: Option<Duration>) -> bool {
        let (began, mut before) = (Instant::now(), None);
        loop {
            let there = self.head(to).await.ok().filter(|found| !found.is_folder).map(|found| found.bytes);
            let is_gone = self.head(from).await.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            if there == Some(bytes) && is_gone {
                return true;
            }
            let Some(patience) = patience else { return false };
            if there.is_none_or(|now| before == Some(now)) && began.elapsed() >= patience {
                return false;
            }
            before = there;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Returns a part of a file, and fails if it is not the file that was looked at.
    async fn piece(&self, key: &Key, range: Range<u64>, of: &Found) -> io::Result<Bytes> {
        let is_all = range == (0..of.bytes);
        let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let headers = if is_all { Vec::new() } else { vec![("Range", bytes)] };
        let request = Request { method: "GET", url: self.server.url(key)?, headers, body: Bytes::new() };
        let (status, headers, body) = self.server.expect(&request).await?;
        let tag = headers.get(http::header::ETAG).and_then(|tag| tag.to_str().ok());
        let is_other = tag.zip(of.tag.as_deref()).is_some_and(|(now, then)| now != then);
        if is_other || (status == StatusCode::OK && !is_all) || body.len() as u64 != range.end - range.start {
            let trouble =
                if status == StatusCode::OK && !is_all { Trouble::Unable } else { Trouble::Changed };
            return Err(Failure::without_request(Service::WebDav, trouble));
        }
        Ok(body)
    }
}

#[async_trait]
impl Store for WebDavStore {
    fn address(&self) -> &StoreAddress {
        &self.address
    }

    fn capabilities(&self) -> Capabilities {
        let probed = self.shared.probed.lock().unwrap_or_else(PoisonError::into_inner);
        Capabilities {
            is_local: false,
            never_overwrites: probed.as_ref().is_some_and(|probed| probed.conditional_create),
            knows_free_space: false,
        }
    }

    async fn prove_writable(&self, folder: &Key) -> io::Result<()> {
        self.shared.make_folder(folder).await?;
        let ticket = self.shared.tickets.take(&folder.join(TRIAL)?)?;
        Upload::begin(&self.shared, ticket).await?.try_out(b"volsnap").await
    }

    async fn claim(&self) -> io::Result<Claim> {
        self.shared.make_folder(&Key::ROOT).await?;
        Ok(Claim::default())
    }

    async fn probe(&self, token: &str) -> io::Result<Option<Probed>> {
        let (shared, key) = (&self.shared, Key::new(format!("{PROBE}{token}"))?);
        let outcome = async {
            self.put(&key, Bytes::from_static(b"volsnap 1")).await?;
            let second = Upload::begin(shared, shared.tickets.take(&key)?).await?;
            let refuses = match second.move_over(b"volsnap 2").await {
                Ok(()) => false,
                Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
            };
            let is_first = self.read(&key, PIECE).await? == b"volsnap 1";
            Ok::<_, io::Error>(refuses && is_first)
        };
        let conditional_create = outcome.await;
        let deletes = match self.delete_all_of(&key).await {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
            deleted => deleted.map(|()| true)?,
        };
        Ok(Some(Probed { conditional_create: conditional_create?, deletes, lists_uploads: true }))
    }

    fn trust(&self, probed: &Probed) {
        *self.shared.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some(probed.clone());
    }

    async fn create(&self, key: &Key) -> io::Result<Box<dyn ObjectWriter>> {
        if key.is_root() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let ticket = self.shared.tickets.take(key)?;
        match self.shared.head(key).await {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Box::new(Upload::begin(&self.shared, ticket).await?))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream> {
        let found = self.shared.head(key).await?;
        if found.is_folder {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let range = range.unwrap_or(0..found.bytes);
        let end = range.end.min(found.bytes);
        let start = range.start.min(end);
        let pieces = (0..(end - start).div_ceil(PIECE)).map(move |at| {
            let from = start + at * PIECE;
            from..end.min(from + PIECE)
        });
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        let fetched = stream::iter(pieces).map(move |range| {
            let (shared, key, found) = (Arc::clone(&shared), key.clone(), found.clone());
            // A task of its own, so that it goes on while the reader is at work.
            let fetched = tokio::spawn(async move { shared.piece(&key, range, &found).await });
            async move {
                AbortOnDropHandle::new(fetched).await.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
        });
        Ok(ByteStream::new(end - start, fetched.buffered(AHEAD)))
    }

    async fn head(&self, key: &Key) -> io::Result<ObjectMeta> {
        Ok(object(key.clone(), self.shared.head(key).await?))
    }

    async fn list(&self, folder: &Key) -> io::Result<Vec<ObjectMeta>> {
        let found = self.shared.list(folder).await?;
        // Whatever could lead elsewhere is no object.
        Ok(found
            .into_iter()
            .filter_map(|(name, found)| Some(object(shown(folder, &name).ok()?, found)))
            .collect())
    }

    async fn delete(&self, key: &Key) -> io::Result<()> {
        if self.shared.head(key).await?.is_folder {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        self.shared.server.delete(key).await
    }

    async fn delete_partial(&self, key: &Key) -> io::Result<()> {
        let was_ours = self.shared.tickets.revoke(key);
        let (above, name) = key.as_str().rsplit_once('/').map_or((None, key.as_str()), |(a, b)| (Some(a), b));
        let folder = above.map_or(Ok(Key::ROOT), Key::new)?;
        let mut deleted = was_ours;
        for (written, found) in self.shared.list(&folder).await? {
            if object_of(&written) == Some(name) && !found.is_folder {
                match self.shared.server.delete(&folder.join(&written)?).await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome?,
                }
                deleted = true;
            }
        }
        if deleted { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

fn object(key: Key, found: Found) -> ObjectMeta {
    let kind = if found.is_folder { ObjectKind::Folder } else { ObjectKind::Object };
    ObjectMeta { key, kind, bytes: found.bytes, modified: found.modified, tag: found.tag }
}
