//! Two JSON trees, and where they differ.

use std::fmt;

use serde_json::{Value, json};

use crate::case::Outcome;
use crate::ensure;

/// One place at which the two answers to one request differ. What is not there is `None`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// The request: a pod's name, or `pod/container`.
    pub(crate) request: String,
    /// Keys joined by dots; a key of other than letters, digits, `_` and `-` stands in brackets.
    pub(crate) path: String,
    /// The values as JSON text, or `absent`.
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path, ours, theirs, ..
        } = self;
        write!(f, "{path}: podwright {ours}, containerd {theirs}")
    }
}

/// Every difference between the answers to `request`.
pub(crate) fn trees(request: &str, ours: &Value, theirs: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    descend(request, String::new(), Some(ours), Some(theirs), &mut found);
    found
}

fn descend(
    request: &str,
    path: String,
    ours: Option<&Value>,
    theirs: Option<&Value>,
    found: &mut Vec<Difference>,
) {
    match (ours, theirs) {
        (Some(a), Some(b)) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for (key, value) in a {
                descend(request, join(&path, key), Some(value), b.get(key), found);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                descend(request, join(&path, key), None, Some(value), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (number, (a, b)) in a.iter().zip(b).enumerate() {
                let path = join(&path, &number.to_string());
                descend(request, path, Some(a), Some(b), found);
            }
        }
        (a, b) => found.push(Difference {
            request: request.to_owned(),
            path,
            ours: text(a),
            theirs: text(b),
        }),
    }
}

fn join(path: &str, key: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.chars().all(is_plain) {
        format!("{path}[{key}]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn text(value: Option<&Value>) -> String {
    value.map_or_else(|| String::from("absent"), Value::to_string)
}

/// Equal trees differ nowhere; each changed, missing and added leaf is found, once and by its path.
pub(crate) fn proof() -> Outcome {
    let ours = json!({"same": 1, "list": [1, 2], "a/b": {"only": true}, "short": [1]});
    let theirs = json!({"same": 1, "list": [1, 3], "a/b": {}, "short": [1, 2], "new": null});
    ensure(trees("r", &ours, &ours).is_empty(), || {
        String::from("equal trees differ")
    })?;
    let found: Vec<String> = trees("r", &ours, &theirs)
        .iter()
        .map(ToString::to_string)
        .collect();
    let wanted = [
        "[a/b].only: podwright true, containerd absent",
        "list.1: podwright 2, containerd 3",
        "short: podwright [1], containerd [1,2]",
        "new: podwright absent, containerd null",
    ];
    ensure(found == wanted, || format!("found {found:#?}"))
}
