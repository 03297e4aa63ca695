//! Our values as the protocol's messages.

use oci_spec::runtime::{LinuxNamespace, Spec};

use super::facts::{ContainerFacts, PodFacts};
use super::limits;
use super::messages::api;
use super::seccomp;
use super::words::word;
use crate::model::security::SeccompProfile;
use crate::model::state::ContainerState;
use crate::model::{Resources, Timestamp};

/// A spec that was ours when it was written; an empty one where it cannot be read.
pub(super) fn parsed(text: &str) -> Spec {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(%error, "a spec cannot be read; NRI plugins are told of it without");
        Spec::default()
    })
}

/// A pod.
pub(super) fn pod(facts: &PodFacts) -> api::PodSandbox {
    let spec = parsed(&facts.spec);
    let linux = spec.linux().as_ref();
    let (config, identity) = (&facts.config, &facts.config.identity);
    let (resources, overhead) = facts.updated.clone().unwrap_or_default();
    let sums = |updated: Option<Resources>, asked: &Option<Resources>| {
        updated.as_ref().or(asked.as_ref()).map(limits::of_request)
    };
    api::PodSandbox {
        id: facts.id.to_string(),
        name: identity.name.clone(),
        uid: identity.uid.clone(),
        namespace: identity.k8s_namespace.clone(),
        labels: config.labels.clone(),
        annotations: with_spec(&config.annotations, &spec),
        runtime_handler: facts.handler.clone(),
        linux: Some(api::LinuxPodSandbox {
            pod_overhead: sums(overhead, &config.overhead),
            pod_resources: sums(resources, &config.resources),
            cgroup_parent: config.cgroup_parent.clone(),
            cgroups_path: cgroups_path(&spec),
            namespaces: linux.map(namespaces).unwrap_or_default(),
            resources: linux
                .and_then(|linux| linux.resources().as_ref())
                .map(limits::of_spec),
        }),
        pid: facts.pid.map_or(0, |pid| pid.0),
        ips: facts.ips.clone(),
    }
}

/// A container with the spec of its facts.
pub(super) fn container(facts: &ContainerFacts) -> api::Container {
    with(facts, &parsed(&facts.spec), &[])
}

/// A container with `spec`, and with the CDI devices that plugins asked for on top of its own.
pub(super) fn with(facts: &ContainerFacts, spec: &Spec, cdi: &[String]) -> api::Container {
    let config = &facts.config;
    let process = spec.process().as_ref();
    let ended = facts.ended.as_ref();
    let (uid, gid, groups) = &facts.user;
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    api::Container {
        id: facts.id.to_string(),
        pod_sandbox_id: facts.sandbox.to_string(),
        name: config.identity.name.clone(),
        state: state(facts.state).into(),
        labels: config.labels.clone(),
        annotations: with_spec(&config.annotations, spec),
        args: list(process.and_then(|process| process.args().as_ref())),
        env: list(process.and_then(|process| process.env().as_ref())),
        mounts: mounts(spec),
        hooks: spec.hooks().as_ref().map(hooks),
        linux: Some(linux(facts, spec)),
        pid: facts.pid.map_or(0, |pid| pid.0),
        rlimits: rlimits(spec),
        created_at: facts.created_at.0,
        started_at: facts.started_at.map_or(0, |Timestamp(at)| at),
        finished_at: ended.map_or(0, |ended| ended.at.0),
        exit_code: ended.map_or(0, |ended| ended.code),
        status_reason: ended
            .map(|ended| ended.reason(facts.oom_killed).to_owned())
            .unwrap_or_default(),
        status_message: ended.map(|ended| ended.message.clone()).unwrap_or_default(),
        cdi_devices: config
            .cdi_devices
            .iter()
            .chain(cdi)
            .map(|name| api::CdiDevice { name: name.clone() })
            .collect(),
        user: Some(api::User {
            uid: *uid,
            gid: *gid,
            additional_gids: groups.clone(),
        }),
        image: Some(api::Image {
            name: facts.image.name.clone(),
            digest: facts.image.digest.clone(),
            config_digest: facts.image.config_digest.clone(),
        }),
    }
}

const fn state(state: Option<ContainerState>) -> api::ContainerState {
    match state {
        None | Some(ContainerState::Unknown) => api::ContainerState::ContainerUnknown,
        Some(ContainerState::Created | ContainerState::Starting) => {
            api::ContainerState::ContainerCreated
        }
        Some(ContainerState::Running) => api::ContainerState::ContainerRunning,
        Some(ContainerState::Exited | ContainerState::Removing) => {
            api::ContainerState::ContainerStopped
        }
    }
}

type Annotations = std::collections::BTreeMap<String, String>;

/// Annotations of the request, and those that only the spec has.
fn with_spec(asked: &Annotations, spec: &Spec) -> Annotations {
    let mut all = asked.clone();
    for (key, value) in spec.annotations().iter().flatten() {
        all.entry(key.clone()).or_insert_with(|| value.clone());
    }
    all
}

fn cgroups_path(spec: &Spec) -> String {
    let linux = spec.linux().as_ref();
    linux
        .and_then(|linux| linux.cgroups_path().as_ref())
        .map(|path| path.display().to_string())
        .unwrap_or_default()
}

fn namespaces(linux: &oci_spec::runtime::Linux) -> Vec<api::LinuxNamespace> {
    let namespace = |namespace: &LinuxNamespace| api::LinuxNamespace {
        r#type: word(&namespace.typ()),
        path: namespace
            .path()
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    };
    linux.namespaces().iter().flatten().map(namespace).collect()
}

fn mounts(spec: &Spec) -> Vec<api::Mount> {
    let mount = |mount: &oci_spec::runtime::Mount| api::Mount {
        destination: mount.destination().display().to_string(),
        r#type: mount.typ().clone().unwrap_or_default(),
        source: mount
            .source()
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        options: mount.options().clone().unwrap_or_default(),
    };
    spec.mounts().iter().flatten().map(mount).collect()
}

fn hooks(hooks: &oci_spec::runtime::Hooks) -> api::Hooks {
    let list = |list: &Option<Vec<oci_spec::runtime::Hook>>| {
        let hook = |hook: &oci_spec::runtime::Hook| api::Hook {
            path: hook.path().display().to_string(),
            args: hook.args().clone().unwrap_or_default(),
            env: hook.env().clone().unwrap_or_default(),
            timeout: hook.timeout().map(|value| api::OptionalInt { value }),
        };
        list.iter().flatten().map(hook).collect()
    };
    api::Hooks {
        prestart: list(hooks.prestart()),
        create_runtime: list(hooks.create_runtime()),
        create_container: list(hooks.create_container()),
        start_container: list(hooks.start_container()),
        poststart: list(hooks.poststart()),
        poststop: list(hooks.poststop()),
    }
}

fn rlimits(spec: &Spec) -> Vec<api::PosixRlimit> {
    let process = spec.process().as_ref();
    let rlimits = process.and_then(|process| process.rlimits().as_ref());
    rlimits
        .into_iter()
        .flatten()
        .map(|rlimit| api::PosixRlimit {
            r#type: word(&rlimit.typ()),
            hard: rlimit.hard(),
            soft: rlimit.soft(),
        })
        .collect()
}

fn linux(facts: &ContainerFacts, spec: &Spec) -> api::LinuxContainer {
    let linux = spec.linux().clone().unwrap_or_default();
    let process = spec.process().as_ref();
    api::LinuxContainer {
        namespaces: namespaces(&linux),
        devices: linux.devices().iter().flatten().map(device).collect(),
        resources: linux.resources().as_ref().map(limits::of_spec),
        oom_score_adj: process
            .and_then(oci_spec::runtime::Process::oom_score_adj)
            .map(|value| api::OptionalInt {
                value: i64::from(value),
            }),
        cgroups_path: cgroups_path(spec),
        io_priority: process
            .and_then(|process| process.io_priority().as_ref())
            .map(|priority| api::LinuxIoPriority {
                class: numbered::<api::IoPrioClass>(&word(&priority.class())),
                priority: i32::try_from(priority.priority()).unwrap_or_default(),
            }),
        seccomp_profile: Some(profile(facts.config.security.seccomp.as_ref())),
        seccomp_policy: linux.seccomp().as_ref().map(seccomp::of_spec),
        sysctl: linux
            .sysctl()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        net_devices: linux
            .net_devices()
            .iter()
            .flatten()
            .map(|(host, device)| {
                let name = device.name().clone().unwrap_or_default();
                (host.clone(), api::LinuxNetDevice { name })
            })
            .collect(),
        scheduler: process
            .and_then(|process| process.scheduler().as_ref())
            .map(scheduler),
        rdt: linux.intel_rdt().as_ref().map(rdt),
    }
}

/// The number of an enum's value by its name; 0 where there is none.
fn numbered<E: Named>(name: &str) -> i32 {
    E::number(name).unwrap_or_default()
}

/// An enum of the protocol that knows its values' names.
pub(super) trait Named {
    fn number(name: &str) -> Option<i32>;
}

macro_rules! named {
    ($($kind:ident),*) => {$(
        impl Named for api::$kind {
            fn number(name: &str) -> Option<i32> {
                Self::from_str_name(name).map(i32::from)
            }
        }
    )*};
}

named!(IoPrioClass, LinuxSchedulerPolicy, LinuxSchedulerFlag);

fn device(device: &oci_spec::runtime::LinuxDevice) -> api::LinuxDevice {
    api::LinuxDevice {
        path: device.path().display().to_string(),
        r#type: word(&device.typ()),
        major: device.major(),
        minor: device.minor(),
        file_mode: device
            .file_mode()
            .map(|value| api::OptionalFileMode { value }),
        uid: device.uid().map(|value| api::OptionalUInt32 { value }),
        gid: device.gid().map(|value| api::OptionalUInt32 { value }),
    }
}

fn profile(asked: Option<&SeccompProfile>) -> api::SecurityProfile {
    use api::ProfileType;
    let (kind, path) = match asked {
        None | Some(SeccompProfile::Unconfined) => (ProfileType::Unconfined, String::new()),
        Some(SeccompProfile::RuntimeDefault) => (ProfileType::RuntimeDefault, String::new()),
        Some(SeccompProfile::Localhost(path)) => (ProfileType::Localhost, path.clone()),
    };
    api::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: path,
    }
}

fn scheduler(scheduler: &oci_spec::runtime::Scheduler) -> api::LinuxScheduler {
    api::LinuxScheduler {
        policy: numbered::<api::LinuxSchedulerPolicy>(&word(scheduler.policy())),
        nice: scheduler.nice().unwrap_or_default(),
        priority: scheduler.priority().unwrap_or_default(),
        flags: scheduler
            .flags()
            .iter()
            .flatten()
            .map(|flag| {
                numbered::<api::LinuxSchedulerFlag>(&crate::spec::scheduler_flag_word(*flag))
            })
            .collect(),
        runtime: scheduler.runtime().unwrap_or_default(),
        deadline: scheduler.deadline().unwrap_or_default(),
        period: scheduler.period().unwrap_or_default(),
    }
}

fn rdt(rdt: &oci_spec::runtime::LinuxIntelRdt) -> api::LinuxRdt {
    let text = |value: &String| api::OptionalString {
        value: value.clone(),
    };
    api::LinuxRdt {
        clos_id: rdt.clos_id().as_ref().map(text),
        schemata: rdt
            .schemata()
            .as_ref()
            .map(|value| api::OptionalRepeatedString {
                value: value.clone(),
            }),
        enable_monitoring: rdt
            .enable_monitoring()
            .map(|value| api::OptionalBool { value }),
        remove: false,
    }
}
