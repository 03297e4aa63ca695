//! Whole specs as snapshots. A plain one of each kind is shown in full, every other one by what it changes.

mod container;
mod edits;
mod pause;
