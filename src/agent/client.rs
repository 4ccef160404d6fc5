//! The command's side of a session with the agent.
//!
//! Calls go in on the helper's standard input, and events come on its standard error. The archive comes over a FIFO if
//! command and helper see one file system, otherwise over the standard output (measured: 1.2 GB/s against 230 MB/s;
//! the engine's streams are the bottleneck). Dropping the client closes the input, which ends the agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::archive::ArchiveStats;
use super::calls::{self, Call, Channel};
use super::extract::Extracted;
use super::protocol::{Event, Failure, FailureKind, Ready, VERSION};
use super::session::KERNEL_ID;
use crate::archive::{FrameDecoder, FrameKind};
use crate::engine::helper::{INPUT, KERNEL};
use crate::engine::{Docker, DockerError, Output, OutputStream};
use crate::model::event;
use crate::model::event::{Monitor, Silent};

/// How long the agent may take from its start to its first word.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may say nothing at all while it works; it reports progress many times a second. Whoever puts something
/// back gives up [sooner](AgentClient::allow_silence) and asks a new agent.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(300);
/// How much the FIFO holds: the more, the fewer turns between the two sides. This is the kernel's limit for any user.
const FIFO_BYTES: i32 = 1 << 20;

/// A session with the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The engine failed.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The FIFO could not be made or read.
    #[error("use the FIFO {path}")]
    Fifo {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The helper ended before it had answered.
    #[error("the helper ended before it had answered{}", said(.stderr_tail))]
    Ended {
        /// What it wrote that is no event, such as a panic's message.
        stderr_tail: String,
    },
    /// The helper said nothing for too long.
    #[error("the helper has said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// Nothing could be handed to whoever takes the archive for too long.
    #[error("nothing could be written for {} s", .0.as_secs())]
    Stuck(Duration),
    /// What a pass would write does not fit where the stage lies.
    #[error("{0}")]
    StageFull(String),
    /// The agent reports a failure.
    #[error("{0}")]
    Failed(String),
    /// The agent belongs to another build, which speaks another protocol.
    #[error(
        "the helper speaks protocol {protocol} (volsnap {version}), and this volsnap {} speaks protocol {VERSION}",
        env!("CARGO_PKG_VERSION")
    )]
    OtherProtocol {
        /// The version that it speaks.
        protocol: u32,
        /// The volsnap that it belongs to.
        version: String,
    },
    /// The reply does not fit the call.
    #[error("the helper answered out of turn: {0}")]
    UnexpectedReply(String),
    /// The archive's stream is damaged.
    #[error("the stream from the helper is damaged: {0}")]
    Stream(String),
    /// Nothing opens the archive that is to be unpacked, however often it is tried.
    #[error("{}", .0.chain())]
    NoKey(crate::Error),
    /// Whoever takes the archive failed.
    #[error(transparent)]
    ArchiveSink(crate::Error),
}

fn said(stderr_tail: &str) -> String {
    if stderr_tail.is_empty() { String::new() } else { format!("; it said: {}", stderr_tail.trim_end()) }
}

/// Takes what comes from the agent.
#[async_trait]
pub trait ArchiveSink: Send {
    /// Takes the next bytes of the archive.
    ///
    /// # Errors
    /// When they cannot be stored.
    async fn archive(&mut self, bytes: Bytes) -> crate::Result<()>;

    /// Takes the next bytes of the file list.
    ///
    /// # Errors
    /// When they cannot be stored.
    async fn file_list(&mut self, bytes: Bytes) -> crate::Result<()>;
}

/// Provides what goes to the agent.
#[async_trait]
pub trait ArchiveSource: Send {
    /// Returns the next bytes of the archive; `None` at its end.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn next(&mut self) -> crate::Result<Option<Bytes>>;
}

/// A running agent.
pub struct AgentClient {
    stdin: Pin<Box<dyn AsyncWrite + Send>>,
    lines: mpsc::UnboundedReceiver<StderrLine>,
    data: Data,
    stderr_tail: String,
    /// How long it may be silent.
    silence: Duration,
    beside: bool,
}

impl std::fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentClient")
    }
}

/// A line of the agent's standard error: an event, or something else.
enum StderrLine {
    Event(Event),
    Other(String),
    Failed(DockerError),
}

/// The way the archive comes.
enum Data {
    Fifo { receiver: pipe::Receiver, path: PathBuf },
    Stdout(mpsc::Receiver<Bytes>),
}

impl AgentClient {
    /// Starts the created helper `container` and returns once its agent has spoken. `fifo` is the path of the FIFO as
    /// the command sees it.
    ///
    /// # Errors
    /// When it cannot be attached to or started, or does not speak in time.
    pub async fn start(
        docker: &dyn Docker,
        container: &str,
        fifo: Option<&Path>,
    ) -> Result<Self, AgentError> {
        let receiver =
            fifo.map(|path| make_fifo(path).map(|receiver| (receiver, path.to_owned()))).transpose()?;
        if let Some(path) = fifo {
            say_kernel(&path.with_file_name(KERNEL))?;
        }
        let attached = docker.attach(container).await?;
        docker.start(container).await?;
        let (stdout_sender, stdout) = mpsc::channel(4);
        let (line_sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(pump(attached.output, stdout_sender, line_sender));
        let mut client = Self {
            stdin: attached.stdin,
            lines,
            data: Data::Stdout(stdout),
            stderr_tail: String::new(),
            silence: SILENCE_LIMIT,
            beside: false,
        };
        match timeout(START_LIMIT, client.event()).await.map_err(|_| AgentError::Silent(START_LIMIT))?? {
            Event::Ready(Ready { protocol: VERSION, version, fifo: seen, beside }) => {
                client.beside = beside;
                tracing::debug!(version, fifo = seen, "the agent runs");
                if let (true, Some((receiver, path))) = (seen, receiver) {
                    client.data = Data::Fifo { receiver, path };
                }
                Ok(client)
            }
            Event::Ready(Ready { protocol, version, .. }) => {
                Err(AgentError::OtherProtocol { protocol, version })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Returns whether it has proved that it runs on this machine, and that the engine sees the files here.
    #[must_use]
    pub fn is_beside_us(&self) -> bool {
        self.beside
    }

    /// Makes every later call fail after this much silence.
    pub fn allow_silence(&mut self, limit: Duration) {
        self.silence = limit;
    }

    /// Asks something of the agent.
    ///
    /// # Errors
    /// [`AgentError::Failed`] with what the agent says, [`AgentError::StageFull`] if a stage has no room; or the agent
    /// ends, or is silent for too long.
    pub async fn call<C: Call>(&mut self, call: C) -> Result<C::Answer, AgentError> {
        self.call_watched(call, &Silent).await
    }

    /// Does the same as [`call`](Self::call), and reports progress.
    ///
    /// # Errors
    /// As for [`call`](Self::call).
    pub async fn call_watched<C: Call>(
        &mut self,
        call: C,
        monitor: &dyn Monitor,
    ) -> Result<C::Answer, AgentError> {
        self.send(&call).await?;
        loop {
            let silence = self.silence;
            let event = timeout(silence, self.event());
            let event = event.await.map_err(|_| AgentError::Silent(silence))??;
            if let Some(answer) = outcome::<C>(event, monitor)? {
                return Ok(answer);
            }
        }
    }

    /// Has the agent write the archive and hands it to `sink` as it comes; returns once every byte of it has been
    /// taken.
    ///
    /// # Errors
    /// When the agent fails (it names a file that cannot be read) or dies, or the sink fails.
    pub async fn archive(
        &mut self,
        call: calls::Archive,
        sink: &mut dyn ArchiveSink,
        monitor: &dyn Monitor,
    ) -> Result<ArchiveStats, AgentError> {
        self.send(&call).await?;
        let silence = self.silence;
        let mut decoder = FrameDecoder::new();
        let mut archived = None;
        loop {
            if let Some(archived) = archived.take_if(|_| decoder.is_ended()) {
                return Ok(archived);
            }
            let step = async {
                tokio::select! {
                    line = self.lines.recv() => Ok(Step::StderrLine(line)),
                    bytes = self.data.next(), if !decoder.is_ended() => bytes.map(Step::Data),
                }
            };
            match timeout(silence, step).await.map_err(|_| AgentError::Silent(silence))?? {
                Step::Data(bytes) => timeout(silence, take(&mut decoder, &bytes, sink))
                    .await
                    .map_err(|_| AgentError::Stuck(silence))??,
                Step::StderrLine(line) => {
                    if let Some(event) = self.event_in(line)? {
                        archived = outcome::<calls::Archive>(event, monitor)?;
                    }
                }
            }
        }
    }

    /// Has the agent extract an archive beside the data; returns once all of it is durable there.
    ///
    /// # Errors
    /// When the agent refuses or fails, dies, or the feed fails.
    pub async fn extract(
        &mut self,
        mut call: calls::Extract,
        feed: &mut dyn ArchiveSource,
        monitor: &dyn Monitor,
    ) -> Result<Extracted, AgentError> {
        let fifo = match &self.data {
            Data::Fifo { path, .. } => Some(make_input(&path.with_file_name(INPUT))?),
            Data::Stdout(_) => None,
        };
        call.channel = if fifo.is_some() { Channel::Fifo } else { Channel::Stdin };
        self.send(&call).await?;
        let (lines, silence) = (&mut self.lines, self.silence);
        let (mut stderr_tail, stdin) = (String::new(), &mut self.stdin);
        let (tell_opened, opened) = oneshot::channel();
        let mut tell_opened = Some(tell_opened);
        let feeding = async move {
            match fifo {
                Some((sender, path)) => feed_fifo(sender, &path, feed, opened).await,
                None => feed_stdin(stdin, feed).await,
            }
        };
        tokio::pin!(feeding);
        let mut fed = false;
        loop {
            let step = async {
                tokio::select! {
                    line = lines.recv() => Ok(Some(line)),
                    outcome = &mut feeding, if !fed => outcome.map(|()| None),
                }
            };
            let line = match timeout(silence, step).await.map_err(|_| AgentError::Silent(silence))?? {
                None => {
                    fed = true;
                    continue;
                }
                Some(line) => line,
            };
            let Some(event) = event_in(line, &mut stderr_tail)? else { continue };
            if let Some(tell) = tell_opened.take() {
                // Without a FIFO nobody listens.
                let _ = tell.send(());
            }
            if let Some(extracted) = outcome::<calls::Extract>(event, monitor)? {
                return Ok(extracted);
            }
        }
    }

    async fn send<C: Call>(&mut self, call: &C) -> Result<(), AgentError> {
        let ended = |stderr_tail: &str| AgentError::Ended { stderr_tail: stderr_tail.to_owned() };
        let mut line = serde_json::to_vec(&BTreeMap::from([(C::NAME, call)]))
            .map_err(|error| AgentError::UnexpectedReply(error.to_string()))?;
        line.push(b'\n');
        let sent = async {
            self.stdin.write_all(&line).await?;
            self.stdin.flush().await
        };
        match timeout(START_LIMIT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ended(&self.stderr_tail)),
            Err(_) => Err(AgentError::Silent(START_LIMIT)),
        }
    }

    async fn event(&mut self) -> Result<Event, AgentError> {
        loop {
            let line = self.lines.recv().await;
            if let Some(event) = self.event_in(line)? {
                return Ok(event);
            }
        }
    }

    fn event_in(&mut self, line: Option<StderrLine>) -> Result<Option<Event>, AgentError> {
        event_in(line, &mut self.stderr_tail)
    }
}

/// Returns the answer to a call, if the event is one; passes on progress.
fn outcome<C: Call>(event: Event, monitor: &dyn Monitor) -> Result<Option<C::Answer>, AgentError> {
    match event {
        Event::Progress { files, bytes } => {
            monitor.event(event::Event::Progress { files, bytes });
            Ok(None)
        }
        Event::Failed(Failure { kind: FailureKind::StageFull, message }) => {
            Err(AgentError::StageFull(message))
        }
        Event::Failed(Failure { kind: FailureKind::Other, message }) => Err(AgentError::Failed(message)),
        other => other.answered::<C>().map(Some).ok_or_else(|| unexpected(&other)),
    }
}

fn unexpected(event: &Event) -> AgentError {
    AgentError::UnexpectedReply(format!("{event:?}"))
}

fn event_in(line: Option<StderrLine>, stderr_tail: &mut String) -> Result<Option<Event>, AgentError> {
    match line {
        Some(StderrLine::Event(event)) => Ok(Some(event)),
        Some(StderrLine::Other(line)) => {
            // A panic or the loader speaks; keep it for the message, in case the agent ends.
            if stderr_tail.len() < 4096 {
                stderr_tail.push_str(&line);
                stderr_tail.push('\n');
            }
            Ok(None)
        }
        Some(StderrLine::Failed(error)) => Err(error.into()),
        None => Err(AgentError::Ended { stderr_tail: std::mem::take(stderr_tail) }),
    }
}

enum Step {
    StderrLine(Option<StderrLine>),
    Data(Bytes),
}

impl Data {
    async fn next(&mut self) -> Result<Bytes, AgentError> {
        match self {
            Self::Fifo { receiver, path } => {
                let mut buffer = BytesMut::with_capacity(FIFO_BYTES.unsigned_abs() as usize);
                match receiver.read_buf(&mut buffer).await {
                    Ok(_) => Ok(buffer.freeze()),
                    Err(source) => Err(AgentError::Fifo { path: path.clone(), source }),
                }
            }
            Self::Stdout(receiver) => match receiver.recv().await {
                Some(bytes) => Ok(bytes),
                // The end of the events tells its end.
                None => std::future::pending().await,
            },
        }
    }
}

/// Makes the FIFO and opens its reading end, also as a writer: so the agent's end is no end of file; the engine
/// reports it.
/// Writes on which kernel we run: an agent that reads it, and runs on the same, is on this machine.
fn say_kernel(path: &Path) -> Result<(), AgentError> {
    let failed = |source| AgentError::Fifo { path: path.to_owned(), source };
    // Without one, no agent finds its own there.
    let kernel = std::fs::read(KERNEL_ID).unwrap_or_default();
    std::fs::write(path, kernel).map_err(failed)?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(failed)
}

fn make_fifo(path: &Path) -> Result<pipe::Receiver, AgentError> {
    let failed = |source| AgentError::Fifo { path: path.to_owned(), source };
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| failed(errno.into()))?;
    // The helper is root but may not override permissions: if the command is not root, the helper may write as
    // anybody. The directory around the FIFO lets nobody else in.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o622)).map_err(failed)?;
    let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(path).map_err(failed)?;
    if let Err(errno) = fcntl(&receiver, FcntlArg::F_SETPIPE_SZ(FIFO_BYTES)) {
        tracing::debug!(%errno, "the FIFO keeps its size");
    }
    Ok(receiver)
}

/// Makes the FIFO for the data to restore and opens its writing end, also as a reader: so an agent that ends breaks no
/// pipe; the engine reports it.
fn make_input(path: &Path) -> Result<(pipe::Sender, PathBuf), AgentError> {
    let failed = |source| AgentError::Fifo { path: path.to_owned(), source };
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| failed(errno.into()))?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(failed)?;
    let sender = pipe::OpenOptions::new().read_write(true).open_sender(path).map_err(failed)?;
    if let Err(errno) = fcntl(&sender, FcntlArg::F_SETPIPE_SZ(FIFO_BYTES)) {
        tracing::debug!(%errno, "the FIFO keeps its size");
    }
    Ok((sender, path.to_owned()))
}

/// Feeds the archive through a FIFO; closing the FIFO ends the archive. It stays open until the agent has opened it:
/// what a FIFO holds is lost if nobody has it open, and a small archive fits into it at once.
async fn feed_fifo(
    mut sender: pipe::Sender,
    path: &Path,
    feed: &mut dyn ArchiveSource,
    opened: oneshot::Receiver<()>,
) -> Result<(), AgentError> {
    let failed = |source| AgentError::Fifo { path: path.to_owned(), source };
    while let Some(bytes) = feed.next().await.map_err(AgentError::ArchiveSink)? {
        sender.write_all(&bytes).await.map_err(failed)?;
    }
    // If nobody tells, the agent has ended in another way.
    let _ = opened.await;
    Ok(())
}

/// Feeds the archive through the standard input, in pieces.
async fn feed_stdin(
    stdin: &mut Pin<Box<dyn AsyncWrite + Send>>,
    feed: &mut dyn ArchiveSource,
) -> Result<(), AgentError> {
    let ended = |_| AgentError::Ended { stderr_tail: String::new() };
    while let Some(bytes) = feed.next().await.map_err(AgentError::ArchiveSink)? {
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        stdin.write_all(&length.to_le_bytes()).await.map_err(ended)?;
        stdin.write_all(&bytes).await.map_err(ended)?;
    }
    stdin.write_all(&0_u32.to_le_bytes()).await.map_err(ended)?;
    stdin.flush().await.map_err(ended)
}

async fn take(
    decoder: &mut FrameDecoder,
    arrived: &Bytes,
    sink: &mut dyn ArchiveSink,
) -> Result<(), AgentError> {
    for payload in decoder.push(arrived) {
        let (kind, piece) =
            payload.map_err(|error| AgentError::Stream(crate::model::error::chain(&error)))?;
        let bytes = arrived.slice_ref(piece);
        match kind {
            FrameKind::Archive => sink.archive(bytes).await,
            FrameKind::List => sink.file_list(bytes).await,
            FrameKind::End => Ok(()),
        }
        .map_err(AgentError::ArchiveSink)?;
    }
    Ok(())
}

/// Sorts what the helper writes: standard output is data, standard error is lines.
async fn pump(
    mut output: OutputStream,
    stdout: mpsc::Sender<Bytes>,
    lines: mpsc::UnboundedSender<StderrLine>,
) {
    let mut partial = Vec::new();
    while let Some(piece) = output.next().await {
        match piece {
            Ok(Output::Stdout(bytes)) => drop(stdout.send(bytes).await),
            Ok(Output::Stderr(bytes)) => {
                partial.extend_from_slice(&bytes);
                while let Some(end) = partial.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = partial.drain(..=end).collect();
                    drop(lines.send(parsed(&line)));
                }
            }
            Err(error) => drop(lines.send(StderrLine::Failed(error))),
        }
    }
}

fn parsed(line: &[u8]) -> StderrLine {
    match serde_json::from_slice(line) {
        Ok(event) => StderrLine::Event(event),
        Err(_) => StderrLine::Other(String::from_utf8_lossy(line).trim_end().to_owned()),
    }
}

/// Returns the name of the helper for a source. Each source has one name, so the engine itself, which gives a name
/// only once, keeps two runs apart.
#[must_use]
pub fn helper_name(source_key: &str) -> String {
    format!("volsnap-{}", &blake3::hash(source_key.as_bytes()).to_hex()[..12])
}
