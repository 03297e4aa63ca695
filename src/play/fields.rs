//! Which manifest fields are carried out, as data; everything else in a tree is named in a warning.

use serde_json::Value;

/// What may stand at one place of a manifest.
#[derive(Debug)]
pub(super) enum Shape {
    /// Carried out whatever is below.
    Any,
    /// An object of which these keys are carried out.
    Fields(&'static [(&'static str, &'static Shape)]),
    /// A list of such things.
    List(&'static Shape),
}

use Shape::{Any, Fields, List};

const METADATA: &Shape = &Fields(&[
    ("name", &Any),
    ("namespace", &Any),
    ("uid", &Any),
    ("labels", &Any),
    ("annotations", &Any),
    // Written by an API server into what it hands out; nothing to carry out.
    ("creationTimestamp", &Any),
    ("resourceVersion", &Any),
    ("generation", &Any),
    ("managedFields", &Any),
]);

const EXEC: &Shape = &Fields(&[("command", &Any)]);
const HOOK: &Shape = &Fields(&[("exec", EXEC), ("sleep", &Fields(&[("seconds", &Any)]))]);

const PROBE: &Shape = &Fields(&[
    ("exec", EXEC),
    ("tcpSocket", &Fields(&[("port", &Any), ("host", &Any)])),
    (
        "httpGet",
        &Fields(&[
            ("path", &Any),
            ("port", &Any),
            ("host", &Any),
            ("httpHeaders", &Any),
        ]),
    ),
    ("initialDelaySeconds", &Any),
    ("periodSeconds", &Any),
    ("timeoutSeconds", &Any),
    ("successThreshold", &Any),
    ("failureThreshold", &Any),
    ("terminationGracePeriodSeconds", &Any),
]);

const KEY_REF: &Shape = &Fields(&[("name", &Any), ("key", &Any), ("optional", &Any)]);

const ENV: &Shape = &List(&Fields(&[
    ("name", &Any),
    ("value", &Any),
    (
        "valueFrom",
        &Fields(&[
            (
                "fieldRef",
                &Fields(&[("fieldPath", &Any), ("apiVersion", &Any)]),
            ),
            ("configMapKeyRef", KEY_REF),
        ]),
    ),
]));

const ENV_FROM: &Shape = &List(&Fields(&[
    ("prefix", &Any),
    (
        "configMapRef",
        &Fields(&[("name", &Any), ("optional", &Any)]),
    ),
]));

const SECURITY: &Shape = &Fields(&[
    ("runAsUser", &Any),
    ("runAsGroup", &Any),
    ("runAsNonRoot", &Any),
    ("privileged", &Any),
    ("capabilities", &Any),
    ("readOnlyRootFilesystem", &Any),
    ("allowPrivilegeEscalation", &Any),
    ("seccompProfile", &Any),
    ("appArmorProfile", &Any),
    ("seLinuxOptions", &Any),
    ("procMount", &Any),
]);

const QUANTITIES: &Shape = &Fields(&[("cpu", &Any), ("memory", &Any)]);

const CONTAINER: &Shape = &Fields(&[
    ("name", &Any),
    ("image", &Any),
    ("imagePullPolicy", &Any),
    ("command", &Any),
    ("args", &Any),
    ("workingDir", &Any),
    ("env", ENV),
    ("envFrom", ENV_FROM),
    ("ports", &Any),
    (
        "resources",
        &Fields(&[("limits", QUANTITIES), ("requests", QUANTITIES)]),
    ),
    ("securityContext", SECURITY),
    (
        "volumeMounts",
        &List(&Fields(&[
            ("name", &Any),
            ("mountPath", &Any),
            ("readOnly", &Any),
            ("subPath", &Any),
            ("subPathExpr", &Any),
            ("mountPropagation", &Any),
        ])),
    ),
    (
        "lifecycle",
        &Fields(&[("postStart", HOOK), ("preStop", HOOK)]),
    ),
    ("livenessProbe", PROBE),
    ("readinessProbe", PROBE),
    ("startupProbe", PROBE),
    ("restartPolicy", &Any),
    ("stdin", &Any),
    ("stdinOnce", &Any),
    ("tty", &Any),
    ("terminationMessagePath", &Any),
    ("terminationMessagePolicy", &Any),
]);

const POD_SECURITY: &Shape = &Fields(&[
    ("runAsUser", &Any),
    ("runAsGroup", &Any),
    ("runAsNonRoot", &Any),
    ("fsGroup", &Any),
    ("supplementalGroups", &Any),
    ("supplementalGroupsPolicy", &Any),
    ("seccompProfile", &Any),
    ("appArmorProfile", &Any),
    ("seLinuxOptions", &Any),
    ("sysctls", &Any),
]);

const VOLUME: &Shape = &Fields(&[
    ("name", &Any),
    (
        "emptyDir",
        &Fields(&[("medium", &Any), ("sizeLimit", &Any)]),
    ),
    ("hostPath", &Fields(&[("path", &Any), ("type", &Any)])),
    (
        "configMap",
        &Fields(&[
            ("name", &Any),
            ("items", &Any),
            ("defaultMode", &Any),
            ("optional", &Any),
        ]),
    ),
]);

const SPEC: &Shape = &Fields(&[
    ("containers", &List(CONTAINER)),
    ("initContainers", &List(CONTAINER)),
    ("volumes", &List(VOLUME)),
    ("restartPolicy", &Any),
    ("terminationGracePeriodSeconds", &Any),
    ("hostNetwork", &Any),
    ("hostPID", &Any),
    ("hostIPC", &Any),
    ("shareProcessNamespace", &Any),
    ("hostUsers", &Any),
    ("hostname", &Any),
    ("hostAliases", &Any),
    ("dnsPolicy", &Any),
    ("dnsConfig", &Any),
    ("securityContext", POD_SECURITY),
    // Nothing injects service addresses here, which is what `false` asks for and `true` merely allows.
    ("enableServiceLinks", &Any),
]);

const POD: &Shape = &Fields(&[
    ("apiVersion", &Any),
    ("kind", &Any),
    ("metadata", METADATA),
    ("spec", SPEC),
]);

const CONFIG_MAP: &Shape = &Fields(&[
    ("apiVersion", &Any),
    ("kind", &Any),
    ("metadata", METADATA),
    ("data", &Any),
    ("binaryData", &Any),
    ("immutable", &Any),
]);

/// What is carried out of a Pod and of a ConfigMap.
pub(super) const fn supported(config_map: bool) -> &'static Shape {
    if config_map { CONFIG_MAP } else { POD }
}

/// Names each field of `tree` that will not be carried out. `known` is what Kubernetes' own types understood of the
/// same tree: it tells a slip of the pen from a field that `play` lacks.
pub(super) fn unsupported(tree: &Value, known: &Value, shape: &Shape) -> Vec<String> {
    let mut found = Vec::new();
    walk("", tree, Some(known), shape, &mut found);
    found
}

fn walk(at: &str, tree: &Value, known: Option<&Value>, shape: &Shape, found: &mut Vec<String>) {
    match (shape, tree) {
        (Any, _) => lost(at, tree, known, found),
        (Fields(fields), Value::Object(map)) => {
            for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                let path = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                let known = known.and_then(|known| known.get(key));
                match fields.iter().find(|(name, _)| name == key) {
                    Some((_, below)) => walk(&path, value, known, below, found),
                    None if known.is_some() || is_empty(value) => {
                        found.push(format!("{path}: play does not carry this out; ignored"));
                    }
                    None => found.push(unknown(&path)),
                }
            }
        }
        (List(below), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                let known = known.and_then(|known| known.get(index));
                walk(&format!("{at}[{index}]"), item, known, below, found);
            }
        }
        // Of the wrong type: the typed decoding has said so already.
        (Fields(_) | List(_), _) => {}
    }
}

/// Below a supported place: what Kubernetes' types dropped.
fn lost(at: &str, tree: &Value, known: Option<&Value>, found: &mut Vec<String>) {
    match (tree, known) {
        (value, None) if !is_empty(value) => found.push(unknown(at)),
        (Value::Object(map), Some(known)) => {
            for (key, value) in map {
                lost(&format!("{at}.{key}"), value, known.get(key), found);
            }
        }
        (Value::Array(items), Some(known)) => {
            for (index, item) in items.iter().enumerate() {
                lost(&format!("{at}[{index}]"), item, known.get(index), found);
            }
        }
        _ => {}
    }
}

fn unknown(path: &str) -> String {
    format!("{path}: Kubernetes knows no such field; ignored")
}

/// Empty things may be left out when Kubernetes' types are written back.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
