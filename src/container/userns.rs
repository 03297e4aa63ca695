//! What containerd is told of a container whose pod has a user namespace, beside the spec.

use crate::containerd::Payload;
use crate::index::ContainerUser;
use crate::model::Result;
use crate::model::security::IdMapping;
use crate::sandbox::RuntimeHandler;
use crate::spec::UserMapping;

/// The labels that make a snapshotter which can remap ids do so: the layers stay as they are for every other container.
pub(super) fn snapshot_labels(mapping: UserMapping) -> [(String, String); 2] {
    let label = |name: &str, range: IdMapping| {
        (
            format!("containerd.io/snapshot/{name}"),
            format!("{}:{}:{}", range.container_id, range.host_id, range.length),
        )
    };
    [
        label("uidmapping", mapping.uid),
        label("gidmapping", mapping.gid),
    ]
}

/// The shim's options. In a user namespace the pipes of the standard streams belong to the process' own user: nobody in
/// there could open `/dev/stdout` otherwise. Without one they stay as they are, since not every runtime likes the option.
///
/// # Errors
/// `InvalidArgument` for a user that the pod's user namespace does not have.
pub(super) fn shim_options(
    handler: &RuntimeHandler,
    user: &ContainerUser,
    mapping: Option<UserMapping>,
) -> Result<Option<Payload>> {
    let options = handler.options.clone();
    let Some(mapping) = mapping else {
        return Ok(options);
    };
    let (uid, gid) = mapping.on_node(user.uid, user.gid)?;
    Ok(options.map(|options| options.with_io_owner(uid, gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_container_host_and_length() {
        let range = |host_id| IdMapping {
            container_id: 0,
            host_id,
            length: 65_536,
        };
        let mapping = UserMapping {
            uid: range(100_000),
            gid: range(200_000),
        };

        let labels = snapshot_labels(mapping);

        let expected = [
            ("containerd.io/snapshot/uidmapping", "0:100000:65536"),
            ("containerd.io/snapshot/gidmapping", "0:200000:65536"),
        ];
        assert_eq!(
            labels,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }
}
