//! Records what is said to an agent and fails it on demand, like the calls to the engine: each call to it counts as
//! one, with a name such as "agent swap-in".

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncWrite;

use super::{Attached, Output, OutputStream, Result};
use crate::agent::dialogue::{Dialogue, Said, is_answer};
use crate::engine::failing::{Mode, Shared};

/// The answer to a call that fails.
const FAILED: &[u8] = b"{\"failed\":{\"message\":\"injected failure\"}}\n";

/// Returns the streams of an agent; its calls are recorded and fail like the engine's calls.
pub(super) fn listen_in(shared: &Arc<Shared>, attached: Attached) -> Attached {
    let talk = Arc::new(Mutex::new(Talk::default()));
    let stdin = Requests {
        inner: attached.stdin,
        shared: shared.clone(),
        talk: talk.clone(),
        dialogue: Dialogue::default(),
        unsent: VecDeque::new(),
        swallows: false,
    };
    let output = Answers {
        inner: attached.output,
        shared: shared.clone(),
        talk,
        unread: Vec::new(),
        next: VecDeque::new(),
    };
    Attached { stdin: Box::pin(stdin), output: Box::pin(output) }
}

/// What should happen to the answers.
#[derive(Default)]
struct Talk {
    /// For the calls that were passed on.
    expected: VecDeque<Fate>,
    /// Answers in place of the agent's.
    injected: VecDeque<Bytes>,
    waker: Option<Waker>,
}

enum Fate {
    Told,
    Lost,
    Deadly,
}

impl Talk {
    fn inject(&mut self) {
        self.injected.push_back(Bytes::from_static(FAILED));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn lock(talk: &Mutex<Talk>) -> MutexGuard<'_, Talk> {
    talk.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Requests {
    inner: Pin<Box<dyn AsyncWrite + Send>>,
    shared: Arc<Shared>,
    talk: Arc<Mutex<Talk>>,
    dialogue: Dialogue,
    unsent: VecDeque<u8>,
    /// Whether the pieces that follow belong to a call that was not passed on.
    swallows: bool,
}

impl Requests {
    /// Takes something that is said; false if it kills the process.
    fn hear(&mut self, said: Said) -> bool {
        let (name, followed, bytes) = match said {
            Said::Call { name, followed, bytes } => (name, followed, bytes),
            Said::Piece { last, .. } if self.swallows => {
                self.swallows = !last;
                return true;
            }
            Said::Piece { bytes, .. } | Said::Other(bytes) => {
                self.unsent.extend(bytes);
                return true;
            }
        };
        let fate = match self.shared.note(name, "", "") {
            None => Fate::Told,
            Some(Mode::After) => Fate::Lost,
            Some(Mode::KillAfter) => Fate::Deadly,
            Some(Mode::Before) => {
                self.swallows = followed;
                lock(&self.talk).inject();
                return true;
            }
            Some(Mode::Hang) => {
                self.swallows = followed;
                return true;
            }
            Some(Mode::Panic) => panic!("injected panic at {name}"),
            Some(Mode::Kill) => {
                self.shared.kill();
                return false;
            }
        };
        self.unsent.extend(bytes);
        lock(&self.talk).expected.push_back(fate);
        true
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let (first, _) = self.unsent.as_slices();
            let written = ready!(self.inner.as_mut().poll_write(context, first))?;
            self.unsent.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Requests {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.shared.is_dead() {
            return Poll::Pending;
        }
        ready!(self.poll_send(context))?;
        for said in self.dialogue.take(bytes) {
            if !self.hear(said) {
                return Poll::Pending;
            }
        }
        // The next write or flush sends what cannot be sent now.
        if let Poll::Ready(Err(error)) = self.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        self.inner.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        self.inner.as_mut().poll_shutdown(context)
    }
}

struct Answers {
    inner: OutputStream,
    shared: Arc<Shared>,
    talk: Arc<Mutex<Talk>>,
    /// The part of a line whose end has not come.
    unread: Vec<u8>,
    next: VecDeque<Bytes>,
}

impl Answers {
    /// Returns a line as the caller should hear it; `None` if nobody is there to hear it.
    fn line(&self, line: Vec<u8>) -> Option<Bytes> {
        if !is_answer(&line) {
            return Some(line.into());
        }
        match lock(&self.talk).expected.pop_front() {
            None | Some(Fate::Told) => Some(line.into()),
            Some(Fate::Lost) => Some(Bytes::from_static(FAILED)),
            Some(Fate::Deadly) => {
                self.shared.kill();
                None
            }
        }
    }
}

impl Stream for Answers {
    type Item = Result<Output>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.shared.is_dead() {
                return Poll::Pending;
            }
            if let Some(line) = self.next.pop_front() {
                return Poll::Ready(Some(Ok(Output::Stderr(line))));
            }
            {
                let mut talk = lock(&self.talk);
                if let Some(line) = talk.injected.pop_front() {
                    return Poll::Ready(Some(Ok(Output::Stderr(line))));
                }
                talk.waker = Some(context.waker().clone());
            }
            match ready!(self.inner.as_mut().poll_next(context)) {
                Some(Ok(Output::Stderr(bytes))) => {
                    self.unread.extend_from_slice(&bytes);
                    while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = self.unread.drain(..=end).collect();
                        let Some(line) = self.line(line) else { return Poll::Pending };
                        self.next.push_back(line);
                    }
                }
                other => return Poll::Ready(other),
            }
        }
    }
}
