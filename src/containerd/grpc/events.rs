//! containerd's Events service.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::events_client::EventsClient as Stub;
use containerd_client::services::v1::{
    ImageCreate, ImageDelete, ImageUpdate, PublishRequest, SubscribeRequest,
};
use containerd_client::types::Envelope;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use prost::Message;
use prost_types::Any;
use tokio::time::{Instant, sleep};
use tonic::Streaming;

use super::channel::{MESSAGE_LIMIT, Step, Wire};
use super::traced::Traced;
use super::{convert, limits};
use crate::containerd::{Event, Events};
use crate::model::{Classify as _, Error, Kind, Pid, Result};

/// Our own event: containerd says nothing on a fresh subscription until the first event comes, so we send one.
const HELLO: &str = "/podwright/subscribed";
const TOPICS: [&str; 6] = [
    "/tasks/exit",
    "/tasks/oom",
    "/images/create",
    "/images/update",
    "/images/delete",
    HELLO,
];
/// First pause between two hellos; doubles. The first mostly arrives, since both calls share a connection.
const FIRST_HELLO: Duration = Duration::from_millis(5);

/// The service over the wire.
pub(super) struct RemoteEvents(pub(super) Arc<Wire>);

const STEP: Step<'static> = Step("follow containerd's events", "");

impl RemoteEvents {
    fn stub(&self) -> Stub<Traced> {
        Stub::new(self.0.control()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// A subscription that is known to be in place: its answer came, which takes an event.
    async fn open(&self) -> Result<Streaming<Envelope>> {
        let namespace = convert::equals("namespace", self.0.namespace());
        let filters =
            TOPICS.map(|topic| format!("{namespace},{}", convert::equals("topic", topic)));
        let request = self.0.request(SubscribeRequest {
            filters: filters.into(),
        });
        let mut stub = self.stub();
        let mut reply = pin!(self.0.call_unlimited(STEP, stub.subscribe(request)));
        let began = Instant::now();
        let mut pause = FIRST_HELLO;
        loop {
            tokio::select! {
                biased;
                reply = &mut reply => return reply,
                () = sleep(pause) => {}
            }
            if began.elapsed() > limits::METADATA {
                return Err(self.0.late(STEP, limits::METADATA));
            }
            self.hello().await?;
            pause *= 2;
        }
    }

    async fn hello(&self) -> Result<()> {
        let request = self.0.request(PublishRequest {
            topic: HELLO.to_owned(),
            event: Some(Any {
                type_url: "google.protobuf.Empty".to_owned(),
                value: Vec::new(),
            }),
        });
        let mut stub = self.stub();
        self.0
            .call(STEP, limits::METADATA, stub.publish(request))
            .await
    }
}

impl Events for RemoteEvents {
    fn subscribe(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<Event>>>> {
        Box::pin(async move {
            let envelopes = self.open().await?;
            let wire = Arc::clone(&self.0);
            // `None` once the end was told: the stream says why it ended, and then nothing more.
            let events = stream::unfold(Some(envelopes), move |envelopes| {
                let wire = Arc::clone(&wire);
                async move {
                    let mut envelopes = envelopes?;
                    match next_event(&mut envelopes, &wire).await {
                        Ok(event) => Some((Ok(event), Some(envelopes))),
                        Err(error) => Some((Err(error), None)),
                    }
                }
            });
            Ok(events.boxed())
        })
    }
}

/// The next event that we know; an error where the stream ends or breaks.
async fn next_event(envelopes: &mut Streaming<Envelope>, wire: &Wire) -> Result<Event> {
    loop {
        let envelope = envelopes
            .message()
            .await
            .map_err(|status| wire.failure(STEP, &status))?
            .ok_or_else(|| Error::unavailable(format!("{STEP}: containerd ended the stream")))?;
        match decode(&envelope) {
            Ok(Some(event)) => return Ok(event),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "skip an event we cannot read"),
        }
    }
}

fn decode(envelope: &Envelope) -> Result<Option<Event>> {
    let value = envelope
        .event
        .as_ref()
        .map_or(&[][..], |any| any.value.as_slice());
    Ok(Some(match envelope.topic.as_str() {
        "/tasks/exit" => task_exit(parse(&envelope.topic, value)?),
        "/tasks/oom" => Event::TaskOom {
            container: parse::<TaskOom>(&envelope.topic, value)?.container_id,
        },
        "/images/create" => {
            image_changed(parse::<ImageCreate>(&envelope.topic, value)?.name, false)
        }
        "/images/update" => {
            image_changed(parse::<ImageUpdate>(&envelope.topic, value)?.name, false)
        }
        "/images/delete" => image_changed(parse::<ImageDelete>(&envelope.topic, value)?.name, true),
        _ => return Ok(None),
    }))
}

fn parse<M: Message + Default>(topic: &str, value: &[u8]) -> Result<M> {
    M::decode(value).classify(Kind::Internal, || format!("event {topic}"))
}

/// An exec's exit carries the container's id too: only where both ids are equal did the init process end.
fn task_exit(event: TaskExit) -> Event {
    let exec = (event.id != event.container_id && !event.id.is_empty()).then_some(event.id);
    Event::TaskExit {
        container: event.container_id,
        exec,
        pid: Pid(event.pid),
        exit: convert::exit(event.exit_status, event.exited_at),
    }
}

fn image_changed(name: String, deleted: bool) -> Event {
    Event::ImageChanged { name, deleted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(id: &str) -> Event {
        let event = TaskExit {
            container_id: "c".into(),
            id: id.into(),
            pid: 7,
            exit_status: 3,
            exited_at: None,
        };
        let envelope = Envelope {
            topic: "/tasks/exit".into(),
            event: Some(Any {
                type_url: "containerd.events.TaskExit".into(),
                value: event.encode_to_vec(),
            }),
            ..Envelope::default()
        };
        decode(&envelope).unwrap().unwrap()
    }

    #[test]
    fn an_exec_does_not_end_its_container() {
        assert!(matches!(exit_of("c"), Event::TaskExit { exec: None, .. }));
        assert!(matches!(exit_of("e"), Event::TaskExit { exec: Some(id), .. } if id == "e"));
    }

    #[test]
    fn an_unknown_topic_is_skipped() {
        let envelope = Envelope {
            topic: HELLO.into(),
            ..Envelope::default()
        };
        assert_eq!(decode(&envelope).unwrap(), None);
    }
}
