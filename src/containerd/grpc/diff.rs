//! containerd's Diff service.

use std::sync::Arc;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient as Stub;
use futures::future::BoxFuture;

use super::channel::{Step, Wire, present};
use super::{convert, limits};
use crate::containerd::{Diff, RootfsMount};
use crate::model::{Descriptor, Digest, Result};

/// The service over the wire.
pub(super) struct RemoteDiff(pub(super) Arc<Wire>);

impl Diff for RemoteDiff {
    fn apply<'a>(
        &'a self,
        layer: &'a Descriptor,
        mounts: &'a [RootfsMount],
    ) -> BoxFuture<'a, Result<Digest>> {
        Box::pin(async move {
            let step = Step("unpack layer", layer.digest.as_str());
            let request = self.0.request(ApplyRequest {
                diff: Some(convert::wire_descriptor(layer, step)?),
                mounts: convert::wire_mounts(mounts),
                ..ApplyRequest::default()
            });
            let mut stub = Stub::new(self.0.control());
            let reply = self
                .0
                .call(step, limits::APPLY, stub.apply(request))
                .await?;
            present(reply.applied, step)?.digest.parse()
        })
    }
}
