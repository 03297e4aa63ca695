use proptest::prelude::*;

use crate::model::container::{Mount, Propagation};
use crate::model::{ContainerConfig, PodConfig, Resources};
use crate::wire::{cri, record};

use super::{container, security};

prop_compose! {
    fn some_resources()(
        period in proptest::option::of(1..=i64::MAX.cast_unsigned()),
        quota in proptest::option::of(prop_oneof![Just(-1), 1..i64::MAX]),
        shares in proptest::option::of(2..262_144_u64),
        memory in proptest::option::of(prop_oneof![Just(-1), 1..i64::MAX]),
        swap in proptest::option::of(prop_oneof![Just(-1), 1..i64::MAX]),
        oom_score_adj in -1000..=1000_i32,
        cpuset_cpus in "([0-9]{1,3}(-[0-9]{1,3})?(,[0-9]{1,3}){0,3})?",
        unified in proptest::collection::btree_map("[a-z]{1,8}\\.[a-z.]{1,8}", "[ -~]{0,20}", 0..4),
    ) -> Resources {
        Resources {
            cpu_period: period,
            cpu_quota: quota,
            cpu_shares: shares,
            memory_limit: memory,
            memory_swap_limit: swap,
            oom_score_adj,
            cpuset_cpus,
            unified,
            ..Resources::default()
        }
    }
}

prop_compose! {
    fn some_mount()(
        container_path in "/[ -~]{0,40}",
        host_path in "/[ -~]{0,40}",
        readonly: bool,
        selinux_relabel: bool,
        propagation in prop_oneof![
            Just(Propagation::Private),
            Just(Propagation::HostToContainer),
            Just(Propagation::Bidirectional),
        ],
    ) -> Mount {
        Mount {
            container_path,
            host_path,
            readonly,
            recursive_read_only: readonly && propagation == Propagation::Private,
            selinux_relabel,
            propagation,
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
            image: None,
            image_sub_path: String::new(),
            options: Vec::new(),
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
        use prost::Message as _;
        if let Ok(config) = cri::ContainerConfig::decode(bytes.as_slice()) {
            drop(ContainerConfig::try_from(config));
        }
        if let Ok(config) = cri::PodSandboxConfig::decode(bytes.as_slice()) {
            drop(PodConfig::try_from(config));
        }
    }
}
