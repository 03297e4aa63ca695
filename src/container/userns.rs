//! What containerd is told of a container whose pod has a user namespace, beside the spec.

use crate::containerd::Payload;
use crate::index::ContainerUser;
use crate::model::Result;
use crate::sandbox::RuntimeHandler;
use crate::spec::UserMapping;

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
