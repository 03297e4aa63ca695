//! Holds the shipped systemd units to what a runtime server must and must not ask of systemd.

use std::collections::BTreeMap;
use std::path::Path;

use rstest::rstest;

/// Each of these gives the unit a namespace of its own or hides paths: mounts made there stay invisible to containerd,
/// the OCI runtime and CNI plugins.
const FORBIDDEN: [&str; 29] = [
    "PrivateTmp",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateUsers",
    "PrivateNetwork",
    "PrivateIPC",
    "PrivatePIDs",
    "ProtectSystem",
    "ProtectHome",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectControlGroupsEx",
    "ProtectProc",
    "ProtectHostname",
    "ProcSubset",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "InaccessiblePaths",
    "BindPaths",
    "BindReadOnlyPaths",
    "TemporaryFileSystem",
    "RootDirectory",
    "RootImage",
    "DynamicUser",
    "MountFlags",
    "RestrictNamespaces",
    "RestrictFileSystems",
];

/// What containers would inherit from a unit that runs containerd.
const HARDENING: [&str; 13] = [
    "NoNewPrivileges",
    "CapabilityBoundingSet",
    "AmbientCapabilities",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "RestrictAddressFamilies",
    "LockPersonality",
    "RestrictRealtime",
    "MemoryDenyWriteExecute",
    "KeyringMode",
    "LimitNOFILE",
    "LimitCORE",
];

/// The directives of a unit by name.
fn unit(name: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/systemd")
        .join(name);
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[rstest]
#[case("podwright.service")]
#[case("podwright-managed.service")]
fn a_unit_shares_the_hosts_namespaces_and_survives_its_server(#[case] name: &str) {
    let unit = unit(name);

    for directive in FORBIDDEN {
        assert!(!unit.contains_key(directive), "{name}: {directive}");
    }
    for (directive, value) in [
        ("Type", "notify"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),
        ("KillMode", "process"),
        ("RuntimeDirectory", "podwright"),
        ("RuntimeDirectoryMode", "0711"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("Delegate", "yes"),
        ("WatchdogSec", "60"),
        ("TasksMax", "infinity"),
        ("OOMScoreAdjust", "-999"),
    ] {
        assert_eq!(
            unit.get(directive).map(String::as_str),
            Some(value),
            "{name}: {directive}"
        );
    }
    for directive in ["Requires", "BindsTo", "MemoryMax"] {
        assert!(!unit.contains_key(directive), "{name}: {directive}");
    }
}

#[test]
fn the_unit_that_runs_containerd_hands_nothing_down_to_containers() {
    let unit = unit("podwright-managed.service");

    for directive in HARDENING {
        assert!(!unit.contains_key(directive), "{directive}");
    }
}

#[test]
fn the_drain_ends_before_systemd_loses_patience() {
    let patience: u64 = unit("podwright.service")["TimeoutStopSec"].parse().unwrap();
    let drain = crate::config::Config::default().server.drain_deadline;

    assert!(drain.as_secs() < patience);
}
