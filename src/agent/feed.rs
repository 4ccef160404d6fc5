//! Brings an archive to the agent: a thread reads ahead.

use std::io::Read;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::client::ArchiveSource;
use crate::model::error::{Error, Result};

/// How much to read at once.
const PIECE: usize = 1 << 20;

/// Feeds the content of a reader.
#[derive(Debug)]
pub struct SnapshotArchive {
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
}

impl SnapshotArchive {
    /// Starts reading.
    #[must_use]
    pub fn of(mut reader: Box<dyn Read + Send>) -> Self {
        let (sender, pieces) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = match reader.read(&mut piece) {
                    Ok(0) => return,
                    Ok(count) => {
                        piece.truncate(count);
                        Ok(Bytes::from(piece))
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if sender.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        Self { pieces }
    }
}

#[async_trait]
impl ArchiveSource for SnapshotArchive {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.pieces.recv().await {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(error)) => Err(Error::failed("read the archive").with_source(error)),
        }
    }
}
