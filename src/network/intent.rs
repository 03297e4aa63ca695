//! What is about to be attached, fixed before the first plugin runs: durable, it lets any later process undo it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::args::{self, Capabilities};
use super::conflist::NetworkConfig;
use crate::model::pod::PodConfig;
use crate::model::{Result, SandboxId};

/// What to attach to which networks.
#[derive(Clone, Copy, Debug)]
pub struct AttachRequest<'a> {
    /// Whose network namespace.
    pub sandbox: &'a SandboxId,
    /// Where it is pinned.
    pub netns: &'a Path,
    /// The pod, for the arguments of the plugins.
    pub pod: &'a PodConfig,
}

/// A plan that needs nothing but itself to be carried out and taken back: no configuration file, no request. Persist it
/// before `Network::add`, keep it until `Network::del` succeeded. Its JSON names its version; another one is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub(super) format: Format,
    pub(super) sandbox: String,
    pub(super) netns: PathBuf,
    pub(super) args: Vec<(String, String)>,
    pub(super) capabilities: Capabilities,
    pub(super) networks: Vec<PlannedNetwork>,
}

/// One network of an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedNetwork {
    pub(super) name: String,
    pub(super) ifname: String,
    /// The list of plugins as text.
    pub(super) config: String,
}

impl Intent {
    /// Plans to attach to `networks`, in their order, as `eth0`, `eth1` and so on.
    ///
    /// # Errors
    /// `InvalidArgument` where the pod's names or annotations cannot be handed to plugins.
    pub(super) fn plan(request: &AttachRequest<'_>, networks: &[NetworkConfig]) -> Result<Self> {
        let networks = networks.iter().enumerate();
        Ok(Self {
            format: Format,
            sandbox: request.sandbox.to_string(),
            netns: request.netns.to_owned(),
            args: args::pairs(request.sandbox, &request.pod.identity)?,
            capabilities: args::capabilities(request.pod)?,
            networks: networks
                .map(|(index, network)| PlannedNetwork {
                    name: network.name.clone(),
                    ifname: format!("eth{index}"),
                    config: network.text.clone(),
                })
                .collect(),
        })
    }

    /// The sandbox's id.
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// Where its network namespace is, or was, pinned.
    pub fn netns(&self) -> &Path {
        &self.netns
    }
}

/// The version of a stored value's form: written as a number, and nothing else is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Format;

/// The one form there is.
const FORMAT: u32 = 1;

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(FORMAT)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            FORMAT => Ok(Self),
            other => Err(serde::de::Error::custom(format!(
                "stored in form {other}; this version reads form {FORMAT}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conflist;
    use super::super::testing::pod;
    use super::*;

    #[test]
    fn an_intent_survives_its_json_and_another_form_is_refused() {
        let text = r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"t", "odd" : 1}]}"#;
        let network = conflist::parse(text).unwrap();
        let sandbox = SandboxId::generate().unwrap();
        let request = AttachRequest {
            sandbox: &sandbox,
            netns: Path::new("/run/netns/x"),
            pod: &pod(),
        };

        let intent = Intent::plan(&request, &[network.clone(), network]).unwrap();

        let names: Vec<_> = intent.networks.iter().map(|n| n.ifname.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!(intent.networks[0].config, text, "to the byte");
        let json = serde_json::to_string(&intent).unwrap();
        assert_eq!(serde_json::from_str::<Intent>(&json).unwrap(), intent);
        let newer = json.replace("\"format\":1", "\"format\":2");
        assert!(serde_json::from_str::<Intent>(&newer).is_err());
    }
}
