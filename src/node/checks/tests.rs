//! Each fact and what it is found to mean.

use std::time::Duration;

use rstest::rstest;
use serde_json::json;

use super::facts::{Backend, HandlerFact, Leftover, Occupant, Program, leftover};
use super::runtimes::known_holes;
use super::*;
use crate::container::Criu;
use crate::containerd::{PluginInfo, ServerVersion};
use crate::devices::{BrokenFile, ClassesSurvey};
use crate::image::Interrupted;
use crate::model::Timestamp;
use crate::model::host_facts::{CgroupDriver, KernelVersion};
use crate::network::SurveyedNetwork;
use crate::node::features::Abilities;
use crate::sys::cgroup::Mode;
use crate::sys::survey::Space;

fn plugin(kind: &str, id: &str) -> PluginInfo {
    PluginInfo {
        kind: kind.into(),
        id: id.into(),
        ..PluginInfo::default()
    }
}

fn version(text: &str, major: u32, minor: u32) -> ServerVersion {
    ServerVersion {
        text: text.into(),
        major,
        minor,
    }
}

/// A node where everything is as it should be.
fn healthy() -> Facts {
    Facts {
        is_root: true,
        warnings: Vec::new(),
        is_managed: false,
        allow_cri_plugin: false,
        containerd: Ok(Backend {
            version: version("v2.3.5", 2, 3),
            plugins: vec![plugin("io.containerd.snapshotter.v1", "overlayfs")],
        }),
        handlers: vec![HandlerFact {
            name: "runc".into(),
            is_default: true,
            runtime_type: "io.containerd.runc.v2".into(),
            snapshotter: "overlayfs".into(),
            program: Some(Program {
                wanted: "runc".into(),
                path: Some("/usr/sbin/runc".into()),
                version: Ok("1.4.3".into()),
            }),
            abilities: Abilities::default(),
        }],
        networks: Ok(vec![SurveyedNetwork {
            name: "pods".into(),
            broken_plugins: Vec::new(),
        }]),
        cgroups: Ok(Mode::V2),
        missing_controllers: Vec::new(),
        cgroup_driver: CgroupDriver::Systemd,
        is_systemd_booted: true,
        kernel: Ok(KernelVersion::new(6, 1)),
        openat2: Ok(()),
        pidfd: Ok(()),
        has_overlayfs: true,
        selinux: Some(true),
        broken_hosts_files: Vec::new(),
        broken_verifiers: Vec::new(),
        interrupted: Some(Interrupted::default()),
        criu: Some(Criu::Works("4.1".into())),
        restores: false,
        socket: "/run/podwright/podwright.sock".into(),
        occupant: Occupant::Nobody,
        spaces: vec![(
            "/".into(),
            Ok(Space {
                free_bytes: 50 << 30,
                total_bytes: 100 << 30,
                total_inodes: None,
                free_inodes: None,
            }),
        )],
        broken_cdi_files: Vec::new(),
        broken_hook_files: Vec::new(),
        classes: ClassesSurvey::default(),
        no_plugins: Vec::new(),
        project_quotas: vec![("overlayfs".into(), Ok(false)), ("native".into(), Ok(true))],
        nri_socket: Some(("/run/nri/nri.sock".into(), Occupant::Nobody)),
        leftovers: Vec::new(),
        unreadable: Vec::new(),
        records_error: None,
    }
}

/// The findings that are not OK after `spoil`.
fn found(spoil: impl FnOnce(&mut Facts)) -> Vec<Check> {
    let mut facts = healthy();
    spoil(&mut facts);
    let mut checks = judge(&facts);
    checks.retain(|check| check.outcome != Outcome::Ok);
    checks
}

#[test]
fn a_healthy_node_has_nothing_to_remedy() {
    assert_eq!(found(|_| {}), []);
}

type Spoil = fn(&mut Facts);

#[rstest]
#[case::user(Outcome::Fail, |f: &mut Facts| f.is_root = false)]
#[case::away(Outcome::Fail, |f: &mut Facts| f.containerd = Err("refused".into()))]
#[case::managed_away(Outcome::Warn, |f: &mut Facts| {
    f.containerd = Err("refused".into());
    f.is_managed = true;
})]
#[case::too_old(Outcome::Fail, |f: &mut Facts| set_version(f, version("1.5.9", 1, 5)))]
#[case::slow_unpack(Outcome::Warn, |f: &mut Facts| set_version(f, version("v2.3.4", 2, 3)))]
#[case::cri_plugin(Outcome::Fail, |f: &mut Facts| add_plugin(f, plugin("io.containerd.grpc.v1", "cri")))]
#[case::cri_plugin_allowed(Outcome::Warn, |f: &mut Facts| {
    add_plugin(f, plugin("io.containerd.grpc.v1", "cri"));
    f.allow_cri_plugin = true;
})]
#[case::no_snapshotter(Outcome::Fail, |f: &mut Facts| f.handlers[0].snapshotter = "zfs".into())]
#[case::no_runtime(Outcome::Fail, |f: &mut Facts| program(f).path = None)]
#[case::no_further_runtime(Outcome::Warn, |f: &mut Facts| {
    program(f).path = None;
    f.handlers[0].is_default = false;
})]
#[case::old_runc(Outcome::Warn, |f: &mut Facts| program(f).version = Ok("1.1.5+ds1".into()))]
#[case::no_network(Outcome::Warn, |f: &mut Facts| f.networks = Err("no network config".into()))]
#[case::no_plugin(Outcome::Fail, |f: &mut Facts| {
    f.networks = Ok(vec![SurveyedNetwork { name: "pods".into(), broken_plugins: vec!["bridge".into()] }]);
})]
#[case::no_cgroups(Outcome::Fail, |f: &mut Facts| f.cgroups = Err("none mounted".into()))]
#[case::no_systemd(Outcome::Fail, |f: &mut Facts| f.is_systemd_booted = false)]
#[case::no_controller(Outcome::Fail, |f: &mut Facts| f.missing_controllers = vec!["memory".into()])]
#[case::crun_on_hybrid(Outcome::Warn, |f: &mut Facts| {
    program(f).path = Some("/usr/bin/crun".into());
    f.cgroups = Ok(Mode::Hybrid);
})]
#[case::old_kernel(Outcome::Warn, |f: &mut Facts| f.kernel = Ok(KernelVersion::new(5, 10)))]
#[case::no_openat2(Outcome::Fail, |f: &mut Facts| f.openat2 = Err("not implemented".into()))]
#[case::no_pidfd(Outcome::Fail, |f: &mut Facts| f.pidfd = Err("not implemented".into()))]
#[case::no_overlayfs(Outcome::Warn, |f: &mut Facts| f.has_overlayfs = false)]
#[case::no_labels(Outcome::Warn, |f: &mut Facts| f.selinux = Some(false))]
#[case::nothing_to_restore_with(Outcome::Warn, |f: &mut Facts| (f.criu, f.restores) = (Some(Criu::Missing), true))]
#[case::unfit_criu(Outcome::Warn, |f: &mut Facts| f.criu = Some(Criu::Unfit("3.17".into())))]
#[case::no_socket(Outcome::Fail, |f: &mut Facts| f.occupant = Occupant::NoSocket)]
#[case::little_space(Outcome::Warn, |f: &mut Facts| set_free(f, 500 << 20))]
#[case::no_space(Outcome::Fail, |f: &mut Facts| set_free(f, 1 << 20))]
#[case::no_quotas_told(Outcome::Warn, |f: &mut Facts| {
    f.project_quotas = vec![("overlayfs".into(), Err("not permitted".into()))];
})]
#[case::torn_record(Outcome::Warn, |f: &mut Facts| f.unreadable = vec!["/run/x.bad".into()])]
#[case::warning(Outcome::Warn, |f: &mut Facts| f.warnings = vec!["odd".into()])]
fn each_fault_is_found_once_and_has_a_remedy(#[case] outcome: Outcome, #[case] spoil: Spoil) {
    let checks = found(spoil);

    assert_eq!(checks.len(), 1, "{checks:?}");
    assert_eq!(checks[0].outcome, outcome);
    assert!(!checks[0].remedy.is_empty());
}

fn set_version(facts: &mut Facts, version: ServerVersion) {
    facts.containerd.as_mut().unwrap().version = version;
}

fn add_plugin(facts: &mut Facts, plugin: PluginInfo) {
    facts.containerd.as_mut().unwrap().plugins.push(plugin);
}

fn program(facts: &mut Facts) -> &mut Program {
    facts.handlers[0].program.as_mut().unwrap()
}

fn set_free(facts: &mut Facts, free_bytes: u64) {
    facts.spaces[0].1.as_mut().unwrap().free_bytes = free_bytes;
}

#[rstest]
#[case("1.1.5+ds1", true)]
#[case("1.2.7", true)]
#[case("1.2.9", true)]
#[case("1.3.5", true)]
#[case("1.3.6", false)]
#[case("1.4.0-rc.2", true)]
#[case("1.4.0-rc.3", true)]
#[case("1.4.2", true)]
#[case("1.4.3", false)]
#[case("1.5.0", false)]
#[case("2.0.0", false)]
fn the_versions_of_runc_with_known_holes_are_told_from_the_repaired_ones(
    #[case] version: &str,
    #[case] is_holed: bool,
) {
    assert_eq!(known_holes(version).is_some(), is_holed);
}

#[test]
fn an_incomplete_record_is_a_leftover_with_its_steps() {
    let record =
        json!({"complete": false, "steps": ["netns", "network"], "created_at": 1_000_000_000});
    let now = Timestamp(61_000_000_000);

    let found = leftover("sandbox", "abc".into(), &record, now);

    assert_eq!(
        found,
        Some(Leftover {
            kind: "sandbox",
            id: "abc".into(),
            steps: vec!["netns".into(), "network".into()],
            age: Duration::from_secs(60),
        })
    );
    let complete = json!({"complete": true, "steps": [], "created_at": 1});
    assert_eq!(leftover("sandbox", "abc".into(), &complete, now), None);
}

#[rstest]
#[case(0, Outcome::Ok)]
#[case(1, Outcome::Warn)]
fn interrupted_pulls_are_told_and_are_wrong_only_once_they_are_old(
    #[case] overdue: u64,
    #[case] outcome: Outcome,
) {
    let facts = Facts {
        interrupted: Some(Interrupted {
            pulls: 2,
            overdue,
            bytes: 3 << 20,
        }),
        ..healthy()
    };

    let found = judge(&facts);

    let said = found.iter().find(|check| check.name == "interrupted pulls");
    let said = said.unwrap();
    assert_eq!(said.outcome, outcome);
    assert!(said.finding.contains("2 pulls") && said.finding.contains("3 MiB"));
}

#[test]
fn a_hosts_toml_that_cannot_be_used_is_named_with_its_reason() {
    let facts = Facts {
        broken_hosts_files: vec![("/certs.d/a.tld/hosts.toml".into(), "line 1: what".into())],
        ..healthy()
    };

    let found: Vec<Check> = judge(&facts)
        .into_iter()
        .filter(|check| check.outcome != Outcome::Ok)
        .collect();

    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].outcome, Outcome::Warn);
    assert!(
        found[0]
            .finding
            .contains("/certs.d/a.tld/hosts.toml: line 1")
    );
}

#[test]
fn classes_of_service_are_named_where_there_are_some() {
    let said = |classes: &ClassesSurvey| {
        found(|facts| facts.classes = classes.clone())
            .into_iter()
            .map(|check| (check.name, check.outcome, check.finding))
            .collect::<Vec<_>>()
    };
    let mut classes = ClassesSurvey {
        block_io: Some(Err("Weight 5: want 10 to 1000".to_owned())),
        ..ClassesSurvey::default()
    };

    let broken = said(&classes);
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert_eq!(broken[0].1, Outcome::Warn);
    classes.block_io = Some(Ok(vec!["fast".to_owned(), "slow".to_owned()]));
    assert!(said(&classes).is_empty());
    classes.rdt_file = Some(Err("resctrl is not mounted".to_owned()));
    let broken = said(&classes);
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert_eq!(broken[0].2, "resctrl is not mounted");
}

#[test]
fn cdi_and_hook_files_that_cannot_be_used_are_named_with_their_reason() {
    let broken = |path: &str| BrokenFile {
        path: path.into(),
        reason: "line 1: what".into(),
    };

    let found = found(|facts| {
        facts.broken_cdi_files = vec![broken("/etc/cdi/a.yaml")];
        facts.broken_hook_files = vec![broken("/hooks.d/b.json")];
    });

    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|check| check.outcome == Outcome::Warn));
    assert!(found[0].finding.starts_with("/etc/cdi/a.yaml: line 1"));
    assert!(found[1].finding.starts_with("/hooks.d/b.json: line 1"));
}

#[test]
fn programs_that_are_no_plugins_and_a_socket_that_others_hold_are_named() {
    let found = found(|facts| {
        facts.no_plugins = vec![("/opt/nri/plugins/x".into(), "its name".into())];
        facts.nri_socket = Some(("/run/nri/nri.sock".into(), Occupant::Server));
    });

    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].finding.starts_with("/opt/nri/plugins/x"));
    assert!(found[1].finding.contains("/run/nri/nri.sock"));
}
