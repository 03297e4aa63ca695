//! Containers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use podwright::wire::cri;
use tonic::Code;

use super::files::{Files, between};
use crate::case::Outcome;
use crate::ensure;
use crate::node::{Node, patient};
use crate::pods::{fails, pod, shell, sleeper};

/// A container that holds 12 MB of its 256 MiB and takes half a processor.
pub(super) async fn busy(node: &Node) -> Outcome<String> {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let script = "head -c 8000000 /dev/zero >/dev/shm/x; x=$(head -c 4000000 /dev/zero | tr '\\0' a); echo full; while :; do :; done";
    let mut busy = shell("busy", script);
    busy.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 256 << 20,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..Default::default()
    });
    let id = node.run(&pod, &config, &busy).await?;
    // What it fills grows by leaps, as the kernel charges it.
    let filling = Instant::now();
    while Node::lines(&config, &busy)?.is_empty() {
        ensure(filling.elapsed() < patient(Duration::from_secs(30)), || {
            String::from("the container does not get its memory")
        })?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(id)
}

pub(super) async fn agree(node: &Node) -> Outcome {
    let id = busy(node).await?;
    let files = Files::of(&id);

    let first = node.container_stats(&id).await?;
    let measure = || Ok((files.cpu_ns()?, files.memory()?));
    let ((cpu_before, mem_before), asked, told) = node.fresh_stats(&id, measure).await?;
    let (cpu_after, mem_after) = (files.cpu_ns()?, files.memory()?);

    let cpu = told.cpu.unwrap_or_default();
    let memory = told.memory.unwrap_or_default();
    between(
        "cpu",
        cpu.usage_core_nano_seconds.as_ref(),
        cpu_before,
        cpu_after,
    )?;
    between("memory", memory.usage_bytes.as_ref(), mem_before, mem_after)?;
    let inactive = files.stat(["total_inactive_file", "inactive_file"])?;
    let working = (
        mem_before.min(mem_after) - inactive,
        mem_before.max(mem_after) - inactive,
    );
    between(
        "working set",
        memory.working_set_bytes.as_ref(),
        working.0,
        working.1,
    )?;
    let limit = f64::from(256_u32 << 20);
    let left = (limit - working.0, limit - working.1);
    between("available", memory.available_bytes.as_ref(), left.0, left.1)?;
    let rss = files.stat(["total_rss", "anon"])?;
    between("rss", memory.rss_bytes.as_ref(), rss, rss)?;
    let faults = files.stat(["total_pgfault", "pgfault"])?;
    between("faults", memory.page_faults.as_ref(), faults, faults)?;
    let rate = cpu.usage_nano_cores.map_or(0, |rate| rate.value);
    ensure((300_000_000..700_000_000).contains(&rate), || {
        format!("half a processor is shown as {rate}")
    })?;
    let earlier = first.cpu.map_or(0, |cpu| cpu.timestamp);
    ensure(
        0 < earlier && earlier < cpu.timestamp && asked <= memory.timestamp,
        || {
            format!(
                "{earlier}, {}, {asked}, {}",
                cpu.timestamp, memory.timestamp
            )
        },
    )
}

pub(super) async fn filters(node: &Node) -> Outcome {
    let (pod, ids) = three(node).await?;
    let ids_of = |stats: &[cri::ContainerStats]| -> Vec<String> {
        let attributes = stats.iter().filter_map(|one| one.attributes.as_ref());
        attributes.map(|attributes| attributes.id.clone()).collect()
    };
    let asked = async |filter: cri::ContainerStatsFilter| -> Outcome<Vec<String>> {
        Ok(ids_of(&node.list_stats(Some(filter)).await?))
    };
    let label = |value: &str| cri::ContainerStatsFilter {
        label_selector: BTreeMap::from([(String::from("name"), String::from(value))]),
        ..Default::default()
    };
    let id = |id: &str| cri::ContainerStatsFilter {
        id: id.to_owned(),
        ..Default::default()
    };
    let of_pod = |id: &str| cri::ContainerStatsFilter {
        pod_sandbox_id: id.to_owned(),
        ..Default::default()
    };

    let mut all = ids.clone();
    all.sort();
    for stats in [
        node.list_stats(None).await?,
        node.list_stats(Some(id(""))).await?,
    ] {
        ensure(ids_of(&stats) == all, || format!("{:?}", ids_of(&stats)))?;
        ensure(stats.iter().all(is_complete), || format!("{stats:?}"))?;
    }
    let [one, two, _three] = &ids[..] else {
        return Err("three containers".into());
    };
    for (filter, wanted) in [
        (id(one), vec![one.clone()]),
        (id(head(one)), vec![one.clone()]),
        (id("nobody"), vec![]),
        (label("two"), vec![two.clone()]),
        (label("four"), vec![]),
        (of_pod(&pod), all.clone()),
        (of_pod("nobody"), vec![]),
        (
            cri::ContainerStatsFilter {
                id: one.clone(),
                ..label("two")
            },
            vec![],
        ),
    ] {
        let found = asked(filter.clone()).await?;
        ensure(found == wanted, || format!("{filter:?}: {found:?}"))?;
    }
    let request = cri::StreamContainerStatsRequest { filter: None };
    let mut parts = node
        .cri
        .runtime
        .clone()
        .stream_container_stats(request)
        .await?
        .into_inner();
    let mut streamed = Vec::new();
    while let Some(part) = parts.message().await? {
        streamed.extend(ids_of(&part.container_stats));
    }
    ensure(streamed == all, || format!("streamed {streamed:?}"))?;
    let short = node.container_stats(head(one)).await?;
    ensure(ids_of(&[short]) == [one.clone()], || {
        "a short id".to_owned()
    })?;
    fails(
        "an unknown one",
        node.container_stats("nobody").await,
        Code::NotFound,
    )
    .map(drop)
}

/// A pod with three containers.
async fn three(node: &Node) -> Outcome<(String, Vec<String>)> {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        let mut container = sleeper(name);
        container.labels = BTreeMap::from([(String::from("name"), String::from(name))]);
        container.annotations = BTreeMap::from([(String::from("a"), String::from(name))]);
        ids.push(node.run(&pod, &config, &container).await?);
    }
    Ok((pod, ids))
}

/// As much of an id as people type.
fn head(id: &str) -> &str {
    id.get(..20).unwrap_or(id)
}

/// Whether figures are there, and the attributes are those of the request.
fn is_complete(stats: &cri::ContainerStats) -> bool {
    let attributes = stats.attributes.clone().unwrap_or_default();
    let name = Some(attributes.metadata.unwrap_or_default().name);
    let (label, annotation) = (
        attributes.labels.get("name"),
        attributes.annotations.get("a"),
    );
    stats.cpu.is_some() && stats.memory.is_some() && label == name.as_ref() && annotation == label
}

pub(super) async fn states(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let writer = shell(
        "c",
        "head -c 3000000 /dev/zero >/file; for i in 1 2 3 4 5; do : >/$i; done; exec sleep 3600",
    );
    let id = node.create(&pod, &config, &writer).await?;
    let bare = |stats: &cri::ContainerStats| {
        stats.attributes.is_some() && stats.cpu.is_none() && stats.memory.is_none()
    };

    let created = node.container_stats(&id).await?;
    ensure(bare(&created), || format!("created: {created:?}"))?;
    node.start(&id).await?;
    let measured = Instant::now();
    let layer = loop {
        let stats = node.container_stats(&id).await?;
        ensure(stats.cpu.is_some() && stats.memory.is_some(), || {
            format!("{stats:?}")
        })?;
        if let Some(layer) = stats.writable_layer
            && layer
                .used_bytes
                .is_some_and(|bytes| bytes.value >= 3_000_000)
        {
            break layer;
        }
        ensure(
            measured.elapsed() < patient(Duration::from_secs(30)),
            || "the writable layer is not measured".to_owned(),
        )?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let bytes = layer.used_bytes.map_or(0, |bytes| bytes.value);
    ensure(bytes < 4_000_000, || format!("{bytes} bytes"))?;
    let inodes = layer.inodes_used.map_or(0, |inodes| inodes.value);
    ensure((6..30).contains(&inodes), || format!("{inodes} inodes"))?;
    let place = layer.fs_id.unwrap_or_default().mountpoint;
    ensure(Path::new(&place).is_dir() && layer.timestamp > 0, || {
        place.clone()
    })?;

    node.stop(&id, 0).await?;
    let exited = node.container_stats(&id).await?;
    ensure(bare(&exited) && exited.writable_layer.is_some(), || {
        format!("exited: {exited:?}")
    })?;
    let listed = node.list_stats(None).await?;
    ensure(listed.len() == 1 && listed.iter().all(bare), || {
        format!("listed: {listed:?}")
    })?;
    node.remove(&id).await?;
    ensure(node.list_stats(None).await?.is_empty(), || {
        "removed".to_owned()
    })
}
