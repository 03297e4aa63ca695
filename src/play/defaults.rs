//! A pod with Kubernetes' defaults filled in and its rules checked: what the rest of this room works from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use sha2::{Digest as _, Sha256};

use super::manifest::DEFAULT_NAMESPACE;
use crate::model::{Error, Result};

/// Seconds between the stop signal and the kill, where the manifest says nothing.
const DEFAULT_GRACE_S: i64 = 30;

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the others until they ended.
    Sidecar,
    /// An ordinary container.
    App,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// One container of a pod.
#[derive(Clone, Debug)]
pub(super) struct ContainerPlan {
    /// What it is for.
    pub(super) role: Role,
    /// When its image is pulled.
    pub(super) pull: PullPolicy,
    /// Its image; never empty.
    pub(super) image: String,
    /// The manifest's own words.
    pub(super) spec: Container,
}

/// A pod that may be run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) k8s_namespace: String,
    pub(super) uid: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) restart: RestartPolicy,
    /// Seconds between the stop signal and the kill.
    pub(super) grace_s: i64,
    /// Init containers and sidecars in their order, then the ordinary ones.
    pub(super) containers: Vec<ContainerPlan>,
    /// The manifest's own words.
    pub(super) spec: PodSpec,
}

impl Plan {
    /// Fills in what the manifest leaves open.
    ///
    /// # Errors
    /// `InvalidArgument` for a manifest that Kubernetes would refuse as well, and for a mounted volume of a kind that
    /// `play` lacks.
    pub(super) fn of(pod: Pod) -> Result<Self> {
        let name = pod.metadata.name.unwrap_or_default();
        let k8s_namespace = pod
            .metadata
            .namespace
            .unwrap_or_else(|| DEFAULT_NAMESPACE.into());
        is_name("metadata.name", &name, 253)?;
        is_name("metadata.namespace", &k8s_namespace, 63)?;
        let uid = pod
            .metadata
            .uid
            .unwrap_or_else(|| derived_uid(&k8s_namespace, &name));
        is_name("metadata.uid", &uid, 64)?;
        let spec = pod.spec.unwrap_or_default();
        let restart = match spec.restart_policy.as_deref() {
            None | Some("Always") => RestartPolicy::Always,
            Some("OnFailure") => RestartPolicy::OnFailure,
            Some("Never") => RestartPolicy::Never,
            Some(other) => return Err(word("spec.restartPolicy", other)),
        };
        if spec.containers.is_empty() {
            return Err(Error::invalid(format!("pod {name}: it has no containers")));
        }
        let volumes = checked_volumes(&spec)?;
        let mut containers = Vec::new();
        for container in spec.init_containers.iter().flatten() {
            containers.push(plan_container(container, true, &volumes)?);
        }
        for container in &spec.containers {
            containers.push(plan_container(container, false, &volumes)?);
        }
        let mut seen = BTreeSet::new();
        for container in &containers {
            if !seen.insert(&container.spec.name) {
                return Err(Error::invalid(format!(
                    "pod {name}: two containers are named {}",
                    container.spec.name
                )));
            }
        }
        Ok(Self {
            labels: pod.metadata.labels.unwrap_or_default(),
            annotations: pod.metadata.annotations.unwrap_or_default(),
            grace_s: spec
                .termination_grace_period_seconds
                .unwrap_or(DEFAULT_GRACE_S)
                .max(0),
            name,
            k8s_namespace,
            uid,
            restart,
            containers,
            spec,
        })
    }

    /// How people name the pod.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.k8s_namespace, self.name)
    }

    /// The volume `name`.
    pub(super) fn volume(&self, name: &str) -> Option<&Volume> {
        self.spec
            .volumes
            .iter()
            .flatten()
            .find(|volume| volume.name == name)
    }
}

fn plan_container(
    spec: &Container,
    init: bool,
    volumes: &BTreeSet<String>,
) -> Result<ContainerPlan> {
    let name = &spec.name;
    is_name("container name", name, 63)?;
    let role = match (init, spec.restart_policy.as_deref()) {
        (true, Some("Always")) => Role::Sidecar,
        (true, None) => Role::Init,
        (false, None) => Role::App,
        (_, Some(_)) => {
            return Err(Error::invalid(format!(
                "container {name}: restartPolicy may only be set on an init container, to Always"
            )));
        }
    };
    let image = spec.image.clone().unwrap_or_default();
    if image.trim().is_empty() {
        return Err(Error::invalid(format!("container {name}: it has no image")));
    }
    let pull = match spec.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        Some("Never") => PullPolicy::Never,
        None if names_latest(&image) => PullPolicy::Always,
        None => PullPolicy::IfNotPresent,
        Some(other) => return Err(word("imagePullPolicy", other)),
    };
    for mount in spec.volume_mounts.iter().flatten() {
        if !volumes.contains(&mount.name) {
            return Err(Error::invalid(format!(
                "container {name}: it mounts the volume {}, which the pod does not declare as emptyDir, hostPath or configMap",
                mount.name
            )));
        }
        if mount.mount_path.is_empty() || mount.mount_path.contains(':') {
            return Err(Error::invalid(format!(
                "container {name}: the mount of volume {} has no usable mountPath",
                mount.name
            )));
        }
    }
    Ok(ContainerPlan {
        role,
        pull,
        image,
        spec: spec.clone(),
    })
}

/// The names of the volumes that can be provided.
fn checked_volumes(spec: &PodSpec) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for volume in spec.volumes.iter().flatten() {
        is_name("volume name", &volume.name, 63)?;
        let sources = [
            volume.empty_dir.is_some(),
            volume.host_path.is_some(),
            volume.config_map.is_some(),
        ];
        if sources.into_iter().any(|given| given) && !names.insert(volume.name.clone()) {
            return Err(Error::invalid(format!(
                "two volumes are named {}",
                volume.name
            )));
        }
    }
    Ok(names)
}

/// Whether `image` means the tag `latest`, by name or because it names neither tag nor digest.
fn names_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

/// Names become labels and file names: letters, digits, `-` and `.`, as Kubernetes has it.
fn is_name(what: &str, name: &str, longest: usize) -> Result<()> {
    let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let edges = [name.bytes().next(), name.bytes().next_back()];
    let ends_well = edges
        .into_iter()
        .all(|byte| byte.is_some_and(|byte| byte.is_ascii_alphanumeric()));
    if !name.is_empty() && name.len() <= longest && name.bytes().all(inside) && ends_well {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} {name:?}: want at most {longest} of a-z, 0-9, - and ., beginning and ending with a letter or digit"
    )))
}

fn word(field: &str, value: &str) -> Error {
    Error::invalid(format!("{field}: {value:?} is none of Kubernetes' values"))
}

/// The uid of a pod that brings none: the same for the same namespace and name, so that a later call finds it.
fn derived_uid(k8s_namespace: &str, name: &str) -> String {
    let digest = Sha256::digest(format!("podwright-play/{k8s_namespace}/{name}"));
    let mut uid = String::new();
    for (index, byte) in digest.iter().take(16).enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            uid.push('-');
        }
        // Writing to a String cannot fail.
        if write!(uid, "{byte:02x}").is_err() {
            break;
        }
    }
    uid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::testing::plan;

    #[test]
    fn images_without_a_tag_or_with_latest_are_always_pulled() {
        for image in ["nginx", "nginx:latest", "localhost:5000/nginx"] {
            assert!(names_latest(image), "{image}");
        }
        for image in ["nginx:1", "localhost:5000/nginx:1", "nginx@sha256:00"] {
            assert!(!names_latest(image), "{image}");
        }
    }

    #[test]
    fn roles_follow_the_list_and_the_restart_policy() {
        let plan = plan(
            "initContainers: [{name: a, image: i:1}, {name: b, image: i:1, restartPolicy: Always}]
containers: [{name: c, image: i}]",
        );

        let roles: Vec<_> = plan.containers.iter().map(|c| (c.role, c.pull)).collect();
        assert_eq!(
            roles,
            [
                (Role::Init, PullPolicy::IfNotPresent),
                (Role::Sidecar, PullPolicy::IfNotPresent),
                (Role::App, PullPolicy::Always),
            ]
        );
        assert_eq!(plan.uid, derived_uid("default", "web"));
        assert_eq!(plan.uid.len(), 36);
    }

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for name in ["", "..", "a/b", "-a", "A"] {
            assert!(is_name("name", name, 63).is_err(), "{name}");
        }
    }
}
