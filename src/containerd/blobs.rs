//! Blobs of the content store in files.

use std::fs::File;
use std::io::Write as _;

use super::storage::Content;
use crate::model::{Descriptor, Result};
use crate::sys::errno::SysContext as _;
use crate::sys::off_thread;

/// Bytes of a blob asked for at once.
const PART: u64 = 4 << 20;

/// Writes a blob to where `file` stands, and gives the file back.
///
/// # Errors
/// Those of [`Content::read_part`]; `ResourceExhausted` on a full disk.
pub async fn write_blob(content: &dyn Content, blob: &Descriptor, mut file: File) -> Result<File> {
    let mut at = 0_u64;
    while at < blob.size {
        let length = PART.min(blob.size.saturating_sub(at));
        let part = content.read_part(&blob.digest, at, length).await?;
        at = at.saturating_add(length);
        let write = move || {
            let what = || "write a blob to a file".to_owned();
            file.write_all(&part).sys(what)?;
            Ok(file)
        };
        file = off_thread("write a blob to a file", write).await?;
    }
    Ok(file)
}
