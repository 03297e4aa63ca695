//! No field of a request is ignored: each, set alone to something else than its default, changes what is asked of the
//! OCI runtime, or is refused, or stands in the table of those that act elsewhere, with the test that shows it there.
//!
//! The fields come from the compiled descriptor, so a new one fails here until it means something.

mod elsewhere;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::model::host_facts::{DeviceKind, DeviceNode, SourcePropagation};
use crate::model::security::NamespaceMode;
use crate::model::{ContainerConfig, Pid, PodConfig, Result};
use crate::spec::testing::{Case, PauseCase, json};
use crate::spec::{Accounts, ResolvedDevice, ResolvedMount, resolve_user};
use crate::wire::interface::Interface;
use crate::wire::probe::Tried;
use crate::wire::{Message as _, cri};

/// What came of a request: the typed request, and the OCI spec.
type Outcome = Result<(String, Value)>;

fn pod_request() -> cri::PodSandboxConfig {
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

fn container_request() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "nginx".into(),
            attempt: 1,
        }),
        image: Some(cri::ImageSpec {
            image: "sha256:0".into(),
            ..Default::default()
        }),
        command: vec!["/bin/server".into()],
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn pod_outcome(bytes: &[u8]) -> Outcome {
    let message = cri::PodSandboxConfig::decode(bytes).expect("a request");
    let config = PodConfig::try_from(message)?;
    let model = format!("{config:?}");
    let has_network = config.security.namespaces.network != NamespaceMode::Node;
    let case = PauseCase {
        netns: has_network.then(|| PathBuf::from("/var/run/netns/cni-1")),
        config,
        ..PauseCase::default()
    };
    Ok((model, json(&case.spec()?)))
}

fn container_outcome(bytes: &[u8]) -> Outcome {
    let message = cri::ContainerConfig::decode(bytes).expect("a request");
    let config = ContainerConfig::try_from(message)?;
    let model = format!("{config:?}");
    let accounts = Accounts {
        passwd: "root:x:0:0::/root:/bin/sh\nx7:x:7:7::/:/bin/sh\n",
        group: "x7:x:7:\nmore:x:8:root\n",
    };
    let of_mount = |mount: &crate::model::container::Mount| ResolvedMount {
        asked: mount.clone(),
        source: mount.host_path.clone().into(),
        propagation: SourcePropagation::Shared,
    };
    let of_device = |device: &crate::model::container::Device| ResolvedDevice {
        asked: device.clone(),
        nodes: vec![(PathBuf::new(), node(&device.host_path))],
    };
    let case = Case {
        user: resolve_user(&config.security, "", accounts)?,
        mounts: config.mounts.iter().map(of_mount).collect(),
        devices: config.devices.iter().map(of_device).collect(),
        target_pid: Some(Pid(77)),
        host_devices: vec![node("/dev/other")],
        config,
        ..Case::default()
    };
    Ok((model, json(&case.spec()?)))
}

fn node(path: &str) -> DeviceNode {
    DeviceNode {
        path: path.into(),
        kind: DeviceKind::Char,
        major: 1,
        // Any number that another path has another of.
        minor: u32::try_from(path.len()).unwrap_or_default(),
        mode: 0o666,
        uid: 0,
        gid: 0,
    }
}

/// How a field shows: by the best of the values that were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// Nothing differs.
    Nothing,
    /// The typed request differs, the spec does not.
    Kept,
    /// Every value was refused.
    Refused,
    /// The spec differs.
    Spec,
}

fn effect(base: &[u8], tried: &Tried, outcome: fn(&[u8]) -> Outcome) -> Effect {
    let plain = outcome(&[base, tried.without.as_slice()].concat());
    let effects = tried.with.iter().map(|value| {
        let changed = outcome(&[base, value.as_slice()].concat());
        match (&plain, changed) {
            (_, Err(_refused)) => Effect::Refused,
            (Ok(plain), Ok((_, spec))) if spec != plain.1 => Effect::Spec,
            (Ok(plain), Ok((model, _))) if model != plain.0 => Effect::Kept,
            (Ok(_), Ok(_)) => Effect::Nothing,
            // What was wrong without it is right with it.
            (Err(_), Ok(_)) => Effect::Spec,
        }
    });
    // One value that is silently taken for nothing is one too many, unless another shows that the field counts.
    let found: BTreeSet<Effect> = effects.collect();
    match (found.last(), found.first()) {
        (Some(Effect::Spec), _) => Effect::Spec,
        (_, Some(least)) => *least,
        _ => Effect::Nothing,
    }
}

#[test]
fn every_field_of_a_request_counts() {
    let interface = Interface::compiled().expect("descriptors");
    let mut wrong = Vec::new();
    let mut rows: BTreeSet<&str> = elsewhere::ROWS.iter().map(|row| row.field).collect();
    for (message, base, outcome) in [
        (
            "PodSandboxConfig",
            pod_request().encode_to_vec(),
            pod_outcome as fn(&[u8]) -> Outcome,
        ),
        (
            "ContainerConfig",
            container_request().encode_to_vec(),
            container_outcome,
        ),
    ] {
        for (path, tried) in interface.fields(message) {
            let shown = effect(&base, &tried, outcome);
            let row = elsewhere::ROWS.iter().find(|row| row.covers(&path));
            match (shown, row) {
                (Effect::Spec | Effect::Refused, None) => {}
                (Effect::Nothing | Effect::Kept, Some(row)) => drop(rows.remove(row.field)),
                (Effect::Spec | Effect::Refused, Some(_)) => {}
                (effect, None) => wrong.push(format!("{path}: {effect:?}")),
            }
        }
    }
    wrong.extend(
        rows.iter()
            .map(|field| format!("the table has {field}, which needs no row")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_field_that_acts_elsewhere_names_the_test_that_shows_it() {
    let sources = elsewhere::test_sources();
    for row in elsewhere::ROWS {
        let is_there = |name: &str| {
            sources.contains(&format!("fn {name}(")) || sources.contains(&format!("\"{name}\""))
        };
        assert!(
            is_there(row.test),
            "{}: there is no test {}",
            row.field,
            row.test
        );
        assert!(!row.where_it_acts.is_empty());
    }
}

#[test]
fn an_ignored_field_is_noticed() {
    let base = pod_request().encode_to_vec();
    // Field 99 stands for one that the interface will have and we do not read.
    let unknown = Tried {
        without: Vec::new(),
        with: vec![vec![0x98, 0x06, 0x01]],
    };
    assert_eq!(effect(&base, &unknown, pod_outcome), Effect::Nothing);
}
