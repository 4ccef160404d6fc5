//! Two streams over one pipe: the archive and its file list, in frames.
//!
//! A frame is a kind, a length (32 bits, little-endian) and a payload. The last frame says that all
//! went well; a stream without it was cut off, whatever its length.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::error::{ArchiveError, FrameProblem};

/// The longest payload, both to write and to accept.
const MAX_PAYLOAD: usize = 16 << 20;
/// Kind and length.
const HEADER_LEN: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Bytes of the archive.
    Archive,
    /// Bytes of the file list.
    List,
    /// Nothing: the stream is complete.
    End,
}

impl FrameKind {
    fn byte(self) -> u8 {
        match self {
            Self::Archive => b'A',
            Self::List => b'L',
            Self::End => b'E',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Archive, Self::List, Self::End].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// The sending end; its [sinks](FrameSink) may be used from different threads.
#[derive(Debug)]
pub struct FrameWriter<W> {
    shared: Arc<Mutex<Shared<W>>>,
}

/// A sink whose bytes become frames of one kind.
#[derive(Debug)]
pub struct FrameSink<W> {
    kind: FrameKind,
    shared: Arc<Mutex<Shared<W>>>,
}

#[derive(Debug)]
struct Shared<W> {
    sink: W,
    /// A frame was written in part: a reader could not tell later bytes from its payload.
    is_torn: bool,
}

impl<W: Write> FrameWriter<W> {
    /// Returns the sending end of a stream over `sink`.
    pub fn new(sink: W) -> Self {
        Self { shared: Arc::new(Mutex::new(Shared { sink, is_torn: false })) }
    }

    /// Returns a sink for bytes of the archive.
    #[must_use]
    pub fn archive(&self) -> FrameSink<W> {
        FrameSink { kind: FrameKind::Archive, shared: Arc::clone(&self.shared) }
    }

    /// Returns a sink for bytes of the file list.
    #[must_use]
    pub fn list(&self) -> FrameSink<W> {
        FrameSink { kind: FrameKind::List, shared: Arc::clone(&self.shared) }
    }

    /// Says that all went well. Call it when both sinks are complete, and only then.
    ///
    /// # Errors
    /// If the sink fails, or failed before.
    pub fn finish(self) -> Result<(), ArchiveError> {
        let finished = with_shared(&self.shared, |shared| {
            shared.write_frame(FrameKind::End, &[])?;
            shared.sink.flush()
        });
        finished.map_err(|source| ArchiveError::writing("agent's stream", source))
    }
}

impl<W: Write> Write for FrameSink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_PAYLOAD);
        if count > 0 {
            with_shared(&self.shared, |shared| shared.write_frame(self.kind, &bytes[..count]))?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        with_shared(&self.shared, |shared| shared.sink.flush())
    }
}

fn with_shared<W, T>(
    shared: &Mutex<Shared<W>>,
    action: impl FnOnce(&mut Shared<W>) -> io::Result<T>,
) -> io::Result<T> {
    // A writer that panicked left a frame in part.
    let mut shared = shared.lock().map_err(|_| ArchiveError::AfterFailure)?;
    action(&mut shared)
}

impl<W: Write> Shared<W> {
    fn write_frame(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        if std::mem::replace(&mut self.is_torn, true) {
            return Err(ArchiveError::AfterFailure.into());
        }
        let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut header = [kind.byte(), 0, 0, 0, 0];
        header[1..].copy_from_slice(&len.to_le_bytes());
        self.sink.write_all(&header)?;
        self.sink.write_all(payload)?;
        self.is_torn = false;
        Ok(())
    }
}

/// The receiving end: takes what arrives, and returns the payloads in it without a copy.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    header: [u8; HEADER_LEN],
    header_len: usize,
    kind: Option<FrameKind>,
    left: usize,
    is_ended: bool,
    is_failed: bool,
}

/// A piece of a frame: its kind, and some of the pushed bytes.
pub type Payload<'a> = (FrameKind, &'a [u8]);

impl FrameDecoder {
    /// Returns the receiving end of a stream that begins here.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes apart what arrived; a payload comes in as many pieces as it arrived in.
    ///
    /// Use up the iterator before pushing more: what nobody took from it is lost.
    pub fn push<'a>(&mut self, arrived: &'a [u8]) -> impl Iterator<Item = Result<Payload<'a>, ArchiveError>> {
        let mut rest = arrived;
        std::iter::from_fn(move || {
            let next = self.next(&mut rest).transpose()?;
            if next.is_err() {
                self.is_failed = true;
                rest = &[];
            }
            Some(next.map_err(|problem| ArchiveError::Frames { problem }))
        })
    }

    /// Returns whether the end frame has come: nothing may follow it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Checks that the stream is complete. Call it at the end.
    ///
    /// # Errors
    /// [`FrameProblem::Truncated`] if the end frame is missing.
    pub fn finish(self) -> Result<(), ArchiveError> {
        if self.is_ended && !self.is_failed {
            Ok(())
        } else {
            Err(ArchiveError::Frames { problem: FrameProblem::Truncated })
        }
    }

    fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<Payload<'a>>, FrameProblem> {
        while !rest.is_empty() {
            if self.is_ended || self.is_failed {
                return Err(FrameProblem::TrailingGarbage);
            }
            if let Some(kind) = self.kind {
                let (piece, after) = rest.split_at(self.left.min(rest.len()));
                *rest = after;
                self.left -= piece.len();
                if self.left == 0 {
                    self.kind = None;
                }
                return Ok(Some((kind, piece)));
            }
            self.take_header(rest)?;
        }
        Ok(None)
    }

    fn take_header(&mut self, rest: &mut &[u8]) -> Result<(), FrameProblem> {
        let (piece, after) = rest.split_at((HEADER_LEN - self.header_len).min(rest.len()));
        *rest = after;
        self.header[self.header_len..self.header_len + piece.len()].copy_from_slice(piece);
        self.header_len += piece.len();
        if self.header_len < HEADER_LEN {
            return Ok(());
        }
        self.header_len = 0;
        let [byte, len @ ..] = self.header;
        let kind = FrameKind::from_byte(byte).ok_or(FrameProblem::Kind { kind: byte })?;
        let len = u32::from_le_bytes(len);
        self.left = len as usize;
        if self.left > MAX_PAYLOAD || (kind == FrameKind::End && len > 0) {
            return Err(FrameProblem::Length { len });
        }
        self.is_ended = kind == FrameKind::End;
        self.kind = (len > 0).then_some(kind);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stream() -> Vec<u8> {
        let pipe = Pipe::default();
        let writer = FrameWriter::new(pipe.clone());
        let (mut archive, mut list) = (writer.archive(), writer.list());
        std::thread::scope(|scope| {
            scope.spawn(|| (0..50).for_each(|_| archive.write_all(b"archive").unwrap()));
            scope.spawn(|| (0..50).for_each(|_| list.write_all(b"list").unwrap()));
        });
        writer.finish().unwrap();
        std::mem::take(&mut *pipe.0.lock().unwrap())
    }

    fn decode(stream: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>), ArchiveError> {
        let mut decoder = FrameDecoder::new();
        let (mut archive, mut list) = (Vec::new(), Vec::new());
        for arrived in stream.chunks(piece) {
            for payload in decoder.push(arrived) {
                match payload? {
                    (FrameKind::Archive, bytes) => archive.extend_from_slice(bytes),
                    (FrameKind::List, bytes) => list.extend_from_slice(bytes),
                    (FrameKind::End, _) => unreachable!(),
                }
            }
        }
        decoder.finish()?;
        Ok((archive, list))
    }

    #[test]
    fn both_streams_arrive_whole_however_they_are_cut() {
        let stream = stream();
        for piece in [1, 2, 3, 7, 64, 100_000] {
            let (archive, list) = decode(&stream, piece).unwrap();
            assert_eq!((archive, list), (b"archive".repeat(50), b"list".repeat(50)));
        }
    }

    #[test]
    fn a_stream_without_its_end_is_truncated() {
        let stream = stream();
        for len in 0..stream.len() {
            let error = decode(&stream[..len], 64).unwrap_err();
            assert!(matches!(error, ArchiveError::Frames { problem: FrameProblem::Truncated }));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let problem = |stream: &[u8]| match decode(stream, 3) {
            Err(ArchiveError::Frames { problem }) => problem,
            other => panic!("{other:?}"),
        };
        assert_eq!(problem(b"X\0\0\0\0"), FrameProblem::Kind { kind: b'X' });
        assert_eq!(problem(b"A\xff\xff\xff\xff"), FrameProblem::Length { len: u32::MAX });
        assert_eq!(problem(b"E\0\0\0\0E"), FrameProblem::TrailingGarbage);
    }

    #[test]
    fn nothing_follows_a_frame_that_was_torn() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writer = FrameWriter::new(Full);
        let error = writer.archive().write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(matches!(writer.finish(), Err(ArchiveError::AfterFailure)));
    }
}
