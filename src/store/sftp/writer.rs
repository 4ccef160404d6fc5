//! Writes an object: some requests are on their way at a time.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;

use super::session::{Answer, Session, done, is_lost, refused};
use super::wire::{Ask, CREATE_NEW, Reply, put_mode, put_text};
use super::{AHEAD, FILE_MODE, LINK, PIECE, SYNC, Shared, read};
use crate::store::ObjectWriter;
use crate::store::temporary::temporary;
use crate::store::tickets::Ticket;

/// What is no larger is sent at the end, and read back: every manifest.
const SMALL: usize = 16 << 20;
/// A server with less room than this has refused a write for that reason: it does not say.
const ROOM_MIN: u64 = 1 << 20;

/// An object that is being written.
pub(super) struct Upload {
    shared: Arc<Shared>,
    ticket: Ticket,
    /// Its path until it is whole.
    temporary: String,
    waiting: BytesMut,
    file: Option<File>,
    written: u64,
    stored: u64,
    lost: bool,
    /// Whether the server may have something of it under its temporary name.
    is_there: bool,
}

/// A file that is open at the server.
struct File {
    session: Arc<Session>,
    handle: Bytes,
    /// How much was sent.
    sent: u64,
    /// The answers that are to come, each with the bytes that it is for.
    in_flight: VecDeque<(u64, Answer)>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("temporary", &self.temporary).finish_non_exhaustive()
    }
}

impl Upload {
    pub(super) fn new(shared: &Arc<Shared>, ticket: Ticket) -> io::Result<Self> {
        let temporary = shared.path(&temporary(ticket.key(), ticket.number())?);
        Ok(Self {
            shared: Arc::clone(shared),
            ticket,
            temporary,
            waiting: BytesMut::new(),
            file: None,
            written: 0,
            stored: 0,
            lost: false,
            is_there: false,
        })
    }

    /// Creates the file.
    pub(super) async fn open(&mut self) -> io::Result<()> {
        let session = self.shared.session().await?;
        self.is_there = true;
        let path = &self.temporary;
        let opened = session.ask(Ask::Open, |packet| {
            put_text(packet, path.as_bytes());
            packet.put_u32(CREATE_NEW);
            put_mode(packet, Some(FILE_MODE));
        });
        match opened.await? {
            Reply::Handle(handle) => {
                self.file = Some(File { session, handle, sent: 0, in_flight: VecDeque::new() });
                Ok(())
            }
            other => Err(refused(&other)),
        }
    }

    /// Sends the first `bytes` of what waits.
    async fn send(&mut self, bytes: usize) -> io::Result<()> {
        if self.file.is_none() {
            self.open().await?;
        }
        while self.file.as_ref().is_some_and(|file| file.in_flight.len() >= AHEAD) {
            self.take_one().await?;
        }
        let piece = self.waiting.split_to(bytes);
        let Some(file) = &mut self.file else { return Err(lost()) };
        let (handle, at) = (file.handle.clone(), file.sent);
        let sent = file.session.send(Ask::Write, |packet| {
            put_text(packet, &handle);
            packet.put_u64(at);
            put_text(packet, &piece);
        });
        let answer = sent.await?;
        file.sent += bytes as u64;
        file.in_flight.push_back((bytes as u64, answer));
        Ok(())
    }

    /// Waits for the oldest of the answers; returns whether there was one to come.
    async fn take_one(&mut self) -> io::Result<bool> {
        let Some((bytes, answer)) = self.file.as_mut().and_then(|file| file.in_flight.pop_front()) else {
            return Ok(false);
        };
        match done(&answer.wait().await?) {
            Ok(()) => {
                self.stored += bytes;
                Ok(true)
            }
            // Of a full disk the protocol says only that it failed.
            Err(error) => match self.shared.room().await {
                Ok(Some(room)) if room < ROOM_MIN => Err(io::Error::new(io::ErrorKind::StorageFull, error)),
                _ => Err(error),
            },
        }
    }

    async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.ticket.check()?;
        self.written += bytes.len() as u64;
        // What goes out at once need not be kept.
        for part in bytes.chunks(SMALL) {
            self.waiting.extend_from_slice(part);
            if self.file.is_some() || self.waiting.len() > SMALL {
                while self.waiting.len() >= piece() {
                    self.send(piece()).await?;
                }
            }
        }
        Ok(())
    }

    async fn complete(&mut self) -> io::Result<()> {
        if self.lost {
            return Err(lost());
        }
        self.ticket.check()?;
        let small = self.file.is_none().then(|| self.waiting.clone().freeze());
        while !self.waiting.is_empty() {
            self.send(self.waiting.len().min(piece())).await?;
        }
        if self.file.is_none() {
            self.open().await?;
        }
        while self.take_one().await? {}
        let Some(File { session, handle, .. }) = self.file.take() else { return Err(lost()) };
        if session.can(SYNC) {
            done(&session.extended(SYNC, &[&handle]).await?)?;
        }
        session.tell(Ask::Close, |packet| put_text(packet, &handle)).await?;
        self.compare(&session, small.as_ref()).await?;
        self.ticket.check()?;
        self.give_key(&session).await
    }

    /// Proves that the server has what was written.
    async fn compare(&self, session: &Session, small: Option<&Bytes>) -> io::Result<()> {
        let found = session.look(Ask::Lstat, &self.temporary).await?;
        if found.size != Some(self.written) {
            let size = found.size.unwrap_or_default();
            return Err(io::Error::other(format!(
                "the server has {size} bytes of it, and {} were written",
                self.written
            )));
        }
        let Some(small) = small.filter(|small| !small.is_empty()) else { return Ok(()) };
        let opened = session.ask(Ask::Open, |packet| {
            put_text(packet, self.temporary.as_bytes());
            packet.put_u32(super::READ);
            put_mode(packet, None);
        });
        let opened = opened.await?;
        let Reply::Handle(handle) = opened else { return Err(refused(&opened)) };
        let pieces = (0..self.written.div_ceil(PIECE)).map(|at| {
            let range = at * PIECE..self.written.min((at + 1) * PIECE);
            read(session, &handle, range)
        });
        let there: io::Result<Vec<Bytes>> = stream::iter(pieces).buffered(AHEAD).try_collect().await;
        let _ = session.tell(Ask::Close, |packet| put_text(packet, &handle)).await;
        if there?.concat() == *small {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the server has other bytes of it"))
    }

    /// Gives it its key, unless something has that.
    async fn give_key(&mut self, session: &Session) -> io::Result<()> {
        let path = self.shared.path(self.ticket.key());
        if session.can(LINK) {
            let linked = session.extended(LINK, &[self.temporary.as_bytes(), path.as_bytes()]).await;
            let has_it = match linked {
                Ok(reply) => done(&reply).is_ok(),
                Err(error) if is_lost(&error) => self.has_key().await?,
                Err(error) => return Err(error),
            };
            if has_it {
                // The other name is shown as what a dead run has left, and removed like that.
                if let Err(error) = self.remove().await {
                    tracing::warn!(key = %self.ticket.key(), %error, "the name under which it was written stays");
                }
                return Ok(());
            }
        }
        let session = &self.shared.session().await?;
        match session.look(Ask::Lstat, &path).await {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let renamed = session.tell(Ask::Rename, |packet| {
            put_text(packet, self.temporary.as_bytes());
            put_text(packet, path.as_bytes());
        });
        match renamed.await {
            Err(error) if is_lost(&error) && self.has_key().await? => {}
            renamed => renamed?,
        }
        self.is_there = false;
        Ok(())
    }

    /// Returns whether it has its key: the answer that would have said so was lost.
    async fn has_key(&self) -> io::Result<bool> {
        match self.shared.look(self.ticket.key()).await {
            Ok(found) => Ok(found.size == Some(self.written)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what the server has of it under its temporary name.
    async fn remove(&mut self) -> io::Result<()> {
        if let Some(File { session, handle, .. }) = self.file.take() {
            let _ = session.tell(Ask::Close, |packet| put_text(packet, &handle)).await;
        }
        if !std::mem::take(&mut self.is_there) {
            return Ok(());
        }
        match self.shared.remove(self.temporary.clone()).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// The bytes of one request.
fn piece() -> usize {
    usize::try_from(PIECE).unwrap_or(usize::MAX)
}

fn lost() -> io::Error {
    io::Error::other("what was written before could not be stored")
}

#[async_trait]
impl ObjectWriter for Upload {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.lost {
            return Err(lost());
        }
        // Whoever drops this call leaves a hole.
        self.lost = true;
        self.append(&bytes).await?;
        self.lost = false;
        Ok(())
    }

    fn stored(&self) -> u64 {
        if self.file.is_none() { self.written } else { self.stored }
    }

    async fn finish(mut self: Box<Self>) -> io::Result<()> {
        match self.complete().await {
            Ok(()) => Ok(()),
            Err(error) => {
                if let Err(left) = self.remove().await {
                    tracing::warn!(key = %self.ticket.key(), error = %left, "a failed upload left something");
                }
                Err(error)
            }
        }
    }

    async fn abort(mut self: Box<Self>) -> io::Result<()> {
        self.remove().await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.is_there {
            return;
        }
        let (shared, temporary, file) = (Arc::clone(&self.shared), self.temporary.clone(), self.file.take());
        // If the process ends before, whoever has its journal does it.
        runtime.spawn(async move {
            drop(file);
            if let Err(error) = shared.remove(temporary.clone()).await {
                tracing::debug!(temporary, %error, "an upload that was dropped may have left something");
            }
        });
    }
}
