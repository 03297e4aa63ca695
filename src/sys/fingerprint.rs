//! What tells one content of a file from another without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::model::Timestamp;

/// A file that changed later than this before it was read may change again within one tick of its time stamp.
const SETTLED: Duration = Duration::from_secs(2);

/// One version of a file; another one where a link leads elsewhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: Timestamp,
    changed: Timestamp,
}

impl Fingerprint {
    /// Of the file that `metadata` tells of.
    pub fn of(metadata: &Metadata) -> Self {
        let time =
            |seconds, nanos| Timestamp::from_parts(seconds, i32::try_from(nanos).unwrap_or(0));
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of the file that `path` leads to; `None` where there is none that can be looked at.
    pub fn of_path_blocking(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }

    /// The file's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether another version would have another fingerprint, seen from `now`.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        now.since(self.modified.max(self.changed)) > SETTLED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_and_another_target_have_another_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let of = |name: &str| Fingerprint::of_path_blocking(&path(name));
        assert_eq!(of("one"), None);
        std::fs::write(path("one"), "1").unwrap();
        std::fs::write(path("two"), "2").unwrap();
        std::os::unix::fs::symlink("one", path("link")).unwrap();
        let before = of("link").unwrap();
        assert_eq!(of("one"), Some(before));

        std::fs::remove_file(path("link")).unwrap();
        std::os::unix::fs::symlink("two", path("link")).unwrap();
        assert_ne!(of("link"), Some(before));
        std::fs::write(path("one"), "longer").unwrap();
        assert_ne!(of("one"), Some(before));
        assert_eq!(before.size(), 1);
        assert!(!before.is_settled(before.changed));
        assert!(before.is_settled(Timestamp(before.changed.0 + 3_000_000_000)));
    }
}
