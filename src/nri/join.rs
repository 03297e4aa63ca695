//! A plugin's life: it registers, is configured, is told what exists, hears of events, and goes.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::event::Event;
use super::link::{Link, Refusal, Role, Service};
use super::merge::asked_update;
use super::messages::api;
use super::objects;
use super::plugin::{Failure, Plugin};
use super::set::{Nri, log_failed};
use crate::model::{Error, Result};

/// The NRI release that we speak as. Plugins tell from it which events we know.
const VERSION: &str = "v0.12.2";
/// How long a new plugin waits for what is being made before it is told what exists.
const FORMER_LIMIT: Duration = Duration::from_secs(10);
/// What of a message of 4 MiB objects may take.
const ROOM: usize = (4 << 20) - (64 << 10);

/// Where a plugin comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// Index and name of a program that we started, which count more than what it says of itself.
    pub(super) launched: Option<(String, String)>,
    /// Its configuration.
    pub(super) config: String,
}

impl Nri {
    /// Lives with the plugin at the other end of `socket` until it goes. `joined` is told when it takes part.
    pub(super) async fn attend(
        self: Arc<Self>,
        socket: UnixStream,
        origin: Origin,
        joined: Option<oneshot::Sender<()>>,
    ) {
        let (tell, told) = oneshot::channel();
        let desk = Arc::new(Desk {
            nri: Arc::clone(&self),
            name: Mutex::new(Some(tell)),
            takes_part: AtomicBool::new(false),
        });
        let service = Arc::clone(&desk) as Arc<dyn Service>;
        let link = match Link::open(socket, Role::Runtime, service, &self.supervisor) {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(%error, "an NRI plugin's connection cannot be used");
                return;
            }
        };
        let admitted = self.admit(&link, &origin, told).await;
        match admitted {
            Ok(plugin) => {
                desk.takes_part.store(true, Ordering::Release);
                tracing::info!(plugin = %plugin.title(), events = ?Event::names(plugin.subscription()), "NRI plugin takes part");
                if let Some(joined) = joined
                    && joined.send(()).is_err()
                {
                    tracing::debug!("nobody waited for the plugin any more");
                }
                link.closed().cancelled().await;
                self.roster.remove(&plugin);
                tracing::info!(plugin = %plugin.title(), "NRI plugin is gone");
            }
            Err(error) => {
                tracing::warn!(%error, "an NRI plugin is not admitted");
                link.close();
            }
        }
    }

    async fn admit(
        &self,
        link: &Link,
        origin: &Origin,
        told: oneshot::Receiver<(String, String)>,
    ) -> Result<Arc<Plugin>> {
        let limit = self.settings().registration_timeout;
        let said = tokio::select! {
            said = tokio::time::timeout(limit, told) => said,
            () = link.closed().cancelled() => {
                return Err(Error::unavailable("NRI plugin: it left before it said who it is"));
            }
        };
        let (index, name) = match said {
            Ok(Ok(said)) => said,
            Ok(Err(_dropped)) => {
                return Err(Error::unavailable("NRI plugin: it did not say who it is"));
            }
            Err(_elapsed) => return Err(Error::timed_out("NRI plugin: say who it is", limit)),
        };
        let is_launched = origin.launched.is_some();
        let (index, name) = origin.launched.clone().unwrap_or((index, name));
        let plugin = Arc::new(Plugin::new(index, name, is_launched, link.clone()));
        self.configure(&plugin, &origin.config).await?;
        let synchronised = self.synchronise(&plugin).await;
        if synchronised.is_err() {
            self.roster.remove(&plugin);
        }
        synchronised.map(|()| plugin)
    }

    async fn configure(&self, plugin: &Plugin, config: &str) -> Result<()> {
        let settings = self.settings();
        let millis = |limit: Duration| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let request = api::ConfigureRequest {
            config: config.to_owned(),
            runtime_name: "podwright".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            registration_timeout: millis(settings.registration_timeout),
            request_timeout: millis(settings.request_timeout),
            nri_version: VERSION.to_owned(),
        };
        let answer: api::ConfigureResponse = plugin
            .ask("Configure", &request, settings.request_timeout)
            .await
            .map_err(|failure| failed(plugin, "configure", failure))?;
        match u32::from_ne_bytes(answer.events.to_ne_bytes()) {
            0 => plugin.subscribe(Event::MASK),
            mask if mask & !Event::MASK == 0 => plugin.subscribe(mask),
            mask => {
                return Err(Error::invalid(format!(
                    "NRI plugin {:?} asks for events that do not exist: {mask:#x}",
                    plugin.title()
                )));
            }
        }
        Ok(())
    }

    /// Puts the plugin on the list, and tells it what exists. What it hears of waits until it knows that.
    async fn synchronise(&self, plugin: &Arc<Plugin>) -> Result<()> {
        let limit = self.settings().synchronize_timeout;
        let updates = {
            let _events_wait = plugin.turn().await;
            let one_at_a_time = self.joining.lock().await;
            self.roster.add(Arc::clone(plugin));
            let former = self.roster.until_former_left();
            if tokio::time::timeout(FORMER_LIMIT, former).await.is_err() {
                tracing::warn!(plugin = %plugin.title(), "NRI plugin: something has been in the making for {FORMER_LIMIT:?} and may be unknown to it");
            }
            drop(one_at_a_time);
            let (pods, containers) = self
                .household()
                .map(|household| household.inventory())
                .unwrap_or_default();
            let pods = pods.iter().map(objects::pod).collect();
            let containers = containers.iter().map(objects::container).collect();
            send_all(plugin, pods, containers, limit).await?
        };
        let Some(household) = self.household() else {
            return Ok(());
        };
        for update in updates {
            let update = asked_update(&update)?;
            if let Err(error) = household.update(&update).await {
                log_failed(&update, &error);
            }
        }
        Ok(())
    }
}

/// Sends what exists, in as many messages as it takes; answers the changes that the plugin asks for.
async fn send_all(
    plugin: &Plugin,
    pods: Vec<api::PodSandbox>,
    containers: Vec<api::Container>,
    limit: Duration,
) -> Result<Vec<api::ContainerUpdate>> {
    let deadline = Instant::now() + limit;
    let mut parts = parts(pods, containers).into_iter().peekable();
    while let Some((pods, containers)) = parts.next() {
        let request = api::SynchronizeRequest {
            pods,
            containers,
            more: parts.peek().is_some(),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let answer: api::SynchronizeResponse = plugin
            .exchange("Synchronize", &request, left)
            .await
            .map_err(|failure| failed(plugin, "synchronize", failure))?;
        if !request.more {
            return Ok(answer.update);
        }
        if !answer.more || !answer.update.is_empty() {
            return Err(Error::precondition(format!(
                "NRI plugin {:?} cannot be told what exists in several messages, and one is too short",
                plugin.title()
            )));
        }
    }
    Ok(Vec::new())
}

type Part = (Vec<api::PodSandbox>, Vec<api::Container>);

/// Cuts what exists into parts that fit into a message each; one, perhaps empty, at least.
fn parts(pods: Vec<api::PodSandbox>, containers: Vec<api::Container>) -> Vec<Part> {
    let mut parts = vec![Part::default()];
    let mut used = 0;
    let mut room = |length: usize, parts: &mut Vec<Part>| {
        // Tag and length of the field.
        let length = length + 8;
        if used > 0 && used + length > ROOM {
            parts.push(Part::default());
            used = 0;
        }
        used += length;
    };
    for pod in pods {
        room(pod.encoded_len(), &mut parts);
        if let Some((pods, _)) = parts.last_mut() {
            pods.push(pod);
        }
    }
    for container in containers {
        room(container.encoded_len(), &mut parts);
        if let Some((_, containers)) = parts.last_mut() {
            containers.push(container);
        }
    }
    parts
}

fn failed(plugin: &Plugin, what: &str, failure: Failure) -> Error {
    let title = plugin.title();
    match failure {
        Failure::Gone => Error::unavailable(format!("NRI plugin {title:?} went away: {what}")),
        Failure::Refused(refusal) => Error::precondition(format!(
            "NRI plugin {title:?} refused to {what}: {}",
            refusal.message
        )),
    }
}

/// What a plugin may call.
struct Desk {
    nri: Arc<Nri>,
    name: Mutex<Option<oneshot::Sender<(String, String)>>>,
    takes_part: AtomicBool,
}

impl Desk {
    fn register(&self, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let request = decoded::<api::RegisterPluginRequest>(payload)?;
        let teller = self
            .name
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(|| Refusal::failed("the plugin is registered already"))?;
        check_name(&request.plugin_idx, &request.plugin_name).map_err(Refusal::failed)?;
        // Whoever waited may have given up just now, and closes the connection.
        drop(teller.send((request.plugin_idx, request.plugin_name)));
        Ok(api::Empty {}.encode_to_vec())
    }
}

/// Whether a plugin may be called so.
pub(super) fn check_name(index: &str, name: &str) -> Result<(), String> {
    let digits = index.len() == 2 && index.bytes().all(|b| b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_.+-".contains(&b);
    if !digits {
        return Err(format!("plugin index {index:?}: want two digits"));
    }
    if name.is_empty() || name.len() > 255 || !name.bytes().all(inner) {
        return Err(format!(
            "plugin name {name:?}: want letters, digits and any of _.+-"
        ));
    }
    Ok(())
}

fn decoded<M: prost::Message + Default>(payload: &[u8]) -> Result<M, Refusal> {
    M::decode(payload)
        .map_err(|error| Refusal::failed(format!("the request makes no sense: {error}")))
}

impl Service for Desk {
    fn call(&self, method: &str, payload: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, Refusal>> {
        let immediate = match method {
            "RegisterPlugin" => self.register(&payload),
            "UpdateContainers" if self.takes_part.load(Ordering::Acquire) => {
                let nri = Arc::clone(&self.nri);
                return Box::pin(async move { update_containers(nri, &payload).await });
            }
            "UpdateContainers" => Err(Refusal::failed("the plugin does not take part yet")),
            other => Err(Refusal::unimplemented(other)),
        };
        Box::pin(std::future::ready(immediate))
    }
}

/// Changes that no event led to: done one after the other, those that fail are answered.
async fn update_containers(nri: Arc<Nri>, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
    let request = decoded::<api::UpdateContainersRequest>(payload)?;
    let Some(household) = nri.household().cloned() else {
        return Err(Refusal::failed("the node is not ready"));
    };
    let mut failed = Vec::new();
    for update in request.update {
        let done = match asked_update(&update) {
            Ok(asked) => household.update(&asked).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(container.id = %update.container_id, %error, "NRI: limits could not be changed");
            if !update.ignore_failure {
                failed.push(update);
            }
        }
    }
    let evictions = request.evict;
    if !evictions.is_empty() {
        let mut merge = super::merge::Merge::new("");
        merge.evicted("", evictions);
        if let Ok(wishes) = merge.wishes() {
            nri.fulfil(&wishes).await;
        }
    }
    Ok(api::UpdateContainersResponse { failed }.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_indices_are_checked() {
        for (index, name) in [("00", "a"), ("99", "A_b.c+d-e")] {
            assert!(check_name(index, name).is_ok());
        }
        for (index, name) in [
            ("", "a"),
            ("1", "a"),
            ("100", "a"),
            ("1x", "a"),
            ("10", ""),
            ("10", "a/b"),
            ("10", "a b"),
        ] {
            assert!(check_name(index, name).is_err(), "{index} {name}");
        }
    }

    #[test]
    fn what_exists_is_cut_into_messages_that_fit() {
        let pod = |size: usize| api::PodSandbox {
            id: "x".repeat(size),
            ..api::PodSandbox::default()
        };
        let container = |size: usize| api::Container {
            id: "x".repeat(size),
            ..api::Container::default()
        };

        assert_eq!(parts(Vec::new(), Vec::new()).len(), 1);
        let small = parts(vec![pod(10); 3], vec![container(10); 3]);
        assert_eq!((small.len(), small[0].0.len(), small[0].1.len()), (1, 3, 3));
        let large = parts(vec![pod(1 << 20); 5], vec![container(1 << 20); 5]);
        assert_eq!(large.len(), 4);
        assert_eq!(large.iter().map(|(pods, _)| pods.len()).sum::<usize>(), 5);
        assert_eq!(large.iter().map(|(_, all)| all.len()).sum::<usize>(), 5);
    }
}
