//! SELinux labels: the level's grammar, and how a request changes the label that policy gives (contract: pods 3.7).

use crate::model::host_facts::SelinuxContexts;
use crate::model::security::SelinuxOptions;
use crate::model::{Error, Result};

use super::input::SelinuxLabels;
use super::lexical::has_control;

/// Judges the options of a pod or container; done on every node, with SELinux or without.
///
/// # Errors
/// `InvalidArgument` on a level outside the grammar `s0[-s1][:c0[.c1][,c2...]]`, or a part that is no word.
pub fn check(options: &SelinuxOptions) -> Result<()> {
    let words = [&options.user, &options.role, &options.selinux_type];
    for word in words {
        if has_control(word) || word.contains([':', ' ', '"', ',']) {
            return Err(Error::invalid(format!(
                "SELinux: {word:?} is no user, role or type"
            )));
        }
    }
    if options.level.is_empty() || is_level(&options.level) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "SELinux level {:?}: want s0[-s1][:c0[.c1][,c2...]]",
        options.level
    )))
}

/// `label` (`user:role:type:level`, from policy) with the parts that `options` names.
///
/// # Errors
/// As [`check`]; `Internal` where the label has not its four parts.
pub fn apply(label: &str, options: &SelinuxOptions) -> Result<String> {
    check(options)?;
    let mut parts = label.splitn(4, ':');
    let (Some(user), Some(role), Some(kind), Some(level)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Error::internal(format!(
            "SELinux label {label:?}: want user:role:type:level"
        )));
    };
    let pick = |asked: &String, given: &str| {
        if asked.is_empty() {
            given.to_owned()
        } else {
            asked.clone()
        }
    };
    Ok([
        pick(&options.user, user),
        pick(&options.role, role),
        pick(&options.selinux_type, kind),
        pick(&options.level, level),
    ]
    .join(":"))
}

/// The labels of a pod or container: the policy's with the level of its pod, and what `options` ask for over both. Files
/// share user and level with the processes that may use them. A virtual machine's process is of the policy's type for
/// those, whatever is asked.
///
/// # Errors
/// As [`apply`].
pub fn labels(
    contexts: &SelinuxContexts,
    options: Option<&SelinuxOptions>,
    level_of_pod: &str,
    in_vm: bool,
) -> Result<SelinuxLabels> {
    let mut asked = options.cloned().unwrap_or_default();
    if asked.level.is_empty() {
        asked.level = level_of_pod.to_owned();
    }
    let of_file = SelinuxOptions {
        user: asked.user.clone(),
        level: asked.level.clone(),
        ..SelinuxOptions::default()
    };
    let vm_type = contexts.vm_process.as_deref().filter(|_| in_vm);
    if let Some(kind) = vm_type.and_then(|label| label.split(':').nth(2)) {
        asked.selinux_type = kind.to_owned();
    }
    Ok(SelinuxLabels {
        process: apply(&contexts.process, &asked)?,
        mount: apply(&contexts.file, &of_file)?,
    })
}

/// The label that `spec`, an OCI spec in JSON, gives files which the container alone uses. Costs a search where there is
/// none.
pub fn mount_label(spec: &str) -> Option<String> {
    if !spec.contains("\"mountLabel\"") {
        return None;
    }
    let spec = super::decode_spec(spec).ok()?;
    spec.linux().as_ref()?.mount_label().clone()
}

/// The level of a label.
pub fn level_of(label: &str) -> Option<&str> {
    label.splitn(4, ':').nth(3)
}

fn is_level(text: &str) -> bool {
    let (sensitivities, categories) = match text.split_once(':') {
        Some((sensitivities, categories)) => (sensitivities, Some(categories)),
        None => (text, None),
    };
    let is_sensitivity = |part: &str| is_numbered(part, 's', 1);
    let is_category = |part: &str| match part.split_once('.') {
        Some((first, last)) => is_numbered(first, 'c', 4) && is_numbered(last, 'c', 4),
        None => is_numbered(part, 'c', 4),
    };
    let sensitive = match sensitivities.split_once('-') {
        Some((low, high)) => is_sensitivity(low) && is_sensitivity(high),
        None => is_sensitivity(sensitivities),
    };
    sensitive && categories.is_none_or(|list| list.split(',').all(is_category))
}

fn is_numbered(text: &str, letter: char, most: usize) -> bool {
    text.strip_prefix(letter).is_some_and(|digits| {
        (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(level: &str) -> SelinuxOptions {
        SelinuxOptions {
            level: level.into(),
            ..SelinuxOptions::default()
        }
    }

    fn contexts() -> SelinuxContexts {
        let text = "process = \"system_u:system_r:container_t:s0\"\n\
                    content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
                    file = \"system_u:object_r:container_file_t:s0\"\n\
                    ro_file=\"system_u:object_r:container_ro_file_t:s0\"\n\
                    sandbox_kvm_process = \"system_u:system_r:svirt_qemu_net_t:s0\"\n";
        SelinuxContexts::parse(text).unwrap()
    }

    #[test]
    fn a_container_has_its_pods_level_and_what_it_asks_for() {
        let plain = labels(&contexts(), None, "s0:c1,c2", false).unwrap();
        assert_eq!(plain.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(plain.mount, "system_u:object_r:container_file_t:s0:c1,c2");
        let asked = SelinuxOptions {
            user: "staff_u".into(),
            role: "staff_r".into(),
            selinux_type: "svirt_lxc_net_t".into(),
            level: "s0:c4,c5".into(),
        };
        let asked = labels(&contexts(), Some(&asked), "s0:c1,c2", false).unwrap();
        assert_eq!(asked.process, "staff_u:staff_r:svirt_lxc_net_t:s0:c4,c5");
        assert_eq!(asked.mount, "staff_u:object_r:container_file_t:s0:c4,c5");
        assert_eq!(level_of(&asked.mount), Some("s0:c4,c5"));
    }

    #[test]
    fn a_virtual_machine_has_the_type_for_those() {
        let labels = labels(&contexts(), None, "s0:c1,c2", true).unwrap();
        assert_eq!(
            labels.process,
            "system_u:system_r:svirt_qemu_net_t:s0:c1,c2"
        );
    }

    #[test]
    fn a_policy_without_containers_has_no_contexts_for_them() {
        assert_eq!(SelinuxContexts::parse("process = \"a:b:c:s0\"\n"), None);
        assert_eq!(SelinuxContexts::parse("file = none\nprocess = none"), None);
    }

    #[test]
    fn levels_follow_their_grammar() {
        for good in [
            "",
            "s0",
            "s0-s1",
            "s0:c1",
            "s0:c1,c2",
            "s0:c0.c1023",
            "s0-s0:c1.c2,c3",
        ] {
            assert!(check(&level(good)).is_ok(), "{good}");
        }
        for bad in [
            "s",
            "s10",
            "wrong",
            "s0:",
            "s0:c",
            "s0:c12345",
            "s0:c1,",
            "s0:c1;c2",
            "s0:c1.c2.c3",
            "s0-",
            "s0\n",
        ] {
            assert!(check(&level(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_replace_the_parts_they_name() {
        let base = "system_u:system_r:container_t:s0:c1,c2";
        let options = SelinuxOptions {
            selinux_type: "spc_t".into(),
            level: "s0:c7".into(),
            ..SelinuxOptions::default()
        };

        assert_eq!(
            apply(base, &options).unwrap(),
            "system_u:system_r:spc_t:s0:c7"
        );
        assert_eq!(apply(base, &SelinuxOptions::default()).unwrap(), base);
        assert!(apply("x:y", &options).is_err());
        let injected = SelinuxOptions {
            selinux_type: "a:b".into(),
            ..SelinuxOptions::default()
        };
        assert!(check(&injected).is_err());
    }
}
