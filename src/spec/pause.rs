//! The spec of a pause container (contract: pods 3.2).

use oci_spec::runtime::{Linux, LinuxCpu, LinuxResources, Process, Spec, User};

use crate::model::security::NamespaceMode;
use crate::model::{PodConfig, Result};

use super::input::{PauseInput, PauseProgram, SpecOptions};
use super::namespaces::UserMapping;
use super::{
    annotations, base, cgroup_path, host_files, mounts, namespaces, process, resources, seccomp,
    selinux, sysctls, user,
};

/// Where the embedded program lies in its root.
const PROGRAM: &str = "/pause";
/// The pause process is the last of its pod that the kernel should choose when memory runs out.
const OOM_SCORE_ADJ: i32 = -998;
/// The smallest weight there is: it only waits.
const CPU_SHARES: u64 = 2;

/// Judges a pod by its own words, before anything is looked up or made for it; `Some` where it asks for a user
/// namespace. [`pause`] judges the same again.
///
/// # Errors
/// `InvalidArgument` on a request that no pod can be made from.
pub fn check_pod(config: &PodConfig, options: &SpecOptions) -> Result<Option<UserMapping>> {
    let security = &config.security;
    let mapping = namespaces::check_pod(&security.namespaces)?;
    host_files::check_hostname(&config.hostname)?;
    if let Some(dns) = &config.dns {
        host_files::check_dns(dns)?;
    }
    if let Some(labels) = &security.selinux {
        selinux::check(labels)?;
    }
    sysctls::of_pod(
        &config.sysctls,
        &security.namespaces,
        mapping.is_some(),
        options,
    )?;
    cgroup_path::of(&config.cgroup_parent, "", options.cgroup_driver)?;
    user::of_pause(security, None)?;
    Ok(mapping)
}

/// The spec of the container that holds a sandbox's namespaces.
///
/// # Errors
/// `InvalidArgument` on a request that no pod can be made from; `FailedPrecondition` on one that this node cannot
/// serve.
pub fn pause(input: &PauseInput<'_>) -> Result<Spec> {
    let security = &input.config.security;
    check_pod(input.config, input.options)?;
    let mut spec = base::spec();
    let mut process = spec.process().clone().unwrap_or_default();
    set_process(&mut process, input)?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    set_linux(&mut linux, input)?;

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
        linux.set_seccomp(filter);
    }
    if let Some(labels) = input.selinux {
        linux.set_mount_label(Some(labels.mount.clone()));
        if !security.privileged {
            process.set_selinux_label(Some(labels.process.clone()));
        }
    }

    let hostname = &input.config.hostname;
    // Without an UTS namespace of its own the pod has the node's name, and runc refuses to be told one.
    if security.namespaces.network != NamespaceMode::Node && !hostname.is_empty() {
        spec.set_hostname(Some(hostname.clone()));
    }
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(true));
    }
    let default_mounts = spec.mounts().clone().unwrap_or_default();
    spec.set_mounts(Some(mounts::pause(input, default_mounts)?))
        .set_annotations(Some(annotations::pause(input)))
        .set_process(Some(process))
        .set_linux(Some(linux));
    Ok(spec)
}

fn set_process(process: &mut Process, input: &PauseInput<'_>) -> Result<()> {
    let (args, env, cwd, image_user) = match input.program {
        PauseProgram::Embedded => (
            vec![PROGRAM.to_owned()],
            Vec::new(),
            String::from("/"),
            None,
        ),
        PauseProgram::Image { defaults, user, .. } => (
            process::args(&[], &[], defaults)?,
            process::image_env(defaults)?,
            process::cwd("", defaults)?,
            user,
        ),
    };
    let (uid, gid, groups) = user::of_pause(&input.config.security, image_user)?;
    let mut who = User::default();
    who.set_uid(uid).set_gid(gid).set_additional_gids(groups);
    process
        .set_args(Some(args))
        .set_env((!env.is_empty()).then_some(env))
        .set_cwd(cwd.into())
        .set_user(who)
        .set_oom_score_adj(Some(resources::oom_score_adj(OOM_SCORE_ADJ, input.host)?));
    Ok(())
}

fn set_linux(linux: &mut Linux, input: &PauseInput<'_>) -> Result<()> {
    let config = input.config;
    let asked = &config.security.namespaces;
    let base = linux.namespaces().clone().unwrap_or_default();
    linux.set_namespaces(Some(namespaces::pause(
        asked,
        base,
        input.netns,
        input.userns,
    )?));
    let mapping = namespaces::user(asked)?;
    if let Some(mapping) = mapping {
        linux
            .set_uid_mappings(Some(mapping.uids()?))
            .set_gid_mappings(Some(mapping.gids()?));
    }
    let in_user_namespace = mapping.is_some() || input.host.in_user_namespace;
    let parameters = sysctls::of_pod(&config.sysctls, asked, in_user_namespace, input.options)?;
    linux.set_sysctl((!parameters.is_empty()).then_some(parameters));

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(CPU_SHARES));
    let mut limits: LinuxResources = linux.resources().clone().unwrap_or_default();
    limits.set_cpu(Some(cpu));
    let path = cgroup_path::of(
        &config.cgroup_parent,
        input.id.as_str(),
        input.options.cgroup_driver,
    )?;
    linux
        .set_resources(Some(limits))
        .set_cgroups_path(Some(path.into()));
    Ok(())
}
