//! Exit codes.

use std::process::ExitCode;

use volsnap::ErrorKind;

/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// Verification found damage or a difference.
pub(crate) const DAMAGED: u8 = 3;

/// Returns the exit code for a kind of failure.
pub(crate) fn code_of(kind: ErrorKind) -> ExitCode {
    match kind {
        ErrorKind::Failed => 1,
        ErrorKind::Usage => USAGE,
        ErrorKind::Damaged => DAMAGED,
        ErrorKind::NotPutBack => 4,
        ErrorKind::Busy => 5,
        ErrorKind::Interrupted(interrupt) => interrupt.exit_code(),
    }
    .into()
}
