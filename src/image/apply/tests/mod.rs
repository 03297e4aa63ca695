//! Layers made here, laid out in a directory, looked at afterwards.

mod bounds;
mod files;
mod packed;

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::lay::{Laying, Limits, Whiteouts};
use super::*;

/// A layer under construction.
#[derive(Default)]
struct Layer(Vec<u8>);

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    // By hand: the builder would refuse the names that matter here.
    let bytes = &mut header.as_old_mut().name;
    for (to, from) in bytes.iter_mut().zip(name.as_bytes()) {
        *to = *from;
    }
    header
}

impl Layer {
    fn entry(mut self, mut header: Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        let header = header(EntryType::Regular, name, data.len() as u64);
        self.entry(header, data.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        let mut header = header(EntryType::Directory, name, 0);
        header.set_mode(0o755);
        self.entry(header, b"")
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = header(kind, name, 0);
        let bytes = &mut header.as_old_mut().linkname;
        for (to, from) in bytes.iter_mut().zip(target.as_bytes()) {
            *to = *from;
        }
        self.entry(header, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, name, target)
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Link, name, target)
    }

    fn device(self, kind: EntryType, name: &str, major: u32, minor: u32) -> Self {
        let mut header = header(kind, name, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.entry(header, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let header = header(EntryType::XHeader, "pax", data.len() as u64);
        self.entry(header, &data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A place for layers, with a file beside it that none may reach.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("canary"), "alive").unwrap();
        for layer in ["root", "below"] {
            fs::create_dir(dir.path().join(layer)).unwrap();
        }
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn below(&self) -> PathBuf {
        self.dir.path().join("below")
    }

    fn apply_with(&self, layer: &[u8], whiteouts: Whiteouts, entries: u64) -> Result<Digest> {
        let tree = LayerTree::open_blocking(&self.root(), &[self.below()]).unwrap();
        let limits = Limits { entries };
        let laying = Laying::new(tree, whiteouts, limits, &|| false);
        lay_out(laying, Inline(layer), None).map(|unpacked| unpacked.diff_id)
    }

    fn apply(&self, layer: Layer) -> Result<Digest> {
        self.apply_with(&layer.end(), Whiteouts::Overlay, 1000)
    }

    fn is_contained(&self) {
        let canary = self.dir.path().join("canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), "alive");
        let meta = fs::metadata(&canary).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o644, 1));
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["below", "canary", "root"]);
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }
}

fn lstat(path: &Path) -> fs::Metadata {
    fs::symlink_metadata(path).unwrap()
}

fn is_whiteout(path: &Path) -> bool {
    let meta = lstat(path);
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    crate::sys::layer_tree::is_opaque(path)
}
