//! Processes of the host by pidfd, so that a reused pid is never waited for or killed by mistake.

#![expect(unsafe_code, reason = "nix has no pidfd_open and no pidfd_send_signal")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use tokio::io::Interest;

use super::errno::SysContext;
use super::readiness;
use crate::model::{Context, Error, Pid, Result};

/// `/proc/<pid>/stat` is one short line.
const STAT_CAP: u64 = 4096;

/// A process as one that cannot be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ProcessIdentity {
    /// The process id on the host.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of its stat line).
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// The identity of the process that has `pid` now.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub fn of_blocking(pid: Pid) -> Result<Self> {
        Ok(Self {
            pid: pid.0,
            start_ticks: ProcessStat::read_blocking(pid)?.start_ticks,
        })
    }

    /// Whether exactly this process still runs; a zombie does not run.
    ///
    /// # Errors
    /// Where `/proc` cannot be read; a process that is gone is `Ok(false)`.
    pub fn is_alive_blocking(&self) -> Result<bool> {
        match ProcessStat::read_blocking(Pid(self.pid)) {
            Ok(stat) => Ok(stat.start_ticks == self.start_ticks && stat.runs()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What of a process's stat line anyone here asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// The state letter, e.g. `R`, `S`, `D`, `Z`.
    pub state: char,
    /// The parent's process id.
    pub parent: u32,
    /// Threads that have not ended.
    pub threads: u64,
    /// Start in clock ticks since boot.
    pub start_ticks: u64,
}

impl ProcessStat {
    /// Reads the stat line of `pid`.
    ///
    /// # Errors
    /// `NotFound` where there is no such process.
    pub fn read_blocking(pid: Pid) -> Result<Self> {
        let line = read_proc(pid, "stat")?;
        Self::parse(&line)
            .ok_or_else(|| Error::internal(format!("/proc/{pid}/stat: not understood: {line:?}")))
    }

    /// Whether any thread of it can still run: a leader that ended while threads go on is state `Z`, too.
    pub fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }

    // The command in parentheses may hold spaces and parentheses itself; the fields start after the last one.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number.checked_sub(3)?).copied();
        Some(Self {
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            start_ticks: field(22)?.parse().ok()?,
        })
    }
}

fn read_proc(pid: Pid, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    let bytes = super::files::read_capped_blocking(&path, STAT_CAP)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The kernel function that `pid` sleeps in; `None` where it runs, is gone, or the kernel does not tell.
pub fn wait_channel_blocking(pid: Pid) -> Option<String> {
    let channel = read_proc(pid, "wchan").ok()?;
    let channel = channel.trim();
    (!channel.is_empty() && channel != "0").then(|| channel.to_owned())
}

/// The command name of `pid`, for messages; `None` where it is gone.
pub fn command_blocking(pid: Pid) -> Option<String> {
    Some(read_proc(pid, "comm").ok()?.trim_end().to_owned())
}

/// The processes whose environment at their start held `entry` (`NAME=value`); kernel threads have none.
///
/// A process in the middle of `execve` shows no environment for a moment, though it has one: those that show none are
/// asked again a few times.
///
/// # Errors
/// Where `/proc` cannot be listed. Processes that end meanwhile are left out.
pub fn with_environment_blocking(entry: &str) -> Result<Vec<Pid>> {
    const LOOKS: usize = 4;
    const BETWEEN: Duration = Duration::from_millis(2);
    let listed = std::fs::read_dir("/proc").sys(|| "list processes".to_owned())?;
    let mut asked: Vec<Pid> = listed
        .filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid)
        .collect();
    let mut found = Vec::new();
    for look in 0..LOOKS {
        if look > 0 {
            #[expect(
                clippy::disallowed_methods,
                reason = "callers keep this off the runtime"
            )]
            std::thread::sleep(BETWEEN);
        }
        asked.retain(|pid| match environment_blocking(*pid) {
            Some(environment) if environment.is_empty() => has_program_blocking(*pid),
            Some(environment) => {
                let mut entries = environment.split(|byte| *byte == 0);
                if entries.any(|present| present == entry.as_bytes()) {
                    found.push(*pid);
                }
                false
            }
            None => false,
        });
        if asked.is_empty() {
            break;
        }
    }
    Ok(found)
}

fn environment_blocking(pid: Pid) -> Option<Vec<u8>> {
    const ENVIRONMENT_CAP: u64 = 256 * 1024;
    let path = PathBuf::from(format!("/proc/{pid}/environ"));
    super::files::read_capped_blocking(&path, ENVIRONMENT_CAP).ok()
}

// Kernel threads and zombies have none.
fn has_program_blocking(pid: Pid) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// A handle on one process: neither its end nor the reuse of its pid makes it mean another.
#[derive(Debug)]
pub struct PidFd {
    pid: Pid,
    fd: OwnedFd,
}

impl PidFd {
    /// Opens the process that has `pid` now. Close-on-exec.
    ///
    /// # Errors
    /// `NotFound` where there is no such process.
    pub fn open(pid: Pid) -> Result<Self> {
        let raw = libc::pid_t::try_from(pid.0)
            .map_err(|_out_of_range| Error::not_found(format!("process {pid}: no such pid")))?;
        pidfd_open(raw)
            .map(|fd| Self { pid, fd })
            .sys(|| format!("open a handle on process {pid}"))
    }

    /// The pid it was opened with.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// `NotFound` where the process has ended and was reaped.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.fd, signal).sys(|| format!("send {signal} to process {}", self.pid))
    }

    /// Whether the process has ended; never waits.
    ///
    /// # Errors
    /// Where the kernel refuses to poll the handle.
    pub fn has_exited(&self) -> Result<bool> {
        let mut polled = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, PollTimeout::ZERO)
            .map(|ready| ready > 0)
            .sys(|| format!("poll the handle on process {}", self.pid))
    }

    /// Waits until the process has ended. Needs a tokio runtime; dropping the future is safe.
    ///
    /// # Errors
    /// Where the runtime cannot watch the handle.
    pub async fn exited(&self) -> Result<()> {
        let what = || format!("wait for the end of process {}", self.pid);
        let watched =
            readiness::watch_borrowed(self.fd.as_fd(), Interest::READABLE).context(what)?;
        watched.readable().await.map(drop).sys(what)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call returned this descriptor just now, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pidfd_send_signal(fd: &OwnedFd, signal: Signal) -> io::Result<()> {
    // SAFETY: the null siginfo is documented as "like kill(2)"; the other arguments are integers.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal as libc::c_int,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(sent).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;
    use crate::model::Kind;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn stat_lines_are_read_past_any_command_name() {
        let line = "42 (a) b) (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 987654 1 1";
        let stat = ProcessStat::parse(line).unwrap();

        assert_eq!(
            stat,
            ProcessStat {
                state: 'S',
                parent: 7,
                threads: 3,
                start_ticks: 987_654
            }
        );
        assert_eq!(ProcessStat::parse("42 (a) S 7"), None);
        assert_eq!(ProcessStat::parse(""), None);
    }

    #[test]
    fn a_leader_that_ended_before_its_threads_still_runs() {
        let mut stat = ProcessStat {
            state: 'Z',
            parent: 1,
            threads: 2,
            start_ticks: 1,
        };
        assert!(stat.runs());
        stat.threads = 1;
        assert!(!stat.runs());
    }

    #[tokio::test]
    async fn the_end_of_a_killed_process_is_seen() {
        let mut child = sleeper();
        let pid = Pid(child.id());
        let identity = ProcessIdentity::of_blocking(pid).unwrap();
        let handle = PidFd::open(pid).unwrap();
        assert!(!handle.has_exited().unwrap());
        assert!(identity.is_alive_blocking().unwrap());
        assert_eq!(command_blocking(pid).unwrap(), "sleep");

        handle.kill(Signal::SIGKILL).unwrap();
        tokio::time::timeout(Duration::from_secs(10), handle.exited())
            .await
            .unwrap()
            .unwrap();

        assert!(handle.has_exited().unwrap());
        assert!(!identity.is_alive_blocking().unwrap(), "a zombie is dead");
        child.wait().unwrap();
        assert!(!identity.is_alive_blocking().unwrap());
        assert_eq!(
            handle.kill(Signal::SIGKILL).unwrap_err().kind(),
            Kind::NotFound
        );
    }

    #[test]
    fn another_start_time_is_another_process() {
        let own = Pid(std::process::id());
        let mut identity = ProcessIdentity::of_blocking(own).unwrap();
        assert!(identity.is_alive_blocking().unwrap());
        identity.start_ticks += 1;
        assert!(!identity.is_alive_blocking().unwrap());
    }

    #[test]
    fn processes_are_found_by_what_their_environment_says() {
        let entry = format!("PODWRIGHT_TEST_MARK={}", std::process::id());
        let mut child = Command::new("sleep")
            .arg("600")
            .env("PODWRIGHT_TEST_MARK", std::process::id().to_string())
            .spawn()
            .unwrap();

        let found = with_environment_blocking(&entry).unwrap();
        let prefix = with_environment_blocking("PODWRIGHT_TEST_MARK=").unwrap();

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [Pid(child.id())]);
        assert_eq!(prefix, []);
    }

    #[test]
    fn a_pid_that_cannot_be_is_not_found() {
        for pid in [Pid(u32::MAX), Pid(4_194_305)] {
            assert_eq!(PidFd::open(pid).unwrap_err().kind(), Kind::NotFound);
            assert_eq!(
                ProcessStat::read_blocking(pid).unwrap_err().kind(),
                Kind::NotFound
            );
        }
    }
}
