//! Environment variables: where their values come from, and `$(NAME)` in values, commands and arguments.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, EnvVarSource};

use super::defaults::{ContainerPlan, Plan};
use super::manifest::ConfigMaps;
use crate::model::{Error, Result};

/// Variables in the order in which they were first named.
#[derive(Debug, Default)]
pub(super) struct Variables {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    /// Name and value, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.order.iter().filter_map(|name| {
            let value = self.values.get(name)?;
            Some((name.as_str(), value.as_str()))
        })
    }

    /// `text` with each `$(NAME)` of a known variable replaced and `$$` made `$`.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let named = after
                .strip_prefix('(')
                .and_then(|inside| inside.split_once(')'));
            match named {
                Some((name, after)) => {
                    match self.values.get(name) {
                        Some(value) => out.push_str(value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = after;
                }
                None => {
                    out.push('$');
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        out
    }
}

/// The variables of `container` in a pod whose addresses are `pod_ips`.
///
/// # Errors
/// `NotFound` for a ConfigMap or key that the file lacks, `InvalidArgument` for a field that cannot be read.
pub(super) fn resolve(
    plan: &Plan,
    container: &ContainerPlan,
    config_maps: &ConfigMaps,
    pod_ips: &[String],
) -> Result<Variables> {
    let mut variables = Variables::default();
    for source in container.spec.env_from.iter().flatten() {
        let Some(from) = &source.config_map_ref else {
            continue;
        };
        let found = config_maps.find(
            &plan.k8s_namespace,
            &from.name,
            from.optional.unwrap_or(false),
        )?;
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in found.iter().flat_map(|map| map.data.iter().flatten()) {
            variables.set(&format!("{prefix}{key}"), value.clone());
        }
    }
    for variable in container.spec.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(variables.expand(value)),
            (None, Some(from)) => read(plan, from, config_maps, pod_ips)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            variables.set(&variable.name, value);
        }
    }
    Ok(variables)
}

/// The value that `from` names; none for an optional one that is not there and for kinds that were warned of.
fn read(
    plan: &Plan,
    from: &EnvVarSource,
    config_maps: &ConfigMaps,
    pod_ips: &[String],
) -> Result<Option<String>> {
    if let Some(field) = &from.field_ref {
        return pod_field(plan, &field.field_path, pod_ips).map(Some);
    }
    let Some(from) = &from.config_map_key_ref else {
        return Ok(None);
    };
    let optional = from.optional.unwrap_or(false);
    let map = config_maps.find(&plan.k8s_namespace, &from.name, optional)?;
    let value = map
        .and_then(|map: &ConfigMap| map.data.as_ref()?.get(&from.key))
        .cloned();
    if value.is_none() && !optional {
        return Err(Error::not_found(format!(
            "configmap {}/{} has no key {:?}",
            plan.k8s_namespace, from.name, from.key
        )));
    }
    Ok(value)
}

fn pod_field(plan: &Plan, path: &str, pod_ips: &[String]) -> Result<String> {
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels['") {
        return Ok(plan.labels.get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations['") {
        return Ok(plan.annotations.get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => plan.name.clone(),
        "metadata.namespace" => plan.k8s_namespace.clone(),
        "metadata.uid" => plan.uid.clone(),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        "spec.serviceAccountName" => "default".into(),
        other => {
            return Err(Error::invalid(format!(
                "fieldRef {other:?}: play knows metadata.name, .namespace, .uid, .labels['KEY'], .annotations['KEY'], \
                 status.podIP and status.podIPs"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;
    use crate::play::manifest;
    use crate::play::testing::plan;

    fn maps() -> ConfigMaps {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {LEVEL: debug, NAME: map}";
        manifest::parse(text).unwrap().config_maps
    }

    fn variables(env: &str) -> Result<Vec<(String, String)>> {
        let plan = plan(&format!("containers: [{{name: a, image: i, {env}}}]"));
        let found = resolve(&plan, &plan.containers[0], &maps(), &["10.0.0.2".into()])?;
        Ok(found.iter().map(|(k, v)| (k.into(), v.into())).collect())
    }

    #[test]
    fn later_sources_win_and_keep_the_first_place() {
        let found = variables(
            r#"envFrom: [{prefix: P_, configMapRef: {name: conf}}], env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}},
            {name: URL, value: "http://$(IP)/$(NO)/$$(IP)"}, {name: P_NAME, value: env}, {name: L, valueFrom: {configMapKeyRef: {name: conf, key: LEVEL}}}]"#,
        );

        let text: Vec<String> = found
            .unwrap()
            .into_iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            text,
            [
                "P_LEVEL=debug",
                "P_NAME=env",
                "IP=10.0.0.2",
                "URL=http://10.0.0.2/$(NO)/$(IP)",
                "L=debug"
            ]
        );
    }

    #[test]
    fn a_missing_key_is_an_error_unless_it_is_optional() {
        let missing = "env: [{name: A, valueFrom: {configMapKeyRef: {name: conf, key: x}}}]";
        let optional =
            "env: [{name: A, valueFrom: {configMapKeyRef: {name: gone, key: x, optional: true}}}]";

        assert_eq!(variables(missing).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(variables(optional).unwrap(), []);
    }
}
