//! The configuration's runtime handlers, made ready: shim options encoded, spec options filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::config::Handler;
use crate::containerd::Payload;
use crate::model::host_facts::CgroupDriver;
use crate::model::{Context, Result};
use crate::node::features::Abilities;
use crate::node::runtime_config;
use crate::sandbox::RuntimeHandler;
use crate::spec::SpecOptions;
use crate::sys;
use crate::wire::runc;

/// Largest `base_runtime_spec` file.
const BASE_BYTES: u64 = 4 << 20;

/// Handlers by name, and the default one's name.
pub(super) type Table = (String, BTreeMap<String, Arc<RuntimeHandler>>);

/// Who makes cgroups on this node.
pub(super) fn cgroup_driver(config: &Config) -> CgroupDriver {
    let booted = std::path::Path::new("/run/systemd/system").is_dir();
    runtime_config::cgroup_driver(config.runtimes.cgroup_driver, booted)
}

/// All handlers of `config`. `can` tells what each can do.
///
/// # Errors
/// `InvalidArgument` naming the handler whose base spec cannot be read.
pub(super) fn table_blocking(config: &Config, can: impl Fn(&str) -> Abilities) -> Result<Table> {
    let driver = cgroup_driver(config);
    let mut handlers = BTreeMap::new();
    for (name, settings) in &config.runtimes.handlers {
        let handler = ready_blocking(config, settings, driver, can(name));
        let handler = handler.context(|| format!("runtime handler {name:?}"))?;
        handlers.insert(name.clone(), Arc::new(handler));
    }
    Ok((config.runtimes.default.clone(), handlers))
}

fn ready_blocking(
    config: &Config,
    settings: &Handler,
    driver: CgroupDriver,
    can: Abilities,
) -> Result<RuntimeHandler> {
    let mut spec = SpecOptions {
        cgroup_driver: driver,
        pod_annotations: settings.pod_annotations.clone(),
        container_annotations: settings.container_annotations.clone(),
        privileged_without_host_devices: settings.privileged_without_host_devices,
        privileged_without_host_devices_all_allowed: settings.privileged_all_devices_allowed,
        runtime_has_rro: can.recursive_read_only,
        unprivileged_ports: config.sandbox.unprivileged_ports,
        unprivileged_icmp: config.sandbox.unprivileged_icmp,
        device_ownership_from_security_context: config
            .containers
            .device_ownership_from_security_context,
        ..SpecOptions::default()
    };
    read_base_blocking(settings, &mut spec)?;
    Ok(RuntimeHandler {
        settings: settings.clone(),
        options: shim_options(config, settings, driver),
        no_user_namespaces: can.user_namespaces.obstacle(),
        spec,
    })
}

fn read_base_blocking(settings: &Handler, into: &mut SpecOptions) -> Result<()> {
    let Some(path) = &settings.base_runtime_spec else {
        return Ok(());
    };
    let bytes = sys::files::read_capped_blocking(path, BASE_BYTES)?;
    into.read_base(&bytes)
        .context(|| format!("base_runtime_spec {}", path.display()))
}

/// The options that containerd hands to the runc shim; other shims get none.
pub(super) fn shim_options(
    config: &Config,
    settings: &Handler,
    driver: CgroupDriver,
) -> Option<Payload> {
    if !settings.is_runc_shim() {
        return None;
    }
    let text = |path: &PathBuf| path.display().to_string();
    // A private containerd keeps the OCI runtime's state beside its own, so that it never meets another one's.
    let managed = || {
        config
            .managed_containerd
            .enabled
            .then(|| config.managed_containerd.state.join("runc"))
    };
    let options = runc::Options {
        binary_name: settings.binary.as_ref().map(text).unwrap_or_default(),
        root: settings
            .root
            .clone()
            .or_else(managed)
            .as_ref()
            .map(text)
            .unwrap_or_default(),
        systemd_cgroup: driver == CgroupDriver::Systemd,
        no_new_keyring: settings.no_new_keyring,
        ..runc::Options::default()
    };
    Some(Payload::new(Payload::RUNC_OPTIONS, options.encoded()))
}
