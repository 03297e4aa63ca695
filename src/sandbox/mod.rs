//! The lifecycle of pod sandboxes: one file a verb.
