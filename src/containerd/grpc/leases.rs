//! containerd's Leases service.

use std::collections::BTreeMap;
use std::sync::Arc;

use containerd_client::services::v1::leases_client::LeasesClient as Stub;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, ListResourcesRequest, Resource,
};
use futures::future::BoxFuture;

use super::channel::{MESSAGE_LIMIT, Step, Wire};
use super::traced::Traced;
use super::{convert, limits};
use crate::containerd::{LeaseId, LeaseInfo, Leased, Leases};
use crate::model::{Classify as _, Kind, Result, Timestamp};

/// Label that tells containerd's garbage collector when a lease ends, in RFC 3339.
const EXPIRE: &str = "containerd.io/gc.expire";

/// The service over the wire.
pub(super) struct RemoteLeases(pub(super) Arc<Wire>);

impl RemoteLeases {
    fn stub(&self) -> Stub<Traced> {
        Stub::new(self.0.control()).max_decoding_message_size(MESSAGE_LIMIT)
    }
}

impl Leases for RemoteLeases {
    fn create<'a>(
        &'a self,
        id: &'a LeaseId,
        expire: Option<Timestamp>,
        mut labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if let Some(expire) = expire {
                labels.insert(EXPIRE.to_owned(), rfc3339(expire)?);
            }
            let request = self.0.request(CreateRequest {
                id: id.0.clone(),
                labels: convert::wire_labels(&labels),
            });
            let mut stub = self.stub();
            let step = Step("create lease", &id.0);
            match self
                .0
                .call(step, limits::METADATA, stub.create(request))
                .await
            {
                Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
                other => other.map(drop),
            }
        })
    }

    fn delete<'a>(&'a self, id: &'a LeaseId, sync: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.0.request(DeleteRequest {
                id: id.0.clone(),
                sync,
            });
            let mut stub = self.stub();
            let step = Step("delete lease", &id.0);
            let limit = if sync {
                limits::COLLECT
            } else {
                limits::METADATA
            };
            match self.0.call(step, limit, stub.delete(request)).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => other,
            }
        })
    }

    fn list<'a>(&'a self, label: (&'a str, &'a str)) -> BoxFuture<'a, Result<Vec<LeaseId>>> {
        Box::pin(async move {
            let request = self.0.request(ListRequest {
                filters: vec![convert::label_equals(label.0, label.1)],
            });
            let mut stub = self.stub();
            let step = Step("list leases", "");
            let reply = self
                .0
                .call(step, limits::METADATA, stub.list(request))
                .await?;
            Ok(reply
                .leases
                .into_iter()
                .map(|lease| LeaseId(lease.id))
                .collect())
        })
    }

    fn list_all(&self) -> BoxFuture<'_, Result<Vec<LeaseInfo>>> {
        Box::pin(async move {
            let request = self.0.request(ListRequest::default());
            let mut stub = self.stub();
            let step = Step("list leases", "");
            let reply = self
                .0
                .call(step, limits::METADATA, stub.list(request))
                .await?;
            let leases = reply.leases.into_iter();
            Ok(leases
                .map(|lease| LeaseInfo {
                    id: LeaseId(lease.id),
                    created_at: convert::timestamp(lease.created_at),
                })
                .collect())
        })
    }

    fn resources<'a>(&'a self, id: &'a LeaseId) -> BoxFuture<'a, Result<Vec<Leased>>> {
        Box::pin(async move {
            let request = self.0.request(ListResourcesRequest { id: id.0.clone() });
            let mut stub = self.stub();
            let step = Step("list what is leased", &id.0);
            let reply = self
                .0
                .call(step, limits::METADATA, stub.list_resources(request))
                .await?;
            Ok(reply.resources.into_iter().map(leased).collect())
        })
    }

    fn add_resource<'a>(
        &'a self,
        id: &'a LeaseId,
        kind: &'a str,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.0.request(AddResourceRequest {
                id: id.0.clone(),
                resource: Some(Resource {
                    id: resource.to_owned(),
                    r#type: kind.to_owned(),
                }),
            });
            let mut stub = self.stub();
            let step = Step("add to lease", &id.0);
            self.0
                .call(step, limits::METADATA, stub.add_resource(request))
                .await
        })
    }
}

fn leased(resource: Resource) -> Leased {
    match resource.r#type.as_str() {
        "content" => Leased::Content(resource.id),
        "ingests" => Leased::Ingest(resource.id),
        kind => match kind.strip_prefix("snapshots/") {
            Some(snapshotter) => Leased::Snapshot(snapshotter.to_owned(), resource.id),
            None => Leased::Other(resource.r#type, resource.id),
        },
    }
}

fn rfc3339(time: Timestamp) -> Result<String> {
    let whole_seconds = jiff::Timestamp::from_second(time.parts().0);
    let time =
        whole_seconds.classify(Kind::InvalidArgument, || format!("lease expiry {}", time.0))?;
    Ok(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_written_as_rfc_3339() {
        let time = Timestamp::from_parts(1_700_000_000, 5);
        assert_eq!(rfc3339(time).unwrap(), "2023-11-14T22:13:20Z");
    }
}
