//! What plugins change of containers, seen from inside.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use podwright::nri::messages::api;
use podwright::wire::{Message, cri};

use crate::case::Outcome;
use crate::ensure;
use crate::node::Node;
use crate::plugin::{Answer, Plugin, memory_limit, says, variable};
use crate::pods::{namespaces, pod, security, sleeper};

/// One adjustment of each kind that can be seen from inside.
fn many_adjustments(volume: &Path) -> api::CreateContainerResponse {
    let mount = |destination: &str, source: &str| api::Mount {
        destination: destination.to_owned(),
        r#type: "bind".to_owned(),
        source: source.to_owned(),
        options: vec!["rbind".to_owned(), "ro".to_owned()],
    };
    let mut answer = variable("ADJUSTED", "yes");
    let adjust = answer.adjust.get_or_insert_default();
    adjust.env.push(api::KeyValue {
        key: "-UNWANTED".to_owned(),
        value: String::new(),
    });
    adjust.mounts = vec![
        mount("/plugin", &volume.to_string_lossy()),
        mount("-/unwanted", ""),
    ];
    adjust.annotations = [("plugin.test/note".to_owned(), "hello".to_owned())].into();
    adjust.rlimits = vec![api::PosixRlimit {
        r#type: "RLIMIT_NOFILE".to_owned(),
        hard: 200,
        soft: 100,
    }];
    let limits = memory_limit("", 48 << 20).linux.unwrap_or_default();
    adjust.linux = Some(api::LinuxContainerAdjustment {
        resources: limits.resources,
        oom_score_adj: Some(api::OptionalInt { value: 777 }),
        devices: vec![api::LinuxDevice {
            path: "/dev/plugin".to_owned(),
            r#type: "c".to_owned(),
            major: 1,
            minor: 3,
            file_mode: Some(api::OptionalFileMode { value: 0o666 }),
            ..api::LinuxDevice::default()
        }],
        ..api::LinuxContainerAdjustment::default()
    });
    answer
}

pub(super) async fn adjustments(node: &Node, handler: &str) -> Outcome {
    let volume = node.home.join("volume");
    fs::create_dir_all(&volume)?;
    fs::write(volume.join("file"), "from the plugin")?;
    let answer = many_adjustments(&volume);
    let plugin = Plugin::join("10", "adjust", vec![("CreateContainer", says(&answer))]).await?;
    let mut config = pod(node, "p");
    let container: i32 = cri::NamespaceMode::Container.into();
    namespaces(&mut config).pid = container;
    let pod_id = node.run_pod_with(handler, &config).await?;
    let mut wanted = sleeper("c");
    let options = &mut security(&mut wanted).namespace_options;
    options.get_or_insert_default().pid = container;
    wanted.envs = vec![cri::KeyValue {
        key: "UNWANTED".to_owned(),
        value: "1".into(),
    }];
    wanted.mounts = vec![cri::Mount {
        container_path: "/unwanted".to_owned(),
        host_path: volume.display().to_string(),
        ..Default::default()
    }];

    let id = node.run(&pod_id, &config, &wanted).await?;

    let said = node
        .ask(
            &id,
            "echo \"$ADJUSTED:$UNWANTED\"; cat /plugin/file; echo; ls -d /unwanted/file 2>&1 | grep -c 'No such'; ulimit -n; \
             ulimit -H -n; cat /proc/1/oom_score_adj; echo x > /dev/plugin && stat -c %t:%T:%a /dev/plugin",
        )
        .await?;
    let lines: Vec<&str> = said.lines().collect();
    let wanted = ["yes:", "from the plugin", "1"];
    ensure(lines.starts_with(&wanted), || said.clone())?;
    ensure(lines.ends_with(&["777", "1:3:666"]), || said.clone())?;
    let limits = node.ask(&id, "grep 'open files' /proc/1/limits").await?;
    let limits: Vec<&str> = limits.split_whitespace().collect();
    ensure(limits.get(3..5) == Some(&["100", "200"]), || {
        format!("{limits:?}")
    })?;
    let status = node.status(&id).await?;
    let memory = status
        .resources
        .and_then(|resources| resources.linux)
        .map(|linux| linux.memory_limit_in_bytes);
    ensure(memory == Some(48 << 20), || format!("{memory:?}"))?;
    ensure(!status.annotations.contains_key("plugin.test/note"), || {
        "the request's annotations were changed".to_owned()
    })?;
    let record = node.ctr(&["containers", "info", "--spec", &id])?;
    ensure(record.contains("plugin.test/note"), || record.clone())?;
    plugin.leave();
    Ok(())
}

fn memory_of(status: &cri::ContainerStatus) -> Option<i64> {
    let linux = status.resources.as_ref()?.linux.as_ref()?;
    Some(linux.memory_limit_in_bytes)
}

pub(super) async fn others(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod_id = node.run_pod(&config).await?;
    let first = node.run(&pod_id, &config, &sleeper("a")).await?;
    let victim = node.run(&pod_id, &config, &sleeper("v")).await?;
    let mut answer = variable("X", "1");
    answer.update = vec![memory_limit(&first, 96 << 20)];
    answer.evict = vec![api::ContainerEviction {
        container_id: victim.clone(),
        reason: "room is needed".to_owned(),
    }];
    let target = first.clone();
    let doubles: Answer = Arc::new(move |_| {
        let answer = api::UpdateContainerResponse {
            update: vec![memory_limit(&target, 160 << 20)],
            evict: Vec::new(),
        };
        Box::pin(std::future::ready(Ok(answer.encode_to_vec())))
    });
    let plugin = Plugin::join(
        "10",
        "others",
        vec![
            ("CreateContainer", says(&answer)),
            ("UpdateContainer", doubles),
        ],
    )
    .await?;

    // By the answer to another container's creation, where it is made before that is.
    node.run(&pod_id, &config, &sleeper("b")).await?;
    let status = node.status(&first).await?;
    ensure(memory_of(&status) == Some(96 << 20), || {
        format!("{status:?}")
    })?;
    node.until_exited(&victim).await?;
    // By the answer to its own update.
    let request = cri::UpdateContainerResourcesRequest {
        container_id: first.clone(),
        linux: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_shares: 512,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut runtime = node.cri.runtime.clone();
    runtime.update_container_resources(request).await?;
    let status = node.status(&first).await?;
    ensure(memory_of(&status) == Some(160 << 20), || {
        format!("{status:?}")
    })?;
    // Unasked; of several, those that fail are told.
    let request = api::UpdateContainersRequest {
        update: vec![
            memory_limit(&first, 128 << 20),
            memory_limit("nobody", 1 << 20),
        ],
        evict: Vec::new(),
    };
    let answer = plugin.call("UpdateContainers", &request).await?;
    let answer = api::UpdateContainersResponse::decode(&*answer)?;
    let failed: Vec<&str> = answer.failed.iter().map(|one| &*one.container_id).collect();
    ensure(failed == ["nobody"], || format!("{failed:?}"))?;
    let status = node.status(&first).await?;
    ensure(memory_of(&status) == Some(128 << 20), || {
        format!("{status:?}")
    })?;
    let limit = node
        .ask(&first, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true")
        .await?;
    ensure(limit.contains(&(128 << 20).to_string()), || limit.clone())?;
    plugin.leave();
    Ok(())
}
