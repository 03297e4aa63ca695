//! containerd's messages as the seam's types and back.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use containerd_client::types;
use prost_types::{Any, FieldMask, Timestamp as WireTimestamp};

use super::channel::{Step, signed, unsigned};
use crate::containerd::{Exit, Payload, RootfsMount, Stdio};
use crate::model::{Descriptor, Result, Timestamp};

pub(super) fn payload(any: Any) -> Payload {
    Payload::new(any.type_url, any.value)
}

pub(super) fn any(payload: Payload) -> Any {
    Any {
        type_url: payload.type_url,
        value: payload.value,
    }
}

/// A time of containerd's; the epoch where it names none.
pub(super) fn timestamp(time: Option<WireTimestamp>) -> Timestamp {
    time.map_or_else(Timestamp::default, |time| {
        Timestamp::from_parts(time.seconds, time.nanos)
    })
}

pub(super) fn exit(code: u32, at: Option<WireTimestamp>) -> Exit {
    Exit {
        code,
        at: timestamp(at),
    }
}

pub(super) fn labels(labels: HashMap<String, String>) -> BTreeMap<String, String> {
    labels.into_iter().collect()
}

pub(super) fn wire_labels(labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// An update mask of `fixed` and one path a label, so that other labels stay.
pub(super) fn label_mask(fixed: &[&str], labels: &BTreeMap<String, String>) -> FieldMask {
    let named = labels.keys().map(|key| format!("labels.{key}"));
    FieldMask {
        paths: fixed.iter().map(ToString::to_string).chain(named).collect(),
    }
}

pub(super) fn mount(mount: types::Mount) -> RootfsMount {
    RootfsMount {
        kind: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    }
}

pub(super) fn mounts(mounts: Vec<types::Mount>) -> Vec<RootfsMount> {
    mounts.into_iter().map(mount).collect()
}

pub(super) fn wire_mounts(mounts: &[RootfsMount]) -> Vec<types::Mount> {
    mounts
        .iter()
        .map(|mount| types::Mount {
            r#type: mount.kind.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        })
        .collect()
}

pub(super) fn descriptor(descriptor: types::Descriptor, step: Step<'_>) -> Result<Descriptor> {
    Ok(Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest.parse()?,
        size: unsigned(descriptor.size, step)?,
        annotations: labels(descriptor.annotations),
    })
}

pub(super) fn wire_descriptor(
    descriptor: &Descriptor,
    step: Step<'_>,
) -> Result<types::Descriptor> {
    Ok(types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: signed(descriptor.size, step)?,
        annotations: wire_labels(&descriptor.annotations),
    })
}

/// FIFO paths as the text that containerd wants: empty for none. A path of ours is always UTF-8.
pub(super) fn fifo(path: Option<&PathBuf>) -> String {
    path.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
}

pub(super) fn stdio(stdin: String, stdout: String, stderr: String, terminal: bool) -> Stdio {
    let path = |text: String| (!text.is_empty()).then(|| PathBuf::from(text));
    Stdio {
        stdin: path(stdin),
        stdout: path(stdout),
        stderr: path(stderr),
        terminal,
    }
}

/// `field==value` in containerd's filter language, both quoted where needed.
pub(super) fn equals(field: &str, value: &str) -> String {
    format!("{field}=={}", quoted(value))
}

/// A filter on one label.
pub(super) fn label_equals(key: &str, value: &str) -> String {
    equals(&format!("labels.{}", quoted(key)), value)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_quotes_key_and_value() {
        assert_eq!(
            label_equals("io.cri-containerd.kind", "a\"b"),
            r#"labels."io.cri-containerd.kind"=="a\"b""#
        );
    }

    #[test]
    fn a_label_mask_names_each_label() {
        let labels = BTreeMap::from([("a.b/c".to_owned(), "1".to_owned())]);
        assert_eq!(
            label_mask(&["target"], &labels).paths,
            ["target", "labels.a.b/c"]
        );
    }
}
