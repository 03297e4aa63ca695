//! Argument parsing and dispatch: one file a verb.
