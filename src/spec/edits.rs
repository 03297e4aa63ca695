//! What CDI specifications and OCI hook files add to a finished spec (contract: node 7.2). Nothing that builds a spec may
//! run after this: it would undo what a device asked for.

use std::path::Path;

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxIntelRdt, LinuxNetDevice, Mount,
    Process, Spec,
};

use crate::model::edits::{self, EditedDevice, EditedMount, Edits, Rdt, Stage};
use crate::model::host_facts::DeviceKind;

use super::devices::kind;
use super::lexical::clean;

/// Puts `edits` into `spec`.
pub fn apply_edits(spec: &mut Spec, edits: &Edits) {
    if edits.is_empty() {
        return;
    }
    let mut process = spec.process().clone().unwrap_or_default();
    let mut linux = spec.linux().clone().unwrap_or_default();
    add_env(&mut process, &edits.env);
    add_devices(&mut linux, &process, &edits.devices);
    if !edits.net_devices.is_empty() {
        let mut all = linux.net_devices().clone().unwrap_or_default();
        for device in &edits.net_devices {
            let mut inside = LinuxNetDevice::default();
            inside.set_name(Some(device.name.clone()));
            all.insert(device.host_name.clone(), inside);
        }
        linux.set_net_devices(Some(all));
    }
    if !edits.mounts.is_empty() {
        let in_user_namespace = linux
            .uid_mappings()
            .as_ref()
            .is_some_and(|mappings| !mappings.is_empty());
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        add_mounts(&mut mounts, &edits.mounts, in_user_namespace);
        spec.set_mounts(Some(mounts));
    }
    if !edits.hooks.is_empty() {
        let mut hooks = spec.hooks().clone().unwrap_or_default();
        for hook in &edits.hooks {
            add_hook(&mut hooks, hook);
        }
        spec.set_hooks(Some(hooks));
    }
    if let Some(rdt) = &edits.rdt {
        linux.set_intel_rdt(Some(to_oci_rdt(rdt)));
    }
    add_groups(&mut process, &edits.groups);
    spec.set_process(Some(process)).set_linux(Some(linux));
}

fn add_env(process: &mut Process, added: &[String]) {
    let mut env = process.env().clone().unwrap_or_default();
    for variable in added {
        let name = |entry: &str| entry.split('=').next().map(str::to_owned);
        match env.iter_mut().find(|entry| name(entry) == name(variable)) {
            Some(entry) => entry.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
    process.set_env(Some(env));
}

fn add_devices(linux: &mut Linux, process: &Process, added: &[EditedDevice]) {
    if added.is_empty() {
        return;
    }
    let mut nodes = linux.devices().clone().unwrap_or_default();
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    let user = process.user();
    let unless_root = |id: u32| Some(id).filter(|id| *id != 0);
    for device in added {
        let mut node = LinuxDevice::default();
        node.set_path(device.path.clone().into())
            .set_typ(kind(device.kind))
            .set_major(device.major)
            .set_minor(device.minor)
            .set_file_mode(device.mode)
            .set_uid(device.uid.or_else(|| unless_root(user.uid())))
            .set_gid(device.gid.or_else(|| unless_root(user.gid())));
        nodes.retain(|other| other.path() != Path::new(&device.path));
        nodes.push(node);
        if matches!(device.kind, DeviceKind::Block | DeviceKind::Char) {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true)
                .set_typ(Some(kind(device.kind)))
                .set_major(Some(device.major))
                .set_minor(Some(device.minor))
                .set_access(Some(device.access.clone()));
            rules.push(rule);
        }
    }
    resources.set_devices(Some(rules));
    linux
        .set_devices(Some(nodes))
        .set_resources(Some(resources));
}

/// Adds mounts and sorts all by depth, so that none hides one that lies below it.
fn add_mounts(mounts: &mut Vec<Mount>, added: &[EditedMount], in_user_namespace: bool) {
    for edited in added {
        let mut options = edited.options.clone();
        if in_user_namespace {
            map_ids(&mut options);
        }
        let mut mount = Mount::default();
        mount
            .set_destination(edited.destination.clone().into())
            .set_source(Some(edited.source.clone().into()))
            .set_typ((!edited.kind.is_empty()).then(|| edited.kind.clone()))
            .set_options((!options.is_empty()).then_some(options));
        mounts.retain(|other| other.destination() != Path::new(&edited.destination));
        mounts.push(mount);
    }
    mounts.sort_by_key(|mount| {
        let cleaned = clean(&mount.destination().to_string_lossy());
        cleaned.matches('/').count()
    });
}

/// In a user namespace the files of a bind belong to the ids of the host, unless the mount maps them.
fn map_ids(options: &mut Vec<String>) {
    let has = |word: &str| options.iter().any(|option| option == word);
    if has("idmap") || has("ridmap") {
        return;
    }
    if has("bind") {
        options.push("idmap".to_owned());
    } else if has("rbind") {
        options.push("ridmap".to_owned());
    }
}

fn add_hook(hooks: &mut Hooks, added: &edits::Hook) {
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let mut hook = Hook::default();
    hook.set_path(added.path.clone().into())
        .set_args(some(&added.args))
        .set_env(some(&added.env))
        .set_timeout(added.timeout);
    let list = match added.stage {
        Stage::Prestart => hooks.prestart_mut(),
        Stage::CreateRuntime => hooks.create_runtime_mut(),
        Stage::CreateContainer => hooks.create_container_mut(),
        Stage::StartContainer => hooks.start_container_mut(),
        Stage::Poststart => hooks.poststart_mut(),
        Stage::Poststop => hooks.poststop_mut(),
    };
    list.get_or_insert_default().push(hook);
}

fn to_oci_rdt(rdt: &Rdt) -> LinuxIntelRdt {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut oci = LinuxIntelRdt::default();
    oci.set_clos_id(some(&rdt.class))
        .set_l3_cache_schema(some(&rdt.l3_cache))
        .set_mem_bw_schema(some(&rdt.memory_bandwidth))
        .set_schemata((!rdt.schemata.is_empty()).then(|| rdt.schemata.clone()))
        .set_enable_monitoring(rdt.is_monitored.then_some(true));
    oci
}

fn add_groups(process: &mut Process, added: &[u32]) {
    if added.is_empty() {
        return;
    }
    let mut user = process.user().clone();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for group in added {
        if *group != 0 && !groups.contains(group) {
            groups.push(*group);
        }
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
}
