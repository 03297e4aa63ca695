use proptest::prelude::*;

use prost::Message as _;

use crate::model::container::{Mount, Propagation};
use crate::model::resources::HugepageLimit;
use crate::model::security::{IdMapping, NamespaceMode, Namespaces, UserNamespace};
use crate::model::{ContainerConfig, ContainerIdentity, PodConfig, PodIdentity, Resources, Signal};
use crate::wire::interface::Interface;
use crate::wire::{cri, record};

use super::{container, security};

const NAME: &str = "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,60}";

prop_compose! {
    fn some_mapping()(host_id: u32, container_id: u32, length in 1..=u32::MAX) -> IdMapping {
        let longest = (u32::MAX - host_id.max(container_id)).max(1);
        let first = |id: u32| id.min(u32::MAX - 1);
        IdMapping {
            host_id: first(host_id),
            container_id: first(container_id),
            length: length.min(longest),
        }
    }
}

fn some_user_namespace() -> impl Strategy<Value = UserNamespace> {
    let own = (some_mapping(), some_mapping()).prop_map(|(uid, gid)| UserNamespace {
        mode: NamespaceMode::Pod,
        uids: vec![uid],
        gids: vec![gid],
    });
    let nodes = Just(UserNamespace {
        mode: NamespaceMode::Node,
        uids: Vec::new(),
        gids: Vec::new(),
    });
    prop_oneof![own, nodes]
}

prop_compose! {
    fn some_namespaces()(
        network in prop_oneof![Just(NamespaceMode::Pod), Just(NamespaceMode::Node)],
        ipc in prop_oneof![Just(NamespaceMode::Pod), Just(NamespaceMode::Node)],
        pid in prop_oneof![
            Just(NamespaceMode::Pod),
            Just(NamespaceMode::Container),
            Just(NamespaceMode::Node),
            Just(NamespaceMode::Target),
        ],
        target_id in "[0-9a-f]{1,64}",
        user in proptest::option::of(some_user_namespace()),
    ) -> Namespaces {
        Namespaces { network, pid, ipc, target_id, user }
    }
}

prop_compose! {
    fn some_resources()(
        period in proptest::option::of(1..=i64::MAX.cast_unsigned()),
        quota in proptest::option::of(prop_oneof![Just(-1), 1..i64::MAX]),
        shares in proptest::option::of(2..262_144_u64),
        memory in proptest::option::of(prop_oneof![Just(-1), 1..i64::MAX]),
        swap in proptest::option::of(prop_oneof![Just(-1), 1..i64::MAX]),
        oom_score_adj in -1000..=1000_i32,
        cpuset_cpus in "([0-9]{1,3}(-[0-9]{1,3})?(,[0-9]{1,3}){0,3})?",
        cpuset_mems in "([0-9]{1,2}(,[0-9]{1,2}){0,2})?",
        hugepages in proptest::collection::vec(("[0-9]{1,4}[KMG]B", any::<u64>()), 0..3),
        unified in proptest::collection::btree_map("[a-z]{1,8}\\.[a-z.]{1,8}", "[ -~]{0,20}", 0..4),
    ) -> Resources {
        let page = |(page_size, limit)| HugepageLimit { page_size, limit };
        Resources {
            cpu_period: period,
            cpu_quota: quota,
            cpu_shares: shares,
            memory_limit: memory,
            memory_swap_limit: swap,
            oom_score_adj,
            cpuset_cpus,
            cpuset_mems,
            hugepages: hugepages.into_iter().map(page).collect(),
            unified,
        }
    }
}

prop_compose! {
    fn some_mount()(
        container_path in "/[ -~]{0,40}",
        host_path in "/[ -~]{0,40}",
        image in proptest::option::of(("[a-z0-9.:/@-]{1,40}", "([a-z]{1,8}(/[a-z]{1,8}){0,3})?")),
        options in proptest::sample::subsequence(vec!["noexec", "nodev", "nosuid"], 0..=3),
        uid_mappings in proptest::collection::vec(some_mapping(), 0..3),
        gid_mappings in proptest::collection::vec(some_mapping(), 0..3),
        readonly: bool,
        selinux_relabel: bool,
        propagation in prop_oneof![
            Just(Propagation::Private),
            Just(Propagation::HostToContainer),
            Just(Propagation::Bidirectional),
        ],
    ) -> Mount {
        let readonly = readonly || image.is_some();
        let host_path = if image.is_some() { String::new() } else { host_path };
        let (image, image_sub_path) = image.unzip();
        Mount {
            container_path,
            host_path,
            readonly,
            recursive_read_only: readonly && propagation == Propagation::Private,
            selinux_relabel,
            propagation,
            uid_mappings,
            gid_mappings,
            image,
            image_sub_path: image_sub_path.unwrap_or_default(),
            options: options.into_iter().map(str::to_owned).collect(),
        }
    }
}

proptest! {
    #[test]
    fn resources_come_back_as_they_went(resources in some_resources()) {
        let message = cri::LinuxContainerResources::from(&resources);
        let text = record::resources_record(&message).unwrap();
        let read = record::resources_from_record(&text).unwrap();

        prop_assert_eq!(Resources::try_from(read).unwrap(), resources);
    }

    #[test]
    fn mounts_come_back_as_they_went(mount in some_mount()) {
        let message = cri::Mount::from(&mount);

        prop_assert_eq!(Mount::try_from(message).unwrap(), mount);
    }

    #[test]
    fn identities_come_back_as_they_went(
        name in NAME,
        k8s_namespace in NAME,
        uid in NAME,
        attempt: u32,
    ) {
        let container = ContainerIdentity { name: name.clone(), attempt };
        let message = cri::ContainerMetadata::from(&container);
        prop_assert_eq!(ContainerIdentity::try_from(message).unwrap(), container);

        let pod = PodIdentity { name, k8s_namespace, uid, attempt };
        let message = cri::PodSandboxMetadata::from(&pod);
        prop_assert_eq!(PodIdentity::try_from(message).unwrap(), pod);
    }

    #[test]
    fn namespaces_come_back_as_they_went(namespaces in some_namespaces()) {
        let message = cri::NamespaceOption::from(&namespaces);

        prop_assert_eq!(Namespaces::try_from(message).unwrap(), namespaces);
    }

    #[test]
    fn signals_come_back_as_they_went(number in 1..=65_i32) {
        let message = cri::Signal::try_from(number).unwrap();
        let signal = Signal::try_from(message).unwrap();

        prop_assert_eq!(Signal::try_from(cri::Signal::from(signal)).unwrap(), signal);
    }

    #[test]
    fn a_container_record_reads_back(
        mounts in proptest::collection::vec(some_mount(), 0..4),
        labels in proptest::collection::btree_map(".{0,20}", ".{0,20}", 0..4),
        envs in proptest::collection::vec((".{0,10}", ".{0,20}"), 0..4),
        stop_signal in 0..66_i32,
        user in proptest::option::of(0..100_i64),
    ) {
        let mut config = container();
        config.mounts = mounts.iter().map(Into::into).collect();
        config.labels = labels;
        config.envs = envs.into_iter().map(|(key, value)| cri::KeyValue { key, value: value.into() }).collect();
        config.stop_signal = stop_signal;
        security(&mut config).run_as_user = user.map(|value| cri::Int64Value { value });

        let text = record::container_record(&config).unwrap();

        prop_assert_eq!(record::container_from_record(&text).unwrap(), config);
    }

    #[test]
    fn no_bytes_make_the_door_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(config) = cri::ContainerConfig::decode(bytes.as_slice()) {
            drop(ContainerConfig::try_from(config));
        }
        if let Ok(config) = cri::PodSandboxConfig::decode(bytes.as_slice()) {
            drop(PodConfig::try_from(config));
        }
    }
}

/// Every message that is made of typed values, beside the test above that takes it there and back.
const THERE_AND_BACK: [(&str, &str); 8] = [
    ("ContainerMetadata", "identities_come_back_as_they_went"),
    ("IdMapping", "namespaces_come_back_as_they_went"),
    (
        "LinuxContainerResources",
        "resources_come_back_as_they_went",
    ),
    ("Mount", "mounts_come_back_as_they_went"),
    ("NamespaceMode", "namespaces_come_back_as_they_went"),
    ("NamespaceOption", "namespaces_come_back_as_they_went"),
    ("PodSandboxMetadata", "identities_come_back_as_they_went"),
    ("Signal", "signals_come_back_as_they_went"),
];

/// The files of this room.
const SOURCES: [(&str, &str); 8] = [
    ("check", include_str!("../check.rs")),
    ("container", include_str!("../container.rs")),
    ("mounts", include_str!("../mounts.rs")),
    ("pod", include_str!("../pod.rs")),
    ("resources", include_str!("../resources.rs")),
    ("security", include_str!("../security.rs")),
    ("signal", include_str!("../signal.rs")),
    ("sysctls", include_str!("../sysctls.rs")),
];

#[test]
fn every_conversion_back_has_its_round_trip() {
    let room = include_str!("../mod.rs");
    let files = room
        .lines()
        .filter(|line| line.starts_with("mod ") && *line != "mod tests;");
    assert_eq!(
        files.collect::<Vec<_>>(),
        SOURCES.map(|(name, _)| format!("mod {name};"))
    );
    let mut made: Vec<&str> = Vec::new();
    for (_, text) in SOURCES {
        let heads = text.lines().filter(|line| line.starts_with("impl From<"));
        made.extend(heads.filter_map(|line| {
            let (_, message) = line.split_once("> for cri::")?;
            message.split_whitespace().next()
        }));
    }
    made.sort();

    assert_eq!(made, THERE_AND_BACK.map(|(message, _)| message));
    for (_, test) in THERE_AND_BACK {
        assert!(
            include_str!("roundtrip.rs").contains(&format!("fn {test}(")),
            "{test}"
        );
    }
}

/// Every field of `message`, with every value that the interface's probe has for it, through its record and back.
fn every_field_survives<M: prost::Message + Default + PartialEq + std::fmt::Debug>(
    message: &str,
    there: fn(&M) -> crate::model::Result<String>,
    back: fn(&str) -> crate::model::Result<M>,
) {
    for (path, tried) in Interface::compiled().unwrap().fields(message) {
        for value in &tried.with {
            let bytes = [tried.without.as_slice(), value.as_slice()].concat();
            let message = M::decode(bytes.as_slice()).unwrap();
            let read = back(&there(&message).unwrap()).unwrap();
            assert_eq!(read, message, "{path}");
        }
    }
}

#[test]
fn records_keep_every_field() {
    use record::{
        container_from_record, container_record, pod_from_record, pod_record,
        resources_from_record, resources_record,
    };

    every_field_survives("PodSandboxConfig", pod_record, pod_from_record);
    every_field_survives("ContainerConfig", container_record, container_from_record);
    every_field_survives(
        "LinuxContainerResources",
        resources_record,
        resources_from_record,
    );
}
