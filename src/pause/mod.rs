//! The pause program and its embedding.
