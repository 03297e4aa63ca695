//! A collector of traces, over HTTP and over gRPC, that keeps what it is sent.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::case::Outcome;

/// What a collector was sent.
#[derive(Clone, Default)]
pub(super) struct Collected(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Collected {
    fn keep(&self, request: ExportTraceServiceRequest) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(request);
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// Every span so far.
    pub(super) fn spans(&self) -> Vec<Span> {
        let requests = self.requests().into_iter();
        let resources = requests.flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// What whoever sent them says of itself under `key`.
    pub(super) fn resource(&self, key: &str) -> Option<String> {
        let request = self.requests().into_iter().next()?;
        let resource = request.resource_spans.into_iter().next()?.resource?;
        text(&resource.attributes, key)
    }

    /// Waits until a span is there that `is_it` knows, and for those that come with it.
    pub(super) async fn until(&self, is_it: impl Fn(&Span) -> bool) -> Outcome<Vec<Span>> {
        for _ in 0..300 {
            if self.spans().iter().any(&is_it) {
                // Ended at the same time, and sent with the next lot.
                tokio::time::sleep(Duration::from_secs(3)).await;
                return Ok(self.spans());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let names: Vec<_> = self.spans().into_iter().map(|span| span.name).collect();
        Err(format!("the span did not come within 30 s, but {names:?}").into())
    }
}

/// An attribute's text.
pub(super) fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == key)?;
    match &found.value {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => Some(text.clone()),
        Some(AnyValue {
            value: Some(Value::IntValue(number)),
        }) => Some(number.to_string()),
        _ => None,
    }
}

/// Takes traces in HTTP requests until it is dropped.
pub(super) async fn over_http(listener: TcpListener, collected: Collected) -> Outcome {
    loop {
        let (stream, _) = listener.accept().await?;
        let take = hyper::service::service_fn(|request: Request<Incoming>| {
            let collected = collected.clone();
            async move { Ok::<_, Infallible>(taken(request, &collected).await) }
        });
        // One connection at a time is all that one client makes.
        let connection = hyper::server::conn::http1::Builder::new();
        drop(
            connection
                .serve_connection(TokioIo::new(stream), take)
                .await,
        );
    }
}

async fn taken(request: Request<Incoming>, collected: &Collected) -> Response<Full<Bytes>> {
    let answer = |status: u16| {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = status.try_into().unwrap_or_default();
        response
    };
    let is_it = request.method() == "POST"
        && request.uri().path() == "/v1/traces"
        && request
            .headers()
            .get("content-type")
            .is_some_and(|it| it == "application/x-protobuf");
    let Ok(body) = request.into_body().collect().await else {
        return answer(400);
    };
    match ExportTraceServiceRequest::decode(body.to_bytes()) {
        Ok(request) if is_it => {
            collected.keep(request);
            answer(200)
        }
        _ => answer(400),
    }
}

/// Takes traces over gRPC until it is dropped.
pub(super) async fn over_grpc(listener: TcpListener, collected: Collected) -> Outcome {
    let service = TraceServiceServer::new(collected);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener))
        .await?;
    Ok(())
}

#[tonic::async_trait]
impl TraceService for Collected {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.keep(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}
