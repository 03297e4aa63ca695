//! A pod, a container and a node for tests, and plugins that a test plays.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use prost::Message;

use super::facts::{ContainerFacts, Eviction, Household, ImageFacts, PodFacts, Update};
use super::join::Origin;
use super::link::{Link, Refusal, Role, Service};
use super::messages::api;
use super::set::Nri;
use crate::config::{Config, Shared};
use crate::model::state::ContainerState;
use crate::model::{Error, Pid, Result, Timestamp};
use crate::ops::Supervisor;
use crate::spec::testing;
pub(super) use crate::spec::testing::host;

const PAUSE: &str =
    r#"{"ociVersion":"1.0.2","linux":{"cgroupsPath":"/pods/p","namespaces":[{"type":"pid"}]}}"#;

/// A pod that runs.
pub(super) fn pod() -> PodFacts {
    PodFacts {
        id: "a".repeat(64).parse().unwrap(),
        config: Arc::new(testing::pod_config()),
        handler: String::new(),
        pid: Some(Pid(7)),
        ips: vec!["10.0.0.1".to_owned()],
        spec: PAUSE.into(),
        updated: None,
    }
}

/// A container in `state`.
pub(super) fn container(state: Option<ContainerState>) -> ContainerFacts {
    ContainerFacts {
        id: "c".repeat(64).parse().unwrap(),
        sandbox: pod().id,
        config: Arc::new(testing::container_config()),
        spec:
            r#"{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"cwd":"/","env":["A=1"]}}"#
                .into(),
        state,
        pid: None,
        created_at: Timestamp(5),
        started_at: None,
        ended: None,
        oom_killed: false,
        user: (0, 0, Vec::new()),
        image: ImageFacts::default(),
    }
}

/// What a test's plugin does at each method; the methods it does not name are not there.
pub(super) type Script = BTreeMap<&'static str, Arc<dyn Fn(Vec<u8>) -> Reply + Send + Sync>>;

/// One answer.
pub(super) enum Reply {
    Say(Vec<u8>),
    Refuse(&'static str),
    Hang,
}

pub(super) fn say(message: &impl Message) -> Reply {
    Reply::Say(message.encode_to_vec())
}

/// A plugin that a test plays.
pub(super) struct Player {
    pub(super) link: Link,
    said: Arc<Mutex<Vec<String>>>,
}

struct Stage {
    script: Script,
    said: Arc<Mutex<Vec<String>>>,
}

impl Service for Stage {
    fn call(&self, method: &str, payload: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, Refusal>> {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(method.to_owned());
        let reply = self.script.get(method).map(|answer| answer(payload));
        let method = method.to_owned();
        Box::pin(async move {
            match reply {
                None => Err(Refusal::unimplemented(&method)),
                Some(Reply::Say(bytes)) => Ok(bytes),
                Some(Reply::Refuse(why)) => Err(Refusal::failed(why)),
                Some(Reply::Hang) => std::future::pending().await,
            }
        })
    }
}

impl Player {
    /// The methods that were called so far.
    pub(super) fn heard(&self) -> Vec<String> {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The methods that every plugin has, with `mask` as what it hears of.
pub(super) fn script(mask: i32) -> Script {
    let mut script = Script::new();
    script.insert(
        "Configure",
        Arc::new(move |_| say(&api::ConfigureResponse { events: mask })),
    );
    script.insert(
        "Synchronize",
        Arc::new(|bytes| {
            let request = api::SynchronizeRequest::decode(&*bytes).unwrap();
            say(&api::SynchronizeResponse {
                update: Vec::new(),
                more: request.more,
            })
        }),
    );
    script
}

/// A node without anything, that notes what plugins ask for.
#[derive(Default)]
pub(super) struct Home {
    pub(super) pods: Vec<PodFacts>,
    pub(super) containers: Vec<ContainerFacts>,
    pub(super) updates: Mutex<Vec<Update>>,
    pub(super) evictions: Mutex<Vec<Eviction>>,
}

impl Household for Home {
    fn inventory(&self) -> (Vec<PodFacts>, Vec<ContainerFacts>) {
        (self.pods.clone(), self.containers.clone())
    }

    fn update<'a>(&'a self, update: &'a Update) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if update.container == "missing" {
                return Err(Error::not_found("no such container"));
            }
            self.updates.lock().unwrap().push(update.clone());
            Ok(())
        })
    }

    fn evict<'a>(&'a self, eviction: &'a Eviction) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.evictions.lock().unwrap().push(eviction.clone());
            Ok(())
        })
    }
}

/// The plugin set of a node with `home`, configured by `toml` on top of short time-outs.
pub(super) fn node(home: Home, toml: &str) -> (Arc<Nri>, Arc<Home>) {
    let text = format!(
        "[nri]\nregistration_timeout = \"200ms\"\nrequest_timeout = \"200ms\"\nsynchronize_timeout = \"500ms\"\n{toml}"
    );
    let config = Shared::new(Config::parse(&text).unwrap());
    let nri = Arc::new(Nri::new(config, Supervisor::new()));
    let home = Arc::new(home);
    nri.settle(Arc::clone(&home) as _);
    (nri, home)
}

/// Opens a connection of a plugin with `script` and does not register it.
pub(super) fn connect(nri: &Arc<Nri>, script: Script) -> Player {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let said = Arc::default();
    let stage = Stage {
        script,
        said: Arc::clone(&said),
    };
    let link = Link::open(theirs, Role::Plugin, Arc::new(stage), &nri.supervisor).unwrap();
    let attending = Arc::clone(nri);
    nri.supervisor.watch("test", async move {
        attending.attend(ours, Origin::default(), None).await;
    });
    Player { link, said }
}

pub(super) async fn register(player: &Player, index: &str, name: &str) -> bool {
    let request = api::RegisterPluginRequest {
        plugin_name: name.to_owned(),
        plugin_idx: index.to_owned(),
        nri_version: String::new(),
    };
    player
        .link
        .call(
            "RegisterPlugin",
            request.encode_to_vec(),
            Duration::from_secs(5),
        )
        .await
        .is_ok()
}

/// A plugin that takes part.
pub(super) async fn join(nri: &Arc<Nri>, index: &str, name: &str, script: Script) -> Player {
    let player = connect(nri, script);
    assert!(register(&player, index, name).await);
    let title = format!("{index}-{name}");
    let listed = || {
        let shown = nri.shown();
        let plugins = shown["plugins"].as_array().unwrap().clone();
        plugins.iter().any(|plugin| {
            format!(
                "{}-{}",
                plugin["index"].as_str().unwrap(),
                plugin["name"].as_str().unwrap()
            ) == title
        })
    };
    until(listed).await;
    until(|| player.heard().iter().any(|method| method == "Synchronize")).await;
    player
}

/// Waits until `fact` holds.
pub(super) async fn until(fact: impl Fn() -> bool) {
    for _ in 0..500 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to be");
}
