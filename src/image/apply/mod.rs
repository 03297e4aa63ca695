//! Unpacking a layer in this process, straight into its snapshot's directory.
//!
//! ```text
//! the blob in the content store -> gunzip or unzstd -> (another thread) -> hash -> tar -> files -> diff id
//! ```
//!
//! containerd's diff service does the same with slower decoders. It stays for all that is not plain: other kinds of
//! snapshots, windows of zstd that would take much memory, and archives that need what is not built here. What is unpacked here is what containerd
//! would have made of it: see [`lay`] and `sys::layer_tree`, which hold that.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod lay;
#[cfg(test)]
mod live;
mod source;
mod tape;
mod target;
#[cfg(test)]
mod tests;
mod zstd;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use flate2::bufread::MultiGzDecoder;
use tokio::sync::{OwnedMutexGuard, Semaphore};

use crate::containerd::RootfsMount;
use crate::model::{Classify as _, Descriptor, Digest, Error, Kind, Pid, Result};
use crate::sys::host_facts::is_in_user_namespace_blocking;
use crate::sys::layer_tree::{LayerTree, means_the_same_blocking};
use lay::{Laying, Limits};
use source::{Ahead, Buffers, Hashed, Inline};
use tape::Tape;
use target::Target;
pub(super) use zstd::Unzstd;

/// Layers unpacked at the same time on this node, whoever wants them.
const AT_ONCE: usize = 4;
/// Entries of one layer.
const MAX_ENTRIES: u64 = 10_000_000;
/// Bytes of a packed layer for which a second thread is not worth it.
const SMALL: u64 = 1 << 20;
/// Bytes of the blob read at a time.
const READ: usize = 256 << 10;
pub(super) const GZIP: &[u8] = &[0x1f, 0x8b];
pub(super) const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

static SEATS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE)));

/// How the bytes of a layer are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// Not at all.
    None,
    /// Their beginning tells.
    AsSeen,
}

/// What a layer may unpack to.
#[derive(Clone, Debug)]
pub(super) struct Most {
    pub(super) bytes: u64,
    /// What is said of a layer that is larger.
    pub(super) why: String,
}

impl Most {
    /// The error for a layer that is larger.
    pub(super) fn exceeded(&self) -> Error {
        Error::exhausted(self.why.clone())
    }
}

/// What came of unpacking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// The digest of the uncompressed tar.
    pub(super) diff_id: Digest,
    /// The size of it.
    pub(super) bytes: u64,
}

/// A layer that this process can unpack.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    target: Target,
    packing: Packing,
    blob: PathBuf,
    is_small: bool,
    server: Pid,
}

/// Stops the thread when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Plan {
    /// How to unpack `layer` into the snapshot with these `mounts`, or `None` where that is containerd's to do. The blob
    /// lies below `content`, the directory of the content store; `server` is the process whose paths those are.
    pub(super) fn of(
        layer: &Descriptor,
        mounts: &[RootfsMount],
        has_parent: bool,
        content: Option<&Path>,
        server: Option<Pid>,
    ) -> Option<Self> {
        let digest = &layer.digest;
        let blobs = content?.join("blobs").join(digest.algorithm());
        Some(Self {
            target: Target::of(mounts, has_parent)?,
            packing: packing(&layer.media_type)?,
            blob: blobs.join(digest.hex()),
            is_small: layer.size < SMALL,
            server: server?,
        })
    }

    /// Unpacks the blob on threads of its own, to no more than `most`. `hold` is let go when
    /// nothing touches the snapshot any more; that may be after this future was dropped, which stops the work.
    ///
    /// # Errors
    /// `Unimplemented` where containerd had better do it: then the snapshot may be half full. `Aborted` and
    /// `InvalidArgument` for a layer that is none; `ResourceExhausted` beyond a limit; `Internal` as the kernel says.
    pub(super) async fn run(
        self,
        hold: OwnedMutexGuard<()>,
        most: Option<Most>,
    ) -> Result<Unpacked> {
        const WHAT: &str = "unpack a layer";
        let seat = Arc::clone(&SEATS)
            .acquire_owned()
            .await
            .classify(Kind::Internal, || WHAT.to_owned())?;
        let stop = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(Arc::clone(&stop));
        let ended = tokio::task::spawn_blocking(move || {
            let (_seat, _hold) = (seat, hold);
            self.unpack_blocking(most, &|| stop.load(Ordering::Relaxed))
        });
        ended.await.classify(Kind::Internal, || WHAT.to_owned())?
    }

    fn unpack_blocking(
        &self,
        most: Option<Most>,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Unpacked> {
        if is_in_user_namespace_blocking() {
            return Err(not_ours("devices cannot be made in a user namespace"));
        }
        let tree = LayerTree::open_blocking(&self.target.root, &self.target.below)
            .map_err(|error| not_ours("its directory cannot be opened").caused_by(error))?;
        if !means_the_same_blocking(self.server.0, &self.target.root, tree.as_fd()) {
            return Err(not_ours("containerd means another directory by its path"));
        }
        if !tree.is_empty_blocking()? {
            return Err(not_ours("its directory is not empty"));
        }
        let blob = File::open(&self.blob)
            .map_err(|error| not_ours("its blob cannot be opened").caused_by(error))?;
        if !means_the_same_blocking(self.server.0, &self.blob, blob.as_fd()) {
            return Err(not_ours("containerd means another file by its blob's path"));
        }
        let limits = Limits {
            entries: MAX_ENTRIES,
        };
        let laying = Laying::new(tree, self.target.whiteouts, limits, is_cancelled);
        self.unpack(BufReader::with_capacity(READ, blob), most, laying)
    }

    /// Looks at the beginning to find out how the layer is packed.
    fn unpack(
        &self,
        mut blob: BufReader<File>,
        most: Option<Most>,
        laying: Laying<'_>,
    ) -> Result<Unpacked> {
        let start = blob.fill_buf().map_err(tape::broken)?;
        if self.packing == Packing::None || !is_packed(start) {
            return lay_out(laying, Inline(blob), most);
        }
        if start.starts_with(GZIP) {
            return self.unpack_from(MultiGzDecoder::new(blob), most, laying);
        }
        let plain = Unzstd::new(blob).map_err(tape::broken)?;
        self.unpack_from(plain, most, laying)
    }

    /// Reads `plain` on a thread of its own where that is worth it.
    fn unpack_from(
        &self,
        plain: impl Read + Send,
        most: Option<Most>,
        laying: Laying<'_>,
    ) -> Result<Unpacked> {
        if self.is_small {
            return lay_out(laying, Inline(plain), most);
        }
        std::thread::scope(|scope| {
            let plain = Ahead::start(scope, plain).classify(Kind::Internal, || {
                "start a thread to unpack a layer".to_owned()
            })?;
            lay_out(laying, plain, most)
        })
    }
}

/// The directory that a new snapshot without layers below it is.
///
/// # Errors
/// `Unimplemented` where the snapshot is no plain directory that containerd and we see alike.
pub(super) fn new_directory_blocking(
    mounts: &[RootfsMount],
    server: Option<Pid>,
) -> Result<PathBuf> {
    let target = Target::of(mounts, false);
    let (Some(target), Some(server)) = (target, server) else {
        let why = "artifacts need a snapshotter whose snapshots are directories, such as overlayfs or native";
        return Err(Error::unimplemented(why));
    };
    let root = File::open(&target.root)
        .classify(Kind::Internal, || format!("open {}", target.root.display()))?;
    if !means_the_same_blocking(server.0, &target.root, root.as_fd()) {
        return Err(not_ours("containerd means another directory by its path"));
    }
    Ok(target.root)
}

/// Whether the bytes begin as those of a packed layer do. zstd's frames that carry no data may come first.
fn is_packed(start: &[u8]) -> bool {
    let is_skippable = matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    start.starts_with(GZIP) || start.starts_with(ZSTD) || is_skippable
}

fn not_ours(why: &str) -> Error {
    Error::unimplemented(format!("the snapshot is containerd's to fill: {why}"))
}

fn lay_out(laying: Laying<'_>, plain: impl Buffers, most: Option<Most>) -> Result<Unpacked> {
    let mut hashed = Hashed::new(plain, most);
    let mut tape = Tape::new(&mut hashed);
    laying.run(&mut tape)?;
    // The digest is of all of it, what follows the archive's end included.
    tape.drain()?;
    Ok(hashed.end())
}

/// `None` for what this process cannot unpack.
fn packing(media_type: &str) -> Option<Packing> {
    const DOCKER: &str = "application/vnd.docker.image.rootfs.";
    const OCI: &str = "application/vnd.oci.image.layer.";
    if let Some(rest) = media_type.strip_prefix(DOCKER) {
        return match rest.strip_prefix("foreign.").unwrap_or(rest) {
            "diff.tar" | "diff.tar.gzip" | "diff.tar.zstd" => Some(Packing::AsSeen),
            _ => None,
        };
    }
    let rest = media_type.strip_prefix(OCI)?;
    match rest.strip_prefix("nondistributable.").unwrap_or(rest) {
        "v1.tar" => Some(Packing::None),
        "v1.tar+gzip" | "v1.tar+zstd" => Some(Packing::AsSeen),
        _ => None,
    }
}
