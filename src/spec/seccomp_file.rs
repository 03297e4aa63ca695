//! Seccomp profiles of the node's own, as JSON in the OCI runtime spec's shape.

use oci_spec::runtime::LinuxSeccomp;

use crate::model::{Error, Result};

/// The longest profile that is read.
pub const MAX_PROFILE_BYTES: usize = 4 << 20;

/// The file that a `Localhost` reference means: an optional `localhost/` in front of an absolute path.
///
/// # Errors
/// `InvalidArgument` on an empty or relative path: taken for "no filter" it would leave a process unconfined
/// (CVE-2023-2431).
pub fn path_of(reference: &str) -> Result<&str> {
    let path = reference.strip_prefix("localhost/").unwrap_or(reference);
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(path);
    }
    Err(Error::invalid(format!(
        "seccomp profile {reference:?}: want the absolute path of a file on the node"
    )))
}

/// Reads the text of the profile at `path`.
pub(super) fn parse(path: &str, text: &str) -> Result<LinuxSeccomp> {
    if text.len() > MAX_PROFILE_BYTES {
        return Err(Error::invalid(format!(
            "seccomp profile {path}: longer than {MAX_PROFILE_BYTES} bytes"
        )));
    }
    serde_json::from_str(text).map_err(|source| {
        Error::invalid(format!(
            "seccomp profile {path}: it is not JSON in the shape of linux.seccomp of the OCI runtime spec"
        ))
        .caused_by(source)
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxSeccompAction as Action;

    use super::*;

    #[test]
    fn a_profile_as_people_write_it_parses() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "archMap": [],
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "x", "includes": {}},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": null},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args":
                    [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}
            ]
        }"#;

        let profile = parse("/p", text).unwrap();

        assert_eq!(profile.default_action(), Action::ScmpActErrno);
        assert_eq!(profile.syscalls().as_ref().unwrap().len(), 3);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            "{\"defaultAction\":\"ALLOW\"}",
            "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":{}}",
            &"[".repeat(10_000),
            &" ".repeat(MAX_PROFILE_BYTES + 1),
        ] {
            assert!(parse("/p", text).is_err());
        }
    }

    #[test]
    fn references_are_absolute_paths() {
        assert_eq!(path_of("/a/b.json").unwrap(), "/a/b.json");
        assert_eq!(path_of("localhost//a").unwrap(), "/a");
        for bad in [
            "",
            "localhost/",
            "a.json",
            "localhost/a",
            "runtime/default",
            "/a\0",
        ] {
            assert!(path_of(bad).is_err(), "{bad:?}");
        }
    }
}
