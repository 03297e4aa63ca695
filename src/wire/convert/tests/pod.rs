use rstest::rstest;

use crate::model::security::{NamespaceMode, Namespaces};
use crate::wire::convert::sysctls::sysctls;
use crate::wire::cri;

use super::{Change, Pod, check_pod, entries, linux, metadata, namespaces, path, text};

#[rstest]
#[case::name(|c: &mut Pod| metadata(c).name = text(253), |c: &mut Pod| metadata(c).name = text(254), "metadata: name")]
#[case::namespace(|c: &mut Pod| metadata(c).namespace = text(253), |c: &mut Pod| metadata(c).namespace = text(254), "metadata: namespace")]
#[case::uid(|c: &mut Pod| metadata(c).uid = text(128), |c: &mut Pod| metadata(c).uid = text(129), "metadata: uid")]
#[case::hostname(|c: &mut Pod| c.hostname = format!("{}.a", text(62)), |c: &mut Pod| c.hostname = format!("{}.aa", text(62)), "hostname")]
#[case::label(
    |c: &mut Pod| c.labels = [("k".into(), text(4095))].into(),
    |c: &mut Pod| c.labels = [("k".into(), text(4096))].into(),
    "labels"
)]
#[case::label_key(
    |c: &mut Pod| c.labels = [(text(317), text(63))].into(),
    |c: &mut Pod| c.labels = [(text(318), text(63))].into(),
    "labels"
)]
#[case::labels(|c: &mut Pod| c.labels = entries(64, 1024), |c: &mut Pod| c.labels = entries(65, 1024), "labels")]
#[case::annotations(
    |c: &mut Pod| c.annotations = [("k".into(), text((256 << 10) - 1))].into(),
    |c: &mut Pod| c.annotations = [("k".into(), text(256 << 10))].into(),
    "annotations"
)]
#[case::annotation_key(
    |c: &mut Pod| c.annotations = [(text(317), String::new())].into(),
    |c: &mut Pod| c.annotations = [(text(318), String::new())].into(),
    "annotations"
)]
#[case::log_directory(|c: &mut Pod| c.log_directory = path(4095), |c: &mut Pod| c.log_directory = path(4096), "log_directory")]
#[case::dns_servers(
    |c: &mut Pod| c.dns_config.get_or_insert_default().servers = vec!["::1".into(); 32],
    |c: &mut Pod| c.dns_config.get_or_insert_default().servers = vec!["::1".into(); 33],
    "dns_config: servers"
)]
#[case::dns_options(
    |c: &mut Pod| c.dns_config.get_or_insert_default().options = vec!["rotate".into(); 32],
    |c: &mut Pod| c.dns_config.get_or_insert_default().options = vec!["rotate".into(); 33],
    "dns_config: options"
)]
#[case::dns_searches(
    |c: &mut Pod| c.dns_config.get_or_insert_default().searches = vec![[text(63), text(63)].join("."); 16],
    |c: &mut Pod| c.dns_config.get_or_insert_default().searches = vec![[text(63), text(63), "b".into()].join("."); 16],
    "dns_config: searches"
)]
#[case::ports(
    |c: &mut Pod| c.port_mappings = vec![cri::PortMapping::default(); 4096],
    |c: &mut Pod| c.port_mappings = vec![cri::PortMapping::default(); 4097],
    "port_mappings"
)]
#[case::port(
    |c: &mut Pod| c.port_mappings = vec![cri::PortMapping { host_port: 65535, ..Default::default() }],
    |c: &mut Pod| c.port_mappings = vec![cri::PortMapping { host_port: 65536, ..Default::default() }],
    "port_mappings: host_port"
)]
#[case::sysctls(
    |c: &mut Pod| linux(c).sysctls = (0..256).map(|at| (format!("net.a{at}"), "1".into())).collect(),
    |c: &mut Pod| linux(c).sysctls = (0..257).map(|at| (format!("net.a{at}"), "1".into())).collect(),
    "linux: sysctls"
)]
fn a_pod_is_taken_at_the_limit_and_refused_past_it(
    #[case] at_limit: Change<Pod>,
    #[case] past_it: Change<Pod>,
    #[case] field: &str,
) {
    check_pod(at_limit).unwrap();

    let message = check_pod(past_it).unwrap_err();

    assert!(message.starts_with(field), "{message}");
}

#[rstest]
#[case::no_metadata(|c: &mut Pod| c.metadata = None)]
#[case::name_of_a_path(|c: &mut Pod| metadata(c).name = "../etc".into())]
#[case::name_with_a_separator(|c: &mut Pod| metadata(c).name = "x;K8S_POD_NAMESPACE=kube-system".into())]
#[case::name_led_by_a_dash(|c: &mut Pod| metadata(c).name = "-x".into())]
#[case::empty_uid(|c: &mut Pod| metadata(c).uid = String::new())]
#[case::uid_that_climbs(|c: &mut Pod| metadata(c).uid = "..".into())]
#[case::namespace_with_a_newline(|c: &mut Pod| metadata(c).namespace = "a\nb".into())]
#[case::hostname_with_a_newline(|c: &mut Pod| c.hostname = "a\nb".into())]
#[case::hostname_with_a_long_label(|c: &mut Pod| c.hostname = text(64))]
#[case::hostname_of_two_dots(|c: &mut Pod| c.hostname = "a..b".into())]
#[case::log_directory_that_climbs(|c: &mut Pod| c.log_directory = "/var/log/../../etc".into())]
#[case::log_directory_that_is_relative(|c: &mut Pod| c.log_directory = "var/log".into())]
#[case::cgroup_that_climbs(|c: &mut Pod| linux(c).cgroup_parent = "/kubepods/../..".into())]
#[case::dns_with_a_newline(|c: &mut Pod| c.dns_config.get_or_insert_default().searches = vec!["x\nnameserver 6.6.6.6".into()])]
#[case::dns_of_two_words(|c: &mut Pod| c.dns_config.get_or_insert_default().options = vec!["ndots:5 rotate".into()])]
#[case::dns_with_a_long_label(|c: &mut Pod| c.dns_config.get_or_insert_default().servers = vec![text(64)])]
#[case::negative_port(|c: &mut Pod| c.port_mappings = vec![cri::PortMapping { container_port: -1, ..Default::default() }])]
#[case::unknown_protocol(|c: &mut Pod| c.port_mappings = vec![cri::PortMapping { protocol: 9, ..Default::default() }])]
#[case::host_ip_of_words(|c: &mut Pod| c.port_mappings = vec![cri::PortMapping { host_ip: "a b".into(), ..Default::default() }])]
#[case::unknown_namespace_mode(|c: &mut Pod| namespaces(c).pid = 4)]
#[case::network_of_a_container(|c: &mut Pod| namespaces(c).network = 1)]
#[case::ipc_of_a_target(|c: &mut Pod| namespaces(c).ipc = 3)]
#[case::pid_of_a_target(|c: &mut Pod| {
    namespaces(c).pid = 3;
    namespaces(c).target_id = "x".into();
})]
#[case::group_without_user(|c: &mut Pod| {
    linux(c).security_context.as_mut().unwrap().run_as_group = Some(cri::Int64Value { value: 1 });
})]
fn a_pod_that_breaks_a_rule_is_refused(#[case] change: Change<Pod>) {
    check_pod(change).unwrap_err();
}

#[rstest]
#[case::shared_memory("kernel.shm_rmid_forced", "1", Ok("kernel.shm_rmid_forced"))]
#[case::slashes(
    "net/ipv4/conf/eth0.1/forwarding",
    "1",
    Ok("net.ipv4.conf.eth0/1.forwarding")
)]
#[case::with_tabs(
    "net.ipv4.ip_local_port_range",
    "1\t2",
    Ok("net.ipv4.ip_local_port_range")
)]
#[case::queue("fs.mqueue.msg_max", "100", Ok("fs.mqueue.msg_max"))]
#[case::of_the_node("kernel.core_pattern", "x", Err(()))]
#[case::of_the_node_in_slashes("vm/swappiness", "1", Err(()))]
#[case::that_climbs("net.ipv4.conf.../../kernel.core_pattern", "x", Err(()))]
#[case::that_climbs_in_slashes("net/../kernel/core_pattern", "x", Err(()))]
#[case::upper_case("NET.core", "1", Err(()))]
#[case::blank("net.core somaxconn", "1", Err(()))]
#[case::newline("net.core.somaxconn", "1\n2", Err(()))]
fn sysctls_are_the_pods_own_and_spelt_with_dots(
    #[case] key: &str,
    #[case] value: &str,
    #[case] want: Result<&str, ()>,
) {
    let asked = [(key.to_owned(), value.to_owned())].into();

    let checked = sysctls(asked, &Namespaces::default());

    let keys = checked.map(|map| map.into_keys().collect::<Vec<_>>());
    assert_eq!(keys.map_err(drop), want.map(|key| vec![key.to_owned()]));
}

#[rstest]
#[case::network("net.core.somaxconn", |n: &mut Namespaces| n.network = NamespaceMode::Node)]
#[case::domain("kernel.domainname", |n: &mut Namespaces| n.network = NamespaceMode::Node)]
#[case::ipc("kernel.sem", |n: &mut Namespaces| n.ipc = NamespaceMode::Node)]
#[case::queue("fs.mqueue.msg_max", |n: &mut Namespaces| n.ipc = NamespaceMode::Node)]
fn sysctls_of_a_namespace_that_is_the_nodes_are_refused(
    #[case] key: &str,
    #[case] share: Change<Namespaces>,
) {
    let asked = || [(key.to_owned(), "1".to_owned())].into();
    let mut shared = Namespaces::default();
    share(&mut shared);

    sysctls(asked(), &Namespaces::default()).unwrap();
    sysctls(asked(), &shared).unwrap_err();
}
