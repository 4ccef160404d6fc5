//! Our agent, in a thread over pipes in memory: the same session that the program runs in a container, on the
//! directories that the container mounts.
//!
//! It does not see the command's FIFO, so both talk over the attached streams: these have no bounds, so a thread that
//! is at work needs nobody in order to finish.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::state::Pretence;
use super::{MemoryDocker, conflict};
use crate::agent::calls;
use crate::agent::dialogue::{Dialogue, Said, is_answer};
use crate::agent::protocol::{Event, Ready, Room};
use crate::agent::session::{self, SessionOptions, serve};
use crate::engine::helper::{KERNEL, PIPE, SOURCE, STAGE};
use crate::engine::{Attached, Output, OutputStream, Result};
use crate::model::container::Container;
use crate::outside::{Outside, Token};

/// The container's ends of its attached streams.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) input: Arc<Pipe>,
    pub(super) output: Wire,
}

/// Ends a container's standard input when it is dropped.
#[derive(Debug)]
pub(super) struct HangUp(Arc<Pipe>);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A pipe that holds whatever is written.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Content {
    bytes: VecDeque<u8>,
    closed: bool,
    /// What was asked and is not answered yet.
    owed: Vec<Token>,
    /// Whether one of our threads reads from it.
    served: bool,
    /// Whether it has ended.
    ended: bool,
}

impl Pipe {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it. A thread that reads from it is about to end; virtual time waits for that.
    fn close(&self) {
        let mut content = self.content();
        if content.served && !content.ended && !content.closed {
            content.owed.push(Outside::busy());
        }
        content.closed = true;
        drop(content);
        self.changed.notify_all();
    }

    /// From here on one of our threads reads; it must report that it is there.
    fn serve(&self) {
        self.content().served = true;
        self.owe();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.content().closed
    }

    /// From here on somebody outside the runtime is at work.
    fn owe(&self) {
        let mut content = self.content();
        if !content.ended {
            content.owed.push(Outside::busy());
        }
    }

    fn answered(&self) {
        drop(self.content().owed.pop());
    }

    /// Nobody will answer any more.
    fn end(&self) {
        let mut content = self.content();
        content.ended = true;
        content.owed.clear();
    }
}

/// The reading end.
struct Reader(Arc<Pipe>);

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut content = self.0.content();
        while content.bytes.is_empty() && !content.closed {
            content = self.0.changed.wait(content).unwrap_or_else(PoisonError::into_inner);
        }
        content.bytes.read(buffer)
    }
}

/// The writing end, which counts the questions to the other side.
struct Writer {
    pipe: Arc<Pipe>,
    dialogue: Dialogue,
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        {
            let content = self.pipe.content();
            if content.closed || content.ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        for said in self.dialogue.take(bytes) {
            match said {
                Said::Call { followed: true, .. } | Said::Piece { last: false, .. } => {}
                Said::Call { .. } | Said::Piece { .. } | Said::Other(_) => self.pipe.owe(),
            }
        }
        self.pipe.content().bytes.extend(bytes);
        self.pipe.changed.notify_all();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.pipe.close();
    }
}

/// The way to the listener, until it is cut.
#[derive(Debug, Clone)]
pub(super) struct Wire(Arc<Mutex<Option<mpsc::UnboundedSender<Output>>>>);

impl Wire {
    pub(super) fn send(&self, output: Output) {
        if let Some(sender) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // A listener that is gone needs no telling.
            let _ = sender.send(output);
        }
    }

    pub(super) fn cut(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Writes the archive.
struct Archive(Wire);

impl Write for Archive {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(Output::Stdout(Bytes::copy_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes events, each of them whole.
struct Events {
    wire: Wire,
    pipe: Arc<Pipe>,
    /// What to tell in place of the truth.
    pretence: Pretence,
}

impl Events {
    fn told(&self, line: &[u8]) -> Bytes {
        let event = serde_json::from_slice(line).ok().and_then(|event| self.pretence.instead_of(event));
        match event.map(|event| serde_json::to_vec(&event).unwrap_or_default()) {
            Some(told) => [told, b"\n".to_vec()].concat().into(),
            None => Bytes::copy_from_slice(line),
        }
    }
}

impl Pretence {
    /// Returns what to say in place of an event.
    fn instead_of(&self, event: Event) -> Option<Event> {
        if let (Some(free_bytes), Some(room)) = (self.free_bytes, event.answered::<calls::Room>()) {
            return Event::answer::<calls::Room>(&Room { free_bytes, ..room }).ok();
        }
        match (self.protocol, event) {
            (Some(protocol), Event::Ready(ready)) => Some(Event::Ready(Ready { protocol, ..ready })),
            _ => None,
        }
    }
}

impl Write for Events {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.wire.send(Output::Stderr(self.told(line)));
        if is_answer(line) {
            self.pipe.answered();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells that an agent has ended, even one that has panicked.
struct Ending {
    docker: MemoryDocker,
    container: Container,
    wire: Wire,
    pipe: Arc<Pipe>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let exit_code = if std::thread::panicking() { 101 } else { 0 };
        self.docker.exit(&self.container.id, &self.container.state.started_at, exit_code);
        self.wire.cut();
        self.pipe.end();
    }
}

impl MemoryDocker {
    pub(super) fn attach_container(&self, id: &str) -> Result<Attached> {
        let doing = format!("attach to container {id}");
        let pipe = Arc::new(Pipe::default());
        let (sender, mut receiver) = mpsc::unbounded_channel();
        self.with(&doing, id, |record| {
            if record.container.state.running {
                return Err(conflict(&doing, "it runs already"));
            }
            let output = Wire(Arc::new(Mutex::new(Some(sender))));
            record.streams = Some(Streams { input: pipe.clone(), output });
            record.hang_up = Some(HangUp(pipe.clone()));
            Ok(())
        })?;
        let output: OutputStream = Box::pin(futures_util::stream::poll_fn(move |context| {
            receiver.poll_recv(context).map(|it| it.map(Ok))
        }));
        Ok(Attached { stdin: Box::pin(Writer { pipe, dialogue: Dialogue::default() }), output })
    }

    /// Takes the streams of a container that starts; if nobody is attached, its input is empty.
    pub(super) fn take_streams(&self, container: &Container) -> Streams {
        let taken = self.with("start", &container.id, |record| Ok(record.streams.take()));
        taken.ok().flatten().unwrap_or_else(|| {
            let input = Arc::new(Pipe::default());
            input.close();
            Streams { input, output: Wire(Arc::default()) }
        })
    }

    pub(super) fn start_agent(&self, container: &Container) {
        let Streams { input, output } = self.take_streams(container);
        let mounted = |destination: &str| {
            let mount = container.mounts.iter().find(|mount| mount.destination == Path::new(destination));
            mount.map_or_else(|| PathBuf::from("/nonexistent"), |mount| mount.source.clone())
        };
        let pretence = self.state().pretence_of(&container.image);
        let options = SessionOptions {
            root: mounted(SOURCE),
            stage: mounted(STAGE),
            fifo: "/nonexistent/data".into(),
            kernel: mounted(PIPE).join(KERNEL),
            input: "/nonexistent/input".into(),
        };
        let streams = session::Streams {
            input: Box::new(Reader(input.clone())),
            archive: session::Output::new(Archive(output.clone())),
            events: session::Output::new(Events { wire: output.clone(), pipe: input.clone(), pretence }),
        };
        input.serve();
        let ending = Ending { docker: self.clone(), container: container.clone(), wire: output, pipe: input };
        let (alive, runtime) = (Outside::alive(), tokio::runtime::Handle::current());
        std::thread::spawn(move || {
            let _alive = alive;
            // So that the thread has the runtime's time.
            let _runtime = runtime.enter();
            let _ending = ending;
            serve(&options, streams, || {});
        });
    }
}
