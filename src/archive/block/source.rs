//! The stored bytes with a little look-ahead, and a count of the bytes that were taken.

use std::io::{self, Read};

/// How many bytes are read at once.
const READ_AHEAD: usize = 256 * 1024;

/// A byte source that shows its bytes before it consumes them.
pub(super) struct Source<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, buffer: vec![0; READ_AHEAD], start: 0, end: 0, offset: 0 }
    }

    /// Returns how many bytes were consumed.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the next bytes, at least `want` unless the source ends before.
    pub(super) fn peek(&mut self, want: usize) -> io::Result<&[u8]> {
        if self.end - self.start < want {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < want {
            let count = read_some(&mut self.inner, &mut self.buffer[self.end..])?;
            if count == 0 {
                break;
            }
            self.end += count;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Appends the next `count` bytes to `out`; returns whether there were so many.
    pub(super) fn take_into(&mut self, count: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        let mut left = count;
        while left > 0 {
            let available = self.peek(1)?;
            let piece = available.len().min(left);
            if piece == 0 {
                return Ok(false);
            }
            out.extend_from_slice(&available[..piece]);
            self.consume(piece);
            left -= piece;
        }
        Ok(true)
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = if self.start < self.end {
            let count = out.len().min(self.end - self.start);
            out[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
            self.start += count;
            count
        } else {
            read_some(&mut self.inner, out)?
        };
        self.offset += count as u64;
        Ok(count)
    }
}

/// Reads once, however often a signal interrupts it.
fn read_some(source: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(out) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
