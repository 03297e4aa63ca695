//! containerd's Version and Introspection services.

use std::sync::Arc;

use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{Plugin, PluginInfoRequest, PluginsRequest};
use futures::future::BoxFuture;
use prost::Message;
use prost_types::Any;

use super::channel::{MESSAGE_LIMIT, Step, Wire, present};
use super::traced::Traced;
use super::{convert, limits, versions};
use crate::containerd::{Introspection, Payload, PluginInfo, ServerVersion};
use crate::model::{Classify as _, Kind, Pid, Result};

/// Type URL of [`RuntimeRequest`].
const RUNTIME_REQUEST: &str = "containerd.types.RuntimeRequest";

/// What the task plugin is asked (containerd 2.x, `types/introspection.proto`).
#[derive(Clone, PartialEq, Message)]
struct RuntimeRequest {
    #[prost(string, tag = "1")]
    runtime_path: String,
    #[prost(message, optional, tag = "2")]
    options: Option<Any>,
}

/// The part of its answer that we read.
#[derive(Clone, PartialEq, Message)]
struct RuntimeInfo {
    #[prost(message, optional, tag = "4")]
    features: Option<Any>,
}

/// The services over the wire.
pub(super) struct RemoteIntrospection(pub(super) Arc<Wire>);

impl RemoteIntrospection {
    fn stub(&self) -> IntrospectionClient<Traced> {
        IntrospectionClient::new(self.0.control()).max_decoding_message_size(MESSAGE_LIMIT)
    }
}

impl Introspection for RemoteIntrospection {
    fn version(&self) -> BoxFuture<'_, Result<ServerVersion>> {
        Box::pin(async move {
            let mut stub = VersionClient::new(self.0.control());
            let step = Step("ask containerd for its version", "");
            // The probe finds out whether the link is up again, so what is known about it does not count.
            let reply = self
                .0
                .call_regardless(step, limits::VERSION, stub.version(self.0.request(())))
                .await?;
            versions::parse(&reply.version)
        })
    }

    fn plugins(&self) -> BoxFuture<'_, Result<Vec<PluginInfo>>> {
        Box::pin(async move {
            let request = self.0.request(PluginsRequest::default());
            let mut stub = self.stub();
            let step = Step("list containerd's plugins", "");
            let reply = self
                .0
                .call(step, limits::METADATA, stub.plugins(request))
                .await?;
            Ok(reply.plugins.into_iter().map(plugin_info).collect())
        })
    }

    fn runtime_features<'a>(
        &'a self,
        runtime: &'a str,
        options: Option<Payload>,
    ) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let question = RuntimeRequest {
                runtime_path: runtime.to_owned(),
                options: options.map(convert::any),
            };
            let request = self.0.request(PluginInfoRequest {
                r#type: "io.containerd.runtime.v2".to_owned(),
                id: "task".to_owned(),
                options: Some(Any {
                    type_url: RUNTIME_REQUEST.to_owned(),
                    value: question.encode_to_vec(),
                }),
            });
            let mut stub = self.stub();
            let step = Step("ask for the features of runtime", runtime);
            let reply = self
                .0
                .call(step, limits::FEATURES, stub.plugin_info(request))
                .await?;
            let answer = present(reply.extra, step)?;
            let info = RuntimeInfo::decode(answer.value.as_slice())
                .classify(Kind::Internal, || step.to_string())?;
            Ok(present(info.features, step)?.value)
        })
    }

    fn server_pid(&self) -> Option<Pid> {
        self.0.peer_pid()
    }

    fn connections(&self) -> u64 {
        self.0.connections()
    }
}

fn plugin_info(plugin: Plugin) -> PluginInfo {
    PluginInfo {
        kind: plugin.r#type,
        id: plugin.id,
        exports: convert::labels(plugin.exports),
        capabilities: plugin.capabilities,
        error: plugin.init_err.map(|status| status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_and_answer_have_the_numbers_of_containerd_2() {
        let question = RuntimeRequest {
            runtime_path: "r".into(),
            options: Some(Any::default()),
        };
        assert_eq!(question.encode_to_vec(), [0x0a, 0x01, b'r', 0x12, 0x00]);

        // Name (1), features (4) with a value (2), annotations (5).
        let answer = [
            0x0a, 0x01, b'n', 0x22, 0x04, 0x12, 0x02, b'{', b'}', 0x2a, 0x00,
        ];
        let info = RuntimeInfo::decode(answer.as_slice()).unwrap();
        assert_eq!(info.features.unwrap().value, b"{}");
    }
}
