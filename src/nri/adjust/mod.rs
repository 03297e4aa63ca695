//! What plugins together ask of a container that is being made, put into its OCI spec.
//!
//! CDI devices are not resolved here: their files are another room's.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIntelRdt,
    LinuxMemoryPolicy, LinuxNamespace, LinuxNamespaceType, LinuxNetDevice, Mount, PosixRlimit,
    Process, Scheduler, Spec,
};

use serde_json::json;

use super::merge::removed;
use super::messages::api;
use super::words::{meaning, read};
use super::{limits, seccomp};
use crate::model::classes::AskedClasses;
use crate::model::{Error, HostFacts, Result};

/// `spec` as plugins want it.
///
/// # Errors
/// `InvalidArgument` for what the spec cannot say, `FailedPrecondition` for what the node does not have.
pub(super) fn adjusted(
    spec: &Spec,
    adjust: &api::ContainerAdjustment,
    host: &HostFacts,
) -> Result<Spec> {
    let mut spec = spec.clone();
    let mut process = spec.process().clone().unwrap_or_default();
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    for key in adjust.annotations.keys().filter_map(|key| removed(key)) {
        annotations.remove(key);
    }
    for (key, value) in set_in(&adjust.annotations) {
        annotations.insert(key.clone(), value.clone());
    }
    spec.set_annotations(Some(annotations));
    environment(&mut process, &adjust.env);
    if !adjust.args.is_empty() {
        process.set_args(Some(adjust.args.clone()));
    }
    if let Some(added) = &adjust.hooks {
        let mut hooks = spec.hooks().clone().unwrap_or_default();
        append_hooks(&mut hooks, added);
        spec.set_hooks(Some(hooks));
    }
    rlimits(&mut process, &adjust.rlimits)?;
    if let Some(asked) = &adjust.linux {
        adjust_process(&mut process, asked, host)?;
        adjust_linux(&mut linux, asked, host)?;
    }
    if !adjust.mounts.is_empty() {
        let mut all = spec.mounts().clone().unwrap_or_default();
        mounts(&mut all, &mut linux, &adjust.mounts);
        spec.set_mounts(Some(all));
    }
    spec.set_process(Some(process)).set_linux(Some(linux));
    Ok(spec)
}

fn set_in<V>(map: &std::collections::BTreeMap<String, V>) -> impl Iterator<Item = (&String, &V)> {
    map.iter().filter(|(key, _)| removed(key).is_none())
}

fn environment(process: &mut Process, asked: &[api::KeyValue]) {
    if asked.is_empty() {
        return;
    }
    let mut env = process.env().clone().unwrap_or_default();
    let is = |entry: &str, name: &str| entry.split('=').next() == Some(name);
    for name in asked.iter().filter_map(|variable| removed(&variable.key)) {
        env.retain(|entry| !is(entry, name));
    }
    for variable in asked {
        if removed(&variable.key).is_some() {
            continue;
        }
        let text = format!("{}={}", variable.key, variable.value);
        match env.iter_mut().find(|entry| is(entry, &variable.key)) {
            Some(entry) => *entry = text,
            None => env.push(text),
        }
    }
    process.set_env(Some(env));
}

fn append_hooks(hooks: &mut Hooks, added: &api::Hooks) {
    let append = |list: &mut Option<Vec<Hook>>, added: &[api::Hook]| {
        if !added.is_empty() {
            list.get_or_insert_default().extend(added.iter().map(hook));
        }
    };
    append(hooks.prestart_mut(), &added.prestart);
    append(hooks.create_runtime_mut(), &added.create_runtime);
    append(hooks.create_container_mut(), &added.create_container);
    append(hooks.start_container_mut(), &added.start_container);
    append(hooks.poststart_mut(), &added.poststart);
    append(hooks.poststop_mut(), &added.poststop);
}

fn hook(asked: &api::Hook) -> Hook {
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let mut hook = Hook::default();
    hook.set_path(asked.path.clone().into())
        .set_args(some(&asked.args))
        .set_env(some(&asked.env))
        .set_timeout(asked.timeout.as_ref().map(|timeout| timeout.value));
    hook
}

fn rlimits(process: &mut Process, asked: &[api::PosixRlimit]) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let mut all = process.rlimits().clone().unwrap_or_default();
    for rlimit in asked {
        let api::PosixRlimit { r#type, hard, soft } = rlimit;
        let limit: PosixRlimit = read(
            &format!("rlimit {:?}", r#type),
            json!({"type": r#type, "hard": hard, "soft": soft}),
        )?;
        all.retain(|other| other.typ() != limit.typ());
        all.push(limit);
    }
    process.set_rlimits(Some(all));
    Ok(())
}

fn adjust_process(
    process: &mut Process,
    asked: &api::LinuxContainerAdjustment,
    host: &HostFacts,
) -> Result<()> {
    if let Some(score) = &asked.oom_score_adj {
        let score = i32::try_from(score.value)
            .ok()
            .filter(|score| (-1000..=1000).contains(score))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "oom_score_adj {} is outside -1000..=1000",
                    score.value
                ))
            })?;
        process.set_oom_score_adj(Some(score.max(host.lowest_oom_score_adj())));
    }
    if let Some(asked) = &asked.io_priority {
        process.set_io_priority(match asked.class() {
            api::IoPrioClass::IoprioClassNone => None,
            class => {
                let priority = json!({"class": class.as_str_name(), "priority": asked.priority});
                Some(read("I/O priority", priority)?)
            }
        });
    }
    if let Some(asked) = &asked.scheduler {
        process.set_scheduler(match asked.policy() {
            api::LinuxSchedulerPolicy::SchedNone => None,
            policy => Some(scheduler(asked, policy)?),
        });
    }
    Ok(())
}

fn scheduler(asked: &api::LinuxScheduler, policy: api::LinuxSchedulerPolicy) -> Result<Scheduler> {
    let flags = asked
        .flags()
        .map(|flag| crate::spec::scheduler_flag(flag.as_str_name()));
    let flags = flags.collect::<Result<Vec<_>>>()?;
    let some = |value: u64| Some(value).filter(|value| *value != 0);
    let mut scheduler = Scheduler::default();
    scheduler
        .set_policy(meaning("scheduler policy", policy.as_str_name())?)
        .set_nice(Some(asked.nice).filter(|nice| *nice != 0))
        .set_priority(Some(asked.priority).filter(|priority| *priority != 0))
        .set_flags((!flags.is_empty()).then_some(flags))
        .set_runtime(some(asked.runtime))
        .set_deadline(some(asked.deadline))
        .set_period(some(asked.period));
    Ok(scheduler)
}

fn adjust_linux(
    linux: &mut Linux,
    asked: &api::LinuxContainerAdjustment,
    host: &HostFacts,
) -> Result<()> {
    devices(linux, &asked.devices)?;
    if !asked.cgroups_path.is_empty() {
        linux.set_cgroups_path(Some(asked.cgroups_path.clone().into()));
    }
    if let Some(filter) = &asked.seccomp_policy {
        linux.set_seccomp(Some(seccomp::asked(filter)?));
    }
    namespaces(linux, &asked.namespaces)?;
    if !asked.sysctl.is_empty() {
        let mut all = linux.sysctl().clone().unwrap_or_default();
        all.retain(|key, _| !asked.sysctl.contains_key(&format!("-{key}")));
        all.extend(set_in(&asked.sysctl).map(|(key, value)| (key.clone(), value.clone())));
        linux.set_sysctl(Some(all));
    }
    if !asked.net_devices.is_empty() {
        let mut all = linux.net_devices().clone().unwrap_or_default();
        all.retain(|key, _| !asked.net_devices.contains_key(&format!("-{key}")));
        for (host_name, device) in set_in(&asked.net_devices) {
            let mut inside = LinuxNetDevice::default();
            inside.set_name((!device.name.is_empty()).then(|| device.name.clone()));
            all.insert(host_name.clone(), inside);
        }
        linux.set_net_devices(Some(all));
    }
    if let Some(policy) = &asked.memory_policy {
        linux.set_memory_policy(Some(memory_policy(policy)?));
    }
    if let Some(resources) = &asked.resources {
        let mut all = linux.resources().clone().unwrap_or_default();
        limits::asked(resources)?.lay_over(&mut all, host)?;
        linux.set_resources(Some(all));
    }
    if let Some(rdt) = &asked.rdt {
        adjust_rdt(linux, rdt);
    }
    Ok(())
}

fn devices(linux: &mut Linux, asked: &[api::LinuxDevice]) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let mut nodes = linux.devices().clone().unwrap_or_default();
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    for path in asked.iter().filter_map(|device| removed(&device.path)) {
        nodes.retain(|node| node.path() != Path::new(path));
    }
    for device in asked
        .iter()
        .filter(|device| removed(&device.path).is_none())
    {
        let kind: LinuxDeviceType = meaning("type of device", &device.r#type)?;
        let mut node = LinuxDevice::default();
        node.set_path(PathBuf::from(&device.path))
            .set_typ(kind)
            .set_major(device.major)
            .set_minor(device.minor)
            .set_file_mode(device.file_mode.as_ref().map(|mode| mode.value))
            .set_uid(device.uid.as_ref().map(|id| id.value))
            .set_gid(device.gid.as_ref().map(|id| id.value));
        nodes.retain(|other| other.path() != node.path());
        nodes.push(node);
        let access = if kind == LinuxDeviceType::B {
            "rwm"
        } else {
            "rw"
        };
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(kind))
            .set_major(Some(device.major))
            .set_minor(Some(device.minor))
            .set_access(Some(access.to_owned()));
        rules.push(rule);
    }
    resources.set_devices(Some(rules));
    linux
        .set_devices(Some(nodes))
        .set_resources(Some(resources));
    Ok(())
}

fn namespaces(linux: &mut Linux, asked: &[api::LinuxNamespace]) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let mut all = linux.namespaces().clone().unwrap_or_default();
    for namespace in asked {
        let name = removed(&namespace.r#type).unwrap_or(&namespace.r#type);
        let kind: LinuxNamespaceType = meaning("namespace", name)?;
        all.retain(|other| other.typ() != kind);
        if removed(&namespace.r#type).is_none() {
            let mut added = LinuxNamespace::default();
            added
                .set_typ(kind)
                .set_path((!namespace.path.is_empty()).then(|| namespace.path.clone().into()));
            all.push(added);
        }
    }
    linux.set_namespaces(Some(all));
    Ok(())
}

fn memory_policy(asked: &api::LinuxMemoryPolicy) -> Result<LinuxMemoryPolicy> {
    let flags = asked
        .flags()
        .map(|flag| meaning("memory policy flag", flag.as_str_name()));
    let flags = flags.collect::<Result<Vec<_>>>()?;
    let mut policy = LinuxMemoryPolicy::default();
    policy
        .set_mode(meaning("memory policy", asked.mode().as_str_name())?)
        .set_nodes((!asked.nodes.is_empty()).then(|| asked.nodes.clone()))
        .set_flags((!flags.is_empty()).then_some(flags));
    Ok(policy)
}

fn adjust_rdt(linux: &mut Linux, asked: &api::LinuxRdt) {
    let current = linux.intel_rdt().clone().filter(|_| !asked.remove);
    let had = current.is_some();
    let mut rdt: LinuxIntelRdt = current.unwrap_or_default();
    if let Some(class) = &asked.clos_id {
        rdt.set_clos_id(Some(class.value.clone()));
    }
    if let Some(schemata) = &asked.schemata {
        rdt.set_schemata(Some(schemata.value.clone()));
    }
    if let Some(monitoring) = &asked.enable_monitoring {
        rdt.set_enable_monitoring(Some(monitoring.value));
    }
    let sets =
        asked.clos_id.is_some() || asked.schemata.is_some() || asked.enable_monitoring.is_some();
    linux.set_intel_rdt((had || sets).then_some(rdt));
}

/// Removes, replaces and adds mounts, and sorts all by depth, so that none hides one that lies below it. A mount that is to
/// see or spread later mounts needs a root that lets it.
fn mounts(all: &mut Vec<Mount>, linux: &mut Linux, asked: &[api::Mount]) {
    for destination in asked.iter().filter_map(|mount| removed(&mount.destination)) {
        all.retain(|mount| mount.destination() != Path::new(destination));
    }
    for mount in asked
        .iter()
        .filter(|mount| removed(&mount.destination).is_none())
    {
        let mut added = Mount::default();
        added
            .set_destination(mount.destination.clone().into())
            .set_source((!mount.source.is_empty()).then(|| mount.source.clone().into()))
            .set_typ((!mount.r#type.is_empty()).then(|| mount.r#type.clone()))
            .set_options((!mount.options.is_empty()).then(|| mount.options.clone()));
        all.retain(|other| other.destination() != added.destination());
        all.push(added);
        let has = |word: &str| mount.options.iter().any(|option| option == word);
        let root = linux.rootfs_propagation().clone().unwrap_or_default();
        if has("rshared") && !matches!(root.as_str(), "shared" | "rshared") {
            linux.set_rootfs_propagation(Some("rshared".to_owned()));
        } else if has("rslave")
            && !matches!(root.as_str(), "shared" | "rshared" | "slave" | "rslave")
        {
            linux.set_rootfs_propagation(Some("rslave".to_owned()));
        }
    }
    all.sort_by_key(|mount| mount.destination().components().count());
}

/// The classes of service that were asked for.
///
/// # Errors
/// `InvalidArgument` for limits beside them that make no sense.
pub(super) fn classes(adjust: &api::ContainerAdjustment) -> Result<AskedClasses> {
    let linux = adjust.linux.as_ref();
    let resources = linux.and_then(|linux| linux.resources.as_ref());
    let limits = resources.map(limits::asked).transpose()?;
    Ok(limits.map(|limits| limits.classes).unwrap_or_default())
}

/// The names of the CDI devices that were asked for.
pub(super) fn cdi_devices(adjust: &api::ContainerAdjustment) -> Vec<String> {
    let names = adjust.cdi_devices.iter();
    names.map(|device| device.name.clone()).collect()
}

#[cfg(test)]
mod tests;
