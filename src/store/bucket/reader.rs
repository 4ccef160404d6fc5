//! Reads an object in pieces, some of them ahead.
//!
//! Each piece is a request of its own: one that fails is made again by itself, and a connection that hangs is noticed.
//! All pieces are of the object that the first one was of: a server is asked for no other, by its tag.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore as _};
use tokio_util::task::AbortOnDropHandle;

use super::trouble::failed;
use super::{Shared, Trouble, without_request};
use crate::store::ByteStream;

/// How much is asked for at once.
const PIECE: u64 = 8 << 20;
/// How many pieces are asked for at a time.
const AHEAD: usize = 4;

/// Opens an object, or a range of it.
pub(super) async fn open(
    shared: &Arc<Shared>,
    path: &Path,
    range: Option<Range<u64>>,
) -> io::Result<ByteStream> {
    let start = range.as_ref().map_or(0, |range| range.start);
    let end = range.as_ref().map_or(u64::MAX, |range| range.end);
    if start >= end {
        return at_most(shared, path, start..end, None).await.map(|_| ByteStream::of_bytes(Bytes::new()));
    }
    let first = at_most(shared, path, start..end.min(start.saturating_add(PIECE)), None).await?;
    let Some((size, tag, bytes)) = first else { return Ok(ByteStream::of_bytes(Bytes::new())) };
    let end = end.min(size);
    let next = start + bytes.len() as u64;
    let rest = stream::iter(pieces(next..end)).map({
        let (shared, path) = (Arc::clone(shared), path.clone());
        move |range| {
            let (shared, path, tag) = (Arc::clone(&shared), path.clone(), tag.clone());
            // A task of its own, so that it goes on while the reader is at work.
            let fetched = tokio::spawn(async move { piece(&shared, &path, range, tag).await });
            async move {
                AbortOnDropHandle::new(fetched).await.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
        }
    });
    let all = stream::once(async { Ok(bytes) }).chain(rest.buffered(AHEAD));
    Ok(ByteStream::new(end - start, all))
}

/// Returns the contents of a small object.
pub(super) async fn open_shared(shared: &Shared, path: &Path) -> io::Result<Bytes> {
    let options = GetOptions::default();
    let result = shared.bucket.get_opts(path, options).await.map_err(|error| failed(&error))?;
    whole(result).await
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    (0..(end.saturating_sub(start)).div_ceil(PIECE)).map(move |at| {
        let from = start + at * PIECE;
        from..end.min(from + PIECE)
    })
}

/// Returns the size and the tag of an object, and the bytes in a range as far as it has any; `None` if the object ends
/// before.
async fn at_most(
    shared: &Shared,
    path: &Path,
    range: Range<u64>,
    tag: Option<String>,
) -> io::Result<Option<(u64, Option<String>, Bytes)>> {
    let nothing = async |shared: &Shared| {
        let meta = shared.bucket.get_opts(path, GetOptions { head: true, ..GetOptions::default() }).await;
        let meta = meta.map_err(|error| failed(&error))?.meta;
        Ok::<_, io::Error>(meta.size)
    };
    if range.is_empty() {
        nothing(shared).await?;
        return Ok(None);
    }
    let options =
        GetOptions { range: Some(GetRange::Bounded(range.clone())), if_match: tag, ..GetOptions::default() };
    match shared.bucket.get_opts(path, options).await {
        Ok(result) => {
            let (size, tag) = (result.meta.size, result.meta.e_tag.clone());
            Ok(Some((size, tag, whole(result).await?)))
        }
        Err(error) => {
            let error = failed(&error);
            // A server refuses a range that lies behind the end.
            let may_be_short =
                !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
            match may_be_short.then_some(nothing(shared).await) {
                Some(Ok(size)) if size <= range.start => Ok(None),
                _ => Err(error),
            }
        }
    }
}

/// Returns the bytes of a range that the object has.
async fn piece(shared: &Shared, path: &Path, range: Range<u64>, tag: Option<String>) -> io::Result<Bytes> {
    let length = range.end - range.start;
    match at_most(shared, path, range, tag).await? {
        Some((_, _, bytes)) if bytes.len() as u64 == length => Ok(bytes),
        _ => Err(without_request(Trouble::Changed)),
    }
}

/// Returns all of an answer; one that ends early is an error.
async fn whole(result: GetResult) -> io::Result<Bytes> {
    let length = result.range.end - result.range.start;
    let bytes = result.bytes().await.map_err(|error| failed(&error))?;
    if bytes.len() as u64 != length {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the server sent {} bytes of {length}", bytes.len()),
        ));
    }
    Ok(bytes)
}
