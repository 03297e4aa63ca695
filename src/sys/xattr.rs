//! Extended attributes, which neither std nor nix reads.
#![expect(
    unsafe_code,
    reason = "the calls on extended attributes have no safe wrapper among our dependencies"
)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::errno::SysContext as _;
use crate::model::{Error, Result};

/// The value of attribute `name` of the file at `path`, which is not followed; `None` where there is none, or where it
/// is longer than overlayfs' own ever are.
pub(super) fn get_blocking(path: &CStr, name: &CStr) -> Option<Vec<u8>> {
    let mut value = [0_u8; 64];
    // SAFETY: both names are NUL-terminated, and the kernel writes at most `value.len()` bytes into `value`.
    let length = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    value
        .get(..usize::try_from(length).ok()?)
        .map(<[u8]>::to_vec)
}

/// The kernel's own limit for the names and for a value.
const MAX_BYTES: usize = 64 * 1024;
/// Made anew by the security module where a file is made.
const LABEL: &CStr = c"security.selinux";

/// Gives `to` the extended attributes of `from`, less its security label. Links are not followed. What the file system of
/// `to` does not support is left out.
///
/// # Errors
/// `Internal` where the kernel refuses.
pub(super) fn copy_blocking(from: &Path, to: &Path) -> Result<()> {
    copy_where_blocking(from, to, |name| name != LABEL)
}

/// Gives `to` those extended attributes of `from` whose names are `wanted`, otherwise as [`copy_blocking`].
///
/// # Errors
/// `Internal` where the kernel refuses.
pub(super) fn copy_where_blocking(
    from: &Path,
    to: &Path,
    wanted: impl Fn(&CStr) -> bool,
) -> Result<()> {
    let c_path = |path: &Path| {
        CString::new(path.as_os_str().as_bytes())
            .map_err(|error| Error::internal("a path with a NUL").caused_by(error))
    };
    let what = || format!("copy the attributes of {}", from.display());
    let (source, target) = (c_path(from)?, c_path(to)?);
    let mut names = vec![0_u8; MAX_BYTES];
    // SAFETY: the path is NUL-terminated, and the kernel writes at most `names.len()` bytes into `names`.
    let length =
        unsafe { libc::llistxattr(source.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let length = match Errno::result(length) {
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        listed => usize::try_from(listed.sys(what)?).unwrap_or(0),
    };
    names.truncate(length);
    let mut value = vec![0_u8; MAX_BYTES];
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if !wanted(name) {
            continue;
        }
        // SAFETY: both names are NUL-terminated, and the kernel writes at most `value.len()` bytes into `value`.
        let length = unsafe {
            libc::lgetxattr(
                source.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        let length = usize::try_from(Errno::result(length).sys(what)?).unwrap_or(0);
        // SAFETY: both names are NUL-terminated, and `length` bytes of `value` were just filled.
        let set = unsafe {
            libc::lsetxattr(
                target.as_ptr(),
                name.as_ptr(),
                value.as_ptr().cast(),
                length,
                0,
            )
        };
        match Errno::result(set) {
            Ok(_) | Err(Errno::EOPNOTSUPP) => {}
            refused => drop(refused.sys(what)?),
        }
    }
    Ok(())
}

/// Labels the open `file`, which may have been opened for its path alone.
pub(super) fn set_label_blocking(file: &OwnedFd, label: &str) -> Result<(), Errno> {
    // By its link: what is open for its path alone takes no attributes by descriptor.
    let path = c_text(format!("/proc/thread-self/fd/{}", file.as_raw_fd()).as_bytes())?;
    let value = c_text(label.as_bytes())?;
    let bytes = value.as_bytes();
    // SAFETY: path and name are NUL-terminated, and the value is as long as said.
    let set = unsafe {
        libc::setxattr(
            path.as_ptr(),
            LABEL.as_ptr(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
        )
    };
    Errno::result(set).map(drop)
}

/// Sets attribute `name` of the file at `path`, which is not followed.
pub(super) fn set_blocking(path: &CStr, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: both names are NUL-terminated, and the value is as long as said.
    let set = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(set).map(drop)
}

/// Sets attribute `name` of an open file.
pub(super) fn set_open_blocking(
    file: BorrowedFd<'_>,
    name: &CStr,
    value: &[u8],
) -> Result<(), Errno> {
    // SAFETY: the name is NUL-terminated, and the value is as long as said.
    let set = unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(set).map(drop)
}

fn c_text(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_nul_inside| Errno::EINVAL)
}

/// The label of the file at `path`, which is not followed.
#[cfg(test)]
pub(super) fn label_blocking(path: &Path) -> Option<Vec<u8>> {
    get_blocking(&c_text(path.as_os_str().as_bytes()).ok()?, LABEL)
}
