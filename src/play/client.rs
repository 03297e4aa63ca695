//! The CRI socket: one method a call, each with a deadline, each error saying what was asked.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::security::ImageUser;
use crate::model::{Classify as _, Error, Kind, Result};
use crate::wire::cri;
use crate::wire::cri::image_service_client::ImageServiceClient;
use crate::wire::cri::runtime_service_client::RuntimeServiceClient;

/// Labels to select by.
pub(super) type Labels = BTreeMap<String, String>;

/// What an ordinary call may take; kubelet's own limit.
const USUAL: Duration = Duration::from_secs(120);
/// What making a pod may take: the network is made in it.
const MAKING: Duration = Duration::from_secs(240);
/// What a pull may take.
const PULLING: Duration = Duration::from_secs(3600);
/// What a call that itself waits may take beyond its own limit.
const SLACK: Duration = Duration::from_secs(120);
/// The largest reply taken.
const REPLY_MAX: usize = 16 << 20;

/// One call on a client of the connection.
macro_rules! call {
    ($client:expr, $method:ident, $what:expr, $limit:expr, $request:expr) => {{
        let mut client = $client.clone();
        bounded($what, $limit, client.$method($request)).await
    }};
}

/// A CRI client. Cloning gives another handle to the same connection.
#[derive(Clone, Debug)]
pub(super) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// An image that is present.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) user: ImageUser,
}

/// What a command in a container came to.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    pub(super) code: i32,
    pub(super) output: String,
}

impl Cri {
    /// Connects to the runtime that listens on `socket`.
    ///
    /// # Errors
    /// `Unavailable` where nobody answers there.
    pub(super) async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        let dial = tower::service_fn(move |_uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(dial)
            .await
            .classify(Kind::Unavailable, || {
                format!(
                    "connect to the container runtime at {}; is it running, and are you root? (--endpoint names another \
                     socket)",
                    socket.display()
                )
            })?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(REPLY_MAX),
            images: ImageServiceClient::new(channel).max_decoding_message_size(REPLY_MAX),
        })
    }

    /// The sandboxes with these labels, newest attempt first.
    pub(super) async fn sandboxes(&self, labels: Labels) -> Result<Vec<cri::PodSandbox>> {
        let request = cri::ListPodSandboxRequest {
            filter: Some(cri::PodSandboxFilter {
                label_selector: labels,
                ..Default::default()
            }),
        };
        let what = "list sandboxes";
        let mut items = call!(self.runtime, list_pod_sandbox, what, USUAL, request)?.items;
        items.sort_by_key(|item| {
            let attempt = item.metadata.as_ref().map_or(0, |known| known.attempt);
            Reverse((attempt, item.created_at))
        });
        Ok(items)
    }

    /// Makes a sandbox; its id.
    pub(super) async fn run_sandbox(&self, config: cri::PodSandboxConfig) -> Result<String> {
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            ..Default::default()
        };
        let what = "run the sandbox";
        Ok(call!(self.runtime, run_pod_sandbox, what, MAKING, request)?.pod_sandbox_id)
    }

    /// The sandbox's addresses, the first one first.
    pub(super) async fn addresses(&self, id: &str) -> Result<Vec<String>> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let what = "ask the sandbox's status";
        let reply = call!(self.runtime, pod_sandbox_status, what, USUAL, request)?;
        let network = reply.status.and_then(|status| status.network);
        let network = network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|more| more.ip);
        let all = std::iter::once(network.ip).chain(more);
        Ok(all.filter(|ip| !ip.is_empty()).collect())
    }

    /// Stops a sandbox and all in it; done already counts as done.
    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let what = "stop the sandbox";
        gone_is_done(call!(self.runtime, stop_pod_sandbox, what, MAKING, request))
    }

    /// Removes a sandbox and all in it; done already counts as done.
    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let what = "remove the sandbox";
        gone_is_done(call!(
            self.runtime,
            remove_pod_sandbox,
            what,
            MAKING,
            request
        ))
    }

    /// The containers with these labels.
    pub(super) async fn containers(&self, labels: Labels) -> Result<Vec<cri::Container>> {
        let request = cri::ListContainersRequest {
            filter: Some(cri::ContainerFilter {
                label_selector: labels,
                ..Default::default()
            }),
        };
        let what = "list containers";
        Ok(call!(self.runtime, list_containers, what, USUAL, request)?.containers)
    }

    /// One container's status.
    pub(super) async fn status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let what = "ask a container's status";
        let reply = call!(self.runtime, container_status, what, USUAL, request)?;
        reply
            .status
            .ok_or_else(|| Error::internal(format!("container {id}: a status without content")))
    }

    /// Makes a container; its id.
    pub(super) async fn create(&self, request: cri::CreateContainerRequest) -> Result<String> {
        let what = "create the container";
        Ok(call!(self.runtime, create_container, what, MAKING, request)?.container_id)
    }

    /// Starts a container.
    pub(super) async fn start(&self, id: &str) -> Result<()> {
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        let what = "start the container";
        call!(self.runtime, start_container, what, MAKING, request).map(drop)
    }

    /// Stops a container, with `grace_s` seconds between signal and kill; done already counts as done.
    pub(super) async fn stop(&self, id: &str, grace_s: i64) -> Result<()> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace_s,
        };
        let limit = seconds(grace_s).saturating_add(SLACK);
        let what = "stop the container";
        gone_is_done(call!(self.runtime, stop_container, what, limit, request))
    }

    /// Removes a container; done already counts as done.
    pub(super) async fn remove(&self, id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        let what = "remove the container";
        gone_is_done(call!(self.runtime, remove_container, what, USUAL, request))
    }

    /// Runs `command` in a container for at most `timeout_s` seconds; 0 is no limit but an hour.
    pub(super) async fn exec(&self, id: &str, command: &[String], timeout_s: i64) -> Result<Ran> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: timeout_s,
        };
        let limit = match timeout_s {
            ..=0 => PULLING,
            limit => seconds(limit).saturating_add(SLACK),
        };
        let reply = call!(self.runtime, exec_sync, "run a command", limit, request)?;
        let mut output = reply.stdout;
        output.extend(reply.stderr);
        Ok(Ran {
            code: reply.exit_code,
            output: String::from_utf8_lossy(&output).into_owned(),
        })
    }

    /// The image that `name` means, where it is present.
    pub(super) async fn image(&self, name: &str) -> Result<Option<Image>> {
        let request = cri::ImageStatusRequest {
            image: Some(image_spec(name)),
            verbose: false,
        };
        let what = "look for the image";
        let reply = call!(self.images, image_status, what, USUAL, request)?;
        Ok(reply.image.map(|image| Image {
            id: image.id,
            user: ImageUser {
                uid: image.uid.map(|uid| uid.value),
                name: image.username,
            },
        }))
    }

    /// Pulls an image.
    pub(super) async fn pull(&self, name: &str, pod: &cri::PodSandboxConfig) -> Result<()> {
        let request = cri::PullImageRequest {
            image: Some(image_spec(name)),
            auth: None,
            sandbox_config: Some(pod.clone()),
        };
        call!(self.images, pull_image, "pull the image", PULLING, request).map(drop)
    }
}

fn image_spec(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.to_owned(),
        user_specified_image: name.to_owned(),
        ..Default::default()
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

async fn bounded<T>(
    what: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(refusal(&status).context(what)),
        Err(_elapsed) => Err(Error::timed_out(what, limit)),
    }
}

fn gone_is_done<T>(outcome: Result<T>) -> Result<()> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The runtime's answer as an error of ours: its class and its own words.
fn refusal(status: &Status) -> Error {
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => Kind::InvalidArgument,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::FailedPrecondition => Kind::FailedPrecondition,
        Code::Unavailable => Kind::Unavailable,
        Code::DeadlineExceeded => Kind::DeadlineExceeded,
        Code::Cancelled => Kind::Cancelled,
        Code::ResourceExhausted => Kind::ResourceExhausted,
        Code::Unimplemented => Kind::Unimplemented,
        Code::Unauthenticated => Kind::Unauthenticated,
        Code::PermissionDenied => Kind::PermissionDenied,
        Code::Aborted => Kind::Aborted,
        Code::Ok | Code::Unknown => Kind::Unknown,
        Code::Internal | Code::DataLoss => Kind::Internal,
    };
    Error::new(kind, status.message().to_owned())
}
