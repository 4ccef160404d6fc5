//! `agent`: our code inside the helper container. Not for people.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use volsnap::agent::session::{SessionOptions, Streams, serve};
use volsnap::engine::helper::{FIFO, INPUT, KERNEL, PIPE, SOURCE, STAGE};

/// Serves the command from inside the helper container.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Serves until standard input ends.
pub(crate) fn run(_args: &Args) -> ExitCode {
    let pipe = Path::new(PIPE);
    let options = SessionOptions {
        root: PathBuf::from(SOURCE),
        stage: PathBuf::from(STAGE),
        fifo: pipe.join(FIFO),
        kernel: pipe.join(KERNEL),
        input: pipe.join(INPUT),
    };
    // Its command is gone: it exits in the middle of whatever it does.
    serve(&options, Streams::of_process(), || std::process::exit(0));
    ExitCode::SUCCESS
}
