//! Writes an object: in one request if it is small, else as a stream.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::StatusCode;
use reqwest::{Body, Response};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::client::{REQUEST, Request};
use crate::store::temporary::temporary;
use crate::store::tickets::Ticket;
use crate::store::trouble::{Failure, Service, Trouble};
use crate::store::{Key, ObjectWriter};

/// What is no larger is one request that can be made again, and is read back: every manifest.
const SMALL: usize = 16 << 20;
/// How many pieces wait to be sent.
const WAITING: usize = 4;

/// An object that is being written.
pub(super) struct Upload {
    shared: Arc<Shared>,
    ticket: Ticket,
    /// Its name until it is whole.
    temporary: Key,
    /// What was written, until it is too much for one request.
    small: BytesMut,
    sending: Option<Sending>,
    written: u64,
    lost: bool,
    /// Whether the server may have something of it under its temporary name.
    is_there: bool,
}

/// A stream on its way.
struct Sending {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    answer: AbortOnDropHandle<io::Result<Response>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("temporary", &self.temporary).finish_non_exhaustive()
    }
}

impl Upload {
    /// Begins an object; makes its folder.
    pub(super) async fn begin(shared: &Arc<Shared>, ticket: Ticket) -> io::Result<Self> {
        let key = ticket.key().clone();
        let folder = key.as_str().rsplit_once('/').map_or(Ok(Key::ROOT), |(above, _)| Key::new(above))?;
        shared.make_folder(&folder).await?;
        Ok(Self {
            shared: Arc::clone(shared),
            temporary: temporary(&key, ticket.number())?,
            ticket,
            small: BytesMut::new(),
            sending: None,
            written: 0,
            lost: false,
            is_there: false,
        })
    }

    /// Writes contents and removes them again: to find out whether that can be done.
    pub(super) async fn try_out(mut self, contents: &'static [u8]) -> io::Result<()> {
        let put = self.put(Bytes::from_static(contents)).await;
        let removed = self.remove().await;
        match (put, removed) {
            // Writing is what was to be proved.
            (Ok(()), Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(%error, "what was written to try it may not be deleted");
                Ok(())
            }
            (put, removed) => put.and(removed),
        }
    }

    /// Writes contents and gives them the key, whatever has it: to find out what the server does.
    pub(super) async fn move_over(mut self, contents: &'static [u8]) -> io::Result<()> {
        let moved = async {
            self.put(Bytes::from_static(contents)).await?;
            let length = contents.len() as u64;
            self.shared.move_to(&self.temporary, self.ticket.key(), length).await
        };
        let moved = moved.await;
        if moved.is_ok() {
            self.is_there = false;
        } else {
            self.remove().await?;
        }
        moved
    }

    /// Writes all of it in one request.
    async fn put(&mut self, body: Bytes) -> io::Result<()> {
        self.is_there = true;
        let server = &self.shared.server;
        let headers = vec![("Content-Type", "application/octet-stream".to_owned())];
        let url = server.url(&self.temporary)?;
        server.expect(&Request { method: "PUT", url, headers, body }).await.map(drop)
    }

    /// Begins to send it as a stream.
    fn stream(&mut self) -> io::Result<&Sending> {
        if self.sending.is_none() {
            let (pieces, waiting) = mpsc::channel(WAITING);
            let body = stream::unfold(waiting, |mut waiting: mpsc::Receiver<io::Result<Bytes>>| async move {
                waiting.recv().await.map(|piece| (piece, waiting))
            });
            let (shared, url) = (Arc::clone(&self.shared), self.shared.server.url(&self.temporary)?);
            self.is_there = true;
            let sent =
                tokio::spawn(async move { shared.server.once("PUT", url, Body::wrap_stream(body)).await });
            self.sending = Some(Sending { pieces, answer: AbortOnDropHandle::new(sent) });
        }
        self.sending.as_ref().ok_or_else(lost)
    }

    async fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        self.ticket.check()?;
        let length = bytes.len() as u64;
        if self.sending.is_none() && self.small.len() + bytes.len() <= SMALL {
            self.small.extend_from_slice(&bytes);
        } else {
            let before = std::mem::take(&mut self.small).freeze();
            for piece in [before, bytes].into_iter().filter(|piece| !piece.is_empty()) {
                self.send(piece).await?;
            }
        }
        self.written += length;
        Ok(())
    }

    async fn send(&mut self, piece: Bytes) -> io::Result<()> {
        let sending = self.stream()?;
        match timeout(REQUEST, sending.pieces.send(Ok(piece))).await {
            Ok(Ok(())) => Ok(()),
            // The server has answered, or the connection is gone: either says why.
            Ok(Err(_)) => match self.answer().await {
                Err(error) => Err(error),
                Ok(()) => Err(io::Error::other("the server took less than all of it")),
            },
            Err(_) => Err(Failure::without_request(Service::WebDav, Trouble::Silent)),
        }
    }

    /// Waits for the answer to the stream, which ends with this.
    async fn answer(&mut self) -> io::Result<()> {
        let Some(Sending { pieces, answer }) = self.sending.take() else { return Ok(()) };
        drop(pieces);
        let answer = timeout(REQUEST, answer).await;
        let answer = answer.map_err(|_| Failure::without_request(Service::WebDav, Trouble::Silent))?;
        let status = answer.unwrap_or_else(|error| Err(io::Error::other(error)))?.status();
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::LENGTH_REQUIRED => Err(Failure::without_request(Service::WebDav, Trouble::Unable)),
            status => Err(self.shared.server.refused(status)),
        }
    }

    async fn complete(&mut self) -> io::Result<()> {
        if self.lost {
            return Err(lost());
        }
        self.ticket.check()?;
        let key = self.ticket.key().clone();
        if self.sending.is_some() {
            self.answer().await?;
        } else {
            let small = std::mem::take(&mut self.small).freeze();
            self.put(small.clone()).await?;
            let found = self.shared.head(&self.temporary).await?;
            if found.bytes == self.written
                && self.shared.piece(&self.temporary, 0..found.bytes, &found).await? != small
            {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the server has other bytes of it"));
            }
        }
        let found = self.shared.head(&self.temporary).await?;
        if found.bytes != self.written {
            return Err(io::Error::other(format!(
                "the server has {} bytes of it, and {} were written",
                found.bytes, self.written
            )));
        }
        self.ticket.check()?;
        match self.shared.head(&key).await {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.shared.move_to(&self.temporary, &key, self.written).await
    }

    /// Removes what the server has of it.
    async fn remove(&mut self) -> io::Result<()> {
        self.sending = None;
        if !std::mem::take(&mut self.is_there) {
            return Ok(());
        }
        match self.shared.server.delete(&self.temporary).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
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
        self.append(bytes).await?;
        self.lost = false;
        Ok(())
    }

    fn stored(&self) -> u64 {
        self.written
    }

    async fn finish(mut self: Box<Self>) -> io::Result<()> {
        match self.complete().await {
            Ok(()) => {
                self.is_there = false;
                Ok(())
            }
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
        let (shared, temporary, sending) =
            (Arc::clone(&self.shared), self.temporary.clone(), self.sending.take());
        // If the process ends before, whoever has its journal does it.
        runtime.spawn(async move {
            drop(sending);
            if let Err(error) = shared.server.delete(&temporary).await {
                tracing::debug!(%temporary, %error, "an upload that was dropped may have left something");
            }
        });
    }
}
