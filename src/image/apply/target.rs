//! Whether a snapshot is one that this process can unpack into, and where it lies.

use std::path::PathBuf;

use super::lay::Whiteouts;
use crate::containerd::RootfsMount;

/// Where a layer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) root: PathBuf,
    /// The layers below, newest first.
    pub(super) below: Vec<PathBuf>,
    pub(super) whiteouts: Whiteouts,
}

impl Target {
    /// Reads the mounts of a prepared snapshot; `has_parent` says whether there are layers below it. `None` for what is
    /// containerd's to unpack: mounts of another kind, or with an option whose meaning is not known here.
    pub(super) fn of(mounts: &[RootfsMount], has_parent: bool) -> Option<Self> {
        let [mount] = mounts else { return None };
        if !mount.target.is_empty() {
            return None;
        }
        match mount.kind.as_str() {
            "overlay" => overlay(&mount.options),
            // With layers below, those are part of what lies there, and whiteouts need to know which part.
            "bind" if !has_parent => bind(&mount.source, &mount.options),
            _ => None,
        }
    }
}

fn overlay(options: &[String]) -> Option<Target> {
    let (mut upper, mut lower) = (None, Vec::new());
    for option in options {
        match option.split_once('=') {
            Some(("upperdir", dir)) => upper = Some(directory(dir)?),
            Some(("lowerdir", dirs)) => {
                lower = dirs.split(':').map(directory).collect::<Option<_>>()?;
            }
            Some(("workdir", _) | ("index", "off")) => {}
            None if matches!(option.as_str(), "volatile" | "rw") => {}
            // `userxattr` among them, where whiteouts and opaque directories are written otherwise, and id mappings.
            _ => return None,
        }
    }
    Some(Target {
        root: upper?,
        below: lower,
        whiteouts: Whiteouts::Overlay,
    })
}

fn bind(source: &str, options: &[String]) -> Option<Target> {
    let is_known = |option: &String| matches!(option.as_str(), "rw" | "rbind" | "bind");
    if !options.iter().all(is_known) || !options.iter().any(|option| option == "rw") {
        return None;
    }
    Some(Target {
        root: directory(source)?,
        below: Vec::new(),
        whiteouts: Whiteouts::Remove,
    })
}

/// An absolute path; a backslash would stand for something else.
fn directory(path: &str) -> Option<PathBuf> {
    (path.starts_with('/') && !path.contains('\\')).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &str) -> RootfsMount {
        RootfsMount {
            kind: kind.into(),
            source: "/s".into(),
            target: String::new(),
            options: options.split(' ').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn plain_mounts_are_ours_and_odd_ones_containerd_s() {
        let of =
            |kind: &str, options: &str, has_parent| Target::of(&[mount(kind, options)], has_parent);
        let overlay = of(
            "overlay",
            "index=off workdir=/w upperdir=/u lowerdir=/b:/a",
            true,
        );
        assert_eq!(
            overlay,
            Some(Target {
                root: "/u".into(),
                below: vec!["/b".into(), "/a".into()],
                whiteouts: Whiteouts::Overlay,
            })
        );
        assert!(of("bind", "rw rbind", false).is_some());
        for (kind, options, has_parent) in [
            ("bind", "rw rbind", true),
            ("bind", "ro rbind", false),
            ("bind", "rw rbind uidmap=0:1:1", false),
            ("overlay", "upperdir=/u lowerdir=/a userxattr", true),
            ("overlay", "upperdir=/u lowerdir=/a uidmap=0:1:1", true),
            ("overlay", "upperdir=/u lowerdir=/a\\:b", true),
            ("overlay", "upperdir=u lowerdir=/a", true),
            ("overlay", "lowerdir=/a:/b", true),
            ("ext4", "rw", false),
        ] {
            assert_eq!(of(kind, options, has_parent), None, "{kind} {options}");
        }
    }
}
