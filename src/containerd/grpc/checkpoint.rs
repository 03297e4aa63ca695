//! What the runc shim is asked for when it writes a task down (`containerd.runc.v1.CheckpointOptions`).

use std::path::Path;

use prost::Message;

use crate::containerd::{CheckpointDirs, Payload};
use crate::model::{Error, Result};

const TYPE_URL: &str = "containerd.runc.v1.CheckpointOptions";

#[derive(Clone, PartialEq, Message)]
struct CheckpointOptions {
    /// Whether the processes end with it. They never do here.
    #[prost(bool, tag = "1")]
    exit: bool,
    /// Whether established connections are written down too; CRIU refuses a container with one otherwise.
    #[prost(bool, tag = "2")]
    open_tcp: bool,
    /// The same of connections to sockets of the node's.
    #[prost(bool, tag = "3")]
    external_unix_sockets: bool,
    /// The same of a terminal.
    #[prost(bool, tag = "4")]
    terminal: bool,
    /// The same of locks on files.
    #[prost(bool, tag = "5")]
    file_locks: bool,
    #[prost(string, tag = "8")]
    image_path: String,
    #[prost(string, tag = "9")]
    work_path: String,
}

/// The options: whatever a container may have open is no reason to refuse it.
pub(super) fn options(dirs: &CheckpointDirs) -> Result<Payload> {
    let options = CheckpointOptions {
        exit: false,
        open_tcp: true,
        external_unix_sockets: true,
        terminal: true,
        file_locks: true,
        image_path: text(&dirs.images)?,
        work_path: text(&dirs.work)?,
    };
    Ok(Payload::new(TYPE_URL, options.encode_to_vec()))
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::invalid(format!("{}: not UTF-8", path.display())))
}
