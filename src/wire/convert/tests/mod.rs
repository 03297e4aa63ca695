//! The door: each limit at its edge and one past it, each unknown value, and the way back.

mod container;
mod pod;
mod roundtrip;
mod security;

use crate::model::{ContainerConfig, Kind, PodConfig};
use crate::wire::cri;

use super::check;

pub(super) type Change<T> = fn(&mut T);
pub(super) type Pod = cri::PodSandboxConfig;
pub(super) type Ctr = cri::ContainerConfig;

pub(super) fn pod() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "4b1c".into(),
            namespace: "default".into(),
            attempt: 1,
        }),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn container() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "nginx".into(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: "sha256:0".into(),
            ..Default::default()
        }),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn metadata(config: &mut cri::PodSandboxConfig) -> &mut cri::PodSandboxMetadata {
    config.metadata.as_mut().unwrap()
}

pub(super) fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    config.linux.as_mut().unwrap()
}

pub(super) fn security(
    config: &mut cri::ContainerConfig,
) -> &mut cri::LinuxContainerSecurityContext {
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
}

pub(super) fn namespaces(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    linux(config)
        .security_context
        .as_mut()
        .unwrap()
        .namespace_options
        .get_or_insert_default()
}

pub(super) fn resources(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    config
        .linux
        .as_mut()
        .unwrap()
        .resources
        .get_or_insert_default()
}

pub(super) fn env(key: &str, length: usize) -> cri::KeyValue {
    cri::KeyValue {
        key: key.into(),
        value: text(length).into(),
    }
}

pub(super) fn mount() -> cri::Mount {
    cri::Mount {
        container_path: "/data".into(),
        host_path: "/srv".into(),
        ..Default::default()
    }
}

pub(super) fn device() -> cri::Device {
    cri::Device {
        container_path: String::new(),
        host_path: "/dev/null".into(),
        permissions: "rwm".into(),
    }
}

pub(super) fn text(length: usize) -> String {
    "a".repeat(length)
}

pub(super) fn path(length: usize) -> String {
    format!("/{}", text(length - 1))
}

pub(super) fn entries(number: usize, length: usize) -> std::collections::BTreeMap<String, String> {
    (0..number)
        .map(|at| (format!("{at:06}"), text(length - 6)))
        .collect()
}

pub(super) fn check_pod(change: Change<Pod>) -> Result<PodConfig, String> {
    let mut config = pod();
    change(&mut config);
    PodConfig::try_from(config).map_err(|error| {
        assert_eq!(error.kind(), Kind::InvalidArgument);
        error.to_string()
    })
}

pub(super) fn check_container(change: Change<Ctr>) -> Result<ContainerConfig, String> {
    let mut config = container();
    change(&mut config);
    ContainerConfig::try_from(config).map_err(|error| {
        assert_eq!(error.kind(), Kind::InvalidArgument);
        error.to_string()
    })
}

#[test]
fn what_a_message_shows_of_a_value_is_escaped_and_cut() {
    assert_eq!(check::shown("a\u{1b}[2J"), r#""a\u{1b}[2J""#);
    assert_eq!(check::shown(&text(100)), format!("\"{}\"…", text(80)));
}
