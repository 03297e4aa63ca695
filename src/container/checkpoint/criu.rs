//! Whether CRIU is here and works on this kernel.

use std::path::Path;
use std::time::Duration;

use crate::model::{Error, Kind, Result};
use crate::sys::{off_thread, tools};

/// The oldest that the OCI runtimes' calls need (kubelet's tests name it `31600`).
const OLDEST: [u32; 2] = [3, 16];

/// It tries what it needs of the kernel, which takes a machine under load its time.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// What was found of CRIU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Criu {
    /// This version works.
    Works(String),
    /// This version is too old.
    TooOld(String),
    /// This version says that the kernel has not what it needs.
    Unfit(String),
    /// There is none, or it tells no version.
    Missing,
}

impl Criu {
    /// As [`Self::look`], where it is wanted.
    pub async fn look_if(is_enabled: bool) -> Option<Self> {
        match is_enabled {
            true => Some(Self::look().await),
            false => None,
        }
    }

    /// Looks for it and asks it; a fraction of a second.
    async fn look() -> Self {
        let found = off_thread("look up criu", || {
            Ok(tools::look_up_blocking(Path::new("criu")))
        });
        let Ok(Some(path)) = found.await else {
            return Self::Missing;
        };
        let Ok(version) = tools::version(&path).await else {
            return Self::Missing;
        };
        if !is_new_enough(&version) {
            return Self::TooOld(version);
        }
        match tools::ask_within(CHECK_LIMIT, &path, &["check"]).await {
            Ok(_said) => Self::Works(version),
            Err(_refused) => Self::Unfit(version),
        }
    }

    /// What is in the way; `None` where nothing is.
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Self::Works(_) => None,
            Self::TooOld(version) => Some(format!("criu {version} is older than 3.16")),
            Self::Unfit(version) => Some(format!(
                "criu {version} does not work on this kernel; `criu check` tells why"
            )),
            Self::Missing => Some("criu is not installed".to_owned()),
        }
    }

    /// Fails exactly as kubelet's tests and tools expect of a runtime that cannot: the text must be this alone. `key` is
    /// the configuration's that switches the method off.
    ///
    /// # Errors
    /// `Unimplemented` where checkpoints are switched off or CRIU is of no use.
    pub(in super::super) fn ensure(criu: Option<&Self>, method: &str, key: &str) -> Result<()> {
        let obstacle = match criu {
            Some(criu) => criu.obstacle(),
            None => Some(format!("{key} is false")),
        };
        let Some(obstacle) = obstacle else {
            return Ok(());
        };
        tracing::info!(
            obstacle,
            method,
            "a checkpoint was asked for and is refused"
        );
        Err(Error::new(
            Kind::Unimplemented,
            format!("method {method} not implemented"),
        ))
    }
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let found = [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)];
    found >= OLDEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_3_16_on_are_new_enough() {
        for (version, is_new) in [
            ("3.16", true),
            ("3.17.1", true),
            ("4.1", true),
            ("3.15.9", false),
            ("2.99", false),
            ("odd", false),
        ] {
            assert_eq!(is_new_enough(version), is_new, "{version}");
        }
    }
}
