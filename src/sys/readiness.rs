//! Waiting for a descriptor on tokio. Its own safe constructors are deprecated, as they accept any type that only
//! claims to be a descriptor; these accept the two standard types that are one.

#![expect(
    unsafe_code,
    reason = "tokio registers descriptors through unsafe functions"
)]

use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::errno::SysContext;
use crate::model::Result;

/// Watches a descriptor for `interest`. Must be called inside a tokio runtime, which must have its I/O driver on.
/// The caller sees to it that the descriptor is non-blocking where it means to read or write.
///
/// # Errors
/// Where the descriptor is of a kind that cannot be watched, as regular files are.
pub fn watch_owned(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open until dropped, always names the same descriptor, and moves into the AsyncFd here.
    unsafe { AsyncFd::register_with_interest(fd, interest) }
        .map_err(|error| error.into_parts().1)
        .sys(|| "watch a descriptor".to_owned())
}

/// As [`watch_owned`], for a descriptor that the caller keeps.
///
/// # Errors
/// As there.
pub fn watch_borrowed(fd: BorrowedFd<'_>, interest: Interest) -> Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: a BorrowedFd always names the same descriptor, which its lifetime keeps open longer than the AsyncFd.
    unsafe { AsyncFd::register_with_interest(fd, interest) }
        .map_err(|error| error.into_parts().1)
        .sys(|| "watch a descriptor".to_owned())
}
