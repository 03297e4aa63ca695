//! How long a call may take before we give it up, each with its reason. Giving up abandons the call; containerd may
//! still finish it.

use std::time::Duration;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The version: answered from memory, and the health probe.
pub(super) const VERSION: Duration = seconds(2);
/// Reads and small writes of the metadata database: one local transaction, which may queue behind a collection of
/// garbage.
pub(super) const METADATA: Duration = seconds(10);
/// A list, streamed: each message within the time of one read.
pub(super) const LIST: Duration = seconds(30);
/// One question to a shim. A hung shim must not hold up the answer about its pod for longer.
pub(super) const SHIM_READ: Duration = seconds(5);
/// A signal, a resize: the shim makes one system call, or runs the OCI runtime once.
pub(super) const SHIM_WRITE: Duration = seconds(30);
/// Task create, start and delete: shims and OCI runtimes are executed, images' mounts made, on a machine that may
/// start a hundred pods at once.
pub(super) const TASK: Duration = seconds(120);
/// Snapshot prepare, commit, remove: overlayfs makes directories; others copy (native) or talk to volume groups.
pub(super) const SNAPSHOT: Duration = seconds(120);
/// Opening an ingest: containerd reads what an earlier attempt left to hash it.
pub(super) const OPEN_INGEST: Duration = seconds(120);
/// One chunk of at most 4 MiB to a disk that is slow and busy.
pub(super) const CHUNK: Duration = seconds(60);
/// A commit syncs the whole blob: 40 GB at 100 MB/s take 400 s.
pub(super) const COMMIT: Duration = seconds(600);
/// Unpacking one layer: decompression and file creation, gigabytes at worst.
pub(super) const APPLY: Duration = seconds(1800);
/// Packing what a container wrote, and writing its memory down: gigabytes at worst.
pub(super) const CAPTURE: Duration = seconds(1800);
/// A deletion that waits for the garbage collection after it.
pub(super) const COLLECT: Duration = seconds(300);
/// Features of a runtime: containerd executes the shim, which executes the OCI runtime.
pub(super) const FEATURES: Duration = seconds(20);
