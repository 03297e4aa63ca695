//! Reads manifests: YAML documents into Kubernetes' types, with every field that will not be carried out named.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fields;
use crate::model::{Classify as _, Error, Kind, Result};

/// The namespace of what names none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// The pods, in the file's order.
    pub(super) pods: Vec<Pod>,
    /// The ConfigMaps.
    pub(super) config_maps: ConfigMaps,
    /// What will not be carried out, one line each.
    pub(super) warnings: Vec<String>,
}

/// The ConfigMaps of a file by namespace and name.
#[derive(Debug, Default)]
pub(super) struct ConfigMaps(BTreeMap<(String, String), ConfigMap>);

impl ConfigMaps {
    /// The ConfigMap `name` of `namespace`.
    ///
    /// # Errors
    /// `NotFound` where the file has none, unless it is `optional`.
    pub(super) fn find(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<&ConfigMap>> {
        let found = self.0.get(&(namespace.to_owned(), name.to_owned()));
        if found.is_none() && !optional {
            return Err(Error::not_found(format!(
                "configmap {namespace}/{name} is not in the file; add it as a further YAML document"
            )));
        }
        Ok(found)
    }
}

/// Reads the YAML documents of `text`.
///
/// # Errors
/// `InvalidArgument` for what is no YAML, no Kubernetes object, or has a field of the wrong type.
pub(super) fn parse(text: &str) -> Result<Manifest> {
    let options = serde_saphyr::options! {
        // `defaultMode: 0644` is octal to every Kubernetes tool.
        legacy_octal_numbers: true,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .classify(Kind::InvalidArgument, || "not readable as YAML".into())?;
    let mut manifest = Manifest::default();
    for (index, document) in documents.into_iter().enumerate() {
        manifest.add(&format!("document {}", index + 1), document)?;
    }
    Ok(manifest)
}

impl Manifest {
    fn add(&mut self, place: &str, tree: Value) -> Result<()> {
        if tree.is_null() {
            return Ok(());
        }
        let text = |key: &str| tree.get(key).and_then(Value::as_str).unwrap_or_default();
        match (text("apiVersion"), text("kind")) {
            ("v1", "Pod") => {
                let pod: Pod = self.typed(place, &tree, false)?;
                self.pods.push(pod);
            }
            ("v1", "ConfigMap") => {
                let map: ConfigMap = self.typed(place, &tree, true)?;
                let namespace = map.metadata.namespace.clone();
                let key = (
                    namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
                    map.metadata.name.clone().unwrap_or_default(),
                );
                if self.config_maps.0.contains_key(&key) {
                    return Err(Error::invalid(format!(
                        "{place}: configmap {}/{} stands in the file twice",
                        key.0, key.1
                    )));
                }
                self.config_maps.0.insert(key, map);
            }
            ("v1", "List") => {
                let items = tree.get("items").and_then(Value::as_array).cloned();
                for (index, item) in items.unwrap_or_default().into_iter().enumerate() {
                    self.add(&format!("{place} item {}", index + 1), item)?;
                }
            }
            ("", _) | (_, "") => {
                return Err(Error::invalid(format!(
                    "{place}: no Kubernetes object: apiVersion and kind are missing"
                )));
            }
            (version, kind) => self.warnings.push(format!(
                "{place}: {version} {kind} is not run, only v1 Pod and ConfigMap are; ignored"
            )),
        }
        Ok(())
    }

    fn typed<T>(&mut self, place: &str, tree: &Value, config_map: bool) -> Result<T>
    where
        T: DeserializeOwned + Serialize,
    {
        let kind = if config_map { "configmap" } else { "pod" };
        let name = tree.pointer("/metadata/name").and_then(Value::as_str);
        let object = format!("{kind} {}", name.unwrap_or(place));
        let typed: T = serde_json::from_value(tree.clone()).classify(Kind::InvalidArgument, || {
            format!("{object}: a field has the wrong type (text that looks like a number or truth value needs quotes)")
        })?;
        let known = serde_json::to_value(&typed)
            .classify(Kind::Internal, || format!("{object}: write back"))?;
        let shape = fields::supported(config_map);
        let warnings = fields::unsupported(tree, &known, shape);
        self.warnings.extend(
            warnings
                .into_iter()
                .map(|warning| format!("{object}: {warning}")),
        );
        Ok(typed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: "web"}}
spec:
  nodeSelector: {disk: ssd}
  containers:
  - name: nginx
    image: nginx
    imagePullPolcy: Never
    env: [{name: A, value: "1"}, {name: B, valueFrom: {secretKeyRef: {name: s, key: k}}}]
    livenessProbe: {grpc: {port: 80}}
    ports: [{containerPort: 80, hostprt: 1}]
  volumes:
  - {name: c, configMap: {name: conf, defaultMode: 0440}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {"a.conf": "x"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
"#;

    #[test]
    fn each_field_that_is_not_carried_out_is_named() {
        let manifest = parse(POD).unwrap();

        assert_eq!(
            manifest.warnings,
            [
                "pod web: spec.containers[0].env[1].valueFrom.secretKeyRef: play does not carry this out; ignored",
                "pod web: spec.containers[0].imagePullPolcy: Kubernetes knows no such field; ignored",
                "pod web: spec.containers[0].livenessProbe.grpc: play does not carry this out; ignored",
                "pod web: spec.containers[0].ports[0].hostprt: Kubernetes knows no such field; ignored",
                "pod web: spec.nodeSelector: play does not carry this out; ignored",
                "document 3: v1 Service is not run, only v1 Pod and ConfigMap are; ignored",
            ]
        );
    }

    #[test]
    fn modes_are_octal_and_config_maps_are_found_by_name() {
        let manifest = parse(POD).unwrap();

        let volumes = manifest.pods[0].spec.clone().unwrap().volumes.unwrap();
        assert_eq!(
            volumes[0].config_map.as_ref().unwrap().default_mode,
            Some(0o440)
        );
        assert!(
            manifest
                .config_maps
                .find("default", "conf", false)
                .unwrap()
                .is_some()
        );
        assert_eq!(
            manifest
                .config_maps
                .find("default", "gone", false)
                .unwrap_err()
                .kind(),
            Kind::NotFound
        );
    }

    #[test]
    fn what_is_no_kubernetes_object_is_refused() {
        for text in [
            "a: [",
            "a: b",
            "[1, 2]",
            "apiVersion: v1\nkind: Pod\nspec: 7\n",
        ] {
            assert_eq!(
                parse(text).unwrap_err().kind(),
                Kind::InvalidArgument,
                "{text}"
            );
        }
    }
}
