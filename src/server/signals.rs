//! What the operator says by signal.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::model::{Classify as _, Kind, Result};

/// What a signal means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// SIGTERM or SIGINT: end in good order.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals that we listen to. From its making on, none of them ends the process by itself.
#[derive(Debug)]
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// `Internal` where a handler cannot be installed.
    pub(super) fn listen() -> Result<Self> {
        let open = |kind: SignalKind| {
            signal(kind).classify(Kind::Internal, || {
                format!("listen to signal {}", kind.as_raw_value())
            })
        };
        Ok(Self {
            term: open(SignalKind::terminate())?,
            int: open(SignalKind::interrupt())?,
            hup: open(SignalKind::hangup())?,
        })
    }

    /// The next word. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Word {
        tokio::select! {
            _ = self.term.recv() => Word::Stop,
            _ = self.int.recv() => Word::Stop,
            _ = self.hup.recv() => Word::Reload,
        }
    }
}
