//! The volsnap command: parse, log, run, and report the outcome by the exit code.

mod cli;
mod render;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
