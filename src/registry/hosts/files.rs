//! Certificate and key files that a hosts directory names or holds.

use std::path::{Path, PathBuf};

use super::Tls;
use crate::model::{Error, Result};

const MAX_PEM: u64 = 8 * 1024 * 1024;

/// Reads a PEM file. A relative path is relative to `directory`.
///
/// # Errors
/// `FailedPrecondition` where it cannot be read or holds no PEM.
pub(super) fn read_pem(directory: &Path, path: &str) -> Result<Vec<u8>> {
    let path = directory.join(path);
    let broken = |why: &str| {
        Error::precondition(format!("registry configuration: {}: {why}", path.display()))
    };
    let size = std::fs::metadata(&path)
        .map_err(|error| broken("cannot be read").caused_by(error))?
        .len();
    if size > MAX_PEM {
        return Err(broken("larger than 8 MiB"));
    }
    let bytes = std::fs::read(&path).map_err(|error| broken("cannot be read").caused_by(error))?;
    if bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        Ok(bytes)
    } else {
        Err(broken("holds no PEM block"))
    }
}

/// The certificate and key of one client pair, as one PEM text.
pub(super) fn read_pair(directory: &Path, certificate: &str, key: &str) -> Result<Vec<u8>> {
    let mut pem = read_pem(directory, certificate)?;
    pem.push(b'\n');
    pem.extend(read_pem(directory, key)?);
    Ok(pem)
}

/// The files that Docker looks for: `*.crt` is a CA, `*.cert` with `*.key` a client pair.
///
/// # Errors
/// `FailedPrecondition` where such a file cannot be used, or a certificate has no key.
pub(super) fn docker_style(directory: &Path) -> Result<Tls> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(|error| {
            Error::precondition(format!(
                "registry configuration: {}: cannot be listed",
                directory.display()
            ))
            .caused_by(error)
        })?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    names.sort();
    let mut tls = Tls::default();
    for name in names {
        let Some(text) = name.to_str() else { continue };
        match name.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(read_pem(directory, text)?),
            Some("cert") => {
                let key = name.with_extension("key");
                let key = key.to_str().unwrap_or_default();
                tls.client.push(read_pair(directory, text, key)?);
            }
            _ => {}
        }
    }
    Ok(tls)
}
