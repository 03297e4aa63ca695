//! CRI log framing, writer, reopen, and the pump that never loses a byte.
//!
//! ```text
//! shim -> FIFO --tee--> records --governor--write--> log file      one thread a pod
//!           ^              |
//!           '--consume-----'--------------> subscribers (attach), who must keep up
//! ```
//!
//! The governor says of each record whether the container's quota has room for it: if not, it is dropped, or waits in
//! the FIFO until there is room, and the container with it. Nobody else waits.
//!
//! What must hold is written down in `source`: bytes leave a FIFO only after their record is in the file.

mod bucket;
mod capture;
mod fanout;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gap;
mod governor;
mod lanes;
mod line;
mod outflow;
mod pump;
mod source;
mod stats;
mod target;
#[cfg(test)]
mod tests;
mod worker;
mod writer;

pub use capture::{Capture, CaptureBudget, CaptureLimits, Captured};
pub use fanout::{End, News, Subscription};
pub use lanes::Drained;
pub use line::{LineLimit, Stream};
pub use outflow::{Outflow, When};
pub use pump::{Fifos, LogPump, PumpOptions, Pumps};
pub use stats::{Dropped, LogTotals, PumpStats};
pub use target::LogTarget;
