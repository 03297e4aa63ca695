//! The lifecycle of pods, and what they share.

use std::collections::BTreeMap;

use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::{fails, namespaces, pod, shell, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("sandbox.runs_stops_and_is_removed", |node| {
        Box::pin(lifecycle(node, ""))
    }),
    Case::new("sandbox.runs_stops_and_is_removed_with_crun", |node| {
        Box::pin(lifecycle(node, "crun"))
    })
    .needs(&["crun"]),
    Case::new("sandbox.keeps_what_the_request_said", |node| {
        Box::pin(attributes(node))
    }),
    Case::new("sandbox.is_found_by_every_filter", |node| {
        Box::pin(filters(node))
    }),
    Case::new("sandbox.stop_and_remove_of_the_unknown_succeed", |node| {
        Box::pin(unknown(node))
    }),
    Case::new("sandbox.stops_its_containers", |node| {
        Box::pin(stops_containers(node))
    }),
    Case::new("sandbox.containers_share_what_a_pod_shares", |node| {
        Box::pin(shared(node))
    }),
    Case::new("sandbox.containers_have_their_own_pid_namespace", |node| {
        Box::pin(own_pids(node))
    }),
    Case::new("sandbox.sets_sysctls_and_resolv_conf", |node| {
        Box::pin(settings(node))
    }),
    Case::new("sandbox.dies_when_its_pause_process_does", |node| {
        Box::pin(pause_dies(node))
    }),
];

async fn lifecycle(node: &Node, handler: &str) -> Outcome {
    let config = pod(node, "one");

    let id = node.run_pod_with(handler, &config).await?;
    let running = node.pod_status(&id).await?;
    node.stop_pod(&id).await?;
    let stopped = node.pod_status(&id).await?;
    node.stop_pod(&id).await?;
    node.remove_pod(&id).await?;

    ensure(id.len() == 64, || format!("the id is {id}"))?;
    ensure(
        running.state() == cri::PodSandboxState::SandboxReady && running.created_at > 0,
        || format!("{running:?}"),
    )?;
    ensure(
        running
            .network
            .as_ref()
            .is_some_and(|n| n.ip.starts_with("10.77.")),
        || format!("no pod IP: {:?}", running.network),
    )?;
    ensure(running.runtime_handler == handler, || {
        format!("the handler is {:?}", running.runtime_handler)
    })?;
    ensure(
        stopped.state() == cri::PodSandboxState::SandboxNotready
            && stopped.network.as_ref().is_none_or(|n| n.ip.is_empty()),
        || format!("{stopped:?}"),
    )?;
    fails(
        "status of a removed pod",
        node.pod_status(&id).await,
        Code::NotFound,
    )?;
    let left = node.pods(cri::PodSandboxFilter::default()).await?;
    ensure(left.is_empty(), || format!("still listed: {left:?}"))
}

async fn attributes(node: &Node) -> Outcome {
    let mut config = pod(node, "labelled");
    config.labels = BTreeMap::from([(String::from("app"), String::from("web"))]);
    config.annotations = BTreeMap::from([(String::from("note"), "a long one ".repeat(1_000))]);

    let id = node.run_pod(&config).await?;
    let status = node.pod_status(&id).await?;
    let listed = node.pods(cri::PodSandboxFilter::default()).await?;

    ensure(
        status.metadata == config.metadata
            && status.labels == config.labels
            && status.annotations == config.annotations,
        || format!("{status:?}"),
    )?;
    ensure(
        listed.iter().any(|item| {
            item.id == id
                && item.metadata == config.metadata
                && item.labels == config.labels
                && item.annotations == config.annotations
        }),
        || format!("{listed:?}"),
    )
}

async fn filters(node: &Node) -> Outcome {
    let mut first = pod(node, "first");
    first.labels = BTreeMap::from([(String::from("tier"), String::from("front"))]);
    let first_id = node.run_pod(&first).await?;
    let second_id = node.run_pod(&pod(node, "second")).await?;
    node.stop_pod(&second_id).await?;
    let prefix = first_id.get(..12).unwrap_or_default().to_owned();
    let state = |state: cri::PodSandboxState| {
        Some(cri::PodSandboxStateValue {
            state: state.into(),
        })
    };
    let label = |value: &str| BTreeMap::from([(String::from("tier"), value.to_owned())]);
    let none = cri::PodSandboxFilter::default;
    let questions: [(&str, cri::PodSandboxFilter, &[&str]); 7] = [
        ("everything", none(), &[&first_id, &second_id]),
        (
            "a prefix",
            cri::PodSandboxFilter {
                id: prefix,
                ..none()
            },
            &[&first_id],
        ),
        (
            "an unknown id",
            cri::PodSandboxFilter {
                id: String::from("feed"),
                ..none()
            },
            &[],
        ),
        (
            "ready",
            cri::PodSandboxFilter {
                state: state(cri::PodSandboxState::SandboxReady),
                ..none()
            },
            &[&first_id],
        ),
        (
            "not ready",
            cri::PodSandboxFilter {
                state: state(cri::PodSandboxState::SandboxNotready),
                ..none()
            },
            &[&second_id],
        ),
        (
            "a label",
            cri::PodSandboxFilter {
                label_selector: label("front"),
                ..none()
            },
            &[&first_id],
        ),
        (
            "another label",
            cri::PodSandboxFilter {
                label_selector: label("back"),
                ..none()
            },
            &[],
        ),
    ];

    for (question, filter, wanted) in questions {
        let mut found: Vec<String> = node.pods(filter).await?.into_iter().map(|p| p.id).collect();
        let mut wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        found.sort();
        wanted.sort();
        ensure(found == wanted, || format!("{question}: {found:?}"))?;
    }
    Ok(())
}

async fn unknown(node: &Node) -> Outcome {
    let nobody = "0".repeat(64);

    node.stop_pod(&nobody).await?;
    node.remove_pod(&nobody).await?;
    node.stop(&nobody, 0).await?;
    node.remove(&nobody).await?;
    fails("status", node.pod_status(&nobody).await, Code::NotFound)?;
    fails(
        "container status",
        node.status(&nobody).await,
        Code::NotFound,
    )?;
    fails("start", node.start(&nobody).await, Code::NotFound)?;
    fails(
        "exec",
        node.exec(&nobody, &["true"], 1).await,
        Code::NotFound,
    )
    .map(drop)
}

async fn stops_containers(node: &Node) -> Outcome {
    let config = pod(node, "full");
    let id = node.run_pod(&config).await?;
    let running = node.run(&id, &config, &sleeper("running")).await?;
    let created = node.create(&id, &config, &sleeper("created")).await?;

    node.stop_pod(&id).await?;

    let exited = node.status(&running).await?;
    ensure(
        exited.state() == cri::ContainerState::ContainerExited && exited.finished_at > 0,
        || format!("{exited:?}"),
    )?;
    fails(
        "create in a stopped pod",
        node.create(&id, &config, &sleeper("late")).await,
        Code::FailedPrecondition,
    )?;
    node.remove_pod(&id).await?;
    fails("status", node.status(&created).await, Code::NotFound)?;
    fails("status", node.status(&running).await, Code::NotFound).map(drop)
}

async fn shared(node: &Node) -> Outcome {
    let mut config = pod(node, "shared");
    namespaces(&mut config).pid = cri::NamespaceMode::Pod.into();
    let id = node.run_pod(&config).await?;
    let ip = node
        .pod_status(&id)
        .await?
        .network
        .map(|n| n.ip)
        .unwrap_or_default();
    let web = shell(
        "web",
        "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www",
    );
    node.run(&id, &config, &web).await?;
    let other = node.run(&id, &config, &sleeper("other")).await?;

    // A server that was just started does not listen yet.
    let fetch = "until wget -q -O - http://127.0.0.1/ 2>/dev/null; do sleep 0.1; done";
    let fetched = node.ask(&other, fetch).await?;
    let init = node.ask(&other, "cat /proc/1/comm").await?;
    let seen = node
        .ask(&other, "pidof httpd >/dev/null && hostname")
        .await?;
    let address = node.ask(&other, "ip -o -4 addr show eth0").await?;
    node.ask(&other, "echo from-other > /dev/shm/note").await?;

    ensure(fetched == "hello", || format!("over localhost: {fetched}"))?;
    ensure(init == "pause", || format!("process 1 is {init}"))?;
    ensure(seen == "shared", || format!("the host name is {seen}"))?;
    ensure(address.contains(&ip), || {
        format!("{ip} is not in {address}")
    })?;
    let third = node.run(&id, &config, &sleeper("third")).await?;
    let note = node.ask(&third, "cat /dev/shm/note").await?;
    ensure(note == "from-other", || {
        format!("/dev/shm is not shared: {note}")
    })?;
    let zombies = "(sleep 0.05 &) ; sleep 0.5; ! grep -l '^State:.*zombie' /proc/[0-9]*/status";
    node.ask(&other, zombies).await.map(drop)
}

async fn own_pids(node: &Node) -> Outcome {
    let mut config = pod(node, "apart");
    namespaces(&mut config).pid = cri::NamespaceMode::Container.into();
    let id = node.run_pod(&config).await?;
    let mut container = sleeper("alone");
    crate::pods::security(&mut container)
        .namespace_options
        .get_or_insert_default()
        .pid = cri::NamespaceMode::Container.into();

    let container = node.run(&id, &config, &container).await?;

    let init = node.ask(&container, "cat /proc/1/comm").await?;
    ensure(init == "sh", || format!("process 1 is {init}"))
}

async fn settings(node: &Node) -> Outcome {
    let mut config = pod(node, "tuned");
    config.dns_config = Some(cri::DnsConfig {
        servers: vec![String::from("10.9.8.7")],
        searches: vec![String::from("it.example")],
        options: vec![String::from("ndots:3")],
    });
    let sysctls = &mut config.linux.get_or_insert_default().sysctls;
    sysctls.insert(String::from("kernel.shm_rmid_forced"), String::from("1"));
    sysctls.insert(String::from("net.ipv4.ip_default_ttl"), String::from("77"));
    let id = node.run_pod(&config).await?;

    let container = node.run(&id, &config, &sleeper("c")).await?;

    let resolv = node.ask(&container, "cat /etc/resolv.conf").await?;
    for wanted in [
        "nameserver 10.9.8.7",
        "search it.example",
        "options ndots:3",
    ] {
        ensure(resolv.lines().any(|line| line == wanted), || resolv.clone())?;
    }
    let values = node
        .ask(
            &container,
            "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_default_ttl",
        )
        .await?;
    ensure(values == "1\n77", || format!("sysctls: {values:?}"))
}

async fn pause_dies(node: &Node) -> Outcome {
    let config = pod(node, "fragile");
    let id = node.run_pod(&config).await?;
    let pause = node.until_processes("pause", 1).await?;
    ensure(pause.len() == 1, || format!("pause processes: {pause:?}"))?;

    for pid in pause {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    }

    for _ in 0..100 {
        if node.pod_status(&id).await?.state() == cri::PodSandboxState::SandboxNotready {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Err("the pod is still ready 2 s after its pause process died".into())
}
