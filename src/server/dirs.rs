//! Our own directories, with the modes that keep local users out.

use std::fs::File;

use crate::config::settings;
use crate::model::Result;
use crate::sys::files;

/// Makes root and state directory, tightens them where they stood too open, and takes the state's lock: two servers
/// never work on the same state.
///
/// # Errors
/// `FailedPrecondition` where another server holds the state directory.
pub(super) fn prepare_blocking(server: &settings::Server) -> Result<File> {
    files::make_dir_blocking(&server.root_dir, 0o700)?;
    // Processes in user namespaces walk through it to files of their sandbox; nobody lists it.
    files::make_dir_blocking(&server.state_dir, 0o711)?;
    if let Some(parent) = server.socket.parent().filter(|dir| !dir.exists()) {
        files::make_dir_blocking(parent, 0o755)?;
    }
    super::lock::take_blocking(
        &server.state_dir.join("podwright.lock"),
        super::lock::PATIENCE,
        || {
            format!(
                "another podwright works on {}, and {} may be its socket; stop it first, or set server.state_dir, .root_dir and \
             .socket",
                server.state_dir.display(),
                server.socket.display()
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Config;
    use crate::model::Kind;

    #[test]
    fn directories_are_closed_to_others_and_a_second_server_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let mut server = Config::default().server;
        server.root_dir = base.path().join("lib");
        server.state_dir = base.path().join("run");
        server.socket = base.path().join("run/p.sock");
        std::fs::create_dir(&server.root_dir).unwrap();

        let held = prepare_blocking(&server).unwrap();
        let second = prepare_blocking(&server).unwrap_err();

        let mode =
            |dir: &std::path::Path| std::fs::metadata(dir).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&server.root_dir), mode(&server.state_dir)),
            (0o700, 0o711)
        );
        assert_eq!(second.kind(), Kind::FailedPrecondition);
        drop(held);
    }
}
