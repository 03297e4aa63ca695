//! AppArmor: which profile a workload container runs under (contract: pods 3.7; traps 33, 34).

use crate::model::container::ContainerSecurity;
use crate::model::security::ApparmorProfile;
use crate::model::{Error, HostFacts, Result};

/// Name of the built-in profile; the one that containerd's own plugin loads, so that a node has it once.
pub const DEFAULT_PROFILE: &str = "cri-containerd.apparmor.d";

/// The profile of a container, by name. `loaded` are the profiles that the kernel holds.
///
/// # Errors
/// `FailedPrecondition` where a profile is asked of a node without AppArmor, or one that is not loaded.
pub(super) fn of(
    security: &ContainerSecurity,
    loaded: &[String],
    host: &HostFacts,
) -> Result<Option<String>> {
    let is_loaded = |name: &str| loaded.iter().any(|known| known == name);
    match &security.apparmor {
        Some(ApparmorProfile::Unconfined) => Ok(None),
        None if !host.has_apparmor => Ok(None),
        Some(_) if !host.has_apparmor => Err(Error::precondition(
            "AppArmor profile asked for, but this node has no AppArmor",
        )),
        None | Some(ApparmorProfile::RuntimeDefault) => {
            Ok((!security.privileged).then(|| DEFAULT_PROFILE.to_owned()))
        }
        Some(ApparmorProfile::Localhost(name)) if is_loaded(name) => Ok(Some(name.clone())),
        Some(ApparmorProfile::Localhost(name)) => Err(Error::precondition(format!(
            "AppArmor profile {name:?} is not loaded on this node; load it with apparmor_parser"
        ))),
    }
}

/// The names in the kernel's list of profiles (`/sys/kernel/security/apparmor/profiles`: `name (mode)` lines).
pub fn loaded_names(list: &str) -> Vec<String> {
    let names = list
        .lines()
        .filter_map(|line| line.rsplit_once(" (").map(|(name, _)| name));
    names.map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn choose(
        asked: Option<ApparmorProfile>,
        privileged: bool,
        has_apparmor: bool,
    ) -> Result<Option<String>> {
        let security = ContainerSecurity {
            apparmor: asked,
            privileged,
            ..ContainerSecurity::default()
        };
        let mut host = testing::host();
        host.has_apparmor = has_apparmor;
        let loaded =
            loaded_names("cri-containerd.apparmor.d (enforce)\nmine with blanks (complain)\n");
        of(&security, &loaded, &host)
    }

    #[test]
    fn absent_means_the_default_profile_but_not_for_the_privileged() {
        let default = Some(DEFAULT_PROFILE.to_owned());
        let named = || Some(ApparmorProfile::Localhost("mine with blanks".into()));

        assert_eq!(choose(None, false, true).unwrap(), default);
        assert_eq!(
            choose(Some(ApparmorProfile::RuntimeDefault), false, true).unwrap(),
            default
        );
        assert_eq!(choose(None, true, true).unwrap(), None);
        assert_eq!(
            choose(Some(ApparmorProfile::Unconfined), false, true).unwrap(),
            None
        );
        assert_eq!(
            choose(named(), true, true).unwrap(),
            Some("mine with blanks".into())
        );
    }

    #[test]
    fn profiles_that_are_not_there_are_refused() {
        for name in ["mine", "ghost", ""] {
            let asked = Some(ApparmorProfile::Localhost(name.into()));
            assert!(choose(asked, false, true).is_err(), "{name}");
        }
        assert!(choose(Some(ApparmorProfile::RuntimeDefault), false, false).is_err());
        assert_eq!(choose(None, false, false).unwrap(), None);
        assert_eq!(
            choose(Some(ApparmorProfile::Unconfined), false, false).unwrap(),
            None
        );
    }
}
