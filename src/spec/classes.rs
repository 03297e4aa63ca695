//! Block I/O and cache classes that annotations name (contract: pods 3.7). This node defines none, and a container
//! that asks for one must not run without it.

use crate::model::{Error, Result};

use super::input::ContainerInput;

/// Kind of class, key on the container, prefix of the keys on the pod.
const KINDS: [(&str, &str, &str); 2] = [
    (
        "block I/O",
        "io.kubernetes.cri.blockio-class",
        "blockio.resources.beta.kubernetes.io",
    ),
    (
        "cache (RDT)",
        "io.kubernetes.cri.rdt-class",
        "rdt.resources.beta.kubernetes.io",
    ),
];

/// # Errors
/// `FailedPrecondition` where an annotation names a class for this container.
pub(super) fn refuse(input: &ContainerInput<'_>) -> Result<()> {
    let name = &input.config.identity.name;
    for (kind, key, prefix) in KINDS {
        let of_pod = |suffix: &str| input.pod.annotations.get(&format!("{prefix}/{suffix}"));
        let class = input
            .config
            .annotations
            .get(key)
            .or_else(|| of_pod(&format!("container.{name}")))
            .or_else(|| of_pod("pod"));
        if let Some(class) = class.filter(|class| !class.is_empty()) {
            return Err(Error::precondition(format!(
                "{kind} class {class:?} of an annotation: this node has no such classes; remove the annotation"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Case;

    #[test]
    fn a_named_class_is_refused_wherever_it_stands() {
        for (on_pod, key) in [
            (false, "io.kubernetes.cri.blockio-class"),
            (false, "io.kubernetes.cri.rdt-class"),
            (true, "blockio.resources.beta.kubernetes.io/container.web"),
            (true, "rdt.resources.beta.kubernetes.io/pod"),
        ] {
            let mut case = Case::default();
            let annotations = if on_pod {
                &mut case.pod.annotations
            } else {
                &mut case.config.annotations
            };
            annotations.insert(key.into(), "gold".into());
            assert!(case.spec().is_err(), "{key}");
        }
    }

    #[test]
    fn a_class_of_another_container_is_none_of_ours() {
        let mut case = Case::default();
        let key = "rdt.resources.beta.kubernetes.io/container.other";
        case.pod.annotations.insert(key.into(), "gold".into());

        assert!(case.spec().is_ok());
    }
}
