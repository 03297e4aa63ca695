//! A CDI specification file: one strict reader for JSON and YAML, and the rules between its parts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::edits::{ContainerEdits, nullable};
use super::name::{is_device_name, parse_kind};
use super::version::{self, Need};
use crate::model::{Classify, Context, Error, Kind, Result};

/// Most devices of one file.
const MAX_DEVICES: usize = 10_000;

/// A specification that breaks no rule.
#[derive(Debug, PartialEq)]
pub(in crate::devices) struct Specification {
    /// `vendor/class`.
    pub(super) kind: String,
    /// For whoever uses any of the devices.
    pub(super) common: ContainerEdits,
    /// By name.
    pub(super) devices: BTreeMap<String, ContainerEdits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    cdi_version: String,
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
    devices: Vec<Device>,
    #[serde(default, deserialize_with = "nullable")]
    container_edits: ContainerEdits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    container_edits: ContainerEdits,
}

/// Reads a specification. JSON is read as the YAML that it is.
///
/// # Errors
/// `InvalidArgument` saying what is wrong.
pub(in crate::devices) fn parse(text: &str) -> Result<Specification> {
    let options = serde_saphyr::options! {
        // `fileMode: 0660` is octal to every writer of these files.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let document: Document = serde_saphyr::from_str_with_options(text, options)
        .classify(Kind::InvalidArgument, || "not readable".to_owned())?;
    let (_vendor, class) = parse_kind(&document.kind)
        .ok_or_else(|| Error::invalid(format!("kind {:?}: want vendor/class", document.kind)))?;
    let mut need = Need::of_edits(&document.container_edits);
    need.annotations |= !document.annotations.is_empty() || class.contains('.');
    document
        .container_edits
        .check()
        .context(|| "containerEdits".to_owned())?;
    if document.devices.is_empty() {
        return Err(Error::invalid("devices: none"));
    }
    if document.devices.len() > MAX_DEVICES {
        return Err(Error::invalid(format!("devices: more than {MAX_DEVICES}")));
    }
    let mut devices = BTreeMap::new();
    for Device {
        name,
        annotations,
        container_edits,
    } in document.devices
    {
        let what = || format!("device {name:?}");
        if !is_device_name(&name) {
            return Err(Error::invalid("not a name").context(what()));
        }
        if container_edits.is_empty() {
            return Err(Error::invalid("without containerEdits").context(what()));
        }
        container_edits.check().context(what)?;
        need.join(&Need::of_edits(&container_edits));
        need.annotations |= !annotations.is_empty();
        need.free_names |= name.starts_with(|first: char| !first.is_ascii_alphabetic());
        if devices.contains_key(&name) {
            return Err(Error::invalid("given twice").context(what()));
        }
        devices.insert(name, container_edits);
    }
    version::check(&document.cdi_version, &need)?;
    Ok(Specification {
        kind: document.kind,
        common: document.container_edits,
        devices,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::model::edits::Stage;

    const WHOLE: &str = "
cdiVersion: v1.1.0
kind: vendor.com/class.sub
annotations: {a: b}
containerEdits:
  env: [\"COMMON=1\"]
devices:
- name: 0dev
  annotations: null
  containerEdits:
    deviceNodes:
    - {path: /dev/x, hostPath: /dev/null, type: c, major: 1, minor: 3, fileMode: 0660, permissions: rw, uid: 1, gid: 2}
    netDevices: [{hostInterfaceName: eth7, name: net1}]
    mounts: [{hostPath: /a, containerPath: /b, options: [rbind, ro], type: none}]
    hooks: [{hookName: createRuntime, path: /bin/true, args: [\"true\"], env: [\"A=b\"], timeout: 3}]
    intelRdt: {closID: c, l3CacheSchema: l, memBwSchema: m, schemata: [s], enableMonitoring: true}
    additionalGids: [5]
- name: other
  containerEdits: {env: [\"X=y=z\", \"EMPTY=\"]}
";

    #[test]
    fn a_whole_file_is_read() {
        let file = parse(WHOLE).unwrap();

        assert_eq!(file.kind, "vendor.com/class.sub");
        assert_eq!(file.common.env, ["COMMON=1"]);
        let edits = file.devices["0dev"].resolve_blocking().unwrap();
        assert_eq!(edits.devices[0].mode, Some(0o660));
        assert_eq!(edits.devices[0].access, "rw");
        assert_eq!(edits.hooks[0].stage, Stage::CreateRuntime);
        assert_eq!(edits.rdt.unwrap().schemata, ["s"]);
        assert_eq!(edits.groups, [5]);
        assert_eq!(file.devices["other"].env, ["X=y=z", "EMPTY="]);
    }

    #[test]
    fn json_is_read_with_any_indentation() {
        let json = "{\n\t\"cdiVersion\": \"0.5.0\",\n\t\"kind\": \"v/c\",\n\t\"devices\": [\n\t\t{\n\t\t\t\"name\": \"d\",\n\t\t\t\"containerEdits\": {\"env\": [\"A=\\u0062\"], \"mounts\": null}\n\t\t}\n\t]\n}\n";

        assert_eq!(parse(json).unwrap().devices["d"].env, ["A=b"]);
    }

    const SHORT: &str =
        "cdiVersion: VERSION\nkind: KIND\ndevices:\n- name: NAME\n  containerEdits: EDITS\n";

    fn short(version: &str, kind: &str, name: &str, edits: &str) -> Result<Specification> {
        let text = SHORT
            .replace("VERSION", version)
            .replace("KIND", kind)
            .replace("NAME", name)
            .replace("EDITS", edits);
        parse(&text)
    }

    #[rstest]
    #[case::unknown_field("{envs: [A=b]}")]
    #[case::empty("{}")]
    #[case::nothing("null")]
    #[case::env_without_value("{env: [A]}")]
    #[case::env_without_name("{env: [\"=b\"]}")]
    #[case::duplicate_key("{env: [A=b], env: [A=c]}")]
    #[case::device_without_path("{deviceNodes: [{type: c}]}")]
    #[case::device_type("{deviceNodes: [{path: /dev/x, type: d}]}")]
    #[case::device_access("{deviceNodes: [{path: /dev/x, permissions: rx}]}")]
    #[case::mount_without_source("{mounts: [{containerPath: /x}]}")]
    #[case::mount_without_target("{mounts: [{hostPath: /x}]}")]
    #[case::hook_name("{hooks: [{hookName: prestop, path: /x}]}")]
    #[case::hook_path("{hooks: [{hookName: prestart, path: \"\"}]}")]
    #[case::hook_env("{hooks: [{hookName: prestart, path: /x, env: [A]}]}")]
    #[case::rdt_class("{intelRdt: {closID: a/b}}")]
    #[case::rdt_dots("{intelRdt: {closID: ..}}")]
    #[case::net_name("{netDevices: [{hostInterfaceName: a}]}")]
    #[case::net_twice(
        "{netDevices: [{hostInterfaceName: a, name: x}, {hostInterfaceName: b, name: x}]}"
    )]
    #[case::negative_group("{additionalGids: [-1]}")]
    fn edits_that_cannot_be_are_refused(#[case] edits: &str) {
        let error = short("1.1.0", "v/c", "d", edits).unwrap_err();

        assert_eq!(error.kind(), Kind::InvalidArgument);
    }

    #[rstest]
    #[case::kind("v", "d")]
    #[case::kind_three("v/c/e", "d")]
    #[case::name_colon("v/c", "\":d\"")]
    #[case::name_empty("v/c", "\"\"")]
    fn names_that_cannot_be_are_refused(#[case] kind: &str, #[case] name: &str) {
        assert!(short("1.1.0", kind, name, "{env: [A=b]}").is_err());
    }

    #[test]
    fn a_file_without_devices_with_one_twice_or_with_more_than_one_document_is_refused() {
        for text in [
            "{cdiVersion: 1.0.0, kind: v/c, devices: []}".to_owned(),
            "{cdiVersion: 1.0.0, kind: v/c}".to_owned(),
            "{kind: v/c, devices: [{name: d, containerEdits: {env: [A=b]}}]}".to_owned(),
            "{cdiVersion: 1.0.0, kind: v/c, devices: [{name: d, containerEdits: {env: [A=b]}}, {name: d, containerEdits: {env: [A=b]}}]}".to_owned(),
            format!("{WHOLE}---\n{WHOLE}"),
            "[]".to_owned(),
            String::new(),
        ] {
            assert!(parse(&text).is_err(), "{text}");
        }
    }

    #[rstest]
    #[case::floor("0.3.0", "v/c", "d", "{env: [A=b]}", true)]
    #[case::below_the_floor("0.2.0", "v/c", "d", "{env: [A=b]}", false)]
    #[case::unknown("1.2.0", "v/c", "d", "{env: [A=b]}", false)]
    #[case::gap("0.9.0", "v/c", "d", "{env: [A=b]}", false)]
    #[case::prefixed("v0.3.0", "v/c", "d", "{env: [A=b]}", true)]
    #[case::mount_type_early(
        "0.3.0",
        "v/c",
        "d",
        "{mounts: [{hostPath: /a, containerPath: /b, type: t}]}",
        false
    )]
    #[case::mount_type(
        "0.4.0",
        "v/c",
        "d",
        "{mounts: [{hostPath: /a, containerPath: /b, type: t}]}",
        true
    )]
    #[case::digit_early("0.4.0", "v/c", "0", "{env: [A=b]}", false)]
    #[case::digit("0.5.0", "v/c", "\"0\"", "{env: [A=b]}", true)]
    #[case::host_path_early(
        "0.4.0",
        "v/c",
        "d",
        "{deviceNodes: [{path: /a, hostPath: /b}]}",
        false
    )]
    #[case::host_path("0.5.0", "v/c", "d", "{deviceNodes: [{path: /a, hostPath: /b}]}", true)]
    #[case::dot_early("0.5.0", "v/c.d", "d", "{env: [A=b]}", false)]
    #[case::dot("0.6.0", "v/c.d", "d", "{env: [A=b]}", true)]
    #[case::dot_in_vendor("0.3.0", "v.com/c", "d", "{env: [A=b]}", true)]
    #[case::groups_early("0.6.0", "v/c", "d", "{additionalGids: [1]}", false)]
    #[case::groups("0.7.0", "v/c", "d", "{additionalGids: [1]}", true)]
    #[case::rdt_early("0.6.0", "v/c", "d", "{intelRdt: {}}", false)]
    #[case::rdt_root("0.7.0", "v/c", "d", "{intelRdt: {closID: /}}", true)]
    #[case::rdt("0.7.0", "v/c", "d", "{intelRdt: {closID: a}}", true)]
    #[case::schemata_early("1.0.0", "v/c", "d", "{intelRdt: {schemata: [a]}}", false)]
    #[case::monitoring_early("1.0.0", "v/c", "d", "{intelRdt: {enableMonitoring: true}}", false)]
    #[case::net_early(
        "1.0.0",
        "v/c",
        "d",
        "{netDevices: [{hostInterfaceName: a, name: b}]}",
        false
    )]
    #[case::net(
        "1.1.0",
        "v/c",
        "d",
        "{netDevices: [{hostInterfaceName: a, name: b}]}",
        true
    )]
    fn a_version_must_be_known_and_new_enough(
        #[case] version: &str,
        #[case] kind: &str,
        #[case] name: &str,
        #[case] edits: &str,
        #[case] is_fine: bool,
    ) {
        let read = short(version, kind, name, edits);

        assert_eq!(read.is_ok(), is_fine, "{read:?}");
    }

    #[test]
    fn a_node_of_many_devices_has_a_long_file() {
        let mut text = String::from("cdiVersion: 0.6.0\nkind: v/c\ndevices:\n");
        for device in 0..1_000 {
            text.push_str(&format!(
                "- name: d{device}\n  containerEdits:\n    deviceNodes:\n"
            ));
            for node in 0..10 {
                text.push_str(&format!(
                    "    - {{path: /dev/d{device}-{node}, hostPath: /dev/null, permissions: rw}}\n"
                ));
            }
        }

        assert_eq!(parse(&text).unwrap().devices.len(), 1_000);
    }

    #[test]
    fn a_text_that_grows_while_it_is_read_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        for text in [text, "[".repeat(100_000), "{a: ".repeat(100_000)] {
            assert!(parse(&text).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            drop(parse(&text));
        }

        #[test]
        fn a_damaged_file_is_read_or_refused(at in 0..WHOLE.len(), with in "\\PC{0,6}", gone in 0_usize..20) {
            let end = (at + gone).min(WHOLE.len());
            let text = format!("{}{with}{}", &WHOLE[..at], &WHOLE[end..]);
            drop(parse(&text));
        }
    }
}
