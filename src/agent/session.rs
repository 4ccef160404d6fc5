//! The agent's side of a session: answers [calls] until its input ends.
//!
//! Exactly one event answers a call (after any number of [`Event::Progress`]). If the call fails or is not understood,
//! that event is [`Event::Failed`], and the session goes on. When the input ends, the command is gone: the agent's
//! process ends at once, in the middle of whatever it does.
//!
//! The [streams](Streams) are arguments, so that a test can run a session in a thread.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use super::archive::{ArchiveOptions, ArchiveStats, Progress, archive_tree};
use super::calls::{self, Call, Channel, PassKind, Request, Side};
use super::extract::{Extracted, extract, free_bytes};
use super::protocol::{Event, Failure, FailureKind, Ready, Room, StageRoom, Survey, VERSION};
use super::survey::survey;
use super::swap::{self, Step, SwapState, WorkDir};
use super::tree::exclude_set;
use crate::agent::staging;
use crate::agent::staging::{CompareStats, Follower, Stage, StageError, StagePlace, StageStats};
use crate::archive::{BlockReader, FileRecord, FrameWriter};
use crate::database::{self, DataFiles};
use crate::model::error::chain;
use crate::model::inspection::Inspection;
use crate::model::replication::StoredSlot;

/// Where the agent finds things inside the helper.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The source's root.
    pub root: PathBuf,
    /// The stage's directory, if there is one.
    pub stage: PathBuf,
    /// The FIFO to the command; if it does not exist, [`Streams::archive`] serves.
    pub fifo: PathBuf,
    /// Where the command says on which kernel it runs.
    pub kernel: PathBuf,
    /// The FIFO from the command; if it does not exist, [`Streams::input`] serves.
    pub input: PathBuf,
}

/// The streams that command and agent talk over.
pub struct Streams {
    /// Calls, one per line, and the pieces of an archive.
    pub input: Box<dyn Read + Send>,
    /// The archive that the agent writes.
    pub archive: Output,
    /// Events, one per line.
    pub events: Output,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Streams")
    }
}

impl Streams {
    /// Returns the streams of this process: calls on its standard input, events on its standard error, the
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

/// The target of a session's output, shared by its threads.
#[derive(Clone)]
pub struct Output(Arc<Mutex<dyn Write + Send>>);

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    /// Returns an output with this target.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(writer)))
    }

    fn lock(&self) -> MutexGuard<'_, dyn Write + Send + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, event: &Event) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            // If nobody hears this, the end of the input is about to end this session.
            let _ = self.lock().write_all(&line);
        }
    }

    fn report_progress(&self, done: Progress) {
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

/// Where a kernel says which it is; another one since every boot.
pub(super) const KERNEL_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The longest piece of an archive that comes on the standard input.
const PIECE_MAX: usize = 4 << 20;

/// Serves calls until the input ends; then another thread calls `ended`, whatever work is under way.
pub fn serve(options: &SessionOptions, streams: Streams, ended: impl FnOnce() + Send + 'static) {
    let Streams { input, archive, events } = streams;
    let beside = is_same_kernel(&options.kernel);
    let fifo = beside && is_fifo(&options.fifo);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    events.say(&Event::Ready(Ready { protocol: VERSION, version, fifo, beside }));
    let (requests, pieces) = requests(input, events.clone(), ended);
    let mut session = Session::new(options, fifo, pieces, archive, events.clone());
    for request in requests {
        events.say(&session.answer(request).unwrap_or_else(Event::Failed));
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
    /// Whether the stage's last pass was the final one, so that it equals the source.
    is_final: bool,
    /// Where the stage is, if its tree will go into the root around it.
    place: Option<StagePlace>,
}

/// Returns whether a file names the kernel that this runs on. A FIFO that is seen through a virtual machine's shared
/// directory is another one, though it looks the same.
fn is_same_kernel(path: &Path) -> bool {
    match (std::fs::read(path), std::fs::read(KERNEL_ID)) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}

fn is_fifo(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Returns the calls as they come, and the pieces of an archive that follows one of them. A thread of its own reads
/// them, so that the end of the input is seen, and obeyed, during the work on a call.
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
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => {
                    let followed = request.is_followed();
                    drop(sender.send(request));
                    if followed && take_pieces(&mut input, &piece_sender).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    events.say(&Event::Failed(format!("understand the call: {error}").into()));
                }
            }
            line.clear();
        }
        ended();
    });
    (receiver, pieces)
}

/// Takes the pieces of an archive up to the empty one, and hands that on too.
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
    /// Takes what was not read, so that the sender comes to its end.
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

    fn answer(&mut self, request: Request) -> Result<Event, Failure> {
        // Whatever this call is, another container has finished what it wrote into the stage.
        drop(self.follower.take());
        match request {
            Request::Survey(call) => reply::<calls::Survey>(self.survey(&call)),
            Request::Inspect(call) => reply::<calls::Inspect>(self.inspect(&call)),
            Request::Archive(call) => reply::<calls::Archive>(self.archive(call)),
            Request::Room(_) => reply::<calls::Room>(room(self.swap_root()).map_err(Failure::from)),
            Request::StageRoom(call) => reply::<calls::StageRoom>(self.stage_room(&call.tree)),
            Request::StagePass(call) => reply::<calls::StagePass>(self.stage_pass(&call)),
            Request::StageInto(call) => reply::<calls::StageInto>(self.stage_into(&call.run)),
            Request::StageKeep(_) => reply::<calls::StageKeep>(self.stage_keep()),
            Request::StageCompare(call) => reply::<calls::StageCompare>(self.stage_compare(&call)),
            Request::StageClear(_) => reply::<calls::StageClear>(self.stage_clear()),
            Request::Extract(call) => reply::<calls::Extract>(self.extract(&call)),
            Request::RemoveSlots(call) => reply::<calls::RemoveSlots>(self.remove_slots(&call)),
            Request::Empty(call) => reply::<calls::Empty>(self.empty(&call)),
            Request::SwapIn(call) => reply::<calls::SwapIn>(self.swap_in(call)),
            Request::SwapState(call) => reply::<calls::SwapState>(self.swap_state(&call.run)),
            Request::SwapBack(call) => reply::<calls::SwapBack>(self.swap_back(&call.run)),
            Request::Commit(call) => reply::<calls::Commit>(self.commit(&call.run)),
            Request::Discard(call) => reply::<calls::Discard>(self.discard(&call)),
        }
    }

    fn survey(&self, call: &calls::Survey) -> Result<Survey, Failure> {
        let exclude = exclude_set(&call.exclude).map_err(|error| error.to_string())?;
        Ok(survey(&self.tree(call.side), &exclude, &call.placeholders)?)
    }

    fn inspect(&self, call: &calls::Inspect) -> Result<Inspection, Failure> {
        known_files(&call.engine)?
            .inspect(&self.tree(call.side).join(&call.tree), &call.data_directory, call.mounted_at.as_deref())
            .map_err(|error| error.to_string().into())
    }

    fn remove_slots(&self, call: &calls::RemoveSlots) -> Result<Vec<StoredSlot>, Failure> {
        let extracted = self.options.root.join(swap::new_tree(&call.run));
        let removed = known_files(&call.engine)?.remove_slots(&extracted, &call.data_directory);
        removed.map_err(|error| format!("remove the replication slots: {error}").into())
    }

    fn archive(&self, call: calls::Archive) -> Result<ArchiveStats, Failure> {
        let sink: Box<dyn Write + Send> = if self.fifo {
            let fifo = OpenOptions::new().write(true).open(&self.options.fifo);
            Box::new(fifo.map_err(|error| format!("open the FIFO: {error}"))?)
        } else {
            Box::new(self.archive.clone())
        };
        let tree = self.tree(call.side).join(&call.tree);
        let options = ArchiveOptions {
            codec: call.codec,
            exclude: call.exclude,
            deferred: call.last,
            stability: call.stability,
            ..ArchiveOptions::default()
        };
        let frames = FrameWriter::new(sink);
        let mut progress = |done| self.events.report_progress(done);
        let stats = archive_tree(&tree, &options, frames.archive(), frames.list(), &mut progress)
            .map_err(|error| chain(&error))?;
        frames.finish().map_err(|error| chain(&error))?;
        Ok(stats)
    }

    fn extract(&self, call: &calls::Extract) -> Result<Extracted, Failure> {
        // Open the source first: whatever fails later, everything that comes must be taken.
        let source: Box<dyn Read + '_> = match call.channel {
            Channel::Fifo => {
                let fifo = std::fs::File::open(&self.options.input);
                let fifo = fifo.map_err(|error| format!("open the FIFO: {error}"))?;
                // The command keeps the FIFO open until it has heard this.
                self.events.say(&Event::Progress { files: 0, bytes: 0 });
                Box::new(fifo)
            }
            Channel::Stdin => {
                Box::new(Pieces { pieces: &self.input, piece: io::Cursor::default(), ended: false })
            }
        };
        let watch: swap::Watch<'_> = &mut unwatched;
        let make = if call.emptied { WorkDir::open_or_make } else { WorkDir::create };
        let work_dir = make(&self.options.root, &call.run, watch)
            .map_err(|error| format!("make the work directory: {error}"))?;
        let directory = work_dir.new_directory()?;
        let archive = BlockReader::open(source, call.options.origin).map_err(|error| chain(&error))?;
        let extracted =
            extract(archive, directory, &call.options, &mut |done| self.events.report_progress(done));
        extracted.map_err(|error| chain(&error).into())
    }

    /// Returns the tree on this side: the source, or its copy in the stage.
    fn tree(&self, side: Side) -> PathBuf {
        match side {
            Side::Source => self.options.root.clone(),
            Side::Stage => self.stage_directory().join(staging::TREE),
        }
    }

    fn stage_directory(&self) -> &Path {
        self.place.as_ref().map_or(&self.options.stage, StagePlace::path)
    }

    /// Returns the root in which one tree takes the place of another.
    fn swap_root(&self) -> &Path {
        self.place.as_ref().map_or(&self.options.root, StagePlace::root)
    }

    fn stage_room(&self, tree: &Path) -> Result<StageRoom, Failure> {
        let room = staging::room(self.stage_directory(), &self.options.root.join(tree));
        room.map_err(|error| format!("look at the stage: {error}").into())
    }

    /// Puts the stage within the root that it will be moved into.
    fn stage_into(&mut self, run: &str) -> Result<(), Failure> {
        // What was staged elsewhere will not be moved; and whoever has the place holds it.
        self.forget_stage();
        self.place = None;
        self.place = Some(StagePlace::open(&self.options.stage, run)?);
        Ok(())
    }

    /// Makes a pass; the stage is what the earlier passes over the same tree made it.
    fn stage_pass(&mut self, call: &calls::StagePass) -> Result<StageStats, Failure> {
        self.is_final = false;
        if let Some(place) = &self.place {
            place.refuse_swapped()?;
        }
        let source = self.options.root.join(&call.tree);
        let open = match self.stage.take().filter(|stage| stage.source() == source) {
            Some(open) => open,
            None => Stage::open(self.stage_directory(), &source)?,
        };
        let stats = self.stage.insert(open).pass(call, &mut |done| self.events.report_progress(done))?;
        self.is_final = call.kind == PassKind::Final;
        self.follower = call.external_dir.as_deref().and_then(|external_dir| self.follow(external_dir));
        Ok(stats)
    }

    /// Leaves the stage to a later run, or to a later pass of this one.
    fn stage_keep(&mut self) -> Result<(), Failure> {
        let stage = self.stage.as_mut().ok_or("no pass was made")?;
        Ok(stage.keep(&mut |done| self.events.report_progress(done))?)
    }

    /// Removes the stage's tree.
    fn stage_clear(&mut self) -> Result<(), Failure> {
        self.forget_stage();
        let cleared = staging::clear(self.stage_directory(), &mut |done| self.events.report_progress(done));
        cleared.map_err(|error| format!("remove the stage's tree: {error}").into())
    }

    /// Forgets the stage, because it knows files that will not stay where they were.
    fn forget_stage(&mut self) {
        (self.stage, self.is_final) = (None, false);
    }

    /// From here on follows what another container writes into the directory that the pass left to it.
    fn follow(&self, external_dir: &Path) -> Option<Follower> {
        Follower::start(&self.tree(Side::Stage).join(external_dir))
            .inspect_err(|error| tracing::debug!(%error, "the kernel writes what is dirty when it likes"))
            .ok()
    }

    fn stage_compare(&mut self, call: &calls::StageCompare) -> Result<CompareStats, Failure> {
        let stage = self.stage.as_mut().ok_or("no pass was made")?;
        Ok(stage.compare(call, &mut |done| self.events.report_progress(done))?)
    }

    /// Asks a run's work directory something and returns the answer; `None` if the run has none.
    fn in_work_dir<T>(
        &self,
        run: &str,
        ask: impl FnOnce(WorkDir<'_>) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        WorkDir::open(self.swap_root(), run, &mut unwatched)?.map(ask).transpose()
    }

    fn empty(&self, call: &calls::Empty) -> Result<(), Failure> {
        if self.place.is_some() {
            return Err("a stage lies in what would be emptied".into());
        }
        let watch: swap::Watch<'_> = &mut unwatched;
        Ok(WorkDir::open_or_make(&self.options.root, &call.run, watch)?.empty(&call.marker_files)?)
    }

    fn swap_in(&mut self, mut call: calls::SwapIn) -> Result<(), Failure> {
        if self.place.is_some() {
            let staged = self.finish_stage()?;
            call.root = call.root.or(Some(staged));
        }
        self.in_work_dir(&call.run, |mut work| work.swap_in(&call.marker_files, call.root.as_ref()))?
            .ok_or_else(|| "nothing was extracted".into())
    }

    /// Prepares the stage for the move: it is durable, and its session forgets it. Returns the metadata of its root.
    fn finish_stage(&mut self) -> Result<FileRecord, Failure> {
        let stage = self.stage.as_ref().filter(|_| self.is_final).ok_or("no final pass was made")?;
        stage.sync(&mut |done| self.events.report_progress(done))?;
        let root = stage.root_metadata()?.to_record();
        self.forget_stage();
        Ok(root)
    }

    fn swap_state(&self, run: &str) -> Result<SwapState, Failure> {
        Ok(self.in_work_dir(run, |work| work.state())?.unwrap_or(SwapState::Absent))
    }

    fn swap_back(&self, run: &str) -> Result<(), Failure> {
        self.in_work_dir(run, |mut work| work.swap_back())?;
        Ok(())
    }

    fn commit(&self, run: &str) -> Result<(), Failure> {
        self.in_work_dir(run, |mut work| work.commit())?.ok_or_else(|| "nothing was extracted".into())
    }

    fn discard(&mut self, call: &calls::Discard) -> Result<(), Failure> {
        if self.place.is_some() {
            // The stage is about to be removed.
            self.forget_stage();
        }
        self.in_work_dir(&call.run, |work| work.discard(call.with_old))?;
        Ok(())
    }
}

/// Nobody watches the steps of a swap here.
/// Returns what is known of the files of the database of that name.
fn known_files(engine: &str) -> Result<&'static dyn DataFiles, Failure> {
    database::files_of(engine).ok_or_else(|| format!("no database is known that is called {engine}").into())
}

fn unwatched(_: &Step) -> io::Result<()> {
    Ok(())
}

/// Returns the event that answers a call.
fn reply<C: Call>(answer: Result<C::Answer, Failure>) -> Result<Event, Failure> {
    Event::answer::<C>(&answer?).map_err(|error| format!("write the answer: {error}").into())
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { kind: FailureKind::Other, message }
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        error.to_string().into()
    }
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        let kind = match &error {
            StageError::Full { .. } => FailureKind::StageFull,
            _ => FailureKind::Other,
        };
        Self { kind, message: chain(&error) }
    }
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

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
