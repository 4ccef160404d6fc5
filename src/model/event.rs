//! What a procedure tells whoever watches: phases, progress, warnings, the moments of the hold.
//!
//! The library never prints. A procedure reports to a [`Monitor`]; the binary draws it, tests
//! record it or act on it.

use std::fmt;
use std::time::Duration;

use super::error::Error;
use super::hint::Hint;

/// A part of a procedure, by the name that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Checking everything that can be checked, before touching anything.
    Prepare,
    /// Looking at what is true of the data.
    Facts,
    /// Copying into the stage while clients write.
    Stage,
    /// Waiting for the containers to stop.
    Stop,
    /// Freezing the containers.
    Freeze,
    /// Reading the proof of a clean shutdown from the database's own files.
    Prove,
    /// Copying into the stage what has changed, while the writers are held.
    FinalPass,
    /// Reading a copy and its original, to compare them.
    Compare,
    /// Writing the archive.
    Archive,
    /// Unpacking an archive beside the data.
    Extract,
    /// Swapping the old data for the new.
    Swap,
    /// Archiving the data that was replaced.
    Safety,
    /// Starting the containers and waiting until they answer.
    Start,
    /// Unfreezing the frozen containers.
    Unfreeze,
    /// Making the snapshot durable and visible.
    Publish,
    /// Reading an archive back.
    Verify,
    /// Booting a database on a copy of its data.
    Boot,
    /// Putting back what a failed or dead run left.
    Recover,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::Facts => "facts",
            Self::Stage => "stage",
            Self::Stop => "stop",
            Self::Freeze => "freeze",
            Self::Prove => "prove",
            Self::FinalPass => "final pass",
            Self::Compare => "compare",
            Self::Archive => "archive",
            Self::Extract => "extract",
            Self::Swap => "swap",
            Self::Safety => "safety",
            Self::Start => "start",
            Self::Unfreeze => "unfreeze",
            Self::Publish => "publish",
            Self::Verify => "verify",
            Self::Boot => "boot",
            Self::Recover => "recover",
        })
    }
}

/// Something that happened in a procedure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A phase begins.
    Phase {
        /// Which phase.
        phase: Phase,
        /// What it works on, such as "db (memory-service_db_1)".
        detail: String,
        /// The work ahead in bytes, if known.
        total_bytes: Option<u64>,
    },
    /// Work done in the current phase so far.
    Progress {
        /// Bytes read so far.
        bytes: u64,
        /// Files read so far.
        files: u64,
    },
    /// The service is about to go away.
    Held,
    /// The service is back.
    Released {
        /// Time since the stop was asked for.
        downtime: Duration,
        /// Whether all of it was asked, and answered; if not, it runs as far as can be seen.
        answers: bool,
    },
    /// Something worth knowing that does not end the run.
    Warning(Notice),
    /// Something done, in a line.
    Note(Notice),
}

/// Something said on the way, with the commands that it suggests. They are data, as an error's are: whoever prints
/// them puts in the repository and the engine that this run was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What is said.
    pub text: String,
    /// What to type, the likeliest first.
    pub hints: Vec<Hint>,
}

impl Notice {
    /// Adds what to type.
    #[must_use]
    pub fn hint(mut self, hint: Hint) -> Self {
        self.hints.push(hint);
        self
    }
}

impl<T: Into<String>> From<T> for Notice {
    fn from(text: T) -> Self {
        Self { text: text.into(), hints: Vec::new() }
    }
}

/// An error that ends nothing: its message with everything beneath it, and its own hints.
impl From<&Error> for Notice {
    fn from(error: &Error) -> Self {
        Self { text: error.chain(), hints: error.hints().to_vec() }
    }
}

/// Watches a procedure. Called from async code: must not block for long.
pub trait Monitor: Send + Sync {
    /// Takes note of an event.
    fn event(&self, event: Event);

    /// Hears the name of each step just before the step. Tests act here.
    fn step(&self, _step: &'static str) {}

    /// Hears that a wait makes progress, for example that the engine answered, when there is nothing else to say.
    fn goes_on(&self) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _event: Event) {}
}

impl dyn Monitor + '_ {
    /// Reports that a phase begins.
    pub fn phase(&self, phase: Phase, detail: impl Into<String>, total_bytes: Option<u64>) {
        self.event(Event::Phase { phase, detail: detail.into(), total_bytes });
    }

    /// Reports something worth knowing.
    pub fn warning(&self, notice: impl Into<Notice>) {
        self.event(Event::Warning(notice.into()));
    }

    /// Reports something done.
    pub fn note(&self, notice: impl Into<Notice>) {
        self.event(Event::Note(notice.into()));
    }
}
