//! The unix socket that CRI clients connect to: made so that nobody can reach it before its mode is right, never taken
//! from a server that lives, and open to root and one group only.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use nix::unistd::{Gid, Group, User};

use crate::model::{Classify as _, Error, Kind, Result};

/// Mode of the socket that only root may use.
const ROOT_ONLY: u32 = 0o600;
/// Mode of the socket that a group may use as well.
const WITH_GROUP: u32 = 0o660;

/// Who may talk to us: the kernel checks the socket's mode at connect, this is the second lock on the door.
#[derive(Clone, Debug, Default)]
pub(super) struct Admission {
    gid: Option<u32>,
    members: BTreeSet<u32>,
}

impl Admission {
    /// Root, and the members of `group` as they are now.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no such group.
    pub(super) fn of_group_blocking(group: Option<&str>) -> Result<Self> {
        let Some(name) = group else {
            return Ok(Self::default());
        };
        let found = Group::from_name(name)
            .classify(Kind::Internal, || format!("look up group {name:?}"))?
            .ok_or_else(|| {
                Error::invalid(format!(
                    "server.socket_group: there is no group {name:?}; add it, or leave the key out for root only"
                ))
            })?;
        let members = found
            .mem
            .iter()
            .filter_map(|member| User::from_name(member).ok().flatten())
            .map(|user| user.uid.as_raw())
            .collect();
        Ok(Self {
            gid: Some(found.gid.as_raw()),
            members,
        })
    }

    /// Whether a process of `uid` with primary group `gid` may talk to us.
    pub(super) fn admits(&self, uid: u32, gid: u32) -> bool {
        uid == 0 || self.gid == Some(gid) || self.members.contains(&uid)
    }
}

/// A listening socket and whether we made its path.
#[derive(Debug)]
pub(super) struct Listening {
    /// The listener, in blocking mode still.
    pub(super) listener: UnixListener,
    /// The path to remove at the end; `None` for systemd's socket.
    pub(super) made: Option<PathBuf>,
}

impl Listening {
    /// Where clients find it; `None` for a socket without a path.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let bound = || {
            self.listener
                .local_addr()
                .ok()?
                .as_pathname()
                .map(Path::to_owned)
        };
        self.made.clone().or_else(bound)
    }
}

/// systemd's socket where it passed one, else a new one at `path`.
///
/// # Errors
/// As [`bind_blocking`]; `FailedPrecondition` where systemd passed something else than one unix stream socket.
pub(super) fn listen_blocking(path: &Path, admission: &Admission) -> Result<Listening> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 0 {
        let listener = passed
            .take_unix_listener(0)
            .classify(Kind::FailedPrecondition, || {
                "socket activation: the first socket must be a unix stream socket (ListenStream=/path)".into()
            })?
            .ok_or_else(|| Error::precondition("socket activation: no socket was passed"))?;
        return Ok(Listening {
            listener,
            made: None,
        });
    }
    bind_blocking("server.socket", path, admission).map(|listener| Listening {
        listener,
        made: Some(path.to_owned()),
    })
}

/// Binds a socket at `path`, which `key` names: made in a directory that only we can enter, given its owner and mode there, then renamed
/// into place, over a stale one if need be.
///
/// # Errors
/// `AlreadyExists` where another server answers at `path`, `FailedPrecondition` where something else than a socket lies
/// there.
pub(super) fn bind_blocking(key: &str, path: &Path, admission: &Admission) -> Result<UnixListener> {
    refuse_living(key, path)?;
    let step = |what: &'static str| move || format!("{what} socket {}", path.display());
    let parent = path
        .parent()
        .ok_or_else(|| Error::invalid(format!("socket {}: no directory", path.display())))?;
    let staging = Staging::make(parent).classify(Kind::Internal, step("make a place for"))?;
    let listener = staging.bind().classify(Kind::Internal, step("bind"))?;
    let staged = staging.socket();
    if let Some(gid) = admission.gid {
        nix::unistd::chown(&staged, None, Some(Gid::from_raw(gid)))
            .classify(Kind::Internal, step("give the group"))?;
    }
    let mode = if admission.gid.is_some() {
        WITH_GROUP
    } else {
        ROOT_ONLY
    };
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(mode))
        .classify(Kind::Internal, step("set the mode of"))?;
    std::fs::rename(&staged, path).classify(Kind::Internal, step("put in place"))?;
    Ok(listener)
}

/// Answers `Ok` where nothing lives at `path`: nothing is there, or a socket that refuses connections.
fn refuse_living(key: &str, path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let what = format!("look at socket {}", path.display());
            return Err(Error::internal(what).caused_by(error));
        }
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(Error::precondition(format!(
                "{} is no socket; remove it or set {key} to another path",
                path.display()
            )));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "replacing a socket that nobody answers on");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Whatever else connect says (a full backlog, say), somebody holds the other end.
        _ => Err(Error::already_exists(format!(
            "another server answers on {}; stop it first, or set {key} to another path",
            path.display()
        ))),
    }
}

/// A directory of mode 0700 beside the socket's final place, removed when dropped.
struct Staging {
    dir: PathBuf,
    handle: std::fs::File,
}

impl Staging {
    fn make(parent: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let dir = parent.join(format!(".podwright-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir)); // left by a predecessor that was killed just here
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let handle = std::fs::File::open(&dir)?;
        Ok(Self { dir, handle })
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Binds by the directory's descriptor: a path that just fits a socket address must not fail for being staged.
    fn bind(&self) -> io::Result<UnixListener> {
        UnixListener::bind(format!("/proc/self/fd/{}/s", self.handle.as_raw_fd()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "a staging directory was left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_only() -> Admission {
        Admission::default()
    }

    #[test]
    fn a_new_socket_is_for_root_alone_and_leaves_no_staging_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.sock");

        let listener = bind_blocking("server.socket", &path, &root_only()).unwrap();

        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, ROOT_ONLY);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        UnixStream::connect(&path).unwrap();
        drop(listener);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.sock");
        drop(UnixListener::bind(&path).unwrap());

        let living = bind_blocking("server.socket", &path, &root_only()).unwrap();
        let refused = bind_blocking("server.socket", &path, &root_only()).unwrap_err();

        assert_eq!(refused.kind(), Kind::AlreadyExists);
        UnixStream::connect(&path).unwrap();
        drop(living);
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.sock");
        std::fs::write(&path, "precious").unwrap();

        let refused = bind_blocking("server.socket", &path, &root_only()).unwrap_err();

        assert_eq!(refused.kind(), Kind::FailedPrecondition);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_of_full_length_can_be_bound() {
        let dir = tempfile::tempdir().unwrap();
        let room = 107 - dir.path().as_os_str().len() - 1;
        let path = dir.path().join("s".repeat(room));

        let listener = bind_blocking("server.socket", &path, &root_only()).unwrap();

        UnixStream::connect(&path).unwrap();
        drop(listener);
    }

    #[test]
    fn root_and_the_group_are_admitted_and_nobody_else() {
        let group = Admission {
            gid: Some(7),
            members: BTreeSet::from([1000]),
        };

        assert!(group.admits(0, 0) && group.admits(5, 7) && group.admits(1000, 1000));
        assert!(!group.admits(1001, 1001));
        assert!(!root_only().admits(1000, 0));
        assert_eq!(
            Admission::of_group_blocking(Some("no-such-group-here"))
                .unwrap_err()
                .kind(),
            Kind::InvalidArgument
        );
    }
}
