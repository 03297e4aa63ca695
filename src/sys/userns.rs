//! User namespaces that outlive every process in them, and network namespaces that belong to them.
//!
//! Only a process with a single thread may make or enter a user namespace. So each function here forks a child that does
//! this one thing and waits, pins what the child then lives in, and ends it.

#![expect(
    unsafe_code,
    reason = "what runs between fork and exit is unsafe by nature"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};

use super::errno::SysContext;
use super::{files, mounts, netns};
use crate::model::security::IdMapping;
use crate::model::{Context, Error, Result};

/// Makes a user namespace with one mapping of user ids and one of group ids, and pins it at `path`, which must not
/// exist yet. What a failure leaves, [`remove_blocking`] takes away; this function tries so itself.
///
/// # Errors
/// `AlreadyExists` where the path is taken; `ResourceExhausted` where the node allows no more user namespaces;
/// `Internal` where the kernel refuses the namespace, the mapping or the mount.
pub fn create_blocking(path: &Path, uids: IdMapping, gids: IdMapping) -> Result<()> {
    let make = || nix::sched::unshare(CloneFlags::CLONE_NEWUSER);
    pinned(path, |path| {
        in_child("make a user namespace", make, |child| {
            write_map(child, "uid_map", &[uids])?;
            write_map(child, "gid_map", &[gids])?;
            netns::pin(Path::new(&format!("/proc/{child}/ns/user")), path)
        })
    })
}

/// A user namespace with these mappings that nobody is in, as mounts take it to map the ids of files.
///
/// # Errors
/// As [`create_blocking`].
pub fn open_blocking(uids: &[IdMapping], gids: &[IdMapping]) -> Result<File> {
    let make = || nix::sched::unshare(CloneFlags::CLONE_NEWUSER);
    in_child("make a user namespace", make, |child| {
        write_map(child, "uid_map", uids)?;
        write_map(child, "gid_map", gids)?;
        File::open(format!("/proc/{child}/ns/user")).sys(|| "open a user namespace".to_owned())
    })
}

/// Takes the pin away; processes inside keep the namespace until they end. Nothing there counts as removed.
///
/// # Errors
/// Where the mount or the file stays.
pub fn remove_blocking(path: &Path) -> Result<()> {
    mounts::unmount_blocking(path).context(|| "unpin a user namespace".to_owned())?;
    files::remove_file_blocking(path)
}

/// Makes a network namespace that belongs to the user namespace pinned at `owner`, so that root in there rules it. Sets
/// its loopback up and pins it at `path`, which must not exist yet; [`netns::remove_blocking`] takes it away.
///
/// # Errors
/// As [`netns::create_blocking`]; `NotFound` without the user namespace.
pub fn create_netns_blocking(path: &Path, owner: &Path) -> Result<()> {
    let owner = OpenOptions::new()
        .read(true)
        .open(owner)
        .sys(|| format!("open user namespace {}", owner.display()))?;
    let make = || {
        nix::sched::setns(&owner, CloneFlags::CLONE_NEWUSER)?;
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)
    };
    netns::make_parent(path)?;
    pinned(path, |path| {
        in_child("make a network namespace", make, |child| {
            netns::pin(Path::new(&format!("/proc/{child}/ns/net")), path)
        })?;
        netns::enter_blocking(path, netns::set_loopback_up)
    })
}

/// Makes the file at `path` and has `work` pin a namespace on it; a failure takes both away again.
fn pinned(path: &Path, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    netns::make_file(path)?;
    let made = work(path);
    if made.is_err() {
        drop(remove_blocking(path)); // the first error is the one that explains
    }
    made
}

fn write_map(child: Pid, name: &str, ranges: &[IdMapping]) -> Result<()> {
    let line = |range: &IdMapping| {
        let (inside, outside) = (range.container_id, range.host_id);
        format!("{inside} {outside} {}\n", range.length)
    };
    let map: String = ranges.iter().map(line).collect();
    // The kernel takes a map in one write and never a second one.
    std::fs::write(format!("/proc/{child}/{name}"), &map)
        .sys(|| format!("write {:?} to {name} of the user namespace", map.trim()))
}

/// Forks a child that does `step`, has `look` look at it while it waits, and ends it.
fn in_child<T>(
    what: &str,
    step: impl FnOnce() -> nix::Result<()>,
    look: impl FnOnce(Pid) -> Result<T>,
) -> Result<T> {
    let starting = || "start a process for a namespace".to_owned();
    let (told, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC).sys(starting)?;
    // Closed by our end, whatever ends us: the child waits for that, so that it never stays alone.
    let (held, hold) = nix::unistd::pipe2(OFlag::O_CLOEXEC).sys(starting)?;
    // SAFETY: the child makes async-signal-safe system calls on descriptors and constants only, and never returns.
    let child = match unsafe { nix::unistd::fork() }.sys(starting)? {
        ForkResult::Parent { child } => Child(child),
        ForkResult::Child => {
            let answer = step().err().map_or(0, |errno| errno as i32);
            // SAFETY: as above.
            unsafe { answer_and_wait(answer, tell.as_raw_fd(), held.as_raw_fd()) }
        }
    };
    drop((tell, held));
    let mut answer = [0_u8; 4];
    File::from(told)
        .read_exact(&mut answer)
        .sys(|| format!("{what}: its process ended"))?;
    match i32::from_ne_bytes(answer) {
        0 => {}
        errno if errno == libc::ENOSPC => {
            return Err(Error::exhausted(format!(
                "{what}: the node allows no more of them; raise the sysctl user.max_user_namespaces or user.max_net_namespaces"
            )));
        }
        errno => return Err(io::Error::from_raw_os_error(errno)).sys(|| what.to_owned()),
    }
    let looked = look(child.0);
    drop((child, hold));
    looked
}

/// Writes `answer`, lets go of everything else, and waits until the other end of `held` is closed.
///
/// # Safety
/// For a forked child only: it ends the process.
unsafe fn answer_and_wait(answer: i32, tell: RawFd, held: RawFd) -> ! {
    let bytes = answer.to_ne_bytes();
    let mut end = [0_u8; 1];
    let number = |fd: RawFd| libc::c_uint::try_from(fd).unwrap_or(0);
    let (low, high) = (number(tell.min(held)), number(tell.max(held)));
    // SAFETY: async-signal-safe system calls on buffers of this frame with their lengths.
    unsafe {
        libc::close_range(0, low.saturating_sub(1), 0);
        libc::close_range(low.saturating_add(1), high.saturating_sub(1), 0);
        libc::close_range(high.saturating_add(1), libc::c_uint::MAX, 0);
        libc::write(tell, bytes.as_ptr().cast(), bytes.len());
        while libc::read(held, end.as_mut_ptr().cast(), 1) == -1 && Errno::last() == Errno::EINTR {}
        libc::_exit(0)
    }
}

/// A forked child, killed and waited for at the end.
struct Child(Pid);

impl Drop for Child {
    fn drop(&mut self) {
        if kill(self.0, Signal::SIGKILL).is_ok() {
            while waitpid(self.0, None) == Err(Errno::EINTR) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::model::Kind;

    const RANGE: IdMapping = IdMapping {
        container_id: 0,
        host_id: 70_000,
        length: 65_536,
    };

    fn inode(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn a_network_namespace_belongs_to_the_pinned_user_namespace() {
        netns::isolated(|| {
            let dir = tempfile::tempdir().unwrap();
            let (user, net) = (dir.path().join("user"), dir.path().join("netns/one"));

            create_blocking(&user, RANGE, RANGE).unwrap();
            create_netns_blocking(&net, &user).unwrap();

            assert!(netns::is_pinned_blocking(&user).unwrap());
            assert_ne!(inode(&user), inode(Path::new("/proc/self/ns/user")));
            let owner = netns::owner_blocking(&net).unwrap();
            assert_eq!(owner.metadata().unwrap().ino(), inode(&user));
            let again = create_blocking(&user, RANGE, RANGE).unwrap_err();
            assert_eq!(again.kind(), Kind::AlreadyExists);
            netns::enter_blocking(&net, || {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                Ok(())
            })
            .unwrap();
            netns::remove_blocking(&net).unwrap();
            remove_blocking(&user).unwrap();
            remove_blocking(&user).unwrap();
            assert!(!user.exists() && !net.exists());
        });
    }

    #[test]
    fn a_mapping_that_the_kernel_refuses_leaves_nothing() {
        netns::isolated(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("user");
            let empty = IdMapping { length: 0, ..RANGE };

            let refused = create_blocking(&path, empty, RANGE).unwrap_err();

            assert!(refused.chain().contains("uid_map"), "{}", refused.chain());
            assert!(!path.exists());
            let lonely = create_netns_blocking(&dir.path().join("net"), &path).unwrap_err();
            assert_eq!(lonely.kind(), Kind::NotFound);
        });
    }
}
