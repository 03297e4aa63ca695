//! The profiles that confine a container: what the node has loaded, and the defaults where a request names none.

use std::borrow::Cow;

use crate::model::security::{ApparmorProfile, SeccompProfile};
use crate::model::{ContainerConfig, Error, Result};
use crate::{spec, sys};

use super::Containers;

impl Containers {
    /// The request with the node's own seccomp default filled in where it names no profile
    /// (`containers.unset_seccomp_profile`).
    pub(super) fn with_node_defaults<'a>(
        &self,
        config: &'a ContainerConfig,
    ) -> Result<Cow<'a, ContainerConfig>> {
        let settings = self.deps.settings();
        let (Some(unset), None) = (
            &settings.containers.unset_seccomp_profile,
            &config.security.seccomp,
        ) else {
            return Ok(Cow::Borrowed(config));
        };
        let mut filled = config.clone();
        filled.security.seccomp = Some(match unset.as_str() {
            "unconfined" => SeccompProfile::Unconfined,
            "runtime/default" => SeccompProfile::RuntimeDefault,
            other => match other.strip_prefix("localhost/") {
                Some(path) => {
                    SeccompProfile::Localhost(format!("/{}", path.trim_start_matches('/')))
                }
                None => {
                    return Err(Error::internal(format!(
                        "containers.unset_seccomp_profile {other:?}: not understood"
                    )));
                }
            },
        });
        Ok(Cow::Owned(filled))
    }

    /// The names of the AppArmor profiles that the kernel holds, after loading ours where this container gets it.
    pub(super) async fn loaded_apparmor(&self, config: &ContainerConfig) -> Result<Vec<String>> {
        if !self.deps.host.load().has_apparmor {
            return Ok(Vec::new());
        }
        let list = || sys::off_thread("list AppArmor profiles", sys::apparmor::loaded_blocking);
        let loaded = spec::apparmor::loaded_names(&list().await?);
        let wants_ours = matches!(
            config.security.apparmor,
            None | Some(ApparmorProfile::RuntimeDefault)
        );
        if !wants_ours
            || config.security.privileged
            || loaded
                .iter()
                .any(|name| name == spec::apparmor::DEFAULT_PROFILE)
        {
            return Ok(loaded);
        }
        let containerd = self.deps.containerd.introspection.server_pid();
        let unknown = || {
            Error::unavailable(
                "the AppArmor profile depends on containerd, whose process is not known",
            )
        };
        let pid = containerd.ok_or_else(unknown)?;
        let facts = sys::off_thread("look at AppArmor", move || {
            Ok(sys::apparmor::facts_blocking(pid))
        })
        .await?;
        sys::apparmor::load(&spec::apparmor_default_profile(
            spec::apparmor::DEFAULT_PROFILE,
            &facts,
        )?)
        .await?;
        Ok(spec::apparmor::loaded_names(&list().await?))
    }
}
