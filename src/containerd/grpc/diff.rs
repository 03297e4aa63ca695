//! containerd's Diff service.

use std::sync::Arc;

use containerd_client::services::v1::diff_client::DiffClient as Stub;
use containerd_client::services::v1::{ApplyRequest, DiffRequest};
use futures::future::BoxFuture;

use super::channel::{Step, Wire, present};
use super::{convert, limits};
use crate::containerd::{Diff, LeaseId, RootfsMount};
use crate::model::{Descriptor, Digest, Result};

/// What changes are packed as.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

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

    fn compare<'a>(
        &'a self,
        lower: &'a [RootfsMount],
        upper: &'a [RootfsMount],
        lease: &'a LeaseId,
    ) -> BoxFuture<'a, Result<Descriptor>> {
        Box::pin(async move {
            let step = Step("pack changes under", &lease.0);
            let message = DiffRequest {
                left: convert::wire_mounts(lower),
                right: convert::wire_mounts(upper),
                media_type: LAYER.to_owned(),
                r#ref: lease.0.clone(),
                ..DiffRequest::default()
            };
            let request = self.0.leased(message, Some(lease))?;
            let mut stub = Stub::new(self.0.control());
            let reply = self
                .0
                .call(step, limits::CAPTURE, stub.diff(request))
                .await?;
            convert::descriptor(present(reply.diff, step)?, step)
        })
    }
}
