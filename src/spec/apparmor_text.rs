//! The text of the built-in AppArmor profile (contract: pods 3.7). It allows everything and takes away what reaches the
//! node: most of /proc and /sys, mounts, signals to strangers.

use crate::model::host_facts::ApparmorFacts;
use crate::model::{Error, Result};

/// What nobody may write in /proc: its top, everything below directories that are no process and not `sys`, and of
/// `sys` all but the IPC limits `kernel/shm*`.
const PROC_NOT_WRITTEN: [&str; 4] = [
    "*",
    "{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/**",
    "sys/[^k]**",
    "sys/kernel/{?,??,[^s][^h][^m]**}",
];
const NOT_USED: [&str; 5] = [
    "@{PROC}/sysrq-trigger",
    "@{PROC}/kcore",
    "/sys/firmware/**",
    "/sys/devices/virtual/powercap/**",
    "/sys/kernel/security/**",
];
/// All of /sys but what begins with `/sys/fs/cgr`.
const SYS_READ_ONLY: [&str; 5] = [
    "/sys/[^f]*/**",
    "/sys/f[^s]*/**",
    "/sys/fs/[^c]*/**",
    "/sys/fs/c[^g]*/**",
    "/sys/fs/cg[^r]*/**",
];

/// The text of the built-in profile under `name`.
///
/// # Errors
/// `Internal` where a name of the node would not be one word of the profile's language.
pub fn default_profile(name: &str, facts: &ApparmorFacts) -> Result<String> {
    let containerd = match facts.containerd_profile.as_str() {
        "" => "unconfined",
        profile => profile,
    };
    let mut signallers = vec!["unconfined", "runc", "crun"];
    if !signallers.contains(&containerd) {
        signallers.push(containerd);
    }
    signallers.extend(facts.rootlesskit.as_deref());
    for word in signallers.iter().chain([&name]) {
        check_word(word)?;
    }

    let mut text = String::new();
    if facts.has_abi_3 {
        text.push_str("abi <abi/3.0>,\n");
    }
    text.push_str(if facts.has_tunables {
        "#include <tunables/global>\n"
    } else {
        "@{PROC}=/proc/\n"
    });
    text.push_str(&format!(
        "\nprofile {name} flags=(attach_disconnected,mediate_deleted) {{\n"
    ));
    for rule in rules(name, &signallers, facts.has_base) {
        text.push_str(&format!("  {rule}\n"));
    }
    text.push_str("}\n");
    Ok(text)
}

fn rules(name: &str, signallers: &[&str], has_base: bool) -> Vec<String> {
    let mut rules = Vec::new();
    if has_base {
        rules.push("#include <abstractions/base>".to_owned());
    }
    rules.extend(["network,", "capability,", "file,", "umount,"].map(String::from));
    for peer in signallers {
        rules.push(format!("signal (receive) peer={peer},"));
    }
    rules.push(format!("signal (send,receive) peer={name},"));
    rules.push(format!("ptrace (trace,tracedby,read,readby) peer={name},"));
    for path in PROC_NOT_WRITTEN {
        rules.push(format!("deny @{{PROC}}/{path} w,"));
    }
    for path in NOT_USED {
        rules.push(format!("deny {path} rwklx,"));
    }
    for path in SYS_READ_ONLY {
        rules.push(format!("deny {path} wklx,"));
    }
    rules.push("deny mount,".to_owned());
    rules
}

fn check_word(word: &str) -> Result<()> {
    let is_word = !word.is_empty()
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-+:@".contains(&b));
    if is_word {
        return Ok(());
    }
    Err(Error::internal(format!(
        "AppArmor profile: {word:?} cannot stand in its text"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_of_a_full_node() {
        let facts = ApparmorFacts {
            has_abi_3: true,
            has_tunables: true,
            has_base: true,
            containerd_profile: "/usr/bin/containerd".into(),
            rootlesskit: Some("/usr/bin/rootlesskit".into()),
        };

        insta::assert_snapshot!(default_profile("cri-containerd.apparmor.d", &facts).unwrap());
    }

    #[test]
    fn a_bare_node_needs_no_include() {
        let text = default_profile("x", &ApparmorFacts::default()).unwrap();

        assert!(text.starts_with("@{PROC}=/proc/\n"));
        assert!(!text.contains("#include") && !text.contains("abi <"));
        assert_eq!(text.matches("peer=unconfined").count(), 1);
    }

    #[test]
    fn names_that_could_be_rules_are_refused() {
        for bad in ["a b", "a,", "a{", "a\n", "\"a\"", "a)"] {
            let facts = ApparmorFacts {
                containerd_profile: bad.into(),
                ..ApparmorFacts::default()
            };
            assert!(default_profile("x", &facts).is_err(), "{bad:?}");
        }
        assert!(default_profile("", &ApparmorFacts::default()).is_err());
    }
}
