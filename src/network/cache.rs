//! The results cache that the runtimes of a node share: through it, another one can detach what we attached, and the
//! other way round.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use super::args::Capabilities;
use super::intent::{Intent, PlannedNetwork};
use crate::model::{Classify, Kind, Result};
use crate::sys::files;

/// What the files say they are.
const KIND: &str = "cniCacheV1";
/// A result of the largest size, and the configuration with it.
const FILE_CAP: u64 = 8 << 20;

/// One file, keys in the order that readers are used to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    kind: &'a str,
    container_id: &'a str,
    config: String,
    if_name: &'a str,
    network_name: &'a str,
    netns: &'a Path,
    cni_args: &'a [(String, String)],
    #[serde(skip_serializing_if = "Capabilities::is_empty")]
    capability_args: &'a Capabilities,
    result: &'a Value,
}

/// The file of one attachment.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    path: PathBuf,
    intent: Intent,
    planned: PlannedNetwork,
}

impl Slot {
    /// The file below `cache_dir` for the part `planned` of `intent`.
    pub(super) fn of(cache_dir: &Path, intent: &Intent, planned: &PlannedNetwork) -> Self {
        let name = format!("{}-{}-{}", planned.name, intent.sandbox, planned.ifname);
        Self {
            path: cache_dir.join("results").join(name),
            intent: intent.clone(),
            planned: planned.clone(),
        }
    }

    /// Keeps `result`, the answer of the last plugin.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn store_blocking(&self, result: &Value) -> Result<()> {
        let (intent, planned) = (&self.intent, &self.planned);
        let entry = Entry {
            kind: KIND,
            container_id: &intent.sandbox,
            config: STANDARD.encode(&planned.config),
            if_name: &planned.ifname,
            network_name: &planned.name,
            netns: &intent.netns,
            cni_args: &intent.args,
            capability_args: &intent.capabilities,
            result,
        };
        let bytes = serde_json::to_vec(&entry)
            .classify(Kind::Internal, || "encode a network result".to_owned())?;
        if let Some(dir) = self.path.parent() {
            files::make_dir_blocking(dir, 0o700)?;
        }
        files::write_atomic_blocking(&self.path, &bytes, 0o600)
    }

    /// The answer kept; `None` where there is none that can be read.
    pub(super) fn load_blocking(&self) -> Option<Value> {
        let bytes = match files::read_capped_blocking(&self.path, FILE_CAP) {
            Ok(bytes) => bytes,
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(%error, "cannot read a cached network result");
                }
                return None;
            }
        };
        let mut entry: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let known = entry.get("kind").and_then(Value::as_str) == Some(KIND);
        let result = entry.get_mut("result").filter(|_result| known);
        if result.is_none() {
            tracing::warn!(path = %self.path.display(), "a cached network result is not understood");
        }
        result.map(Value::take)
    }

    /// Forgets the answer.
    ///
    /// # Errors
    /// Where the file is there and stays.
    pub(super) fn remove_blocking(&self) -> Result<()> {
        files::remove_file_blocking(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::super::conflist;
    use super::super::intent::AttachRequest;
    use super::super::testing::pod;
    use super::*;

    fn intent() -> Intent {
        let text = r#"{"name":"n","plugins":[{"type":"t"}]}"#;
        let sandbox = "ab".repeat(32).parse().unwrap();
        let request = AttachRequest {
            sandbox: &sandbox,
            netns: Path::new("/run/netns/x"),
            pod: &pod(),
        };
        Intent::plan(&request, &[conflist::parse(text).unwrap()]).unwrap()
    }

    #[test]
    fn the_file_is_the_one_that_other_runtimes_know() {
        let dir = tempfile::tempdir().unwrap();
        let intent = intent();
        let slot = Slot::of(dir.path(), &intent, &intent.networks[0]);
        let result = json!({"cniVersion": "1.0.0", "ips": []});

        slot.store_blocking(&result).unwrap();

        let path = dir
            .path()
            .join(format!("results/n-{}-eth0", intent.sandbox));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let text = std::fs::read_to_string(&path).unwrap();
        let want = format!(
            "{{\"kind\":\"cniCacheV1\",\"containerId\":\"{id}\",\
             \"config\":\"eyJuYW1lIjoibiIsInBsdWdpbnMiOlt7InR5cGUiOiJ0In1dfQ==\",\"ifName\":\"eth0\",\
             \"networkName\":\"n\",\"netns\":\"/run/netns/x\",\"cniArgs\":[[\"K8S_POD_NAMESPACE\",\"default\"],\
             [\"K8S_POD_NAME\",\"web\"],[\"K8S_POD_INFRA_CONTAINER_ID\",\"{id}\"],[\"K8S_POD_UID\",\"uid-1\"],\
             [\"IgnoreUnknown\",\"1\"]],\"capabilityArgs\":{{\"io.kubernetes.cri.pod-annotations\":{{}}}},\
             \"result\":{{\"cniVersion\":\"1.0.0\",\"ips\":[]}}}}",
            id = intent.sandbox
        );
        assert_eq!(text, want);
        assert_eq!(slot.load_blocking(), Some(result));
        slot.remove_blocking().unwrap();
        slot.remove_blocking().unwrap();
        assert_eq!(slot.load_blocking(), None);
    }

    #[test]
    fn a_file_that_is_not_understood_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let intent = intent();
        let slot = Slot::of(dir.path(), &intent, &intent.networks[0]);
        slot.store_blocking(&json!({})).unwrap();
        for text in ["", "{", "[]", r#"{"kind":"other","result":{}}"#] {
            std::fs::write(&slot.path, text).unwrap();
            assert_eq!(slot.load_blocking(), None, "{text}");
        }
    }
}
