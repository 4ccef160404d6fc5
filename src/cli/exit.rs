//! Exit codes.

use std::process::ExitCode;

use volsnap::ErrorKind;
use volsnap::signal::Interrupt;

/// What the exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Done,
    /// 1: failed; everything is as it was before, and services run.
    Failed,
    /// 2: the command line is wrong.
    Usage,
    /// 3: verification found damage or a difference, or `doctor` found something at high risk.
    Damaged,
    /// 4: something could not be put back; the message has the command to type.
    NotPutBack,
    /// 5: another run holds the lock.
    Busy,
    /// 6: done, but not all of it: the message names what was asked for and not looked at, not proved or not copied
    /// to its second place.
    Partial,
    /// 130, 143, 129: interrupted by INT, TERM, HUP; everything is back.
    Interrupted(Interrupt),
}

impl Exit {
    /// Returns the worse of two: a part done is better than any failure, and of two failures the first one counts.
    pub(crate) fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Done, other) => other,
            (Self::Partial, other) if other != Self::Done => other,
            (one, _) => one,
        }
    }

    /// Returns what a look at data says: whether it found nothing wrong, and whether it looked at everything.
    pub(crate) fn of_look(ok: bool, whole: bool) -> Self {
        match (ok, whole) {
            (false, _) => Self::Damaged,
            (true, false) => Self::Partial,
            (true, true) => Self::Done,
        }
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::Damaged => Self::Damaged,
            ErrorKind::NotPutBack => Self::NotPutBack,
            ErrorKind::Busy => Self::Busy,
            ErrorKind::Partial => Self::Partial,
            ErrorKind::Interrupted(interrupt) => Self::Interrupted(interrupt),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Damaged => 3,
            Exit::NotPutBack => 4,
            Exit::Busy => 5,
            Exit::Partial => 6,
            Exit::Interrupted(interrupt) => interrupt.exit_code(),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_in_part_hides_no_failure() {
        assert_eq!(Exit::Partial.worse(Exit::Damaged), Exit::Damaged);
        assert_eq!(Exit::Failed.worse(Exit::Partial), Exit::Failed);
        assert_eq!(Exit::Failed.worse(Exit::Damaged), Exit::Failed);
        assert_eq!(Exit::Done.worse(Exit::Partial), Exit::Partial);
        assert_eq!(Exit::Partial.worse(Exit::Done), Exit::Partial);
    }
}
