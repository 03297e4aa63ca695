//! The node's own rules about what plugins may do.

use super::messages::api::{self, Field, ProfileType};
use super::owners::Owners;
use crate::config::settings::Validator;
use crate::model::{Error, Result};

/// Names further plugins that a pod or container cannot do without.
const REQUIRED: &str = "required-plugins.noderesource.dev";

/// Whether `rules` allow what `request` says.
///
/// # Errors
/// `FailedPrecondition` naming the rule and the plugin.
pub(super) fn by_rules(
    rules: &Validator,
    request: &api::ValidateContainerAdjustmentRequest,
    owners: &Owners,
) -> Result<()> {
    let container = request.container.clone().unwrap_or_default();
    let id = container.id.as_str();
    let refuse = |what: &str, owner: &str| {
        Err(Error::precondition(format!(
            "NRI: nri.default_validator does not allow plugin {owner:?} {what}"
        )))
    };
    if rules.reject_hooks
        && let Some(owner) = owners.simple(id, Field::OciHooks)
    {
        return refuse("to add OCI hooks", owner);
    }
    if let Some(owner) = owners.simple(id, Field::SeccompPolicy) {
        let profile = container
            .linux
            .as_ref()
            .and_then(|linux| linux.seccomp_profile.clone())
            .unwrap_or_default();
        let (is_refused, what) = match profile.profile_type() {
            ProfileType::RuntimeDefault => (
                rules.reject_seccomp_default,
                "to replace the default seccomp profile",
            ),
            ProfileType::Unconfined => (
                rules.reject_seccomp_unconfined,
                "to give a seccomp filter to an unconfined container",
            ),
            ProfileType::Localhost => (
                rules.reject_seccomp_custom,
                "to replace a seccomp profile of the node's",
            ),
        };
        if is_refused {
            return refuse(what, owner);
        }
    }
    let entries = [
        (
            rules.reject_namespaces,
            Field::Namespace,
            "to change namespaces",
        ),
        (
            rules.reject_sysctls,
            Field::Sysctl,
            "to set kernel parameters",
        ),
    ];
    for (is_refused, field, what) in entries {
        let first = owners
            .entries(id, field)
            .and_then(|entries| entries.values().next());
        if let Some(owner) = first.filter(|_| is_refused) {
            return refuse(what, owner);
        }
    }
    required(rules, request, &container)
}

fn required(
    rules: &Validator,
    request: &api::ValidateContainerAdjustmentRequest,
    container: &api::Container,
) -> Result<()> {
    let annotation = |key: &str| annotated(request, container, key);
    let tolerated = rules
        .tolerate_missing_annotation
        .as_deref()
        .and_then(annotation);
    if tolerated.is_some_and(|value| matches!(value.trim(), "true" | "True" | "TRUE" | "1" | "t")) {
        return Ok(());
    }
    let asked = annotation(REQUIRED).map(listed).unwrap_or_default();
    for name in rules.required_plugins.iter().chain(&asked) {
        if !request.plugins.iter().any(|plugin| plugin.name == *name) {
            return Err(Error::precondition(format!(
                "NRI: plugin {name:?} is required and not connected; start it, or see nri.default_validator.required_plugins"
            )));
        }
    }
    Ok(())
}

/// An annotation of the pod, the one for this container first.
fn annotated<'a>(
    request: &'a api::ValidateContainerAdjustmentRequest,
    container: &'a api::Container,
    key: &str,
) -> Option<&'a str> {
    let pod = &request.pod.as_ref()?.annotations;
    pod.get(&format!("{key}/container.{}", container.name))
        .or_else(|| container.annotations.get(key))
        .or_else(|| pod.get(&format!("{key}/pod")))
        .or_else(|| pod.get(key))
        .map(String::as_str)
}

/// The names in a YAML list, in either notation, or separated by commas.
fn listed(text: &str) -> Vec<String> {
    text.trim()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .split([',', '\n'])
        .map(|name| name.trim().trim_start_matches("- "))
        .map(|name| name.trim_matches(['"', '\'', ' ']).to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(plugins: &[&str]) -> api::ValidateContainerAdjustmentRequest {
        api::ValidateContainerAdjustmentRequest {
            pod: Some(api::PodSandbox::default()),
            container: Some(api::Container {
                id: "c".to_owned(),
                name: "web".to_owned(),
                linux: Some(api::LinuxContainer {
                    seccomp_profile: Some(api::SecurityProfile {
                        profile_type: ProfileType::Localhost.into(),
                        localhost_ref: "/p".to_owned(),
                    }),
                    ..api::LinuxContainer::default()
                }),
                ..api::Container::default()
            }),
            plugins: plugins
                .iter()
                .map(|name| api::PluginInstance {
                    name: (*name).to_owned(),
                    index: "10".to_owned(),
                })
                .collect(),
            ..api::ValidateContainerAdjustmentRequest::default()
        }
    }

    #[test]
    fn each_rule_refuses_its_own_kind_and_nothing_else() {
        type Claim = fn(&mut Owners) -> Result<()>;
        type Rule = fn(&mut Validator);
        let cases: [(Claim, Rule); 4] = [
            (
                |owners| {
                    owners.join("c", Field::OciHooks, "10-a");
                    Ok(())
                },
                |rules| rules.reject_hooks = true,
            ),
            (
                |owners| owners.claim("c", Field::SeccompPolicy, "10-a"),
                |rules| rules.reject_seccomp_custom = true,
            ),
            (
                |owners| owners.claim_entry("c", Field::Namespace, "uts", "10-a"),
                |rules| rules.reject_namespaces = true,
            ),
            (
                |owners| owners.claim_entry("c", Field::Sysctl, "kernel.x", "10-a"),
                |rules| rules.reject_sysctls = true,
            ),
        ];
        for (number, (claim, rule)) in cases.iter().enumerate() {
            let mut owners = Owners::default();
            claim(&mut owners).unwrap();
            for (other, (_, asked)) in cases.iter().enumerate() {
                let mut rules = Validator::default();
                asked(&mut rules);
                let judged = by_rules(&rules, &request(&[]), &owners);
                assert_eq!(judged.is_err(), other == number, "{number} {other}");
            }
            let mut rules = Validator::default();
            rule(&mut rules);
            assert!(by_rules(&rules, &request(&[]), &Owners::default()).is_ok());
        }
    }

    #[test]
    fn required_plugins_must_be_there_unless_an_annotation_says_otherwise() {
        let rules = Validator {
            required_plugins: vec!["topology".to_owned()],
            tolerate_missing_annotation: Some("tolerate".to_owned()),
            ..Validator::default()
        };
        let judge = |request: &_| by_rules(&rules, request, &Owners::default()).is_ok();

        assert!(!judge(&request(&["other"])));
        assert!(judge(&request(&["other", "topology"])));
        let mut annotated = request(&["topology"]);
        let pod = annotated.pod.as_mut().unwrap();
        pod.annotations
            .insert(format!("{REQUIRED}/container.web"), "[a, \"b\"]".to_owned());
        assert!(!judge(&annotated));
        let pod = annotated.pod.as_mut().unwrap();
        pod.annotations
            .insert("tolerate".to_owned(), "true".to_owned());
        assert!(judge(&annotated));
    }

    #[test]
    fn lists_are_read_in_each_notation() {
        for text in ["[a, b]", "a,b", "- a\n- 'b'\n", "[\"a\",\"b\"]"] {
            assert_eq!(listed(text), ["a", "b"], "{text}");
        }
    }
}
