//! A look at records from outside the server: nothing is made, moved or swept.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::records::{Unread, read};
use crate::model::{Error, Kind, Result};

/// What lies in a directory of records.
#[derive(Debug, Default)]
pub struct Peeked {
    /// The readable records by object id.
    pub records: Vec<(String, Value)>,
    /// Files that cannot be read, among them those that a server moved aside.
    pub unreadable: Vec<PathBuf>,
}

/// Reads the records in `dir` as they are now; a directory that is not there holds none. A record that a server removes
/// meanwhile is left out.
///
/// # Errors
/// `Internal` where the directory cannot be read.
pub fn peek_blocking(dir: &Path) -> Result<Peeked> {
    let mut peeked = Peeked::default();
    let failed = |error: std::io::Error| {
        Error::new(Kind::Internal, format!("list records in {}", dir.display())).caused_by(error)
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(peeked),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let named = |ending: &str| {
            let name = path.file_name()?.to_str()?;
            Some(name.strip_suffix(ending)?.to_owned())
        };
        if let Some(id) = named(".json") {
            match read(&path) {
                Ok(value) => peeked.records.push((id, value)),
                Err(Unread::Failed(error)) if error.is_not_found() => {}
                Err(_unread) => peeked.unreadable.push(path),
            }
        } else if named(".bad").is_some() {
            peeked.unreadable.push(path);
        }
    }
    peeked.records.sort_by(|one, other| one.0.cmp(&other.0));
    peeked.unreadable.sort();
    Ok(peeked)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Durability, Records};
    use super::*;

    #[tokio::test]
    async fn a_look_reads_what_is_there_and_leaves_damage_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::<Vec<u8>>::open_blocking(dir.path(), Durability::Volatile).unwrap();
        records.put("good", &vec![1]).await.unwrap();
        std::fs::write(dir.path().join("torn.json"), "{").unwrap();
        std::fs::write(dir.path().join("old.bad"), "{").unwrap();

        let peeked = peek_blocking(dir.path()).unwrap();

        assert_eq!(peeked.records, [("good".to_owned(), json!([1]))]);
        assert_eq!(
            peeked.unreadable,
            [dir.path().join("old.bad"), dir.path().join("torn.json")]
        );
        assert!(
            peek_blocking(&dir.path().join("missing"))
                .unwrap()
                .records
                .is_empty()
        );
    }
}
