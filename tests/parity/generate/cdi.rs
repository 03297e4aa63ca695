//! CDI devices: by the field, by annotations, and such as nobody has.

use podwright::wire::cri;

use super::{Container, FILES, map};

/// What the specifications of `node` describe, and what they do not.
pub(super) fn containers(n: i64) -> Vec<Container> {
    let full = |name: &str| format!("example.com/parity{n}={name}");
    let asks = |c: &mut cri::ContainerConfig, names: &[&str]| {
        let one = |name: &&str| cri::CdiDevice { name: full(name) };
        c.cdi_devices = names.iter().map(one).collect();
    };
    let all = ["0", "mounts", "hooks", "groups", "rdt", "network"];
    let mut requests: Vec<Container> = all
        .iter()
        .chain(&["none", "unknown"])
        .map(|name| Container::new(*name, |c| asks(c, &[name])))
        .collect();
    requests.extend([
        Container::new("all", |c| {
            asks(c, &all);
            c.envs = vec![cri::KeyValue {
                key: String::from("WHICH"),
                value: b"the container's".to_vec(),
            }];
            c.mounts = vec![cri::Mount {
                container_path: String::from("/a/b"),
                host_path: format!("{FILES}/volume-{n}"),
                ..Default::default()
            }];
        }),
        Container::new("owned", |c| {
            asks(c, &["0", "groups"]);
            let linux = c.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.run_as_user = Some(cri::Int64Value { value: 1000 + n });
            security.run_as_group = Some(cri::Int64Value { value: 44 });
        }),
        Container::new("annotated", |c| {
            asks(c, &["groups"]);
            c.annotations = map([
                (
                    "cdi.k8s.io/one",
                    format!("{},{}", full("0"), full("groups")),
                ),
                ("other/key", String::from("no device")),
            ]);
        }),
        Container::new("annotated-badly", |c| {
            c.annotations = map([("cdi.k8s.io/one", String::from("example.com/parity"))]);
        }),
        Container::new("two-files", |c| {
            asks(c, &["0"]);
            c.cdi_devices.push(cri::CdiDevice {
                name: format!("example.com/twice=only{n}"),
            });
        }),
        Container::new("in-two-files", |c| {
            c.cdi_devices = vec![cri::CdiDevice {
                name: String::from("example.com/twice=both"),
            }];
        }),
    ]);
    requests
}
