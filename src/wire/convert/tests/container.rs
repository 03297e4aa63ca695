use rstest::rstest;

use crate::model::Signal;
use crate::model::container::Propagation;
use crate::model::security::Namespaces;
use crate::wire::convert::mounts::mounts;
use crate::wire::cri;

use super::{
    Change, Ctr, check_container, check_pod, device, env, mount, path, resources, security, text,
};

#[rstest]
#[case::name(
    |c: &mut Ctr| c.metadata.as_mut().unwrap().name = text(253),
    |c: &mut Ctr| c.metadata.as_mut().unwrap().name = text(254),
    "metadata: name"
)]
#[case::image(
    |c: &mut Ctr| c.image.as_mut().unwrap().image = text(4096),
    |c: &mut Ctr| c.image.as_mut().unwrap().image = text(4097),
    "image: image"
)]
#[case::argument(|c: &mut Ctr| c.args = vec![text((128 << 10) - 1)], |c: &mut Ctr| c.args = vec![text(128 << 10)], "args[0]")]
#[case::arguments(
    |c: &mut Ctr| (c.command, c.args) = (vec![text((64 << 10) - 1); 8], vec![text((64 << 10) - 1); 8]),
    |c: &mut Ctr| (c.command, c.args) = (vec![text((64 << 10) - 1); 8], vec![text(64 << 10); 8]),
    "command and args"
)]
#[case::env(
    |c: &mut Ctr| c.envs = vec![env("K", (128 << 10) - 3)],
    |c: &mut Ctr| c.envs = vec![env("K", (128 << 10) - 2)],
    "envs"
)]
#[case::env_entries(|c: &mut Ctr| c.envs = vec![env("K", 1); 10_000], |c: &mut Ctr| c.envs = vec![env("K", 1); 10_001], "envs")]
#[case::env_total(|c: &mut Ctr| c.envs = vec![env("K", 65_533); 16], |c: &mut Ctr| c.envs = vec![env("K", 65_534); 16], "envs")]
#[case::mounts(|c: &mut Ctr| c.mounts = vec![mount(); 4096], |c: &mut Ctr| c.mounts = vec![mount(); 4097], "mounts")]
#[case::mount_path(
    |c: &mut Ctr| c.mounts = vec![cri::Mount { container_path: path(4095), ..mount() }],
    |c: &mut Ctr| c.mounts = vec![cri::Mount { container_path: path(4096), ..mount() }],
    "mounts[0]: container_path"
)]
#[case::devices(|c: &mut Ctr| c.devices = vec![device(); 1024], |c: &mut Ctr| c.devices = vec![device(); 1025], "devices")]
#[case::cdi(
    |c: &mut Ctr| c.cdi_devices = vec![cri::CdiDevice { name: "a.b/c=d".into() }; 256],
    |c: &mut Ctr| c.cdi_devices = vec![cri::CdiDevice { name: "a.b/c=d".into() }; 257],
    "CDI_devices"
)]
#[case::log_path(|c: &mut Ctr| c.log_path = text(4095), |c: &mut Ctr| c.log_path = text(4096), "log_path")]
#[case::uid(
    |c: &mut Ctr| security(c).run_as_user = Some(cri::Int64Value { value: 2_147_483_647 }),
    |c: &mut Ctr| security(c).run_as_user = Some(cri::Int64Value { value: 2_147_483_648 }),
    "linux.security_context: run_as_user"
)]
#[case::groups(
    |c: &mut Ctr| security(c).supplemental_groups = vec![1; 65_536],
    |c: &mut Ctr| security(c).supplemental_groups = vec![1; 65_537],
    "linux.security_context: supplemental_groups"
)]
#[case::oom_score(|c: &mut Ctr| resources(c).oom_score_adj = -1000, |c: &mut Ctr| resources(c).oom_score_adj = -1001, "linux.resources")]
fn a_container_is_taken_at_the_limit_and_refused_past_it(
    #[case] at_limit: Change<Ctr>,
    #[case] past_it: Change<Ctr>,
    #[case] field: &str,
) {
    check_container(at_limit).unwrap();

    let message = check_container(past_it).unwrap_err();

    assert!(message.starts_with(field), "{message}");
}

#[rstest]
#[case::no_metadata(|c: &mut Ctr| c.metadata = None)]
#[case::no_image(|c: &mut Ctr| c.image = None)]
#[case::env_without_name(|c: &mut Ctr| c.envs = vec![env("", 1)])]
#[case::env_name_with_equals(|c: &mut Ctr| c.envs = vec![env("A=B", 1)])]
#[case::env_with_nul(|c: &mut Ctr| c.envs = vec![cri::KeyValue { key: "A".into(), value: b"x\0y".to_vec() }])]
#[case::arg_with_nul(|c: &mut Ctr| c.args = vec!["x\0y".into()])]
#[case::relative_working_dir(|c: &mut Ctr| c.working_dir = "a".into())]
#[case::absolute_log_path(|c: &mut Ctr| c.log_path = "/etc/passwd".into())]
#[case::log_path_that_climbs(|c: &mut Ctr| c.log_path = "a/../../x".into())]
#[case::log_path_with_nul(|c: &mut Ctr| c.log_path = "x\0y".into())]
#[case::relative_mount(|c: &mut Ctr| c.mounts = vec![cri::Mount { host_path: "srv".into(), ..mount() }])]
#[case::mount_with_nul(|c: &mut Ctr| c.mounts = vec![cri::Mount { host_path: "/a\0".into(), ..mount() }])]
#[case::unknown_propagation(|c: &mut Ctr| c.mounts = vec![cri::Mount { propagation: 3, ..mount() }])]
#[case::recursive_but_writable(|c: &mut Ctr| c.mounts = vec![cri::Mount { recursive_read_only: true, ..mount() }])]
#[case::recursive_but_shared(|c: &mut Ctr| c.mounts = vec![cri::Mount {
    recursive_read_only: true, readonly: true, propagation: 1, ..mount()
}])]
#[case::other_mount_option(|c: &mut Ctr| c.mounts = vec![cri::Mount { mount_options: vec!["suid".into()], ..mount() }])]
#[case::empty_mapping(|c: &mut Ctr| c.mounts = vec![cri::Mount {
    uid_mappings: vec![cri::IdMapping::default()], ..mount()
}])]
#[case::device_permissions(|c: &mut Ctr| c.devices = vec![cri::Device { permissions: "rx".into(), ..device() }])]
#[case::unknown_signal(|c: &mut Ctr| c.stop_signal = 66)]
#[case::negative_uid(|c: &mut Ctr| security(c).run_as_user = Some(cri::Int64Value { value: -1 }))]
#[case::huge_gid(|c: &mut Ctr| {
    security(c).run_as_user = Some(cri::Int64Value { value: 1 });
    security(c).run_as_group = Some(cri::Int64Value { value: 4_294_967_296 });
})]
#[case::group_without_user(|c: &mut Ctr| security(c).run_as_group = Some(cri::Int64Value { value: 1 }))]
#[case::negative_group(|c: &mut Ctr| security(c).supplemental_groups = vec![i64::MIN])]
#[case::unknown_policy(|c: &mut Ctr| security(c).supplemental_groups_policy = 2)]
#[case::unknown_capability(|c: &mut Ctr| security(c).capabilities = Some(cri::Capability {
    add_capabilities: vec!["NET_GOD".into()], ..Default::default()
}))]
#[case::target_without_id(|c: &mut Ctr| security(c).namespace_options = Some(cri::NamespaceOption { pid: 3, ..Default::default() }))]
#[case::relative_masked_path(|c: &mut Ctr| security(c).masked_paths = vec!["proc".into()])]
#[case::negative_period(|c: &mut Ctr| resources(c).cpu_period = -1)]
#[case::quota_below_unlimited(|c: &mut Ctr| resources(c).cpu_quota = -2)]
#[case::cpu_list_of_words(|c: &mut Ctr| resources(c).cpuset_cpus = "all".into())]
#[case::unified_path(|c: &mut Ctr| resources(c).unified = [("../memory.max".into(), "1".into())].into())]
#[case::page_size_of_a_path(|c: &mut Ctr| resources(c).hugepage_limits = vec![cri::HugepageLimit {
    page_size: "../2MB".into(), limit: 0
}])]
fn a_container_that_breaks_a_rule_is_refused(#[case] change: Change<Ctr>) {
    check_container(change).unwrap_err();
}

#[test]
fn an_image_mount_says_what_failed_in_the_words_that_the_kubelet_counts() {
    let image_mount = |host_path: &str, readonly| cri::Mount {
        container_path: "/image".into(),
        host_path: host_path.into(),
        readonly,
        image: Some(cri::ImageSpec {
            image: "busybox".into(),
            ..Default::default()
        }),
        ..Default::default()
    };

    let taken = mounts(vec![image_mount("", true)]).unwrap();
    let writable = mounts(vec![image_mount("", false)]).unwrap_err();
    let both = mounts(vec![image_mount("/srv", true)]).unwrap_err();

    assert_eq!(taken[0].image.as_deref(), Some("busybox"));
    assert!(
        writable.to_string().starts_with("ImageVolumeMountFailed: "),
        "{writable}"
    );
    assert!(
        both.to_string().starts_with("ImageVolumeMountFailed: "),
        "{both}"
    );
}

#[test]
fn what_nobody_asked_for_is_the_interfaces_default() {
    let pod = check_pod(|config| config.linux = None).unwrap();
    let container = check_container(|config| config.linux = None).unwrap();

    assert_eq!(pod.security.namespaces, Namespaces::default());
    assert_eq!((pod.dns, pod.resources), (None, None));
    assert_eq!((container.resources, container.stop_signal), (None, None));
}

#[test]
fn a_whole_container_comes_through() {
    let config = check_container(|config| {
        config.envs = vec![
            env("K", 1),
            cri::KeyValue {
                key: "B".into(),
                value: vec![0xff],
            },
        ];
        config.stop_signal = cri::Signal::Sigquit.into();
        config.mounts = vec![cri::Mount {
            propagation: 2,
            mount_options: vec!["noexec".into()],
            ..mount()
        }];
        security(config).capabilities = Some(cri::Capability {
            add_capabilities: vec!["net_admin".into(), "CAP_CHOWN".into()],
            drop_capabilities: vec!["all".into()],
            ..Default::default()
        });
        resources(config).memory_limit_in_bytes = 1 << 20;
    })
    .unwrap();

    assert_eq!(config.envs[1], ("B".into(), "\u{fffd}".into()));
    assert_eq!(config.stop_signal, "QUIT".parse::<Signal>().ok());
    assert_eq!(config.mounts[0].propagation, Propagation::Bidirectional);
    let capabilities = config.security.capabilities.unwrap();
    assert_eq!(capabilities.add, ["NET_ADMIN", "CHOWN"]);
    assert_eq!(capabilities.drop, ["ALL"]);
    assert_eq!(config.resources.unwrap().memory_limit, Some(1 << 20));
}
