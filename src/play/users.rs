//! The users of a pod with `hostUsers: false`: a range of the node's ids that belongs to nobody else.

use sha2::{Digest as _, Sha256};

use super::defaults::Plan;
use crate::model::{Error, Result};
use crate::wire::cri;

/// Ids that a pod has, as kubelet gives them.
const LENGTH: u32 = 65_536;
/// Ranges between the node's own ids and the largest id that every program takes.
const RANGES: u32 = 32_766;

/// The pod's range of ids, from its uid: there is no book of ranges to keep, and an attempt of the pod finds its files as
/// the one before left them. `None` where the pod has the node's users.
fn range(plan: &Plan) -> Option<cri::IdMapping> {
    if plan.spec.host_users != Some(false) {
        return None;
    }
    let digest = Sha256::digest(plan.uid.as_bytes());
    let number = digest
        .iter()
        .take(4)
        .fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
    Some(cri::IdMapping {
        host_id: (number % RANGES + 1).saturating_mul(LENGTH),
        container_id: 0,
        length: LENGTH,
    })
}

/// The user namespace of the pod; `None` where it has the node's.
///
/// # Errors
/// `InvalidArgument` where the pod asks for processes or IPC of the node as well, which its users could not reach.
pub(super) fn namespace(plan: &Plan) -> Result<Option<cri::UserNamespace>> {
    let Some(range) = range(plan) else {
        return Ok(None);
    };
    for (field, asked) in [
        ("hostPID", plan.spec.host_pid),
        ("hostIPC", plan.spec.host_ipc),
    ] {
        if asked == Some(true) {
            return Err(Error::invalid(format!(
                "hostUsers: false does not go with {field}: true"
            )));
        }
    }
    Ok(Some(cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: vec![range],
        gids: vec![range],
    }))
}

/// Makes the files of all mounts belong to the pod's users.
pub(super) fn map(plan: &Plan, mounts: &mut [cri::Mount]) {
    let Some(range) = range(plan) else { return };
    for mount in mounts {
        mount.uid_mappings = vec![range];
        mount.gid_mappings = vec![range];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::testing;

    fn plan(uid: &str, more: &str) -> Plan {
        let spec = format!("hostUsers: false\n{more}containers: [{{name: a, image: i}}]");
        Plan {
            uid: uid.to_owned(),
            ..testing::plan(&spec)
        }
    }

    #[test]
    fn a_pod_keeps_its_range_and_others_have_others() {
        let of = |uid: &str| range(&plan(uid, "")).unwrap();

        assert_eq!(of("one"), of("one"));
        assert_ne!(of("one").host_id, of("two").host_id);
        for uid in ["", "a", "b", "c"] {
            let range = of(uid);
            assert_eq!((range.container_id, range.length), (0, 65_536));
            assert!(range.host_id >= 65_536 && range.host_id % 65_536 == 0);
            assert!(i32::try_from(range.host_id + range.length).is_ok());
        }
    }

    #[test]
    fn the_namespace_is_the_pods_and_mounts_are_mapped() {
        let plan = plan("u", "");
        let mut mounts = vec![cri::Mount::default()];

        map(&plan, &mut mounts);
        let namespace = namespace(&plan).unwrap().unwrap();

        assert_eq!(namespace.mode(), cri::NamespaceMode::Pod);
        assert_eq!(mounts[0].uid_mappings, namespace.uids);
        assert_eq!(mounts[0].gid_mappings, namespace.gids);
    }

    #[test]
    fn a_pod_of_the_nodes_users_is_left_alone() {
        let plan = testing::plan("hostUsers: true\ncontainers: [{name: a, image: i}]");
        let mut mounts = vec![cri::Mount::default()];

        map(&plan, &mut mounts);

        assert_eq!(mounts, [cri::Mount::default()]);
        assert_eq!(namespace(&plan).unwrap(), None);
    }

    #[test]
    fn the_nodes_processes_are_not_for_mapped_users() {
        for field in ["hostPID: true\n", "hostIPC: true\n"] {
            assert!(namespace(&plan("u", field)).is_err(), "{field}");
        }
    }
}
