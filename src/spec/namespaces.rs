//! Which namespaces a container gets or joins (contract: pods 3.2, 3.3).

use std::path::Path;

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType as Kind,
};

use crate::model::security::{IdMapping, NamespaceMode as Mode, Namespaces};
use crate::model::{Classify, Error, Kind as ErrorKind, Pid, Result};

use super::base::namespace;
use super::input::ContainerInput;

/// The uid and gid mapping of a pod's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserMapping {
    /// User ids.
    pub uid: IdMapping,
    /// Group ids.
    pub gid: IdMapping,
}

impl UserMapping {
    /// What the node calls user `uid` and group `gid` of the pod.
    ///
    /// # Errors
    /// `InvalidArgument` where the mapping leaves one of them out.
    pub fn on_node(self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        Ok((
            on_node("user", self.uid, uid)?,
            on_node("group", self.gid, gid)?,
        ))
    }

    pub(super) fn uids(self) -> Result<Vec<LinuxIdMapping>> {
        to_oci(&[self.uid])
    }

    pub(super) fn gids(self) -> Result<Vec<LinuxIdMapping>> {
        to_oci(&[self.gid])
    }
}

fn on_node(what: &str, range: IdMapping, id: u32) -> Result<u32> {
    let offset = id.checked_sub(range.container_id);
    offset
        .filter(|offset| *offset < range.length)
        .and_then(|offset| range.host_id.checked_add(offset))
        .ok_or_else(|| {
            Error::invalid(format!(
                "{what} {id}: the pod's user namespace maps only {} ids from {} on",
                range.length, range.container_id
            ))
        })
}

pub(super) fn to_oci(ranges: &[IdMapping]) -> Result<Vec<LinuxIdMapping>> {
    let one = |range: &IdMapping| {
        LinuxIdMappingBuilder::default()
            .host_id(range.host_id)
            .container_id(range.container_id)
            .size(range.length)
            .build()
            .classify(ErrorKind::Internal, || "id mapping".into())
    };
    ranges.iter().map(one).collect()
}

/// Judges a pod's namespace choices; `Some` where it asks for a user namespace. Called before anything is made, so that
/// RunPodSandbox itself fails (cri: critest's user namespace specs).
///
/// # Errors
/// `InvalidArgument` on modes that a pod cannot have, or mappings that are not exactly one range each from id 0 on.
pub(super) fn check_pod(asked: &Namespaces) -> Result<Option<UserMapping>> {
    let node_or_pod = |name: &str, mode: Mode| match mode {
        Mode::Pod | Mode::Node => Ok(()),
        other => Err(Error::invalid(format!(
            "{name} namespace: a pod can have mode POD or NODE, not {other:?}"
        ))),
    };
    node_or_pod("network", asked.network)?;
    node_or_pod("ipc", asked.ipc)?;
    if asked.pid == Mode::Target {
        return Err(Error::invalid(
            "pid namespace: mode TARGET names a container, a pod cannot have it",
        ));
    }
    user(asked)
}

/// The user namespace that container and pod both ask for.
///
/// # Errors
/// `InvalidArgument` where they ask for different ones, or for one that cannot be.
pub fn shared_user_mapping(
    container: &Namespaces,
    pod: &Namespaces,
) -> Result<Option<UserMapping>> {
    let mapping = user(container)?;
    if mapping == user(pod)? {
        return Ok(mapping);
    }
    Err(Error::invalid(
        "user namespace: container and pod must ask for the same mode and mappings",
    ))
}

/// The user namespace alone that a pod or a container asks for; `None` for the node's.
///
/// # Errors
/// `InvalidArgument` on modes that cannot be, or mappings that are not exactly one range each from id 0 on.
pub fn user(asked: &Namespaces) -> Result<Option<UserMapping>> {
    let Some(user) = &asked.user else {
        return Ok(None);
    };
    match user.mode {
        Mode::Node if user.uids.is_empty() && user.gids.is_empty() => Ok(None),
        Mode::Node => Err(Error::invalid(
            "user namespace: mode NODE takes no id mappings",
        )),
        Mode::Pod => Ok(Some(UserMapping {
            uid: only_range("uid", &user.uids)?,
            gid: only_range("gid", &user.gids)?,
        })),
        other => Err(Error::invalid(format!(
            "user namespace: mode POD or NODE, not {other:?}"
        ))),
    }
}

fn only_range(name: &str, ranges: &[IdMapping]) -> Result<IdMapping> {
    let [range] = ranges else {
        return Err(Error::invalid(format!(
            "user namespace: want exactly one {name} mapping, got {}",
            ranges.len()
        )));
    };
    if range.length == 0 {
        return Err(Error::invalid(format!(
            "user namespace: the {name} mapping is empty"
        )));
    }
    if range.container_id != 0 {
        return Err(Error::invalid(format!(
            "user namespace: the {name} mapping does not map id 0 of the container"
        )));
    }
    if range.host_id.checked_add(range.length).is_none() {
        return Err(Error::invalid(format!(
            "user namespace: the {name} mapping ends beyond the last id"
        )));
    }
    Ok(*range)
}

/// `linux.namespaces` of a pause container. `netns` is the pinned one, absent on the node's network.
pub(super) fn pause(
    asked: &Namespaces,
    base: Vec<LinuxNamespace>,
    netns: Option<&Path>,
    userns: Option<&Path>,
) -> Result<Vec<LinuxNamespace>> {
    let mapping = check_pod(asked)?;
    let on_node = asked.network == Mode::Node;
    if on_node != netns.is_none() {
        return Err(Error::internal(
            "pause spec: a network namespace goes with network mode POD and only with it",
        ));
    }
    let mut entries = Vec::with_capacity(base.len() + 1);
    for entry in base {
        match entry.typ() {
            Kind::Network | Kind::Uts if on_node => {}
            Kind::Pid if asked.pid == Mode::Node => {}
            Kind::Ipc if asked.ipc == Mode::Node => {}
            Kind::Network => entries.push(namespace(Kind::Network, netns.map(text))),
            _ => entries.push(entry),
        }
    }
    if mapping.is_some() {
        entries.push(namespace(Kind::User, userns.map(text)));
    }
    Ok(entries)
}

/// `linux.namespaces` of a workload container, which joins those of the pause process.
pub(super) fn container(
    input: &ContainerInput<'_>,
    base: Vec<LinuxNamespace>,
) -> Result<Vec<LinuxNamespace>> {
    let asked = &input.config.security.namespaces;
    let mapping = shared_user_mapping(asked, &input.pod.security.namespaces)?;
    let of_pause = |name| Some(proc_path(input.sandbox_pid, name));
    let mut entries = base;
    set(&mut entries, Kind::Network, of_pause("net"));
    set(&mut entries, Kind::Ipc, of_pause("ipc"));
    set(&mut entries, Kind::Uts, of_pause("uts"));
    match asked.pid {
        Mode::Container => set(&mut entries, Kind::Pid, None),
        Mode::Pod | Mode::Node => set(&mut entries, Kind::Pid, of_pause("pid")),
        Mode::Target => {
            let target = input.target_pid.ok_or_else(|| {
                Error::internal("container spec: pid mode TARGET without the target's process")
            })?;
            set(&mut entries, Kind::Pid, Some(proc_path(target, "pid")));
        }
    }
    if mapping.is_some() {
        set(&mut entries, Kind::User, of_pause("user"));
    }
    if input.has_cgroup_namespace() {
        set(&mut entries, Kind::Cgroup, None);
    }
    Ok(entries)
}

fn set(entries: &mut Vec<LinuxNamespace>, kind: Kind, path: Option<String>) {
    let entry = namespace(kind, path);
    match entries.iter_mut().find(|old| old.typ() == kind) {
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
}

fn proc_path(pid: Pid, name: &str) -> String {
    format!("/proc/{pid}/ns/{name}")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::security::UserNamespace;

    fn range(container_id: u32, host_id: u32, length: u32) -> IdMapping {
        IdMapping {
            host_id,
            container_id,
            length,
        }
    }

    fn asked(mode: Mode, uids: &[IdMapping], gids: &[IdMapping]) -> Namespaces {
        Namespaces {
            user: Some(UserNamespace {
                mode,
                uids: uids.to_vec(),
                gids: gids.to_vec(),
            }),
            ..Namespaces::default()
        }
    }

    #[test]
    fn user_namespaces_want_one_range_each_from_id_zero() {
        let good = range(0, 100_000, 65_536);

        let mapping = check_pod(&asked(Mode::Pod, &[good], &[good])).unwrap();

        assert_eq!(
            mapping,
            Some(UserMapping {
                uid: good,
                gid: good
            })
        );
        for bad in [
            asked(Mode::Pod, &[], &[]),
            asked(Mode::Pod, &[good], &[]),
            asked(Mode::Pod, &[good, range(1, 200_000, 1)], &[good]),
            asked(Mode::Pod, &[range(0, 1, 0)], &[good]),
            asked(Mode::Pod, &[range(1, 100_000, 10)], &[good]),
            asked(Mode::Pod, &[range(0, u32::MAX, 2)], &[good]),
            asked(Mode::Node, &[good], &[good]),
            asked(Mode::Container, &[good], &[good]),
            asked(Mode::Target, &[good], &[good]),
        ] {
            assert_eq!(
                check_pod(&bad).unwrap_err().kind(),
                crate::model::Kind::InvalidArgument,
                "{bad:?}"
            );
        }
        assert_eq!(check_pod(&asked(Mode::Node, &[], &[])).unwrap(), None);
    }

    #[test]
    fn the_node_knows_the_pods_users_by_other_ids() {
        let mapping = UserMapping {
            uid: range(0, 100_000, 1_000),
            gid: range(0, 200_000, 10),
        };

        assert_eq!(mapping.on_node(999, 9).unwrap(), (100_999, 200_009));
        assert!(mapping.on_node(1_000, 0).is_err());
        assert!(mapping.on_node(0, 10).is_err());
    }

    #[test]
    fn container_and_pod_ask_for_the_same_user_namespace() {
        let good = range(0, 100_000, 65_536);
        let with = asked(Mode::Pod, &[good], &[good]);
        let other = asked(Mode::Pod, &[range(0, 200_000, 65_536)], &[good]);
        let without = Namespaces::default();
        let node = asked(Mode::Node, &[], &[]);

        assert!(shared_user_mapping(&with, &with).unwrap().is_some());
        assert!(shared_user_mapping(&without, &node).unwrap().is_none());
        for (container, pod) in [(&with, &without), (&node, &with), (&with, &other)] {
            assert!(shared_user_mapping(container, pod).is_err());
        }
    }

    #[test]
    fn a_pod_has_no_target_and_no_network_of_a_container() {
        for bad in [
            Namespaces {
                pid: Mode::Target,
                ..Namespaces::default()
            },
            Namespaces {
                network: Mode::Container,
                ..Namespaces::default()
            },
            Namespaces {
                ipc: Mode::Target,
                ..Namespaces::default()
            },
        ] {
            assert!(check_pod(&bad).is_err(), "{bad:?}");
        }
    }
}
