//! Helper programs started so that they take nothing of ours along but their three streams.

#![expect(unsafe_code, reason = "code between fork and exec is unsafe by nature")]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// Makes `command` start as a stranger: leader of a session and process group of its own (so that it can be killed with
/// all its children), no descriptor but 0 to 2, the usual file mask, and out-of-memory score 0 whatever ours is.
pub fn as_stranger(command: &mut Command) {
    // SAFETY: the closure allocates nothing, takes no lock and makes async-signal-safe system calls only.
    unsafe {
        command.pre_exec(|| become_stranger(3));
    }
}

/// As [`as_stranger`], with `kept` as descriptor 3.
pub fn as_stranger_with(command: &mut Command, kept: OwnedFd) {
    // SAFETY: as above. The descriptor lives as long as the closure, which lives as long as the command.
    unsafe {
        command.pre_exec(move || {
            let fd = kept.as_raw_fd();
            let placed = if fd == 3 {
                libc::fcntl(3, libc::F_SETFD, 0)
            } else {
                libc::dup2(fd, 3)
            };
            if placed == -1 {
                return Err(io::Error::last_os_error());
            }
            become_stranger(4)
        });
    }
}

/// Keeps the descriptors below `first`.
///
/// # Safety
/// None needed beyond being called between fork and exec.
unsafe fn become_stranger(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: system calls on numbers only.
    unsafe {
        if libc::setsid() == -1 {
            return Err(io::Error::last_os_error());
        }
        let range = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
        if libc::close_range(first, libc::c_uint::MAX, range) == -1 {
            return Err(io::Error::last_os_error());
        }
        libc::umask(0o022);
        reset_oom_score();
    }
    Ok(())
}

/// Best effort: without the right to lower it, the score stays as it was inherited.
///
/// # Safety
/// None needed beyond being called between fork and exec: system calls on constants only.
unsafe fn reset_oom_score() {
    let path = c"/proc/self/oom_score_adj";
    // SAFETY: a constant path and a constant buffer of the length given; the descriptor is closed where it was opened.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, c"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_has_a_session_of_its_own_and_three_descriptors() {
        let (leaky, _other_end) = std::os::unix::net::UnixStream::pair().unwrap();
        nix::fcntl::fcntl(&leaky, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "ls /proc/$$/fd; cut -d' ' -f1,5,6 /proc/$$/stat; umask",
        ]);
        as_stranger(&mut command);

        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["0", "1", "2"], "{text}");
        assert_eq!(lines.len(), 5, "three descriptors: {text}");
        let ids: Vec<&str> = lines[3].split(' ').collect();
        assert!(
            ids.iter().all(|id| *id == ids[0]),
            "pid, group and session: {text}"
        );
        assert_eq!(lines[4], "0022");
        drop(leaky);
    }

    #[test]
    fn a_kept_descriptor_is_number_three_and_the_last() {
        let (kept, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo here >&3; ls /proc/$$/fd"]);
        as_stranger_with(&mut command, kept.into());

        let output = command.output().unwrap();
        let mut said = [0; 5];
        io::Read::read_exact(&mut other, &mut said).unwrap();

        assert_eq!(&said, b"here\n");
        let fds = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            fds.lines().take(4).collect::<Vec<_>>(),
            ["0", "1", "2", "3"]
        );
        // The shell's own script descriptor, at most.
        assert!(fds.lines().count() <= 5, "{fds}");
    }
}
