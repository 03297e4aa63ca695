//! containerd's Images service.

use std::sync::Arc;

use containerd_client::services::v1::images_client::ImagesClient as Stub;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};
use futures::future::BoxFuture;

use super::channel::{MESSAGE_LIMIT, Step, Wire, present};
use super::traced::Traced;
use super::{convert, limits};
use crate::containerd::{ImageRecord, Images, LeaseId};
use crate::model::{Kind, Result};

/// How often a put looks again when others create and delete the same record meanwhile.
const ROUNDS: usize = 3;

/// The service over the wire.
pub(super) struct RemoteImages(pub(super) Arc<Wire>);

impl RemoteImages {
    fn stub(&self) -> Stub<Traced> {
        Stub::new(self.0.control()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    async fn create(&self, image: &ImageRecord, lease: Option<&LeaseId>) -> Result<()> {
        let step = Step("create image record", &image.name);
        let message = CreateImageRequest {
            image: Some(wire(image, step)?),
            ..CreateImageRequest::default()
        };
        let request = self.0.leased(message, lease)?;
        let mut stub = self.stub();
        self.0
            .call(step, limits::METADATA, stub.create(request))
            .await?;
        Ok(())
    }

    /// Writes the target and the given labels alone: an update without a mask would drop other clients' labels.
    async fn update(&self, image: &ImageRecord, lease: Option<&LeaseId>) -> Result<()> {
        let step = Step("update image record", &image.name);
        let message = UpdateImageRequest {
            image: Some(wire(image, step)?),
            update_mask: Some(convert::label_mask(&["target"], &image.labels)),
            ..UpdateImageRequest::default()
        };
        let request = self.0.leased(message, lease)?;
        let mut stub = self.stub();
        self.0
            .call(step, limits::METADATA, stub.update(request))
            .await?;
        Ok(())
    }
}

impl Images for RemoteImages {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ImageRecord>> {
        Box::pin(async move {
            let step = Step("get image record", name);
            let request = self.0.request(GetImageRequest {
                name: name.to_owned(),
            });
            let mut stub = self.stub();
            let reply = self
                .0
                .call(step, limits::METADATA, stub.get(request))
                .await?;
            record(present(reply.image, step)?, step)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ImageRecord>>> {
        Box::pin(async move {
            let step = Step("list image records", "");
            let request = self.0.request(ListImagesRequest::default());
            let mut stub = self.stub();
            let reply = self.0.call(step, limits::LIST, stub.list(request)).await?;
            let records = reply.images.into_iter().filter_map(|image| {
                let name = image.name.clone();
                record(image, step)
                    .inspect_err(|error| {
                        tracing::warn!(image = name, %error, "skip an image record we cannot read");
                    })
                    .ok()
            });
            Ok(records.collect())
        })
    }

    fn put<'a>(
        &'a self,
        image: &'a ImageRecord,
        lease: Option<&'a LeaseId>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut outcome = self.create(image, lease).await;
            for _round in 0..ROUNDS {
                outcome = match outcome {
                    Err(error) if error.kind() == Kind::AlreadyExists => {
                        self.update(image, lease).await
                    }
                    Err(error) if error.is_not_found() => self.create(image, lease).await,
                    other => return other,
                };
            }
            outcome
        })
    }

    fn delete<'a>(&'a self, name: &'a str, sync: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.0.request(DeleteImageRequest {
                name: name.to_owned(),
                sync,
                target: None,
            });
            let limit = if sync {
                limits::COLLECT
            } else {
                limits::METADATA
            };
            let mut stub = self.stub();
            let step = Step("delete image record", name);
            match self.0.call(step, limit, stub.delete(request)).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => other,
            }
        })
    }
}

fn record(image: Image, step: Step<'_>) -> Result<ImageRecord> {
    Ok(ImageRecord {
        target: convert::descriptor(present(image.target, step)?, step)?,
        labels: convert::labels(image.labels),
        created_at: convert::timestamp(image.created_at),
        name: image.name,
    })
}

fn wire(image: &ImageRecord, step: Step<'_>) -> Result<Image> {
    Ok(Image {
        name: image.name.clone(),
        labels: convert::wire_labels(&image.labels),
        target: Some(convert::wire_descriptor(&image.target, step)?),
        created_at: None,
        updated_at: None,
    })
}
