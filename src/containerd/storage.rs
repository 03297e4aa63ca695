//! What podwright asks of containerd's storage: leases, snapshots, content, unpacking and image records.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::traits::RootfsMount;
use crate::model::{Descriptor, Digest, Result, Timestamp};

/// A lease that protects what is created under it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub String);

/// A lease as containerd describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: LeaseId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a lease may hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leased {
    /// A blob.
    Content(String),
    /// A write in progress, by its name.
    Ingest(String),
    /// A snapshot: snapshotter and key.
    Snapshot(String, String),
    /// Something else.
    Other(String, String),
}

/// containerd's Leases service.
pub trait Leases: Send + Sync {
    /// Creates a lease; an existing one of the same id counts as success. `expire` bounds its life.
    fn create<'a>(
        &'a self,
        id: &'a LeaseId,
        expire: Option<Timestamp>,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>>;
    /// Deletes a lease; an unknown one counts as success. With `sync`, returns after the garbage collection.
    fn delete<'a>(&'a self, id: &'a LeaseId, sync: bool) -> BoxFuture<'a, Result<()>>;
    /// Every lease, whoever made it.
    fn list_all(&self) -> BoxFuture<'_, Result<Vec<LeaseInfo>>>;
    /// What a lease holds; `NotFound` without one.
    fn resources<'a>(&'a self, id: &'a LeaseId) -> BoxFuture<'a, Result<Vec<Leased>>>;
    /// The ids of all leases with label `key` = `value`.
    fn list<'a>(&'a self, label: (&'a str, &'a str)) -> BoxFuture<'a, Result<Vec<LeaseId>>>;
    /// Puts a resource under a lease: kind `content` with a digest, or `snapshots/NAME` with a key.
    fn add_resource<'a>(
        &'a self,
        id: &'a LeaseId,
        kind: &'a str,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<()>>;
}

/// What kind a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Writable.
    Active,
    /// Read-only.
    View,
    /// Immutable, named by its chain ID.
    Committed,
}

/// A snapshot's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Key, or name once committed.
    pub name: String,
    /// Parent's name; empty for the first layer.
    pub parent: String,
    /// Kind.
    pub kind: SnapshotKind,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a snapshot takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// A snapshot about to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// Snapshotter.
    pub snapshotter: String,
    /// Key of the new snapshot.
    pub key: String,
    /// Parent's name; empty for none.
    pub parent: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Lease that protects it.
    pub lease: Option<LeaseId>,
}

/// containerd's Snapshots service.
pub trait Snapshots: Send + Sync {
    /// Makes a writable snapshot; `AlreadyExists` where the key, or for layers the target, is there already.
    fn prepare<'a>(
        &'a self,
        request: &'a SnapshotRequest,
    ) -> BoxFuture<'a, Result<Vec<RootfsMount>>>;
    /// Makes a read-only snapshot.
    fn view<'a>(&'a self, request: &'a SnapshotRequest) -> BoxFuture<'a, Result<Vec<RootfsMount>>>;
    /// The mounts of an active snapshot or view.
    fn mounts<'a>(
        &'a self,
        snapshotter: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Vec<RootfsMount>>>;
    /// Makes the active snapshot `request.key` immutable as `name`, with `request.labels`.
    fn commit<'a>(
        &'a self,
        name: &'a str,
        request: &'a SnapshotRequest,
    ) -> BoxFuture<'a, Result<()>>;
    /// Removes a snapshot; `NotFound` without one.
    fn remove<'a>(&'a self, snapshotter: &'a str, key: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Describes one snapshot.
    fn stat<'a>(
        &'a self,
        snapshotter: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<SnapshotInfo>>;
    /// Measures one snapshot.
    fn usage<'a>(&'a self, snapshotter: &'a str, key: &'a str) -> BoxFuture<'a, Result<Usage>>;
    /// Describes all snapshots.
    fn list<'a>(&'a self, snapshotter: &'a str) -> BoxFuture<'a, Result<Vec<SnapshotInfo>>>;
}

/// A blob in the content store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentInfo {
    /// Digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A blob about to be written.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// Name of the ingest.
    pub ingest: String,
    /// Size in bytes.
    pub size: u64,
    /// Digest that the blob must have.
    pub expected: Digest,
    /// Lease that protects it.
    pub lease: LeaseId,
}

/// A write in progress, or one that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestInfo {
    /// Its name.
    pub name: String,
    /// Bytes written so far.
    pub bytes: u64,
    /// When the last of them came.
    pub updated_at: Timestamp,
}

/// How the content store answered a [`WriteRequest`].
pub enum WriteStart {
    /// The blob is there already, and now under the lease.
    Present,
    /// Write from [`ContentWriter::offset`] on.
    Open(Box<dyn ContentWriter>),
}

/// An open ingest. Dropping it keeps what was written, for a later resume.
pub trait ContentWriter: Send {
    /// Where the next write goes.
    fn offset(&self) -> u64;
    /// Appends bytes, at most 4 MiB a call.
    fn write(&mut self, data: Bytes) -> BoxFuture<'_, Result<()>>;
    /// Starts again from offset 0.
    fn truncate(&mut self) -> BoxFuture<'_, Result<()>>;
    /// Ends the ingest: the store checks size and digest and sets labels. A blob that got there meanwhile is success;
    /// `FailedPrecondition` where size or digest differ (the ingest is then aborted).
    fn commit(&mut self, labels: BTreeMap<String, String>) -> BoxFuture<'_, Result<()>>;
}

/// containerd's Content service.
pub trait Content: Send + Sync {
    /// Describes a blob; `NotFound` without it.
    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<ContentInfo>>;
    /// Reads a whole blob of at most `limit` bytes; `ResourceExhausted` where it is larger.
    fn read<'a>(&'a self, digest: &'a Digest, limit: u64) -> BoxFuture<'a, Result<Vec<u8>>>;
    /// Reads `length` bytes of a blob from `offset` on: all of them, or an error.
    fn read_part<'a>(
        &'a self,
        digest: &'a Digest,
        offset: u64,
        length: u64,
    ) -> BoxFuture<'a, Result<Vec<u8>>>;
    /// Opens an ingest; `Unavailable` while another writer holds it.
    fn open<'a>(&'a self, request: &'a WriteRequest) -> BoxFuture<'a, Result<WriteStart>>;
    /// Sets the given labels of a blob and leaves the others.
    fn label<'a>(
        &'a self,
        digest: &'a Digest,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>>;
    /// Every blob.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ContentInfo>>>;
    /// Every ingest, whoever opened it.
    fn ingests(&self) -> BoxFuture<'_, Result<Vec<IngestInfo>>>;
    /// Throws an ingest away; an unknown one counts as success.
    fn abort<'a>(&'a self, ingest: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// containerd's Diff service.
pub trait Diff: Send + Sync {
    /// Unpacks a layer blob onto mounts and answers the digest of its uncompressed tar.
    fn apply<'a>(
        &'a self,
        layer: &'a Descriptor,
        mounts: &'a [RootfsMount],
    ) -> BoxFuture<'a, Result<Digest>>;
    /// Packs what `upper` has beyond `lower` as a gzipped layer blob under `lease`.
    fn compare<'a>(
        &'a self,
        lower: &'a [RootfsMount],
        upper: &'a [RootfsMount],
        lease: &'a LeaseId,
    ) -> BoxFuture<'a, Result<Descriptor>>;
}

/// An image record: a name that points to a manifest or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// Name.
    pub name: String,
    /// What it points to.
    pub target: Descriptor,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// containerd's Images service.
pub trait Images: Send + Sync {
    /// One record; `NotFound` without it.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ImageRecord>>;
    /// All records.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ImageRecord>>>;
    /// Creates the record, or re-points an existing one and sets the given labels, leaving its others.
    fn put<'a>(
        &'a self,
        image: &'a ImageRecord,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<()>>;
    /// Deletes a record; an unknown one counts as success. With `sync`, returns after the garbage collection.
    fn delete<'a>(&'a self, name: &'a str, sync: bool) -> BoxFuture<'a, Result<()>>;
}
