//! One connection: a process `ssh` that runs the server's SFTP, and who waits for which of its answers.
//!
//! `ssh` asks nobody anything: it has the user's own configuration, keys and known hosts, and fails where it would have to
//! ask. It is in a process group of its own, so that a Ctrl-C at the terminal does not end it before what was written
//! there is cleaned up.

use std::collections::{HashMap, HashSet};
use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::settings::Settings;
use super::wire::{
    Ask, Attributes, HELLO, INIT, OK, PACKET_MAX, Reader, Reply, VERSION, kind_of, put_text, request,
};
use crate::store::trouble::{Failure, Service, Trouble};

/// How long an answer may take. A connection that is gone is noticed earlier, by `ssh`.
const ANSWER: Duration = Duration::from_secs(300);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(60);
/// How long `ssh` may take to say why it ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How many packets wait to be sent.
const WAITING: usize = 64;
/// More nobody reads of what `ssh` says.
const SAID_MAX: usize = 8 << 10;
/// What `ssh` is told besides: as its own `sftp` does, and to notice a dead connection within a minute.
const OPTIONS: [&str; 9] = [
    "BatchMode=yes",
    "ConnectTimeout=20",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ForwardX11=no",
    "ForwardAgent=no",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "LogLevel=ERROR",
];

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    packets: mpsc::Sender<Bytes>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU32,
    /// What the server can do beyond the protocol.
    extensions: HashSet<String>,
    /// It ends with this.
    _ssh: Option<Child>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_id: HashMap<u32, oneshot::Sender<Reply>>,
    /// Why there is no connection any more, in the words of `ssh`.
    over: Option<String>,
}

/// An answer that will come.
pub(super) struct Answer {
    reply: oneshot::Receiver<Reply>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// When `ssh` cannot be run, cannot connect, or what answers is no SFTP server.
    pub(super) async fn connect(settings: &Settings) -> io::Result<Self> {
        let mut command = Command::new("ssh");
        command.args(OPTIONS.iter().flat_map(|option| ["-o", option]));
        if let Some(config) = &settings.config {
            command.arg("-F").arg(config);
        }
        command.args(settings.arguments());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut ssh =
            command.process_group(0).kill_on_drop(true).spawn().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Failure::without_request(Service::Sftp, Trouble::NoProgram),
                _ => error,
            })?;
        let (Some(to), Some(from), Some(said)) = (ssh.stdin.take(), ssh.stdout.take(), ssh.stderr.take())
        else {
            return Err(io::Error::other("ssh has no streams"));
        };
        let said = tokio::spawn(words(said));
        let session = timeout(CONNECT, Self::begin(to, from, said)).await;
        let session = session.map_err(|_| Failure::without_request(Service::Sftp, Trouble::Silent))??;
        Ok(Self { _ssh: Some(ssh), ..session })
    }

    /// Greets what is at the other end of these streams.
    async fn begin(
        mut to: impl AsyncWrite + Unpin + Send + 'static,
        mut from: impl AsyncRead + Unpin + Send + 'static,
        said: JoinHandle<String>,
    ) -> io::Result<Self> {
        let hello = async {
            let mut packet = BytesMut::new();
            packet.put_u32(5);
            packet.put_u8(INIT);
            packet.put_u32(VERSION);
            to.write_all(&packet).await?;
            to.flush().await?;
            let mut hello = Reader(packet_of(&mut from).await?);
            if hello.byte()? != HELLO {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is no SFTP server"));
            }
            hello.number()?;
            let mut extensions = HashSet::new();
            while !hello.0.is_empty() {
                extensions.insert(hello.text()?);
                hello.bytes()?;
            }
            Ok(extensions)
        };
        let extensions = match hello.await {
            Ok(extensions) => extensions,
            Err(error) => return Err(ended(&last_words(said).await, &error)),
        };
        let (packets, mut outgoing) = mpsc::channel::<Bytes>(WAITING);
        tokio::spawn(async move {
            while let Some(packet) = outgoing.recv().await {
                if to.write_all(&packet).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
        });
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let answered = Arc::clone(&waiting);
        tokio::spawn(async move {
            let error = loop {
                match packet_of(&mut from).await.and_then(|packet| Reader(packet).reply()) {
                    Ok((id, reply)) => {
                        let waits = locked(&answered).by_id.remove(&id);
                        // Whoever waited may have gone.
                        waits.map(|waits| waits.send(reply));
                    }
                    Err(error) => break error,
                }
            };
            let said = last_words(said).await;
            let mut waiting = locked(&answered);
            waiting.over = Some(if said.is_empty() { error.to_string() } else { said });
            waiting.by_id.clear();
        });
        Ok(Self { packets, waiting, next: AtomicU32::new(1), extensions, _ssh: None })
    }

    /// Returns whether the server can do something beyond the protocol.
    pub(super) fn can(&self, extension: &str) -> bool {
        self.extensions.contains(extension)
    }

    /// Returns whether the connection is gone.
    pub(super) fn is_over(&self) -> bool {
        locked(&self.waiting).over.is_some() || self.packets.is_closed()
    }

    /// Sends a request, and does not wait for the answer.
    pub(super) async fn send(&self, ask: Ask, body: impl FnOnce(&mut BytesMut)) -> io::Result<Answer> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let packet = request(ask, id, body);
        let (sender, reply) = oneshot::channel();
        {
            let mut waiting = locked(&self.waiting);
            if let Some(why) = &waiting.over {
                return Err(lost(why));
            }
            waiting.by_id.insert(id, sender);
        }
        let answer = Answer { reply, waiting: Arc::clone(&self.waiting) };
        match timeout(ANSWER, self.packets.send(packet)).await {
            Ok(Ok(())) => Ok(answer),
            // The answer says why, once that is known.
            Ok(Err(_)) => Ok(answer),
            Err(_) => Err(silent()),
        }
    }

    /// Sends a request, and returns the answer.
    pub(super) async fn ask(&self, ask: Ask, body: impl FnOnce(&mut BytesMut)) -> io::Result<Reply> {
        self.send(ask, body).await?.wait().await
    }

    /// Makes a request that only succeeds or fails.
    pub(super) async fn tell(&self, ask: Ask, body: impl FnOnce(&mut BytesMut)) -> io::Result<()> {
        done(&self.ask(ask, body).await?)
    }

    /// Makes a request beyond the protocol.
    pub(super) async fn extended(&self, name: &str, words: &[&[u8]]) -> io::Result<Reply> {
        let body = |packet: &mut BytesMut| {
            put_text(packet, name.as_bytes());
            words.iter().for_each(|word| put_text(packet, word));
        };
        self.ask(Ask::Extended, body).await
    }

    /// Returns what has a path; a link is followed, if `ask` is [`Ask::Stat`].
    pub(super) async fn look(&self, ask: Ask, path: &str) -> io::Result<Attributes> {
        match self.ask(ask, |packet| put_text(packet, path.as_bytes())).await? {
            Reply::Attributes(attributes) => Ok(attributes),
            other => Err(refused(&other)),
        }
    }
}

impl Answer {
    /// Waits for it.
    pub(super) async fn wait(self) -> io::Result<Reply> {
        match timeout(ANSWER, self.reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(lost(locked(&self.waiting).over.as_deref().unwrap_or_default())),
            Err(_) => Err(silent()),
        }
    }
}

/// Returns the outcome of a request that only succeeds or fails.
pub(super) fn done(reply: &Reply) -> io::Result<()> {
    match reply {
        Reply::Status { code: OK, .. } => Ok(()),
        other => Err(refused(other)),
    }
}

/// Returns the error that an answer is, where another one was expected.
pub(super) fn refused(reply: &Reply) -> io::Error {
    let Reply::Status { code, said } = reply else {
        return io::Error::new(
            io::ErrorKind::InvalidData,
            "the server answers something else than it was asked",
        );
    };
    let kind = kind_of(*code);
    let trouble = match kind {
        io::ErrorKind::PermissionDenied => Trouble::Forbidden,
        io::ErrorKind::Unsupported => Trouble::Unable,
        _ => Trouble::Other,
    };
    let said = if said.is_empty() { format!("the server answers with status {code}") } else { said.clone() };
    Failure { trouble, service: Service::Sftp, said }.into_error(kind)
}

/// Returns whether an error means that the connection is gone, and that another one may come about.
pub(super) fn is_lost(error: &io::Error) -> bool {
    let stays = |failure: &Failure| match failure.trouble {
        Trouble::NotLetIn | Trouble::HostKey => true,
        // Without a network no name is known for a while.
        Trouble::UnknownHost => !failure.said.contains("Temporary failure"),
        _ => false,
    };
    error.kind() == io::ErrorKind::ConnectionReset && !Failure::of(error).is_some_and(stays)
}

fn lost(said: &str) -> io::Error {
    let said = if said.is_empty() { "the connection ended" } else { said };
    ended(said, &io::ErrorKind::ConnectionReset.into())
}

fn silent() -> io::Error {
    let said = String::new();
    Failure { trouble: Trouble::Silent, service: Service::Sftp, said }.into_error(io::ErrorKind::TimedOut)
}

/// Returns why there is no connection, by what `ssh` has said.
fn ended(said: &str, error: &io::Error) -> io::Error {
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let trouble = if any(&["Host key verification failed", "IDENTIFICATION HAS CHANGED"]) {
        Trouble::HostKey
    } else if any(&["Permission denied", "Too many authentication failures"]) {
        Trouble::NotLetIn
    } else if any(&["Could not resolve hostname"]) {
        Trouble::UnknownHost
    } else if any(&["Connection refused", "No route to host", "Network is unreachable"]) {
        Trouble::Refused
    } else if any(&["timed out", "not responding"]) {
        Trouble::Silent
    } else if any(&["subsystem request failed"]) {
        Trouble::Unable
    } else {
        Trouble::Other
    };
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned());
    let said = last.unwrap_or_else(|| format!("the connection ended: {error}"));
    Failure { trouble, service: Service::Sftp, said }.into_error(io::ErrorKind::ConnectionReset)
}

/// Returns the next packet, without its length.
async fn packet_of(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = from.read_u32().await?;
    if length > PACKET_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is no SFTP server"));
    }
    let mut packet = vec![0; length as usize];
    from.read_exact(&mut packet).await?;
    Ok(packet.into())
}

/// Returns what `ssh` says until it ends.
async fn words(said: impl AsyncRead + Unpin) -> String {
    let mut text = Vec::new();
    let mut said = said;
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = said.read(&mut piece).await {
        // The last words say why.
        text.extend_from_slice(&piece[..length]);
        let surplus = text.len().saturating_sub(SAID_MAX);
        text.drain(..surplus);
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn last_words(said: JoinHandle<String>) -> String {
    timeout(LAST_WORDS, said).await.ok().and_then(Result::ok).unwrap_or_default()
}

fn locked(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the other end: greets, and answers each request by `answer`; `None` ends the connection.
    async fn with_server(answer: fn(u8, u32) -> Option<Vec<u8>>) -> io::Result<Session> {
        let (here, there) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(there);
            packet_of(&mut from).await.unwrap();
            to.write_all(b"\0\0\0\x05\x02\0\0\0\x03").await.unwrap();
            while let Ok(mut packet) = packet_of(&mut from).await {
                use bytes::Buf as _;
                let Some(reply) = answer(packet.get_u8(), packet.get_u32()) else { return };
                to.write_u32(u32::try_from(reply.len()).unwrap()).await.unwrap();
                to.write_all(&reply).await.unwrap();
            }
        });
        let (from, to) = tokio::io::split(here);
        Session::begin(
            to,
            from,
            tokio::spawn(async { "Connection to nas closed by remote host.\n".to_owned() }),
        )
        .await
    }

    fn status(id: u32, code: u32) -> Vec<u8> {
        [&[101][..], &id.to_be_bytes(), &code.to_be_bytes()].concat()
    }

    #[tokio::test]
    async fn each_answer_goes_to_who_has_asked_and_a_status_is_an_error_of_its_kind() {
        let session =
            with_server(|kind, id| Some(status(id, u32::from(kind == Ask::Remove as u8) * 2))).await.unwrap();
        let (first, second) =
            tokio::join!(session.tell(Ask::Mkdir, |_| ()), session.tell(Ask::Remove, |_| ()));
        first.unwrap();
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!session.is_over() && !session.can("fsync@openssh.com"));
    }

    #[tokio::test]
    async fn whoever_waits_when_the_connection_ends_learns_why() {
        let session = with_server(|_, _| None).await.unwrap();
        for _ in 0..2 {
            let error = session.tell(Ask::Remove, |_| ()).await.unwrap_err();
            assert!(is_lost(&error), "{error}");
            assert_eq!(error.to_string(), "Connection to nas closed by remote host.");
        }
        assert!(session.is_over());
    }

    #[test]
    fn what_ssh_says_is_told_with_what_to_do() {
        for (said, trouble) in [
            ("me@nas: Permission denied (publickey,password).", Trouble::NotLetIn),
            ("No ED25519 host key is known for nas.\nHost key verification failed.", Trouble::HostKey),
            ("ssh: Could not resolve hostname nas: Name or service not known", Trouble::UnknownHost),
            ("ssh: connect to host nas port 22: Connection refused", Trouble::Refused),
            ("ssh: connect to host nas port 22: Connection timed out", Trouble::Silent),
            ("subsystem request failed on channel 0", Trouble::Unable),
        ] {
            let error = ended(said, &io::ErrorKind::UnexpectedEof.into());
            let failure = Failure::of(&error).unwrap();
            assert_eq!(
                is_lost(&error),
                matches!(trouble, Trouble::Refused | Trouble::Silent | Trouble::Unable)
            );
            assert_eq!(failure.trouble, trouble);
            assert!(error.to_string().contains(said.lines().last().unwrap()), "{error}");
        }
    }
}
