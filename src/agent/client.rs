//! The command's side of a session with the agent.
//!
//! Requests go in on the helper's standard input, events come on its standard error, and the archive
//! comes over a FIFO where command and helper see one file system, else over its standard output
//! (measured: 1.2 GB/s against 230 MB/s, the engine's streams being the bottleneck). Dropping the
//! client closes the input, which ends the agent.

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
use super::extract::Extracted;
use super::protocol::{
    ArchiveRequest, Event, ExtractRequest, Request, Room, StageCompareRequest, StagePassRequest, StageRoom,
    Survey,
};
use super::swap::SwapState;
use crate::agent::staging::{CompareStats, StageStats};
use crate::archive::{FrameDecoder, FrameKind};
use crate::engine::helper::INPUT;
use crate::engine::{Docker, DockerError, Output, OutputStream};
use crate::model::event;
use crate::model::event::Monitor;
use crate::model::inspection::Inspection;

/// How long the agent may take from its start to its first word.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may say nothing at all while it works; it reports progress many times a second. Whoever puts something
/// back asks a new one [sooner](AgentClient::allow_silence).
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(300);
/// How much the FIFO holds: fewer turns between the two sides. The kernel's limit for anybody.
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
        /// What it wrote that is no event, as a panic's message.
        stderr_tail: String,
    },
    /// The helper said nothing for too long.
    #[error("the helper has said nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// Whoever takes the archive took nothing for too long.
    #[error("nothing could be written for {} s", .0.as_secs())]
    Stuck(Duration),
    /// What a pass would write does not fit where the stage lies.
    #[error("{0}")]
    StageFull(String),
    /// The agent reports a failure.
    #[error("{0}")]
    Failed(String),
    /// What came is not what was asked for.
    #[error("the helper answered out of turn: {0}")]
    UnexpectedReply(String),
    /// The archive's stream is damaged.
    #[error("the stream from the helper is damaged: {0}")]
    Stream(String),
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
    /// When they cannot be kept.
    async fn archive(&mut self, bytes: Bytes) -> crate::Result<()>;

    /// Takes the next bytes of the file list.
    ///
    /// # Errors
    /// When they cannot be kept.
    async fn file_list(&mut self, bytes: Bytes) -> crate::Result<()>;
}

/// Has what goes to the agent.
#[async_trait]
pub trait ArchiveSource: Send {
    /// Returns the next bytes of the archive; `None` at its end.
    ///
    /// # Errors
    /// When they cannot be had.
    async fn next(&mut self) -> crate::Result<Option<Bytes>>;
}

/// A running agent.
pub struct AgentClient {
    stdin: Pin<Box<dyn AsyncWrite + Send>>,
    words: mpsc::UnboundedReceiver<StderrLine>,
    data: Data,
    stderr_tail: String,
    /// How long it may say nothing.
    silence: Duration,
}

impl std::fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentClient")
    }
}

/// What comes on the agent's standard error: an event, or a line that is none.
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
    /// Starts the created helper `container` and returns once its agent has spoken. `fifo` is the path of
    /// the FIFO as the command sees it.
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
        let attached = docker.attach(container).await?;
        docker.start(container).await?;
        let (stdout_sender, stdout) = mpsc::channel(4);
        let (word_sender, words) = mpsc::unbounded_channel();
        tokio::spawn(pump(attached.output, stdout_sender, word_sender));
        let mut client = Self {
            stdin: attached.stdin,
            words,
            data: Data::Stdout(stdout),
            stderr_tail: String::new(),
            silence: SILENCE_LIMIT,
        };
        match timeout(START_LIMIT, client.event()).await.map_err(|_| AgentError::Silent(START_LIMIT))?? {
            Event::Ready { fifo: seen, version } => {
                tracing::debug!(version, fifo = seen, "the agent runs");
                if let (true, Some((receiver, path))) = (seen, receiver) {
                    client.data = Data::Fifo { receiver, path };
                }
                Ok(client)
            }
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Has whatever is asked from here on fail after so long without a word.
    pub fn allow_silence(&mut self, limit: Duration) {
        self.silence = limit;
    }

    /// Looks at the whole source once.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub async fn survey(&mut self, exclude: &[String]) -> Result<Survey, AgentError> {
        self.survey_of(exclude, false).await
    }

    /// Looks at the whole stage once.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub async fn survey_stage(&mut self, exclude: &[String]) -> Result<Survey, AgentError> {
        self.survey_of(exclude, true).await
    }

    async fn survey_of(&mut self, exclude: &[String], from_stage: bool) -> Result<Survey, AgentError> {
        match self.ask(&Request::Survey { exclude: exclude.to_vec(), from_stage }).await? {
            Event::Surveyed(survey) => Ok(survey),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Reads the files of a database.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn inspect(
        &mut self,
        engine: &str,
        data_directory: &Path,
        mounted_at: Option<&Path>,
    ) -> Result<Inspection, AgentError> {
        self.inspect_tree(Path::new(""), engine, data_directory, mounted_at).await
    }

    /// As [`inspect`](Self::inspect), of a tree within the source.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn inspect_tree(
        &mut self,
        tree: &Path,
        engine: &str,
        data_directory: &Path,
        mounted_at: Option<&Path>,
    ) -> Result<Inspection, AgentError> {
        self.inspect_of(Request::Inspect {
            tree: tree.to_owned(),
            engine: engine.to_owned(),
            data_directory: data_directory.to_owned(),
            mounted_at: mounted_at.map(Path::to_owned),
            from_stage: false,
        })
        .await
    }

    /// As [`inspect`](Self::inspect), of the stage.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn inspect_stage(
        &mut self,
        engine: &str,
        data_directory: &Path,
        mounted_at: Option<&Path>,
    ) -> Result<Inspection, AgentError> {
        self.inspect_of(Request::Inspect {
            tree: PathBuf::new(),
            engine: engine.to_owned(),
            data_directory: data_directory.to_owned(),
            mounted_at: mounted_at.map(Path::to_owned),
            from_stage: true,
        })
        .await
    }

    async fn inspect_of(&mut self, request: Request) -> Result<Inspection, AgentError> {
        match self.ask(&request).await? {
            Event::Inspected(inspection) => Ok(inspection),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Has the archive written and hands it to `sink` as it comes; returns once every byte of it has been
    /// taken.
    ///
    /// # Errors
    /// When the agent fails (a file that cannot be read is named), dies, or the sink fails.
    pub async fn archive(
        &mut self,
        request: ArchiveRequest,
        sink: &mut dyn ArchiveSink,
        monitor: &dyn Monitor,
    ) -> Result<ArchiveStats, AgentError> {
        self.send(&Request::Archive(request)).await?;
        let silence = self.silence;
        let mut decoder = FrameDecoder::new();
        let mut archived = None;
        loop {
            if let Some(archived) = archived.take_if(|_| decoder.is_ended()) {
                return Ok(archived);
            }
            let step = async {
                tokio::select! {
                    word = self.words.recv() => Ok(Step::StderrLine(word)),
                    bytes = self.data.next(), if !decoder.is_ended() => bytes.map(Step::Data),
                }
            };
            match timeout(silence, step).await.map_err(|_| AgentError::Silent(silence))?? {
                Step::Data(bytes) => timeout(silence, take(&mut decoder, &bytes, sink))
                    .await
                    .map_err(|_| AgentError::Stuck(silence))??,
                Step::StderrLine(word) => match self.heard(word)? {
                    Some(Event::Progress { files, bytes }) => {
                        monitor.event(event::Event::Progress { files, bytes });
                    }
                    Some(Event::Archived(answer)) => archived = Some(answer),
                    Some(Event::Failed { message }) => return Err(AgentError::Failed(message)),
                    Some(other) => return Err(AgentError::UnexpectedReply(format!("{other:?}"))),
                    None => {}
                },
            }
        }
    }

    /// Looks how much room there is where the source lies.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub async fn room(&mut self) -> Result<Room, AgentError> {
        match self.ask(&Request::Room).await? {
            Event::Room(room) => Ok(room),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Looks how much room there is for the stage of a tree within the source, and what it can do.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub async fn stage_room(&mut self, tree: &Path) -> Result<StageRoom, AgentError> {
        match self.ask(&Request::StageRoom { tree: tree.to_owned() }).await? {
            Event::StageRoom(room) => Ok(room),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Has the stage filled by one pass over the source.
    ///
    /// # Errors
    /// [`AgentError::StageFull`] when it does not fit; [`AgentError::Failed`], naming the file, when
    /// something cannot be staged, or changes although it is held.
    pub async fn stage_pass(
        &mut self,
        request: StagePassRequest,
        monitor: &dyn Monitor,
    ) -> Result<StageStats, AgentError> {
        match self.ask_at_length(&Request::StagePass(request), monitor).await? {
            Event::Staged(stats) => Ok(stats),
            Event::StageFull { message } => Err(AgentError::StageFull(message)),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Has the stage made within the root that its tree will be moved into, where a run that died may have
    /// left its own: that is taken up. What is asked of a swap is about that root from here on.
    ///
    /// # Errors
    /// [`AgentError::Failed`], naming it, when something is there that must not be touched.
    pub async fn stage_into(&mut self, run: &str) -> Result<(), AgentError> {
        self.perform(Request::StageInto { run: run.to_owned() }).await
    }

    /// Has source and stage compared, byte by byte where an earlier comparison does not prove them equal.
    ///
    /// # Errors
    /// When either cannot be read. Differences are no error: they are told.
    pub async fn stage_compare(
        &mut self,
        request: StageCompareRequest,
        monitor: &dyn Monitor,
    ) -> Result<CompareStats, AgentError> {
        match self.ask_at_length(&Request::StageCompare(request), monitor).await? {
            Event::Compared(stats) => Ok(stats),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Has the stage left to a later run, durably; further passes may follow.
    ///
    /// # Errors
    /// When what is known of it cannot be written.
    pub async fn stage_keep(&mut self, monitor: &dyn Monitor) -> Result<(), AgentError> {
        match self.ask_at_length(&Request::StageKeep, monitor).await? {
            Event::Done => Ok(()),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Has the stage's tree removed.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub async fn stage_clear(&mut self, monitor: &dyn Monitor) -> Result<(), AgentError> {
        match self.ask_at_length(&Request::StageClear, monitor).await? {
            Event::Done => Ok(()),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Returns what a run has done to the source.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub async fn swap_state(&mut self, run: &str) -> Result<SwapState, AgentError> {
        match self.ask(&Request::SwapState { run: run.to_owned() }).await? {
            Event::Swap(state) => Ok(state),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Has something done that has nothing to tell: a step of the swap.
    ///
    /// # Errors
    /// When it fails.
    pub async fn perform(&mut self, request: Request) -> Result<(), AgentError> {
        // What was staged is waited for before it is moved, and that may take the disk its time.
        match self.ask_at_length(&request, &event::Silent).await? {
            Event::Done => Ok(()),
            other => Err(AgentError::UnexpectedReply(format!("{other:?}"))),
        }
    }

    /// Has an archive extracted beside the data; returns once all of it is durable there.
    ///
    /// # Errors
    /// When the agent refuses or fails, dies, or the feed fails.
    pub async fn extract(
        &mut self,
        mut request: ExtractRequest,
        feed: &mut dyn ArchiveSource,
        monitor: &dyn Monitor,
    ) -> Result<Extracted, AgentError> {
        let fifo = match &self.data {
            Data::Fifo { path, .. } => Some(make_input(&path.with_file_name(INPUT))?),
            Data::Stdout(_) => None,
        };
        request.fifo = fifo.is_some();
        self.send(&Request::Extract(request)).await?;
        let (words, silence) = (&mut self.words, self.silence);
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
                    word = words.recv() => Ok(Some(word)),
                    outcome = &mut feeding, if !fed => outcome.map(|()| None),
                }
            };
            let word = match timeout(silence, step).await.map_err(|_| AgentError::Silent(silence))?? {
                None => {
                    fed = true;
                    continue;
                }
                Some(word) => word,
            };
            match heard(word, &mut stderr_tail)? {
                Some(Event::Progress { files, bytes }) => {
                    if let Some(tell) = tell_opened.take() {
                        // Nobody listens where there is no FIFO.
                        let _ = tell.send(());
                    }
                    monitor.event(event::Event::Progress { files, bytes });
                }
                Some(Event::Extracted(extracted)) => return Ok(extracted),
                Some(Event::Failed { message }) => return Err(AgentError::Failed(message)),
                Some(other) => return Err(AgentError::UnexpectedReply(format!("{other:?}"))),
                None => {}
            }
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Event, AgentError> {
        self.send(request).await?;
        let silence = self.silence;
        match timeout(silence, self.event()).await.map_err(|_| AgentError::Silent(silence))?? {
            Event::Failed { message } => Err(AgentError::Failed(message)),
            event => Ok(event),
        }
    }

    /// Asks for what takes its time, and passes on how far it is.
    async fn ask_at_length(&mut self, request: &Request, monitor: &dyn Monitor) -> Result<Event, AgentError> {
        self.send(request).await?;
        let silence = self.silence;
        loop {
            match timeout(silence, self.event()).await.map_err(|_| AgentError::Silent(silence))?? {
                Event::Progress { files, bytes } => {
                    monitor.event(event::Event::Progress { files, bytes });
                }
                Event::Failed { message } => return Err(AgentError::Failed(message)),
                event => return Ok(event),
            }
        }
    }

    async fn send(&mut self, request: &Request) -> Result<(), AgentError> {
        let ended = |stderr_tail: &str| AgentError::Ended { stderr_tail: stderr_tail.to_owned() };
        let mut line =
            serde_json::to_vec(request).map_err(|error| AgentError::UnexpectedReply(error.to_string()))?;
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
            let word = self.words.recv().await;
            if let Some(event) = self.heard(word)? {
                return Ok(event);
            }
        }
    }

    fn heard(&mut self, word: Option<StderrLine>) -> Result<Option<Event>, AgentError> {
        heard(word, &mut self.stderr_tail)
    }
}

fn heard(word: Option<StderrLine>, stderr_tail: &mut String) -> Result<Option<Event>, AgentError> {
    match word {
        Some(StderrLine::Event(event)) => Ok(Some(event)),
        Some(StderrLine::Other(line)) => {
            // A panic or the loader speaks; kept for the message, should it end.
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
                // The end of it is told with the end of the events.
                None => std::future::pending().await,
            },
        }
    }
}

/// Makes the FIFO and opens its reading end, as a writer too: so the end of the agent is no end of
/// file but is told by the engine.
fn make_fifo(path: &Path) -> Result<pipe::Receiver, AgentError> {
    let failed = |source| AgentError::Fifo { path: path.to_owned(), source };
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| failed(errno.into()))?;
    // The helper is root without the right to override permissions: where the command is not root,
    // it may write as anybody. The directory around it lets nobody else in.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o622)).map_err(failed)?;
    let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(path).map_err(failed)?;
    if let Err(errno) = fcntl(&receiver, FcntlArg::F_SETPIPE_SZ(FIFO_BYTES)) {
        tracing::debug!(%errno, "the FIFO keeps its size");
    }
    Ok(receiver)
}

/// Makes the FIFO for what is to be restored and opens its writing end, as a reader too: so an agent that
/// ends is no broken pipe but is told by the engine.
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

/// Feeds the archive through a FIFO, whose closing is its end. It is not closed before the agent has opened it:
/// what a FIFO holds is lost when nobody has it open, and a small archive is all in it at once.
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
    // Whoever would tell has ended otherwise.
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
    words: mpsc::UnboundedSender<StderrLine>,
) {
    let mut partial = Vec::new();
    while let Some(piece) = output.next().await {
        match piece {
            Ok(Output::Stdout(bytes)) => drop(stdout.send(bytes).await),
            Ok(Output::Stderr(bytes)) => {
                partial.extend_from_slice(&bytes);
                while let Some(end) = partial.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = partial.drain(..=end).collect();
                    drop(words.send(word(&line)));
                }
            }
            Err(error) => drop(words.send(StderrLine::Failed(error))),
        }
    }
}

fn word(line: &[u8]) -> StderrLine {
    match serde_json::from_slice(line) {
        Ok(event) => StderrLine::Event(event),
        Err(_) => StderrLine::Other(String::from_utf8_lossy(line).trim_end().to_owned()),
    }
}

/// Returns the name of the helper for a source: one name a source, so that the engine itself, which
/// gives a name only once, keeps two runs apart.
#[must_use]
pub fn helper_name(source_key: &str) -> String {
    format!("volsnap-{}", &blake3::hash(source_key.as_bytes()).to_hex()[..12])
}
