//! The CRI services: one thin handler a method through one `serve` wrapper.
//!
//! A handler decodes, delegates, encodes. The wrapper opens the span, refuses work while the node recovers, times, logs
//! the outcome once and maps the error once.

mod checkpoint;
mod convert;
pub mod deadline;
mod events;
#[cfg(test)]
mod fields;
mod identity;
mod image;
mod lists;
mod node;
mod runtime;
mod serve;
mod stats;
mod status;
mod streams;
mod timeline;
mod views;

pub use identity::{HandlerFeatures, Identity, NodeStatus};
pub use image::Images;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::container::Containers;
use crate::sandbox::{Deps, Sandboxes};
use crate::stats::Stats;
use crate::streaming::Streaming;
use crate::telemetry::Calls;
use crate::wire::cri::image_service_server::ImageServiceServer;
use crate::wire::cri::runtime_service_server::RuntimeServiceServer;

/// Both CRI services. Cloning gives another handle.
#[derive(Clone)]
pub struct Service {
    deps: Arc<Deps>,
    sandboxes: Sandboxes,
    containers: Containers,
    images: Arc<dyn Images>,
    identity: Arc<dyn Identity>,
    streaming: Streaming,
    stats: Stats,
    calls: Calls,
    recovered: Arc<AtomicBool>,
}

impl Service {
    /// The services over the lifecycles. They refuse everything but Version and Status until [`Self::open`].
    pub fn new(
        sandboxes: Sandboxes,
        containers: Containers,
        images: Arc<dyn Images>,
        identity: Arc<dyn Identity>,
        streaming: Streaming,
        stats: Stats,
    ) -> Self {
        let deps = Arc::clone(sandboxes.deps());
        Self {
            deps,
            sandboxes,
            containers,
            images,
            identity,
            streaming,
            stats,
            calls: Calls::default(),
            recovered: Arc::default(),
        }
    }

    /// Recovery is done: every method answers from now on.
    pub fn open(&self) {
        self.recovered.store(true, Ordering::Release);
    }

    /// The calls of both services since the start.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The gRPC service of pods and containers, for messages of at most `limit` bytes.
    pub fn runtime_server(&self, limit: usize) -> RuntimeServiceServer<Self> {
        RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }

    /// The gRPC service of images, for messages of at most `limit` bytes.
    pub fn image_server(&self, limit: usize) -> ImageServiceServer<Self> {
        ImageServiceServer::new(self.clone())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }
}
