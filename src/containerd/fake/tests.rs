//! The fake world's own rules: how it breaks, hangs, restarts and forgets. What it shares with the real containerd is
//! held to it in `containerd/conformance/`.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::timeout;

use super::{Behaviour, Fault, When, World};
use crate::containerd::{
    ContainerRecord, Containerd, Event, ExecRequest, LinkState, Payload, SnapshotRequest, Stdio,
    TaskRequest, TaskState,
};
use crate::model::{Digest, ExecId, Kind, Pid, Result, Signal};

const MOMENT: Duration = Duration::from_secs(1);

fn record(id: &str) -> ContainerRecord {
    ContainerRecord {
        id: id.into(),
        runtime: "io.containerd.runc.v2".into(),
        spec: Some(Payload::new(Payload::SPEC, *b"{}")),
        ..ContainerRecord::default()
    }
}

fn task(id: &str) -> TaskRequest {
    TaskRequest {
        id: id.into(),
        rootfs: Vec::new(),
        stdio: Stdio::default(),
        options: None,
    }
}

async fn run(containerd: &Containerd, id: &str) -> Result<Pid> {
    containerd.containers.create(&record(id)).await?;
    containerd.tasks.create(&task(id)).await?;
    containerd.tasks.start(id, None).await
}

#[tokio::test(start_paused = true)]
async fn each_call_can_break_in_each_way() {
    for fault in Fault::ALL {
        for nth in 0.. {
            let world = World::new();
            world.fail(nth, fault);
            let containerd = world.containerd();

            let outcome = tokio::select! {
                outcome = run(&containerd, "a") => Some(outcome),
                () = world.died() => None,
            };

            if !world.fault_struck() {
                assert_eq!(nth, 3);
                assert!(outcome.unwrap().is_ok());
                break;
            }
            assert!(outcome.is_none_or(|outcome| outcome.is_err()), "{fault:?}");
            let done = matches!(
                fault,
                Fault::ReplyLost | Fault::Hangs(When::After) | Fault::ProcessDies(When::After)
            );
            let exist = world.leftovers().len();
            assert_eq!(
                exist,
                (nth + usize::from(done)).min(2),
                "{fault:?} at {nth}"
            );
            assert_eq!(world.trace().len(), nth + 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_process_does_nothing_more_and_its_heir_works() {
    let world = World::new();
    let old = world.containerd();
    world.fail_call("tasks.create", 0, Fault::ProcessDies(When::After));
    tokio::select! {
        _never = run(&old, "a") => panic!("the process lives"),
        () = world.died() => {}
    }

    assert!(timeout(MOMENT, old.containers.list(None)).await.is_err());
    world.revive();
    assert!(timeout(MOMENT, old.containers.list(None)).await.is_err());
    let heir = world.containerd();
    assert_eq!(
        heir.tasks.get("a", None).await.unwrap().state,
        TaskState::Created
    );
    assert_eq!(world.leftovers(), ["container a", "task a"]);
}

#[tokio::test(start_paused = true)]
async fn a_standing_fault_strikes_until_healed() {
    let world = World::new();
    let containers = world.containerd().containers;
    world.fail_every("containers.delete", Fault::Answers(Kind::Internal));
    containers.create(&record("a")).await.unwrap();

    for _twice in 0..2 {
        assert_eq!(
            containers.delete("a").await.unwrap_err().kind(),
            Kind::Internal
        );
    }
    world.heal();
    world.clear_trace();
    containers.delete("a").await.unwrap();

    assert_eq!(world.trace(), ["containers.delete a"]);
    assert!(world.leftovers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_absent_containerd_fails_at_once_and_its_tasks_run_on() {
    let world = World::new();
    let containerd = world.containerd();
    let mut events = containerd.events.subscribe().await.unwrap();
    run(&containerd, "a").await.unwrap();
    let (waited, ()) = tokio::join!(containerd.tasks.wait("a", None), async {
        tokio::time::sleep(MOMENT).await;
        world.go_away();
    });

    assert_eq!(waited.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(
        events.next().await.unwrap().unwrap_err().kind(),
        Kind::Unavailable
    );
    assert!(events.next().await.is_none());
    let refused = containerd.tasks.get("a", None).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert!(matches!(world.link().state(), LinkState::Down { .. }));
    world.exit("a", 1);
    world.come_back();
    let ended = containerd.tasks.get("a", None).await.unwrap();
    assert_eq!(ended.exit.unwrap().code, 1);
    assert!(matches!(
        world.link().state(),
        LinkState::Up { generation: 2, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_hung_containerd_costs_a_call_its_limit_or_goes_on() {
    let world = World::new();
    let containers = world.containerd().containers;

    world.hang();
    assert_eq!(
        containers.list(None).await.unwrap_err().kind(),
        Kind::DeadlineExceeded
    );
    let made = record("a");
    let (outcome, ()) = tokio::join!(containers.create(&made), async {
        tokio::time::sleep(MOMENT).await;
        world.resume();
    });
    outcome.unwrap();
    world.hang();
    world.notice_hang();
    assert_eq!(
        containers.list(None).await.unwrap_err().kind(),
        Kind::Unavailable
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_tasks_and_a_reboot_does_not() {
    let world = World::new();
    let containerd = world.containerd();
    let before = containerd.introspection.server_pid();
    run(&containerd, "a").await.unwrap();

    world.restart();
    assert_eq!(
        containerd.tasks.get("a", None).await.unwrap().state,
        TaskState::Running
    );
    assert_ne!(containerd.introspection.server_pid(), before);
    world.reboot();

    assert!(
        containerd
            .tasks
            .get("a", None)
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(world.leftovers(), ["container a"]);
    assert_eq!(containerd.introspection.connections(), 3);
}

#[tokio::test(start_paused = true)]
async fn tasks_take_signals_as_they_were_told() {
    let world = World::new();
    let containerd = world.containerd();
    let tasks = &containerd.tasks;
    world.behave("deaf", Behaviour::IgnoresTerm);
    world.behave("stuck", Behaviour::Unkillable);
    for id in ["tame", "deaf", "stuck"] {
        run(&containerd, id).await.unwrap();
        tasks
            .kill(id, None, "WINCH".parse().unwrap(), false)
            .await
            .unwrap();
        tasks.kill(id, None, Signal::TERM, false).await.unwrap();
    }

    let trace = world.trace();
    assert!(
        trace.contains(&"tasks.kill tame SIGTERM".to_owned()),
        "{trace:?}"
    );
    assert_eq!(tasks.wait("tame", None).await.unwrap().code, 143);
    assert!(timeout(MOMENT, tasks.wait("deaf", None)).await.is_err());
    for id in ["deaf", "stuck"] {
        tasks.kill(id, None, Signal::KILL, true).await.unwrap();
    }
    assert_eq!(tasks.wait("deaf", None).await.unwrap().code, 137);
    assert!(timeout(MOMENT, tasks.wait("stuck", None)).await.is_err());
    world.exit("stuck", 137);
    assert_eq!(tasks.wait("stuck", None).await.unwrap().at, world.now());
}

#[tokio::test(start_paused = true)]
async fn oom_kills_are_counted_and_told_before_the_exit() {
    let world = World::new();
    let containerd = world.containerd();
    let mut events = containerd.events.subscribe().await.unwrap();
    world.next_pid(Pid(77));
    assert_eq!(run(&containerd, "a").await.unwrap(), Pid(77));

    world.oom("a");

    assert_eq!(containerd.tasks.oom_kills("a").await.unwrap(), Some(1));
    let told = events.next().await.unwrap().unwrap();
    assert_eq!(
        told,
        Event::TaskOom {
            container: "a".into()
        }
    );
    let ended = events.next().await.unwrap().unwrap();
    assert!(matches!(ended, Event::TaskExit { pid: Pid(77), exit, .. } if exit.code == 137));
}

#[tokio::test(start_paused = true)]
async fn execs_end_as_told_and_muted_events_are_lost() {
    let world = World::new();
    let containerd = world.containerd();
    run(&containerd, "a").await.unwrap();
    let mut events = containerd.events.subscribe().await.unwrap();
    let request = ExecRequest {
        id: "a".into(),
        exec: ExecId::generate().unwrap(),
        stdio: Stdio::default(),
        process: Payload::new(Payload::PROCESS, *b"{}"),
    };
    let name = Some(&request.exec);
    let tasks = &containerd.tasks;

    tasks.exec(&request).await.unwrap();
    tasks.start("a", name).await.unwrap();
    tasks.close_stdin("a", name).await.unwrap();
    world.mute_events(true);
    world.exit_exec("a", request.exec.as_str(), 4);
    assert_eq!(tasks.delete("a", name).await.unwrap().code, 4);
    world.mute_events(false);
    world.execs_end_with(Some(5));
    tasks.exec(&request).await.unwrap();
    tasks.start("a", name).await.unwrap();
    assert_eq!(tasks.delete("a", name).await.unwrap().code, 5);
    let resources = Payload::new(Payload::RESOURCES, *b"{}");
    tasks.update("a", resources.clone()).await.unwrap();

    let told = events.next().await.unwrap().unwrap();
    assert!(matches!(told, Event::TaskExit { exec: Some(_), exit, .. } if exit.code == 5));
    assert_eq!(world.resources("a"), Some(resources));
}

#[tokio::test(start_paused = true)]
async fn an_eager_collector_takes_what_nothing_protects() {
    let world = World::new();
    world.collect_eagerly();
    let snapshots = world.containerd().snapshots;
    let request = |key: &str, label: &str| SnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: key.into(),
        labels: [(label.to_owned(), "1".to_owned())].into(),
        ..SnapshotRequest::default()
    };

    snapshots
        .prepare(&request("kept", "containerd.io/gc.root"))
        .await
        .unwrap();
    snapshots.prepare(&request("lost", "other")).await.unwrap();

    assert_eq!(world.leftovers(), ["snapshot overlayfs/kept"]);
}

#[tokio::test(start_paused = true)]
async fn it_is_whatever_version_a_test_needs() {
    let world = World::new();
    let containerd = world.containerd();
    let ask = || {
        containerd
            .introspection
            .runtime_features("io.containerd.runc.v2", None)
    };
    assert_eq!(ask().await.unwrap_err().kind(), Kind::Unimplemented);

    world.set_version("v2.1.0", 2, 1);
    world.set_runtime_features(b"{}");
    world.set_rootfs("/some/where".into());
    let blob = world.put_blob(b"x");

    assert_eq!(ask().await.unwrap(), b"{}");
    assert_eq!(containerd.introspection.version().await.unwrap().major, 2);
    assert_eq!(
        containerd.introspection.plugins().await.unwrap()[0].id,
        "overlayfs"
    );
    assert_eq!(blob, Digest::sha256(b"x"));
    let request = SnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "k".into(),
        ..SnapshotRequest::default()
    };
    let mounts = containerd.snapshots.view(&request).await.unwrap();
    assert_eq!(mounts[0].source, "/some/where");
    world.collect_garbage();
    assert!(world.leftovers().is_empty());
}
