//! The kinds of rule that keys obey. Each method notes what is broken and returns a value to go on with, so that one
//! reading finds every problem.

use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::problem::Problem;
use super::units::Span;
use crate::model::Reference;

/// The rules, and what broke them so far.
#[derive(Default)]
pub(super) struct Rules {
    pub(super) problems: Vec<Problem>,
}

impl Rules {
    pub(super) fn broken(&mut self, key: &str, rule: impl Into<String>) {
        self.problems.push(Problem {
            line: None,
            key: key.into(),
            rule: rule.into(),
        });
    }

    pub(super) fn absolute(&mut self, key: &str, path: &Path) -> PathBuf {
        let plain = path
            .components()
            .all(|part| !matches!(part, Component::ParentDir));
        if !path.is_absolute() || !plain {
            self.broken(key, format!("{path:?} must be an absolute path without .."));
        }
        path.into()
    }

    pub(super) fn directories(&mut self, key: &str, paths: &[PathBuf]) -> Vec<PathBuf> {
        paths.iter().map(|path| self.absolute(key, path)).collect()
    }

    pub(super) fn optional_absolute(
        &mut self,
        key: &str,
        path: Option<&PathBuf>,
    ) -> Option<PathBuf> {
        path.map(|path| self.absolute(key, path))
    }

    /// An image reference in its whole form.
    pub(super) fn optional_image(&mut self, key: &str, text: Option<&str>) -> Option<String> {
        match text?.parse::<Reference>() {
            Ok(reference) => Some(reference.to_string()),
            Err(error) => {
                self.broken(key, error.to_string());
                None
            }
        }
    }

    /// A program: an absolute path, or a bare name to look up.
    pub(super) fn program(&mut self, key: &str, path: &Path) -> PathBuf {
        let bare = path.components().count() == 1;
        if path.as_os_str().is_empty() || !(path.is_absolute() || bare) {
            self.broken(
                key,
                format!("{path:?} must be an absolute path or a bare name"),
            );
        }
        path.into()
    }

    pub(super) fn size(&mut self, key: &str, value: u32, least: u32, most: u32) -> NonZeroUsize {
        if !(least..=most).contains(&value) {
            self.broken(key, format!("must lie between {least} and {most}"));
        }
        usize::try_from(value)
            .ok()
            .and_then(NonZeroUsize::new)
            .unwrap_or(NonZeroUsize::MIN)
    }

    pub(super) fn count(&mut self, key: &str, value: u32) -> NonZeroUsize {
        self.size(key, value, 1, 1_000_000)
    }

    pub(super) fn span(&mut self, key: &str, value: Span, least: Span) -> Duration {
        if value < least {
            self.broken(key, format!("must be at least {least}"));
        }
        value.0
    }

    pub(super) fn word(&mut self, key: &str, value: &str) -> String {
        let ok = !value.is_empty()
            && value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
        if !ok {
            self.broken(
                key,
                format!("{value:?} must be letters, digits, '.', '_', '-' or '/'"),
            );
        }
        value.into()
    }

    pub(super) fn patterns(&mut self, key: &str, values: &[String]) -> Vec<String> {
        if values.iter().any(|value| value.trim().is_empty()) {
            self.broken(key, "must not hold an empty pattern");
        }
        values.to_vec()
    }
}
