//! The error of the procedures: what volsnap was doing, what state things are in, what to type next.
//!
//! Lower layers have error types of their own; a procedure wraps them in an [`Error`], whose
//! [`ErrorKind`] decides the exit code. The printer in the binary shows the chain and the hint.

use std::error::Error as StdError;
use std::fmt;

use super::hint::Hint;
use crate::signal::Interrupt;

/// The result of a procedure.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure this is; the binary turns it into its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It failed; everything is as it was before and services run.
    Failed,
    /// The request makes no sense: an unknown target, an impossible option.
    Usage,
    /// Verification found damage or a difference.
    Damaged,
    /// Something could not be put back; the message has the command to type.
    NotPutBack,
    /// Another run holds the lock.
    Busy,
    /// It was done, but not all of it: the message names what was asked for and not looked at, not proved or not
    /// copied to its second place.
    Partial,
    /// A signal ended the run; everything is back.
    Interrupted(Interrupt),
}

/// A failure that speaks: what volsnap was doing to what, the state now, the next command.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    state: Option<String>,
    hints: Vec<Hint>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Returns an error of `kind`; `message` is a lower-case fragment naming the thing.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), state: None, hints: Vec::new(), source: None }
    }

    /// Returns an [`ErrorKind::Failed`] error.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// Returns an [`ErrorKind::Usage`] error.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Returns an [`ErrorKind::Busy`] error.
    #[must_use]
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message)
    }

    /// Says what to type next; replaces earlier hints.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hints = vec![hint.into()];
        self
    }

    /// Adds another command to type next.
    #[must_use]
    pub fn or(mut self, hint: impl Into<Hint>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says what to type next, the likeliest first; replaces earlier hints.
    #[must_use]
    pub fn with_hints(mut self, hints: impl IntoIterator<Item = Hint>) -> Self {
        self.hints = hints.into_iter().collect();
        self
    }

    /// Adds what state things are in now.
    #[must_use]
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Adds the error beneath this one. What that says to type next holds for this one too, unless this one says another
    /// thing: whoever adds what he was doing does not take the advice away. What state things are in may have changed.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        if let (true, Some(beneath)) = (self.hints.is_empty(), find::<Self>(&*source)) {
            self.hints.clone_from(&beneath.hints);
        }
        self.source = Some(source);
        self
    }

    /// Returns the same, to be raised once more: its message has everything beneath it.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            kind: self.kind,
            message: self.chain(),
            state: self.state.clone(),
            hints: self.hints.clone(),
            source: None,
        }
    }

    /// Changes the kind, and keeps everything else.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Returns what kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns what to type next, the likeliest first.
    #[must_use]
    pub fn hints(&self) -> &[Hint] {
        &self.hints
    }

    /// Returns the hints as text, one a line.
    #[must_use]
    pub fn hint_text(&self) -> Option<String> {
        let lines: Vec<_> = self.hints.iter().map(ToString::to_string).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Returns what state things are in now, if the error says.
    #[must_use]
    pub fn state_text(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl Error {
    /// Returns the message with everything beneath it, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// Returns the first error of a type in a chain of errors. The source of a system's error is that of the error in it,
/// which would be left out.
pub(crate) fn find<'e, E: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e E> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    match error.downcast_ref::<std::io::Error>() {
        Some(system) => find(system.get_ref()?),
        None => find(error.source()?),
    }
}

/// Returns an error's message with everything beneath it, in one line. A message that a layer only
/// passes on appears once.
#[must_use]
pub fn chain(error: &dyn StdError) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let said = source.to_string();
        if !out.ends_with(&said) {
            out.push_str(": ");
            out.push_str(&said);
        }
        cause = source.source();
    }
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Says what volsnap was doing when a lower layer failed.
pub trait Context<T> {
    /// Wraps the error beneath in an [`ErrorKind::Failed`] error that says what volsnap was doing.
    ///
    /// # Errors
    /// The wrapped error, if there was one.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::failed(what()).with_source(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner() -> Error {
        Error::usage("inner").hint(Hint::volsnap(["list"]))
    }

    #[test]
    fn what_an_error_beneath_advises_is_not_lost() {
        let lost: Result<()> = Err(inner());
        let wrapped = lost.context(|| "outer".to_owned()).unwrap_err();
        assert_eq!(wrapped.hints(), inner().hints());
        assert_eq!(wrapped.chain(), "outer: inner");
        // However deep it lies.
        let deep = Error::failed("top").with_source(std::io::Error::other(inner()));
        assert_eq!(deep.hints(), inner().hints());
    }

    #[test]
    fn an_error_that_knows_better_says_so() {
        let own = Hint::advice("another way");
        for error in [
            Error::failed("outer").with_source(inner()).hint(own.clone()),
            Error::failed("outer").hint(own.clone()).with_source(inner()),
        ] {
            assert_eq!(error.hints(), std::slice::from_ref(&own));
        }
    }
}
