//! The volsnap command: parse, log, run, and report the outcome by the exit code.

mod cli;
#[cfg(test)]
#[path = "../tests/pasted/mod.rs"]
mod pasted;
mod render;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
