//! The server side of SPDY/3.1 as Kubernetes clients speak it: no flow control, header compression with the preset
//! dictionary, streams opened by the client only.

mod connection;
mod dictionary;
mod frame;
mod headers;
mod shared;
#[cfg(test)]
mod tests;

pub(super) use connection::{Incoming, Rules, Verdict, open};
#[cfg(any(test, fuzzing))]
pub(super) use frame::{Decoder, Event};
pub(super) use headers::Headers;
