//! The stand-in images, built once a test run from Debian's packages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::case::Outcome;

/// Name of the busybox image once it is imported.
pub(crate) const BUSYBOX: &str = "podwright.local/busybox:1";

/// Where the archive of `name` (`busybox`, `nginx`) lies.
pub(crate) fn archive(name: &str) -> PathBuf {
    folder().join(format!("{name}.tar"))
}

fn folder() -> PathBuf {
    ready().unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("images"))
}

/// The folder of archives that somebody else has made, where `PODWRIGHT_IT_IMAGES` names one.
fn ready() -> Option<PathBuf> {
    std::env::var_os("PODWRIGHT_IT_IMAGES").map(PathBuf::from)
}

/// Builds the archives where there are none newer than the script that makes them.
pub(crate) fn build() -> Outcome {
    if ready().is_some() {
        return Ok(());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/images/build");
    let changed = script.metadata()?.modified()?;
    let fresh = ["busybox", "nginx"].iter().all(|name| {
        archive(name)
            .metadata()
            .and_then(|found| found.modified())
            .is_ok_and(|built| built > changed)
    });
    if fresh {
        return Ok(());
    }
    let output = Command::new(&script)
        .arg(folder())
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "the stand-in images could not be built: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
    .into())
}
