//! Traces: each call, operation and step as a span, sent to a collector over OTLP, below the trace of whoever called.
//!
//! ```text
//! headers of a call ──> Rpc::served ── Place ──> operations, steps, plugins (Span) ──> Rpc::made ──> headers to containerd
//!                            └──────────┴── ended spans ──> queue ──> a thread of its own ──> collector
//! ```
//!
//! Off unless the environment names a collector, and then nothing has a place: what would make a span looks once and goes
//! on. No call ever waits for the collector.

mod headers;
mod place;
mod queue;
mod rpc;
mod sampler;
mod settings;
mod transport;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanExporter as _};
use tokio::sync::oneshot;
use tonic::codegen::http::HeaderMap;

pub use place::{Place, Span};
pub use queue::Counts;
pub use rpc::Rpc;
pub use settings::Settings;

use crate::model::{Classify as _, Error, Kind, Result};
use queue::Flush;
use sampler::CallSampler;

/// Traces that are taken. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Traces {
    tracer: SdkTracer,
    flush: Flush,
    counts: Counts,
}

impl Traces {
    /// Takes traces as `settings` say, of the node called `host`.
    ///
    /// # Errors
    /// `InvalidArgument` where the way to the collector is described wrongly. Whether the collector is there shows later.
    pub async fn start(settings: Settings, host: &str) -> Result<Self> {
        let counts = Counts::default();
        let (inlet, outlet, flush) = queue::queue(&counts);
        // What the environment says of resources goes over what we say.
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("host.name", host.to_owned()),
            ])
            .with_detectors(&[
                Box::new(TelemetryResourceDetector),
                Box::new(EnvResourceDetector::new()),
            ])
            .with_service_name(settings.service.clone())
            .build();
        let provider = SdkTracerProvider::builder()
            .with_sampler(CallSampler(settings.sampler.clone()))
            .with_resource(resource.clone())
            .with_span_processor(inlet)
            .build();
        // A runtime of its own: sending goes on whatever the server's is busy with, and keeps none of it busy.
        let (tell, told) = oneshot::channel();
        let sending = move || match Self::ready_blocking(&settings, &resource) {
            Ok((runtime, exporter)) => {
                drop(tell.send(Ok(())));
                runtime.block_on(outlet.empty(|batch| exporter.export(batch)));
            }
            Err(error) => drop(tell.send(Err(error))),
        };
        std::thread::Builder::new()
            .name("traces".into())
            .spawn(sending)
            .classify(Kind::Internal, || "start the thread of traces".into())?;
        told.await
            .map_err(|_dropped| Error::internal("the thread of traces ended early"))??;
        Ok(Self {
            tracer: provider.tracer("podwright"),
            flush,
            counts,
        })
    }

    fn ready_blocking(
        settings: &Settings,
        resource: &Resource,
    ) -> Result<(tokio::runtime::Runtime, opentelemetry_otlp::SpanExporter)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .classify(Kind::Internal, || "make a runtime for traces".into())?;
        let entered = runtime.enter();
        let mut exporter = transport::exporter_blocking(settings)?;
        exporter.set_resource(resource);
        drop(entered);
        Ok((runtime, exporter))
    }

    /// A call that is being served: of the method at `path`, with these headers.
    pub fn serve(&self, path: &str, headers: &HeaderMap) -> Rpc {
        Rpc::served(&Place::below_caller(self.tracer.clone(), headers), path)
    }

    /// What became of spans.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Has sent what has ended so far, as far as `limit` allows.
    pub async fn flush(&self, limit: Duration) {
        if !self.flush.within(limit).await {
            tracing::warn!(
                ?limit,
                "the last traces did not reach their collector in time"
            );
        }
    }
}

#[cfg(test)]
mod tests;
