//! The socket that NRI plugins connect to. It is not needed to serve pods: where it cannot be had, that is shown, and tried
//! again.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sockets::{self, Admission};
use crate::model::{Classify as _, Error, Kind, Result};
use crate::nri::Nri;
use crate::sys;

/// Pause between two tries to get the socket.
const RETRY: Duration = Duration::from_secs(30);

/// Lets plugins connect at `path` until `stop`.
pub(super) async fn listen(nri: Arc<Nri>, path: PathBuf, stop: CancellationToken) {
    let mut last = None;
    loop {
        let bind = {
            let path = path.clone();
            sys::off_thread("bind the NRI socket", move || bind_blocking(&path))
        };
        let served = async {
            let listener = bind.await?;
            nri.note_trouble(None);
            tracing::info!(socket = %path.display(), "NRI plugins may connect");
            let served = stop.run_until_cancelled(nri.serve(listener)).await;
            served.unwrap_or(Ok(()))
        };
        let why = match served.await {
            Ok(()) => {
                // Whoever connects now would wait for nobody.
                drop(std::fs::remove_file(&path));
                return;
            }
            Err(error) => error.chain(),
        };
        if last.as_ref() != Some(&why) {
            tracing::warn!(why, "NRI plugins cannot connect; it is tried again");
        }
        nri.note_trouble(Some(why.clone()));
        last = Some(why);
        if stop
            .run_until_cancelled(tokio::time::sleep(RETRY))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// A listener at `path`, in a directory that is made for root only where it is missing.
fn bind_blocking(path: &Path) -> Result<UnixListener> {
    let parent = path
        .parent()
        .ok_or_else(|| Error::invalid(format!("socket {}: no directory", path.display())))?;
    if !parent.exists() {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .classify(Kind::Internal, || {
                format!("make directory {}", parent.display())
            })?;
    }
    sockets::bind_blocking("nri.socket", path, &Admission::default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_directory_is_made_for_root_only_and_one_that_is_there_stays_as_it_is() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("nri/nri.sock");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;

        drop(bind_blocking(&path).unwrap());
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(
            path.parent().unwrap(),
            std::fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        let living = bind_blocking(&path).unwrap();

        assert_eq!(mode(path.parent().unwrap()), 0o755);
        assert_eq!(
            bind_blocking(&path).unwrap_err().kind(),
            Kind::AlreadyExists
        );
        drop(living);
    }
}
