//! Where a container's output goes.

use std::path::{Component, Path, PathBuf};

use crate::model::{Error, Result};

/// The longest log path, as the kernel takes it.
const PATH_MAX: usize = 4_095;

/// A log file beneath the pod's log directory, or nowhere. Checked when made, so that nothing behind it needs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget(Option<Place>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) relative: PathBuf,
}

impl LogTarget {
    /// From the sandbox's `log_directory` and the container's `log_path`; where either is empty, output is read and
    /// thrown away.
    ///
    /// # Errors
    /// `InvalidArgument` where the path is longer than 4095 bytes, holds a NUL or could name something outside of
    /// the directory.
    pub fn new(directory: &str, path: &str) -> Result<Self> {
        if directory.is_empty() || path.is_empty() {
            return Ok(Self::discard());
        }
        check("log_directory", directory)?;
        check("log_path", path)?;
        if !Path::new(directory).is_absolute() {
            return Err(Error::invalid("log_directory: want an absolute path"));
        }
        let names_a_file = matches!(
            Path::new(path).components().next_back(),
            Some(Component::Normal(_))
        );
        if Path::new(path).is_absolute() || path.ends_with('/') || !names_a_file {
            return Err(Error::invalid("log_path: want the relative path of a file"));
        }
        Ok(Self(Some(Place {
            directory: directory.into(),
            relative: path.into(),
        })))
    }

    /// Output is read, for attached clients perhaps, and not kept.
    pub fn discard() -> Self {
        Self(None)
    }

    /// The log file's full path, as ContainerStatus shows it; `None` where nothing is kept.
    pub fn path(&self) -> Option<PathBuf> {
        self.place()
            .map(|place| place.directory.join(&place.relative))
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.0.as_ref()
    }
}

fn check(key: &'static str, path: &str) -> Result<()> {
    if path.len() > PATH_MAX {
        return Err(Error::invalid(format!(
            "{key}: longer than {PATH_MAX} bytes"
        )));
    }
    if path.contains('\0') {
        return Err(Error::invalid(format!("{key}: holds a NUL byte")));
    }
    if Path::new(path)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err(Error::invalid(format!("{key}: must not contain ..")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::model::Kind;

    #[test]
    fn the_path_is_directory_and_log_path() {
        let target = LogTarget::new("/var/log/pods/a", "app/0.log").unwrap();
        assert_eq!(
            target.path(),
            Some(PathBuf::from("/var/log/pods/a/app/0.log"))
        );
    }

    #[rstest]
    #[case("", "0.log")]
    #[case("/logs", "")]
    fn an_empty_part_discards(#[case] directory: &str, #[case] path: &str) {
        assert_eq!(
            LogTarget::new(directory, path).unwrap(),
            LogTarget::discard()
        );
    }

    #[rstest]
    #[case("/logs", "../x")]
    #[case("/logs", "/abs")]
    #[case("/logs", "a/../../x")]
    #[case("/logs", "x\0y")]
    #[case("/logs", ".")]
    #[case("/logs", "a/")]
    #[case("logs", "a")]
    #[case("/logs/../etc", "a")]
    fn what_could_name_another_place_is_refused(#[case] directory: &str, #[case] path: &str) {
        let error = LogTarget::new(directory, path).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
    }

    #[test]
    fn the_longest_path_is_4095_bytes() {
        assert!(LogTarget::new("/logs", &"x".repeat(4_095)).is_ok());
        assert!(LogTarget::new("/logs", &"x".repeat(4_096)).is_err());
    }
}
