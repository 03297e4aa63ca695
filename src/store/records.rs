//! A directory of small checked files, one an object.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::model::{Classify, Digest, Error, Kind, Result};
use crate::sys::files;

/// Layout of the envelope; a file of another version is kept and not read.
const VERSION: u32 = 1;
/// No record of ours comes near; a larger file is not ours.
const LIMIT_BYTES: u64 = 16 << 20;

/// Whether a record must survive a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Temp file and rename; for tmpfs.
    Volatile,
    /// File and directory are synced before the write counts as done.
    Synced,
}

/// Records of type `T` by object id.
#[derive(Debug)]
pub struct Records<T> {
    dir: PathBuf,
    durability: Durability,
    of: PhantomData<fn() -> T>,
}

/// What was found in the directory.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The readable records by object id.
    pub records: Vec<(String, T)>,
    /// Files that are no records of this build, where they are now, and why.
    pub quarantined: Vec<(PathBuf, Error)>,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    sha256: Digest,
    body: Box<RawValue>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Records<T> {
    /// The records in `dir`, which is made (0700) where it is missing.
    ///
    /// # Errors
    /// `Internal` where the directory cannot be made.
    pub fn open_blocking(dir: impl Into<PathBuf>, durability: Durability) -> Result<Self> {
        let dir = dir.into();
        files::make_dir_blocking(&dir, 0o700)?;
        files::sweep_temporaries_blocking(&dir)?;
        Ok(Self {
            dir,
            durability,
            of: PhantomData,
        })
    }

    /// Writes the record of `id` in place of an older one.
    ///
    /// # Errors
    /// `Internal` with the path and the cause.
    pub async fn put(&self, id: &str, value: &T) -> Result<()> {
        let (path, bytes) = (self.path(id), encode(value)?);
        match self.durability {
            // On tmpfs this is a handful of memory copies, cheaper than a hop to another thread.
            Durability::Volatile => files::write_atomic_blocking(&path, &bytes, 0o600),
            Durability::Synced => {
                off_thread(move || files::write_synced_blocking(&path, &bytes, 0o600)).await
            }
        }
    }

    /// The record of `id`, if there is a readable one.
    ///
    /// # Errors
    /// `Internal` where the file is there and cannot be read.
    pub async fn get(&self, id: &str) -> Result<Option<T>> {
        let path = self.path(id);
        off_thread(move || match read(&path) {
            Ok(value) => Ok(Some(value)),
            Err(unread) => match unread.into_error() {
                error if error.is_not_found() => Ok(None),
                error => Err(error),
            },
        })
        .await
    }

    /// Removes the record of `id`; one that is not there counts as removed.
    ///
    /// # Errors
    /// `Internal` with the path and the cause.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        match self.durability {
            Durability::Volatile => files::remove_file_blocking(&path),
            Durability::Synced => off_thread(move || files::remove_file_blocking(&path)).await,
        }
    }

    /// Reads all records. A damaged one is moved aside (`.bad`) and reported, never fatal; one of another version is
    /// reported and stays.
    ///
    /// # Errors
    /// Where the directory or a file cannot be read, which says nothing about what stands there.
    pub async fn load(&self) -> Result<Loaded<T>> {
        let dir = self.dir.clone();
        off_thread(move || load_blocking(&dir)).await
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn load_blocking<T: DeserializeOwned>(dir: &Path) -> Result<Loaded<T>> {
    let mut loaded = Loaded {
        records: Vec::new(),
        quarantined: Vec::new(),
    };
    let what = || format!("list records in {}", dir.display());
    for entry in std::fs::read_dir(dir).classify(Kind::Internal, what)? {
        let path = entry.classify(Kind::Internal, what)?.path();
        let Some(id) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".json"))
        else {
            continue;
        };
        match read(&path) {
            Ok(value) => loaded.records.push((id.to_owned(), value)),
            // Removed since the directory was listed.
            Err(Unread::Failed(error)) if error.is_not_found() => {}
            Err(Unread::Failed(error)) => return Err(error),
            Err(Unread::Foreign(error)) => loaded.quarantined.push((path, error)),
            Err(Unread::Damaged(error)) => {
                let aside = path.with_extension("bad");
                std::fs::rename(&path, &aside)
                    .classify(Kind::Internal, || format!("move {} aside", path.display()))?;
                loaded.quarantined.push((aside, error));
            }
        }
    }
    Ok(loaded)
}

async fn off_thread<R: Send + 'static>(
    work: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<R> {
    tokio::task::spawn_blocking(work)
        .await
        .classify(Kind::Internal, || "record thread".to_owned())?
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let what = || "encode a record".to_owned();
    let body = serde_json::value::to_raw_value(value).classify(Kind::Internal, what)?;
    let envelope = Envelope {
        version: VERSION,
        sha256: Digest::sha256(body.get().as_bytes()),
        body,
    };
    serde_json::to_vec(&envelope).classify(Kind::Internal, what)
}

/// Why a record was not read.
pub(super) enum Unread {
    /// The file could not be read; `NotFound` where there is none.
    Failed(Error),
    /// It was written by a build with another layout.
    Foreign(Error),
    /// It is not what was written.
    Damaged(Error),
}

impl Unread {
    pub(super) fn into_error(self) -> Error {
        let (Self::Failed(error) | Self::Foreign(error) | Self::Damaged(error)) = self;
        error
    }
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Unread> {
    let bad = || format!("record {}", path.display());
    let file = files::open_regular_blocking(path).map_err(|error| match error.kind() {
        Kind::FailedPrecondition => Unread::Damaged(error),
        _ => Unread::Failed(error),
    })?;
    let length = file.metadata().classify(Kind::Internal, bad);
    if length.map_err(Unread::Failed)?.len() > LIMIT_BYTES {
        let text = format!("longer than {LIMIT_BYTES} bytes");
        return Err(Unread::Damaged(Error::internal(text).context(bad())));
    }
    let bytes =
        files::read_open_capped_blocking(file, path, LIMIT_BYTES).map_err(Unread::Failed)?;
    decode(&bytes, &bad)
}

/// Reads the text of a record; `bad` names it in errors.
pub(super) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    bad: &dyn Fn() -> String,
) -> Result<T, Unread> {
    let damaged = |error: Error| Unread::Damaged(error);
    let envelope: Envelope = serde_json::from_slice(bytes)
        .classify(Kind::Internal, bad)
        .map_err(damaged)?;
    if envelope.version != VERSION {
        let text = format!("version {}, this build reads {VERSION}", envelope.version);
        return Err(Unread::Foreign(Error::internal(text).context(bad())));
    }
    if Digest::sha256(envelope.body.get().as_bytes()) != envelope.sha256 {
        let text = "its checksum does not match: the file was damaged";
        return Err(Unread::Damaged(Error::internal(text).context(bad())));
    }
    serde_json::from_str(envelope.body.get())
        .classify(Kind::Internal, bad)
        .map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_that_cannot_be_read_now_or_by_this_build_stays() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::<Vec<u8>>::open_blocking(dir.path(), Durability::Synced).unwrap();
        records.put("newer", &vec![1]).await.unwrap();
        let path = dir.path().join("newer.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();

        let loaded = records.load().await.unwrap();
        assert_eq!(loaded.quarantined.len(), 1);
        assert!(path.exists(), "the next build may read it");

        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        records.get("newer").await.unwrap_err();
    }

    #[tokio::test]
    async fn a_record_comes_back_and_a_damaged_one_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::<Vec<u8>>::open_blocking(dir.path(), Durability::Synced).unwrap();
        records.put("good", &vec![1, 2]).await.unwrap();
        records.put("bad", &vec![3]).await.unwrap();
        let text = std::fs::read_to_string(dir.path().join("bad.json")).unwrap();
        std::fs::write(dir.path().join("bad.json"), text.replace("[3]", "[4]")).unwrap();

        let loaded = records.load().await.unwrap();

        assert_eq!(loaded.records, [("good".to_owned(), vec![1, 2])]);
        assert_eq!(loaded.quarantined.len(), 1);
        assert!(dir.path().join("bad.bad").exists());
        assert_eq!(records.get("good").await.unwrap(), Some(vec![1, 2]));
        records.remove("good").await.unwrap();
        records.remove("good").await.unwrap();
        assert_eq!(records.get("good").await.unwrap(), None);
    }
}
