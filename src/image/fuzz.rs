//! What holds for any layer of an image (see [`crate::fuzzing`]).

/// An archive of any bytes.
pub(crate) fn layer(data: &[u8]) {
    super::apply::fuzz::layer(data);
}
