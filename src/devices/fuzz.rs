//! What holds for any CDI and any hook file (see [`crate::fuzzing`]).

use super::{HookFacts, cdi, hooks};

/// A specification is read or refused, and never slow.
pub(crate) fn cdi_file(text: &str) {
    drop(cdi::file::parse(text));
}

/// A hook file is read or refused; its patterns, which are the file's own, can be put to any container.
pub(crate) fn hook_file(text: &str) {
    let Ok(file) = hooks::file::parse(text) else {
        return;
    };
    let facts = HookFacts {
        annotations: [(text.to_owned(), text.to_owned())].into(),
        command: text.to_owned(),
        has_bind_mounts: true,
    };
    let _applies: bool = file.applies(&facts);
}
