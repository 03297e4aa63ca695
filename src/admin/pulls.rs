//! Pulls for people: the ones that run, and one of their own with its progress.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::image::{LayerReport, PullReport};
use crate::model::Result;
use crate::wire::admin::{Pull, PullImageResponse, PullLayer};

/// How often a client hears how far its pull is.
const BEAT: Duration = Duration::from_millis(200);

/// A pull that somebody wants. It holds a password, so nothing prints it.
#[derive(Clone)]
pub struct PullOrder {
    /// What to pull.
    pub reference: String,
    /// Runtime handler whose snapshotter the image is for; empty is the default handler.
    pub runtime_handler: String,
    /// Shown to the registry; empty is nobody.
    pub username: String,
    /// Goes with the name.
    pub password: String,
}

/// Pulls, and knows what is being pulled.
pub trait Pulls: Send + Sync {
    /// The running pulls, oldest first, and the last ones that ended, latest first.
    fn pulls(&self) -> Vec<PullReport>;

    /// How far the pull is that `order` has begun or joined.
    fn progress(&self, order: &PullOrder) -> Option<PullReport>;

    /// Pulls, and answers the image's id. Dropping the future leaves the pull.
    fn pull(&self, order: PullOrder) -> BoxFuture<'_, Result<String>>;
}

/// Pulls and tells how far it is, then the id. Ends with the pull's error; dropped, it leaves the pull.
pub(super) fn follow(
    pulls: Arc<dyn Pulls>,
    order: PullOrder,
) -> BoxStream<'static, Result<PullImageResponse, Status>> {
    let (messages, stream) = mpsc::channel(1);
    // The work runs inside the stream: who drops the stream stops waiting for the pull.
    let work = async move {
        let pulling = pulls.pull(order.clone());
        tokio::pin!(pulling);
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = None;
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut pulling => break outcome,
                _now = beat.tick() => {}
            }
            let now = pulls.progress(&order);
            if now.is_some() && now != last {
                let message = PullImageResponse {
                    progress: now.clone().map(shown),
                    image_id: String::new(),
                };
                // A client that does not read misses beats, and nothing else.
                if messages.try_send(Ok(message)).is_ok() {
                    last = now;
                }
            }
        };
        let end = outcome
            .map_err(Status::from)
            .map(|image_id| PullImageResponse {
                progress: None,
                image_id,
            });
        drop(messages.send(end).await);
    };
    let work = futures::stream::once(work).filter_map(|()| std::future::ready(None));
    futures::stream::select(work, ReceiverStream::new(stream)).boxed()
}

/// A pull as a message.
pub(super) fn shown(report: PullReport) -> Pull {
    let (ended_at, image_id, error) = match report.end {
        None => (0, String::new(), String::new()),
        Some(end) => match end.outcome {
            Ok(id) => (end.at.0, id.to_string(), String::new()),
            Err(error) => (end.at.0, String::new(), error),
        },
    };
    Pull {
        id: report.id,
        reference: report.reference,
        snapshotter: report.snapshotter,
        step: report.step.into(),
        started_at: report.started_at.0,
        step_started_at: report.step_started_at.0,
        host: report.host,
        layers: report.layers.into_iter().map(layer).collect(),
        ended_at,
        image_id,
        error,
    }
}

fn layer(report: LayerReport) -> PullLayer {
    PullLayer {
        digest: report.digest.to_string(),
        size: report.size,
        here: report.here,
        fetched: report.fetched,
        state: report.state.name().into(),
        host: report.host,
        last_byte_at: report.last_byte_at.map_or(0, |at| at.0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::image::{LayerState, PullEnd};
    use crate::model::{Digest, Error, Timestamp};

    /// A pull that takes a second, and shows it.
    #[derive(Default)]
    struct Slow {
        asked: Mutex<u64>,
    }

    fn report(step: u64) -> PullReport {
        PullReport {
            id: 1,
            reference: "a.b/c:v1".into(),
            snapshotter: "overlayfs".into(),
            started_at: Timestamp(1),
            step: "layers",
            step_started_at: Timestamp(2),
            host: "a.b".into(),
            layers: vec![LayerReport {
                digest: Digest::sha256(b"layer"),
                size: 100,
                here: step,
                fetched: step,
                state: LayerState::Fetching,
                host: "mirror".into(),
                last_byte_at: None,
            }],
            end: None,
        }
    }

    impl Pulls for Slow {
        fn pulls(&self) -> Vec<PullReport> {
            Vec::new()
        }

        fn progress(&self, _order: &PullOrder) -> Option<PullReport> {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            Some(report(*asked / 2))
        }

        fn pull(&self, order: PullOrder) -> BoxFuture<'_, Result<String>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                match order.reference.as_str() {
                    "bad" => Err(Error::not_found("no such image")),
                    _ => Ok("sha256:1".to_owned()),
                }
            })
        }
    }

    async fn told(reference: &str) -> Vec<Result<PullImageResponse, Status>> {
        let order = PullOrder {
            reference: reference.into(),
            runtime_handler: String::new(),
            username: String::new(),
            password: String::new(),
        };
        follow(Arc::new(Slow::default()), order).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_hears_news_only_and_then_the_id() {
        let told = told("good").await;

        let (end, news) = told.split_last().unwrap();
        assert_eq!(end.as_ref().unwrap().image_id, "sha256:1");
        let here = news.iter().map(|it| it.as_ref().unwrap());
        let here: Vec<u64> = here
            .map(|it| it.progress.as_ref().unwrap().layers[0].here)
            .collect();
        assert!(
            here.len() > 1 && here.is_sorted_by(|a, b| a < b),
            "{here:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_fails_ends_the_stream_with_its_own_code() {
        let told = told("bad").await;

        let end = told.last().unwrap().as_ref().unwrap_err();
        assert_eq!(end.code(), tonic::Code::NotFound);
        assert_eq!(end.message(), "no such image");
    }

    #[test]
    fn an_ended_pull_shows_its_id_or_its_error() {
        let ended = |outcome| {
            shown(PullReport {
                end: Some(PullEnd {
                    at: Timestamp(9),
                    outcome,
                }),
                ..report(7)
            })
        };

        let good = ended(Ok(Digest::sha256(b"id")));
        assert_eq!((good.ended_at, good.error.as_str()), (9, ""));
        assert_eq!(good.image_id, Digest::sha256(b"id").to_string());
        let bad = ended(Err("no".into()));
        assert_eq!((bad.image_id.as_str(), bad.error.as_str()), ("", "no"));
        assert_eq!(bad.layers[0].host, "mirror");
    }
}
