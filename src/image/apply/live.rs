//! The same layers unpacked by this process and by containerd's diff service: the trees must be equal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::sync::Mutex;

use super::*;
use crate::containerd::grpc::live::Node;
use crate::containerd::{Containerd, LeaseId, SnapshotRequest, WriteRequest, WriteStart};
use crate::model::Descriptor;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Images compared.
const IMAGES: usize = 24;
/// Times after this are those of the run itself: directories that no entry told of.
const NOW: i64 = 1_600_000_000;

/// One entry of a made-up layer.
#[derive(Clone, Debug)]
enum Item {
    File {
        path: String,
        data: Vec<u8>,
        mode: u32,
        ids: (u64, u64),
        capability: bool,
    },
    Directory {
        path: String,
        mode: u32,
        ids: (u64, u64),
    },
    Symlink {
        path: String,
        target: String,
    },
    HardLink {
        path: String,
        target: String,
    },
    Fifo {
        path: String,
    },
    Device {
        path: String,
    },
    Whiteout {
        path: String,
    },
    Opaque {
        path: String,
    },
}

impl Item {
    fn path(&self) -> &str {
        match self {
            Self::File { path, .. }
            | Self::Directory { path, .. }
            | Self::Symlink { path, .. }
            | Self::HardLink { path, .. }
            | Self::Fifo { path }
            | Self::Device { path }
            | Self::Whiteout { path }
            | Self::Opaque { path } => path,
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d", "éé"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        path(),
        path().prop_map(|path| format!("/{path}")),
        path().prop_map(|path| format!("../{path}")),
        Just("../../..".to_owned()),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let ids = || (0..3000_u64, 0..100_000_u64);
    let data = prop::collection::vec(any::<u8>(), 0..2000);
    prop_oneof![
        4 => (path(), data, 0..0o10000_u32, ids(), any::<bool>()).prop_map(
            |(path, data, mode, ids, capability)| Item::File { path, data, mode, ids, capability }
        ),
        4 => (path(), 0..0o10000_u32, ids())
            .prop_map(|(path, mode, ids)| Item::Directory { path, mode, ids }),
        2 => (path(), target()).prop_map(|(path, target)| Item::Symlink { path, target }),
        1 => (path(), path()).prop_map(|(path, target)| Item::HardLink { path, target }),
        1 => path().prop_map(|path| Item::Fifo { path }),
        1 => path().prop_map(|path| Item::Device { path }),
        2 => path().prop_map(|path| Item::Whiteout { path }),
        1 => path().prop_map(|path| Item::Opaque { path }),
    ]
}

/// Leaves out what the two are known to do differently: whiteouts of what the same layer has, which is an error to
/// containerd on overlayfs, and opaque marks behind entries of the same layer whose parents were not named, which it
/// takes away again in a bottom layer although such a mark speaks of the layers below.
fn sensible(items: Vec<Item>) -> Vec<Item> {
    let is_mark = |item: &Item| matches!(item, Item::Whiteout { .. });
    let touches = |one: &str, other: &str| {
        one == other
            || one.starts_with(&format!("{other}/"))
            || other.starts_with(&format!("{one}/"))
    };
    let has_links = items
        .iter()
        .any(|item| matches!(item, Item::Symlink { .. }));
    let mut kept: Vec<Item> = Vec::new();
    for item in items {
        let clash = kept.iter().any(|other| {
            (is_mark(&item) || is_mark(other)) && (has_links || touches(item.path(), other.path()))
        });
        let hides = |other: &Item| {
            let below = other.path().strip_prefix(item.path());
            has_links || below.is_some_and(|rest| rest.matches('/').count() > 1)
        };
        let is_late = matches!(item, Item::Opaque { .. }) && kept.iter().any(hides);
        if !clash && !is_late {
            kept.push(item);
        }
    }
    kept
}

fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (at, item) in items.iter().enumerate() {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_000_000_000 + at as u64);
        header.set_mode(0o644);
        header.set_size(0);
        let nanos = format!("{}.{:09}", 1_000_000_000 + at, at * 7_000_001);
        tar.append_pax_extensions([("mtime", nanos.as_bytes())])
            .unwrap();
        let mut put = |header: &mut tar::Header, path: &str, data: &[u8]| {
            header.set_size(data.len() as u64);
            tar.append_data(header, path, data).unwrap();
        };
        match item {
            Item::File {
                path,
                data,
                mode,
                ids,
                capability,
            } => {
                header.set_mode(*mode);
                header.set_uid(ids.0);
                header.set_gid(ids.1);
                if *capability {
                    let value: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
                    let extensions = [
                        ("mtime", nanos.as_bytes()),
                        ("SCHILY.xattr.security.capability", value),
                    ];
                    tar.append_pax_extensions(extensions).unwrap();
                }
                header.set_size(data.len() as u64);
                tar.append_data(&mut header, path, &data[..]).unwrap();
            }
            Item::Directory { path, mode, ids } => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_uid(ids.0);
                header.set_gid(ids.1);
                put(&mut header, &format!("{path}/"), b"");
            }
            Item::Symlink { path, target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target).unwrap();
            }
            Item::HardLink { path, target } => {
                header.set_entry_type(tar::EntryType::Link);
                tar.append_link(&mut header, path, target).unwrap();
            }
            Item::Fifo { path } => {
                header.set_entry_type(tar::EntryType::Fifo);
                put(&mut header, path, b"");
            }
            Item::Device { path } => {
                header.set_entry_type(tar::EntryType::Char);
                header.set_device_major(1).unwrap();
                header.set_device_minor(300).unwrap();
                put(&mut header, path, b"");
            }
            Item::Whiteout { path } => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                put(
                    &mut header,
                    format!("{parent}/.wh.{name}").trim_start_matches('/'),
                    b"",
                );
            }
            Item::Opaque { path } => put(&mut header, &format!("{path}/.wh..wh..opq"), b""),
        }
    }
    tar.into_inner().unwrap()
}

/// Everything there is to see below `dir`, a line each.
fn listing(dir: &Path, below: &Path, text: &mut String) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(below).unwrap().display();
        let (mtime, nanos) = match meta.mtime() {
            time if time > NOW => (0, 0),
            time => (time, meta.mtime_nsec()),
        };
        write!(
            text,
            "{name} {:o} {}:{} {mtime}.{nanos} links {} device {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            if meta.is_dir() { 0 } else { meta.nlink() },
            meta.rdev(),
        )
        .unwrap();
        for attribute in [c"security.capability", c"trusted.overlay.opaque"] {
            if let Some(value) = tree_attribute(&path, attribute) {
                write!(text, " {attribute:?}={value:?}").unwrap();
            }
        }
        if meta.is_symlink() {
            write!(text, " -> {}", fs::read_link(&path).unwrap().display()).unwrap();
        }
        if meta.is_file() {
            write!(text, " {}", Digest::sha256(&fs::read(&path).unwrap())).unwrap();
        }
        text.push('\n');
        if meta.is_dir() {
            listing(&path, below, text);
        }
    }
}

fn tree_attribute(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    crate::sys::layer_tree::attribute(path, name)
}

/// One of the two chains of snapshots.
struct Chain {
    containerd: Containerd,
    snapshotter: &'static str,
    name: String,
    depth: usize,
}

impl Chain {
    fn request(&self) -> SnapshotRequest {
        SnapshotRequest {
            snapshotter: self.snapshotter.into(),
            key: format!("{}-{}-active", self.name, self.depth),
            parent: if self.depth == 0 {
                String::new()
            } else {
                format!("{}-{}", self.name, self.depth - 1)
            },
            labels: BTreeMap::from([("containerd.io/gc.root".to_owned(), "1".to_owned())]),
            ..SnapshotRequest::default()
        }
    }

    async fn commit(&mut self) {
        let name = format!("{}-{}", self.name, self.depth);
        self.containerd
            .snapshots
            .commit(&name, &self.request())
            .await
            .unwrap();
        self.depth += 1;
    }
}

fn directory(mounts: &[RootfsMount]) -> std::path::PathBuf {
    let mount = &mounts[0];
    let upper = mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    upper.unwrap_or(&mount.source).into()
}

async fn keep(containerd: &Containerd, media_type: &str, blob: Vec<u8>) -> Descriptor {
    let lease = LeaseId("test".into());
    containerd
        .leases
        .create(&lease, None, BTreeMap::new())
        .await
        .unwrap();
    let digest = Digest::sha256(&blob);
    let descriptor = Descriptor {
        media_type: media_type.into(),
        digest: digest.clone(),
        size: blob.len() as u64,
        annotations: BTreeMap::new(),
    };
    let request = WriteRequest {
        ingest: digest.to_string(),
        size: descriptor.size,
        expected: digest,
        lease,
    };
    if let WriteStart::Open(mut writer) = containerd.content.open(&request).await.unwrap() {
        writer.write(blob.into()).await.unwrap();
        writer.commit(BTreeMap::new()).await.unwrap();
    }
    descriptor
}

async fn unpack_here(
    containerd: &Containerd,
    layer: &Descriptor,
    mounts: &[RootfsMount],
    has_parent: bool,
) -> Result<Digest> {
    let plugins = containerd.introspection.plugins().await?;
    let store = plugins
        .iter()
        .find(|plugin| plugin.id == "content")
        .unwrap();
    let content = Path::new(&store.exports["root"]);
    let server = containerd.introspection.server_pid();
    let plan = Plan::of(layer, mounts, has_parent, Some(content), server)
        .ok_or_else(|| Error::unimplemented("not ours"))?;
    let hold = Arc::new(Mutex::new(())).lock_owned().await;
    let unpacked = plan.run(hold, None).await?;
    Ok(unpacked.diff_id)
}

/// Unpacks the layers of one image both ways; answers how many were compared.
async fn compare(
    containerd: &Containerd,
    snapshotter: &'static str,
    image: usize,
    layers: &[Vec<Item>],
) -> usize {
    let chain = |who: &str| Chain {
        containerd: containerd.clone(),
        snapshotter,
        name: format!("{who}-{image}"),
        depth: 0,
    };
    let (mut ours, mut theirs) = (chain("ours"), chain("theirs"));
    let mut compared = 0;
    for items in layers {
        let tar = tar_of(items);
        let layer = if image.is_multiple_of(2) {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::Write::write_all(&mut gzip, &tar).unwrap();
            keep(containerd, GZIP, gzip.finish().unwrap()).await
        } else {
            keep(containerd, ZSTD, ::zstd::encode_all(&tar[..], 3).unwrap()).await
        };
        let our_mounts = containerd.snapshots.prepare(&ours.request()).await.unwrap();
        let their_mounts = containerd
            .snapshots
            .prepare(&theirs.request())
            .await
            .unwrap();

        let has_parent = ours.depth > 0;
        let here = unpack_here(containerd, &layer, &our_mounts, has_parent).await;
        let there = containerd.diff.apply(&layer, &their_mounts).await;

        let found = match (here, there) {
            (Ok(found), Ok(_)) => found,
            (Err(error), Ok(_)) if error.kind() == Kind::Unimplemented => return compared,
            (_, Err(_)) => return compared,
            (Err(error), Ok(_)) => {
                let why = error.chain();
                panic!("containerd takes what we refuse: {why}\n{items:#?}")
            }
        };
        assert_eq!(found, Digest::sha256(&tar));
        let see = |mounts: &[RootfsMount]| {
            let (mut text, dir) = (String::new(), directory(mounts));
            listing(&dir, &dir, &mut text);
            text
        };
        assert_eq!(see(&our_mounts), see(&their_mounts), "{items:#?}");
        compared += 1;
        ours.commit().await;
        theirs.commit().await;
    }
    compared
}

async fn compare_many(snapshotter: &'static str, least: usize) {
    let Some(node) = Node::start() else {
        return;
    };
    let containerd = node.client().await.containerd;
    let probe = SnapshotRequest {
        snapshotter: snapshotter.into(),
        key: "probe".into(),
        ..SnapshotRequest::default()
    };
    if containerd.snapshots.prepare(&probe).await.is_err() {
        return; // no such snapshotter on this file system
    }
    let layers = prop::collection::vec(
        prop::collection::vec(item(), 1..14).prop_map(sensible),
        1..4,
    );
    let mut runner = TestRunner::default();
    let mut compared = 0;
    for image in 0..IMAGES {
        let layers = layers.new_tree(&mut runner).unwrap().current();
        compared += compare(&containerd, snapshotter, image, &layers).await;
    }
    assert!(compared >= least, "only {compared} layers were compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_those_of_containerd_on_overlayfs() {
    compare_many("overlayfs", IMAGES / 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_those_of_containerd_on_plain_directories() {
    compare_many("native", IMAGES / 4).await;
}
