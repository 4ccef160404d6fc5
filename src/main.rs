//! The volsnap command: parse, log, run, and say by the exit code what became of it.

mod cli;
mod render;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
