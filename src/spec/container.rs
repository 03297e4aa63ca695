//! The spec of a workload container (contract: pods 3.3 to 3.10).

use oci_spec::runtime::{Linux, Process, Spec, User};

use crate::model::{Error, Result};

use super::capabilities::{self, CapabilitySet};
use super::input::ContainerInput;
use super::{
    annotations, apparmor, base, cgroup_path, classes, devices, mounts, namespaces, process,
    resources, seccomp, selinux,
};

/// The spec of a workload container in a running sandbox, without what [`super::apply_edits`] puts in at the end: the
/// config's CDI devices, hooks.
///
/// # Errors
/// `InvalidArgument` on a request that no container can be made from; `FailedPrecondition` on one that this node
/// cannot serve.
pub fn container(input: &ContainerInput<'_>) -> Result<Spec> {
    let security = &input.config.security;
    if security.privileged && !input.pod.security.privileged {
        return Err(Error::invalid(
            "privileged container: its pod was not made for privileged containers",
        ));
    }
    if let Some(options) = &security.selinux {
        selinux::check(options)?;
    }

    let mut spec = start(input);
    let mut process = spec.process().clone().unwrap_or_default();
    set_process(&mut process, input)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    set_linux(&mut linux, input)?;
    confine(&mut process, &mut linux, input)?;

    let default_mounts = spec.mounts().clone().unwrap_or_default();
    let mounts = mounts::container(input, default_mounts)?;
    if let Some(propagation) = mounts.rootfs_propagation {
        linux.set_rootfs_propagation(Some(propagation.into()));
    }
    if let Some(root) = spec.root_mut()
        && security.readonly_rootfs
    {
        root.set_readonly(Some(true));
    }
    let mut all_annotations = spec.annotations().clone().unwrap_or_default();
    all_annotations.extend(annotations::container(input));
    spec.set_mounts(Some(mounts.entries))
        .set_annotations(Some(all_annotations))
        .set_process(Some(process))
        .set_linux(Some(linux));
    Ok(spec)
}

/// The built-in base without what only the pause container keeps, or the operator's.
fn start(input: &ContainerInput<'_>) -> Spec {
    input
        .options
        .base
        .as_deref()
        .cloned()
        .unwrap_or_else(base::spec)
}

fn set_process(process: &mut Process, input: &ContainerInput<'_>) -> Result<()> {
    let config = input.config;
    let security = &config.security;
    let mut who = User::default();
    who.set_uid(input.user.uid)
        .set_gid(input.user.gid)
        .set_additional_gids(Some(input.user.additional_gids.clone()));
    let current = process
        .capabilities()
        .as_ref()
        .and_then(|sets| sets.bounding().as_ref())
        .map_or_else(CapabilitySet::none, CapabilitySet::from_oci);
    let set = capabilities::of_container(security, current, input.host)?;
    process
        .set_args(Some(process::args(
            &config.command,
            &config.args,
            input.image,
        )?))
        .set_env(Some(process::env(
            config,
            input.image,
            input.pod,
            input.host,
        )?))
        .set_cwd(process::cwd(&config.working_dir, input.image)?.into())
        .set_terminal(config.tty.then_some(true))
        .set_user(who)
        .set_capabilities(Some(set.to_oci()))
        .set_no_new_privileges(security.no_new_privs.then_some(true));
    if let Some(asked) = &config.resources {
        let score = resources::oom_score_adj(asked.oom_score_adj, input.host)?;
        process.set_oom_score_adj(Some(score));
    }
    Ok(())
}

fn set_linux(linux: &mut Linux, input: &ContainerInput<'_>) -> Result<()> {
    let base = linux.namespaces().clone().unwrap_or_default();
    linux.set_namespaces(Some(namespaces::container(input, base)?));
    if let Some(mapping) = namespaces::user(&input.config.security.namespaces)? {
        linux
            .set_uid_mappings(Some(mapping.uids()?))
            .set_gid_mappings(Some(mapping.gids()?));
    }

    let mut limits = linux.resources().clone().unwrap_or_default();
    let devices = devices::container(
        input,
        linux.devices().clone().unwrap_or_default(),
        limits.devices().clone().unwrap_or_default(),
    )?;
    limits.set_devices(Some(devices.rules));
    if let Some(asked) = &input.config.resources {
        resources::apply(&mut limits, asked, input.host)?;
    }
    classes::apply(linux, &mut limits, input.classes)?;
    let path = cgroup_path::of(
        &input.pod.cgroup_parent,
        input.id.as_str(),
        input.options.cgroup_driver,
    )?;
    linux
        .set_devices((!devices.nodes.is_empty()).then_some(devices.nodes))
        .set_resources(Some(limits))
        .set_cgroups_path(Some(path.into()));
    Ok(())
}

/// Everything that narrows the process down; after the capabilities, which seccomp follows.
fn confine(process: &mut Process, linux: &mut Linux, input: &ContainerInput<'_>) -> Result<()> {
    let security = &input.config.security;
    let some = |paths: &Vec<String>| (!paths.is_empty()).then(|| paths.clone());
    if security.privileged {
        linux.set_masked_paths(None).set_readonly_paths(None);
    } else if !input.options.ignore_proc_mount {
        linux
            .set_masked_paths(some(&security.masked_paths))
            .set_readonly_paths(some(&security.readonly_paths));
    }
    if !security.privileged {
        let bounding = process
            .capabilities()
            .as_ref()
            .and_then(|sets| sets.bounding().as_ref());
        let filter = seccomp::of(
            security.seccomp.as_ref(),
            input.seccomp_profile,
            bounding,
            input.host,
        )?;
        if filter.is_some() {
            linux.set_seccomp(filter);
        }
    }
    if let Some(profile) = apparmor::of(security, input.apparmor_loaded, input.host)? {
        process.set_apparmor_profile(Some(profile));
    }
    if let Some(labels) = input.selinux {
        linux.set_mount_label(Some(labels.mount.clone()));
        if !security.privileged {
            process.set_selinux_label(Some(labels.process.clone()));
        }
    }
    Ok(())
}
