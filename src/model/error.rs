//! The one error type of the crate: a kind that callers may branch on, what was being done, and the cause.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// What class of failure an [`Error`] is. Closed on purpose: `cri::status` maps each kind to one gRPC code and has
/// no wildcard arm, so a new kind must choose its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller's input breaks a rule that does not depend on state.
    InvalidArgument,
    /// The named object does not exist.
    NotFound,
    /// The object exists already with other content, or its result was handed out before.
    AlreadyExists,
    /// The object's state does not allow the request.
    FailedPrecondition,
    /// A part we depend on is away; trying again later helps.
    Unavailable,
    /// A deadline passed before the work was done.
    DeadlineExceeded,
    /// The caller, or a stop of the pod, called the work off.
    Cancelled,
    /// A limit of ours was reached.
    ResourceExhausted,
    /// The feature is not there.
    Unimplemented,
    /// Credentials are missing or were refused.
    Unauthenticated,
    /// The credentials are known and do not suffice.
    PermissionDenied,
    /// Concurrent work got in the way; the same request may succeed.
    Aborted,
    /// A fault of ours or of a part inside our trust boundary.
    Internal,
    /// A failure whose text a client inspects by prefix (see CRI's `RegistryUnavailable`).
    Unknown,
}

/// A failure: its kind, what was being done, and optionally the error below it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Short form used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $($(#[$doc])* pub fn $name(what: impl Into<Cow<'static, str>>) -> Self { Self::new(Kind::$kind, what) })*
    };
}

impl Error {
    /// An error of `kind` about `what`, without a cause below it.
    pub fn new(kind: Kind, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            what: what.into(),
            source: None,
        }
    }

    constructors! {
        /// [`Kind::InvalidArgument`].
        invalid => InvalidArgument;
        /// [`Kind::NotFound`].
        not_found => NotFound;
        /// [`Kind::AlreadyExists`].
        already_exists => AlreadyExists;
        /// [`Kind::FailedPrecondition`].
        precondition => FailedPrecondition;
        /// [`Kind::Unavailable`].
        unavailable => Unavailable;
        /// [`Kind::DeadlineExceeded`].
        deadline => DeadlineExceeded;
        /// [`Kind::Cancelled`].
        cancelled => Cancelled;
        /// [`Kind::ResourceExhausted`].
        exhausted => ResourceExhausted;
        /// [`Kind::Unimplemented`].
        unimplemented => Unimplemented;
        /// [`Kind::Internal`].
        internal => Internal;
    }

    /// `step` did not end within `limit`.
    pub fn timed_out(step: impl fmt::Display, limit: Duration) -> Self {
        Self::deadline(format!("{step}: not done within {limit:?}"))
    }

    /// Adds the cause below this error.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts `what` above this error and keeps its kind: "start pause: create task: no such file".
    #[must_use]
    pub fn context(self, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: self.kind,
            what: what.into(),
            source: Some(Box::new(self)),
        }
    }

    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this is [`Kind::NotFound`], which stops and removals count as done.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// The whole story on one line: this error, then each cause below it, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.what.to_string();
        let mut below: Option<&(dyn StdError + 'static)> =
            self.source.as_deref().map(|source| source as _);
        while let Some(cause) = below {
            text.push_str(": ");
            match cause.downcast_ref::<Self>() {
                Some(ours) => text.push_str(&ours.what),
                None => text.push_str(&cause.to_string()),
            }
            below = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Adds context to the error of a `Result` that is ours already.
pub trait Context<T> {
    /// Puts `what()` above the error, keeping its kind.
    ///
    /// # Errors
    /// The same failure, one line longer.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.context(what()))
    }
}

/// Gives a foreign error a kind and a context.
pub trait Classify<T> {
    /// Wraps the error as `kind` about `what()`.
    ///
    /// # Errors
    /// The same failure as an [`Error`].
    fn classify(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Classify<T> for std::result::Result<T, E> {
    fn classify(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::new(kind, what()).caused_by(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_tells_each_cause_once_from_the_outside_in() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = Error::internal("create task")
            .caused_by(io)
            .context("start pause");

        assert_eq!(error.chain(), "start pause: create task: no such file");
        assert_eq!(error.kind(), Kind::Internal);
    }
}
