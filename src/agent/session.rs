//! The agent's side of a session: answers requests until its input ends.
//!
//! A request is answered by exactly one event (after any number of [`Event::Progress`]); a failed one
//! by [`Event::Failed`], and the session goes on. When the input ends, the command is gone: the process of an
//! agent ends at once, in the middle of whatever it does.
//!
//! The [streams](Streams) are arguments, so that a session can run in a thread of a test.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use super::archive::{ArchiveOptions, Progress, archive_tree};
use super::extract::{ExtractOptions, extract, free_bytes};
use super::protocol::{
    ArchiveRequest, Event, ExtractRequest, Request, Room, StageCompareRequest, StagePassRequest,
};
use super::survey::survey;
use super::swap::{self, Step, SwapState, WorkDir};
use super::tree::exclude_set;
use crate::agent::staging;
use crate::agent::staging::{Follower, Stage, StageError, StagePlace};
use crate::archive::{ArchiveError, BlockReader, FrameWriter, Origin};
use crate::database;
use crate::model::error::chain;

/// Where the agent finds things inside the helper.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The source's root.
    pub root: PathBuf,
    /// The stage's directory, where there is one.
    pub stage: PathBuf,
    /// The FIFO to the command; [`Streams::archive`] serves when it is not there.
    pub fifo: PathBuf,
    /// The FIFO from the command; [`Streams::input`] serves when it is not there.
    pub input: PathBuf,
}

/// The streams that command and agent talk over.
pub struct Streams {
    /// Requests, a line each, and the pieces of an archive.
    pub input: Box<dyn Read + Send>,
    /// The archive that is written.
    pub archive: Output,
    /// Events, a line each.
    pub events: Output,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Streams")
    }
}

impl Streams {
    /// Returns the streams of this process: requests on its standard input, events on its standard error, the
    /// archive on its standard output.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            input: Box::new(io::stdin()),
            archive: Output::new(io::stdout()),
            events: Output::new(io::stderr()),
        }
    }
}

/// Where a session writes to, shared by its threads.
#[derive(Clone)]
pub struct Output(Arc<Mutex<dyn Write + Send>>);

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    /// Returns an output that goes there.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(writer)))
    }

    fn lock(&self) -> MutexGuard<'_, dyn Write + Send + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, event: &Event) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            // Without anybody to hear, the end of the input is about to end this session.
            let _ = self.lock().write_all(&line);
        }
    }

    fn tell(&self, done: Progress) {
        self.say(&Event::Progress { files: done.members, bytes: done.raw_bytes });
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.lock().write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

/// The longest piece of an archive that comes on the standard input.
const PIECE_MAX: usize = 4 << 20;

/// Serves requests until the input ends; `ended` is called then, on another thread, whatever is being worked on.
pub fn serve(options: &SessionOptions, streams: Streams, ended: impl FnOnce() + Send + 'static) {
    let Streams { input, archive, events } = streams;
    let fifo = is_fifo(&options.fifo);
    events.say(&Event::Ready { version: env!("CARGO_PKG_VERSION").to_owned(), fifo });
    let (requests, pieces) = requests(input, events.clone(), ended);
    let mut session = Session::new(options, fifo, pieces, archive, events.clone());
    for request in requests {
        events.say(&session.answer(request).unwrap_or_else(|message| Event::Failed { message }));
    }
}

/// What was said and done so far.
struct Session<'o> {
    options: &'o SessionOptions,
    fifo: bool,
    /// The pieces of an archive.
    input: mpsc::Receiver<Vec<u8>>,
    archive: Output,
    events: Output,
    stage: Option<Stage>,
    /// Follows what another container writes into the stage.
    follower: Option<Follower>,
    /// Whether the stage's last pass was the final one, so that it is equal to the source.
    is_final: bool,
    /// Where the stage is, when its tree is to go into the root around it.
    place: Option<StagePlace>,
}

fn is_fifo(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Returns the requests as they come, and the pieces of an archive that follows one of them. A thread of
/// its own reads them, so that the end of the input is seen, and obeyed, while a request is being worked on.
fn requests(
    input: Box<dyn Read + Send>,
    events: Output,
    ended: impl FnOnce() + Send + 'static,
) -> (mpsc::Receiver<Request>, mpsc::Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel();
    let (piece_sender, pieces) = mpsc::sync_channel(4);
    std::thread::spawn(move || {
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        while matches!(input.read_until(b'\n', &mut line), Ok(1..)) {
            match serde_json::from_slice(&line) {
                Ok(request) => {
                    let followed = matches!(&request, Request::Extract(extract) if !extract.fifo);
                    drop(sender.send(request));
                    if followed && take_pieces(&mut input, &piece_sender).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    events.say(&Event::Failed { message: format!("understand the request: {error}") });
                }
            }
            line.clear();
        }
        ended();
    });
    (receiver, pieces)
}

/// Takes the pieces of an archive until the one of no length, which is handed on too.
fn take_pieces(input: &mut impl Read, pieces: &mpsc::SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > PIECE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut piece = vec![0; length];
        input.read_exact(&mut piece)?;
        pieces.send(piece).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// The pieces of an archive, read as one.
struct Pieces<'p> {
    pieces: &'p mpsc::Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && self.piece.position() == self.piece.get_ref().len() as u64 {
            let piece = self.pieces.recv().map_err(io::Error::other)?;
            self.ended = piece.is_empty();
            self.piece = io::Cursor::new(piece);
        }
        self.piece.read(buffer)
    }
}

impl Drop for Pieces<'_> {
    /// Takes what was not read, so that whoever sends it comes to its end.
    fn drop(&mut self) {
        while !self.ended {
            self.ended = self.pieces.recv().map_or(true, |piece| piece.is_empty());
        }
    }
}

impl<'o> Session<'o> {
    fn new(
        options: &'o SessionOptions,
        fifo: bool,
        input: mpsc::Receiver<Vec<u8>>,
        archive: Output,
        events: Output,
    ) -> Self {
        Self {
            options,
            fifo,
            input,
            archive,
            events,
            stage: None,
            follower: None,
            is_final: false,
            place: None,
        }
    }

    fn answer(&mut self, request: Request) -> Result<Event, String> {
        // Whatever is asked now, what was written into the stage by another container is complete.
        drop(self.follower.take());
        match request {
            Request::Survey { exclude, from_stage } => {
                let exclude = exclude_set(&exclude).map_err(|error| error.to_string())?;
                survey(&self.tree(from_stage), &exclude)
                    .map(Event::Surveyed)
                    .map_err(|error| error.to_string())
            }
            Request::Inspect { engine, data_directory, mounted_at, tree, from_stage } => {
                let files = database::files_of(&engine)
                    .ok_or_else(|| format!("no database is known that is called {engine}"))?;
                files
                    .inspect(&self.tree(from_stage).join(tree), &data_directory, mounted_at.as_deref())
                    .map(Event::Inspected)
                    .map_err(|error| error.to_string())
            }
            Request::Archive(request) => {
                let sink: Box<dyn Write + Send> = if self.fifo {
                    let fifo = OpenOptions::new().write(true).open(&self.options.fifo);
                    Box::new(fifo.map_err(|error| format!("open the FIFO: {error}"))?)
                } else {
                    Box::new(self.archive.clone())
                };
                let tree = self.tree(request.from_stage);
                archive(&tree, request, sink, &self.events).map_err(|error| chain(&error))
            }
            Request::StageRoom { tree } => self.stage_room(&tree),
            Request::StagePass(request) => self.stage_pass(&request),
            Request::StageInto { run } => self.stage_into(&run),
            Request::StageKeep => self.stage_keep(),
            Request::StageClear => self.stage_clear(),
            Request::StageCompare(request) => self.stage_compare(&request),
            Request::Extract(request) => extract_beside(self.options, request, &self.input, &self.events),
            Request::Room => room(self.swap_root()).map(Event::Room).map_err(|error| error.to_string()),
            request if self.place.is_some() => self.swap_stage(request),
            request => swap_request(&self.options.root, request).map_err(|error| error.to_string()),
        }
    }

    /// Returns the tree that is meant: the source, or its copy in the stage.
    fn tree(&self, from_stage: bool) -> PathBuf {
        if from_stage { self.stage_directory().join(staging::TREE) } else { self.options.root.clone() }
    }

    fn stage_directory(&self) -> &Path {
        self.place.as_ref().map_or(&self.options.stage, StagePlace::path)
    }

    /// Returns the root in which one tree takes the place of another.
    fn swap_root(&self) -> &Path {
        self.place.as_ref().map_or(&self.options.root, StagePlace::root)
    }

    fn stage_room(&self, tree: &Path) -> Result<Event, String> {
        let room = staging::room(self.stage_directory(), &self.options.root.join(tree));
        room.map(Event::StageRoom).map_err(|error| format!("look at the stage: {error}"))
    }

    /// Has the stage lie within the root that it will be moved into.
    fn stage_into(&mut self, run: &str) -> Result<Event, String> {
        // What was staged elsewhere is not what will be moved; and the place is held by whoever has it.
        (self.stage, self.is_final, self.place) = (None, false, None);
        let place = StagePlace::open(&self.options.stage, run).map_err(|error| error.to_string())?;
        self.place = Some(place);
        Ok(Event::Done)
    }

    /// Makes a pass; the stage is what the earlier ones have made of the same tree.
    fn stage_pass(&mut self, request: &StagePassRequest) -> Result<Event, String> {
        self.is_final = false;
        if let Some(place) = &self.place {
            place.refuse_swapped().map_err(|error| error.to_string())?;
        }
        let source = self.options.root.join(&request.tree);
        let open = match self.stage.take().filter(|stage| stage.source() == source) {
            Some(open) => Ok(open),
            None => Stage::open(self.stage_directory(), &source),
        };
        let made =
            open.and_then(|open| self.stage.insert(open).pass(request, &mut |done| self.events.tell(done)));
        self.is_final = made.is_ok() && request.finish;
        if made.is_ok() {
            self.follower =
                request.external_dir.as_deref().and_then(|external_dir| self.follow(external_dir));
        }
        match made {
            Ok(stats) => Ok(Event::Staged(stats)),
            Err(error @ StageError::Full { .. }) => Ok(Event::StageFull { message: chain(&error) }),
            Err(error) => Err(chain(&error)),
        }
    }

    /// Leaves the stage to a later run, or to a later pass of this one.
    fn stage_keep(&mut self) -> Result<Event, String> {
        let stage = self.stage.as_mut().ok_or("no pass was made")?;
        stage.keep(&mut |done| self.events.tell(done)).map_err(|error| chain(&error))?;
        Ok(Event::Done)
    }

    /// Removes the stage's tree.
    fn stage_clear(&mut self) -> Result<Event, String> {
        // It knows of files that will not be there.
        (self.stage, self.is_final) = (None, false);
        let cleared = staging::clear(self.stage_directory(), &mut |done| self.events.tell(done));
        cleared.map_err(|error| format!("remove the stage's tree: {error}"))?;
        Ok(Event::Done)
    }

    /// Follows what another container writes, from here on, into the directory that the pass has left to it.
    fn follow(&self, external_dir: &Path) -> Option<Follower> {
        Follower::start(&self.tree(true).join(external_dir))
            .inspect_err(|error| tracing::debug!(%error, "the kernel writes what is dirty when it likes"))
            .ok()
    }

    fn stage_compare(&mut self, request: &StageCompareRequest) -> Result<Event, String> {
        let stage = self.stage.as_mut().ok_or("no pass was made")?;
        stage
            .compare(request, &mut |done| self.events.tell(done))
            .map(Event::Compared)
            .map_err(|error| chain(&error))
    }

    /// Works on what the swap of the stage's tree is asked for.
    fn swap_stage(&mut self, mut request: Request) -> Result<Event, String> {
        match &mut request {
            Request::Empty { .. } => return Err("a stage lies in what would be emptied".to_owned()),
            Request::SwapIn { root, .. } => {
                let stage = self.stage.as_ref().filter(|_| self.is_final).ok_or("no final pass was made")?;
                stage.sync(&mut |done| self.events.tell(done)).map_err(|error| chain(&error))?;
                if root.is_none() {
                    let staged = stage.root_metadata().map_err(|error| chain(&error))?;
                    *root = Some(staged.to_record());
                }
            }
            _ => {}
        }
        if matches!(request, Request::SwapIn { .. } | Request::Discard { .. }) {
            // It goes elsewhere, or away.
            (self.stage, self.is_final) = (None, false);
        }
        swap_request(self.swap_root(), request).map_err(|error| error.to_string())
    }
}

/// Works on what the swap is asked for.
fn swap_request(root: &Path, request: Request) -> io::Result<Event> {
    let watch: swap::Watch<'_> = &mut |_: &Step| Ok(());
    if let Request::Empty { run, marker_files } = &request {
        return WorkDir::open_or_make(root, run, watch)?.empty(marker_files).map(|()| Event::Done);
    }
    let (Request::SwapIn { run, .. }
    | Request::SwapState { run }
    | Request::SwapBack { run }
    | Request::Commit { run }
    | Request::Discard { run, .. }) = &request
    else {
        return Err(io::Error::other("not a request of a swap"));
    };
    let Some(mut workplace) = WorkDir::open(root, run, watch)? else {
        return match request {
            Request::SwapState { .. } => Ok(Event::Swap(SwapState::Absent)),
            Request::SwapBack { .. } | Request::Discard { .. } => Ok(Event::Done),
            _ => Err(io::Error::other("nothing was extracted")),
        };
    };
    match request {
        Request::SwapState { .. } => return workplace.state().map(Event::Swap),
        Request::SwapIn { marker_files, root, .. } => workplace.swap_in(&marker_files, root.as_ref())?,
        Request::SwapBack { .. } => workplace.swap_back()?,
        Request::Discard { with_old, .. } => workplace.discard(with_old)?,
        _ => workplace.commit()?,
    }
    Ok(Event::Done)
}

fn room(root: &Path) -> io::Result<Room> {
    use std::os::unix::fs::MetadataExt as _;
    let shown = |names: Vec<std::ffi::OsString>| -> Vec<String> {
        names.iter().map(|name| name.to_string_lossy().into_owned()).collect()
    };
    let directory = std::fs::File::open(root)?;
    let metadata = directory.metadata()?;
    let stat = nix::sys::statvfs::fstatvfs(&directory)?;
    let leftovers = swap::leftovers(root)?;
    let entries = std::fs::read_dir(root)?.count();
    Ok(Room {
        free_bytes: free_bytes(&directory)?,
        free_names: (stat.files() > 0).then(|| stat.files_available()),
        mounted: shown(swap::mounted_on(root)?),
        is_empty: entries == leftovers.len(),
        leftovers: shown(leftovers),
        owner: (metadata.uid(), metadata.gid()),
    })
}

fn extract_beside(
    options: &SessionOptions,
    request: ExtractRequest,
    input: &mpsc::Receiver<Vec<u8>>,
    events: &Output,
) -> Result<Event, String> {
    // From the first on: whatever fails, what comes must be taken.
    let source: Box<dyn Read + '_> = if request.fifo {
        let fifo = std::fs::File::open(&options.input);
        let fifo = fifo.map_err(|error| format!("open the FIFO: {error}"))?;
        // Until it has heard this, the command keeps it open.
        events.say(&Event::Progress { files: 0, bytes: 0 });
        Box::new(fifo)
    } else {
        Box::new(Pieces { pieces: input, piece: io::Cursor::default(), ended: false })
    };
    let watch: swap::Watch<'_> = &mut |_: &Step| Ok(());
    let workplace = if request.emptied {
        WorkDir::open_or_make(&options.root, &request.run, watch)
    } else {
        WorkDir::create(&options.root, &request.run, watch)
    };
    let workplace = workplace.map_err(|error| format!("make the work directory: {error}"))?;
    let directory = workplace.new_directory().map_err(|error| error.to_string())?;
    let origin = if request.ours { Origin::Volsnap } else { Origin::Foreign };
    let archive = BlockReader::open(source, origin).map_err(|error| chain(&error))?;
    let extraction = ExtractOptions {
        strip: request.strip,
        prefix: request.prefix,
        owner: request.owner,
        special: request.special,
        foreign: !request.ours,
        members: request.members,
        bytes: request.bytes,
        reserve: request.reserve,
    };
    let extracted = extract(archive, directory, &extraction, &mut |done| events.tell(done));
    extracted.map(Event::Extracted).map_err(|error| chain(&error))
}

fn archive(
    root: &Path,
    request: ArchiveRequest,
    sink: Box<dyn Write + Send>,
    events: &Output,
) -> Result<Event, ArchiveError> {
    let tree = root.join(&request.tree);
    let options = ArchiveOptions {
        codec: request.codec,
        exclude: request.exclude,
        deferred: request.last,
        held: request.held,
        ..ArchiveOptions::default()
    };
    let frames = FrameWriter::new(sink);
    let stats =
        archive_tree(&tree, &options, frames.archive(), frames.list(), &mut |done| events.tell(done))?;
    frames.finish()?;
    Ok(Event::Archived(stats))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
