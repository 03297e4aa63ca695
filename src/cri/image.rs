//! ImageService: one thin handler a method.

use futures::future::BoxFuture;
use tonic::{Request, Response, Status};

use crate::model::{Error, Result};
use crate::wire::cri;
use crate::wire::cri::image_service_server::ImageService;

use super::Service;
use super::serve::{Replies, Weight, batches, head, note, within_limit};
use super::timeline;

/// As much of a reference as the log shows.
const REFERENCE_SHOWN: usize = 256;

/// What the service asks of the image room, in messages; `server` wires it.
pub trait Images: Send + Sync {
    /// The images that `reference` means; all where it is empty.
    ///
    /// # Errors
    /// `InvalidArgument` for an ambiguous id.
    fn list(&self, reference: &str) -> Result<Vec<cri::Image>>;
    /// One image with verbose facts; `None` where it is not here.
    fn status<'a>(
        &'a self,
        reference: &'a str,
        verbose: bool,
    ) -> BoxFuture<'a, Result<cri::ImageStatusResponse>>;
    /// Pulls and answers the image's id.
    fn pull(&self, request: cri::PullImageRequest) -> BoxFuture<'_, Result<String>>;
    /// Removes an image with all its names.
    fn remove<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<()>>;
    /// What images take on disk.
    ///
    /// # Errors
    /// `Unavailable` before the first sample.
    fn fs_info(&self) -> Result<cri::ImageFsInfoResponse>;
}

fn named(image: Option<cri::ImageSpec>) -> Result<String> {
    let name = image.map(|image| image.image).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::invalid("image.image: empty; name an image"));
    }
    Ok(name)
}

fn filter(filter: Option<cri::ImageFilter>) -> String {
    filter
        .and_then(|filter| filter.image)
        .map(|image| image.image)
        .unwrap_or_default()
}

#[tonic::async_trait]
impl ImageService for Service {
    type StreamImagesStream = Replies<cri::StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        self.serve("ListImages", Weight::Read, async {
            let images = self.images.list(&filter(request.into_inner().filter))?;
            within_limit(cri::ListImagesResponse { images }, "StreamImages")
        })
        .await
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        self.serve("StreamImages", Weight::Read, async {
            let images = self.images.list(&filter(request.into_inner().filter))?;
            Ok(batches(images, |images| cri::StreamImagesResponse {
                images,
            }))
        })
        .await
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        self.serve("ImageStatus", Weight::Read, async {
            let request = request.into_inner();
            self.images
                .status(&named(request.image)?, request.verbose)
                .await
        })
        .await
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        self.serve("PullImage", Weight::Make, async {
            let request = request.into_inner();
            let name = named(request.image.clone())?;
            note("image.ref", head(&name, REFERENCE_SHOWN));
            let (pod, began) = (timeline::pod_of(&request), self.deps.clock.now());
            let pulled = self.images.pull(request).await;
            if let Some(pod) = pod {
                self.note_pull(&pod, head(&name, REFERENCE_SHOWN), began);
            }
            pulled.map(|image_ref| cri::PullImageResponse { image_ref })
        })
        .await
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        self.serve("RemoveImage", Weight::Write, async {
            let name = named(request.into_inner().image)?;
            note("image.ref", head(&name, REFERENCE_SHOWN));
            self.images.remove(&name).await?;
            Ok(cri::RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(
        &self,
        _request: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        self.serve("ImageFsInfo", Weight::Read, async { self.images.fs_info() })
            .await
    }
}
