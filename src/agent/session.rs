//! The agent's side of a session: answers requests until its standard input ends.
//!
//! A request is answered by exactly one event (after any number of [`Event::Progress`]); a failed one
//! by [`Event::Failed`], and the session goes on. When standard input ends, the process ends at
//! once, in the middle of whatever it does: its command is gone.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::archive::{ArchiveOptions, Progress, archive_tree};
use super::extract::{ExtractOptions, extract, free_bytes};
use super::protocol::{ArchiveRequest, Event, ExtractRequest, Request, Room};
use super::survey::survey;
use super::swap::{self, Step, SwapState, Workplace};
use super::tree::exclude_set;
use crate::archive::{ArchiveError, BlockReader, FrameWriter, Origin};
use crate::database;
use crate::error::chain;

/// Where the agent finds things inside the helper.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The source's root.
    pub root: PathBuf,
    /// The FIFO to the command; standard output serves when it is not there.
    pub fifo: PathBuf,
    /// The FIFO from the command; standard input serves when it is not there.
    pub input: PathBuf,
}

/// The longest piece of an archive that comes on the standard input.
const PIECE_MAX: usize = 4 << 20;

/// Serves requests from standard input until it ends; the process ends with it.
pub fn serve(options: &SessionOptions) {
    let fifo = is_fifo(&options.fifo);
    say(&Event::Ready { version: env!("CARGO_PKG_VERSION").to_owned(), fifo });
    let (requests, input) = requests();
    for request in requests {
        let answer = answer(options, fifo, request, &input);
        say(&answer.unwrap_or_else(|message| Event::Failed { message }));
    }
}

fn is_fifo(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Returns the requests as they come, and the pieces of an archive that follows one of them. A thread of
/// its own reads them, so that the end of standard input is seen, and obeyed, while a request is being
/// worked on.
fn requests() -> (mpsc::Receiver<Request>, mpsc::Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel();
    let (piece_sender, pieces) = mpsc::sync_channel(4);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut line = Vec::new();
        while matches!(stdin.read_until(b'\n', &mut line), Ok(1..)) {
            match serde_json::from_slice(&line) {
                Ok(request) => {
                    let followed = matches!(&request, Request::Extract(extract) if !extract.fifo);
                    drop(sender.send(request));
                    if followed && take_pieces(&mut stdin, &piece_sender).is_err() {
                        break;
                    }
                }
                Err(error) => say(&Event::Failed { message: format!("understand the request: {error}") }),
            }
            line.clear();
        }
        std::process::exit(0);
    });
    (receiver, pieces)
}

/// Takes the pieces of an archive until the one of no length, which is handed on too.
fn take_pieces(stdin: &mut impl Read, pieces: &mpsc::SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stdin.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > PIECE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut piece = vec![0; length];
        stdin.read_exact(&mut piece)?;
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

fn say(event: &Event) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        // Without anybody to hear, the end of standard input is about to end this process.
        let _ = io::stderr().lock().write_all(&line);
    }
}

fn answer(
    options: &SessionOptions,
    fifo: bool,
    request: Request,
    input: &mpsc::Receiver<Vec<u8>>,
) -> Result<Event, String> {
    match request {
        Request::Survey { exclude } => {
            let exclude = exclude_set(&exclude).map_err(|error| error.to_string())?;
            survey(&options.root, &exclude).map(Event::Surveyed).map_err(|error| error.to_string())
        }
        Request::Inspect { engine, data_directory, mounted_at, tree } => {
            let profile =
                database::profile(&engine).ok_or_else(|| format!("no profile is called {engine}"))?;
            profile
                .inspect(&options.root.join(tree), &data_directory, mounted_at.as_deref())
                .map(Event::Inspected)
                .map_err(|error| error.to_string())
        }
        Request::Archive(request) => {
            let sink: Box<dyn Write + Send> = if fifo {
                let fifo = OpenOptions::new().write(true).open(&options.fifo);
                Box::new(fifo.map_err(|error| format!("open the FIFO: {error}"))?)
            } else {
                Box::new(io::stdout())
            };
            archive(&options.root, request, sink).map_err(|error| chain(&error))
        }
        Request::Extract(request) => extract_beside(options, request, input),
        Request::Room => room(&options.root).map(Event::Room).map_err(|error| error.to_string()),
        request => swap_request(&options.root, request).map_err(|error| error.to_string()),
    }
}

/// Works on what the swap is asked for.
fn swap_request(root: &Path, request: Request) -> io::Result<Event> {
    let watch: swap::Watch<'_> = &mut |_: &Step| Ok(());
    let (Request::SwapIn { run, .. }
    | Request::SwapState { run }
    | Request::SwapBack { run }
    | Request::Commit { run }
    | Request::Discard { run, .. }) = &request
    else {
        return Err(io::Error::other("not a request of a swap"));
    };
    let Some(mut workplace) = Workplace::open(root, run, watch)? else {
        return match request {
            Request::SwapState { .. } => Ok(Event::Swap(SwapState::Absent)),
            Request::SwapBack { .. } | Request::Discard { .. } => Ok(Event::Done),
            _ => Err(io::Error::other("nothing was extracted")),
        };
    };
    match request {
        Request::SwapState { .. } => return workplace.state().map(Event::Swap),
        Request::SwapIn { heads, root, .. } => workplace.swap_in(&heads, root.as_ref())?,
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
) -> Result<Event, String> {
    // From the first on: whatever fails, what comes must be taken.
    let source: Box<dyn Read + '_> = if request.fifo {
        let fifo = std::fs::File::open(&options.input);
        Box::new(fifo.map_err(|error| format!("open the FIFO: {error}"))?)
    } else {
        Box::new(Pieces { pieces: input, piece: io::Cursor::default(), ended: false })
    };
    let watch: swap::Watch<'_> = &mut |_: &Step| Ok(());
    let workplace = Workplace::create(&options.root, &request.run, watch);
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
    let mut progress = |done: Progress| say(&Event::Progress { files: done.members, bytes: done.raw_bytes });
    let extracted = extract(archive, directory, &extraction, &mut progress);
    extracted.map(Event::Extracted).map_err(|error| chain(&error))
}

fn archive(root: &Path, request: ArchiveRequest, sink: Box<dyn Write + Send>) -> Result<Event, ArchiveError> {
    let tree = root.join(&request.tree);
    let options = ArchiveOptions {
        codec: request.codec,
        exclude: request.exclude,
        deferred: request.last,
        held: request.held,
        ..ArchiveOptions::default()
    };
    let frames = FrameWriter::new(sink);
    let mut progress = |done: Progress| say(&Event::Progress { files: done.members, bytes: done.raw_bytes });
    let stats = archive_tree(&tree, &options, frames.archive(), frames.list(), &mut progress)?;
    frames.finish()?;
    Ok(Event::Archived(stats))
}
