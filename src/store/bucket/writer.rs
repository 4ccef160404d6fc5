//! Writes an object: in one request if it is small, else in parts, a few at a time.
//!
//! The last request makes the parts an object, or fails. If nobody knows which, because its answer was lost, the object
//! itself tells: it is there with its full length, or it is not.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::PutPayload;
use object_store::multipart::PartId;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::trouble::failed;
use super::{Failure, Shared, Trouble, put};
use crate::store::ObjectWriter;
use crate::store::tickets::Ticket;

/// The length of a part. Some servers want all but the last to be of one length.
const PART: usize = 16 << 20;
/// How many parts are on their way at a time.
const IN_FLIGHT: usize = 4;
/// More parts no server takes.
const PARTS_MAX: usize = 10_000;

/// An object that is being written.
pub(super) struct ObjectUpload {
    shared: Arc<Shared>,
    ticket: Ticket,
    path: Path,
    /// What waits to become a part.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    upload: Option<Upload>,
    /// What the parts on the server amount to.
    stored: u64,
    /// What was written in all.
    written: u64,
    lost: bool,
}

/// An object in parts.
struct Upload {
    id: String,
    parts: Vec<Option<PartId>>,
    in_flight: JoinSet<(usize, usize, io::Result<PartId>)>,
}

impl fmt::Debug for ObjectUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectUpload").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ObjectUpload {
    pub(super) fn new(shared: &Arc<Shared>, ticket: Ticket, path: Path) -> Self {
        Self {
            shared: Arc::clone(shared),
            ticket,
            path,
            waiting: Vec::new(),
            waiting_bytes: 0,
            upload: None,
            stored: 0,
            written: 0,
            lost: false,
        }
    }

    /// Begins the upload. One whose answer was lost is begun again; the first is [removed](Self::complete) in the end.
    async fn begin(&self) -> io::Result<String> {
        let begun = self.shared.bucket.create_multipart(&self.path).await;
        match begun.map_err(|error| failed(&error)) {
            Err(error) if Failure::of(&error).is_some_and(|failure| failure.trouble == Trouble::Other) => {
                let begun = self.shared.bucket.create_multipart(&self.path).await;
                begun.map_err(|error| failed(&error))
            }
            begun => begun,
        }
    }

    /// Sends what waits as the next part, once there is room for it.
    async fn send(&mut self, part: PutPayload) -> io::Result<()> {
        let length = part.content_length();
        if self.upload.is_none() {
            let id = self.begin().await?;
            self.upload = Some(Upload { id, parts: Vec::new(), in_flight: JoinSet::new() });
        }
        while self.upload.as_ref().is_some_and(|upload| upload.in_flight.len() >= IN_FLIGHT) {
            self.take_one().await?;
        }
        let Some(upload) = &mut self.upload else { return Err(lost()) };
        let at = upload.parts.len();
        if at >= PARTS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "it is larger than {} GB, the most that goes into one object",
                    (PART * PARTS_MAX) >> 30
                ),
            ));
        }
        upload.parts.push(None);
        let (shared, path, id) = (Arc::clone(&self.shared), self.path.clone(), upload.id.clone());
        upload.in_flight.spawn(async move {
            let sent = shared.bucket.put_part(&path, &id, at, part).await;
            (at, length, sent.map_err(|error| failed(&error)))
        });
        Ok(())
    }

    /// Waits for one of the parts on their way.
    async fn take_one(&mut self) -> io::Result<bool> {
        let Some(upload) = &mut self.upload else { return Ok(false) };
        let Some(ended) = upload.in_flight.join_next().await else { return Ok(false) };
        let (at, length, sent) = ended.map_err(io::Error::other)?;
        upload.parts[at] = Some(sent?);
        self.stored += length as u64;
        Ok(true)
    }

    /// Returns the first `bytes` of what waits.
    fn take_waiting(&mut self, bytes: usize) -> PutPayload {
        let mut taken = Vec::new();
        let mut missing = bytes;
        while missing > 0 && !self.waiting.is_empty() {
            if self.waiting[0].len() <= missing {
                let piece = self.waiting.remove(0);
                missing -= piece.len();
                taken.push(piece);
            } else {
                taken.push(self.waiting[0].split_to(missing));
                missing = 0;
            }
        }
        self.waiting_bytes -= bytes - missing;
        PutPayload::from_iter(taken)
    }

    async fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        self.ticket.check()?;
        self.written += bytes.len() as u64;
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        // What is exactly one part may be all there is, and then is one request.
        while self.waiting_bytes > PART {
            let part = self.take_waiting(PART);
            self.send(part).await?;
        }
        Ok(())
    }

    /// Makes it an object.
    async fn complete(&mut self) -> io::Result<()> {
        if self.lost {
            return Err(lost());
        }
        self.ticket.check()?;
        let rest = self.take_waiting(self.waiting_bytes);
        if self.upload.is_none() {
            let contents: Vec<u8> = rest.iter().flat_map(|piece| piece.iter().copied()).collect();
            return put(&self.shared, &self.path, contents.into()).await;
        }
        if rest.content_length() > 0 {
            self.send(rest).await?;
        }
        while self.take_one().await? {}
        let Some(upload) = &mut self.upload else { return Err(lost()) };
        let parts: Option<Vec<_>> = upload.parts.drain(..).collect();
        let parts = parts.ok_or_else(lost)?;
        let completed = self.shared.bucket.complete_multipart(&self.path, &upload.id, parts).await;
        let completed = completed.map_err(|error| failed(&error));
        match (self.shared.head(self.ticket.key()).await, completed) {
            (Ok(found), Ok(_)) if found.size == self.written => {}
            // Its answer was lost, or the request was made again and found nothing left to do.
            (Ok(found), Err(_)) if found.size == self.written => {}
            (_, Err(error)) => return Err(error),
            (Err(error), Ok(_)) => return Err(error),
            (Ok(found), Ok(_)) => {
                return Err(io::Error::other(format!(
                    "the server has {} bytes of it, and {} were written",
                    found.size, self.written
                )));
            }
        }
        self.upload = None;
        // One that was begun twice, because its first answer was lost.
        if let Err(error) = self.shared.abort_uploads(self.ticket.key()).await {
            tracing::warn!(key = %self.ticket.key(), %error, "an upload that was begun twice may have left parts");
        }
        Ok(())
    }

    /// Gives up what the server has of it.
    async fn give_up(&mut self) -> io::Result<()> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        // A part that arrives after the end would be kept.
        upload.in_flight.shutdown().await;
        self.shared.abort(&self.path, &upload.id).await
    }
}

fn lost() -> io::Error {
    io::Error::other("what was written before could not be stored")
}

#[async_trait]
impl ObjectWriter for ObjectUpload {
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
        self.stored
    }

    async fn finish(mut self: Box<Self>) -> io::Result<()> {
        match self.complete().await {
            Ok(()) => Ok(()),
            Err(error) => {
                if let Err(left) = self.give_up().await {
                    tracing::warn!(key = %self.ticket.key(), error = %left, "a failed upload left parts");
                }
                Err(error)
            }
        }
    }

    async fn abort(mut self: Box<Self>) -> io::Result<()> {
        self.give_up().await
    }
}

impl Drop for ObjectUpload {
    fn drop(&mut self) {
        let (Some(upload), Ok(runtime)) = (self.upload.take(), Handle::try_current()) else { return };
        let (shared, path) = (Arc::clone(&self.shared), self.path.clone());
        // If the process ends before, whoever has its journal does it.
        runtime.spawn(async move {
            let mut in_flight = upload.in_flight;
            in_flight.shutdown().await;
            if let Err(error) = shared.abort(&path, &upload.id).await {
                tracing::warn!(%path, %error, "an upload that was dropped left parts");
            }
        });
    }
}
