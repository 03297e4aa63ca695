//! A container's part of a manifest to the CRI's container configuration: a pure function.

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::defaults::{ContainerPlan, Plan};
use super::dirs::{Dirs, log_path, text};
use super::env::Variables;
use super::security::{self, ImageUser};
use super::users;
use super::{pod, resources};
use crate::model::Result;
use crate::wire::cri;

/// The label that tells a pod's containers apart.
pub(super) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The annotation that tells whether a container was made from another manifest.
pub(super) const HASH: &str = "io.kubernetes.container.hash";

/// What of a container's configuration does not stand in the manifest.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// How often the container was made before.
    pub(super) attempt: u32,
    /// The image as the runtime names it.
    pub(super) image_ref: &'a str,
    /// The user that the image names.
    pub(super) user: &'a ImageUser,
    /// The environment, values resolved.
    pub(super) variables: &'a Variables,
    /// The volumes' mounts, the hosts file and the termination message among them.
    pub(super) mounts: Vec<cri::Mount>,
    /// Bytes of memory that the machine has.
    pub(super) memory_total: i64,
}

/// The configuration of `container`.
///
/// # Errors
/// `InvalidArgument` for words and quantities that are none, `FailedPrecondition` where the manifest forbids the
/// image's user.
pub(super) fn container_config(
    plan: &Plan,
    container: &ContainerPlan,
    found: Found<'_>,
    dirs: &Dirs,
) -> Result<cri::ContainerConfig> {
    let spec = &container.spec;
    let expand = |words: &Option<Vec<String>>| {
        let words = words.iter().flatten();
        words.map(|word| found.variables.expand(word)).collect()
    };
    let asks = plan
        .containers
        .iter()
        .map(|container| container.spec.resources.as_ref());
    let quality = resources::quality(asks)?;
    let mut mounts = found.mounts;
    users::map(plan, &mut mounts);
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: spec.name.clone(),
            attempt: found.attempt,
        }),
        image: Some(cri::ImageSpec {
            image: found.image_ref.to_owned(),
            user_specified_image: container.image.clone(),
            ..Default::default()
        }),
        command: expand(&spec.command),
        args: expand(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        envs: found
            .variables
            .iter()
            .map(|(name, value)| cri::KeyValue {
                key: name.into(),
                value: value.into(),
            })
            .collect(),
        mounts,
        labels: labels(plan, container),
        annotations: annotations(plan, container, found.attempt),
        log_path: log_path(&spec.name, found.attempt),
        stdin: spec.stdin.unwrap_or(false),
        stdin_once: spec.stdin_once.unwrap_or(false),
        tty: spec.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::to_cri(
                spec.resources.as_ref(),
                quality,
                found.memory_total,
            )?),
            security_context: Some(security::of_container(
                plan,
                container,
                found.user,
                &dirs.seccomp,
            )?),
        }),
        ..Default::default()
    })
}

fn labels(plan: &Plan, container: &ContainerPlan) -> BTreeMap<String, String> {
    let mut labels = pod::identity(plan);
    labels.insert(CONTAINER_NAME.into(), container.spec.name.clone());
    labels
}

fn annotations(plan: &Plan, container: &ContainerPlan, attempt: u32) -> BTreeMap<String, String> {
    let spec = &container.spec;
    let mut annotations = BTreeMap::from([
        (HASH.into(), hash(container)),
        (
            "io.kubernetes.container.restartCount".into(),
            attempt.to_string(),
        ),
        (
            "io.kubernetes.container.terminationMessagePath".into(),
            termination_message_path(container).to_owned(),
        ),
        (
            "io.kubernetes.container.terminationMessagePolicy".into(),
            spec.termination_message_policy
                .clone()
                .unwrap_or_else(|| "File".into()),
        ),
        (
            "io.kubernetes.pod.terminationGracePeriod".into(),
            plan.grace_s.to_string(),
        ),
    ]);
    if let Some(ports) = spec.ports.as_ref().filter(|ports| !ports.is_empty()) {
        annotations.insert(
            "io.kubernetes.container.ports".into(),
            json!(ports).to_string(),
        );
    }
    let hooks = spec.lifecycle.as_ref();
    if let Some(hook) = hooks.and_then(|hooks| hooks.pre_stop.as_ref()) {
        annotations.insert(
            "io.kubernetes.container.preStopHandler".into(),
            json!(hook).to_string(),
        );
    }
    annotations
}

/// Where inside the container its last words are written.
pub(super) fn termination_message_path(container: &ContainerPlan) -> &str {
    let path = container.spec.termination_message_path.as_deref();
    path.filter(|path| !path.is_empty())
        .unwrap_or("/dev/termination-log")
}

/// A word that changes when the container's manifest does.
pub(super) fn hash(container: &ContainerPlan) -> String {
    let digest = Sha256::digest(json!(container.spec).to_string());
    let words = digest.iter().take(4);
    words.map(|byte| format!("{byte:02x}")).collect()
}

/// The mount of the termination message of one attempt.
pub(super) fn termination_mount(
    plan: &Plan,
    container: &ContainerPlan,
    attempt: u32,
    dirs: &Dirs,
) -> cri::Mount {
    let host = dirs.termination_message(plan, &container.spec.name, attempt);
    cri::Mount {
        container_path: termination_message_path(container).to_owned(),
        host_path: text(&host),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;
    use crate::play::env;
    use crate::play::manifest::ConfigMaps;
    use crate::play::testing::plan;

    fn config(spec: &str, user: &ImageUser) -> Result<cri::ContainerConfig> {
        let mut plan = plan(spec);
        plan.uid = "u-1".into();
        let container = &plan.containers[0];
        let variables = env::resolve(&plan, container, &ConfigMaps::default(), &[]).unwrap();
        let dirs = Dirs::default();
        let found = Found {
            attempt: 3,
            image_ref: "sha256:1",
            user,
            variables: &variables,
            mounts: vec![termination_mount(&plan, container, 3, &dirs)],
            memory_total: 8 << 30,
        };
        container_config(&plan, container, found, &dirs)
    }

    #[test]
    fn a_container_becomes_a_cri_configuration() {
        let config = config(
            "securityContext: {runAsNonRoot: true, supplementalGroups: [4], seccompProfile: {type: RuntimeDefault}}
containers:
- name: a
  image: i:1
  command: [sh, -c, 'echo $(WHO)']
  env: [{name: WHO, value: me}]
  workingDir: /srv
  ports: [{containerPort: 80}]
  resources: {requests: {cpu: 100m, memory: 1Gi}, limits: {cpu: 1}}
  lifecycle: {preStop: {exec: {command: [bye]}}}
  securityContext:
    capabilities: {add: [NET_ADMIN], drop: [ALL]}
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false",
            &ImageUser { uid: Some(5), name: String::new() },
        );

        insta::assert_json_snapshot!(config.unwrap());
    }

    #[test]
    fn an_image_that_runs_as_root_is_refused_where_non_root_is_asked() {
        let spec = "securityContext: {runAsNonRoot: true}\ncontainers: [{name: a, image: i}]";
        let by_name = ImageUser {
            uid: None,
            name: "web".into(),
        };

        for user in [ImageUser::default(), by_name] {
            assert_eq!(
                config(spec, &user).unwrap_err().kind(),
                Kind::FailedPrecondition
            );
        }
    }

    #[test]
    fn unmasked_proc_hides_nothing() {
        let spec = "containers: [{name: a, image: i, securityContext: {procMount: Unmasked}}]";

        let config = config(spec, &ImageUser::default()).unwrap();

        let context = config.linux.unwrap().security_context.unwrap();
        assert_eq!(context.masked_paths, Vec::<String>::new());
        assert_eq!(context.readonly_paths, Vec::<String>::new());
    }
}
