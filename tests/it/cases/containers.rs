//! The lifecycle of containers, and what a container finds inside.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, patient};
use crate::pods::{fails, hungry, pod, security, shell, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("container.goes_through_its_life", |node| {
        Box::pin(lifecycle(node))
    }),
    Case::new("container.exits_are_reported_as_they_were", |node| {
        Box::pin(exits(node))
    }),
    Case::new("container.stop_signals_then_kills", |node| {
        Box::pin(stops(node))
    }),
    Case::new("container.a_shorter_stop_shortens_a_running_one", |node| {
        Box::pin(shortened(node))
    }),
    Case::new("container.exec_answers_exactly", |node| {
        Box::pin(exec(node))
    }),
    Case::new("container.exec_past_its_time_is_killed", |node| {
        Box::pin(exec_timeout(node))
    }),
    Case::new("container.runs_as_whom_it_should", |node| {
        Box::pin(users(node))
    }),
    Case::new("container.sees_its_mounts", |node| Box::pin(mounts(node))),
    Case::new("container.has_its_environment_and_folder", |node| {
        Box::pin(surroundings(node))
    }),
    Case::new("container.capabilities_and_privilege_are_bounded", |node| {
        Box::pin(capabilities(node))
    }),
    Case::new("container.memory_limit_kills_and_says_so", |node| {
        Box::pin(out_of_memory(node))
    }),
    Case::new("container.limits_change_while_it_runs", |node| {
        Box::pin(update(node))
    }),
    Case::new(
        "container.a_command_that_is_not_there_fails_the_start",
        |node| Box::pin(no_command(node)),
    ),
];

async fn lifecycle(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = sleeper("c");
    container.labels = BTreeMap::from([(String::from("a"), String::from("b"))]);
    container.annotations = BTreeMap::from([(String::from("c"), String::from("d"))]);

    let id = node.create(&pod, &config, &container).await?;
    let created = node.status(&id).await?;
    node.start(&id).await?;
    let running = node.status(&id).await?;
    let listed = node.containers(cri::ContainerFilter::default()).await?;
    fails(
        "a second start",
        node.start(&id).await,
        Code::FailedPrecondition,
    )?;
    node.stop(&id, 10).await?;
    let exited = node.status(&id).await?;
    node.stop(&id, 10).await?;
    node.remove(&id).await?;
    node.remove(&id).await?;

    ensure(
        created.state() == cri::ContainerState::ContainerCreated
            && created.created_at > 0
            && created.started_at == 0
            && created.finished_at == 0,
        || format!("{created:?}"),
    )?;
    ensure(
        running.state() == cri::ContainerState::ContainerRunning
            && running.started_at > 0
            && running.finished_at == 0
            && running.metadata == container.metadata
            && running.labels == container.labels
            && running.annotations == container.annotations
            && !running.image_ref.is_empty()
            && running.log_path == Node::log_of(&config, &container).display().to_string(),
        || format!("{running:?}"),
    )?;
    ensure(
        listed
            .iter()
            .any(|c| c.id == id && c.pod_sandbox_id == pod && c.labels == container.labels),
        || format!("{listed:?}"),
    )?;
    ensure(
        exited.state() == cri::ContainerState::ContainerExited
            && exited.exit_code == 0
            && exited.reason == "Completed"
            && exited.finished_at >= exited.started_at,
        || format!("{exited:?}"),
    )?;
    fails("status", node.status(&id).await, Code::NotFound).map(drop)
}

async fn exits(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    for (name, script, code, reason) in [
        ("fine", "exit 0", 0, "Completed"),
        ("wrong", "exit 7", 7, "Error"),
        ("killed", "kill -9 $$", 137, "Error"),
    ] {
        let id = node.run(&pod, &config, &shell(name, script)).await?;
        let status = node.until_exited(&id).await?;
        ensure(
            status.exit_code == code && status.reason == reason && status.message.is_empty(),
            || format!("{script}: {status:?}"),
        )?;
    }
    Ok(())
}

async fn stops(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let deaf = shell("deaf", "trap '' TERM; while :; do sleep 0.1; done");
    let mut loud = shell("loud", "trap 'exit 33' USR1; while :; do sleep 0.1; done");
    loud.stop_signal = cri::Signal::Sigusr1.into();

    let deaf = node.run(&pod, &config, &deaf).await?;
    let began = Instant::now();
    node.stop(&deaf, 1).await?;
    let took = began.elapsed();
    let killed = node.status(&deaf).await?;
    let loud = node.run(&pod, &config, &loud).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.stop(&loud, 20).await?;
    let asked = node.status(&loud).await?;

    ensure(
        killed.exit_code == 137
            && took >= Duration::from_secs(1)
            && took < patient(Duration::from_secs(4)),
        || format!("after {took:?}: {killed:?}"),
    )?;
    ensure(asked.exit_code == 33, || format!("{asked:?}"))
}

async fn shortened(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let deaf = shell(
        "deaf",
        "trap 'echo asked' TERM; while :; do sleep 0.1; done",
    );
    let id = node.run(&pod, &config, &deaf).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();

    let (unhurried, hurried) = tokio::join!(node.stop(&id, 60), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        node.stop(&id, 1).await
    });
    unhurried?;
    hurried?;

    let took = began.elapsed();
    ensure(took < patient(Duration::from_secs(6)), || {
        format!("it took {took:?}")
    })?;
    let asked = Node::lines(&config, &deaf)?.len();
    ensure(asked == 1, || format!("the signal was sent {asked} times"))
}

async fn exec(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;

    let reply = node
        .exec(
            &id,
            &["/bin/sh", "-c", "echo -n out; echo -n err >&2; exit 5"],
            10,
        )
        .await?;
    let background = node
        .exec(&id, &["/bin/sh", "-c", "sleep 30 & echo started"], 0)
        .await?;
    let missing = node.exec(&id, &["/no/such/program"], 10).await;

    ensure(
        reply.stdout == b"out" && reply.stderr == b"err" && reply.exit_code == 5,
        || format!("{reply:?}"),
    )?;
    ensure(background.stdout == b"started\n", || {
        format!("{background:?}")
    })?;
    ensure(missing.is_err(), || format!("{missing:?}"))?;
    let flood = node
        .exec(
            &id,
            &[
                "/bin/sh",
                "-c",
                "dd if=/dev/zero bs=1M count=40 2>/dev/null",
            ],
            60,
        )
        .await?;
    ensure(
        flood.exit_code == 0 && flood.stdout.len() < 16 << 20 && flood.stdout.len() > 1 << 20,
        || {
            format!(
                "exit code {}, {} bytes",
                flood.exit_code,
                flood.stdout.len()
            )
        },
    )
}

async fn exec_timeout(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node
        .run(&pod, &config, &shell("c", "while :; do read x; done"))
        .await?;
    let began = Instant::now();

    let result = node.exec(&id, &["sleep", "4321"], 1).await;

    let took = began.elapsed();
    fails("exec", result, Code::DeadlineExceeded)?;
    ensure(took < patient(Duration::from_secs(5)), || {
        format!("it took {took:?}")
    })?;
    let left = node.ask(&id, "pidof sleep || true").await?;
    ensure(left.is_empty(), || format!("still there: {left}"))
}

async fn users(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let number = |value| Some(cri::Int64Value { value });
    let mut by_number = sleeper("by-number");
    security(&mut by_number).run_as_user = number(1000);
    security(&mut by_number).run_as_group = number(2000);
    security(&mut by_number).supplemental_groups = vec![3000];
    let mut by_name = sleeper("by-name");
    security(&mut by_name).run_as_username = String::from("nobody");

    let by_number = node.run(&pod, &config, &by_number).await?;
    let by_name = node.run(&pod, &config, &by_name).await?;

    let groups = node
        .ask(&by_number, "id -u; id -g; id -G | tr ' ' '\\n' | sort -n")
        .await?;
    ensure(groups == "1000\n2000\n2000\n3000\n50000", || groups.clone())?;
    let name = node.ask(&by_name, "id -un").await?;
    ensure(name == "nobody", || name.clone())?;
    let user = node.status(&by_number).await?.user.and_then(|u| u.linux);
    ensure(
        user.as_ref()
            .is_some_and(|u| u.uid == 1000 && u.gid == 2000),
        || format!("{user:?}"),
    )
}

async fn mounts(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let folder = node.home.join("volume");
    fs::create_dir(&folder)?;
    fs::write(folder.join("file"), "from the host")?;
    let mount = |path: &str, readonly| cri::Mount {
        container_path: path.to_owned(),
        host_path: folder.display().to_string(),
        readonly,
        ..Default::default()
    };
    let mut container = sleeper("c");
    container.mounts = vec![mount("/data", false), mount("/frozen", true)];
    let mut frozen_root = sleeper("frozen");
    security(&mut frozen_root).readonly_rootfs = true;

    let id = node.run(&pod, &config, &container).await?;
    let frozen = node.run(&pod, &config, &frozen_root).await?;

    let read = node
        .ask(&id, "cat /data/file /frozen/file; echo written > /data/new")
        .await?;
    ensure(read == "from the hostfrom the host", || read.clone())?;
    ensure(
        fs::read_to_string(folder.join("new"))? == "written\n",
        || String::from("the write did not reach the host"),
    )?;
    let refused = node.ask(&id, "touch /frozen/new").await;
    ensure(refused.is_err(), || {
        String::from("a read-only mount was written to")
    })?;
    let refused = node.ask(&frozen, "touch /new").await;
    ensure(refused.is_err(), || {
        String::from("a read-only root was written to")
    })?;
    let status = node.status(&id).await?;
    ensure(status.mounts == container.mounts, || {
        format!("{:?}", status.mounts)
    })
}

async fn surroundings(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = sleeper("c");
    container.working_dir = String::from("/not/there/yet");
    container.envs = vec![cri::KeyValue {
        key: String::from("GREETING"),
        value: b"hello, world".to_vec(),
    }];

    let id = node.run(&pod, &config, &container).await?;

    let text = node
        .ask(&id, "pwd; echo $GREETING; echo $PATH; hostname")
        .await?;
    ensure(
        text == "/not/there/yet\nhello, world\n/usr/sbin:/usr/bin:/sbin:/bin\np",
        || text.clone(),
    )
}

async fn capabilities(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut bare = sleeper("bare");
    security(&mut bare).capabilities = Some(cri::Capability {
        drop_capabilities: vec![String::from("ALL")],
        ..Default::default()
    });
    let read = "sed -n 's/^CapInh:\\t//p; s/^CapEff:\\t//p' /proc/self/status";

    let bare = node.run(&pod, &config, &bare).await?;
    let usual = node.run(&pod, &config, &sleeper("usual")).await?;

    let none = node.ask(&bare, read).await?;
    let some = node.ask(&usual, read).await?;
    ensure(none == "0000000000000000\n0000000000000000", || {
        none.clone()
    })?;
    ensure(some == "0000000000000000\n00000000a80425fb", || {
        some.clone()
    })
}

async fn out_of_memory(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;

    let id = node.run(&pod, &config, &hungry()).await?;

    let status = node.until_exited(&id).await?;
    for _ in 0..50 {
        if node.status(&id).await?.reason == "OOMKilled" {
            return ensure(status.exit_code == 137, || format!("{status:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("{:?}", node.status(&id).await?).into())
}

async fn update(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;
    let wanted = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 300,
        ..Default::default()
    };

    node.cri
        .runtime
        .clone()
        .update_container_resources(cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(wanted),
            ..Default::default()
        })
        .await?;

    let status = node.status(&id).await?;
    let resources = status.resources.and_then(|r| r.linux).unwrap_or_default();
    ensure(
        resources.memory_limit_in_bytes == 64 << 20 && resources.cpu_shares == 300,
        || format!("{resources:?}"),
    )?;
    let limits = node.cgroup_values("memory.limit_in_bytes", "memory.max");
    ensure(limits.iter().any(|l| l == "67108864"), || {
        format!("{limits:?}")
    })
}

async fn no_command(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut absent = shell("absent", "");
    absent.command = vec![String::from("/no/such/program")];

    let id = node.create(&pod, &config, &absent).await?;
    let result = node.start(&id).await;

    let status = result.err().ok_or("the start succeeded")?;
    ensure(status.message().contains("/no/such/program"), || {
        status.to_string()
    })?;
    let after = node.status(&id).await?;
    ensure(
        after.state() == cri::ContainerState::ContainerExited
            && after.exit_code == 128
            && after.reason == "StartError"
            && after.finished_at > 0,
        || format!("{after:?}"),
    )
}
