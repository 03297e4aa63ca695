//! Everything that the checks judge, gathered in one go. What cannot be found out is a fact as well, as the sentence that
//! says why.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::config::Config;
use crate::config::settings::Handler;
use crate::container::Criu;
use crate::containerd::{Containerd, Introspection, PluginInfo, ServerVersion};
use crate::devices::{self, BrokenFile, ClassesSurvey};
use crate::image::{self, Interrupted, broken_verifiers_blocking};
use crate::model::host_facts::{CgroupDriver, KernelVersion};
use crate::model::{Error, Pid, Result, Timestamp};
use crate::network::{NetworkSettings, SurveyedNetwork, survey_blocking};
use crate::node::features::{self, Abilities};
use crate::node::runtime_config;
use crate::registry::broken_files_blocking;
use crate::store;
use crate::sys::cgroup::{Cgroups, Mode};
use crate::sys::project_quota::is_counted_blocking;
use crate::sys::survey::{self, Space};
use crate::sys::{openat2, process, selinux, tools};

/// What a kernel that does not tell its version is taken for.
const NEWEST: KernelVersion = KernelVersion::new(u32::MAX, 0);
/// The controllers that pods cannot do without.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Where step records lie below the state directory, and what they are about.
const STEP_RECORDS: [(&str, &str); 2] = [
    ("steps/sandboxes", "sandbox"),
    ("steps/containers", "container"),
];

/// What is known of containerd.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its version.
    pub version: ServerVersion,
    /// Its plugins.
    pub plugins: Vec<PluginInfo>,
}

/// What is known of a runtime handler.
#[derive(Clone, Debug)]
pub struct HandlerFact {
    /// Its name.
    pub name: String,
    /// Whether pods without a RuntimeClass get it.
    pub is_default: bool,
    /// Its shim.
    pub runtime_type: String,
    /// Its snapshotter.
    pub snapshotter: String,
    /// The OCI runtime's program; `None` for shims that bring their own.
    pub program: Option<Program>,
    /// What it can do.
    pub abilities: Abilities,
}

impl HandlerFact {
    /// Whether its OCI runtime is there and called `name`.
    pub(super) fn runs(&self, name: &str) -> bool {
        let path = self
            .program
            .as_ref()
            .and_then(|program| program.path.as_ref());
        path.and_then(|path| path.file_name())
            .is_some_and(|file| file == name)
    }
}

/// An OCI runtime's program.
#[derive(Clone, Debug)]
pub struct Program {
    /// As configured.
    pub wanted: PathBuf,
    /// Where it is.
    pub path: Option<PathBuf>,
    /// Its version, or why it does not tell.
    pub version: Result<String, String>,
}

/// Who holds the socket's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing is there.
    Nobody,
    /// A server answers.
    Server,
    /// A socket that nobody answers on.
    Stale,
    /// Something that is no socket.
    NoSocket,
    /// It cannot be found out.
    Unknown(String),
}

/// A record of something half made or half removed, older than any operation may last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// `sandbox` or `container`.
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// The steps that are not taken back.
    pub steps: Vec<String>,
    /// Since it was asked for.
    pub age: Duration,
}

/// The facts.
#[derive(Clone, Debug)]
pub struct Facts {
    /// We may do what root may.
    pub is_root: bool,
    /// What the configuration itself warns of.
    pub warnings: Vec<String>,
    /// containerd is a managed one.
    pub is_managed: bool,
    /// The configuration allows an active CRI plugin.
    pub allow_cri_plugin: bool,
    /// containerd, or why it does not answer.
    pub containerd: Result<Backend, String>,
    /// The runtime handlers by name.
    pub handlers: Vec<HandlerFact>,
    /// The pod networks, or what is wrong with them.
    pub networks: Result<Vec<SurveyedNetwork>, String>,
    /// The generation of control groups.
    pub cgroups: Result<Mode, String>,
    /// Controllers that are not there.
    pub missing_controllers: Vec<String>,
    /// Who makes the pods' cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The host was booted with systemd.
    pub is_systemd_booted: bool,
    /// The kernel.
    pub kernel: Result<KernelVersion, String>,
    /// Whether `openat2` works.
    pub openat2: Result<(), String>,
    /// Whether `pidfd_open` works.
    pub pidfd: Result<(), String>,
    /// The kernel knows overlayfs.
    pub has_overlayfs: bool,
    /// Our socket's path.
    pub socket: PathBuf,
    /// Who holds it.
    pub occupant: Occupant,
    /// Space where state, root and containerd's content lie.
    pub spaces: Vec<(PathBuf, Result<Space, String>)>,
    /// `hosts.toml` files that cannot be used, and why.
    pub broken_hosts_files: Vec<(PathBuf, String)>,
    /// Verifiers of images that cannot be run, and why.
    pub broken_verifiers: Vec<(PathBuf, String)>,
    /// What interrupted pulls hold, where containerd tells.
    pub interrupted: Option<Interrupted>,
    /// Whether SELinux, where it is on and not switched off for containers, has labels for them.
    pub selinux: Option<bool>,
    /// What checkpoints are taken with; `None` where they are switched off.
    pub criu: Option<Criu>,
    /// `containers.enable_restore`.
    pub restores: bool,
    /// CDI specifications that cannot be used, or not wholly.
    pub broken_cdi_files: Vec<BrokenFile>,
    /// OCI hook files that cannot be used.
    pub broken_hook_files: Vec<BrokenFile>,
    /// Classes of service.
    pub classes: ClassesSurvey,
    /// Programs in the directory of NRI plugins that are none, and why.
    pub no_plugins: Vec<(PathBuf, String)>,
    /// Where NRI plugins connect, and who holds that; `None` where they may not, or our own server runs.
    pub nri_socket: Option<(PathBuf, Occupant)>,
    /// Whether the file system of each snapshotter counts what projects use; nothing where that is switched off.
    pub project_quotas: Vec<(String, Result<bool, String>)>,
    /// What stays half made.
    pub leftovers: Vec<Leftover>,
    /// Record files that cannot be read.
    pub unreadable: Vec<PathBuf>,
    /// Why records could not be listed.
    pub records_error: Option<String>,
}

/// What lies in the directory of NRI plugins and is none; the directory itself where it cannot be read.
fn no_plugins_blocking(dir: &Path) -> Vec<(PathBuf, String)> {
    match crate::nri::installed_blocking(dir) {
        Ok((_plugins, others)) => others,
        Err(error) => vec![(dir.to_owned(), error.chain())],
    }
}

/// Gathers the facts about this node under `config`.
///
/// # Errors
/// `Internal` where a helper thread dies.
pub async fn gather(
    config: &Config,
    backend: &Containerd,
    networks: NetworkSettings,
    now: Timestamp,
) -> Result<Facts> {
    let introspection = &*backend.introspection;
    let containerd = ask_containerd(introspection)
        .await
        .map_err(|error| error.chain());
    let interrupted = match &containerd {
        Ok(_) => image::interrupted(backend, now).await.ok(),
        Err(_) => None,
    };
    let kernel = survey::kernel_version();
    let assumed = kernel.as_ref().copied().unwrap_or(NEWEST);
    let abilities = features::ask_all(&config.runtimes, introspection, assumed, |_| None).await;
    let handlers = look_at_handlers(config, &abilities).await;
    let criu = Criu::look_if(config.containers.enable_criu).await;
    let base = config.clone();
    tokio::task::spawn_blocking(move || {
        let config = base;
        let is_systemd_booted = survey::is_systemd_booted_blocking();
        let containers = &config.containers;
        let (broken_cdi_files, broken_hook_files) =
            devices::broken_files_blocking(&containers.cdi_spec_dirs, &containers.hooks_dirs);
        let project_quotas = project_quotas_blocking(&config, containerd.as_ref().ok());
        let (leftovers, unreadable, records_error) = records_blocking(&config, now);
        let nri = Some(&config.nri).filter(|nri| nri.enabled);
        let occupant = occupant_blocking(&config.server.socket);
        // While our own server runs, it is the one who answers there.
        let nri_socket = nri
            .filter(|_| occupant != Occupant::Server)
            .and_then(|nri| nri.socket.clone());
        Facts {
            is_root: survey::is_root(),
            warnings: config.warnings(),
            is_managed: config.managed_containerd.enabled,
            allow_cri_plugin: config.containerd.allow_cri_plugin,
            containerd,
            handlers,
            networks: survey_blocking(&networks).map_err(|error| error.chain()),
            missing_controllers: missing_controllers_blocking(),
            cgroups: Cgroups::discover_blocking()
                .map(|cgroups| cgroups.mode())
                .map_err(|error| error.chain()),
            cgroup_driver: runtime_config::cgroup_driver(
                config.runtimes.cgroup_driver,
                is_systemd_booted,
            ),
            is_systemd_booted,
            kernel: kernel.map_err(|error| error.chain()),
            openat2: try_openat2_blocking().map_err(|error| error.chain()),
            pidfd: process::PidFd::open(Pid(std::process::id()))
                .map(drop)
                .map_err(|error| error.chain()),
            has_overlayfs: survey::knows_filesystem_blocking("overlay").unwrap_or(false),
            occupant,
            spaces: spaces_blocking(&config),
            selinux: (!config.containers.disable_selinux && selinux::is_enabled_blocking())
                .then(|| selinux::contexts_blocking().is_some()),
            broken_hosts_files: broken_files_blocking(&config.images.registry_config_path),
            broken_verifiers: broken_verifiers_blocking(&config.images.verifiers),
            interrupted,
            criu,
            restores: containers.enable_restore,
            broken_cdi_files,
            broken_hook_files,
            classes: devices::classes_survey_blocking(&config),
            no_plugins: nri.map_or_else(Vec::new, |nri| no_plugins_blocking(&nri.plugin_dir)),
            nri_socket: nri_socket.map(|path| {
                let occupant = occupant_blocking(&path);
                (path, occupant)
            }),
            project_quotas,
            socket: config.server.socket,
            leftovers,
            unreadable,
            records_error,
        }
    })
    .await
    .map_err(|error| {
        crate::model::Error::internal("gather facts: a helper thread died").caused_by(error)
    })
}

async fn ask_containerd(introspection: &dyn Introspection) -> Result<Backend> {
    Ok(Backend {
        version: introspection.version().await?,
        plugins: introspection.plugins().await?,
    })
}

async fn look_at_handlers(
    config: &Config,
    abilities: &BTreeMap<String, Abilities>,
) -> Vec<HandlerFact> {
    let mut facts = Vec::new();
    for (name, handler) in &config.runtimes.handlers {
        facts.push(HandlerFact {
            name: name.clone(),
            is_default: *name == config.runtimes.default,
            runtime_type: handler.runtime_type.clone(),
            snapshotter: handler.snapshotter.clone(),
            program: look_at_program(handler).await,
            abilities: abilities.get(name).copied().unwrap_or_default(),
        });
    }
    facts
}

async fn look_at_program(handler: &Handler) -> Option<Program> {
    if !handler.is_runc_shim() {
        return None;
    }
    let wanted = handler.binary.clone().unwrap_or_else(|| "runc".into());
    let path = tools::look_up_blocking(&wanted);
    let version = match &path {
        Some(path) => tools::version(path).await.map_err(|error| error.chain()),
        None => Err("not found".to_owned()),
    };
    Some(Program {
        wanted,
        path,
        version,
    })
}

fn missing_controllers_blocking() -> Vec<String> {
    let Ok(cgroups) = Cgroups::discover_blocking() else {
        return Vec::new();
    };
    let is_there = |name: &str| match cgroups.mode() {
        Mode::V2 => has_v2_controller_blocking(name),
        // Any group will do: the controller's own hierarchy is what counts.
        Mode::V1 | Mode::Hybrid => cgroups.controller_dir(name, "/podwright").is_some(),
    };
    CONTROLLERS
        .into_iter()
        .filter(|name| !is_there(name))
        .map(str::to_owned)
        .collect()
}

fn has_v2_controller_blocking(name: &str) -> bool {
    let list = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    list.split_ascii_whitespace().any(|known| known == name)
}

fn try_openat2_blocking() -> Result<()> {
    let root = openat2::Root::open_blocking(Path::new("/"))?;
    root.resolve_blocking(Path::new("proc")).map(drop)
}

fn occupant_blocking(socket: &Path) -> Occupant {
    match std::fs::symlink_metadata(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Occupant::Nobody,
        Err(error) => return Occupant::Unknown(format!("{}: {error}", socket.display())),
        Ok(meta) if !meta.file_type().is_socket() => return Occupant::NoSocket,
        Ok(_) => {}
    }
    match UnixStream::connect(socket) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Occupant::Stale,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Occupant::Unknown(format!("{}: {error}", socket.display()))
        }
        _ => Occupant::Server,
    }
}

/// The space of each directory, or of the nearest one above it that exists; each file system once a directory.
fn spaces_blocking(config: &Config) -> Vec<(PathBuf, Result<Space, String>)> {
    let mut dirs = vec![
        config.server.root_dir.clone(),
        config.server.state_dir.clone(),
    ];
    if config.managed_containerd.enabled {
        dirs.push(config.managed_containerd.root.clone());
    }
    let existing = |dir: PathBuf| dir.ancestors().find(|dir| dir.exists()).map(Path::to_owned);
    let mut dirs: Vec<PathBuf> = dirs.into_iter().filter_map(existing).collect();
    dirs.dedup();
    dirs.into_iter()
        .map(|dir| {
            let space = survey::space_blocking(&dir).map_err(|error| error.chain());
            (dir, space)
        })
        .collect()
}

/// The file systems of the snapshotters that handlers name, as far as containerd says where those keep their files.
fn project_quotas_blocking(
    config: &Config,
    containerd: Option<&Backend>,
) -> Vec<(String, Result<bool, String>)> {
    let Some(containerd) = containerd.filter(|_| config.stats.project_quotas) else {
        return Vec::new();
    };
    let roots = image::snapshotter_roots(&containerd.plugins);
    let handlers = config.runtimes.handlers.values();
    let named: BTreeSet<&String> = handlers.map(|handler| &handler.snapshotter).collect();
    let asked = |name: &String| {
        let counted = is_counted_blocking(roots.get(name)?);
        // A snapshotter that keeps nothing here has no layers to count.
        let is_here = !counted.as_ref().is_err_and(Error::is_not_found);
        is_here.then(|| (name.clone(), counted.map_err(|error| error.chain())))
    };
    named.into_iter().filter_map(asked).collect()
}

fn records_blocking(
    config: &Config,
    now: Timestamp,
) -> (Vec<Leftover>, Vec<PathBuf>, Option<String>) {
    let mut leftovers = Vec::new();
    let mut unreadable = Vec::new();
    let mut failure = None;
    for (dir, kind) in STEP_RECORDS {
        match store::peek_blocking(&config.server.state_dir.join(dir)) {
            Ok(peeked) => {
                unreadable.extend(peeked.unreadable);
                let found = peeked
                    .records
                    .into_iter()
                    .filter_map(|(id, record)| leftover(kind, id, &record, now))
                    .filter(|leftover| leftover.age > config.operations.ceiling);
                leftovers.extend(found);
            }
            Err(error) => failure = Some(error.chain()),
        }
    }
    match store::peek_blocking(&config.server.root_dir.join("attachments")) {
        Ok(peeked) => unreadable.extend(peeked.unreadable),
        Err(error) => failure = Some(error.chain()),
    }
    (leftovers, unreadable, failure)
}

/// What a step record says that is not complete; `None` for a complete one.
pub(super) fn leftover(
    kind: &'static str,
    id: String,
    record: &Value,
    now: Timestamp,
) -> Option<Leftover> {
    if record.get("complete").and_then(Value::as_bool) != Some(false) {
        return None;
    }
    let steps = record.get("steps").and_then(Value::as_array)?;
    let begun = record.get("created_at").and_then(Value::as_i64)?;
    Some(Leftover {
        kind,
        id,
        steps: steps
            .iter()
            .filter_map(|step| step.as_str().map(str::to_owned))
            .collect(),
        age: now.since(Timestamp(begun)),
    })
}
