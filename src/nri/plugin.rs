//! One plugin that takes part: its place in the order, what it hears of, and one call at a time to it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Mutex, MutexGuard};

use super::event::Event;
use super::link::{CallError, Link, Refusal};
use super::messages::api;
use crate::telemetry::traces::Place;

/// A connected plugin.
pub(super) struct Plugin {
    /// Two digits that say when it is asked.
    pub(super) index: String,
    /// Its name.
    pub(super) name: String,
    /// Whether we started it.
    pub(super) is_launched: bool,
    link: Link,
    /// Held over a call. Whoever lets the plugin take part holds it until the plugin knows what exists, so that events
    /// come after that, in the order in which they happened.
    turn: Mutex<()>,
    hears: AtomicU32,
    by_state_change: AtomicU32,
}

/// Why a plugin did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is gone: the rest goes on as if it had never been there.
    Gone,
    /// It said no.
    Refused(Refusal),
}

impl Plugin {
    pub(super) fn new(index: String, name: String, is_launched: bool, link: Link) -> Self {
        Self {
            index,
            name,
            is_launched,
            link,
            turn: Mutex::default(),
            hears: AtomicU32::new(0),
            by_state_change: AtomicU32::new(0),
        }
    }

    /// Its name in logs, errors and ownership: `10-name`.
    pub(super) fn title(&self) -> String {
        format!("{}-{}", self.index, self.name)
    }

    /// Sets what it hears of.
    pub(super) fn subscribe(&self, mask: u32) {
        self.hears.store(mask, Ordering::Release);
    }

    /// The bits of what it hears of.
    pub(super) fn subscription(&self) -> u32 {
        self.hears.load(Ordering::Acquire)
    }

    pub(super) fn hears(&self, event: Event) -> bool {
        self.subscription() & event.bit() != 0
    }

    /// Waits until nobody else talks to it.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// As [`Self::exchange`], in its turn.
    pub(super) async fn ask<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, Failure> {
        let _turn = self.turn.lock().await;
        self.exchange(method, request, limit).await
    }

    /// One call. A plugin that does not answer in time, or makes no sense, is disconnected.
    pub(super) async fn exchange<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, Failure> {
        let span = Place::here().begin("NRI call");
        span.note("nri.method", method);
        span.note("nri.plugin", &self.title());
        let why = match self.link.call(method, request.encode_to_vec(), limit).await {
            Ok(bytes) => match A::decode(&*bytes) {
                Ok(answer) => return Ok(answer),
                Err(error) => format!("its answer makes no sense: {error}"),
            },
            Err(CallError::Refused(refusal)) => {
                span.fail(&refusal.message);
                return Err(Failure::Refused(refusal));
            }
            Err(CallError::TimedOut(limit)) => format!("it did not answer within {limit:?}"),
            Err(CallError::Lost(why)) => why,
        };
        span.fail(&why);
        if !self.link.closed().is_cancelled() {
            tracing::warn!(plugin = %self.title(), method, why, "NRI plugin is disconnected");
        }
        self.link.close();
        Err(Failure::Gone)
    }

    /// Tells `event` in the way that this plugin understands.
    pub(super) async fn tell(
        &self,
        event: Event,
        pod: &api::PodSandbox,
        container: Option<&api::Container>,
        limit: Duration,
    ) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        if self.by_state_change.load(Ordering::Acquire) & event.bit() == 0 {
            // All events without an answer of their own have the same fields.
            let request = api::StartContainerRequest {
                pod: Some(pod.clone()),
                container: container.cloned(),
            };
            let told = self
                .exchange::<_, api::Empty>(event.method(), &request, limit)
                .await;
            match told {
                Err(Failure::Refused(refusal))
                    if refusal.is_unimplemented() && event.was_state_change() => {}
                told => return told.map(drop),
            }
            self.by_state_change.fetch_or(event.bit(), Ordering::AcqRel);
        }
        let change = api::StateChangeEvent {
            event: event.number(),
            pod: Some(pod.clone()),
            container: container.cloned(),
        };
        self.exchange::<_, api::Empty>("StateChange", &change, limit)
            .await
            .map(drop)
    }

    /// It does not know `event`, so it hears of it no more.
    pub(super) fn is_deaf_to(&self, event: Event) {
        self.hears.fetch_and(!event.bit(), Ordering::AcqRel);
    }
}
