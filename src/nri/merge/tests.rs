//! What several plugins may and may not say together.

use super::*;
use crate::model::Kind;

fn text(value: &str) -> String {
    value.to_owned()
}

fn variable(key: &str, value: &str) -> api::KeyValue {
    api::KeyValue {
        key: text(key),
        value: text(value),
    }
}

fn adjust(change: impl FnOnce(&mut api::ContainerAdjustment)) -> api::CreateContainerResponse {
    let mut adjust = api::ContainerAdjustment::default();
    change(&mut adjust);
    api::CreateContainerResponse {
        adjust: Some(adjust),
        ..api::CreateContainerResponse::default()
    }
}

type Change = fn(&mut api::ContainerAdjustment);

/// One adjustment of each kind, and the words that its conflict has.
fn kinds() -> Vec<(&'static str, Change)> {
    let mut kinds = first_kinds();
    kinds.extend(more_kinds());
    kinds
}

fn first_kinds() -> Vec<(&'static str, Change)> {
    vec![
        ("annotations \"a\"", |adjust| {
            adjust.annotations.insert(text("a"), text("1"));
        }),
        ("mounts \"/m\"", |adjust| {
            adjust.mounts.push(api::Mount {
                destination: text("/m"),
                ..api::Mount::default()
            });
        }),
        ("env \"E\"", |adjust| adjust.env.push(variable("E", "1"))),
        ("args", |adjust| adjust.args = vec![text("sh")]),
        ("rlimits \"RLIMIT_NOFILE\"", |adjust| {
            adjust.rlimits.push(api::PosixRlimit {
                r#type: text("RLIMIT_NOFILE"),
                hard: 2,
                soft: 1,
            });
        }),
        ("cdi devices \"v/c=d\"", |adjust| {
            adjust.cdi_devices.push(api::CdiDevice {
                name: text("v/c=d"),
            });
        }),
        ("devices \"/dev/x\"", |adjust| {
            linux(adjust).devices.push(api::LinuxDevice {
                path: text("/dev/x"),
                ..api::LinuxDevice::default()
            });
        }),
        ("mem limit", |adjust| {
            resources(adjust).memory.get_or_insert_default().limit =
                Some(api::OptionalInt64 { value: 1 });
        }),
        ("cpu shares", |adjust| {
            resources(adjust).cpu.get_or_insert_default().shares =
                Some(api::OptionalUInt64 { value: 1 });
        }),
        ("cpu set cpus", |adjust| {
            resources(adjust).cpu.get_or_insert_default().cpus = text("0");
        }),
        ("pids limit", |adjust| {
            resources(adjust).pids = Some(api::LinuxPids { limit: 1 });
        }),
    ]
}

/// The rest of [`kinds`].
fn more_kinds() -> Vec<(&'static str, Change)> {
    vec![
        ("hugepage limits \"2MB\"", |adjust| {
            resources(adjust).hugepage_limits.push(api::HugepageLimit {
                page_size: text("2MB"),
                limit: 1,
            });
        }),
        ("cgroups unified \"memory.high\"", |adjust| {
            resources(adjust)
                .unified
                .insert(text("memory.high"), text("1"));
        }),
        ("cgroups path", |adjust| {
            linux(adjust).cgroups_path = text("/x")
        }),
        ("oom score adj", |adjust| {
            linux(adjust).oom_score_adj = Some(api::OptionalInt { value: 1 });
        }),
        ("io priority", |adjust| {
            linux(adjust).io_priority = Some(api::LinuxIoPriority::default());
        }),
        ("seccomp policy", |adjust| {
            linux(adjust).seccomp_policy = Some(api::LinuxSeccomp::default());
        }),
        ("namespace \"uts\"", |adjust| {
            linux(adjust).namespaces.push(api::LinuxNamespace {
                r#type: text("uts"),
                path: String::new(),
            });
        }),
        ("sysctl \"kernel.x\"", |adjust| {
            linux(adjust).sysctl.insert(text("kernel.x"), text("1"));
        }),
        ("linux net devices \"eth9\"", |adjust| {
            let device = api::LinuxNetDevice { name: text("e") };
            linux(adjust).net_devices.insert(text("eth9"), device);
        }),
        ("linux sched", |adjust| {
            linux(adjust).scheduler = Some(api::LinuxScheduler::default());
        }),
        ("rdt clos id", |adjust| {
            let class = api::OptionalString { value: text("c") };
            linux(adjust).rdt.get_or_insert_default().clos_id = Some(class);
        }),
        ("memory policy", |adjust| {
            linux(adjust).memory_policy = Some(api::LinuxMemoryPolicy::default());
        }),
    ]
}

fn linux(adjust: &mut api::ContainerAdjustment) -> &mut api::LinuxContainerAdjustment {
    adjust.linux.get_or_insert_default()
}

fn resources(adjust: &mut api::ContainerAdjustment) -> &mut api::LinuxResources {
    linux(adjust).resources.get_or_insert_default()
}

#[test]
fn two_plugins_that_set_the_same_are_a_conflict_that_names_both_and_the_field() {
    for (field, change) in kinds() {
        let mut merge = Merge::new("c");
        merge.created("10-a", adjust(change)).unwrap();
        // One plugin may say a thing twice.
        merge.clone().created("10-a", adjust(change)).unwrap();

        let error = merge.created("20-b", adjust(change)).unwrap_err();

        assert_eq!(error.kind(), Kind::FailedPrecondition);
        let said = error.chain();
        for part in ["10-a", "20-b", field] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}

#[test]
fn different_things_of_several_plugins_stand_beside_each_other() {
    let mut merge = Merge::new("c");
    for (number, (_, change)) in kinds().into_iter().enumerate() {
        merge
            .created(&format!("{number:02}-p"), adjust(change))
            .unwrap();
    }

    let mut want = api::ContainerAdjustment::default();
    for (_, change) in kinds() {
        change(&mut want);
    }
    assert_eq!(merge.adjust, want);
    assert_eq!(merge.owners.simple("c", Field::Args), Some("03-p"));
    assert_eq!(merge.owners.entries("c", Field::Env).unwrap()["E"], "02-p");
}

#[test]
fn a_removal_first_frees_the_entry_and_may_stand_beside_a_new_one() {
    let mut merge = Merge::new("c");
    merge
        .created("10-a", adjust(|adjust| adjust.env.push(variable("E", "1"))))
        .unwrap();
    merge
        .created(
            "20-b",
            adjust(|adjust| adjust.env.extend([variable("E", "2"), variable("-E", "")])),
        )
        .unwrap();
    merge
        .created(
            "20-b",
            adjust(|adjust| {
                adjust.annotations.insert(text("-x"), String::new());
                adjust.annotations.insert(text("x"), text("1"));
            }),
        )
        .unwrap();
    merge
        .created("30-c", adjust(|adjust| adjust.args = vec![text("a")]))
        .unwrap();
    merge
        .created(
            "40-d",
            adjust(|adjust| adjust.args = vec![String::new(), text("b")]),
        )
        .unwrap();

    assert_eq!(merge.adjust.env, [variable("-E", ""), variable("E", "2")]);
    assert_eq!(merge.adjust.annotations.len(), 2);
    assert_eq!(merge.adjust.args, ["b"]);
    let namespace = |kind: &str| api::LinuxNamespace {
        r#type: text(kind),
        path: String::new(),
    };
    let adjusted = |kind: &str| adjust(|adjust| linux(adjust).namespaces.push(namespace(kind)));
    merge.created("10-a", adjusted("uts")).unwrap();
    assert!(merge.created("20-b", adjusted("-uts")).is_err());
}

#[test]
fn hooks_and_device_rules_of_all_are_appended() {
    let mut merge = Merge::new("c");
    for plugin in ["10-a", "20-b"] {
        let answer = adjust(|adjust| {
            adjust
                .hooks
                .get_or_insert_default()
                .poststop
                .push(api::Hook {
                    path: format!("/{plugin}"),
                    ..api::Hook::default()
                });
            resources(adjust)
                .devices
                .push(api::LinuxDeviceCgroup::default());
        });
        merge.created(plugin, answer).unwrap();
    }

    assert_eq!(merge.adjust.hooks.as_ref().unwrap().poststop.len(), 2);
    assert_eq!(resources(&mut merge.adjust).devices.len(), 2);
    assert_eq!(merge.owners.simple("c", Field::OciHooks), Some("10-a,20-b"));
}

fn update(
    id: &str,
    ignore_failure: bool,
    shares: Option<u64>,
    quota: Option<i64>,
) -> api::ContainerUpdate {
    api::ContainerUpdate {
        container_id: text(id),
        linux: Some(api::LinuxContainerUpdate {
            resources: Some(api::LinuxResources {
                cpu: Some(api::LinuxCpu {
                    shares: shares.map(|value| api::OptionalUInt64 { value }),
                    quota: quota.map(|value| api::OptionalInt64 { value }),
                    ..api::LinuxCpu::default()
                }),
                ..api::LinuxResources::default()
            }),
        }),
        ignore_failure,
    }
}

#[test]
fn updates_of_one_container_merge_and_its_failure_counts_unless_all_ignore_it() {
    let mut merge = Merge::new("own");
    merge
        .updated("10-a", vec![update("x", true, Some(2), None)])
        .unwrap();
    merge
        .updated("20-b", vec![update("x", false, None, Some(5))])
        .unwrap();
    merge
        .updated("20-b", vec![update("own", true, Some(7), None)])
        .unwrap();
    merge.evicted(
        "20-b",
        vec![api::ContainerEviction {
            container_id: text("y"),
            reason: text("full"),
        }],
    );

    let wishes = merge.wishes().unwrap();

    assert_eq!(wishes.updates.len(), 1);
    let cpu = wishes.updates[0].limits.resources.cpu().clone().unwrap();
    assert_eq!((cpu.shares(), cpu.quota()), (Some(2), Some(5)));
    assert!(!wishes.updates[0].ignore_failure);
    assert_eq!(wishes.evictions[0].reason, "NRI plugin 20-b: full");
    assert!(merge.own_limits().is_some());
    let again = merge.updated("30-c", vec![update("x", true, Some(3), None)]);
    assert!(again.is_err());
}

#[test]
fn a_container_that_is_being_made_cannot_be_updated() {
    let mut merge = Merge::new("own");
    let answer = api::CreateContainerResponse {
        update: vec![update("own", true, Some(1), None)],
        ..api::CreateContainerResponse::default()
    };

    assert!(merge.created("10-a", answer).is_err());
}
