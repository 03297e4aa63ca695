//! Network namespaces that outlive every process in them: a bind mount on a file pins each one.
//!
//! The switch into a namespace is a property of a thread. So each function here that needs one starts a thread,
//! switches it, and lets it end: no thread with another namespace is ever left or reused.

#![expect(
    unsafe_code,
    reason = "the ioctl that sets an interface up has no safe form"
)]

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use nix::sys::statfs::FsType;

use super::errno::SysContext;
use super::{files, mounts};
use crate::model::{Context, Error, Result};

/// The kernel's mark of the file system that namespace handles live on.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// The flag of an interface that is up, in the width that the flags have in `ifreq`.
const IFF_UP: libc::c_short = 1;

/// A path in `dir` for a new namespace, in the shape other tools on the node know: `cni-` and a random uuid.
///
/// # Errors
/// `Internal` where the kernel gives no random bytes.
pub fn fresh_path(dir: &Path) -> Result<PathBuf> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal("read random bytes for a namespace name").caused_by(e))?;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    Ok(dir.join(format!(
        "cni-{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )))
}

/// Makes a network namespace, sets its loopback up and pins it at `path`, which must not exist yet. What a failure
/// leaves, [`remove_blocking`] takes away; this function tries so itself.
///
/// # Errors
/// `AlreadyExists` where the path is taken; `Internal` where the kernel refuses the namespace or the mount.
pub fn create_blocking(path: &Path) -> Result<()> {
    make_parent(path)?;
    make_file(path)?;
    let made = on_own_thread(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)
            .sys(|| "make a network namespace".to_owned())?;
        set_loopback_up()?;
        pin(Path::new("/proc/thread-self/ns/net"), path)
    });
    if made.is_err() {
        drop(remove_blocking(path)); // the first error is the one that explains
    }
    made
}

/// The directory of pinned network namespaces, as other tools on the node make it.
pub(super) fn make_parent(path: &Path) -> Result<()> {
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .sys(|| format!("make directory {}", dir.display()))
}

/// The new file that a namespace is pinned on.
pub(super) fn make_file(path: &Path) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o666)
        .open(path)
        .map(drop)
        .sys(|| format!("make namespace file {}", path.display()))
}

/// Pins the namespace that `handle` below `/proc` stands for on the file at `path`.
pub(super) fn pin(handle: &Path, path: &Path) -> Result<()> {
    let none = None::<&str>;
    nix::mount::mount(Some(handle), path, none, MsFlags::MS_BIND, none)
        .sys(|| format!("pin a namespace at {}", path.display()))
}

/// Whether a namespace is pinned at `path`. A missing path, or a plain file that a reboot left there, is not one.
///
/// # Errors
/// Where the path can be neither looked at nor called missing.
pub fn is_pinned_blocking(path: &Path) -> Result<bool> {
    match nix::sys::statfs::statfs(path) {
        Ok(stat) => Ok(stat.filesystem_type() == NSFS_MAGIC),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
        Err(errno) => Err(errno).sys(|| format!("look at network namespace {}", path.display())),
    }
}

/// Takes the pin away; processes inside keep the namespace until they end. Nothing there counts as removed.
///
/// # Errors
/// Where the mount or the file stays.
pub fn remove_blocking(path: &Path) -> Result<()> {
    mounts::unmount_blocking(path).context(|| "unpin a network namespace".to_owned())?;
    files::remove_file_blocking(path)
}

/// Runs `work` inside the namespace pinned at `path`, on a thread of its own. Sockets made there stay in that
/// namespace wherever they are used later.
///
/// # Errors
/// `FailedPrecondition` where no namespace is pinned at `path`; else what `work` returns.
pub fn enter_blocking<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if !is_pinned_blocking(path)? {
        return Err(Error::precondition(format!(
            "network namespace {}: closed",
            path.display()
        )));
    }
    let namespace = OpenOptions::new()
        .read(true)
        .open(path)
        .sys(|| format!("open network namespace {}", path.display()))?;
    on_own_thread(|| {
        nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET)
            .sys(|| format!("enter network namespace {}", path.display()))?;
        work()
    })
}

/// A TCP socket, not connected and not blocking, that belongs to the namespace pinned at `path`, or to the host's where
/// that is `None`. It stays there: it may be connected from anywhere.
///
/// # Errors
/// `FailedPrecondition` where no namespace is pinned at `path`; `Internal` where the kernel gives no socket.
pub fn tcp_socket_blocking(path: Option<&Path>, is_v6: bool) -> Result<OwnedFd> {
    let family = match is_v6 {
        true => AddressFamily::Inet6,
        false => AddressFamily::Inet,
    };
    let make = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        nix::sys::socket::socket(family, SockType::Stream, flags, None)
            .sys(|| "make a TCP socket".to_owned())
    };
    match path {
        Some(path) => enter_blocking(path, make),
        None => make(),
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .sys(|| "start a thread for a network namespace".to_owned())?
            .join()
            .unwrap_or_else(|_panic| {
                Err(Error::internal(
                    "the thread in a network namespace panicked",
                ))
            })
    })
}

/// Sets `lo` of the calling thread's namespace up; the kernel then gives it 127.0.0.1 and ::1 itself.
pub(super) fn set_loopback_up() -> Result<()> {
    let socket: OwnedFd = nix::sys::socket::socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .sys(|| "open a socket for interface settings".to_owned())?;
    // SAFETY: ifreq is plain data (a name and a union of integers and addresses); all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    // SAFETY: both requests take one ifreq, which `request` is and which outlives the call; SIOCGIFFLAGS fills the
    // flags in, so that member of the union is the valid one afterwards.
    let set = unsafe {
        let fd = socket.as_raw_fd();
        Errno::result(libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request)).and_then(|_zero| {
            request.ifr_ifru.ifru_flags |= IFF_UP;
            Errno::result(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut request))
        })
    };
    set.map(drop).sys(|| "set loopback up".to_owned())
}

/// The user namespace that the network namespace pinned at `path` belongs to.
#[cfg(test)]
pub(super) fn owner_blocking(path: &Path) -> Result<std::fs::File> {
    use std::os::fd::FromRawFd as _;

    let file = std::fs::File::open(path).sys(|| "open a network namespace".to_owned())?;
    // SAFETY: NS_GET_USERNS takes no argument and answers a new descriptor, which is nobody else's.
    let owner = unsafe {
        let fd = Errno::result(libc::ioctl(file.as_raw_fd(), libc::NS_GET_USERNS));
        fd.map(|fd| std::fs::File::from_raw_fd(fd))
    };
    owner.sys(|| "ask for the owner of a network namespace".to_owned())
}

/// Runs `test` in mount and network namespaces of its own; says why where that is not possible.
#[cfg(test)]
pub(crate) fn isolated(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: making network namespaces needs root");
        return;
    }
    on_own_thread(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        test();
        Ok(())
    })
    .unwrap();
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::model::Kind;

    #[test]
    fn a_namespace_is_pinned_with_loopback_up_and_goes_without_a_trace() {
        isolated(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = fresh_path(&dir.path().join("netns")).unwrap();
            assert!(!is_pinned_blocking(&path).unwrap());

            create_blocking(&path).unwrap();
            assert!(is_pinned_blocking(&path).unwrap());
            assert_eq!(
                create_blocking(&path).unwrap_err().kind(),
                Kind::AlreadyExists
            );
            assert!(
                is_pinned_blocking(&path).unwrap(),
                "a second create takes nothing away"
            );
            enter_blocking(&path, || {
                for address in ["127.0.0.1:0", "[::1]:0"] {
                    let listener = TcpListener::bind(address).unwrap();
                    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                }
                Ok(())
            })
            .unwrap();

            remove_blocking(&path).unwrap();
            remove_blocking(&path).unwrap();
            assert!(!is_pinned_blocking(&path).unwrap());
            assert!(!path.exists());
        });
    }

    #[test]
    fn a_plain_file_left_by_a_reboot_is_closed_and_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = fresh_path(dir.path()).unwrap();
        std::fs::write(&path, "").unwrap();

        assert!(!is_pinned_blocking(&path).unwrap());
        let refused = enter_blocking(&path, || Ok(())).unwrap_err();
        assert_eq!(refused.kind(), Kind::FailedPrecondition);
        if nix::unistd::geteuid().is_root() {
            remove_blocking(&path).unwrap();
            assert!(!path.exists());
        }
    }

    #[test]
    fn fresh_paths_have_the_known_shape() {
        let path = fresh_path(Path::new("/run/netns")).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let lengths: Vec<_> = name.split('-').map(str::len).collect();
        assert_eq!(lengths, [3, 8, 4, 4, 4, 12]);
    }
}
