//! CDI devices and OCI hooks: what files on the node add to a container.

use std::fs;
use std::path::Path;

use podwright::wire::cri;
use serde_json::json;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, layout};
use crate::pods::{fails, pod, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("devices.cdi_brings_all_that_its_file_says", |node| {
        Box::pin(cdi(node, ""))
    }),
    Case::new("devices.cdi_works_with_crun", |node| {
        Box::pin(cdi(node, "crun"))
    })
    .needs(&["crun"]),
    Case::new("devices.cdi_names_what_it_does_not_find", |node| {
        Box::pin(unknown(node))
    }),
    Case::new("devices.oci_hooks_run_for_containers_that_fit", |node| {
        Box::pin(hooks(node))
    }),
];

/// One of the directories of the default configuration, on the node's own file system.
const SPECIFICATIONS: &str = "/run/cdi";
const HOOKS: &str = "/run/hooks.d";

fn asks(config: &mut cri::ContainerConfig, names: &[&str]) {
    let one = |name: &&str| cri::CdiDevice {
        name: (*name).to_owned(),
    };
    config.cdi_devices = names.iter().map(one).collect();
}

async fn cdi(node: &Node, handler: &str) -> Outcome {
    let state = node.home.join("hook-state");
    let volume = node.home.join("vendor");
    fs::create_dir_all(&volume)?;
    fs::write(volume.join("file"), "from the host")?;
    fs::create_dir_all(SPECIFICATIONS)?;
    fs::write(
        Path::new(SPECIFICATIONS).join("vendor.yaml"),
        format!(
            r#"
cdiVersion: 0.7.0
kind: vendor.test/gpu
containerEdits:
  env: ["COMMON=1"]
  hooks:
  - {{hookName: createRuntime, path: /bin/sh, args: [sh, -c, "cat >> {state}"]}}
devices:
- name: "0"
  containerEdits:
    env: ["GPU=zero"]
    deviceNodes:
    - {{path: /dev/gpu0, hostPath: /dev/null}}
    - {{path: /dev/gpu1, type: c, major: 195, minor: 7, fileMode: 0640, permissions: rw}}
    mounts:
    - {{hostPath: {volume}, containerPath: /vendor, options: [rbind, ro]}}
- name: groups
  containerEdits: {{env: ["GPU=groups"], additionalGids: [4242]}}
"#,
            state = state.display(),
            volume = volume.display()
        ),
    )?;
    fs::write(Path::new(SPECIFICATIONS).join("broken.json"), "{")?;
    let config = pod(node, "p");
    let pod = node.run_pod_with(handler, &config).await?;
    let mut wanted = sleeper("c");
    asks(&mut wanted, &["vendor.test/gpu=0"]);
    wanted.annotations.insert(
        String::from("cdi.k8s.io/more"),
        String::from("vendor.test/gpu=groups,vendor.test/gpu=0"),
    );

    let id = node.run(&pod, &config, &wanted).await?;

    let said = node
        .ask(
            &id,
            "stat -c '%F %t %T' /dev/gpu0; stat -c '%F %t %T %a' /dev/gpu1; echo x > /dev/gpu0; \
             cat /vendor/file; echo; echo $COMMON $GPU; grep Groups /proc/self/status; \
             echo x 2>&- > /vendor/new || echo kept; cat /dev/gpu1 2>&1 | grep -o 'No such.*'; true",
        )
        .await?;
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    let wanted = [
        "character special file 1 3",
        "character special file c3 7 640",
        "from the host",
        "1 groups",
    ];
    ensure(lines.starts_with(&wanted), || said.clone())?;
    // No driver has the number of gpu1, but the device cgroup lets the container ask.
    for line in ["Groups:\t0 4242", "kept", "No such device or address"] {
        ensure(lines.contains(&line), || format!("no {line:?} in {said}"))?;
    }
    let told = fs::read_to_string(&state)?;
    ensure(
        told.matches(&format!("\"id\":\"{id}\"")).count() == 1,
        || format!("the hook was told {told:?}"),
    )?;
    let status = node.status(&id).await?;
    let user = status.user.and_then(|user| user.linux);
    ensure(
        user.as_ref()
            .is_some_and(|user| user.supplemental_groups.contains(&4242)),
        || format!("{user:?}"),
    )
}

async fn unknown(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    fs::create_dir_all(SPECIFICATIONS)?;
    let broken = Path::new(SPECIFICATIONS).join("vendor.yaml");
    fs::write(
        &broken,
        "cdiVersion: 9.9.9\nkind: vendor.test/gpu\ndevices: []\n",
    )?;
    let mut wanted = sleeper("c");
    asks(&mut wanted, &["vendor.test/gpu=0", "vendor.test/other=1"]);

    let made = node.create(&pod, &config, &wanted).await;
    let said = fails("unknown devices", made, Code::FailedPrecondition)?;

    for part in [
        "unresolvable CDI devices vendor.test/gpu=0, vendor.test/other=1",
        "/etc/cdi, /var/run/cdi",
        "vendor.yaml",
    ] {
        ensure(said.contains(part), || said.clone())?;
    }
    let doctor = layout::podwright_config(&node.home);
    let report = node
        .cli(&["doctor", "--config", &doctor.to_string_lossy()])
        .await?;
    ensure(
        report.contains("CDI specification") && report.contains("vendor.yaml"),
        || report.clone(),
    )?;
    let mut misspelt = sleeper("c");
    misspelt.annotations.insert(
        String::from("cdi.k8s.io/x"),
        String::from("vendor.test/gpu"),
    );
    let made = node.create(&pod, &config, &misspelt).await;
    fails(
        "an annotation without a device",
        made,
        Code::InvalidArgument,
    )?;
    let device = |path: &str| {
        format!(
            "{{cdiVersion: 0.6.0, kind: vendor.test/gpu, devices: [{{name: \"0\", containerEdits: {{deviceNodes: [{{path: {path}}}]}}}}]}}"
        )
    };
    asks(&mut wanted, &["vendor.test/gpu=0"]);
    fs::write(&broken, device("/dev/not-there"))?;
    let made = node.create(&pod, &config, &wanted).await;
    let said = fails("a node that the host lacks", made, Code::FailedPrecondition)?;
    ensure(said.contains("/dev/not-there"), || said.clone())?;
    // What the file says now is what counts: nothing was restarted.
    fs::write(&broken, device("/dev/full"))?;
    node.run(&pod, &config, &wanted).await.map(drop)?;
    Ok(())
}

async fn hooks(node: &Node) -> Outcome {
    let log = node.home.join("hooks.log");
    let hook = |note: &str, stages: &[&str], when: serde_json::Value| {
        json!({
            "version": "1.0.0",
            "hook": {
                "path": "/bin/sh",
                "args": ["sh", "-c", format!("cat >> {}; echo \" {note} $MARK\" >> {}", log.display(), log.display())],
                "env": ["MARK=marked", "PATH=/usr/bin:/bin"],
            },
            "when": when,
            "stages": stages,
        })
        .to_string()
    };
    let fits = json!({"annotations": {"^it\\.test/hooked$": "^yes$"}, "commands": ["^/bin/sh$"]});
    fs::create_dir_all(HOOKS)?;
    let path = |name: &str| Path::new(HOOKS).join(name);
    fs::write(
        path("20-second.json"),
        hook("second", &["createRuntime"], fits.clone()),
    )?;
    fs::write(
        path("10-first.json"),
        hook("first", &["poststop", "createRuntime"], fits),
    )?;
    fs::write(
        path("30-never.json"),
        hook("never", &["createRuntime"], json!({"hasBindMounts": true})),
    )?;
    fs::write(path("40-broken.json"), "{}")?;
    node.configure(&format!("[containers]\nhooks_dirs = [\"{HOOKS}\"]"))
        .await?;

    let mut config = pod(node, "p");
    config
        .annotations
        .insert(String::from("it.test/hooked"), String::from("yes"));
    let pod_id = node.run_pod(&config).await?;
    let id = node.run(&pod_id, &config, &sleeper("c")).await?;
    let other_config = pod(node, "q");
    let other_pod = node.run_pod(&other_config).await?;
    let other = node.run(&other_pod, &other_config, &sleeper("d")).await?;
    node.until_said("40-broken.json").await?;
    let started = fs::read_to_string(&log)?;
    node.stop(&id, 10).await?;
    node.remove(&id).await?;
    node.remove(&other).await?;
    let ended = fs::read_to_string(&log)?;

    let told = format!("\"id\":\"{id}\"");
    let notes: Vec<&str> = started
        .lines()
        .filter_map(|line| line.rsplit("} ").next())
        .collect();
    ensure(
        notes == ["first marked", "second marked"] && started.matches(&told).count() == 2,
        || format!("after the start: {started}"),
    )?;
    ensure(
        ended.lines().count() == 3 && ended.matches(&told).count() == 3,
        || format!("at the end: {ended}"),
    )
}
