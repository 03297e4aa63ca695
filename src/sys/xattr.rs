//! Extended attributes, which neither std nor nix reads.
#![expect(
    unsafe_code,
    reason = "lgetxattr(2) has no safe wrapper among our dependencies"
)]

use std::ffi::CStr;

use nix::libc;

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
