//! An NRI plugin that a case plays, over the node's socket; or, started by podwright as a program, over its standard input.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use podwright::nri::link::{CallError, Link, Refusal, Role, Service};
use podwright::nri::messages::api;
use podwright::ops::Supervisor;
use podwright::wire::Message;

use crate::case::Outcome;

/// Where plugins connect by default.
pub(crate) const SOCKET: &str = "/var/run/nri/nri.sock";

/// What came of a call.
pub(crate) type Reply = BoxFuture<'static, Result<Vec<u8>, Refusal>>;
/// What a plugin does about a call.
pub(crate) type Answer = Arc<dyn Fn(Vec<u8>) -> Reply + Send + Sync>;

/// One call that the plugin got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) pod: api::PodSandbox,
    pub(crate) container: Option<api::Container>,
}

/// What a plugin says at once.
pub(crate) fn says(message: &impl Message) -> Answer {
    let bytes = message.encode_to_vec();
    Arc::new(move |_| Box::pin(std::future::ready(Ok(bytes.clone()))))
}

/// A plugin that refuses.
pub(crate) fn refuses(why: &'static str) -> Answer {
    Arc::new(move |_| Box::pin(std::future::ready(Err(Refusal::failed(why)))))
}

/// A plugin that takes `pause` before it says nothing special.
pub(crate) fn waits(pause: Duration) -> Answer {
    Arc::new(move |_| {
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            Ok(Vec::new())
        })
    })
}

struct Stage {
    answers: BTreeMap<&'static str, Answer>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Service for Stage {
    fn call(&self, method: &str, payload: Vec<u8>) -> Reply {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(heard(method, &payload));
        match self.answers.get(method) {
            Some(answer) => answer(payload),
            // An empty message is an answer to everything.
            None => Box::pin(std::future::ready(Ok(Vec::new()))),
        }
    }
}

fn heard(method: &str, payload: &[u8]) -> Heard {
    let mut heard = Heard {
        method: method.to_owned(),
        ..Heard::default()
    };
    // All events begin with the same two fields; calls that are no events begin otherwise.
    if !matches!(method, "Configure" | "Synchronize" | "UpdatePodSandbox")
        && let Ok(event) = api::StartContainerRequest::decode(payload)
    {
        heard.pod = event.pod.unwrap_or_default();
        heard.container = event.container;
    }
    heard
}

/// A connected plugin.
pub(crate) struct Plugin {
    link: Link,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Plugin {
    /// Connects, registers, and waits until the plugin was told what exists. It hears of everything; `answers` are what it
    /// says other than nothing.
    pub(crate) async fn join(
        index: &str,
        name: &str,
        answers: Vec<(&'static str, Answer)>,
    ) -> Outcome<Self> {
        let plugin = Self::connect(index, name, answers).await?;
        plugin
            .until(|heard| heard.iter().any(|one| one.method == "Synchronize"))
            .await?;
        Ok(plugin)
    }

    /// As `join`, without waiting.
    pub(crate) async fn connect(
        index: &str,
        name: &str,
        answers: Vec<(&'static str, Answer)>,
    ) -> Outcome<Self> {
        let mut tries = 0;
        let socket = loop {
            match UnixStream::connect(SOCKET) {
                Ok(socket) => break socket,
                Err(e) if tries > 100 => return Err(format!("{SOCKET}: {e}").into()),
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            tries += 1;
        };
        let plugin = Self::over(socket, answers)?;
        plugin.register(index, name).await?;
        Ok(plugin)
    }

    fn over(socket: UnixStream, answers: Vec<(&'static str, Answer)>) -> Outcome<Self> {
        let heard = Arc::default();
        let stage = Stage {
            answers: answers.into_iter().collect(),
            heard: Arc::clone(&heard),
        };
        let link = Link::open(socket, Role::Plugin, Arc::new(stage), &Supervisor::new())?;
        Ok(Self { link, heard })
    }

    async fn register(&self, index: &str, name: &str) -> Outcome {
        let request = api::RegisterPluginRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            nri_version: String::new(),
        };
        self.call("RegisterPlugin", &request).await.map(drop)
    }

    /// Calls the runtime.
    pub(crate) async fn call(&self, method: &str, request: &impl Message) -> Outcome<Vec<u8>> {
        let limit = Duration::from_secs(30);
        let answer = self.link.call(method, request.encode_to_vec(), limit).await;
        answer.map_err(|error: CallError| format!("{method}: {error:?}").into())
    }

    /// All calls so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The methods of the events so far.
    pub(crate) fn events(&self) -> Vec<String> {
        self.heard()
            .into_iter()
            .map(|heard| heard.method)
            .filter(|method| method != "Configure" && method != "Synchronize")
            .collect()
    }

    /// Waits until `fact` holds of what was heard.
    pub(crate) async fn until(&self, fact: impl Fn(&[Heard]) -> bool) -> Outcome {
        for _ in 0..600 {
            if fact(&self.heard()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("the plugin heard only {:?}", self.events()).into())
    }

    /// Whether podwright closed the connection within 10 s.
    pub(crate) async fn is_dropped(&self) -> bool {
        let closed = self.link.closed().cancelled();
        tokio::time::timeout(Duration::from_secs(10), closed)
            .await
            .is_ok()
    }

    pub(crate) fn leave(&self) {
        self.link.close();
    }
}

/// The role of a program that podwright started: notes what it hears in the file that its configuration names, and gives
/// every container a variable.
pub(crate) fn run() -> Outcome<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let place = Arc::new(Mutex::new(String::new()));
        let configured = Arc::clone(&place);
        let configure: Answer = Arc::new(move |bytes| {
            let request = api::ConfigureRequest::decode(&*bytes).unwrap_or_default();
            *configured.lock().unwrap_or_else(PoisonError::into_inner) = request.config;
            Box::pin(std::future::ready(Ok(Vec::new())))
        });
        let plugin = Plugin::over(
            socket,
            vec![
                ("Configure", configure),
                ("CreateContainer", says(&variable("LAUNCHED", "yes"))),
            ],
        )?;
        // podwright knows better who this is.
        plugin.register("99", "somebody-else").await?;
        let mut written = 0;
        while !plugin.link.closed().is_cancelled() {
            let events = plugin.events();
            if events.len() > written {
                let path = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let mut file = std::fs::File::create(path)?;
                writeln!(file, "{}", events.join("\n"))?;
                written = events.len();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The answer that gives a container a variable.
pub(crate) fn variable(key: &str, value: &str) -> api::CreateContainerResponse {
    api::CreateContainerResponse {
        adjust: Some(api::ContainerAdjustment {
            env: vec![api::KeyValue {
                key: key.to_owned(),
                value: value.to_owned(),
            }],
            ..api::ContainerAdjustment::default()
        }),
        ..api::CreateContainerResponse::default()
    }
}

/// The request that gives container `id` a memory limit.
pub(crate) fn memory_limit(id: &str, value: i64) -> api::ContainerUpdate {
    api::ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(api::LinuxContainerUpdate {
            resources: Some(api::LinuxResources {
                memory: Some(api::LinuxMemory {
                    limit: Some(api::OptionalInt64 { value }),
                    ..api::LinuxMemory::default()
                }),
                ..api::LinuxResources::default()
            }),
        }),
        ignore_failure: false,
    }
}
