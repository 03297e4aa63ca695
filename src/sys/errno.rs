//! One mapping from what the kernel answers to our kinds of failure.

use std::io;

use crate::model::{Error, Kind};

/// Names what failed in a system call and gives it the kind that callers branch on.
pub trait SysContext<T> {
    /// Wraps the failure as "`what()`: the kernel's words".
    ///
    /// # Errors
    /// The same failure: a missing path is `NotFound`, an existing one `AlreadyExists`, a full disk or an exhausted
    /// table `ResourceExhausted`, a missing system call `Unimplemented`, anything else `Internal`.
    fn sys(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> SysContext<T> for Result<T, E> {
    fn sys(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| {
            let error = error.into();
            Error::new(kind_of(&error), what()).caused_by(error)
        })
    }
}

fn kind_of(error: &io::Error) -> Kind {
    use io::ErrorKind as E;
    match error.kind() {
        E::NotFound => Kind::NotFound,
        E::AlreadyExists => Kind::AlreadyExists,
        E::StorageFull | E::QuotaExceeded | E::OutOfMemory => Kind::ResourceExhausted,
        E::Unsupported => Kind::Unimplemented,
        _ => match error.raw_os_error() {
            Some(nix::libc::ESRCH) => Kind::NotFound,
            Some(nix::libc::EMFILE | nix::libc::ENFILE) => Kind::ResourceExhausted,
            _ => Kind::Internal,
        },
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn the_kernel_answer_decides_the_kind() {
        for (errno, kind) in [
            (Errno::ENOENT, Kind::NotFound),
            (Errno::ESRCH, Kind::NotFound),
            (Errno::EEXIST, Kind::AlreadyExists),
            (Errno::ENOSPC, Kind::ResourceExhausted),
            (Errno::EMFILE, Kind::ResourceExhausted),
            (Errno::ENOSYS, Kind::Unimplemented),
            (Errno::EIO, Kind::Internal),
        ] {
            let error = Err::<(), _>(errno).sys(|| "step".into()).unwrap_err();
            assert_eq!(error.kind(), kind, "{errno}");
        }
    }
}
