//! What others measure us by: metrics, and [`traces`].
//!
//! Metrics are what rooms say of themselves at the moment of a scrape, as a page of the OpenMetrics text format.
//!
//! ```text
//! Source ── read ──> Page ── Sources::scrape ──> text           only while somebody scrapes
//! Calls  <── begin(), end() ── each call                        what is counted as it happens; so are Timings elsewhere
//! ```
//!
//! Nobody keeps metrics beside the facts: a source reads the reports that people are shown as well. Names and help are
//! constants. Label values come from closed sets, or from tables that have a limit of their own; whatever else they do, a
//! page takes only so many series.

mod calls;
pub mod codes;
mod page;
mod text;
mod timings;
pub mod traces;

pub use calls::{Call, Calls};
pub use page::{Buckets, Number, Page, Series};
pub use text::{CONTENT_TYPE, Sources};
pub use timings::Timings;

/// Something that metrics are read from.
pub trait Source: Send + Sync {
    /// Writes what is true now. May look into files of the kernel; must not wait for anything else.
    fn read_blocking(&self, page: &mut Page);
}
