//! What is put into a finished spec.

use insta::assert_json_snapshot;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::model::edits::{EditedDevice, EditedMount, Edits, Hook, NetDevice, Rdt, Stage};
use crate::model::host_facts::DeviceKind;
use crate::spec::apply_edits;
use crate::spec::testing::{Case, bind, json, user_namespace};

fn applied(spec: &Spec, edits: &Edits) -> Value {
    let mut spec = spec.clone();
    apply_edits(&mut spec, edits);
    json(&spec)
}

fn device(path: &str, kind: DeviceKind, access: &str) -> EditedDevice {
    EditedDevice {
        path: path.into(),
        kind,
        major: 195,
        minor: 7,
        mode: None,
        uid: None,
        gid: None,
        access: access.into(),
    }
}

fn mount(destination: &str, options: &[&str]) -> EditedMount {
    EditedMount {
        destination: destination.into(),
        source: "/edited".into(),
        kind: String::new(),
        options: options.iter().map(ToString::to_string).collect(),
    }
}

fn hook(stage: Stage, path: &str) -> Hook {
    Hook {
        stage,
        path: path.into(),
        args: vec!["a".into()],
        env: Vec::new(),
        timeout: Some(2),
    }
}

#[test]
fn no_edits_change_nothing() {
    let spec = Case::default().spec().unwrap();

    assert_eq!(applied(&spec, &Edits::default()), json(&spec));
}

#[test]
fn each_kind_of_edit_has_its_place() {
    let spec = Case::default().spec().unwrap();
    let edits = Edits {
        env: vec!["NEW=1".into()],
        devices: vec![device("/dev/x", DeviceKind::Char, "rw")],
        net_devices: vec![NetDevice {
            host_name: "eth7".into(),
            name: "net1".into(),
        }],
        mounts: vec![mount("/data", &["rbind", "ro"])],
        hooks: [
            Stage::Prestart,
            Stage::CreateRuntime,
            Stage::CreateContainer,
            Stage::StartContainer,
            Stage::Poststart,
            Stage::Poststop,
        ]
        .map(|stage| hook(stage, "/bin/hook"))
        .to_vec(),
        rdt: Some(Rdt {
            class: "gold".into(),
            l3_cache: "L3:0=f".into(),
            memory_bandwidth: "MB:0=50".into(),
            schemata: vec!["L3:1=3".into()],
            is_monitored: true,
        }),
        groups: vec![44, 0, 44],
    };

    let edited = applied(&spec, &edits);

    assert_json_snapshot!(json!({
        "env": edited["process"]["env"],
        "groups": edited["process"]["user"],
        "devices": edited["linux"]["devices"],
        "rules": edited["linux"]["resources"]["devices"],
        "netDevices": edited["linux"]["netDevices"],
        "intelRdt": edited["linux"]["intelRdt"],
        "hooks": edited["hooks"],
        "mounts": edited["mounts"].as_array().unwrap().iter().rev().take(2).collect::<Vec<_>>(),
    }));
}

#[test]
fn a_variable_is_replaced_where_it_stands() {
    let mut case = Case::default();
    case.config.envs = vec![("A".into(), "1".into()), ("AB".into(), "2".into())];
    let spec = case.spec().unwrap();
    let edits = Edits {
        env: vec!["A=x=y".into(), "C=".into(), "C=3".into()],
        ..Edits::default()
    };

    let env = applied(&spec, &edits)["process"]["env"].clone();

    let env: Vec<&str> = env
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(env.ends_with(&["A=x=y", "AB=2", "C=3"]), "{env:?}");
}

#[test]
fn a_node_replaces_the_one_at_its_path_and_belongs_to_the_containers_user() {
    let mut case = Case::default();
    case.user.uid = 1000;
    case.user.gid = 0;
    let spec = case.spec().unwrap();
    let own = EditedDevice {
        uid: Some(0),
        gid: Some(9),
        mode: Some(0o600),
        ..device("/dev/own", DeviceKind::Block, "")
    };
    let edits = Edits {
        devices: vec![
            device("/dev/x", DeviceKind::Char, "r"),
            device("/dev/x", DeviceKind::Fifo, "rwm"),
            device("/dev/u", DeviceKind::Unbuffered, "rwm"),
            own,
        ],
        ..Edits::default()
    };

    let edited = applied(&spec, &edits);

    let at = |path: &str| {
        let all = edited["linux"]["devices"].as_array().unwrap();
        let found: Vec<&Value> = all.iter().filter(|node| node["path"] == path).collect();
        assert_eq!(found.len(), 1, "{path}");
        found[0].clone()
    };
    assert_eq!(
        at("/dev/x"),
        json!({"path": "/dev/x", "type": "p", "major": 195, "minor": 7, "uid": 1000})
    );
    assert_eq!(at("/dev/u")["type"], "u");
    assert_eq!(at("/dev/own")["uid"], 0);
    let rules = edited["linux"]["resources"]["devices"].as_array().unwrap();
    let added: Vec<(&Value, &Value)> = rules
        .iter()
        .filter(|rule| rule["major"] == 195)
        .map(|rule| (&rule["type"], &rule["access"]))
        .collect();
    assert_eq!(
        added,
        [(&json!("c"), &json!("r")), (&json!("b"), &json!(""))]
    );
}

#[test]
fn mounts_are_replaced_and_sorted_by_depth() {
    let case = Case {
        mounts: vec![bind("/data/deep/below"), bind("/data")],
        ..Case::default()
    };
    let spec = case.spec().unwrap();
    let edits = Edits {
        mounts: vec![mount("/data", &["bind"]), mount("/data/deep", &["bind"])],
        ..Edits::default()
    };

    let edited = applied(&spec, &edits);

    let below_data: Vec<(&str, &str)> = edited["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|mount| Some((mount["destination"].as_str()?, mount["source"].as_str()?)))
        .filter(|(destination, _)| destination.starts_with("/data"))
        .collect();
    assert_eq!(
        below_data,
        [
            ("/data", "/edited"),
            ("/data/deep", "/edited"),
            ("/data/deep/below", "/real/src"),
        ]
    );
}

#[test]
fn binds_map_ids_in_a_user_namespace_only() {
    let edits = Edits {
        mounts: vec![
            mount("/a", &["bind"]),
            mount("/b", &["ro", "rbind"]),
            mount("/c", &["rbind", "idmap"]),
            mount("/d", &["ro"]),
        ],
        ..Edits::default()
    };
    let mut case = Case::default();
    let options = |case: &Case| {
        let edited = applied(&case.spec().unwrap(), &edits);
        let all = edited["mounts"].as_array().unwrap().clone();
        let edited = all.into_iter().filter(|mount| mount["source"] == "/edited");
        edited
            .map(|mount| mount["options"].clone())
            .collect::<Vec<_>>()
    };

    assert_eq!(
        options(&case)[..2],
        [json!(["bind"]), json!(["ro", "rbind"])]
    );
    case.config.security.namespaces.user = Some(user_namespace());
    case.pod.security.namespaces.user = Some(user_namespace());
    assert_eq!(
        options(&case),
        [
            json!(["bind", "idmap"]),
            json!(["ro", "rbind", "ridmap"]),
            json!(["rbind", "idmap"]),
            json!(["ro"]),
        ]
    );
}

#[test]
fn later_edits_win_over_earlier_ones() {
    let rdt = |class: &str| Rdt {
        class: class.into(),
        ..Rdt::default()
    };
    let mut edits = Edits {
        rdt: Some(rdt("first")),
        groups: vec![1],
        ..Edits::default()
    };

    edits.extend(Edits {
        groups: vec![2],
        ..Edits::default()
    });
    assert_eq!(edits.rdt, Some(rdt("first")));
    edits.extend(Edits {
        rdt: Some(rdt("second")),
        ..Edits::default()
    });

    assert_eq!(edits.rdt, Some(rdt("second")));
    assert_eq!(edits.groups, [1, 2]);
}
