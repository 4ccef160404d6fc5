//! The agent's side of a session: answers requests until its standard input ends.
//!
//! A request is answered by exactly one event (after any number of [`Event::Progress`]); a failed one
//! by [`Event::Failed`], and the session goes on. When standard input ends, the process ends at
//! once, in the middle of whatever it does: its command is gone.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::archive::{ArchiveOptions, Progress, archive_tree};
use super::protocol::{ArchiveRequest, Event, Request};
use super::survey::survey;
use super::tree::exclude_set;
use crate::archive::{ArchiveError, FrameWriter};
use crate::database;
use crate::error::chain;

/// Where the agent finds things inside the helper.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// The source's root.
    pub root: PathBuf,
    /// The FIFO to the command; standard output serves when it is not there.
    pub fifo: PathBuf,
}

/// Serves requests from standard input until it ends; the process ends with it.
pub fn serve(options: &SessionOptions) {
    let fifo = is_fifo(&options.fifo);
    say(&Event::Ready { version: env!("CARGO_PKG_VERSION").to_owned(), fifo });
    for request in requests() {
        let answer = answer(options, fifo, request).unwrap_or_else(|message| Event::Failed { message });
        say(&answer);
    }
}

fn is_fifo(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Returns the requests as they come. A thread of its own reads them, so that the end of standard
/// input is seen, and obeyed, while a request is being worked on.
fn requests() -> mpsc::Receiver<Request> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(request) => drop(sender.send(request)),
                Err(error) => say(&Event::Failed { message: format!("understand the request: {error}") }),
            }
        }
        std::process::exit(0);
    });
    receiver
}

fn say(event: &Event) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        // Without anybody to hear, the end of standard input is about to end this process.
        let _ = io::stderr().lock().write_all(&line);
    }
}

fn answer(options: &SessionOptions, fifo: bool, request: Request) -> Result<Event, String> {
    match request {
        Request::Survey { exclude } => {
            let exclude = exclude_set(&exclude).map_err(|error| error.to_string())?;
            survey(&options.root, &exclude).map(Event::Surveyed).map_err(|error| error.to_string())
        }
        Request::Inspect { engine, data_directory, mounted_at } => {
            let profile =
                database::profile(&engine).ok_or_else(|| format!("no profile is called {engine}"))?;
            profile
                .inspect(&options.root, &data_directory, mounted_at.as_deref())
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
    }
}

fn archive(root: &Path, request: ArchiveRequest, sink: Box<dyn Write + Send>) -> Result<Event, ArchiveError> {
    let options = ArchiveOptions {
        codec: request.codec,
        exclude: request.exclude,
        deferred: request.last,
        held: request.held,
        ..ArchiveOptions::default()
    };
    let frames = FrameWriter::new(sink);
    let mut progress = |done: Progress| say(&Event::Progress { files: done.members, bytes: done.raw_bytes });
    let stats = archive_tree(root, &options, frames.archive(), frames.list(), &mut progress)?;
    frames.finish()?;
    Ok(Event::Archived(stats))
}
