//! Labels of snapshots that pods and containers have.

use std::collections::BTreeMap;

use crate::model::Timestamp;
use crate::model::security::IdMapping;
use crate::spec::UserMapping;

use super::record::MARK;

/// Labels of a new snapshot: ours, and not to be collected although nothing of containerd's may refer to it.
pub(crate) fn labels(now: Timestamp) -> BTreeMap<String, String> {
    let now = jiff::Timestamp::from_nanosecond(i128::from(now.0)).unwrap_or_default();
    BTreeMap::from([
        ("containerd.io/gc.root".to_owned(), now.to_string()),
        (MARK.0.to_owned(), MARK.1.to_owned()),
    ])
}

/// The labels that make a snapshotter which can remap ids do so: the layers stay as they are for every other container.
pub(crate) fn mapping_labels(mapping: UserMapping) -> [(String, String); 2] {
    let label = |name: &str, range: IdMapping| {
        (
            format!("containerd.io/snapshot/{name}"),
            format!("{}:{}:{}", range.container_id, range.host_id, range.length),
        )
    };
    [
        label("uidmapping", mapping.uid),
        label("gidmapping", mapping.gid),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_container_host_and_length() {
        let range = |host_id| IdMapping {
            container_id: 0,
            host_id,
            length: 65_536,
        };
        let mapping = UserMapping {
            uid: range(100_000),
            gid: range(200_000),
        };

        let labels = mapping_labels(mapping);

        let expected = [
            ("containerd.io/snapshot/uidmapping", "0:100000:65536"),
            ("containerd.io/snapshot/gidmapping", "0:200000:65536"),
        ];
        assert_eq!(
            labels,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }
}
