//! Annotations of specs: ours, which tools and VM runtimes read, and those that an operator lets through
//! (contract: pods 8.4).

use std::collections::{BTreeMap, HashMap};

use super::input::{ContainerInput, PauseInput, PauseProgram};
use crate::model::PodConfig;

/// Key under which the kind of a container stands.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// Key of the sandbox id, by which shims group containers.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// Prefixes of keys that steer the OCI runtime, systemd or us. A pattern reaches them only where it spells the whole
/// prefix: no wildcard of an operator was meant to hand these to tenants.
const STEERING: [&str; 8] = [
    "org.systemd.property.",
    "org.criu.",
    "run.oci.",
    "cdi.k8s.io/",
    "io.containerd.",
    "io.kubernetes.cri.",
    "io.kubernetes.cri-o.",
    "io.katacontainers.config.hypervisor.path",
];

/// The annotations of a pause container's spec.
pub(super) fn pause(input: &PauseInput<'_>) -> HashMap<String, String> {
    let pod = input.config;
    let mut all = pass(&pod.annotations, &input.options.pod_annotations);
    put_pod(&mut all, pod, input.id.as_str());
    put(&mut all, CONTAINER_TYPE, "sandbox");
    put(
        &mut all,
        "io.kubernetes.cri.sandbox-log-directory",
        &pod.log_directory,
    );
    if let PauseProgram::Image { name, .. } = input.program {
        put(&mut all, "io.kubernetes.cri.podsandbox.image-name", name);
    }
    if let Some(sums) = &pod.resources {
        let numbers = [
            ("cpu-period", sums.cpu_period.unwrap_or(0).to_string()),
            ("cpu-quota", sums.cpu_quota.unwrap_or(0).to_string()),
            ("cpu-shares", sums.cpu_shares.unwrap_or(0).to_string()),
            ("memory", sums.memory_limit.unwrap_or(0).to_string()),
        ];
        for (name, value) in numbers {
            all.insert(format!("io.kubernetes.cri.sandbox-{name}"), value);
        }
    }
    all
}

/// The annotations of a workload container's spec.
pub(super) fn container(input: &ContainerInput<'_>) -> HashMap<String, String> {
    let mut all = pass(&input.pod.annotations, &input.options.pod_annotations);
    all.extend(pass(
        &input.config.annotations,
        &input.options.container_annotations,
    ));
    put_pod(&mut all, input.pod, input.sandbox_id.as_str());
    put(&mut all, CONTAINER_TYPE, "container");
    put(
        &mut all,
        "io.kubernetes.cri.container-name",
        &input.config.identity.name,
    );
    let image = if input.config.user_specified_image.is_empty() {
        input.image_name
    } else {
        &input.config.user_specified_image
    };
    put(&mut all, "io.kubernetes.cri.image-name", image);
    all
}

fn put_pod(all: &mut HashMap<String, String>, pod: &PodConfig, sandbox_id: &str) {
    put(all, SANDBOX_ID, sandbox_id);
    put(all, "io.kubernetes.cri.sandbox-name", &pod.identity.name);
    put(
        all,
        "io.kubernetes.cri.sandbox-namespace",
        &pod.identity.k8s_namespace,
    );
    put(all, "io.kubernetes.cri.sandbox-uid", &pod.identity.uid);
}

fn put(all: &mut HashMap<String, String>, key: &str, value: &str) {
    all.insert(key.to_owned(), value.to_owned());
}

fn pass(annotations: &BTreeMap<String, String>, patterns: &[String]) -> HashMap<String, String> {
    let admitted = annotations
        .iter()
        .filter(|(key, _)| patterns.iter().any(|pattern| admits(pattern, key)));
    admitted
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn admits(pattern: &str, key: &str) -> bool {
    let steering = STEERING.iter().find(|prefix| key.starts_with(**prefix));
    if steering.is_some_and(|prefix| !pattern.starts_with(prefix)) {
        return false;
    }
    shell_match(pattern, key)
}

/// Whether the shell pattern `pattern` means `text`; its `*` and `?` do not cross `/`.
pub fn shell_match(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    matches(&pattern, &text)
}

/// Shell-style match: `*` and `?` do not cross `/`, `[a-z]` and `[^a-z]` are classes, `\` takes the next character as
/// it is. A malformed pattern matches nothing.
fn matches(pattern: &[char], text: &[char]) -> bool {
    // Where the latest `*` stands and how much of the text it took: going back there once is enough.
    let mut star: Option<(&[char], &[char])> = None;
    let (mut pattern, mut text) = (pattern, text);
    loop {
        let step = match (pattern, text) {
            ([], []) => return true,
            (['*', rest @ ..], _) => {
                star = Some((rest, text));
                Some((rest, text))
            }
            (['?', rest @ ..], [first, tail @ ..]) if *first != '/' => Some((rest, tail)),
            (['[', class @ ..], [first, tail @ ..]) => match class_match(class, *first) {
                Some((true, rest)) => Some((rest, tail)),
                Some((false, _)) => None,
                None => return false,
            },
            (['\\', literal, rest @ ..], [first, tail @ ..]) if literal == first => {
                Some((rest, tail))
            }
            ([literal, rest @ ..], [first, tail @ ..])
                if literal == first && !matches!(literal, '?' | '\\') =>
            {
                Some((rest, tail))
            }
            _ => None,
        };
        (pattern, text) = match (step, star) {
            (Some(next), _) => next,
            (None, Some((rest, [taken, tail @ ..]))) if *taken != '/' => {
                star = Some((rest, tail));
                (rest, tail)
            }
            (None, _) => return false,
        };
    }
}

/// Matches the inside of a class, up to and with its `]`; `None` where there is no end to it.
fn class_match(class: &[char], wanted: char) -> Option<(bool, &[char])> {
    let (negated, mut rest) = match class {
        ['^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut hit = false;
    let mut is_first = true;
    loop {
        match rest {
            [']', tail @ ..] if !is_first => {
                return Some((hit != negated && wanted != '/', tail));
            }
            [low, '-', high, tail @ ..] if *high != ']' => {
                hit |= (*low..=*high).contains(&wanted);
                rest = tail;
            }
            ['\\', one, tail @ ..] | [one, tail @ ..] => {
                hit |= *one == wanted;
                rest = tail;
            }
            [] => return None,
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_do_not_cross_slashes() {
        for (pattern, key, want) in [
            ("a.b/c", "a.b/c", true),
            ("a.*", "a.b.c", true),
            ("a.*", "a.b/c", false),
            ("a.*/*", "a.b/c", true),
            ("*", "x", true),
            ("*", "", true),
            ("*b*d", "abcbd", true),
            ("?[a-c]x", "zbx", true),
            ("?[^a-c]x", "zbx", false),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", false),
            ("", "a", false),
            ("a/?", "a//", false),
        ] {
            assert_eq!(admits(pattern, key), want, "{pattern} {key}");
        }
    }

    #[test]
    fn steering_keys_pass_only_where_the_pattern_spells_their_prefix() {
        for key in [
            "org.systemd.property.ExecStopPost",
            "run.oci.handler",
            "io.kubernetes.cri-o.Devices",
            "io.kubernetes.cri.container-type",
            "io.containerd.x",
            "org.criu.config",
            "cdi.k8s.io/x",
            "io.katacontainers.config.hypervisor.path",
        ] {
            for wide in [
                "*", "*/*", "*.*", "[a-z]*", "org.*", "run.*", "io.*", "cdi*/*",
            ] {
                assert!(!admits(wide, key), "{wide} {key}");
            }
            assert!(admits(key, key), "{key}");
        }
        assert!(admits(
            "org.systemd.property.Timeout*",
            "org.systemd.property.TimeoutStopUSec"
        ));
        assert!(admits(
            "io.katacontainers.*",
            "io.katacontainers.config.hypervisor.default_vcpus"
        ));
    }

    #[test]
    fn matching_a_long_key_against_many_stars_ends_soon() {
        let pattern = "*a".repeat(40) + "b";
        let key = "a".repeat(4_000);

        assert!(!admits(&pattern, &key));
    }
}
