//! The lifecycle of images: pull, unpack, list, remove, usage.
