//! What every listener needs, TCP options that the standard library does not know, and the names this host answers to.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval};

/// A peer that is silent for so long is asked whether it is there, so often, at such intervals: 60 s in all.
const IDLE_S: u32 = 30;
const INTERVAL_S: u32 = 10;
const COUNT: u32 = 3;

/// The pause after an accept that failed for want of descriptors or memory.
pub const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Whether an error of accept(2) concerns one connection only; others last, and are no reason to end the loop either.
pub fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

/// Has the kernel notice a peer that vanished without a word within a minute.
///
/// # Errors
/// What setsockopt(2) says.
pub fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, KeepAlive, &true)?;
    setsockopt(socket, TcpKeepIdle, &IDLE_S)?;
    setsockopt(socket, TcpKeepInterval, &INTERVAL_S)?;
    setsockopt(socket, TcpKeepCount, &COUNT)?;
    Ok(())
}

/// The host's name and the addresses of its interfaces, as far as they can be told.
pub fn own_names() -> Vec<String> {
    let name = nix::unistd::gethostname().ok();
    let mut names: Vec<String> = name
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .collect();
    for interface in getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            names.push(v4.ip().to_string());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            names.push(v6.ip().to_string());
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_is_waited_for_and_a_client_that_left_is_not() {
        let passing = io::Error::from(io::ErrorKind::ConnectionAborted);
        let lasting = io::Error::from_raw_os_error(nix::libc::EMFILE);

        assert!(is_passing(&passing));
        assert!(!is_passing(&lasting));
    }
}
