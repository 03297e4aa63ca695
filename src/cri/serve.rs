//! What happens around every method.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::Stream;
use tonic::{Code, Response, Status};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::index::PodView;
use crate::model::{Error, Kind, PodIdentity, Result};
use crate::telemetry::codes;
use crate::telemetry::traces::Place;
use crate::wire::Message;

use super::Service;

/// A handler's answer.
pub(super) type Answer<T> = Result<Response<T>, Status>;

/// A server stream of replies.
pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Items of a list in one message of a streaming list, at most.
const BATCH: usize = 500;
/// Bytes of them, unless one alone has more; far below the clients' message limit.
const BATCH_BYTES: usize = 4 << 20;
/// The largest reply that every client takes: kubelet's and crictl's limit, less what gRPC adds (threats §4).
const REPLY_BYTES: usize = (16 << 20) - (64 << 10);
/// As much as an id of ours has.
const ID_SHOWN: usize = 64;

/// Numbers the requests of this process, so that the lines of one can be told from those of its retry.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// How a method's outcome is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Polled all the time: success is a debug line.
    Read,
    /// Changes something: one info line at its end.
    Write,
    /// As `Write`, and refused at once while containerd is away.
    Make,
    /// As `Read`, and answered even while the node recovers.
    Always,
}

impl Weight {
    /// Whether the method changes something.
    fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Make)
    }
}

impl Service {
    /// Whether a method of this weight may run now.
    fn admit(&self, weight: Weight) -> Result<()> {
        if weight != Weight::Always && !self.recovered.load(Ordering::Acquire) {
            return Err(Error::unavailable(
                "podwright is recovering the state of this node; try again shortly",
            ));
        }
        match weight {
            Weight::Make => self.identity.ensure_backend(),
            Weight::Read | Weight::Write | Weight::Always => Ok(()),
        }
    }

    /// Names the sandbox that a request means, and its pod, in the request's span.
    pub(super) fn span_sandbox(&self, text: &str) {
        let now = self.deps.index.snapshot();
        match now.find_sandbox(text) {
            Ok(Some(pod)) => span_pod(pod),
            Ok(None) | Err(_) => note("sandbox.id", head(text, ID_SHOWN)),
        }
    }

    /// Names the container that a request means, its sandbox and pod, in the request's span.
    pub(super) fn span_container(&self, text: &str) {
        let now = self.deps.index.snapshot();
        let Ok(Some(view)) = now.find_container(text) else {
            note("container.id", head(text, ID_SHOWN));
            return;
        };
        note("container.id", view.id.as_str());
        if let Some(pod) = now.pod(&view.sandbox) {
            span_pod(pod);
        }
    }

    /// Runs one method: span, readiness, outcome.
    pub(super) async fn serve<T>(
        &self,
        method: &'static str,
        weight: Weight,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Response<T>, Status> {
        let span = tracing::info_span!(
            "rpc",
            rpc.method = method,
            request.id = REQUESTS.fetch_add(1, Ordering::Relaxed),
            sandbox.id = Empty,
            container.id = Empty,
            image.ref = Empty,
            k8s.namespace = Empty,
            k8s.pod = Empty
        );
        let began = tokio::time::Instant::now();
        let call = self.calls.begin(method);
        async {
            let result = match self.admit(weight) {
                Ok(()) => work.await,
                Err(refused) => Err(refused),
            };
            let elapsed_ms = began.elapsed().as_millis();
            match &result {
                Ok(_) if weight.changes() => tracing::info!(elapsed_ms, "done"),
                Ok(_) => tracing::debug!(elapsed_ms, "done"),
                Err(error) if !weight.changes() && error.kind() == Kind::NotFound => {
                    tracing::debug!(elapsed_ms, %error, "not found");
                }
                Err(error) => tracing::warn!(elapsed_ms, kind = ?error.kind(), %error, "failed"),
            }
            let answer = result.map(Response::new).map_err(Status::from);
            call.end(codes::label(
                answer.as_ref().map_or_else(Status::code, |_reply| Code::Ok),
            ));
            answer
        }
        .instrument(span)
        .await
    }
}

fn span_pod(pod: &PodView) {
    note("sandbox.id", pod.sandbox.id.as_str());
    span_identity(&pod.sandbox.config.identity);
}

/// Names a pod in the request's span.
pub(super) fn span_identity(pod: &PodIdentity) {
    note("k8s.namespace", &pod.k8s_namespace);
    note("k8s.pod", &pod.name);
}

/// Says of the request that its `key` is `value`: in its log lines, and in its caller's trace.
pub(super) fn note(key: &'static str, value: &str) {
    tracing::Span::current().record(key, value);
    Place::here().note(key, value);
}

/// What the log shows of a text that a client chose: it may be of any length.
pub(super) fn head(text: &str, characters: usize) -> &str {
    let mut ends = text.char_indices().map(|(at, _)| at);
    let end = ends.nth(characters).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// Refuses a reply that the client would not take.
///
/// # Errors
/// `ResourceExhausted`, naming the method that sends the same in parts.
pub(super) fn within_limit<T: Message>(reply: T, in_parts: &str) -> Result<T> {
    match reply.encoded_len() {
        bytes if bytes > REPLY_BYTES => Err(Error::exhausted(format!(
            "the list has {bytes} bytes, more than one message may ({REPLY_BYTES}); narrow the filter or call {in_parts}"
        ))),
        _ => Ok(reply),
    }
}

/// A list as a stream of batches; nothing at all for an empty list (behaviour §1.5).
pub(super) fn batches<I: Message + 'static, T: Send + 'static>(
    items: Vec<I>,
    message: impl Fn(Vec<I>) -> T + Send + 'static,
) -> Replies<T> {
    let mut items = items.into_iter().peekable();
    let messages = std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0_usize);
        while let Some(item) = items.next_if(|item| {
            let fits = bytes.saturating_add(item.encoded_len()) <= BATCH_BYTES;
            batch.is_empty() || (fits && batch.len() < BATCH)
        }) {
            bytes = bytes.saturating_add(item.encoded_len());
            batch.push(item);
        }
        (!batch.is_empty()).then(|| Ok(message(batch)))
    });
    Box::pin(futures::stream::iter(messages))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;
    use crate::wire::cri::{Image, ListImagesResponse};

    fn image(bytes: usize) -> Image {
        Image {
            id: "x".repeat(bytes),
            ..Image::default()
        }
    }

    #[tokio::test]
    async fn a_list_goes_out_in_parts_that_every_client_takes() {
        let lengths = async |items: Vec<Image>| -> Vec<usize> {
            let parts = batches(items, |part| part.len());
            parts.map(|part| part.unwrap()).collect().await
        };

        assert!(lengths(vec![]).await.is_empty());
        assert_eq!(lengths(vec![image(1); BATCH + 1]).await, [BATCH, 1]);
        let large = BATCH_BYTES / 2 + 1;
        assert_eq!(lengths(vec![image(large); 3]).await, [1, 1, 1]);
        assert_eq!(
            lengths(vec![image(1), image(2 * BATCH_BYTES), image(1)]).await,
            [1, 1, 1]
        );
    }

    #[test]
    fn a_reply_that_no_client_takes_is_refused_with_the_way_out() {
        let images = vec![image(REPLY_BYTES)];
        let error = within_limit(ListImagesResponse { images }, "StreamImages").unwrap_err();

        assert_eq!(error.kind(), Kind::ResourceExhausted);
        assert!(error.to_string().contains("StreamImages"));
    }
}
