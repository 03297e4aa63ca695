//! What is missing in a log, and the line there that says so.

use std::fmt;

/// What was dropped of a stream between two lines that are in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) lines: u64,
    pub(super) bytes: u64,
    pub(super) over_rate: bool,
    pub(super) over_size: bool,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = match (self.over_rate, self.over_size) {
            (true, false) => "logs.max_bytes_per_second",
            (false, _) => "logs.max_file_bytes",
            (true, true) => "logs.max_bytes_per_second and logs.max_file_bytes",
        };
        let Self { lines, bytes, .. } = self;
        write!(
            f,
            "podwright: {lines} lines ({bytes} bytes) dropped: over {limits}"
        )
    }
}

impl Gap {
    /// What there is of it, which is told now.
    pub(super) fn take(&mut self) -> Option<Self> {
        let gap = std::mem::take(self);
        (gap != Self::default()).then_some(gap)
    }
}
