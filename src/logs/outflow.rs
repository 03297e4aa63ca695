//! One output of a short-lived process: its FIFO's read end, open before the process is made.

use std::io;
use std::path::Path;

use tokio::net::unix::pipe::Receiver;

use crate::model::{Classify, Kind, Result};
use crate::sys::fifo::ReadEnd;

/// The read end of one output. Dropping it closes it.
#[derive(Debug)]
pub struct Outflow(Option<Receiver>);

/// What a read goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The kernel's word that there is something. Before that, a FIFO without writers only waits for its first.
    Announced,
    /// Nothing: the process has exited, so a FIFO without writers has ended.
    Exited,
}

impl Outflow {
    /// Opens the read end; does not wait for a writer. Needs a runtime to be entered.
    ///
    /// # Errors
    /// `NotFound` where there is no FIFO, otherwise `Internal`.
    pub fn open(path: &Path) -> Result<Self> {
        Receiver::from_owned_fd(ReadEnd::open(path)?.into())
            .classify(Kind::Internal, || format!("watch the fifo {path:?}"))
            .map(|receiver| Self(Some(receiver)))
    }

    /// The output of a process that has none.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until there is something to read, or the writers have left. To be asked only while open.
    pub async fn readable(&self) {
        if let Some(receiver) = &self.0 {
            // An error shows itself again when it is read.
            drop(receiver.readable().await);
        }
        tokio::task::coop::consume_budget().await;
    }

    /// What is there now, as far as `buffer` takes it; `None` where there is nothing, and it may have ended.
    pub fn read<'a>(&mut self, when: When, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        loop {
            let receiver = self.0.as_ref()?;
            let count = match when {
                When::Announced => receiver.try_read(buffer),
                When::Exited => nix::unistd::read(receiver, buffer).map_err(io::Error::from),
            };
            match count {
                Ok(0) => self.0 = None,
                Ok(count) => return buffer.get(..count),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => {
                    tracing::debug!(%error, "an output cannot be read on");
                    self.0 = None;
                }
            }
        }
    }
}
