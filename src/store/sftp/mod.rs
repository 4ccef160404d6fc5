//! A folder at a machine that is reached by SSH.
//!
//! The program `ssh` makes the connection, with all that the user has told it; what runs over it is SFTP, which is small
//! enough to be spoken here. An object is whole or not there: it is written under a name of its own,
//! synced and measured, and then gets its key by a hard link, which fails if something has the key. A server or a file
//! system without hard links renames instead, after a look whether something has the key; keys are unique by themselves.
//!
//! The names in a folder cannot be synced by SFTP: an object that was finished a moment before the server lost its power
//! may be gone, as a whole.
//!
//! Only a connection that is lost while something is read, listed or deleted is made anew. One that is lost while an object
//! is written fails the object.

mod session;
mod settings;
#[cfg(test)]
mod tests;
mod wire;
mod writer;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};

use super::surroundings::Surroundings;
use super::temporary::{object_of, shown};
use super::tickets::Tickets;
use super::trouble::{Failure, Service, Trouble};
use super::{
    ByteStream, Capabilities, Claim, Key, ObjectKind, ObjectMeta, ObjectWriter, OpenError, PROBE, Probed,
    Store, StoreAddress, TRIAL,
};
use session::{Session, done, is_lost, refused};
use settings::Settings;
use wire::{Ask, Attributes, END, READ, Reader, Reply, put_mode, put_text};
use writer::Upload;

/// How much is read by one request: what every server gives.
const PIECE: u64 = 32 << 10;
/// How many requests are on their way at a time.
const AHEAD: usize = 64;
/// The pauses before a lost connection is made anew.
const PAUSES: [Duration; 4] = {
    let seconds = Duration::from_secs;
    [seconds(1), seconds(5), seconds(20), seconds(60)]
};
const LINK: &str = "hardlink@openssh.com";
const SYNC: &str = "fsync@openssh.com";
const ROOM: &str = "statvfs@openssh.com";
/// Folders and files are for the owner alone: they hold all of a database.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A folder at a machine that is reached by SSH.
#[derive(Debug)]
pub struct SftpStore {
    address: StoreAddress,
    shared: Arc<Shared>,
    tells_room: bool,
}

/// What the store, its writers and its readers share.
struct Shared {
    settings: Settings,
    connection: tokio::sync::Mutex<Connection>,
    /// How often no connection could be made.
    failures: AtomicU64,
    tickets: Tickets,
    probed: Mutex<Option<Probed>>,
}

/// The connection that all share.
struct Connection {
    session: Arc<Session>,
    /// Why none could be made the last time.
    why: Option<(io::ErrorKind, Failure)>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl SftpStore {
    /// Opens the store that a URL names, and connects.
    ///
    /// # Errors
    /// When the URL cannot be right, or there is no connection.
    pub async fn open(url: &str, around: &dyn Surroundings) -> Result<Self, OpenError> {
        let settings = Settings::of(url, around).map_err(OpenError::Refused)?;
        let session = Session::connect(&settings).await.map_err(OpenError::Io)?;
        let tells_room = session.can(ROOM);
        let shared = Shared {
            settings,
            connection: tokio::sync::Mutex::new(Connection { session: Arc::new(session), why: None }),
            failures: AtomicU64::new(0),
            tickets: Tickets::default(),
            probed: Mutex::default(),
        };
        let address = StoreAddress::Url(url.trim_end_matches('/').to_owned());
        Ok(Self { address, shared: Arc::new(shared), tells_room })
    }
}

impl Shared {
    fn path(&self, key: &Key) -> String {
        let root = &self.settings.root;
        if key.is_root() { root.clone() } else { format!("{root}/{key}") }
    }

    /// Returns the connection; makes it anew if it is gone. Whoever waited while that failed does not try it once more.
    async fn session(&self) -> io::Result<Arc<Session>> {
        let failures = self.failures.load(Ordering::Acquire);
        let mut connection = self.connection.lock().await;
        if !connection.session.is_over() {
            return Ok(Arc::clone(&connection.session));
        }
        if self.failures.load(Ordering::Acquire) != failures
            && let Some((kind, why)) = connection.why.clone()
        {
            return Err(why.into_error(kind));
        }
        match Session::connect(&self.settings).await {
            Ok(session) => {
                connection.session = Arc::new(session);
                Ok(Arc::clone(&connection.session))
            }
            Err(error) => {
                connection.why = Failure::of(&error).map(|why| (error.kind(), why.clone()));
                self.failures.fetch_add(1, Ordering::Release);
                Err(error)
            }
        }
    }

    /// Does something that harms nobody if it is done twice, again if the connection is lost.
    async fn again<T, F: Future<Output = io::Result<T>>>(
        &self,
        work: impl Fn(Arc<Session>) -> F,
    ) -> io::Result<T> {
        let mut pauses = PAUSES.iter();
        loop {
            let outcome = match self.session().await {
                Ok(session) => work(session).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if is_lost(&error) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(error),
                },
                outcome => return outcome,
            }
        }
    }

    async fn look(&self, key: &Key) -> io::Result<Attributes> {
        let path = self.path(key);
        self.again(|session| {
            let path = path.clone();
            async move { session.look(Ask::Lstat, &path).await }
        })
        .await
    }

    /// Returns what is in a folder, with the names that it has there; nothing if there is no such folder.
    async fn list(&self, folder: &Key) -> io::Result<Vec<(String, Attributes)>> {
        let path = self.path(folder);
        // A link above the store is the user's; one in it would lead elsewhere.
        let ask = if folder.is_root() { Ask::Stat } else { Ask::Lstat };
        self.again(|session| {
            let path = path.clone();
            async move {
                match session.look(ask, &path).await {
                    Ok(found) if found.is_folder() => list(&session, &path).await,
                    Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }

    /// Makes a folder and those above it, as far as they do not exist.
    async fn make_folder(&self, folder: &Key) -> io::Result<()> {
        let path = self.path(folder);
        self.again(|session| {
            let path = path.clone();
            async move { make_folder(&session, &path).await }
        })
        .await
    }

    async fn remove(&self, path: String) -> io::Result<()> {
        self.again(|session| {
            let path = path.clone();
            async move { session.tell(Ask::Remove, |packet| put_text(packet, path.as_bytes())).await }
        })
        .await
    }

    async fn room(&self) -> io::Result<Option<u64>> {
        let root = self.settings.root.clone();
        self.again(|session| {
            let root = root.clone();
            async move { room(&session, &root).await }
        })
        .await
    }
}

/// Returns what is in a folder.
async fn list(session: &Session, path: &str) -> io::Result<Vec<(String, Attributes)>> {
    let opened = session.ask(Ask::Opendir, |packet| put_text(packet, path.as_bytes())).await?;
    let Reply::Handle(handle) = opened else { return Err(refused(&opened)) };
    let mut found = Vec::new();
    let outcome = loop {
        match session.ask(Ask::Readdir, |packet| put_text(packet, &handle)).await {
            Ok(Reply::Names(names)) => found.extend(names),
            Ok(Reply::Status { code: END, .. }) => break Ok(()),
            Ok(other) => break Err(refused(&other)),
            Err(error) => break Err(error),
        }
    };
    let _ = session.tell(Ask::Close, |packet| put_text(packet, &handle)).await;
    outcome?;
    found.retain(|(name, _)| name != "." && name != "..");
    Ok(found)
}

async fn make_folder(session: &Session, path: &str) -> io::Result<()> {
    let mut missing = vec![path];
    // Each part of the path is tried twice at most.
    let mut tries = 2 * path.split('/').count() + 1;
    while let Some(path) = missing.pop() {
        tries = tries.saturating_sub(1);
        let made = session.tell(Ask::Mkdir, |packet| {
            put_text(packet, path.as_bytes());
            put_mode(packet, Some(FOLDER_MODE));
        });
        let Err(error) = made.await else { continue };
        if is_lost(&error) {
            return Err(error);
        }
        match session.look(Ask::Stat, path).await {
            Ok(found) if found.is_folder() => {}
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => match path.rsplit_once('/') {
                Some((above, _))
                    if error.kind() == io::ErrorKind::NotFound && !above.is_empty() && tries > 0 =>
                {
                    missing.extend([path, above]);
                }
                _ => return Err(error),
            },
            Err(absent) => return Err(absent),
        }
    }
    Ok(())
}

/// Returns how much room there is where a path is, or will be.
async fn room(session: &Session, path: &str) -> io::Result<Option<u64>> {
    let mut place = path;
    loop {
        match session.extended(ROOM, &[place.as_bytes()]).await? {
            Reply::Extended(answer) => {
                let mut numbers = Reader(answer);
                let [_, unit, _, _, free] =
                    [numbers.long()?, numbers.long()?, numbers.long()?, numbers.long()?, numbers.long()?];
                return Ok(Some(unit.saturating_mul(free)));
            }
            other => match (refused(&other).kind(), place.rsplit_once('/')) {
                (io::ErrorKind::NotFound, Some((above, _))) if !above.is_empty() => place = above,
                (io::ErrorKind::NotFound, Some(_)) if place != "/" => place = "/",
                (io::ErrorKind::NotFound, None) if place != "." => place = ".",
                _ => return Err(refused(&other)),
            },
        }
    }
}

/// A file that is read: it is opened anew if the connection is lost.
struct OpenFile {
    shared: Arc<Shared>,
    path: String,
    found: Attributes,
    /// The connection and the file's handle there.
    current: tokio::sync::Mutex<Option<(Arc<Session>, Bytes)>>,
}

impl OpenFile {
    /// Returns the connection, and the handle in it.
    async fn handle(&self) -> io::Result<(Arc<Session>, Bytes)> {
        let mut current = self.current.lock().await;
        if let Some((session, handle)) = current.as_ref().filter(|(session, _)| !session.is_over()) {
            return Ok((Arc::clone(session), handle.clone()));
        }
        let session = self.shared.session().await?;
        let now = session.look(Ask::Lstat, &self.path).await?;
        if (now.size, now.modified) != (self.found.size, self.found.modified) {
            return Err(Failure::without_request(Service::Sftp, Trouble::Changed));
        }
        let opened = session.ask(Ask::Open, |packet| {
            put_text(packet, self.path.as_bytes());
            packet.put_u32(READ);
            put_mode(packet, None);
        });
        let opened = opened.await?;
        let Reply::Handle(handle) = opened else { return Err(refused(&opened)) };
        *current = Some((Arc::clone(&session), handle.clone()));
        Ok((session, handle))
    }

    async fn piece(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut pauses = PAUSES.iter();
        loop {
            let read = async {
                let (session, handle) = self.handle().await?;
                read(&session, &handle, range.clone()).await
            };
            match read.await {
                Err(error) if is_lost(&error) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(error),
                },
                outcome => return outcome,
            }
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let (Some((session, handle)), Ok(runtime)) =
            (self.current.get_mut().take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move { session.tell(Ask::Close, |packet| put_text(packet, &handle)).await });
    }
}

/// Reads a part of a file; a server may give less at a time than it was asked for.
async fn read(session: &Session, handle: &[u8], range: Range<u64>) -> io::Result<Bytes> {
    let ask = |range: Range<u64>| {
        move |packet: &mut BytesMut| {
            put_text(packet, handle);
            packet.put_u64(range.start);
            packet.put_u32(u32::try_from(range.end - range.start).unwrap_or(u32::MAX));
        }
    };
    let mut all = BytesMut::new();
    loop {
        let rest = range.start + all.len() as u64..range.end;
        if rest.is_empty() {
            return Ok(all.freeze());
        }
        match session.ask(Ask::Read, ask(rest.clone())).await? {
            Reply::Data(data) if data.is_empty() || data.len() as u64 > rest.end - rest.start => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the server gives other bytes than it was asked for",
                ));
            }
            Reply::Data(data) if all.is_empty() && data.len() as u64 == rest.end - rest.start => {
                return Ok(data);
            }
            Reply::Data(data) => all.extend_from_slice(&data),
            Reply::Status { code: END, .. } => {
                return Err(Failure::without_request(Service::Sftp, Trouble::Changed));
            }
            other => return Err(refused(&other)),
        }
    }
}

#[async_trait]
impl Store for SftpStore {
    fn address(&self) -> &StoreAddress {
        &self.address
    }

    fn capabilities(&self) -> Capabilities {
        let probed = self.shared.probed.lock().unwrap_or_else(PoisonError::into_inner);
        Capabilities {
            is_local: false,
            never_overwrites: probed.as_ref().is_some_and(|probed| probed.conditional_create),
            knows_free_space: self.tells_room,
        }
    }

    async fn free_space(&self) -> io::Result<Option<u64>> {
        if self.tells_room { self.shared.room().await } else { Ok(None) }
    }

    async fn prove_writable(&self, folder: &Key) -> io::Result<()> {
        self.shared.make_folder(folder).await?;
        let ticket = self.shared.tickets.take(&folder.join(TRIAL)?)?;
        let mut writer = Upload::new(&self.shared, ticket)?;
        let opened = writer.open().await;
        opened.and(Box::new(writer).abort().await)
    }

    async fn claim(&self) -> io::Result<Claim> {
        self.shared.make_folder(&Key::ROOT).await?;
        Ok(Claim::default())
    }

    async fn probe(&self, token: &str) -> io::Result<Option<Probed>> {
        let (key, second) =
            (Key::new(format!("{PROBE}{token}"))?, Key::new(format!("{PROBE}{token}-second"))?);
        let outcome = async {
            self.put(&key, Bytes::from_static(b"volsnap 1")).await?;
            let session = self.shared.session().await?;
            if !session.can(LINK) {
                return Ok(false);
            }
            let (path, second) = (self.shared.path(&key), self.shared.path(&second));
            let link = async || session.extended(LINK, &[path.as_bytes(), second.as_bytes()]).await;
            // A free name is given, or no link is worth anything there; one that is taken is not.
            Ok::<_, io::Error>(done(&link().await?).is_ok() && done(&link().await?).is_err())
        };
        let conditional_create = outcome.await;
        self.delete_all_of(&second).await.or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(()),
            _ => Err(error),
        })?;
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
        match self.shared.look(key).await {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some((folder, _)) = key.as_str().rsplit_once('/') {
            self.shared.make_folder(&Key::new(folder)?).await?;
        }
        Ok(Box::new(Upload::new(&self.shared, ticket)?))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> io::Result<ByteStream> {
        let found = self.shared.look(key).await?;
        // To open a FIFO would wait for its other end.
        let Some(size) = found.size.filter(|_| found.is_file()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        };
        let range = range.unwrap_or(0..size);
        let end = range.end.min(size);
        let start = range.start.min(end);
        let (path, current) = (self.shared.path(key), tokio::sync::Mutex::default());
        let file = Arc::new(OpenFile { shared: Arc::clone(&self.shared), path, found, current });
        file.handle().await?;
        let pieces = (0..(end - start).div_ceil(PIECE)).map(move |at| {
            let from = start + at * PIECE;
            from..end.min(from + PIECE)
        });
        let read = stream::iter(pieces).map(move |range| {
            let file = Arc::clone(&file);
            async move { file.piece(range).await }
        });
        Ok(ByteStream::new(end - start, read.buffered(AHEAD)))
    }

    async fn head(&self, key: &Key) -> io::Result<ObjectMeta> {
        Ok(object(key.clone(), self.shared.look(key).await?))
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
        // A folder is not removed so, and the answer to a missing file is clear with every server.
        self.shared.remove(self.shared.path(key)).await
    }

    async fn delete_partial(&self, key: &Key) -> io::Result<()> {
        let was_ours = self.shared.tickets.revoke(key);
        let (above, name) = key.as_str().rsplit_once('/').map_or((None, key.as_str()), |(a, b)| (Some(a), b));
        let folder = above.map_or(Ok(Key::ROOT), Key::new)?;
        let mut deleted = was_ours;
        for (written, found) in self.shared.list(&folder).await? {
            if object_of(&written) == Some(name) && found.is_file() {
                match self.shared.remove(self.shared.path(&folder.join(&written)?)).await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome?,
                }
                deleted = true;
            }
        }
        if deleted { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

fn object(key: Key, found: Attributes) -> ObjectMeta {
    let kind = match found {
        found if found.is_file() => ObjectKind::Object,
        found if found.is_folder() => ObjectKind::Folder,
        _ => ObjectKind::Foreign,
    };
    ObjectMeta { key, kind, bytes: found.size.unwrap_or_default(), modified: found.time(), tag: None }
}
