use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::model::Kind;
use crate::model::clock::SystemClock;
use crate::model::host_facts::DeviceKind;

/// Directories of specifications, lowest first.
struct Node(Vec<TempDir>);

impl Node {
    fn new(directories: usize) -> Self {
        Self(
            (0..directories)
                .map(|_| tempfile::tempdir().unwrap())
                .collect(),
        )
    }

    fn write(&self, directory: usize, name: &str, text: &str) {
        std::fs::write(self.0[directory].path().join(name), text).unwrap();
    }

    /// A file of kind `v/c` whose devices each set a variable of their name to `value`, and all `COMMON` to it.
    fn simple(&self, directory: usize, name: &str, devices: &[&str], value: &str) {
        let mut text = format!(
            "cdiVersion: 0.5.0\nkind: v/c\ncontainerEdits: {{env: [COMMON={value}]}}\ndevices:\n"
        );
        for device in devices {
            text.push_str(&format!(
                "- {{name: {device}, containerEdits: {{env: [\"{device}={value}\"]}}}}\n"
            ));
        }
        self.write(directory, name, &text);
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.0.iter().map(|dir| dir.path().to_owned()).collect()
    }

    fn reading(&self) -> Reading<Specification> {
        files(Arc::new(SystemClock)).read_blocking(&self.directories())
    }

    fn resolve(&self, names: &[&str]) -> Result<Edits> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        resolve_blocking(&self.reading(), &self.directories(), &names)
    }
}

fn requests(devices: &[&str], annotations: &[(&str, &str)]) -> Result<Vec<String>> {
    let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    requested(&devices, &annotations.iter().map(own).collect())
}

#[test]
fn devices_come_from_the_field_then_from_annotations_by_key_each_once() {
    let names = requests(
        &["v/c=b", "v/c=a", "v/c=b"],
        &[
            ("cdi.k8s.io/z", "v/c=z"),
            ("cdi.k8s.io/m", "v/c=a,v/c=m"),
            ("other/key", "no device"),
        ],
    );

    assert_eq!(names.unwrap(), ["v/c=b", "v/c=a", "v/c=m", "v/c=z"]);
}

#[test]
fn a_bad_name_in_an_annotation_is_refused_by_key_and_name() {
    for value in ["v/c", "", "v/c=a, v/c=b", "v/c=a,"] {
        let error = requests(&[], &[("cdi.k8s.io/x", value)]).unwrap_err();

        assert_eq!(error.kind(), Kind::InvalidArgument, "{value}");
        assert!(error.chain().contains("cdi.k8s.io/x"));
    }
}

#[test]
fn too_many_devices_are_refused_wherever_they_are_named() {
    let names: Vec<String> = (0..=MAX_NAMES)
        .map(|number| format!("v/c={number}"))
        .collect();
    let value = names.join(",");

    let error = requests(&["v/c=a"], &[("cdi.k8s.io/x", &value)]).unwrap_err();

    assert_eq!(error.kind(), Kind::InvalidArgument);
}

#[test]
fn the_edits_of_a_file_come_once_and_before_those_of_its_first_device() {
    let node = Node::new(1);
    node.simple(0, "a.yaml", &["a1", "a2"], "a");
    node.simple(0, "b.yaml", &["b1"], "b");

    let edits = node.resolve(&["v/c=a2", "v/c=b1", "v/c=a1"]).unwrap();

    assert_eq!(edits.env, ["COMMON=a", "a2=a", "COMMON=b", "b1=b", "a1=a"]);
}

#[test]
fn the_later_directory_wins_device_by_device() {
    let node = Node::new(2);
    node.simple(0, "a.yaml", &["one", "two"], "low");
    node.simple(1, "b.json", &["two"], "high");

    let edits = node.resolve(&["v/c=one", "v/c=two"]).unwrap();

    assert_eq!(
        edits.env,
        ["COMMON=low", "one=low", "COMMON=high", "two=high"]
    );
}

#[test]
fn two_of_one_directory_that_describe_a_device_make_that_device_unusable() {
    let node = Node::new(2);
    node.simple(0, "a.yaml", &["one", "both", "above"], "a");
    node.simple(0, "b.yaml", &["two", "both", "above"], "b");
    node.simple(1, "c.yaml", &["above"], "c");

    assert_eq!(node.resolve(&["v/c=one", "v/c=two"]).unwrap().env.len(), 4);
    assert_eq!(node.resolve(&["v/c=above"]).unwrap().env[1], "above=c");
    let error = node.resolve(&["v/c=both"]).unwrap_err().chain();
    assert!(
        error.contains("a.yaml") && error.contains("b.yaml"),
        "{error}"
    );
    let conflicts = conflicts(&node.reading());
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].path.ends_with("b.yaml"));
    assert!(conflicts[0].reason.contains("2 devices") && conflicts[0].reason.contains("a.yaml"));
}

#[test]
fn unresolvable_devices_are_all_named_with_the_places_and_what_is_broken_there() {
    let node = Node::new(2);
    node.simple(0, "a.yaml", &["one"], "a");
    node.write(1, "broken.json", "{");

    let error = node
        .resolve(&["v/c=none", "v/c=one", "nonsense"])
        .unwrap_err();

    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let text = error.chain();
    assert!(
        text.starts_with("unresolvable CDI devices v/c=none, nonsense:"),
        "{text}"
    );
    for part in node.directories() {
        assert!(text.contains(&part.display().to_string()), "{text}");
    }
    assert!(text.contains("broken.json"), "{text}");
}

fn device_node(node: &str) -> Result<crate::model::edits::EditedDevice> {
    let files = Node::new(1);
    let text = format!(
        "{{cdiVersion: 1.0.0, kind: v/c, devices: [{{name: d, containerEdits: {{deviceNodes: [{node}]}}}}]}}"
    );
    files.write(0, "a.yaml", &text);
    Ok(files.resolve(&["v/c=d"])?.devices.remove(0))
}

#[test]
fn a_device_node_is_completed_from_the_host() {
    let found = device_node("{path: /dev/null}").unwrap();
    assert_eq!(
        (found.kind, found.major, found.minor),
        (DeviceKind::Char, 1, 3)
    );
    assert!(found.mode.is_some() && found.access == "rwm");

    let elsewhere = device_node("{path: /dev/x, hostPath: /dev/zero, fileMode: 0600}").unwrap();
    assert_eq!(
        (elsewhere.major, elsewhere.minor, elsewhere.mode),
        (1, 5, Some(0o600))
    );
    assert_eq!(elsewhere.path, "/dev/x");

    let told = device_node("{path: /dev/missing, type: b, major: 7, minor: 9, permissions: none}")
        .unwrap();
    assert_eq!(
        (told.kind, told.major, told.minor),
        (DeviceKind::Block, 7, 9)
    );
    assert_eq!((told.mode, told.access.as_str()), (None, ""));

    let other = device_node("{path: /dev/null, type: b, major: 1, minor: 3}").unwrap();
    assert_eq!((other.kind, other.mode), (DeviceKind::Block, found.mode));
    let own_number = device_node("{path: /dev/null, type: c, major: 10, minor: 1}").unwrap();
    assert_eq!((own_number.major, own_number.minor), (10, 1));
    let pipe = device_node("{path: /dev/missing, type: p}").unwrap();
    assert_eq!(pipe.kind, DeviceKind::Fifo);
}

#[test]
fn a_device_node_that_the_host_lacks_or_has_otherwise_is_an_error() {
    let link = tempfile::tempdir().unwrap();
    let link = link.path().join("link");
    let link = format!("{{path: {}}}", link.display());
    for node in [
        "{path: /dev/missing}",
        "{path: /dev/missing, type: c}",
        "{path: /dev/null, type: b}",
        "{path: /dev/null, type: u}",
        "{path: /etc}",
        &link,
    ] {
        let error = device_node(node).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition, "{node}");
    }
}

#[test]
fn what_a_file_says_now_is_what_counts() {
    let node = Node::new(1);
    let files = files(Arc::new(SystemClock));
    let value = |files: &Files<Specification>| {
        let reading = files.read_blocking(&node.directories());
        let edits = resolve_blocking(&reading, &node.directories(), &["v/c=d".to_owned()]);
        edits.map(|edits| edits.env[1].clone()).ok()
    };
    assert_eq!(value(&files), None);
    for text in ["one", "two"] {
        node.simple(0, "a.yaml", &["d"], text);
        assert_eq!(value(&files), Some(format!("d={text}")));
    }
    std::fs::remove_file(Path::new(&node.directories()[0]).join("a.yaml")).unwrap();
    assert_eq!(value(&files), None);
}
