//! Pure functions from model and host facts to the OCI runtime spec. No I/O: whoever calls has looked things up.
//!
//! [`pause`] and [`container`] start from `base.rs` and fill in, in a fixed order, process, namespaces, mounts,
//! devices and resources, confinement, annotations. Where capabilities go before seccomp, or the request's paths before
//! what privilege clears, the order is part of the contract.

mod accounts;
mod annotations;
pub mod apparmor;
mod apparmor_text;
mod base;
mod capabilities;
mod cgroup_path;
mod classes;
mod codec;
mod container;
mod devices;
mod edits;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod host_files;
mod input;
mod lexical;
mod mounts;
mod namespaces;
mod pause;
mod process;
mod resources;
mod seccomp;
mod seccomp_file;
mod seccomp_table;
pub mod selinux;
mod sysctls;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod user;

pub use accounts::{Accounts, MAX_FILE_BYTES as MAX_ACCOUNT_FILE_BYTES};
pub use annotations::{CONTAINER_TYPE, SANDBOX_ID, shell_match};
pub use apparmor_text::default_profile as apparmor_default_profile;
pub use classes::{apply_classes, asked_classes};
pub use codec::{decode_spec, encode_process, encode_spec, scheduler_flag, scheduler_flag_word};
pub use container::container;
pub use edits::apply_edits;
pub use input::{
    ContainerInput, ImageVolume, PauseInput, PauseProgram, ResolvedDevice, ResolvedMount,
    SandboxFiles, SelinuxLabels, SpecOptions,
};
pub use lexical::clean as clean_path;
pub use mounts::check_mount;
pub use namespaces::{UserMapping, shared_user_mapping, user as user_mapping};
pub use pause::{check_pod, pause};
pub use process::{check_command, exec, set_console_size};
pub use resources::{effective as effective_resources, updated as update_resources};
pub use seccomp_file::{MAX_PROFILE_BYTES as MAX_SECCOMP_PROFILE_BYTES, path_of as seccomp_path};
pub use sysctls::concern_network as sysctls_concern_network;
pub use user::{
    ImageUser, NameOrId, ProcessUser, effective as effective_user, resolve as resolve_user,
};
