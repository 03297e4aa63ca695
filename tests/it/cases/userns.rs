//! Pods with users of their own: root in there is nobody on the node, and yet the files, the network and the streams of
//! the pod are its own.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, leaks};
use crate::pods::{
    FIRST_MAPPED, fails, mapped, mapped_pod, mapping, namespaces, pod, security, shell, sleeper,
};

pub(super) const CASES: &[Case] = &[
    Case::new("userns.root_of_a_pod_is_nobody_on_the_node", |node| {
        Box::pin(ids(node))
    })
    .newest(),
    Case::new(
        "userns.files_and_volumes_belong_to_the_pods_users",
        |node| Box::pin(files(node)),
    )
    .newest(),
    Case::new("userns.the_pods_root_rules_the_pods_network", |node| {
        Box::pin(network(node))
    })
    .newest(),
    Case::new("userns.any_user_can_open_its_streams", |node| {
        Box::pin(streams(node))
    })
    .newest(),
    Case::new("userns.works_on_the_nodes_network", |node| {
        Box::pin(node_network(node))
    })
    .newest(),
    Case::new("userns.pod_and_container_ask_for_the_same", |node| {
        Box::pin(same(node))
    })
    .newest(),
    Case::new("userns.a_restart_finds_the_pod", |node| {
        Box::pin(restart(node))
    })
    .newest(),
    Case::new("userns.an_older_containerd_is_no_trap", |node| {
        Box::pin(refused(node))
    }),
];

/// The map that the pod's processes must see.
fn expected_map() -> [String; 3] {
    [0, FIRST_MAPPED, 65_536].map(|number| number.to_string())
}

async fn ensure_mapped(node: &Node, id: &str) -> Outcome {
    for name in ["uid_map", "gid_map"] {
        let text = node.ask(id, &format!("cat /proc/self/{name}")).await?;
        let words: Vec<&str> = text.split_whitespace().collect();
        ensure(words == expected_map(), || format!("{name}: {text}"))?;
    }
    Ok(())
}

async fn ids(node: &Node) -> Outcome {
    ensure(supports(node).await? == (true, true), || {
        String::from("Status does not tell of user namespaces")
    })?;
    let config = mapped_pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &mapped(sleeper("c"))).await?;

    ensure_mapped(node, &id).await?;
    for name in ["pause", "sh"] {
        for pid in node.until_processes(name, 1).await? {
            let owner = fs::metadata(format!("/proc/{pid}"))?.uid();
            ensure(owner == FIRST_MAPPED, || {
                format!("{name} runs as {owner} of the node")
            })?;
        }
    }
    let status = node.status(&id).await?;
    let user = status.user.and_then(|user| user.linux);
    ensure(user.is_some_and(|user| user.uid == 0), || {
        String::from("the status tells the node's id")
    })?;
    node.stop(&id, 5).await.map_err(Into::into)
}

async fn files(node: &Node) -> Outcome {
    let data = node.home.join("data");
    fs::create_dir(&data)?;
    fs::write(data.join("roots"), "")?;
    fs::write(data.join("others"), "")?;
    chown(data.join("others"), Some(1_000), Some(1_000))?;
    let config = mapped_pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = mapped(sleeper("c"));
    container.mounts = vec![
        cri::Mount {
            container_path: String::from("/mapped"),
            host_path: data.display().to_string(),
            uid_mappings: mapping(),
            gid_mappings: mapping(),
            ..Default::default()
        },
        cri::Mount {
            container_path: String::from("/plain"),
            host_path: data.display().to_string(),
            ..Default::default()
        },
    ];
    let id = node.run(&pod, &config, &container).await?;

    for (path, owner) in [
        ("/bin/busybox", "0:0"),
        ("/etc/hosts", "0:0"),
        ("/etc/hostname", "0:0"),
        ("/etc/resolv.conf", "0:0"),
        ("/dev/shm", "0:0"),
        ("/mapped/roots", "0:0"),
        ("/mapped/others", "1000:1000"),
        ("/plain/roots", "65534:65534"),
    ] {
        let said = node.ask(&id, &format!("stat -c %u:%g {path}")).await?;
        ensure(said == owner, || format!("{path} belongs to {said}"))?;
    }
    node.ask(
        &id,
        "echo x >/file && echo x >/mapped/new && echo x >/dev/shm/x && echo x >/dev/null && head -c1 /dev/zero >/dev/shm/y",
    )
    .await?;
    let escape = node.ask(&id, "echo x >/plain/new").await;
    ensure(escape.is_err(), || {
        String::from("the pod's root wrote as the node's")
    })?;
    let made = fs::metadata(data.join("new"))?;
    ensure((made.uid(), made.gid()) == (0, 0), || {
        format!("on the node the file belongs to {}", made.uid())
    })?;
    let pids = node.until_processes("sh", 1).await?;
    let pid = pids.first().ok_or("no shell")?;
    let inside = fs::metadata(Path::new("/proc").join(pid.to_string()).join("root/file"))?;
    ensure(inside.uid() == FIRST_MAPPED, || {
        format!("the root file system's file belongs to {}", inside.uid())
    })
}

async fn network(node: &Node) -> Outcome {
    let config = mapped_pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = mapped(sleeper("c"));
    security(&mut container).capabilities = Some(cri::Capability {
        add_capabilities: vec![String::from("NET_ADMIN")],
        ..Default::default()
    });
    let id = node.run(&pod, &config, &container).await?;

    let address = node.pod_ip(&pod).await?;
    let shown = node.ask(&id, "ip -4 addr show eth0").await?;
    ensure(
        !address.is_empty() && shown.contains(&format!("{address}/")),
        || format!("{address}: {shown}"),
    )?;
    node.ask(&id, "ping -c 1 -W 5 10.77.0.1 && ping -c 1 127.0.0.1")
        .await?;
    node.ask(&id, "ip link set lo down && ip link set lo up")
        .await?;
    // The node's own settings stay the node's.
    let other = mapped_pod(node, "q");
    let second = node.run_pod(&other).await?;
    let plain = node.run(&second, &other, &mapped(sleeper("c"))).await?;
    let without = node.ask(&plain, "ip link set lo down").await;
    ensure(without.is_err(), || {
        String::from("a container without NET_ADMIN has it")
    })
}

async fn streams(node: &Node) -> Outcome {
    let config = mapped_pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = mapped(shell("c", "echo out >/dev/stdout; echo err >/dev/stderr"));
    security(&mut container).run_as_user = Some(cri::Int64Value { value: 1_000 });
    let id = node.run(&pod, &config, &container).await?;

    let status = node.until_exited(&id).await?;
    ensure(status.exit_code == 0, || format!("{status:?}"))?;
    let lines = Node::lines(&config, &container)?;
    let has = |text: &str| lines.iter().any(|line| line.2 == text);
    ensure(has("out") && has("err"), || format!("{lines:?}"))?;

    let mut stranger = mapped(sleeper("stranger"));
    security(&mut stranger).run_as_user = Some(cri::Int64Value { value: 70_000 });
    let made = node.create(&pod, &config, &stranger).await;
    let said = fails("a user that is not mapped", made, Code::InvalidArgument)?;
    ensure(said.contains("70000"), || said)
}

async fn node_network(node: &Node) -> Outcome {
    let mut config = mapped_pod(node, "p");
    namespaces(&mut config).network = cri::NamespaceMode::Node.into();
    config.hostname.clear();
    let pod = node.run_pod(&config).await?;
    let mut container = mapped(sleeper("c"));
    let options = &mut security(&mut container).namespace_options;
    options.get_or_insert_default().network = cri::NamespaceMode::Node.into();
    let id = node.run(&pod, &config, &container).await?;

    ensure_mapped(node, &id).await?;
    let inside = node.ask(&id, "readlink /proc/self/ns/net").await?;
    let outside = fs::read_link("/proc/self/ns/net")?;
    ensure(Path::new(&inside) == outside, || inside.clone())?;
    let took = node.ask(&id, "ip link set lo down").await;
    ensure(took.is_err(), || {
        String::from("the pod's root rules the node's network")
    })?;
    node.ask(&id, "ls /sys/class/net/lo >/dev/null").await?;
    node.remove_pod(&pod).await.map_err(Into::into)
}

async fn same(node: &Node) -> Outcome {
    let before = leaks::Survey::of(node).await?;
    let with = mapped_pod(node, "with");
    let without = pod(node, "without");
    let first = node.run_pod(&with).await?;
    let second = node.run_pod(&without).await?;

    for (what, made) in [
        (
            "a plain container",
            node.create(&first, &with, &sleeper("c")).await,
        ),
        (
            "a mapped container",
            node.create(&second, &without, &mapped(sleeper("c"))).await,
        ),
        (
            "a container whose request invents a pod",
            node.create(&second, &with, &mapped(sleeper("d"))).await,
        ),
    ] {
        fails(what, made, Code::InvalidArgument)?;
    }
    leaks::remove_pods(node).await?;
    leaks::check(node, &before).await
}

async fn restart(node: &Node) -> Outcome {
    let config = mapped_pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &mapped(sleeper("c"))).await?;

    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;

    ensure_mapped(node, &id).await?;
    let later = node.run(&pod, &config, &mapped(sleeper("later"))).await?;
    ensure_mapped(node, &later).await?;
    node.stop_pod(&pod).await?;
    let pin = format!("/run/podwright/sandboxes/{pod}/pinned-namespaces/user");
    ensure(!Path::new(&pin).exists(), || {
        format!("{pin} outlived the stop")
    })
}

async fn refused(node: &Node) -> Outcome {
    ensure(supports(node).await? == (false, false), || {
        String::from("Status promises user namespaces")
    })?;
    let run = node.run_pod(&mapped_pod(node, "p")).await;
    let said = fails("a mapped pod", run, Code::FailedPrecondition)?;
    ensure(said.contains("hostUsers"), || said)
}

/// What Status says: of the default handler, and of pods on the node's network.
async fn supports(node: &Node) -> Outcome<(bool, bool)> {
    let request = cri::StatusRequest { verbose: false };
    let reply = node.cri.runtime.clone().status(request).await?.into_inner();
    let default = reply
        .runtime_handlers
        .iter()
        .find(|handler| handler.name.is_empty());
    let features = default.and_then(|handler| handler.features);
    Ok((
        features.is_some_and(|features| features.user_namespaces),
        reply
            .features
            .is_some_and(|features| features.user_namespaces_host_network),
    ))
}
