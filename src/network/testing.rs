//! Pods, stub plugins and directories that the tests of this room share.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::model::clock::SystemClock;
use crate::model::pod::{PodConfig, PodIdentity, PodSecurity};
use crate::ops::LiveTable;

/// A pod named `default/web` that asks for nothing.
pub(super) fn pod() -> PodConfig {
    PodConfig {
        identity: PodIdentity {
            name: "web".into(),
            k8s_namespace: "default".into(),
            uid: "uid-1".into(),
            attempt: 0,
        },
        hostname: String::new(),
        log_directory: String::new(),
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_parent: String::new(),
        sysctls: BTreeMap::new(),
        security: PodSecurity::default(),
        resources: None,
        overhead: None,
    }
}

/// A table of live operations.
pub(super) fn live() -> LiveTable {
    LiveTable::new(Arc::new(SystemClock))
}

/// Writes a plugin into `dir`: a shell script in which `$DIR` is that directory.
pub(super) fn stub(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    let text = format!("#!/bin/sh\nDIR='{}'\n{script}\n", dir.display());
    // Written by another process: were this one to fork meanwhile, its child would hold the file open for writing.
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = writer.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(writer.wait().unwrap().success());
}
